"""Measures the embedded store: writing a month of the whole instrument, and asking it.

    .venv/bin/python benchmarks/history_query.py --nights 30

takes about 4 GB of disk, which it gives back.
"""

import argparse
import math
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import DAY_MS, Point, night_bounds

DEVICES, FIELDS, EVERY = 27, 8, 2000  # and two texts
FIRST = night_bounds("2026-11-01")[0]
NAMES = [f"temperature{n}" for n in range(FIELDS)]
UNITS = dict.fromkeys(NAMES, "deg_C")


def points(count: int) -> Iterator[Point]:
    """Yield what 27 devices say in so many nights."""
    rng = random.Random(1)
    for seq in range(count * DAY_MS // EVERY):
        at = FIRST + seq * EVERY
        slow = 20 * math.sin(seq / 3000)
        for n in range(DEVICES):
            noise = rng.random()
            values: dict[str, float | bool | str] = {
                name: round(slow + i + noise, 3) for i, name in enumerate(NAMES)
            }
            values["state.connection"] = "online"
            values["alarms"] = "[]"
            yield Point(f"device{n}", "4f3c0a9be1d2", seq + 1, at + 70 * n, values, UNITS)


def measure(what: str, action: Callable[[], Any], times: int = 7) -> None:
    """Print how long something takes, in the median, and how long the processor worked."""
    took, worked = [], []
    for _ in range(times):
        begin, busy = time.perf_counter(), time.process_time()
        action()
        took.append(time.perf_counter() - begin)
        worked.append(time.process_time() - busy)
    print(f"{what:<50} {statistics.median(took):7.3f} s, CPU {statistics.median(worked):7.3f} s")


def main() -> None:
    """Write, ask, roll up, ask again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where; a temporary folder otherwise")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        run(Path(folder), asked.nights)


def run(folder: Path, count: int) -> None:
    """Do it in a folder."""
    now = FIRST + count * DAY_MS
    store = EmbeddedStore("embedded", folder, clock=lambda: now / 1000)
    source, rows, writing = points(count), 0, 0.0
    while batch := list(islice(source, 1000)):
        begin = time.process_time()
        store.write(batch)
        writing += time.process_time() - begin
        rows += len(batch)
    store.close()
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{rows} samples of {FIELDS + 2} fields, {count} nights, {size / rows:.0f} bytes each")
    print(f"written in batches of 1000: {rows / writing:.0f} samples per second of CPU")
    print(f"most memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")

    history = NightFiles(folder)
    middle = FIRST + (count // 2) * DAY_MS + DAY_MS // 3
    day = ("device13", "temperature3", middle, middle + DAY_MS)
    state = ("device13", "state.connection", middle, middle + DAY_MS)
    measure("24 h of one number, raw", lambda: history.series(*day))
    measure("24 h of one text, raw", lambda: history.series(*state))
    measure("24 h of one number, 1000 points", lambda: history.downsampled(*day, 1000))
    whole = ("device13", "temperature3", FIRST, now)
    measure(f"{count} nights of it, 1000 points", lambda: history.downsampled(*whole, 1000), 3)
    measure("which fields there are in 24 h", lambda: history.fields(middle, middle + DAY_MS))
    measure("opening", lambda: EmbeddedStore("embedded", folder).close(), 3)

    now += 40 * DAY_MS
    store = EmbeddedStore("embedded", folder, clock=lambda: now / 1000)
    rolled = min(count, 3)
    measure("check a night and roll it up", store.tidy, rolled)
    store.close()
    size = (folder / "history.sqlite").stat().st_size
    print(f"minutes of a night: {size / rolled / 1e6:.1f} MB")
    day = ("device13", "temperature3", FIRST, FIRST + DAY_MS)
    measure("24 h of one number from minutes, 1000 points", lambda: history.downsampled(*day, 1000))
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
