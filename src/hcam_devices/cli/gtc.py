"""``hcam gtc``: the telescope's own server."""

from pathlib import Path
from typing import Any

import click

from ..ui.probe import probed
from ..wamp.uris import Address
from .program import Group, Number, example, given


@click.group(cls=Group)
def gtc() -> None:
    """Look at the telescope."""


@gtc.command(epilog=example("hcam gtc probe --host 192.0.2.5 --idl telescope.idl"))
@click.option("--host", help="The host of its name service (default: where gtcserver finds it).")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of its name service.")
@click.option("--idl", help="The site's IDL file, if there is one.")
@click.option("--timeout", type=Number(0.1, 60), help="Seconds to wait for each answer.")
@given("address", "file")
def probe(address: Address, file: Path | None, **given: Any) -> None:
    """Report what the telescope's server is: type, ORB, addresses, and what can be read.

    The server is looked for where the running gtcserver finds it, emulated or not; without
    gtcserver where the instrument file says. Nothing is moved or set. Exit with status 1 if the
    server is not alive.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    for line in probed(address, file, settings):
        click.echo(line)
