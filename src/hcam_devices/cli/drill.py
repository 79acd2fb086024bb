"""``hcam drill``: rehearse alarms and interlocks."""

import asyncio
import time
from dataclasses import asdict
from functools import partial
from importlib.metadata import version

import click

from ..config.instrument import Instrument
from ..host.home import home, writable_or_explain, write_whole
from ..ui import drill as rehearsal
from ..ui.drill.half import Row
from ..wamp.uris import Address
from .program import Command, example, given, say


@click.command(
    cls=Command,
    exits={0: "all was as it should be", 1: "something was wrong, or the drill was refused"},
    epilog=example("hcam drill   or   hcam drill 'ccd1.*'"),
)
@click.argument("name", default="*")
@given("instrument", "address")
def drill(instrument: Instrument, address: Address, *, name: str) -> None:
    """Rehearse the alarms and interlocks that match NAME, with the simulated hardware.

    Each one is brought about; the row of the alarm, the act on the wire, the verification and the
    reset are checked, and everything is set back. It is refused unless every server is emulated.
    All of them take less than ten minutes. The report is also kept in HCAM_HOME/drills; that of a
    drill that was stopped ends where it was stopped.
    """
    began, steady = time.time(), time.monotonic()
    rows: list[Row] = []
    whole = False
    try:
        tell = partial(click.echo, err=True)
        asyncio.run(rehearsal.rehearse(instrument, address, name, rows, tell=tell))
        whole = True
    finally:
        if whole or any(row.right is not None for row in rows):
            took = time.monotonic() - steady
            text = rehearsal.as_text(rows, began, took, version("hcam_devices"), whole=whole)
            _report(rows, began, text)
    raise SystemExit(any(row.right is False for row in rows))


def _report(rows: list[Row], began: float, text: str) -> None:
    path = home() / "drills" / f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime(began))}.txt"
    with writable_or_explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{text}\n")
    say({"report": str(path), "rows": list(map(asdict, rows))}, f"{text}\nThe report is {path}")
