"""The events with what changed in the samples of many devices."""

import asyncio
from typing import Any

import pytest
from autobahn.exception import PayloadExceededError
from autobahn.wamp.exception import TransportLost

from hcam_devices.wamp import changes
from hcam_devices.wamp.changes import ServerChanges

from ..helpers import until


class Session:
    """A session whose router takes events of a few devices only."""

    most = 2

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.attached = True

    def is_attached(self) -> bool:
        return self.attached

    def publish(self, topic: str, event: dict[str, Any]) -> None:
        assert topic == "hipercam.hwserver.changes"
        assert event["server"] == "hwserver"
        if len(event["devices"]) > self.most:
            raise PayloadExceededError
        self.events.append(event["devices"])

    def devices(self) -> dict[str, Any]:
        """Return what was published of each device, and forget it."""
        events, self.events = self.events, []
        return {name: changed for event in events for name, changed in event.items()}


def sample(device: str, seq: int, **values: Any) -> dict[str, Any]:
    return {"device": device, "seq": seq, "epoch": "e", "state": {"connection": "online"}} | values


@pytest.fixture
async def session() -> Session:
    return Session()


async def published(one: ServerChanges, session: Session) -> dict[str, Any]:
    """Return what is published next."""
    task = asyncio.create_task(one.run())
    try:
        await until(lambda: bool(session.events))
    finally:
        task.cancel()
    return session.devices()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PERIOD_S", 0.001)


async def test_what_changed_meanwhile_is_published_even_if_it_changed_back(
    session: Session,
) -> None:
    one = ServerChanges("hwserver")
    one.begin(session)  # type: ignore[arg-type]
    one.note(sample("a", 1, x=1, y=1))
    online = {"state": {"connection": "online"}}
    assert await published(one, session) == {"a": online | {"x": 1, "y": 1}}
    one.note(sample("a", 2, x=2, y=1))
    one.note(sample("a", 3, x=1, y=1))
    one.note(sample("b", 1, x=7))
    assert await published(one, session) == {"a": {"x": 1}, "b": online | {"x": 7}}
    one.note(sample("a", 4, x=1, y=1))
    assert await published(one, session) == {"a": {}}  # it lives


async def test_a_new_session_begins_with_whole_samples(session: Session) -> None:
    one = ServerChanges("hwserver")
    one.begin(session)  # type: ignore[arg-type]
    one.note(sample("a", 1, x=1))
    await published(one, session)
    session.attached = False
    one.note(sample("a", 2, x=2))
    again = Session()
    one.begin(again)  # type: ignore[arg-type]
    one.note(sample("a", 2, x=2))
    assert await published(one, again) == {"a": {"state": {"connection": "online"}, "x": 2}}
    assert not session.events


async def test_what_is_too_large_for_one_event_comes_in_several(session: Session) -> None:
    one = ServerChanges("hwserver")
    one.begin(session)  # type: ignore[arg-type]
    for n in range(7):
        one.note(sample(f"d{n}", 1))
    assert [*await published(one, session)] == [f"d{n}" for n in range(7)]


async def test_a_lost_session_ends_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise TransportLost

    lost = Session()
    monkeypatch.setattr(lost, "publish", lose)
    one = ServerChanges("hwserver")
    one.begin(lost)  # type: ignore[arg-type]
    one.note(sample("a", 1))
    task = asyncio.create_task(one.run())
    await until(lambda: not one._changed)
    one.begin(session)  # type: ignore[arg-type]
    one.note(sample("a", 1))
    await until(lambda: bool(session.events))
    task.cancel()
