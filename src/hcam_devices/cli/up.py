"""``hcam up``: run the instrument on this machine."""

import asyncio

import click

from ..config.instrument import Instrument
from ..wamp.router import own_address
from ..wamp.uris import Address
from . import supervisor
from .program import EMULATE, PORT, Command, example, given


@click.command(cls=Command, silent=True, epilog=example("hcam up --emulate"))
@EMULATE
@PORT
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Run only this server, or the router; may be repeated.",
)
@given("instrument", "address", url=False)
def up(
    instrument: Instrument,
    address: Address,
    *,
    emulate: bool,
    port: int | None,
    only: tuple[str, ...],
) -> None:
    """Run the router and the servers of this machine, and show the devices until Ctrl-C.

    The host in [router] and [servers.NAME] of the instrument file says on which machine each of
    them runs; by default on this one. Their output goes to files in HCAM_HOME/log.
    """
    names = supervisor.runs_here(instrument, only)
    found = Address(address.host, port or address.port)
    if supervisor.ROUTER in names:
        found = own_address(instrument.router, found)
    raise SystemExit(asyncio.run(supervisor.up(instrument, found, names, emulate=emulate)))
