"""``hcam doctor``: what is wrong with the installation, and how to cure it."""

import asyncio
from functools import partial
from pathlib import Path

import click

from ..ui import doctor as rows
from .program import INSTRUMENT, URL, Command, example, router_address


@click.command(cls=Command, epilog=example("hcam doctor --instrument ours.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@INSTRUMENT
@URL
def doctor(*, file: Path | None, url: str | None, as_json: bool) -> None:
    """Look for what is wrong with the installation, and print how to cure it.

    Nothing is changed or sent to hardware. Exit status 0: nothing is wrong; 1: warnings only; 2:
    something is wrong.
    """
    found = asyncio.run(rows.examine(file, partial(router_address, url, file)))
    click.echo(rows.as_json(found) if as_json else rows.as_text(found))
    raise SystemExit(rows.exit_status(found))
