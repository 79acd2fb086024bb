"""The Zaber stages: their frames, their geometry, and their motions through a real port."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core.device import Sample
from hcam_devices.devices.zaber import (
    Codec,
    COMPOLens,
    FocalPlaneSlide,
    Simulator,
    frame,
)
from hcam_devices.errors import NotAllowedError, ProtocolError, RefusedError

from ..helpers import ENTRIES, Clock, fed, offline, online, presented, reasons, sample_where

ENTRY = ENTRIES["slide"]
SLIDE = FocalPlaneSlide("slide", port=1)
LENS = COMPOLens("compo_lens", port=1)


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    ("ref", "value", "sent", "replied", "answer"),
    [
        ((60,), None, "01 3C 00 00 00 00", "01 3C 40 E2 01 00", 123456),
        ((60,), None, "01 3C 00 00 00 00", "01 3C FB FF FF FF", -5),
        ((53, 40), None, "01 35 28 00 00 00", "01 28 80 00 00 00", 128),
        ((53, 40), None, "01 35 28 00 00 00", "01 28 88 00 00 00", 136),
        ((54,), None, "01 36 00 00 00 00", "01 36 14 00 00 00", 20),
        ((40, 8), None, "01 28 08 00 00 00", "01 28 08 00 00 00", 8),
        ((1,), None, "01 01 00 00 00 00 01 36 00 00 00 00", "01 36 01 00 00 00", 1),
        ((20, 672000), None, "01 14 00 41 0A 00 01 36 00 00 00 00", "01 36 14 00 00 00", 20),
        ((23,), None, "01 17 00 00 00 00 01 36 00 00 00 00", "01 36 00 00 00 00", 0),
        ((0,), None, "01 00 00 00 00 00", "01 00 00 00 00 00", 0),
    ],
)
def test_the_published_exchanges(
    ref: tuple[int, ...], value: None, sent: str, replied: str, answer: int
) -> None:
    codec = Codec()
    request = codec.request(*ref)
    assert request == hexed(sent)
    assert codec.reply(request, hexed(replied)) == answer


@pytest.mark.parametrize(
    "unasked",
    [
        "01 08 40 E2 01 00",
        "01 0A 00 00 00 00",
        "01 14 00 41 0A 00",
        "01 01 00 00 00 00",
        "01 FF 0E 00 00 00",
    ],
)
def test_what_is_said_unasked_is_no_answer(unasked: str) -> None:
    codec = Codec()
    assert codec.reply(codec.request(60), hexed(unasked)) is None


@pytest.mark.parametrize(
    ("replied", "why"),
    [
        ("01 FF 14 00 00 00", r"outside the stage's own range \(20\)"),
        ("01 FF FF 00 00 00", r"busy \(255\)"),
        ("01 FF 37 13 00 00", r"error \(4919\)"),
    ],
)
def test_a_refusal_is_told_with_its_meaning(replied: str, why: str) -> None:
    codec = Codec()
    with pytest.raises(RefusedError, match=why):
        codec.reply(codec.request(60), hexed(replied))


def test_a_refused_motion_waits_for_the_answer_to_the_question_behind_it() -> None:
    codec = Codec()
    request = codec.request(20, 700000)
    assert codec.reply(request, hexed("01 FF 14 00 00 00")) is None
    with pytest.raises(RefusedError, match="range"):
        codec.reply(request, hexed("01 36 00 00 00 00"))
    assert codec.reply(codec.request(54), hexed("01 36 00 00 00 00")) == 0


@pytest.mark.parametrize(
    ("ref", "replied"),
    [
        ((60,), "02 3C 40 E2 01 00"),
        ((60,), "01 36 00 00 00 00"),
        ((53, 40), "01 2C 00 00 00 00"),
        ((60,), "3C 40 E2 01 00 01"),
    ],
)
def test_another_device_or_another_answer_is_rejected(ref: tuple[int, ...], replied: str) -> None:
    codec = Codec()
    with pytest.raises(ProtocolError):
        codec.reply(codec.request(*ref), hexed(replied))


@given(st.integers(-(2**31), 2**31 - 1))
def test_data_are_signed_and_come_back(data: int) -> None:
    codec = Codec()
    assert codec.reply(codec.request(60), frame(1, 60, data)) == data


@given(st.lists(st.integers(1, 7)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    frames = [frame(1, 60, 123456), frame(1, 60, -5), frame(1, 255, 20)]
    stream = b"".join(frames) + b"\x01\x3c"
    assert fed(Codec.cut, stream, sizes) == frames
    assert fed(Simulator(clock=Clock()).cut, stream, sizes) == frames


@pytest.mark.parametrize(
    ("pixels", "microsteps"),
    [
        (1100, 150361),
        (-100, 661329),
        (0, 618748),
        (1453.1212, 0),
        (-125.0606, 672000),
    ],
)
def test_pixels_become_microsteps_as_in_the_table(pixels: float, microsteps: int) -> None:
    assert SLIDE.microsteps(pixels) == microsteps
    assert SLIDE.zero + microsteps * SLIDE.scale == pytest.approx(pixels, abs=0.0024)


@given(st.integers(0, 672000))
def test_microsteps_become_pixels_and_come_back(microsteps: int) -> None:
    assert SLIDE.microsteps(SLIDE.zero + microsteps * SLIDE.scale) == microsteps


@given(st.floats(allow_nan=True))
async def test_a_target_is_within_the_travel_or_refused(pixels: float) -> None:
    try:
        steps = SLIDE.microsteps(await SLIDE.settable("target_position").accept(pixels))
    except ValueError:
        assert not -125.0606 <= pixels <= 1453.1212
    else:
        assert 0 <= steps <= 672000


async def test_1500_pixels_would_be_beyond_the_end_and_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1500 pix is not within -125.061 to 1453.12 pix"):
        await SLIDE.settable("target_position").accept(1500)


@pytest.mark.parametrize(
    ("millimetres", "microsteps"),
    [(0, 0), (1, 41995), (4.0, 167979), (12.5, 524934), (25.0000055625, 1049869)],
)
def test_millimetres_become_microsteps_of_the_lens(millimetres: float, microsteps: int) -> None:
    assert LENS.microsteps(millimetres) == microsteps
    assert microsteps * LENS.scale == pytest.approx(millimetres, abs=1.2e-5)


@given(st.floats(allow_nan=True))
async def test_a_target_of_the_lens_is_within_its_travel_or_refused(millimetres: float) -> None:
    try:
        steps = LENS.microsteps(await LENS.settable("target_position").accept(millimetres))
    except ValueError:
        assert not 0 <= millimetres <= 25
    else:
        assert 0 <= steps <= 1049869


async def test_a_refused_target_of_the_lens_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"26 mm is not within 0 to 25 mm"):
        await LENS.settable("target_position").accept("2.6 cm")


def test_the_simulator_answers_as_a_stage_does() -> None:
    clock = Clock()
    stage = Simulator(clock=clock)

    def ask(command: int, data: int = 0) -> bytes:
        return stage.reply(frame(1, command, data))

    assert ask(55, 7) == frame(1, 55, 7)
    assert ask(53, 40) == frame(1, 40, 128)
    assert ask(53, 44) == frame(1, 44, 672000)
    assert ask(53, 99) == frame(1, 255, 53)
    assert ask(99) == frame(1, 255, 64)
    assert ask(40, 256) == frame(1, 255, 40)
    assert ask(44, 672001) == frame(1, 255, 44)
    assert ask(44, 600000) == frame(1, 44, 600000) == ask(53, 44)
    assert ask(20, 600001) == frame(1, 255, 20)
    assert ask(36, 1) == frame(1, 255, 36)
    assert ask(36) == frame(1, 36, 0)
    assert ask(53, 44) == frame(1, 44, 672000)
    assert [ask(command)[1] for command in (50, 51, 52)] == [50, 51, 52]
    assert ask(20, 672001) == frame(1, 255, 20)
    assert ask(21, -999999) == frame(1, 255, 21)
    assert ask(40, 0b1000 | 128) == frame(1, 40, 136)
    assert stage.reply(frame(2, 60)) == b""
    assert ask(20, 672000) == b""
    clock.now += 1
    assert ask(54) == frame(1, 54, 20)
    assert ask(60) == frame(1, 60, 150361 + 45000)
    assert ask(23) == frame(1, 23, 150361 + 45000)
    assert ask(1) == b""
    assert ask(20, 5) == frame(1, 255, 255)
    clock.now += 100
    stage.catch_up()
    assert stage.unsolicited()[0] == frame(1, 1, 0)
    assert ask(0) == b""
    assert ask(53, 40) == frame(1, 40, 8)


def test_the_simulator_forgets_a_message_that_does_not_come_whole_within_10_ms() -> None:
    clock = Clock()
    stage = Simulator(clock=clock)
    buffer = bytearray(b"\x01\x3c\x00")
    assert stage.cut(buffer) is None
    clock.now += 0.009
    buffer += b"\x00\x00"
    assert stage.cut(buffer) is None
    clock.now += 0.009
    buffer += b"\x00\x01\x36"
    assert stage.cut(buffer) == frame(1, 60)
    assert stage.cut(buffer) is None
    clock.now += 0.011
    buffer += frame(1, 55, 7)
    assert stage.cut(buffer) == frame(1, 55, 7)
    another = bytearray(frame(1, 60))
    clock.now += 0.011
    assert stage.cut(another) == frame(1, 60)


def test_the_simulator_reports_motions_unasked_as_its_mode_says() -> None:
    clock = Clock()
    stage = Simulator(clock=clock)

    def unasked() -> list[int]:
        stage.catch_up()
        said = stage.unsolicited()[0]
        return [said[start + 1] for start in range(0, len(said), 6)]

    stage.reply(frame(1, 20, 672000))
    assert unasked() == []
    stage.reply(frame(1, 40, 16 | 128))
    clock.now += 0.25
    assert unasked() == [8]
    clock.now += 100
    assert unasked() == [20]
    stage.simulate("set", knob=True)
    assert unasked() == [10]
    stage.reply(frame(1, 40, 8 | 128))
    assert unasked() == [11]
    assert unasked() == []
    stage.reply(frame(1, 40, 32 | 128))
    before = stage.position = 0.0
    assert unasked() == []
    assert stage.position > before


# --- through a real port --------------------------------------------------------------------


def at(sample: Sample, pixels: float) -> bool:
    position = sample["position"]
    return bool(position and abs(position["current"]["value"] - pixels) < 0.012)


def stage(sample: Sample) -> str:
    return str(sample["state"].get("stage"))


class Watched(Simulator):
    """A stage that remembers what it was told."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.told: list[tuple[int, int]] = []

    def _obey(self, command: int, data: int) -> tuple[int, int] | None:
        if command not in (53, 54, 55, 60):
            self.told.append((command, data))
        return super()._obey(command, data)

    def unsolicited(self) -> tuple[bytes, float | None]:
        return super().unsolicited()[0], 0.01


async def do(device: Any, command: str, *args: Any) -> Any:
    return await device.procedures()[command].call(*args)


async def test_block_and_unblock_move_the_slide_and_it_says_so_all_the_way() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as slide:
        assert at(await sample_where(slide, online), 1100)
        await do(slide, "block")
        moving = await sample_where(slide, lambda s: stage(s) == "moving")
        assert moving["position"]["target"]["value"] == -100
        clock.now += 5
        half = await sample_where(slide, lambda s: not at(s, 1100))
        assert half["position"]["current"]["value"] == pytest.approx(1100 - 528.4, abs=0.1)
        await do(slide, "unblock")
        clock.now += 100
        assert at(await sample_where(slide, lambda s: stage(s) == "inpos"), 1100)
    assert simulator.told == [(20, 661329), (20, 150361)]


async def test_the_lens_moves_in_millimetres_to_the_end_of_its_own_travel() -> None:
    clock = Clock()
    simulator = ENTRIES["compo_lens"].cls.simulator(clock=clock)
    async with presented(ENTRIES["compo_lens"], simulator) as lens:
        assert at(await sample_where(lens, online), 0)
        for target in (25, "4 mm", 0):
            value = await do(lens, "set_target_position", target)
            await do(lens, "stage.move")
            await sample_where(lens, lambda s: stage(s) == "moving")
            clock.now += 100
            there = await sample_where(lens, lambda s: stage(s) == "inpos")
            shown = there["position"]["current"]
            assert shown == {"value": pytest.approx(value, abs=1.2e-5), "unit": "mm"}
            assert not there["alarms"]


async def test_a_slide_without_a_home_refuses_everything_but_homing() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    simulator.homed = False
    async with presented(ENTRY, simulator) as slide:
        assert "home it first" in reasons(await sample_where(slide, online), "stage")
        for command, args in (("block", ()), ("stage.move", ()), ("set_target_position", (0,))):
            with pytest.raises(NotAllowedError, match="it allows disable, home"):
                await do(slide, command, *args)
        await slide.set_unacknowledged("target_position", 0)
        assert simulator.told == []
        await do(slide, "stage.home")
        await sample_where(slide, lambda s: stage(s) == "homing")
        clock.now += 100
        homed = await sample_where(slide, lambda s: stage(s) == "inpos")
        assert at(homed, 1453.1212)
        assert await do(slide, "set_target_position", 0) == 0
        assert not (await sample_where(slide, online))["alarms"]


async def test_a_target_set_during_a_motion_is_gone_to_by_the_next_move() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        await do(slide, "block")
        await sample_where(slide, lambda s: stage(s) == "moving")
        await slide.set_unacknowledged("target_position", 300)
        await slide.set_unacknowledged("target_position", 500)
        clock.now += 100
        arrived = await sample_where(slide, lambda s: stage(s) == "outpos")
        assert at(arrived, -100)
        assert arrived["position"]["target"]["value"] == 500
        assert not arrived["alarms"]
        await do(slide, "stage.move")
        clock.now += 100
        assert at(await sample_where(slide, lambda s: stage(s) == "inpos"), 500)


async def test_a_slide_that_stalls_says_that_it_is_short_of_its_target() -> None:
    simulator = Watched(clock=Clock())
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        simulator.stalled = True
        await do(slide, "block")
        short = await sample_where(slide, lambda s: s["alarms"])
        assert reasons(short) == "it stopped at 1100, short of its target -100"


async def test_a_motion_met_after_the_link_came_back_is_followed_to_its_end() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        await do(slide, "block")
        await sample_where(slide, lambda s: stage(s) == "moving")
        simulator.hang_up()
        gone = await sample_where(slide, offline)
        assert gone["position"] is None
        moving = await sample_where(slide, online)
        assert stage(moving) == "moving"
        assert moving["position"]["target"] is None
        clock.now += 100
        arrived = await sample_where(slide, lambda s: stage(s) == "inpos")
        assert at(arrived, -100)
        assert not arrived["alarms"]


async def test_a_motion_the_stage_refuses_is_refused_and_the_link_stays() -> None:
    simulator = Watched(clock=Clock())
    simulator.travel = 600000
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        for _ in range(5):
            with pytest.raises(RefusedError, match=r"outside the stage's own range \(20\)"):
                await do(slide, "block")
        after = await sample_where(slide, lambda s: True)
        assert online(after)
        assert at(after, 1100)
        assert stage(after) == "outpos"


async def test_the_knob_and_a_low_voltage_are_told_and_do_not_disturb() -> None:
    simulator = Watched()
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        simulator.knob = True
        await sample_where(slide, lambda s: online(s) and not at(s, 1100))
        simulator.simulate("alarm", code=14)
        low = await sample_where(slide, lambda s: s["alarms"])
        assert "supply voltage low (error 14)" in reasons(low, "stage")
        assert online(low)
        simulator.simulate("clear")
        await sample_where(slide, lambda s: not s["alarms"])


async def test_the_knob_is_switched_off_and_on_without_losing_the_home() -> None:
    simulator = Watched()
    simulator.mode = 0b10000
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        await do(slide, "disable")
        assert simulator.mode == 0b11000
        await do(slide, "enable")
        assert simulator.mode == 0b10000
        assert stage(await sample_where(slide, lambda s: True)) == "inpos"


async def test_a_reset_slide_reconnects_and_has_to_be_homed() -> None:
    simulator = Watched()
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        await do(slide, "reset")
        assert "reset on request" in reasons(await sample_where(slide, offline))
        assert stage(await sample_where(slide, online)) == "init"


async def test_a_position_far_out_of_the_travel_is_not_believed() -> None:
    class Odd(Simulator):
        def _obey(self, command: int, data: int) -> tuple[int, int] | None:
            return (60, 1006698752) if command == 60 else super()._obey(command, data)

    async with presented(ENTRY, Odd()) as slide:
        gone = await sample_where(slide, lambda s: True)
        assert offline(gone)
        assert "1006698752 microsteps, outside 0 to" in reasons(gone)


async def test_a_move_between_the_questions_of_a_poll_is_not_undone_by_the_poll() -> None:
    moves: list[asyncio.Task[Any]] = []

    class Eager(Watched):
        def _obey(self, command: int, data: int) -> tuple[int, int] | None:
            if command == 54 and slide.stage.state == "outpos" and not moves:
                moves.append(asyncio.create_task(do(slide, "stage.move")))
            return super()._obey(command, data)

    async with presented(ENTRY, Eager(clock=Clock())) as device:
        slide: Any = device
        await sample_where(slide, online)
        await slide.set("target_position", 0)
        await sample_where(slide, lambda s: bool(moves))
        after = await sample_where(slide, lambda s: True)
        assert (stage(after), after["alarms"]) == ("moving", [])
        await moves[0]


async def test_commands_are_followed_by_the_next_sample() -> None:
    simulator = Watched(clock=Clock())
    states: list[str] = []
    async with presented(ENTRY, simulator) as slide:
        await sample_where(slide, online)
        slide.listeners.append(lambda s: states.append(stage(s)))
        for target in range(0, 1000, 50):
            await do(slide, "set_target_position", target)
            await do(slide, "stage.move")
            states.clear()
            await sample_where(slide, lambda s: True)
            assert set(states) == {"moving"}
            await do(slide, "stage.stop")
            states.clear()
            await sample_where(slide, lambda s: True)
            assert set(states) == {"stopped"}
