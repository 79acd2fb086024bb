"""``hcam audit`` and ``replay``: check a recorded night, or publish it again."""

import asyncio
import sys
from pathlib import Path

import click

from ..config.instrument import Instrument
from ..history import audit as audits
from ..history import auditing
from ..history import replay as replays
from ..wamp.uris import Address
from .program import DEVICES, Command, Number, example, given, heed_interrupts


@click.command(cls=Command, epilog=example("hcam audit 2026-11-22"))
@click.argument("night", default="")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@given("address", "file")
def audit(night: str, *, as_json: bool, address: Address, file: Path | None) -> None:
    """Check that every sample published in NIGHT (default: tonight) is stored exactly once.

    NIGHT is the date of its evening, or tonight, or yesterday (the night before). Exit with status
    1 if a sample is not stored exactly once, or if that is uncertain.
    """
    result = auditing.audit(night, file)
    click.echo(result.model_dump_json(indent=2) if as_json else "\n".join(audits.text(result)))
    raise SystemExit(0 if result.complete else 1)


@click.command(cls=Command, epilog=example("hcam replay 2026-11-22 --from 23:00 --speed 60"))
@click.argument("night")
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
    points = replays.recorded(replays.folder_of(instrument), night, pattern, begin, end)
    progress = replays.Progress(sys.stdout)
    heed_interrupts()
    try:
        asyncio.run(replays.replay(replays.paced(points, speed), address, progress))
    except KeyboardInterrupt:
        pass
    finally:
        progress.end()
