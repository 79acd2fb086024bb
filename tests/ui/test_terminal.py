"""The instrument in terminals of several sizes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.ui.keys import Browser
from hcam_devices.ui.picture import Changes, Picture, draw
from hcam_devices.ui.terminal import wire
from hcam_devices.wamp.uris import Address

LONG = " ".join(f"word{n}" for n in range(20)) + " and what to do"


def sample(device: str, *alarms: str) -> dict[str, Any]:
    return {
        "device": device,
        "state": {"connection": "online"},
        "alarms": [{"field": "a", "severity": "ERR", "reason": reason} for reason in alarms],
    }


@pytest.mark.parametrize(("others", "cut"), [(0, False), (7, True)])
def test_an_alarm_is_shown_in_full_where_there_is_room(others: int, cut: bool) -> None:
    picture = Picture(load(), "*")
    picture.hear(sample("chiller", LONG))
    picture.hear(sample("slide", *(f"reason {n}" for n in range(others))))
    console = Console(width=80, height=24)
    with console.capture() as captured:
        console.print(draw(picture, Address(), (80, 24), "hints"))
    lines = captured.get().splitlines()
    assert len(lines) <= 24
    assert ("and what to do" not in captured.get()) == cut
    assert all(f"reason {n}" in captured.get() for n in range(others))


def test_a_pattern_that_matches_nobody_is_told_until_somebody_comes() -> None:
    picture = Picture(load(), "auto*")
    console = Console(width=80, height=24)
    with console.capture() as captured:
        console.print(draw(picture, Address(), (80, 24)))
        picture.hear(sample("autoguider"))
        console.print(draw(picture, Address(), (80, 24)))
    before, after = captured.get().split("HiPERCAM")[1:]
    assert "no device matches 'auto*'; there are" in before
    assert "no device matches" not in after
    assert "autoguider" in after


def picture_of(*quiet: str, **alarmed: list[tuple[str, str]]) -> Picture:
    """Return a picture of devices that are online, some with alarms (field and reason)."""
    picture = Picture(load(), "*")
    for name in dict.fromkeys([*quiet, *alarmed]):
        alarms = [
            {"field": field, "severity": "ERR", "reason": reason, "since": SINCE}
            for field, reason in alarmed.get(name, [])
        ]
        picture.hear(sample(name) | {"alarms": alarms})
    return picture


SINCE = "2026-11-22T04:44:44.196Z"
EVERYTHING = load().names
GTC = {"state": {"connection": "online", "gtc": "nodding.waiting", "archive": "idle"}}
COMPO = {"state": {"connection": "online", "arms": "online", "lens": "online", "stage": "inpos"}}
NGC: dict[str, Any] = {
    "system.stateName": "ONLINE",
    "system.subStateName": "active",
    "exposure.expStatusName": "integrating",
    "run": 7,
}


def shown(picture: Picture, size: tuple[int, int], *keys: str) -> list[str]:
    """Return the lines of a terminal after some keys."""
    browser = Browser()
    console = Console(width=size[0], height=size[1])
    lines: list[str] = []
    for key in ("", *keys):
        browser.press(key)
        with console.capture() as captured:
            console.print(draw(picture, Address(), size, browser.hint(), browser))
        lines = [line.rstrip() for line in captured.get().splitlines()]
        assert len(lines) <= size[1]
        assert max(map(len, lines)) <= size[0]
    return lines


def names(lines: Iterable[str]) -> list[str]:
    return [line.split()[0] for line in lines if line.split()[0] in EVERYTHING]


@pytest.mark.parametrize(
    "alarmed", [{}, {f"pressure{n}": [("pressure", "1 is above 0")] for n in range(1, 6)}]
)
def test_detector_and_telescope_have_rows_in_a_small_terminal(alarmed: Any) -> None:
    picture = picture_of(*EVERYTHING, **alarmed)
    picture.hear(sample("ngc") | NGC)
    picture.hear(sample("gtc") | GTC)
    lines = shown(picture, (80, 24))
    assert {"ngc", "gtc", "ccd1", "ccd5"} <= {*names(lines)}
    assert any("exposing" in line and "run 7" in line for line in lines)
    left_out = [line for line in lines if line.startswith("...")]
    assert "more: scroll" in left_out[0]


@pytest.mark.parametrize("width", [80, 200])
def test_a_state_is_shown_in_full_where_there_is_room(width: int) -> None:
    picture = picture_of(*EVERYTHING)
    picture.hear(sample("gtc") | GTC)
    picture.hear(sample("compo") | COMPO)
    text = "\n".join(shown(picture, (width, 60)))
    assert "nodding.waiting/idle" in text
    assert "online/inpos" in text


def test_every_device_is_reached_by_scrolling_and_the_way_back_leads_to_what_fits() -> None:
    picture = picture_of(*EVERYTHING)
    first = shown(picture, (80, 12))
    seen, keys = [*names(first)], [""]
    while len(keys) < 12:
        keys.append("page down")
        seen += names(shown(picture, (80, 12), *keys))
    assert {*seen} == {*EVERYTHING}
    assert names(shown(picture, (80, 12), *keys))[-1] == EVERYTHING[-1]
    assert names(shown(picture, (80, 12), "down"))[0] == EVERYTHING[0]
    assert names(shown(picture, (80, 12), "down", "down"))[0] == EVERYTHING[1]
    for back in (["home"], ["escape"], ["up"] * len(EVERYTHING)):
        assert shown(picture, (80, 12), *keys, *back)[1:] == first[1:]


def test_names_are_filtered_while_they_are_typed() -> None:
    picture = picture_of(*EVERYTHING)
    assert names(shown(picture, (80, 24), *"/ccd")) == [f"ccd{n}" for n in range(1, 6)]
    assert names(shown(picture, (80, 24), *"/?gc", "enter")) == ["ngc"]
    assert names(shown(picture, (80, 24), *"/gq", "backspace", "enter")) == ["gps", "ngc", "gtc"]
    assert "no device has 'nobody'" in "\n".join(shown(picture, (80, 24), *"/nobody"))
    assert "ccd1" in names(shown(picture, (80, 24), *"/gtc", "enter", "escape"))


def test_q_ends_it_except_where_it_would_stop_the_instrument() -> None:
    alone, supervising = Browser(), Browser(quits=False)
    for browser in (alone, supervising):
        for key in "/q":
            browser.press(key)
        assert not browser.over
        browser.press("escape")
        browser.press("q")
    assert alone.over
    assert not supervising.over
    assert "q quits" in alone.hint()
    assert "q quits" not in supervising.hint()


def test_what_changes_is_a_line_and_what_stays_is_none() -> None:
    high = {"pressure1": [("pressure", "0.02 mbar is above 0.008 mbar")]}
    first = Changes(picture_of("slide", **high))
    higher = {"pressure1": [("pressure", "0.03 mbar is above 0.008 mbar")]}
    assert Changes(picture_of("slide", **higher)).after(first) == []
    moving = picture_of(pressure1=[])
    moving.hear(sample("slide") | {"state": {"connection": "online", "stage": "moving"}})
    assert Changes(moving).after(first) == ["slide moving", "over: pressure1.pressure"]
    (line,) = first.after(Changes(picture_of("slide", "pressure1")))
    assert line == ("ERR  pressure1.pressure since 2026-11-22 04:44: 0.02 mbar is above 0.008 mbar")


@pytest.mark.parametrize(
    "alarm",
    [
        {"severity": "ERR", "reason": "no field"},
        {"field": 1, "severity": "ERR", "reason": "a number"},
        {"field": "a", "severity": "BAD", "reason": "no severity"},
        {"field": "a", "severity": "ERR", "reason": "no time", "since": 5},
        ["a", "ERR", "a list"],
    ],
    ids=json.dumps,
)
def test_what_is_no_telemetry_is_not_shown(alarm: Any) -> None:
    picture = picture_of("slide")
    picture.hear(sample("slide") | {"alarms": [alarm]})
    assert picture.alarms() == []


async def test_a_recording_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "none" / "wire.jsonl"
    with pytest.raises(HcamError, match=f"{file} cannot be written: No such file"):
        await wire("slide", Address(), 1.0, file, lambda event, line: None)
