"""The alarms on disk: ``HCAM_HOME/alarms.sqlite``.

The state of an alarm, the event that changed it, and the messages about it are one transaction,
which is on the disk before anybody hears of it.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..core.device import iso_from_s
from ..host.home import writable_or_explain
from .news import Change, Message
from .record import Record

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS record (alarm TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, alarm TEXT NOT NULL,
    event TEXT NOT NULL, who TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS event_at ON event (at);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY, recipient TEXT NOT NULL, alarm TEXT NOT NULL, body TEXT NOT NULL,
    at REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, sent REAL, error TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS delivery (
    message INTEGER NOT NULL, way TEXT NOT NULL, doubt INTEGER NOT NULL, at REAL,
    PRIMARY KEY (message, way)
);
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, body TEXT NOT NULL);
"""
DAMAGED = AttributeError, LookupError, TypeError, ValueError
"""The errors if a record is damaged."""
MAX_EVENTS = 10_000
"""Return at most this many events, the newest ones."""


class Waiting(NamedTuple):
    """A message that was not sent yet; ``at``: when it was written (Unix time)."""

    id: int
    to: str
    alarm: str
    text: str
    at: float


class Delivery(NamedTuple):
    """Whether a message may have arrived over one way, and when that has taken it (Unix time)."""

    doubt: bool
    at: float | None


class Store:
    """The file. Raises HcamError if it cannot be written.

    A damaged file is renamed, and a new one begins: alarms are judged anew by the next samples.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self.damaged = ""
        """Why the file of an earlier run could not be read."""
        with writable_or_explain(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._db = self._open()
            except sqlite3.OperationalError:
                raise
            except (sqlite3.DatabaseError, *DAMAGED) as error:
                aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
                for end in ("", "-wal", "-shm"):
                    file = path.with_name(path.name + end)
                    if file.exists():
                        file.rename(aside.with_name(aside.name + end))
                self.damaged = f"{path} was damaged ({error!r:.200}) and is now {aside.name}"
                log.error("%s: earlier alarms are forgotten", self.damaged)
                self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(SCHEMA)
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            self.kept = [Record.of(json.loads(b)) for (b,) in db.execute("SELECT body FROM record")]
        except BaseException:
            db.close()
            raise
        return db

    def keep(
        self, records: Iterable[Record], changes: Sequence[Change], messages: Iterable[Message]
    ) -> list[dict[str, Any]]:
        """Write what has changed, and return the events as they are told. Raises sqlite3.Error."""
        told = []
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?)",
                [(record.alarm, json.dumps(record.kept())) for record in records],
            )
            for change in changes:
                body = change.record | change.more
                cursor = db.execute(
                    "INSERT INTO event (at, alarm, event, who, body) VALUES (?, ?, ?, ?, ?)",
                    (change.at, change.alarm, change.event, change.by, json.dumps(body)),
                )
                told.append(event_of(cursor.lastrowid, change.at, change.event, change.by, body))
            db.executemany(
                "INSERT INTO message (recipient, alarm, body, at) VALUES (?, ?, ?, ?)",
                [(each.to, each.alarm, each.text, self.clock()) for each in messages],
            )
        return told

    def _transaction(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db  # its context commits, or rolls back after an error

    def events(
        self, start: float, end: float, alarm: str | None = None, most: int = MAX_EVENTS
    ) -> list[dict[str, Any]]:
        """Return the events between two times (Unix), oldest first, as they were told."""
        rows = self._db.execute(
            "SELECT seq, at, event, who, body FROM event WHERE at BETWEEN ? AND ? AND "
            "(? IS NULL OR alarm = ?) ORDER BY seq DESC LIMIT ?",
            (start, end, alarm, alarm, most),
        ).fetchall()
        return [
            event_of(seq, at, event, who, json.loads(body))
            for seq, at, event, who, body in reversed(rows)
        ]

    def note(self, name: str, value: Any = None) -> Any:
        """Keep a value under a name, unless it is None, and return what is kept there."""
        if value is not None:
            self._db.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, json.dumps(value)))
            return value
        row = self._db.execute("SELECT body FROM note WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    # --- messages ---------------------------------------------------------------------------

    def waiting(self) -> list[Waiting]:
        """Return the messages that were not sent yet, oldest first."""
        rows = self._db.execute(
            "SELECT id, recipient, alarm, body, at FROM message WHERE sent IS NULL ORDER BY id"
        )
        return [Waiting(*row) for row in rows]

    def deliveries(self) -> dict[tuple[int, str], Delivery]:
        """Return what became of the messages that wait, by number and way."""
        rows = self._db.execute(
            "SELECT message, way, doubt, delivery.at FROM delivery JOIN message ON id = message "
            "WHERE sent IS NULL"
        )
        return {(number, way): Delivery(bool(doubt), at) for number, way, doubt, at in rows}

    def sent_since(self, to: str, way: str, at: float) -> list[float]:
        """Return when something was sent to someone over one way, since a time, oldest first."""
        rows = self._db.execute(
            "SELECT DISTINCT delivery.at FROM delivery JOIN message ON id = message "
            "WHERE recipient = ? AND way = ? AND delivery.at > ? ORDER BY delivery.at",
            (to, way, at),
        )
        return [sent for (sent,) in rows]

    def note_delivery(
        self, message: int, way: str, delivery: Delivery, error: str, tries: int
    ) -> None:
        """Note that an attempt begins, or how it has ended. Raises sqlite3.Error."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO delivery VALUES (?, ?, ?, ?)", (message, way, *delivery)
            )
            db.execute(
                "UPDATE message SET tries = tries + ?, error = ? WHERE id = ?",
                (tries, error, message),
            )

    def note_sent(self, message: int, at: float, error: str = "") -> None:
        """Note that all ways have taken a message, or why it was given up. Raises sqlite3.Error."""
        with self._transaction() as db:
            db.execute("UPDATE message SET sent = ?, error = ? WHERE id = ?", (at, error, message))

    def messages(self, since: float) -> list[dict[str, Any]]:
        """Return the messages since a time (Unix), and older ones that wait, oldest first.

        ``sent`` is when every way had taken it, ``error`` why it was not sent until now, or ever.
        ``may_be_twice`` is whether an attempt was made whose end nobody knows.
        """
        rows = self._db.execute(
            "SELECT id, recipient, alarm, body, at, tries, sent, error, EXISTS (SELECT 1 FROM "
            "delivery WHERE message = id AND doubt) FROM message WHERE at >= ? OR sent IS NULL "
            "ORDER BY id DESC LIMIT ?",
            (since, MAX_EVENTS),
        ).fetchall()
        return [
            {
                "id": number,
                "to": to,
                "alarm": alarm,
                "text": text,
                "at": iso_from_s(at),
                "tries": tries,
                "sent": None if sent is None or error else iso_from_s(sent),
                "given_up": sent is not None and bool(error),
                "error": error,
                "may_be_twice": bool(doubt),
            }
            for number, to, alarm, text, at, tries, sent, error, doubt in reversed(rows)
        ]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def event_of(
    seq: int | None, at: float, event: str, by: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Return an event as it is told: its number, what, who, when, and the record of the alarm."""
    return {"seq": seq, "event": event, "by": by, "at": iso_from_s(at)} | body
