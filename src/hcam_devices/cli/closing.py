"""``hcam history close`` closes a night at once; ``hcam history convert`` converts old nights."""

from pathlib import Path

import click

from ..history import auditing, converting
from ..wamp.uris import Address
from .completion import nights
from .program import Command, example, given, say


@click.command(
    cls=Command,
    exits={1: "a file could not be written"},
    epilog=example("hcam history close 2026-11-22"),
)
@click.argument("night", default="tonight", shell_complete=nights)
@given("address", "file")
def close(night: str, *, address: Address, file: Path | None) -> None:
    """Write what there is of NIGHT (default: tonight) into its Parquet files at once.

    NIGHT is the date of its evening, or tonight, or yesterday (the night before). The recorder does
    so every hour, and at noon.
    """
    troubles = auditing.close(night, file)
    for trouble in troubles:
        click.echo(trouble, err=True)
    say({"troubles": troubles}, ())
    raise SystemExit(1 if troubles else 0)


@click.command(
    cls=Command,
    exits={1: "something of a night could not be converted"},
    epilog=example("hcam history convert"),
)
@given("file")
def convert(*, file: Path | None) -> None:
    """Write nights of the version before (2026-11-22.sqlite) into Parquet files, and compare them.

    Stop hwlogger first. The old files stay until you remove them. This may be interrupted and run
    again.
    """
    complete = True
    for said, whole in converting.convert(file):
        say({"file": said, "complete": whole}, said, indent=None)
        complete = complete and whole
    raise SystemExit(0 if complete else 1)
