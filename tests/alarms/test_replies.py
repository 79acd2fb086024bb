"""What hwalarm returns fits into a message of the router, however busy the night was."""

import json
from pathlib import Path

from hcam_devices.alarms.news import Change, Message
from hcam_devices.alarms.record import Record
from hcam_devices.alarms.server import MAX_REPLY_BYTES, Alarms, Watch
from hcam_devices.alarms.store import Store
from hcam_devices.config.instrument import load

from .bench import NOON

MANY = 3000


def test_only_the_newest_are_returned(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite", lambda: NOON)
    record = Record("pressure1.pressure", reason="0.05 mbar is above 0.008 mbar").public()
    changes = [Change("updated", "pressure1.pressure", "ada", NOON, record) for _ in range(MANY)]
    messages = [
        Message("observer", "pressure1.pressure", n, "observer", "x" * 300) for n in range(MANY)
    ]
    store.keep([], changes, messages)
    watch = Watch(load().entries.values(), load(), store, lambda: NOON, lambda: NOON)
    alarms = Alarms("alarms", watch=watch, clock=lambda: NOON)
    events = alarms.log(last="1h")
    assert events == store.events(0, NOON)[-len(events) :]
    told = alarms.messages("1h")
    assert told == store.messages(0)[-len(told) :]
    for found in (events, told):
        assert 0.9 * MAX_REPLY_BYTES < len(json.dumps(found)) <= MAX_REPLY_BYTES
    assert alarms.log("pressure2.pressure") == []
    store.close()
