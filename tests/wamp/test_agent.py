"""The agent without a router: what it keeps, and what it would publish."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.serializer import CBORObjectSerializer, JsonObjectSerializer

from hcam_devices.core.device import Sample
from hcam_devices.journal import Journal
from hcam_devices.wamp.agent import MAX_BYTES, Agent
from hcam_devices.wamp.journal_service import JournalService
from hcam_devices.wamp.router import MAX_MESSAGE_BYTES

from ..helpers import ENTRIES, reasons


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        yield Agent(ENTRIES["pressure1"].build(), ("pressure1",), journal)


def say(agent: Agent, **more: Any) -> Sample:
    """Publish a sample; return the newest one."""
    agent.publish(agent.device.snapshot() | more)
    newest = agent.telemetry()
    assert newest
    return newest


WORST = {
    "numbers": [0.5] * ((MAX_BYTES - 1000) // 5),
    "incompressible": bytes(random.Random(1).choices(range(35, 92), k=MAX_BYTES - 1000)).decode(),
    "controls": "\0" * ((MAX_BYTES - 1000) // 6),
    "symbols": "\N{WARNING SIGN}" * ((MAX_BYTES - 1000) // 6),
}


@pytest.mark.parametrize("worst", WORST)
def test_the_largest_sample_fits_into_a_message(agent: Agent, worst: str) -> None:
    newest = say(agent, pressure=WORST[worst])
    assert newest["pressure"] == WORST[worst]
    for serializer in (CBORObjectSerializer(), JsonObjectSerializer()):
        name = agent.device.name
        compressed = JournalService(agent.journal).samples_compressed(name)
        for said in (newest, agent.samples(), compressed):
            data = serializer.serialize(said)  # type: ignore[no-untyped-call]
            assert len(data) < MAX_MESSAGE_BYTES - 1000


def test_of_a_sample_that_the_router_would_not_pass_on_an_alarm_is_told(agent: Agent) -> None:
    agent.warning = "make room"
    newest = say(agent, pressure="x" * MAX_BYTES)
    assert newest == agent.samples()[0]
    assert newest["pressure"] is None
    assert newest["state"] == {"connection": "offline"}
    assert "bytes is more than 500000" in reasons(newest, "telemetry")
    assert reasons(newest, "journal") == "make room"
    assert say(agent)["seq"] == 2
    newest = say(agent, state={"connection": "online", "stage": "x" * MAX_BYTES})
    assert newest["state"] == {"connection": "online"}


def test_an_alarm_of_the_agent_has_the_time_of_its_first_sample(agent: Agent) -> None:
    def since(at: str) -> list[str]:
        return [a["since"] for a in say(agent, alarms=[], timestamp=at)["alarms"]]

    agent.warning = "41 % of its disk is left"
    assert since("first") == ["first"]
    agent.warning = "40 % of its disk is left"
    assert since("second") == ["first"]
    agent.warning = None
    assert since("third") == []
    agent.warning = "39 % of its disk is left"
    assert since("fourth") == ["fourth"]
