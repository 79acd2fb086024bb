"""Interlocks: what a server refuses, or switches off, by itself.

A *permissive* refuses a command unless conditions are proven. A *trip* acts once when conditions
were met for some time: it sets setpoints to a safe word, verifies that this helped, and stays
until a person resets it. Both run in the process that drives the actuator, and hear the devices
of their conditions directly.

What may happen in which state is a table, which a test compares with the drawing in
docs/interlocks.md. Times are measured with a steady clock: setting the clock of the machine neither
delays nor hastens a trip.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from ..errors import NotAllowedError
from ..host.threads import in_own_thread
from .condition import Declared, Watch
from .fields import Procedure, Setpoint, is_number, rpc
from .part import Alarm, Part

if TYPE_CHECKING:
    from .device import Device, Sample

log = logging.getLogger(__name__)

MAX_BYPASS_MIN = 60
"""An interlock is bypassed for at most this many minutes."""
SAMPLES_IN_A_ROW = 2
"""A condition counts for a trip after it was met in this many samples in a row."""
SAVED_WITHIN_S = 5.0
"""A trip acts after this time even if the disk has not answered."""
MAX_REASON_LENGTH = 200
"""Characters of the reason for a bypass."""


class S(StrEnum):
    """The states of an interlock."""

    ARMED = "armed"
    TIMING = "timing"
    TRIPPED = "tripped"
    FAILED = "failed"
    BYPASSED = "bypassed"


class E(StrEnum):
    """What happens to an interlock: judgments of samples, times that are over, acts of people.

    ``end_bypass`` also comes by itself when the time of a bypass is over.
    """

    MET = "met"
    CLEAR = "clear"
    DURING_OVER = "during_over"
    VERIFIED = "verified"
    NOT_VERIFIED = "not_verified"
    RESET = "reset"
    BYPASS = "bypass"
    END_BYPASS = "end_bypass"


CHART: dict[S, dict[E, S]] = {
    S.ARMED: {E.MET: S.TIMING, E.BYPASS: S.BYPASSED},
    S.TIMING: {E.CLEAR: S.ARMED, E.DURING_OVER: S.TRIPPED},
    S.TRIPPED: {E.VERIFIED: S.TRIPPED, E.NOT_VERIFIED: S.FAILED, E.RESET: S.ARMED},
    S.FAILED: {E.RESET: S.ARMED},
    S.BYPASSED: {E.END_BYPASS: S.ARMED},
}
LATCHED = (S.TRIPPED, S.FAILED)
"""The states that only a person leaves."""
COMMANDS = (E.RESET, E.BYPASS, E.END_BYPASS)


class Memory(Protocol):
    """Where an interlock keeps its state, so that it survives the process."""

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, or None. Raises OSError or ValueError if it cannot be read."""

    def save(self, content: dict[str, Any] | None) -> None:
        """Keep something on disk, or nothing; return when it is there. Raises OSError."""


class Interlock(Part):
    """One interlock of a device: its state, its alarm, and the commands for people."""

    def __init__(self, declared: Declared, steady: Callable[[], float] = time.monotonic) -> None:
        self.declared, self.name, self.armed = declared, declared.name, declared.armed
        self.state = S.ARMED
        self.why = ""
        """Why it is in its state: what tripped it, or why it is bypassed."""
        self.verified = False
        self._steady = steady
        self._watches = {one: Watch(one, steady) for one in declared.conditions}
        self._when = [self._watches[one] for one in declared.when]
        self._owner: Device | None = None
        self._devices: Mapping[str, Device] = {}
        self._memory: Memory
        self._unsaved = ""
        self._acted_at = math.inf
        self._clear_since: float | None = None
        self._bypass_ends = 0.0  # by the steady clock
        self._until = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._saving = asyncio.Lock()

    # --- wiring -----------------------------------------------------------------------------

    def attach(self, owner: "Device", devices: Mapping[str, "Device"], memory: Memory) -> None:
        """Hear the devices of the conditions, guard the commands, and take up the kept state.

        Raises KeyError if a device is not in this process.
        """
        self._owner, self._devices, self._memory = owner, devices, memory
        for name in self.declared.held:
            devices[name].guards.append(self.guard)
        for name in {*self.declared.held, owner.name}:
            devices[name].interlocks[self.full_name] = self.describe_interlock
        for name in {*self.declared.devices, owner.name}:
            devices[name].listeners.append(self.hear)
        if self.armed:
            self._restore()

    @property
    def owner(self) -> "Device":
        """The device that shows it."""
        if self._owner is None:
            raise RuntimeError(f"{self.name} is not attached")
        return self._owner

    @property
    def full_name(self) -> str:
        """The name with that of its device: ``ccd1.coolant``."""
        return f"{self._owner.name}.{self.name}" if self._owner else self.name

    def _restore(self) -> None:
        """Take up the state of an earlier process. Nothing acts: a past act may have happened."""
        try:
            kept = self._memory.load()
            if kept is None:
                return
            if (state := S(kept["state"])) not in (*LATCHED, S.BYPASSED):
                raise ValueError(f"{state} is not a state that is kept")
            self.state, self.why = state, str(kept["why"])
            self.verified, self._until = bool(kept["verified"]), str(kept["until"])
            left = float(kept["ends"]) - self.owner.clock()
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.state, self.verified = S.FAILED, False
            self.why = f"its kept state cannot be read: {error}"
            log.error("%s: %s", self.full_name, self.why)
            left = 0.0
        if not self.declared.when and self.state in LATCHED:
            self.state = S.ARMED  # a permissive has nothing to reset: it is in force
        self._acted_at = self._steady()
        self._bypass_ends = self._steady() + min(max(0.0, left), MAX_BYPASS_MIN * 60)

    def _kept(self) -> dict[str, Any] | None:
        """Return the state as it is kept; None if it is one that need not survive."""
        if self.state not in (*LATCHED, S.BYPASSED):
            return None
        return {
            "state": str(self.state),
            "why": self.why,
            "verified": self.verified,
            "until": self._until,
            "ends": self.owner.clock() + self._bypass_ends - self._steady(),
        }

    async def _save(self) -> None:
        """Keep the state on disk; an error becomes part of the alarm, and stops nothing."""
        try:
            async with asyncio.timeout(SAVED_WITHIN_S), self._saving:
                await in_own_thread(self._memory.save, self._kept())
            self._unsaved = ""
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {SAVED_WITHIN_S:g} s"
            self._unsaved = f"; its state is not on disk ({reason}): a restart would forget it"
            log.error("%s%s", self.full_name, self._unsaved)

    # --- judging ----------------------------------------------------------------------------

    def hear(self, sample: "Sample") -> None:
        """Judge a sample of any of its devices."""
        blind = self._blind()
        for condition, watch in self._watches.items():
            if condition.device == sample["device"]:
                watch.hear(sample)
        if self.armed:
            self._judge()
            if bool(blind) != bool(self._blind()):
                self._begin(self._show())  # otherwise only the next poll would show it

    def _blind(self) -> list[Watch]:
        """Return the conditions of a trip whose values are unknown."""
        return [watch for watch in self._when if watch.value is None]

    def _judge(self) -> None:
        now, watches = self._steady(), self._when
        if self._is_clear():
            self._clear_since = now if self._clear_since is None else self._clear_since
        else:
            self._clear_since = None
        met = bool(watches) and all(watch.met for watch in watches)
        if self.state is S.ARMED and met:
            self._go(E.MET, "; ".join(map(str, watches)))
        elif self.state is S.TIMING and not met:
            self._go(E.CLEAR, "")
        elif self.state is S.TIMING:
            enough = min(watch.in_a_row for watch in watches) >= SAMPLES_IN_A_ROW
            if enough and now - max(w.met_since for w in watches) >= self.declared.during:
                how_long = f"for {self.declared.during:g} s"
                self._go(E.DURING_OVER, f"{'; '.join(map(str, watches))} {how_long}")
                self.verified, self._acted_at = False, math.inf
                self._begin(self._trip())
        elif self.state is S.TRIPPED and not self.verified:
            self._verify(now)
        elif self.state is S.BYPASSED and now >= self._bypass_ends:
            self._end_bypass()

    def _is_clear(self) -> bool:
        """Return whether the causes are known not to be met any more."""
        found = [self._watches[one].met for one in self.declared.causes]
        return None not in found and not all(found)

    def _verify(self, now: float) -> None:
        condition = self.declared.verify
        watch = self._watches[condition] if condition else None
        if watch is None or (watch.heard_at > self._acted_at and watch.met):
            self.verified = True
            self._go(E.VERIFIED, self.why)
        elif now - self._acted_at > self.declared.within:
            self._go(E.NOT_VERIFIED, f"{self.why}; {watch} {self.declared.within:g} s after it")
            self._record(E.NOT_VERIFIED, [], f"not verified: {watch}")
        else:
            return
        self._begin(self._save())

    def _go(self, event: E, why: str) -> None:
        """Follow an arrow of the chart."""
        try:
            self.state, self.why = CHART[self.state][event], why
        except KeyError:
            allowed = ", ".join(one for one in COMMANDS if one in CHART[self.state])
            raise NotAllowedError(
                f"{self.full_name} cannot {event} now: it is {self.state}; "
                f"it allows {allowed or 'nothing'}"
            ) from None
        level = logging.INFO if self.state in (S.ARMED, S.TIMING) else logging.WARNING
        log.log(level, "%s is %s%s", self.full_name, self.state, why and f": {why}")
        self._begin(self._show())

    async def _show(self) -> None:
        self.owner.emit()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _trip(self) -> None:
        """Keep the trip on disk, then act once, and record it."""
        await self._save()
        errors = []
        for act in self.declared.then:
            device, reason = self._devices[act.device], None
            try:
                await device.set(act.setpoint, act.word, confirm=True)
            except Exception as error:  # noqa: BLE001  (after any error the other acts must follow)
                reason = str(error) or type(error).__name__
                errors.append(f"{act}: {reason}")
            device.record(self.full_name, f"set_{act.setpoint}", [act.word], self.why, reason)
        if errors:
            self.why += f"; {'; '.join(errors)}"
        self._acted_at = self._steady()
        acts = [str(act) for act in self.declared.then]
        self._record("trip", acts, self.why, "; ".join(errors) or None)
        self._judge()
        self.owner.emit()

    def _record(self, what: str, args: Sequence[str], why: str, error: str | None = None) -> None:
        self.owner.record(self.full_name, f"{self.name}.{what}", args, why, error)

    async def close(self) -> None:
        """Wait until an act that has begun is over."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- commands ---------------------------------------------------------------------------

    def guard(self, device: "Device", command: str, value: float | None) -> None:
        """Raise NotAllowedError if a command of a device must not be carried out now.

        ``value`` is the number that a setpoint would get.
        """
        if not self.armed or self.state is S.BYPASSED:
            return
        name = command.removeprefix("set_")
        field = device.fields.get(name)
        if isinstance(field, Setpoint) and field.words.get(value) in field.safe:
            return
        if self.state in LATCHED and (device.name, name) in [
            (act.device, act.setpoint) for act in self.declared.then
        ]:
            raise NotAllowedError(
                f"{device.name} refuses {command}: the interlock {self.full_name} has tripped "
                f"({self.why}). {self._how_to_reset()}"
            )
        if (device.name, command) not in self.declared.refuse:
            return
        if self.declared.lowering and value is not None:
            present = device.readings[name].value
            if is_number(present) and value >= present:
                return
        watches = [self._watches[one] for one in self.declared.unless]
        if missing := [watch for watch in watches if watch.met is not True]:
            needs = " and ".join(map(str, self.declared.unless))
            raise NotAllowedError(
                f"{device.name} refuses {command}: the interlock {self.full_name} allows it only "
                f"while {needs}; now {'; '.join(map(str, missing))}. {self.declared.advice}".strip()
            )

    def _how_to_reset(self) -> str:
        return f"To reset it: hcam call {self.full_name}.reset"

    def _require_armed(self) -> None:
        if not self.armed:
            raise NotAllowedError(
                f"{self.full_name} is not armed: it is a proposal, and has no effect"
            )

    @rpc()
    async def reset(self) -> None:
        """Arm the interlock again after it has tripped. Nothing is switched on."""
        self._require_armed()
        self._judge()
        if E.RESET in CHART[self.state]:
            if self.state is S.TRIPPED and not self.verified:
                raise NotAllowedError(f"{self.full_name}: its act is not verified yet; wait")
            self._require_clear()
        self._go(E.RESET, "")
        await self._save()

    def _require_clear(self) -> None:
        needed, since = self.declared.during, self._clear_since
        now = "; ".join(str(self._watches[one]) for one in self.declared.causes)
        if since is None:
            raise NotAllowedError(f"{self.full_name} cannot be reset: {now}")
        if (passed := self._steady() - since) < needed:
            raise NotAllowedError(
                f"{self.full_name} cannot be reset before its cause was away for {needed:g} s: "
                f"wait another {needed - passed:.0f} s ({now})"
            )

    @rpc(audience="engineer")
    async def bypass(
        self,
        minutes: Annotated[float, Field(gt=0, le=MAX_BYPASS_MIN)],
        reason: Annotated[str, Field(min_length=3, max_length=MAX_REASON_LENGTH)],
    ) -> None:
        """Suspend the interlock for some minutes, at most 60. It ends by itself."""
        self._require_armed()
        self._go(E.BYPASS, reason)
        self._bypass_ends = self._steady() + 60 * minutes
        self._until = _hours_and_minutes(self.owner.clock() + 60 * minutes)
        await self._save()

    @rpc(audience="engineer")
    async def end_bypass(self) -> None:
        """End a bypass before its time."""
        self._require_armed()
        self._go(E.END_BYPASS, "")
        await self._save()

    def _end_bypass(self) -> None:
        self._record(E.END_BYPASS, [], "its time is over")
        self._go(E.END_BYPASS, "")
        self._begin(self._save())

    def procedures(self, device: "Device") -> dict[str, Procedure]:
        """Return the commands that the kind of interlock has."""
        found: list[Any] = [self.reset] if self.declared.when else []
        found += [self.bypass, self.end_bypass] if self.declared.may_be_bypassed else []
        return {f"{self.name}.{call.__name__}": Procedure(call, **call.rpc) for call in found}

    # --- what people see --------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Return the state, unless it is not armed."""
        return {self.name: str(self.state)} if self.armed else {}

    def notices(self) -> Iterator[Alarm]:
        """Return the alarm of its state, or that it is blind."""
        if not self.armed:
            return
        acts = " and ".join(map(str, self.declared.then))
        if self.state in LATCHED:
            result = "verified" if self.verified else "not verified yet"
            if self.state is S.FAILED:
                result = "it is NOT known that this helped: do it by hand"
            done = f" It set {acts}: {result}." if acts else ""
            text = f"tripped: {self.why}.{done} {self._how_to_reset()}{self._unsaved}"
            yield Alarm(self.name, "ERR", text)
        elif self.state is S.BYPASSED:
            text = f"bypassed until {self._until} UTC: {self.why}{self._unsaved}"
            yield Alarm(self.name, "ERR", text)
        elif self.state is S.TIMING:
            what = f"sets {acts}" if acts else "trips"
            text = f"{self.why}: the interlock {what} after {self.declared.during:g} s of this"
            yield Alarm(self.name, "WARN", text)
        elif blind := self._blind():
            yield Alarm(self.name, "ERR", f"the interlock is blind: {'; '.join(map(str, blind))}")

    def describe_interlock(self) -> dict[str, Any]:
        """Return the declaration, the chart, the state now and its reason, as plain data."""
        now = {"state": str(self.state) if self.armed else None, "why": self.why}
        return self.declared.describe() | {"armed": self.armed, "chart": chart_of_commands()} | now


def _hours_and_minutes(seconds: float) -> str:
    return time.strftime("%H:%M", time.gmtime(seconds))


def chart_of_commands() -> dict[str, dict[str, str]]:
    """Return the allowed commands of each state, and the next states, as plain data."""
    return {
        str(state): {str(event): str(arrows[event]) for event in COMMANDS if event in arrows}
        for state, arrows in CHART.items()
    }
