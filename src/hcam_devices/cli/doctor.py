"""``hcam doctor``: check the installation."""

import asyncio
from functools import partial
from pathlib import Path

import click

from ..ui import doctor as checkup
from .program import INSTRUMENT, URL, Command, example, router_address


@click.command(cls=Command, epilog=example("hcam doctor --instrument ours.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@INSTRUMENT
@URL
def doctor(*, file: Path | None, url: str | None, as_json: bool) -> None:
    """Check the installation, and print what is wrong and the command that cures it.

    Nothing is changed, and nothing is sent to hardware. Exit status 0: all is well; 1: warnings
    only; 2: errors.
    """
    found = asyncio.run(checkup.examine(file, partial(router_address, url, file)))
    click.echo(checkup.as_json(found) if as_json else checkup.as_text(found))
    raise SystemExit(checkup.exit_status(found))
