"""Who did what: what an agent notes of each command, and what it leaves out."""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError

from hcam_devices.devices.zaber import Simulator
from hcam_devices.journal import Journal
from hcam_devices.journal.commands import event_of, record_of
from hcam_devices.journal.points import flatten
from hcam_devices.wamp.agent import Agent
from hcam_devices.wamp.commands import MAX_ERROR, MAX_REFUSED, CommandLog
from hcam_devices.wamp.redaction import HIDDEN, cut, shown, without_secrets

from ..helpers import ENTRIES, Clock, online, presented, sample_where

SEED = "0123456789abcdef" * 4
TOKEN = "kX9_" + "aB3" * 14


class Noted:
    """An agent without a router, and what it has noted."""

    def __init__(self, device: Any, journal: Journal) -> None:
        self.journal = journal
        self.published: list[dict[str, Any]] = []
        self.agent = Agent(device, (device.name,), journal)
        self.clock = Clock()
        log = self.agent.commands = CommandLog(
            device, journal, self.agent.telemetry, self.published.append, self.clock
        )
        assert log.device is device

    async def call(self, name: str, *args: Any, who: str = "alice", **kwargs: Any) -> Any:
        details = SimpleNamespace(
            procedure=f"hipercam.{self.agent.device.name}.rpc.{name}",
            caller_authid=who,
            caller_authrole="operator",
        )
        result = self.agent._serve(*args, _call=details, **kwargs)
        return await result if asyncio.iscoroutine(result) else result

    def publish(self, field: str, *args: Any, **kwargs: Any) -> Awaitable[None]:
        event = SimpleNamespace(publisher_authid="bob", publisher_authrole="engineer")
        done: Awaitable[None] = self.agent._setter(field)(*args, _event=event, **kwargs)
        return done

    def kept(self) -> list[dict[str, Any]]:
        """Return the events of the records in the journal."""
        stream = f"{self.agent.device.name}.command"
        return [event_of(flatten(one)) for one in self.journal.samples(stream, 0, 1000)]

    def newest(self) -> dict[str, Any]:
        """Return the event that was noted last: the same, published and in the journal."""
        assert self.kept()[-1] == self.published[-1]
        return dict(self.published[-1])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal")) as journal:
        yield journal


@pytest.fixture
def noted(journal: Journal) -> Noted:
    """The agent of a rack that is offline."""
    return Noted(ENTRIES["meerstetter1"].build(), journal)


async def test_a_setpoint_is_noted_with_what_was_before_and_the_sample_after(
    journal: Journal,
) -> None:
    async with presented(ENTRIES["meerstetter1"], Simulator_of("meerstetter1")) as rack:
        noted = Noted(rack, journal)
        await sample_where(rack, online)
        await noted.call("set_target_temperature1", -80)
        before = noted.newest()["seq"]
        await noted.call("set_target_temperature1", "-70 deg_C", _why="tests of the cooler")
        event = noted.newest()
        assert event["before"]["target_temperature1"] == {"value": -80.0, "unit": "deg_C"}
        assert set(event["before"]) == {"target_temperature1", "temperature1"}
        assert event["seq"] > before
        (after,) = journal.samples("meerstetter1", event["seq"] - 1, 1)
        assert after["target_temperature1"]["value"] == -70
        del event["before"], event["seq"], event["time"]
        assert event == {
            "device": "meerstetter1",
            "who": "alice",
            "role": "operator",
            "what": "set_target_temperature1",
            "args": ["-70 deg_C"],
            "kwargs": {},
            "why": "tests of the cooler",
            "error": None,
        }
        await noted.publish("target_temperature1", -60, _why="by topic")
        event = noted.newest()
        assert (event["who"], event["role"], event["what"], event["args"], event["why"]) == (
            "bob", "engineer", "target_temperature1", [-60], "by topic",
        )  # fmt: skip
        assert event["error"] is None


def Simulator_of(name: str) -> Any:
    entry = ENTRIES[name]
    return entry.cls.simulator(seed=1)


async def test_a_setpoint_is_noted_with_an_earlier_time_than_a_call_after_it(noted: Noted) -> None:
    setting = asyncio.ensure_future(noted.publish("target_temperature1", -60))
    with pytest.raises(ApplicationError):
        await noted.call("reset", 1)
    await setting
    times = {event["what"]: event["time"] for event in noted.kept()}
    assert times["target_temperature1"] < times["reset"]


async def test_a_motion_is_noted_with_its_axis(journal: Journal) -> None:
    async with presented(ENTRIES["slide"], Simulator(seed=1)) as slide:
        noted = Noted(slide, journal)
        await sample_where(slide, online)
        await noted.call("stage.home")
        event = noted.newest()
        assert event["what"] == "stage.home"
        assert set(event["before"]) == {"position", "state"}
        assert set(event["before"]["state"]) == {"stage"}
        with pytest.raises(ApplicationError):
            await noted.call("stage.move", 1, 2, 3)
        assert noted.newest()["error"] == noted.published[-1]["error"] != ""


async def test_what_is_refused_is_noted_with_the_reason_and_what_reads_is_not(
    noted: Noted,
) -> None:
    for name, args in (
        ("set_target_temperature1", (-80,)),  # offline
        ("set_target_temperature1", (9999,)),
        ("set_target_temperature1", ({"value": float("nan"), "unit": "deg_C"},)),
        ("set_target_temperature1", ()),
        ("nonsense", ()),
        ("exchange", ("01",)),
    ):
        with pytest.raises(ApplicationError) as caught:
            await noted.call(name, *args, _why="to try")
        event = noted.newest()
        assert event["what"] == name
        assert event["error"] == cut(caught.value.args[0], MAX_ERROR)
        assert event["why"] == "to try"
    await noted.publish("target_temperature1", "nonsense")
    assert "'nonsense' is not a number" in noted.newest()["error"]
    await noted.publish("target_temperature1", 1, 2)
    assert "one value is expected" in noted.newest()["error"]
    count = len(noted.published)
    await noted.call("describe", _why="read-only procedures take it as well")
    await noted.call("samples")
    assert len(noted.published) == len(noted.kept()) == count
    await noted.call("stage_enable1.disable")
    assert noted.newest()["error"] is None


async def test_a_command_that_is_canceled_or_cut_off_is_noted_as_of_unknown_outcome(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    procedure = noted.agent.procedures["connection.connect"]
    monkeypatch.setitem(vars(procedure), "call", forever)
    running = [asyncio.create_task(noted.call("connection.connect", _why=n)) for n in range(2)]
    await asyncio.sleep(0)
    running[0].cancel()
    await asyncio.gather(running[0], return_exceptions=True)
    assert "canceled" in noted.newest()["error"]
    noted.agent.commands.close()
    assert "its server ended" in noted.newest()["error"]
    running[1].cancel()
    await asyncio.gather(running[1], return_exceptions=True)
    assert [one["why"] for one in noted.kept()] == ["0", "1"]


async def test_a_flood_of_refused_commands_is_bounded_and_counted(noted: Noted) -> None:
    for _ in range(MAX_REFUSED + 500):
        await noted.publish("target_temperature1", 9999)
    assert len(noted.kept()) == MAX_REFUSED
    await noted.call("stage_enable1.disable")  # a call that is not refused is noted nevertheless
    assert noted.newest()["what"] == "stage_enable1.disable"
    noted.agent.commands.note_count()
    assert "500 more were refused since" in noted.newest()["error"]
    assert len(noted.kept()) == MAX_REFUSED + 2
    noted.clock.now += 3
    for _ in range(10):
        await noted.publish("target_temperature1", 9999)
    assert len(noted.kept()) == MAX_REFUSED + 2 + 3
    noted.agent.commands.close()
    assert re.search("7 more were refused .*: those of bob$", noted.newest()["error"])


async def test_commands_of_one_moment_have_times_of_their_own(journal: Journal) -> None:
    device = ENTRIES["meerstetter1"].build(clock=lambda: 1_795_000_000.0)
    noted = Noted(device, journal)
    for _ in range(10):
        await noted.call("stage_enable1.disable")
    times = [one["time"] for one in noted.kept()]
    assert times == sorted(set(times))


@pytest.mark.parametrize(
    "secret",
    [
        {"kwargs": {"password": "hunter2"}},
        {"kwargs": {"api_key": 123456}},
        {"args": [{"auth": {"token": "hunter2"}}]},
        {"args": ["https://alice:hunter2@example.org/"]},
        {"args": ["Authorization: Bearer hunter2"]},
        {"args": ["user=alice password=hunter2"]},
        {"args": [SEED]},
        {"args": [TOKEN]},
        # pragma: allowlist nextline secret
        {"args": ["-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"]},
        {"why": "the password: hunter2"},
    ],
)
async def test_nothing_that_looks_like_a_secret_is_noted(
    noted: Noted, secret: dict[str, Any]
) -> None:
    with pytest.raises(ApplicationError):
        await noted.call(
            "set_target_temperature1",
            *secret.get("args", ()),
            _why=secret.get("why"),
            **secret.get("kwargs", {}),
        )
    text = json.dumps(noted.newest())
    assert HIDDEN in text
    for word in ("hunter2", "123456", SEED[:20], TOKEN[:20]):
        assert word not in text


def test_a_secret_that_an_error_quotes_is_hidden_there_too() -> None:
    secrets: list[str] = []
    assert shown({"password": "hunter2"}, secrets) == {"password": HIDDEN}
    assert without_secrets("password: 'hunter2' is wrong", secrets).count("hunter2") == 0
    assert without_secrets("-80 deg_C is not within 1 to 2") == "-80 deg_C is not within 1 to 2"
    assert without_secrets("set_target_temperature1") == "set_target_temperature1"


@pytest.mark.parametrize(
    "worst",
    [
        ["x" * 1_000_000],
        [list(range(100_000))],
        [{str(n): "x" * 1000 for n in range(1000)}],
        ["x " * 1000] * 1000,
        [[[[[1]]]]],
        [10**5000, float("nan"), b"\0" * 1000, "\ud800"],
    ],
)
async def test_arguments_are_shortened(noted: Noted, worst: list[Any]) -> None:
    with pytest.raises(ApplicationError):
        await noted.call("nonsense", *worst, more=worst, _why=worst)
    assert len(json.dumps(noted.newest(), allow_nan=False)) < 10_000


def test_a_record_comes_back_as_its_event() -> None:
    event = {
        "device": "slide",
        "time": "2026-11-22T04:44:44.196Z",
        **dict.fromkeys(("who", "role", "why", "error", "seq")),
        "what": "stage.home",
        "args": [1, {"value": -80, "unit": "deg_C"}],
        "kwargs": {"confirm": True},
        "before": {"state": {"stage": "inpos"}},
    }
    for more in ({}, {"who": "alice", "role": "operator", "why": "x", "error": "y", "seq": 7}):
        numbered = record_of(event | more) | {"seq": 3, "epoch": "4f3c"}
        assert event_of(flatten(numbered)) == event | more
