"""Which alarms ``hcam alarms ack`` acknowledges, and what ``log --around`` adds to events."""

from collections.abc import Mapping
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.errors import InvalidArgumentError, NotAllowedError
from hcam_devices.ui import alarms
from hcam_devices.wamp import utils

HIDDEN = "ccd2.flow"


def record(alarm: str) -> dict[str, Any]:
    hidden = {"shelved": None, "suppressed": "its cause" if alarm == HIDDEN else None}
    return {"alarm": alarm, "state": "active", "occurrence": 7, "out_of_service": None, **hidden}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (HIDDEN, [HIDDEN]),
        ("ccd*", ["ccd1.flow"]),
        ("ccd[12].flow", ["ccd1.flow"]),
        ("ccd3.flow", []),
    ],
)
def test_a_glob_acknowledges_what_is_shown_and_a_name_also_what_is_hidden(
    monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    known = [record("ccd1.flow"), record(HIDDEN), record("slide.stage")]
    asked: list[str] = []

    def ask(procedure: str, *args: Any) -> Any:
        if procedure == "list":
            return known
        asked.append(args[0])
        return record(args[0])

    monkeypatch.setattr(alarms, "ask", ask)
    if expected:
        list(alarms.acknowledge(pattern, ""))
    else:
        with pytest.raises(HcamError, match=f"there is no {pattern} to acknowledge"):
            list(alarms.acknowledge(pattern, ""))
    assert asked == expected


def test_one_that_came_again_does_not_keep_the_others_from_being_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(procedure: str, *args: Any) -> Any:
        if procedure == "list":
            return [record("ccd1.flow"), record("ccd3.flow")]
        if args[0] == "ccd1.flow":
            raise NotAllowedError("ccd1.flow has come again")
        return record(args[0])

    monkeypatch.setattr(alarms, "ask", ask)
    acknowledging = alarms.acknowledge("ccd*", "")
    assert next(acknowledging)["alarm"] == "ccd3.flow"
    with pytest.raises(HcamError, match="has come again"):
        next(acknowledging)


def test_a_server_has_no_history_around_its_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(procedure: str, *args: Any, **span: Any) -> Any:
        raise InvalidArgumentError(f"there is no history of {args[0]!r}")

    monkeypatch.setattr(utils, "call", call)
    event = {"event": "raised", "alarm": "hwserver.status", "at": "2026-11-22T00:00:40.000Z"}
    (found,) = alarms.with_history([event])
    assert found == event | {"values": None, "value_unit": None, "commands": []}


def numbered(*numbers: int) -> list[Mapping[str, Any]]:
    return [{"seq": seq, "event": "raised"} for seq in numbers]


@pytest.mark.parametrize(
    ("heard", "logged", "expected"),
    [
        ([6, 7], [4, 5], [6, 7]),
        ([8], [4, 5, 6, 7, 8], [6, 7, 8]),  # two were missed, such as while the router was away
        ([8], OSError("no router"), [8]),
        ([1], [1], [1]),  # the numbers of a new file
    ],
)
async def test_each_event_is_told_once_and_none_is_missed(
    heard: list[int], logged: list[int] | OSError, expected: list[int]
) -> None:
    told: list[int] = []
    events = alarms.Events(5, lambda event: told.append(event["seq"]))

    async def log() -> list[Mapping[str, Any]]:
        if isinstance(logged, OSError):
            raise logged
        for late in numbered(expected[-1] + 1):
            assert not events.hear(late), "it is held while others are asked for"
        return numbered(*logged)

    for event in numbered(*heard):
        if events.hear(event):
            await events.catch_up(log)
            expected = expected if isinstance(logged, OSError) else [*expected, expected[-1] + 1]
    assert told == expected
