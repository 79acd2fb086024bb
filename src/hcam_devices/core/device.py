"""A device: what its class declares, and the life of its connection to the hardware.

A device polls its hardware every ``poll_every`` seconds and hands a sample - its telemetry, as
plain data - to each of its listeners, whether or not the hardware can be reached. It does not know
WAMP.
"""

import asyncio
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_origin, get_type_hints

from ..errors import LINK_LOST, OfflineError, RefusedError
from ..host.backoff import Backoff
from .fields import Procedure, Readback, Setpoint, Value
from .link import IT_SAID, Seconds, Tcp
from .part import Alarm, Part, Reading

log = logging.getLogger(__name__)

Sample: TypeAlias = dict[str, Any]

FIRST_PAUSE_S = 0.1
"""The pause before the first attempt to connect again; it doubles up to the polling period."""
BUSY_POLL_S = 0.5
"""Seconds between polls while a part is busy."""
MIN_PAUSE = 0.25
"""The least part of a period between two polls, for hardware that answers slowly."""
MAX_LOGGED_REASONS = 10
"""Log at most this many different reasons of one outage: some quote what the hardware answered."""


RESERVED = {"device", "seq", "epoch", "timestamp", "state", "alarms"}
"""The entries that every sample has: no field may have one of these names."""
TOPICS = {"telemetry", "wire", "command", "changed"}
"""What every device publishes: no setpoint, whose name is a topic, may have one of these names."""


class CallPeer(Protocol):
    """How a device calls another: its name, the procedure after ``rpc.``, and arguments.

    Raises a WampError: what the other device answers (InvalidArgumentError, NotAllowedError,
    RefusedError, ...), OfflineError if nobody is there, OutcomeUnknownError if no answer came
    ``within`` some seconds; LookupError if ``Device.peers`` does not declare the procedure.
    """

    async def __call__(
        self, device: str, procedure: str, *args: Any, within: float = 10.0, **kwargs: Any
    ) -> Any:
        """Return what the procedure returns."""


class Source(Protocol):
    """What a view needs of a device that it shows, in this process or in another."""

    listeners: list[Callable[[Sample], None]]

    def nested(self) -> dict[str, str]:
        """Return the pairs that are one value of the telemetry: readback -> setpoint."""

    async def set(self, name: str, value: object) -> Value:
        """Set a setpoint and return what the hardware says it is now; raises as ``Device.set``."""


Guard: TypeAlias = Callable[["Device", str, float | None], None]
"""Raises NotAllowedError if a command of a device must not be carried out now; with the number that
a setpoint would get, or None."""


async def _alone(device: str, procedure: str, *_: Any, **__: Any) -> Any:
    raise OfflineError(f"{device}.{procedure} cannot be called: there is no network here")


_hints_of = cache(get_type_hints)  # it takes longer than anything else in making a device


def settings_of(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a class in the instrument file: name -> (type, default or ...)."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    internal = [field.name for field in fields if not field.init]
    return {
        name: (hint, getattr(cls, name, ...))
        for name, hint in _hints_of(cls, include_extras=True).items()
        if not name.startswith("_") and name not in internal and get_origin(hint) is not ClassVar
    }


def iso_from_s(seconds: float) -> str:
    """Return a Unix time as telemetry carries it, e.g. ``2026-11-22T04:44:44.196Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _SimulatorOfModule:
    """The class ``Simulator`` of the module of a device class, or of a class that it extends.

    None if there is no such class. It is made with what the device class names as ``emulated``.
    """

    def __get__(self, device: "Device | None", cls: "type[Device]") -> Any:
        for base in cls.__mro__:
            if found := getattr(sys.modules[base.__module__], "Simulator", None):
                return partial(found, **cls.emulated)
        return None


class Device:
    """Base class of devices: declared fields, the connection, the last readings, and alarms.

    A subclass declares readbacks, setpoints, commands and settings (annotated names), and gives
    ``codec``. It may extend ``on_connect``, ``poll``, ``read``, ``write`` and ``notices``.
    """

    link_type: ClassVar[Any] = Tcp
    codec: Any = None
    """A ``Codec``; None if the link needs none."""
    simulator: ClassVar[Any] = _SimulatorOfModule()
    emulated: ClassVar[dict[str, Any]] = {}
    """What ``--emulate`` passes to the simulator; without a simulator to the device itself."""
    fields: ClassVar[dict[str, Readback]] = {}
    pairs: ClassVar[dict[str, str]] = {}
    """Which setpoint a readback follows: readback -> setpoint."""
    acts_on: ClassVar[dict[str, Readback]] = {}
    """Setpoints of sources that a view does not show, but that its interlocks may set."""

    advice: ClassVar[dict[str, str]] = {}
    """What an observer should do about alarms that are not about a field, by their name; an empty
    text if there is nothing to do, so that the alarm is a notice and is not raised."""

    peers: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The procedures of other devices that it calls with ``call_peer``."""

    poll_every: Seconds = 2.0
    """Seconds between polls while nothing moves."""
    phase = 0.0
    """Seconds by which its polls come after those of other devices with the same period."""

    def __init_subclass__(cls) -> None:
        """Collect the declarations of the class body, with a family of channels spelled out."""
        declared = [
            field
            for name, member in vars(cls).items()
            if isinstance(member, Readback)
            for field in member.expand(name)
        ]
        cls.fields = cls.fields | {field.name: field for field in declared}
        for field in declared:
            _ = field.type  # raises TypeError now rather than when somebody asks for it
            if field.name in (RESERVED | TOPICS if isinstance(field, Setpoint) else RESERVED):
                raise TypeError(
                    f"{cls.__name__}.{field.name}: every device has something else of that name in "
                    "its telemetry or on the network: choose another name"
                )
        for name, field in cls.fields.items():
            if isinstance(field, Setpoint):
                readback = field.readback or name.removeprefix("target_")
                if readback != name and readback in cls.fields:
                    cls.pairs = cls.pairs | {readback: name}
                elif field.readback:
                    raise TypeError(f"{cls.__name__}.{name}: there is no readback {readback}")

    def __init__(
        self, name: str, *, clock: Callable[[], float] = time.time, **settings: Any
    ) -> None:
        self.name, self.clock = name, clock
        own = settings_of(type(self))
        chosen = {name: settings.pop(name) for name in own.keys() & settings.keys()}
        self.link = self.link_type(**settings)
        self.parts: list[Part] = []
        self.connection: Literal["offline", "online"] = "offline"
        self.offline_reason = "the hardware has not answered yet"
        self.read_at = clock()
        self.readings: dict[str, Reading] = {}
        self.answers: dict[Any, Any] = {}
        """The answer to each question of this poll, or the RefusedError that came instead."""
        self.disabled: set[str] = set()
        self.refused: dict[str, Alarm] = {}
        self._since: dict[tuple[str, str], str] = {}  # by field and severity
        self._logged: set[str] = set()  # causes of this outage
        self.listeners: list[Callable[[Sample], None]] = []
        self.call_peer: CallPeer = _alone
        self.guards: list[Guard] = []
        self.interlocks: dict[str, Callable[[], dict[str, Any]]] = {}
        """Describes each interlock that the device shows, or that guards a command of it."""
        self.record: Callable[[str, str, Sequence[str], str, str | None], None] = lambda *_: None
        """Records what an interlock did by itself: who, what, arguments, why, and the error."""
        self._wake: asyncio.Future[None] | None = None
        self._setting = asyncio.Lock()  # so that each setpoint is read back before the next
        self._forget(self.offline_reason)
        if taken := own.keys() & vars(self).keys():
            raise TypeError(
                f"{type(self).__name__}: {', '.join(sorted(taken))} cannot be a setting, because "
                "every device has something of that name"
            )
        vars(self).update(chosen)

    # --- the connection ---------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, poll, and connect again for ever; each attempt and each poll is a sample."""
        try:
            await self._keep_connected()
        finally:
            for part in self.parts:
                await part.close()

    async def _keep_connected(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S, self.poll_every)
        while True:
            try:
                await self.link.open()
                await self.on_connect()
                self._connected()
                while True:
                    wake = self._new_wake()
                    await self.poll()
                    self._answered()
                    backoff.reset()
                    self.emit()
                    busy = any(part.busy for part in self.parts)
                    pause = min(self.poll_every, BUSY_POLL_S) if busy else self.poll_every
                    await self.link.idle(self._until_next_poll(pause), wake)
            except Exception as error:
                self._disconnected(error)
                if not isinstance(error, (*LINK_LOST, RefusedError, ValueError)):
                    raise
            finally:
                self.link.close()
            self.emit()
            await asyncio.wait([self._new_wake()], timeout=backoff.next())

    def _until_next_poll(self, period: float) -> float:
        """Return the pause (s) until the next multiple of the period, or the one after it.

        So all devices of a process poll together, and it wakes less often.
        """
        pause = (self.phase - asyncio.get_running_loop().time()) % period
        return pause if pause > MIN_PAUSE * period else pause + period

    def _connected(self) -> None:
        self.connection = "online"
        for part in self.parts:
            part.connect()

    def _answered(self) -> None:
        if self._logged:
            self._logged.clear()
            log.info("%s: online again", self.name)

    def _disconnected(self, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        cause = reason.partition(IT_SAID)[0]  # the bytes of a noisy line differ each time
        if cause not in self._logged and len(self._logged) < MAX_LOGGED_REASONS:
            self._logged.add(cause)
            log.warning("%s: %s", self.name, reason)
        self.connection = "offline"
        self.offline_reason = reason
        self._forget(f"{self.name} is offline")
        for part in self.parts:
            part.lose()

    def _forget(self, reason: str) -> None:
        self.answers = {}
        self.readings = {name: Reading(None, reason) for name in self.fields}

    def _new_wake(self) -> asyncio.Future[None]:
        self._wake = asyncio.get_running_loop().create_future()
        return self._wake

    def poll_now(self) -> None:
        """Poll, or try to connect, at once instead of after the rest of the period or pause."""
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    def sources(self) -> tuple[str, ...]:
        """Return the names of the devices it is a view of; none if it has hardware of its own."""
        return ()

    def origin(self, field: Readback) -> tuple[str, str]:
        """Return the device and the name there of a field: those of a source, for a view."""
        return self.name, field.name

    def passes_on(self) -> set[tuple[str, str]]:
        """Return the setpoints of its sources that it sets, each with the source's name first."""
        return set()

    def attach(self, devices: Mapping[str, Source]) -> None:
        """Listen to the sources; KeyError if one is not there."""

    async def on_connect(self) -> None:
        """Make sure that the right hardware answers; raise ProtocolError if not."""

    async def ask(self, ref: Any, value: Any = None) -> Any:
        """Ask the hardware; raises as ``Link.ask``."""
        return await self.link.ask(self.codec, ref, value)

    async def _ask_questions(self, questions: Iterable[Any]) -> None:
        asked = list(questions)
        answers = await self.link.ask_all(self.codec, asked) if asked else []
        self.answers |= zip(asked, answers, strict=True)

    # --- readings ---------------------------------------------------------------------------

    async def poll(self) -> None:
        """Read every readback that is enabled; raises as ``Link.ask`` if the link is lost."""
        self.read_at = self.clock()
        await self._ask_questions(dict.fromkeys(self.questions()))
        for field in self.fields.values():
            off = field.deployed_name in self.disabled
            self.readings[field.name] = self._off(field) if off else await self._reading(field)

    def questions(self) -> list[Any]:
        """Return the questions of a poll: those of the fields."""
        return [field.question for field in self.fields.values() if field.question is not None]

    def _off(self, field: Readback) -> Reading:
        return Reading(
            None, f"reading it was disabled ({field.deployed_name}.enable reads it again)"
        )

    def _part_with(self, name: str) -> Part | None:
        return next((part for part in self.parts if name in part.fields), None)

    async def _reading(self, field: Readback) -> Reading:
        if part := self._part_with(field.name):
            return part.reading(field.name)
        try:
            value = await self.read(field)
        except (RefusedError, ValueError) as error:
            return Reading(None, str(error) or type(error).__name__)
        if isinstance(value, float) and not math.isfinite(value):
            return Reading(None, f"the hardware answered {value}")
        return Reading(value)

    async def read(self, field: Readback) -> Value | None:
        """Return one value from the hardware, in the declared unit; None if there is rightly none.

        Raises RefusedError or ValueError, with the reason, if there should be one.
        """
        if field.question is None:
            return field.kind(await self.ask(field.ref))
        if field.question not in self.answers:
            await self._ask_questions([field.question])
        answer = self.answers[field.question]
        if isinstance(answer, RefusedError):
            raise answer
        return self.value_in(answer, field)

    def value_in(self, answer: Any, field: Readback) -> Value | None:
        """Return the value of one of the fields that come with one answer, as ``read`` does."""
        return field.kind(answer[field.ref])

    async def write(self, field: Setpoint, value: float) -> None:
        """Send one setpoint, already checked, to the hardware, or to the part that has it."""
        if part := self._part_with(field.name):
            part.write(field.name, value)
        else:
            await self.ask(field.ref, value)

    # --- setpoints --------------------------------------------------------------------------

    def settable(self, name: str) -> Setpoint:
        """Return a declared setpoint by name."""
        field = self.fields[name]
        if not isinstance(field, Setpoint):
            raise ValueError(f"{self.name} cannot set {name}: it is a readback")
        return field

    async def set(self, name: str, value: object, *, confirm: bool = False) -> Value:
        """Check a setpoint, send it, read it back, and return what the hardware says it is now.

        Raises ValueError if the value is not acceptable, NotAllowedError if not now,
        ConnectionError if the device is offline (in these cases nothing was sent), RefusedError if
        the hardware refused it or does something else.
        """
        field = self.settable(name)
        async with self._setting:
            return await self._set(field, await field.accept(value), confirm=confirm)

    async def _set(self, field: Setpoint, number: float, *, confirm: bool) -> Value:
        name = field.name
        self.require_online()
        protects = field.needs_confirm_to_leave
        if protects and field.words[int(number)] not in protects and confirm is not True:
            raise ValueError(
                f"{name} protects the detector while it is {' or '.join(protects)}; to set "
                f"it to {field.words[int(number)]} anyway, call set_{name} with confirm=True"
            )
        self.require_permission(f"set_{name}", number)
        await self.write(field, number)
        self.answers.pop(field.question, None)
        self.readings[name] = reading = await self._reading(field)
        if reading.value is None or field.differs(number, reading.value):
            raise RefusedError(
                f"{name}: {number:g} was sent, but the hardware says "
                f"{reading.reason or reading.value}"
            )
        self.refused.pop(name, None)
        self.emit()
        return reading.value

    async def set_unacknowledged(self, name: str, *args: object, **kwargs: object) -> str | None:
        """Set a value that arrived by topic; return None, or the reason why it was refused.

        An error becomes an alarm: the publisher does not get it.
        """
        try:
            if len(args) != 1 or kwargs:
                raise ValueError(f"one value is expected, not {len(args)} and {len(kwargs)} named")
            await self.set(name, args[0])
        except Exception as error:  # noqa: BLE001  (any error becomes an alarm)
            reason = f"{name} refused: {error or type(error).__name__}"
            log.warning("%s: %s", self.name, reason)
            self.refused[name] = Alarm(name, "WARN", reason)
            self.emit()
            return str(error) or type(error).__name__
        return None

    def require_online(self) -> None:
        """Raise ConnectionError, with the reason, unless the hardware can be reached."""
        if self.connection != "online":
            raise ConnectionError(
                f"{self.name} is offline ({self.offline_reason}); nothing was sent"
            )

    def require_permission(self, command: str, value: float | None = None) -> None:
        """Raise NotAllowedError if an interlock refuses a command now.

        ``value`` is the number that a setpoint would get.
        """
        for guard in self.guards:
            guard(self, command, value)

    # --- what the network sees --------------------------------------------------------------

    def emit(self) -> None:
        """Hand a sample to every listener."""
        sample = self.snapshot()
        for listener in self.listeners:
            try:
                listener(sample)
            except Exception:  # a listener's bug must not take the device offline
                log.exception("%s: a sample was not taken", self.name)

    def snapshot(self) -> Sample:
        """Return the telemetry as it is now, without ``seq`` and ``epoch``."""
        timestamp = iso_from_s(self.read_at if self.connection == "online" else self.clock())
        return {
            "device": self.name,
            "timestamp": timestamp,
            "state": self.states(),
            "alarms": self._dated(self.alarms(), timestamp),
            **self.values(),
        }

    def _dated(self, alarms: list[Alarm], now: str) -> list[dict[str, str]]:
        """Return alarms as telemetry carries them, each with the time of its first sample.

        A field stays in alarm while its reason changes, so the reason does not count.
        """
        present = [(alarm.field, alarm.severity) for alarm in alarms]
        self._since = {key: self._since.get(key, now) for key in present}
        return [
            vars(alarm) | {"since": self._since[key]}
            for alarm, key in zip(alarms, present, strict=True)
        ]

    def states(self) -> dict[str, str]:
        """Return the active state of each machine."""
        states: dict[str, str] = {"connection": self.connection}
        for part in self.parts:
            states |= part.states()
        return states

    def values(self) -> dict[str, Any]:
        """Return each field as telemetry carries it."""
        values = {
            name: field.on_wire(self.readings[name].value) for name, field in self.fields.items()
        }
        for readback, setpoint in self.nested().items():
            current, target = values[readback], values.pop(setpoint)
            known = current is not None or target is not None
            values[readback] = {"current": current, "target": target} if known else None
        for part in self.parts:
            values |= part.values()
        return values

    def nested(self) -> dict[str, str]:
        """Return the pairs that are one value of the telemetry: readback -> setpoint."""
        return {
            readback: target for part in self.parts for readback, target in part.nested().items()
        }

    def path(self, name: str) -> tuple[str, ...]:
        """Return where the value of a field is in telemetry: the keys, from the outside."""
        for readback, setpoint in self.nested().items():
            if name in (readback, setpoint):
                return readback, "current" if name == readback else "target"
        return (name,)

    def alarms(self) -> list[Alarm]:
        """Return everything that is wrong, worst first."""
        found = [*self.refused.values(), *self.notices()]
        for part in self.parts:
            found += part.notices()
        if self.connection == "offline":
            found.append(Alarm("connection", "ERR", self.offline_reason))
        else:
            targets = self.nested().values()
            for name, field in self.fields.items():
                reading = self.readings[name]
                if name in targets:
                    continue
                if reading.value is None:
                    if not reading.reason:
                        continue
                    off = field.deployed_name in self.disabled
                    found.append(Alarm(name, "WARN" if off else "ERR", reading.reason))
                elif field.healthy and (reason := field.unhealthy(reading.value)):
                    found.append(Alarm(name, "ERR", reason))
        return sorted(found, key=lambda alarm: alarm.severity)

    def notices(self) -> Iterable[Alarm]:
        """Return alarms beyond those of the readings."""
        return []

    def procedures(self) -> dict[str, Procedure]:
        """Return everything that may be called, by the name after ``rpc.``."""
        found = {
            "connection.connect": Procedure(self.connect),
            "connection.disconnect": Procedure(self.disconnect),
        }
        for name in dir(type(self)):
            if hasattr(getattr(type(self), name), "rpc"):
                command = getattr(self, name)
                found[name] = Procedure(command, **command.rpc)
        for name, field in self.fields.items():
            for event, on in (("enable", True), ("disable", False)):
                switch = self._switch(field.deployed_name, on=on)
                found[f"{field.deployed_name}.{event}"] = Procedure(switch, audience="program")
            if isinstance(field, Setpoint):
                found[f"set_{name}"] = Procedure(self._setter(name), sets=field)
                if not self._part_with(name):
                    found[f"{field.deployed_name}.targetSet"] = Procedure(
                        self._target_setter(name), audience="program", sets=field
                    )
        for part in self.parts:
            found |= part.procedures(self)
        return found

    def _setter(self, name: str) -> Callable[..., Any]:
        async def with_confirm(value: object, *, confirm: bool = False) -> Value:
            return await self.set(name, value, confirm=confirm)

        async def without_confirm(value: object) -> Value:
            return await self.set(name, value)

        needs_confirm = self.settable(name).needs_confirm_to_leave
        setter = with_confirm if needs_confirm else without_confirm
        setter.__doc__ = f"Set {name}, and return the value that the hardware then reports."
        return setter

    def _target_setter(self, name: str) -> Callable[..., Any]:
        async def target_set(target: object) -> Value:
            """Set the field in ``sets``, for deployed programs."""
            return await self.set(name, target)

        return target_set

    def _switch(self, name: str, *, on: bool) -> Callable[..., Any]:
        async def switch() -> None:
            (self.disabled.discard if on else self.disabled.add)(name)

        how = "again after disable" if on else "no more: its value becomes null until enable"
        switch.__doc__ = f"Read {name} {how}."
        return switch

    async def connect(self) -> None:
        """Try to connect to the hardware now, without waiting for the pause."""
        self.poll_now()

    async def disconnect(self) -> None:
        """Drop the connection to the hardware; the device then reconnects by itself."""
        self.link.close(ConnectionAbortedError("disconnected by request"))

    @classmethod
    def kind(cls) -> str:
        """Return the name of the class as the instrument file has it: ``zaber.FocalPlaneSlide``."""
        return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"

    def describe(self) -> dict[str, Any]:
        """Return what is declared: the kind, where the hardware is, and the fields; plain data.

        The ``pair`` of a readback is its setpoint and that of a setpoint its readback. ``path`` is
        where the value is in telemetry.
        """
        pairs = self.pairs | {setpoint: readback for readback, setpoint in self.pairs.items()}
        return {
            "device": self.name,
            "kind": self.kind(),
            "doc": (type(self).__doc__ or "").partition("\n")[0],
            "poll_every": self.poll_every,
            "link": {name: getattr(self.link, name) for name in settings_of(self.link_type)},
            "fields": {
                name: field.describe()
                | {"pair": pairs.get(name), "path": list(self.path(name)), "source": None}
                for name, field in self.fields.items()
            },
            "axes": {
                name: motion for part in self.parts for name, motion in part.describe().items()
            },
            "sources": list(self.sources()),
            "peers": {peer: list(procedures) for peer, procedures in self.peers.items()},
        }
