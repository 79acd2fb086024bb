"""Appends tables, such as the offsets of a dither, to the file of a run, in place.

    append(Path("/data"), 12, ecsv)  ->  "20 rows appended to run0012.fits"

A run has gigabytes and cannot be copied. So the file is extended by zeros, and the table is written
without its first eight bytes, the word ``XTENSION``. Once that is on the disk, these eight bytes
are written. Until then the file has "special records" after its last HDU, which FITS allows (FITS
4.0, section 3.5; decision 0052). Eight bytes at a multiple of eight are in one page of memory and
in one sector, so either all of them are written or none. The next append overwrites the remains of
an interrupted one.
"""

import errno
import fcntl
import io
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..core import runs

WORD = b"XTENSION"
TABLE = b"= 'BINTABLE'"
FULL = {errno.ENOSPC, errno.EDQUOT}
CHUNK_BYTES = 1 << 20
"""The number of bytes to read at a time."""


def append(folder: Path, run: int, ecsv: str) -> str:
    """Append a table to the file of a run in ``folder``, and return a sentence about the result.

    ``ecsv`` is the table as text in astropy's ECSV format. A table that is already in the file is
    not appended again. Block until the table is on the disk, and while another one is appended.

    Raises ValueError if the table or the run is unsuitable, or the run is not finished; OSError if
    the file cannot be read or written, or changes meanwhile. Existing HDUs never change.
    """
    if type(run) is not int or run < 1:
        raise ValueError(f"{run!r} is not the number of a run; give 12 for run0012.fits")
    path = _inside(folder, runs.file_name(run))
    rows, hdu = _serialized(ecsv)
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name} in {folder}") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError(f"{path} is not a regular file; the table is not appended")
        fcntl.flock(file, fcntl.LOCK_EX)
        seen = _stamp(os.fstat(file))
        hdus = _hdus(file, path.name)
        there = (
            os.pread(file, end - start, start) for start, end in hdus if end - start == len(hdu)
        )
        if hdu in there:
            os.fsync(file)  # the process that wrote it may have died before this
            return f"{path.name} already has this table"
        end = hdus[-1][1]
        if not _is_free(file, end):
            raise ValueError(
                f"{path.name} has {os.fstat(file).st_size - end} bytes after its last HDU, which "
                "no header describes: the run is not finished, or was cut short; the table is not "
                "appended"
            )
        if _stamp(path.stat()) != seen:
            raise OSError(f"another program is writing {path.name}; try again later")
        _write(file, end, hdu, path.name)
    finally:
        os.close(file)
    return f"{rows} row{'s'[: rows != 1]} appended to {path.name}"


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, with links resolved.

    Raises ValueError if a link leads out of the folder, so that a user who may write into the
    folder cannot make this program change another file. The folder itself may be a link.
    """
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(os.path.realpath(folder)):
        raise ValueError(
            f"{name} is a symbolic link that leads out of {folder}, to {path}; the table is not "
            "appended: replace the link with the file"
        )
    return path


def _serialized(ecsv: str) -> tuple[int, bytes]:
    """Return the number of rows of a table, and the table as a FITS binary table HDU."""
    from astropy.io import ascii as texts  # noqa: PLC0415  (costs 0.7 s and 35 MiB)
    from astropy.utils import data  # noqa: PLC0415

    data.conf.allow_internet = False  # astropy would download leap seconds when its own are old
    if not isinstance(ecsv, str):
        raise ValueError(f"a table is text in ECSV format, not {type(ecsv).__name__}")
    try:
        # As lines, because astropy takes a text of one line for a file name.
        table = texts.read(ecsv.splitlines(), format="ecsv", guess=False)
    except Exception as error:  # the YAML parser raises many types
        raise ValueError(f"not a table in ECSV format: {_line(error)}") from error
    if not table.colnames or not len(table):
        raise ValueError("the table has no rows; nothing is appended")
    buffer = io.BytesIO()
    try:
        for name in table.colnames:
            _prepare(table, name)
        table.write(buffer, format="fits")
    except Exception as error:  # columns may have any type
        raise ValueError(f"FITS cannot contain this table: {_line(error)}") from error
    return len(table), buffer.getvalue()[runs.BLOCK :]


def _prepare(table: Any, name: str) -> None:
    """Prepare a column so that FITS keeps its missing values and its one-byte integers.

    Columns of other types (Time, SkyCoord, Quantity) are left to astropy.
    """
    import numpy as np  # noqa: PLC0415
    from astropy.table import Column  # noqa: PLC0415

    if not isinstance(table[name], Column):
        return
    if table[name].dtype == np.int8:  # astropy would write them as truth values
        table[name] = table[name].astype(np.int16)
    column = table[name]
    missing = bool(np.any(getattr(column, "mask", False)))
    if missing and column.dtype.kind == "b":
        raise ValueError(f"column {name} lacks truth values; send 0 and 1 as integers")
    if missing and column.dtype.kind in "iu":
        # astropy's choice, 999999 truncated to the type, may be a value of the column.
        taken = set(column.compressed().tolist())
        limits = np.iinfo(column.dtype)
        free = (n for n in range(limits.max, limits.min - 1, -1) if n not in taken)
        column.fill_value = next(free)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _hdus(file: int, name: str) -> list[tuple[int, int]]:
    """Return the positions of the first byte of each HDU in a file, and of the byte after it.

    Raises ValueError if the file is not FITS, or shorter than its headers say.
    """
    size = os.fstat(file).st_size
    if os.pread(file, 10, 0) != b"SIMPLE  = ":
        raise ValueError(f"{name} is not a FITS file; the table is not appended")
    found, start = [], 0
    while start == 0 or os.pread(file, len(WORD), start) == WORD:
        end = start + _length(file, start, name)
        if end > size:
            raise ValueError(
                f"{name} has {size} bytes, but {end} according to its headers: the run is not "
                "finished, or was cut short; the table is not appended"
            )
        found.append((start, end))
        start = end
    return found


def _length(file: int, start: int, name: str) -> int:
    """Return the length in bytes of the HDU that begins at ``start``.

    Raises ValueError if its header is damaged, or if it has no frames yet.
    """
    from astropy.io import fits  # noqa: PLC0415

    os.lseek(file, start, os.SEEK_SET)
    text = None
    with suppress(ValueError):
        text = runs.read_header(partial(os.read, file))
    if text is None:
        raise ValueError(f"{name} has a header without END at byte {start}")
    try:
        header = fits.Header.fromstring(text)
        axes = [header[f"NAXIS{n}"] for n in range(1, header["NAXIS"] + 1)]
        data = int(header.data_size_padded)
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(f"{name} has a bad header at byte {start}: {_line(error)}") from error
    if data < 0:
        raise ValueError(f"{name} has a bad header at byte {start}: {data} bytes of data")
    if start == 0 and axes and axes[-1] == 0:
        raise ValueError(
            f"{name} has no frames according to its header (NAXIS{len(axes)} = 0): the run is not "
            "finished, or was cut short; the table is not appended"
        )
    return len(text) + data


def _is_free(file: int, end: int) -> bool:
    """Return whether only the remains of an interrupted append are after ``end``.

    These are zeros, or a table without its first eight bytes. Anything else may be frames. The
    first 64 bytes of a block are in one page, so an interrupted write has all of them or none.
    """
    place = end
    while data := os.pread(file, CHUNK_BYTES, place):
        if place == end and data.startswith(bytes(len(WORD)) + TABLE):
            return True
        if data.count(0) != len(data):
            return False
        place += len(data)
    return True


def _write(file: int, end: int, hdu: bytes, name: str) -> None:
    try:
        os.ftruncate(file, end)  # removes the remains of an interrupted append
        os.ftruncate(file, end + len(hdu))
        _put(file, hdu[len(WORD) :], end + len(WORD))
        os.fsync(file)
        _put(file, WORD, end)
        os.fsync(file)
    except OSError as error:
        os.ftruncate(file, end)
        reason = "the disk is full" if error.errno in FULL else error.strerror
        raise OSError(error.errno, f"{reason}; {name} is unchanged, without the table") from error


def _put(file: int, data: bytes, place: int) -> None:
    while data:
        done = os.pwrite(file, data, place)
        data, place = data[done:], place + done
