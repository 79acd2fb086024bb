"""Notices when the clock of the machine is set, and when folders of a program are moved."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

PERIOD_S = 10.0
"""Look this often."""
MIN_STEP_S = 1.0
"""NTP never moves a clock by this much between two looks, unless it sets the clock."""


class Surroundings:
    """The clock and some folders, as they were at the last look.

    ``wall``: Unix time. ``steady``: seconds that never step, and that count while the machine
    sleeps.
    """

    def __init__(
        self,
        *folders: Path,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.wall, self.steady = wall, steady
        self.offset = wall() - steady()
        self.folders = {path: found for path in folders if (found := _identity(path))}
        self.missing: set[Path] = set()

    def look(self) -> list[str]:
        """Return a sentence for each event since the last look."""
        return [*self._clock(), *(text for path in self.folders for text in self._folder(path))]

    def _clock(self) -> list[str]:
        before = self.steady()
        now = self.wall()
        if self.steady() - before > MIN_STEP_S / 2:
            return []  # the process was stopped between the two readings: leave it to the next look
        step, self.offset = now - before - self.offset, now - before
        if abs(step) < MIN_STEP_S:
            return []
        way = "forward" if step > 0 else "back"
        was = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - step))
        return [f"the clock of this machine was set {way} by {abs(step):.1f} s, at {was}"]

    def _folder(self, path: Path) -> list[str]:
        there = _identity(path) == self.folders[path]
        if there == (path not in self.missing) or self.missing & {*path.parents}:
            return []  # nothing new, or the folder above has been reported
        if there:
            self.missing.remove(path)
            return [f"{path} is back: it is the folder of the start again"]
        self.missing.add(path)
        return [
            f"{path} was renamed, removed or replaced; open files are still written where they "
            "are now. Put the folder back, or restart"
        ]


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def watch(report: Callable[[str], None], *folders: Path) -> None:
    """Report each step of the clock and each moved or removed folder, until cancelled."""
    surroundings = Surroundings(*folders)
    while True:
        await asyncio.sleep(PERIOD_S)
        for text in await asyncio.to_thread(surroundings.look):
            report(text)
