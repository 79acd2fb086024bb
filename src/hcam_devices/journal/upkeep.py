"""The upkeep of a journal's file: bounds, checks, and salvage after damage."""

import logging
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from .ranges import SampleRange, SampleRanges
from .salvage import BAD_SECTOR, records
from .tables import GAPS, Pair, gone, pairs, set_gone, transaction, unpack, used

log = logging.getLogger(__name__)

MIN_FREE_BYTES = 1_000_000_000
"""Warn if fewer bytes are free on the disk of a journal."""
CHUNK = 500
FOREVER = 2**53
SPAN_S = 60.0
"""When there are too many samples, drop this much of them (s) at a time."""
DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,  # a number is there already: the last one was misread
    sqlite3.SQLITE_ERROR,  # a table was changed
    *BAD_SECTOR,
)


class DamagedError(sqlite3.DatabaseError):
    """The file is not what was written, although SQLite can read it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class OverlookedError(DamagedError):
    """Only the WAL is damaged."""


class LeaveError(sqlite3.OperationalError):
    """A thread has to leave the file at once."""

    sqlite_errorcode = sqlite3.SQLITE_INTERRUPT


@dataclass(frozen=True)
class Upkeep:
    """The regular work on the file at ``path``, through a connection of the thread's own.

    ``number`` is the id of the present ``epoch``; ``stay`` raises LeaveError if the thread must
    leave the file.
    """

    db: sqlite3.Connection
    path: Path
    number: int
    epoch: str
    clock: Callable[[], float]
    stay: Callable[[], None]

    def drop(self, before: float, too_old: str, most: int) -> int:
        """Drop samples appended before a Unix time, and the oldest beyond ``most`` bytes.

        Return how many. ``too_old`` is the reason to note for the former.
        """
        dropped = 0
        for pairs_of_device in _in_order(pairs(self.db)):
            for pair in pairs_of_device:
                while count := self._drop_first(pair, before, too_old):
                    dropped += count
                if self._has(pair):  # later samples are younger, whatever the clock said then
                    break
        too_much = f"the journal reached {most / 1e9:g} GB"
        while used(self.db) > most and (left := pairs(self.db)):
            dropped += sum(self._drop(pair, left[0].oldest + SPAN_S, too_much) for pair in left)
        self.db.execute("DELETE FROM lost WHERE until < ?", (before,))
        held = {pair.epoch for pair in pairs(self.db)} | {self.epoch}
        for epoch, noticed in self.db.execute(
            "SELECT name, max(noticed) FROM epoch LEFT JOIN gone ON gone.epoch = name"
            " WHERE boot <> 'salvaging' GROUP BY name"
        ).fetchall():
            if epoch not in held and (noticed or 0) < before:
                with transaction(self.db):
                    self.db.execute("DELETE FROM gone WHERE epoch = ?", (epoch,))
                    self.db.execute("DELETE FROM epoch WHERE name = ?", (epoch,))
        return dropped

    def _drop_first(self, pair: Pair, until: float, reason: str) -> int:
        """Drop the few lowest numbers that were appended until a Unix time; return how many."""
        self.stay()
        found = self.db.execute(
            "SELECT seq, time FROM sample WHERE device = ? AND epoch = ? ORDER BY seq LIMIT ?",
            (pair.device, pair.id, CHUNK),
        ).fetchall()
        old = [seq for seq, _ in takewhile(lambda row: row[1] <= until, found)]
        self._take_away(pair.device, pair.epoch, old, reason)
        return len(old)

    def _has(self, pair: Pair) -> bool:
        """Return whether there are samples of a device in an epoch."""
        query = "SELECT 1 FROM sample WHERE device = ? AND epoch = ? LIMIT 1"
        return self.db.execute(query, (pair.device, pair.id)).fetchone() is not None

    def _drop(self, pair: Pair, until: float, reason: str) -> int:
        """Drop the oldest few, so that publishers never wait long; return how many."""
        self.stay()
        found = self.db.execute(
            "SELECT seq FROM sample WHERE device = ? AND epoch = ? AND time <= ?"
            " ORDER BY time LIMIT ?",
            (pair.device, pair.id, until, CHUNK),
        ).fetchall()
        self._take_away(pair.device, pair.epoch, [seq for (seq,) in found], reason)
        return len(found)

    def _take_away(self, device: str, epoch: str, seqs: list[int], reason: str) -> None:
        """Delete samples, and note that with the reason."""
        if seqs:
            with transaction(self.db):
                self.db.executemany(
                    "DELETE FROM sample WHERE device = ? AND seq = ?"
                    " AND epoch = (SELECT id FROM epoch WHERE name = ?)",
                    [(device, seq, epoch) for seq in seqs],
                )
                new = [SampleRange(device, epoch, seq, seq, reason) for seq in seqs]
                known = gone(self.db, device, epoch)
                set_gone(self.db, device, epoch, [*known, *new], self.clock())

    def lose(self, device: str, epoch: str, seqs: list[int]) -> None:
        """Delete damaged samples, and note that."""
        if seqs:
            log.error("%s: damaged samples of %s were deleted: %s", self.path.name, device, seqs)
            self._take_away(device, epoch, seqs, "the record was damaged")

    def check(self) -> None:
        """Check every record and every number. Raises DamagedError if some are missing."""
        for (said,) in self.db.execute("PRAGMA quick_check(1)"):
            if said != "ok":
                raise DamagedError(said)
        bad: dict[tuple[str, str], list[int]] = defaultdict(list)
        before = "", 0, 0
        while rows := self.db.execute(
            "SELECT device, epoch, seq, name, boot, time, body FROM sample"
            " LEFT JOIN epoch ON id = epoch WHERE (device, epoch, seq) > (?, ?, ?)"
            " ORDER BY device, epoch, seq LIMIT ?",
            (*before, CHUNK),
        ).fetchall():
            self.stay()
            for device, number, seq, epoch, boot, when, body in rows:
                key, _ = unpack(body)
                types = tuple(map(type, (device, seq, epoch, when)))
                if types != (str, int, str, float) or key not in (None, (device, epoch, seq)):
                    raise DamagedError(f"sample {seq} of {device} has the record of another")
                if (device, number, seq) <= before:
                    raise DamagedError(f"sample {seq} of {device} is out of order")
                if key is None:
                    bad[device, epoch].append(seq)
                first = before[2] + 1 if before[:2] == (device, number) else 1
                if first < seq and boot != "salvaging":
                    gap = SampleRanges([SampleRange(device, epoch, first, seq - 1)])
                    if gap - SampleRanges(gone(self.db, device, epoch)):
                        raise DamagedError(f"samples {first}-{seq - 1} of {device} are missing")
                before = device, number, seq
        for (device, epoch), seqs in bad.items():
            self.lose(device, epoch, seqs)

    def salvage(self, aside: Path, end_epoch: str, ends: dict[str, int]) -> None:
        """Copy the readable samples of a damaged file, and note and log which are lost.

        ``ends`` are the newest numbers in the epoch that ended then, if they are known. The copied
        epochs are shown when all is done. An interrupted salvage can be repeated.
        """
        ids: dict[str, int] = dict(self.db.execute("SELECT name, id FROM epoch"))
        known: dict[tuple[str, str], set[SampleRange]] = {}
        kept = self._copy(aside, ids, known)
        for device in ends:
            known.setdefault((device, end_epoch), set())
        reason = f"lost by damage ({salvaged(aside).name})"
        lost: list[SampleRange] = []
        found: dict[tuple[str, str], list[SampleRange]] = {}
        for (device, epoch), said in sorted(known.items()):
            self._earlier_epoch(ids, epoch, 1)
            of_pair = device, ids[epoch]
            gaps = SampleRanges(
                SampleRange(device, epoch, *gap) for gap in self.db.execute(GAPS, of_pair)
            )
            (top,) = self.db.execute(
                "SELECT ifnull(max(seq), 0) FROM sample WHERE device = ? AND epoch = ?", of_pair
            ).fetchone()
            if epoch == end_epoch and ends.get(device, 0) > top:
                gaps.add(device, epoch, top + 1, ends[device])
                top = ends[device]
            likely = {samples for samples in said if samples.last <= top or not top}
            reasons = sorted(likely.union(gone(self.db, device, epoch)))
            later = SampleRanges([SampleRange(device, epoch, top + 1, FOREVER)])
            found[device, epoch] = [
                *(
                    samples._replace(reason=samples.reason or reason)
                    for samples in gaps.explained(reasons)
                ),
                *(samples for samples in later.explained(reasons) if samples.reason),
            ]
            lost += [samples for samples in found[device, epoch] if samples.reason == reason]
        with transaction(self.db):
            for (device, epoch), ranges in found.items():
                set_gone(self.db, device, epoch, ranges, self.clock())
            self.db.execute("UPDATE epoch SET boot = 'salvaged' WHERE boot = 'salvaging'")
        for end in ("-wal", "-shm", ""):
            if (part := aside.with_name(aside.name + end)).exists():
                part.rename(salvaged(part))
        some = ", ".join(
            f"{samples.device} {samples.first}-{samples.last}" for samples in lost[:10]
        )
        some += ", ..." * (len(lost) > 10)
        log.warning(
            "%s: %d samples were copied from it, %d are lost%s%s",
            salvaged(aside).name,
            kept,
            sum(gap.samples for gap in lost),
            f" ({some})" * bool(lost),
            "" if ends else "; later samples of each epoch may be lost, too",
        )

    def _copy(
        self, aside: Path, ids: dict[str, int], known: dict[tuple[str, str], set[SampleRange]]
    ) -> int:
        """Copy the samples that can be read; return how many.

        ``known`` is filled with every device and epoch, and with what was known to be gone.
        """
        rows: list[tuple[str, int, int, float, bytes]] = []
        lost: list[tuple[Any, ...]] = []
        kept = 0

        def write() -> int:
            if free(self.path) < MIN_FREE_BYTES / 10:
                raise sqlite3.OperationalError(
                    f"{aside.name} is copied only if {MIN_FREE_BYTES / 1e10:g} GB are free there"
                )
            with transaction(self.db):
                done = self.db.executemany(
                    "INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?, ?)", rows
                )
                self.db.executemany("INSERT OR IGNORE INTO lost VALUES (?, ?, ?, ?, ?, ?)", lost)
            rows.clear()
            lost.clear()
            return max(done.rowcount, 0)

        write()
        for record in records(aside):
            self.stay()
            match record:
                case (str(), int(number), int(), when, bytes(body)):
                    key, _ = unpack(body)
                    if key:
                        device, epoch, seq = key
                        self._earlier_epoch(ids, epoch, number)
                        known.setdefault((device, epoch), set())
                        now = self.clock()
                        if not isinstance(when, int | float) or not 0 < when <= now:
                            when = now
                        rows.append((device, ids[epoch], seq, when, body))
                case (str(), str(), since, until, int(count), str()) as note:
                    if isinstance(since, int | float) and isinstance(until, int | float):
                        lost += [note] * (count > 0)
                case (str(device), str(epoch), int(first), int(last), str(reason), _):
                    if 0 < first <= last < FOREVER:
                        note = SampleRange(device, epoch, first, last, reason)
                        known.setdefault((device, epoch), set()).add(note)
            if len(rows) >= CHUNK:
                kept += write()
        return kept + write()

    def _earlier_epoch(self, ids: dict[str, int], epoch: str, number: int) -> None:
        """Add an epoch of a damaged file before the present one, if it is not there."""
        if epoch not in ids:
            number = number if 0 < number < self.number else self.number - 1
            while number in ids.values():
                number -= 1
            self.db.execute("INSERT INTO epoch VALUES (?, ?, 'salvaging')", (number, epoch))
            ids[epoch] = number


def _in_order(some: list[Pair]) -> Iterator[list[Pair]]:
    """Yield the pairs of each device together, in the order in which the epochs began."""
    ordered = sorted(some, key=lambda pair: (pair.device, pair.id))
    for _, together in groupby(ordered, lambda pair: pair.device):
        yield list(together)


def free(path: Path) -> int:
    """Return how many bytes are free on the disk of a file."""
    return shutil.disk_usage(path.parent).free


def short_of_disk(path: Path) -> str | None:
    """Return a warning if the disk of a file is nearly full, else None."""
    if (left := free(path)) >= MIN_FREE_BYTES:
        return None
    return (
        f"{left / 1e9:.2f} GB are free on the disk of {path}, less than"
        f" {MIN_FREE_BYTES / 1e9:g} GB: make room, or samples will be lost"
    )


def put_aside(path: Path) -> list[Path]:
    """Return the files that are still to be salvaged; there may be only the WAL of one."""
    start = f"{path.name}.damaged-"
    found = {
        file.name.removesuffix("-wal").removesuffix("-shm")
        for file in path.parent.iterdir()
        if file.name.startswith(start)
    }
    return sorted(path.with_name(name) for name in found)


def salvaged(aside: Path) -> Path:
    """Return the name of a file that was put aside, once it has been salvaged."""
    return aside.with_name(aside.name.replace(".damaged-", ".salvaged-"))


def is_damage(error: BaseException) -> bool:
    """Return whether an error means a damaged file, not a fault of the disk or the caller."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in DAMAGE or code & 0xFF in DAMAGE
