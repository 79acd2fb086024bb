"""``hcam up``: everything on this machine."""

import asyncio

import click

from ..config.instrument import Instrument
from ..wamp.router import require_loopback
from ..wamp.uris import Address
from . import supervisor
from .program import EMULATE, PORT, Command, example, given


@click.command(cls=Command, epilog=example("hcam up --emulate"))
@EMULATE
@PORT
@given("instrument", "address", url=False)
def up(instrument: Instrument, address: Address, *, emulate: bool, port: int | None) -> None:
    """Run the router and the servers, and show the devices until Ctrl-C.

    What the router and the servers print goes to files in HCAM_HOME/log.
    """
    require_loopback(address.host)
    own = Address("127.0.0.1", port or address.port)
    raise SystemExit(asyncio.run(supervisor.up(instrument, own, emulate=emulate)))
