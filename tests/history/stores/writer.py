"""Writes to a store, and closes its nights meanwhile, as the recorder does, until it is killed.

``python writer.py FOLDER SEED STEPS``: with STEPS, it kills itself after so many of the steps in
which a closing changes something on the disk.
"""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from hcam_devices.history.stores import embedded
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.files import SqliteFile
from hcam_devices.journal.points import Field, Point, night_bounds
from hcam_devices.journal.records import Record

DEVICES = ("slide", "slide.command", "ccd 1/2")
START, _ = night_bounds("2025-11-21")
STEP_MS = 600_000
"""From a sample to the next: about 144 come in a night."""
LATE = 40
"""Every seventh sample comes so much later than the others."""


def point(device: str, seq: int) -> Point:
    """Return a sample, whose fields, kinds and units change all the time."""
    rng = random.Random(f"{device} {seq}")
    values: dict[str, Field] = {"position": rng.random() * 1000, "synced": rng.random() < 0.5}
    units = {"position": "mm" if seq % 50 > 45 else "pix"}
    if seq % 3:
        values["mode"] = "fa\0st\n" if seq % 31 < 3 else float(seq)
        values["Mode"] = rng.choice(["", '"', "é"])
    if seq % 11 == 0:
        values, units = {}, {}
    return Point(device, f"epoch{seq // 500}", seq % 500 + 1, START + STEP_MS * seq, values, units)


def numbers(upto: int) -> set[tuple[str, int]]:
    """Return device and number of the samples that come until one of a number has come."""
    return {
        (device, seq)
        for device in DEVICES
        for seq in range(upto + 1)
        if seq % 7 or seq + LATE <= upto
    }


def say(line: str) -> None:
    """Print a line at once: two threads do."""
    print(f"{line}\n", end="", flush=True)


def main(folder: Path, seed: str, steps: int) -> None:
    """Write and close for ever."""
    rng = random.Random(seed)
    newest = 0
    with ThreadPoolExecutor(1) as thread:

        def call(what: Callable[..., Any], *args: Any) -> Any:
            return thread.submit(what, *args).result()

        store = EmbeddedStore(
            "embedded", folder, clock=lambda: (START + STEP_MS * (newest + 1)) / 1000
        )
        if steps:
            killed_after(steps, rng)
        ends = [(samples.epoch, samples.last) for samples in store.stored.ranges()]
        newest = before = max((int(epoch[5:]) * 500 + last - 1 for epoch, last in ends), default=0)
        turn = threading.Semaphore(0), threading.Semaphore(1)

        def close() -> None:
            while True:
                turn[0].acquire()
                with suppress(OSError):  # the other process was killed
                    for trouble in store.close_nights(call=call):
                        say(f"trouble {trouble}")
                turn[1].release()

        threading.Thread(target=close, daemon=True).start()
        for seq in range(newest, 10**6):
            newest = seq
            missing = numbers(seq) - (numbers(seq - 1) if seq > before else set())
            call(store.write, [Record.of(point(*number)) for number in missing])
            say(f"wrote {seq}")
            if seq % 5 == 0:  # and the next ones come meanwhile
                turn[1].acquire()
                turn[0].release()


def killed_after(steps: int, rng: random.Random) -> None:
    """Let this process die before or after one of the next steps."""
    left = iter(range(steps))
    do = SqliteFile.do

    def dying(what: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            counts = what is not do or named.get("full")
            dies = counts and next(left, None) is None
            if dies and rng.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            result = what(*args, **named)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for where, name in (
        (Path, "rename"),
        (Path, "unlink"),
        (embedded, "sync"),
        (SqliteFile, "do"),
        (EmbeddedStore, "enter"),
        (EmbeddedStore, "_finish"),
    ):
        setattr(where, name, dying(getattr(where, name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
