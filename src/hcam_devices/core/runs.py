"""Files of runs: run 12 of the detector is in ``run0012.fits``."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Folder: TypeAlias = Path
Look: TypeAlias = Callable[[Path, Path | None], tuple[float, int | None]]
"""Returns what ``look`` does."""

BLOCK, CARD = 2880, 80
MAX_HEADER_BYTES = 1000 * BLOCK
"""The header of a HiPERCAM run has about 184 kB."""
END = b"END".ljust(CARD)


def cards(header: bytes) -> list[bytes]:
    """Return the lines of a FITS header, or of a part of it: 80 bytes each."""
    return [header[start : start + CARD] for start in range(0, len(header), CARD)]


def read_header(read: Callable[[int], bytes]) -> bytes | None:
    """Return the FITS header that begins where ``read`` reads; None if the file ends before it.

    ``read`` returns the next bytes of the file, as many as it is asked for. The header is padded to
    whole blocks. Raises ValueError if there is no header, or no END to it.
    """
    header = b""
    while len(block := read(BLOCK)) == BLOCK:
        header += block
        if not header.startswith((b"SIMPLE  =", b"XTENSION=")) or len(header) > MAX_HEADER_BYTES:
            raise ValueError("no FITS header")
        if END in cards(block):
            return header
    return None


def file_name(number: int) -> str:
    """Return the name of the file of a run."""
    return f"run{number:04d}.fits"


def number_of(file: str) -> int | None:
    """Return the number of a run from the name or path of its file; None if it is no run."""
    match = re.search(r"(?:^|/)run(\d+)[^/]*$", file, re.ASCII)
    return int(match[1]) if match else None


def newest(folder: Path) -> str:
    """Return the file of the run with the highest number, or ``run0000.fits`` without any.

    Raises OSError if the folder cannot be read: its runs may be there when it is mounted.
    """
    found = [
        (number, -len(path.name), str(path))
        for path in folder.iterdir()
        if path.suffix == ".fits" and (number := number_of(path.name)) is not None
    ]
    return max(found)[2] if found else file_name(0)


def folder_of(text: str) -> Path:
    """Return a folder; ``~`` is the user's own home."""
    return Path(os.path.expanduser(text))


def place_of(folder: Path) -> str:
    """Return the name, in errors, of the folder of the runs, which may be on a file server."""
    return f"the data folder {folder}"


def look(folder: Path, file: Path | None) -> tuple[float, int | None]:
    """Return the space left in a folder (GB), and the size of a file (bytes), None without one.

    Raises OSError.
    """
    stat = os.statvfs(folder)
    size = file.stat().st_size if file and file.exists() else None
    return round(stat.f_bavail * stat.f_frsize / 1e9, 2), size
