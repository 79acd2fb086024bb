"""The embedded store, which needs only a folder: ``tonight.sqlite``, and a file a device and night.

The files of closed nights are Parquet. They are written by another process (``closing.py``), and
enter the catalogue, in ``tonight.sqlite``, in the transaction that removes their rows from there.
"""

import fcntl
import json
import logging
import operator
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from ...journal.age import DAY_S, AgeClock
from ...journal.points import TIMES, night_bounds, night_of
from ...journal.ranges import SampleRange, SampleRanges, numbers_of
from ...journal.records import Record
from ..child import Child
from . import AwayError
from .files import SqliteFile, copied_file, differs, sync, trying
from .tonight import (
    DAMAGED,
    NAME,
    NIGHTS,
    TABLES,
    Entry,
    Job,
    Shapes,
    device_of,
    due,
    entries,
    gone_in,
    ranges_of,
)

log = logging.getLogger(__name__)

LOST = "its file was damaged: "
"""The beginning of the reason of samples that may come again, from the journals."""
AGED = "older than keep_days: "
"""The beginning of the reason of samples that were deleted because of their age."""
LOCK_TRIES = 10
ROWS = "FROM sample WHERE device = ? AND epoch = ? AND seq BETWEEN ? AND ?"


class EmbeddedStore:
    """Keeps all samples, those of closed nights in Parquet files, for ``keep_days`` or for ever.

    A step of ``clock`` does not make nights old, because ``steady`` counts the running time. Its
    default is the machine's monotonic clock, or ``clock`` if that is not the machine's.

    Only one program may write to a folder. Raises AwayError if the folder cannot be used.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        keep_days: float | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self.name, self.folder, self.clock = name, folder, clock
        self.stored = SampleRanges()
        self.child = Child(folder)
        """Reads and writes closed files."""
        self.copies: Callable[[], list[Path]] = list
        """Returns the folders that have copies of closed files and are available."""
        self._age: AgeClock | None = None
        self._turn = ""
        self._troubles: dict[str, float] = {}
        with ExitStack() as opened:
            with trying(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = opened.enter_context((folder / "lock").open("wb"))
                _take(lock)
                for path in (folder / NIGHTS).glob("*/*.new"):  # of a process that was killed
                    path.unlink()
            self._shapes = Shapes()
            self._tonight = SqliteFile(folder / NAME, TABLES, self._load, clock)
            opened.callback(self._tonight.close)
            self._tonight.do(lambda _: None)
            self._opened = opened.pop_all()
        if keep_days is not None:
            steady = steady or (time.monotonic if clock is time.time else clock)
            age = folder / "nights.clock"
            self._age = AgeClock(age, keep_days * DAY_S, clock, steady, self._newest)

    # --- opening ----------------------------------------------------------------------------

    def _load(self, db: sqlite3.Connection) -> None:
        """Finish what was interrupted, see to unknown files, and read which samples there are."""
        self._shapes.load(db)
        for night, name, text in db.execute("SELECT * FROM pending").fetchall():
            facts = json.loads(text)
            if differs(self._path(night, name), facts["checksum"]):
                db.execute("DELETE FROM pending WHERE night = ? AND name = ?", (night, name))
            else:
                self._finish(db, night, name, facts)
        files, unknown = SampleRanges(), set((self.folder / NIGHTS).glob("*/*.parquet"))
        there = unknown.copy()
        known = {self._path(entry.night, entry.name): entry for entry in entries(db)}
        unknown -= known.keys()
        renewed = {(path.parent.name, device_of(path.name)) for path in unknown}
        for path, entry in known.items():
            if (entry.night, entry.device) in renewed and path not in there:
                # The catalogue is older than the files: somebody put a copy in its place.
                db.execute("DELETE FROM file WHERE night = ? AND name = ?", entry[:2])
            else:
                files |= entry.samples
        self._adopt(db, files, sorted(unknown))
        # Damage may have changed a time into one that no night has.
        db.execute("DELETE FROM sample WHERE time NOT BETWEEN ? AND ?", (TIMES[0], TIMES[-1]))
        rows = SampleRanges()
        query = "SELECT device, epoch, seq FROM sample ORDER BY device, epoch, seq"
        for (device, epoch), some in groupby(db.execute(query), operator.itemgetter(0, 1)):
            rows.add_numbers(device, epoch, map(operator.itemgetter(2), some))
        self._delete_rows(db, rows & files)
        self.stored = rows | files
        for samples in gone_in(db):
            if not samples.reason.startswith(LOST):
                self.stored.add(*samples[:4])

    def _adopt(self, db: sqlite3.Connection, files: SampleRanges, unknown: list[Path]) -> None:
        """Enter files that the catalogue does not know; remove those that are in others.

        Such files come from a closing that was interrupted, or the catalogue is new.
        """
        examined = {path: self.child.ask("examine", str(path)) for path in unknown}
        for path in sorted(unknown, key=lambda path: -examined[path].get("samples", -1)):
            facts = examined[path]
            device, night = device_of(path.name), path.parent.name
            ranges = ranges_of(device, facts.get("ranges", ()))
            if facts and not ranges - files:
                path.unlink()
            elif facts and not ranges & files:
                for column, what in facts.pop("fields").items():
                    row = device, column, *what
                    db.execute("INSERT OR IGNORE INTO field VALUES (?, ?, ?, ?, ?)", row)
                    self._shapes.fields[device].setdefault(column, tuple(what))
                self._enter(db, night, path.name, {**facts, "device": device, "entered": 0})
                files |= ranges
            else:
                self._move(path, "has some samples of others" if facts else "cannot be read")

    def _path(self, night: str, name: str) -> Path:
        return self.folder / NIGHTS / night / name

    # --- samples ----------------------------------------------------------------------------

    def rows(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the samples unchanged."""
        return records

    def write(self, records: Sequence[Record]) -> None:
        """Store samples in one transaction. Raises AwayError."""
        new = numbers_of(records) - self.stored
        if len(new) < len(records):
            records = [record for record in records if record[:3] in new]
        records = sorted(records, key=operator.itemgetter(0))  # neighbours in the table

        def keep(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO sample (rowid, device, epoch, seq, time, shape, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                self._shapes.rows(db, records),
            )

        if new:
            self._tonight.do(keep)
            self.stored |= new

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that samples are lost unless they are stored. Raises AwayError."""
        lost, there = [], self.stored.copy()
        for samples in gone:
            missing = SampleRanges([samples]) - there
            lost += [part._replace(reason=samples.reason) for part in missing.ranges()]
            there |= missing
        self._tonight.do(lambda db: self._note(db, lost))
        self.stored |= SampleRanges(lost)
        return True

    def _note(self, db: sqlite3.Connection, gone: Iterable[SampleRange], reason: str = "") -> None:
        rows = [(*samples[:4], reason or samples.reason, self.clock()) for samples in gone]
        db.executemany("INSERT INTO gone VALUES (?, ?, ?, ?, ?, ?)", rows)

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, with reasons. Raises AwayError."""
        notes = self._tonight.do(gone_in)
        return [samples for samples in notes if not samples.reason.startswith((LOST, AGED))]

    def aside(self) -> int:
        """Return 0, because this store rejects no samples."""
        return 0

    def refusals(self) -> list[str]:
        """Return an empty list, because this store rejects no samples."""
        return []

    # --- closed files -----------------------------------------------------------------------

    def enter(self, job: Job, facts: dict[str, Any]) -> bool:
        """Put the file of a job into its place, instead of its parts and its rows.

        Return whether that was done: it is not if these are not there any more. Raises AwayError.
        """
        new, place = self._path(job.night, facts["file"]), self._path(job.night, job.name)
        parts = [name for name, *_ in job.parts]
        now = int(self.clock() * 1000)
        facts = {**facts, "device": job.device, "entered": now, "parts": parts}

        def begin(db: sqlite3.Connection) -> bool:
            query = "SELECT name, checksum FROM file WHERE night = ?"
            files = dict(db.execute(query, (job.night,)).fetchall())
            there = all(files.get(name) == known for name, known, _ in job.parts)
            there &= job.name in parts or job.name not in files
            if there and not self._has_rows(db, ranges_of(job.device, facts["rows"])):
                if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                    raise sqlite3.DatabaseError(found)
                there = False
            if there:
                row = job.night, job.name, json.dumps(facts)
                db.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", row)
            return there

        if not self._tonight.do(begin, full=True):
            new.unlink(missing_ok=True)
            return False
        try:
            with trying(place):
                new.rename(place)
                sync(place.parent)
                sync(place.parent.parent)
            self._tonight.do(
                partial(self._finish, night=job.night, name=job.name, facts=facts), full=True
            )
        except AwayError:
            self._tonight.close()  # opening it finishes or forgets what is pending
            raise
        self.stored -= SampleRanges(SampleRange(*samples) for samples in job.drop)
        return True

    def _has_rows(self, db: sqlite3.Connection, samples: SampleRanges) -> bool:
        query = f"SELECT count(*) {ROWS}"
        found = sum(db.execute(query, part[:4]).fetchone()[0] for part in samples.ranges())
        return bool(found == len(samples))

    def _finish(self, db: sqlite3.Connection, night: str, name: str, facts: dict[str, Any]) -> None:
        """Enter a file that is in its place; remove its parts and its rows."""
        for part in facts["parts"]:
            db.execute("DELETE FROM file WHERE night = ? AND name = ?", (night, part))
            if part != name:
                self._path(night, part).unlink(missing_ok=True)
        if facts["samples"]:
            self._enter(db, night, name, facts)
        else:  # all of them were wrong
            self._path(night, name).unlink(missing_ok=True)
        self._delete_rows(db, ranges_of(facts["device"], facts["rows"]))
        db.execute("DELETE FROM pending WHERE night = ? AND name = ?", (night, name))

    def _enter(self, db: sqlite3.Connection, night: str, name: str, facts: dict[str, Any]) -> None:
        row = (
            *(night, name, facts["device"], facts["first"], facts["last"], facts["samples"]),
            *(json.dumps(facts["ranges"]), facts["checksum"]),
            json.dumps({key: facts[key] for key in ("values", "size", "entered")}),
        )
        db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _delete_rows(self, db: sqlite3.Connection, samples: SampleRanges) -> None:
        db.executemany(f"DELETE {ROWS}", (part[:4] for part in samples.ranges()))

    def drop(self, samples: SampleRanges) -> list[Job]:
        """Delete rows of samples that are wrong; return the jobs that take others out of files.

        They are missing then, so that the journals are asked for them. Raises AwayError.
        """
        jobs = []
        rows = samples

        def remove(db: sqlite3.Connection) -> None:
            nonlocal rows
            self._delete_rows(db, samples)
            for night, name, device, *_, there, known, facts in entries(db):
                if wrong := there & samples:
                    parts = ((name, known, facts["values"]),)
                    gone = [each[:4] for each in wrong.ranges()]
                    jobs.append(Job(device, night, name, night_bounds(night)[0], parts, gone))
                    rows -= wrong

        self._tonight.do(remove)
        self.stored -= rows
        return jobs

    def repair(self, wrong: SampleRanges, call: Callable[..., Any] = operator.call) -> None:
        """Forget samples that are wrong or not there, so that they are asked for again.

        See ``close_nights`` for ``call``. Raises AwayError, OSError or ValueError.
        """
        for job in call(self.drop, wrong):
            self._run(job, call)
        log.warning("store %s: %s were wrong, and are asked for again", self.name, wrong)

    def close_nights(self, night: str = "", call: Callable[..., Any] = operator.call) -> list[str]:
        """Close the hours and nights that are due, or a ``night`` with all there is of it.

        Return a sentence for each file that could not be written. The methods of this store are
        called through ``call``, and files are written in another process meanwhile.
        """
        troubles = []
        now = int(self.clock() * 1000)
        with trying(self.folder / NAME):
            jobs = due(self.folder, now, night and night_of(night_bounds(night)[0]))
        for job in jobs:
            try:
                self._run(job, call)
            except (AwayError, OSError, ValueError) as error:
                troubles.append(
                    f"{job.device} in {job.night} cannot be closed now: {error}; "
                    f"its samples stay in {NAME}"
                )
        for trouble in troubles:
            self.say(trouble)
        return troubles

    def _run(self, job: Job, call: Callable[..., Any]) -> None:
        facts = self.child.ask("build", job)
        if bad := facts.get("bad_rows"):
            self.say(
                f"{NAME} was damaged: {len(bad)} samples of {job.device} in night {job.night} are "
                "asked for again"
            )
            call(self.drop, ranges_of(job.device, ((epoch, seq, seq) for epoch, seq in bad)))
        elif "file" in facts:
            call(self.enter, job, facts)
        for name in facts.get("bad_files", ()):
            call(self.set_aside, job.night, name)

    def set_aside(self, night: str, name: str) -> None:
        """Move a damaged file away; its samples are asked for again, unless there is a copy.

        Raises AwayError.
        """
        path = self._path(night, name)
        entry = next((entry for entry in self._entries(night) if entry.name == name), None)
        known = entry.checksum if entry else ""
        for folder in self.copies() if known else ():
            with trying(path):
                if copied_file(folder / NIGHTS / night / name, path.with_suffix(".new"), known):
                    self._move(path, f"is damaged, and was copied back from {folder}")
                    path.with_suffix(".new").rename(path)
                    sync(path.parent)
                    return
        with trying(path):
            self._move(path, "is damaged, and is asked for again")

        if entry:
            self._forget([entry], f"{LOST}{night}/{name}")
            self.stored -= entry.samples

    def _entries(self, night: str = "") -> list[Entry]:
        return self._tonight.do(lambda db: entries(db, night))

    def _forget(self, files: list[Entry], reason: str) -> None:
        """Remove files from the catalogue, and note why their samples are gone."""

        def forget(db: sqlite3.Connection) -> None:
            for entry in files:
                self._note(db, entry.samples.ranges(), reason)
                db.execute("DELETE FROM file WHERE night = ? AND name = ?", entry[:2])

        self._tonight.do(forget, full=True)

    def _move(self, path: Path, why: str) -> None:
        night = path.parent.name
        aside = self.folder / DAMAGED / night / f"{path.name}-{int(self.clock())}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        kept = f"kept as {aside}"
        try:
            path.rename(aside)
        except FileNotFoundError:
            kept = "not there any more"
        device = device_of(path.name)
        self.say(f"the closed file of {device} in night {night} {why}; it is {kept}")

    def say(self, trouble: str) -> None:
        """Put a sentence into the log, and into ``warning`` for a day."""
        log.error("store %s: %s", self.name, trouble)
        self._troubles[trouble] = self.clock()

    @property
    def warning(self) -> str:
        """The text of an alarm about damage and the clock; empty if there is none."""
        now = self.clock()
        recent = [text for text, at in self._troubles.copy().items() if abs(now - at) < DAY_S]
        clock = self._age.warning() if self._age else ""
        return "; ".join(filter(None, (clock, self._tonight.damage, *recent)))

    def tidy(self) -> None:
        """Check the files of one night, in turns, and delete those of old nights.

        Raises AwayError if a file could not be used.
        """
        nights = list(dict.fromkeys(entry.night for entry in self._entries()))
        if self._age:
            aged = (self._age.now() - self._age.keep) * 1000
            for night in nights:
                if night_bounds(night)[1] <= aged:
                    self._delete(night)
        if nights:
            self._turn = next((night for night in nights if night > self._turn), nights[0])
            self.check(self._turn)

    def check(self, night: str) -> None:
        """Compare the files of a night with their checksums. Raises AwayError."""
        files = self._entries(night)
        if files and not (self.folder / NIGHTS).is_dir():
            raise AwayError(f"{self.folder / NIGHTS} is not there any more: put it back")
        for entry in files:
            with trying(path := self._path(night, entry.name)):
                damaged = differs(path, entry.checksum)
            if damaged:
                self.set_aside(night, entry.name)

    def _delete(self, night: str) -> None:
        files = self._entries(night)
        self._forget(files, f"{AGED}{night}")
        with trying(self.folder / NIGHTS / night):
            for entry in files:
                self._path(night, entry.name).unlink(missing_ok=True)
        with suppress(OSError):  # somebody may have put something there
            (self.folder / NIGHTS / night).rmdir()

    def _newest(self) -> float | None:
        """Return the end (Unix time) of the newest night that is not in the future."""
        query = """
            SELECT max(time) FROM (SELECT time FROM sample UNION ALL SELECT last FROM file)
            WHERE time <= ?
        """
        now = int(self.clock() * 1000)
        (newest,) = self._tonight.do(lambda db: db.execute(query, (now,)).fetchone())
        return None if newest is None else night_bounds(night_of(newest))[1] / 1000

    def close(self) -> None:
        """Close all files, and release the lock of the folder."""
        self.child.close()
        self._opened.close()


def _take(lock: IO[bytes]) -> None:
    """Lock a file. A killed program's lock may live a moment longer, in a process it was starting.

    Raises BlockingIOError if another program has it.
    """
    for left in reversed(range(LOCK_TRIES)):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.1)
