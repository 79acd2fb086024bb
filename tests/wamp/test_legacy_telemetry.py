"""Telemetry for programs of version 1.7: what their pickles contain. None is read."""

import math
import pickletools
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.config.instrument import carried, load
from hcam_devices.wamp.router import shipped


def _load() -> Any:
    """Return the module, which belongs to no package: the router imports it by its path."""
    spec = spec_from_file_location("_", shipped().with_name("legacy_telemetry.py"))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


legacy = _load()
MARK = object()


def parsed(data: bytes) -> Any:
    """Return what a pickle contains, by its opcodes: nothing is imported or called."""
    stack: list[Any] = []

    def from_mark() -> list[Any]:
        at = len(stack) - 1 - stack[::-1].index(MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, arg, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "BININT" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "GLOBAL":
                stack.append(arg)
            case "EMPTY_LIST" | "EMPTY_DICT" | "MARK":
                stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "MARK": MARK}[opcode.name])
            case "APPENDS":
                items = from_mark()
                stack[-1].extend(items)
            case "SETITEMS":
                items = from_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "TUPLE1" | "TUPLE2":
                count = int(opcode.name[-1])
                items = stack[-count:]
                stack[-count:] = [tuple(items)]
            case "REDUCE":
                arguments = stack.pop()
                stack.append((str(stack.pop()), *arguments))
            case other:
                raise AssertionError(other)
    [value] = stack
    return value


def quantity(value: float, unit: str) -> Any:
    return ("astropy.units Quantity", pytest.approx(value, nan_ok=True), unit)


def time(iso: str) -> Any:
    return ("astropy.time Time", iso)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_a_pickle_contains_what_was_put_in(value: Any) -> None:
    assert parsed(legacy.pickled(value)) == value


def test_a_pickle_has_no_other_opcodes_for_quantities_and_times() -> None:
    told = [legacy.Time("2026-11-29 03:14:39.148"), legacy.Quantity(1.5, "l / min")]
    assert parsed(legacy.pickled(told)) == [
        time("2026-11-29 03:14:39.148"),
        quantity(1.5, "l / min"),
    ]
    with pytest.raises(TypeError, match="bytes cannot be"):
        legacy.pickled({"x": b""})


def told(kind: str, sample: dict[str, Any], *, after: float = 0.0) -> Any:
    """Return what is published of a sample that was heard some seconds ago."""
    telemetry = legacy.Telemetry(legacy.KINDS[kind], 100.0)
    telemetry.hear(sample, 100.0)
    return parsed(telemetry.message(100.0 + after, "2026-11-30 12:00:00"))


SLIDE = {
    "timestamp": "2026-11-29T03:14:39.148Z",
    "state": {"connection": "online", "stage": "inpos"},
    "position": {
        "current": {"value": 1100.0, "unit": "pix"},
        "target": {"value": 1101.0, "unit": "pix"},
    },
}
ONLINE = ["active", "online"]
OFFLINE = ["active", "offline"]
TESTAMENT = {"timestamp": None, "state": {"connection": "offline"}}


def test_a_slide() -> None:
    assert told("zaber.FocalPlaneSlide", SLIDE) == {
        "timestamp": time("2026-11-29 03:14:39.148"),
        "position": {"current": quantity(1100.0, "pix"), "target": quantity(1101.0, "pix")},
        "state": {
            "connection": ONLINE,
            "stage": ["active", "motorController", "enabled", "homed", "inpos"],
        },
    }


@pytest.mark.parametrize(
    "position", [None, {"current": None, "target": {"value": 5, "unit": "pix"}}]
)
def test_a_position_that_is_not_known_is_the_last_one_of_a_device_that_is_offline(
    position: Any,
) -> None:
    telemetry = legacy.Telemetry(legacy.KINDS["zaber.FocalPlaneSlide"], 100.0)
    telemetry.hear(SLIDE, 100.0)
    telemetry.message(100.0, "")
    telemetry.hear(SLIDE | {"position": position}, 102.0)
    message = parsed(telemetry.message(102.0, ""))
    assert message["position"]["current"] == quantity(1100.0, "pix")
    assert message["state"]["connection"] == OFFLINE


def test_an_axis_without_a_target_has_its_position_as_target() -> None:
    here = {"value": 3.0, "unit": "mm"}
    lens = SLIDE | {"position": {"current": here, "target": None}}
    lens["state"] = {"connection": "online", "stage": "init"}
    message = told("zaber.COMPOLens", lens)
    assert message["position"] == dict.fromkeys(("current", "target"), quantity(3.0, "mm"))
    assert message["state"]["stage"] == ["active", "motorController", "enabled", "init"]


def test_what_a_rack_does_not_know_raises_an_alarm() -> None:
    kind = legacy.KINDS["meerstetter.PeltierRack"]
    message = told("meerstetter.PeltierRack", TESTAMENT | dict.fromkeys(kind.fields))
    assert message.pop("state") == {
        "connection": OFFLINE,
        **{name: ["active", "disabled"] for name in kind.fields if "target" not in name},
    }
    message.pop("timestamp")
    assert message == {
        **{
            f"current{n}": quantity(math.inf, "A") for n in (1, 2, 3)
        },  # hdriver needs a number here
        **{f"target_temperature{n}": quantity(math.nan, "deg_C") for n in (1, 2, 3)},
        **{f"{name}{n}": "unknown" for name in ("status", "stage_enable") for n in (1, 2, 3)},
    }


@pytest.mark.parametrize("kind", legacy.KINDS)
def test_a_device_that_has_gone_silent_looks_as_one_that_was_never_heard(kind: str) -> None:
    silent = legacy.Telemetry(legacy.KINDS[kind], 100.0)
    assert silent.message(101.0, "2026-11-30 12:00:00") is None  # it may be starting
    never = parsed(silent.message(10_000.0, "2026-11-30 12:00:00"))
    assert never["timestamp"] == time("2026-11-30 12:00:00")
    sample = {"timestamp": "2026-11-30T12:00:00Z", "state": {"connection": "online"}}
    gone = told(kind, sample, after=legacy.STALE_PERIODS * legacy.KINDS[kind].period + 31)
    assert repr(gone) == repr(never)
    state = never.get("state")
    assert "online" not in str(state)
    assert state != "OK"
    lacking = {name for name in legacy.KINDS[kind].fields if name not in never}
    worrying = {"unknown", "ERR", "nan", "inf", "None"}
    for name, value in never.items():
        assert name in ("timestamp", "state", "exposure.frame") or worrying & {
            *str(value).replace("'", " ").replace(",", " ").replace(")", " ").split()
        }, (name, value)
    assert lacking | never.keys() >= legacy.KINDS[kind].fields.keys()


def test_the_detector_is_told_in_texts_and_the_run_without_its_folder() -> None:
    fields = legacy.KINDS["ngc.Controller"].fields
    sample: dict[str, Any] = TESTAMENT | dict.fromkeys(fields) | {"disk_free": {"value": 1.0}}
    message = told("ngc.Controller", sample)
    del message["timestamp"]
    assert message == dict.fromkeys(fields, "ERR") | {"exposure.frame": 0}
    sample |= {
        "exposure.time": {"value": 12.5, "unit": "s"},
        "exposure.newDataFileName": "/data/4711/run0041.fits",
        "exposure.frame": 7,
    }
    message = told("ngc.Controller", sample)
    assert message["exposure.time"] == "12.500"
    assert message["exposure.newDataFileName"] == "run0041.fits"
    assert message["exposure.frame"] == 7


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("offline", ["active", "offline"]),
        ("inpos", ["active", "online", "in position", "nodding disabled"]),
        ("offsetting", ["active", "online", "offsetting"]),
        ("unknown", ["active", "online", "offsetting"]),
        (
            "nodding.paused",
            ["active", "online", "in position", "nodding enabled", "waiting_for_frame"],
        ),
    ],
)
def test_states_of_the_telescope(ours: str, theirs: list[str]) -> None:
    state = {"connection": "online", "gtc": ours}
    message = told("gtc.Telescope", TESTAMENT | {"state": state, "telpars": {"RADEG": 17.5}})
    assert message["state"] == {"gtc": theirs}
    assert message["telpars"]["RADEG"] == "17.5"
    assert message["telpars"]["M2UZ"] == "nan"
    assert "rack_temp" not in message


def test_compo_is_two_devices_in_one() -> None:
    state = {"connection": "online", "arms": "online", "lens": "offline"}
    state |= {"pickoff": "moving", "injection": "disabled"}
    angle = {"value": 1.0, "unit": "deg"}
    pair = {"current": angle, "target": angle}
    arms = {"pickoff_angle": pair, "injection_angle": pair}
    lens = {"lens_position": {"current": {"value": 2.0, "unit": "mm"}, "target": None}}
    message = told("views.COMPO", SLIDE | {"state": state} | arms | lens)
    motor = ["active", "motorController"]
    assert message["state"] == {
        "arms_state": {
            "connection": ONLINE,
            "pickoff": [*motor, "enabled", "homed", "moving"],
            "injection": [*motor, "disabled"],
        },
        "lens_state": {"connection": OFFLINE, "stage": [*motor, "enabled", "init"]},
    }


@pytest.mark.parametrize("name", ["hipercam", "wht"])
def test_every_kind_is_told_and_has_the_fields_of_its_device(name: str) -> None:
    """A field that was renamed would be unknown for ever."""
    for entry in load(carried(name)).entries.values():
        device, fields = entry.build(), legacy.KINDS[entry.cls.kind()].fields
        assert {*fields} <= device.values().keys(), entry.name
        for field in fields.keys() & device.fields.keys():
            assert fields[field].unit in ("", device.fields[field].unit), f"{entry.name}.{field}"
