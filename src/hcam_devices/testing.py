"""Tests of a device: helpers, and the suite of faults that every device has to pass.

    @pytest.mark.parametrize("fault", faults_of(DomeThermometer), ids=str)
    async def test_a_fault(fault: Fault, tmp_path: Path) -> None:
        await check_fault(DomeThermometer, fault, tmp_path)

Each fault is put between the device and its simulator, whose clock stands still, so that what was
read before the fault is the truth until its end. Whatever the fault, a sample is the truth, or null
or offline with a reason. A second device of the same kind runs in the same loop and must not
notice. A digit that was changed or added (flip, insert) is tested only if the protocol has a
checksum, that is, if the simulator offers the fault ``checksum``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .core import sim
from .core.device import Device, Sample
from .core.link import Serial, Tcp
from .core.modbus import Modbus

FAST = {"poll_every": 0.02}
IMPATIENCE = 0.1
"""The timeout (s) of a device whose hardware has a fault."""
AT_MOST = 120.0
"""A test that waits for longer (s) has failed, even on a machine that is ten times too busy."""

HARMLESS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.002},
    "split": {"gap": 0.0005},
    "double": {},
    "unsolicited": {},
    "closed": {},
}
"""Faults after which a device may go on: they do not have to be noticed."""

WIRE: dict[str, dict[str, Any]] = {
    "silence": {},
    # The reply comes when the fault is cleared; the device has certainly given up by then.
    "late": {"seconds": AT_MOST, "times": 1},
    "late for ever": {"seconds": AT_MOST, "times": 1000},
    "garbage": {},
    "drop": {},
    "drop the first": {"index": 0},
    "disconnect": {"when": "before"},
    "disconnect in the middle": {"when": "during"},
    "disconnect afterwards": {"when": "after"},
    "busy": {},
    "refuse": {},
}
CHECKED = {"flip", "insert"}
"""Faults that only a checksum reveals."""
TRUE = {"alarm", "static", "emergency", "power_cycle", "limit", "heading", "closing"}
TRUE |= {"leap_second", "time", "status", "failure", "disk_full", "archive"}
TRUE |= {"refused", "unheard", "unanswered", "broken", "failed", "hang", "unsettled", "flapping"}
"""Faults of our simulators that make no reading wrong: they change the hardware itself, or what no
field shows."""
ON_CONNECTION = {"identity", "unnamed"}
"""Faults that a device may notice only when it makes a connection."""


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return its time in Unix seconds."""
        return self.now


async def sample_where(device: Device, predicate: Callable[[Sample], Any]) -> Sample:
    """Return the next sample for which a condition is true."""
    found: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
    last: list[Sample] = []

    def listen(sample: Sample) -> None:
        last[:] = [sample]
        try:
            if not found.done() and predicate(sample):
                found.set_result(sample)
        except Exception as error:  # noqa: BLE001  (for the test to see)
            found.set_exception(error)

    device.listeners.append(listen)
    try:
        async with asyncio.timeout(AT_MOST):
            return await found
    except TimeoutError:
        raise AssertionError(f"no such sample within {AT_MOST:g} s; the last: {last}") from None
    finally:
        device.listeners.remove(listen)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, looking again and again."""
    async with asyncio.timeout(AT_MOST):
        while not condition():  # noqa: ASYNC110  (it happens elsewhere)
            await asyncio.sleep(0.01)


def online(sample: Sample) -> bool:
    """Return whether the device is online."""
    return bool(sample["state"]["connection"] == "online")


def offline(sample: Sample) -> bool:
    """Return whether the device is offline."""
    return not online(sample)


def reasons(sample: Sample, field: str | None = None) -> str:
    """Return the reasons of all alarms as one text, or of those of a field."""
    return "; ".join(a["reason"] for a in sample["alarms"] if field in (None, a["field"]))


@asynccontextmanager
async def living(*devices: Device) -> AsyncIterator[None]:
    """Run devices; at the end each must end when it is cancelled, and must not have died."""
    tasks = [asyncio.create_task(device.run()) for device in devices]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=AT_MOST)
        ended = [task.done() for task in tasks]
        deaths = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    if not all(ended):
        raise AssertionError("a device did not end when it was cancelled")
    if any(deaths):
        raise AssertionError(f"a device has ended with an error: {deaths}")


@asynccontextmanager
async def presented(
    build: Callable[..., Device], simulator: Any, port: int = 0, **settings: Any
) -> AsyncIterator[Device]:
    """Run a device, made by ``build`` from settings, with its simulator on a free port."""
    async with sim.serve(simulator, port) as place:
        device = build(**(FAST | place | settings))
        async with living(device):
            yield device


def fed(
    cut: Callable[[bytearray], bytes | None], stream: bytes, sizes: Iterable[int]
) -> list[bytes]:
    """Return the frames cut from a stream that arrives in pieces of these sizes."""
    buffer, frames = bytearray(), []
    for size in [*sizes, len(stream)]:
        buffer += stream[:size]
        stream = stream[size:]
        while (frame := cut(buffer)) is not None:
            frames.append(frame)
    return frames


TOLERANCE = {"deg_C": 1.0, "l / min": 0.1, "mbar": 5e-6, "pix": 0.0, "mm": 0.0, "A": 0.1}
TOLERANCE |= {"GB": 20.0}  # space on a true disk
"""How far a value may be from the truth, by its unit, while the simulator's clock stands still."""


def lies(sample: Sample, truth: Sample) -> list[str]:
    """Return everything in a sample that is neither the truth nor null with a reason."""
    found = []
    explained = {alarm["field"] for alarm in sample["alarms"] if alarm["reason"]}
    # A telescope's header (telpars) is passed on as it is, whatever it says.
    fields = truth.keys() - {"device", "timestamp", "state", "alarms", "telpars", "archive"}
    if offline(sample) and "connection" not in explained:
        found.append("offline without a reason")
    for name in sorted(fields):
        value, true = _current(sample[name]), _current(truth[name])
        if value is None:
            if online(sample) and name not in explained and true is not None:
                found.append(f"{name} is null without a reason")
        elif offline(sample):
            found.append(f"{name} is {value} while offline")
        elif not _close(value, true):
            found.append(f"{name} is {value}, in truth {true}")
    return found


def _current(value: Any) -> Any:
    """Return the value of a field; of a position with its target, the position."""
    return value["current"] if isinstance(value, dict) and "current" in value else value


def _close(value: Any, true: Any) -> bool:
    if not isinstance(true, dict):
        return bool(value == true)
    far = abs(value["value"] - true["value"])
    return bool(value["unit"] == true["unit"] and far <= TOLERANCE.get(true["unit"], 0.0))


def complete(sample: Sample) -> bool:
    """Return whether every value could be read; a null without an alarm is allowed."""
    missed = {alarm["field"] for alarm in sample["alarms"]}
    return online(sample) and not any(
        _current(value) is None and name in missed for name, value in sample.items()
    )


@dataclass(frozen=True)
class Fault:
    """A fault of the suite: what it is called in reports, and what is injected."""

    title: str
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name by which the simulator offers it."""
        return self.title.partition(" ")[0]

    def __str__(self) -> str:
        return self.title


def keeps_a_connection(cls: type[Device]) -> bool:
    """Return whether a device notices the end of a connection before it asks again."""
    return issubclass(cls.link_type, (Tcp, Serial, Modbus))


def faults_of(cls: type[Device], without: Iterable[str] = ()) -> list[Fault]:
    """Return the faults of the suite for a kind of device.

    ``without`` names faults of its own simulator that tell the truth: they change the hardware, or
    something that no field shows. Test them by themselves.
    """
    simulator = cls.simulator()
    offers = simulator.offers()
    apart = {*TRUE, "silence", *CHECKED, *HARMLESS, *without}
    found: dict[str, dict[str, Any]] = {name: {} for name in offers if name not in apart}
    found |= WIRE
    found |= {name: {} for name in sorted(CHECKED) if "checksum" in offers}
    found |= {name: chosen for name, chosen in HARMLESS.items() if name in offers}
    if simulator.programs:  # a program prints its answer when it has the whole
        del found["split"]
    if not keeps_a_connection(cls):  # after its answer, no connection is needed any more
        del found["disconnect afterwards"]
    return [Fault(title, chosen) for title, chosen in found.items()]


async def check_fault(
    cls: type[Device], fault: Fault, folder: Path, build: Callable[..., Device] | None = None
) -> None:
    """Raise AssertionError if a device lies, or is silent, while its hardware has a fault.

    Simulated hardware keeps its files in ``folder``. ``build`` makes the device from settings; by
    default the class does.
    """
    build = build or (lambda **settings: cls("tested", **settings))
    simulator, untouched = cls.simulator(clock=Clock()), cls.simulator(clock=Clock())
    simulator.folder = untouched.folder = folder
    told: list[Sample] = []
    beside: list[Sample] = []
    # How long a program takes depends on the machine: without a fault it has to have an answer.
    patience = AT_MOST if simulator.programs else IMPATIENCE
    # The neighbour waits for the other most of the time, so it polls less often.
    async with (
        presented(build, simulator, timeout=patience) as device,
        presented(build, untouched, timeout=AT_MOST, poll_every=0.05) as neighbour,
    ):
        await sample_where(neighbour, complete)
        truth = await sample_where(device, complete)  # its next poll begins with the fault
        device.listeners.append(told.append)
        neighbour.listeners.append(beside.append)

        device.link.timeout = IMPATIENCE
        simulator.simulate(fault.name, **fault.chosen)
        if fault.name == "unnamed":  # its name is only looked up when it was restarted
            simulator.simulate("disconnect", when="before", times=1)
        if fault.name in ON_CONNECTION:
            simulator.hang_up()
        for _ in range(3):
            await sample_where(neighbour, lambda sample: True)
        for _ in range(4):
            await sample_where(device, lambda sample: True)
        # No poll has begun since the last sample, so each of them had the fault in all replies.
        during = list(told)
        device.link.timeout = patience
        simulator.simulate("clear")
        await sample_where(device, complete)
        await sample_where(device, complete)

    found = [lie for sample in told for lie in lies(sample, truth)]
    found += [f"neighbour: {lie}" for sample in beside for lie in lies(sample, truth)]
    found += ["neighbour: it noticed the fault"] * (not all(map(complete, beside)))
    # The first sample may be of a poll that had begun before the fault.
    if fault.name not in HARMLESS and all(map(complete, during[:2])):
        found.append("the device did not report the fault")
    if found:
        raise AssertionError(f"{cls.__name__}, {fault}: " + "; ".join(found))
