"""Interlocks in the instrument file: what is declared, what is a mistake, what can never be."""

import re
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import Entry, InstrumentError, load
from hcam_devices.core.condition import Act
from hcam_devices.core.fields import Setpoint

SITE = """
[servers.hwserver-far]
[devices.ccd1]
kind = "views.CCDHead"
gauge = "pressure1"
rack = "meerstetter1"
channel = 2
recorder = "flow"
pen = 3
[devices.pressure1]
kind = "pdr900.VacuumGauge"
port = 1
[devices.meerstetter1]
kind = "meerstetter.PeltierRack"
port = 2
[devices.flow]
kind = "minitrend.FlowRecorder"
port = 3
[devices.slide]
kind = "zaber.FocalPlaneSlide"
port = 4
[devices.chiller]
kind = "chiller.CoolingCircuit"
port = 5
server = "hwserver-far"
[devices.ngc]
kind = "ngc.Controller"
[devices.gtc]
kind = "gtc.Telescope"
"""
TRIP: dict[str, str | None] = {
    "for_each": '"ccd*"',
    "when": '[{field = "flow", below = "0.4 l/min"}]',
    "during": '"60 s"',
    "then": '[{set = "stage_enable", to = "Static OFF"}]',
    "verify": '{field = "peltier_current", below = "0.2 A", within = "10 s"}',
    "advice": '"Look at the pump."',
}
PERMISSIVE: dict[str, str | None] = {
    "for_each": '"ccd*"',
    "refuse": '["set_setpoint"]',
    "unless": '[{field = "flow", above = "0.4 l/min"}]',
    "advice": '"Let it flow."',
}


def written(folder: Path, table: dict[str, str | None], name: str = "coolant") -> Path:
    path = folder / "site.toml"
    lines = [f"{key} = {value}" for key, value in table.items() if value is not None]
    path.write_text("\n".join([SITE, f"[interlocks.{name}]", *lines, ""]))
    return path


def declared(folder: Path, table: dict[str, str | None]) -> Any:
    (one,) = load(written(folder, table)).entries["ccd1"].interlocks
    return one


def test_fields_of_a_view_are_those_of_its_sources(tmp_path: Path) -> None:
    one = declared(tmp_path, TRIP)
    (flow,) = one.when
    assert (flow.device, flow.path, flow.unit) == ("flow", ("pen3",), "l / min")
    assert one.then == (Act("meerstetter1", "stage_enable2", "Static OFF"),)
    assert (one.verify.device, one.verify.path) == ("meerstetter1", ("current2",))
    assert (one.during, one.within, one.armed) == (60.0, 10.0, True)
    assert one.guards == ("meerstetter1.set_stage_enable2",)


def test_units_are_converted(tmp_path: Path) -> None:
    when = '[{field = "pressure", above = "10 Pa"}, {field = "heatsink", above = "328.15 K"}]'
    one = declared(tmp_path, TRIP | {"when": when, "during": '"2 min"'})
    assert [condition.above for condition in one.when] == [pytest.approx(0.1), pytest.approx(55)]
    assert one.during == 120.0


def test_a_command_of_a_view_is_guarded_where_it_is_carried_out(tmp_path: Path) -> None:
    assert declared(tmp_path, PERMISSIVE).refuse == (("meerstetter1", "set_target_temperature2"),)
    one = declared(tmp_path, PERMISSIVE | {"refuse": '["meerstetter*.set_target_*"]'})
    assert one.refuse == tuple(("meerstetter1", f"set_target_temperature{n}") for n in (1, 2, 3))
    one = declared(tmp_path, PERMISSIVE | {"refuse": '["slide.block", "slide.stage.move"]'})
    assert {"slide.block", "slide.stage.move"} <= {*one.guards}


def test_the_other_names_of_a_command_are_guarded_too(tmp_path: Path) -> None:
    gtc = '[devices.gtc]\nkind = "gtc.Telescope"'
    text = written(tmp_path, PERMISSIVE | {"refuse": '["gtc.do_offset"]'}).read_text()
    (tmp_path / "site.toml").write_text(text.replace(gtc, f"{gtc}\nport = 12008"))
    (one,) = load(tmp_path / "site.toml").entries["ccd1"].interlocks
    assert set(one.refuse) == {("gtc", "do_offset"), ("gtc", "gtc.do_offset")}


def test_what_protects_the_detector_has_no_bypass(tmp_path: Path) -> None:
    one = declared(tmp_path, PERMISSIVE | {"refuse": '["meerstetter1.set_stage_enable*"]'})
    assert not one.may_be_bypassed
    assert declared(tmp_path, PERMISSIVE).may_be_bypassed


MISTAKES: list[tuple[dict[str, str | None], str]] = [
    (TRIP | {"for_each": '"cdd*"'}, r"no device matches 'cdd\*'"),
    (TRIP | {"for_each": '"slide"'}, r"slide has no field 'flow'; it has position"),
    (TRIP | {"advice": None}, r"advice is missing"),
    (TRIP | {"then": None}, r"nothing to verify without then"),
    (TRIP | {"verify": None}, r"verify is missing: what has to be seen after it"),
    (TRIP | {"during": None}, r"during is missing: for how long"),
    (TRIP | {"during": '"60"'}, r"during: '60' cannot be converted to 's'"),
    (TRIP | {"during": '"1 s"'}, r"during is 4 s \(2 samples\) to 86400 s, not '1 s'"),
    (TRIP | {"during": '"9 d"'}, r"during is 4 s"),
    (TRIP | {"during": "60"}, r"during: .*string, not 60"),
    (TRIP | {"when": None}, r"either when \(it trips\) or refuse"),
    (TRIP | {"refuse": '["set_setpoint"]'}, r"either when \(it trips\) or refuse"),
    (TRIP | {"unless": '[{field = "flow", above = "1 l/min"}]'}, r"unless and only belong to"),
    (TRIP | {"armed": "false"}, r"needs its reason, and what is to_confirm"),
    (TRIP | {"colour": "1"}, r"colour is not a setting here; there are advice, armed"),
    (TRIP | {"when": '[{field = "flow"}]'}, r"flow needs one limit: either above or below"),
    (TRIP | {"when": '[{field = "fow", below = "1 l/min"}]'}, r"no field 'fow'.* mean flow"),
    (TRIP | {"when": '[{field = "x.flow", below = "1 A"}]'}, r"there is no device 'x'"),
    (TRIP | {"when": '[{field = "flow", below = "1 mbar"}]'}, r"cannot be converted to 'l / min'"),
    (TRIP | {"when": '[{field = "flow", below = "low"}]'}, r"'low' is not a number with a unit"),
    (TRIP | {"when": '[{field = "flow", below = "1e999 l/min"}]'}, r"is not a finite number"),
    (TRIP | {"when": '[{field = "flow", below = "nan l/min"}]'}, r"is not a number with a unit"),
    (TRIP | {"when": '[{field = "peltier_status", above = "1"}]'}, r"peltier_status is no number"),
    (TRIP | {"when": '[{field = "chiller.ccd_input", above = "20 deg_C"}]'},
     r"ccd1 is of server hwserver, chiller of hwserver-far: an interlock runs in one server"),
    (TRIP | {"when": '"flow < 0.4"'}, r"when: .*list"),
    (PERMISSIVE | {"unless": None}, r"unless is missing"),
    (PERMISSIVE | {"only": '"raising"'}, r"only: .*lowering"),
    (PERMISSIVE | {"during": '"60 s"'}, r"during, then and verify belong to"),
    (PERMISSIVE | {"refuse": '["set_setpont"]'}, r"no command of ccd1 is 'set_setpont'.*setpoint"),
    (PERMISSIVE | {"refuse": '["slide.fly"]'}, r"no command of slide is 'fly'"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "sentence"), MISTAKES)
def test_each_mistake_is_a_sentence_at_its_table(
    tmp_path: Path, table: dict[str, str | None], sentence: str
) -> None:
    path = written(tmp_path, table)
    with pytest.raises(InstrumentError, match=sentence) as found:
        load(path)
    first = len(SITE.splitlines()) + 1
    (line,) = re.findall(r"site.toml:(\d+): \[interlocks.coolant\]", str(found.value))
    assert int(line) >= first


@pytest.mark.parametrize("name", ["flow", "health", "connection"])
def test_a_name_that_the_device_has_is_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(InstrumentError, match=f"ccd1 has something else named {name}"):
        load(written(tmp_path, TRIP, name))


NEVER = {
    "switching on": ("stage_enable", "HW Enable"),
    "leaving HW Enable but for Static OFF": ("stage_enable", "Static ON"),
    "running without the interlock": ("stage_enable", "Live OFF/ON"),
    "a setpoint step": ("setpoint", "0"),
    "lowering": ("setpoint", "-100"),
    "moving the slide": ("slide.target_position", "1100"),
    "something that is no setpoint": ("flow", "0"),
}


@pytest.mark.parametrize("what", NEVER)
def test_what_must_never_be_automatic_cannot_be_declared(tmp_path: Path, what: str) -> None:
    field, value = NEVER[what]
    table = TRIP | {"then": f'[{{set = "{field}", to = "{value}"}}]'}
    with pytest.raises(InstrumentError, match="may only set what its device declares as safe"):
        load(written(tmp_path, table))


@pytest.mark.parametrize("key", ["call", "move", "publish", "value", "raw", "expression"])
def test_an_act_is_a_safe_word_and_no_command(tmp_path: Path, key: str) -> None:
    # Nothing moves, no exposure is stopped, no clock is powered: there is no such act.
    table = TRIP | {"then": f'[{{{key} = "ngc.abort", to = "Static OFF"}}]'}
    with pytest.raises(InstrumentError, match=f"{key} is not a setting here"):
        load(written(tmp_path, table))


def test_only_switching_a_peltier_off_is_safe() -> None:
    safe = {
        (entry.cls.__name__, field.name.rstrip("123")): field.safe
        for entry in load().entries.values()
        for field in entry.cls.fields.values()
        if isinstance(field, Setpoint) and field.safe
    }
    assert safe == {("PeltierRack", "stage_enable"): ("Static OFF",)}


def with_interlocks() -> dict[str, Entry]:
    return {name: one for name, one in load().entries.items() if one.interlocks}


def test_those_of_the_instrument_are_proposals() -> None:
    entries = with_interlocks()
    assert list(entries) == [f"ccd{n}" for n in range(1, 6)]
    for entry in entries.values():
        assert [one.name for one in entry.interlocks] == [
            "coolant", "overheating", "vacuum", "cooling",
        ]  # fmt: skip
        for one in entry.interlocks:
            assert not one.armed
            assert one.reason.endswith(".")
            assert one.to_confirm.endswith(".")
            assert one.advice.endswith(".")
        by_name = {one.name: one for one in entry.interlocks}
        assert by_name["vacuum"].then == ()  # a person decides about a warm-up
        assert by_name["cooling"].lowering
        assert entry.build().states().keys() == {"connection", "health"}
