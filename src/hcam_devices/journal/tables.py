"""The tables of a journal, its records, and the notes of samples that are gone."""

import json
import re
import sqlite3
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import orjson

from ..core.fields import shorten
from .ranges import SampleRange

MAX_SAMPLE_BYTES = 1 << 24

SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 0;
CREATE TABLE IF NOT EXISTS epoch (id INTEGER PRIMARY KEY, name TEXT NOT NULL, boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sample (
    device TEXT, epoch INTEGER, seq INTEGER, time REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (device, epoch, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (
    device TEXT, epoch TEXT, first INTEGER, last INTEGER, reason TEXT NOT NULL,
    noticed REAL NOT NULL, PRIMARY KEY (device, epoch, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (
    device TEXT, epoch TEXT, since REAL, until REAL, samples INTEGER, reason TEXT,
    PRIMARY KEY (device, epoch, since)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sample_when ON sample (device, epoch, time);
"""
"""The id of an epoch is the Unix time when it began, or near it: they are in order.

Its boot is ``salvaging`` while its samples are being copied, and not shown yet, then ``salvaged``.
"""
GAPS = """
SELECT previous + 1, seq - 1 FROM (
    SELECT seq, lag(seq, 1, 0) OVER (ORDER BY seq) AS previous
    FROM sample WHERE device = ? AND epoch = ?)
WHERE seq > previous + 1
"""
PAIRS = """
WITH RECURSIVE one (device) AS (
    SELECT min(device) FROM sample
    UNION ALL SELECT (SELECT min(device) FROM sample WHERE device > one.device) FROM one
    WHERE one.device IS NOT NULL)
SELECT device, id, name, (
    SELECT min(time) FROM sample WHERE sample.device = one.device AND sample.epoch = id) AS oldest
FROM one, epoch WHERE boot <> 'salvaging' AND oldest IS NOT NULL ORDER BY oldest
"""
HEAD = re.compile(rb'\{"device": ("(?:[^"\\]|\\.)*"), "seq": (\d{1,18}), "epoch": "(\w+)"[,}]')

Key: TypeAlias = tuple[str, str, int]
"""Device, epoch and number."""


class Pair(NamedTuple):
    """A device in an epoch, and the Unix time of its oldest sample."""

    device: str
    id: int
    epoch: str
    oldest: float


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end of the block, or roll everything back after an error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


_name = lru_cache(1000)(json.loads)


def pack(text: bytes) -> bytes:
    """Return a record of the JSON of a sample. The window is small, because samples are.

    With zlib's usual 32 KiB the kernel would clear 256 KiB of memory for each sample.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, 13, 6)
    return packer.compress(text) + packer.flush()


def unpack(body: object) -> tuple[Key | None, bytes]:
    """Return device, epoch and number of a record, and its JSON; None if it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        # Anything but bytes, from a damaged file, is a TypeError below.
        text = unpacker.decompress(body, MAX_SAMPLE_BYTES)  # type: ignore[arg-type]
        head = HEAD.match(text)
        if not head or not unpacker.eof or unpacker.unused_data:
            return None, b""
        return (_name(head[1]), head[3].decode(), int(head[2])), text
    except (TypeError, ValueError, zlib.error):
        return None, b""


def read_page(page: Any) -> list[dict[str, Any]]:
    """Return the samples that are compressed in a page. Raises ValueError if it is none."""
    try:
        text = zlib.decompressobj().decompress(b64decode(page), 2 * MAX_SAMPLE_BYTES)
        try:
            samples = orjson.loads(text)
        except ValueError:  # orjson reads neither lone surrogates nor numbers beyond a double
            samples = json.loads(text)
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"{shorten(page)} is not a page of samples: {error}") from None
    if not (isinstance(samples, list) and all(isinstance(sample, dict) for sample in samples)):
        raise ValueError(f"{shorten(samples)} is not a list of samples")
    return samples


def pairs(db: sqlite3.Connection) -> list[Pair]:
    """Return which devices have samples in which epochs, the oldest sample first."""
    return [Pair(*row) for row in db.execute(PAIRS)]


def gone(db: sqlite3.Connection, device: str, epoch: str) -> list[SampleRange]:
    """Return the samples of a device in an epoch that are known to be gone, with reasons."""
    rows = db.execute(
        "SELECT device, epoch, first, last, reason FROM gone WHERE device = ? AND epoch = ?",
        (device, epoch),
    )
    return [SampleRange(*row) for row in rows]


def set_gone(
    db: sqlite3.Connection, device: str, epoch: str, ranges: Iterable[SampleRange], now: float
) -> None:
    """Replace the samples of a device in an epoch that are known to be gone.

    Neighbouring ranges with the same reason become one.
    """
    joined: list[SampleRange] = []
    for samples in sorted(ranges):
        if joined and (joined[-1].last + 1, joined[-1].reason) == (samples.first, samples.reason):
            joined[-1] = joined[-1]._replace(last=samples.last)
        else:
            joined.append(samples)
    db.execute("DELETE FROM gone WHERE device = ? AND epoch = ?", (device, epoch))
    db.executemany(
        "INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?, ?)",
        [(*samples, now) for samples in joined],
    )


def used(db: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
