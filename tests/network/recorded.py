"""A flood of samples, what was published of it, and what is stored."""

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hcam_devices.history.stores.nights import NightFiles

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
    file = net.home / "journal" / f"{server}.sqlite"
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=PATIENCE)
    try:
        return set(
            db.execute("SELECT device, name, seq FROM sample JOIN epoch ON epoch.id = sample.epoch")
        )
    finally:
        db.close()


def stored(net: Net, folder: str = "history") -> Counter[Number]:
    """Return how often each number is in the night files, whatever the store believes."""
    found: Counter[Number] = Counter()
    history = NightFiles(net.home / folder)
    for night in history.nights():
        for point in history.samples(night):
            found[point.device, point.epoch, point.seq] += 1
    return found


def all_home(net: Net) -> None:
    """Wait until the store has everything that was published; fail if something is doubled."""
    wanted = published(net)
    until(lambda: wanted <= stored(net).keys())
    doubled = {number: count for number, count in stored(net).items() if count > 1}
    assert doubled == {}
