"""The recorder with a real router and real stores."""

import time
from collections import Counter
from typing import Any

import pytest

from hcam_devices.core.device import iso_from_s
from hcam_devices.journal import Journal
from hcam_devices.wamp.utils import call, publish

from ..conftest import Scaled
from ..history.stores.databases import InfluxDB, influxdb
from .recorded import Number, published, start_flood, stored
from .tools import Net, until

SITE = """
[devices.rackpc]
kind = "rackpc.RackPC"
server = "hwserver-flood"

[servers.hwserver-flood]

[stores.local]
kind = "embedded"

[stores.offsite]
kind = "influxdb"
url = "{url}"
database = "hipercam"
timeout = 3
"""
AUTOGUIDER = "hipercam.autoguider.telemetry"
A_MINUTE = 27 * 30
"""Samples of the whole instrument."""


def in_influxdb(database: InfluxDB) -> Counter[Number]:
    """Return how often each number is in the database."""
    found: Counter[Number] = Counter()
    for device, rows in database.query("SELECT seq, epoch FROM /.*/").items():
        # A sample that is just being written may be seen with some of its fields only.
        whole = (row for row in rows if None not in (row["seq"], row["epoch"]))
        found.update((device, row["epoch"], int(row["seq"])) for row in whole)
    return found


def test_a_database_away_for_long_killed_and_frozen_gets_everything_once(
    guest: Net, scaled: Scaled
) -> None:
    backlog = scaled(10, soak=60) * A_MINUTE
    meanwhile = scaled(100, soak=600)
    fill(guest, backlog)
    with influxdb(guest.home) as database:
        site = guest.home / "site.toml"
        site.write_text(SITE.format(url=database.url))
        database.stop()
        start_flood(guest)
        guest.start_recorder("--instrument", site)
        until(lambda: len(stored(guest)) > backlog)
        said = "offsite has been unreachable since"
        until(lambda: any(said in alarm["reason"] for alarm in newest("recorder")["alarms"]))
        database.start()
        until(lambda: len(in_influxdb(database)) > backlog)
        for interrupt, resume in (
            (database.kill, database.start),
            (database.freeze, database.thaw),
            (database.stop, database.start),
        ):
            interrupt()
            before = len(published(guest))
            until(lambda before=before: len(published(guest)) > before + meanwhile)  # type: ignore[misc]
            resume()
            wanted = published(guest)
            until(lambda wanted=wanted: wanted <= in_influxdb(database).keys())  # type: ignore[misc]
        assert set(in_influxdb(database).values()) == {1}
        assert set(stored(guest).values()) == {1}
        until(lambda: not newest("recorder")["alarms"])


def test_telemetry_without_numbers_is_kept_too(guest: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: call("wamp.subscription.match", AUTOGUIDER))
    guest.autoguider()
    monkeypatch.setenv("HCAM_KEY", str(guest.key_file("autoguider")))
    for n in range(20):
        publish(AUTOGUIDER, {"state": "guiding", "flux": n, "bad": [None]})
    until(lambda: sum(number[0] == "autoguider" for number in stored(guest)) == 20)


def newest(device: str) -> Any:
    """Return the newest sample of a device."""
    held = call(f"hipercam.{device}.rpc.journal")["epochs"][-1]
    return call(f"hipercam.{device}.rpc.samples", held["last"] - 1)[-1]


def fill(net: Net, count: int) -> None:
    """Write a journal that a server has left behind."""
    journal = Journal(net.home / "journal" / "hwserver-flood")
    begin = time.time() - 2 * count
    for number in range(count):
        fields = {f"count{n}": {"value": float(number), "unit": "deg_C"} for n in range(1, 9)}
        said = {"device": f"load{number % 5 + 1}", "timestamp": iso_from_s(begin + 2 * number)}
        journal.append(said | {"state": {"connection": "online"}, "alarms": []} | fields)
    journal.close()
