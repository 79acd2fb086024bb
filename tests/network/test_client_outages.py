"""Router and server are killed under subscriptions: none misses, doubles or reorders a sample."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psutil

from hcam_devices.client import Reading, connect
from hcam_devices.wamp import utils
from hcam_devices.wamp.telemetry import Telemetry

from ..conftest import Scaled
from .recorded import LOADS, Number, published, start_flood
from .tools import Net, living, until

SMALL = 10
"""The buffer of the slow consumer."""


class Heard:
    """What one consumer has got, in order."""

    def __init__(self) -> None:
        self.numbers: list[Number] = []

    def note(self, reading: Reading) -> None:
        if reading.field == "count1" and reading.seq is not None:
            self.numbers.append((reading.device, reading.epoch, reading.seq))

    def compare(self, journals: set[Number]) -> None:
        """Wait until everything from the first number on is here; fail if it is not in order."""
        until(lambda: journals <= {*self.numbers} | self._before(journals))
        numbers = self.numbers.copy()  # it grows all the while
        assert len(numbers) == len({*numbers}), "doubled"
        for device in LOADS:
            by_epoch: dict[str, list[int]] = {}
            for name, epoch, seq in numbers:
                if name == device:
                    by_epoch.setdefault(epoch, []).append(seq)
            for seqs in by_epoch.values():
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    def _before(self, journals: set[Number]) -> set[Number]:
        """Return the numbers from before it began to listen."""
        first = {device: (epoch, seq) for device, epoch, seq in reversed(self.numbers)}
        return {
            (device, epoch, seq)
            for device, epoch, seq in journals
            if device in first and epoch == first[device][0] and seq < first[device][1]
        }


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def has_flood() -> bool:
    try:
        return all(utils.call(f"hipercam.{name}.rpc.telemetry") for name in LOADS)
    except utils.WampError:
        return False


def test_no_subscription_misses_doubles_or_reorders_a_sample(own: Net, scaled: Scaled) -> None:
    own.start_router("--instrument", own.instrument_with({"hwserver-flood": LOADS}))
    start_flood(own)
    until(has_flood)
    waits, awaits, called, slow, raw = (Heard() for _ in range(5))
    go, end = threading.Event(), threading.Event()

    async def awaiting() -> None:
        async with connect() as instrument:
            async for reading in instrument.subscribe("load*.count1"):
                awaits.note(reading)
                if end.is_set():
                    return

    most = 0

    async def slowly() -> None:
        nonlocal most
        telemetry = Telemetry(own.address)
        await telemetry.open()
        stream = telemetry.stream(lambda name: name in LOADS, SMALL)
        while not end.is_set():
            while not go.is_set() and not end.is_set():
                await asyncio.sleep(0.02)
                most = max(most, stream.waiting)
            for sample in await stream.take():
                if sample["seq"] is not None:
                    slow.numbers.append((sample["device"], sample["epoch"], sample["seq"]))
        await telemetry.close()

    def hears_samples() -> None:
        for sample in utils.subscribe("hipercam.load*.telemetry"):
            if sample["seq"] is not None:
                raw.numbers.append((sample["device"], sample["epoch"], sample["seq"]))
            if end.is_set():
                return

    with connect() as instrument, ExitStack() as stack:
        stack.callback(end.set)  # or its threads disturb the tests after it, if it fails
        subscription = instrument.subscribe("load*.count1")
        instrument.subscribe("load*", callback=called.note)
        works = (
            lambda: deque(map(waits.note, subscription), maxlen=0),
            lambda: asyncio.run(awaiting()),
            lambda: asyncio.run(slowly()),
            hears_samples,
        )
        threads = [in_thread(work) for work in works]
        everybody = waits, awaits, called, raw
        until(lambda: all(len(one.numbers) > 50 for one in everybody))
        for round_ in range(scaled(2, soak=20)):
            kill(own, "crossbar")
            before = len(published(own))
            until(lambda before=before: len(published(own)) > before + 200)  # type: ignore[misc]
            own.start_router("--instrument", own.instrument_with({"hwserver-flood": LOADS}))
            if round_ % 2:
                kill(own, "flood.py")
                start_flood(own)
            heard = [len(one.numbers) for one in everybody]
            until(
                lambda heard=heard: all(  # type: ignore[misc]
                    len(one.numbers) > was + 50 for one, was in zip(everybody, heard, strict=True)
                )
            )
        go.set()
        wanted = published(own)
        for one in (*everybody, slow):
            one.compare(wanted)
        assert 0 < most <= SMALL
        assert subscription.lost == []
    for thread in threads:
        thread.join()


def kill(net: Net, name: str) -> None:
    processes = living(net.home, name)
    assert processes
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)
