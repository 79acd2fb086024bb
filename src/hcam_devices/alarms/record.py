"""What is known of one alarm: what people see, and what is kept over a restart."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from ..journal.points import milliseconds, timestamp_of
from .chart import SHOWN, S

INTERNAL = ("announced", "raised", "active_since", "shelved_as")
"""What is kept and not told."""
CHATTER, CHATTER_S = 3, 600.0
"""An alarm chatters if it came so often within this time (s)."""
RANK = {S.ACTIVE: 0, S.ACKNOWLEDGED: 1, S.RETURNED: 2, S.PENDING: 3, S.NORMAL: 4}


@dataclass
class Record:
    """One alarm. Times are UTC (ISO 8601) for people, Unix times in the internal fields.

    ``reason``, ``value`` and ``limit`` are frozen when it is raised. ``first`` is the alarm that
    came first of those that came together, ``cause`` the one that explains it, ``suppressed`` why
    it is hidden although nobody has shelved it. ``count`` is how often it came within ten minutes.
    """

    alarm: str
    occurrence: int = 0
    state: S = S.NORMAL
    severity: str = ""
    worst: str = ""
    reason: str = ""
    value: float | str | bool | None = None
    unit: str = ""
    limit: float | None = None
    since: str | None = None
    cleared: str | None = None
    count: int = 0
    first: str | None = None
    cause: str | None = None
    suppressed: str | None = None
    acknowledged: dict[str, Any] | None = None
    shelved: dict[str, Any] | None = None
    out_of_service: dict[str, Any] | None = None
    escalated: str | None = None
    advice: str = ""
    announced: bool = False
    """Whether people were told of this occurrence."""
    raised: list[float] = field(default_factory=list)
    """When it came, within the last ten minutes."""
    active_since: float = 0.0
    """When people were told last that somebody has to act."""
    shelved_as: str = ""
    """The severity that was shelved: a worse one comes back."""

    @property
    def is_hidden(self) -> bool:
        """Whether a flag hides it."""
        return bool(self.shelved or self.out_of_service or self.suppressed)

    @property
    def is_news(self) -> bool:
        """Whether there is anything to tell of it."""
        return self.state is not S.NORMAL or bool(self.shelved or self.out_of_service)

    @property
    def chatters(self) -> bool:
        """Whether it comes and goes."""
        last = self.raised
        return len(last) >= CHATTER and last[-1] - last[-CHATTER] < CHATTER_S

    def rank(self) -> tuple[bool, int, str, str]:
        """Return a key to sort alarms by, the most urgent first."""
        return self.is_hidden, RANK[self.state], self.severity, self.since or ""

    def begin(self) -> None:
        """Forget how it was acknowledged, cleared and told before."""
        self.worst, self.announced = self.severity, False
        self.cleared = self.acknowledged = self.escalated = None

    def count_one(self, now: float) -> None:
        """Count that it has come."""
        recent = [at for at in self.raised if abs(now - at) < CHATTER_S]
        self.count = self.count + 1 if recent else 1
        self.raised = [*recent, now][-CHATTER:]

    def public(self) -> dict[str, Any]:
        """Return what is told on the network, as plain data."""
        return {k: v for k, v in self.kept().items() if k not in INTERNAL}

    def kept(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return asdict(self) | {"state": str(self.state)}

    @classmethod
    def of(cls, kept: dict[str, Any]) -> "Record":
        """Return a record that was kept, perhaps by another version: unknown keys are left out.

        Raises AttributeError, LookupError, TypeError or ValueError if it is damaged.
        """
        known = {one.name for one in fields(cls)}
        found = {key: value for key, value in kept.items() if key in known}
        state = S(kept["state"])
        record = cls(**found | {"state": S.NORMAL if state is S.PENDING else state})
        flags = ((record.shelved, "until"), (record.acknowledged, "at"))
        for moment in (record.since, *(flag[key] for flag, key in flags if flag)):
            seconds(moment)
        return record


def counts(records: Iterable[Record]) -> dict[str, int]:
    """Return how many alarms people see, by what they are, and how many are hidden."""
    found = [record for record in records if record.is_news]
    shown = [one for one in found if one.state in SHOWN and not one.is_hidden]
    active = [one for one in shown if one.state is S.ACTIVE]
    return {
        "errors": sum(one.severity == "ERR" for one in active),
        "warnings": sum(one.severity == "WARN" for one in active),
        "acknowledged": sum(one.state is S.ACKNOWLEDGED for one in shown),
        "returned": sum(one.state is S.RETURNED for one in shown),
        "shelved": sum(bool(one.shelved) for one in found),
        "suppressed": sum(bool(one.suppressed) and one.state in SHOWN for one in found),
        "out_of_service": sum(bool(one.out_of_service) for one in found),
    }


def oldest_unacknowledged(records: Iterable[Record], now: float) -> float | None:
    """Return for how long (s) people have been told of an alarm that nobody acknowledged."""
    shown = (one for one in records if one.announced and not one.is_hidden)
    since = [seconds(one.since) for one in shown if one.state in (S.ACTIVE, S.RETURNED)]
    return max(now - min(since), 0.0) if since else None


def first_time(*given: object) -> str | None:
    """Return the first of some times that is one, as ``seconds`` takes it, or None.

    A sample may say anything; a leap second counts as the first second of the next day.
    """
    for each in given:
        with suppress(TypeError, ValueError):
            if isinstance(each, str):
                return timestamp_of(milliseconds(each))
    return None


def seconds(moment: str | None) -> float:
    """Return a time such as ``2026-11-22T04:44:44.196Z`` as Unix time; 0 for None."""
    return datetime.fromisoformat(moment).timestamp() if moment else 0.0
