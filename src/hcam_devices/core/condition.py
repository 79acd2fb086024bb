"""The conditions of interlocks: their declarations, and the newest value of each.

Times are measured with a steady clock: setting the clock of the machine changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .fields import is_number

if TYPE_CHECKING:
    from .device import Sample


@dataclass(frozen=True)
class Condition:
    """A limit of a field: met if the value is ``below``, or ``above``, a number in its ``unit``.

    ``name`` is that in the instrument file; ``device`` and ``path`` tell where the value is in
    telemetry. A value older than ``stale_after`` s is unknown.
    """

    name: str
    device: str
    path: tuple[str, ...]
    unit: str
    below: float = math.nan
    above: float = math.nan
    stale_after: float = 10.0

    def is_met(self, value: float) -> bool:
        """Return whether a value meets the condition."""
        return value < self.below or value > self.above

    def __str__(self) -> str:
        return f"{self.name} is {self.side} {self._limit:g} {self.unit}".strip()

    @property
    def side(self) -> Literal["above", "below"]:
        """The side of the limit on which it is met."""
        return "above" if math.isnan(self.below) else "below"

    @property
    def _limit(self) -> float:
        return self.above if self.side == "above" else self.below

    def compared(self, value: float) -> str:
        """Return a value and the limit, as people read them."""
        how = "above" if value > self._limit else "below"
        return f"{self.name} {value:.4g} is {how} {self._limit:g} {self.unit}".strip()


@dataclass(frozen=True)
class Act:
    """What a trip does: set a setpoint of a device to one of its safe words."""

    device: str
    setpoint: str
    word: str

    def __str__(self) -> str:
        return f"{self.device}.{self.setpoint} to {self.word}"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """An interlock of one device, as the instrument file declares it, with all names resolved.

    A permissive has ``refuse`` (device and command) and ``unless``; with ``lowering`` it refuses a
    setpoint only if that is lower than the present one. A trip has ``when`` and ``during`` (s);
    ``verify`` has to be met ``within`` (s) after the act. ``reason`` is why it was proposed,
    ``to_confirm`` what the instrument team has to confirm before it is armed.
    """

    name: str
    armed: bool = True
    when: tuple[Condition, ...] = ()
    during: float = 0.0
    then: tuple[Act, ...] = ()
    verify: Condition | None = None
    within: float = 0.0
    refuse: tuple[tuple[str, str], ...] = ()
    unless: tuple[Condition, ...] = ()
    lowering: bool = False
    may_be_bypassed: bool = True
    advice: str = ""
    reason: str = ""
    to_confirm: str = ""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions that it judges."""
        return (*self.when, *((self.verify,) if self.verify else ()), *self.unless)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that it hears, and those that it commands or guards."""
        heard = [condition.device for condition in self.conditions]
        return tuple(dict.fromkeys([*heard, *self.held]))

    @property
    def held(self) -> tuple[str, ...]:
        """The devices whose commands it may refuse."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.guards))

    @property
    def guards(self) -> tuple[str, ...]:
        """The commands that it may refuse."""
        held = [f"{act.device}.set_{act.setpoint}" for act in self.then]
        return tuple(dict.fromkeys([*held, *(f"{device}.{name}" for device, name in self.refuse)]))

    @property
    def causes(self) -> tuple[Condition, ...]:
        """The conditions of a trip that its own act does not change.

        These have to be clear before a reset: the act itself ends those about the verified field.
        """
        verified = self.verify and (self.verify.device, self.verify.path)
        return tuple(one for one in self.when if (one.device, one.path) != verified) or self.when

    def describe(self) -> dict[str, Any]:
        """Return the declaration as plain data."""
        return {
            "kind": "trip" if self.when else "permissive",
            "armed": self.armed,
            "when": [str(one) for one in self.when],
            "during": self.during if self.when else None,
            "then": [str(act) for act in self.then],
            "verify": f"{self.verify} within {self.within:g} s" if self.verify else None,
            "unless": [str(one) for one in self.unless],
            "lowering": self.lowering,
            "guards": list(self.guards),
            "advice": self.advice,
            "reason": self.reason,
            "to_confirm": self.to_confirm,
        }


class Watch:
    """The newest value of one condition; ``steady`` counts seconds.

    ``value`` is None while it is unknown, and ``why`` then says why.
    """

    def __init__(self, condition: Condition, steady: Callable[[], float]) -> None:
        self.condition, self._steady = condition, steady
        self._value: float | None = None
        self._why = "not read yet"
        self._timestamp: object = ""
        self.heard_at = -math.inf
        self.in_a_row = 0
        """Samples in a row that met the condition, each from another time of the hardware."""
        self.met_since = math.inf

    def hear(self, sample: "Sample") -> None:
        """Take a sample of the device. One that repeats the time of the last is no new one."""
        if sample["timestamp"] == self._timestamp:
            return
        now, self._timestamp = self._steady(), sample["timestamp"]
        late = now - self.heard_at > self.condition.stale_after
        self.heard_at = now
        self._value, self._why = self._read(sample)
        if self._value is None or not self.condition.is_met(self._value):
            self.in_a_row, self.met_since = 0, math.inf
        elif late or not self.in_a_row:
            self.in_a_row, self.met_since = 1, now
        else:
            self.in_a_row += 1

    def _read(self, sample: "Sample") -> tuple[float | None, str]:
        device = self.condition.device
        if sample["timestamp"] is None or sample["state"]["connection"] != "online":
            return None, f"{device} is offline"
        value: Any = sample
        for key in self.condition.path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            if value.get("unit") != self.condition.unit:
                return None, f"{device} reports it in another unit"
            value = value.get("value")
        if not is_number(value) or not math.isfinite(value):
            names = self.condition.path[0], self.condition.path[-1]
            why = (one["reason"] for one in sample["alarms"] if one["field"] in names)
            return None, next(why, "not read")
        return float(value), ""

    @property
    def value(self) -> float | None:
        """The newest value, or None if it is unknown."""
        return None if self.why else self._value

    @property
    def why(self) -> str:
        """Why the value is unknown; empty if it is known."""
        silent = self._steady() - self.heard_at
        if not self._why and silent > self.condition.stale_after:
            return f"{self.condition.device} has been silent for {silent:.0f} s"
        return self._why

    @property
    def met(self) -> bool | None:
        """Whether the newest value meets the condition; None if it is unknown."""
        value = self.value
        return None if value is None else self.condition.is_met(value)

    def __str__(self) -> str:
        value = self.value
        if value is None:
            return f"{self.condition.name} is unknown ({self.why})"
        return self.condition.compared(value)
