"""Which numbered samples a store has: ranges of numbers, kept with the data they describe."""

import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from ...journal.checked import File, Table, quick_check, stamp

Key = tuple[str, str]
"""Device and epoch."""


class SampleRanges:
    """Ranges of numbers for each device and epoch, in memory."""

    def __init__(self) -> None:
        self.ranges: dict[Key, list[list[int]]] = {}

    def __contains__(self, number: tuple[str, str, int]) -> bool:
        device, epoch, seq = number
        ranges = self.ranges.get((device, epoch))
        if not ranges or seq > ranges[-1][1]:
            return False
        return not self.missing(device, epoch, seq, seq)

    def add(self, device: str, epoch: str, first: int, last: int) -> None:
        """Take in the numbers from ``first`` to ``last``, both included."""
        ranges = self.ranges.setdefault((device, epoch), [])
        if ranges and ranges[-1][0] <= first and ranges[-1][1] >= first - 1:  # what happens mostly
            ranges[-1][1] = max(ranges[-1][1], last)
            return
        low = bisect_left(ranges, first - 1, key=itemgetter(1))
        high = bisect_right(ranges, last + 1, key=itemgetter(0))
        if low < high:
            first, last = min(first, ranges[low][0]), max(last, ranges[high - 1][1])
        ranges[low:high] = [[first, last]]

    def add_each(self, device: str, epoch: str, numbers: Iterable[int]) -> None:
        """Take in numbers one by one; quickly if they go up by one."""
        first, last = 0, -1
        for number in numbers:
            if number != last + 1:
                if first <= last:
                    self.add(device, epoch, first, last)
                first = number
            last = number
        if first <= last:
            self.add(device, epoch, first, last)

    def update(self, other: "SampleRanges") -> None:
        """Take in all that another has."""
        for one in other:
            self.add(*one)

    def copy(self) -> "SampleRanges":
        """Return another with the same numbers."""
        found = SampleRanges()
        found.update(self)
        return found

    def missing(self, device: str, epoch: str, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges between ``first`` and ``last``, both included, that are not there."""
        found = []
        ranges = self.ranges.get((device, epoch), [])
        start = max(bisect_right(ranges, [first, first]) - 1, 0)
        for low, high in ranges[start:]:
            if low > last:
                break
            if high < first:
                continue
            if low > first:
                found.append((first, low - 1))
            first = high + 1
        if first <= last:
            found.append((first, last))
        return found

    def newest(self, device: str, epoch: str) -> int:
        """Return the highest number there is; 0 if there is none."""
        ranges = self.ranges.get((device, epoch))
        return ranges[-1][1] if ranges else 0

    def __iter__(self) -> Iterator[tuple[str, str, int, int]]:
        for (device, epoch), ranges in self.ranges.items():
            for first, last in ranges:
                yield device, epoch, first, last


@dataclass(frozen=True)
class Gone:
    """Samples that no store can have any more, and why."""

    device: str
    epoch: str
    first: int
    last: int
    cause: str


def stamped(name: str, columns: str, keys: int) -> Table:
    """Return a table with one more column, which proves the others."""

    def proves(*row: Any) -> bool:
        return bool(stamp(name, *row[:-1]) == row[-1])

    return Table(name, f"{columns}, stamp", keys, proves)


STORED = stamped("stored", "device, epoch, first, last", 4)
GONE = stamped("gone", "noticed, device, epoch, first, last, cause", 4)
ASIDE = stamped("aside", "device, epoch, seq, body, reason, noticed", 3)
LEDGER = (STORED, GONE, ASIDE)


def put(db: sqlite3.Connection, table: Table, *values: Any) -> None:
    """Keep a row of a stamped table."""
    db.execute(table.insert(), (*values, stamp(table.name, *values)))


def load(db: sqlite3.Connection) -> SampleRanges:
    """Return what a file says that is stored; sqlite3.DatabaseError if it is not what was said."""
    coverage = SampleRanges()
    for row in db.execute("SELECT * FROM stored"):
        if not STORED.proves(*row):
            raise sqlite3.DatabaseError("what is stored does not prove itself")
        coverage.add(*row[:4])
    return coverage


def without(coverage: SampleRanges, gone: Iterable[Gone]) -> SampleRanges:
    """Return what is really stored of what was noted."""
    lost, found = SampleRanges(), SampleRanges()
    for one in gone:
        lost.add(one.device, one.epoch, one.first, one.last)
    for device, epoch, *span in coverage:
        for low, high in lost.missing(device, epoch, *span):
            found.add(device, epoch, low, high)
    return found


def kept(db: sqlite3.Connection) -> SampleRanges:
    """Return what a ledger says that is stored, without what is gone."""
    rows = db.execute("SELECT * FROM gone")
    return without(load(db), [Gone(*row[1:-1]) for row in rows if GONE.proves(*row)])


def save(db: sqlite3.Connection, coverage: SampleRanges, keys: Iterable[Key]) -> None:
    """Write the ranges of some devices and epochs, within the caller's transaction."""
    for device, epoch in keys:
        db.execute("DELETE FROM stored WHERE device = ? AND epoch = ?", (device, epoch))
        for first, last in coverage.ranges.get((device, epoch), ()):
            put(db, STORED, device, epoch, first, last)


class Ledger:
    """A small file beside a store: what is stored, what is gone and why, what was set aside.

    Its methods raise sqlite3.OperationalError and OSError. If it is damaged, it is made anew of
    the rows that prove themselves, and ``stored`` is what is left.
    """

    def __init__(
        self, path: Path, tables: Iterable[Table] = LEDGER, clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        # Each change is on the disk before anything relies on it, power failures included.
        self.file = File(path, tables, self._load, clock, synchronous="FULL")
        self.file.do(quick_check)
        self.file.do(self._load)

    def _load(self, db: sqlite3.Connection) -> None:
        self.stored = load(db)

    def gone(self) -> list[Gone]:
        """Return what is gone, as it was noticed."""
        query = "SELECT device, epoch, first, last, cause FROM gone ORDER BY noticed"
        return self.file.do(lambda db: [Gone(*row) for row in db.execute(query)])

    def aside(self) -> int:
        """Return how many samples were set aside."""
        count = "SELECT count(*) FROM aside"
        return self.file.do(lambda db: int(db.execute(count).fetchone()[0]))

    def refused(self) -> dict[str, tuple[int, str]]:
        """Return how many samples of each device are set aside, and the newest reason."""
        query = "SELECT device, count(*), reason, max(noticed) FROM aside GROUP BY device"
        return self.file.do(lambda db: {row[0]: (row[1], row[2]) for row in db.execute(query)})

    def newest_refused(self, device: str) -> tuple[str, str, int, bytes]:
        """Return device, epoch, number and body of a sample that is set aside, of the newest."""
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
        """Return, as that does, those after an epoch and number, in order."""
        query = (
            "SELECT device, epoch, seq, CAST(body AS BLOB) FROM aside"
            " WHERE device = ? AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT ?"
        )
        return self.file.do(lambda db: db.execute(query, (device, epoch, seq, most)).fetchall())

    def readmit(self, numbers: Iterable[tuple[str, str, int, int]]) -> None:
        """Note that samples are set aside no more: they are stored like any others."""
        ranges = list(numbers)
        query = "DELETE FROM aside WHERE device = ? AND epoch = ? AND seq BETWEEN ? AND ?"
        self.file.do(lambda db: db.executemany(query, ranges))

    def enter(
        self,
        numbers: Iterable[tuple[str, str, int, int]],
        *,
        gone: Iterable[Gone] = (),
        aside: Iterable[tuple[str, str, int, str, str]] = (),
    ) -> None:
        """Note ranges of numbers as stored, in one transaction.

        Also those that are ``gone``, and of those set ``aside`` the sample and the store's reason.
        """
        ranges = list(numbers)

        def note(db: sqlite3.Connection) -> SampleRanges:
            coverage = load(db)
            for one in ranges:
                coverage.add(*one)
            for lost in gone:
                put(db, GONE, self.clock(), *astuple(lost))
            for row in aside:
                put(db, ASIDE, *row, self.clock())
            save(db, coverage, {(device, epoch) for device, epoch, *_ in ranges})
            return coverage

        self.stored = self.file.do(note)

    def settle(self, gone: Iterable[Gone]) -> None:
        """Note, in one transaction, that numbers will never come: nobody asks for them again."""
        lost = list(gone)
        self.enter([(one.device, one.epoch, one.first, one.last) for one in lost], gone=lost)

    def forget(self) -> None:
        """Hold nothing for stored any more but what will never come, and what was set aside."""

        def note(db: sqlite3.Connection) -> SampleRanges:
            coverage = SampleRanges()
            for span in db.execute("SELECT device, epoch, first, last FROM gone"):
                coverage.add(*span)
            for number in db.execute("SELECT device, epoch, seq, seq FROM aside"):
                coverage.add(*number)
            save(db, coverage, load(db).ranges.keys())
            return coverage

        self.stored = self.file.do(note)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
