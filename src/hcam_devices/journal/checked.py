"""SQLite files with a checksum per row: a damaged file loses only the damaged rows."""

import json
import logging
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from .salvage import BAD_SECTOR, records

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 4096
UNCHANGING = "immutable=1"
EXTRAS = ("-wal", "-shm", "")
SOUND = 0x2144DF1C
"""The CRC-32 of anything followed by its own CRC-32, little-endian."""


class Table(NamedTuple):
    """A table without rowid: its columns, those of the key first, and the check of a row."""

    name: str
    columns: str
    keys: int
    proves: Callable[..., bool]

    def schema(self) -> str:
        """Return the SQL that creates the table."""
        key = ", ".join(self.columns.split(", ")[: self.keys])
        return f"CREATE TABLE {self.name} ({self.columns}, PRIMARY KEY ({key})) WITHOUT ROWID"

    def insert(self) -> str:
        """Return the SQL that inserts a row, unless its key is there."""
        marks = ", ".join("?" * self.width())
        return f"INSERT OR IGNORE INTO {self.name} VALUES ({marks})"  # noqa: S608  (our names)

    def size(self) -> str:
        """Return the SQL that counts the rows."""
        return f"SELECT count(*) FROM {self.name}"  # noqa: S608  (our names)

    def width(self) -> int:
        """Return how many columns there are."""
        return self.columns.count(",") + 1


def sealed(body: bytes, *key: int) -> bytes:
    """Return a body followed by a checksum of its key and itself."""
    start = crc32(struct.pack(f"<{len(key)}q", *key))
    return body + crc32(body, start).to_bytes(4, "little")


def sound(body: Any, *key: Any) -> bool:
    """Return whether a sealed body belongs to this key; both may be of any type."""
    try:
        return crc32(body, crc32(struct.pack(f"<{len(key)}q", *key))) == SOUND
    except (TypeError, struct.error):
        return False


def stamp(*values: Any) -> int:
    """Return the checksum of a row, for its last column."""
    return crc32(json.dumps(values, default=repr).encode())


@lru_cache(maxsize=512)
def digest(text: str) -> int:
    """Return the id of a text: 52 bits of its hash, so that a double holds it and it is a check."""
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest()) >> 12


def _proves_text(number: Any, text: Any) -> bool:
    return isinstance(text, str) and digest(text) == number


TEXT = Table("text", "id, text", 1, _proves_text)
SPARE = TEXT._replace(name="spare")
"""A copy of the texts on other pages: without them the samples could not be read."""


def put_texts(db: sqlite3.Connection, texts: dict[int, str]) -> None:
    """Store texts under their ids; characters that UTF-8 does not have become ``?``."""
    found = [(number, text.encode(errors="replace").decode()) for number, text in texts.items()]
    for table in (TEXT, SPARE):
        db.executemany(table.insert(), found)


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means a damaged file, not an unreachable one or a bug."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in BAD_SECTOR or type(error) in (sqlite3.DatabaseError, sqlite3.DataError)


def connect(path: Path, how: str) -> sqlite3.Connection:
    """Open a file; damaged texts are then read as far as they go."""
    place = f"{path.absolute().as_uri()}?{how}"
    db = sqlite3.connect(place, uri=True, isolation_level=None, timeout=5, check_same_thread=False)
    db.text_factory = lambda raw: raw.decode(errors="replace")
    return db


def opened(path: Path, tables: Iterable[Table], how: str = "mode=rw") -> sqlite3.Connection:
    """Open a file of this package, which has these tables.

    Raises sqlite3.DatabaseError if it is damaged, sqlite3.OperationalError if it cannot be
    reached. (Nothing but SQLite opens it here: when one opening of a file is closed, its process
    loses the locks of all others.)
    """
    db = connect(path, how)
    try:
        schema = {row[0] for row in db.execute("SELECT sql FROM sqlite_master")}
        (mode,) = db.execute("PRAGMA journal_mode").fetchone()
        ours = schema == {table.schema() for table in tables}
        if not ours or (mode != "wal" and how != UNCHANGING):
            raise sqlite3.DatabaseError("it is not a file of this package")
        if how == "mode=rw":
            db.executescript("BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK")
    except (sqlite3.OperationalError, UnicodeDecodeError) as error:
        db.close()
        code = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
        permitted = how == "mode=rw" and os.access(path, os.W_OK)
        if code == "SQLITE_ERROR" or (code == "SQLITE_READONLY" and permitted):
            raise sqlite3.DatabaseError(f"its header: {error}") from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def reading(path: Path, tables: Iterable[Table]) -> sqlite3.Connection:
    """Open a file only to read it; it may be written meanwhile.

    Raises FileNotFoundError and what ``opened`` does.
    """
    try:
        return opened(path, tables, "mode=ro")
    except sqlite3.OperationalError as error:
        if not path.exists():
            raise FileNotFoundError(path) from None
        alone = error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
        if not alone or path.with_name(f"{path.name}-wal").exists():
            raise
        return opened(path, tables, UNCHANGING)  # nobody writes it, and this process may not


class File:
    """A file that is written. A damaged one is rebuilt from the rows whose checksums are right.

    ``mend`` is called with a rebuilt file, in a transaction, before it takes the place of the old
    one; ``load`` is called, in the first transaction, whenever a file has been opened.
    """

    def __init__(
        self,
        path: Path,
        tables: Iterable[Table],
        mend: Callable[[sqlite3.Connection], None],
        load: Callable[[sqlite3.Connection], None],
        clock: Callable[[], float],
        *,
        synchronous: str = "NORMAL",
    ) -> None:
        self.path, self.mend, self.load = path, mend, load
        self.synchronous, self.clock = synchronous, clock
        self.tables = tuple(tables)
        self.renewed = False
        """Whether a rebuilt file may have fewer rows; the caller that has seen to it resets it."""
        self._db: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._loaded = False

    def do(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``action`` in one transaction; repeat it if the file turns out to be damaged.

        Raises sqlite3.OperationalError or OSError; the caller has to read whether it was done.
        """
        try:
            try:
                return self._transaction(action)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self.renew(str(error))
                return self._transaction(action)
        except BaseException:
            self.close()
            raise

    def _transaction(self, action: Callable[[sqlite3.Connection], T]) -> T:
        if self._opened != self._there():  # it was removed or replaced
            self.close()
        if self._db is None:
            self._db = self._open()
            self._opened, self._loaded = self._there(), False
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if not self._loaded:
                self.load(self._db)
                self._loaded = True
            return action(self._db)

    def _open(self) -> sqlite3.Connection:
        new = self._beside(".new")
        if self.path.exists():
            new.unlink(missing_ok=True)
        else:
            self._install(new if new.exists() else self._build(()))
        db = opened(self.path, self.tables)
        db.execute(f"PRAGMA synchronous = {self.synchronous}")
        return db

    def renew(self, why: str) -> None:
        """Rename the file as damaged, and copy its undamaged rows into a new one."""
        self.close()
        new = self._build(records(self.path)).rename(self._beside(".new"))
        now = int(self.clock())
        while (aside := self._beside(f".damaged-{now}")).exists():
            now += 1
        for extra in reversed(EXTRAS):
            if (part := self._beside(extra)).exists():
                part.rename(aside.with_name(aside.name + extra))
        self._install(new)
        log.error(
            "%s was damaged (%s): it is kept as %s; its undamaged rows were copied: %s",
            *(self.path, why, aside.name, self._kept),
        )

    def _build(self, rows: Iterable[tuple[Any, ...]]) -> Path:
        """Return a new file, complete, beside the place where it belongs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [(table.width(), table.proves, table.insert()) for table in self.tables]
        part = self._beside(".part")
        for extra in EXTRAS:
            part.with_name(part.name + extra).unlink(missing_ok=True)
        db = connect(part, "mode=rwc")
        try:
            db.executescript(f"PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL;")
            with db:
                db.execute("BEGIN")
                for table in self.tables:
                    db.execute(table.schema())
                for row in rows:
                    for width, proves, insert in kept:
                        if len(row) == width and proves(*row):
                            db.execute(insert, row)
                self.mend(db)
                self.renewed = True
                counts = (db.execute(table.size()).fetchone()[0] for table in self.tables)
                names = (table.name for table in self.tables)
                self._kept = ", ".join(map("{} {}".format, counts, names))
        finally:
            db.close()
        return part

    def _install(self, new: Path) -> None:
        for extra in EXTRAS[:2]:  # of another file, which would be read into this one
            self._beside(extra).unlink(missing_ok=True)
        new.rename(self.path)

    def _there(self) -> tuple[int, int] | None:
        """Return which file has the name now."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _beside(self, extra: str) -> Path:
        return self.path.with_name(self.path.name + extra)

    def remove(self) -> None:
        """Close the file and remove it."""
        self.close()
        for extra in reversed(EXTRAS):
            self._beside(extra).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next ``do`` opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None


def quick_check(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if the file's structure is damaged."""
    if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(found.splitlines()[-1])
