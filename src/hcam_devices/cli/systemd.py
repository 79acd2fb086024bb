"""``hcam systemd``: systemd units that start the instrument at boot."""

from pathlib import Path

import click

from ..config import units
from ..config.instrument import Instrument
from .program import Command, example, given, say
from .supervisor import runs_here


@click.command(cls=Command, epilog=example("hcam systemd --instrument /etc/hcam/ours.toml"))
@click.option("--user", default="hcam", help="The user that runs the instrument (default: hcam).")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=units.STATE / "hcam_devices",
    help="HCAM_HOME for that user (default: /var/lib/hcam_devices).",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("systemd"),
    help="The folder to write the units into (default: systemd).",
)
@given("instrument")
def systemd(instrument: Instrument, *, user: str, home: Path, out: Path) -> None:
    """Write systemd units for the router and each server that belongs on this machine.

    Nothing is installed or started; docs/running-a-site.md says how to do that.
    """
    names = runs_here(instrument) if instrument.hosts else ()
    written = units.write(instrument, units.Installation(user, home), out, names)
    paths = list(map(str, written))
    say({"files": paths}, paths)
