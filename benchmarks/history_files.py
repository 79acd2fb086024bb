"""Measures how the embedded store keeps a night of the whole instrument, and closes it.

    .venv/bin/python benchmarks/history_files.py

prints bytes and processor time for 27 devices with 8 numbers and 2 texts each 2 s. It takes about
1 GB of disk, which it gives back. Another load on the machine makes every time longer.
"""

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal.points import Point, night_bounds
from hcam_devices.journal.records import Record
from hcam_devices.testing import Clock

NIGHT = "2026-11-01"
START, END = night_bounds(NIGHT)
DEVICES, PERIOD_MS, HOUR_MS = 27, 2000, 3_600_000
NAMES = [f"temperature{n}" for n in range(8)]
UNITS = dict.fromkeys(NAMES, "deg_C")


def points(start: int, end: int) -> Iterator[list[Point]]:
    """Yield the samples of all devices in a span (ms), a thousand at a time."""
    rng = random.Random(start)
    batch: list[Point] = []
    for at in range(start, end, PERIOD_MS):
        seq = (at - START) // PERIOD_MS + 1
        slow = 20 * math.sin(seq / 3000)
        for n in range(DEVICES):
            values: dict[str, float | bool | str] = {
                name: round(slow + i + rng.random(), 3) for i, name in enumerate(NAMES)
            }
            values |= {"state.connection": "online", "alarms": "[]"}
            batch.append(Point(f"device{n}", "4f3c0a9be1d2", seq, at + 70 * n, values, UNITS))
            if len(batch) == 1000:
                yield batch
                batch = []
    yield batch


def write(store: EmbeddedStore, start: int, end: int) -> tuple[int, float]:
    """Write a span; return how many samples, and the processor time (s)."""
    count, cpu = 0, 0.0
    for batch in points(start, end):
        records = [*map(Record.of, batch)]
        begin = time.process_time()
        store.write(records)
        cpu += time.process_time() - begin
        count += len(batch)
    return count, cpu


class Busy:
    """The processor time (s) of closing: of the store's own work, and of the other process."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store, self.own = store, 0.0
        self.store.child.ask("fields")  # starts the process
        (self.child,) = psutil.Process().children()
        self.before = self._other()

    def _other(self) -> float:
        times = self.child.cpu_times()
        return times.user + times.system

    def call(self, what: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the store, and count the time of this thread."""
        begin = time.thread_time()
        try:
            return what(*args)
        finally:
            self.own += time.thread_time() - begin

    def close(self, night: str = "", *call: Callable[..., Any]) -> list[str]:
        """Close what is due, or a night; see ``EmbeddedStore.close_nights``."""
        return list(self.call(self.store.close_nights, night, *call))

    @property
    def time(self) -> float:
        """The time since this was made."""
        return self.own + self._other() - self.before

    @property
    def pss(self) -> float:
        """The memory (MiB) of the other process."""
        return float(self.child.memory_full_info().pss / 2**20)


def at_once(folder: Path) -> None:
    """Write a night, and close it at once while live samples of the next one are written."""
    clock = Clock(START / 1000)
    with (
        closing(EmbeddedStore("embedded", folder, clock=clock)) as store,
        ThreadPoolExecutor(1) as thread,
    ):
        count, cpu = write(store, START, END)
        print(f"{'ingest in thousands':<50} {count / cpu:9.0f} samples/s of CPU")
        size = (folder / "tonight.sqlite").stat().st_size
        print(f"{'a sample before it is closed':<50} {size / count:9.1f} bytes")
        clock.now = END / 1000 + 3600
        busy, waited = Busy(store), []

        def call(what: Callable[..., Any], *args: Any) -> Any:
            return thread.submit(busy.call, what, *args).result()

        with ThreadPoolExecutor(1) as other:
            closed = other.submit(busy.close, NIGHT, call)
            at = END
            while not closed.done():
                batch = [*map(Record.of, next(points(at, at + PERIOD_MS)))]
                asked = time.perf_counter()
                thread.submit(store.write, batch).result()
                waited.append(time.perf_counter() - asked)
                at += PERIOD_MS
                time.sleep(0.05)
            assert closed.result() == []
        print(f"{'closing a night at once':<50} {busy.time:9.2f} s CPU")
        what, middle = "  a live write meanwhile, median and longest", statistics.median(waited)
        print(f"{what:<50} {middle:9.3f} {max(waited):.3f} s")
        print(f"{'  PSS of the process that closes':<50} {busy.pss:9.1f} MiB")
        size = sum(path.stat().st_size for path in (folder / "nights" / NIGHT).iterdir())
        print(f"{'a closed sample of 10 fields':<50} {size / count:9.1f} bytes")


def in_parts(folder: Path) -> None:
    """Write a night, and close its parts."""
    clock = Clock(START / 1000)
    with closing(EmbeddedStore("embedded", folder, clock=clock)) as store:
        cpu = 0.0
        for hour in range(START, END, HOUR_MS):
            write(store, hour, hour + HOUR_MS)
            clock.now = (hour + HOUR_MS) / 1000 + 200
            busy = Busy(store)
            assert busy.close() == []
            cpu += busy.time
        print(f"{'closing the parts of a night, and merging them':<50} {cpu:9.2f} s CPU")
        size = (folder / "tonight.sqlite").stat().st_size
        print(f"{'  tonight.sqlite afterwards':<50} {size / 1e6:9.1f} MB")


def main() -> None:
    """Measure both ways of closing."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at_once(Path(folder, "once"))
        in_parts(Path(folder, "hours"))


if __name__ == "__main__":
    main()
