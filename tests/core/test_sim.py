"""Simulators: faults on their wire; no input ends a simulator."""

import asyncio
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.config.instrument import Entry
from hcam_devices.core import sim
from hcam_devices.core.fields import Range
from hcam_devices.core.link import Until
from hcam_devices.core.sim import WIRE_FAULTS, damage
from hcam_devices.devices import meerstetter

from ..helpers import AT_MOST, SIMULATED, fed, presented, sample_where, until

each = pytest.mark.parametrize("entry", SIMULATED.values(), ids=SIMULATED)


class Parrot(sim.Simulator):
    """Repeats each line."""

    cut = Until(b"\n")
    controls = ("loud", "volume", "said")
    ranges: ClassVar[dict[str, Range]] = {"volume": (0, 11)}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.loud, self.volume, self.said = False, 1.0, "x"

    def answer(self, frame: bytes) -> bytes:
        return frame + b"\n"

    def fault_pieces(self, reply: bytes, count: int = 2, of: str = "eight") -> bytes:
        return of.encode() * count


async def heard(parrot: Parrot, said: bytes) -> bytes:
    """Return everything that is heard until the end, or until a pause after all was said."""
    async with sim.serve(parrot) as place:
        reader, writer = await asyncio.open_connection(**place)
        writer.write(said + b"end\n")
        try:
            async with asyncio.timeout(AT_MOST):
                return await reader.readuntil(b"end\n")
        except asyncio.IncompleteReadError as error:
            return error.partial + b"<closed>"
        except ConnectionResetError:
            return b"<reset>"
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("fault", "chosen", "said"),
    [
        ("split", {}, b"one\nend\n"),
        ("double", {"times": 1}, b"one\none\nend\n"),
        ("drop", {"times": 1}, b"oneend\n"),
        ("flip", {"index": 0, "times": 1}, b"\x7fne\nend\n"),
        ("insert", {"index": 1, "times": 1}, b"o\x15ne\nend\n"),
        ("silence", {"times": 1}, b"end\n"),
        ("delay", {"seconds": 0}, b"one\nend\n"),
        ("late", {"seconds": 0}, b"one\nend\n"),
        ("disconnect", {}, b"one\n<closed>"),
        ("disconnect", {"when": "during"}, b"on<closed>"),
        ("disconnect", {"when": "before"}, b"<closed>"),
        ("refuse", {}, b"<closed>"),
        ("pieces", {"times": 1}, b"eighteightend\n"),
    ],
)
async def test_a_fault_does_to_the_wire_what_it_says(
    fault: str, chosen: dict[str, Any], said: bytes
) -> None:
    parrot = Parrot()
    parrot.simulate(fault, **chosen)
    answer = await heard(parrot, b"one\n")
    assert answer in (said, b"<reset>") if said.endswith(b"<closed>") else answer == said


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("nonsense", {}, "no fault 'nonsense'; there are delay"),
        ("delay", {"minutes": 1}, "delay has no minutes; it has seconds, times"),
        ("delay", {"seconds": "long"}, "takes a number, not 'long'"),
        ("delay", {"seconds": -1}, "takes a number"),
        ("delay", {"seconds": True}, "takes a number"),
        ("drop", {"index": 1.5}, "takes a whole number, not 1.5"),
        ("drop", {"index": 2**70}, "takes a whole number"),
        ("pieces", {"of": 8}, "takes a text, not 8"),
        ("disconnect", {"when": "later"}, "when is one of before, during, after"),
        ("disconnect", {"when": []}, "takes a text"),
        ("set", {"colour": 1}, "there is no colour to set; there is loud, volume, said"),
        ("set", {"loud": 1}, "loud takes a bool, not 1"),
        ("set", {"volume": "1"}, "volume takes a float, not '1'"),
        ("set", {"volume": True}, "volume takes a float"),
        ("set", {"volume": math.nan}, "volume is 0 to 11, not nan"),
        ("set", {"volume": -1}, "volume is 0 to 11, not -1"),
        ("set", {"volume": 10**400}, "volume is 0 to 11, not 1000"),
        ("set", {"said": "y", "volume": 12}, "volume is 0 to 11, not 12"),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    parrot = Parrot()
    with pytest.raises(ValueError, match=why):
        parrot.simulate(fault, **chosen)
    assert parrot.simulate()["faults"] == {}
    assert parrot.simulate()["values"] == {"loud": False, "volume": 1.0, "said": "x"}


def test_faults_are_shown_set_and_cleared() -> None:
    parrot = Parrot()
    assert parrot.simulate("set", volume=2)["values"]["volume"] == 2.0
    assert parrot.simulate("delay", seconds=1)["faults"] == {"delay": {"seconds": 1}}
    assert parrot.simulate()["may inject"].keys() == {*WIRE_FAULTS, "pieces"}
    assert parrot.simulate("clear")["faults"] == {}


async def test_a_late_reply_comes_when_faults_are_cleared() -> None:
    parrot = Parrot()
    async with sim.serve(parrot) as place:
        reader, writer = await asyncio.open_connection(**place)
        parrot.simulate("late", seconds=10 * AT_MOST)
        writer.write(b"one\n")
        await until(lambda: "late" not in parrot.faults)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
        parrot.simulate("clear")
        async with asyncio.timeout(AT_MOST):
            assert await reader.readline() == b"one\n"
        writer.close()


def test_a_damaged_reply_differs_in_one_byte() -> None:
    assert damage(b"", "drop", 3) == b""
    assert damage(b"abc", "drop", 4) == b"ac"


@each
@given(said=st.binary(max_size=60), sizes=st.lists(st.integers(1, 7)))
def test_no_noise_kills_a_simulator(entry: Entry, said: bytes, sizes: list[int]) -> None:
    simulator = entry.cls.simulator()
    for frame in fed(simulator.cut, said + b";FF\r", sizes):
        assert isinstance(simulator.answer(frame), bytes)


ALPHABET = b"#0123VSR?I=FE\r@ACPU!;D.\x00\x01\x04\x14\x3c\x18\xc0"


@each
@given(said=st.lists(st.sampled_from(ALPHABET), max_size=40).map(bytes))
def test_no_near_miss_kills_a_simulator(entry: Entry, said: bytes) -> None:
    simulator = entry.cls.simulator()
    sealed = b"#0112AB" + said
    frames = [said, said[:6].ljust(6, b"\0"), sealed + meerstetter.crc(sealed), b"@254" + said]
    for frame in frames:
        if not entry.cls.__module__.endswith("zaber") or len(frame) == 6:
            assert isinstance(simulator.answer(frame), bytes)


@each
def test_every_fault_of_a_simulator_stands_every_choice(entry: Entry) -> None:
    simulator = entry.cls.simulator()
    for fault in simulator.offers().keys() - WIRE_FAULTS.keys():
        for key, default in simulator.offers()[fault].items():
            for value in ("", "x;FF\r", "é") if isinstance(default, str) else (0, 1, 9, 2**31 - 1):
                simulator.simulate("clear")
                simulator.simulate(fault, **{key: value})
                assert isinstance(simulator.own_faults(b"!011235C2B3E666D459\r"), bytes)


def numbers(simulator: sim.Simulator) -> dict[str, Range]:
    """Return the numbers that may be set, and their limits."""
    kinds = {key: type(getattr(simulator, key)) for key in simulator.controls}
    return {
        key: simulator.ranges.get(key, sim.USUAL_RANGE)
        for key, kind in kinds.items()
        if kind in (int, float)
    }


@each
def test_no_simulator_takes_a_number_that_it_may_not_stand(entry: Entry) -> None:
    simulator = entry.cls.simulator()
    before = simulator.simulate()["values"]
    for key, (low, high) in numbers(simulator).items():
        kind = type(before[key])
        nonsense = [math.nan, math.inf, -math.inf] if kind is float else []
        for value in (*nonsense, kind(low) - 1, kind(high) + 1, 10**400):
            with pytest.raises(ValueError, match=f"{key} is "):
                simulator.simulate("set", **{key: value})
    assert simulator.simulate()["values"] == before


@each
async def test_a_simulator_stands_every_number_that_it_takes(
    entry: Entry, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for key, limits in numbers(entry.cls.simulator()).items():
        for value in limits:
            simulator = entry.cls.simulator()
            simulator.folder = tmp_path
            simulator.simulate("set", **{key: type(getattr(simulator, key))(value)})
            async with presented(entry, simulator) as device:
                await sample_where(device, lambda sample: True)
    assert "the simulator" not in caplog.text  # cannot answer, or has stopped


async def test_a_simulator_that_fails_hangs_up_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parrot = Parrot()
    parrot.answer = lambda frame: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert await heard(parrot, b"") == b"<closed>"
    assert "cannot answer" in caplog.text


async def test_nothing_unasked_comes_between_the_pieces_of_a_reply() -> None:
    class Talker(Parrot):
        def unsolicited(self) -> tuple[bytes, float | None]:
            return b"(knob)\n", 0.001

    talker = Talker()
    talker.simulate("split", gap=0.002)
    lines = (await heard(talker, b"one\ntwo\n")).splitlines()
    assert [line for line in lines if line != b"(knob)"] == [b"one", b"two", b"end"]
    assert b"(knob)" in lines


async def test_hardware_that_speaks_only_after_requests_sleeps_until_then() -> None:
    class Echo(Parrot):
        pending = b""
        calls = 0

        def answer(self, frame: bytes) -> bytes:
            self.pending = b"(" + frame + b" done)\n"
            return super().answer(frame)

        def unsolicited(self) -> tuple[bytes, float | None]:
            said, self.pending = self.pending, b""
            self.calls += 1
            return said, math.inf

    echo = Echo()
    async with sim.serve(echo) as place, asyncio.timeout(AT_MOST):
        reader, writer = await asyncio.open_connection(**place)
        for frame in (b"one", b"two"):
            writer.write(frame + b"\n")
            assert await reader.readline() == frame + b"\n"
            assert await reader.readline() == b"(" + frame + b" done)\n"
        writer.close()
    assert echo.calls == 3


async def test_who_is_busy_says_nothing_at_all() -> None:
    heard_it = asyncio.Event()

    class Greeter(Parrot):
        greeting = b"Welcome\n"

        def cut(self, buffer: bytearray) -> bytes | None:  # type: ignore[override]
            if frame := Parrot.cut(buffer):
                heard_it.set()
            return frame

        def unsolicited(self) -> tuple[bytes, float | None]:
            return b"(knob)\n", None

    greeter = Greeter()
    greeter.simulate("busy")
    async with sim.serve(greeter) as place:
        reader, writer = await asyncio.open_connection(**place)
        writer.write(b"one\n")
        async with asyncio.timeout(AT_MOST):
            await heard_it.wait()
            greeter.simulate("clear")
            writer.write(b"two\n")
            assert await reader.readline() == b"two\n"
        writer.close()


async def test_a_server_ends_while_connections_are_being_made() -> None:
    async with sim.serve(Parrot()) as place:
        connecting = [asyncio.open_connection(**place) for _ in range(5)]
        streams = await asyncio.gather(*connecting)
    for reader, writer in streams:
        async with asyncio.timeout(AT_MOST):
            (end,) = await asyncio.gather(reader.read(), return_exceptions=True)
        assert end == b"" or isinstance(end, ConnectionError)
        writer.close()
