"""``hcam history export``: recorded values as a table of astropy, in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.timeseries import TimeSeries


def write(series: "TimeSeries", file: Path, form: str) -> None:
    """Write a series to a file, in the format ``fits`` or ``ascii.ecsv``. Raises OSError.

    ``Table.read(file, astropy_native=True)`` (FITS) and ``Table.read(file)`` (ECSV) return its
    times, units and masks. In FITS, letters beyond ASCII become ``?``, and true and false with
    missing values become 1, 0 and -1 (null).
    """
    series = _for_fits(series) if form == "fits" else series
    series.write(file, format=form, overwrite=True)


def _for_fits(series: "TimeSeries") -> "TimeSeries":
    """Return a series with columns that a FITS table can have."""
    import numpy as np  # noqa: PLC0415
    from astropy.table import MaskedColumn  # noqa: PLC0415

    found = series.copy()
    for name in series.colnames[1:]:
        column = series[name]
        if column.dtype.kind == "U":
            found[name] = np.char.encode(column.filled(""), "ascii", "replace")
        elif column.dtype.kind == "b" and column.mask.any():
            values = np.asarray(column.filled(False), dtype=np.int16)
            found[name] = MaskedColumn(values, mask=column.mask, fill_value=-1)
    return found
