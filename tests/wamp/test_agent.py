"""The agent without a router: what it keeps, and what it would publish."""

import asyncio
import random
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import CBORObjectSerializer, JsonObjectSerializer

from hcam_devices import HcamError
from hcam_devices.core import Device, rpc
from hcam_devices.core.device import Sample
from hcam_devices.journal import Journal
from hcam_devices.wamp.agent import MAX_BYTES, Agent
from hcam_devices.wamp.journal_service import JournalService
from hcam_devices.wamp.outbox import Outbox
from hcam_devices.wamp.owner import NameTakenError
from hcam_devices.wamp.uris import MAX_MESSAGE_BYTES

from ..helpers import ENTRIES, reasons


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with closing(Journal(tmp_path / "journal")) as journal:
        yield Agent(ENTRIES["pressure1"].build(), ("pressure1",), journal)


def say(agent: Agent, **more: Any) -> Sample:
    """Publish a sample; return the newest one."""
    agent.publish(agent.device.snapshot() | more)
    newest = agent.telemetry()
    assert newest
    return newest


WORST = {
    "numbers": [0.5] * ((MAX_BYTES - 1000) // 5),
    "incompressible": b64encode(random.Random(1).randbytes((MAX_BYTES - 1000) // 4 * 3)).decode(),
    "controls": "\0" * ((MAX_BYTES - 1000) // 6),
    "symbols": "\N{WARNING SIGN}" * ((MAX_BYTES - 1000) // 6),
}


@pytest.mark.parametrize("worst", WORST)
async def test_the_largest_sample_fits_into_a_message(agent: Agent, worst: str) -> None:
    newest = say(agent, pressure=WORST[worst])
    assert newest["pressure"] == WORST[worst]
    for serializer in (CBORObjectSerializer(), JsonObjectSerializer()):
        name = agent.device.name
        page = JournalService(agent.journal).page(name)
        for said in (newest, agent.samples(), page):
            data = serializer.serialize(said)  # type: ignore[no-untyped-call]
            assert len(data) < MAX_MESSAGE_BYTES - 1000


async def test_of_a_sample_that_the_router_would_not_pass_on_an_alarm_is_told(agent: Agent) -> None:
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


async def test_an_alarm_of_the_agent_has_the_time_of_its_first_sample(agent: Agent) -> None:
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


async def test_why_samples_are_not_kept_is_logged_once(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(samples: list[Sample], most: int) -> list[sqlite3.Error]:
        return [sqlite3.OperationalError("database or disk is full") for _ in samples]

    for times in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(agent.journal, "append_all", fail)
            told = [reasons(say(agent), "journal") for _ in range(3)]
        assert all("samples are not being kept" in reason for reason in told)
        assert caplog.text.count("samples are not being kept") == times
        assert not reasons(say(agent), "journal")
    for _ in range(3):
        assert "bytes is more" in reasons(say(agent, pressure="x" * MAX_BYTES), "telemetry")
    assert caplog.text.count("bytes is more") == 1


class Router:
    """A session that notes what is published, and which samples were in the journal by then."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.said: list[Any] = []

    def is_attached(self) -> bool:
        return True

    @contextmanager
    def together(self) -> Iterator[None]:
        self.said.append("begin")
        yield
        self.said.append("end")

    def publish_retained(self, topic: str, sample: Sample) -> None:
        assert sample in self.journal.samples(sample["device"], 0, 100)
        self.said.append((sample["device"], sample["seq"]))


async def test_samples_of_one_turn_are_kept_together_and_then_leave_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Journal(tmp_path / "journal")) as journal:
        kept: list[int] = []
        append_all: Callable[..., Any] = journal.append_all

        def noting(samples: list[Sample], most: int) -> Any:
            kept.append(len(samples))
            return append_all(samples, most)

        monkeypatch.setattr(journal, "append_all", noting)
        outbox, router = Outbox(journal, MAX_BYTES), Router(journal)
        names = "pressure1", "pressure2"
        agents = [Agent(ENTRIES[n].build(), (n,), journal, outbox=outbox) for n in names]
        for agent in agents:
            agent._session = outbox.session = router  # type: ignore[assignment]
            agent.device.emit()
        agents[0].device.emit()
        assert router.said == []
        await asyncio.sleep(0)
        assert kept == [3]
        assert router.said == [
            "begin", ("pressure1", 1), ("pressure2", 1), ("pressure1", 2), "end",
        ]  # fmt: skip
        agents[1].publish(agents[1].device.snapshot() | {"pressure": "x" * MAX_BYTES})
        assert (agents[1].telemetry() or {})["seq"] == 2
        assert router.said[5:] == [("pressure2", 2)]


async def test_the_sample_of_a_command_is_published_before_its_answer(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router(agent.journal)
    agent._session = agent._outbox.session = router  # type: ignore[assignment]

    async def later() -> str:
        await asyncio.sleep(0)
        agent.device.emit()
        return "done"

    def at_once() -> str:
        agent.device.emit()
        return "done"

    def in_vain() -> str:
        agent.device.emit()
        raise ValueError("no")

    for n, command in enumerate((at_once, later, in_vain), start=1):
        monkeypatch.setattr(agent, "call", lambda *_, command=command: command())
        call = SimpleNamespace(procedure=".rpc.home", caller_authid="a", caller_authrole="b")
        with pytest.raises(ApplicationError) if command is in_vain else nullcontext():
            answer = agent._serve(_call=call)
            assert (await answer if asyncio.iscoroutine(answer) else answer) == "done"
        assert (agent.device.name, n) in router.said


async def test_a_name_that_is_refused_after_it_was_taken_loses_no_samples(agent: Agent) -> None:
    errors = [NameTakenError("hipercam.pressure1.rpc.", {}), ApplicationError("x.refused", "no")]

    async def claim(*_: object) -> None:
        raise errors.pop(0)

    session: Any = SimpleNamespace(claim=claim, owner=None)
    for error, kept in ((NameTakenError, 0), (ApplicationError, 1)):
        with pytest.raises(error):
            await agent.present(session)
        agent.publish(agent.device.snapshot())
        assert len(agent.samples()) == kept


async def test_a_sample_that_is_a_bug_keeps_no_other_device_from_publishing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Journal(tmp_path / "journal")) as journal:
        outbox, router = Outbox(journal, MAX_BYTES), Router(journal)
        names = "pressure1", "pressure2"
        agents = [Agent(ENTRIES[n].build(), (n,), journal, outbox=outbox) for n in names]
        for agent in agents:
            agent._session = outbox.session = router  # type: ignore[assignment]
        agents[0].publish(agents[0].device.snapshot() | {"pressure": object()})
        agents[1].device.emit()
        await asyncio.sleep(0)
        assert router.said == ["begin", ("pressure2", 1), "end"]
        assert "pressure1: a sample was not taken" in caplog.text
        assert "not JSON serializable" in caplog.text


class Recorder(Device):
    """A device of a site whose command has the name of one that every device gets."""

    @rpc()
    async def samples(self) -> None:
        """Take samples."""


def test_a_command_with_the_name_of_one_of_every_device_is_told(tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path / "journal")) as journal,
        pytest.raises(HcamError, match=r"Recorder has a command samples, .* another name"),
    ):
        Agent(Recorder("site", port=1), ("site",), journal)
