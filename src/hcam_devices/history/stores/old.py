"""Nights of the version before, SQLite files whose rows have checksums, to convert them.

A row of ``sample`` has the id of its stream, its time, its number, and packed doubles with a CRC-32
of all that. A double is a number, a bool, or the id of a text. Streams are texts, too: JSON of
device, epoch and fields. ``spare`` is a copy of ``text``.
"""

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from ...journal.points import Field, Point
from ...journal.ranges import SampleRange, SampleRanges
from .files import connect

NIGHTS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].sqlite"
MAIN = "history.sqlite"
SOUND = 0x2144DF1C
"""The CRC-32 of anything followed by its own CRC-32, little-endian."""
TABLES = {
    "sample": ("time, seq, body", "time, seq"),
    "stored": ("device, epoch, first, last, stamp", "device, epoch, first, last"),
    "gone": ("noticed, device, epoch, first, last, cause, stamp", "noticed, device, epoch, first"),
    "text": ("id, text", "id"),
    "spare": ("id, text", "id"),
}
"""The columns of tables, and those of their keys."""


class Stream(NamedTuple):
    """The samples of one device and epoch with the same fields: names, kinds and units."""

    id: int
    device: str
    epoch: str
    fields: list[tuple[str, str, str | None]]


class OldNight:
    """The readable part of a file; ``damage`` says why there is more in it, or is empty."""

    def __init__(self, path: Path) -> None:
        self.path, self.damage = path, ""
        texts = [*self._rows("text"), *self._rows("spare")]
        self._texts = {number: str(text) for number, text in texts if _is_id(number, text)}
        noted = (row[:4] for row in self._stamped("stored"))
        self.noted = SampleRanges(SampleRange(*samples) for samples in noted)
        """The samples that the file should have."""

    def streams(self) -> dict[str, list[Stream]]:
        """Return the streams of each device."""
        found: dict[str, list[Stream]] = {}
        for number, text in self._texts.items():
            try:
                device, epoch, fields = json.loads(text)
                fields = [(name, kind, unit) for name, kind, unit in fields]
            except (TypeError, ValueError):
                continue  # another text
            if not isinstance(device, str) or not isinstance(epoch, str):
                continue
            found.setdefault(device, []).append(Stream(number, device, epoch, fields))
        return found

    def points(self, stream: Stream) -> Iterator[Point]:
        """Yield the samples of a stream whose checksums are right."""
        packed = struct.Struct(f"<{len(stream.fields)}d")
        units = {name: unit for name, _, unit in stream.fields if unit is not None}
        for time, seq, body in self._rows("sample", stream.id):
            try:
                key = struct.pack("<qqq", stream.id, time, seq)
                if crc32(body, crc32(key)) != SOUND:
                    continue
                values = _values(stream, packed.unpack_from(body), self._texts)
            except (LookupError, TypeError, struct.error):
                continue
            yield Point(stream.device, stream.epoch, seq, time, values, units)

    def gone(self) -> list[SampleRange]:
        """Return the samples that will never come, with reasons, of the file MAIN."""
        return [SampleRange(*row[1:6]) for row in self._stamped("gone")]

    def _stamped(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table whose last column is the right checksum of the others."""
        for *row, stamp in self._rows(table):
            if crc32(json.dumps([table, *row], default=repr).encode()) == stamp:
                yield tuple(row)

    def _rows(self, table: str, stream: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table, or of a stream, that SQLite can read.

        A damaged file is read from both ends, so some rows may come twice.
        """
        columns, keys = TABLES[table]
        where = "" if stream is None else f"WHERE stream = {stream:d}"
        query = f"SELECT {columns} FROM {table} {where}"
        with closing(connect(self.path)) as db:
            db.text_factory = lambda raw: raw.decode(errors="replace")
            for order in (keys, keys.replace(",", " DESC,") + " DESC"):
                try:
                    yield from db.execute(f"{query} ORDER BY {order}")
                except sqlite3.OperationalError:
                    raise
                except sqlite3.DatabaseError as error:
                    self.damage = str(error)
                else:
                    return


def _is_id(number: Any, text: Any) -> bool:
    """Return whether a number is the id of a text: 52 bits of its hash."""
    if not isinstance(text, str):
        return False
    hashed = blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return bool(int.from_bytes(hashed) >> 12 == number)


def _values(
    stream: Stream, numbers: tuple[float, ...], texts: Mapping[int, str]
) -> dict[str, Field]:
    """Return the values of a sample by field. Raises LookupError if a text is missing."""
    return {
        name: number if kind == "number" else bool(number) if kind == "bool" else texts[int(number)]
        for (name, kind, _), number in zip(stream.fields, numbers, strict=True)
    }
