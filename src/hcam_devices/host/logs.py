"""The log of a program: on standard error, in UTC, without endless repetition."""

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from . import output

PACKAGE = str(Path(__file__).parent.parent)
"""The folder of this package; messages from there are its own."""
REPEAT_AFTER_S = 3600.0
MAX_CAUSES = 256
"""The number of causes to remember; beyond it, the one logged longest ago is forgotten."""


def set_up(level: str) -> None:
    """Log messages of a level of ``output.LEVELS`` and above to standard error, with times in UTC.

    Unless the level is debug, repeated messages of libraries and repeated tracebacks are logged
    once an hour.
    """
    handler = _Handler()
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    if level != "debug":
        handler.addFilter(Repeats())
        # pymodbus also raises each error that it logs, and the device logs it then.
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Handler(logging.Handler):
    """Writes to standard error. Messages that cannot be written at once are dropped and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        if self.lost:
            text = f"({self.lost} earlier messages could not be written)\n{text}"
        written = output.write(2, output.with_priority(text, record.levelname))
        self.lost = 0 if written else self.lost + 1


class Repeats(logging.Filter):
    """Drops repeated messages of libraries, and repeated tracebacks.

    Messages that differ only in numbers have one cause. Messages of this package pass, because it
    logs each cause once. ``clock``: seconds that never step.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self.causes: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; add how often its cause was dropped before."""
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
