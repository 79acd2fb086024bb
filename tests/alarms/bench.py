"""A board with clocks of its own, and the devices that its tests judge."""

import math
from collections.abc import Iterable
from typing import Any

from hcam_devices.alarms.board import Board
from hcam_devices.alarms.chart import S
from hcam_devices.alarms.news import Change, Message
from hcam_devices.alarms.record import Record
from hcam_devices.alarms.rules import Rules
from hcam_devices.config.instrument import Entry
from hcam_devices.core import Device, Lasting, Readback, Setpoint, iso_from_s

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


class Gauge(Device):
    """A gauge that also has a temperature with a setpoint, and a notice."""

    link_type = Lasting
    advice = {"cold": "Warm it.", "idle": ""}  # noqa: RUF012

    pressure = Readback(unit="mbar", healthy=(0, 1.0), advice="Close the valve.")
    flow = Readback(unit="l / min", healthy=(0.4, math.inf), because=("pressure",))
    quick = Readback(healthy=(0, 1), delay=0.0, deadband=0.0, latch=False, advice="Look.")
    temperature = Readback(unit="deg_C", advice="Wait.")
    target_temperature = Setpoint(unit="deg_C")


ENTRIES = [Entry(name, Gauge, "hwserver", (), {}) for name in ("g1", "g2", "g3")]


class Bench:
    """A board, the clocks that the test turns, and what was kept and told."""

    def __init__(self, *, entries: Iterable[Entry] = ENTRIES, **options: Any) -> None:
        self.entries, self.options = list(entries), options
        self.now = NOON + 12 * 3600
        self.set_by = 0.0
        """By how much (s) somebody has set the clock of the machine."""
        self.disk: dict[str, dict[str, Any]] = {}
        self.told: list[Change] = []
        self.messages: list[Message] = []
        self.board = self.made()

    def made(self) -> Board:
        changed = self.options.get("changed", {})
        board = Board(
            Rules(self.entries, changed),
            self.keep,
            [Record.of(kept) for kept in self.disk.values()],
            clock=lambda: self.now + self.set_by,
            steady=lambda: self.now - 7,
            stages=self.options.get("stages", {"observer": 180.0, "support": 600.0}),
        )
        board.nobody_heard()  # a test of silence says from when on it listens
        return board

    def restart(self) -> None:
        """Let the process end without a word, and start it again."""
        self.board = self.made()

    def keep(
        self, records: Iterable[Record], changes: list[Change], messages: list[Message]
    ) -> None:
        self.disk |= {record.alarm: record.kept() for record in records}
        self.told += changes
        self.messages += messages

    def sample(self, device: str = "g1", *, online: bool = True, **values: Any) -> dict[str, Any]:
        """Return a sample as a device would judge it: a number, or None with a reason."""
        cls = next(entry.cls for entry in self.entries if entry.name == device)
        alarms = values.pop("alarms", [])
        said: dict[str, Any] = {}
        for name, value in values.items():
            field = cls.fields[name]
            said[name] = field.on_wire(value)
            reason = "no answer" if value is None else field.unhealthy(value)
            if reason:
                alarms = [*alarms, {"field": name, "severity": "ERR", "reason": reason}]
        state = {"connection": "online" if online else "offline"}
        if not online:
            alarms = [{"field": "connection", "severity": "ERR", "reason": "no route"}]
        head = {"device": device, "timestamp": iso_from_s(self.now), "state": state}
        return head | {"alarms": alarms, "seq": 1, "epoch": "e"} | said

    def hear(self, device: str = "g1", *, online: bool = True, **values: Any) -> None:
        self.board.hear(self.sample(device, online=online, **values))

    def warn(self, device: str = "g1", name: str = "cold", severity: str = "WARN") -> None:
        self.hear(device, alarms=[{"field": name, "severity": severity, "reason": name}])

    def gone(self, device: str) -> None:
        """Deliver the testament of a device."""
        self.board.hear(self.sample(device, online=False) | {"timestamp": None, "seq": None})

    def after(self, seconds: float, **values: Any) -> None:
        """Let time pass in steps of a poll; a device says the same in each, if it is given."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 2, end)
            if values:
                self.hear(**values)
            self.board.tick()

    def __getitem__(self, alarm: str) -> Record:
        return self.board.records[alarm]

    def state(self, alarm: str) -> S:
        return self.board.records[alarm].state

    def hides(self, alarm: str) -> bool:
        return self.board.records[alarm].is_hidden

    @property
    def events(self) -> list[str]:
        return [change.event for change in self.told if change.event != "updated"]
