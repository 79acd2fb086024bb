"""``hcam doctor``: check the installation."""

import asyncio
from functools import partial
from pathlib import Path

import click

from ..ui import doctor as checkup
from .program import INSTRUMENT, URL, Command, example, router_address, say


@click.command(
    cls=Command,
    exits={0: "all is well", 1: "warnings only", 2: "errors, or wrong usage"},
    epilog=example("hcam doctor --instrument ours.toml"),
)
@INSTRUMENT
@URL
def doctor(*, file: Path | None, url: str | None) -> None:
    """Check the installation, and print what is wrong and the command that cures it.

    Nothing is changed, and nothing is sent to hardware.
    """
    found = asyncio.run(checkup.examine(file, partial(router_address, url, file)))
    say(checkup.as_object(found), checkup.as_text(found))
    raise SystemExit(checkup.exit_status(found))
