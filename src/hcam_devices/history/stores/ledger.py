"""A store's notes on disk: the samples that a database has, has rejected, or will never have."""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from ...journal.ranges import Key, SampleRange, SampleRanges
from .files import SqliteFile, Table, connect, readable

Rejected: TypeAlias = tuple[str, str, int, bytes]
"""Device, epoch, number and line of a rejected sample."""

TABLES = {
    "stored": Table(
        "device TEXT, epoch TEXT, first INTEGER, last INTEGER",
        "PRIMARY KEY (device, epoch, first)",
    ),
    "gone": Table(
        "noticed REAL, device TEXT, epoch TEXT, first INTEGER, last INTEGER, cause TEXT",
        "PRIMARY KEY (noticed, device, epoch, first)",
    ),
    "aside": Table(
        "device TEXT, epoch TEXT, seq INTEGER, body TEXT, reason TEXT, noticed REAL",
        "PRIMARY KEY (device, epoch, seq)",
    ),
}
SOUND = "typeof(first) = 'integer' AND typeof(last) = 'integer' AND first <= last"


def insert(table: str) -> str:
    """Return the SQL that inserts a row, unless its key is there."""
    columns = [*TABLES[table].types]
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def load(db: sqlite3.Connection) -> SampleRanges:
    """Return the samples that a file notes as stored, including the lost and the rejected ones."""
    query = f"SELECT device, epoch, first, last FROM stored WHERE {SOUND}"
    return SampleRanges(SampleRange(*row) for row in db.execute(query))


def load_gone(db: sqlite3.Connection) -> list[SampleRange]:
    """Return the samples that a file notes as lost, with reasons, in the order of the notes."""
    columns = "device, epoch, first, last, cause"
    query = f"SELECT {columns} FROM gone WHERE {SOUND} ORDER BY noticed"
    return [SampleRange(*row) for row in db.execute(query)]


def load_refused(db: sqlite3.Connection) -> list[SampleRange]:
    """Return the samples that a file notes as rejected, with reasons."""
    query = "SELECT reason, device, epoch, seq FROM aside WHERE typeof(seq) = 'integer'"
    found: dict[str, SampleRanges] = defaultdict(SampleRanges)
    for reason, device, epoch, seq in db.execute(query):
        found[reason].add(device, epoch, seq, seq)
    return [part._replace(reason=reason) for reason in found for part in found[reason].ranges()]


def read_notes(path: Path) -> tuple[SampleRanges, list[SampleRange]]:
    """Return the samples that a file notes as stored, and those that are lost or rejected, and why.

    Raises sqlite3.Error.
    """
    with closing(connect(path)) as db:
        db.text_factory = readable
        refused = (part._replace(reason=f"set aside: {part.reason}") for part in load_refused(db))
        return load(db), [*load_gone(db), *refused]


def save(db: sqlite3.Connection, stored: SampleRanges, keys: Iterable[Key]) -> SampleRanges:
    """Write the ranges of some devices and epochs, and return all."""
    db.executemany("DELETE FROM stored WHERE device = ? AND epoch = ?", keys)
    ranges = (samples[:4] for key in keys for samples in stored.ranges_of(key))
    db.executemany(insert("stored"), ranges)
    return stored


class Ledger:
    """A small file beside a store: the samples that are stored, lost (with reasons) or rejected.

    Samples whose notes are damaged count as missing, and are written again. Each change is on the
    disk before it is used, in case the power fails. The methods raise AwayError, and
    making it OSError, too.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self.stored = SampleRanges()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = SqliteFile(path, TABLES, self._load, clock)
        self.close = self._file.close
        self._file.do(lambda _: None)

    def _load(self, db: sqlite3.Connection) -> None:
        self.stored = load(db)

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, in the order of the notes."""
        return self._file.do(load_gone)

    def refused(self) -> dict[str, tuple[int, str]]:
        """Return the number of rejected samples of each device, and the newest reason."""
        query = "SELECT device, count(*), reason, max(noticed) FROM aside GROUP BY device"
        return self._file.do(lambda db: {row[0]: (row[1], row[2]) for row in db.execute(query)})

    def refused_lines(self, device: str, before: tuple[str, int], most: int) -> list[Rejected]:
        """Return up to ``most`` rejected samples of a device before an epoch and number.

        Those with the highest epochs and numbers come first.
        """
        query = (
            "SELECT device, epoch, seq, CAST(body AS BLOB) FROM aside"
            " WHERE device = ? AND (epoch, seq) < (?, ?) ORDER BY epoch DESC, seq DESC LIMIT ?"
        )
        return self._file.do(lambda db: db.execute(query, (device, *before, most)).fetchall())

    def enter(
        self,
        new: SampleRanges,
        *,
        gone: Iterable[SampleRange] = (),
        aside: Iterable[tuple[str, str, int, str, str]] = (),
    ) -> None:
        """Note samples as stored, in one transaction.

        Some of them may be ``gone`` (lost). For rejected ones, ``aside`` also has the line and the
        reason of the database; all others are not rejected any more.
        """
        now = self.clock()

        def note(db: sqlite3.Connection) -> SampleRanges:
            accepted = "DELETE FROM aside WHERE device = ? AND epoch = ? AND seq BETWEEN ? AND ?"
            db.executemany(accepted, [samples[:4] for samples in new.ranges()])
            db.executemany(insert("gone"), [(now, *samples) for samples in gone])
            db.executemany(insert("aside"), [(*row, now) for row in aside])
            return save(db, self.stored | new, new.keys)

        self.stored = self._file.do(note, full=True)

    def forget(self) -> None:
        """Note only lost and rejected samples as stored, and no others any more."""

        def note(db: sqlite3.Connection) -> SampleRanges:
            stored = SampleRanges([*load_gone(db), *load_refused(db)])
            return save(db, stored, self.stored.keys)

        self.stored = self._file.do(note, full=True)
