"""The Unichiller: its published frames, alarms of every number, a setpoint that is read back."""

import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.config.instrument import carried, load
from hcam_devices.core import sim
from hcam_devices.core.device import Device
from hcam_devices.devices.unichiller import Codec, Simulator, WaterChiller, decode, encode
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import (
    AT_MOST,
    FAST,
    Clock,
    fed,
    living,
    offline,
    online,
    presented,
    reasons,
    sample_where,
)

ENTRY = load(carried("wht")).entries["chiller"]
STATUS = b"[S01G15I001900187C504AB"


@pytest.mark.parametrize(
    ("command", "data", "frame"),
    [
        ("V", None, b"[M01V07C6"),
        ("G", None, b"[M01G0D******C0"),
        ("G", "C*****", b"[M01G0DC*****D9"),
        ("G", "I*****", b"[M01G0DI*****DF"),
        ("G", "O*****", b"[M01G0DO*****E5"),
        ("G", "**" + encode(4), b"[M01G0D**0190E2"),
        ("G", "**" + encode(-4), b"[M01G0D**FE700A"),
        ("G", "**" + encode(0), b"[M01G0D**0000D8"),
        ("G", "*1****", b"[M01G0D*1****C7"),
    ],
)
def test_the_published_requests(command: str, data: str | None, frame: bytes) -> None:
    assert Codec().request(command, data) == frame + b"\r"


@pytest.mark.parametrize(
    ("command", "frame", "data"),
    [
        ("V", b"[S01V0EMINI CCAD", "MINI CC"),
        ("G", STATUS, "I001900187C504"),
        ("G", b"[S01G15O3019001F4C504BF", "O3019001F4C504"),
    ],
)
def test_the_published_replies(command: str, frame: bytes, data: str) -> None:
    assert Codec().reply(Codec().request(command), frame) == data


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"[",
        STATUS[:-1] + b"C",
        STATUS[:-2] + b"ab",
        STATUS.replace(b"15", b"16"),
        STATUS.replace(b"S01", b"S02"),
        STATUS.replace(b"S", b"M"),
        b"[S01V0EMINI CCAD",
        STATUS[:12],
        b"\xff" * 23,
    ],
)
def test_damaged_frames_and_those_of_others_are_no_answer(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        Codec().reply(Codec().request("G"), frame)


@given(st.lists(st.integers(1, 5)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    stream = STATUS + b"\rnoise[S01V0EMINI CCAD\r\r\n[M01V07C6\r"
    frames = [STATUS, b"[S01V0EMINI CCAD", b"", b"[M01V07C6"]
    assert fed(Codec.cut, stream, sizes) == frames
    assert fed(Simulator(clock=Clock()).cut, stream, sizes) == frames


@pytest.mark.parametrize(
    ("temperature", "digits"),
    [
        (4.35, "01B3"),
        (17.99, "0707"),
        (-4.35, "FE4D"),
        (0.004, "0000"),
        (-0.004, "0000"),
        (327.67, "7FFF"),
        (-327.68, "8000"),
    ],
)
def test_temperatures_are_rounded_not_cut_off(temperature: float, digits: str) -> None:
    assert encode(temperature) == digits
    assert decode(digits) == pytest.approx(temperature, abs=0.0051)


@pytest.mark.parametrize("temperature", [327.68, -327.69, 1e6])
def test_what_does_not_fit_is_not_sent(temperature: float) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode(temperature)


@given(st.integers(-0x8000, 0x7FFF).filter(lambda n: n != -15100))
def test_every_temperature_comes_back(hundredths: int) -> None:
    assert decode(encode(hundredths / 100)) == hundredths / 100


def test_a_sensor_that_is_not_there_has_no_temperature() -> None:
    with pytest.raises(RefusedError, match="does not have this sensor"):
        decode("C504")


@pytest.mark.parametrize(
    "frame", [STATUS[:-1] + b"C", b"[M01G0E******C1", b"[M02V07C7", b"[M01L07BC", b"", b"["]
)
def test_the_simulator_is_silent_about_mistakes(frame: bytes) -> None:
    assert Simulator().reply(frame) == b""


def test_the_simulator_forgets_what_is_not_finished_within_a_tenth_of_a_second() -> None:
    clock = Clock()
    simulator = Simulator(clock=clock)
    buffer = bytearray(b"[M01V")
    assert simulator.cut(buffer) is None
    clock.now += 0.2
    buffer += b"07C6\r"
    late = simulator.cut(buffer)
    assert late == b"07C6"
    assert simulator.reply(late) == b""
    buffer += b"[M01V07C6\r"
    whole = simulator.cut(buffer)
    assert whole
    assert simulator.reply(whole) == b"[S01V0EMINI CCAD\r"


def test_the_simulated_coolant_follows_its_setpoint_or_the_room() -> None:
    clock = Clock()
    simulator = Simulator(clock=clock)
    request = Codec().request

    def read(frame: bytes) -> float:
        return decode(frame[13:17].decode())

    simulator.reply(request("G", "**" + encode(10))[:-1])
    clock.now += 3600
    assert read(simulator.reply(request("G")[:-1])) == pytest.approx(10, abs=0.1)
    simulator.reply(request("G", "O*****")[:-1])
    clock.now += 3600
    assert read(simulator.reply(request("G")[:-1])) == pytest.approx(15, abs=0.1)


def value(sample: dict[str, Any], field: str) -> Any:
    return sample[field] and sample[field]["value"]


async def test_everything_is_read_in_one_question() -> None:
    async with presented(ENTRY, Simulator(clock=Clock())) as chiller:
        sample = await sample_where(chiller, online)
        assert sample["mode"] == "controlling"
        assert sample["alarm"] == 0
        assert value(sample, "setpoint") == value(sample, "temperature") == 5.0
        assert sample["external_temperature"] is None
        assert sample["alarms"] == []


async def test_an_external_sensor_is_read_if_there_is_one() -> None:
    simulator = Simulator(clock=Clock())
    simulator.simulate("set", external=-3.25)
    async with presented(ENTRY, simulator) as chiller:
        assert value(await sample_where(chiller, online), "external_temperature") == -3.25
        chiller.disabled.add("external_temperature")
        await sample_where(chiller, lambda sample: "disabled" in reasons(sample))


@pytest.mark.parametrize(
    ("asked", "number"),
    [(4.35, 4.35), (17.99, 17.99), ("-4 deg_C", -4), ({"value": 283.15, "unit": "K"}, 10)],
)
async def test_the_setpoint_is_read_back(asked: object, number: float) -> None:
    async with presented(ENTRY, Simulator(clock=Clock())) as chiller:
        await sample_where(chiller, online)
        assert await chiller.set("setpoint", asked) == pytest.approx(number, abs=1e-9)
        await sample_where(
            chiller, lambda sample: value(sample, "setpoint") == pytest.approx(number)
        )


@pytest.mark.parametrize("asked", [-10.01, 40.1, float("nan"), "warm", None])
async def test_what_is_out_of_its_limits_is_not_sent(asked: object) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as chiller:
        await sample_where(chiller, online)
        with pytest.raises(ValueError, match="-10 to 40 deg_C"):
            await chiller.set("setpoint", asked)
        assert simulator.setpoint == 5.0


async def test_a_setpoint_that_is_not_taken_is_an_error() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as chiller:
        await sample_where(chiller, online)
        simulator.simulate("stuck")
        with pytest.raises(RefusedError, match="4 was sent, but the hardware says 20"):
            await chiller.set("setpoint", 4)


def as_chiller(device: Device) -> WaterChiller:
    assert isinstance(device, WaterChiller)
    return device


async def test_the_pump_goes_off_and_on() -> None:
    async with presented(ENTRY, Simulator(), settle=0.001) as device:
        chiller = as_chiller(device)
        await sample_where(chiller, online)
        await chiller.pump_off()
        sample = await sample_where(chiller, lambda sample: sample["mode"] == "off")
        assert "pump_on starts it" in reasons(sample, "mode")
        await chiller.pump_on()
        await sample_where(
            chiller, lambda sample: sample["mode"] == "controlling" and not sample["alarms"]
        )


async def test_who_stops_the_pump_while_it_starts_is_obeyed() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator, settle=0.05) as device:
        chiller = as_chiller(device)
        await sample_where(chiller, online)
        link = chiller.link
        original = link.idle

        async def idle(*args: Any) -> None:
            await original(*args)
            if len(args) == 1:  # the pause of pump_on
                await chiller.pump_off()

        link.idle = idle
        with pytest.raises(RefusedError, match="the chiller is off"):
            await chiller.pump_on()
        assert simulator.mode == "O"


@pytest.mark.parametrize("number", range(1, 10))
async def test_an_alarm_of_any_number_is_an_alarm_until_it_is_cancelled(number: int) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as device:
        chiller = as_chiller(device)
        await sample_where(chiller, online)
        simulator.simulate("set", alarm=number)
        sample = await sample_where(chiller, lambda sample: sample["alarm"] == number)
        assert f"alarm {number}" in reasons(sample, "alarm")
        with pytest.raises(RefusedError, match=f"the chiller is off: it reports alarm {number}"):
            await chiller.pump_on()
        await chiller.cancel_alarm()
        await sample_where(chiller, lambda sample: sample["alarm"] == 0)


async def test_an_alarm_whose_cause_is_still_there_cannot_be_cancelled() -> None:
    simulator = Simulator()
    simulator.simulate("set", alarm=4, persists=True)
    async with presented(ENTRY, simulator) as device:
        await sample_where(device, online)
        with pytest.raises(RefusedError, match="still reports alarm 4"):
            await as_chiller(device).cancel_alarm()


async def test_commands_need_a_chiller() -> None:
    chiller = WaterChiller("chiller", port=1)
    for command in (chiller.pump_on, chiller.pump_off, chiller.cancel_alarm):
        with pytest.raises(ConnectionError, match="chiller is offline"):
            await command()


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("checksum", {}, "wrong checksum"),
        ("length", {}, "wrong checksum or length"),
        ("truncated", {}, "wrong checksum or length"),
        ("identity", {"address": 2}, "does not answer"),
        ("garbage", {}, "wrong checksum|did not answer"),
        ("flip", {"index": 12}, "wrong checksum"),
        ("drop", {"index": 12}, "wrong checksum"),
        ("insert", {"index": 12}, "wrong checksum"),
        ("silence", {}, "did not answer within"),
        ("late", {"seconds": AT_MOST}, "did not answer within"),
        ("busy", {}, "did not answer within|closed"),
        ("disconnect", {"when": "before"}, "closed|reset"),
        ("disconnect", {"when": "during"}, "closed|reset"),
        ("refuse", {}, "closed|reset|refused"),
    ],
)
async def test_a_chiller_that_cannot_be_understood_is_offline_until_it_can(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as chiller:
        await sample_where(chiller, online)
        chiller.link.timeout = 0.3
        simulator.simulate(fault, **chosen)
        lost = await sample_where(chiller, offline)
        assert re.search(why, reasons(lost), re.IGNORECASE)
        assert lost["temperature"] is lost["alarm"] is None
        simulator.simulate("clear")
        await sample_where(chiller, online)


@pytest.mark.parametrize(
    ("fault", "chosen"),
    [
        ("split", {"size": 5, "gap": 0.001}),
        ("double", {}),
        ("unsolicited", {}),
        ("delay", {"seconds": 0.02}),
    ],
)
async def test_slow_split_doubled_and_unsolicited_frames_do_not_disturb(
    fault: str, chosen: dict[str, Any]
) -> None:
    simulator = Simulator(clock=Clock())
    simulator.simulate(fault, **chosen)
    async with presented(ENTRY, simulator, timeout=10.0) as chiller:
        for _ in range(3):
            sample = await sample_where(chiller, online)
            assert value(sample, "setpoint") == 5.0


async def test_it_comes_back_after_the_chiller_has_gone() -> None:
    async with AsyncExitStack() as stack:
        async with sim.serve(Simulator()) as place:
            chiller = ENTRY.build(**FAST, **place)
            await stack.enter_async_context(living(chiller))
            await sample_where(chiller, online)
        gone = await sample_where(chiller, offline)
        assert reasons(gone, "connection")
        assert gone["setpoint"] is None
        async with sim.serve(Simulator(), place["port"]):
            assert value(await sample_where(chiller, online), "setpoint") == 5.0
