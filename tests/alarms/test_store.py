"""The alarms on disk: one transaction, kept over restarts, damage and another version."""

import json
import sqlite3
from pathlib import Path

import pytest

from hcam_devices import HcamError
from hcam_devices.alarms.chart import S
from hcam_devices.alarms.news import Change, Message
from hcam_devices.alarms.record import Record
from hcam_devices.alarms.store import Delivery, Store

AT = 1_795_305_600.0


def record(state: S = S.ACTIVE) -> Record:
    return Record(
        "g1.flow", occurrence=3, state=state, severity="ERR", reason="0.1", announced=True
    )


def change(event: str = "raised", at: float = AT) -> Change:
    return Change(event, "g1.flow", "hwalarm", at, record().public())


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite")
    told = store.keep([record()], [change()], [Message("ada", "g1.flow", 3, "ada", "text")])
    assert [(event["seq"], event["event"], event["by"]) for event in told] == [
        (1, "raised", "hwalarm")
    ]
    store.close()
    again = Store(tmp_path / "alarms.sqlite")
    assert again.kept == [record()]
    assert again.events(AT - 1, AT + 1) == told
    (message,) = again.waiting()
    assert (message.to, message.alarm, message.text) == ("ada", "g1.flow", "text")
    again.close()


def test_state_event_and_message_are_one_transaction(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite")
    wrong = change()
    wrong.more = {"what": object()}
    with pytest.raises(TypeError):
        store.keep([record()], [change(), wrong], [Message("ada", "g1.flow", 3, "ada", "text")])
    assert not store.events(0, AT + 1)
    assert not store.waiting()
    store.close()
    assert Store(tmp_path / "alarms.sqlite").kept == []


def test_numbers_of_events_are_never_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite")
    store.keep([], [change(), change("cleared")], [])
    store.close()
    store = Store(tmp_path / "alarms.sqlite")
    (third,) = store.keep([], [change("raised", AT + 9)], [])
    assert third["seq"] == 3
    assert [event["seq"] for event in store.events(AT + 1, AT + 10)] == [3]
    assert [event["seq"] for event in store.events(0, AT + 10, "g1.flow", most=2)] == [2, 3]
    assert store.events(0, AT + 10, "g2.flow") == []


def test_a_pending_alarm_begins_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite")
    store.keep([record(S.PENDING)], [], [])
    store.close()
    assert Store(tmp_path / "alarms.sqlite").kept[0].state is S.NORMAL


def test_what_another_version_has_kept_is_read(tmp_path: Path) -> None:
    path = tmp_path / "alarms.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        body = {"alarm": "g1.flow", "state": "acknowledged", "colour": "red"}
        db.execute("INSERT INTO record VALUES ('g1.flow', ?)", (json.dumps(body),))
    (kept,) = Store(path).kept
    assert kept.state is S.ACKNOWLEDGED


@pytest.mark.parametrize(
    "damage",
    [
        b"nonsense" * 1000,
        "nonsense",
        "[]",
        '{"alarm": "g1.flow", "stave": "active"}',
        '{"alarm": "g1.flow", "state": "active", "since": "2026-11-22T0r:00:00.000Z"}',
        '{"alarm": "g1.flow", "state": "active", "shelved": {"ultil": "2026-11-22"}}',
    ],
)
def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: bytes | str) -> None:
    path = tmp_path / "alarms.sqlite"
    store = Store(path)
    store.keep([record()], [change()], [])
    store.close()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE record SET body = ?", (damage,))
    found = Store(path)
    assert found.kept == []
    assert "was damaged" in found.damaged
    assert [file.name.startswith("alarms.sqlite.damaged-") for file in tmp_path.glob("*damaged*")]
    found.keep([record()], [], [])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HcamError, match="file"):
        Store(tmp_path / "file" / "alarms.sqlite")


def test_a_message_waits_until_it_was_sent(tmp_path: Path) -> None:
    store = Store(tmp_path / "alarms.sqlite")
    store.keep([], [], [Message("ada", "", 0, "test", "one"), Message("bob", "", 0, "test", "two")])
    first, second = store.waiting()
    store.note_delivery(first.id, "mail", Delivery(True, None), "no answer", 1)
    assert store.waiting() == [first, second]
    assert store.deliveries() == {(first.id, "mail"): Delivery(True, None)}
    store.note_delivery(first.id, "mail", Delivery(False, AT), "", 0)
    store.note_sent(first.id, AT)
    assert store.waiting() == [second]
    assert store.sent_since("ada", "mail", AT - 1) == [AT]
    assert store.sent_since("ada", "chat", AT - 1) == []
    assert store.sent_since("bob", "mail", 0) == []
