"""``hcam config``: the instrument file."""

from collections.abc import Iterator

import click

from .. import HcamError
from ..config.instrument import Instrument
from ..host.machine import addresses_of, is_own_name, why_elsewhere
from ..ui.troubles import count
from .program import Group, example, given


@click.group(cls=Group)
def config() -> None:
    """Check the instrument file."""


@config.command(epilog=example("hcam config check --instrument ours.toml"))
@given("instrument")
def check(instrument: Instrument) -> None:
    """Report every mistake in the instrument file, with its line."""
    if unknown := list(_unknown_hosts(instrument)):
        raise HcamError("\n".join(unknown))
    click.echo(f"{instrument.path}: {count(len(instrument.entries), 'device')}, no mistakes")
    if instrument.router.elsewhere:
        click.echo(f"Warning: {instrument.router.elsewhere}", err=True)
    elif instrument.router.is_open:
        return
    elif elsewhere := [name for name, host in instrument.hosts.items() if why_elsewhere(host)]:
        click.echo(
            f"Warning: on another machine, {', '.join(elsewhere)} cannot find the router, because "
            f"[router] host is {instrument.router.host!r}: set it to the router's address",
            err=True,
        )


def _unknown_hosts(instrument: Instrument) -> Iterator[str]:
    """Yield a sentence for each server whose host has no known address."""
    for server, host in instrument.hosts.items():
        try:
            is_own_name(host) or addresses_of(host)
        except OSError as error:
            yield (
                f"{instrument.path}: [servers.{server}] host: {host!r} has no known address "
                f"({error.strerror or error}): correct it, or add it to /etc/hosts"
            )
