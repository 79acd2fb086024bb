"""``hcam history``: recorded values as a plot, a table or CSV; and recorded commands."""

import time
from itertools import chain
from operator import itemgetter
from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import load
from ..history.archive import commands, source, span
from ..history.stores import AwayError
from ..ui import plot
from ..ui.commands import table
from ..wamp.uris import Address
from .program import Command, example, given


@click.command(
    cls=Command,
    epilog=example(
        "hcam history ccd1.temperature ccd2.temperature --last 7d   or   "
        "hcam history rack.dewpoint --night 2026-11-22 --csv > dewpoint.csv   or   "
        "hcam history --commands slide --night tonight"
    ),
)
@click.argument("fields", nargs=-1)
@click.option(
    "--last", metavar="TIME", help="Start so long ago: 90s, 15m, 24h (the default), 7d, 2w."
)
@click.option("--from", "start", metavar="UTC", help="Start at a date, a date and time, or a time.")
@click.option(
    "--to", "end", metavar="UTC", help="End at a date, a date and time, or a time (default: now)."
)
@click.option(
    "--night",
    metavar="DATE",
    help="From noon of this date to the next noon; or tonight, or yesterday.",
)
@click.option(
    "--commands",
    "as_commands",
    is_flag=True,
    help="List the commands to the devices FIELDS, and who gave them.",
)
@click.option("--plot", "as_plot", is_flag=True, help="Plot, even into a pipe.")
@click.option("--table", "as_table", is_flag=True, help="Print a table instead of a plot.")
@click.option("--csv", "as_csv", is_flag=True, help="Print every value as it was recorded.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Plot into a PNG file.",
)
@click.option("--points", type=click.IntRange(1, 3000), help="The number of lines of a table.")
@given("address", "file")
def history(
    fields: tuple[str, ...],
    *,
    last: str | None,
    start: str | None,
    end: str | None,
    night: str | None,
    as_commands: bool,
    as_plot: bool,
    as_table: bool,
    as_csv: bool,
    png: Path | None,
    points: int | None,
    address: Address,
    file: Path | None,
) -> None:
    """Show the recorded values of FIELDS such as ccd1.temperature; without FIELDS, list them.

    The default in a terminal is a plot, in which commands are marked. Times are in UTC. With
    --commands, FIELDS are devices (default: all).
    """
    if as_commands + as_plot + as_table + as_csv + bool(png) > 1 or (
        points and (as_commands or as_plot or png or as_csv)
    ):
        raise click.UsageError(
            "choose one of --table (which may have --points), --csv, --png, --plot and --commands"
        )
    if png and png.suffix.lower() != ".png":
        raise click.UsageError(f"the name of a PNG must end with .png, not {png}")
    if globs := [field for field in fields if {*"*?["} & {*field}]:
        raise click.UsageError(f"{globs[0]!r} is a pattern: name each field in full")
    if (as_plot or as_csv or png) and not fields:
        raise click.UsageError(
            "name a field, such as ccd1.temperature; hcam history alone lists the fields"
        )
    asked = span(round(time.time() * 1000), last, start, end, night)
    place, note = source(file)
    if note:
        click.echo(note, err=True)
    if as_commands:
        try:
            lists = [commands(place, device, asked) for device in fields or (None,)]
            events = sorted(chain(*lists), key=itemgetter("time"))
        except AwayError as error:
            raise HcamError(str(error)) from None
        for line in table(events):
            click.echo(line)
        return
    known = load(file).recorded_fields()
    names, declared = {name: stored for name, (stored, _) in known.items()}, dict(known.values())
    chosen = tuple(dict.fromkeys(names.get(field, field) for field in fields))
    ways = {"csv": as_csv, "table": as_table, "plot": as_plot}
    how = next((name for name, wanted in ways.items() if wanted), None)
    try:
        raise SystemExit(plot.show(place, chosen, asked, declared, how=how, points=points, png=png))
    except AwayError as error:
        raise HcamError(str(error)) from None
