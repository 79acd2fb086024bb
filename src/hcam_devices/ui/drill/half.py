"""What both halves of a drill have in common: rows, and how long something may take."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ...alarms.chart import S as AlarmState
from ...alarms.rules import Rules
from ...alarms.server import entry_of as alarms
from ...history.recorder import entry_of as recorder
from ..alarms import is_shown
from ..bench import Bench

POLLS = 2
"""An alarm has to come within this many polls after its delay."""
RECOVER_POLLS = 10
"""A value is back after at most this many polls: a link that was lost comes back with pauses."""
MARKS = {True: "right", False: "WRONG", None: "-"}


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Do several things at the same time.

    If one fails, its error is raised when the others, which are cancelled, have set back what they
    drove.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


@dataclass
class Row:
    """What was rehearsed, and what was seen; ``right`` is None if no simulator can drive it."""

    name: str
    seen: list[str] = field(default_factory=list)
    right: bool | None = True

    def note(self, seen: str, *, right: bool = True) -> None:
        """Add what was seen, and whether it is as it should be."""
        self.seen.append(seen if right else f"WRONG: {seen}")
        self.right = bool(self.right) and right

    def cannot(self, reason: str) -> "Row":
        """Note that it cannot be driven, and return the row."""
        self.right, self.seen = None, [reason]
        return self

    def __str__(self) -> str:
        return f"{MARKS[self.right]:<6} {self.name:<24} {'; '.join(self.seen)}"


@dataclass
class Half:
    """A half of a drill: the alarms, or the interlocks, whose names match a pattern.

    Both add to the same ``rows``. ``tell`` gets what is begun; ``grace`` is the time (s) that
    commands and samples may take on their way.
    """

    bench: Bench
    pattern: str
    rows: list[Row]
    tell: Callable[[str], None]
    grace: float

    def __post_init__(self) -> None:
        instrument = self.bench.instrument
        entries = [*instrument.entries.values(), recorder(instrument), alarms()]
        self._rules = Rules(entries, instrument.alarms)

    def _wanted(self, device: str, name: str) -> bool:
        full = f"{device}.{name}"
        return any(fnmatchcase(one, self.pattern) for one in (full, device, name))

    def _active(self) -> set[str]:
        """Return the alarms that people see and have not acknowledged."""
        records = self.bench.records.items()
        return {n for n, one in records if is_shown(one) and one["state"] == AlarmState.ACTIVE}

    def _polls(self, number: int, *devices: str) -> float:
        """Return the longest time (s) that a number of polls of some devices takes."""
        return number * max(map(self._rules.poll_s, devices)) + self.grace
