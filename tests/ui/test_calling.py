"""``hcam call`` without a network: arguments, lists of procedures, and ``--wait``."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.core.device import Sample
from hcam_devices.core.fields import Procedure
from hcam_devices.ui.calling import argument, arguments, call, follow, listing
from hcam_devices.wamp import utils

from ..helpers import ENTRIES, Clock

AXIS = {
    "readback": "position",
    "setpoint": "target_position",
    "busy": ["homing", "moving"],
    "arrived": ["inpos"],
}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("-50", -50),
        ("true", True),
        ('{"a": [1]}', {"a": [1]}),
        ("-80 deg_C", "-80 deg_C"),
        ("@@home", "@home"),
        ("@@1", "@1"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_an_argument_is_json_or_text(text: str, read: Any) -> None:
    assert argument(text) == read


def test_an_argument_can_be_the_text_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "table.ecsv"
    file.write_text("\ufeff# %ECSV 1.0 \u00b0\n@x\n", encoding="utf-8")
    text = "# %ECSV 1.0 \u00b0\n@x\n"
    assert arguments([f"@{file}", f"table={file}", f"data=@{file}"]) == (
        [text],
        {"table": str(file), "data": text},
    )


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"\xff\xfe", "it is not UTF-8 text")]
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "setup.json"
    if content:
        file.write_bytes(content)
    with pytest.raises(HcamError, match=f"cannot be read \\({why}.*@FILE stands for"):
        argument(f"@{file}")


@pytest.mark.parametrize("name", list(ENTRIES))
def test_what_a_device_has_is_listed_in_eighty_columns_and_nothing_is_left_out(name: str) -> None:
    device = ENTRIES[name].build()
    procedures = {what: one.describe(what) for what, one in sorted(device.procedures().items())}
    lines = list(listing(device.describe() | {"procedures": procedures}))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for what, one in procedures.items():
        switched = what.removesuffix(".enable").removesuffix(".disable")
        assert what in text or switched in text
        assert "typing" not in text
        if what.partition(".")[0] in ("start", "block"):
            assert one["doc"] in " ".join(text.split())


def sample(seq: int | None, state: str, at: float = 0.0) -> Sample:
    """Return a sample of an axis; ``at`` is its position and its time."""
    pair = {"current": {"value": at, "unit": "pix"}, "target": {"value": 9.0, "unit": "pix"}}
    return {
        "device": "slide",
        "seq": seq,
        "epoch": "a",
        "timestamp": f"2026-11-22T04:44:{at:06.3f}Z",
        "state": {"connection": "online", "stage": state},
        "alarms": [],
        "position": pair,
    }


def followed(*said: Sample | Exception) -> tuple[str, list[str]]:
    """Follow a motion through samples; return the messages about its end, and before it."""
    answers: Iterator[Sample | Exception] = iter(said)
    shown: list[str] = []
    clock = Clock()

    def telemetry() -> Sample:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(seconds: float) -> None:
        clock.now += seconds

    last, end = follow(telemetry, "stage", AXIS, shown.append, sleep=sleep, clock=clock)
    assert not list(answers), "the end was seen too early"
    assert last == said[-1]
    return end, shown


def test_only_samples_after_the_answer_are_judged() -> None:
    end, shown = followed(
        sample(7, "inpos", 9.0),  # from before the motion
        sample(7, "inpos", 9.0),
        sample(8, "moving", 1.0),
        sample(9, "moving", 1.0),
        sample(10, "moving", 5.0),
        sample(11, "inpos", 9.0),
    )
    assert end == "stage is inpos at 9.00 pix (target 9.00) after 2.5 s"
    assert shown == [
        "stage is moving at 1.00 pix (target 9.00)",
        "stage is moving at 5.00 pix (target 9.00)",
    ]


def test_a_router_or_server_that_comes_back_is_waited_for() -> None:
    away = utils.RouterError("no router")
    end, _ = followed(sample(1, "inpos"), away, away, sample(2, "moving"), sample(3, "inpos", 9.0))
    assert end.startswith("stage is inpos at 9.00 pix")


def test_an_axis_without_a_unit_is_followed() -> None:
    wheel = {"position": {"current": 3.0, "target": 3.0}}
    end, _ = followed(sample(1, "inpos"), sample(2, "inpos") | wheel)
    assert end == "stage is inpos at 3.00 (target 3.00) after 0.5 s"


OFFLINE: Sample = {
    "state": {"connection": "offline"},
    "alarms": [{"field": "connection", "severity": "ERR", "reason": "unplugged"}],
}
SHORT: Sample = {"alarms": [{"field": "stage", "severity": "WARN", "reason": "it stopped short"}]}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            [sample(2, "outpos", 4.0) | SHORT],
            "did not arrive: it is outpos at 4.00 .*it stopped",
        ),
        ([sample(2, "moving"), sample(3, "stopped", 4.0)], "did not arrive: it is stopped at 4.00"),
        ([sample(2, "moving"), sample(3, "") | OFFLINE], r"offline \(unplugged\): .* may go on"),
        ([sample(None, "") | {"timestamp": "2026-11-23"} | OFFLINE], "offline"),
        ([utils.RouterError("no router")] * 62, "it is unknown whether .* has arrived: no router"),
    ],
)
def test_a_motion_that_does_not_arrive_is_an_error(said: list[Any], why: str) -> None:
    with pytest.raises(HcamError, match=why):
        followed(sample(1, "inpos"), *said)


def test_samples_that_are_not_kept_are_judged_by_their_times() -> None:
    end, _ = followed(
        sample(None, "inpos", 1.0), sample(None, "inpos", 1.0), sample(None, "inpos", 9.0)
    )
    assert end.startswith("stage is inpos at 9.00")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer as the slide does; return what was called."""
    nothing = Procedure(lambda: None)
    some = {
        "block": replace(nothing, moves="stage"),
        "stage.stop": nothing,
        "telemetry": replace(nothing, read_only=True),
    }
    procedures = {name: one.describe(name) for name, one in some.items()}
    calls: list[str] = []

    def answer(procedure: str, *_: Any, **__: Any) -> Any:
        calls.append(procedure.partition(".rpc.")[2])
        if calls[-1] == "describe":
            return {"procedures": procedures, "axes": {"stage": AXIS}}
        return None

    monkeypatch.setattr(utils, "call", answer)
    return calls


def test_a_success_without_an_answer_is_said(asked: list[str]) -> None:
    assert call("slide.stage.stop", [], 1.0) == (None, "slide.stage.stop: done")
    assert call("slide.block", [], 1.0)[1].startswith("slide.block: begun")
    assert call("slide.telemetry", [], 1.0) == (None, "null"), "there is no sample yet"


def test_a_device_is_no_procedure(asked: list[str]) -> None:
    with pytest.raises(HcamError, match=r"slide is a device: .* such as slide\.stage\.move;"):
        call("slide", ["stage.move"], 1.0)
    assert asked == ["describe"]


def test_a_program_that_does_not_describe_itself_can_be_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(procedure: str, *args: Any, **kwargs: Any) -> Any:
        if procedure.endswith(".describe"):
            raise utils.NoSuchProcedureError()
        return [procedure, *args]

    monkeypatch.setattr(utils, "call", answer)
    _, said = call("autoguider.add_relative_dither", ["1", "2"], 1.0)
    assert "hipercam.autoguider.rpc.add_relative_dither" in said
    with pytest.raises(HcamError, match="its motions are unknown; nothing was sent"):
        call("autoguider.add_relative_dither", ["1", "2"], 1.0, wait=True)


def test_ctrl_c_leaves_the_motion_running_and_says_so(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("hcam_devices.ui.calling.follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call("slide.block", [], 1.0, wait=True)
    assert "the motion goes on: hcam call slide.stage.stop stops it" in capsys.readouterr().err
    assert asked == ["describe", "block"]
