"""``tonight.sqlite``: the samples that are in no closed file yet, and the catalogue of those files.

One program writes it; others may read it meanwhile. Its tables are:

- ``sample``: the values of a sample (``body``, a JSON list) in the order of its shape's columns.
- ``shape``: a JSON list of columns.
- ``field``: which field, of which kind and unit, a column has, for ever. ``kind`` is ``number``,
  ``bool`` or ``text``.
- ``file``: the closed files. ``ranges`` is a JSON list of [epoch, first, last], ``checksum`` the
  BLAKE2b of the file, ``first`` and ``last`` are times.
- ``pending``: files that are complete, but perhaps not in place yet.
- ``gone``: samples that will never come, or were in a damaged file, with reasons.

Times are in ms since 1970, but ``noticed`` is in seconds.
"""

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ...journal.points import DAY_MS, TIMES, night_bounds, night_of
from ...journal.ranges import SampleRange, SampleRanges
from ...journal.records import Record, Shape
from .files import Table, connect, readable

NAME = "tonight.sqlite"
NIGHTS, DAMAGED = "nights", "damaged"
"""The folders of closed files and of damaged ones."""
TABLES = {
    "sample": Table(
        "device TEXT, epoch TEXT, seq INTEGER, time INTEGER, shape INTEGER, body TEXT",
        "UNIQUE (device, epoch, seq)",
    ),
    "shape": Table("id INTEGER PRIMARY KEY, device TEXT, columns TEXT", "UNIQUE (device, columns)"),
    "field": Table(
        'device TEXT, "column" TEXT, field TEXT, kind TEXT, unit TEXT',
        'PRIMARY KEY (device, "column")',
    ),
    "file": Table(
        "night TEXT, name TEXT, device TEXT, first INTEGER, last INTEGER, samples INTEGER,"
        " ranges TEXT, checksum TEXT, facts TEXT",
        "PRIMARY KEY (night, name)",
        salvaged=False,  # it is made again of the closed files
    ),
    "pending": Table(
        "night TEXT, name TEXT, facts TEXT", "PRIMARY KEY (night, name)", salvaged=False
    ),
    "gone": Table(
        "device TEXT, epoch TEXT, first INTEGER, last INTEGER, reason TEXT, noticed REAL"
    ),
}
DAY = "(time + 43200000) / 86400000 - 1"
"""The number of the night of a sample, in SQL."""
KINDS = {bool: "bool", str: "text"}
TAKEN = ("time", "seq", "epoch")
"""The columns of every closed file, which no field can have."""
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
HOUR_MS = 3_600_000
PART_MS = 2 * HOUR_MS
"""A part of a night has the samples of so long."""
GRACE_MS = 180_000
"""Close a part this long after its end: most samples have come then."""
REST_MS = 3_000_000
"""Merge the files of a device and a past night if the newest of them is older than this."""
ROWIDS = 2**40
"""So many rowids belong to each shape."""


class Job(NamedTuple):
    """A file to write: the samples of a device and a night, in ``parts`` and in ``tonight.sqlite``.

    Of the latter only those with times before ``upto`` (ms). ``drop``: device, epoch, first and
    last number of samples to leave out.
    """

    device: str
    night: str
    name: str
    upto: int
    parts: Sequence[tuple[str, str, int]] = ()
    """Name, checksum and number of values."""
    drop: Sequence[tuple[str, str, int, int]] = ()


class Entry(NamedTuple):
    """A closed file, as the catalogue knows it; ``first`` and ``last`` are times."""

    night: str
    name: str
    device: str
    first: int
    last: int
    total: int
    samples: SampleRanges
    checksum: str
    facts: dict[str, int]
    """``values``, ``size`` (bytes), and when it was ``entered`` (ms)."""


def entries(db: sqlite3.Connection, night: str = "") -> list[Entry]:
    """Return the closed files of a night, or of all nights, in order."""
    query = "SELECT * FROM file WHERE ? IN (night, '') ORDER BY night, name"
    return [
        Entry._make((*row[:6], ranges_of(row[2], json.loads(row[6])), row[7], json.loads(row[8])))
        for row in db.execute(query, (night,))
    ]


def gone_in(db: sqlite3.Connection) -> list[SampleRange]:
    """Return what is noted as gone, with reasons, in the order of the notes."""
    query = "SELECT device, epoch, first, last, reason FROM gone ORDER BY noticed, rowid"
    return [SampleRange(*row) for row in db.execute(query)]


def ranges_of(device: str, found: Iterable[Sequence[Any]]) -> SampleRanges:
    """Return ranges as they are in the catalogue: epoch, first and last number."""
    return SampleRanges(SampleRange(device, *part) for part in found)


def stem(device: str) -> str:
    """Return the beginning of the names of a device's closed files, which has no dot."""
    return quote(device, safe="").replace(".", "%2E")


def device_of(name: str) -> str:
    """Return the device of a closed file, by its name."""
    return unquote(name.partition(".")[0])


def due(folder: Path, now: int, night: str = "") -> list[Job]:
    """Return the files to write at a time (ms); of a ``night``, everything into one file a device.

    Otherwise the hours of the present night become parts, two by two, those of other nights parts
    or, if there was none of late, one file.
    """
    today, begun = night_of(now - GRACE_MS), (now - GRACE_MS) // PART_MS * PART_MS
    span = bool(night), begun, night_bounds(today)[0] // DAY_MS, TIMES[0], TIMES[-1]
    query = (
        f"SELECT DISTINCT {DAY}, device FROM sample"
        f" WHERE (? OR time < ? OR {DAY} != ?) AND time BETWEEN ? AND ?"
    )
    files: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    with closing(connect(folder / NAME)) as db:
        db.text_factory = readable
        db.execute("BEGIN")
        found = db.execute(query, span)
        rows = {(night_of(day * DAY_MS + DAY_MS // 2), device) for day, device in found}
        for entry in entries(db):
            files[entry.night, entry.device].append(entry)
    jobs = []
    for date, device in sorted(rows | files.keys()):
        parts, has_rows = files[date, device], (date, device) in rows
        names, name = {part.name for part in parts}, f"{stem(device)}.parquet"
        newest = max((part.facts["entered"] for part in parts), default=0)
        merge = date == night if night else date != today and not 0 <= now - newest < REST_MS
        upto = night_bounds(date)[1] if night or date != today else begun
        if merge and (has_rows or names != {name}):
            counted = [(part.name, part.checksum, part.facts["values"]) for part in parts]
            jobs.append(Job(device, date, name, upto, counted))
        elif has_rows and not night:
            free = (f"{stem(device)}.{n}.parquet" for n in count(1))
            jobs.append(Job(device, date, next(name for name in free if name not in names), upto))
    return jobs


class Shapes:
    """Packs samples into rows, and knows the columns and shapes in the file."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[str, tuple[str, str, str | None]]] = defaultdict(dict)
        """The field, kind and unit of each column, by device."""
        self._shapes: dict[tuple[str, Shape], tuple[int, Iterator[int]]] = {}
        self._rowids: dict[int, Iterator[int]] = {}

    def load(self, db: sqlite3.Connection) -> None:
        """Read the columns, and forget the shapes, of another file."""
        self._shapes.clear()
        self._rowids.clear()
        self.fields.clear()
        for device, column, *what in db.execute("SELECT * FROM field"):
            self.fields[device][column] = tuple(what)

    def rows(self, db: sqlite3.Connection, records: Iterable[Record]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of samples, within a transaction, in which their shapes may be new.

        The rows of a shape have rowids of their own, so that they are on the same pages: closing
        deletes them together.
        """
        for device, epoch, seq, time, shape, body in records:
            known = self._shapes.get((device, shape))
            if known is None:
                known = self._shapes[device, shape] = self._shape(db, device, shape)
            number, rowids = known
            yield next(rowids), device, epoch, seq, time, number, body

    def _shape(
        self, db: sqlite3.Connection, device: str, shape: Shape
    ) -> tuple[int, Iterator[int]]:
        """Return the number of a shape, and the rowids of its next samples."""
        row = device, json.dumps([self._column(db, device, *column) for column in shape.columns])
        db.execute("INSERT OR IGNORE INTO shape (device, columns) VALUES (?, ?)", row)
        query = "SELECT id FROM shape WHERE device = ? AND columns = ?"
        (number,) = db.execute(query, row).fetchone()
        if number not in self._rowids:
            first = number * ROWIDS
            query = "SELECT max(rowid) FROM sample WHERE rowid >= ? AND rowid < ?"
            (last,) = db.execute(query, (first, first + ROWIDS)).fetchone()
            self._rowids[number] = count(first if last is None else last + 1)
        return number, self._rowids[number]

    def _column(
        self, db: sqlite3.Connection, device: str, field: str, kind: str, unit: str | None
    ) -> str:
        """Return the column of a field, kind and unit, which may be new."""
        field = field.encode(errors="replace").decode()
        unit = None if unit is None else unit.encode(errors="replace").decode()
        known = self.fields[device]
        for column, what in known.items():
            if what == (field, kind, unit):
                return column
        plain = CONTROL.sub("?", field) or "?"
        same_kind = known.get(plain, ("", ""))[:2] == (field, kind)
        with_unit = f" [{CONTROL.sub('?', unit)}]" if unit else ""
        other = f"{plain}{with_unit}" if same_kind and unit else f"{plain} ({kind})"
        more = (f"{plain} ({kind}){with_unit}{f' {n}' * (n > 1)}" for n in count(1))
        taken = {*TAKEN, *map(str.lower, known)}
        column = next(name for name in chain((plain, other), more) if name.lower() not in taken)
        db.execute("INSERT INTO field VALUES (?, ?, ?, ?, ?)", (device, column, field, kind, unit))
        known[column] = field, kind, unit
        return column
