"""The journal: every sample a server has published, numbered, on its own disk.

A sample exists once it is here. Numbers go up by one for each device and begin again only with a
new epoch: when the journal is new or was damaged, or the machine has restarted. (SQLite in WAL mode
loses nothing when a process dies, but may lose its last second when the power fails, and no number
may ever be used twice.)

Each number from 1 to the last of an epoch is either a sample or ``gone``, with the reason. Only
what was lost behind the last sample that is left of an epoch cannot be known.
"""

import json
import logging
import math
import os
import re
import shutil
import sqlite3
import threading
import time
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

import orjson

from .fields import shorten
from .salvage import BAD_SECTOR, overlooked, records

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DAY = 86400.0
MOST_BYTES_A_REPLY = 200_000
MOST_BYTES_A_PAGE = 750_000
"""What cannot be compressed is still within the megabyte that the router passes on."""
MOST_RANGES_A_REPLY = 2000
MOST_BYTES_A_SAMPLE = 1 << 24
LEAST_FREE = 1_000_000_000
"""Bytes that should be free on the disk of a journal."""
CHUNK = 500
MOST_PAGES = 200
"""Given back to the disk at a time: whoever publishes waits for it, on a slow disk too."""
FOREVER = 2**53
SPAN = 60.0
"""Seconds of samples that are dropped at a time when there are too many."""

SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 0;
CREATE TABLE IF NOT EXISTS epoch (id INTEGER PRIMARY KEY, name TEXT NOT NULL, boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample (
    device TEXT, epoch INTEGER, seq INTEGER, time REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (
    device TEXT, epoch TEXT, first INTEGER, last INTEGER, reason TEXT NOT NULL,
    noticed REAL NOT NULL, PRIMARY KEY (device, epoch, first)
) WITHOUT ROWID;
DROP INDEX IF EXISTS sample_time;
CREATE INDEX IF NOT EXISTS sample_when ON sample (device, epoch, time);
"""
"""The id of an epoch is the Unix time when it began, or near it: they are in order.

Its boot is ``salvaging`` while its samples are being copied, and not shown yet, then ``salvaged``.
"""
PAIRS = """
WITH RECURSIVE one (device) AS (
    SELECT min(device) FROM sample
    UNION ALL SELECT (SELECT min(device) FROM sample WHERE device > one.device) FROM one
    WHERE one.device IS NOT NULL)
SELECT device, id, name, (
    SELECT min(time) FROM sample WHERE sample.device = one.device AND sample.epoch = id) AS oldest
FROM one, epoch WHERE boot <> 'salvaging' AND oldest IS NOT NULL ORDER BY oldest
"""
GAPS = """
SELECT previous + 1, seq - 1 FROM (
    SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS previous
    FROM sample WHERE device = ? AND epoch = ?)
WHERE seq > previous + 1
"""
NEWEST = """
SELECT max(ifnull((SELECT max(seq) FROM sample WHERE device = ?1 AND epoch = ?2), 0),
    ifnull((SELECT max(last) FROM gone WHERE device = ?1 AND epoch = ?3), 0))
"""
EPOCHS = """
SELECT id, name, (SELECT min(time) FROM sample WHERE device = ?1 AND epoch = id) AS low,
    (SELECT max(time) FROM sample WHERE device = ?1 AND epoch = id)
FROM epoch WHERE boot <> 'salvaging' AND low IS NOT NULL ORDER BY id
"""
HELD = """
SELECT first, last, last - first + 1 - (
    SELECT ifnull(sum(gone.last - gone.first + 1), 0) FROM gone
    WHERE device = ?1 AND epoch = ?3 AND gone.first BETWEEN held.first AND held.last)
FROM (
    SELECT (SELECT min(seq) FROM sample WHERE device = ?1 AND epoch = ?2) AS first,
        (SELECT max(seq) FROM sample WHERE device = ?1 AND epoch = ?2) AS last) AS held
"""
HELD_BETWEEN = """
SELECT min(seq), max(seq), count(*) FROM sample
WHERE device = ? AND epoch = ? AND time >= ? AND time < ?
"""
DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,  # a number is there already: the last one was misread
    sqlite3.SQLITE_ERROR,  # a table is not what it was
    *BAD_SECTOR,
)
HEAD = re.compile(rb'\{"device": ("(?:[^"\\]|\\.)*"), "seq": (\d{1,18}), "epoch": "(\w+)"[,}]')

Key: TypeAlias = tuple[str, str, int]
"""Device, epoch and number."""
Range: TypeAlias = tuple[int, int, str]
"""The first and last number, and why they are gone."""
T = TypeVar("T")


class _DamagedError(sqlite3.DatabaseError):
    """The file is not what was written, although SQLite can read it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class _OverlookedError(_DamagedError):
    """Only the WAL is damaged."""


class _LeaveError(sqlite3.OperationalError):
    """A thread has to leave the file at once."""

    sqlite_errorcode = sqlite3.SQLITE_INTERRUPT


class _Pair(NamedTuple):
    """A device in an epoch, and the Unix time of its oldest sample."""

    device: str
    id: int
    epoch: str
    oldest: float


class Journal:
    """The samples of one server; bounded by age (seconds) and by size (bytes).

    How long it has been open is told by ``steady``: a ``clock`` that is set makes nothing older,
    until the file is opened again.

    A damaged file is put aside as ``<name>.damaged-<Unix time>`` and a new one begins at once. The
    next ``tidy`` copies what can be salvaged, under its old epochs; the file that was put aside
    then stays as ``<name>.salvaged-<Unix time>``.

    ``append`` and ``samples`` are quick; ``holds`` and ``tidy`` are for other threads.
    ``warning`` is what people should know of the disk, as of the last ``tidy``.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: float = 14 * DAY,
        most: int = 2_000_000_000,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self.path, self.keep, self.most, self.clock = path, keep, most, clock
        self.warning: str | None = None
        self.epoch = ""
        self._steady, self._ahead = steady, clock() - steady()
        self._boot = boot or BOOT_ID.read_text().strip()
        self._last: dict[str, int] = {}
        self._ends: dict[str, tuple[str, dict[str, int]]] = {}
        self._db: sqlite3.Connection | None = None
        self._checked = self._closed = self._leave = False
        self._lock = threading.RLock()
        self._gate = threading.Condition()
        self._guests: set[sqlite3.Connection] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    # --- the file ---------------------------------------------------------------------------

    def _open(self, tries: int = 3) -> sqlite3.Connection:
        """Open the file; put aside what is damaged, and begin a new epoch then."""
        db = self._connect()
        try:
            db.execute("PRAGMA schema_version").fetchone()  # before anything is written
            accepted = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            if overlooked(self._named("-wal"), accepted):
                raise _OverlookedError("its WAL has samples behind a damaged page")
            db.executescript(SCHEMA)
            self._epoch, self.epoch = self._current_epoch(db, anew=tries < 3)
        except BaseException as error:
            damaged = tries > 0 and _is_damage(error)
            try:
                if damaged:
                    self._put_aside(error)
            finally:
                db.close()
            if not damaged:
                raise
            return self._open(tries - 1)
        self._last.clear()
        self._db = db
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5, check_same_thread=False)
        db.text_factory = lambda text: text.decode(errors="replace")  # damaged text is no error
        return db

    def _named(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    def _current_epoch(self, db: sqlite3.Connection, *, anew: bool) -> tuple[int, str]:
        with _transaction(db):
            last = db.execute("SELECT id, name, boot FROM epoch ORDER BY id DESC").fetchone()
            if last and last[2] == self._boot and not anew:
                return last[0], last[1]
            new = max(int(self.clock()), last[0] + 1 if last else 1), uuid4().hex[:12]
            db.execute("INSERT INTO epoch VALUES (?, ?, ?)", (*new, self._boot))
            return new

    def _put_aside(self, error: BaseException) -> None:
        """Give the file, or only its WAL, another name; who has it open must close it then."""
        number = int(self.clock())
        while any(self.path.parent.glob(f"{self.path.name}.*-{number}*")):  # salvaged ones, too
            number += 1
        aside = self._named(f".damaged-{number}")
        try:
            if self._named("-wal").exists():  # which SQLite deletes when it closes the file
                os.link(self._named("-wal"), aside.with_name(f"{aside.name}-wal"))
            if not isinstance(error, _OverlookedError):
                self.path.rename(aside)
                for end in ("-wal", "-shm"):
                    self._named(end).unlink(missing_ok=True)
        except OSError as failed:
            raise sqlite3.OperationalError(f"it is damaged ({error}); {failed}") from failed
        self._ends[aside.name] = self.epoch, dict(self._last)
        log.error(
            "%s is damaged (%s): put aside as %s; a new epoch begins, and what can be read of the"
            " old ones will be copied", self.path, error, aside.name,
        )  # fmt: skip

    def _begin_anew(self, error: sqlite3.Error, epoch: str) -> None:
        """Replace a file in which damage was found, unless another thread just has."""
        with self._lock:
            if self.epoch == epoch and not self._closed:
                with self._alone():
                    self._put_aside(error)
                    if self._db:
                        self._db.close()
                        self._db = None
                    self._open(tries=2)

    def _here(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the connection that is always open; again, if the file is damaged."""
        with self._lock:
            if self._closed:
                raise sqlite3.ProgrammingError(f"{self.path.name} is closed")
            try:
                return work(self._db or self._open(tries=2))
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._begin_anew(error, self.epoch)
            return work(self._db or self._open(tries=2))

    def _apart(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something that takes longer, in a thread, with a connection of its own."""
        for _ in range(3):
            epoch = self.epoch
            try:
                with self._another() as db:
                    return work(db)
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._begin_anew(error, epoch)
                elif (
                    self._closed
                    or getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT
                ):
                    raise
        raise sqlite3.OperationalError(f"{self.path.name} is damaged again and again")

    @contextmanager
    def _another(self) -> Iterator[sqlite3.Connection]:
        with self._gate:
            while self._leave:
                self._gate.wait()
            if self._closed:
                raise _LeaveError(f"{self.path.name} is closed")
            db = self._connect()
            self._guests.add(db)
        try:
            yield db
        finally:
            with self._gate:
                self._guests.discard(db)
                db.close()
                self._gate.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Make all threads leave the file: SQLite's files must not be renamed under anybody."""
        with self._gate:
            self._leave = True
            while self._guests:
                for guest in self._guests:
                    guest.interrupt()
                self._gate.wait(0.02)
            try:
                yield
            finally:
                self._leave = False
                self._gate.notify_all()

    def _stay(self) -> None:
        if self._leave:
            raise _LeaveError("interrupted")

    def close(self) -> None:
        """Close the file; what other threads do with it ends at once."""
        with self._lock, self._alone():
            self._closed = True
            if self._db:
                self._db.close()

    # --- samples ----------------------------------------------------------------------------

    def append(self, sample: dict[str, Any], most: int = MOST_BYTES_A_SAMPLE) -> dict[str, Any]:
        """Keep a sample; return it with its ``seq`` and ``epoch``.

        Raises ValueError if JSON cannot carry it (not a number, thousands of digits) or it would
        be more than ``most`` bytes, sqlite3.Error if it cannot be written. It takes no number then.
        """
        return self._here(lambda db: self._append(db, sample, most))

    def _append(self, db: sqlite3.Connection, sample: dict[str, Any], most: int) -> dict[str, Any]:
        device = sample["device"]
        seq = self._newest(db, device) + 1
        numbered = {"device": device, "seq": seq, "epoch": self.epoch} | sample
        text = json.dumps(numbered, allow_nan=False).encode()
        if len(text) > most:
            raise ValueError(f"a sample of {len(text)} bytes is more than {most}")
        db.execute(
            "INSERT INTO sample VALUES (?, ?, ?, ?, ?)",
            (device, self._epoch, seq, self.clock(), zlib.compress(text, 1)),
        )
        self._last[device] = seq
        return numbered

    def _newest(self, db: sqlite3.Connection, device: str) -> int:
        """Return the newest number that the device has had in this epoch; 0 if there is none."""
        if device not in self._last:
            (self._last[device],) = db.execute(NEWEST, (device, self._epoch, self.epoch)).fetchone()
        return self._last[device]

    def samples(
        self, device: str, after: int, limit: int, epoch: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a device's samples with numbers above ``after``, in order, of one epoch.

        At most ``limit``, and no more than fit into one message: ask again until none come.
        """
        texts = self._texts(device, after, limit, epoch or self.epoch, MOST_BYTES_A_REPLY)
        return [json.loads(text) for text in texts]

    def page(self, device: str, after: int, limit: int, epoch: str | None = None) -> str:
        """Return the same for ``read_page``: more fit, and nobody on the way has to parse them."""
        texts = self._texts(device, after, limit, epoch or self.epoch, MOST_BYTES_A_PAGE)
        # As a text: the router's HTTP interface never answers if it is given bytes.
        return b64encode(zlib.compress(b"[%b]" % b",".join(texts), 1)).decode()

    def _texts(self, device: str, after: int, limit: int, epoch: str, most: int) -> list[bytes]:
        """Return samples as they were written: up to ``most`` bytes of them, but one at least."""

        def look(db: sqlite3.Connection) -> list[bytes]:
            if epoch == self.epoch and after >= self._newest(db, device):
                return []
            found: list[bytes] = []
            bad: list[int] = []
            size = 0
            for seq, body in db.execute(
                "SELECT seq, body FROM sample WHERE device = ? AND seq > ? AND epoch ="
                " (SELECT id FROM epoch WHERE name = ? AND boot <> 'salvaging') ORDER BY seq",
                (device, after, epoch),
            ):
                key, text = _unpack(body)
                size += len(text)
                if len(found) >= limit or (found and size > most):
                    break
                if key is None:
                    bad.append(seq)
                elif key != (device, epoch, seq):
                    raise _DamagedError(f"sample {seq} of {device} has the record of another")
                else:
                    found.append(text)
            self._lose(db, device, epoch, bad)
            return found

        return self._here(look)

    def devices(self) -> set[str]:
        """Return the devices of which there are samples."""
        query = "SELECT DISTINCT device FROM sample"
        return self._apart(lambda db: {row[0] for row in db.execute(query)})

    def holds(
        self, device: str, start: float | None = None, end: float | None = None
    ) -> dict[str, Any]:
        """Return which numbers of a device there are, and which are gone. For a thread.

        ``epochs``, in the order in which they began, have the ``first`` and ``last`` number and the
        ``count`` of what was appended from ``start`` until before ``end`` (Unix seconds). ``gone``
        are ranges of numbers, from whatever time, the latest 2000. ``oldest`` is the Unix time of
        the device's oldest sample or None, ``keep`` is in seconds, ``most``, ``used`` and ``free``
        (on the disk) are in bytes. While ``salvaging``, earlier epochs are still being copied from
        a damaged file, and neither they nor what is gone of them is shown.
        """
        since = -math.inf if start is None else start
        until = math.inf if end is None else end
        return self._apart(lambda db: self._holds(db, device, since, until))

    def _holds(
        self, db: sqlite3.Connection, device: str, start: float, end: float
    ) -> dict[str, Any]:
        epochs, oldest = [], None
        db.execute("BEGIN")  # so that everything is of one moment
        for number, name, low, high in db.execute(EPOCHS, (device,)):
            oldest = low if oldest is None else min(low, oldest)
            if start <= low and high < end:
                row = db.execute(HELD, (device, number, name))
            else:
                row = db.execute(HELD_BETWEEN, (device, number, start, end))
            first, last, count = row.fetchone()
            if count:
                epochs.append({"epoch": name, "first": first, "last": last, "count": count})
        gone = db.execute(
            "SELECT gone.epoch, first, last, reason FROM gone JOIN epoch ON name = gone.epoch"
            " WHERE device = ? AND boot <> 'salvaging' ORDER BY id DESC, first DESC LIMIT ?",
            (device, MOST_RANGES_A_REPLY),
        ).fetchall()
        return {
            "epoch": self.epoch,
            "keep": self.keep,
            "most": self.most,
            "used": _used(db),
            "free": self._free(),
            "oldest": oldest,
            "salvaging": bool(self._aside()),
            "epochs": epochs,
            "gone": [
                {"epoch": epoch, "first": first, "last": last, "reason": reason}
                for epoch, first, last, reason in reversed(gone)
            ],
        }

    def _free(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    # --- upkeep -----------------------------------------------------------------------------

    def tidy(self) -> int:
        """Do what is to be done now and then; returns how many samples were dropped. For a thread.

        Drop what is too old or too much, copy what can be salvaged, and check, once after the
        opening, that everything is there. What cannot be done now is done the next time.
        """
        try:
            free = self._free()
            self.warning = None if free >= LEAST_FREE else (
                f"{free / 1e9:.2f} GB are free on the disk of {self.path}, less than"
                f" {LEAST_FREE / 1e9:g} GB: make room, or samples will not be kept"
            )  # fmt: skip
            return self._apart(self._tidy)
        except (OSError, sqlite3.OperationalError) as error:
            if not self._closed:
                log.error("%s: not tidied this time: %s", self.path.name, error)
            return 0

    def _tidy(self, db: sqlite3.Connection) -> int:
        if not self._checked:
            self._check(db)
            self._checked = True
        dropped = self._drop_all(db)
        db.executescript(f"PRAGMA incremental_vacuum({MOST_PAGES})")  # execute would free one
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if dropped:
            log.info("%s: dropped %d samples at the bound of the journal", self.path.name, dropped)
        for aside in self._aside():
            self._salvage(db, aside)
        return dropped

    def _drop_all(self, db: sqlite3.Connection) -> int:
        dropped, before = 0, min(self.clock(), self._steady() + self._ahead) - self.keep
        for pair in _pairs(db):
            while count := self._drop(db, pair, before, f"older than {self.keep / DAY:g} days"):
                dropped += count
        reason = f"the journal reached {self.most / 1e9:g} GB"
        while _used(db) > self.most and (pairs := _pairs(db)):
            dropped += sum(self._drop(db, one, pairs[0].oldest + SPAN, reason) for one in pairs)
        held = {one.epoch for one in _pairs(db)} | {self.epoch}
        for epoch, noticed in db.execute(
            "SELECT name, max(noticed) FROM epoch LEFT JOIN gone ON gone.epoch = name"
            " WHERE boot <> 'salvaging' GROUP BY name"
        ).fetchall():
            if epoch not in held and (noticed or 0) < before:
                with _transaction(db):
                    db.execute("DELETE FROM gone WHERE epoch = ?", (epoch,))
                    db.execute("DELETE FROM epoch WHERE name = ?", (epoch,))
        return dropped

    def _drop(self, db: sqlite3.Connection, pair: _Pair, until: float, reason: str) -> int:
        """Drop the oldest few, so that whoever publishes never waits long."""
        self._stay()
        found = db.execute(
            "SELECT seq FROM sample WHERE device = ? AND epoch = ? AND time <= ?"
            " ORDER BY time LIMIT ?",
            (pair.device, pair.id, until, CHUNK),
        ).fetchall()
        self._take_away(db, pair.device, pair.epoch, [seq for (seq,) in found], reason)
        return len(found)

    def _take_away(
        self, db: sqlite3.Connection, device: str, epoch: str, seqs: list[int], reason: str
    ) -> None:
        """Delete samples, and note that they are gone."""
        if seqs:
            with _transaction(db):
                db.executemany(
                    "DELETE FROM sample WHERE device = ? AND seq = ?"
                    " AND epoch = (SELECT id FROM epoch WHERE name = ?)",
                    [(device, seq, epoch) for seq in seqs],
                )
                new = [(seq, seq, reason) for seq in seqs]
                self._set_gone(db, device, epoch, [*_gone(db, device, epoch), *new])

    def _set_gone(
        self, db: sqlite3.Connection, device: str, epoch: str, ranges: Iterable[Range]
    ) -> None:
        """Write all that is gone; neighbours of one reason become one range."""
        joined: list[Range] = []
        for first, last, reason in sorted(ranges):
            if joined and joined[-1][1:] == (first - 1, reason):
                joined.append((joined.pop()[0], last, reason))
            else:
                joined.append((first, last, reason))
        now = self.clock()
        db.execute("DELETE FROM gone WHERE device = ? AND epoch = ?", (device, epoch))
        db.executemany(
            "INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?, ?)",
            [(device, epoch, *one, now) for one in joined],
        )

    # --- damage -----------------------------------------------------------------------------

    def _check(self, db: sqlite3.Connection) -> None:
        """Look at every record and every number. Raises _DamagedError if some are lost."""
        for (said,) in db.execute("PRAGMA quick_check(1)"):
            if said != "ok":
                raise _DamagedError(said)
        bad: dict[tuple[str, str], list[int]] = defaultdict(list)
        before = "", 0, 0
        while rows := db.execute(
            "SELECT device, epoch, seq, name, boot, time, body FROM sample"
            " LEFT JOIN epoch ON id = epoch WHERE (device, epoch, seq) > (?, ?, ?)"
            " ORDER BY device, epoch, seq LIMIT ?",
            (*before, CHUNK),
        ).fetchall():
            self._stay()
            for device, number, seq, epoch, boot, when, body in rows:
                key, _ = _unpack(body)
                types = tuple(map(type, (device, seq, epoch, when)))
                if types != (str, int, str, float) or key not in (None, (device, epoch, seq)):
                    raise _DamagedError(f"sample {seq} of {device} has another record")
                if (device, number, seq) <= before:
                    raise _DamagedError(f"sample {seq} of {device} is out of order")
                if key is None:
                    bad[device, epoch].append(seq)
                first = before[2] + 1 if before[:2] == (device, number) else 1
                known = _gone(db, device, epoch) if first < seq else []
                if boot != "salvaging" and any(
                    why is None for *_, why in _explained([(first, seq - 1)], known)
                ):
                    raise _DamagedError(f"samples {first}-{seq - 1} of {device} are not there")
                before = device, number, seq
        for (device, epoch), seqs in bad.items():
            self._lose(db, device, epoch, seqs)

    def _lose(self, db: sqlite3.Connection, device: str, epoch: str, seqs: list[int]) -> None:
        """Take away records that are not what was appended."""
        if seqs:
            log.error("%s: records of %s are damaged, and gone: %s", self.path.name, device, seqs)
            self._take_away(db, device, epoch, seqs, "the record was damaged")

    def _aside(self) -> list[Path]:
        """Return the files that are still to be salvaged; of one there may be only the WAL."""
        start = f"{self.path.name}.damaged-"
        found = {
            one.name.removesuffix("-wal").removesuffix("-shm")
            for one in self.path.parent.iterdir()
            if one.name.startswith(start)
        }
        return sorted(self.path.with_name(name) for name in found)

    def _salvage(self, db: sqlite3.Connection, aside: Path) -> None:
        """Copy what can be read of a damaged file, note what is gone, and say so.

        The epochs are shown when this is done. If it is interrupted it can be done again.
        """
        ids: dict[str, int] = dict(db.execute("SELECT name, id FROM epoch"))
        known: dict[tuple[str, str], set[Range]] = defaultdict(set)
        kept = self._copy(db, aside, ids, known)
        end_epoch, ends = self._ends.get(aside.name, ("", {}))
        for device in ends:
            known[device, end_epoch] |= set()
        reason = f"lost by damage ({_salvaged(aside).name})"
        lost: list[tuple[int, str]] = []
        gone: dict[tuple[str, str], list[Range]] = {}
        for (device, epoch), reasons in sorted(known.items()):
            self._earlier_epoch(db, ids, epoch, 1)
            of_pair = device, ids[epoch]
            gaps = db.execute(GAPS, of_pair).fetchall()
            (top,) = db.execute(
                "SELECT ifnull(max(seq), 0) FROM sample WHERE device = ? AND epoch = ?", of_pair
            ).fetchone()
            if epoch == end_epoch and ends.get(device, 0) > top:
                gaps.append((top + 1, ends[device]))
                top = ends[device]
            likely = {one for one in reasons if one[1] <= top or not top}
            explained = _explained(
                [*gaps, (top + 1, FOREVER)], likely.union(_gone(db, device, epoch))
            )
            gone[device, epoch] = [
                (first, last, why or reason) for first, last, why in explained if why or last <= top
            ]
            lost += [
                (last - first + 1, f"{device} {first}-{last}")
                for first, last, why in gone[device, epoch]
                if why == reason
            ]
        with _transaction(db):
            for (device, epoch), ranges in gone.items():
                self._set_gone(db, device, epoch, ranges)
            db.execute("UPDATE epoch SET boot = 'salvaged' WHERE boot = 'salvaging'")
        for end in ("-wal", "-shm", ""):
            if (part := aside.with_name(aside.name + end)).exists():
                part.rename(_salvaged(part))
        some = ", ".join(text for _, text in lost[:10]) + ", ..." * (len(lost) > 10)
        log.warning(
            "%s: %d samples are copied from it, and %d are gone%s%s",
            _salvaged(aside).name,
            kept,
            sum(count for count, _ in lost),
            f" ({some})" * bool(lost),
            "" if ends else "; what came after the last of each epoch cannot be known",
        )

    def _copy(
        self,
        db: sqlite3.Connection,
        aside: Path,
        ids: dict[str, int],
        known: dict[tuple[str, str], set[Range]],
    ) -> int:
        """Copy the samples that can be read; returns how many, and what was known to be gone."""
        rows: list[tuple[str, int, int, float, bytes]] = []
        kept = 0

        def write() -> int:
            if self._free() < LEAST_FREE / 10:
                raise sqlite3.OperationalError(
                    f"{aside.name} is copied while {LEAST_FREE / 1e10:g} GB are free on the disk"
                )
            with _transaction(db):
                done = db.executemany("INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?, ?)", rows)
            rows.clear()
            return max(done.rowcount, 0)

        write()
        for record in records(aside):
            self._stay()
            match record:
                case (str(), int(number), int(), when, bytes(body)):
                    key, _ = _unpack(body)
                    if key:
                        device, epoch, seq = key
                        self._earlier_epoch(db, ids, epoch, number)
                        known[device, epoch] |= set()
                        now = self.clock()
                        if not isinstance(when, int | float) or not 0 < when <= now:
                            when = now
                        rows.append((device, ids[epoch], seq, when, body))
                case (str(device), str(epoch), int(first), int(last), str(reason), _):
                    if 0 < first <= last < FOREVER:
                        known[device, epoch].add((first, last, reason))
            if len(rows) >= CHUNK:
                kept += write()
        return kept + write()

    def _earlier_epoch(
        self, db: sqlite3.Connection, ids: dict[str, int], epoch: str, number: int
    ) -> None:
        """Make sure that an epoch of a damaged file is here, before the present one."""
        if epoch not in ids:
            number = number if 0 < number < self._epoch else self._epoch - 1
            while number in ids.values():
                number -= 1
            db.execute("INSERT INTO epoch VALUES (?, ?, 'salvaging')", (number, epoch))
            ids[epoch] = number


def _is_damage(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code in DAMAGE or code & 0xFF in DAMAGE


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_name = lru_cache(1000)(json.loads)


def _unpack(body: object) -> tuple[Key | None, bytes]:
    """Return what a record says it is, and its JSON; None if it is not what was written."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(body, MOST_BYTES_A_SAMPLE)  # type: ignore[arg-type]
        head = HEAD.match(text)
        if not head or not unpacker.eof or unpacker.unused_data:
            return None, b""
        return (_name(head[1]), head[3].decode(), int(head[2])), text
    except (TypeError, ValueError, zlib.error):
        return None, b""


def read_page(page: Any) -> list[dict[str, Any]]:
    """Return the samples of a page; ValueError if it is none."""
    try:
        text = zlib.decompressobj().decompress(b64decode(page), 2 * MOST_BYTES_A_SAMPLE)
        try:
            samples = orjson.loads(text)
        except ValueError:  # it knows no lone surrogates, and no numbers beyond a double
            samples = json.loads(text)
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"{shorten(page)} is no page of samples: {error}") from None
    if not (isinstance(samples, list) and all(isinstance(one, dict) for one in samples)):
        raise ValueError(f"{shorten(samples)} is not samples")
    return samples


def _pairs(db: sqlite3.Connection) -> list[_Pair]:
    """Return which devices have samples in which epochs, the oldest sample first."""
    return [_Pair(*row) for row in db.execute(PAIRS)]


def _gone(db: sqlite3.Connection, device: str, epoch: str) -> list[Range]:
    return db.execute(
        "SELECT first, last, reason FROM gone WHERE device = ? AND epoch = ?", (device, epoch)
    ).fetchall()


def _explained(
    spans: Iterable[tuple[int, int]], reasons: Iterable[Range]
) -> Iterator[tuple[int, int, str | None]]:
    """Cut spans of numbers (in order, apart) by the reasons for them, None where there is none."""
    ordered = sorted(reasons)
    for low, high in spans:
        for first, last, reason in ordered:
            if first > high:
                break
            if last >= low:
                if first > low:
                    yield low, first - 1, None
                yield max(first, low), min(last, high), reason
                low = last + 1  # noqa: PLW2901
        if low <= high:
            yield low, high, None


def _salvaged(aside: Path) -> Path:
    return aside.with_name(aside.name.replace(".damaged-", ".salvaged-"))


def _used(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
