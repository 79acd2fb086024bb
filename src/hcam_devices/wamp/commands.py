"""Notes of who did what: each command that an agent receives, and its outcome.

A note is published as the event ``hipercam.<device>.command`` and appended to the journal. Notes
delay no command: it is noted after its answer.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.device import Device, Sample, iso_from_s
from ..core.fields import Procedure
from ..journal import Journal
from ..journal.commands import record_of
from ..names import shorten
from .redaction import MAX_ITEMS, MAX_JSON, as_text, cut, shown, without_secrets

log = logging.getLogger(__name__)

MAX_REFUSED = 20
"""Note at most this many refused commands of a device at once, and REFUSED_PER_S after them."""
REFUSED_PER_S = 1.0
"""About the rate of a device's samples, so that refused commands cannot fill the journal."""
COUNT_EVERY_S = 10.0
"""Note this often how many refused commands were not noted one by one."""
MAX_ERROR = 500
"""Cut the reason of a refusal after this many characters."""


@dataclass(eq=False)
class Command:
    """A command that has arrived: ``seen`` is the device's newest sample at that time."""

    time: str
    who: str | None
    role: str | None
    what: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    why: object
    procedure: Procedure | None
    seen: Sample | None


class CommandLog:
    """Notes the commands of one device.

    ``newest`` returns the newest sample of the device, ``publish`` publishes an event if there is a
    router, ``steady`` counts seconds.
    """

    def __init__(
        self,
        device: Device,
        journal: Journal,
        newest: Callable[[], Sample | None],
        publish: Callable[[dict[str, Any]], None],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self.journal = device, journal
        self._newest, self._publish, self._steady = newest, publish, steady
        self._running: set[Command] = set()
        self._last_ms = 0
        self._allowed, self._allowed_at = float(MAX_REFUSED), steady()
        self._unnoted = 0
        self._unnoted_since = ""
        self._unnoted_of: set[str] = set()
        self._counting: asyncio.TimerHandle | None = None

    def begin(
        self,
        caller: tuple[str | None, str | None],
        what: str,
        procedure: Procedure | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        why: object,
    ) -> Command:
        """Return a command that has just arrived; ``caller`` is its sender's name and role."""
        seen = self._newest()
        command = Command(self._time(), *caller, what, args, kwargs, why, procedure, seen)
        self._running.add(command)
        return command

    def _time(self) -> str:
        """Return the time, made unique within the last second: it is a command's key."""
        now = round(self.device.clock() * 1000)
        if self._last_ms - 1000 < now <= self._last_ms:
            now = self._last_ms + 1
        self._last_ms = now
        return iso_from_s(now / 1000)

    def end(self, command: Command, error: str | None) -> None:
        """Note an answered command; ``error`` is the reason for its failure, or None."""
        if command not in self._running:  # the server has ended meanwhile
            return
        self._running.discard(command)
        if error is not None and not self._allow():
            self._count(command)
            return
        try:
            self._note(self._event(command, error))
        except Exception:  # the command itself has been carried out and answered
            log.exception("%s: %s could not be recorded", self.device.name, cut(command.what))

    def _event(self, command: Command, error: str | None) -> dict[str, Any]:
        secrets: list[str] = []
        why = command.why
        why = why if why is None or isinstance(why, str) else shorten(why)
        args, kwargs = shown(command.args, secrets), shown(command.kwargs, secrets)
        return {
            "device": self.device.name,
            "time": command.time,
            "who": command.who and cut(command.who),
            "role": command.role and cut(command.role),
            "what": cut(without_secrets(command.what)),
            "args": args if len(json.dumps(args)) <= MAX_JSON else [as_text(args)],
            "kwargs": kwargs if len(json.dumps(kwargs)) <= MAX_JSON else {"...": as_text(kwargs)},
            "why": why if why is None else cut(without_secrets(why)),
            "before": shown(self._before(command), []),
            "error": None if error is None else cut(without_secrets(error, secrets), MAX_ERROR),
            "seq": _number_after(command.seen, self._newest()),
        }

    def _before(self, command: Command) -> dict[str, Any]:
        """Return what the newest sample at the arrival of a command says about what it concerns."""
        seen = command.seen or {}
        keys, machine = concerned(self.device, command.what, command.procedure)
        before = {key: seen[key] for key in keys if key in seen}
        if seen and command.procedure and (machine or not before):
            states = seen.get("state") or {}
            before["state"] = {machine: states.get(machine)} if machine else states
        return before

    def note(
        self, who: str, what: str, args: Sequence[str], why: str, error: str | None = None
    ) -> None:
        """Note what an interlock did by itself, however many commands were refused."""
        command = self.begin((who, "interlock"), what, None, args, {}, why=why)
        self._running.discard(command)
        self._note(self._event(command, error))

    def close(self) -> None:
        """Note unfinished commands, and the number of refused ones not noted."""
        for command in list(self._running):
            self.end(command, "its server ended before it was answered: its outcome is unknown")
        if self._counting:
            self._counting.cancel()
        self.note_count()

    def note_count(self) -> None:
        """Note the number of refused commands not noted one by one, unless it is 0."""
        self._counting = None
        if not self._unnoted:
            return
        more = (
            f"{self._unnoted} more were refused since {self._unnoted_since}, too many to note: "
            f"those of {', '.join(sorted(self._unnoted_of))}"
        )
        log.warning("%s: of its commands, %s", self.device.name, more)
        self._unnoted = 0
        self._unnoted_of.clear()
        nobody = dict.fromkeys(("who", "role", "why", "seq"))
        nothing = {"what": "(refused commands)", "args": [], "kwargs": {}, "before": {}}
        header = {"device": self.device.name, "time": self._time()}
        self._note(header | nobody | nothing | {"error": more})

    def _allow(self) -> bool:
        """Return whether one more refused command may be noted now."""
        now = self._steady()
        allowed = self._allowed + (now - self._allowed_at) * REFUSED_PER_S
        self._allowed, self._allowed_at = min(allowed, MAX_REFUSED), now
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True

    def _count(self, command: Command) -> None:
        self._unnoted += 1
        if len(self._unnoted_of) < MAX_ITEMS:
            self._unnoted_of.add(cut(command.who or "unknown callers"))
        if self._unnoted == 1:
            self._unnoted_since = command.time
            loop = asyncio.get_running_loop()
            self._counting = loop.call_later(COUNT_EVERY_S, self.note_count)

    def _note(self, event: dict[str, Any]) -> None:
        try:
            self.journal.append(record_of(event))
        except (sqlite3.Error, ValueError) as error:
            log.error("%s: a command is not recorded: %s: %s", self.device.name, event, error)
        self._publish(event)


def concerned(
    device: Device, what: str, procedure: Procedure | None
) -> tuple[tuple[str, ...], str]:
    """Return the telemetry names of the values that a command concerns, and its axis."""
    if procedure is None:
        return (), ""
    machine = procedure.moves or what.rpartition(".")[0]
    fields: list[str] = []
    if procedure.sets:
        readbacks = [one for one, target in device.pairs.items() if target == procedure.sets.name]
        fields = [procedure.sets.name, *readbacks]
        machine = ""
    elif machine:
        fields = [one.name for one in device.fields.values() if one.deployed_name == machine]
        axes = {name: axis for part in device.parts for name, axis in part.describe().items()}
        axis = axes.get(machine)
        machine = machine if axis else ""
        fields += [axis[one] for one in ("readback", "setpoint") if axis[one]] if axis else []
    nested = {setpoint: readback for readback, setpoint in device.nested().items()}
    return tuple(dict.fromkeys(nested.get(name, name) for name in fields)), machine


def _number_after(seen: Sample | None, newest: Sample | None) -> int | None:
    """Return the number of the newest sample if it is a new one, otherwise of the next."""
    if newest is None or newest.get("seq") is None:
        return None
    number = int(newest["seq"])
    return number + 1 if newest is seen else number
