"""``hcam config``: the instrument file."""

import click

from ..config.instrument import Instrument
from .program import Group, example, given


@click.group(cls=Group)
def config() -> None:
    """Look at the instrument file."""


@config.command(epilog=example("hcam config check --instrument ours.toml"))
@given("instrument")
def check(instrument: Instrument) -> None:
    """Report every mistake in the instrument file, with its line."""
    click.echo(f"{instrument.path}: {len(instrument.entries)} devices, no mistakes")
    if instrument.router.elsewhere:
        click.echo(f"Warning: {instrument.router.elsewhere}", err=True)
