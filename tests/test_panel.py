"""The instrument in a terminal, of whatever size."""

from typing import Any

import pytest
from rich.console import Console

from hcam_devices.instrument import load
from hcam_devices.panel import Picture, draw
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
