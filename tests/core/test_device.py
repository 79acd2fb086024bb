"""The lifecycle of a device, with its simulator on a real port and without hardware."""

import asyncio
import json
import shlex
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from hcam_devices.config.instrument import Entry, carried, load
from hcam_devices.core import sim
from hcam_devices.core.device import Device, Sample, settings_of
from hcam_devices.core.fields import Readback, Setpoint
from hcam_devices.core.link import Lasting, Serial, quoted
from hcam_devices.core.part import Alarm, Reading
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import (
    AT_MOST,
    CONNECTED,
    ENTRIES,
    FAST,
    SIMULATED,
    Clock,
    complete,
    lies,
    living,
    offline,
    online,
    presented,
    reasons,
    sample_where,
    until,
)

NEVER: dict[str, Any] = {"poll_every": 3600.0, "timeout": 20.0}
each = pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES.values() if entry.cls.simulator],
    ids=[name for name, entry in ENTRIES.items() if entry.cls.simulator],
)
on_a_port = pytest.mark.parametrize(
    "entry",
    [entry for entry in CONNECTED.values() if not issubclass(entry.cls.link_type, Serial)],
    ids=[kind for kind, one in CONNECTED.items() if not issubclass(one.cls.link_type, Serial)],
)
"""Serial ports, programs, HTTP and CORBA come and go in the tests of their devices."""

SETPOINTS = [
    pytest.param(entry, field, id=f"{kind}-{name}")
    for kind, entry in SIMULATED.items()
    if kind != "Arms"  # it must be homed first: see its own tests
    for name, field in entry.cls.fields.items()
    if isinstance(field, Setpoint)
]


REFUSED: list[Any] = [
    1e9, float("nan"), float("inf"), "", "warm", None, [1, 2], {}, True, b"1", "1 kg", 10**400,
]  # fmt: skip


def another(field: Setpoint) -> float:
    """Return a value that may be set and is not what a simulator begins with."""
    low, high = field.limits
    return min(field.words) if field.words else round((low + high) / 2)


def counted(simulator: Any) -> list[bytes]:
    """Return a list that grows with each frame the simulator answers."""
    frames: list[bytes] = []
    answer: Callable[[bytes], bytes] = simulator.answer

    def count(frame: bytes) -> bytes:
        frames.append(frame)
        return answer(frame)

    simulator.answer = count
    return frames


def value_of(sample: Sample, name: str) -> Any:
    """Return a setpoint as telemetry has it, also where it is the target of an axis."""
    shown = sample[name] if name in sample else sample[name.removeprefix("target_")]["target"]
    return shown["value"] if isinstance(shown, dict) else shown


@each
async def test_it_comes_online_with_the_same_values_twice_and_without_alarms(entry: Entry) -> None:
    async with presented(entry, entry.cls.simulator(clock=Clock())) as device:
        first = await sample_where(device, complete)
        second = await sample_where(device, lambda sample: True)
    assert lies(second, first) == []
    assert [alarm for alarm in first["alarms"] if "homed" not in alarm["reason"]] == []
    assert first["device"] == entry.name


@on_a_port
async def test_it_says_offline_when_the_link_drops_and_comes_back(entry: Entry) -> None:
    simulator = entry.cls.simulator(clock=Clock())
    device = entry.build(**NEVER, port=1)
    async with sim.serve(simulator) as place:
        device.link.port = place["port"]
        running = living(device)
        await running.__aenter__()
        truth = await sample_where(device, complete)
    gone = await sample_where(device, offline)
    assert lies(gone, truth) == []
    async with sim.serve(simulator, place["port"]):
        await device.connect()
        assert lies(await sample_where(device, complete), truth) == []
        await running.__aexit__(None, None, None)


@on_a_port
async def test_it_may_be_started_before_its_hardware(entry: Entry) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        device = entry.build(**(FAST | {"port": port}))
        running = living(device)
        await running.__aenter__()
        sample = await sample_where(device, offline)
        assert str(port) in reasons(sample, "connection")
    async with sim.serve(entry.cls.simulator(), port):
        await sample_where(device, complete)
        await running.__aexit__(None, None, None)


@pytest.mark.parametrize(("entry", "field"), SETPOINTS)
async def test_a_setpoint_is_written_read_back_and_emitted_at_once(
    entry: Entry, field: Setpoint
) -> None:
    value = another(field)
    shown = field.words.get(int(value), value)
    async with presented(entry, entry.cls.simulator(clock=Clock()), **NEVER) as device:
        before = await sample_where(device, complete)
        assert value_of(before, field.name) != shown
        emitted: list[Sample] = []
        device.listeners.append(emitted.append)
        assert await device.set(field.name, value, confirm=True) == shown
        assert value_of(emitted[-1], field.name) == shown


@pytest.mark.parametrize(("entry", "field"), SETPOINTS)
async def test_a_refused_setpoint_never_reaches_the_hardware_and_says_why(
    entry: Entry, field: Setpoint
) -> None:
    simulator = entry.cls.simulator(clock=Clock())
    frames = counted(simulator)
    async with presented(entry, simulator, **NEVER) as device:
        truth = await sample_where(device, complete)
        frames.clear()
        for value in REFUSED:
            with pytest.raises(ValueError, match=r"is not|cannot be") as refused:
                await device.set(field.name, value)
            assert str(refused.value).count(" ") > 3
            await device.set_unacknowledged(field.name, value)
        for args in ((), (1, 2)):
            await device.set_unacknowledged(field.name, *args)
            assert f"not {len(args)} and 0 named" in reasons(device.snapshot(), field.name)
        assert frames == []
        assert lies(device.snapshot(), truth) == []
        assert {"WARN"} == {alarm["severity"] for alarm in device.snapshot()["alarms"]}
        await device.set(field.name, another(field), confirm=True)
        assert "refused" not in reasons(device.snapshot())


@pytest.mark.parametrize(("entry", "field"), SETPOINTS)
async def test_a_setpoint_while_offline_is_refused_with_the_reason(
    entry: Entry, field: Setpoint
) -> None:
    device = entry.build()
    with pytest.raises(ConnectionError, match=r"is offline \(.*\); nothing was sent"):
        await device.set(field.name, another(field), confirm=True)


@pytest.mark.parametrize("entry", SIMULATED.values(), ids=SIMULATED)
async def test_it_lets_itself_be_disconnected_and_read_selectively(entry: Entry) -> None:
    async with presented(entry, entry.cls.simulator(clock=Clock())) as device:
        truth = await sample_where(device, complete)
        for name, field in device.fields.items():
            if name in {*device.nested(), *device.nested().values()}:
                continue
            await device.procedures()[f"{field.deployed_name}.disable"].call()
            off = await sample_where(device, lambda sample, name=name: sample[name] is None)  # type: ignore[misc]
            assert f"{field.deployed_name}.enable" in reasons(off, name)
            assert {alarm["severity"] for alarm in off["alarms"]} == {"WARN"}
            await device.procedures()[f"{field.deployed_name}.enable"].call()
            assert lies(await sample_where(device, complete), truth) == []
        await device.procedures()["connection.disconnect"].call()
        assert "by request" in reasons(await sample_where(device, offline))
        await device.procedures()["connection.connect"].call()
        await sample_where(device, complete)


PROMPT = {
    kind: entry for kind, entry in SIMULATED.items() if kind not in ("Arms", "Rack", "Telescope")
}
"""Those that end at once: a serial port closes in a thread, a CORBA call has to run out."""


@pytest.mark.parametrize("entry", PROMPT.values(), ids=PROMPT)
async def test_nothing_is_left_running_when_it_is_cancelled_in_the_middle_of_a_question(
    entry: Entry,
) -> None:
    before = asyncio.all_tasks()
    simulator = entry.cls.simulator(clock=Clock())
    cut, asked = simulator.cut, asyncio.Event()

    def listen(buffer: bytearray) -> Any:
        frame = cut(buffer)
        if frame is not None:
            asked.set()
        return frame

    simulator.cut = listen
    async with presented(entry, simulator, timeout=20.0) as device:
        await sample_where(device, complete)
        simulator.simulate("silence")
        asked.clear()
        async with asyncio.timeout(AT_MOST):
            await asked.wait()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("name", ENTRIES)
async def test_every_device_describes_all_its_fields_and_ends_when_cancelled(name: str) -> None:
    device = ENTRIES[name].build()
    described = device.describe()
    assert described["fields"].keys() == device.fields.keys()
    given = ENTRIES[name].settings.keys() & settings_of(device.link_type).keys()
    assert described["link"].items() >= {(one, ENTRIES[name].settings[one]) for one in given}
    assert json.dumps(described["link"])
    assert all(one.describe(what)["doc"] for what, one in device.procedures().items())
    async with living(device):
        await asyncio.sleep(0)


# --- alone ----------------------------------------------------------------------------------


class Toy(Device):
    """Hardware that is in the test's hand."""

    link_type = Lasting

    level = Setpoint(unit="K", limits=(0, 1000), tolerance=1e-6)
    number = Readback()

    def __init__(self, **settings: Any) -> None:
        super().__init__("toy", **settings)
        self.holds: dict[str, Any] = {"level": 1.0, "number": 1.0}
        self.failure: Exception | None = None
        self.polls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def poll(self) -> None:
        self.polls += 1
        await self.gate.wait()
        await super().poll()

    async def read(self, field: Readback) -> Any:
        if self.failure:
            raise self.failure
        return self.holds[field.name]

    async def write(self, field: Setpoint, value: float) -> None:
        await asyncio.sleep(0)
        self.holds[field.name] = value


async def test_setpoints_take_effect_in_the_order_in_which_they_came() -> None:
    toy = Toy()
    async with living(toy):
        await sample_where(toy, online)
        converted = asyncio.create_task(toy.set("level", "100 mK"))
        await asyncio.sleep(0)
        others = [asyncio.create_task(toy.set("level", n)) for n in (5, 6, 7)]
        assert await asyncio.gather(converted, *others) == [0.1, 5, 6, 7]
    assert toy.holds["level"] == 7


async def test_a_setpoint_that_the_hardware_does_not_follow_is_an_error() -> None:
    toy = Toy()

    async def write(field: Setpoint, value: float) -> None:
        toy.holds[field.name] = value + 1

    toy.write = write  # type: ignore[method-assign]
    async with living(toy):
        await sample_where(toy, online)
        with pytest.raises(RefusedError, match="level: 5 was sent, but the hardware says 6"):
            await toy.set("level", 5)


async def test_a_setpoint_whose_reading_is_disabled_can_be_set_and_is_read_back() -> None:
    toy = Toy()
    async with living(toy):
        await sample_where(toy, online)
        await toy.procedures()["level.disable"].call()
        assert await toy.set("level", 5) == 5


@pytest.mark.parametrize(
    ("failure", "why"),
    [(RefusedError("no"), "no"), (ValueError("not a number"), "not a number")],
)
async def test_what_cannot_be_read_is_null_with_its_reason_and_the_device_stays_online(
    failure: Exception, why: str
) -> None:
    toy = Toy(poll_every=0.01)
    async with living(toy):
        await sample_where(toy, online)
        toy.failure = failure
        bad = await sample_where(toy, lambda sample: sample["number"] is None)
        assert online(bad)
        assert reasons(bad, "number") == why


def test_an_alarm_has_the_time_of_its_first_sample_while_its_reason_changes() -> None:
    clock = Clock()
    toy = Toy(clock=clock)
    toy._connected()

    def seen(**readings: Reading) -> list[tuple[str, str, float]]:
        """Take a sample a second later; return field, severity and age of each alarm."""
        clock.now += 1
        toy.readings |= {"level": Reading(1.0)} | readings
        toy.read_at = clock.now
        return [
            (a["field"], a["severity"], clock.now - datetime.fromisoformat(a["since"]).timestamp())
            for a in toy.snapshot()["alarms"]
        ]

    assert seen(number=Reading(None, "0.1 V is too low")) == [("number", "ERR", 0)]
    assert seen(number=Reading(None, "0.2 V is too low")) == [("number", "ERR", 1)]
    toy.disabled.add("number")  # it is a WARN from here on
    assert seen() == [("number", "WARN", 0)]
    toy.refused["level"] = Alarm("level", "WARN", "level refused")
    assert seen() == [("level", "WARN", 0), ("number", "WARN", 1)]
    assert seen(number=Reading(1.0)) == [("level", "WARN", 1)]
    assert seen(number=Reading(None, "again")) == [("level", "WARN", 2), ("number", "WARN", 0)]


async def test_a_device_whose_task_dies_says_offline_and_not_what_it_last_read() -> None:
    toy = Toy(poll_every=0.01)
    running = asyncio.create_task(toy.run())
    await sample_where(toy, online)
    toy.failure = ZeroDivisionError("a bug")
    await asyncio.wait([running], timeout=AT_MOST)
    with pytest.raises(ZeroDivisionError):
        running.result()
    sample = toy.snapshot()
    assert offline(sample)
    assert sample["number"] is sample["level"] is None
    assert "a bug" in reasons(sample, "connection")
    with pytest.raises(ConnectionError, match="a bug"):
        await toy.set("level", 5)


async def test_a_listener_that_fails_harms_neither_the_device_nor_the_other_listeners(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy(poll_every=0.01)

    def fail(sample: Sample) -> None:
        raise OSError("disk full")

    toy.listeners.append(fail)
    async with living(toy):
        for _ in range(3):
            assert online(await sample_where(toy, lambda sample: True))
    assert "disk full" in caplog.text


async def test_poll_now_during_a_poll_polls_again_at_once() -> None:
    toy = Toy(poll_every=3600.0)
    toy.gate.clear()
    async with living(toy):
        while not toy.polls:  # noqa: ASYNC110  (no time passes)
            await asyncio.sleep(0)
        toy.poll_now()
        toy.gate.set()
        await sample_where(toy, lambda sample: True)
        await sample_where(toy, lambda sample: toy.polls == 2)


@pytest.mark.parametrize(
    ("now", "phase", "pause"),
    [
        (1000.0, 0.0, 4.0),
        (1001.5, 0.0, 2.5),
        (1002.9, 0.0, 1.1),
        (1003.2, 0.0, 4.8),  # hardware that takes most of the period gets a rest
        (1000.0, 0.2, 4.2),
        (999.9, 0.2, 4.3),
    ],
)
async def test_devices_of_one_period_poll_at_the_same_moments_wherever_they_began(
    monkeypatch: pytest.MonkeyPatch, now: float, phase: float, pause: float
) -> None:
    pauses: list[float] = []
    asked = asyncio.Event()

    class Link(Lasting):
        async def idle(self, seconds: float, wake: asyncio.Future[None]) -> None:
            pauses.append(seconds)
            asked.set()
            await wake

    class Idle(Device):
        link_type = Link

    device = Idle("idle", poll_every=4.0)
    device.phase += phase
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    running = asyncio.create_task(device.run())
    await asked.wait()
    running.cancel()
    await asyncio.wait([running])
    assert pauses == [pytest.approx(pause)]


async def test_a_readback_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="it is a readback"):
        await Toy().set("number", 1)


async def test_a_reason_is_logged_once_and_not_at_each_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = ENTRIES["slide"].build(**FAST, port=1)
    async with living(device):
        for _ in range(4):
            await sample_where(device, offline)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1


async def test_a_noisy_line_is_logged_once_although_it_says_something_else_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Noisy(Toy):
        async def on_connect(self) -> None:
            self.polls += 1
            raise ProtocolError(f"wrong checksum{quoted(bytes([self.polls]) * 9)}")

    device = Noisy(**FAST)
    told: list[Sample] = []
    device.listeners.append(told.append)
    async with living(device):
        await until(lambda: len({reasons(sample) for sample in told}) >= 4)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1


async def test_a_device_that_accepts_connections_and_never_answers_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy(**FAST)
    toy.failure = TimeoutError("no answer")
    async with living(toy):
        for _ in range(4):
            await sample_where(toy, offline)
        toy.failure = None
        await sample_where(toy, online)
        toy.failure = TimeoutError("no answer")
        await sample_where(toy, offline)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 2, "once an outage"


ASKED = {
    "FlowRecorder": ["0401.18c00014", "0401.1980000a"],
    "TimingCard": ["GR_GetValidity 0 0", "GetSatInfo 0", "HW_GetTime 0"],
    "CoolingCircuit": ["GET /v2/entities/TemperatureSensor3?metadata=dateModified,* HTTP/1.1"],
    "WaterChiller": ["[M01G0D******C0"],
}
"""What is asked in one poll; the programs of the card run at once, so theirs are sorted."""


def asked(kind: str, frame: bytes) -> str:
    if kind == "FlowRecorder":
        return f"{frame[7]:02x}{frame[6]:02x}.{frame[8:].hex()}"
    line = frame.partition(b"\r")[0].decode()
    return " ".join(shlex.split(line)) if kind == "TimingCard" else line


@pytest.mark.parametrize("kind", ASKED)
async def test_what_comes_with_one_answer_is_asked_once_a_poll(kind: str) -> None:
    entry = (SIMULATED | {"WaterChiller": load(carried("wht")).entries["chiller"]})[kind]
    simulator = entry.cls.simulator()
    frames = counted(simulator)
    async with presented(entry, simulator) as device:
        await sample_where(device, complete)
        for _ in range(3):
            frames.clear()
            await sample_where(device, complete)
            heard = [asked(kind, frame) for frame in frames]
            assert (sorted(heard) if kind == "TimingCard" else heard) == ASKED[kind]


class Tank(Device):
    """Two fields with one answer, of which one may be set."""

    link_type = Lasting
    level = Readback(question="all", ref="level")
    goal = Setpoint(question="all", ref="goal", limits=(0, 10))

    def __init__(self) -> None:
        super().__init__("tank")
        self.truth = {"level": 1.0, "goal": 2.0}
        self.asked: list[object] = []
        self.refuses = False
        self.link.ask = self._ask

    async def _ask(self, codec: Any, ref: Any, value: Any = None) -> Any:
        self.asked.append(ref if value is None else (ref, value))
        if self.refuses:
            raise RefusedError("not today")
        if value is not None:
            self.truth[ref] = value
        return dict(self.truth)


async def test_a_setpoint_that_comes_with_others_is_read_back_by_a_question_of_its_own() -> None:
    tank = Tank()
    async with living(tank):
        sample = await sample_where(tank, online)
        assert (sample["level"], sample["goal"], tank.asked) == (1.0, 2.0, ["all"])
        assert await tank.set("goal", 3) == 3.0
        assert tank.asked == ["all", ("goal", 3.0), "all"]


async def test_a_refused_question_leaves_each_of_its_fields_null_with_the_reason() -> None:
    tank = Tank()
    tank.refuses = True
    async with living(tank):
        sample = await sample_where(tank, online)
        assert tank.asked == ["all"]
    assert sample["level"] is sample["goal"] is None
    assert reasons(sample, "level") == reasons(sample, "goal") == "not today"
