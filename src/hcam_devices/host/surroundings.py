"""Notices what happens to a program from outside: its clock is set, its folders are moved."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

PERIOD_S = 10.0
MIN_STEP_S = 1.0
"""A clock that is only kept right by NTP never moves by this much between two looks."""


class Surroundings:
    """The clock and some folders, as they were when they were last looked at.

    ``wall`` returns Unix time; ``steady`` returns seconds that never step, and that go on while the
    machine sleeps.
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
        """Return what has happened since the last look, a sentence for each event."""
        return [*self._clock(), *(text for path in self.folders for text in self._folder(path))]

    def _clock(self) -> list[str]:
        before = self.steady()
        now = self.wall()
        if self.steady() - before > MIN_STEP_S / 2:
            return []  # this process was stopped between the two clocks: the next look will tell
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
            return [f"{path} is the folder again that it was at the start"]
        self.missing.add(path)
        return [
            f"{path} was renamed, removed or replaced; files that were open there are still "
            "written, where they are now. Put the folder back, or restart"
        ]


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def watch(report: Callable[[str], None], *folders: Path) -> None:
    """Report each step of the clock, and each folder that is moved or removed, until cancelled."""
    surroundings = Surroundings(*folders)
    while True:
        await asyncio.sleep(PERIOD_S)
        for text in await asyncio.to_thread(surroundings.look):
            report(text)
