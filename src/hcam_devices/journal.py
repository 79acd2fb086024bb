"""The journal: every sample a server has published, numbered, on its own disk.

A sample exists once it is here. Numbers go up by one for each device and begin again only with a
new epoch: when the journal is new, or the machine has restarted. (SQLite in WAL mode loses nothing
when a process dies, but may lose its last second when the power fails, and no number may ever be
used twice.)
"""

import json
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DAY = 86400.0
MOST_BYTES_A_REPLY = 200_000
CHUNK = 500

SCHEMA = """
CREATE TABLE IF NOT EXISTS epoch (id INTEGER PRIMARY KEY, name TEXT NOT NULL, boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample (
    device TEXT, epoch INTEGER, seq INTEGER, time REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sample_time ON sample (time);
"""


class Journal:
    """The samples of one server; bounded by age (seconds) and by size (bytes)."""

    def __init__(
        self,
        path: Path,
        *,
        keep: float = 14 * DAY,
        most: int = 2_000_000_000,
        clock: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self.path, self.keep, self.most, self.clock = path, keep, most, clock
        path.parent.mkdir(parents=True, exist_ok=True)
        boot = boot or BOOT_ID.read_text().strip()
        try:
            self._db, self._epoch, self.epoch = self._open(boot)
        except sqlite3.OperationalError:  # locked, no space, no permission: not damaged
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{int(clock())}")
            log.error("%s is damaged (%s): kept as %s, a new one begins", path, error, aside.name)
            for extra in ("-wal", "-shm", ""):
                if (part := path.with_name(path.name + extra)).exists():
                    part.rename(aside.with_name(aside.name + extra))
            self._db, self._epoch, self.epoch = self._open(boot)
        self._last: dict[str, int] = {}

    def _open(self, boot: str) -> tuple[sqlite3.Connection, int, str]:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        try:
            db.executescript(
                "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
                "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0;" + SCHEMA
            )
            return db, *self._current_epoch(db, boot)
        except BaseException:
            db.close()
            raise

    def _current_epoch(self, db: sqlite3.Connection, boot: str) -> tuple[int, str]:
        db.execute("BEGIN IMMEDIATE")
        last = db.execute("SELECT id, name, boot FROM epoch ORDER BY id DESC LIMIT 1").fetchone()
        if not last or last[2] != boot:
            name = uuid4().hex[:12]
            last = (
                db.execute("INSERT INTO epoch (name, boot) VALUES (?, ?)", (name, boot)).lastrowid,
                name,
            )
        db.execute("COMMIT")
        return last[0], last[1]

    def append(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Keep a sample; return it with its ``seq`` and ``epoch``."""
        device = sample["device"]
        seq = self.last(device) + 1
        numbered = {"device": device, "seq": seq, "epoch": self.epoch} | sample
        body = zlib.compress(json.dumps(numbered, allow_nan=False).encode(), 1)
        self._db.execute(
            "INSERT INTO sample VALUES (?, ?, ?, ?, ?)",
            (device, self._epoch, seq, self.clock(), body),
        )
        self._last[device] = seq
        return numbered

    def last(self, device: str) -> int:
        """Return the number of the device's newest sample in this epoch; 0 if there is none."""
        if device not in self._last:
            (newest,) = self._db.execute(
                "SELECT max(seq) FROM sample WHERE device = ? AND epoch = ?", (device, self._epoch)
            ).fetchone()
            self._last[device] = newest or 0
        return self._last[device]

    def samples(
        self, device: str, after: int, limit: int, epoch: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a device's samples with numbers above ``after``, in order, of one epoch.

        At most ``limit``, and no more than fit into one message: ask again until none come.
        """
        if epoch in (None, self.epoch) and after >= self.last(device):
            return []
        found: list[dict[str, Any]] = []
        size = 0
        for (body,) in self._db.execute(
            "SELECT body FROM sample WHERE device = ? AND seq > ?"
            " AND epoch = (SELECT id FROM epoch WHERE name = ?) ORDER BY seq LIMIT ?",
            (device, after, epoch or self.epoch, limit),
        ):
            text = zlib.decompress(body)
            size += len(text)
            if found and size > MOST_BYTES_A_REPLY:
                break
            found.append(json.loads(text))
        return found

    def tidy(self) -> int:
        """Drop what is too old or too much; returns how many samples. For a thread of its own."""
        dropped = 0
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        try:
            while count := self._drop(db, self.clock() - self.keep):
                dropped += count
            while _used(db) > self.most and (count := self._drop(db, self.clock())):
                dropped += count
            db.execute("PRAGMA incremental_vacuum")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            db.close()
        if dropped:
            log.info("%s: dropped %d samples at the bound of the journal", self.path.name, dropped)
        return dropped

    def _drop(self, db: sqlite3.Connection, before: float) -> int:
        """Drop the oldest few, so that whoever publishes never waits long.

        A device's newest sample of this epoch stays, so that its number is not used again.
        """
        return db.execute(
            "DELETE FROM sample WHERE (device, epoch, seq) IN"
            " (SELECT device, epoch, seq FROM sample AS one WHERE time < ? AND NOT (epoch = ?"
            " AND seq = (SELECT max(seq) FROM sample"
            " WHERE device = one.device AND epoch = one.epoch)) ORDER BY time LIMIT ?)",
            (before, self._epoch, CHUNK),
        ).rowcount

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _used(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
