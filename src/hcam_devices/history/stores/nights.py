"""Reads the files of an embedded store, also while the recorder writes them.

DuckDB reads closed nights, which are Parquet files, and the rows of ``tonight.sqlite`` as one
table: ``time``, ``seq``, ``epoch`` and the columns of a device.
"""

import json
import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from ...journal.commands import commands_of, is_commands
from ...journal.notebook import Lost
from ...journal.points import DAY_MS, TIMES, Field, Point, night_bounds, night_of
from . import AwayError
from .duck import TYPES, connection, parquet, quoted
from .files import away, connect, differs, trying
from .lost import LostNotes
from .tonight import DAY, HOUR_MS, NAME, NIGHTS, TABLES, device_of

log = logging.getLogger(__name__)

EVER = TIMES.start, TIMES.stop
MAX_WAIT_S = 5.0
"""Wait this long for a file that is being replaced, which takes the recorder milliseconds."""
WAIT_S = 0.02
FILES = """
SELECT night, name, checksum FROM file
WHERE device = ? AND last >= ? AND first < ? AND night BETWEEN ? AND ? ORDER BY first
"""
MS = "epoch_us(time) // 1000"
"""The time of a sample in ms; ``epoch_ms`` is slower."""


class Column(NamedTuple):
    """A column of a device: its name, and the field whose values of one kind and unit it has."""

    name: str
    field: str
    kind: str
    unit: str | None


class Bucket(NamedTuple):
    """The values of a field in a period that begins at ``time`` (ms).

    ``last`` is the value of the last of ``n`` samples. A bool counts as 0 or 1.
    """

    time: int
    min: float
    mean: float
    max: float
    last: float | bool
    n: int


class Snapshot(NamedTuple):
    """The samples of a device in a span at one moment."""

    span: tuple[str, int, int]
    """The device, the start and the end (ms)."""
    files: list[tuple[Path, str]]
    """The closed files, in order of their first sample, with their checksums."""
    rows: str
    """The samples that are not in a closed file: a JSON list for each column, or NO_ROWS."""


NO_ROWS = "null"


def rows_as_table(columns: Sequence[Column], rows: str) -> str:
    """Return the query of the rows of a snapshot, which are an SQL expression."""
    types = ["BIGINT", "BIGINT", "VARCHAR", *(TYPES[column.kind] for column in columns)]
    form = json.dumps({f"c{n}": [kind] for n, kind in enumerate(types)})
    lists = ", ".join(f"unnest(r.c{n}) AS c{n}" for n in range(len(types)))
    named = [f"c{n} AS {quoted(column.name)}" for n, column in enumerate(columns, 3)]
    picked = ", ".join(("make_timestamptz(c0 * 1000) AS time, c1 AS seq, c2 AS epoch", *named))
    # From a table, because DuckDB takes several times longer to plan with a constant list.
    return (
        f"SELECT {picked} FROM (SELECT {lists} FROM "
        f"(SELECT from_json(json, '{form}') AS r FROM (VALUES ({rows})) AS t (json)))"
    )


def with_files(rows: str, files: list[Path]) -> str:
    """Return the query of the samples in ``rows``, a query, and of those in closed files."""
    return f"{rows} UNION ALL BY NAME SELECT * FROM {parquet(files)}" if files else rows


class NightFiles:
    """Reads the folder of an EmbeddedStore from any program, in one thread at a time.

    Times are UTC in milliseconds since 1970; spans include their start, not their end. Samples in a
    damaged file are left out, with a warning in the log, until the store has repaired it. The
    methods raise AwayError if a file cannot be read.

    With ``copies``, the samples are those in the copies of closed files in that folder.
    """

    def __init__(self, folder: Path, copies: Path | None = None) -> None:
        self.folder, self.copies = folder, copies
        self.damaged: set[Path] = set()
        """The damaged files that were met."""

    def nights(self, device: str = "") -> list[str]:
        """Return the nights with samples, of one device or of any, oldest first."""
        with self._reading() as db:
            query = "SELECT DISTINCT night FROM file WHERE ? IN (device, '')"
            found = {night for (night,) in db.execute(query, (device,))}
            query = f"SELECT DISTINCT {DAY} FROM sample WHERE ? IN (device, '')"
            days = db.execute(query, (device,))
            found |= {night_of(day * DAY_MS + DAY_MS // 2) for (day,) in days}
        return sorted(found)

    def fields(self) -> dict[str, dict[str, str]]:
        """Return the unit (``""`` if none) of every recorded field, by device and name."""
        return {
            device: {
                name: next((column.unit for column in columns if column.unit), "")
                for name, columns in some.items()
            }
            for device, some in self._fields().items()
            if not is_commands(device)
        }

    def streams(self) -> list[str]:
        """Return the devices and streams of commands that have ever had samples."""
        return list(self._fields())

    def devices(self, night: str) -> list[str]:
        """Return the devices with samples in a night, in order of their names."""
        query = """SELECT device FROM file WHERE night = ?
            UNION SELECT device FROM sample WHERE time >= ? AND time < ? ORDER BY device"""
        with self._reading() as db:
            found = db.execute(query, (night, *night_bounds(night))).fetchall()
        return [device for (device,) in found if not is_commands(device)]

    def series(
        self, device: str, field: str, start: int, end: int, most: int = 0
    ) -> list[tuple[int, int, Field]]:
        """Return times, sample numbers and values of a field as recorded, in order of time.

        With ``most``, return only the oldest ones.
        """
        columns = self._columns(device, field)
        names = ", ".join((MS, "seq", *map(quoted, [column.name for column in columns])))
        query = f"""
            SELECT {names} FROM sample WHERE {_known(columns)}
            ORDER BY time, seq {f"LIMIT {most}" if most else ""}
        """
        found = self.ask(device, columns, start, end, query, many=True)
        if len(columns) == 1:
            return found
        return [(*row[:2], next(value for value in row[2:] if value is not None)) for row in found]

    def newest(self, device: str, field: str) -> int:
        """Return the time of the newest value of a field, or 0 if there is none."""
        columns = self._columns(device, field)
        query = f"SELECT max({MS}) FROM sample WHERE {_known(columns)}"
        for night in reversed(self.nights(device)):
            for (found,) in self.ask(device, columns, *night_bounds(night), query):
                if found is not None:
                    return int(found)
        return 0

    def lost(self, device: str, start: int, end: int) -> list[Lost]:
        """Return the notes about samples of a device that were published but stored nowhere."""
        noted = LostNotes(self.folder)
        with trying(noted.path):
            notes = noted.read()
        span = start / 1000, end / 1000
        return [note for note in notes if note.device == device and note.overlaps(*span)]

    def downsampled(
        self, device: str, field: str, start: int, end: int, points: int
    ) -> list[Bucket]:
        """Return the buckets of ``points`` periods of equal length, without the empty ones.

        Texts do not count as samples. Raises ValueError if ``points`` or the span is not positive.
        """
        if points < 1 or end <= start:
            raise ValueError(f"{points} points from {start} to {end} (ms): both must be positive")
        width = -(-(end - start) // points)
        columns = [column for column in self._columns(device, field) if column.kind != "text"]
        if not columns:
            return []
        only_bools = all(column.kind == "bool" for column in columns)
        values = ", ".join(f"{quoted(column.name)}::DOUBLE" for column in columns)
        # The mean is rounded, and is not finite if the sum overflows.
        query = f"""
            SELECT (epoch_us(time) - {start * 1000}) // {width * 1000} AS number, min(v),
                least(greatest(avg(v), min(v)), max(v)), max(v), arg_max(v, time), count(*)
            FROM (SELECT time, coalesce({values}) AS v FROM sample) WHERE v IS NOT NULL
            GROUP BY number ORDER BY number
        """
        return [
            Bucket(start + number * width, low, mean, high, bool(last) if only_bools else last, n)
            for number, low, mean, high, last, n in self.ask(device, columns, start, end, query)
        ]

    def commands(self, device: str | None, start: int, end: int) -> list[Point]:
        """Return the commands to a device, or to all devices, in order of time, as samples."""
        streams = [commands_of(device)] if device else filter(is_commands, self.streams())
        found = [point for stream in streams for point in self._points(stream, start, end)]
        return sorted(found, key=attrgetter("time", "device"))

    def samples(self, night: str, start: int = EVER[0], end: int = EVER[1]) -> Iterator[Point]:
        """Yield the samples of a night, and the records of commands, in order of time."""
        first, last = night_bounds(night)
        streams = self.streams()
        for begin in range(max(first, start), min(last, end), HOUR_MS):
            until = min(begin + HOUR_MS, last, end)
            found = [point for stream in streams for point in self._points(stream, begin, until)]
            yield from sorted(found, key=attrgetter("time", "seq"))

    def columns(self, device: str) -> list[Column]:
        """Return the columns of a device, in order of their names."""
        some = self._fields(device).get(device, {}).values()
        return sorted(column for columns in some for column in columns)

    def snapshot(
        self, device: str, columns: Sequence[Column], start: int = EVER[0], end: int = EVER[1]
    ) -> Snapshot:
        """Return where the samples of a device are, and those that are not in a closed file.

        It waits while a file of the device is being replaced.
        """
        span = device, max(start, EVER[0]), min(end, EVER[1])
        until = monotonic() + MAX_WAIT_S
        while True:
            with self._reading() as db:
                if (files := self._files(db, *span)) is not None:
                    if self.copies:
                        return Snapshot(span, files, NO_ROWS)
                    return Snapshot(span, files, _rows(db, span, columns))
            if monotonic() > until:
                raise AwayError(
                    f"a file of {device} is only half replaced in {self.folder}, because the "
                    "recorder was interrupted: start it (or run: hcam history close)"
                )
            sleep(WAIT_S)

    def is_current(self, there: Snapshot) -> bool:
        """Return whether the files of a snapshot are still those of the catalogue."""
        with self._reading() as db:
            return self._files(db, *there.span) == there.files

    def _files(
        self, db: sqlite3.Connection, device: str, start: int, end: int
    ) -> list[tuple[Path, str]] | None:
        """Return the closed files of a device, or None if one is being replaced."""
        nights = [night_of(time) for time in (start, end)]
        query = "SELECT name FROM pending WHERE night BETWEEN ? AND ?"
        if any(device_of(name) == device for (name,) in db.execute(query, nights)):
            return None
        root = (self.copies or self.folder) / NIGHTS
        found = db.execute(FILES, (device, start, end, *nights))
        files = [(root / night / name, known) for night, name, known in found]
        return [file for file in files if not self.copies or file[0].exists()]

    # --- one question -----------------------------------------------------------------------

    def _points(self, device: str, start: int, end: int) -> list[Point]:
        columns = self.columns(device)
        names = ", ".join(("epoch", "seq", MS, *map(quoted, [column.name for column in columns])))
        query = f"SELECT {names} FROM sample ORDER BY time, seq"
        found = []
        for epoch, seq, at, *values in self.ask(device, columns, start, end, query):
            some = [each for each in zip(columns, values, strict=True) if each[1] is not None]
            known = {column.field: value for column, value in some}
            units = {column.field: column.unit for column, _ in some if column.unit is not None}
            found.append(Point(device, epoch, seq, at, known, units))
        return found

    def ask(
        self,
        device: str,
        columns: Sequence[Column],
        start: int,
        end: int,
        query: str,
        *,
        many: bool = False,
        check: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Return the result of a query of the columns of a device in a span, named ``sample``.

        It is empty if nothing is there. A list of files is no snapshot: if one was replaced
        meanwhile, ask again. ``many`` rows are returned sooner by way of numpy, whose import takes
        0.07 s. With ``check``, the checksums of all files are compared before.
        """
        import duckdb  # noqa: PLC0415  (see ``duck.py``)

        left_out: set[Path] = set()
        while True:
            there = self.snapshot(device, columns, start, end)
            if there.rows == NO_ROWS and not there.files:
                return []
            if check:
                left_out = self._damaged(there.files)
            paths = [path for path, _ in there.files if path not in left_out]
            whole = with_files(rows_as_table(columns, "$rows"), paths)
            begin, until = (f"make_timestamptz({time * 1000})" for time in there.span[1:])
            within = f"time >= {begin} AND time < {until}"
            text = f"WITH sample AS (SELECT * FROM ({whole}) WHERE {within}) {query}"
            error, found = None, []
            try:
                answer = connection(threads=2).execute(text, {"rows": there.rows})
                if many:
                    values = (column.tolist() for column in answer.fetchnumpy().values())
                    found = [*zip(*values, strict=True)]
                else:
                    found = answer.fetchall()
            except duckdb.Error as raised:
                error = raised
            if not self.is_current(there):
                continue
            if error is None:
                return found
            damaged = self._damaged(there.files)
            if damaged <= left_out:
                first = str(error).partition("\n")[0]
                raise AwayError(f"{self.folder} cannot be read now: {first}") from error
            left_out = damaged

    def _damaged(self, files: Sequence[tuple[Path, str]]) -> set[Path]:
        """Return the files that are not what the catalogue says, and name them in the log."""
        found = set()
        for path, known in files:
            with trying(path):
                if differs(path, known):
                    found.add(path)
        for path in found - self.damaged:
            log.warning("%s is damaged: its samples are left out until it is repaired", path)
        self.damaged |= found
        return found

    # --- tonight.sqlite ---------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open ``tonight.sqlite`` to read it in one transaction; an empty one if there is none."""
        path = self.folder / NAME
        try:
            with closing(_opened(path)) as db:
                yield db
        except sqlite3.Error as error:
            raise away(path, error) from error

    def _fields(self, device: str = "") -> dict[str, dict[str, list[Column]]]:
        """Return the columns of each field by device and name.

        The name is that of the field, but values in another unit than the first have that of their
        column.
        """
        fields: dict[tuple[str, str], list[Column]] = defaultdict(list)
        with self._reading() as db:
            query = (
                """SELECT device, field, "column", kind, unit FROM field WHERE ? IN (device, '')"""
            )
            for name, field, column, *what in db.execute(query, (device,)):
                fields[name, field].append(Column(column, field, *what))
        found: dict[str, dict[str, list[Column]]] = defaultdict(dict)
        for (name, field), columns in fields.items():
            unit = next((column.unit for column in columns if column.unit), None)
            for column in columns:
                known_as = field if column.unit in (None, unit) else column.name
                found[name].setdefault(known_as, []).append(column)
        return found

    def _columns(self, device: str, field: str) -> list[Column]:
        return self._fields(device).get(device, {}).get(field, [])


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file to read it; in a folder that nobody can write, also without a lock."""
    if not path.exists():
        db = sqlite3.connect(":memory:")
        db.executescript(";".join(table.sql(name) for name, table in TABLES.items()))
        return db
    wal = path.with_name(f"{path.name}-wal")
    fixed = not (wal.exists() or os.access(path.parent, os.W_OK))
    return connect(path, "immutable=1" if fixed else "mode=ro")


def _rows(db: sqlite3.Connection, span: tuple[str, int, int], columns: Sequence[Column]) -> str:
    """Return the rows of a device in a span, as in a ``Snapshot``."""
    query = "SELECT id, columns FROM shape WHERE device = ?"
    shapes = {number: json.loads(text) for number, text in db.execute(query, span[:1])}
    values = ["time", "seq", "epoch"]
    for column in columns:
        places = " ".join(
            f"WHEN {number} THEN {names.index(column.name)}"
            for number, names in shapes.items()
            if column.name in names
        )
        values.append(f"body -> CASE shape {places} END" if places else "NULL")
    # A list for each column, because a function of SQLite takes at most 127 arguments.
    lists = ", ".join(f"json_group_array({value})" for value in values)
    query = f"""
        SELECT count(*), {lists}
        FROM sample WHERE device = ? AND time >= ? AND time < ? AND json_valid(body)
    """
    count, *found = db.execute(query, span).fetchone()
    named = (f'"c{n}": {values}' for n, values in enumerate(found))
    return f"{{{', '.join(named)}}}" if count else NO_ROWS


def _known(columns: Sequence[Column]) -> str:
    return " OR ".join(f"{quoted(column.name)} IS NOT NULL" for column in columns) or "false"
