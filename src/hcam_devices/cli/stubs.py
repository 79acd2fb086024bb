"""``hcam stubs``: types of the instrument for scripts."""

from pathlib import Path

import click

from ..client import connect
from ..ui import stubs as files
from ..wamp.uris import Address
from .program import Command, example, given, say


@click.command(cls=Command, epilog=example("hcam stubs typings; MYPYPATH=typings mypy script.py"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@given("address")
def stubs(folder: Path, *, address: Address) -> None:
    """Write stubs of the running instrument into FOLDER.

    With it on the path of a type checker or an editor, a misspelt device, field or command in a
    script that uses hcam_devices.client is found.
    """
    with connect() as instrument:
        descriptions = instrument.descriptions()
        left_out = [name for name in instrument if name not in descriptions]
    file = files.write(folder, descriptions)
    found = {"file": str(file), "not_running": left_out}
    say(found, f"written: {file}; set MYPYPATH={folder}")
    if left_out:
        click.echo(f"without {', '.join(left_out)}, whose server is not running", err=True)
