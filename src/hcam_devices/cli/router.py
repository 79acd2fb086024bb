"""``hcam router``: run the router alone, or install it."""

import asyncio
import json
from pathlib import Path

import click

from ..alarms.server import entry_of as alarms
from ..config.instrument import Instrument, load
from ..history.recorder import entry_of as recorder
from ..host.home import home
from ..host.installation import install_router, installed_router, router_folders
from ..wamp.router import for_plain_crossbar, guarded, own_address, run
from ..wamp.uris import Address
from .program import PORT, Group, example, given, router_address


@click.group(
    cls=Group,
    invoke_without_command=True,
    epilog=example("hcam router --port 9000"),
)
@PORT
@given("file")
@click.pass_context
def router(context: click.Context, port: int | None, file: Path | None) -> None:
    """Run the router alone, on this machine, until Ctrl-C.

    It listens to this machine only, or to a network if [router] of the instrument file says so.
    """
    if context.invoked_subcommand:
        return
    instrument = load(file)
    address = router_address(None, file)
    where = own_address(instrument.router, Address(address.host, port or address.port))
    entries = [*instrument.entries.values(), recorder(instrument), alarms()]
    raise SystemExit(asyncio.run(run(instrument, entries, where, home())))


@router.command(silent=True, epilog=example("hcam router config > ~/.crossbar/config.json"))
@PORT
@given("instrument", "address", url=False)
def config(instrument: Instrument, address: Address, *, port: int | None) -> None:
    """Print the configuration with which a Crossbar that is not ours knows keys and roles.

    It has the realm of version 1.7 if [legacy] of the instrument file says so.

    The keys of this machine are made. It contains paths of this machine; print it again for
    another instrument file, and when hcam_devices was moved.
    """
    entries = [*instrument.entries.values(), recorder(instrument), alarms()]
    where = own_address(instrument.router, Address(address.host, port or address.port))
    made = guarded(instrument, entries, where, home())
    click.echo(json.dumps(for_plain_crossbar(made), indent=2))


@router.command(silent=True, epilog=example("hcam router install"))
def install() -> None:
    """Install the router, or update it.

    pip does not do that. The router, Crossbar, gets an environment of its own in HCAM_HOME/crossbar
    or, if HCAM_HOME is not set, in ~/.local/share/hcam_devices/crossbar.
    """
    if folder := installed_router():
        click.echo(f"the router is already installed in {folder}")
        return
    folder = router_folders()[1]
    click.echo(f"installing the router into {folder}")
    install_router(folder)
    click.echo("done")
