"""``hcam gtc``: the CORBA server of the telescope."""

from pathlib import Path
from typing import Any

import click

from ..ui.probe import as_lines, probed
from ..wamp.uris import Address
from .program import Group, Number, example, given, say


@click.group(cls=Group)
def gtc() -> None:
    """Examine the telescope's own server."""


@gtc.command(
    exits={1: "the server does not answer, or was not found"},
    epilog=example("hcam gtc probe --host 192.0.2.5 --idl telescope.idl"),
)
@click.option("--host", help="The host of the CORBA name service (default: as gtcserver uses).")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of the CORBA name service.")
@click.option("--idl", help="The site's IDL file, if there is one.")
@click.option("--timeout", type=Number(0.1, 60), help="Seconds to wait for each answer.")
@given("address", "file")
def probe(address: Address, file: Path | None, **given: Any) -> None:
    """Report the type, ORB and addresses of the telescope's server, and what can be read there.

    By default the name service is the one that the running gtcserver uses, emulated or not, or
    else the one in the instrument file. Nothing is moved or set.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    found = probed(address, file, settings)
    say(found, as_lines(found))
