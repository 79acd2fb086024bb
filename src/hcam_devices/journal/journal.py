"""The journal: every sample a server has published, numbered, on its own disk.

A sample exists once it is here. Numbers go up by one for each device and begin again only with a
new epoch: when the journal is new or was damaged, or the machine has restarted. (SQLite in WAL mode
loses nothing when a process dies, but may lose its last second when the power fails, and no number
may ever be used twice.)

Each number from 1 to the last of an epoch is either a sample or ``gone``, with the reason. Only
samples lost after the last one left of an epoch cannot be known. Samples that could not be kept at
all, on a full disk, have no number: how many and when is noted as ``lost``.
"""

import json
import logging
import math
import os
import sqlite3
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from .age import DAY_S, AgeClock
from .contents import devices_in, held, lost, newest_gone, oldest
from .notebook import Lost, Notebook
from .salvage import overlooked
from .tables import MAX_SAMPLE_BYTES, SCHEMA, pack, pairs, transaction, unpack, used
from .upkeep import (
    DamagedError,
    LeaveError,
    OverlookedError,
    Upkeep,
    free,
    is_damage,
    put_aside,
    short_of_disk,
)

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEEP = 14 * DAY_S
"""Keep samples this long (s), unless there are too many."""
MAX_REPLY_BYTES = 200_000
MAX_PAGE_BYTES = 750_000
"""The limits of a reply: in base64, incompressible samples still fit into the router's megabyte."""
MAX_PAGES = 200
"""Pages vacuumed per step. Publishers block meanwhile, so keep it small."""

NEWEST = """
SELECT max(ifnull((SELECT max(seq) FROM sample WHERE device = :device AND epoch = :number), 0),
    ifnull((SELECT max(last) FROM gone WHERE device = :device AND epoch = :name), 0))
"""
NEWEST_TIME = "SELECT max(time) FROM sample WHERE device = ? AND epoch = ?"
encode = json.JSONEncoder(allow_nan=False).encode
T = TypeVar("T")


class Journal:
    """The samples of one server: at most ``keep`` seconds old, in at most ``most`` bytes.

    A ``clock`` that jumps makes nothing older: ``steady`` counts the running time (``age.py``).

    A damaged file is put aside as ``<name>.damaged-<Unix time>`` and a new one begins at once. The
    next ``tidy`` copies what can be salvaged, under its old epochs; the file that was put aside
    then stays as ``<name>.salvaged-<Unix time>``.

    ``append`` and ``samples`` are quick; methods that take longer are for other threads.
    ``warning`` is a problem of the disk or the clock, as of the last ``tidy``, for an alarm.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: float = KEEP,
        most: int = 2_000_000_000,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self.path, self.keep, self.most, self.clock = path, keep, most, clock
        self.warning: str | None = None
        self.epoch = ""
        self._boot = boot or BOOT_ID.read_text(encoding="ascii").strip()
        self._last: dict[str, int] = {}
        self._ends: dict[str, tuple[str, dict[str, int]]] = {}
        self._db: sqlite3.Connection | None = None
        self._checked = self._closed = self._leave = False
        self._lock = threading.RLock()
        self._gate = threading.Condition()
        self._guests: set[sqlite3.Connection] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._notebook = Notebook(path.with_suffix(".lost"))
        self._lost = {(note.device, note.since): note for note in self._notebook.read()}
        self._note_lost(self._open())
        age = path.with_suffix(".clock")
        self._age = AgeClock(age, keep, clock, steady, lambda: self._here(self._newest_time))

    # --- the file ---------------------------------------------------------------------------

    def _open(self, tries: int = 3) -> sqlite3.Connection:
        """Open the file; put aside what is damaged, and begin a new epoch then."""
        db = self._connect()
        try:
            db.execute("PRAGMA schema_version").fetchone()  # before anything is written
            accepted = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            if overlooked(self._named("-wal"), accepted):
                raise OverlookedError("its WAL has samples after a damaged page")
            db.executescript(SCHEMA)
            self._epoch, self.epoch = self._current_epoch(db, anew=tries < 3)
        except BaseException as error:
            damaged = tries > 0 and is_damage(error)
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
        with transaction(db):
            last = db.execute("SELECT id, name, boot FROM epoch ORDER BY id DESC").fetchone()
            if last and last[2] == self._boot and not anew:
                return last[0], last[1]
            new = max(int(self.clock()), last[0] + 1 if last else 1), uuid4().hex[:12]
            db.execute("INSERT INTO epoch VALUES (?, ?, ?)", (*new, self._boot))
            return new

    def _put_aside(self, error: BaseException) -> None:
        """Rename the file, or only its WAL; the caller closes every connection to it."""
        number = int(self.clock())
        while any(self.path.parent.glob(f"{self.path.name}.*-{number}*")):  # salvaged ones, too
            number += 1
        aside = self._named(f".damaged-{number}")
        try:
            if self._named("-wal").exists():  # SQLite deletes it when it closes the file
                os.link(self._named("-wal"), aside.with_name(f"{aside.name}-wal"))
            if not isinstance(error, OverlookedError):
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
        """Work with the connection that stays open; again with a new file after damage."""
        with self._lock:
            if self._closed:
                raise sqlite3.ProgrammingError(f"{self.path.name} is closed")
            try:
                return work(self._db or self._open(tries=2))
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._begin_anew(error, self.epoch)
            return work(self._db or self._open(tries=2))

    def _apart(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Work that takes longer, in a thread, with a connection of its own.

        It must not wait for ``_lock``, whose holder may be waiting for the end of this work.
        """
        for _ in range(3):
            epoch = self.epoch
            try:
                with self._another() as db:
                    return work(db)
            except sqlite3.Error as error:
                if is_damage(error):
                    self._begin_anew(error, epoch)
                elif (
                    self._closed
                    or getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT
                ):
                    raise
        raise sqlite3.OperationalError(f"{self.path.name} was damaged repeatedly")

    @contextmanager
    def _another(self) -> Iterator[sqlite3.Connection]:
        with self._gate:
            while self._leave:
                self._gate.wait()
            if self._closed:
                raise LeaveError(f"{self.path.name} is closed")
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
        """Interrupt all threads that use the file: it must not be renamed while it is open."""
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
            raise LeaveError("interrupted")

    def close(self) -> None:
        """Close the file; the work of other threads with it is interrupted."""
        with self._lock, self._alone():
            if self._db:
                self._note_lost(self._db)
            self._closed = True
            if self._db:
                self._db.close()

    # --- samples ----------------------------------------------------------------------------

    def append(self, sample: dict[str, Any], most: int = MAX_SAMPLE_BYTES) -> dict[str, Any]:
        """Keep a sample; return it with its ``seq`` and ``epoch``.

        Raises ValueError if JSON cannot carry it (NaN, thousands of digits) or it would be more
        than ``most`` bytes, sqlite3.Error if it cannot be written. No number is used then; a sample
        that cannot be written is noted as lost as soon as anything can be written.
        """
        try:
            (kept,) = self._here(lambda db: self._append_together(db, [sample], most))
        except sqlite3.Error as error:
            with self._lock:
                self._lose(sample["device"], str(error))
            raise
        return kept

    def append_all(
        self, samples: Sequence[dict[str, Any]], most: int = MAX_SAMPLE_BYTES
    ) -> list[dict[str, Any] | Exception]:
        """Keep samples in one transaction; return for each what ``append`` returns or raises.

        If one of them cannot be kept, each is appended alone.
        """
        if len(samples) > 1:
            with suppress(Exception):  # whose error it is shows below
                return [*self._here(lambda db: self._append_together(db, samples, most))]
        kept: list[dict[str, Any] | Exception] = []
        for sample in samples:
            try:
                kept.append(self.append(sample, most))
            except Exception as error:  # noqa: BLE001  (the caller gets any error)
                kept.append(error)
        return kept

    def _append_together(
        self, db: sqlite3.Connection, samples: Sequence[dict[str, Any]], most: int
    ) -> list[dict[str, Any]]:
        if len(samples) == 1:
            kept = [self._append(db, samples[0], most)]
        else:
            before = {sample["device"]: self._newest(db, sample["device"]) for sample in samples}
            try:
                with transaction(db):
                    kept = [self._append(db, sample, most) for sample in samples]
            except BaseException:
                self._last |= before
                raise
        if self._lost:
            self._note_lost(db)
        return kept

    def _append(self, db: sqlite3.Connection, sample: dict[str, Any], most: int) -> dict[str, Any]:
        device = sample["device"]
        seq = self._newest(db, device) + 1
        numbered = {"device": device, "seq": seq, "epoch": self.epoch} | sample
        text = encode(numbered).encode()
        if len(text) > most:
            raise ValueError(f"a sample of {len(text)} bytes is more than {most}")
        db.execute(
            "INSERT INTO sample VALUES (?, ?, ?, ?, ?)",
            (device, self._epoch, seq, self.clock(), pack(text)),
        )
        self._last[device] = seq
        return numbered

    def _lose(self, device: str, reason: str) -> None:
        """Count a sample that could not be kept, in the file that needs no disk space."""
        now = self.clock()
        open_notes = (note for note in self._lost.values() if note[:2] == (device, self.epoch))
        note = next(open_notes, Lost(device, self.epoch, now, now, 0, reason))
        self._lost[device, note.since] = note._replace(until=now, samples=note.samples + 1)
        self._notebook.write(self._lost.values())

    def _note_lost(self, db: sqlite3.Connection) -> None:
        """Move the notes of lost samples into the journal, if it can be written now."""
        if not self._lost:
            return
        try:
            with transaction(db):
                for note in self._lost.values():
                    db.execute("INSERT OR REPLACE INTO lost VALUES (?, ?, ?, ?, ?, ?)", note)
        except sqlite3.Error as error:
            log.debug("%s: lost samples are noted later: %s", self.path.name, error)
            return
        for note in self._lost.values():
            log.error(
                "%s: %d samples of %s, published without a number from %s to %s, are lost: %s",
                *(self.path.name, note.samples, note.device),
                *(_utc(note.since), _utc(note.until), note.reason),
            )
        self._lost.clear()
        self._notebook.write(())

    def _newest(self, db: sqlite3.Connection, device: str) -> int:
        """Return the newest number that the device has had in this epoch; 0 if there is none."""
        if device not in self._last:
            asked = {"device": device, "number": self._epoch, "name": self.epoch}
            (self._last[device],) = db.execute(NEWEST, asked).fetchone()
        return self._last[device]

    def samples(
        self, device: str, after: int, limit: int, epoch: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a device's samples with numbers above ``after``, in order, of one epoch.

        At most ``limit``, and no more than fit into one message: ask again until none come.
        """
        texts = self._texts(device, after, limit, epoch or self.epoch, MAX_REPLY_BYTES)
        return [json.loads(text) for text in texts]

    def samples_compressed(
        self, device: str, after: int, limit: int, epoch: str | None = None
    ) -> str:
        """Return more of the same at once, for ``read_page``: nobody on the way parses them."""
        texts = self._texts(device, after, limit, epoch or self.epoch, MAX_PAGE_BYTES)
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
                key, text = unpack(body)
                size += len(text)
                if len(found) >= limit or (found and size > most):
                    break
                if key is None:
                    bad.append(seq)
                elif key != (device, epoch, seq):
                    raise DamagedError(f"sample {seq} of {device} has the record of another")
                else:
                    found.append(text)
            self._upkeep(db).lose(device, epoch, bad)
            return found

        return self._here(look)

    def records(self, device: str, first: int, last: int, epoch: str) -> list[tuple[int, bytes]]:
        """Return numbers and JSON of the undamaged samples between two numbers. For a thread."""

        def look(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
            found = []
            for seq, body in db.execute(
                "SELECT seq, body FROM sample WHERE device = ? AND seq BETWEEN ? AND ? AND epoch ="
                " (SELECT id FROM epoch WHERE name = ? AND boot <> 'salvaging') ORDER BY seq",
                (device, first, last, epoch),
            ):
                key, text = unpack(body)
                if key == (device, epoch, seq):
                    found.append((seq, text))
            return found

        return self._apart(look)

    def devices(self) -> set[str]:
        """Return the devices of which there are samples, or were. For a thread."""
        return self._apart(lambda db: devices_in(db) | {note.device for note in self._unnoted()})

    def inventory(
        self,
        devices: Iterable[str] | None = None,
        after: str = "",
        start: float = -math.inf,
        end: float = math.inf,
    ) -> dict[str, Any]:
        """Return which samples of all devices, or of some, are in the journal. For a thread.

        ``held`` are ranges (device, epoch, first, last) of the samples that were appended from
        ``start`` until before ``end`` (Unix seconds). ``gone`` are ranges with the reason, from
        whatever time, the latest 2000 of each device. ``lost`` are samples that could not be kept
        then: device, epoch, since, until (Unix seconds), how many, and the reason.

        ``epoch`` is the present one; no other journal has it, nor this one when it was made anew.
        ``oldest`` is the Unix time of the oldest sample or None, ``keep`` is in seconds, ``most``
        and ``used`` are in bytes. While ``salvaging``, earlier epochs are still being copied from a
        damaged file, and nothing of them is shown.

        The devices are those with names above ``after``, in order, as many as fit into one message;
        if there are more, ``next`` is the last of them, otherwise None.
        """

        def look(db: sqlite3.Connection) -> dict[str, Any]:
            db.execute("BEGIN")  # so that everything is of one moment
            found: dict[str, Any] = {"held": [], "gone": [], "lost": [], "next": None}
            unnoted = self._unnoted()
            names = devices
            if names is None:
                names = devices_in(db) | {note.device for note in unnoted}
            size, last = 0, None
            for device in sorted(name for name in set(names) if name > after):
                if size > MAX_REPLY_BYTES:
                    found["next"] = last
                    break
                new = {
                    "held": [[device, *samples[:3]] for samples in held(db, device, start, end)],
                    "gone": [[device, *samples] for samples in newest_gone(db, device)],
                    "lost": [list(note) for note in lost(db, unnoted, device, start, end)],
                }
                size += len(json.dumps(new))
                for name, rows in new.items():
                    found[name] += rows
                last = device
            found["oldest"] = next((pair.oldest for pair in pairs(db)), None)
            return found | self._bounds(db)

        return self._apart(look)

    def holds(self, device: str, start: float = -math.inf, end: float = math.inf) -> dict[str, Any]:
        """Return which samples of one device are in the journal, for people. For a thread.

        ``epochs``, in the order in which they began, have the ``first`` and ``last`` number and the
        ``count`` of the samples that were appended from ``start`` until before ``end`` (Unix
        seconds). ``free`` is in bytes, on the disk. All else is as in ``inventory``, with names.
        """

        def look(db: sqlite3.Connection) -> dict[str, Any]:
            db.execute("BEGIN")
            epochs = [
                dict(zip(("epoch", "first", "last", "count"), samples, strict=True))
                for samples in held(db, device, start, end)
            ]
            gone = [
                dict(zip(("epoch", "first", "last", "reason"), samples, strict=True))
                for samples in newest_gone(db, device)
            ]
            notes = lost(db, self._unnoted(), device, start, end)
            return {
                "device": device,
                "epochs": epochs,
                "gone": gone,
                "lost": [note._asdict() for note in notes],
                "free": free(self.path),
                "oldest": oldest(db, device),
                **self._bounds(db),
            }

        return self._apart(look)

    def _unnoted(self) -> list[Lost]:
        """Return the losses that are not noted in the journal yet."""
        return list(self._lost.values())

    def _bounds(self, db: sqlite3.Connection) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "keep": self.keep,
            "most": self.most,
            "used": used(db),
            "salvaging": bool(put_aside(self.path)),
        }

    # --- upkeep -----------------------------------------------------------------------------

    def tidy(self) -> int:
        """Do the regular work; return how many samples were dropped. For a thread.

        Drop samples beyond the bounds, copy what can be salvaged, and check, once after the
        opening, that every number is there. Work that fails is logged and done the next time.
        """
        try:
            now = self._age.now()
            warnings = filter(None, (short_of_disk(self.path), self._age.warning()))
            self.warning = "; ".join(warnings) or None
            if self._lost:
                self._here(self._note_lost)
            return self._apart(lambda db: self._tidy(db, now))
        except (OSError, sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            if not self._closed:
                log.error(
                    "%s: the regular maintenance failed and is repeated later: %s",
                    self.path.name,
                    error,
                )
            return 0

    def _upkeep(self, db: sqlite3.Connection) -> Upkeep:
        return Upkeep(db, self.path, self._epoch, self.epoch, self.clock, self._stay)

    def _newest_time(self, db: sqlite3.Connection) -> float | None:
        """Return when the newest sample was appended, without times that are in the future."""
        times = [
            db.execute(NEWEST_TIME, (pair.device, pair.id)).fetchone()[0] for pair in pairs(db)
        ]
        times += [file.stat().st_mtime for file in put_aside(self.path) if file.exists()]
        now = self.clock()
        return max((moment for moment in times if moment <= now), default=None)

    def _tidy(self, db: sqlite3.Connection, now: float) -> int:
        upkeep = self._upkeep(db)
        if not self._checked:
            upkeep.check()
            self._checked = True
        dropped = upkeep.drop(now - self.keep, f"older than {self.keep / DAY_S:g} days", self.most)
        db.executescript(f"PRAGMA incremental_vacuum({MAX_PAGES})")  # execute would free one
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if dropped:
            log.info(
                "%s: dropped %d samples that were too old or too many", self.path.name, dropped
            )
        for aside in put_aside(self.path):
            upkeep.salvage(aside, *self._ends.get(aside.name, ("", {})))
        return dropped


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(" ", "seconds")[:19]
