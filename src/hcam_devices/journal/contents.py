"""Which samples of a device the file of a journal has, and which are known to be gone or lost."""

import sqlite3
from collections.abc import Iterable

from .notebook import Lost
from .tables import pairs

MAX_REPLY_RANGES = 2000
"""Report at most this many ranges of samples of a device that are gone."""

EPOCHS = """
SELECT id, name, (SELECT min(time) FROM sample WHERE device = :device AND epoch = id) AS low,
    (SELECT max(time) FROM sample WHERE device = :device AND epoch = id)
FROM epoch WHERE boot <> 'salvaging' AND low IS NOT NULL ORDER BY id
"""
HELD = """
SELECT first, last, last - first + 1 - (
    SELECT ifnull(sum(gone.last - gone.first + 1), 0) FROM gone
    WHERE device = :device AND epoch = :name AND gone.first BETWEEN held.first AND held.last)
FROM (
    SELECT (SELECT min(seq) FROM sample WHERE device = :device AND epoch = :number) AS first,
        (SELECT max(seq) FROM sample WHERE device = :device AND epoch = :number) AS last) AS held
"""
HELD_BETWEEN = """
SELECT min(seq), max(seq), count(*) FROM sample
WHERE device = ? AND epoch = ? AND time >= ? AND time < ?
"""


def devices_in(db: sqlite3.Connection) -> set[str]:
    """Return the devices of which there are samples, or were."""
    query = "SELECT device FROM gone UNION SELECT device FROM lost"
    return {pair.device for pair in pairs(db)} | {row[0] for row in db.execute(query)}


def oldest(db: sqlite3.Connection, device: str) -> float | None:
    """Return the Unix time of the oldest sample of a device."""
    return min((low for _, _, low, _ in db.execute(EPOCHS, {"device": device})), default=None)


def held(
    db: sqlite3.Connection, device: str, start: float, end: float
) -> list[tuple[str, int, int, int]]:
    """Return epoch, first number, last number and count of samples, in the order of the epochs.

    They are those appended from ``start`` until before ``end`` (Unix time).
    """
    found = []
    for number, name, low, high in db.execute(EPOCHS, {"device": device}):
        if start <= low and high < end:
            row = db.execute(HELD, {"device": device, "number": number, "name": name})
        else:
            row = db.execute(HELD_BETWEEN, (device, number, start, end))
        first, last, count = row.fetchone()
        if count:
            found.append((name, first, last, count))
    return found


def newest_gone(db: sqlite3.Connection, device: str) -> list[tuple[str, int, int, str]]:
    """Return epoch, first number, last number and reason of the newest samples that are gone."""
    newest_first = db.execute(
        "SELECT gone.epoch, first, last, reason FROM gone JOIN epoch ON name = gone.epoch"
        " WHERE device = ? AND boot <> 'salvaging' ORDER BY id DESC, first DESC LIMIT ?",
        (device, MAX_REPLY_RANGES),
    )
    return newest_first.fetchall()[::-1]


def lost(
    db: sqlite3.Connection, unnoted: Iterable[Lost], device: str, start: float, end: float
) -> list[Lost]:
    """Return the losses of a device between two Unix times, with those not noted in the file."""
    rows = db.execute("SELECT * FROM lost WHERE device = ? ORDER BY since", (device,))
    return [
        note
        for note in (*(Lost(*row) for row in rows), *unnoted)
        if note.device == device and start <= note.until and note.since < end
    ]
