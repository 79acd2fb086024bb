"""``hcam audit`` and ``replay``: check a recorded night, or publish it again."""

import asyncio
import sys
from pathlib import Path

import click

from ..config.instrument import Instrument
from ..history import audit as audits
from ..history import auditing
from ..history.archive import files_here
from ..wamp.uris import Address
from .completion import nights
from .program import DEVICES, Command, Number, example, given, heed_interrupts, say


@click.command(
    cls=Command,
    exits={0: "every sample is stored exactly once", 1: "one is not, or that is uncertain"},
    epilog=example("hcam audit 2026-11-22"),
)
@click.argument("night", default="", shell_complete=nights)
@given("address", "file")
def audit(night: str, *, address: Address, file: Path | None) -> None:
    """Check that every sample published in NIGHT (default: tonight) is stored exactly once.

    NIGHT is the date of its evening, or tonight, or yesterday (the night before).
    """
    result = auditing.audit(night, file)
    say(result.model_dump(mode="json"), audits.text(result))
    raise SystemExit(0 if result.complete else 1)


@click.command(
    cls=Command, silent=True, epilog=example("hcam replay 2026-11-22 --from 23:00 --speed 60")
)
@click.argument("night", shell_complete=nights)
@click.option(
    "--speed",
    type=Number(0, min_open=True),
    default=1.0,
    help="How many times as fast as it was recorded (default: 1).",
)
@DEVICES
@click.option("--from", "begin", default="12:00", help="When to begin (UTC, default: noon).")
@click.option("--until", "end", default="", help="When to end (UTC, default: the next noon).")
@given("instrument", "address")
def replay(
    night: str,
    *,
    speed: float,
    pattern: str,
    begin: str,
    end: str,
    instrument: Instrument,
    address: Address,
) -> None:
    """Publish a recorded NIGHT again, in realm replay. Show it with hcam watch --realm replay.

    NIGHT is the date of its evening, or tonight, or yesterday (the night before).
    """
    from ..history import replay as replays  # noqa: PLC0415  (25 ms, which audit does not need)

    points = replays.recorded(files_here(instrument.path), night, pattern, begin, end)
    progress = replays.Progress(sys.stdout)
    heed_interrupts()
    try:
        asyncio.run(replays.replay(replays.paced(points, speed), address, progress))
    except KeyboardInterrupt:
        pass
    finally:
        progress.end()
