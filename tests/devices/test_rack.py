"""The rack: temperatures, and the dew point from humidity and header."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core import sim
from hcam_devices.core.sim import WIRE_FAULTS
from hcam_devices.devices.rack import dew_point
from hcam_devices.telescope.sim import Simulator

from ..helpers import AT_MOST, SIMULATED, offline, online, presented, reasons, sample_where

ENTRY = SIMULATED["Rack"]
TEMPERATURES = {
    "rack_temp_top": {"value": 21.0, "unit": "deg_C"},
    "rack_temp_middle": {"value": 20.0, "unit": "deg_C"},
    "rack_temp_bottom": {"value": 19.0, "unit": "deg_C"},
}


def temperatures(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: sample[name] for name in TEMPERATURES}


@pytest.mark.parametrize(
    ("temperature", "humidity", "expected"),
    [
        (20, 50, 9.2611),
        (10, 80, 6.7079),
        (9.5, 31, -6.8110),
        (-5, 20, -24.5418),
        (0, 100, 0.0),
    ],
)
def test_the_dew_point_is_that_of_magnus(
    temperature: float, humidity: float, expected: float
) -> None:
    assert dew_point(temperature, humidity) == pytest.approx(expected, abs=5e-5)


@given(st.floats(-90, 60), st.floats(1e-6, 100))
def test_air_is_never_colder_than_its_dew_point(temperature: float, humidity: float) -> None:
    assert dew_point(temperature, humidity) <= temperature + 1e-9


@given(st.floats(), st.floats())
def test_a_dew_point_is_a_number_or_there_is_none(temperature: float, humidity: float) -> None:
    with suppress(ValueError):
        assert math.isfinite(dew_point(temperature, humidity))


@pytest.mark.parametrize(
    ("temperature", "humidity"),
    [(10, 0), (10, -1), (10, math.nan), (10, 111), (math.nan, 50), (-243.04, 50), (1e9, 50)],
)
def test_what_cannot_be_air_has_no_dew_point(temperature: float, humidity: float) -> None:
    with pytest.raises(ValueError, match=r"no dew point: .* is impossible"):
        dew_point(temperature, humidity)


async def test_the_rack_is_read() -> None:
    async with presented(ENTRY, Simulator(), timeout=AT_MOST) as rack:
        sample = await sample_where(rack, online)
    assert temperatures(sample) == TEMPERATURES
    assert sample["dewpoint"]["value"] == pytest.approx(-6.8110, abs=5e-5)
    assert sample["state"] == {"connection": "online"}
    assert sample["alarms"] == []


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("set", {"humidity": 0.0}, "no dew point: a humidity of 0 % is impossible"),
        ("set", {"humidity": -1.0}, "no dew point: a humidity of -1 % is impossible"),
        ("set", {"humidity": 1e300}, "no dew point: a humidity of inf % is impossible"),
        ("set", {"tube": 900.0}, "no dew point: an air temperature of 900 deg_C is impossible"),
        ("junk", {}, "no dew point: T_TUBE is 'warm', not a number"),
        ("empty", {}, "no dew point: the telescope's header has no T_TUBE"),
    ],
)
async def test_without_a_dew_point_there_are_temperatures_and_a_reason(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator, timeout=AT_MOST) as rack:
        if fault == "set":  # also those that nobody may set
            vars(simulator).update(chosen)
        else:
            simulator.simulate(fault)
        sample = await sample_where(rack, lambda sample: reasons(sample, "dewpoint") == why)
    assert sample["dewpoint"] is None
    assert temperatures(sample) == TEMPERATURES


async def test_each_reading_is_missing_for_its_own_reason() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator, timeout=AT_MOST) as rack:
        simulator.bottom = -1e300
        sample = await sample_where(
            rack, lambda sample: online(sample) and sample["rack_temp_bottom"] is None
        )
        assert reasons(sample) == "the hardware answered -inf"
        assert sample["rack_temp_top"] == TEMPERATURES["rack_temp_top"]
        simulator.simulate("nan")
        sample = await sample_where(
            rack, lambda sample: online(sample) and sample["dewpoint"] is None
        )
        assert temperatures(sample) == dict.fromkeys(TEMPERATURES)
        assert reasons(sample, "rack_temp_top") == "the hardware answered nan"
        simulator.simulate("clear")
        simulator.simulate("error", exception="NO_RESOURCES")
        sample = await sample_where(
            rack, lambda sample: "NO_RESOURCES" in reasons(sample, "dewpoint")
        )
        assert online(sample)
        assert temperatures(sample) == dict.fromkeys(TEMPERATURES)


@pytest.mark.parametrize("fault", sorted(WIRE_FAULTS.keys() - {"double"}))
async def test_it_comes_back_from_every_fault_of_the_wire(fault: str) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator, timeout=0.2) as rack:
        await sample_where(rack, online)
        chosen = {"seconds": AT_MOST} if fault in ("delay", "late") else {}
        simulator.simulate(fault, **({"times": 1000} | chosen))
        sample = await sample_where(rack, offline)
        assert sample["dewpoint"] is None
        assert "the telescope" in reasons(sample, "connection") or "the name service" in reasons(
            sample, "connection"
        )
        simulator.simulate("clear")
        sample = await sample_where(rack, online)
    assert temperatures(sample) == TEMPERATURES


async def test_it_comes_back_to_another_port() -> None:
    async with presented(ENTRY, Simulator(), timeout=AT_MOST) as rack:
        await sample_where(rack, online)
        async with sim.serve(Simulator()) as place:
            rack.link.port = place["port"]
            await rack.disconnect()
            await sample_where(rack, offline)
            sample = await sample_where(rack, online)
    assert temperatures(sample) == TEMPERATURES
