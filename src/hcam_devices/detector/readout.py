"""The duration and the size of a frame, calculated from the keywords of NGC.

This is a MODEL, for the simulator and for estimates. The clock periods are those of the instrument,
and their sums agree with its known values for a full frame (transfer 7.818 ms, line 5.603 ms,
readout 2.869 s, clear 85.8 ms). Windows, binning, overscan and drift mode are calculated in the
same way, but were not measured. DET.NSKIPS has no effect, because a CCD that skips readouts waits
for the others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..names import shorten

US = 1e-6
"""A microsecond, in s."""
OUTPUTS = 5 * 4
BYTES = 2
COLUMNS, ROWS = 1024, 512
"""The pixels of an output that are exposed to light."""
PRESCAN = 50
"""The columns before the exposed ones, which are always clocked; DET.INCPRSCX reads them."""
STORAGE = 520
"""The rows of an output's storage; DET.INCOVSCY reads those beyond the image."""
SETUP_READ = 0.9 * US
"""The pause before each line, in s."""
VIDEO = {0: 5.2 * US, 1: 1.9 * US}
"""The time of a binned pixel in s, by DET.SPEED: slow, fast."""
SINGLE_ENDED = 8.72 * US
"""The time of a binned pixel in s without the dummy output (DET.DUMMY 0), at either speed."""


@dataclass(frozen=True)
class _Clocks:
    """Clock periods (s): a row of the image, a row of the storage, a column, the dump of a line."""

    image: float
    storage: float
    column: float
    dump: float


CLOCKS = {
    0: _Clocks(15 * US, 20 * US, 0.24 * US, 18 * US),
    1: _Clocks(13 * US, 13 * US, 0.12 * US, 3.6 * US),
}
"""The clock periods by DET.FASTCLK."""


@dataclass(frozen=True)
class Timing:
    """The modelled times (s) of a frame, and its size."""

    cycle: float
    """From the start of a frame to the start of the next one."""
    exposure: float
    """The dwell time if the CCDs are cleared, otherwise the cycle without the transfer."""
    readout: float
    """From the end of the transfer to the end of the readout of the storage."""
    frame_size: int
    """Bytes of five CCDs with four outputs and two bytes per binned pixel, without FITS headers."""


def drift_layout(ny: int) -> tuple[int, int]:
    """Return the number of windows of ``ny`` rows in the storage, and the rows of the pipe shift.

    In drift mode a window stays in the storage until the windows before it have been read. The pipe
    shift is the number of rows of the storage that do not fill a window.
    """
    windows = int((STORAGE / ny + 1) / 2)
    return windows, STORAGE - (2 * windows - 1) * ny


def timing(keywords: Mapping[str, str]) -> Timing:
    """Return the timing of frames with the given keywords of NGC, whose values are texts.

    The defaults are: full frame, slow, unbinned, no overscan, no clear, no dwell, differential
    outputs, normal clocks. Raises ValueError, with the keyword and the value, if a value is not
    valid.
    """

    def whole(keyword: str, default: int, low: int, high: int) -> int:
        text = keywords.get(keyword, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high):
            raise ValueError(f"{keyword} is {shorten(text)}; give a whole number, {low} to {high}")
        return int(text)

    def logical(keyword: str) -> bool:
        text = keywords.get(keyword, "F")
        if text not in ("T", "F"):
            raise ValueError(f"{keyword} is {shorten(text)}; give T or F")
        return text == "T"

    mode = whole("DET.READ.CURID", 1, 1, 4)
    clocks = CLOCKS[whole("DET.FASTCLK", 0, 0, 1)]
    speed = whole("DET.SPEED", 0, 0, 1)
    video = VIDEO[speed] if whole("DET.DUMMY", 1, 0, 1) else SINGLE_ENDED
    xbin, ybin = whole("DET.BINX1", 1, 1, COLUMNS), whole("DET.BINY1", 1, 1, ROWS)
    prescan = PRESCAN if logical("DET.INCPRSCX") else 0
    overscan = STORAGE - ROWS if logical("DET.INCOVSCY") else 0
    clear = whole("DET.NCLRS", 5, 0, 1000) * STORAGE * (clocks.image + clocks.dump)
    clear = clear if logical("DET.CLRCCD") else 0.0
    dwell = _milliseconds(keywords.get("DET.TDELAY.GUI", "0"))

    transfer = STORAGE * clocks.image + clocks.dump
    readout, pixels, row = 0.0, 0, 0
    if mode == 1:
        windows = [(0, COLUMNS, ROWS + overscan)]
    else:
        names = {2: ["WIN1"], 3: ["WIN1", "WIN2"], 4: ["DRWIN"]}[mode]
        windows = sorted(
            (
                whole(f"DET.{name}.YS", 0, 0, ROWS - 1),
                whole(f"DET.{name}.NX", COLUMNS, 1, COLUMNS),
                whole(f"DET.{name}.NY", ROWS, 1, ROWS),
            )
            for name in names
        )
    if mode == 4:  # only the rows of the window, and those below it, move
        ((start, _, ny),) = windows
        transfer = (start + ny) * clocks.image + clocks.dump
        readout = drift_layout(ny)[1] * clocks.storage
        row = start  # the rows below the window have been moved already
    for start, nx, ny in windows:
        if start > row:
            readout += (start - row) * clocks.storage + clocks.dump
        x, lines = (nx + prescan) // xbin, ny // ybin
        line = ybin * clocks.storage + (COLUMNS + PRESCAN) * clocks.column + x * video + SETUP_READ
        readout += lines * line
        pixels += x * lines
        row = start + ny
    cycle = clear + dwell + transfer + readout
    return Timing(
        cycle=cycle,
        exposure=dwell if clear else cycle - transfer,
        readout=readout,
        frame_size=OUTPUTS * BYTES * pixels,
    )


def _milliseconds(text: str) -> float:
    """Return a number of ms as seconds. Raises ValueError unless it is finite and not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"DET.TDELAY.GUI is {shorten(text)}; give a number of ms, 0 or more")
    return value / 1000
