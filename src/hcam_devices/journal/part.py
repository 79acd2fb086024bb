"""One file of a journal: the samples of a night, or of a piece of it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .notebook import Lost, Notebook
from .ranges import SampleRange, SampleRanges
from .records import unpack

SCHEMA = """
PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL;
CREATE TABLE sample (
    device TEXT, seq INTEGER, time REAL NOT NULL, body BLOB NOT NULL, PRIMARY KEY (device, seq)
) WITHOUT ROWID;
"""
INSERT = "INSERT INTO sample VALUES (?, ?, ?, ?)"
NEXT_DEVICE = "SELECT device FROM sample WHERE device > ? ORDER BY device LIMIT 1"
FIRST = "SELECT seq, time, body FROM sample WHERE device = ? ORDER BY seq LIMIT 1"
LAST = FIRST.replace("seq LIMIT", "seq DESC LIMIT")
BODIES = """
SELECT seq, body FROM sample
WHERE device = :device AND seq BETWEEN :first AND :last ORDER BY seq
LIMIT :last - :first + 1
"""
BETWEEN = """
SELECT min(seq), max(seq), count(*), min(time) FROM sample
WHERE device = :device AND seq BETWEEN :first AND :last AND time >= :start AND time < :end
"""
DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,  # a number is there already: the last one was misread
    sqlite3.SQLITE_ERROR,  # a table was changed
    sqlite3.SQLITE_IOERR_READ,  # a bad sector: other parts of the file may be undamaged
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)
FILES = "", "-wal", "-shm"
PASSES = 20
"""Copy at most this often what has come meanwhile."""


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means a damaged file, not a fault of the disk or the caller."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in DAMAGE or code & 0xFF in DAMAGE


class Part:
    """A SQLite file, and the notebook beside it, which says what should be in the file.

    ``held``: the first and the last number of each device, in ``epoch``. A last number below the
    first means none, and the numbers continue there. ``since`` and ``until``: when the first and
    the last sample were appended (Unix time). ``lost``: losses by device and beginning. ``gone``:
    the numbers that turned out to be unreadable. ``removed``: the file is not there any more, and
    its notebook says which samples are gone.
    """

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.path = stem.with_name(f"{stem.name}.sqlite")
        self.notebook = Notebook(stem.with_name(f"{stem.name}.json"))
        self.boot = self.epoch = ""
        self.since = self.until = 0.0
        self.held: dict[str, list[int]] = {}
        self.lost: dict[tuple[str, float], Lost] = {}
        self.gone = SampleRanges()
        self.removed = not self.path.exists()

    # --- the files --------------------------------------------------------------------------

    def create(self) -> sqlite3.Connection:
        """Create both files; return a connection to append samples with.

        Raises sqlite3.Error or OSError, and leaves nothing behind then.
        """
        try:
            self.write_notes()
            with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.executescript(SCHEMA)
            self.removed = False
            return self.connect(append=True)
        except BaseException:
            self.remove()
            self.forget()
            raise

    def connect(self, *, append: bool = False) -> sqlite3.Connection:
        """Return a connection: to read what can be read, or to append, if the file is sound.

        Raises sqlite3.Error.
        """
        # A WAL is there while samples are appended, or if the process was killed.
        wal = self.path.with_name(f"{self.path.name}-wal").exists()
        how = "mode=rw" if append or wal else "mode=ro&immutable=1"
        place = f"{self.path.absolute().as_uri()}?{how}"
        db = sqlite3.connect(
            place, uri=True, isolation_level=None, timeout=5, check_same_thread=False
        )
        try:
            if append:
                db.executescript("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;")
                db.execute("SELECT 1 FROM sample LIMIT 1")  # it creates the WAL
            else:
                db.execute("PRAGMA writable_schema = ON")  # or a file that is cut off is refused
                db.text_factory = lambda text: text.decode(errors="replace")
        except BaseException:
            db.close()
            raise
        return db

    def write_notes(self) -> None:
        """Write into the notebook what is in the file. Raises OSError."""
        names = "boot", "epoch", "since", "until", "held"
        lost = {"lost": [list(note) for note in self.lost.values()]}
        self.notebook.write({name: getattr(self, name) for name in names} | lost)

    def checkpoint(self) -> None:
        """Copy the samples from the WAL into the file itself. Raises sqlite3.Error.

        The WAL begins anew only if it had no sample more than was copied. Otherwise it would grow
        all night, if samples always come meanwhile: so what came is copied, too.
        """
        copied = None
        with closing(self.connect(append=True)) as db:
            for _ in range(PASSES):
                before, copied = copied, db.execute("PRAGMA wal_checkpoint").fetchone()
                if copied == before:
                    break

    def size(self) -> int:
        """Return how many bytes the file has."""
        size = 0
        for end in FILES[:2]:
            with suppress(FileNotFoundError):
                size += self.path.with_name(f"{self.path.name}{end}").stat().st_size
        return size

    def remove(self) -> None:
        """Remove the file, but not its notebook. Raises OSError."""
        self.removed = True
        for end in FILES:
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the notebook, too. Raises OSError."""
        self.notebook.close()
        self.notebook.path.unlink(missing_ok=True)

    # --- what is there ----------------------------------------------------------------------

    def load(self, now: float, *, check: bool) -> bool:
        """Read the notebook, and the ends of the numbers in the file to ``check`` it.

        The file is also read if the notebook cannot be. Return whether the file has all that the
        notebook says. A process that was killed may not have noted its last samples.
        """
        if notes := self.notebook.read():
            self.boot, self.epoch, self.held = notes["boot"], notes["epoch"], notes["held"]
            self.since, self.until = notes["since"], notes["until"]
            self.lost = {(note[0], note[2]): Lost(*note) for note in notes["lost"]}
        if self.removed or (notes and not check):
            return bool(notes)
        noted, sound = self.held, self._scan(now, bool(notes)) and bool(notes)
        for device, (first, last) in noted.items():
            there = self.held.setdefault(device, [first, first - 1])
            sound = sound and last <= there[1]
            there[:] = min(first, there[0]), max(last, there[1])
        with suppress(OSError):
            self.write_notes()
            self.notebook.close()
        return sound

    def _scan(self, now: float, noted: bool) -> bool:
        """Read the ends of the numbers; return whether they are readable and true."""
        sound = True
        found: dict[str, list[int]] = {}
        times = []
        try:
            with closing(self.connect()) as db:
                device = ""
                while row := db.execute(NEXT_DEVICE, (device,)).fetchone():
                    if not isinstance(row[0], str) or row[0] <= device:
                        raise sqlite3.DatabaseError("the rows are out of order")
                    (device,) = row
                    for query in (FIRST, LAST):
                        seq, time, body = db.execute(query, row).fetchone() or (0, 0.0, b"")
                        key, _ = unpack(body)
                        self.epoch = self.epoch or (key[1] if key else "")
                        if key != (device, self.epoch, seq):
                            sound = False
                            continue
                        times.append(time)
                        found.setdefault(device, [seq, seq])[1] = seq
        except sqlite3.Error:
            sound = False
        self.held = found
        if not noted:
            past = [time for time in times if isinstance(time, float) and 0 < time <= now]
            self.since, self.until = min(past, default=now), max(past, default=now)
        return sound

    @property
    def devices(self) -> set[str]:
        """The devices of which there are samples, or were."""
        return self.held.keys() | {note.device for note in self.lost.values()}

    @property
    def samples(self) -> int:
        """The count of the samples."""
        return sum(last - first + 1 for first, last in self.held.values())

    # --- reading ----------------------------------------------------------------------------

    def bodies(self, wanted: SampleRange) -> Iterator[tuple[int, str]]:
        """Yield number and record of each sample that can be read, in order.

        Raises sqlite3.Error if the disk is at fault.
        """
        device, epoch, *_ = wanted
        for seq, body in self._rows(BODIES, wanted):
            key, text = unpack(body)
            if key == (device, epoch, seq):
                yield seq, text

    def between(self, wanted: SampleRange, start: float, end: float) -> tuple[int, int, int] | None:
        """Return first number, last number and count of those appended from ``start`` to ``end``.

        None if there are none. Raises sqlite3.Error if the disk is at fault.
        """
        if self.until < start or end <= self.since:
            return None
        there = list((SampleRanges([wanted]) - self.gone).ranges())
        found = [(each.first, each.last, each.samples) for each in there]
        if start > self.since or end <= self.until:
            every = (self._rows(BETWEEN, each, start=start, end=end) for each in there)
            found = [row[:3] for rows in every for row in rows if row[2]]
        return (found[0][0], found[-1][1], sum(row[2] for row in found)) if found else None

    def oldest(self, wanted: SampleRange) -> float:
        """Return when the first of some samples was appended (Unix time). Raises sqlite3.Error."""
        rows = self._rows(BETWEEN, wanted._replace(last=wanted.first), start=-1e99, end=1e99)
        return (rows and rows[0][3]) or self.since

    def _rows(self, query: str, wanted: SampleRange, **more: float) -> list[tuple[Any, ...]]:
        """Return the rows of a query, or of as many ranges of numbers as can be read."""
        values = {"device": wanted.device} | more

        def rows(first: int, last: int) -> list[tuple[Any, ...]]:
            numbers = range(first, last + 1)
            try:
                found = db.execute(query, values | {"first": first, "last": last}).fetchall()
                if query != BODIES:
                    return found
                # Rows may be missing, doubled or of other numbers, without an error.
                found = sorted({row[0]: row for row in found if row[0] in numbers}.values())
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                found = []
            if len(found) == len(numbers) or first == last:
                return found
            middle = (first + last) // 2
            return rows(first, middle) + rows(middle + 1, last)

        try:
            with closing(self.connect()) as db:
                return rows(wanted.first, wanted.last)
        except sqlite3.OperationalError:
            if self.path.exists():
                raise
            return []
