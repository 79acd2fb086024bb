"""``hcam history export``: writes recorded values to a file."""

import time
from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import load
from ..history import export as exports
from ..history.archive import as_timeseries, source, span
from ..history.stores import AwayError
from ..ui import plot
from ..wamp.uris import Address
from .completion import fields as complete_fields
from .program import Command, example, given, say, spanned

FORMATS = {".fits": "fits", ".ecsv": "ascii.ecsv", ".csv": "csv"}


@click.command(
    cls=Command,
    epilog=example(
        "hcam history export ccd1.temperature ccd2.temperature night.fits --night 2026-11-22"
    ),
)
@click.argument("fields", nargs=-1, required=True, shell_complete=complete_fields)
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@spanned
@given("address", "file")
def export(
    fields: tuple[str, ...],
    *,
    target: Path,
    last: str | None,
    start: str | None,
    end: str | None,
    night: str | None,
    address: Address,
    file: Path | None,
) -> None:
    """Write the recorded values of FIELDS to FILE, whose name ends with .fits, .ecsv or .csv.

    An existing FILE is replaced. A row of FITS and ECSV is a time (UTC), with the last value of
    each field in that ms; CSV has every sample, as hcam history --csv prints them.
    """
    if target.suffix not in FORMATS:
        raise click.UsageError(
            f"the last argument is the file, which ends with {', '.join(FORMATS)}; not {target}"
        )
    asked = span(round(time.time() * 1000), last, start, end, night)
    place, note = source(file)
    if note:
        click.echo(note, err=True)
    names = {name: stored for name, (stored, _) in load(file).recorded_fields().items()}
    chosen = tuple(dict.fromkeys(names.get(field, field) for field in fields))
    part = target.with_name(f"{target.name}.part")
    try:
        if FORMATS[target.suffix] == "csv":
            with part.open("w", encoding="utf-8") as out:
                plot.note(plot.write_csv(place, chosen, asked, out), asked)
        else:
            exports.write(as_timeseries(place, chosen, asked), part, FORMATS[target.suffix])
        part.replace(target)
    except AwayError as error:
        raise HcamError(str(error)) from None
    except OSError as error:
        raise HcamError(f"{target} cannot be written: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    say({"file": str(target)}, f"written: {target}")
