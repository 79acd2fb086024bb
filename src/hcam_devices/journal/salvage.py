"""The records of a damaged SQLite 3 file: whatever can be read from its pages, without its b-trees.

From the published format, https://sqlite.org/fileformat2.html: "The Database Header" (1.3), "B-tree
Pages" (1.6), "Cell Payload Overflow Pages" (1.7), "Record Format" (2.1), "The WAL File Format"
(4.1). Text is UTF-8 and no bytes of a page are reserved, as Python's sqlite3 makes its files.
"""

import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = int | float | str | bytes | None
Read: TypeAlias = Callable[[int], bytes]
"""Returns the page of a number, from 1; no bytes, or too few, if it is not there."""

BAD_SECTOR = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)
"""SQLite's codes for a disk that cannot be read: other parts of the file may be undamaged."""
SIZES = (4096, 8192, 16384, 32768, 65536, 1024, 2048, 512)
LEAF_TABLE, LEAF_INDEX, INNER_INDEX = KINDS = b"\x0d\x0a\x02"
"""The first byte of a page: rows WITHOUT ROWID are in the inner pages of their tree, too."""
MAX_RECORD_BYTES = 1 << 24
"""A damaged length must not fill the memory."""
MAX_FRAMES = 100_000
"""Remember at most this many pages of the WAL, for records that continue there."""
WAL_HEADER, FRAME_HEADER = 32, 24
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def records(path: Path) -> Iterator[tuple[Value, ...]]:
    """Yield every record that can be decoded in a file and in its ``-wal``; either may be absent.

    A record of an ordinary table is preceded by its rowid, and its INTEGER PRIMARY KEY is then None
    (that is how SQLite stores it). A record of a WITHOUT ROWID table is in the order in which it is
    stored: first the primary key. The entries of indices, of the schema and of pages no longer used
    come too, and a record comes once for each page that has a copy. The caller has to verify what
    a record means and whether it is true.

    Damaged and unreadable records are left out. Raises OSError only if a file cannot be opened.
    """
    with _File(path) as main, _File(path.with_name(path.name + "-wal")) as wal:
        size = _page_size(main, wal)

        def page(number: int) -> bytes:
            return main.read((number - 1) * size, size)

        for number in range(1, -(-main.size // size) + 1):
            yield from _cells(page(number), number, size, page)
        yield from _records_of_wal(wal, size, page)


def overlooked(wal: Path, accepted: int) -> bool:
    """Return whether a WAL has transactions behind the frames that SQLite ``accepted``.

    A process that is killed leaves at most one, cut off, with nothing after it. More of them mean
    that a frame, or the header, is damaged; SQLite ignores what is behind, and overwrites it.
    """
    with _File(wal) as file:
        header = file.read(0, WAL_HEADER)
        if len(header) < WAL_HEADER or file.size <= WAL_HEADER:
            return False
        if accepted <= 0 and _checksum(header[:24]) != header[24:]:
            return True
        size = int.from_bytes(header[8:12], "big")
        if size not in SIZES:  # SQLite has accepted the header of a WAL that was removed
            return False
        step = FRAME_HEADER + size
        rest = range(WAL_HEADER + max(accepted, 0) * step, file.size, step)
        frames = (file.read(at, 16) for at in rest)
        commits = [frame[4:8] != bytes(4) for frame in frames if frame[8:] == header[16:24]]
        return any(commits[:-1])


def _checksum(data: bytes) -> bytes:
    """Return the checksum of the beginning of a WAL, in whose first four bytes is the order."""
    order = "<>"[data[3] & 1]
    one = two = 0
    for first, second in struct.iter_unpack(f"{order}II", data):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack(">II", one, two)


class _File:
    """A file that may be absent, and parts of which may be unreadable."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path.exists() else None
        self.size = os.fstat(self.fd).st_size if self.fd is not None else 0

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd is not None:
            os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        if self.fd is None or not 0 <= offset < self.size:
            return b""
        try:
            return os.pread(self.fd, size, offset)
        except OSError:  # a bad sector
            return b""


def _page_size(main: _File, wal: _File) -> int:
    """Return the page size in the headers, else that with which most records can be decoded."""
    for said in (main.read(16, 2), wal.read(8, 4)):
        size = int.from_bytes(said, "big")
        if size in SIZES or size == 1:
            return size if size > 1 else 65536

    def decodable(size: int) -> int:
        each = main.size // size // 100 + 1
        some = range(0, main.size, size * each)
        pages = ((main.read(offset, size), offset // size + 1) for offset in some)
        return each * sum(1 for one in pages for _ in _cells(*one, size, lambda _: b""))

    return max(SIZES, key=decodable)


def _records_of_wal(wal: _File, size: int, main: Read) -> Iterator[tuple[Value, ...]]:
    """Yield the records of every page image, whether or not SQLite would still accept it.

    A record that continues on other pages does so on their newest images up to the end of its
    transaction, or else in the file itself.
    """
    newest: dict[int, int] = {}
    step = FRAME_HEADER + size

    def page(number: int) -> bytes:
        return wal.read(newest[number], size) if number in newest else main(number)

    begin = WAL_HEADER
    for frame in range(WAL_HEADER, wal.size, step):
        number, commit = struct.unpack(">II", wal.read(frame, 8).ljust(8, b"\0"))
        newest[number] = frame + FRAME_HEADER
        if len(newest) > MAX_FRAMES:
            del newest[next(iter(newest))]
        if commit or frame + step >= wal.size:
            for start in range(begin, frame + 1, step):
                number = int.from_bytes(wal.read(start, 4), "big")
                yield from _cells(wal.read(start + FRAME_HEADER, size), number, size, page)
            begin = frame + step


def _cells(page: bytes, number: int, size: int, read: Read) -> Iterator[tuple[Value, ...]]:
    """Yield the records of a page, if it is one that has any."""
    start = 100 if number == 1 and page[:1] not in KINDS else 0  # behind the header of the file
    if len(page) <= start or (kind := page[start]) not in KINDS:
        return
    first = start + (12 if kind == INNER_INDEX else 8)
    last = min(first + 2 * int.from_bytes(page[start + 3 : start + 5], "big"), len(page) - 1)
    for slot in range(first, last, 2):
        try:
            at = int.from_bytes(page[slot : slot + 2], "big")
            yield _record(page, at, kind, size, read)
        except (ValueError, IndexError, struct.error):  # damaged, and so are perhaps its neighbours
            continue


def _record(page: bytes, at: int, kind: int, size: int, read: Read) -> tuple[Value, ...]:
    """Return the record of a cell. Raises ValueError, IndexError or struct.error if it is none."""
    length, at = _varint(page, at + 4 if kind == INNER_INDEX else at)
    rowid: tuple[Value, ...] = ()
    if kind == LEAF_TABLE:
        unsigned, at = _varint(page, at)
        rowid = (unsigned - (unsigned >> 63 << 64),)
    most = size - 35 if kind == LEAF_TABLE else (size - 12) * 64 // 255 - 23
    here = length
    if length > most:
        least = (size - 12) * 32 // 255 - 23
        here = least + (length - least) % (size - 4)
        here = here if here <= most else least
    payload = page[at : at + here]
    if length > here:
        if length > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {length} bytes")
        further = int.from_bytes(page[at + here : at + here + 4], "big")
        payload += _overflow(further, length - here, size, read)
    if len(payload) != length:
        raise ValueError("the record is cut off")
    return rowid + _values(payload)


def _overflow(number: int, length: int, size: int, read: Read) -> bytes:
    """Return what a record has on further pages. Raises ValueError if one is missing."""
    parts: dict[int, bytes] = {}
    while length > 0:
        page = read(number)
        if number in parts or len(page) < 4 + min(length, size - 4):
            raise ValueError("the chain of pages is broken or circular")
        parts[number] = page[4 : 4 + length]
        length -= len(parts[number])
        number = int.from_bytes(page[:4], "big")
    return b"".join(parts.values())


def _values(payload: bytes) -> tuple[Value, ...]:
    end, at = _varint(payload, 0)
    values: list[Value] = []
    body = end
    while at < end:
        kind, at = _varint(payload, at)
        length = (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else INTEGERS.get(kind, 0)
        data = payload[body : body + length]
        body += length
        if kind >= 12:
            values.append(data.decode() if kind % 2 else data)
        elif kind == 7:
            values.append(struct.unpack(">d", data)[0])
        elif kind in INTEGERS:
            values.append(int.from_bytes(data, "big", signed=True))
        elif kind in (0, 8, 9):
            values.append(kind - 8 if kind else None)
        else:
            raise ValueError(f"no value is of type {kind}")
    if at != end or body != len(payload):
        raise ValueError("the record is longer or shorter than it says")
    return tuple(values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned integer of 1 to 9 bytes, and where it ends."""
    value = 0
    for at in range(at, at + 8):  # noqa: B020, PLR1704
        byte = data[at]
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at + 1
    return value << 8 | data[at + 1], at + 2
