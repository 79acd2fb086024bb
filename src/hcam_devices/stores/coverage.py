"""Which numbered samples a store has: ranges of numbers, kept with the data they describe."""

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Key = tuple[str, str]
"""Device and epoch."""


class Coverage:
    """Ranges of numbers for each device and epoch, in memory."""

    def __init__(self) -> None:
        self.ranges: dict[Key, list[list[int]]] = {}

    def __contains__(self, number: tuple[str, str, int]) -> bool:
        device, epoch, seq = number
        return not self.missing(device, epoch, seq, seq)

    def add(self, device: str, epoch: str, first: int, last: int) -> None:
        """Take in the numbers from ``first`` to ``last``, both included."""
        ranges = self.ranges.setdefault((device, epoch), [])
        if ranges and ranges[-1][0] <= first and ranges[-1][1] >= first - 1:  # what happens mostly
            ranges[-1][1] = max(ranges[-1][1], last)
            return
        apart = [r for r in ranges if r[1] < first - 1 or r[0] > last + 1]
        touching = [r for r in ranges if not (r[1] < first - 1 or r[0] > last + 1)]
        joined = [min([first, *(r[0] for r in touching)]), max([last, *(r[1] for r in touching)])]
        self.ranges[device, epoch] = sorted([*apart, joined])

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


STORED = """
CREATE TABLE IF NOT EXISTS stored (
    device TEXT, epoch TEXT, first INTEGER, last INTEGER, PRIMARY KEY (device, epoch, first)
) WITHOUT ROWID;
"""


def load(db: sqlite3.Connection, into: Coverage) -> None:
    """Read what a file says that is stored (its table ``stored``)."""
    for row in db.execute("SELECT device, epoch, first, last FROM stored"):
        into.add(*row)


def save(db: sqlite3.Connection, coverage: Coverage, keys: Iterable[Key]) -> None:
    """Write the ranges of some devices and epochs, within the caller's transaction."""
    for device, epoch in keys:
        db.execute("DELETE FROM stored WHERE device = ? AND epoch = ?", (device, epoch))
        db.executemany(
            "INSERT INTO stored VALUES (?, ?, ?, ?)",
            [(device, epoch, *one) for one in coverage.ranges.get((device, epoch), ())],
        )


class Ledger:
    """A small file beside a store: what is stored, what is gone and why, what was set aside."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
        self.db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            + STORED
            + """
            CREATE TABLE IF NOT EXISTS gone (
                device TEXT, epoch TEXT, first INTEGER, last INTEGER, cause TEXT, noticed REAL);
            CREATE TABLE IF NOT EXISTS aside (
                device TEXT, epoch TEXT, seq INTEGER, body TEXT, reason TEXT, noticed REAL,
                PRIMARY KEY (device, epoch, seq)) WITHOUT ROWID;
            """
        )
        self.stored = Coverage()
        load(self.db, self.stored)

    def gone(self) -> list[Gone]:
        """Return what is gone, as it was noticed."""
        rows = self.db.execute("SELECT device, epoch, first, last, cause FROM gone ORDER BY rowid")
        return [Gone(*row) for row in rows]

    def set_aside(self, device: str, epoch: str, seq: int, body: str, reason: str) -> None:
        """Keep a sample that the store refuses, with the store's reason."""
        self.db.execute(
            "INSERT OR REPLACE INTO aside VALUES (?, ?, ?, ?, ?, ?)",
            (device, epoch, seq, body, reason, time.time()),
        )

    def aside(self) -> int:
        """Return how many samples were set aside."""
        return int(self.db.execute("SELECT count(*) FROM aside").fetchone()[0])

    def settle(self, gone: Gone) -> None:
        """Note that numbers will never come, so that nobody asks for them again."""
        with self.db:
            self.db.execute("BEGIN")
            self.db.execute(
                "INSERT INTO gone VALUES (?, ?, ?, ?, ?, ?)",
                (gone.device, gone.epoch, gone.first, gone.last, gone.cause, time.time()),
            )
            self.stored.add(gone.device, gone.epoch, gone.first, gone.last)
            save(self.db, self.stored, [(gone.device, gone.epoch)])

    def close(self) -> None:
        """Close the file."""
        self.db.close()
