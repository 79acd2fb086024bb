"""The time that decides which data are old enough to be deleted. A wrong clock deletes nothing.

The clock of a machine that starts without a battery or a time server may be wrong. Therefore this
time follows the running time of programs; a pause counts if it is short. After a longer pause, or
when the clock is set, data become older by running time only. The clock is trusted again once it
has run steadily for as long as data are kept: everything that was there before has then been kept
as long as promised.
"""

import json
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

DAY_S = 86400.0
MAX_PAUSE_S = 2 * DAY_S
"""Trust the clock after a step, or a pause of the program, of at most this length (s)."""


class AgeClock:
    """The Unix time that determines the age of data, kept in a small file beside them.

    ``clock`` may be set, ``steady`` counts seconds of running. ``newest`` returns when the newest
    data were written; it is called if there is no file yet. Data are kept for ``keep`` seconds.
    """

    def __init__(
        self,
        path: Path,
        keep: float,
        clock: Callable[[], float],
        steady: Callable[[], float],
        newest: Callable[[], float | None],
    ) -> None:
        self.path, self.keep, self.clock, self.steady = path, keep, clock, steady
        self._waited, self._warned = 0.0, False
        self._wall, self._at = clock(), steady()
        self._time = self._read()
        if math.isnan(self._time):
            first = newest()
            before = self._time = self._wall if first is None else min(first, self._wall)
        else:
            before = self._before
        if 0 <= (pause := self._wall - before) <= MAX_PAUSE_S:
            self._time += pause
        else:
            self._waited = 0.0
        self.now()

    def _read(self) -> float:
        """Return the time in the file; NaN if there is none, or it is damaged."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self._before, self._waited = float(kept["clock"]), float(kept["waited"])
            return float(kept["time"])
        except (OSError, KeyError, TypeError, ValueError):
            return math.nan

    def now(self) -> float:
        """Return the time: never later than the clock, nor far beyond the running time."""
        wall, at = self.clock(), self.steady()
        passed, step = at - self._at, wall - self._wall - (at - self._at)
        self._wall, self._at = wall, at
        self._time += passed
        if abs(step) > MAX_PAUSE_S or not self.warning():
            self._waited = 0.0
        else:
            self._waited += passed
            if self._waited >= self.keep:
                self._time, self._waited = wall, 0.0
        self._save()
        if self.warning() and not self._warned:
            log.warning("%s", self.warning())
        self._warned = bool(self.warning())
        return min(wall, self._time)

    def warning(self) -> str:
        """Return a warning if the clock has jumped, with what to do; empty if it has not."""
        ahead = self._wall - self._time
        if abs(ahead) <= MAX_PAUSE_S:
            return ""
        days = f"{abs(ahead) / DAY_S:.0f} days {'after' if ahead > 0 else 'before'}"
        left = (self.keep - self._waited) / DAY_S
        return (
            f"the clock of this machine is at {_utc(self._wall)} UTC, {days} {_utc(self._time)},"
            f" the time by the last entries in {self.path.parent} and the running time since; for"
            f" {left:.1f} more days nothing there is deleted because of its age: if the clock is"
            " wrong, set it; if the programs were stopped for so long, there is nothing to do"
        )

    def _save(self) -> None:
        text = json.dumps({"time": self._time, "clock": self._wall, "waited": self._waited})
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(self.path)
        except OSError as error:  # after a restart, less time will have passed
            log.debug("%s cannot be written: %s", self.path, error)


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(" ", "minutes")[:16]
