"""The terminal's view: which samples it takes in, what it shows, and the live display."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from rich.console import Console

from hcam_devices.config.instrument import load
from hcam_devices.core.fields import Readback
from hcam_devices.ui import terminal as view
from hcam_devices.ui.picture import Picture, draw
from hcam_devices.ui.samples import row, state_of
from hcam_devices.ui.terminal import status, watch
from hcam_devices.wamp import uris
from hcam_devices.wamp.uris import Address

from ..helpers import until
from .test_terminal import LONG, sample


def shown(picture: Picture, size: tuple[int, int] = (80, 24)) -> str:
    """Return what a terminal of this size shows."""
    console = Console(width=size[0], height=size[1], file=io.StringIO())
    with console.capture() as captured:
        console.print(draw(picture, Address(), size))
    return captured.get()


def alarm(severity: str, reason: str) -> dict[str, str]:
    return {"field": "a", "severity": severity, "reason": reason}


def test_alarms_are_told_worst_first_and_until_they_are_over() -> None:
    picture = Picture(load(), "*")
    picture.hear(sample("chiller") | {"alarms": [alarm("WARN", "warm")]})
    picture.hear(sample("flow") | {"alarms": [alarm("ERR", "no flow")]})
    error, warning = (line.plain for line in picture.alarms())
    assert error.startswith("ERR  flow")
    assert error.endswith(": no flow")
    assert warning.startswith("WARN chiller")
    assert warning.endswith(": warm")
    picture.hear(sample("flow"))
    assert [line.plain for line in picture.alarms()] == [warning]


@pytest.mark.parametrize(
    "nonsense",
    [
        None, "text", 5, [1], {}, {"device": "slide"},
        sample("slide") | {"state": None},
        sample("slide") | {"state": {"connection": 1}},
        sample("slide") | {"alarms": None},
        sample("slide") | {"alarms": [{"severity": "ERR"}]},
        sample("slide") | {"alarms": [alarm("LOUD", "a severity that nobody knows")]},
        sample("slide") | {"position": {"current": {"value": 5}, "target": None}},
        sample("slide") | {"device": 5},
    ],
)  # fmt: skip
def test_what_is_no_telemetry_does_not_replace_what_was_heard(nonsense: Any) -> None:
    picture = Picture(load(), "*")
    picture.hear(sample("slide"))
    before = dict(picture.samples)
    picture.hear(nonsense)
    assert picture.samples == before


def test_only_devices_of_the_pattern_are_shown() -> None:
    picture = Picture(load(), "ccd*")
    for name in ("ccd1", "slide", "ccd9"):
        picture.hear(sample(name))
    assert set(picture.samples) == {"ccd1", "ccd2", "ccd3", "ccd4", "ccd5", "ccd9"}


def test_servers_in_the_same_state_are_told_together() -> None:
    picture = Picture(load(), "*")
    for server, state, emulated in (
        ("hwserver", "running", True),
        ("hserver", "running", True),
        ("gtcserver", "gone", False),
    ):
        picture.hear_status({"server": server, "state": state, "emulated": emulated})
    for nonsense in (None, "text", {"server": "hwlogger"}):
        picture.hear_status(nonsense)
    told = picture.running()
    assert "hserver, hwserver running (emulated)" in told
    assert "gtcserver gone" in told
    assert "hwlogger" not in told


def test_fields_are_shown_with_units_and_channels_together() -> None:
    said = sample("x") | {
        "temperature1": {"value": -90.0, "unit": "deg_C"},
        "temperature2": {"value": -91.25, "unit": "deg_C"},
        "pressure": {"value": 1.2e-5, "unit": "mbar"},
        "stage_enable1": "HW Enable",
        "stage_enable2": "HW Enable",
        "flow": None,
        "filter": {"current": 3.0, "target": 4.0},
        "position": {
            "current": {"value": 1100.0, "unit": "pix"},
            "target": None,
        },
    }
    text = row(said, {}, 200, compact=False).plain
    assert "temperature -90.00 -91.25 °C" in text
    assert "pressure 1.2e-05 mbar" in text
    assert "stage_enable HW Enable x2" in text
    assert "flow ?" in text
    assert "filter 3.00 (target 4.00)" in text
    assert "position 1100.00 (target ?) pix" in text
    for width in (40, 60):
        compact = row(said, {}, width, compact=True).plain
        assert len(compact) <= width
        assert compact.endswith(" ...")
        whole = row(said, {}, width, compact=False).plain
        assert whole.replace("\n", " \u00b7 ") == text, "every field is there, between line breaks"


def test_numbers_are_shown_as_they_are_declared() -> None:
    fields = {
        "pressure": Readback(unit="mbar", scale="log", digits=1),
        "angle": Readback(unit="deg", digits=3),
        "frames": Readback(kind=int),
    }
    said = sample("x") | {
        "pressure": {"value": 0.5, "unit": "mbar"},
        "angle": {"current": None, "target": {"value": 1.0, "unit": "deg"}},
        "frames": 7,
    }
    text = row(said, fields, 200, compact=False).plain
    assert "pressure 5.0e-01 mbar" in text
    assert "angle ? (target 1.000) deg" in text
    assert "frames 7" in text


def test_the_gauges_in_one_row_are_shown_as_a_gauge() -> None:
    instrument = load()
    picture = Picture(instrument, "*")
    declared = picture.declared("pressures", {"state": {}, "pressure1": None, "pressure2": None})
    assert {name: field.scale for name, field in declared.items()} == {
        "pressure1": "log",
        "pressure2": "log",
    }
    assert picture.declared("slide", {}) == instrument.entries["slide"].cls.fields
    assert picture.declared("recorder", {}) == {}


def test_a_device_that_says_nothing_any_more_is_silent() -> None:
    said = sample("slide") | {"state": {"connection": "online", "stage": "inpos"}}
    assert state_of({}) == "no news"
    assert state_of(said) == "inpos"
    assert state_of(said, silent=True) == "silent"
    assert state_of(said | {"state": {"connection": "offline", "stage": "?"}}) == "offline"
    picture = Picture(load(), "*")
    picture.hear(said)
    assert picture.state("slide") == "inpos"
    picture.heard["slide"] -= 27.0  # three polls of 2 s, and 20 s
    assert picture.state("slide") == "silent"


def test_a_router_that_does_not_answer_is_told_in_the_title() -> None:
    picture = Picture(load(), "*")
    assert "does not answer (yet)" in shown(picture)
    picture.router = True
    assert "does not answer" not in shown(picture)


@pytest.mark.parametrize("size", [(80, 24), (60, 12), (200, 60)])
def test_the_picture_fits_whatever_there_is_to_say(size: tuple[int, int]) -> None:
    picture = Picture(load(), "*")
    for name in load().names:
        picture.hear(sample(name, f"{name}: {LONG}") | {"x" * n: float(n) for n in range(1, 40)})
    lines = shown(picture, size).splitlines()
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]
    assert any(line.startswith("ERR") for line in lines)


@pytest.mark.parametrize(
    ("heard", "all_is_well", "said"),
    [
        ({}, True, "devices are online"),
        ({"slide": sample("slide", "stuck")}, False, ": stuck"),
        (
            {"slide": sample("slide") | {"state": {"connection": "offline"}}},
            False,
            "offline: slide",
        ),
        ({"slide": None}, False, "not heard: slide"),
    ],
)
async def test_status_is_1_unless_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
    heard: dict[str, Any],
    all_is_well: bool,
    said: str,
) -> None:
    async def look(picture: Picture, address: Address) -> None:
        for server in picture.instrument.servers:
            picture.hear_status({"server": server, "state": "running"})
        for name in picture.instrument.names:
            picture.hear(heard.get(name, sample(name)))

    monkeypatch.setattr(view, "look", look)
    found = await status(load(), Address())
    assert found.well == all_is_well
    assert said in found.text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shows(self, text: str) -> bool:
        """Return whether a text is in the last picture."""
        return text in self.getvalue().split("\x1b[H")[-1]


class Session:
    """A session whose router is the test."""

    def __init__(self) -> None:
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.handlers: dict[str, Callable[[Any], None]] = {}

    async def subscribe(self, handler: Callable[[Any], None], topic: str, options: Any) -> None:
        self.handlers[topic] = handler


async def test_a_look_ends_with_the_answer_after_all_retained_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instrument = load()
    topics: list[str] = []

    class Retaining(Session):
        async def subscribe(self, handler: Callable[[Any], None], topic: str, options: Any) -> None:
            topics.append(topic)
            for name in instrument.names[1:]:
                if topic == uris.telemetry(name):
                    handler(sample(name))

    @asynccontextmanager
    async def join(address: Address, realm: str) -> AsyncIterator[Retaining]:
        yield Retaining()

    monkeypatch.setattr(view, "join", join)
    picture = Picture(instrument, "*")
    await view.look(picture, Address())
    assert picture.router
    assert [name for name, heard in picture.samples.items() if not heard] == instrument.names[:1]
    asked = [*map(uris.telemetry, instrument.names), *map(uris.status, instrument.servers)]
    assert topics == [*asked, uris.ALL_TELEMETRY]


class Subscription:
    """A subscription whose end the test sees."""

    def __init__(self, handlers: dict[str, Callable[[Any], None]], topic: str) -> None:
        self.handlers, self.topic = handlers, topic

    async def unsubscribe(self) -> None:
        del self.handlers[self.topic]


class Subscribing(Session):
    async def subscribe(self, handler: Callable[[Any], None], topic: str, options: Any) -> Any:
        self.handlers[topic] = handler
        return Subscription(self.handlers, topic)


async def test_of_many_devices_what_changed_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "MAX_LIVE", 3)
    session, picture = Subscribing(), Picture(load(), "*")
    await view.follow(picture, session)  # type: ignore[arg-type]
    heard = session.handlers
    assert uris.ALL_TELEMETRY not in heard
    heard[uris.telemetry("slide")](sample("slide", "stuck") | {"x": 1.0, "y": 1.0})
    changes = heard[uris.ALL_CHANGES]
    for nonsense in (None, {}, {"devices": 1}, {"devices": {"slide": 1}}):
        changes(nonsense)
    changes({"server": "hwserver", "devices": {"slide": {"y": 2.0}, "compo": {"y": 2.0}}})
    assert (picture.samples["slide"]["x"], picture.samples["slide"]["y"]) == (1.0, 2.0)
    assert not picture.samples["compo"]  # its whole sample has not come
    await until(lambda: uris.telemetry("slide") not in heard)
    assert uris.telemetry("ngc") in heard  # its server does not publish what changed
    heard[uris.status("hwserver")]({"server": "hwserver", "state": "gone"})
    await until(lambda: uris.telemetry("slide") in heard)
    heard[uris.telemetry("slide")](sample("slide") | {"state": {"connection": "offline"}})
    assert picture.state("slide") == "offline"


async def test_the_live_view_shows_what_is_heard_and_gives_the_terminal_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, terminal, left = Session(), Terminal(), asyncio.Event()

    async def keep_joined(
        address: Address, on_join: Callable[[Any], Awaitable[None]], realm: str
    ) -> None:
        await on_join(session)
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    monkeypatch.setattr(view, "keep_joined", keep_joined)
    monkeypatch.setattr(view, "REDRAW_PERIOD_S", 0.001)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    watching = asyncio.create_task(watch(load(), Address(), "slide"))
    await until(lambda: uris.ALL_TELEMETRY in session.handlers)
    session.handlers[uris.ALL_TELEMETRY](sample("slide", "stuck at 1100"))
    await until(lambda: terminal.shows("stuck at 1100"))
    session.handlers[uris.telemetry("slide")](sample("slide", "stuck at 1200"))
    await until(lambda: terminal.shows("stuck at 1200"))
    assert not terminal.shows("does not answer")
    session.over.set_result("the router has gone")
    await until(lambda: terminal.shows("does not answer"))
    watching.cancel()
    await asyncio.wait([watching])
    assert watching.cancelled()
    await until(left.is_set)
    assert terminal.getvalue().rstrip().endswith(("\x1b[?25h", "\x1b[?1049l"))
