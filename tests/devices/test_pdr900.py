"""The PDR900: its published exchanges, and what becomes of units, refusals and nonsense."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.devices.pdr900 import NAK, Codec, Simulator, VacuumGauge, pressure_number
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import ENTRIES, Clock, fed, offline, online, presented, reasons, sample_where

ENTRY = ENTRIES["pressure1"]


@pytest.mark.parametrize(
    ("address", "ref", "sent", "frame", "answer"),
    [
        (254, ("ADC",), b"@254ADC?;FF", b"@001ACK001", "001"),
        (1, ("PR1",), bytes.fromhex("40303031505231 3F3B4646"), b"@001ACK1.23E-5", "1.23E-5"),
        (253, ("SN",), b"@253SN?;FF", b"@253ACK1125123456", "1125123456"),
        (253, ("AD", "123"), b"@253AD!123;FF", b"@253ACK123", "123"),
        (1, ("DLC", "START"), b"@001DLC!START;FF", b"@001ACKSTART", "START"),
        (1, ("DLT", "00:00:10"), b"@001DLT!00:00:10;FF", b"@001ACK00:00:10", "00:00:10"),
    ],
)
def test_the_published_exchanges(
    address: int, ref: tuple[str, ...], sent: bytes, frame: bytes, answer: str
) -> None:
    codec = Codec(address)
    request = codec.request(*ref)
    assert request == sent
    assert codec.reply(request, frame) == answer


@pytest.mark.parametrize(
    ("frame", "why"),
    [(b"@253NAK160", "unrecognised message"), (b"@253NAK180", "locked"), (b"@253NAK7", "not in")]
    + [(b"@253NAK%d" % code, meaning) for code, meaning in NAK.items()],
)
def test_a_refusal_is_told_with_its_meaning(frame: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(why)):
        Codec(253).reply(b"", frame)


def test_a_refusal_says_what_was_asked() -> None:
    codec = Codec(1)
    with pytest.raises(RefusedError, match=r"answered NAK 180 \(transducer setup .*\) to U!TORR"):
        codec.reply(codec.request("U", "TORR"), b"@001NAK180")


@pytest.mark.parametrize(
    "frame",
    [
        b"64",
        b"",
        b"@",
        b"001ACK1E-5",
        b"@01ACK1E-5",
        b"@001ACK1E-5@002ACK2E-5",
        b"@002ACK2E-5",
        b"@001NAK",
        b"@001NAKx",
        b"@001ACK1E-5;F",
        b"x@001ACK1E-5",
        b"\xff01ACK",
        "@00\u0661ACK1".encode(),
    ],
)
def test_damaged_frames_and_those_of_another_gauge_are_no_answer(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        Codec(1).reply(b"", frame)


@given(st.lists(st.integers(1, 5)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    stream = b"@001ACK1.23E-5;FF\r\n@002ACK2E-5;FF@254ADC?;FF\n"
    frames = [b"@001ACK1.23E-5", b"@002ACK2E-5", b"@254ADC?"]
    assert fed(Codec.cut, stream, sizes) == fed(Simulator.cut, stream, sizes) == frames


@pytest.mark.parametrize(
    ("text", "pressure"), [("1.23E-5", 1.23e-5), ("5.00E+2", 500.0), ("7.60E2", 760.0)]
)
def test_a_pressure_is_read(text: str, pressure: float) -> None:
    assert pressure_number(text) == pressure


@pytest.mark.parametrize(
    "text", ["", "OFF", "nan", "inf", "1E-5", "1.23", "-1.23E-5", "1.23E-5 ", "12.3E-5", "1_0"]
)
def test_what_is_not_a_pressure_of_three_digits_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a pressure"):
        pressure_number(text)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"@254ADC?", b"@001ACK001;FF"),
        (b"@001adc?", b"@001ACK001;FF"),
        (b"noise@001U?", b"@001ACKMBAR;FF"),
        (b"@001XYZ?", b"@001NAK160;FF"),
        (b"@001XYZ!1", b"@001NAK160;FF"),
        (b"@001snc?", b"@001ACK1125123457;FF"),
        (b"@001FVC?", b"@001ACK1.10;FF"),
        (b"@001SN?", b"@001ACK1125123456;FF"),
        (b"@001T?", b"@001ACKO;FF"),
        (b"@001DLC!START", b"@001ACKSTART;FF"),
        (b"@001DLC!stop", b"@001ACKSTOP;FF"),
        (b"@001DLC!GO", b"@001NAK169;FF"),
        (b"@001DLC?", b"@001NAK175;FF"),
        (b"@001DLT!00:00:10", b"@001ACK00:00:10;FF"),
        (b"@001DLT!00:60:10", b"@001NAK169;FF"),
        (b"@001DLT?", b"@001ACK00:00:10;FF"),
        (b"@001PR1!5", b"@001NAK175;FF"),
        (b"@001U!FURLONG", b"@001NAK169;FF"),
        (b"@001AD!123", b"@001ACK123;FF"),
        (b"@001AD!254", b"@001NAK172;FF"),
        (b"@255U!TORR", b""),
        (b"@002ADC?", b""),
        (b"ADC?", b""),
    ],
)
def test_the_simulator_answers_as_a_gauge_does(frame: bytes, said: bytes) -> None:
    assert Simulator(clock=Clock()).reply(frame) == said


def test_what_the_simulator_acknowledges_happens() -> None:
    simulator = Simulator(clock=Clock())

    def say(text: bytes) -> bytes:
        frame = simulator.cut(bytearray(text))
        assert frame is not None
        return simulator.reply(frame)

    assert say(b"@001u!torr;ff") == b"@001ACKTORR;FF"
    assert say(b"@001U?;FF") == b"@001ACKTORR;FF"
    assert say(b"@001DLT!01:02:03;FF") == b"@001ACK01:02:03;FF"
    assert say(b"@001DLT?;FF") == b"@001ACK01:02:03;FF"
    assert say(b"@255U!PASCAL;FF") == b""
    assert say(b"@254U?;FF") == b"@001ACKPASCAL;FF"
    assert say(b"@001AD!123;FF") == b"@001ACK123;FF"
    assert say(b"@254ADC?;FF") == b"@123ACK123;FF"
    simulator.simulate("set", locked=True)
    assert say(b"@123U!MBAR;FF") == b"@123NAK180;FF"
    assert say(b"@123DLC!STOP;FF") == b"@123NAK161;FF"
    assert say(b"@123U?;FF") == b"@123ACKPASCAL;FF"


async def test_a_gauge_switched_to_torr_by_hand_is_still_read_in_mbar() -> None:
    simulator = Simulator(clock=Clock())
    simulator.simulate("set", pressure=5e-3, base=5e-3)
    async with presented(ENTRY, simulator) as gauge:
        await sample_where(gauge, online)
        assert await gauge.ask("U", "TORR") == "TORR"
        sample = await sample_where(gauge, online)
        assert sample["pressure"]["value"] == pytest.approx(5e-3, rel=0.1)


def test_the_simulated_head_is_pumped_down() -> None:
    clock = Clock()
    simulator = Simulator(clock=clock)
    simulator.simulate("set", pressure=1e-2)
    pressures = []
    for _ in range(10):
        clock.now += 60
        pressures.append(pressure_number(simulator.reply(b"@001PR1?")[7:-3].decode()))
    assert pressures[:3] == sorted(pressures[:3], reverse=True)
    assert pressures[-1] == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize("unit", ["MBAR", "TORR", "PASCAL"])
async def test_the_pressure_is_in_mbar_whatever_unit_the_gauge_shows(unit: str) -> None:
    simulator = Simulator(clock=Clock())
    simulator.simulate("set", pressure=5e-3, base=5e-3, unit=unit)
    async with presented(ENTRY, simulator) as gauge:
        sample = await sample_where(gauge, online)
        assert sample["pressure"]["unit"] == "mbar"
        assert sample["pressure"]["value"] == pytest.approx(5e-3, rel=0.1)


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("text", {"text": "OFF"}, "'OFF', which is not a pressure"),
        ("text", {"text": "1.00E-9;FF@001ACK"}, "not a pressure|unknown unit|not a reply"),
        ("error", {"code": 161}, r"NAK 161 \(setup locked\)"),
        ("set", {"unit": "FURLONG"}, "measures in 'FURLONG', an unknown unit"),
        ("set", {"pressure": 1e5, "base": 1e5}, "above its measuring range"),
    ],
)
async def test_what_cannot_be_a_pressure_is_null_with_a_reason(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    simulator = Simulator(clock=Clock())
    async with presented(ENTRY, simulator) as gauge:
        await sample_where(gauge, online)
        simulator.simulate(fault, **chosen)
        bad = await sample_where(gauge, lambda sample: sample["pressure"] is None)
        assert re.search(why, reasons(bad))
        simulator.simulate("clear")
        simulator.simulate("set", unit="MBAR", pressure=1e-5, base=1e-5)
        await sample_where(gauge, lambda sample: sample["pressure"] and not sample["alarms"])


async def test_another_gauge_than_the_one_asked_is_not_believed() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as gauge:
        await sample_where(gauge, online)
        simulator.simulate("identity", address=7)
        assert "address 007 answered instead of 001" in reasons(await sample_where(gauge, offline))


async def test_a_gauge_replaced_by_one_with_another_address_is_taken_after_reconnecting() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as gauge:
        await sample_where(gauge, online)
        simulator.simulate("set", address=9)
        await sample_where(gauge, offline)
        await sample_where(gauge, online)


async def test_an_address_given_in_the_file_is_the_one_asked() -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator, address=9, timeout=0.05) as gauge:
        assert isinstance(gauge, VacuumGauge)
        await sample_where(gauge, offline)
        simulator.simulate("set", address=9)
        await sample_where(gauge, online)


async def test_a_high_pressure_is_an_alarm() -> None:
    simulator = Simulator(clock=Clock())
    simulator.simulate("set", pressure=9e-3, base=9e-3)
    async with presented(ENTRY, simulator) as gauge:
        assert "is above 0.008 mbar" in reasons(await sample_where(gauge, online), "pressure")
