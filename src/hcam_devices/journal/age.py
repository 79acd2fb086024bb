"""The time by which data become old enough to be deleted, which no clock alone can put forward.

A clock that is set wrongly, by a machine that starts without a battery or a time server, must not
delete anything. So this time passes as long as programs run, and a pause is believed if it is
short. After a longer one, or when the clock is set, nothing grows older but by running; only when
the clock has stood by what it says for as long as data are kept, is it believed. By then whatever
was there before has been kept as long as was promised.
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
"""A step of the clock, or a pause of the program, up to which the clock is believed."""


class AgeClock:
    """The time (Unix) by which ages are reckoned, kept in a small file beside the data.

    ``clock`` may be set, ``steady`` counts seconds of running. ``newest`` is when the newest of the
    data was written, for the first time; they are kept for ``keep`` seconds.
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
        """Return the time that was kept; NaN if none was, or it is damaged."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self._before, self._waited = float(kept["clock"]), float(kept["waited"])
            return float(kept["time"])
        except (OSError, KeyError, TypeError, ValueError):
            return math.nan

    def now(self) -> float:
        """Return the time: never later than the clock, and never far beyond what has passed."""
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
        """Return what people should know, and do, if the clock has jumped; empty if not."""
        ahead = self._wall - self._time
        if abs(ahead) <= MAX_PAUSE_S:
            return ""
        days = f"{abs(ahead) / DAY_S:.0f} days {'after' if ahead > 0 else 'before'}"
        left = (self.keep - self._waited) / DAY_S
        return (
            f"the clock of this machine says {_utc(self._wall)} UTC, {days} {_utc(self._time)},"
            f" when {self.path.parent} was last written, and what has passed since; nothing there"
            f" is deleted for its age until {left:.1f} more days have passed: if the clock is"
            " wrong, set it; if nothing has run for so long, there is nothing to do"
        )

    def _save(self) -> None:
        text = json.dumps({"time": self._time, "clock": self._wall, "waited": self._waited})
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(self.path)
        except OSError as error:  # then less time has passed, the next time
            log.debug("%s cannot be written: %s", self.path, error)


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(" ", "minutes")[:16]
