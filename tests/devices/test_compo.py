"""COMPO as one device: what it shows of its arms and its lens, and what it passes on to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from hcam_devices.core import sim
from hcam_devices.core.device import Device, Sample
from hcam_devices.devices.esp301 import Simulator as Controller
from hcam_devices.devices.views import STALE_AFTER
from hcam_devices.devices.zaber import Simulator as Stage
from hcam_devices.errors import NotAllowedError, RefusedError

from ..helpers import ENTRIES, FAST, Clock, living, online, reasons, sample_where


class Compo(NamedTuple):
    """The view, what it is of, and what simulates that."""

    view: Device
    arms: Device
    lens: Device
    controller: Controller
    stage: Stage
    clock: Clock


@asynccontextmanager
async def compo() -> AsyncIterator[Compo]:
    """Run COMPO with simulators whose clock stands still; its arms have not been homed."""
    clock = Clock()
    controller = Controller(homed=False, clock=clock)
    stage = ENTRIES["compo_lens"].cls.simulator(clock=clock)
    async with sim.serve(controller) as port, sim.serve(stage) as place:
        arms = ENTRIES["compo_arms"].build(**(FAST | port))
        lens = ENTRIES["compo_lens"].build(**(FAST | place))
        view = ENTRIES["compo"].build(**FAST)
        view.attach({"compo_arms": arms, "compo_lens": lens})
        async with living(view, arms, lens):
            await sample_where(view, heard)
            yield Compo(view, arms, lens, controller, stage, clock)


def heard(sample: Sample) -> bool:
    state = sample["state"]
    return bool(online(sample) and state["arms"] == state["lens"] == "online")


async def do(device: Device, command: str, *args: Any) -> Any:
    return await device.procedures()[command].call(*args)


async def home(compo: Compo) -> None:
    for name in ("pickoff", "injection"):
        await do(compo.arms, f"{name}.home")
    compo.clock.now += 100
    await sample_where(
        compo.view, lambda s: s["state"].get("pickoff") == s["state"].get("injection") == "inpos"
    )


async def test_it_shows_its_parts_with_their_targets_and_states() -> None:
    async with compo() as parts:
        await home(parts)
        shown = await sample_where(parts.view, heard)
    assert shown["state"] == {
        "connection": "online",
        "arms": "online",
        "lens": "online",
        "pickoff": "inpos",
        "injection": "inpos",
        "stage": "inpos",
    }
    degrees, millimetres = {"value": 0.0, "unit": "deg"}, {"value": 0.0, "unit": "mm"}
    assert shown["pickoff_angle"] == {"current": degrees, "target": degrees}
    assert shown["injection_angle"] == {"current": degrees, "target": degrees}
    assert shown["lens_position"] == {"current": millimetres, "target": millimetres}
    assert shown.keys() & {"target_pickoff_angle", "target_lens_position"} == set()
    assert shown["alarms"] == []


@pytest.mark.parametrize(
    ("target", "asked", "source", "axis", "value"),
    [
        ("target_pickoff_angle", 66.4, "arms", "pickoff", 66.4),
        ("target_injection_angle", "-13.04 deg", "arms", "injection", -13.04),
        ("target_lens_position", {"value": 0.4, "unit": "cm"}, "lens", "stage", 4.0),
    ],
)
async def test_a_target_is_passed_on_and_moving_is_left_to_the_part(
    target: str, asked: Any, source: str, axis: str, value: float
) -> None:
    async with compo() as parts:
        await home(parts)
        assert await do(parts.view, f"set_{target}", asked) == pytest.approx(value)
        device = getattr(parts, source)
        await sample_where(device, lambda s: s["state"][axis] == "outpos")
        await do(device, f"{axis}.move")
        parts.clock.now += 100
        there = await sample_where(
            parts.view,
            lambda s: (
                s["state"][axis] == "inpos"
                and abs(s[target.removeprefix("target_")]["current"]["value"] - value) < 1e-4
            ),
        )
        assert there[target.removeprefix("target_")]["target"]["value"] == pytest.approx(value)


async def test_what_a_part_refuses_is_refused() -> None:
    async with compo() as parts:
        with pytest.raises(NotAllowedError, match=r"pickoff cannot positionSet now.*home it first"):
            await do(parts.view, "set_target_pickoff_angle", 5)
        for target, value in (("pickoff_angle", 67.5), ("lens_position", -1)):
            with pytest.raises(ValueError, match="is not within"):
                await do(parts.view, f"set_target_{target}", value)
        await parts.view.set_unacknowledged("target_injection_angle", 5)
        shown = await sample_where(parts.view, heard)
        assert "home it first" in reasons(shown, "target_injection_angle")
        assert shown["injection_angle"]["target"] is None
        assert "compo_arms: it has not been homed" in reasons(shown, "pickoff")


async def test_a_part_that_is_offline_is_named_and_the_other_is_shown() -> None:
    async with compo() as parts:
        parts.controller.simulate("refuse")
        shown = await sample_where(parts.view, lambda s: s["state"]["arms"] == "offline")
        assert shown["pickoff_angle"] is shown["injection_angle"] is None
        assert shown["lens_position"]["current"]["value"] == 0
        assert "compo_arms is offline" in reasons(shown, "pickoff_angle")
        assert "pickoff" not in shown["state"]
        with pytest.raises(ConnectionError, match="compo_arms is offline"):
            await do(parts.view, "set_target_pickoff_angle", 5)
        parts.controller.simulate("clear")
        await sample_where(parts.view, heard)


async def test_what_is_wrong_with_a_part_is_passed_on() -> None:
    async with compo() as parts:
        await home(parts)
        await do(parts.arms, "power_off_axis", 1)
        parts.stage.simulate("alarm", code=14)
        shown = await sample_where(
            parts.view, lambda s: reasons(s, "injection") and reasons(s, "stage")
        )
        assert "compo_arms: the motor is off" in reasons(shown, "injection")
        assert "compo_lens: supply voltage low" in reasons(shown, "stage")


async def test_silence_is_noticed_and_what_was_never_heard_is_not_guessed() -> None:
    clock = Clock()
    view = ENTRIES["compo"].build(**FAST, clock=clock)
    arms = ENTRIES["compo_arms"].build()
    lens = ENTRIES["compo_lens"].build()
    view.attach({"compo_arms": arms, "compo_lens": lens})
    async with living(view):
        nothing = await sample_where(view, online)
        assert nothing["pickoff_angle"] is None
        assert "no telemetry of compo_lens yet" in reasons(nothing, "lens_position")
        lens.connection = "online"
        lens.stage.connect()  # type: ignore[attr-defined]
        lens.stage.report(4.0, homed=True, homing=False, moving=False)  # type: ignore[attr-defined]
        await Device.poll(lens)
        lens.emit()
        said = await sample_where(view, lambda s: s["lens_position"])
        assert said["lens_position"]["current"]["value"] == 4.0
        clock.now += STALE_AFTER + 1
        old = await sample_where(view, lambda s: s["lens_position"] is None)
        assert "no telemetry of compo_lens for 61 s" in reasons(old, "lens_position")
        assert old["state"]["lens"] == "offline"


async def test_a_part_of_another_kind_is_named() -> None:
    view = ENTRIES["compo"].build(**FAST)
    wrong = ENTRIES["rackpc"].build()
    wrong.name = "compo_lens"
    view.attach({"compo_arms": ENTRIES["compo_arms"].build(), "compo_lens": wrong})
    wrong.connection = "online"
    wrong.emit()
    with pytest.raises(
        RefusedError, match="compo_lens has no position: it is another kind of device"
    ):
        await view.read(view.fields["lens_position"])
