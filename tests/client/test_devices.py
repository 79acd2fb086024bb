"""The classes that the client makes from descriptions, without a network."""

import inspect
from typing import Any

import pytest

from hcam_devices.client.devices import (
    Call,
    Device,
    NotRunningError,
    UnknownNameError,
    absent_class,
    class_of,
)
from hcam_devices.errors import InvalidArgumentError, NoSuchProcedureError
from hcam_devices.wamp.agent import OWN_PROCEDURES
from hcam_devices.wamp.reading import Pattern, Reading

from ..helpers import ENTRIES


def description_of(name: str) -> dict[str, Any]:
    device = ENTRIES[name].build()
    procedures = {what: one.describe(what) for what, one in sorted(device.procedures().items())}
    return device.describe() | {"procedures": procedures}


def sample_of(name: str, **more: Any) -> dict[str, Any]:
    numbered = {"seq": 7, "epoch": "a"} | ENTRIES[name].build().snapshot()
    return numbered | {"timestamp": "2026-11-22T04:44:44.196Z"} | more


class Network:
    """Stands in for the network: it has one sample, and keeps the calls."""

    def __init__(self, sample: dict[str, Any] | None) -> None:
        self.newest, self.calls = sample, list[Call]()

    def sample(self, device: str) -> dict[str, Any]:
        if self.newest is None:
            raise NoSuchProcedureError("gtcserver is not running")
        return self.newest

    def command(self, call: Call) -> Call:
        self.calls.append(call)
        return call


def made(name: str, **more: Any) -> tuple[Any, Network]:
    network = Network(sample_of(name, **more))
    return class_of(description_of(name))(name, network), network


def pair(current: float | None, target: float) -> dict[str, Any]:
    at = None if current is None else {"value": current, "unit": "pix"}
    return {"current": at, "target": {"value": target, "unit": "pix"}}


@pytest.mark.parametrize("name", list(ENTRIES))
def test_every_field_and_every_command_for_people_can_be_reached(name: str) -> None:
    device, network = made(name)
    described = description_of(name)
    assert list(device) == list(described["fields"])
    for field in described["fields"]:
        assert device[field].field == field
        if field.isidentifier():
            assert getattr(device, field).field == field
            assert field in dir(device)
    for procedure, declared in described["procedures"].items():
        machine, _, event = procedure.rpartition(".")
        if declared["audience"] == "program" or procedure in OWN_PROCEDURES:
            continue
        method = getattr(getattr(device, machine) if machine else device, event)
        assert method.__doc__.startswith(declared["doc"])
        inspect.signature(method)
        assert method("x").procedure == procedure
        assert network.calls[-1].args == ("x",)
    assert all(not name.startswith("__getattr") for name in vars(type(device)))


def test_the_commands_of_the_only_axis_are_on_the_device_too() -> None:
    slide, network = made("slide")
    slide.move()
    slide.enable()
    slide.stage.enable()
    assert [call.procedure for call in network.calls] == ["stage.move", "enable", "stage.enable"]
    assert not hasattr(made("compo_arms")[0], "move")


def test_waiting_is_for_motions_only() -> None:
    slide, network = made("slide")
    assert slide.block(wait=True).axis == "stage"
    assert slide.move(timeout=3).axis == ""
    assert network.calls[-1].timeout == 3
    with pytest.raises(InvalidArgumentError, match="begins no motion"):
        slide.reset(wait=True)
    assert len(network.calls) == 2


def test_a_command_that_could_do_harm_is_not_confirmed_by_omission() -> None:
    ngc, _ = made("ngc")
    assert ngc.stop_ngc_server().named == {"confirm": False}
    assert ngc.stop_ngc_server(confirm=True).named == {"confirm": True}


def test_a_setpoint_is_set_by_any_of_its_names_with_a_unit_or_without() -> None:
    from astropy import units  # noqa: PLC0415
    from numpy import float64  # noqa: PLC0415

    slide, _ = made("slide", position=pair(3.0, 4.0))
    for field in ("target_position", "position.target"):
        assert slide.set(field, 5).procedure == "set_target_position"
    assert slide.set("target_position", 2 * units.mm).args == ({"value": 2.0, "unit": "mm"},)
    assert slide.set("target_position", float64(5)).args == (5.0,)
    assert type(slide.set("target_position", float64(5)).args[0]) is float
    assert slide.set("target_position", slide.position).args == ({"value": 3.0, "unit": "pix"},)
    with pytest.raises(InvalidArgumentError, match=r"slide\.position is not a setpoint; it has"):
        slide.set("position", 5)
    with pytest.raises(UnknownNameError, match=r"no field 'positon'; .*did you mean position\?"):
        slide.set("positon", 5)


@pytest.mark.parametrize("name", ["target_position", "stage", "position", "nothing", "_name"])
def test_nothing_is_set_by_assignment(name: str) -> None:
    slide, _ = made("slide")
    with pytest.raises(AttributeError, match="nothing is set by assignment"):
        setattr(slide, name, 1)
    with pytest.raises(AttributeError, match="nothing is set by assignment"):
        slide.stage.move = 1


def test_a_reading_has_what_its_sample_says() -> None:
    slide, _ = made("slide", position=pair(3.0, 4.0))
    here, there = slide.position, slide["position.target"]
    assert (here.raw, here.unit, here.seq, here.epoch) == (3.0, "pix", 7, "a")
    assert (there.field, there.raw) == ("target_position", 4.0)
    assert str(here.value) == "3.0 pix"
    assert here.time.isot == "2026-11-22T04:44:44.196"
    assert here.timestamp == "2026-11-22T04:44:44.196Z"
    assert repr(here) == "<slide.position 3.00 pix, 2026-11-22T04:44:44.196Z>"


def test_a_value_that_is_missing_has_the_reason() -> None:
    alarm = {"field": "stage", "severity": "WARN", "reason": "it has not been homed", "since": None}
    slide, _ = made("slide", position=pair(None, 4.0), alarms=[alarm])
    assert (slide.position.raw, slide.position.value) == (None, None)
    assert (slide.position.severity, slide.position.reason) == ("WARN", "it has not been homed")
    assert str(slide.position) == "not read (it has not been homed)"
    assert (slide.target_position.severity, slide.target_position.reason) == (None, None)


def test_after_the_server_has_ended_nothing_is_known() -> None:
    gone = {"field": "connection", "severity": "ERR", "reason": "its server has gone"}
    slide, _ = made("slide", seq=None, timestamp=None, position=None, alarms=[gone])
    reading = slide.position
    assert (reading.raw, reading.time, reading.seq) == (None, None, None)
    assert (reading.severity, reading.reason) == ("ERR", "its server has gone")


def test_words_and_bools_are_values_as_they_are() -> None:
    fields = {name: {"unit": "", "path": [name]} for name in ("word", "switch", "count")}
    described = {"fields": fields, "axes": {}}
    sample = sample_of("slide", word="open", switch=True, count=3)
    values = [Reading(sample, name, described).value for name in fields]
    assert values[:2] == ["open", True]
    assert values[2] == 3
    assert values[2].unit == ""


def test_a_device_whose_server_is_not_running_says_so() -> None:
    gtc: Any = absent_class("gtc")("gtc", Network(None))
    with pytest.raises(NoSuchProcedureError, match="gtcserver is not running"):
        _ = gtc.ra
    with pytest.raises(NoSuchProcedureError, match="gtcserver is not running"):
        gtc["ra"]
    with pytest.raises(NoSuchProcedureError):
        gtc.set("ra", 1)
    assert not hasattr(gtc, "__len__")
    known: Any = absent_class("gtc")("gtc", Network(sample_of("gtc")))
    assert not hasattr(known, "ra")
    with pytest.raises(NotRunningError):
        known["ra"]
    object.__setattr__(gtc, "__class__", class_of(description_of("gtc")))  # it has been started
    assert isinstance(gtc, Device)
    assert "do_offset" in dir(gtc)


@pytest.mark.parametrize(
    ("text", "device", "fields"),
    [
        ("slide.position", "slide", ["position"]),
        ("FocalPlaneSlide.position", "slide", ["position"]),
        ("sl*.*", "slide", ["position", "target_position"]),
        ("slide", "slide", ["position", "target_position"]),
        ("slide.position.target", "slide", ["target_position"]),
        ("*.exposure.time", "ngc", ["exposure.time"]),
        ("*.exposure.time", "slide", []),
    ],
)
def test_a_pattern_chooses_fields(text: str, device: str, fields: list[str]) -> None:
    pattern = Pattern(text)
    entry = {"name": device, "aliases": ENTRIES[device].aliases}
    assert pattern.has_device(entry)
    assert list(pattern.fields(description_of(device))) == fields


def test_a_pattern_that_chooses_nothing_says_what_there_is() -> None:
    devices = {name: {"name": name, "aliases": ()} for name in ("ccd1", "slide", "gtc")}
    known = {"slide": description_of("slide")}
    assert Pattern("slide.position").unmatched(devices, known) == ""
    assert Pattern("gtc.anything").unmatched(devices, known) == "", "it may be started later"
    assert "did you mean slide?" in Pattern("slyde").unmatched(devices, known)
    assert "there are position, " in Pattern("slide.x").unmatched(devices, known)
