"""``hcam watch``, ``status`` and ``wire``: the present state of the devices."""

import asyncio
from pathlib import Path

import click

from ..config.instrument import Instrument
from ..ui import calling, terminal
from ..wamp import uris
from ..wamp.uris import Address
from .program import Command, example, given, heed_interrupts


@click.command(cls=Command, epilog=example("hcam watch 'ccd*'"))
@click.argument("pattern", default="*")
@click.option("--once", is_flag=True, help="Print the state once, after a second, and end.")
@click.option(
    "--realm",
    type=click.Choice([uris.REALM, uris.REPLAY]),
    default=uris.REALM,
    help="Show the instrument (the default), or what hcam replay publishes.",
)
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


@click.command(cls=Command, epilog=example("hcam status"))
@given("instrument", "address")
def status(instrument: Instrument, address: Address) -> None:
    """Print a summary; exit with status 1 if anything is wrong."""
    raise SystemExit(asyncio.run(terminal.status(instrument, address)))


@click.command(
    cls=Command,
    epilog=example(
        "hcam wire pressure1 --record fault.jsonl   or   hcam wire slide --send '01 3C'"
    ),
)
@click.argument("device")
@click.option("--seconds", default=60.0, help="How long to listen (default: 60 s).")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the bytes to a file, which the option --replay of a server reads.",
)
@click.option("--send", metavar="HEX", help="Send raw bytes, print the reply, and end.")
@click.option("--confirm", is_flag=True, help="Confirm --send, whose bytes nothing checks.")
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
        asyncio.run(terminal.wire(device, address, seconds, record))
    else:
        click.echo(calling.exchange(device, send, confirm=confirm))
