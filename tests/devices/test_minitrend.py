"""The flow recorder: its frames, as published, and what becomes of what it cannot measure."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.devices.minitrend import Simulator

from ..helpers import ENTRIES, Clock, fed, online, presented, reasons, sample_where

ENTRY = ENTRIES["flow"]


class Exact(Simulator):
    """A recorder whose pen i shows (i + 1) / 4, or what it was told."""

    def __init__(self) -> None:
        super().__init__(clock=Clock())
        self.shown = {pen: (pen + 1) / 4 for pen in range(32)}
        self.words: dict[int, int] = {}

    def _register(self, address: int) -> int:
        if (pen := (address - 0x18C0) // 2) in self.shown:
            return int(struct.unpack(">2H", struct.pack(">f", self.shown[pen]))[address % 2])
        return self.words.get(address, 0) if super()._register(address) is not None else 0


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    ("value", "sent", "replied"),
    [
        (1.25, "0001 0000 0006 01 04 18C0 0002", "0001 0000 0007 01 04 04 3FA00000"),
        (0.4, "0002 0000 0006 01 04 18D2 0002", "0002 0000 0007 01 04 04 3ECCCCCD"),
        (0.0, "0003 0000 0006 01 04 1980 0001", "0003 0000 0005 01 04 02 0005"),
        (0.0, "0004 0000 0006 01 04 5000 0001", "0004 0000 0003 01 84 02"),
        (0.0, "0005 0000 0006 01 06 18C0 0001", "0005 0000 0003 01 86 01"),
        (0.0, "0006 0000 0006 01 03 1980 0000", "0006 0000 0003 01 83 03"),
        (0.0, "0007 0000 0006 01 03 1980 007E", "0007 0000 0003 01 83 03"),
        (0.0, "0008 0000 0002 01 04", "0008 0000 0003 01 84 01"),
    ],
)
def test_the_published_exchanges(value: float, sent: str, replied: str) -> None:
    recorder = Exact()
    recorder.shown |= {0: value, 9: value}
    recorder.words = {0x1980: 5}
    assert recorder.reply(hexed(sent)) == hexed(replied)


@given(st.lists(st.integers(1, 9)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    frames = [hexed("0001 0000 0006 01 04 18C0 0002"), hexed("0004 0000 0003 01 84 02")]
    assert fed(Simulator.cut, b"".join(frames) + b"\0\1", sizes) == frames


async def test_each_pen_is_the_one_of_the_table() -> None:
    recorder = Exact()
    recorder.words = {0x1980: 0b101, 0x1982: 0b1000000, 0x1984: 1, 0x1989: 0b100000}
    async with presented(ENTRY, recorder) as flow:
        sample = await sample_where(flow, online)
    flows = [sample[f"pen{n}"] for n in range(1, 7)]
    assert [one["value"] for one in flows] == [0.25, 0.5, 0.75, 1.0, 2.25, 2.5]
    assert {one["unit"] for one in flows} == {"l / min"}
    assert [sample[f"alarm{n}"] for n in range(1, 7)] == [True, *[False] * 4, True]
    assert (
        reasons(sample, "alarm6") == "the flow recorder reports an alarm on pen 6: see its display"
    )


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
async def test_a_broken_sensor_is_null_with_a_reason_and_the_other_pens_go_on(
    broken: float,
) -> None:
    recorder = Exact()
    recorder.shown[1] = broken
    async with presented(ENTRY, recorder) as flow:
        sample = await sample_where(flow, online)
    assert sample["pen2"] is None
    assert f"answered {broken}" in reasons(sample, "pen2")
    assert sample["pen1"]["value"] == 0.25


async def test_refused_pens_leave_the_alarms_readable() -> None:
    class Half(Exact):
        def answer(self, frame: bytes) -> bytes:
            if frame[8:10] == b"\x18\xc0":
                return self._reply(frame, b"\x84\x06")
            return super().answer(frame)

    async with presented(ENTRY, Half()) as flow:
        sample = await sample_where(flow, online)
    assert sample["pen1"] is None
    assert "Modbus exception 6 (busy)" in reasons(sample, "pen1")
    assert sample["alarm1"] is False


async def test_a_pump_that_is_off_is_a_flow_of_zero_that_is_true() -> None:
    recorder = Simulator()
    async with presented(ENTRY, recorder) as flow:
        await sample_where(flow, online)
        recorder.simulate("set", pump=False)
        await sample_where(flow, lambda sample: sample["pen1"]["value"] == 0.0)
