"""``hcam dashboards``: dashboards for Grafana."""

from pathlib import Path

import click

from .. import HcamError
from ..config.instrument import Instrument
from ..host.installation import install_extra
from .program import Command, example, given, say


@click.command(cls=Command, epilog=example("hcam dashboards grafana --instrument ours.toml"))
@click.argument(
    "folder", default="grafana", type=click.Path(file_okay=False, path_type=Path, writable=True)
)
@click.option("--store", help="The store to show, if the instrument file has several InfluxDBs.")
@given("instrument")
def dashboards(folder: Path, *, store: str | None, instrument: Instrument) -> None:
    """Write Grafana dashboards of every device, and Grafana's settings for them, into FOLDER.

    docs/grafana.md says how to start Grafana with it.
    """
    try:
        from ..ui import dashboards  # noqa: PLC0415  (an optional extra)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("grafana_foundation_sdk"):
            raise
        raise HcamError(
            f"this installation lacks the packages for dashboards: {install_extra('grafana')}"
        ) from None
    titles = dashboards.write(folder, instrument, store)
    say({"folder": str(folder), "dashboards": titles}, f"{folder}: {', '.join(titles)}")
