"""Interlocks, edge by edge: what trips, what never does, and what people may do."""

import asyncio
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.core import Alarm, Device, Labels, Readback, RefusedError, Setpoint, rpc
from hcam_devices.core.condition import Act, Condition, Declared
from hcam_devices.core.interlock import CHART, COMMANDS, LATCHED, E, Interlock, S
from hcam_devices.errors import NotAllowedError

from ..helpers import Clock, until

DOCS = Path(__file__).parents[2] / "docs"
FLOW = Condition("flow", "rack", ("flow",), "l / min", below=0.4, stale_after=8.0)
CURRENT = Condition("current", "rack", ("current",), "A", above=0.5, stale_after=8.0)
OFF = Condition("current", "rack", ("current",), "A", below=0.2, stale_after=8.0)
TRIP = Declared(
    name="coolant",
    when=(FLOW, CURRENT),
    during=6.0,
    then=(Act("rack", "enable", "OFF"),),
    verify=OFF,
    within=10.0,
    advice="Look at the pump.",
)
PERMISSIVE = Declared(
    name="cooling",
    refuse=(("rack", "set_target"), ("rack", "cool")),
    unless=(Condition("flow", "rack", ("flow",), "l / min", above=0.4, stale_after=8.0),),
    advice="Let it flow.",
)
STEP = 2.0


class Rack(Device):
    """A device whose values are set by the test, and which notes what is sent to it."""

    flow = Readback(unit="l / min")
    current = Readback(unit="A")
    target = Setpoint(unit="deg_C", limits=(-100, 25))
    enable = Setpoint(
        kind=str,
        words=Labels({0: "OFF", 3: "HW"}),
        needs_confirm_to_leave=("HW",),
        safe=("OFF",),
    )

    def __init__(self, clock: Clock) -> None:
        super().__init__("rack", clock=clock, port=1)
        self.now: dict[str, Any] = {"flow": 1.0, "current": 8.0, "target": -90.0, "enable": "HW"}
        self.sent: list[tuple[str, float]] = []
        self.refuses = False
        self.helps = True
        self.connection = "online"

    async def read(self, field: Readback) -> Any:
        if self.now[field.name] is None:
            raise RefusedError("not now")
        return self.now[field.name]

    async def write(self, field: Setpoint, value: float) -> None:
        self.sent.append((field.name, value))
        if self.refuses:
            raise RefusedError("busy")
        self.now[field.name] = field.words.get(value, value)
        if field.name == "enable" and value == 0 and self.helps:
            self.now["current"] = 0.0

    @rpc()
    async def cool(self) -> None:
        """Cool the detector at once."""
        self.require_permission("cool")
        self.sent.append(("cool", 1))


class Disk:
    """Keeps a state as a file would; it may be full."""

    def __init__(self) -> None:
        self.content: dict[str, Any] | None = None
        self.saved: list[str | None] = []
        self.full = False
        self.damaged = False

    def load(self) -> dict[str, Any] | None:
        if self.damaged:
            raise ValueError("no JSON")
        return self.content

    def save(self, content: dict[str, Any] | None) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.content = content
        self.saved.append(content["state"] if content else None)


class Site:
    """A rack with one interlock, and its clocks."""

    def __init__(self, declared: Declared = TRIP, disk: Disk | None = None) -> None:
        self.clock, self.disk = Clock(), disk or Disk()
        self.seconds = 0.0
        self.rack = Rack(self.clock)
        self.notes: list[tuple[Any, ...]] = []
        self.rack.record = lambda *note: self.notes.append(note)
        self.lock = Interlock(declared, lambda: self.seconds)
        self.rack.parts.append(self.lock)
        self.lock.attach(self.rack, {"rack": self.rack}, self.disk)

    async def pass_by(self, seconds: float = STEP, **changes: Any) -> S:
        """Poll once, some seconds later; return the state."""
        self.rack.now |= changes
        self.seconds += seconds
        self.clock.now += seconds
        await self.rack.poll()
        self.rack.emit()
        await self.settle()
        return self.lock.state

    async def settle(self) -> None:
        while self.lock._tasks:
            await asyncio.gather(*self.lock._tasks)

    async def tripped(self) -> "Site":
        """Let it trip."""
        await self.pass_by()
        for _ in range(4):
            await self.pass_by(flow=0.0)
        assert self.lock.state is S.TRIPPED
        return self

    async def clear(self) -> "Site":
        """Let the cause be away for long enough."""
        for _ in range(4):
            await self.pass_by(flow=1.0)
        return self

    @property
    def alarms(self) -> list[Alarm]:
        return [one for one in self.rack.alarms() if one.field == self.lock.name]

    @property
    def alarm(self) -> str:
        return "; ".join(f"{one.severity} {one.reason}" for one in self.alarms)


# --- the chart ------------------------------------------------------------------------------


def diagram() -> str:
    """Return the chart as a Mermaid state diagram: commands, and other events in brackets."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.ARMED}"]
    for state, arrows in CHART.items():
        for event, following in arrows.items():
            shown = str(event) if event in COMMANDS else f"({event})"
            lines.append(f"    {state} --> {following}: {shown}")
    return "\n".join(lines)


def test_the_drawing_in_the_docs_is_that_of_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (DOCS / "interlocks.md").read_text(encoding="utf-8")


def test_only_a_person_leaves_a_latched_state() -> None:
    for state in LATCHED:
        leaving = {event for event, following in CHART[state].items() if following not in LATCHED}
        assert leaving == {E.RESET}
    assert set(CHART) == set(S)
    assert set(itertools.chain(*CHART.values())) == set(E)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
async def test_each_edge_and_nothing_else_is_followed(state: S, event: E) -> None:
    site = Site()
    site.lock.state = state
    if event in CHART[state]:
        site.lock._go(event, "why")
        assert site.lock.state is CHART[state][event]
    else:
        with pytest.raises(NotAllowedError, match=f"cannot {event} now: it is {state}"):
            site.lock._go(event, "why")
        assert site.lock.state is state
    await site.settle()


async def test_samples_and_people_take_every_edge() -> None:
    taken: set[tuple[S, E]] = set()

    class Noting(Interlock):
        def _go(self, event: E, why: str) -> None:
            before = self.state
            super()._go(event, why)
            taken.add((before, event))

    def site() -> Site:
        made = Site()
        made.lock.__class__ = Noting
        return made

    one = await site().tripped()
    await one.pass_by()
    await (await one.clear()).lock.reset()
    await one.pass_by(flow=0.0, current=8.0)
    assert await one.pass_by(flow=1.0) is S.ARMED
    await one.lock.bypass(1, "the pump is serviced")
    assert await one.pass_by(61) is S.ARMED
    two = site()
    two.rack.helps = False
    await two.tripped()
    assert await two.pass_by(11) is S.FAILED
    await (await two.clear()).lock.reset()
    assert taken == {(state, event) for state, arrows in CHART.items() for event in arrows}


# --- trips ----------------------------------------------------------------------------------


async def test_a_trip_acts_once_verifies_and_stays() -> None:
    site = Site()
    await site.pass_by()
    assert await site.pass_by(flow=0.3) is S.TIMING
    assert "WARN flow 0.3 is below 0.4 l / min" in site.alarm
    assert "sets rack.enable to OFF after 6 s" in site.alarm
    assert await site.pass_by() is S.TIMING
    assert await site.pass_by() is S.TIMING
    assert site.rack.sent == []
    assert await site.pass_by() is S.TRIPPED
    assert site.rack.sent == [("enable", 0)]
    assert "ERR tripped: flow 0.3 is below 0.4 l / min; current 8 is above 0.5 A for 6 s" in (
        site.alarm
    )
    assert "not verified yet" in site.alarm
    await site.pass_by()
    assert "It set rack.enable to OFF: verified. To reset it: hcam call" in (site.alarm)
    for flow in (0.0, 1.0, 0.0, None, 1.0):
        assert await site.pass_by(20, flow=flow, current=8.0) is S.TRIPPED
    assert site.rack.sent == [("enable", 0)]
    assert [note[1] for note in site.notes] == ["set_enable", "coolant.trip"]
    assert site.notes[1][:3] == ("rack.coolant", "coolant.trip", ["rack.enable to OFF"])


async def test_it_is_on_disk_before_it_acts() -> None:
    site = Site()

    async def write(field: Setpoint, value: float) -> None:
        assert site.disk.saved == ["tripped"]
        site.rack.now |= {"enable": "OFF", "current": 0.0}

    site.rack.write = write  # type: ignore[method-assign]
    await site.tripped()
    assert site.rack.now["enable"] == "OFF"


async def test_a_full_disk_delays_no_trip_and_is_said() -> None:
    site = Site()
    site.disk.full = True
    await site.tripped()
    assert site.rack.sent == [("enable", 0)]
    assert "its state is not on disk (No space left on device)" in site.alarm


async def test_one_sample_trips_nothing_however_long_it_is_ago() -> None:
    site = Site()
    await site.pass_by()
    await site.pass_by(flow=0.0)
    for _ in range(3):
        site.seconds += 2.5  # a device that repeats its last sample
        site.rack.emit()
        await site.settle()
        assert site.lock.state is S.TIMING
    assert await site.pass_by(flow=1.0) is S.ARMED
    assert site.rack.sent == []


async def test_a_gap_in_the_samples_begins_the_time_anew() -> None:
    site = Site()
    await site.pass_by()
    await site.pass_by(flow=0.0)
    assert await site.pass_by(60) is S.TIMING  # the process stood still
    assert await site.pass_by() is S.TIMING
    assert await site.pass_by() is S.TIMING
    assert site.rack.sent == []
    assert await site.pass_by() is S.TRIPPED


@pytest.mark.parametrize("change", [{"flow": None}, {"flow": math.nan}, {"current": None}])
async def test_an_unknown_value_never_trips_and_is_an_alarm(change: dict[str, Any]) -> None:
    site = Site()
    await site.pass_by(flow=0.0)
    for _ in range(10):
        assert await site.pass_by(**change) is S.ARMED
    name = next(iter(change))
    assert f"ERR the interlock is blind: {name} is unknown" in site.alarm
    assert site.rack.sent == []


async def test_people_see_at_once_that_it_is_blind_and_that_it_sees_again() -> None:
    site = Site()
    seen: list[bool] = []
    site.rack.listeners.append(
        lambda sample: seen.append(any("blind" in one["reason"] for one in sample["alarms"]))
    )
    for flow in (1.0, None, 1.0):
        await site.pass_by(flow=flow)
        assert seen[-1] is (flow is None)
    assert len(seen) == 6


async def test_an_offline_or_silent_device_never_trips() -> None:
    site = Site()
    await site.pass_by(flow=0.0)
    site.rack._disconnected(ConnectionError("pulled"))
    site.clock.now += 1
    site.rack.emit()
    await site.settle()
    assert site.lock.state is S.ARMED
    assert "blind: flow is unknown (rack is offline)" in site.alarm
    site.rack.connection = "online"
    await site.pass_by(1)
    site.seconds += 9
    site.rack.emit()  # again the same sample
    await site.settle()
    assert site.lock.state is S.ARMED
    assert "rack has been silent for 9 s" in site.alarm


async def test_an_act_that_does_not_help_fails_and_is_not_repeated() -> None:
    site = Site()
    site.rack.refuses = True
    await site.tripped()
    assert await site.pass_by(11) is S.FAILED
    assert "busy" in site.alarm
    assert "NOT known that this helped: do it by hand" in site.alarm
    for _ in range(20):
        assert await site.pass_by() is S.FAILED
    assert site.rack.sent == [("enable", 0)]
    errors = {note[1]: note[4] for note in site.notes}
    assert errors["set_enable"] == "busy"
    assert errors["coolant.not_verified"] is None


async def test_an_offline_actuator_is_a_failed_trip() -> None:
    site = Site()

    async def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("rack is offline; nothing was sent")

    site.rack.set = offline  # type: ignore[method-assign]
    await site.tripped()
    assert await site.pass_by(11) is S.FAILED
    assert "nothing was sent" in site.alarm


async def test_a_trip_without_an_act_is_an_alarm_that_stays() -> None:
    site = await Site(replace(TRIP, then=(), verify=None)).tripped()
    await site.clear()
    assert site.lock.state is S.TRIPPED
    assert site.rack.sent == []
    assert site.alarm.startswith("ERR tripped: flow 0 is below 0.4 l / min")
    await site.lock.reset()
    assert site.alarms == []


async def test_setting_the_clock_neither_delays_nor_hastens_a_trip() -> None:
    site = Site()
    await site.pass_by()
    await site.pass_by(flow=0.0)
    site.clock.now += 3600
    assert await site.pass_by() is S.TIMING
    site.clock.now -= 7200
    assert await site.pass_by() is S.TIMING
    assert await site.pass_by() is S.TRIPPED


# --- reset ----------------------------------------------------------------------------------


async def test_a_reset_needs_the_cause_to_be_away_for_as_long_as_it_took() -> None:
    site = await Site().tripped()
    with pytest.raises(NotAllowedError, match="not verified yet"):
        await site.lock.reset()
    await site.pass_by()
    # The current is 0 because of the act, so the conditions of the trip are not met any more.
    with pytest.raises(NotAllowedError, match="cannot be reset: flow 0 is below"):
        await site.lock.reset()
    await site.pass_by(flow=1.0)
    with pytest.raises(NotAllowedError, match="wait another 6 s"):
        await site.lock.reset()
    await site.pass_by(4)
    await site.pass_by(flow=None)
    with pytest.raises(NotAllowedError, match="flow is unknown"):
        await site.lock.reset()
    await site.clear()
    await site.lock.reset()
    assert site.lock.state is S.ARMED
    assert site.rack.now["enable"] == "OFF"  # nothing is switched on
    assert site.disk.content is None
    assert site.alarms == []


async def test_what_a_trip_switched_off_stays_off_until_its_reset() -> None:
    site = await Site().tripped()
    await site.pass_by()
    with pytest.raises(NotAllowedError, match=r"rack.coolant has tripped .* hcam call rack.cool"):
        await site.rack.set("enable", "HW")
    await site.rack.set("enable", "OFF", confirm=True)  # a person may repeat the act
    await (await site.clear()).lock.reset()
    await site.rack.set("enable", "HW")
    assert site.rack.now["enable"] == "HW"


# --- restarts -------------------------------------------------------------------------------


async def test_a_restart_forgets_no_trip_acts_on_nothing_and_resets_nothing() -> None:
    first = await Site().tripped()
    await first.pass_by()
    again = Site(disk=first.disk)
    assert again.lock.state is S.TRIPPED
    assert "It set rack.enable to OFF: verified" in again.alarm
    for _ in range(5):
        assert await again.pass_by(flow=0.0, current=8.0) is S.TRIPPED
    for _ in range(5):
        assert await again.pass_by(flow=1.0) is S.TRIPPED
    assert again.rack.sent == []


@pytest.mark.parametrize("helped", [True, False])
async def test_a_kill_between_disk_and_act_is_verified_but_nothing_acts(helped: bool) -> None:
    disk = Disk()
    disk.content = {"state": "tripped", "why": "x", "verified": False, "until": "", "ends": 0.0}
    site = Site(disk=disk)
    current = 0.0 if helped else 8.0
    for _ in range(7):
        await site.pass_by(flow=0.0, current=current)
    assert site.lock.state is (S.TRIPPED if helped else S.FAILED)
    assert site.lock.verified == helped
    assert site.rack.sent == []


@pytest.mark.parametrize(
    "kept", [{}, {"state": "armed"}, {"state": "x"}, {"state": "tripped", "why": ""}, "damaged"]
)
async def test_a_state_that_cannot_be_read_is_failed(kept: Any) -> None:
    disk = Disk()
    disk.damaged = kept == "damaged"
    disk.content = {"why": "", "verified": True, "until": "", "ends": "soon"} | (
        kept if isinstance(kept, dict) else {}
    )
    site = Site(disk=disk)
    assert site.lock.state is S.FAILED
    assert "kept state cannot be read" in site.alarm
    await site.pass_by()
    await (await site.clear()).lock.reset()
    assert site.rack.sent == []


async def test_a_permissive_whose_state_cannot_be_read_is_in_force() -> None:
    for content in ({"state": "tripped", "why": "", "verified": True, "until": "", "ends": 0}, {}):
        disk = Disk()
        disk.content = content
        site = Site(PERMISSIVE, disk)
        assert site.lock.state is S.ARMED
        await site.pass_by(flow=0.0)
        with pytest.raises(NotAllowedError, match="refuses set_target"):
            await site.rack.set("target", -95.0)


async def test_what_was_only_timing_begins_anew() -> None:
    first = Site()
    await first.pass_by()
    await first.pass_by(flow=0.0)
    assert Site(disk=first.disk).lock.state is S.ARMED


# --- bypass ---------------------------------------------------------------------------------


async def test_a_bypass_is_an_error_all_the_while_and_ends_by_itself() -> None:
    site = Site()
    await site.pass_by()
    await site.lock.bypass(1, "the pump is serviced")
    for _ in range(6):
        assert await site.pass_by(9, flow=0.0) is S.BYPASSED
        assert "ERR bypassed until 08:01 UTC: the pump is serviced" in site.alarm
    assert site.rack.sent == []
    assert site.disk.saved == ["bypassed"]
    assert await site.pass_by(9) is S.TIMING  # armed, and again met
    assert site.notes[-1][1] == "coolant.end_bypass"
    for _ in range(5):
        await site.pass_by()
    assert site.lock.state is S.TRIPPED


async def test_a_bypass_survives_a_restart_but_not_its_end() -> None:
    first = Site()
    await first.lock.bypass(10, "the pump is serviced")
    again = Site(disk=first.disk)
    assert again.lock.state is S.BYPASSED
    assert await again.pass_by(599) is S.BYPASSED
    assert await again.pass_by(2) is S.ARMED
    kept = {"state": "bypassed", "why": "", "verified": False, "until": ""}
    again.disk.content = kept | {"ends": 9e9}
    other = Site(disk=again.disk)
    assert await other.pass_by(3599) is S.BYPASSED
    assert await other.pass_by(2) is S.ARMED  # a wrong clock cannot make it longer than an hour
    again.disk.content = kept | {"ends": math.nan}
    assert await Site(disk=again.disk).pass_by(0.1) is S.ARMED


@pytest.mark.parametrize("minutes", [0, -1, 61, math.nan, math.inf, "5", None])
async def test_a_bypass_has_a_length_and_a_reason(minutes: Any) -> None:
    site = Site()
    with pytest.raises(ValueError, match="Input should"):
        await site.lock.bypass(minutes, "the pump is serviced")
    for reason in ("", "x", 5):
        with pytest.raises(ValueError, match=r"at least 3|valid string"):
            await site.lock.bypass(5, reason)  # type: ignore[arg-type]
    assert site.lock.state is S.ARMED


async def test_an_engineer_may_end_a_bypass_early() -> None:
    site = Site()
    await site.lock.bypass(10, "the pump is serviced")
    await site.lock.end_bypass()
    assert site.lock.state is S.ARMED
    assert site.disk.content is None


def test_operators_reset_and_only_engineers_bypass() -> None:
    commands = {
        name: one.describe(name)["audience"]
        for name, one in Site().lock.procedures(Rack(Clock())).items()
    }
    assert commands == {
        "coolant.reset": "operator",
        "coolant.bypass": "engineer",
        "coolant.end_bypass": "engineer",
    }
    never = Interlock(replace(PERMISSIVE, may_be_bypassed=False))
    assert never.procedures(Rack(Clock())) == {}


# --- permissives ----------------------------------------------------------------------------


async def test_a_permissive_refuses_without_proof_and_says_which_value_is_missing() -> None:
    site = Site(PERMISSIVE)
    for change, why in (
        ({"flow": 0.1}, "now flow 0.1 is below 0.4 l / min"),
        ({"flow": None}, r"now flow is unknown \(not now\)"),
    ):
        await site.pass_by(**change)
        for command in (site.rack.set("target", -95.0), site.rack.cool()):
            with pytest.raises(NotAllowedError, match=f"only while flow is above 0.4.*{why}"):
                await command
        await site.rack.set_unacknowledged("target", -95.0)
        assert "target refused: rack refuses set_target" in str(site.rack.alarms())
    assert site.rack.sent == []
    await site.pass_by(flow=1.0)
    await site.rack.set("target", -95.0)
    await site.rack.cool()
    assert site.rack.sent == [("target", -95.0), ("cool", 1)]


async def test_lowering_alone_may_be_refused() -> None:
    site = Site(replace(PERMISSIVE, lowering=True))
    await site.pass_by(flow=0.0)
    await site.rack.set("target", -80.0)
    await site.rack.set("target", -80.0)
    with pytest.raises(NotAllowedError, match="refuses set_target"):
        await site.rack.set("target", -80.1)
    await site.pass_by(target=None)
    with pytest.raises(NotAllowedError, match="refuses set_target"):  # is it lower?
        await site.rack.set("target", 20.0)


async def test_a_bypassed_permissive_refuses_nothing() -> None:
    site = Site(PERMISSIVE)
    await site.pass_by(flow=0.0)
    await site.lock.bypass(5, "warm test without flow")
    await site.rack.set("target", -95.0)
    assert "ERR bypassed" in site.alarm


async def test_a_permissive_lets_everybody_switch_off() -> None:
    site = Site(replace(PERMISSIVE, refuse=(("rack", "set_enable"),)))
    await site.pass_by(flow=0.0)
    await site.rack.set("enable", "OFF", confirm=True)
    with pytest.raises(NotAllowedError, match="refuses set_enable"):
        await site.rack.set("enable", "HW")


# --- not armed ------------------------------------------------------------------------------


async def test_what_is_not_armed_has_no_effect() -> None:
    for declared in (replace(TRIP, armed=False), replace(PERMISSIVE, armed=False)):
        disk = Disk()
        disk.content = {"state": "tripped", "why": "", "verified": True, "until": "", "ends": 0.0}
        site = Site(declared, disk)
        for _ in range(8):
            await site.pass_by(flow=0.0)
        assert (site.rack.sent, site.alarms, site.lock.states()) == ([], [], {})
        await site.rack.set("target", -95.0)
        with pytest.raises(NotAllowedError, match="is not armed"):
            await site.lock.bypass(5, "the pump is serviced")
        assert disk.saved == []


async def test_it_describes_what_it_guards_and_why_it_is_in_its_state() -> None:
    site = await Site().tripped()
    described = site.rack.interlocks["rack.coolant"]()
    assert described["kind"] == "trip"
    assert described["guards"] == ["rack.set_enable"]
    assert described["state"] == "tripped"
    assert described["why"].startswith("flow 0 is below")
    assert described["chart"]["tripped"] == {"reset": "armed"}


async def test_the_end_of_the_server_waits_for_an_act_that_has_begun() -> None:
    site = Site()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def write(field: Setpoint, value: float) -> None:
        begun.set()
        await go_on.wait()
        site.rack.now |= {"enable": "OFF", "current": 0.0}

    site.rack.write = write  # type: ignore[method-assign]
    await site.pass_by()
    for _ in range(4):
        site.rack.now |= {"flow": 0.0}
        site.seconds += STEP
        site.clock.now += STEP
        await site.rack.poll()
        site.rack.emit()
    await until(begun.is_set)
    closing = asyncio.create_task(site.lock.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert site.rack.now["enable"] == "OFF"
