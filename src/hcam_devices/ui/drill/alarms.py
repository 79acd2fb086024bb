"""The half of a drill that brings alarms about, and looks whether people are told."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

from ...alarms.causes import Causes
from ...alarms.chart import SHOWN
from ...alarms.chart import S as AlarmState
from ...alarms.judgment import SHRINKS_S
from ...alarms.rules import CONNECTION, STATUS
from ...config.instrument import ALARMS, LOGGER
from ...core.sim import Rehearsal
from ..alarms import is_shown
from ..bench import ASK_WITHIN_S
from .half import POLLS, RECOVER_POLLS, Half, Row, together

AWAY_S = 10.0
"""Servers are away for so much longer than their alarms may take to come."""
UNDRIVEN = {
    LOGGER: "hwlogger keeps real samples: a drill neither ends it nor breaks its stores",
    ALARMS: "hwalarm is what judges here: while it is broken, nobody could say so",
}
"""Why alarms about these servers cannot be driven."""


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


class Alarms(Half):
    """The rehearsal of alarms."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self._drives = self._find()

    def __bool__(self) -> bool:
        """Whether there is an alarm to bring about."""
        return bool(self._drives or self._with_servers)

    async def run(self) -> None:
        """Bring alarms about, all but those of servers that are away."""
        await together(*(self._lane(lane) for lane in self._lanes()))

    async def acknowledge_others(self) -> None:
        """Acknowledge the alarms that have come since the drill began: interlocks cause more."""
        others = set(self.bench.records) - self._before
        await together(*(self.bench.acknowledge(alarm, ASK_WITHIN_S) for alarm in others))

    def _find(self) -> list[Drive]:
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

    def _lanes(self) -> list[list[Drive]]:
        """Return drives in groups that do not disturb each other.

        Tied are the devices of one drive, and those whose alarms explain alarms of another.
        """
        ties = [drive.devices for drive in self._drives]
        for device in self.bench.devices.values():
            known = device.fields | device.acts_on
            for one in device.fields.values():
                fields = (one, *(known[name] for name in one.because))
                ties.append({device.origin(each)[0] for each in fields})
        tied: list[set[str]] = []
        for names in ties:
            apart = [one for one in tied if not one & names]
            tied = [*apart, names.union(*(one for one in tied if one & names))]
        lanes = [[drive for drive in self._drives if drive.devices & names] for names in tied]
        return [lane for lane in lanes if lane]

    async def _lane(self, drives: list[Drive]) -> None:
        """Bring alarms about, one cause after the other, and wait until all are over.

        A value that follows a setpoint is over before anything else disturbs it, and a connection
        before it would explain what comes next.
        """
        if not drives:
            return
        drive, *others = drives
        rows = {alarm: Row(alarm) for alarm in drive.alarms}
        self.rows += rows.values()
        self.tell(f"alarms: {', '.join(rows)}")
        await self._alarm(drive, rows)
        if drive.is_lost or any(self._rules.of(alarm).setpoint for alarm in rows):
            await self._over(drive, rows)
            await self._lane(others)
        else:
            await together(self._over(drive, rows), self._lane(others))

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
        shown = [item for item in rows.items() if "shown" in item[1].seen]
        await together(*(self._acknowledge(drive, *item) for item in shown))
        for device in drive.devices:
            await bench.became(device, CONNECTION, {"online"}, self._recovery(drive))
        self._expected -= rows.keys()

    async def _acknowledge(self, drive: Drive, alarm: str, row: Row) -> None:
        within = self._polls(POLLS, *drive.devices)
        if not await self.bench.acknowledge(alarm, within):
            row.note(f"{alarm} is not acknowledged", right=False)

    async def _seen(self, drive: Drive, rows: dict[str, Row]) -> None:
        """Wait until alarms are there, and look whether people see others."""
        began = time.monotonic()
        await together(*(self._raised(drive, *item, began) for item in rows.items()))
        await asyncio.sleep(self._polls(1, *drive.devices) - self.grace)
        for alarm in self._active() - self._expected - self._before:
            rows[drive.alarms[0]].note(f"{alarm} is shown as well", right=False)

    async def away(self) -> None:
        """Let emulated servers be away: one row for each, which explains its devices."""
        rows = {alarm: Row(alarm) for alarm in self._with_servers}
        if not rows:
            return
        servers = sorted({self._server_of[alarm.partition(".")[0]] for alarm in rows})
        statuses = [f"{server}.{STATUS}" for server in servers]
        self.rows += rows.values()
        self.tell(f"servers that are away: {', '.join(servers)}")
        devices = {alarm.partition(".")[0] for alarm in (*rows, *statuses)}
        drive = Drive(Rehearsal(), devices, list(dict.fromkeys((*rows, *statuses))))
        self._expected |= {*statuses}
        longest = max(self._rules.of(alarm).delay for alarm in drive.alarms)
        away = longest + POLLS * max(map(self._rules.poll_s, devices)) + AWAY_S
        await self.bench.send_away(servers, away)
        await self._seen(drive, rows)
        row = rows[drive.alarms[0]]
        await together(*(self._acknowledge(drive, alarm, row) for alarm in statuses))
        await self._over(drive, rows, away)

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
