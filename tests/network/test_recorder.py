"""The recorder with a real router and real stores: whatever dies, nothing is lost or doubled."""

import random
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.device import utc
from hcam_devices.journal import Journal
from hcam_devices.stores.history import History
from hcam_devices.wamp.utils import call, publish

from ..stores.databases import InfluxDB, influxdb
from .tools import Net, living, until

KILLS = 200
KILLED, OUTAGES, AWAY = (
    pytest.mark.xdist_group(f"recorder_{what}") for what in ("killed", "outages", "away")
)

SITE = """
[devices.rackpc]
kind = "rackpc.RackPC"
server = "flood"

[stores.local]
kind = "embedded"

[stores.offsite]
kind = "influxdb"
url = "{url}"
database = "hipercam"
timeout = 3
"""
AN_HOUR = 27 * 1800
"""Samples of the whole instrument."""
FLOOD = Path(__file__).with_name("flood.py")
Number = tuple[str, str, int]


def start_flood(net: Net, rate: float = 100, devices: int = 5) -> None:
    net.server = net.start(sys.executable, FLOOD, str(rate), str(devices), log="flood.out")


def joined(net: Net) -> int:
    """Return how often a recorder has come onto the network."""
    log = net.home / "hwlogger.out"
    return log.read_text().count("on the network") if log.exists() else 0


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
        before = joined(own)
        recorder = own.start_recorder()
        if kills % 4:  # otherwise while it starts
            until(lambda before=before: joined(own) > before)  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.6))
        recorder.kill()
        recorder.wait()
    assert len(stored(own)) > 1000
    own.start_recorder()
    all_home(own)
    assert "gone_local" in call("hipercam.recorder.rpc.samples", 0)[-1]
    assert call("hipercam.recorder.rpc.samples", 0)[-1]["gone_local"] == 0


@OUTAGES
def test_a_router_killed_20_times_loses_nothing(own: Net) -> None:
    start_flood(own)
    own.start_recorder()
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
    if not own.started:
        own.start_router()
        own.start_recorder()
    until(lambda: joined(own))
    for n in range(20):
        publish("hipercam.autoguider.telemetry", {"state": "guiding", "flux": n, "bad": [None]})
    until(lambda: sum(number[0] == "autoguider" for number in stored(own)) == 20)


def in_influxdb(database: InfluxDB) -> Counter[Number]:
    """Return how often each number is in the database."""
    found: Counter[Number] = Counter()
    for device, rows in database.query("SELECT seq, epoch FROM /.*/").items():
        found.update((device, row["epoch"], int(row["seq"])) for row in rows)
    return found


@AWAY
def test_a_database_away_for_an_hour_killed_and_frozen_gets_everything_once(own: Net) -> None:
    fill(own, AN_HOUR)
    with influxdb(own.home) as database:
        site = own.home / "site.toml"
        site.write_text(SITE.format(url=database.url))
        database.stop()
        own.start_router()
        start_flood(own)
        own.start_recorder("--instrument", site)
        until(lambda: len(stored(own)) > AN_HOUR)
        alarms = newest("recorder")["alarms"]
        assert any("store offsite is away" in alarm["reason"] for alarm in alarms)
        database.start()
        until(lambda: len(in_influxdb(database)) > AN_HOUR)
        for interrupt, resume in (
            (database.kill, database.start),
            (database.freeze, database.thaw),
            (database.stop, database.start),
        ):
            interrupt()
            before = len(published(own))
            until(lambda before=before: len(published(own)) > before + 600)  # type: ignore[misc]
            resume()
            wanted = published(own)
            until(lambda wanted=wanted: wanted <= in_influxdb(database).keys())  # type: ignore[misc]
        assert set(in_influxdb(database).values()) == {1}
        assert set(stored(own).values()) == {1}
        until(lambda: not newest("recorder")["alarms"])


def newest(device: str) -> Any:
    """Return the newest sample of a device."""
    held = call(f"hipercam.{device}.rpc.journal")["epochs"][-1]
    return call(f"hipercam.{device}.rpc.samples", held["last"] - 1)[-1]


def fill(net: Net, count: int) -> None:
    """Write a journal that a server has left behind."""
    journal = Journal(net.home / "journal" / "flood.sqlite")
    begin = time.time() - 2 * count
    for number in range(count):
        fields = {f"count{n}": {"value": float(number), "unit": "deg_C"} for n in range(1, 9)}
        said = {"device": f"load{number % 5 + 1}", "timestamp": utc(begin + 2 * number)}
        journal.append(said | {"state": {"connection": "online"}, "alarms": []} | fields)
    journal.close()
