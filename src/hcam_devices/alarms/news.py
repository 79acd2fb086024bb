"""What is told of alarms: changes, and messages for people who are not looking.

An error is told to the people of one stage after the other until somebody acknowledges it. In a
flood of new alarms each of them gets one message.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .record import Record

FLOOD, CALM, FLOOD_S = 10, 5, 600.0
"""More new alarms than the first number in this time are a flood, until there are fewer than the
second."""


@dataclass
class Change:
    """Something that happened to an alarm: what is logged and told."""

    event: str
    alarm: str
    by: str
    at: float
    record: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


class Message(NamedTuple):
    """A message for people who are not looking: for whom, about what, and its text."""

    to: str
    alarm: str
    occurrence: int
    stage: str
    text: str


class Escalation:
    """Who has to be told, and in which words.

    ``stages`` are the seconds, by the name of the people, after which an error is told to them; at
    once if it is 0. ``began`` are the Unix times of alarms that came before.
    """

    def __init__(
        self, stages: Mapping[str, float], clock: Callable[[], float], began: Iterable[float]
    ) -> None:
        self.stages = dict(sorted(stages.items(), key=lambda item: item[1]))
        self.clock = clock
        self.flood_since: float | None = None
        self._told_flood: set[str] = set()
        self._new = [*began]

    def note_new(self) -> None:
        """Note that people are told of a new alarm."""
        self._new.append(self.clock())

    def judge_flood(self) -> None:
        """Note whether a flood has begun, or is over."""
        now = self.clock()
        self._new = [at for at in self._new if abs(now - at) < FLOOD_S]
        if self.flood_since is None and len(self._new) > FLOOD:
            self.flood_since = now
        elif self.flood_since is not None and len(self._new) < CALM:
            self.flood_since = None
            self._told_flood.clear()

    def due(self, record: Record) -> Iterator[str]:
        """Yield the stages that have to be told of an active alarm now."""
        stages = list(self.stages)
        done = stages.index(record.escalated) + 1 if record.escalated in stages else 0
        waited = self.clock() - record.active_since
        for stage in stages[done:]:
            if record.severity != "ERR" or waited < self.stages[stage]:
                return
            yield stage

    def messages(
        self, record: Record, stage: str, records: Mapping[str, Record]
    ) -> Iterator[Message]:
        """Yield the message to a stage: about the alarm, or once about the whole flood."""
        if self.flood_since is None:
            since = f"since {str(record.since)[11:19]} UTC"
            text = f"{record.severity} {record.alarm}: {record.reason} ({since})\n{record.advice}"
            yield Message(stage, record.alarm, record.occurrence, stage, text.strip())
        elif stage not in self._told_flood:
            self._told_flood.add(stage)
            minutes = max(round((self.clock() - self._new[0]) / 60), 1)
            first = record.first or record.alarm
            known = f": {records[first].reason}" if first in records else ""
            text = f"{len(self._new)} alarms in {minutes} min, first: {first}{known}"
            yield Message(stage, "flood", round(self.flood_since), stage, text)
