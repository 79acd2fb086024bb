"""Declared fields: which values a setpoint accepts, and how fields are described."""

import math
from typing import Annotated, Any

import pytest
from astropy import units as u
from pydantic import Field

from hcam_devices.core import Reading
from hcam_devices.core.device import Device, settings_of
from hcam_devices.core.fields import (
    Labels,
    Procedure,
    Readback,
    Setpoint,
    label_of,
    rpc,
)
from hcam_devices.names import shorten, usage

from ..helpers import ENTRIES

TEMPERATURE = Setpoint(unit="deg_C", limits=(-100, 25), name="target")
STATES = Labels({0: "Static OFF", 3: "HW Enable"})
ENABLE = Setpoint(kind=STATES, words=STATES, name="enable")
ANYTHING = Setpoint(unit="mm", name="anything")
CLASSES = {entry.cls.__name__: entry.cls for entry in ENTRIES.values()}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (-80, -80.0),
        (-80.5, -80.5),
        (-100, -100.0),
        (25, 25.0),
        ({"value": -80, "unit": "deg_C"}, -80.0),
        ({"value": 193.15, "unit": "K"}, -80.0),
        ("-80", -80.0),
        (" -80 deg_C ", -80.0),
        ("-8e1deg_C", -80.0),
        ("193.15 K", -80.0),
        (".5", 0.5),
    ],
)
async def test_a_setpoint_takes_a_number_with_or_without_a_unit(value: Any, number: float) -> None:
    assert await TEMPERATURE.accept(value) == pytest.approx(number)


REFUSED: list[tuple[Any, str]] = [
    (math.nan, "nan deg_C"),
    (math.inf, "inf deg_C"),
    (-math.inf, "-inf deg_C"),
    (1e9, "1e+09 deg_C"),
    (25.5, "25.5 deg_C"),
    (10**30, "1e+30 deg_C"),
    (10**400, "100000000000000000000"),
    (10**5000, "int (too long to be shown)"),
    (True, "True"),
    (None, "None"),
    ([1, 2], "[1, 2]"),
    ({}, "{}"),
    ({"value": 1}, "{'value': 1}"),
    ({"value": "1", "unit": "deg_C"}, "'1'"),
    ({"value": True, "unit": "deg_C"}, "True"),
    ({"value": 1, "unit": "deg_C", "more": 1}, "'more': 1"),
    ({"value": math.nan, "unit": "K"}, "nan deg_C"),
    ({"value": 5, "unit": ""}, "5 ''"),
    (b"-80", "b'-80'"),
    ("", "''"),
    ("cold", "'cold'"),
    ("nan", "'nan'"),
    ("1e999", "inf deg_C"),
    ("1e999 K", "inf deg_C"),
    ("-80 deg_C deg_C", "-80 'deg_C deg_C'"),
    ("-80 mbar", "-80 'mbar'"),
    ("-80 \0", r"-80 '\x00'"),
    ("-80 " + "K" * 100_000, "'-80 KKKKKKK"),
    ("-80 m(1/0)", "-80 'm(1/0)'"),
    ("-80 (((", "-80 '((('"),
]


@pytest.mark.parametrize(("value", "shown"), REFUSED, ids=[shorten(one) for one, _ in REFUSED])
async def test_a_refused_setpoint_is_told_its_value_and_the_limits(value: Any, shown: str) -> None:
    with pytest.raises(ValueError, match="-100 to 25 deg_C") as refused:
        await TEMPERATURE.accept(value)
    assert shown in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("unit", [None, ["deg_C"], 7])
async def test_a_unit_that_is_not_a_name_is_refused(unit: Any) -> None:
    with pytest.raises(ValueError, match="not the name of a unit such as 'deg_C'"):
        await TEMPERATURE.accept({"value": 1, "unit": unit})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1e999"])
async def test_what_is_not_finite_is_refused_where_there_are_no_limits(value: Any) -> None:
    with pytest.raises(ValueError, match="is not within"):
        await ANYTHING.accept(value)


@pytest.mark.parametrize("value", [3, 3.0, "HW Enable"])
async def test_a_word_or_its_number_is_accepted(value: Any) -> None:
    assert await ENABLE.accept(value) == 3


@pytest.mark.parametrize(
    "value",
    [1, "Static ON", True, False, math.nan, None, "", "3", b"HW Enable", [3], {}, 10**5000],
    ids=shorten,
)
async def test_what_is_not_one_of_the_words_is_told_which_there_are(value: Any) -> None:
    with pytest.raises(ValueError, match=r"0 \(Static OFF\), 3 \(HW Enable\)") as refused:
        await ENABLE.accept(value)
    assert shorten(value) in str(refused.value)


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_declared_unit_is_one_that_astropy_knows(cls: Any) -> None:
    assert cls.fields
    for field in cls.fields.values():
        assert u.Unit(field.unit).to_string() is not None
        assert field.describe()["unit"] == field.unit


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_settings_have_a_type_and_no_declaration_is_a_setting(cls: Any) -> None:
    assert not settings_of(cls).keys() & cls.fields.keys()


def test_channels_are_spelled_out_from_1() -> None:
    one, two = Readback(unit="K", ref=7, channels=2, deployed_name="sensor").expand("heat")
    assert (one.name, one.ref, one.deployed_name) == ("heat1", (7, 1), "sensor1")
    assert (two.name, two.ref, two.deployed_name) == ("heat2", (7, 2), "sensor2")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (8e-3, None),
        (8.1e-3, "0.0081 mbar is above 0.008 mbar"),
        (-1.0, "-1 mbar is below 0 mbar"),
        ("text", None),
    ],
)
def test_a_value_outside_the_healthy_range_says_by_what(value: Any, why: str | None) -> None:
    assert Readback(unit="mbar", healthy=(0, 8e-3)).unhealthy(value) == why


def test_a_number_without_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="answered 9"):
        Labels({0: "init"})(9)


class Commands:
    """What may be called, of every form."""

    @rpc(read_only=True)
    def look(self, where: Annotated[float, Field(ge=0)], often: int = 1) -> None:
        """Look somewhere.

        More than once.
        """

    @rpc(audience="engineer", label="Say anything")
    def say(self, word: str, *more: str | bool, confirm: bool | None = None) -> None:
        """Say words."""


def described(name: str) -> dict[str, Any]:
    command = getattr(Commands(), name)
    return Procedure(command, **command.rpc).describe(name)


def test_a_procedure_is_described_by_json_schema() -> None:
    assert described("look") == {
        "label": "Look",
        "doc": "Look somewhere.",
        "audience": "observer",
        "read_only": True,
        "moves": None,
        "sets": None,
        "parameters": {
            "type": "object",
            "properties": {
                "where": {"type": "number", "minimum": 0},
                "often": {"type": "integer", "default": 1},
            },
            "required": ["where"],
            "additionalProperties": False,
        },
        "positional": ["where", "often"],
        "rest": None,
    }
    assert usage(described("look")) == "WHERE [often=1]"


def test_any_more_arguments_and_named_ones_are_told_apart() -> None:
    say = described("say")
    assert (say["label"], say["audience"]) == ("Say anything", "engineer")
    assert say["parameters"]["required"] == say["positional"] == ["word"]
    assert say["rest"] == "more"
    assert say["parameters"]["properties"]["more"] == {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
    }
    assert usage(say) == "WORD [more ...] [confirm=true]"


def test_a_setter_says_which_setpoint_it_sets_and_what_that_takes() -> None:
    def setter(value: object, *, confirm: bool = False) -> None:
        """Set it."""

    for field, takes in (
        (ENABLE, {"enum": [0, 3, "Static OFF", "HW Enable"]}),
        (TEMPERATURE, TEMPERATURE.schema()),
    ):
        one = Procedure(setter, sets=field).describe("set_it")
        assert (one["sets"], one["audience"]) == (field.name, "operator")
        assert one["parameters"]["properties"]["value"] == takes
        assert one["parameters"]["required"] == ["value"]
    number, *_ = TEMPERATURE.schema()["anyOf"]
    assert number == {"type": "number", "minimum": -100, "maximum": 25}
    assert ANYTHING.schema()["anyOf"][0] == {"type": "number"}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("home", "Home"),
        ("set_target_temperature1", "Set target temperature 1"),
        ("positionSet", "Position set"),
    ],
)
def test_a_label_is_made_from_a_name(name: str, label: str) -> None:
    assert label_of(name) == label


def test_a_field_is_described_with_one_set_of_keys() -> None:
    common: dict[str, Any] = {
        "doc": "",
        "healthy": None,
        "limits": None,
        "words": None,
        "guarded": [],
    }
    number = common | {"type": "number", "unit": "K", "scale": "linear", "digits": 2}
    assert Readback(unit="K").describe() == number | {"settable": False}
    assert Setpoint(unit="K", limits=(0, math.inf)).describe() == number | {
        "settable": True,
        "limits": [0, None],
    }
    text = common | {"type": "text", "unit": "", "scale": None, "digits": None}
    assert ENABLE.describe() == text | {
        "settable": True,
        "words": {"0": "Static OFF", "3": "HW Enable"},
    }
    off = Readback(kind=Labels({"O": "off"})).describe()
    assert off == text | {"settable": False, "words": {"O": "off"}}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (float, "number"),
        (int, "number"),
        (bool, "bool"),
        (str, "text"),
        (Labels({0: "init"}), "text"),
        (shorten, "text"),
    ],
)
def test_the_type_of_a_field_is_what_its_kind_returns(kind: Any, answer: str) -> None:
    assert Readback(kind=kind).type == answer


@pytest.mark.parametrize("kind", [dict, {0: "off"}.__getitem__, lambda value: value])
def test_a_kind_that_does_not_say_what_it_returns_is_a_mistake(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"what: .* does not say that it returns"):

        class Vague(Device):
            what = Readback(kind=kind)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (Readback(unit="K"), 4.5678, "4.57"),
        (Readback(unit="K", digits=0), 4.5678, "5"),
        (Readback(unit="mbar", scale="log", digits=1), 1.234e-5, "1.2e-05"),
        (Readback(kind=int), 7, "7"),
        (Readback(kind=int), 7.0, "7"),
        (Readback(kind=bool), True, "True"),
        (Readback(unit="K"), None, "?"),
    ],
)
def test_a_value_is_shown_with_the_declared_digits(field: Readback, value: Any, text: str) -> None:
    assert field.as_text(value) == text


def test_a_setpoint_and_the_readback_that_follows_it_are_a_pair() -> None:
    class Heater(Device):
        heat = Readback(unit="K", channels=2)
        target_heat = Setpoint(unit="K", channels=2)
        level = Readback(unit="K", channels=2)
        goal = Setpoint(unit="K", channels=2, readback="level")
        alone = Setpoint(unit="K")

    assert Heater.pairs == {
        "heat1": "target_heat1",
        "heat2": "target_heat2",
        "level1": "goal1",
        "level2": "goal2",
    }
    with pytest.raises(TypeError, match="goal: there is no readback depth"):

        class Pool(Device):
            goal = Setpoint(unit="m", readback="depth")


@pytest.mark.parametrize("name", ENTRIES)
def test_a_pair_is_told_the_same_way_everywhere(name: str) -> None:
    device = ENTRIES[name].build()
    described = device.describe()
    fields, values = described["fields"], device.values()
    for readback, setpoint in device.nested().items():
        assert fields[readback]["pair"] == setpoint
    for one, field in fields.items():
        if field["pair"]:
            other = fields[field["pair"]]
            assert (other["pair"], other["unit"]) == (one, field["unit"])
            assert other["settable"] is not field["settable"]
        first, *_ = field["path"]
        assert first in values


def test_a_position_that_is_unknown_does_not_hide_its_target() -> None:
    device = ENTRIES["slide"].build()
    assert device.values()["position"] is None
    device.readings["target_position"] = Reading(5.0)
    assert device.values()["position"] == {"current": None, "target": {"value": 5.0, "unit": "pix"}}


@pytest.mark.parametrize(
    ("name", "field"),
    [("state", Readback()), ("alarms", Readback()), ("command", Setpoint())],
)
def test_a_field_may_not_replace_what_every_device_has(name: str, field: Readback) -> None:
    with pytest.raises(TypeError, match=f"Dome.{name}: every device has something else"):
        type("Dome", (Device,), {name: field})
