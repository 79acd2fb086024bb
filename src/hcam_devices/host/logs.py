"""What programs log: where it goes, in which form, and that it stays small.

Programs log to standard error. ``hcam up`` and ``hcam router`` let their children write to files,
and keep these files small from outside: a child needs no reader, and goes on if its parent dies.
"""

import asyncio
import logging
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import output

LEVELS = ("debug", "info", "warning", "error")
PACKAGE = str(Path(__file__).parent.parent)
REPEAT_AFTER_S = 3600.0
MAX_CAUSES = 256
MAX_LOG_BYTES = 10 * 2**20
OLD_LOGS = 3
"""Old logs that are kept: NAME.1 is the newest of them."""
LOOK_PERIOD_S = 1.0
SURROUNDINGS_PERIOD_S = 10.0
MIN_STEP_S = 1.0
"""A clock that is only disciplined never differs by this much within one look."""


def set_up(level: str) -> None:
    """Log from ``level`` on, to standard error, with times in UTC.

    Above debug, a fault that a library or a traceback repeats is logged once an hour.
    """
    handler = _Handler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    if level != "debug":
        handler.addFilter(Repeats())
        # Each of its errors is raised, too, and logged by the device.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Handler(logging.Handler):
    """Writes to standard error; what cannot be written at once is counted, and lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        if self.lost:
            text = f"({self.lost} messages could not be written here)\n{text}"
        self.lost = 0 if output.write(2, text) else self.lost + 1


class Repeats(logging.Filter):
    """Rejects what a library repeats: texts that differ in numbers only have the same cause.

    Our own messages are written so that each cause is told once; tracebacks are treated as those of
    libraries. ``clock``: seconds that never step.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self.causes: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; it then says how often it was not logged."""
        if record.pathname.startswith(PACKAGE) and not record.exc_info:
            return True
        if record.levelno < logging.WARNING:
            return False
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        cause = (record.name, re.sub(r"\d+", "#", record.getMessage()), kind)
        since, times = self.causes.pop(cause, (float("-inf"), 0))
        now = self.clock()
        if now - since < REPEAT_AFTER_S:
            self.causes[cause] = since, times + 1
            return False
        self.causes[cause] = now, 0
        if len(self.causes) > MAX_CAUSES:
            self.causes.popitem(last=False)
        if times:
            record.msg, record.args = f"{record.getMessage()} (and {times} times before)", None
        return True


def rotate(path: Path, most: int = MAX_LOG_BYTES) -> None:
    """Make a log small again that has more than ``most`` bytes, and keep what it has as NAME.1.

    Programs that have it open, for appending, go on writing to it. Where there is no room for
    another file, what it has is lost.
    """
    if path.stat().st_size <= most:
        return
    for number in range(OLD_LOGS - 1, 0, -1):
        with suppress(FileNotFoundError):
            _old(path, number).replace(_old(path, number + 1))
    try:
        shutil.copyfile(path, _old(path, 1))
    except OSError:
        _old(path, 1).unlink(missing_ok=True)
    os.truncate(path, 0)


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


async def keep_small(*paths: Path) -> None:
    """Rotate logs when they are large, for ever."""
    while True:
        for path in paths:
            with suppress(OSError):  # said by those who watch the folder
                await asyncio.to_thread(rotate, path)
        await asyncio.sleep(LOOK_PERIOD_S)


class Surroundings:
    """What happens to a program from outside: its clock steps, its folders are moved or removed.

    ``wall`` returns Unix time, ``steady`` seconds that never step, also while the machine sleeps.
    """

    def __init__(
        self,
        *folders: Path,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.wall, self.steady = wall, steady
        self.offset = wall() - steady()
        self.folders = {one: found for one in folders if (found := _identity(one))}
        self.gone: set[Path] = set()

    def look(self) -> list[str]:
        """Return what has happened since the last look, a sentence each."""
        return [*self._clock(), *(text for path in self.folders for text in self._folder(path))]

    def _clock(self) -> list[str]:
        before = self.steady()
        now = self.wall()
        if self.steady() - before > MIN_STEP_S / 2:  # stopped between the two: look again later
            return []
        step, self.offset = now - before - self.offset, now - before
        if abs(step) < MIN_STEP_S:
            return []
        way = "forward" if step > 0 else "back"
        was = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - step))
        return [f"the clock of this machine was set {way} by {abs(step):.1f} s, at {was}"]

    def _folder(self, path: Path) -> list[str]:
        there = _identity(path) == self.folders[path]
        if there == (path not in self.gone) or self.gone & {*path.parents}:
            return []  # nothing new, or told of the folder above
        if there:
            self.gone.remove(path)
            return [f"{path} is the folder again that it was at the start"]
        self.gone.add(path)
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


async def watch_surroundings(tell: Callable[[str], None], *folders: Path) -> None:
    """Tell of each step of the clock, and if a folder is moved or removed, for ever."""
    surroundings = Surroundings(*folders)
    while True:
        await asyncio.sleep(SURROUNDINGS_PERIOD_S)
        for text in await asyncio.to_thread(surroundings.look):
            tell(text)
