"""The timing card: what its programs print, what becomes of it, and programs that will not end."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.devices.gps import Codec, Simulator, instant
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import AT_MOST, ENTRIES, fed, offline, online, presented, reasons, sample_where

ENTRY = ENTRIES["gps"]
GOLDEN = (
    b"heading\nheading\nYear       : 2026\nDay        : 326\nHour       : 15\nMinute     : 4\n"
    b"Second     : 59\nNanosecond : 999999600\nSync       : TRUE\n"
)
NOVEMBER = 1_795_359_899_999_999_600
"""The Unix time of the same moment, in nanoseconds."""


def said(*numbers: int) -> str:
    labels = ("Year", "Day", "Hour", "Minute", "Second", "Nanosecond")
    return "\n".join(f"{label}: {n}" for label, n in zip(labels, numbers, strict=True))


@pytest.mark.parametrize(
    ("program", "printed", "answer"),
    [
        ("GetSatInfo", b"Number of satellites tracked:   9\n", {"satellites": 9}),
        ("GetSatInfo", b" Sat Error CNR\n\nNumber of satellites tracked: 0", {"satellites": 0}),
        (
            "GR_GetValidity",
            b"a\nb\nTime Valid : 1\nPPS Valid : 1\n",
            {"time": True, "pps": True},
        ),
        (
            "GR_GetValidity",
            b"one more heading\nboard: 0\nTime Valid : 0\r\nPPS Valid : 0\r\n",
            {"time": False, "pps": False},
        ),
        ("HW_GetTime", GOLDEN, {"time": "2026-11-22T15:04:59.999Z", "synced": True}),
        (
            "HW_GetTime",
            b"Error closing the board\n" + GOLDEN.replace(b"TRUE", b"FALSE"),
            {"time": "2026-11-22T15:04:59.999Z", "synced": False},
        ),
    ],
)
def test_the_output_of_the_programs_is_parsed(
    program: str, printed: bytes, answer: dict[str, Any]
) -> None:
    assert Codec().reply(Codec().request(program), printed) == answer


@pytest.mark.parametrize("program", ["GetSatInfo", "GR_GetValidity", "HW_GetTime"])
@pytest.mark.parametrize(
    ("printed", "error"),
    [
        (b"Could not open /dev/tsyncpci0\n", ConnectionError),
        (b"  Error: -5\n", RefusedError),
        (b"Error\n", RefusedError),
        (b"\n\nError reading the board\n", RefusedError),
        (b"", ProtocolError),
        (b"\xff\x00\x80", ProtocolError),
        (b"Year: 2026\nTime Valid: maybe\nNumber of satellites tracked: many\n", ProtocolError),
    ],
)
def test_output_without_an_answer_is_an_error(
    program: str, printed: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Codec().reply(Codec().request(program), printed)


@pytest.mark.parametrize(
    ("numbers", "time"),
    [
        ((2026, 326, 15, 4, 59, 999_999_600), "2026-11-22T15:04:59.999Z"),
        ((2026, 365, 23, 59, 59, 999_999_900), "2026-12-31T23:59:59.999Z"),
        ((2027, 1, 0, 0, 0, 0), "2027-01-01T00:00:00.000Z"),
        ((2028, 366, 1, 2, 3, 4_000_000), "2028-12-31T01:02:03.004Z"),
        ((2028, 60, 0, 0, 0, 0), "2028-02-29T00:00:00.000Z"),
        ((2016, 366, 23, 59, 60, 500_000_000), "2016-12-31T23:59:60.500Z"),
    ],
)
def test_the_time_is_made_of_whole_numbers(numbers: tuple[int, ...], time: str) -> None:
    assert instant(said(*numbers)) == time


@pytest.mark.parametrize(
    "numbers",
    [
        (2026, 366, 0, 0, 0, 0),
        (2026, 0, 0, 0, 0, 0),
        (0, 1, 0, 0, 0, 0),
        (10**9, 1, 0, 0, 0, 0),
        (2026, 10**12, 0, 0, 0, 0),
        (2026, 1, 24, 0, 0, 0),
        (2026, 1, 0, 60, 0, 0),
        (2026, 1, 0, 0, 60, 0),
        (2026, 1, 23, 59, 61, 0),
        (2026, 1, 0, 0, 0, 10**9),
    ],
)
def test_an_impossible_time_is_rejected(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="not a time"):
        instant(said(*numbers))


@given(st.lists(st.integers(1, 5)))
def test_command_lines_survive_any_split(sizes: list[int]) -> None:
    stream = b"GetSatInfo '0'\nHW_GetTime 0\n"
    assert fed(Simulator.cut, stream, sizes) == [b"GetSatInfo '0'", b"HW_GetTime 0"]


@given(st.binary(max_size=80))
def test_noise_is_never_taken_for_an_answer(printed: bytes) -> None:
    for program in ("GetSatInfo", "GR_GetValidity", "HW_GetTime 0"):
        with pytest.raises((ConnectionError, RefusedError, ProtocolError)):
            Codec().reply(Codec().request(program), printed.replace(b":", b""))


def good(sample: dict[str, Any]) -> bool:
    return online(sample) and sample["num_sats"] == 9 and not sample["alarms"]


async def test_telemetry_carries_the_time_of_the_card() -> None:
    async with presented(ENTRY, Simulator(wall=lambda: NOVEMBER)) as card:
        sample = await sample_where(card, online)
        assert sample["timestamp"] == "2026-11-22T15:04:59.999Z"
        assert (sample["num_sats"], sample["synced"], sample["alarms"]) == (9, True, [])
        assert sample["time_valid"] is sample["pps_valid"] is True


async def test_a_card_without_satellites_says_so() -> None:
    simulator = Simulator()
    simulator.simulate("set", holdover=True)
    async with presented(ENTRY, simulator) as card:
        sample = await sample_where(card, online)
        assert sample["num_sats"] == 0
        assert sample["time_valid"] is sample["pps_valid"] is sample["synced"] is False
        assert "its time drifts" in reasons(sample, "synced")
        simulator.simulate("set", holdover=False)
        await sample_where(card, good)


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("could_not_open", {}, "Could not open /dev/tsyncpci0"),
        ("empty", {}, "no number of satellites in ''|there is no 'time valid'"),
        ("garbage", {}, "GetSatInfo|GR_GetValidity|HW_GetTime"),
        ("flip", {}, "GetSatInfo: there is no"),
        ("silence", {}, "did not end within"),
        ("late", {"seconds": AT_MOST, "times": 3}, "did not end within"),
        ("busy", {}, "did not end within"),
        ("disconnect", {"when": "before"}, "GetSatInfo|GR_GetValidity|HW_GetTime"),
        ("disconnect", {"when": "during"}, "there is no"),
        ("refuse", {}, "GetSatInfo|GR_GetValidity|HW_GetTime"),
        ("time", {"day": 366}, "this is not a time"),
    ],
)
async def test_a_card_that_cannot_be_heard_is_offline_until_it_can(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as card:
        await sample_where(card, good)
        if fault in ("silence", "late", "busy", "garbage"):  # they take as long as the deadline
            card.link.timeout = 0.3
        simulator.simulate(fault, **chosen)
        lost = await sample_where(card, offline)
        assert re.search(why, reasons(lost))
        assert lost["num_sats"] is lost["synced"] is None
        simulator.simulate("clear")
        card.link.timeout = AT_MOST
        await sample_where(card, good)


@pytest.mark.parametrize(
    ("fault", "chosen"),
    [
        ("closing", {}),
        ("heading", {}),
        ("status", {"code": 3}),
        ("double", {}),
        ("delay", {"seconds": 0.05}),
        ("split", {"size": 50, "gap": 0.001}),
        ("disconnect", {"when": "after"}),
    ],
)
async def test_harmless_faults_of_the_programs_leave_the_time_good(
    fault: str, chosen: dict[str, Any]
) -> None:
    simulator = Simulator()
    simulator.simulate(fault, **chosen)
    async with presented(ENTRY, simulator, timeout=AT_MOST) as card:
        await sample_where(card, good)


@pytest.mark.parametrize(
    ("fault", "time"),
    [("time", "2026-12-31T23:59:59.999Z"), ("leap_second", "2026-12-31T23:59:60.500Z")],
)
async def test_the_end_of_a_year(fault: str, time: str) -> None:
    simulator = Simulator()
    simulator.simulate(fault)
    async with presented(ENTRY, simulator) as card:
        assert (await sample_where(card, good))["timestamp"] == time


async def test_a_refusal_takes_only_what_it_refuses() -> None:
    simulator = Simulator(wall=lambda: NOVEMBER)
    async with presented(ENTRY, simulator) as card:
        await sample_where(card, good)
        simulator.simulate("error", program="HW_GetTime")
        sample = await sample_where(card, lambda sample: sample["synced"] is None)
        assert online(sample)
        assert sample["num_sats"] == 9
        assert "Error: -5" in reasons(sample, "synced")
        assert "the computer's time" in reasons(sample, "timestamp")
        assert sample["timestamp"] != "2026-11-22T15:04:59.999Z"
        simulator.simulate("clear")
        await sample_where(card, good)


async def test_without_the_programs_the_card_is_offline() -> None:
    async with presented(ENTRY, Simulator(), folder="/nowhere") as card:
        why = reasons(await sample_where(card, offline))
        assert "/nowhere/GetSatInfo cannot be run: No such file or directory" in why


async def test_another_board_than_there_is_cannot_be_opened() -> None:
    async with presented(ENTRY, Simulator(), board=1) as card:
        assert "Could not open" in reasons(await sample_where(card, offline))
