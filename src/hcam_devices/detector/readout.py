"""How long a frame takes and how large it is, from the keywords that NGC was given.

All of it is a model, for the simulator and for estimates. The clock periods are the instrument's;
how they add up agrees with its known figures for a full frame (transfer 7.818 ms, line 5.603 ms,
readout 2.869 s, clear 85.8 ms). Windows, binning, overscan and drift follow the same sum and were
not measured. DET.NSKIPS does not enter: a CCD that skips readouts waits for the others.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

US = 1e-6
"""A microsecond in s."""
OUTPUTS = 5 * 4
BYTES = 2
COLUMNS, ROWS = 1024, 512
"""Pixels of an output that see light."""
PRESCAN = 50
"""Columns before them; always clocked, read with DET.INCPRSCX."""
STORAGE = 520
"""Rows of an output's storage; those beyond the image are read with DET.INCOVSCY."""
SETUP_READ = 0.9 * US
"""Before each line."""
VIDEO = {0: 5.2 * US, 1: 1.9 * US}
"""Time of a binned pixel by DET.SPEED: slow, fast."""
SINGLE_ENDED = 8.72 * US
"""Time of a binned pixel without the dummy output (DET.DUMMY 0), at either speed."""


@dataclass(frozen=True)
class _Clocks:
    """Periods in s: a row of the image, a row of the storage, a column, the dump of a line."""

    image: float
    storage: float
    column: float
    dump: float


CLOCKS = {
    0: _Clocks(15 * US, 20 * US, 0.24 * US, 18 * US),
    1: _Clocks(13 * US, 13 * US, 0.12 * US, 3.6 * US),
}
"""By DET.FASTCLK."""


@dataclass(frozen=True)
class Timing:
    """What the model says of a frame."""

    cycle: float
    """s from one frame to the next."""
    exposure: float
    """s of light: the dwell if the CCDs are cleared, else all of the cycle but the transfer."""
    readout: float
    """s to read the storage once a frame has been moved there."""
    frame_size: int
    """Bytes: five CCDs, four outputs each, two bytes a binned pixel; without FITS headers."""


def timing(keywords: Mapping[str, str]) -> Timing:
    """Return the timing of frames taken with the keywords.

    What is missing is as for full frames: slow, unbinned, differential outputs, normal clocks, no
    clear, dwell or overscan. Raises ``ValueError`` with the keyword and its value if one makes no
    sense.
    """
    clocks = CLOCKS[_whole(keywords, "DET.FASTCLK", 0, CLOCKS)]
    video = VIDEO[_whole(keywords, "DET.SPEED", 0, VIDEO)]
    if not _whole(keywords, "DET.DUMMY", 1, (0, 1)):
        video = SINGLE_ENDED
    xbin = _whole(keywords, "DET.BINX1", 1, range(1, COLUMNS + 1))
    ybin = _whole(keywords, "DET.BINY1", 1, range(1, ROWS + 1))
    clears = _whole(keywords, "DET.NCLRS", 5) if keywords.get("DET.CLRCCD") == "T" else 0
    dwell = _dwell(keywords)

    prescan = PRESCAN // xbin if keywords.get("DET.INCPRSCX") == "T" else 0
    pixels, readout, row = 0, 0.0, 0
    for width, height, start in _windows(keywords):
        wide, high = width // xbin + prescan, height // ybin
        line = (
            ybin * clocks.storage + (PRESCAN + COLUMNS) * clocks.column + wide * video + SETUP_READ
        )
        readout += (start - row) * (clocks.storage + clocks.dump) + high * line
        pixels, row = pixels + wide * high, start + height

    transfer = STORAGE * clocks.image + clocks.dump
    clear = clears * STORAGE * (clocks.image + clocks.dump)
    cycle = clear + dwell + transfer + readout
    exposure = dwell if clears else cycle - transfer
    return Timing(cycle, exposure, readout, OUTPUTS * BYTES * pixels)


def _windows(keywords: Mapping[str, str]) -> list[tuple[int, int, int]]:
    """Return width, height and first row of what is read of each output, from the lowest up."""
    mode = _whole(keywords, "DET.READ.CURID", 1, range(1, 5))
    if mode == 1:
        whole = STORAGE if keywords.get("DET.INCOVSCY") == "T" else ROWS
        return [(COLUMNS, whole, 0)]
    if mode == 4:  # windows are stacked in the storage, and come out one after the other
        return [(*_size(keywords, "DET.DRWIN"), 0)]
    names = ["DET.WIN1", "DET.WIN2"][: mode - 1]
    windows = [
        (*_size(keywords, name), _whole(keywords, f"{name}.YS", 0, range(ROWS))) for name in names
    ]
    return sorted(windows, key=lambda window: window[2])


def _size(keywords: Mapping[str, str], name: str) -> tuple[int, int]:
    return (
        _whole(keywords, f"{name}.NX", COLUMNS, range(1, COLUMNS + 1)),
        _whole(keywords, f"{name}.NY", ROWS, range(1, ROWS + 1)),
    )


def _whole(
    keywords: Mapping[str, str], key: str, default: int, among: Container[int] = range(2**31)
) -> int:
    text = keywords.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and int(text) in among):
        raise ValueError(f"{key} cannot be {text!r}")
    return int(text)


def _dwell(keywords: Mapping[str, str]) -> float:
    text = keywords.get("DET.TDELAY.GUI", "0")
    try:
        dwell = float(text) / 1000
    except ValueError:
        dwell = math.nan
    if not 0 <= dwell < math.inf:
        raise ValueError(f"DET.TDELAY.GUI cannot be {text!r}")
    return dwell
