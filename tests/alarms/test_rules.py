"""How alarms are judged: declared, by default, and as the instrument file changes it."""

import math
from typing import Any

import pytest

from hcam_devices.alarms.rules import REMIND_S, Rules
from hcam_devices.alarms.server import entry_of as alarms
from hcam_devices.config.instrument import load
from hcam_devices.history.recorder import entry_of as recorder

from .bench import ENTRIES

HIPERCAM = load()
OURS = Rules([*HIPERCAM.entries.values(), recorder(HIPERCAM), alarms()], HIPERCAM.alarms)


def test_what_is_not_declared_has_the_usual_figures() -> None:
    rule = Rules(ENTRIES, {}).of("g1.flow")
    poll = Rules(ENTRIES, {}).poll_s("g1")
    assert (rule.delay, rule.off_delay, rule.deadband) == (2 * poll, 15.0, 0.05)
    assert (rule.latches("ERR"), rule.latches("WARN"), rule.remind) == (True, False, REMIND_S)
    assert rule.advice is None


def test_what_is_declared_counts() -> None:
    rule = Rules(ENTRIES, {}).of("g1.quick")
    assert (rule.delay, rule.deadband, rule.latches("ERR")) == (0.0, 0.0, False)
    assert Rules(ENTRIES, {}).of("g1.cold").advice == "Warm it."


def test_the_instrument_file_has_the_last_word_of_later_tables() -> None:
    changed: dict[str, dict[str, Any]] = {
        "g*.flow": {"delay": 9.0, "latch": False},
        "g2.flow": {"delay": 7.0, "advice": "!"},
    }
    rules = Rules(ENTRIES, changed)
    assert (rules.of("g1.flow").delay, rules.of("g2.flow").delay) == (9.0, 7.0)
    assert rules.of("g2.flow").advice == "!"
    assert not rules.of("g2.flow").latches("ERR")
    assert rules.of("g2.pressure").latches("ERR")


@pytest.mark.parametrize(
    ("field", "value", "inside"),
    [
        ("pressure", 0.97, True),
        ("pressure", 0.99, False),
        ("pressure", 0.0, True),
        ("flow", 0.43, True),
        ("flow", 0.41, False),
        ("flow", math.inf, True),
        ("temperature", 1e9, True),
    ],
)
def test_a_value_is_healthy_again_when_it_is_inside_by_the_deadband(
    field: str, value: float, *, inside: bool
) -> None:
    assert Rules(ENTRIES, {}).of(f"g1.{field}").is_well_inside(value) is inside


def test_the_limit_that_is_exceeded() -> None:
    rule = Rules(ENTRIES, {}).of("g1.quick")
    assert [rule.limit_of(value) for value in (-1.0, 0.5, 2.0)] == [0, None, 1]


def test_every_alarm_of_this_instrument_has_advice() -> None:
    declared = list(OURS.declared())
    assert [rule.alarm for rule in declared if rule.advice is None] == []
    assert len({rule.alarm for rule in declared}) == len(declared) > 100
    for rule in declared:
        for text in (rule.advise(unread=False), rule.advise(unread=True)):
            assert "{" not in text
            assert not text or text.endswith((".", "CHANNEL"))


def test_what_nobody_can_act_on_is_a_notice() -> None:
    notices = {rule.alarm for rule in OURS.declared() if rule.is_notice("ERR")}
    assert notices == {"gps.timestamp", "rackpc.cpu"}
    for alarm in ("slide.stage", "ccd1.coolant", "slide.target_position"):
        assert OURS.of(alarm).is_notice("WARN")
        assert not OURS.of(alarm).is_notice("ERR")


def test_an_alarm_that_nobody_has_declared_is_raised() -> None:
    rule = OURS.of("gtc.something_new")
    assert not rule.is_notice("WARN")
    assert rule.advice is None
