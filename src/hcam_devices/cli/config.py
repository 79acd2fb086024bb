"""``hcam config``: the instrument file."""

import asyncio
from collections.abc import Iterator

import click

from .. import HcamError
from ..alarms.notify import NO_APPRISE, check_by_child
from ..alarms.rules import Rules
from ..alarms.server import entry_of as alarms
from ..config.instrument import Instrument, line_of
from ..history.recorder import entry_of as recorder
from ..host.machine import addresses_of, is_own_name, why_elsewhere
from ..ui.troubles import count
from .program import Group, example, given, say


@click.group(cls=Group)
def config() -> None:
    """Check the instrument file."""


@config.command(
    exits={0: "the file has no mistakes", 1: "it has mistakes, each with its line"},
    epilog=example("hcam config check --instrument ours.toml"),
)
@given("instrument")
def check(instrument: Instrument) -> None:
    """Report every mistake in the instrument file, with its line."""
    if unknown := list(_unknown_hosts(instrument)):
        raise HcamError("\n".join(unknown))
    if wrong := list(_wrong_urls(instrument)):
        raise HcamError("\n".join(wrong))
    declared = {one.name: one for entry in instrument.entries.values() for one in entry.interlocks}
    rules = Rules([*instrument.entries.values(), recorder(instrument), alarms()], instrument.alarms)
    silent = [rule.alarm for rule in rules.declared() if rule.advice is None]
    disarmed = {one.name: one.to_confirm for one in declared.values() if not one.armed}
    say(
        {
            "file": str(instrument.path),
            "devices": list(instrument.entries),
            "not_armed": disarmed,
            "without_advice": silent,
        },
        [
            f"{instrument.path}: {count(len(instrument.entries), 'device')}, no mistakes",
            *(
                f"  interlock {name} is not armed. To confirm first: {what}"
                for name, what in disarmed.items()
            ),
        ],
    )
    if silent:
        click.echo(
            f"Warning: {count(len(silent), 'alarm')} without advice: {', '.join(silent)}. Say in "
            f'[alarms."{silent[0]}"] advice what an observer should do; an empty text makes it a '
            "notice, which is shown and not raised",
            err=True,
        )
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


def _wrong_urls(instrument: Instrument) -> Iterator[str]:
    """Yield a sentence for each URL of [notify] that apprise does not understand."""
    for name, one in instrument.notify.items():
        for number, url in enumerate(one.urls, 1):
            error = asyncio.run(check_by_child(url))
            if error.startswith(NO_APPRISE):
                click.echo(f"Warning: nobody in [notify] would be told: {error}", err=True)
                return
            if error:
                yield (
                    f"{instrument.path}:{line_of(instrument.path, 'notify', name, 'urls')}: "
                    f"[notify.{name}] urls: number {number} of {len(one.urls)}: {error}; its "
                    "documents say how a URL of each service is written"
                )
