"""The instrument in plans of bluesky, run by its real RunEngine."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.client import Instrument, UnknownNameError, connect
from hcam_devices.client.bluesky import Movable, Readable

from .tools import Net

bluesky = pytest.importorskip("bluesky")

Documents = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def instrument(net: Net) -> Iterator[Instrument]:
    """The instrument with a quick slide."""
    with connect() as found:
        found.slide.simulate("set", speed=450000)
        try:
            yield found
        finally:
            found.slide.simulate("set", speed=45000)


@pytest.fixture
def engine() -> Iterator[Any]:
    import bluesky.plans  # noqa: PLC0415  (0.15 s, which only the worker of this file has to spend)

    found = bluesky.RunEngine(context_managers=[])  # Ctrl-C stays pytest's
    yield found
    found.loop.call_soon_threadsafe(found.loop.stop)
    found._th.join()
    found.loop.close()


def ran(engine: Any, plan: Any) -> Documents:
    said: Documents = []
    engine(plan, lambda name, document: said.append((name, document)))
    return said


def events(said: Documents) -> list[dict[str, Any]]:
    return [document for name, document in said if name == "event"]


def test_a_scan_moves_and_reads(instrument: Instrument, engine: Any) -> None:
    heads = Readable(instrument, "heads", "ccd[12].temperature", "rack.dewpoint")
    slide = Movable(instrument, "slide.target_position")
    assert isinstance(slide, bluesky.protocols.Locatable)
    assert isinstance(slide, bluesky.protocols.Stoppable)
    assert isinstance(heads, bluesky.protocols.Triggerable)
    said = ran(engine, bluesky.plans.scan([heads], slide, 900, 1100, 3))
    [descriptor] = [document for name, document in said if name == "descriptor"]
    keys = descriptor["data_keys"]
    assert keys["ccd1_temperature"]["units"] == "deg_C"
    assert keys["slide_position"]["dtype"] == "number"
    assert descriptor["hints"]["slide_position"]["fields"] == ["slide_position"]
    found = events(said)
    assert [round(one["data"]["slide_position"]) for one in found] == [900, 1000, 1100]
    assert [one["data"]["slide_target_position"] for one in found] == [900, 1000, 1100]
    times = [one["timestamps"]["ccd1_temperature"] for one in found]
    assert times == sorted({*times}), "each event has values read after its motion"


def test_a_relative_scan_returns(instrument: Instrument, engine: Any) -> None:
    slide = Movable(instrument, "slide.position.target")
    ran(engine, bluesky.plans.scan([], slide, 1000, 1000, 1))
    ran(engine, bluesky.plans.rel_scan([], slide, -50, 50, 2))
    assert instrument.slide.position.raw == pytest.approx(1000, abs=1)


def test_a_setpoint_without_an_axis_is_only_set(instrument: Instrument, engine: Any) -> None:
    peltier = Movable(instrument, "meerstetter1.target_temperature1")
    [event] = events(ran(engine, bluesky.plans.scan([], peltier, -85, -85, 1)))
    assert event["data"]["meerstetter1_target_temperature1"] == -85
    assert "meerstetter1_temperature1" in event["data"]


def test_a_refusal_ends_the_plan_with_its_reason(instrument: Instrument, engine: Any) -> None:
    slide = Movable(instrument, "slide.target_position")
    with pytest.raises(bluesky.utils.FailedStatus) as raised:
        ran(engine, bluesky.plans.scan([], slide, 1e9, 1e9, 1))
    assert re.search(r"1e\+09 pix is not within", str(raised.value.__cause__))


def test_null_ends_the_plan_with_its_reason(instrument: Instrument, engine: Any) -> None:
    with pytest.raises(HcamError, match=r"ngc\.frames_done has no value"):
        ran(engine, bluesky.plans.count([Readable(instrument, "frames", "ngc.frames_done")]))


def test_what_there_is_not_is_said(instrument: Instrument) -> None:
    with pytest.raises(UnknownNameError, match=r"no device that is running has a field 'ccd1\.x'"):
        Readable(instrument, "x", "ccd1.x")
    with pytest.raises(UnknownNameError, match=r"ccd1\.temperature is not a setpoint"):
        Movable(instrument, "ccd1.temperature")
    with pytest.raises(UnknownNameError):
        Movable(instrument, "slide.nothing")
