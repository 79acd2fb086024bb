"""A store's notes on disk: the samples that it has, and those it will never have, with reasons."""

import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...journal.checked import File, Table, quick_check, stamp
from ...journal.ranges import Key, SampleRange, SampleRanges


def stamped(name: str, columns: str, keys: int) -> Table:
    """Return a table with one more column, a checksum of the others."""

    def proves(*row: Any) -> bool:
        return bool(stamp(name, *row[:-1]) == row[-1])

    return Table(name, f"{columns}, stamp", keys, proves)


STORED = stamped("stored", "device, epoch, first, last", 4)
GONE = stamped("gone", "noticed, device, epoch, first, last, cause", 4)
ASIDE = stamped("aside", "device, epoch, seq, body, reason, noticed", 3)
LEDGER = (STORED, GONE, ASIDE)


def put(db: sqlite3.Connection, table: Table, *values: Any) -> None:
    """Insert a row, with its checksum, into a stamped table."""
    db.execute(table.insert(), (*values, stamp(table.name, *values)))


def load(db: sqlite3.Connection) -> SampleRanges:
    """Return the samples that a file notes as stored.

    Raises sqlite3.DatabaseError if a row is damaged.
    """
    stored = SampleRanges()
    for row in db.execute("SELECT * FROM stored"):
        if not STORED.proves(*row):
            raise sqlite3.DatabaseError("a row of the table stored has a wrong checksum")
        stored.add(*row[:4])
    return stored


def load_gone(db: sqlite3.Connection) -> list[SampleRange]:
    """Return the samples that a ledger notes as lost, with reasons, in the order of the notes."""
    rows = db.execute("SELECT * FROM gone ORDER BY noticed")
    return [SampleRange(*row[1:-1]) for row in rows if GONE.proves(*row)]


def kept(db: sqlite3.Connection) -> SampleRanges:
    """Return the samples that a ledger notes as stored, without the lost ones."""
    return load(db) - SampleRanges(load_gone(db))


def save(db: sqlite3.Connection, stored: SampleRanges, keys: Iterable[Key]) -> None:
    """Write the ranges of some devices and epochs, within the caller's transaction."""
    for key in keys:
        db.execute("DELETE FROM stored WHERE device = ? AND epoch = ?", key)
        for samples in stored.ranges_of(key):
            put(db, STORED, *samples[:4])


class Ledger:
    """A small file beside a store: the samples that are stored, lost (with reasons) or rejected.

    The methods raise sqlite3.OperationalError and OSError. A damaged file is rebuilt from its
    undamaged rows, and ``stored`` contains only these then.
    """

    def __init__(
        self, path: Path, tables: Iterable[Table] = LEDGER, clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        # Each change is on the disk before it is used, in case the power fails.
        self.file = File(path, tables, lambda _: None, self._load, clock, synchronous="FULL")
        self.file.do(quick_check)

    def _load(self, db: sqlite3.Connection) -> None:
        self.stored = load(db)

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, in the order of the notes."""
        return self.file.do(load_gone)

    def aside(self) -> int:
        """Return the number of rejected samples."""
        count = "SELECT count(*) FROM aside"
        return self.file.do(lambda db: int(db.execute(count).fetchone()[0]))

    def refused(self) -> dict[str, tuple[int, str]]:
        """Return the number of rejected samples of each device, and the newest reason."""
        query = "SELECT device, count(*), reason, max(noticed) FROM aside GROUP BY device"
        return self.file.do(lambda db: {row[0]: (row[1], row[2]) for row in db.execute(query)})

    def newest_refused(self, device: str) -> tuple[str, str, int, bytes]:
        """Return device, epoch, number and body of the newest rejected sample of a device."""
        query = (
            "SELECT device, epoch, seq, CAST(body AS BLOB) FROM aside WHERE device = ?"
            " ORDER BY epoch DESC, seq DESC LIMIT 1"
        )
        found: tuple[str, str, int, bytes]
        found = self.file.do(lambda db: db.execute(query, (device,)).fetchone())
        return found

    def refused_lines(
        self, device: str, epoch: str, seq: int, most: int
    ) -> list[tuple[str, str, int, bytes]]:
        """Return the rejected samples after an epoch and number, as ``newest_refused`` does."""
        query = (
            "SELECT device, epoch, seq, CAST(body AS BLOB) FROM aside"
            " WHERE device = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?"
        )
        return self.file.do(lambda db: db.execute(query, (device, epoch, seq, most)).fetchall())

    def readmit(self, accepted: Iterable[SampleRange]) -> None:
        """Note that samples are not rejected any more, but stored."""
        ranges = [samples[:4] for samples in accepted]
        query = "DELETE FROM aside WHERE device = ? AND epoch = ? AND seq BETWEEN ? AND ?"
        self.file.do(lambda db: db.executemany(query, ranges))

    def enter(
        self,
        new: SampleRanges,
        *,
        gone: Iterable[SampleRange] = (),
        aside: Iterable[tuple[str, str, int, str, str]] = (),
    ) -> None:
        """Note samples as stored, in one transaction.

        Some of them may be ``gone`` (lost). For rejected ones, ``aside`` also has the line and the
        reason of the database.
        """

        def note(db: sqlite3.Connection) -> SampleRanges:
            stored = self.stored | new
            for samples in gone:
                put(db, GONE, self.clock(), *samples)
            for row in aside:
                put(db, ASIDE, *row, self.clock())
            save(db, stored, new.keys)
            return stored

        self.stored = self.file.do(note)

    def settle(self, gone: Iterable[SampleRange]) -> None:
        """Note in one transaction that samples are lost, so that nobody asks for them again."""
        lost = list(gone)
        self.enter(SampleRanges(lost), gone=lost)

    def forget(self) -> None:
        """Note only lost and rejected samples as stored, and no others any more."""

        def note(db: sqlite3.Connection) -> SampleRanges:
            stored = SampleRanges(load_gone(db))
            for device, epoch, seq in db.execute("SELECT device, epoch, seq FROM aside"):
                stored.add(device, epoch, seq, seq)
            save(db, stored, self.stored.keys)
            return stored

        self.stored = self.file.do(note)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
