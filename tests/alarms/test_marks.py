"""What the telemetry of the alarms says of their changes, for the marks on plots."""

from pathlib import Path

from hcam_devices.alarms.chart import S
from hcam_devices.alarms.record import Record
from hcam_devices.alarms.server import MAX_NEWS, Watch
from hcam_devices.alarms.store import Store
from hcam_devices.config.instrument import load

from .bench import NOON

REASON = "0.05 mbar is above 0.008 mbar"


def test_each_change_is_said_once(tmp_path: Path) -> None:
    now = NOON
    store = Store(tmp_path / "alarms.sqlite", lambda: now)
    watch = Watch(load().entries.values(), load(), store, lambda: now, lambda: now)
    assert watch.changes() is None
    watch.board.report("pressure1.pressure", "ERR", REASON)
    now += 60
    watch.board.tick()
    assert watch.changes() == f"ERR pressure1.pressure raised: {REASON}"
    assert watch.changes() is None
    watch.board.acknowledge("pressure1.pressure", 1, "ada")
    watch.board.report("pressure1.pressure", "ERR", "")
    now += 60
    watch.board.tick()
    assert str(watch.changes()).splitlines() == [
        f"ERR pressure1.pressure acknowledged: {REASON}",
        f"ERR pressure1.pressure cleared: {REASON}",
    ]
    for _ in range(2 * MAX_NEWS):
        watch.board.shelve("pressure1.pressure", 5, "known", "ada")
    assert watch.changes() is None, "that somebody hides it changes nothing"
    assert not store.messages(0), "the file names nobody to be told"
    store.close()


def test_that_of_a_device_that_is_gone_is_over_at_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite", lambda: NOON)
    store.keep([Record("gone.pressure", state=S.ACTIVE, severity="ERR", reason=REASON)], [], [])
    store.close()
    store = Store(tmp_path / "alarms.sqlite", lambda: NOON)
    watch = Watch(load().entries.values(), load(), store, lambda: NOON, lambda: NOON)
    assert not watch.board.list()
    assert watch.changes() == f"ERR gone.pressure cleared: {REASON}"
    store.close()
