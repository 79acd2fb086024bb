"""Alarms as people read them: one line for each cause, in a fixed order."""

from typing import Any

import pytest

from hcam_devices.config.instrument import load
from hcam_devices.ui.troubles import Causes, short

INSTRUMENT = load()
HEARD = "2026-11-22T05:00:00.000Z"
SINCE = "2026-11-22T04:44:44.196Z"
HIGH = "0.02 mbar is above 0.008 mbar"


def lines(**alarms: list[tuple[Any, ...]]) -> list[str]:
    """Return the lines for alarms: (field, severity, reason, since) of each device."""
    causes = Causes(INSTRUMENT)
    samples: dict[str, dict[str, Any]] = {name: {} for name in INSTRUMENT.names}
    for device, some in alarms.items():
        keys = ("field", "severity", "reason", "since")
        samples[device] = {
            "device": device,
            "alarms": [dict(zip(keys, (*alarm, SINCE)[:4], strict=True)) for alarm in some],
        }
        causes.hear(samples[device], HEARD)
    return [str(trouble) for trouble in causes.troubles(samples)]


def test_a_line_names_severity_field_time_and_reason() -> None:
    assert lines(slide=[("stage", "WARN", "it has not been homed")]) == [
        "WARN slide.stage since 2026-11-22 04:44: it has not been homed"
    ]


def test_errors_come_first_then_the_order_of_the_instrument_file_whatever_the_values() -> None:
    for values in ((1, 2, 3), (3, 2, 1)):
        told = lines(
            rackpc=[("cpu", "ERR", f"{values[0]} % is above 0 %")],
            slide=[("stage", "WARN", "not homed")],
            flow=[("pen1", "ERR", f"{values[1]} l / min is below 9 l / min")],
            ccd1=[("flow", "ERR", f"{values[2]} l / min is too little")],
        )
        assert [line.split()[:2] for line in told] == [
            ["ERR", "flow.pen1"],
            ["ERR", "rackpc.cpu"],
            ["WARN", "slide.stage"],
        ]
        assert "(also ccd1)" in told[0]


def test_a_view_that_repeats_its_source_is_named_in_the_line_of_the_source() -> None:
    pressure = [("pressure", "ERR", HIGH)]
    assert lines(ccd1=pressure, pressure1=pressure) == [
        f"ERR  pressure1.pressure (also ccd1) since 2026-11-22 04:44: {HIGH}"
    ]
    gone = "meerstetter1 is offline"
    unread = [(field, "ERR", gone) for field in ("temperature", "heatsink")]
    offline = [("connection", "ERR", "timed out")]
    (line,) = lines(ccd1=unread, ccd2=unread, meerstetter1=offline)
    assert "meerstetter1.connection (also ccd1, ccd2)" in line
    (line,) = lines(
        compo=[("pickoff", "WARN", "compo_arms: not homed")],
        compo_arms=[("pickoff", "WARN", "not homed")],
    )
    assert "compo_arms.pickoff (also compo)" in line


def test_a_view_s_own_judgement_is_its_own_line() -> None:
    told = lines(
        ccd1=[("temperature", "WARN", "20 deg_C, setpoint -90 deg_C")],
        meerstetter1=[("heatsink1", "ERR", "null")],
    )
    assert len(told) == 2


def test_devices_with_the_same_cause_share_a_line_while_their_numbers_change() -> None:
    for numbers in ((0.1, 0.1), (0.1, 0.3)):
        (line,) = lines(
            **{
                f"ccd{n}": [("flow", "ERR", f"{number} l / min is below 0.4 l / min")]
                for n, number in enumerate(numbers, 1)
            }
        )
        assert line.startswith("ERR  ccd1.flow, ccd2.flow since")
    assert line.endswith("ccd1.flow: 0.1 l / min is below 0.4 l / min")
    away = "its server has gone"
    (line,) = lines(**{n: [("connection", "ERR", away, None)] for n in INSTRUMENT.names})
    assert "ccd1.connection, ccd2.connection, ccd3.connection and 22 more" in line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("cpu", "ERR", "96 % is above 95 %"), ("mem", "ERR", "97 % is above 95 %")),
        (("a", "ERR", "no answer from 192.0.2.1"), ("a", "ERR", "no answer from 192.0.2.2")),
        (("a", "ERR", "the same"), ("a", "WARN", "the same")),
    ],
)
def test_different_causes_have_different_lines(one: Any, other: Any) -> None:
    assert len(lines(rackpc=[one], gps=[other])) == 2


def test_two_alarms_of_one_field_are_two_lines() -> None:
    assert len(lines(gtc=[("gtc", "ERR", "moved 1"), ("gtc", "ERR", "moved 2")])) == 2


def test_a_line_has_the_oldest_time_of_its_alarms() -> None:
    told = lines(
        ccd1=[("connection", "ERR", "x", "2026-11-22T03:00:00.000Z")],
        ccd2=[("connection", "ERR", "x", "2026-11-22T02:00:00.000Z")],
    )
    assert "since 2026-11-22 02:00:" in told[0]


def test_an_alarm_without_a_time_has_been_there_since_it_was_heard_or_earlier() -> None:
    (line,) = lines(slide=[("connection", "ERR", "its server has gone", None)])
    assert "since 2026-11-22 05:00 or earlier: its server" in line


def test_the_time_of_today_has_no_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1795323600.0)  # 2026-11-22T05:00:00Z
    assert short("2026-11-22T04:44:44.196Z") == "04:44:44"
    assert short("2026-11-21T23:59:59.196Z") == "2026-11-21 23:59"


def test_what_was_heard_first_is_forgotten_with_the_alarm() -> None:
    causes = Causes(INSTRUMENT)
    alarm = {"field": "stage", "severity": "ERR", "reason": "x"}
    times = []
    for minute, alarms in enumerate([[alarm], [alarm], [], [alarm]]):
        sample = {"device": "slide", "alarms": alarms}
        causes.hear(sample, f"2026-11-22T05:0{minute}:00.000Z")
        times += [trouble.since[14:16] for trouble in causes.troubles({"slide": sample})]
    assert times == ["00", "00", "03"]
