"""The driver of the slide that slide_eng of version 1.7 imports, against our simulator."""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.core.sim import serve
from hcam_devices.devices import zaber
from hcam_devices.devices.zaber import HOME, HOMED, KNOB_OFF, MOVE, SET_MODE, STOP, Simulator
from hcam_devices.errors import NotAllowedError, RefusedError
from hcam_devices.host.home import AlreadyRunningError, exclusive, home
from hcam_devices.models.driver import ZaberLS, ZaberLSEmulator

from .helpers import AT_MOST

ORDERS = (HOME, MOVE, STOP, SET_MODE)


class Slide(Simulator):
    """A fast slide that notes what it is told to do."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = 1e6
        self.told: list[tuple[int, int]] = []

    def answer(self, message: bytes) -> bytes:
        _, command, data = struct.unpack("<BBi", message)
        if command in ORDERS:
            self.told.append((command, data))
        return super().answer(message)


@pytest.fixture
async def slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Slide]:
    """Serve a slide, whose address is in the instrument file of the site."""
    slide = Slide()
    async with serve(slide) as place:
        file = tmp_path / "site.toml"
        text = load().path.read_text()
        file.write_text(
            text.replace('["FocalPlaneSlide"]\nport = 10001', f"[]\nport = {place['port']}")
        )
        monkeypatch.setenv("HCAM_INSTRUMENT", str(file))
        yield slide


@pytest.fixture
async def driver(slide: Slide) -> AsyncIterator[ZaberLS]:
    driver = ZaberLS()
    await asyncio.to_thread(driver.connect)
    yield driver
    await asyncio.to_thread(driver.close)


async def position(driver: ZaberLS) -> str:
    return str(await asyncio.to_thread(lambda: driver.position))


def test_the_names_are_where_slide_eng_imports_them() -> None:
    assert (zaber.ZaberLS, zaber.ZaberLSEmulator) == (ZaberLS, ZaberLSEmulator)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'Zaber'"):
        _ = zaber.Zaber  # type: ignore[attr-defined]


async def test_a_motion_is_sent_once_and_returns_when_it_has_ended(
    slide: Slide, driver: ZaberLS
) -> None:
    assert await position(driver) == "150361.0 microstep"
    await asyncio.to_thread(driver.home)
    assert await position(driver) == "0.0 microstep"
    for goal in (672000, 1000, 0):
        await asyncio.to_thread(driver.move, goal)
        assert slide.position == goal
    assert slide.told == [(HOME, 0), (MOVE, 672000), (MOVE, 1000), (MOVE, 0)]


async def test_the_knob_and_a_stop_leave_the_slide_homed(slide: Slide, driver: ZaberLS) -> None:
    await asyncio.to_thread(driver.disable)
    await asyncio.to_thread(driver.enable)
    await asyncio.to_thread(driver.stop)
    assert slide.told == [(SET_MODE, HOMED | KNOB_OFF), (SET_MODE, HOMED), (STOP, 0)]
    assert slide.homed


@pytest.mark.parametrize("goal", [-1, 672001])
async def test_a_position_outside_the_travel_is_not_sent(
    slide: Slide, driver: ZaberLS, goal: int
) -> None:
    with pytest.raises(ValueError, match=f"{goal} microsteps: its travel is 0 to 672000"):
        await asyncio.to_thread(driver.move, goal)
    assert slide.told == []


async def test_a_slide_that_is_not_homed_does_not_move(slide: Slide, driver: ZaberLS) -> None:
    slide.homed = False
    await position(driver)
    with pytest.raises(NotAllowedError, match="home it first"):
        await asyncio.to_thread(driver.move, 1000)
    assert slide.told == []


@pytest.mark.parametrize(("fault", "options"), [("late", {"seconds": AT_MOST}), ("disconnect", {})])
async def test_a_motion_without_an_answer_is_an_error_and_is_not_repeated(
    slide: Slide, driver: ZaberLS, fault: str, options: dict[str, Any]
) -> None:
    slide.simulate(fault, **options)
    with pytest.raises(OSError, match=r"did not answer|closed the connection"):
        await asyncio.to_thread(driver.move, 1000)
    with pytest.raises(ConnectionError, match=r"did not answer|closed the connection"):
        await position(driver)
    assert slide.told == [(MOVE, 1000)]


async def test_a_slide_that_stalls_or_refuses_is_an_error(slide: Slide, driver: ZaberLS) -> None:
    slide.stalled = True
    with pytest.raises(RefusedError, match="stopped at 1100, short of its target"):
        await asyncio.to_thread(driver.move, 1000)
    slide.stalled, slide.travel = False, 1000
    with pytest.raises(RefusedError, match="outside the stage's own range"):
        await asyncio.to_thread(driver.move, 1001)


def test_a_file_without_a_slide_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[devices.rackpc]\nkind = "rackpc.RackPC"\n')
    monkeypatch.setenv("HCAM_INSTRUMENT", str(file))
    with pytest.raises(HcamError, match=f"{file} has no slide .*set HCAM_INSTRUMENT"):
        ZaberLS()


async def test_the_slide_of_a_server_that_runs_is_left_alone(slide: Slide) -> None:
    driver = ZaberLS()
    with exclusive(home() / "locks", "slide"), pytest.raises(AlreadyRunningError, match="slide is"):
        await asyncio.to_thread(driver.connect)
    await asyncio.to_thread(driver.connect)
    with pytest.raises(AlreadyRunningError), exclusive(home() / "locks", "slide"):
        pass
    await asyncio.to_thread(driver.close)
    with exclusive(home() / "locks", "slide"):
        pass
