"""Files of stores: their checksums and copies, and SQLite files that outlive damage."""

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from errno import EIO, ENOENT
from hashlib import file_digest
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from . import AwayError

log = logging.getLogger(__name__)

T = TypeVar("T")

ADVICE = {
    "SQLITE_FULL": "make room on its disk",
    "SQLITE_BUSY": "stop the other program that writes to it",
    "SQLITE_READONLY": "let this user write there",
    "SQLITE_CANTOPEN": "let this user read and write there",
}
BAD_SECTOR = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)
"""SQLite's codes for a disk that cannot be read: other parts of the file may be undamaged."""
EXTRAS = ("", "-shm", "-wal")
TYPES = {"TEXT": str, "INTEGER": int, "REAL": float}
MAX_ROWID = 2**50
"""Look for rows up to this number, if the file does not say which is the last."""
MAX_SKIP, MAX_ERRORS = 16, 2000
"""Skip this many rows around damage, and give up after this many errors."""


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means a damaged file, not one that cannot be reached, or a bug."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in BAD_SECTOR or type(error) in (sqlite3.DatabaseError, sqlite3.DataError)


def away(path: Path, error: Exception) -> AwayError:
    """Return an error that names the file that cannot be used, and the next step."""
    code = str(getattr(error, "sqlite_errorname", ""))
    advice = [step for beginning, step in ADVICE.items() if code.startswith(beginning)]
    return AwayError(f"{path} cannot be used now ({error}): {(*advice, 'check its disk')[0]}")


@contextmanager
def trying(path: Path) -> Iterator[None]:
    """Raise AwayError if the file of a store cannot be used within the context."""
    try:
        yield
    except BlockingIOError as error:
        raise AwayError(f"another recorder writes to {path}: stop one of the two") from error
    except (OSError, sqlite3.OperationalError) as error:
        raise away(path, error) from error
    except sqlite3.Error as error:
        if is_damage(error):  # even in the new file
            raise away(path, error) from error
        raise


# --- closed files ---------------------------------------------------------------------------


def checksum(path: Path) -> str:
    """Return the checksum of a file. Raises OSError."""
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()


def differs(path: Path, known: str) -> bool:
    """Return whether a closed file is not there, or cannot be read, or is another one."""
    try:
        return checksum(path) != known
    except OSError as error:
        if error.errno in (ENOENT, EIO):
            return True
        raise


def copied_file(source: Path, new: Path, known: str) -> bool:
    """Copy a closed file and return whether the copy, on the disk, has the right checksum.

    Raises OSError.
    """
    with suppress(FileNotFoundError):
        shutil.copyfile(source, new)
        sync(new)
    if differs(new, known):
        new.unlink(missing_ok=True)
        return False
    return True


def sync(path: Path) -> None:
    """Let a file, or the names in a folder, survive a power failure. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# --- SQLite files ---------------------------------------------------------------------------


def connect(path: Path, how: str = "mode=ro") -> sqlite3.Connection:
    """Open a SQLite file, by default only to read it; it may be written meanwhile."""
    place = f"{path.absolute().as_uri()}?{how}"
    return sqlite3.connect(
        place, uri=True, isolation_level=None, timeout=5, check_same_thread=False
    )


def readable(raw: bytes) -> str:
    """Return a text that may be damaged, as far as it can be read."""
    return raw.decode(errors="replace")


class Table(NamedTuple):
    """A table: its columns with their types, and its key or other constraint."""

    columns: str
    key: str = ""
    salvaged: bool = True
    """Whether its rows are copied from a damaged file."""

    def sql(self, name: str) -> str:
        """Return the statement that creates it."""
        return f"CREATE TABLE {name} ({self.columns}{self.key and f', {self.key}'})"

    @property
    def types(self) -> dict[str, type]:
        """The type of each column."""
        found = re.findall(r"(\w+)\W+(TEXT|INTEGER|REAL)", self.columns)
        return {name: TYPES[kind] for name, kind in found}


class SqliteFile:
    """A SQLite file for one writer. A damaged one is replaced by what can still be read of it.

    ``load`` is called, in the first transaction, whenever the file has been opened. ``damage`` says
    what was damaged, if the file had to be replaced; the old one is kept. ``clock`` counts seconds.
    """

    def __init__(
        self,
        path: Path,
        tables: Mapping[str, Table],
        load: Callable[[sqlite3.Connection], None],
        clock: Callable[[], float],
    ) -> None:
        self.path, self.tables, self.load, self.clock = path, tables, load, clock
        self.damage = ""
        self._db: sqlite3.Connection | None = None
        self._there: tuple[int, int] | None = None

    def do(self, action: Callable[[sqlite3.Connection], T], *, full: bool = False) -> T:
        """Call ``action`` in one transaction; repeat it if the file turns out to be damaged.

        With ``full``, the transaction is on the disk afterwards, whatever happens to the power.
        Raises AwayError; the caller has to read then whether it was done.
        """
        try:
            with trying(self.path):
                try:
                    return self._transaction(action, full=full)
                except sqlite3.Error as error:
                    if not is_damage(error):
                        raise
                    self._renew(str(error))
                    return self._transaction(action, full=full)
        except BaseException:
            self.close()
            raise

    def _transaction(self, action: Callable[[sqlite3.Connection], T], *, full: bool) -> T:
        fresh = self._db is None or self._there != self._stat()
        if fresh:
            self.close()
            self._open()
        assert self._db is not None  # noqa: S101  (just opened)
        self._db.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if fresh:
                try:
                    self.load(self._db)
                except (LookupError, TypeError, ValueError) as error:
                    raise sqlite3.DatabaseError(f"a row: {error}") from error
            return action(self._db)

    def _stat(self) -> tuple[int, int] | None:
        """Return which file has the name now."""
        with suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None

    def _open(self) -> None:
        new = self._beside(".new")
        if not self.path.exists():
            if not new.exists():
                self._build(new, None)
            self._install(new)
        new.unlink(missing_ok=True)
        db = self._db = connect(self.path, "mode=rw")
        db.text_factory = readable
        db.execute("PRAGMA secure_delete = OFF")  # the default of Debian writes zeros
        try:
            for name, table in self.tables.items():
                there = {row[1] for row in db.execute(f"PRAGMA table_info({name})")}
                if not table.types.keys() <= there:
                    raise sqlite3.DatabaseError("it is not a file of this package")
            db.executescript("BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK")
            if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found.splitlines()[-1])
        except (sqlite3.OperationalError, UnicodeDecodeError) as error:
            code = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
            readonly = code == "SQLITE_READONLY" and os.access(self.path, os.W_OK)
            if code == "SQLITE_ERROR" or readonly:
                raise sqlite3.DatabaseError(f"its header: {error}") from error
            raise
        self._there = self._stat()

    def _beside(self, extra: str) -> Path:
        return self.path.with_name(f"{self.path.name}{extra}")

    def _build(self, path: Path, old: Path | None) -> list[int]:
        """Make a new file of all rows of an old one that can be read; return how many there are."""
        part = self._beside(".part")
        for extra in EXTRAS:
            part.with_name(part.name + extra).unlink(missing_ok=True)
        with closing(connect(part, "mode=rwc")) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN")
            for name, table in self.tables.items():
                db.execute(table.sql(name))
            kept = [
                _salvage(old, db, name, table)
                for name, table in self.tables.items()
                if old and table.salvaged
            ]
            db.execute("COMMIT")
        part.rename(path)
        return kept

    def _renew(self, why: str) -> None:
        """Set the file aside as damaged, and continue with what can be read of it."""
        self.close()
        new = self._beside(".new")
        kept = self._build(new, self.path)
        asides = (self._beside(f".damaged-{n}") for n in count(int(self.clock())))
        aside = next(path for path in asides if not path.exists())
        for extra in EXTRAS:
            if (part := self._beside(extra)).exists():
                part.rename(aside.with_name(aside.name + extra))
        self._install(new)
        self.damage = f"{self.path} was damaged ({why}) and is kept as {aside.name}"
        log.error("%s; rows that could be read: %d", self.damage, sum(kept))

    def _install(self, new: Path) -> None:
        for extra in EXTRAS[1:]:  # of another file, which would be read into this one
            self._beside(extra).unlink(missing_ok=True)
        new.rename(self.path)

    def close(self) -> None:
        """Close the file; the next ``do`` opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None


def _salvage(old: Path, new: sqlite3.Connection, name: str, table: Table) -> int:
    """Copy the rows of a table that can be read: halve the span of rows at each error.

    Return how many there are.
    """
    types = table.types
    names = ", ".join(f'"{column}"' for column in types)
    insert = f"INSERT OR IGNORE INTO {name} VALUES ({', '.join('?' * len(types))})"
    query = f"SELECT rowid, {names} FROM {name} WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    with closing(connect(old, "mode=rw")) as db:
        db.text_factory = readable
        spans, errors = [(0, MAX_ROWID)], 0
        with suppress(sqlite3.Error, UnicodeDecodeError):
            (last,) = db.execute(f"SELECT max(rowid) FROM {name}").fetchone()
            spans = [(0, last or 0)]
        while spans and errors < MAX_ERRORS:
            first, last = spans.pop()
            try:
                for rowid, *row in db.execute(query, (first, last)):
                    first = rowid + 1
                    if None not in row[:4] and all(
                        value is None or isinstance(value, kind)
                        for value, kind in zip(row, types.values(), strict=True)
                    ):
                        new.execute(insert, row)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
                    break  # the header is read before each query, so all of them would fail
                errors += 1
                if last - first >= MAX_SKIP:
                    middle = (first + last) // 2
                    spans += [(middle + 1, last), (first, middle)]
    (kept,) = new.execute(f"SELECT count(*) FROM {name}").fetchone()
    return int(kept)
