"""The states of an alarm, as a table.

What is allowed is data, as for an axis: the table refuses an acknowledgment, feeds the tests, and
is compared with the drawing in docs/alarms.md.
"""

from enum import StrEnum


class S(StrEnum):
    """The states of an alarm."""

    NORMAL = "normal"
    PENDING = "pending"
    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RETURNED = "returned"


class E(StrEnum):
    """What happens to an alarm: judgments of samples, times that are over, and a person's act.

    ``good`` comes when the value has been healthy for the off-delay, ``worse`` when a warning
    becomes an error, ``remind`` when an acknowledged error has lasted too long.
    """

    BAD = "bad"
    GOOD = "good"
    DELAY_OVER = "delay over"
    ACKNOWLEDGE = "acknowledge"
    WORSE = "worse"
    REMIND = "remind"


CHART: dict[S, dict[E, S]] = {
    S.NORMAL: {E.BAD: S.PENDING},
    S.PENDING: {E.GOOD: S.NORMAL, E.DELAY_OVER: S.ACTIVE, E.WORSE: S.PENDING},
    S.ACTIVE: {E.GOOD: S.RETURNED, E.ACKNOWLEDGE: S.ACKNOWLEDGED, E.WORSE: S.ACTIVE},
    S.ACKNOWLEDGED: {E.GOOD: S.NORMAL, E.WORSE: S.ACTIVE, E.REMIND: S.ACTIVE},
    S.RETURNED: {E.BAD: S.ACTIVE, E.ACKNOWLEDGE: S.NORMAL},
}
SHOWN = (S.ACTIVE, S.ACKNOWLEDGED, S.RETURNED)
"""The states in which people see an alarm, unless a flag hides it."""


def after(state: S, event: E, *, latch: bool) -> S | None:
    """Return the next state, or None if the event does not apply.

    An active alarm that does not ``latch`` is normal after it was good; nobody needs to have seen
    it.
    """
    following = CHART[state].get(event)
    return S.NORMAL if following is S.RETURNED and not latch else following


def is_new(state: S, event: E, following: S) -> bool:
    """Return whether a step begins a new occurrence, which needs its own acknowledgment."""
    return following is S.ACTIVE and event is not E.REMIND
