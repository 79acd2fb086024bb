"""A part of a device: an axis, the motions of a telescope, a transfer of data.

The device has several fields and one connection. What else it has with a state of its own is a
part: the device tells its parts when the connection is made and lost, and telemetry, alarms and
procedures of the device contain those of its parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .fields import Procedure, Value

if TYPE_CHECKING:
    from .device import Device

Severity: TypeAlias = Literal["WARN", "ERR"]


@dataclass(frozen=True)
class Alarm:
    """A problem that people should know of; ``reason`` is a sentence."""

    field: str
    severity: Severity
    reason: str


@dataclass(frozen=True)
class Reading:
    """A value, or None with the reason; an empty reason means that no value is expected."""

    value: Value | None
    reason: str = ""


class Part:
    """A component of a device with a state of its own. A subclass extends what it needs."""

    fields: Sequence[str] = ()
    """The names of the device's fields whose values the part knows: the device does not ask its
    hardware for them."""
    online = False
    """Whether the device is connected to its hardware."""

    def connect(self) -> None:
        """Note that the device is connected to its hardware."""
        self.online = True

    def lose(self) -> None:
        """Forget what was read: the connection is lost."""
        self.online = False

    async def close(self) -> None:
        """End all tasks of the part: the device is not run any more."""

    @property
    def busy(self) -> bool:
        """Whether the device has to poll more often, because something is in progress."""
        return False

    def states(self) -> dict[str, str]:
        """Return the active state of each of its machines, by the name in telemetry."""
        return {}

    def nested(self) -> dict[str, str]:
        """Return the pairs of fields that are one value of the telemetry: readback -> setpoint."""
        return {}

    def reading(self, name: str) -> Reading:
        """Return the value of one of its fields."""
        raise NotImplementedError

    def write(self, name: str, value: float) -> None:
        """Set one of its fields to a value that was already checked.

        Raises NotAllowedError if it cannot be set now.
        """
        raise NotImplementedError

    def values(self) -> dict[str, Any]:
        """Return its telemetry beyond fields and states, as plain data."""
        return {}

    def notices(self) -> Iterable[Alarm]:
        """Return its alarms."""
        return []

    def procedures(self, device: "Device") -> dict[str, Procedure]:
        """Return its procedures, by the name after ``rpc.``."""
        return {}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return how to follow its motions, by the name of the state, as plain data.

        Each has the names of the fields that are the position (``readback``) and the target
        (``setpoint``), or None, the states that are a motion (``busy``) and its successful end
        (``arrived``), and which commands each state allows (``chart``), or None.
        """
        return {}
