"""Measures the embedded store: writing and closing nights of the whole instrument, and asking it.

    .venv/bin/python benchmarks/history_query.py --nights 365 --devices 2

takes 1.3 MB of disk for each device and night, which it gives back. The last night is closed in
parts, the last of which is not closed.
"""

import argparse
import math
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hcam_devices.history.archive import Archive
from hcam_devices.history.child import Child
from hcam_devices.history.sql import ask
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import DAY_MS, Point, night_bounds, night_of
from hcam_devices.journal.records import Record

FIELDS, EVERY = 8, 2000  # and two texts
HOUR_MS = 3_600_000
FIRST = night_bounds("2026-11-01")[0]
NAMES = [f"temperature{n}" for n in range(FIELDS)]
UNITS = dict.fromkeys(NAMES, "deg_C")


def points(devices: int, start: int, end: int) -> Iterator[Point]:
    """Yield what devices say in a span (ms)."""
    rng = random.Random(start)
    for at in range(start, end, EVERY):
        seq = (at - FIRST) // EVERY + 1
        slow = 20 * math.sin(seq / 3000)
        for n in range(devices):
            noise = rng.random()
            values: dict[str, float | bool | str] = {
                name: round(slow + i + noise, 3) for i, name in enumerate(NAMES)
            }
            values["state.connection"] = "online"
            values["alarms"] = "[]"
            yield Point(f"device{n}", "4f3c0a9be1d2", seq, at, values, UNITS)


def measure(what: str, action: Callable[[], Any], times: int = 15) -> None:
    """Print how long something takes, in the median and at least, and the processor's time."""
    took, worked = [], []
    for _ in range(times):
        begin, busy = time.perf_counter(), time.process_time()
        action()
        took.append(time.perf_counter() - begin)
        worked.append(time.process_time() - busy)
    median = statistics.median(took)
    cpu = statistics.median(worked)
    print(f"{what:<50} {median:7.4f} s (least {min(took):7.4f}), CPU {cpu:7.4f} s", flush=True)


def main() -> None:
    """Write, close, ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--devices", type=int, default=27)
    parser.add_argument("--folder", type=Path, help="where; a temporary folder otherwise")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        run(Path(folder), asked.nights, asked.devices)


def run(folder: Path, count: int, devices: int) -> None:
    """Do it in a folder."""
    now = 0
    store = EmbeddedStore("embedded", folder, clock=lambda: now / 1000)
    rows, writing = 0, 0.0

    def write(start: int, end: int) -> None:
        nonlocal rows, writing
        source = points(devices, start, end)
        while batch := list(islice(source, 1000)):
            records = [*map(Record.of, batch)]
            begin = time.process_time()
            store.write(records)
            writing += time.process_time() - begin
            rows += len(batch)

    for start in range(FIRST, FIRST + (count - 1) * DAY_MS, DAY_MS):
        now = start + DAY_MS
        write(start, now)
        store.close_nights(night_of(start))
    last = FIRST + (count - 1) * DAY_MS
    end = last + DAY_MS
    for start in range(last, end, HOUR_MS):
        write(start, start + HOUR_MS)
        now = start + HOUR_MS + (200_000 if start + HOUR_MS < end else 0)
        store.close_nights()
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    print(f"{rows} samples of {FIELDS + 2} fields, {size / rows:.1f} bytes each if closed")
    print(f"written in batches of 1000: {rows / writing:.0f} samples per second of CPU")

    history = NightFiles(folder)
    print(len(history.snapshot("device0", (), last, end).files), "closed parts in the last night")
    number, state = ("device0", "temperature3"), ("device0", "state.connection")
    measure("24 h of one number, raw", lambda: history.series(*number, last, end))
    measure("24 h of one text, raw", lambda: history.series(*state, last, end))
    for days in (1, 30, 365):
        span = end - days * DAY_MS, end
        if days <= count:
            measure(
                f"{days} nights of it, 1000 points",
                partial(history.downsampled, *number, *span, 1000),
                15 if days < 365 else 3,
            )
    archive = Archive(history)
    measure("24 h of it, as a reply", lambda: archive.history("device0.temperature3", last, end))
    measure("which fields there are", history.fields)
    whole = "SELECT count(*), avg(temperature3) FROM device0"
    measure("count and mean of all nights, by SQL", lambda: ask(history, whole), 3)

    def cold() -> None:
        child = Child(folder)
        child.ask("history", "device0.temperature3", last, end)
        child.close()

    measure("24 h of it, as a reply of a new process", cold, 5)
    store.close()
    measure("opening", lambda: EmbeddedStore("embedded", folder).close(), 3)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
