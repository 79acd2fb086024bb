"""Nights of the simulated instrument, replayed: no alarm is missed, and none is false."""

import json
import lzma
from collections.abc import Iterator
from typing import Any

import pytest

from hcam_devices.config.instrument import load
from hcam_devices.core import iso_from_s

from .bench import Bench
from .nights import BEGIN, COOLING, FOLDER, NIGHTS, POLL_S

POLLS = 2
ENTRIES = [e for e in load().entries.values() if e.name.rstrip("0123456789") in COOLING]


class Replay:
    """A board that hears a night, and what was raised when."""

    def __init__(self, name: str) -> None:
        first, *rest = lzma.decompress((FOLDER / f"{name}.jsonl.xz").read_bytes()).splitlines()
        self.faults: list[tuple[float, float, list[str]]] = json.loads(first)
        self._lines = [json.loads(line) for line in rest]
        self.bench = Bench(entries=ENTRIES)
        self.bench.now = BEGIN
        self._kept: dict[str, dict[str, Any]] = {}
        self._is_heard = True
        self.bench.board.listening()
        self._run(server=True)

    def _run(self, *, server: bool) -> None:
        self.bench.board.hear_status("hwserver", running=server)

    def raised(self) -> list[tuple[float, str]]:
        """Hear the whole night; return when which alarm was raised."""
        lines, at = iter(self._lines), 0.0
        line = next(lines, None)
        while line:
            while line and line[0] <= at:
                self._take(*line[1:])
                line = next(lines, None)
            at += POLL_S
            self.bench.now = BEGIN + at
            if self._is_heard:
                for name, kept in self._kept.items():
                    self.bench.board.hear(self._sample(name, kept))
            self.bench.board.tick()
        return [
            (change.at - BEGIN, change.alarm)
            for change in self.bench.told
            if change.event in ("raised", "worse")
        ]

    def _take(self, device: str, what: Any) -> None:
        if device:
            self._kept[device] = self._kept.get(device, {}) | what
        elif what.startswith("router"):
            self._is_heard = what == "router back"
            self.bench.board.listening() if self._is_heard else self.bench.board.nobody_heard()
            if self._is_heard:
                self._run(server=True)  # a server says so whenever it joins
        else:
            self._is_heard = what == "server back"
            self._run(server=self._is_heard)
            for name in () if self._is_heard else self._kept:
                self.bench.gone(name)

    def _sample(self, name: str, kept: dict[str, Any]) -> dict[str, Any]:
        state = {"connection": kept["connection"]}
        head = {"device": name, "timestamp": iso_from_s(self.bench.now), "state": state}
        return {"seq": 1, "epoch": "e"} | kept | head

    def allowed(self, alarm: str) -> Iterator[tuple[float, float]]:
        """Yield when an alarm has to be raised: from when, and until when."""
        delay = self.bench.board.rules.of(alarm).delay
        for began, _, alarms in self.faults:
            if alarm in alarms:
                yield began, began + delay + POLLS * POLL_S


@pytest.mark.parametrize("name", NIGHTS)
def test_no_alarm_of_a_night_is_missed_and_none_is_false(name: str) -> None:
    replay = Replay(name)
    raised = replay.raised()
    expected = [alarm for _, _, alarms in replay.faults for alarm in alarms]
    assert sorted(alarm for _, alarm in raised) == sorted(expected)
    for at, alarm in raised:
        assert any(first <= at <= last for first, last in replay.allowed(alarm)), (at, alarm)
