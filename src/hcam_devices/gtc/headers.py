"""The telescope's header as astropy's types, for ``hcam_widgets`` and ``hcam_drivers``.

``telpars`` is what the telescope and ``hipercam.gtc.rpc.get_telescope_pars`` return: a list of
texts, whose form ``telescope.headers`` explains.
"""

import re
import warnings
from collections.abc import Iterable
from typing import Any

from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from ..telescope.headers import NAME, Item, parse

COLUMNS = (
    *("LST", "ROTATOR", "PARANG", "DOME_AZ", "AZIMUTH", "ELEVAT", "AIRMASS", "TELFOCUS", "T_TUBE"),
    *("T_PRIM", "M2UX", "M2UY", "M2UZ", "M2RX", "HUMIN", "HUMOUT", "TAMBIENT", "PRESSURE"),
    *("HUMIDITY", "WINDSPEE", "WINDDIRE", "DEWPOINT"),
)
"""The items of the header that change during a run."""
UNPRINTABLE = re.compile(r"[^ -~]")


def create_header_from_telpars(telpars: Iterable[str]) -> fits.Header:
    """Return the items as a FITS header, whose values are texts.

    Characters that FITS does not allow become question marks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # of names with over 8 letters
        return fits.Header(
            (name, UNPRINTABLE.sub("?", item.value), UNPRINTABLE.sub("?", item.comment))
            for name, item in parse(telpars).items()
            if NAME.fullmatch(name)
        )


def create_gtc_header_table() -> Table:
    """Return a table without rows: the columns MJD and COLUMNS, all of type float."""
    return Table(names=["MJD", *COLUMNS])


def add_gtc_header_table_row(table: Table, telpars: Iterable[str]) -> None:
    """Add a row to a table in place: the time (MJD, UTC), LST in hours, and the other columns.

    A value that is missing or not a number is NaN.
    """
    items = parse(telpars)
    values = {name: _number(items[name]) for name in COLUMNS if name in items}
    if "LST" in items:
        values["LST"] = _hours(items["LST"].value)
    table.add_row({"MJD": Time.now().mjd} | dict.fromkeys(COLUMNS, float("nan")) | values)


def _number(item: Item) -> float:
    try:
        return float(item.value)
    except ValueError:
        return float("nan")


def _hours(text: str) -> Any:
    try:
        return Angle(text, unit="hourangle").hourangle
    except ValueError:  # also of astropy's own types
        return float("nan")
