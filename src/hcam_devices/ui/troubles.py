"""The causes of alarms: one line for each cause, in a stable order.

An alarm is identified by its device and field, because the numbers in its reason change. A view
repeats the alarms of its sources, and devices that fail together raise equal alarms. Both have one
cause.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ..config.instrument import Instrument
from ..devices.views import View
from ..names import family
from . import times

Root: TypeAlias = tuple[str, str]
"""The device and the field of an alarm."""
SEVERITIES = ("ERR", "WARN")
"""Worst first."""
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w|\.\d)")
"""A number that may change, but not a part of a name, or of an address such as 192.0.2.1."""


class Identity(NamedTuple):
    """The identity of an alarm; ``n`` counts the alarms of one field and severity."""

    device: str
    field: str
    severity: str
    n: int

    def __str__(self) -> str:
        return f"{self.device}.{self.field}"


@dataclass
class Trouble:
    """One cause: the reasons of the alarms that report it, and the views that repeat them."""

    severity: str
    reasons: dict[Identity, str] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)
    since: str = ""
    """The time of its oldest alarm (UTC, ISO 8601); if ``vague``, the alarm may be older."""
    vague: bool = False

    def __str__(self) -> str:
        names = list(map(str, self.reasons))
        first = next(iter(self.reasons.values()))
        lead = "" if len({*self.reasons.values()}) == 1 else f"{names[0]}: "
        also = f" (also {some(self.also)})" if self.also else ""
        return (
            f"{self.severity:4} {some(names)}{also} since {short(self.since)}"
            f"{' or earlier' if self.vague else ''}: {lead}{first}"
        )


def some(names: list[str]) -> str:
    """Return up to four names as text, or the first three and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more


def count(n: int, noun: str) -> str:
    """Return a number and its noun, such as ``1 error`` or ``2 errors``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def short(moment: str) -> str:
    """Return the time of a moment (UTC, ISO 8601), and its date unless that is today."""
    date, _, clock = times.text(moment).partition(" ")
    today = times.text(round(time.time() * 1000))[:10]
    return clock[:8] if date == today else f"{date} {clock[:5]}"


class Causes:
    """Finds the cause of each alarm; the instrument tells which devices are views."""

    def __init__(self, instrument: Instrument) -> None:
        entries = instrument.entries.items()
        built = {name: entry.build() for name, entry in entries if issubclass(entry.cls, View)}
        self._views = {name: view for name, view in built.items() if isinstance(view, View)}
        self.sources = {source for view in self._views.values() for source in view.sources()}
        """The devices whose values views show."""
        self._heard: dict[str, dict[Identity, str]] = {}

    def hear(self, sample: Mapping[str, Any], now: str) -> None:
        """Note the time of a sample's new alarms, which is used for alarms without ``since``."""
        before = self._heard.get(sample["device"], {})
        present = [identity for identity, _ in _alarms(sample)]
        self._heard[sample["device"]] = {key: before.get(key, now) for key in present}

    def troubles(self, samples: Mapping[str, Mapping[str, Any]]) -> list[Trouble]:
        """Return the causes of all alarms: errors first, then in the order of ``samples``."""
        alarms = {
            identity: alarm for sample in samples.values() for identity, alarm in _alarms(sample)
        }
        fields = {(identity.device, identity.field) for identity in alarms}
        causes = {root: self._cause(*root, fields) for root in fields}
        found: dict[tuple[str, ...], Trouble] = {}
        of_root: dict[Root, Trouble] = {}
        for severity in SEVERITIES:
            for identity, alarm in alarms.items():
                root = identity.device, identity.field
                if identity.severity == severity and not _repeats(root, causes):
                    trouble = found.setdefault(_alike(identity, alarm), Trouble(severity))
                    trouble.reasons[identity] = alarm["reason"]
                    self._date(trouble, identity, alarm)
                    of_root.setdefault(root, trouble)
        for identity, alarm in alarms.items():
            root = identity.device, identity.field
            if _repeats(root, causes):
                trouble = of_root[causes[root]]
                if identity.device not in trouble.also:
                    trouble.also.append(identity.device)
                self._date(trouble, identity, alarm)
                trouble.severity = min(trouble.severity, identity.severity)
        return sorted(found.values(), key=lambda trouble: trouble.severity)

    def _date(self, trouble: Trouble, identity: Identity, alarm: Mapping[str, Any]) -> None:
        since = alarm.get("since")
        moment = since or self._heard[identity.device][identity]
        if not trouble.since or moment < trouble.since:
            trouble.since, trouble.vague = moment, since is None

    def _cause(self, device: str, field: str, fields: set[Root]) -> Root:
        """Return the device and field whose alarm this alarm repeats, or its own."""
        view = self._views.get(device)
        if view is None or field == "connection":
            return device, field
        if field in view.fields:
            origins = [view.origin(view.fields[field])]
        else:
            origins = [(source, field) for source in view.sources()]
        for source, name in origins:
            for there in ((source, "connection"), (source, name)):
                if there in fields:
                    return there
        return device, field


def _repeats(root: Root, causes: Mapping[Root, Root]) -> bool:
    """Return whether an alarm repeats another one that is not itself a repetition."""
    cause = causes[root]
    return cause != root and causes[cause] == cause


def _alarms(sample: Mapping[str, Any]) -> Iterator[tuple[Identity, Mapping[str, Any]]]:
    counts: dict[tuple[str, str], int] = {}
    for alarm in sample.get("alarms", ()):
        key = alarm["field"], alarm["severity"]
        counts[key] = counts.get(key, 0) + 1
        yield Identity(sample["device"], *key, counts[key]), alarm


def _alike(identity: Identity, alarm: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a key that is equal for alarms of one cause, although their numbers differ."""
    text, numbers = NUMBER.subn("#", alarm["reason"])
    return (identity.severity, text, str(identity.n), family(identity.field) if numbers else "")
