"""What samples say of alarms, and since when."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core import interlock
from ..core.fields import is_number

SHRINKS_S, SHRINKS_BY, GROWS_BY = 60.0, 0.01, 0.05
"""A deviation shrinks while it gets smaller by the first fraction in this time; it grows if it is
larger than the smallest one by the second fraction."""
INTERLOCK_ACTS = (*interlock.LATCHED, interlock.S.BYPASSED)
"""The states of an interlock that are an alarm; in others it can only be blind."""


class Said(NamedTuple):
    """What a sample says of one alarm."""

    severity: str
    reason: str
    since: str | None = None
    value: float | str | bool | None = None


@dataclass
class Judged:
    """What samples say of an alarm at present, by the clock that never steps."""

    is_bad: bool = False
    bad_since: float = 0.0
    good_since: float | None = None
    release_at: float | None = None
    """When the suppression ends whose cause is over."""
    target: float | None = None
    smallest: float = math.inf
    """The smallest deviation from the target since it last grew."""
    shrunk_at: float = -math.inf

    def bad(self, now: float) -> bool:
        """Note that the value is bad; return whether it was good a moment ago."""
        flipped = not self.is_bad and self.good_since is not None
        if not self.is_bad:
            self.bad_since = now
        self.is_bad, self.good_since = True, None
        return flipped

    def follow(self, value: float, target: Any, now: float) -> None:
        """Note whether a value approaches its setpoint."""
        if not is_number(target):
            return
        deviation = abs(value - target)
        if self.target != target:
            self.target, self.smallest, self.shrunk_at = target, deviation, now
        elif deviation < self.smallest * (1 - SHRINKS_BY):
            self.smallest, self.shrunk_at = deviation, now
        elif deviation > self.smallest * (1 + GROWS_BY):
            self.smallest, self.shrunk_at = deviation, -math.inf

    def let_turn(self, now: float) -> None:
        """Let a value that something has driven away have a minute to turn round."""
        self.smallest, self.shrunk_at = math.inf, now

    def approaches(self, now: float) -> bool:
        """Return whether the value has come closer to its setpoint within the last minute."""
        return now - self.shrunk_at < SHRINKS_S


def said_in(sample: Mapping[str, Any]) -> dict[str, Said]:
    """Return what a sample says of its alarms: of each field the worst one, with all reasons."""
    found: dict[str, Said] = {}
    for alarm in sample["alarms"]:
        name, severity, reason = alarm["field"], alarm["severity"], alarm["reason"]
        since, value = alarm.get("since"), value_in(sample, name, "current")
        if value is None and (state := sample["state"].get(name)) in INTERLOCK_ACTS:
            value = state
        if name in found:
            known = found[name]
            severity = min(severity, known.severity)
            reason = known.reason if reason in known.reason else f"{known.reason}; {reason}"
            since = known.since
        found[name] = Said(severity, reason, since, value)
    return found


def value_in(sample: Mapping[str, Any], name: str, part: str) -> Any:
    """Return a value of a sample, of a pair its ``current`` or ``target``."""
    said = sample.get(name)
    if isinstance(said, dict) and part in said:
        said = said[part]
    if isinstance(said, dict):
        said = said.get("value")
    return said if isinstance(said, float | int | str | bool) else None
