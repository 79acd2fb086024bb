"""The recorder with a real router and real stores: whatever dies, nothing is lost or doubled."""

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hcam_devices.stores.history import History
from hcam_devices.wamp.utils import call, publish

from .tools import BIN, Net, living, until

KILLS = 200
KILLED, OUTAGES, DAMAGED = (
    pytest.mark.xdist_group(f"recorder{n}") for n in ("killed", "outages", "damaged")
)

FLOOD = Path(__file__).with_name("flood.py")
Number = tuple[str, str, int]


def start_flood(net: Net, rate: float = 100, devices: int = 5) -> None:
    net.server = net.start(sys.executable, FLOOD, str(rate), str(devices), log="flood.out")


def start_recorder(net: Net) -> subprocess.Popen[bytes]:
    return net.start(BIN / "hwlogger", log="hwlogger.out")


def published(net: Net, server: str = "flood") -> set[Number]:
    """Return the numbers of every sample that the journal on disk has."""
    file = net.home / "journal" / f"{server}.sqlite"
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
    try:
        return set(
            db.execute("SELECT device, name, seq FROM sample JOIN epoch ON epoch.id = sample.epoch")
        )
    finally:
        db.close()


def stored(net: Net) -> Counter[Number]:
    """Return how often each number is in the night files, whatever the store believes."""
    found: Counter[Number] = Counter()
    history = History(net.home / "history")
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


@KILLED
def test_a_recorder_killed_at_200_instants_neither_loses_nor_doubles(own: Net) -> None:
    own.start_router()
    start_flood(own, rate=200)
    instants = random.Random(22)
    for kills in range(KILLS):
        recorder = start_recorder(own)
        if kills % 4:  # otherwise while it starts
            log = own.home / "hwlogger.out"
            joined = log.read_text().count("on the network")
            until(lambda: log.read_text().count("on the network") > joined)
        time.sleep(instants.uniform(0, 0.6))
        recorder.kill()
        recorder.wait()
    assert len(stored(own)) > 1000
    start_recorder(own)
    all_home(own)
    assert "gone_local" in call("hipercam.recorder.rpc.samples", 0)[-1]
    assert call("hipercam.recorder.rpc.samples", 0)[-1]["gone_local"] == 0


@OUTAGES
def test_a_router_killed_20_times_loses_nothing(own: Net) -> None:
    start_flood(own)
    start_recorder(own)
    for _ in range(20):
        own.start_router()
        before = len(stored(own))
        until(lambda before=before: len(stored(own)) > before)  # type: ignore[misc]
        kill_router(own)
    own.start_router()
    all_home(own)


def kill_router(net: Net) -> None:
    assert net.router
    for process in living(net.home):
        if "crossbar" in " ".join(process.cmdline()):
            process.kill()
    net.router.wait()


@OUTAGES
def test_telemetry_without_numbers_is_kept_too(own: Net) -> None:
    until(lambda: call("hipercam.recorder.rpc.describe"))
    for n in range(20):
        publish("hipercam.autoguider.telemetry", {"state": "guiding", "flux": n, "bad": [None]})
    until(lambda: sum(number[0] == "autoguider" for number in stored(own)) == 20)
