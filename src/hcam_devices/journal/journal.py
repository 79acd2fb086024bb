"""The journal: every sample a server has published, numbered, on its own disk.

A sample exists once it is here. Numbers go up by one for each device and begin again only with a
new epoch: when the journal is new or was damaged, or the machine has restarted. (SQLite in WAL mode
loses nothing when a process dies, but may lose its last second when the power fails, and no number
may ever be used twice.)

Each night has a file of its own (``part.py``), which is removed as a whole when it is old. A
damaged file stays where it is: what SQLite can read of it is still there, the next sample begins
another file and epoch. Each number from 1 to the last of an epoch is either a sample or ``gone``,
with the reason. Samples that could not be kept at all, on a full disk, have no number: how many and
when is noted as ``lost``.
"""

import json
import logging
import math
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, takewhile
from pathlib import Path
from typing import Any
from uuid import uuid4

from .age import DAY_S, AgeClock
from .notebook import Lost
from .part import INSERT, Part, is_damage
from .points import night_of
from .ranges import SampleRange, SampleRanges
from .records import MAX_SAMPLE_BYTES, pack, page_of, sample_of

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEEP = 14 * DAY_S
"""Keep samples this long (s), unless there are too many."""
MAX_REPLY_BYTES = 200_000
MAX_PAGE_BYTES = 750_000
"""The limits of a reply: in base64, incompressible samples still fit into the router's megabyte."""
MAX_REPLY_RANGES = 2000
"""Report at most this many ranges of samples of a device that are gone."""
MIN_FREE_BYTES = 1_000_000_000
"""Warn if fewer bytes are free on the disk of a journal."""
CHUNK = 1000
"""Read at most this many samples at a time."""
PARTS = 8
"""Begin another file when one has this part of the bytes that a journal may have."""

ENDLESS = 2**63
"""Above every number."""


class Journal:
    """The samples of one server: at most ``keep`` seconds old, in at most ``most`` bytes.

    ``path`` is the beginning of the names of its files: ``<path>.000017.2026-11-22.sqlite``. A
    ``clock`` that jumps makes nothing older: ``steady`` counts the running time (``age.py``).

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
        self.epoch = self._night = ""
        self._db: sqlite3.Connection | None = None
        self._boot = boot or BOOT_ID.read_text(encoding="ascii").strip()
        self._lock = threading.RLock()
        self._closed = False
        self._losing: dict[str, Lost] = {}
        self._retired: list[tuple[Part, sqlite3.Connection]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        now = clock()
        stems = self._stems()
        self._parts = [Part(stem) for stem in stems]
        sound = [part.load(now, check=part.stem == stems[-1]) for part in self._parts]
        if not (self._parts and self._continue(sound[-1])):
            self._begin(now)
        age = path.with_name(f"{path.name}.clock")
        self._age = AgeClock(age, keep, clock, steady, self._newest_time)

    # --- the files --------------------------------------------------------------------------

    def _stems(self) -> list[Path]:
        """Return the files without their endings, in the order in which they were begun."""
        ours = rf"{re.escape(self.path.name)}\.\d{{6}}\.\d{{4}}-\d\d-\d\d(?=\.(sqlite|json)$)"
        found = (re.match(ours, file.name) for file in self.path.parent.iterdir())
        return sorted({self.path.with_name(match[0]) for match in found if match})

    def _continue(self, sound: bool) -> bool:
        """Go on with the newest file, if it is sound and the machine was not restarted since."""
        part = self._parts[-1]
        if part.boot != self._boot or part.removed:
            return False
        try:
            db = part.connect(append=True) if sound else None
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            db = None
        if not db:
            log.error("%s is damaged: a new epoch begins in another file", part.path)
            return False
        self._db, self._night, self.epoch = db, part.stem.name[-10:], part.epoch
        return True

    def _begin(self, now: float, epoch: str = "") -> None:
        """Begin another file, in a new epoch if none is given. Raises sqlite3.Error."""
        held = self._parts[-1].held if epoch else {}
        number = 1 + (int(self._parts[-1].stem.name.split(".")[-2]) if self._parts else 0)
        night = night_of(round(1000 * now))
        part = Part(self.path.with_name(f"{self.path.name}.{number:06d}.{night}"))
        part.boot, part.epoch = self._boot, epoch or uuid4().hex[:12]
        part.since = part.until = now
        part.held = {device: [last + 1, last] for device, (_, last) in held.items()}
        try:
            db = part.create()
        except OSError as error:
            raise sqlite3.OperationalError(f"{part.path} cannot be created: {error}") from error
        self._retire()
        self._end_losses()
        self._parts.append(part)
        self._db, self._night, self.epoch = db, night, part.epoch

    def _turn(self, now: float) -> None:
        """Begin the file of another night."""
        if (night := night_of(round(1000 * now))) == self._night:
            return
        try:
            self._begin(now, self.epoch)
        except sqlite3.Error as error:  # the file that is there may have room
            log.error("the journal goes on in %s: %s", self._parts[-1].path.name, error)
            self._night = night

    def _abandon(self, part: Part, why: object) -> None:
        """Begin another file if the present one is damaged. Raises sqlite3.Error."""
        with self._lock:
            if part is self._parts[-1] and not self._closed:
                log.error("%s is damaged (%s): a new epoch begins in another file", part.path, why)
                self._begin(self.clock())

    def close(self) -> None:
        """Close the files. Nothing can be appended or read any more."""
        with self._lock:
            self._retire()
            self._closed = True
        self._close_retired()

    def _retire(self) -> None:
        if self._db:
            self.note()
            self._retired.append((self._parts[-1], self._db))
            self._db = None

    def _close_retired(self) -> None:
        with self._lock:
            retired, self._retired = self._retired, []
        for part, db in retired:
            db.close()
            part.notebook.close()

    def _check_open(self) -> None:
        if self._closed:
            raise sqlite3.ProgrammingError(f"{self.path.name} is closed")

    # --- samples ----------------------------------------------------------------------------

    def append(self, sample: dict[str, Any], most: int = MAX_SAMPLE_BYTES) -> dict[str, Any]:
        """Keep a sample; return it with its ``seq`` and ``epoch``.

        Raises ValueError if JSON cannot carry it (NaN, thousands of digits) or it would be more
        than ``most`` bytes, sqlite3.Error if it cannot be written. No number is used then; a sample
        that cannot be written is noted as lost.
        """
        kept = self._append_one(sample, most)
        self.note()
        return kept

    def _append_one(self, sample: dict[str, Any], most: int) -> dict[str, Any]:
        with self._lock:
            self._check_open()
            try:
                (kept,) = self._append([sample], most)
            except sqlite3.Error as error:
                self._lose(sample["device"], str(error))
                raise
        return kept

    def append_all(
        self, samples: Sequence[dict[str, Any]], most: int = MAX_SAMPLE_BYTES
    ) -> list[dict[str, Any] | Exception]:
        """Keep samples in one transaction; return for each what ``append`` returns or raises.

        If one of them cannot be kept, each is appended alone. They are not in the notebook yet:
        call ``note`` once nobody waits for them.
        """
        if len(samples) > 1:
            with suppress(Exception), self._lock:  # whose error it is shows below
                self._check_open()
                return [*self._append(samples, most)]
        kept: list[dict[str, Any] | Exception] = []
        for sample in samples:
            try:
                kept.append(self._append_one(sample, most))
            except Exception as error:  # noqa: BLE001  (the caller gets any error)
                kept.append(error)
        return kept

    def _append(self, samples: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
        now = self.clock()
        self._turn(now)
        try:
            kept = self._insert(samples, most, now)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._abandon(self._parts[-1], error)
            kept = self._insert(samples, most, now)
        self._end_losses()
        return kept

    def _insert(
        self, samples: Sequence[dict[str, Any]], most: int, now: float
    ) -> list[dict[str, Any]]:
        part, db = self._parts[-1], self._db
        assert db  # noqa: S101  (it is not closed)
        held = part.held
        last: dict[str, int] = {}
        kept, rows = [], []
        for sample in samples:
            device = sample["device"]
            seq = last[device] = 1 + (last.get(device) or held.get(device, (1, 0))[1])
            numbered = {"device": device, "seq": seq, "epoch": self.epoch} | sample
            rows.append((device, seq, now, pack(numbered, most)))
            kept.append(numbered)
        if len(rows) == 1:
            db.execute(INSERT, rows[0])
        else:
            with _transaction(db):
                db.executemany(INSERT, rows)
        for device, seq in last.items():
            held.setdefault(device, [1, 0])[1] = seq
        part.since, part.until = min(part.since, now), max(part.until, now)
        return kept

    def note(self) -> None:
        """Write into the notebook which numbers the file has; it is read after damage."""
        with self._lock:
            if self._closed:
                return
            part = self._parts[-1]
            try:
                part.write_notes()
            except OSError as error:  # the samples are there nevertheless
                log.debug("%s cannot be written: %s", part.notebook.path, error)

    def _lose(self, device: str, reason: str) -> None:
        """Count a sample that could not be kept, in the file that needs no disk space."""
        now, part = self.clock(), self._parts[-1]
        note = self._losing.get(device, Lost(device, self.epoch, now, now, 0, reason))
        note = note._replace(until=now, samples=note.samples + 1)
        self._losing[device] = part.lost[device, note.since] = note
        try:
            part.write_notes()
        except OSError as error:
            log.error("%s cannot be written: %s; %s", part.notebook.path, error, note)

    def _end_losses(self) -> None:
        for note in self._losing.values():
            log.error("%s: %s", self.path.name, note)
        self._losing.clear()

    def samples(
        self, device: str, after: int, limit: int, epoch: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a device's samples with numbers above ``after``, in order, of one epoch.

        At most ``limit``, and no more than fit into one message: ask again until none come.
        """
        texts = self._texts(device, after, limit, epoch or self.epoch, MAX_REPLY_BYTES)
        return [sample_of(text) for text in texts]

    def page(self, device: str, after: int, limit: int, epoch: str | None = None) -> str:
        """Return more of the same at once, for ``read_page``: nobody on the way parses them."""
        return page_of(self._texts(device, after, limit, epoch or self.epoch, MAX_PAGE_BYTES))

    def _texts(self, device: str, after: int, limit: int, epoch: str, most: int) -> list[str]:
        """Return records as they were written: up to ``most`` bytes of them, but one at least."""
        found: list[str] = []
        size = 0
        for _, text in self._bodies(device, epoch, after + 1, ENDLESS, limit):
            size += len(text)
            if limit <= 0 or (found and size > most):
                break
            found.append(text)
            if len(found) == limit:
                break
        return found

    def records(self, device: str, first: int, last: int, epoch: str) -> list[tuple[int, str]]:
        """Return numbers and records of the samples between two numbers. For a thread."""
        return list(self._bodies(device, epoch, first, last, CHUNK))

    def _bodies(
        self, device: str, epoch: str, first: int, last: int, chunk: int
    ) -> Iterator[tuple[int, str]]:
        """Yield numbers and records of samples that can be read; note which cannot be.

        It ends early, rather than with a hole, when a file is removed after the first sample.
        """
        step, begun = max(1, min(chunk, CHUNK)), False
        for part, there in self._ranges(device).get(epoch, ()):
            if part.removed and begun:
                return
            end = min(there.last, last)
            for start in range(max(there.first, first), 0 if part.removed else end + 1, step):
                wanted = there._replace(first=start, last=min(start + step - 1, end))
                following = start
                for seq, text in part.bodies(wanted):
                    if seq > following:
                        self._miss(part, wanted._replace(first=following, last=seq - 1))
                    yield seq, text
                    following, begun = seq + 1, True
                if following <= wanted.last:
                    if part.removed and begun:
                        return
                    self._miss(part, wanted._replace(first=following))

    def _miss(self, part: Part, gone: SampleRange) -> None:
        """Note that samples which should be in a file cannot be read."""
        with self._lock:
            if part.removed:  # meanwhile
                return
            if not part.gone:
                log.error("%s is damaged: some of its samples cannot be read", part.path)
            part.gone = part.gone | SampleRanges([gone])
        with suppress(sqlite3.Error):  # the next sample tries again
            self._abandon(part, "samples cannot be read")

    # --- what there is ----------------------------------------------------------------------

    def devices(self) -> set[str]:
        """Return the devices of which there are samples, or were."""
        with self._lock:
            return set().union(*(part.devices for part in self._parts))

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
        and ``used`` are in bytes.

        The devices are those with names above ``after``, in order, as many as fit into one message;
        if there are more, ``next`` is the last of them, otherwise None.
        """
        found: dict[str, Any] = {"held": [], "gone": [], "lost": [], "next": None}
        names = self.devices() if devices is None else set(devices)
        size, last = 0, None
        for device in sorted(name for name in names if name > after):
            if size > MAX_REPLY_BYTES:
                found["next"] = last
                break
            held, gone = self._contents(device, start, end)
            new = {
                "held": [[device, *samples[:3]] for samples in held],
                "gone": [list(samples) for samples in gone],
                "lost": [list(note) for note in self._lost(device, start, end)],
            }
            size += len(json.dumps(new))
            for name, rows in new.items():
                found[name] += rows
            last = device
        with self._lock:
            since = [part.since for part in self._parts if part.samples and not part.removed]
        return found | {"oldest": min(since, default=None)} | self._bounds()

    def holds(self, device: str, start: float = -math.inf, end: float = math.inf) -> dict[str, Any]:
        """Return which samples of one device are in the journal, for people. For a thread.

        ``epochs``, in the order in which they began, have the ``first`` and ``last`` number and the
        ``count`` of the samples that were appended from ``start`` until before ``end`` (Unix
        seconds). ``free`` is in bytes, on the disk. All else is as in ``inventory``, with names.
        """
        held, gone = self._contents(device, start, end)
        names = "epoch", "first", "last", "count"
        return {
            "device": device,
            "epochs": [dict(zip(names, samples, strict=True)) for samples in held],
            "gone": [
                {name: value for name, value in samples._asdict().items() if name != "device"}
                for samples in gone
            ],
            "lost": [note._asdict() for note in self._lost(device, start, end)],
            "free": shutil.disk_usage(self.path.parent).free,
            "oldest": self._oldest(device),
            **self._bounds(),
        }

    def _ranges(self, device: str) -> dict[str, list[tuple[Part, SampleRange]]]:
        """Return where the numbers of a device are or were, by epoch, in order."""
        found: dict[str, list[tuple[Part, SampleRange]]] = {}
        with self._lock:
            self._check_open()
            for part in self._parts:
                if device in part.held:
                    first, last = part.held[device]
                    samples = SampleRange(device, part.epoch, first, last)
                    found.setdefault(part.epoch, []).append((part, samples))
        return found

    def _contents(
        self, device: str, start: float, end: float
    ) -> tuple[list[tuple[str, int, int, int]], list[SampleRange]]:
        """Return epoch, first, last and count of the samples of a period, and all that are gone."""
        held: list[tuple[str, int, int, int]] = []
        gone: list[SampleRange] = []
        days, size = self.keep / DAY_S, self.most / 1e9
        too_old = f"the journal keeps samples for {days:g} days, and at most {size:g} GB"
        for epoch, ranges in self._ranges(device).items():
            there = [each for each in ranges if not each[0].removed and each[1].samples > 0]
            newest = max(samples.last for _, samples in ranges)
            dropped = SampleRanges([SampleRange(device, epoch, 1, newest)])
            dropped -= SampleRanges(samples for _, samples in there)
            gone += [samples._replace(reason=too_old) for samples in dropped.ranges()]
            for part, _ in there:
                reason = f"{part.path.name} is damaged"
                unreadable = part.gone.ranges_of((device, epoch))
                gone += [samples._replace(reason=reason) for samples in unreadable]
            found = [part.between(samples, start, end) for part, samples in there]
            if rows := [row for row in found if row]:
                held.append((epoch, rows[0][0], rows[-1][1], sum(row[2] for row in rows)))
        return held, gone[-MAX_REPLY_RANGES:]

    def _lost(self, device: str, start: float, end: float) -> list[Lost]:
        with self._lock:
            notes = [note for part in self._parts for note in part.lost.values()]
        return [note for note in notes if note.device == device and note.overlaps(start, end)]

    def _oldest(self, device: str) -> float | None:
        every = chain(*self._ranges(device).values())
        there = (each for each in every if not each[0].removed and each[1].samples > 0)
        return next((part.oldest(samples) for part, samples in there), None)

    def _bounds(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "keep": self.keep, "most": self.most, "used": self._used()}

    def _used(self) -> int:
        """Return the bytes of the files."""
        return sum(part.size() for part in self._there())

    def _there(self) -> list[Part]:
        """Return the files that were not removed."""
        with self._lock:
            return [part for part in self._parts if not part.removed]

    # --- upkeep -----------------------------------------------------------------------------

    def tidy(self) -> int:
        """Do the regular work; return how many samples were dropped. For a thread.

        Write the samples of the last minute into the file itself, and remove files that are too old
        or too many. Work that fails is logged and done the next time.
        """
        try:
            now = self._age.now()
            warnings = filter(None, (self._short_of_disk(), self._age.warning()))
            self.warning = "; ".join(warnings) or None
            with self._lock:
                self._check_open()
                part = self._parts[-1]
                if part.samples:
                    self._turn(self.clock())
                    large = part.size() > self.most / PARTS
                    if part is self._parts[-1] and (large or part.until < now - self.keep):
                        self._begin(self.clock(), self.epoch)
                part = self._parts[-1]
            self._close_retired()
            try:
                part.checkpoint()
            except sqlite3.Error as error:
                if not is_damage(error) and part.path.exists():
                    raise
                self._abandon(part, error)
            return self._drop(now - self.keep)
        except (OSError, sqlite3.Error) as error:
            if not self._closed:
                log.error(
                    "%s: the regular maintenance failed and is repeated later: %s",
                    *(self.path.name, error),
                )
            return 0

    def _drop(self, before: float) -> int:
        """Remove files whose samples are older than a Unix time, and the oldest if too many."""
        with self._lock:
            *parts, _ = self._parts
        # Later files are younger, whatever the clock said then.
        old = list(takewhile(lambda part: not part.samples or part.until < before, parts))
        dropped = [part for part in old if not part.removed]
        for part in dropped:
            part.remove()
        while self._used() > self.most and (rest := self._there()[:-1]):
            rest[0].remove()
            dropped.append(rest[0])
        for part in old:
            if part.until < before - self.keep:  # the stores have had time to note what is gone
                part.forget()
                with self._lock:
                    self._parts.remove(part)
        count = sum(part.samples for part in dropped)
        if count:
            log.info("%s: dropped %d samples that were too old or too many", self.path.name, count)
        return count

    def _newest_time(self) -> float | None:
        """Return when the newest sample was appended, without times that are in the future."""
        now = self.clock()
        times = [time for part in self._parts if part.samples for time in (part.since, part.until)]
        return max((moment for moment in times if moment <= now), default=None)

    def _short_of_disk(self) -> str | None:
        if (free := shutil.disk_usage(self.path.parent).free) >= MIN_FREE_BYTES:
            return None
        return (
            f"{free / 1e9:.2f} GB are free on the disk of {self.path}, less than"
            f" {MIN_FREE_BYTES / 1e9:g} GB: make room, or samples will be lost"
        )


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
