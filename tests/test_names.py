"""Suggestions for a mistyped name."""

import pytest

from hcam_devices.config.instrument import InstrumentError, load
from hcam_devices.config.kinds import kinds
from hcam_devices.core import sim
from hcam_devices.names import did_you_mean, nearest

from .helpers import ENTRIES

PROCEDURES = ["block", "unblock", "stage.move", "stage.stop", "set_target_position", "describe"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blok", "; did you mean block?"),
        ("Block", "; did you mean block?"),
        ("move", "; did you mean stage.move?"),
        ("stage.mvoe", "; did you mean stage.move?"),
        ("target_position", "; did you mean set_target_position?"),
        ("target", "; did you mean set_target_position?"),
        ("dance", ""),
        ("", ""),
    ],
)
def test_a_name_that_is_nearly_right_is_suggested(name: str, said: str) -> None:
    assert did_you_mean(name, PROCEDURES) == said


def test_the_nearest_names_come_first_and_the_rest_are_counted() -> None:
    assert nearest("temprature", ["seq", "temperature", "flow"], most=1) == (
        "temperature and 2 more"
    )
    assert nearest("x", []) == ""


def test_a_fault_that_is_nearly_right_is_suggested() -> None:
    simulator = ENTRIES["pressure1"].cls.simulator()
    assert isinstance(simulator, sim.Simulator)
    for fault, chosen, said in (
        ("silense", {}, "no fault 'silense'; there are delay, .*; did you mean silence?"),
        ("delay", {"second": 1}, "delay has no second; it has .*; did you mean seconds?"),
        ("set", {"presure": 1}, "no presure to set; there is .*; did you mean pressure?"),
    ):
        with pytest.raises(ValueError, match=said.replace("?", r"\?")):
            simulator.simulate(fault, **chosen)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pdr900.VacuumGauge", "pdr900.VacumGauge", "did you mean pdr900.VacuumGauge?"),
        ("pdr900.VacuumGauge", "pdr90.VacuumGauge", "did you mean pdr900.VacuumGauge?"),
        ('gauge = "pressure1"', 'gauge = "presure1"', "did you mean pressure1"),
        ("port = ", "prot = ", "; did you mean port?"),
    ],
)
def test_the_right_word_for_an_instrument_file_is_suggested(
    tmp_path_factory: pytest.TempPathFactory, old: str, new: str, said: str
) -> None:
    path = tmp_path_factory.mktemp("ours") / "ours.toml"
    before, devices = load().path.read_text(encoding="utf-8").split("[devices", 1)
    assert old in devices
    path.write_text(f"{before}[devices{devices.replace(old, new, 1)}", encoding="utf-8")
    with pytest.raises(InstrumentError) as told:
        load(path)
    assert said in str(told.value)


def test_every_kind_in_use_is_among_the_kinds() -> None:
    used = {f"{e.cls.__module__.rpartition('.')[2]}.{e.cls.__name__}" for e in ENTRIES.values()}
    assert used <= {*kinds()}
    assert "zaber.LinearStage" not in kinds(), "no kind of its own"


def test_names_that_are_alike_are_suggested_together() -> None:
    assert did_you_mean("ccd9", ["ccd1", "ccd2", "gps"]) == "; did you mean ccd1 or ccd2?"
