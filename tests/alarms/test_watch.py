"""What hwalarm does while its disk refuses to be written, and afterwards."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.alarms.server import WATCHED_PERIOD_S, Watch
from hcam_devices.alarms.store import Store
from hcam_devices.config.instrument import load

from .bench import NOON

ALARM = "pressure1.pressure"
SAMPLE: dict[str, Any] = {
    "device": "pressure2",
    "timestamp": None,
    "seq": None,
    "epoch": "",
    "alarms": [],
}


def test_what_the_disk_refused_is_kept_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOON
    store = Store(tmp_path / "alarms.sqlite", lambda: now)
    watch = Watch(load().entries.values(), load(), store, lambda: now, lambda: now)

    def refuse(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(store, "keep", refuse)
        watch.board.report(ALARM, "ERR", "0.05 mbar is above 0.008 mbar")
        now += 60
        watch.board.tick()
        assert [notice.field for notice in watch.notices()] == ["heard", "store"]
    now += WATCHED_PERIOD_S + 1
    (hear,) = watch.sources.devices["pressure2"].listeners
    hear(SAMPLE | {"state": {"connection": "online"}})
    assert not [*watch.notices()]
    assert watch.changes() == f"ERR {ALARM} raised: 0.05 mbar is above 0.008 mbar"
    store.close()
    (kept,) = Store(tmp_path / "alarms.sqlite").kept
    assert kept.alarm == ALARM
