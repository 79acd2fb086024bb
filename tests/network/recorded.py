"""A flood of samples, what was published of it, and what is stored."""

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import duckdb

from hcam_devices.history.stores.files import connect
from hcam_devices.journal.records import unpack

from .tools import PATIENCE, Net, until

FLOOD = Path(__file__).with_name("flood.py")
LOADS = ("load1", "load2", "load3", "load4", "load5")
Number = tuple[str, str, int]


def start_flood(
    net: Net,
    rate: float = 100,
    devices: Iterable[str] = LOADS,
    server: str = "hwserver-flood",
) -> None:
    net.server = net.start(sys.executable, FLOOD, str(rate), server, *devices, log="flood.out")


def joined(net: Net) -> int:
    """Return how often a recorder has come onto the network."""
    log = net.home / "hwlogger.out"
    return log.read_text().count("on the network") if log.exists() else 0


def published(net: Net, server: str = "hwserver-flood") -> set[Number]:
    """Return the numbers of every sample that the journal on disk has."""
    found: set[Number] = set()
    for file in (net.home / "journal").glob(f"{server}.*.sqlite"):
        db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=PATIENCE)
        with closing(db), suppress(sqlite3.OperationalError):  # the server is creating it
            keys = (unpack(body)[0] for (body,) in db.execute("SELECT body FROM sample"))
            found |= {key for key in keys if key}
    return found


def stored(net: Net, folder: str = "history") -> Counter[Number]:
    """Return how often each number is in the files of the store, whatever it believes."""
    history = net.home / folder
    found: Counter[Number] = Counter()
    if not (history / "tonight.sqlite").exists():
        return found
    with closing(connect(history / "tonight.sqlite")) as db:
        db.execute("BEGIN")
        found.update(db.execute("SELECT device, epoch, seq FROM sample"))
        for device, night, name in db.execute("SELECT device, night, name FROM file"):
            path = str(history / "nights" / night / name)
            try:
                rows = duckdb.execute("SELECT epoch, seq FROM read_parquet(?)", [path]).fetchall()
            except duckdb.IOException:  # it has just been replaced
                return stored(net, folder)
            found.update((device, *row) for row in rows)
    return found


def all_home(net: Net) -> None:
    """Wait until the store has everything that was published; fail if something is doubled."""
    wanted = published(net)
    until(lambda: wanted <= stored(net).keys())
    doubled = {number: count for number, count in stored(net).items() if count > 1}
    assert doubled == {}
