"""The arms of COMPO: the controller's language, and their life through a real pseudo-terminal."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core import sim
from hcam_devices.core.device import Sample
from hcam_devices.devices.esp301 import Arms, Codec, Line, Simulator, written
from hcam_devices.errors import NotAllowedError, ProtocolError, RefusedError

from ..helpers import (
    AT_MOST,
    ENTRIES,
    Clock,
    fed,
    living,
    offline,
    online,
    presented,
    reasons,
    sample_where,
)

ENTRY = ENTRIES["compo_arms"]
SOON = 0.1
"""Seconds after which a controller that is silent has not answered."""
FINE = b"0, 451322, NO ERROR DETECTED"


@pytest.mark.parametrize(
    ("ref", "sent", "replied", "text"),
    [
        ("VE?", b"\x56\x45\x3f\x0dTB?\r", b"ESP301 Version 3.0.1 6/1/99\r\n", "ESP301 Version"),
        ("1TP?", b"\x31\x54\x50\x3f\x0dTB?\r", b"13.0400\r\n", "13.0400"),
        ("1PA13.04", b"1PA13.04\rTB?\r", b"", ""),
        ("1OR1", b"1OR1\rTB?\r", b"", ""),
        ("1MD?", b"1MD?\rTB?\r", b"0\r\n", "0"),
        ("1SN?", b"1SN?\rTB?\r", b"7\r\n", "7"),
        ("TB?", b"TB?\r", b"", ""),
    ],
)
def test_the_published_exchanges(ref: str, sent: bytes, replied: bytes, text: str) -> None:
    codec = Codec()
    assert codec.request(ref) == sent
    (frame,) = fed(codec.cut, replied + FINE + b"\r\n", [])
    answer = codec.reply(sent, frame)
    assert answer
    assert answer.text.startswith(text)
    assert (answer.error.code, answer.ticks) == (0, 451322)


@pytest.mark.parametrize(
    ("ref", "line", "why"),
    [
        ("2PA10", b"213, 52230, MOTOR NOT ENABLED", r"2PA10: MOTOR NOT ENABLED .error 213, axis 2"),
        ("PA5", b"37, 9, AXIS NUMBER MISSING", r"AXIS NUMBER MISSING \(error 37\)"),
        ("1TP?", b"108, 9, ", r"MOTOR / STAGE NOT CONNECTED \(error 108, axis 1\)"),
        ("1XX", b"99, 9, ", r"not in the manual \(error 99\)"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_controller(ref: str, line: bytes, why: str) -> None:
    codec = Codec()
    with pytest.raises(RefusedError, match=why):
        codec.reply(codec.request(ref), line)


@pytest.mark.parametrize(
    ("ref", "frame"),
    [
        ("1TP?", b"13.0400\r\n12.0000\r\n" + FINE),
        ("1PA5", b"0.0000\r\n" + FINE),
        ("TB?", b"0.0000\r\n" + FINE),
        ("1PA5", b"0, 5, MOTOR NOT ENABLED"),
        ("1PA5", b"13, 5, NO ERROR DETECTED"),
        ("1TP?", b"nonsense"),
    ],
)
def test_what_does_not_answer_the_question_is_rejected(ref: str, frame: bytes) -> None:
    codec = Codec()
    with pytest.raises(ProtocolError):
        codec.reply(codec.request(ref), frame)


def test_an_old_error_does_not_spoil_an_answer_and_comes_with_it() -> None:
    codec = Codec()
    answer = codec.reply(codec.request("1TP?"), b"1.5\r\n4, 9, EMERGENCY STOP ACTIVATED")
    assert answer
    assert answer.text == "1.5"
    assert answer.error.code == 4


def test_an_answer_without_the_number_asked_for_is_left_over_from_before() -> None:
    codec = Codec()
    assert codec.reply(codec.request("1TP?"), FINE) is None


@given(st.lists(st.integers(1, 9)))
def test_frames_survive_any_split(sizes: list[int]) -> None:
    frames = [b"13.0400\r\n" + FINE, FINE, b"1\r\n213, 52230, MOTOR NOT ENABLED"]
    stream = b"".join(frame + b"\r\n" for frame in frames) + b"13.04"
    assert fed(Codec.cut, stream, sizes) == frames
    assert fed(Simulator.cut, b"1PA5;2PA6\rTB?\n\n1TP", sizes) == [b"1PA5;2PA6", b"TB?", b""]


@given(st.binary(max_size=60), st.sampled_from(["1TP?", "1PA5", "TB?", "VE?"]))
def test_whatever_arrives_is_an_answer_or_a_reason(frame: bytes, ref: str) -> None:
    codec = Codec()
    with suppress(ProtocolError, RefusedError):
        answer = codec.reply(codec.request(ref), frame)
        assert answer is None or b"," in frame


@given(st.floats(-67, 67))
def test_numbers_are_written_without_exponents(angle: float) -> None:
    text = written(angle)
    assert "e" not in text.lower()
    assert float(text) == pytest.approx(angle, abs=5.1e-5)
    assert text != "-0.0000"


@pytest.mark.parametrize("angle", [67.01, -67.01, "68 deg", float("nan"), "1.2 rad"])
async def test_an_angle_beyond_67_degrees_is_refused(angle: Any) -> None:
    for name in ("target_pickoff_angle", "target_injection_angle"):
        with pytest.raises(ValueError, match="-67 to 67 deg"):
            await ENTRY.build().settable(name).accept(angle)


def test_the_port_is_as_the_controller_has_it() -> None:
    link = ENTRY.build().link
    assert isinstance(link, Line)
    assert (link.baudrate, link.rtscts) == (19200, True)


# --- the simulator --------------------------------------------------------------------------


def test_the_simulator_answers_as_a_controller_does() -> None:
    clock = Clock()
    controller = Simulator(homed=False, clock=clock)

    def ask(line: str) -> str:
        return controller.reply(line.encode()).decode()

    assert ask("ve?") == "ESP301 Version 3.0.1 6/1/99\r\n"
    assert ask("TB?") == "0, 0, NO ERROR DETECTED\r\n"
    clock.now += 1
    assert ask("1pa5;1MD?;1DP?; 1SN?") == "0\r\n5.0000\r\n7\r\n"
    clock.now += 0.25
    assert ask("1TP?") == "2.5000\r\n"
    assert ask("1ST;1MD?") == "1\r\n"
    assert ask("PA5;TB?") == "37, 3125, AXIS NUMBER MISSING\r\n"
    assert ask("9PA5;TE?;TE?") == "9\r\n0\r\n"
    assert ask("1XX;1PA;1PAx;3MO;1PA70;1PR-70") == ""
    codes = [ask("TB?").partition(",")[0] for _ in range(7)]
    assert codes == ["6", "38", "7", "308", "106", "107", "0"]
    assert ask("2MF;2MO?;2PA5;TB?") == "0\r\n213, 3125, MOTOR NOT ENABLED\r\n"
    assert ask("1OR1;1PA1;TB?") == "130, 3125, COMMAND NOT ALLOWED DURING HOMING\r\n"
    clock.now += 100
    assert ask("1MD?;1TP?;1SL?;1SR?") == "1\r\n0.0000\r\n-67.0000\r\n67.0000\r\n"
    assert ask("1VA?;2VA?;1AC?;1AG?") == "10.0000\r\n10.0000\r\n40.0000\r\n40.0000\r\n"
    assert ask("1VA20;1VA?;2VA?") == "20.0000\r\n10.0000\r\n"
    assert ask("1PA60") == ""
    clock.now += 2
    assert ask("1TP?;1ST") == "40.0000\r\n"
    assert ask("1DH1.5;1TP?;1DH;1TP?") == "1.5000\r\n0.0000\r\n"
    assert ask("1VA;1VAx;1VA81;1VA0;1DHx") == ""
    codes = [ask("TE?").strip() for _ in range(6)]
    assert codes == ["38", "7", "110", "110", "7", "0"]


def test_the_simulator_keeps_ten_errors() -> None:
    controller = Simulator(clock=Clock())
    controller.reply(b";".join([b"PA"] * 15))
    codes = [controller.reply(b"TE?") for _ in range(11)]
    assert codes == [b"37\r\n"] * 10 + [b"0\r\n"]


# --- through a real pseudo-terminal ---------------------------------------------------------


class Watched(Simulator):
    """A controller that remembers what it was told; its arms have not been homed."""

    def __init__(self, *, homed: bool = False, **settings: Any) -> None:
        super().__init__(homed=homed, **settings)
        self.told: list[str] = []

    def answer(self, line: bytes) -> bytes:
        if b"?" not in line:
            self.told.append(line.decode())
        return super().answer(line)


def arm(sample: Sample, name: str = "pickoff") -> str:
    return str(sample["state"].get(name))


def at(sample: Sample, angle: float, name: str = "pickoff") -> bool:
    shown = sample[f"{name}_angle"]
    return bool(shown and abs(shown["current"]["value"] - angle) < 0.005)


async def do(device: Any, command: str, *args: Any) -> Any:
    return await device.procedures()[command].call(*args)


@asynccontextmanager
async def homed(simulator: Simulator, clock: Clock, **settings: Any) -> AsyncIterator[Any]:
    """Run the arms, with the pickoff homed."""
    async with presented(ENTRY, simulator, **settings) as arms:
        await sample_where(arms, online)
        await home(arms, clock)
        yield arms


async def hurry(arms: Any) -> None:
    """Shorten the timeout, and wait until no exchange with the long one is under way."""
    arms.link.timeout = SOON
    await sample_where(arms, online)


async def home(arms: Any, clock: Clock) -> None:
    await do(arms, "pickoff.home")
    clock.now += 100
    assert at(await sample_where(arms, lambda s: arm(s) == "inpos"), 0)


async def test_an_arm_is_homed_moved_stopped_and_moved_to_exactly_zero() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as arms:
        first = await sample_where(arms, online)
        assert arm(first) == arm(first, "injection") == "init"
        for command, args in (("pickoff.move", ()), ("set_target_pickoff_angle", (5,))):
            with pytest.raises(NotAllowedError, match="home it first"):
                await do(arms, command, *args)
        assert simulator.told == []
        await do(arms, "pickoff.home")
        clock.now += 1
        await sample_where(arms, lambda s: arm(s) == "homing" and at(s, 10))
        clock.now += 10
        assert at(await sample_where(arms, lambda s: arm(s) == "inpos"), 0)
        assert await do(arms, "set_target_pickoff_angle", "0.2 rad") == pytest.approx(11.459156)
        await do(arms, "pickoff.move")
        clock.now += 1
        await sample_where(arms, lambda s: arm(s) == "moving" and at(s, 10))
        await do(arms, "pickoff.stop")
        clock.now += 1
        stopped = await sample_where(arms, lambda s: arm(s) == "stopped")
        assert at(stopped, 10)
        assert stopped["pickoff_angle"]["target"]["value"] == pytest.approx(11.459156)
        await do(arms, "set_target_pickoff_angle", 0)
        await do(arms, "pickoff.move")
        clock.now += 10
        there = await sample_where(arms, lambda s: arm(s) == "inpos")
        assert there["pickoff_angle"]["current"]["value"] == 0
        assert arm(there, "injection") == "init"
    assert simulator.told == ["1MO", "1OR1", "1PA11.4592", "1ST", "1PA0.0000"]


async def test_arms_that_are_homed_when_it_starts_are_ready_until_the_controller_is_restarted() -> (
    None
):
    clock = Clock()
    simulator = Watched(homed=True, clock=clock)
    async with presented(ENTRY, simulator) as arms:
        first = await sample_where(arms, online)
        assert arm(first) == arm(first, "injection") == "inpos"
        assert at(first, -66.4)
        assert first["alarms"] == []
        await do(arms, "set_target_pickoff_angle", 0)
        await do(arms, "pickoff.move")
        clock.now += 10
        assert at(await sample_where(arms, lambda s: arm(s) == "inpos" and at(s, 0)), 0)
        simulator.simulate("power_cycle", seconds=5)
        await sample_where(arms, offline)
        clock.now += 6
        lost = await sample_where(arms, lambda s: online(s) and arm(s) == "init")
        assert arm(lost, "injection") == "init"
        assert "the motor is off" in reasons(lost, "pickoff")
    assert simulator.told == ["1PA0.0000"]


async def test_arms_whose_motors_are_off_when_it_starts_are_not_taken_to_be_homed() -> None:
    simulator = Watched(homed=True, clock=Clock())
    for motor in simulator.motors:
        motor.halt(on=False)
    async with presented(ENTRY, simulator) as arms:
        assert arm(await sample_where(arms, online)) == "init"


async def test_a_home_search_that_is_stopped_leaves_the_arm_without_a_home() -> None:
    clock = Clock()
    async with presented(ENTRY, Watched(clock=clock)) as arms:
        await sample_where(arms, online)
        await do(arms, "injection.home")
        clock.now += 1
        await sample_where(arms, lambda s: arm(s, "injection") == "homing")
        await do(arms, "injection.stop")
        await sample_where(arms, lambda s: arm(s, "injection") == "init")


async def test_a_home_search_that_is_stopped_at_the_controller_has_failed() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as arms:
        await sample_where(arms, online)
        await do(arms, "pickoff.home")
        clock.now += 1
        await sample_where(arms, lambda s: arm(s) == "homing" and at(s, 10))
        simulator.motors[0].halt()
        await sample_where(arms, lambda s: arm(s) == "init")


async def test_an_error_that_nobody_here_caused_is_told_and_gone_after_the_next_command() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock) as arms:
        simulator.reply(b"PA5;2PA99")
        told = await sample_where(arms, lambda s: "SOFTWARE" in reasons(s))
        assert "AXIS NUMBER MISSING (error 37)" in reasons(told, "controller")
        assert "POSITIVE SOFTWARE LIMIT DETECTED (error 206, axis 2)" in reasons(told, "injection")
        assert online(told)
        assert arm(told) == "inpos"
        simulator.reply(b"PA5")
        await do(arms, "pickoff.move")
        after = await sample_where(arms, lambda s: True)
        assert reasons(after, "controller") == ""
        assert "206" in reasons(after, "injection")


async def test_a_full_queue_of_errors_is_emptied_in_one_look() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as arms:
        simulator.reply(b";".join([b"PA", b"1XX"] * 8))
        told = await sample_where(arms, lambda s: "37" in reasons(s))
        assert "COMMAND DOES NOT EXIST" in reasons(told)
        assert simulator.reply(b"TE?") == b"0\r\n"


async def test_a_motor_that_is_off_is_refused_in_the_words_of_the_controller() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock) as arms:
        await do(arms, "set_target_pickoff_angle", 5)
        await do(arms, "power_off_axis", 0)
        off = await sample_where(arms, lambda s: True)
        assert "the motor is off" in reasons(off, "pickoff")
        assert "power_on_axis(0)" in reasons(off, "pickoff")
        for _ in range(3):
            with pytest.raises(RefusedError, match=r"MOTOR NOT ENABLED \(error 113, axis 1\)"):
                await do(arms, "pickoff.move")
        await arms.set_unacknowledged("target_pickoff_angle", 80)
        assert "80 deg is not within" in reasons(await sample_where(arms, online))
        await do(arms, "power_on_axis", 0)
        with pytest.raises(NotAllowedError, match="home it first"):
            await do(arms, "pickoff.move")
        assert arm(await sample_where(arms, lambda s: True)) == "init"
        await home(arms, clock)


async def test_turning_on_a_motor_that_is_on_keeps_the_home() -> None:
    clock = Clock()
    async with homed(Watched(clock=clock), clock) as arms:
        await do(arms, "power_on_axis", 0)
        assert arm(await sample_where(arms, lambda s: True)) == "inpos"


async def test_an_axis_that_does_not_exist_is_refused() -> None:
    async with presented(ENTRY, Watched()) as arms:
        await sample_where(arms, online)
        for wrong in (2, -1, True, "0", 0.0):
            with pytest.raises(ValueError, match=r"axis|valid integer"):
                await do(arms, "power_on_axis", wrong)


async def test_after_it_was_unplugged_and_plugged_in_an_arm_is_still_homed() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock) as arms:
        simulator.simulate("refuse")
        gone = await sample_where(arms, lambda s: "cannot be opened" in reasons(s))
        assert "No such file" in reasons(gone, "connection")
        assert gone["pickoff_angle"] is None
        with pytest.raises(ConnectionError, match="offline"):
            await do(arms, "pickoff.move")
        simulator.simulate("clear")
        back = await sample_where(arms, online)
        assert arm(back) == "inpos"
        assert arm(back, "injection") == "init"


async def test_a_controller_that_loses_its_power_in_a_motion_has_to_be_homed() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock, timeout=AT_MOST) as arms:
        await do(arms, "set_target_pickoff_angle", 40)
        await do(arms, "pickoff.move")
        clock.now += 1
        await sample_where(arms, lambda s: at(s, 10))
        await hurry(arms)
        simulator.simulate("power_cycle", seconds=5)
        assert "did not answer" in reasons(await sample_where(arms, offline))
        clock.now += 6
        arms.link.timeout = AT_MOST
        back = await sample_where(arms, online)
        assert arm(back) == "init"
        assert at(back, 0)
        assert "the motor is off" in reasons(back, "pickoff")
        simulator.told.clear()
        await home(arms, clock)
        assert simulator.told == ["1MO", "1OR1"]


async def test_a_restart_too_short_to_be_noticed_shows_in_the_clock_of_the_controller() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock) as arms:
        clock.now += 1000
        await sample_where(arms, online)
        simulator.fault_power_cycle(b"", seconds=0)
        for motor in simulator.motors:
            motor.on = True
        assert "has been restarted" in reasons(await sample_where(arms, offline))
        assert arm(await sample_where(arms, online)) == "init"


async def test_an_arm_at_the_end_of_its_travel_is_told_after_the_silence() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock, timeout=AT_MOST) as arms:
        await hurry(arms)
        simulator.simulate("limit", axis=1)
        await sample_where(arms, lambda s: arm(s) == "moving")
        clock.now += 10
        await sample_where(arms, offline)
        clock.now += 4
        arms.link.timeout = AT_MOST
        back = await sample_where(arms, lambda s: online(s) and "104" in reasons(s))
        assert "POSITIVE HARDWARE LIMIT DETECTED (error 104, axis 1)" in reasons(back, "pickoff")
        assert at(back, 67.79)
        await do(arms, "set_target_pickoff_angle", 0)
        await do(arms, "pickoff.move")
        clock.now += 10
        await sample_where(arms, lambda s: at(s, 0) and not reasons(s, "pickoff"))


async def test_an_emergency_stop_is_told_and_ends_a_home_search() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with presented(ENTRY, simulator) as arms:
        await sample_where(arms, online)
        await do(arms, "pickoff.home")
        clock.now += 1
        await sample_where(arms, lambda s: arm(s) == "homing")
        simulator.simulate("emergency")
        told = await sample_where(arms, lambda s: arm(s) == "init")
        assert "EMERGENCY STOP ACTIVATED (error 4)" in reasons(told, "controller")


async def test_an_arm_that_is_not_connected_does_not_disturb_the_other() -> None:
    class Half(Watched):
        broken = False

        def _tell(self, name: str, motor: Any) -> str:
            if self.broken and motor.axis == 2:
                self._fail(motor.error(8))
                return ""
            return super()._tell(name, motor)

    clock = Clock()
    simulator = Half(clock=clock)
    async with homed(simulator, clock) as arms:
        for _ in range(2):
            simulator.broken = True
            told = await sample_where(arms, lambda s: s["injection_angle"] is None)
            assert "NOT CONNECTED (error 208, axis 2)" in reasons(told, "injection_angle")
            assert arm(told) == "inpos"
            with pytest.raises(NotAllowedError, match="NOT CONNECTED"):
                await do(arms, "injection.home")
            simulator.broken = False
            assert at(await sample_where(arms, lambda s: s["injection_angle"]), 0)
            simulator.broken = True
            simulator.hang_up()
            again = await sample_where(arms, lambda s: online(s) and not s["injection_angle"])
            assert arm(again) == "inpos"


async def test_a_controller_that_refuses_everything_is_online_and_nothing_is_known() -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock) as arms:
        simulator.simulate("error", code=7)
        told = await sample_where(arms, lambda s: s["pickoff_angle"] is None)
        assert online(told)
        assert "PARAMETER OUT OF RANGE (error 7)" in reasons(told, "pickoff_angle")
        simulator.simulate("clear")
        assert arm(await sample_where(arms, lambda s: s["pickoff_angle"])) == "inpos"


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("version", "ESP300 Version 2.1", "not an ESP301: its version is 'ESP300"),
        ("units", 2, r"pickoff is set to millimetres \(units 2\), not to degrees"),
        ("units", 99, "unknown"),
    ],
)
async def test_another_controller_or_another_unit_stays_offline(
    setting: str, value: Any, why: str
) -> None:
    simulator = Watched()
    simulator.simulate("set", **{setting: value})
    async with presented(ENTRY, simulator) as arms:
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(reasons(await sample_where(arms, offline)))
        simulator.simulate("set", version="ESP301", units=7)
        await sample_where(arms, online)


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("garbage", {}),
        ("silence", {}),
        ("busy", {}),
        ("refuse", {}),
        ("disconnect", {"when": "before"}),
        ("disconnect", {"when": "during"}),
        ("disconnect", {"when": "after"}),
        ("flip", {"index": 0}),
        ("insert", {"index": 2}),
        ("identity", {}),
        ("unsolicited", {}),
        ("late", {"seconds": AT_MOST, "times": 2}),
    ],
)
async def test_whatever_happens_on_the_wire_it_goes_offline_and_comes_back(
    fault: str, options: dict[str, Any]
) -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock, timeout=AT_MOST) as arms:
        await hurry(arms)
        simulator.simulate(fault, **options)
        if fault == "identity":  # which is read on connection
            simulator.hang_up()
        gone = await sample_where(arms, offline)
        assert gone["pickoff_angle"] is None
        assert reasons(gone, "connection")
        simulator.simulate("clear")
        assert arm(await sample_where(arms, online)) == "inpos"


@pytest.mark.parametrize(
    ("fault", "options"), [("split", {}), ("delay", {"seconds": 0.01}), ("double", {"times": 9})]
)
async def test_pieces_and_pauses_do_not_matter(fault: str, options: dict[str, Any]) -> None:
    clock = Clock()
    simulator = Watched(clock=clock)
    async with homed(simulator, clock, timeout=AT_MOST) as arms:
        await do(arms, "set_target_pickoff_angle", 13.04)
        simulator.simulate(fault, **options)
        await sample_where(arms, lambda s: True)
        simulator.simulate("clear")
        await do(arms, "pickoff.move")
        clock.now += 10
        assert at(await sample_where(arms, lambda s: arm(s) == "inpos"), 13.04)


async def test_the_same_language_is_spoken_over_a_terminal_server() -> None:
    class Networked(Simulator):
        serial = False

    async with sim.serve(Networked()) as place:
        assert place.keys() == {"host", "port", "homed_at_start"}


async def test_a_port_that_is_taken_or_is_none_says_so(tmp_path: Path) -> None:
    none = tmp_path / "file"
    none.touch()
    async with living(arms := ENTRY.build(path=str(none))):
        assert f"{none} cannot be opened" in reasons(await sample_where(arms, offline))
    async with sim.serve(Watched()) as place:
        first, second = ENTRY.build(**place), Arms("second", **place)
        async with living(first):
            await sample_where(first, online)
            async with living(second):
                taken = await sample_where(second, offline)
                assert "already locked by another process" in reasons(taken)
