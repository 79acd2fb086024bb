"""The embedded store, which needs only a folder: a file for each night, and one for old nights."""

import fcntl
import json
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from ...journal.age import AgeClock
from ...journal.checked import File, digest, put_texts, quick_check, sealed
from ...journal.commands import is_commands
from ...journal.points import DAY_MS, Point, night_bounds, night_of
from ...journal.ranges import SampleRange, SampleRanges
from . import AwayError
from .ledger import Ledger, kept, load, save
from .nights import (
    HALF_HOUR,
    MAIN,
    MAIN_TABLES,
    MINUTE,
    MINUTES,
    NIGHT_TABLES,
    NIGHTS,
    SAMPLE,
    Stream,
    decoder,
    packed,
    rolled_up,
    rows,
    streams,
    summarize,
    survey,
    trying,
)

log = logging.getLogger(__name__)

MAX_OPEN = 3
KINDS = {bool: "bool", str: "text"}


@lru_cache(maxsize=1000)
def _stream(
    device: str,
    epoch: str,
    names: tuple[str, ...],
    kinds: tuple[type, ...],
    units: tuple[tuple[str, str], ...],
) -> Stream:
    unit = dict(units).get
    fields = zip(names, kinds, strict=True)
    return Stream(device, epoch, tuple((n, KINDS.get(k, "number"), unit(n)) for n, k in fields))


def _row(point: Point, texts: dict[int, str]) -> tuple[int, int, int, bytes]:
    """Return the row of a point, and add its texts to ``texts``."""
    names, values = tuple(point.values), point.values.values()
    units = tuple(point.units.items())
    stream = _stream(point.device, point.epoch, names, tuple(map(type, values)), units)
    texts[stream.id] = stream.text
    numbers = []
    for value in values:
        if isinstance(value, str):
            texts[number := digest(value)] = value
            numbers.append(float(number))
        else:
            numbers.append(value)
    key = stream.id, point.time, point.seq
    return *key, sealed(stream.body.pack(*numbers), *key)


def _take_out(db: sqlite3.Connection, points: Iterable[Point]) -> None:
    """Delete the rows with the numbers of some points, at any time and with any fields."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for point in points:
        numbers[point.device, point.epoch].append(point.seq)
    for stream in streams(db):
        db.executemany(
            "DELETE FROM sample WHERE stream = ? AND seq = ?",
            [(stream.id, seq) for seq in numbers.get((stream.device, stream.epoch), ())],
        )


def _numbers(points: Iterable[Point]) -> SampleRanges:
    found = SampleRanges()
    for point in points:
        found.add(point.device, point.epoch, point.seq, point.seq)
    return found


class Night:
    """The file of one night. The methods raise sqlite3.OperationalError and OSError."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.file = File(path, NIGHT_TABLES, self._mend, self._load, clock)
        self.stored = SampleRanges()
        self.unread = False
        """Whether the file could not be read when opened; it may have more than ``stored``."""
        self._checked = False

    def _mend(self, db: sqlite3.Connection) -> None:
        found, unsound = survey(db)
        db.executemany("DELETE FROM sample WHERE stream = ? AND time = ? AND seq = ?", unsound)
        db.execute("DELETE FROM stored")
        save(db, found, found.keys)

    def _load(self, db: sqlite3.Connection) -> None:
        self.stored = load(db)

    def read(self) -> None:
        """Read which samples are noted as stored, and close the file."""
        self.file.do(lambda _: None)
        self.file.close()

    def write(self, points: Sequence[Point], *, instead: bool = False) -> SampleRanges:
        """Store points and note them as stored, in one transaction; return their numbers.

        With ``instead``, existing rows with these numbers are deleted first.
        """
        texts: dict[int, str] = {}
        found = [_row(point, texts) for point in points]
        new = _numbers(points)

        def keep(db: sqlite3.Connection) -> None:
            if not self._checked:
                quick_check(db)
            if instead:
                _take_out(db, points)
            put_texts(db, texts)
            db.executemany(SAMPLE.insert(), found)
            changed = self.stored.of(new.keys)
            changed |= new
            save(db, changed, new.keys)

        self.file.do(keep)
        self.stored |= new
        self._checked, self.unread = True, False
        return new

    def take_out(self, points: Sequence[Point]) -> None:
        """Delete the rows with the numbers of some points, and note them as not stored."""
        gone = _numbers(points)

        def remove(db: sqlite3.Connection) -> SampleRanges:
            _take_out(db, points)
            stored = self.stored - gone
            save(db, stored, gone.keys)
            return stored

        self.stored = self.file.do(remove)

    def check(self) -> None:
        """Read every row, and rebuild the file if one is damaged."""

        def look(db: sqlite3.Connection) -> SampleRanges:
            quick_check(db)
            found, unsound = survey(db)
            if found != load(db):
                raise sqlite3.DatabaseError(f"damaged samples: {len(unsound)}")
            return found

        self.stored, self.unread = self.file.do(look), False


def _minutes_of(
    db: sqlite3.Connection,
) -> tuple[dict[int, str], list[tuple[int, int, int, bytes]]]:
    """Return the texts of the series, and the rows of minutes, of a night."""
    texts: dict[int, str] = {}
    found = []
    for stream in streams(db):
        series = [json.dumps([stream.device, *field]) for field in stream.fields]
        width = 1 if is_commands(stream.device) else MINUTE
        values = [decoder(db, kind) for _, kind, _ in stream.fields]
        texts |= {digest(text): text for text in series}
        for half, group in groupby(rows(db, stream), lambda row: row[0] // HALF_HOUR):
            times, seqs, bodies = zip(*group, strict=True)
            part, keys = digest(f"{stream.epoch} {seqs[0]}"), [*zip(times, seqs, strict=True)]
            columns = zip(*map(stream.body.unpack_from, bodies), strict=True)
            for text, value, column in zip(series, values, columns, strict=True):
                minutes = [minute for _, minute in summarize(keys, column, value, 0, width)]
                if minutes:
                    key = digest(text), half, part
                    found.append((*key, packed(minutes, *key)))
    return texts, found


class EmbeddedStore:
    """Keeps all samples of a night for ``raw_days``, and then its minutes for ever.

    A step of ``clock`` does not make nights old, because ``steady`` counts the running time. Its
    default is the machine's monotonic clock, or ``clock`` if that is not the machine's.

    Only one program may write to a folder. Raises AwayError if the folder cannot be used.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        raw_days: float = 30,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self.name, self.folder, self.clock = name, folder, clock
        self.keep = raw_days * DAY_MS
        self.warning = ""
        steady = steady or (time.monotonic if clock is time.time else clock)
        self._nights: dict[str, Night] = {}
        self._recent: list[str] = []
        self._turns = ["", ""]
        self._assumed = SampleRanges()
        with ExitStack() as opened:
            with trying(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = opened.enter_context((folder / "lock").open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            main = folder / f"{MAIN}.sqlite"
            with trying(main):
                self._ledger = Ledger(main, MAIN_TABLES, clock)
            opened.callback(self._ledger.close)
            for path in sorted((*folder.glob(NIGHTS), *folder.glob(f"{NIGHTS}.new"))):
                night = self._night(path.name.partition(".")[0])
                try:
                    with trying(night.file.path):
                        night.read()
                except AwayError as error:
                    night.unread = True
                    log.warning("%s; nothing is written to it until it can be read", error)
            self._opened = opened.pop_all()
        self._unite()
        age = folder / "nights.clock"
        self._age = AgeClock(age, self.keep / 1000, clock, steady, self._newest)

    def _newest(self) -> float | None:
        """Return the end (Unix time) of the newest night that is not in the future."""
        today = night_of(int(self.clock() * 1000))
        names = [name for name in self._nights if name <= today]
        return night_bounds(max(names))[1] / 1000 if names else None

    def _night(self, name: str) -> Night:
        """Return a night. Only the files of the last few used nights stay open."""
        if name not in self._nights:
            self._nights[name] = Night(self.folder / f"{name}.sqlite", self.clock)
        self._recent = [*(night for night in self._recent if night != name), name]
        while len(self._recent) > MAX_OPEN:
            self._nights[self._recent.pop(0)].file.close()
        return self._nights[name]

    def _unread(self) -> list[str]:
        return [name for name, night in self._nights.items() if night.unread]

    def _assume(self, samples: SampleRanges) -> None:
        """Treat samples as stored until every night was read, because one may have them."""
        self._assumed |= samples
        self.stored |= samples

    def _unite(self) -> None:
        stored, nights = SampleRanges(), self._nights.values()
        if not self._unread():
            self._assumed = SampleRanges()
        for samples in (self._ledger.stored, self._assumed, *(night.stored for night in nights)):
            stored |= samples
        for night in nights:
            night.file.renewed = False
        self.stored = stored

    def rows(self, points: Sequence[Point]) -> Sequence[Point]:
        """Return the points unchanged; they are packed when they are written."""
        return points

    def write(self, points: Sequence[Point]) -> None:
        """Store points, those of each night in one transaction. Raises AwayError."""
        fresh: dict[tuple[str, str, int], Point] = {}
        for point in points:
            key = point.device, point.epoch, point.seq
            if key not in self.stored:
                fresh.setdefault(key, point)
        nights: dict[int, list[Point]] = defaultdict(list)
        for point in fresh.values():
            nights[(point.time - DAY_MS // 2) // DAY_MS].append(point)  # faster than ``night_of``
        today = night_of(int(self.clock() * 1000))
        for some in nights.values():
            night = self._night(name := night_of(some[0].time))
            if night.unread and name != today:
                self._assume(_numbers(some))
                continue
            unread = night.unread
            try:
                with trying(night.file.path):
                    if self._rolled_up(night):  # its file could not be removed at that time
                        night.file.remove()
                    self.stored |= night.write(some)
            finally:
                if night.file.renewed or night.unread != unread:
                    self._unite()

    def replace(self, points: Sequence[Point]) -> None:
        """Store points in place of the rows with their numbers in any night. Raises AwayError."""
        nights: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            nights[night_of(point.time)].append(point)
        try:
            for name, night in list(self._nights.items()):
                strayed = [
                    point
                    for point in points
                    if point[:3] in night.stored and night_of(point.time) != name
                ]
                if strayed:
                    with trying(night.file.path):
                        night.take_out(strayed)
            for name, some in nights.items():
                night = self._night(name)
                with trying(night.file.path):
                    night.write(some, instead=True)
        finally:
            self._unite()

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that samples are lost unless they are stored. Raises AwayError.

        Nothing is noted while a night cannot be read, because it may have them.
        """
        lost = []
        try:
            for samples in gone:
                missing = SampleRanges([samples]) - self.stored
                lost += [part._replace(reason=samples.reason) for part in missing.ranges()]
                self._assume(missing)
            if self._unread():
                return False
            with trying(self._ledger.file.path):
                self._ledger.settle(lost)
            return True
        finally:
            self._unite()

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, with reasons. Raises AwayError."""
        try:
            with trying(self._ledger.file.path):
                return self._ledger.gone()
        finally:
            self._unite()

    def aside(self) -> int:
        """Return 0, because this store rejects no samples."""
        return 0

    def refusals(self) -> list[str]:
        """Return an empty list, because this store rejects no samples."""
        return []

    def tidy(self) -> None:
        """Roll up one old night; check another one, and repair it if it is damaged.

        Nights take turns, except that those that could not be read are due every time. All files
        but tonight's are closed. Raises AwayError at the end if a file could not be used.
        """
        now = int(self.clock() * 1000)
        today = night_of(now)
        for name, night in list(self._nights.items()):
            if name != today:
                night.file.close()
            with suppress(OSError):  # the file may exist
                if not night.file.path.exists():
                    self._forget(name)
        finished = sorted(name for name in self._nights if name < today)
        aged = int(self._age.now() * 1000)
        self.warning = self._age.warning()
        old = [name for name in finished if night_bounds(name)[1] + self.keep <= aged]
        due = set(self._unread())
        for which, some in enumerate((old, finished[len(old) :])):
            if some:  # in turns, because a device with a wrong clock may always write to the oldest
                self._turns[which] = next((n for n in some if n > self._turns[which]), some[0])
                due.add(self._turns[which])
        failed = None
        try:
            for name in sorted(due):
                try:
                    self._check(name)
                    if name in old:
                        self._roll_up(name)
                except AwayError as error:
                    failed = error
        finally:
            self._unite()
        if failed:
            raise failed

    def _check(self, name: str) -> None:
        night = self._night(name)
        with trying(night.file.path):
            night.check()
            night.file.close()

    def _rolled_up(self, night: Night) -> bool:
        """Return whether a night is in the main file on the disk."""
        main = self._ledger
        return rolled_up(night.stored, main.stored) and rolled_up(night.stored, main.file.do(kept))

    def _roll_up(self, name: str) -> None:
        """Move a night into the main file, unless it is there already, and remove its own file."""
        night, main = self._nights[name], self._ledger.file
        with trying(main.path):
            done = self._rolled_up(night)
        if not done:
            with trying(night.file.path):
                texts, minutes = night.file.do(_minutes_of)

            def keep(db: sqlite3.Connection) -> SampleRanges:
                put_texts(db, texts)
                db.executemany(MINUTES.insert(), minutes)
                stored = self._ledger.stored | night.stored
                save(db, stored, night.stored.keys)
                return stored

            with trying(main.path):
                self._ledger.stored = main.do(keep)
        with trying(night.file.path):
            night.file.remove()
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._nights.pop(name).file.close()
        self._recent = [night for night in self._recent if night != name]

    def close(self) -> None:
        """Close all files, and release the lock of the folder."""
        for night in self._nights.values():
            night.file.close()
        self._opened.close()
