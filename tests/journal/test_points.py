"""Samples as flat points, and back."""

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.line_protocol import line_of
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import (
    flatten,
    milliseconds,
    night_bounds,
    night_named,
    night_of,
    nights,
    unflatten,
)
from hcam_devices.journal.records import Record

from ..helpers import records

SLIDE: dict[str, Any] = {
    "device": "slide",
    "seq": 1842,
    "epoch": "4f3c",
    "timestamp": "2026-11-22T04:44:44.196Z",
    "state": {"connection": "online", "stage": "inpos"},
    "alarms": [{"field": "pressure", "severity": "ERR", "reason": 'a "quoted" one'}],
    "position": {
        "current": {"value": 1100.5, "unit": "pix"},
        "target": {"value": 1100.0, "unit": "pix"},
    },
    "synced": True,
    "mode": "fast",
    "frames": 3.0,
}


def test_a_sample_comes_back_as_it_was() -> None:
    assert unflatten(flatten(SLIDE)) == SLIDE


def test_a_field_may_have_dots_in_its_name() -> None:
    detector = SLIDE | {
        "exposure.time": {"value": 2.5, "unit": "s"},
        "exposure.expStatusName": "success",
        "exposure.focus": {"current": 1.0, "target": 2.0},
    }
    point = flatten(detector)
    assert point.values["exposure.time"] == 2.5
    assert unflatten(point) == detector


def test_a_pair_is_named_after_the_readback() -> None:
    point = flatten(SLIDE)
    assert point.values["position"] == 1100.5
    assert point.values["position.target"] == 1100.0
    assert point.units["position.target"] == "pix"
    assert point.values["state.stage"] == "inpos"


def test_a_target_may_come_before_what_is_current() -> None:
    sample = SLIDE | {"position": dict(reversed(SLIDE["position"].items()))}
    assert unflatten(flatten(sample)) == SLIDE


def test_a_target_without_a_current_value_is_kept() -> None:
    sample = SLIDE | {"position": SLIDE["position"] | {"current": None}}
    point = flatten(sample)
    assert "position" not in point.values
    assert point.values["position.target"] == 1100.0
    assert unflatten(point) == sample


def test_alarms_that_were_too_long_are_one() -> None:
    point = flatten(SLIDE | {"alarms": [{"reason": "r" * 70_000}]})
    alarm = {"field": "alarms", "severity": "ERR", "reason": point.values["alarms"]}
    assert unflatten(point) == SLIDE | {"alarms": [alarm]}


def test_alarms_with_what_json_cannot_carry_are_kept_as_texts() -> None:
    assert flatten(SLIDE | {"alarms": [b"raw"]}).values["alarms"] == """["b'raw'"]"""


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf, 10**400, b"bytes"])
def test_what_is_no_value_is_left_out_and_the_rest_kept(nothing: object) -> None:
    bad = {"value": nothing, "unit": "mbar"}
    point = flatten(SLIDE | {"plain": nothing, "pressure": bad, "position": None})
    assert {"plain", "pressure", "position"}.isdisjoint(point.values)
    assert point.units == {}
    assert point.values["mode"] == "fast"


@pytest.mark.parametrize(
    "missing",
    [
        {"seq": None},
        {"seq": True},
        {"seq": 0},
        {"seq": 2**63},
        {"epoch": 3},
        {"device": None},
        {"timestamp": None},
    ],
)
def test_without_number_or_time_it_is_no_point(missing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no "):
        flatten(SLIDE | missing)


def test_a_leap_second_is_the_first_of_the_next_day() -> None:
    assert milliseconds("2016-12-31T23:59:60.500Z") == milliseconds("2017-01-01T00:00:00.500Z")
    assert milliseconds("1970-01-01T00:00:01.001Z") == 1001


@pytest.mark.parametrize(
    "never",
    [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "2261-12-31T23:59:60.000Z",
        "2262-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_a_time_that_a_store_cannot_hold_is_none(never: str) -> None:
    with pytest.raises(ValueError, match="1970 and 2261"):
        flatten(SLIDE | {"timestamp": never})


@pytest.mark.parametrize("extreme", ["1970-01-01T00:00:00Z", "2261-12-31T23:59:59.999Z"])
def test_the_first_and_the_last_time_can_be_held(tmp_path: Path, extreme: str) -> None:
    point = flatten(SLIDE | {"timestamp": extreme, "seq": 999_999})
    assert int(line_of(Record.of(point)).split()[-1]) < 2**63
    with closing(EmbeddedStore("embedded", tmp_path)) as store:
        store.write(records([point]))
    (night,) = NightFiles(tmp_path).nights()
    assert list(NightFiles(tmp_path).samples(night)) == [point]
    assert milliseconds(unflatten(point)["timestamp"]) == milliseconds(extreme)


def test_a_night_lasts_from_noon_to_noon() -> None:
    start, end = night_bounds("2026-11-22")
    assert start == milliseconds("2026-11-22T12:00:00Z")
    assert [night_of(start - 1), night_of(start), night_of(end - 1)] == [
        "2026-11-21",
        "2026-11-22",
        "2026-11-22",
    ]
    assert list(nights(start - 1, end)) == ["2026-11-21", "2026-11-22", "2026-11-23"]


def test_tonight_goes_on_and_yesterday_is_the_night_before() -> None:
    morning = milliseconds("2026-11-23T11:59:59Z")
    assert night_named("tonight", morning) == "2026-11-22"
    assert night_named("yesterday", morning) == "2026-11-21"
    assert night_named("tonight", morning + 1000) == "2026-11-23"
    assert night_named("2026-11-01", morning) == "2026-11-01"
