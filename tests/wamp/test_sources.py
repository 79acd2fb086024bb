"""Devices of other servers: whose telemetry is believed, and how setpoints reach them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError

from hcam_devices.errors import InvalidArgumentError, OfflineError
from hcam_devices.wamp.sources import RemoteSources

from ..helpers import ENTRIES

RACK = "meerstetter1"
TOPIC = f"hipercam.{RACK}.telemetry"
OURS, OTHERS = 11, 12


class Session:
    """A session whose router says that OURS owns the name, and whose rack answers."""

    def __init__(self) -> None:
        self.owner: int | None = OURS
        self.topics: dict[str, Any] = {}
        self.called: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}

    def is_attached(self) -> bool:
        return True

    async def subscribe(self, handler: Any, topic: str, options: Any = None) -> None:
        self.topics[topic] = handler

    async def call(self, procedure: str, *args: Any) -> Any:
        if procedure == "wamp.registration.lookup":
            return None if self.owner is None else 1
        if procedure == "wamp.registration.list_callees":
            return [self.owner]
        self.called.append((procedure, *args))
        answer = self.answers[procedure]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def publish(self, publisher: int | None, *args: Any) -> None:
        """Deliver an event as the router does, and let the session ask whose it is."""
        self.topics[TOPIC](*args, _event=SimpleNamespace(publisher=publisher))
        for _ in range(20):
            await asyncio.sleep(0)

    def owned_by(self, owner: int | None) -> None:
        """Let another session, or none, own the name."""
        self.owner = owner
        self.topics["wamp.registration."](0, {"uri": f"hipercam.{RACK}.rpc."})


def sample(seq: int | None, **more: Any) -> dict[str, Any]:
    header = {"device": RACK, "seq": seq, "epoch": "e", "timestamp": "2026-11-22T04:44:44.196Z"}
    return {**header, "state": {"connection": "online"}, "alarms": [], **more}


def gone() -> dict[str, Any]:
    return sample(None, timestamp=None, state={"connection": "offline"})


class Stage:
    """One remote rack, and what its view has heard."""

    def __init__(self) -> None:
        self.sources = RemoteSources([ENTRIES[RACK]])
        self.session = Session()
        self.rack = self.sources.devices[RACK]
        self.heard: list[Any] = []
        self.rack.listeners.append(self.heard.append)

    async def follow(self) -> Session:
        session: Any = self.session
        await self.sources.follow(session)
        return self.session


async def test_only_the_session_that_owns_the_device_is_believed() -> None:
    stage = Stage()
    router = await stage.follow()
    await router.publish(OURS, sample(1))
    await router.publish(OTHERS, sample(2))
    await router.publish(None, sample(3))
    await router.publish(OURS, sample(4))
    assert [one["seq"] for one in stage.heard] == [1, 4]


async def test_a_stranger_that_speaks_first_is_not_believed_either() -> None:
    stage = Stage()
    router = await stage.follow()
    await router.publish(OTHERS, sample(1))
    await router.publish(OURS, sample(2))
    assert [one["seq"] for one in stage.heard] == [2]


async def test_a_device_that_has_joined_again_is_believed_under_its_new_session() -> None:
    stage = Stage()
    router = await stage.follow()
    await router.publish(OURS, sample(1))
    router.owned_by(OTHERS)
    await router.publish(OTHERS, sample(2))
    await router.publish(OURS, gone())
    assert [one["seq"] for one in stage.heard] == [1, 2]


@pytest.mark.parametrize("freed_first", [True, False])
async def test_a_testament_is_believed_of_the_session_that_was_believed(freed_first: bool) -> None:
    stage = Stage()
    router = await stage.follow()
    await router.publish(OURS, sample(1))
    if freed_first:
        router.owned_by(None)
    await router.publish(OTHERS, gone())
    assert len(stage.heard) == 1
    await router.publish(OURS, gone())
    assert stage.heard[-1]["state"] == {"connection": "offline"}


async def test_the_last_sample_sent_again_is_no_news() -> None:
    stage = Stage()
    router = await stage.follow()
    for seq in (1, 1, 2, 2):
        await router.publish(OURS, sample(seq))
    await router.publish(OURS, sample(2, epoch="f"))
    assert [(one["epoch"], one["seq"]) for one in stage.heard] == [("e", 1), ("e", 2), ("f", 2)]


@pytest.mark.parametrize(
    "said",
    [
        (),
        (7,),
        ({},),
        (sample(1, device="flow"),),
        (sample(1, alarms=[{"field": "x"}]),),
        (sample(1, state={}),),
        (sample(1, state=None),),
    ],
)
async def test_what_is_no_sample_is_logged_once_and_left_out(
    said: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    router = await stage.follow()
    for _ in range(3):
        await router.publish(OURS, *said)
    assert stage.heard == []
    (record,) = caplog.records
    assert f"telemetry of {RACK} cannot be read: " in record.message


async def test_a_setpoint_is_called_and_the_sample_that_follows_is_heard() -> None:
    stage = Stage()
    router = await stage.follow()
    router.answers[f"hipercam.{RACK}.rpc.set_target_temperature1"] = -40.0
    router.answers[f"hipercam.{RACK}.rpc.telemetry"] = sample(5)
    assert await stage.rack.set("target_temperature1", -40.0) == -40.0
    assert router.called[0] == (f"hipercam.{RACK}.rpc.set_target_temperature1", -40.0)
    assert [one["seq"] for one in stage.heard] == [5]


@pytest.mark.parametrize(
    ("uri", "error", "why"),
    [
        ("com.hipercam.error.invalid_argument", InvalidArgumentError, f"{RACK}.set_.*: too cold"),
        ("wamp.error.no_such_procedure", OfflineError, "is its server running"),
    ],
)
async def test_a_setpoint_that_is_refused_there_is_refused_here(
    uri: str, error: type[Exception], why: str
) -> None:
    stage = Stage()
    router = await stage.follow()
    answer = ApplicationError(uri, "too cold")
    router.answers[f"hipercam.{RACK}.rpc.set_target_temperature1"] = answer
    with pytest.raises(error, match=why):
        await stage.rack.set("target_temperature1", -400.0)
    assert len(router.called) == 1


async def test_without_a_router_nothing_is_set() -> None:
    with pytest.raises(OfflineError, match="there is no router"):
        await Stage().rack.set("target_temperature1", -40.0)
