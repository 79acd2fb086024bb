"""The CCD head: judged by its worst, on a timer, whatever becomes of its sources."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core.device import Device, Sample
from hcam_devices.core.fields import Readback, Setpoint
from hcam_devices.devices.meerstetter import Simulator as Rack
from hcam_devices.devices.views import CCDHead
from hcam_devices.errors import RefusedError

from ..helpers import ENTRIES, FAST, Clock, living, online, presented, reasons, sample_where

GOOD: dict[str, Any] = {
    "pressure": 1e-5,
    "pen2": 1.05,
    "status3": "run",
    "heatsink3": 38.0,
    "current3": 8.0,
    "temperature3": -90.0,
    "target_temperature3": -90.0,
}
ROLES = {"pressure": "gauge", "pen2": "recorder"}


class Source(Device):
    """A source that says what it is told to, and takes setpoints if it may."""

    pressure = Readback(unit="mbar")
    pen2 = Readback(unit="l / min")
    status3 = Readback()
    heatsink3 = Readback(unit="deg_C")
    current3 = Readback(unit="A")
    temperature3 = Readback(unit="deg_C")
    target_temperature3 = Setpoint(unit="deg_C", limits=(-50, 25), tolerance=1e-3)

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, clock=clock, port=1)
        self.connection = "online"
        self.now: dict[str, Any] = dict(GOOD)

    async def read(self, field: Readback) -> Any:
        if self.now[field.name] is None:
            raise RefusedError("the hardware said no")
        return self.now[field.name]

    async def write(self, field: Setpoint, value: float) -> None:
        self.now[field.name] = value

    async def say(self, **changes: Any) -> None:
        self.now |= changes
        await self.poll()
        self.emit()

    def go(self) -> None:
        self._disconnected(ConnectionError("pulled"))
        self.emit()

    def come(self) -> None:
        self.connection = "online"


class Head:
    """A head, its three sources, and the samples it emitted."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sources = {role: Source(role, self.clock) for role in ("gauge", "rack", "recorder")}
        self.view = CCDHead(
            "ccd1", clock=self.clock, gauge="gauge", rack="rack", channel=3, recorder="recorder",
            pen=2, **FAST,
        )  # fmt: skip
        self.view.attach(self.sources)
        self.view.connection = "online"
        self.emitted: list[Sample] = []
        self.view.listeners.append(self.emitted.append)

    async def say(self, **changes: Any) -> Sample:
        """Let every source emit, with these changes; return what the head makes of it."""
        for role, source in self.sources.items():
            await source.say(**{k: v for k, v in changes.items() if ROLES.get(k, "rack") == role})
        return self.view.snapshot()


def health(sample: Sample) -> str:
    return str(sample["state"]["health"])


async def test_a_head_whose_sources_are_well_is_ok_and_shows_their_values() -> None:
    sample = await Head().say()
    assert (health(sample), sample["state_reason"], sample["alarms"]) == ("OK", "None", [])
    assert sample["setpoint"] == sample["temperature"] == {"value": -90.0, "unit": "deg_C"}
    assert sample["pressure"] == {"value": 1e-5, "unit": "mbar"}
    assert sample["flow"] == {"value": 1.05, "unit": "l / min"}
    assert sample["peltier_current"] == {"value": 8.0, "unit": "A"}
    assert sample["heatsink"] == {"value": 38.0, "unit": "deg_C"}
    assert sample["peltier_status"] == "run"


@pytest.mark.parametrize(
    ("changes", "verdict", "why"),
    [
        ({"pressure": 8.1e-3}, "ERR", ["0.0081 mbar is above 0.008 mbar"]),
        ({"pressure": 8e-3}, "OK", ["None"]),
        ({"pen2": 0.39}, "ERR", ["0.39 l / min is below 0.4 l / min"]),
        ({"pen2": 0.4}, "OK", ["None"]),
        ({"temperature3": -87.9}, "WARN", ["-87.9 deg_C, setpoint -90.0 deg_C"]),
        ({"temperature3": -92.1}, "WARN", ["-92.1 deg_C, setpoint -90.0 deg_C"]),
        ({"temperature3": -88.1}, "OK", ["None"]),
        ({"status3": "error"}, "ERR", ["the peltier is not running (error)"]),
        ({"status3": "ready", "temperature3": 5.0}, "ERR", ["(ready)", "5.0 deg_C, setpoint"]),
        ({"temperature3": 5.0, "pressure": 1.0}, "ERR", ["above 0.008", "5.0 deg_C, setpoint"]),
        ({"pressure": math.nan}, "ERR", ["gauge: the hardware answered nan"]),
        ({"pen2": math.nan}, "ERR", ["recorder: the hardware answered nan"]),
        ({"temperature3": math.nan}, "ERR", ["rack: the hardware answered nan"]),
        ({"target_temperature3": math.inf}, "ERR", ["rack: the hardware answered inf"]),
        ({"status3": None}, "ERR", ["rack: the hardware said no"]),
        ({"pressure": None, "pen2": None}, "ERR", ["gauge: the hardware", "recorder: the hard"]),
    ],
)
async def test_the_health_is_the_worst_of_what_is_wrong_and_every_reason_is_given(
    changes: dict[str, Any], verdict: str, why: list[str]
) -> None:
    head = Head()
    sample = await head.say(**changes)
    assert health(sample) == verdict
    assert all(reason in sample["state_reason"] for reason in why)
    assert len(sample["state_reason"].split("; ")) == len(why)
    assert health(await head.say(**GOOD)) == "OK"


@pytest.mark.parametrize("role", ["gauge", "rack", "recorder"])
async def test_a_source_that_goes_is_said_at_once_and_its_return_too(role: str) -> None:
    head = Head()
    await head.say()
    head.emitted.clear()
    head.sources[role].go()
    assert health(head.emitted[-1]) == "ERR"
    assert head.emitted[-1]["state_reason"] == f"{role} is offline"
    gone = [name for name, field in head.view.fields.items() if field.ref[0] == role]
    assert all(head.emitted[-1][name] is None for name in gone)
    head.sources[role].come()
    await head.sources[role].say()
    assert health(head.emitted[-1]) == "OK"


@pytest.mark.parametrize("role", ["gauge", "rack", "recorder"])
async def test_a_silent_source_is_stale_after_a_minute_also_if_nobody_speaks(role: str) -> None:
    head = Head()
    await head.say()
    for source in head.sources:
        if source != role:
            head.clock.now += 30
            await head.sources[source].say()
    await head.view.poll()
    assert health(head.view.snapshot()) == "OK"
    head.clock.now += 1
    await head.view.poll()
    assert head.view.snapshot()["state_reason"] == f"no telemetry of {role} for 61 s"
    head.clock.now += 61
    await head.view.poll()
    sample = head.view.snapshot()
    assert health(sample) == "ERR"
    assert all(sample[name] is None for name in head.view.fields)


async def test_a_field_that_was_disabled_is_null_and_a_warning_until_enabled() -> None:
    head = Head()
    await head.say()
    await head.view.procedures()["pressure.disable"].call()
    sample = await head.say(pressure=1.0)
    assert sample["pressure"] is None
    assert (health(sample), "pressure.enable" in sample["state_reason"]) == ("WARN", True)
    await head.view.procedures()["pressure.enable"].call()
    assert health(await head.say()) == "ERR"


async def test_the_time_of_a_head_is_that_of_what_it_heard_longest_ago() -> None:
    head = Head()
    first = (await head.say())["timestamp"]
    head.clock.now += 10
    await head.sources["rack"].say()
    assert head.view.snapshot()["timestamp"] == first


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["gauge", "rack", "recorder", "head"]),
        st.sampled_from(["say", "go", "come", "poll", "wait", "broken"]),
    ),
    max_size=25,
)


@given(STEPS)
async def test_it_recovers_after_its_sources_have_come_and_gone_in_any_order(
    steps: list[tuple[str, str]],
) -> None:
    head = Head()
    for role, step in steps:
        source = head.sources.get(role)
        if step == "wait":
            head.clock.now += 40
        elif source is None:
            await head.view.poll()
        elif step == "go":
            source.go()
        elif step == "come":
            source.come()
        elif source.connection == "online":
            await source.say(**dict.fromkeys(GOOD, None if step == "broken" else 0.0))
        sample = head.view.snapshot()
        assert (health(sample) == "ERR") == any(a["severity"] == "ERR" for a in sample["alarms"])
    for source in head.sources.values():
        source.come()
    assert health(await head.say(**GOOD)) == "OK"
    assert health(head.emitted[-1]) == "OK"


async def test_before_it_has_heard_anything_it_is_an_error_with_reasons() -> None:
    head = Head()
    await head.view.poll()
    sample = head.view.snapshot()
    assert health(sample) == "ERR"
    for role in head.sources:
        assert f"no telemetry of {role} yet" in sample["state_reason"]


async def test_a_source_of_another_kind_is_an_error_and_does_it_no_harm() -> None:
    head = Head()
    vars(head.sources["gauge"])["fields"] = {"pen2": Source.fields["pen2"]}
    await head.sources["gauge"].say()
    assert (
        "gauge has no pressure: it is another kind of device"
        in head.view.snapshot()["state_reason"]
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"value": 1e-5, "unit": "Pa"}, "gauge has pressure in 'Pa', not in mbar"),
        ({"value": "low", "unit": "mbar"}, "for pressure, which is not a value"),
        ({"value": math.nan, "unit": "mbar"}, "gauge has nan for pressure"),
        ({"unit": "mbar"}, "for pressure, which is not a value"),
        (7, "gauge has 7 for pressure, which is not a value"),
    ],
)
async def test_what_a_source_of_another_version_says_is_null_unless_it_fits(
    said: Any, why: str
) -> None:
    head = Head()
    sample = await head.say()
    gauge = head.sources["gauge"].snapshot() | {"pressure": said}
    for listener in head.sources["gauge"].listeners:
        listener(gauge)
    sample = head.view.snapshot()
    assert sample["pressure"] is None
    assert why in reasons(sample, "pressure")


async def test_the_testament_of_a_source_is_told() -> None:
    head = Head()
    await head.say()
    gone = {"device": "gauge", "seq": None, "timestamp": None, "state": {"connection": "offline"}}
    for listener in head.sources["gauge"].listeners:
        listener(gone | {"alarms": [], "pressure": None})
    sample = head.view.snapshot()
    assert sample["pressure"] is None
    assert reasons(sample, "pressure") == "gauge is offline: its server has ended"


async def test_a_setpoint_goes_through_to_the_rack_and_is_read_back() -> None:
    head = Head()
    await head.say()
    assert await head.view.set("setpoint", "-40 deg_C") == -40.0
    assert head.sources["rack"].now["target_temperature3"] == -40.0
    assert head.emitted[-1]["setpoint"]["value"] == -40.0


@pytest.mark.parametrize(
    ("value", "why"),
    [(-101, "is not within -100 to 25"), (-60, "is not within -50 to 25"), (math.nan, "nan")],
)
async def test_a_setpoint_that_head_or_rack_refuses_is_sent_to_nobody(
    value: float, why: str
) -> None:
    head = Head()
    await head.say()
    with pytest.raises(ValueError, match=why):
        await head.view.set("setpoint", value)
    assert head.sources["rack"].now["target_temperature3"] == -90.0
    await head.view.set_unacknowledged("setpoint", value)
    assert why in reasons(head.emitted[-1], "setpoint")
    assert health(head.emitted[-1]) == "WARN"
    await head.view.set_unacknowledged("setpoint", -30)
    assert not reasons(head.emitted[-1], "setpoint")


async def test_a_setpoint_for_a_rack_that_is_offline_is_refused() -> None:
    head = Head()
    await head.say()
    head.sources["rack"].go()
    with pytest.raises(ConnectionError, match=r"rack is offline \(pulled\)"):
        await head.view.set("setpoint", -30)


async def test_a_head_of_the_instrument_hears_real_devices_and_sets_the_real_rack() -> None:
    simulators = {name: ENTRIES[name].cls.simulator() for name in ENTRIES["ccd1"].sources}
    rack = simulators["meerstetter1"]
    assert isinstance(rack, Rack)
    view = ENTRIES["ccd1"].build(**FAST)
    async with (
        presented(ENTRIES["pressure1"], simulators["pressure1"]) as gauge,
        presented(ENTRIES["meerstetter1"], rack) as peltiers,
        presented(ENTRIES["flow"], simulators["flow"]) as flow,
    ):
        view.attach({device.name: device for device in (gauge, peltiers, flow)})
        async with living(view):
            await sample_where(view, lambda sample: health(sample) == "OK")
            assert await view.set("setpoint", -95) == -95
            assert rack.controllers[1].target == -95
            simulators["flow"].simulate("set", pump=False)
            low = await sample_where(view, lambda sample: health(sample) == "ERR")
            assert "is below 0.4 l / min" in reasons(low, "flow")
            await view.disconnect()
            gone = await sample_where(view, lambda sample: not online(sample))
            assert gone["pressure"] is None
            await sample_where(view, online)
