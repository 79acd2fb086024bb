"""How each alarm is judged: what is declared where its field is, and what the instrument changes.

The defaults are the figures usually quoted from ISA-18.2.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..config.instrument import Entry
from ..core.device import Device
from ..core.fields import Range, Readback, Setpoint
from ..core.interlock import Interlock
from ..core.part import Severity

DELAY_POLLS = 2
"""An alarm is raised when it was there for this many polls of its device."""
OFF_DELAY_S: Mapping[str, float] = {"deg_C": 60.0}
USUAL_OFF_DELAY_S = 15.0
"""A value has to be healthy for so long, by its unit, until its alarm is over."""
DEADBAND: Mapping[str, float] = {"mbar": 0.02, "l / min": 0.05, "deg_C": 0.01}
"""A value has to be inside its limit by this fraction of the limit, by its unit."""
REMIND_S = 600.0
"""An acknowledged error is active again after this time, as in hdriver."""

STATUS = "status"
"""The alarm of a server, ``hwserver.status``: that it is not running."""
CONNECTION = "connection"
GENERAL = {
    CONNECTION: "Check that {device} has power and is plugged into the network; it is connected "
    "again by itself. hcam doctor says what does not answer. After 10 minutes, call support.",
    "journal": "Make room on the disk of this server: hcam doctor says which. What is not kept is "
    "lost. Then call support.",
    "commands": "End the second program that has taken the name of {device}, as the reason says.",
    "telemetry": "Commands still work. Tell support that the telemetry of {device} is too large.",
    STATUS: "Wait a minute: it is started again by itself. If it stays away, hcam doctor says how "
    "to start it; what it controls runs on meanwhile, but nobody watches it.",
}
"""Advice for alarms that any device, or a server, may have."""
UNREAD = (
    "The value is unknown, which need not be bad: compare it with its neighbours, and look at the "
    "display of the device. hcam wire {device} shows what it answers. After 10 minutes, call "
    "support."
)
"""Advice while a value cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one alarm is judged; times in seconds, ``deadband`` a fraction of the limit.

    ``latch`` None: an error latches, a warning does not. ``advice`` is None if nobody has declared
    any, and empty if the alarm is a notice. ``setpoint`` is the name of the setpoint that the field
    follows, ``least`` the least severity that is no notice.
    """

    alarm: str
    poll_s: float
    delay: float
    off_delay: float
    deadband: float
    latch: bool | None
    remind: float
    advice: str | None
    healthy: Range | None = None
    unit: str = ""
    setpoint: str = ""
    is_field: bool = False
    is_interlock: bool = False
    least: Severity = "WARN"

    def latches(self, severity: str) -> bool:
        """Return whether an alarm of a severity stays until it is acknowledged."""
        return severity == "ERR" if self.latch is None else self.latch

    def is_notice(self, severity: str) -> bool:
        """Return whether a reported alarm is only a notice, because nobody can act on it."""
        return self.advice == "" or severity > self.least  # WARN > ERR

    def advise(self, *, unread: bool) -> str:
        """Return what an observer should do."""
        device = self.alarm.partition(".")[0]
        text = UNREAD if unread and self.is_field else self.advice or ""
        return text.replace("{device}", device)

    def is_another(self, before: object, now: object) -> bool:
        """Return whether a value shows another fault than the one that was there before.

        A value that was not known is known to be bad, or an interlock has gone on to another state.
        """
        return now is not None and (before is None or (self.is_interlock and now != before))

    def is_well_inside(self, value: float) -> bool:
        """Return whether a value is healthy by more than the deadband."""
        if self.healthy is None:
            return True
        low, high = (
            limit + sign * self.deadband * abs(limit) if math.isfinite(limit) else limit
            for limit, sign in zip(self.healthy, (1, -1), strict=True)
        )
        return low <= value <= high

    def limit_of(self, value: float) -> float | None:
        """Return the limit that a value exceeds, or None."""
        if self.healthy is None:
            return None
        low, high = self.healthy
        return low if value < low else high if value > high else None


class Rules:
    """The rules of an instrument's alarms, by name; ``changed`` has the tables of its file."""

    def __init__(self, entries: Iterable[Entry], changed: Mapping[str, Mapping[str, Any]]) -> None:
        self.changed = changed
        self.servers: dict[str, list[str]] = {}
        """The devices of each server."""
        self.devices: dict[str, Device] = {}
        for entry in entries:
            self.devices[entry.name] = entry.build()
            self.servers.setdefault(entry.server, []).append(entry.name)
        self._known: dict[str, Rule] = {}

    def of(self, alarm: str) -> Rule:
        """Return the rule of an alarm, declared or not."""
        if alarm not in self._known:
            self._known[alarm] = self._rule(alarm)
        return self._known[alarm]

    def poll_s(self, device: str) -> float:
        """Return the seconds between two polls of a device; 2 of a server."""
        found = self.devices.get(device)
        return found.poll_every if found else 2.0

    def _rule(self, alarm: str) -> Rule:
        device, _, name = alarm.partition(".")
        found = self.devices.get(device)
        field = found.fields.get(name) if found else None
        parts = found.parts if found else []
        axes = {axis for part in parts for axis in part.describe()}
        guards = {part.name for part in parts if isinstance(part, Interlock)}
        unit = field.unit if field else ""
        declared = {key: getattr(field, key, None) for key in ("delay", "deadband", "latch")}
        own = _advice(found).get(name) if found else None
        advice = own if field is None or field.advice is None else field.advice
        # that an axis is not homed, that a setpoint was refused, or that an interlock counts
        # (what it counts is an alarm) asks nobody to act
        is_undeclared = isinstance(field, Setpoint) and advice is None
        asks_nobody = name in axes | guards or is_undeclared
        least: Severity = "ERR" if asks_nobody else "WARN"
        settings: dict[str, Any] = {
            "delay": DELAY_POLLS * self.poll_s(device),
            "off_delay": OFF_DELAY_S.get(unit, USUAL_OFF_DELAY_S),
            "deadband": DEADBAND.get(unit, 0.0),
            "latch": None,
            "remind": REMIND_S,
            "advice": GENERAL.get(name) if advice is None else advice,
            **{key: value for key, value in declared.items() if value is not None},
        }
        for pattern, changes in self.changed.items():
            if fnmatchcase(alarm, pattern):
                settings |= {key: value for key, value in changes.items() if key != "healthy"}
        return Rule(
            alarm=alarm,
            poll_s=self.poll_s(device),
            healthy=field.healthy if field else None,
            unit=unit,
            setpoint=found.pairs.get(name, "") if found else "",
            is_field=field is not None,
            is_interlock=name in guards,
            least=least,
            **settings,
        )

    def declared(self) -> Iterator[Rule]:
        """Yield the rules of all alarms that devices declare, in the order of the instrument."""
        for name, device in self.devices.items():
            judged = [field.name for field in device.fields.values() if is_judged(field)]
            for alarm in dict.fromkeys((CONNECTION, *judged, *_advice(device))):
                yield self.of(f"{name}.{alarm}")
        for server in self.servers:
            yield self.of(f"{server}.{STATUS}")


def _advice(device: Device) -> dict[str, str]:
    """Return the advice about alarms that are not about a field, by name."""
    guards = (part for part in device.parts if isinstance(part, Interlock))
    return device.advice | {guard.name: guard.declared.advice for guard in guards}


def is_judged(field: Readback) -> bool:
    """Return whether a field declares something about its alarms."""
    return field.healthy is not None or field.advice is not None
