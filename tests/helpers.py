"""Helpers of several tests: wait for a sample, run a device, set a clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from hcam_devices.config.instrument import Entry, load
from hcam_devices.core import sim
from hcam_devices.core.device import Device, Sample
from hcam_devices.core.link import Serial, Tcp
from hcam_devices.core.modbus import Modbus
from hcam_devices.journal.ranges import SampleRange, SampleRanges

AT_MOST = 120.0
"""Seconds after which a test that waits has failed, on a machine ten times too busy as well."""

FAST = {"poll_every": 0.02}
ENTRIES = load().entries
SIMULATED = {
    entry.settings.get("kind", entry.cls.__name__): entry
    for entry in reversed(ENTRIES.values())
    if entry.cls.simulator
}
"""One entry of the default instrument for each class that has a simulator."""


CONNECTED = {
    kind: entry
    for kind, entry in SIMULATED.items()
    if issubclass(entry.cls.link_type, (Tcp, Serial, Modbus))
}
"""Those that keep a connection, and so notice its end at once; the others when they next ask."""


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
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
    """Wait for something that only looking can tell."""
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
    """Return every reason for alarm, or every one of a field."""
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
    assert all(ended), "a device did not end when it was cancelled"
    assert not deaths


@asynccontextmanager
async def presented(
    entry: Entry, simulator: Any, port: int = 0, **settings: Any
) -> AsyncIterator[Device]:
    """Run a device of the instrument with its simulator on a free port."""
    async with sim.serve(simulator, port) as place:
        device = entry.build(**(FAST | place | settings))
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
        value, true = sample[name], truth[name]
        if value is None:
            if online(sample) and name not in explained and true is not None:
                found.append(f"{name} is null without a reason")
        elif offline(sample):
            found.append(f"{name} is {value} while offline")
        elif not _close(value, true):
            found.append(f"{name} is {value}, in truth {true}")
    return found


def _close(value: Any, true: Any) -> bool:
    if isinstance(true, dict) and "current" in true:
        return _close(value["current"], true["current"])
    if not isinstance(true, dict):
        return bool(value == true)
    far = abs(value["value"] - true["value"])
    return bool(value["unit"] == true["unit"] and far <= TOLERANCE.get(true["unit"], 0.0))


def complete(sample: Sample) -> bool:
    """Return whether every value could be read; a null without an alarm is allowed."""
    missed = {alarm["field"] for alarm in sample["alarms"]}
    return online(sample) and not any(
        value is None and name in missed for name, value in sample.items()
    )


def samples(device: str, epoch: str, first: int, last: int) -> SampleRanges:
    """Return samples of one device; none if ``last`` is 0."""
    return SampleRanges([SampleRange(device, epoch, first, last)] * bool(last))
