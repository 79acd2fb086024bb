"""The state chart of a motor axis, as a table, and the class that follows it.

Outsiders command an axis, so what is legal must be data: this table refuses a command, greys out a
button, and feeds the tests, which compare the drawing in docs/axis.md with it. Reports of the
hardware (``homed``, ``arrived``) are events too, so after a reconnection the state comes from the
hardware and not from memory.
"""

from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import NotAllowedError
from .fields import Procedure, Value
from .part import Alarm, Part, Reading

if TYPE_CHECKING:
    from .device import Device


class S(StrEnum):
    """The states of an axis."""

    DISABLED = "disabled"
    INIT = "init"
    HOMING = "homing"
    INPOS = "inpos"
    OUTPOS = "outpos"
    MOVING = "moving"
    STOPPED = "stopped"


class E(StrEnum):
    """The events of an axis: commands (with the names for clients), then reports."""

    ENABLE = "enable"
    DISABLE = "disable"
    HOME = "home"
    TARGET = "positionSet"
    MOVE = "move"
    STOP = "stop"

    LOST_HOME = "lost_home"
    HOMING_SEEN = "homing_seen"
    HOMED = "homed"
    MOTION_SEEN = "motion_seen"
    ARRIVED = "arrived"
    HALTED = "halted"


CHART: dict[S, dict[E, S]] = {
    S.DISABLED: {E.ENABLE: S.INIT},
    S.INIT: {E.HOME: S.HOMING, E.HOMING_SEEN: S.HOMING, E.HOMED: S.OUTPOS},
    S.HOMING: {E.STOP: S.INIT, E.LOST_HOME: S.INIT, E.HOMED: S.OUTPOS},
    S.INPOS: {
        E.HOME: S.HOMING,
        E.TARGET: S.OUTPOS,
        E.MOVE: S.INPOS,
        E.STOP: S.INPOS,
        E.HALTED: S.OUTPOS,
        E.MOTION_SEEN: S.MOVING,
    },
    S.OUTPOS: {
        E.HOME: S.HOMING,
        E.TARGET: S.OUTPOS,
        E.MOVE: S.MOVING,
        E.STOP: S.STOPPED,
        E.ARRIVED: S.INPOS,
        E.MOTION_SEEN: S.MOVING,
    },
    S.MOVING: {
        E.HOME: S.HOMING,
        E.TARGET: S.MOVING,
        E.MOVE: S.MOVING,
        E.STOP: S.STOPPED,
        E.ARRIVED: S.INPOS,
        E.HALTED: S.OUTPOS,
    },
    S.STOPPED: {
        E.HOME: S.HOMING,
        E.TARGET: S.STOPPED,
        E.MOVE: S.MOVING,
        E.STOP: S.STOPPED,
        E.ARRIVED: S.INPOS,
        E.MOTION_SEEN: S.MOVING,
    },
}
for _state in set(S) - {S.DISABLED}:
    CHART[_state][E.DISABLE] = S.DISABLED
    if _state not in (S.INIT, S.HOMING):
        CHART[_state] |= {E.LOST_HOME: S.INIT, E.HOMING_SEEN: S.HOMING}

BUSY = (S.HOMING, S.MOVING)
MOTIONS = (E.HOME, E.MOVE)
"""The commands that begin a motion."""
COMMANDS = (E.ENABLE, E.DISABLE, E.HOME, E.TARGET, E.MOVE, E.STOP)
ADVICE = {
    S.DISABLED: "it is disabled (enable it first)",
    S.INIT: "it has not been homed (home it first)",
    S.HOMING: "it is homing (wait until it has finished)",
}


class Drive(Protocol):
    """The methods with which an axis drives its motor. Each raises as ``Link.ask``."""

    async def drive_home(self, axis: "Axis") -> None:
        """Begin homing."""

    async def drive_to(self, axis: "Axis") -> None:
        """Begin a move to the target of the axis."""

    async def drive_stop(self, axis: "Axis") -> None:
        """Stop the motion."""


class Axis(Part):
    """A motor with its position, its target, and the commands that are allowed now.

    ``readback`` and ``setpoint`` name the fields of the device that are its position and target.
    The position is None until the hardware has said; the target is then adopted from it.
    """

    def __init__(
        self, name: str, drive: Drive, *, readback: str, setpoint: str, tolerance: float
    ) -> None:
        self.name, self.drive, self.tolerance = name, drive, tolerance
        self.readback, self.setpoint = self.fields = readback, setpoint
        self.state = S.DISABLED
        self.held = False
        """Whether it was disabled by a command; a new connection keeps that."""
        self.short = False
        """Whether it has stopped before it reached its target."""
        self.commands_given = 0
        """Grows at the beginning and at the end of each command, for ``report``."""
        self.position: float | None = None
        self.target: float | None = None
        self._goal: float | None = None  # of the current motion; ``target`` may have changed

    def after(self, event: E) -> S:
        """Return the next state. Raises NotAllowedError if the chart has no such arrow."""
        try:
            return CHART[self.state][event]
        except KeyError:
            legal = ", ".join(event for event in COMMANDS if event in CHART[self.state])
            raise NotAllowedError(
                f"{self.name} cannot {event} now: {self.advice()}; it allows {legal}"
            ) from None

    def advice(self) -> str:
        """Return the state of the axis and the next step, for an error message."""
        if self.short:
            return f"it stopped at {self.position:g}, short of its target {self.target:g}"
        return ADVICE.get(self.state, f"it is {self.state}")

    async def home(self) -> None:
        """Home the axis: move it to its home position, which becomes the target."""
        await self._command(E.HOME, self.drive.drive_home)
        self.target = None

    async def move(self) -> None:
        """Move the axis to its target; a motion under way is replaced."""
        self.after(E.MOVE)
        if self.target is None:
            raise NotAllowedError(f"{self.name} cannot move now: it has no target yet")
        self._goal = self.target
        await self._command(E.MOVE, self.drive.drive_to)

    async def stop(self) -> None:
        """Stop the axis and keep its target, so that move can continue."""
        await self._command(E.STOP, self.drive.drive_stop)

    def aim(self, target: float) -> None:
        """Set the target of the next ``move``."""
        self.state = self.after(E.TARGET)
        self.target, self.short = target, False

    async def enable(self) -> None:
        """Accept commands to the axis again, in the state that the hardware reports."""
        self.state = self.after(E.ENABLE)
        self.held = False

    async def disable(self) -> None:
        """Refuse commands to the axis until it is enabled; a motion under way continues."""
        self.state = self.after(E.DISABLE)
        self.held = True

    async def _command(self, event: E, drive: Callable[["Axis"], Awaitable[None]]) -> None:
        following = self.after(event)
        self.commands_given += 1
        await drive(self)  # if this fails, the state comes from the next report
        self.commands_given += 1
        self.state, self.short = following, False

    def connect(self) -> None:
        """Follow the hardware, unless the axis was disabled by a command."""
        super().connect()
        if not self.held:
            self.state = S.INIT

    def lose(self) -> None:
        """Forget all values, because the connection is lost."""
        super().lose()
        self.forget()

    def forget(self) -> None:
        """Forget the state, the position and the target, because the axis cannot be read."""
        self.state, self.position, self.short = S.DISABLED, None, False
        self.target = self._goal = None

    def report(
        self,
        position: float,
        *,
        homed: bool,
        homing: bool,
        moving: bool,
        asked_at: int | None = None,
    ) -> None:
        """Follow a report of the hardware.

        ``asked_at`` is ``commands_given`` at the time of the question. If a command was given
        since, only the position is taken: the report of the motion is out of date.
        """
        self.position = position
        if self.state is S.DISABLED or asked_at not in (None, self.commands_given):
            return
        if homing or not homed:
            self.short = False
            self._seen(E.HOMING_SEEN if homing else E.LOST_HOME)
            return
        self._seen(E.HOMED)
        if moving:
            self._seen(E.MOTION_SEEN)
            return
        if self.target is None:
            self.target = position
        at_target, at_goal = self._at(self.target), self._at(self._goal)
        halted = self.state is S.MOVING and not at_goal
        self.short = not at_target and (self.short or halted)
        self._seen(E.ARRIVED if at_target else E.HALTED)

    def _at(self, place: float | None) -> bool:
        here = self.position
        return place is not None and here is not None and abs(here - place) <= self.tolerance

    def _seen(self, event: E) -> None:
        self.state = CHART[self.state].get(event, self.state)

    @property
    def busy(self) -> bool:
        """Whether the axis is homing or moving, according to the last report."""
        return self.state in BUSY

    def states(self) -> dict[str, str]:
        """Return the state."""
        return {self.name: str(self.state)}

    def nested(self) -> dict[str, str]:
        """Return the position with its target."""
        return {self.readback: self.setpoint}

    def reading(self, name: str) -> Reading:
        """Return the position or the target, or the reason why it is unknown."""
        known = self.position if name == self.readback else self.target
        return Reading(known, "" if known is not None else f"{self.name}: {self.advice()}")

    def write(self, name: str, value: float) -> None:
        """Set the target."""
        self.aim(value)

    def notices(self) -> Iterator[Alarm]:
        """Return why the axis does not move, or that it has stopped short of its target."""
        if self.online and (self.state in ADVICE or self.short):
            yield Alarm(self.name, "WARN", self.advice())

    def commands(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the commands by their names for clients."""
        calls = (self.enable, self.disable, self.home, self.move, self.stop)
        return {call.__name__: call for call in calls}

    def procedures(self, device: "Device") -> dict[str, Procedure]:
        """Return the commands. The device must be online, and polls at once after each."""

        def while_online(call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            async def command() -> None:
                device.require_online()
                await call()
                device.poll_now()

            return command

        async def position_set(position: object) -> Value:
            """Set the field in ``sets``, for deployed programs."""
            return await device.set(self.setpoint, position)

        setter = Procedure(position_set, audience="program", sets=device.settable(self.setpoint))
        return {
            f"{self.name}.{name}": Procedure(
                while_online(call), call.__doc__ or "", moves=self.name if name in MOTIONS else ""
            )
            for name, call in self.commands().items()
        } | {f"{self.name}.positionSet": setter}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the fields, the states during and after a motion, and the chart."""
        fields = {"readback": self.readback, "setpoint": self.setpoint}
        states = {"busy": [str(state) for state in BUSY], "arrived": [str(S.INPOS)]}
        return {self.name: fields | states | {"chart": commands_by_state()}}


def commands_by_state() -> dict[str, dict[str, str]]:
    """Return the allowed commands of each state, and the next states, as plain data."""
    return {
        str(state): {str(event): str(arrows[event]) for event in COMMANDS if event in arrows}
        for state, arrows in CHART.items()
    }
