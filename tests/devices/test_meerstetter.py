"""The TEC-1090: the vendor's frames, and the safeguard of the coolant interlock."""

import math
import re
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core.device import Sample
from hcam_devices.devices.meerstetter import Codec, PeltierRack, Simulator, crc, decode, encode
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import ENTRIES, Clock, fed, offline, online, presented, reasons, sample_where

ENTRY = ENTRIES["meerstetter1"]

READ: list[tuple[str, str, Any]] = [
    ("#0015AA?IF62AE", "!0015AA8065-TEC SW G01     7199", "8065-TEC SW G01     "),
    ("#0015AB?VR03E801C21A", "!0015AB41CD2F28D5C2", 25.648026),
    ("#0015AC?VR04D2017BFE", "!0015AC+0532DA", "parameter not available"),
    ("#011234?VR0068013154", "!01123400000002A15C", 2),
    ("#011235?VR03E801696A", "!011235C2B3E666D459", -89.95),
    ("#021236?VR03E9016236", "!02123642180000A0DF", 38.0),
    ("#021237?VR03FC018966", "!02123741000000D4F3", 8.0),
    ("#031238?VR0BB801F169", "!031238C2B40000E188", -90.0),
    ("#011239?VR07DA01373F", "!01123900000003EF4E", 3),
]
WRITE: list[tuple[str, str, Any]] = [
    ("#0015AEVS07DA0100000001BFF4", "!0015AEBFF4", ""),
    ("#0015B0VS0BB80141AE0000C482", "!0015B0C482", ""),
    ("#00BDE2RS9780", "!00BDE29780", ""),
    ("#01123AVS0BB801C2B40000BBA1", "!01123ABBA1", ""),
    ("#01123AVS0BB801C2B40000BBA1", "!01123A+072967", "out of range"),
    ("#01123BVS0BB80100000000D5C7", "!01123BD5C7", ""),
    ("#01123BVS0BB80100000000D5C7", "!01123B+06A29A", "read only"),
    ("#01123BVS0BB80100000000D5C7", "!01123B+02E21E", "busy"),
    ("#01123CVS07DA01000000031EEF", "!01123C1EEF", ""),
    ("#03123DRS1B39", "!03123D1B39", ""),
]


def asked(sent: str) -> tuple[Any, ...]:
    """Return what the codec has to be asked for to send this."""
    channel, payload = int(sent[1:3], 16), sent[7:-4]
    if payload.startswith("VS"):
        parameter = int(payload[2:6], 16)
        return (parameter, channel), decode(parameter, payload[8:])
    return (int(payload[3:7], 16) if payload.startswith("?VR") else payload, channel), None


@pytest.mark.parametrize(("sent", "replied", "answer"), READ + WRITE)
def test_the_published_exchanges(sent: str, replied: str, answer: Any) -> None:
    codec = Codec(int(sent[3:7], 16) - 1)
    request = codec.request(*asked(sent))
    assert request == f"{sent}\r".encode()
    if replied[7] == "+":
        with pytest.raises(RefusedError, match=answer):
            codec.reply(request, replied.encode())
    else:
        close = answer if isinstance(answer, str) else pytest.approx(answer)
        assert codec.reply(request, replied.encode()) == close


@pytest.mark.parametrize("sent", [sent for sent, _, _ in READ[3:] + WRITE[3:]])
def test_the_simulator_answers_what_the_driver_asks(sent: str) -> None:
    codec = Codec(int(sent[3:7], 16) - 1)
    request = codec.request(*asked(sent))
    frame = Simulator(clock=Clock()).reply(request[:-1])
    assert frame[:7] == b"!" + request[1:7]
    assert codec.reply(request, frame[:-1]) is not None


def sealed(text: bytes) -> bytes:
    return text + crc(text)


def test_the_simulator_knows_the_parameter_of_the_vendors_example_and_those_of_errors() -> None:
    rack = Simulator(clock=Clock())

    def ask(payload: str, address: int = 1) -> str:
        said = rack.reply(sealed(f"#{address:02X}15AB{payload}".encode()))
        return said[7:-5].decode()

    assert ask("?VR006401") == "00000441"
    assert ask("VS006C0100000001") == ""
    assert ask("?VR006C01") == "00000001"
    assert ask("VS006C0100000002") == "+07"
    assert ask("VS00640100000001") == ask("VS006A0100000001") == "+06"
    assert ask("?VR006A01") == ask("?VR006B01") == "00000000"
    assert ask("?VR04D201") == "+05"


def test_everybody_in_the_simulated_rack_obeys_address_255_and_nobody_answers() -> None:
    rack = Simulator(clock=Clock())
    assert rack.reply(sealed(b"#FF0001VS0BB801C2A00000")) == b""
    assert {one.target for one in rack.controllers.values()} == {-80.0}
    assert rack.reply(sealed(b"#FF0002?VR0BB801")) == b""


@pytest.mark.parametrize(
    ("sent", "frame"),
    [
        ("#011235?VR03E801696A", b"!011235C2B3E666D458"),
        ("#011235?VR03E801696A", b"!011236C2B3E666" + crc(b"!011236C2B3E666")),
        ("#011235?VR03E801696A", sealed(b"!021235C2B3E666")),
        ("#011235?VR03E801696A", sealed(b"!011235C2B3E6")),
        ("#011235?VR03E801696A", sealed(b"!011235C2B3E6zz")),
        ("#011235?VR03E801696A", sealed(b"!011235")),
        ("#011235?VR03E801696A", b"!011235696A"),
        ("#011235?VR03E801696A", sealed(b"!011235+zz")),
        ("#011235?VR03E801696A", sealed(b"!011235+5")),
        ("#01123AVS0BB801C2B40000BBA1", sealed(b"!01123A")),
        ("#01123AVS0BB801C2B40000BBA1", sealed(b"!01123AC2B40000")),
        ("#01123AVS0BB801C2B40000BBA1", b"!01123BBBA1"),
        ("#01123AVS0BB801C2B40000BBA1", sealed(b"!01123A+zz")),
    ],
)
def test_a_damaged_reply_or_one_to_another_question_is_rejected(sent: str, frame: bytes) -> None:
    codec = Codec(int(sent[3:7], 16) - 1)
    request = codec.request(*asked(sent))
    with pytest.raises(ProtocolError):
        codec.reply(request, frame)


def test_the_crc_is_that_of_xmodem() -> None:
    assert crc(b"123456789") == b"31C3"


def test_a_sequence_number_wraps() -> None:
    assert Codec(0xFFFF).request((104, 1))[:7] == b"#010000"


@given(st.integers(-(2**31), 2**31 - 1))
def test_whole_numbers_come_back(number: int) -> None:
    assert decode(2010, encode(2010, number)) == number


@given(st.floats(width=32))
def test_numbers_come_back(number: float) -> None:
    assert struct.pack("f", decode(3000, encode(3000, number))) == struct.pack("f", number) or (
        math.isnan(number) and math.isnan(decode(3000, encode(3000, number)))
    )


def test_minus_one_is_two_s_complement() -> None:
    assert encode(2010, -1) == "FFFFFFFF"


@pytest.mark.parametrize(("parameter", "value"), [(2010, 2**31), (2010, 0.5), (3000, 1e300)])
def test_what_does_not_fit_is_not_sent(parameter: int, value: float) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Codec().request((parameter, 1), value)


@given(st.lists(st.integers(1, 7)))
def test_frames_survive_any_split_and_noise_before_them(sizes: list[int]) -> None:
    stream = b"Welcome\r\nnoise!011235C2B3E666D459\r!01123ABBA1\r#011235?VR03E801696A\r#01"
    frames = [b"Welcome", b"!011235C2B3E666D459", b"!01123ABBA1", b"#011235?VR03E801696A"]
    assert fed(Codec.cut, stream, sizes) == fed(Simulator.cut, stream, sizes) == frames


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"?VR04D201", b"+05"),
        (b"VS03E80100000000", b"+06"),
        (b"VS0BB8017F800000", b"+07"),
        (b"VS07DA0100000004", b"+07"),
        (b"?VR03E802", b"+08"),
        (b"?XX", b"+01"),
        (b"?VR03E8", b"+04"),
        (b"?VRzzzz01", b"+04"),
        (b"VS07DA01zzzzzzzz", b"+04"),
    ],
)
def test_the_simulator_refuses_as_the_protocol_says(payload: bytes, said: bytes) -> None:
    answer = Simulator(clock=Clock()).reply(sealed(b"#011234" + payload))
    assert answer == sealed(b"!011234" + said) + b"\r"


@pytest.mark.parametrize(
    "frame", [b"#011235?VR03E801696B", sealed(b"#091235?VR03E801"), sealed(b"#zz1235?IF"), b""]
)
def test_the_simulator_does_not_answer_bad_checksums_or_other_addresses(frame: bytes) -> None:
    assert Simulator(clock=Clock()).reply(frame) == b""


# --- the greeting ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("greeting", "later"),
    [
        (b"", b""),
        (b"Welcome to LTR-1200\r\n", b""),
        (b"Wel", b"come!\r\n"),
        (b"", b"Welcome to LTR-1200\r\n"),
        (b"", b"no end of it"),
    ],
)
async def test_it_comes_online_whatever_the_rack_says_first_and_whenever(
    greeting: bytes, later: bytes
) -> None:
    still_to_say = [later]

    class Rack(Simulator):
        def answer(self, frame: bytes) -> bytes:
            return (still_to_say.pop() if still_to_say else b"") + super().answer(frame)

    rack = Rack()
    rack.greeting = greeting
    async with presented(ENTRY, rack) as device:
        assert online(await sample_where(device, lambda sample: True))


async def test_something_that_is_no_peltier_controller_is_not_taken_for_one() -> None:
    class Other(Simulator):
        def _obey(self, controller: Any, payload: str) -> str:
            return "LDD-1321" if payload == "?IF" else super()._obey(controller, payload)

    async with presented(ENTRY, Other()) as device:
        assert "not a TEC controller" in reasons(await sample_where(device, lambda sample: True))


# --- the safeguard --------------------------------------------------------------------------


class Watched(Simulator):
    """A rack that counts what is written to the output enable of channel 1."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.written: list[str] = []
        self.refusing = False

    def _write(self, controller: Any, parameter: int, text: str) -> str:
        if parameter == 2010 and controller is self.controllers[1]:
            self.written.append(text[-1])
            if self.refusing:
                return "+02"
        return super()._write(controller, parameter, text)


def enabled(sample: Sample) -> bool:
    return bool(sample["stage_enable1"] == "HW Enable")


async def polls(rack: Any, count: int) -> Sample:
    """Wait for so many more samples."""
    seen = [await sample_where(rack, lambda sample: True) for _ in range(count)]
    return seen[-1]


async def test_hw_enable_is_not_written_while_it_is_in_force() -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        for _ in range(3):
            clock.now += 61
            assert enabled(await polls(rack, 2))
        assert await rack.set("stage_enable1", 3) == "HW Enable"
    assert simulator.written == []


async def test_hw_enable_is_restored_at_once_and_then_at_most_once_a_minute() -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        await sample_where(rack, online)
        for seconds, writes in ((0, 1), (59, 1), (1, 2), (59, 2), (1, 3)):
            clock.now += seconds
            simulator.simulate("static", value=1)
            sample = await polls(rack, 3)
            assert len(simulator.written) == writes
            restored = seconds != 59
            assert enabled(sample) == restored
            missing = "Static ON: the coolant interlock is bypassed"
            assert (missing in reasons(sample, "stage_enable1")) != restored
            if not restored:
                assert {"ERR"} == {a["severity"] for a in sample["alarms"]}
    assert simulator.written == ["3", "3", "3"]


async def test_the_safeguard_goes_on_where_the_reading_was_disabled() -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        await sample_where(rack, online)
        await rack.procedures()["stage_enable1.disable"].call()
        await sample_where(rack, lambda sample: sample["stage_enable1"] is None)
        simulator.controllers[1].enable = 1
        assert (await polls(rack, 2))["stage_enable1"] is None
        assert simulator.written == ["3"]


async def test_what_cannot_be_restored_is_said_until_it_is_in_force_again() -> None:
    clock = Clock()
    simulator = Watched(clock)
    simulator.refusing = True
    simulator.controllers[1].enable = 1
    async with presented(ENTRY, simulator, clock=clock) as rack:
        why = "Static ON: the coolant interlock is bypassed; it could not be restored: .*busy"
        await sample_where(rack, lambda sample: re.search(why, reasons(sample, "stage_enable1")))
        await rack.set_unacknowledged("stage_enable1", 1)
        assert "bypassed" in reasons(await polls(rack, 1), "stage_enable1")
        await polls(rack, 3)
        assert simulator.written == ["3"]
        simulator.controllers[1].enable = 3
        await sample_where(rack, enabled)
        assert "bypassed" not in reasons(await polls(rack, 1))


@pytest.mark.parametrize("value", [0, "Static OFF"])
async def test_leaving_hw_enable_needs_confirmation_and_a_topic_cannot_give_it(value: Any) -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        await sample_where(rack, online)
        for confirm in (False, 1, "yes"):
            with pytest.raises(ValueError, match=r"protects the detector.*confirm=True"):
                await rack.set("stage_enable1", value, confirm=confirm)  # type: ignore[arg-type]
        await rack.set_unacknowledged("stage_enable1", value)
        await rack.set_unacknowledged("stage_enable1", value, confirm=True)
        assert "one value is expected" in reasons(await polls(rack, 1), "stage_enable1")
        for other in (1, 2, "Static ON", "Live OFF/ON"):
            with pytest.raises(ValueError, match=r"is not one of 0 \(Static OFF\), 3 \(HW Enable"):
                await rack.set("stage_enable1", other, confirm=True)
        assert simulator.written == []


async def test_off_on_purpose_is_respected_also_after_a_lost_link_until_it_is_set_back() -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        await sample_where(rack, online)
        assert await rack.set("stage_enable1", 0, confirm=True) == "Static OFF"
        simulator.hang_up()
        await sample_where(rack, offline)
        for _ in range(3):
            clock.now += 61
            sample = await sample_where(rack, online)
            assert sample["stage_enable1"] == "Static OFF"
            assert "cooling is switched off" in reasons(sample, "stage_enable1")
            assert sample["alarms"][0]["severity"] == "WARN"
        assert await rack.set("stage_enable1", 3) == "HW Enable"
        assert not reasons(await polls(rack, 1))
        assert simulator.written == ["0", "3"]


async def test_nothing_switches_cooling_on_by_itself_however_it_was_switched_off() -> None:
    clock = Clock()
    simulator = Watched(clock)
    simulator.controllers[1].enable = 0
    async with presented(ENTRY, simulator, clock=clock) as rack:
        for _ in range(3):
            sample = await polls(rack, 2)
            assert sample["stage_enable1"] == "Static OFF"
            assert "switches it on" in reasons(sample, "stage_enable1")
            clock.now += 61
    assert simulator.written == []


async def test_off_that_was_refused_does_not_stop_the_safeguard() -> None:
    clock = Clock()
    simulator = Watched(clock)
    async with presented(ENTRY, simulator, clock=clock) as rack:
        await sample_where(rack, online)
        simulator.refusing = True
        with pytest.raises(RefusedError, match="busy"):
            await rack.set("stage_enable1", 0, confirm=True)
        simulator.refusing = False
        simulator.controllers[1].enable = 1
        await sample_where(rack, lambda sample: simulator.written == ["0", "3"])
        assert enabled(await polls(rack, 1))


async def test_an_open_interlock_lets_the_temperature_drift_and_a_closed_one_cools_again() -> None:
    clock = Clock()
    simulator = Watched(clock)

    async def after(seconds: float) -> Sample:
        clock.now += seconds
        return await polls(rack, 2)

    async with presented(ENTRY, simulator, clock=clock) as rack:
        assert (await after(0))["temperature1"]["value"] == pytest.approx(-90, abs=1)
        simulator.simulate("set", interlock="open")
        await after(1)
        drifted = await after(300)
        assert drifted["temperature1"]["value"] > -60
        assert drifted["current1"] == {"value": 0.0, "unit": "A"}
        simulator.simulate("set", interlock="closed")
        await after(1)
        assert (await after(3000))["temperature1"]["value"] == pytest.approx(-90, abs=1)


@pytest.mark.parametrize(
    ("code", "refused", "why"),
    [
        (11, False, r"error 11 \(emergency stop\)"),
        (130, False, r"error 130 \(temperature measurement\)"),
        (200, False, r"error 200 \(see the manual of the controller\)"),
        (11, True, "error, whose number is unknown: .*parameter not available"),
    ],
)
async def test_a_controller_in_error_says_which_and_its_neighbours_go_on(
    code: int, refused: bool, why: str
) -> None:
    class Rack(Simulator):
        def _read(self, controller: Any, parameter: int) -> str:
            return "+05" if refused and parameter == 105 else super()._read(controller, parameter)

    rack = Rack()
    rack.simulate("alarm", code=code, channel=2)
    async with presented(ENTRY, rack) as device:
        sample = await sample_where(device, lambda sample: sample.get("status2") == "error")
        assert re.search(why, reasons(sample, "status2"))
        assert sample["status1"] == sample["status3"] == "run"
        rack.simulate("clear")
        rack.simulate("alarm", code=0, channel=2)
        await sample_where(device, lambda sample: not sample["alarms"])


async def test_a_controller_can_be_reset_and_says_so() -> None:
    clock = Clock()
    async with presented(ENTRY, Simulator(clock=clock), clock=clock) as rack:
        assert isinstance(rack, PeltierRack)
        with pytest.raises(ConnectionError, match="is offline"):
            await rack.reset(1)
        await sample_where(rack, online)
        reset: Any = rack.reset
        for address in (0, 4, "1", True, 1.5, None, [1]):
            with pytest.raises(ValueError, match="Input should be"):
                await reset(address)
        await rack.reset(2)
        sample = await sample_where(rack, lambda sample: sample["status2"] == "resetting")
        assert sample["status1"] == "run"
        clock.now += 2
        await sample_where(rack, lambda sample: sample["status2"] == "run")
