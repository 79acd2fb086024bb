"""``hcam history``: recorded values as a plot, a table or CSV; and recorded commands."""

import time
from importlib import import_module
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from .. import HcamError
from ..config.instrument import load
from ..history.archive import commands, files_here, source, span
from ..history.stores import AwayError
from ..ui import plot
from ..ui.commands import table
from ..wamp.uris import Address
from .completion import fields as complete_fields
from .program import UTC, Command, example, given, say, spanned, wants_json

OTHERS = {"close": "closing", "convert": "closing", "export": "exporting"}
"""The commands whose names may stand in the place of FIELDS, and their modules."""


class History(Command):
    """A command whose first argument may be the name of another one."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Return the context of the other command, if there is one."""
        if args and args[0] in OTHERS:
            other = getattr(import_module(f"{__package__}.{OTHERS[args[0]]}"), args[0])
            context: click.Context = other.make_context(
                f"{info_name} {args[0]}", args[1:], parent, **extra
            )
            return context
        return super().make_context(info_name, args, parent, **extra)


@click.command(
    cls=History,
    exits={0: "there is something", 1: "a field has no values, or the history cannot be read"},
    epilog=example(
        "hcam history ccd1.temperature ccd2.temperature --last 7d   or   "
        "hcam history rack.dewpoint --night 2026-11-22 --csv > dewpoint.csv   or   "
        "hcam history --commands slide --night tonight   or   "
        "hcam history --sql 'SELECT max(temperature) FROM ccd1'"
    ),
)
@click.argument("fields", nargs=-1, shell_complete=complete_fields)
@spanned
@UTC
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
@click.option(
    "--sql",
    metavar="TEXT",
    help="Print the answer to an SQL statement over the files of this machine, in which every "
    "device is a table.",
)
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
    sql: str | None,
    address: Address,
    file: Path | None,
) -> None:
    """Show the recorded values of FIELDS such as ccd1.temperature; without FIELDS, list them.

    The default in a terminal is a plot, in which commands are marked. With --commands, FIELDS are
    devices (default: all). --json prints every value as hcam monitor --json does, and --from and
    --to are in UTC always.

    hcam history export FIELDS FILE writes a FITS, ECSV or CSV file, and hcam history close [NIGHT]
    closes a night at once: each has its own --help.
    """
    as_json = wants_json()
    if sql is not None:
        others = fields or last or start or end or night or points or png
        if others or as_commands or as_plot or as_table or (as_csv and as_json):
            raise click.UsageError("--sql goes with --csv or --json, or alone")
        _answer(sql, file, "csv" if as_csv else "json" if as_json else "table")
        return
    if (as_commands or as_json) + as_plot + as_table + as_csv + bool(png) > 1 or (
        points and (as_commands or as_json or as_plot or png or as_csv)
    ):
        raise click.UsageError(
            "choose one of --table (which may have --points), --csv, --json, --png, --plot and "
            "--commands (which may have --json)"
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
        say(events, table(events))
        return
    known = load(file).recorded_fields()
    names, declared = {name: stored for name, (stored, _) in known.items()}, dict(known.values())
    chosen = tuple(dict.fromkeys(names.get(field, field) for field in fields))
    ways = {"csv": as_csv, "json": as_json, "table": as_table, "plot": as_plot}
    how = next((name for name, wanted in ways.items() if wanted), None)
    try:
        raise SystemExit(plot.show(place, chosen, asked, declared, how=how, points=points, png=png))
    except AwayError as error:
        raise HcamError(str(error)) from None


def _answer(sql: str, file: Path | None, how: str) -> None:
    # DuckDB takes 0.1 s, which is only needed here
    from ..history.sql import ask  # noqa: PLC0415
    from ..ui.answers import show  # noqa: PLC0415

    try:
        answer = ask(files_here(file), sql)
    except AwayError as error:
        raise HcamError(str(error)) from None
    if answer is not None:
        show(answer, how)
