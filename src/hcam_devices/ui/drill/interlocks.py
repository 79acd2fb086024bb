"""The half of a drill that lets interlocks act, and looks at the wire and the hardware."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from autobahn.wamp.exception import ApplicationError

from ... import HcamError
from ...core.condition import Act, Condition, Declared
from ...core.fields import Setpoint
from ...core.interlock import LATCHED, S
from ...errors import NotAllowedError
from ..bench import Controls, Side
from .half import POLLS, RECOVER_POLLS, Half, Row, together

TRACE_S = 3600.0
"""Trace a wire for this time, which is longer than any drill."""
STEP = 1.0
"""By how much a setpoint is lowered, in its unit, to see whether that is refused."""


@dataclass
class Rehearsed:
    """An interlock of one device, and its row."""

    device: str
    lock: Declared
    row: Row

    @property
    def full_name(self) -> str:
        """The name with that of its device."""
        return f"{self.device}.{self.lock.name}"


class Interlocks(Half):
    """The rehearsal of interlocks. Await ``look_at_rest`` before anything is driven."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._locks = [
            Rehearsed(name, one, Row(f"{name}.{one.name}"))
            for name, entry in self.bench.instrument.entries.items()
            for one in entry.interlocks
            if self._wanted(name, one.name)
        ]
        self._at_rest: set[Condition] = set()
        """The conditions that are met while nothing is driven; those of permissives should be."""

    def __bool__(self) -> bool:
        """Whether there is an interlock to rehearse."""
        return bool(self._locks)

    async def look_at_rest(self) -> None:
        """Look which conditions are met. Raises HcamError unless every interlock is armed."""
        for one in self._locks:
            state = self.bench.state(one.device, one.lock.name)
            if state != S.ARMED:
                raise HcamError(
                    f"{one.full_name} is {state}: a drill begins when every interlock is armed; "
                    f"hcam call {one.full_name}.reset arms one that has tripped"
                )
        conditions = {each for one in self._locks for each in one.lock.conditions}
        # After ``hcam up`` the first values may still be on their way.
        await together(
            *(
                self.bench.judged(each, {True, False}, self._polls(RECOVER_POLLS, each.device))
                for each in conditions
            )
        )
        proven = {each for one in self._locks for each in one.lock.unless}
        self._at_rest = proven | set(filter(self._is_met, conditions))

    async def run(self) -> None:
        """Rehearse the interlocks, those together that do not disturb each other."""
        for groups in self._rounds():
            await together(*(self._locked(group) for group in groups))

    def _rounds(self) -> Iterator[list[list[Rehearsed]]]:
        """Yield the interlocks by name, those together that do not disturb each other."""
        groups: dict[str, list[Rehearsed]] = {}
        for one in sorted(self._locks, key=lambda one: one.lock.during):
            groups.setdefault(one.lock.name, []).append(one)
        while groups:
            chosen: list[list[Rehearsed]] = []
            for group in groups.values():
                if not any(self._disturbs(group, o) or self._disturbs(o, group) for o in chosen):
                    chosen.append(group)
            yield [groups.pop(group[0].lock.name) for group in chosen]

    def _disturbs(self, some: list[Rehearsed], others: list[Rehearsed]) -> bool:
        """Return whether to rehearse some interlocks changes what others depend on."""
        driven = {condition.device for one in some for condition in one.lock.unless}
        for one in some:
            first, *rest = one.lock.when or (None,)
            driven |= {first.device} if first else set()
            driven |= {each.device for each in rest if each and each not in self._at_rest}
        used = {device for one in others for device in self._used(one)}
        acts = {act.device for one in some for act in one.lock.then}
        # An act comes after ``during``: what has tripped by then is not disturbed by it.
        is_late = some[0].lock.during > others[0].lock.during
        return bool((driven if is_late else driven | acts) & used)

    def _used(self, one: Rehearsed) -> Iterator[str]:
        """Yield the devices on which the rehearsal of an interlock depends."""
        yield from (condition.device for condition in one.lock.conditions)
        for device, _ in one.lock.refuse:
            yield from (device, *self.bench.devices[device].sources())

    def _is_met(self, condition: Condition) -> bool:
        value = self.bench.value(condition)
        return value is not None and condition.is_met(value)

    async def _locked(self, group: list[Rehearsed]) -> None:
        """Rehearse the interlocks of one name."""
        self.tell(f"interlock {group[0].lock.name} of {', '.join(one.device for one in group)}")
        self.rows += [one.row for one in group]
        await (self._trips(group) if group[0].lock.when else self._permissives(group))

    async def _permissives(self, locks: list[Rehearsed]) -> None:
        for controls, several in self._unproven(locks):
            async with self.bench.driven(controls):
                for one, condition in several:
                    device = condition.device
                    within = self._polls(POLLS, device)
                    if not await self.bench.judged(condition, {False}, within):
                        one.row.note(f"{condition.name} did not change", right=False)
                    await self._refused(one, condition.name)
        firsts = {one.full_name: one.lock.unless[0] for one in locks}
        async with AsyncExitStack() as stack:
            devices = dict.fromkeys(first.device for first in firsts.values())
            await stack.enter_async_context(self.bench.unplugged(*devices))
            for device in devices:
                await self.bench.became(
                    device, "connection", {"offline"}, self._polls(POLLS, device)
                )
            for one in locks:
                await self._refused(one, f"{firsts[one.full_name].name} is unknown")
        for one in locks:
            await self._back(one)
            for device, command, present in self._lowered(one):
                reasons = [
                    await self._try(device, command, value) for value in (present - STEP, present)
                ]
                wrong = "; ".join(filter(None, reasons))
                one.row.note(wrong or "allowed when proven", right=not wrong)

    def _unproven(
        self, locks: list[Rehearsed]
    ) -> Iterator[tuple[Controls, list[tuple["Rehearsed", Condition]]]]:
        """Yield each drive against conditions of permissives, with these conditions."""
        found: dict[str, tuple[Controls, list[tuple[Rehearsed, Condition]]]] = {}
        for one in locks:
            for condition in one.lock.unless:
                side: Side = "above" if condition.side == "below" else "below"
                controls = self.bench.drive(condition.device, condition.path[0], side)
                if controls is None:
                    one.row.note(f"no simulator brings {condition.name} {side} its limit")
                    continue
                found.setdefault(str(controls), (controls, []))[1].append((one, condition))
        yield from found.values()

    async def _refused(self, one: Rehearsed, name: str) -> None:
        for device, command, present in self._lowered(one):
            reason = await self._try(device, command, present - STEP)
            right = one.full_name in reason and name in reason
            one.row.note(
                f"refused: {name}" if right else f"{name}, and {reason or 'allowed'}", right=right
            )

    def _lowered(self, one: Rehearsed) -> Iterator[tuple[str, str, float]]:
        """Yield the setpoints that a permissive keeps from being lowered, and their values."""
        for device, command in one.lock.refuse:
            setpoint = self.bench.devices[device].fields.get(command.removeprefix("set_"))
            if isinstance(setpoint, Setpoint) and one.lock.lowering:
                path = self.bench.devices[device].path(setpoint.name)
                present = self.bench.value(Condition("", device, path, setpoint.unit))
                if present is not None:
                    yield device, command, present

    async def _try(self, device: str, command: str, *args: Any, **kwargs: Any) -> str:
        """Return why a command was not allowed; empty if it was carried out."""
        try:
            await self.bench.call(device, command, *args, **kwargs)
        except ApplicationError as error:
            reason = " ".join(map(str, error.args))
            return reason if error.error == NotAllowedError.uri else f"{error.error}: {reason}"
        return ""

    async def _back(self, one: Rehearsed) -> None:
        """Wait until every condition of an interlock is as it was at rest."""
        for condition in one.lock.conditions:
            within = self._polls(RECOVER_POLLS, condition.device)
            if not await self.bench.judged(condition, {condition in self._at_rest}, within):
                one.row.note(f"{condition.name} is not back after {within:.0f} s", right=False)

    async def _trips(self, locks: list[Rehearsed]) -> None:
        await self._blind(locks)
        needed = {one.full_name: self._needed(one) for one in locks}
        driven = [one for one in locks if needed[one.full_name]]
        for device in dict.fromkeys(act.device for one in driven for act in one.lock.then):
            await self.bench.trace(device, TRACE_S)
        controls = {key: value for one in needed.values() for key, value in (one or {}).items()}
        began = time.monotonic()
        async with self.bench.driven(controls):
            await together(*(self._trip(one, began) for one in driven))
        tripped = [one for one in driven if self._state(one) in LATCHED]
        await together(*(self._latched(one) for one in tripped))
        await together(*(self._reset(one) for one in tripped))

    async def _blind(self, locks: list[Rehearsed]) -> None:
        """Take away the first value of each: it has to say that it is blind."""
        async with AsyncExitStack() as stack:
            devices = dict.fromkeys(one.lock.when[0].device for one in locks)
            await stack.enter_async_context(self.bench.unplugged(*devices))
            for one in locks:
                within = self._polls(POLLS, one.device, one.lock.when[0].device)
                came = await self.bench.alarmed(one.device, one.lock.name, "blind", within)
                one.row.note("blind is said" if came else "blind is not said", right=came)
        for one in locks:
            await self._back(one)

    def _needed(self, one: Rehearsed) -> Controls | None:
        """Return the controls that make a trip's conditions true; note if there are none."""
        needed: Controls = {}
        for condition in one.lock.when:
            if condition in self._at_rest:
                continue
            controls = self.bench.drive(condition.device, condition.path[0], condition.side)
            if controls is None:
                one.row.cannot(f"no simulator brings {condition.name} {condition.side} its limit")
                return None
            needed |= controls
        if not needed:
            one.row.note("its conditions are met before the drill", right=False)
        return needed

    def _state(self, one: Rehearsed) -> str:
        return self.bench.state(one.device, one.lock.name)

    async def _trip(self, one: Rehearsed, began: float) -> None:
        bench, lock, row = self.bench, one.lock, one.row
        # The first sample begins the time, and a sample after its end ends it.
        polls = self._polls(POLLS + 1, *(condition.device for condition in lock.when))
        if not await bench.became(one.device, lock.name, LATCHED, lock.during + polls):
            row.note(f"not tripped in {lock.during + polls:.0f} s", right=False)
            return
        took = time.monotonic() - began
        row.note(f"tripped after {took:.1f} s", right=took >= lock.during)
        said = await bench.alarmed(one.device, lock.name, "tripped", self.grace)
        row.note("alarm" if said else "no alarm", right=said)
        within = self._rules.of(one.full_name).delay + self._polls(POLLS, one.device)
        shown = await bench.until(lambda: one.full_name in self._active(), within)
        why = f"no row after {within:.0f} s, it is {bench.why_unseen(one.full_name)}"
        row.note("shown" if shown else why, right=shown)
        for act in lock.then:
            within = lock.within + self._polls(POLLS, act.device)
            verified = await bench.alarmed(one.device, lock.name, ": verified.", within)
            row.note("verified" if verified else "not verified", right=verified)
            times = bench.sent(act)
            row.note(f"sent {'once' if times == 1 else f'{times} times'}", right=times == 1)
            word = await bench.read_back(act)
            row.note(f"the hardware says {word}", right=word == act.word)

    async def _latched(self, one: Rehearsed) -> None:
        """Look whether it stays, and what it switched off as well, when the cause has gone."""
        early = await self._try(one.device, f"{one.lock.name}.reset")
        one.row.note("no early reset" if early else "reset too early", right=bool(early))
        for act in one.lock.then:
            for word in self._others(act):
                setting = f"set_{act.setpoint}", word
                reason = await self._try(act.device, *setting, confirm=True)
                right = "has tripped" in reason
                one.row.note("held off" if right else f"not held: {reason}", right=right)
        await asyncio.sleep(POLLS * self.bench.polls(one.device))
        state = self._state(one)
        one.row.note("latched" if state == S.TRIPPED else f"is {state}", right=state == S.TRIPPED)

    def _others(self, act: Act) -> list[str]:
        """Return the words that switch on what an act switches off."""
        setpoint = self.bench.devices[act.device].settable(act.setpoint)
        return [word for word in setpoint.words.values() if word not in setpoint.safe]

    async def _reset(self, one: Rehearsed) -> None:
        bench, lock = self.bench, one.lock
        end = time.monotonic() + lock.during + self._polls(RECOVER_POLLS, one.device)
        while reason := await self._try(one.device, f"{lock.name}.reset"):
            if time.monotonic() > end:
                one.row.note(f"no reset: {reason}", right=False)
                return
            await asyncio.sleep(bench.polls(one.device))
        armed = await bench.became(one.device, lock.name, {S.ARMED}, self._polls(POLLS, one.device))
        one.row.note("reset" if armed else "not armed after its reset", right=armed)
        for act in lock.then:
            word = await bench.read_back(act)
            one.row.note("still off" if word == act.word else f"is {word}", right=word == act.word)
            for other in self._others(act):
                reason = await self._try(act.device, f"set_{act.setpoint}", other)
                one.row.note(reason or "switched on by a command", right=not reason)
        await self._back(one)
