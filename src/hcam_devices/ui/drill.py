"""``hcam drill``: rehearse alarms and interlocks with the simulated hardware.

Every declared alarm and interlock is driven through the simulators. An alarm has to be raised in
time, in a row of its own or hidden by its cause, with no other row, and to be over after an
acknowledgment. The act of an interlock has to be seen on the wire, verified and latched, and a
reset has to need what it should need. Everything is set back at the end. Then every emulated server
is away from the router for a moment. What cannot be driven is listed, too, with the reason.

A drill uses only the simulators and the commands of people. It stops no process, touches no disk,
and leaves out what would disturb a run.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError

from .. import HcamError
from ..alarms.causes import Causes
from ..alarms.chart import SHOWN
from ..alarms.chart import S as AlarmState
from ..alarms.judgment import SHRINKS_S
from ..alarms.rules import CONNECTION, STATUS, Rules
from ..alarms.server import entry_of as alarms
from ..config.instrument import ALARMS, LOGGER, Instrument
from ..core.condition import Act, Condition, Declared
from ..core.device import iso_from_s
from ..core.fields import Setpoint
from ..core.interlock import LATCHED, S
from ..core.sim import Rehearsal
from ..errors import NotAllowedError
from ..history.recorder import entry_of as recorder
from ..wamp.session import join
from ..wamp.uris import Address
from ..wamp.utils import unreachable
from .alarms import is_shown
from .bench import ASK_WITHIN_S, Bench, Controls, Side
from .troubles import count

POLLS = 2
"""An alarm has to come within this many polls after its delay."""
GRACE_S = 1.0
"""The time that a command and a sample may take on their way."""
RECOVER_POLLS = 10
"""A value is back after at most this many polls: a link that was lost comes back with pauses."""
TRACE_S = 3600.0
"""Trace a wire for this time, which is longer than any drill."""
AWAY_S = 10.0
"""Servers are away for so much longer than their alarms may take to come."""
UNDRIVEN = {
    LOGGER: "hwlogger keeps real samples: a drill neither ends it nor breaks its stores",
    ALARMS: "hwalarm is what judges here: while it is broken, nobody could say so",
}
"""Why alarms about these servers cannot be driven."""
STEP = 1.0
"""By how much a setpoint is lowered, in its unit, to see whether that is refused."""
MARKS = {True: "right", False: "WRONG", None: "-"}


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
class Drive:
    """What is done to simulated hardware of one kind, and the alarms that it brings about."""

    rehearsal: Rehearsal
    devices: set[str] = field(default_factory=set)
    alarms: list[str] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is among the alarms: it explains those that come next."""
        return any(alarm.endswith(f".{CONNECTION}") for alarm in self.alarms)


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


class Drill:
    """The rehearsal of everything whose name matches a pattern, such as ``ccd1.coolant``."""

    def __init__(
        self, bench: Bench, pattern: str, tell: Callable[[str], None], grace: float
    ) -> None:
        self.bench, self.pattern, self._tell, self._grace = bench, pattern, tell, grace
        self.rows: list[Row] = []
        instrument = bench.instrument
        entries = [*instrument.entries.values(), recorder(instrument), alarms()]
        self._rules = Rules(entries, instrument.alarms)
        self._causes = Causes(self._rules.devices, self._rules.servers)
        self._server_of = {
            name: server
            for server, devices in self._rules.servers.items()
            for name in (server, *devices)
        }
        self._with_servers: list[str] = []
        """Alarms that come when an emulated server is away."""
        self._before = self._active()
        self._expected: set[str] = set()

    def _wanted(self, device: str, name: str) -> bool:
        full = f"{device}.{name}"
        return any(fnmatchcase(one, self.pattern) for one in (full, device, name))

    async def run(self) -> list[Row]:
        """Return a row for each alarm and interlock. Raises HcamError if it cannot begin."""
        locks, drives = self._locks(), self._drives()
        if not locks and not drives and not self.rows:
            raise HcamError(f"nothing that can be rehearsed is called {self.pattern}")
        self._require_rest(locks)
        rounds = list(self._rounds(locks))  # at rest: it shows which conditions are met anyway
        await asyncio.gather(*(self._lane(lane) for lane in self._lanes(drives)))
        for groups in rounds:
            await asyncio.gather(*(self._locked(group) for group in groups))
        for alarm in set(self.bench.records) - self._before:  # interlocks bring about more
            await self.bench.acknowledge(alarm, self._grace)
        await self._away()
        return self.rows

    def _locks(self) -> list[Rehearsed]:
        return [
            Rehearsed(name, one, Row(f"{name}.{one.name}"))
            for name, entry in self.bench.instrument.entries.items()
            for one in entry.interlocks
            if self._wanted(name, one.name)
        ]

    def _require_rest(self, locks: list[Rehearsed]) -> None:
        """Raise HcamError unless every interlock is armed: a drill begins from rest."""
        for one in locks:
            state = self.bench.state(one.device, one.lock.name)
            if state != S.ARMED:
                raise HcamError(
                    f"{one.full_name} is {state}: a drill begins when every interlock is armed; "
                    f"hcam call {one.full_name}.reset arms one that has tripped"
                )

    # --- alarms -----------------------------------------------------------------------------

    def _drives(self) -> list[Drive]:
        """Return what brings alarms about; add a row for an alarm that nothing does."""
        found: dict[str, Drive] = {}
        for rule in self._rules.declared():
            device, _, name = rule.alarm.partition(".")
            if rule.advice == "" or not self._wanted(device, name) or self._is_lock(device, name):
                continue
            source, there = self._origin(device, name)
            ways = list(self.bench.rehearsals(source, there))
            server = self._server_of[device]
            if not ways and name in (STATUS, CONNECTION) and server in self.bench.servers:
                self._with_servers.append(rule.alarm)
                continue
            no_way = UNDRIVEN.get(server, "no simulator can bring it about")
            if why := self.bench.why_not(source, ways[0]) if ways else no_way:
                self.rows.append(Row(rule.alarm).cannot(why))
                continue
            for way in ways:
                kind = self.bench.instrument.entries[source].cls
                drive = found.setdefault(f"{kind} {way}", Drive(way))
                drive.devices.add(source)
                drive.alarms.append(rule.alarm)
        return list(found.values())

    def _origin(self, device: str, name: str) -> tuple[str, str]:
        """Return the device and the field that an alarm is about: those of a source, for a view."""
        made = self.bench.devices.get(device)
        return made.origin(made.fields[name]) if made and name in made.fields else (device, name)

    def _is_lock(self, device: str, name: str) -> bool:
        entry = self.bench.instrument.entries.get(device)
        return entry is not None and any(one.name == name for one in entry.interlocks)

    def _lanes(self, drives: list[Drive]) -> list[list[Drive]]:
        """Return drives in groups that do not disturb each other.

        Tied are the devices of one drive, and those whose alarms explain alarms of another.
        """
        ties = [drive.devices for drive in drives]
        for device in self.bench.devices.values():
            known = device.fields | device.acts_on
            for one in device.fields.values():
                fields = (one, *(known[name] for name in one.because))
                ties.append({device.origin(each)[0] for each in fields})
        tied: list[set[str]] = []
        for names in ties:
            apart = [one for one in tied if not one & names]
            tied = [*apart, names.union(*(one for one in tied if one & names))]
        lanes = [[drive for drive in drives if drive.devices & names] for names in tied]
        return [lane for lane in lanes if lane]

    async def _lane(self, drives: list[Drive]) -> None:
        """Bring alarms about, one cause after the other; wait together until they are over.

        A value that follows a setpoint is over before anything else disturbs it, and a connection
        before it would explain what comes next.
        """
        over: list[asyncio.Task[None]] = []
        for drive in drives:
            rows = {alarm: Row(alarm) for alarm in drive.alarms}
            self.rows += rows.values()
            self._tell(f"alarms: {', '.join(rows)}")
            await self._alarm(drive, rows)
            over.append(asyncio.create_task(self._over(drive, rows)))
            if drive.is_lost or any(self._rules.of(alarm).setpoint for alarm in rows):
                await over[-1]
        await asyncio.gather(*over)

    async def _alarm(self, drive: Drive, rows: dict[str, Row]) -> None:
        bench = self.bench
        for alarm, row in rows.items():
            if not bench.is_in(alarm, AlarmState.NORMAL):
                row.note(f"{bench.records[alarm]['state']} before the drill", right=False)
        self._expected |= rows.keys()
        async with bench.rehearsed(drive.devices, drive.rehearsal) as troubles:
            await self._seen(drive, rows)
        for trouble in troubles:
            rows[drive.alarms[0]].note(trouble, right=False)
        for alarm, row in rows.items():
            within = self._polls(POLLS, *drive.devices)
            if "shown" in row.seen and not await bench.acknowledge(alarm, within):
                row.note("not acknowledged", right=False)
        for device in drive.devices:
            await bench.became(device, CONNECTION, {"online"}, self._recovery(drive))
        self._expected -= rows.keys()

    async def _seen(self, drive: Drive, rows: dict[str, Row]) -> None:
        """Wait until alarms are there, and look whether people see others."""
        began = time.monotonic()
        await asyncio.gather(*(self._raised(drive, *item, began) for item in rows.items()))
        await asyncio.sleep(self._polls(1, *drive.devices) - self._grace)
        for alarm in self._active() - self._expected - self._before:
            rows[drive.alarms[0]].note(f"{alarm} is shown as well", right=False)

    async def _away(self) -> None:
        """Let emulated servers be away: one row for each, which explains its devices."""
        rows = {alarm: Row(alarm) for alarm in self._with_servers}
        if not rows:
            return
        servers = sorted({self._server_of[alarm.partition(".")[0]] for alarm in rows})
        statuses = [f"{server}.{STATUS}" for server in servers]
        self.rows += rows.values()
        self._tell(f"servers that are away: {', '.join(servers)}")
        devices = {alarm.partition(".")[0] for alarm in (*rows, *statuses)}
        drive = Drive(Rehearsal(), devices, list(dict.fromkeys((*rows, *statuses))))
        self._expected |= {*statuses}
        longest = max(self._rules.of(alarm).delay for alarm in drive.alarms)
        away = longest + POLLS * max(map(self._rules.poll_s, devices)) + AWAY_S
        await self.bench.send_away(servers, away)
        await self._seen(drive, rows)
        for alarm in statuses:
            if not await self.bench.acknowledge(alarm, self._polls(POLLS, *devices)):
                rows[drive.alarms[0]].note(f"{alarm} is not acknowledged", right=False)
        await self._over(drive, rows, away)

    def _active(self) -> set[str]:
        """Return the alarms that people see and have not acknowledged."""
        records = self.bench.records.items()
        return {n for n, one in records if is_shown(one) and one["state"] == AlarmState.ACTIVE}

    async def _raised(self, drive: Drive, alarm: str, row: Row, began: float) -> None:
        """Wait until an alarm is active, and look whether people see it or its cause."""
        bench, rule = self.bench, self._rules.of(alarm)
        within = rule.delay + self._polls(POLLS, alarm.partition(".")[0], *drive.devices)
        within += drive.rehearsal.takes
        if rule.setpoint:  # until then it is taken for one that approaches its setpoint
            within += SHRINKS_S
        cause = self._causes.cause(alarm, drive.alarms.__contains__)

        def judged() -> bool:
            record = bench.records.get(alarm)
            if not record or record["state"] not in SHOWN:
                return False
            return record["cause"] == cause if cause else is_shown(record)

        came = await bench.until(judged, within)
        if not came:
            why = bench.why_unseen(alarm)
            row.note(f"no row after {within:.0f} s, it is {why}", right=False)
            return
        row.note(f"alarm after {time.monotonic() - began:.1f} s")
        row.note(f"explained by {cause}" if cause else "shown")

    def _recovery(self, drive: Drive) -> float:
        return self._polls(RECOVER_POLLS, *drive.devices)

    async def _over(self, drive: Drive, rows: dict[str, Row], still: float = 0.0) -> None:
        """Wait until alarms are over, whose cause may last ``still`` so many seconds."""
        for alarm, row in rows.items():
            rule = self._rules.of(alarm)
            within = still + rule.off_delay + self._recovery(drive)
            gone = await self.bench.until(
                partial(self.bench.is_in, alarm, AlarmState.NORMAL), within
            )
            row.note("cleared" if gone else f"not cleared in {within:.0f} s", right=gone)

    def _polls(self, number: int, *devices: str) -> float:
        """Return the longest time (s) that a number of polls of some devices takes."""
        return number * max(map(self._rules.poll_s, devices)) + self._grace

    # --- interlocks -------------------------------------------------------------------------

    def _rounds(self, locks: list[Rehearsed]) -> Iterator[list[list[Rehearsed]]]:
        """Yield the interlocks by name, those together that do not disturb each other."""
        groups: dict[str, list[Rehearsed]] = {}
        for one in sorted(locks, key=lambda one: one.lock.during):
            groups.setdefault(one.lock.name, []).append(one)
        while groups:
            together: list[str] = []
            for name, group in groups.items():
                others = [groups[other] for other in together]
                if not any(self._disturbs(group, o) or self._disturbs(o, group) for o in others):
                    together.append(name)
            yield [groups.pop(name) for name in together]

    def _disturbs(self, some: list[Rehearsed], others: list[Rehearsed]) -> bool:
        """Return whether to rehearse some interlocks changes what others depend on."""
        driven = {condition.device for one in some for condition in one.lock.unless}
        for one in some:
            first, *rest = one.lock.when or (None,)
            driven |= {first.device} if first else set()
            driven |= {each.device for each in rest if each and not self._is_met(each)}
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
        self._tell(f"interlock {group[0].lock.name} of {', '.join(one.device for one in group)}")
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
        """Wait until every value of an interlock is known again, and proven for a permissive."""
        for condition in one.lock.conditions:
            met = {True} if condition in one.lock.unless else {True, False}
            within = self._polls(RECOVER_POLLS, condition.device)
            await self.bench.judged(condition, met, within)

    async def _trips(self, locks: list[Rehearsed]) -> None:
        await self._blind(locks)
        needed = {one.full_name: self._needed(one) for one in locks}
        driven = [one for one in locks if needed[one.full_name]]
        for device in dict.fromkeys(act.device for one in driven for act in one.lock.then):
            await self.bench.trace(device, TRACE_S)
        controls = {key: value for one in needed.values() for key, value in (one or {}).items()}
        async with self.bench.driven(controls):
            began = time.monotonic()
            await asyncio.gather(*(self._trip(one, began) for one in driven))
        tripped = [one for one in driven if self._state(one) in LATCHED]
        await asyncio.gather(*(self._latched(one) for one in tripped))
        await asyncio.gather(*(self._reset(one) for one in tripped))

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
            if self._is_met(condition):
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
        said = await bench.alarmed(one.device, lock.name, "tripped", self._grace)
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


async def rehearse(
    instrument: Instrument,
    address: Address,
    pattern: str,
    tell: Callable[[str], None],
    grace: float = GRACE_S,
) -> list[Row]:
    """Return a row for each alarm and interlock that matches a pattern.

    ``tell`` gets what is begun. ``grace`` is the time (s) that commands and samples may take on
    their way. Raises HcamError if there is no router, if a server does not run or is not emulated,
    or if something has tripped.
    """
    try:
        async with join(address, within=ASK_WITHIN_S) as session:
            bench = Bench(instrument, session)
            await bench.begin()
            following = asyncio.create_task(bench.follow_alarms())
            try:
                return await Drill(bench, pattern, tell, grace).run()
            finally:
                following.cancel()
    except ApplicationError as error:
        reason = " ".join(map(str, error.args)) or error.error
        raise HcamError(f"the drill was stopped: {reason}") from None
    except (OSError, WampError) as error:
        raise HcamError(unreachable(address, error, ASK_WITHIN_S)) from None


def as_text(rows: list[Row], began: float, took: float, version: str) -> str:
    """Return the report: a line for each row, and their numbers."""
    wrong = sum(row.right is False for row in rows)
    undriven = sum(row.right is None for row in rows)
    title = f"Drill of {iso_from_s(began)}, hcam_devices {version}, {took:.0f} s"
    end = f"{count(len(rows), 'row')}, {wrong} wrong, {undriven} that cannot be driven"
    return "\n".join([title, "", *map(str, rows), "", end])
