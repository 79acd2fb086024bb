"""``hcam watch``, ``status`` and ``wire``: the present state of the devices."""

import asyncio
from functools import partial
from pathlib import Path

import click

from ..config.instrument import Instrument
from ..ui import calling, terminal
from ..wamp import uris
from ..wamp.uris import Address
from .completion import devices
from .program import UTC, Command, example, given, heed_interrupts, say


@click.command(cls=Command, silent=True, epilog=example("hcam watch 'ccd*'"))
@click.argument("pattern", default="*", shell_complete=devices)
@click.option("--once", is_flag=True, help="Print the state once, and end.")
@click.option(
    "--realm",
    type=click.Choice([uris.REALM, uris.REPLAY]),
    default=uris.REALM,
    help="Show the instrument (the default), or what hcam replay publishes.",
)
@UTC
@given("instrument", "address")
def watch(
    instrument: Instrument, address: Address, *, pattern: str, once: bool, realm: str
) -> None:
    """Show the devices whose names match the glob PATTERN, live.

    Arrows, PgUp and PgDn scroll, / filters, q quits. If the output is not a terminal, or a dumb
    one, print the state once and then a line for each change, until Ctrl-C.
    """
    heed_interrupts()
    try:
        asyncio.run(terminal.watch(instrument, address, pattern, realm, once=once))
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@click.command(
    cls=Command,
    exits={0: "all is well", 1: "a device is silent or offline, or there is an alarm"},
    epilog=example("hcam status"),
)
@UTC
@given("instrument", "address")
def status(instrument: Instrument, address: Address) -> None:
    """Print a summary of what runs, and of what is wrong."""
    found = asyncio.run(terminal.status(instrument, address))
    say(found.data, found.text)
    raise SystemExit(0 if found.well else 1)


@click.command(
    cls=Command,
    epilog=example(
        "hcam wire pressure1 --record fault.jsonl   or   hcam wire slide --send '01 3C'"
    ),
)
@click.argument("device", shell_complete=devices)
@click.option("--seconds", default=60.0, help="How long to listen (default: 60 s).")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the bytes to a file, which the option --replay of a server reads.",
)
@click.option("--send", metavar="HEX", help="Send raw bytes, print the reply, and end.")
@click.option("--confirm", is_flag=True, help="Confirm --send, whose bytes nothing checks.")
@UTC
@given("address")
def wire(
    device: str,
    *,
    seconds: float,
    record: Path | None,
    send: str | None,
    confirm: bool,
    address: Address,
) -> None:
    """Show the bytes between DEVICE and its hardware, with times and meaning."""
    if send is None:
        asyncio.run(terminal.wire(device, address, seconds, record, partial(say, indent=None)))
    else:
        say(*calling.exchange(device, send, confirm=confirm))
