"""The agent of a device presents the device's declarations as URIs in its server's session.

The device does not wait for it: while there is no router, samples go to the journal.
"""

import asyncio
import inspect
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from autobahn.wamp.exception import ApplicationError, TransportLost
from autobahn.wamp.exception import Error as AutobahnError
from autobahn.wamp.types import SubscribeOptions
from pydantic import ValidationError

from .. import HcamError
from ..core.device import Device, Sample, iso_from_s
from ..core.fields import CALLER, Procedure, Setpoint, is_number, sentence
from ..errors import NoSuchProcedureError, WampError, refusal, uri_of
from ..host.deadline import patience
from ..journal import Journal
from ..names import did_you_mean, shorten, usage
from . import uris
from .commands import Command, CommandLog
from .described import SHARED, shared
from .journal_service import JournalService
from .outbox import Kept, Outbox
from .owner import NameTakenError
from .peers import NobodyOffersError, call_device
from .session import Session

log = logging.getLogger(__name__)

MAX_BYTES = 500_000
"""The largest sample as JSON. The router drops a client that sends more than a megabyte. CBOR takes
at most 9/5 of these bytes (``0.5, `` takes 5 in JSON, 9 in CBOR), a page 9/8."""
SET_UP_WITHIN = 15.0
"""Seconds in which the router has to accept everything of a device."""
MAX_WIRE_S = 86_400.0
"""Publish the bytes of a wire for at most this time."""
MAX_EXCHANGE_S = 10.0
"""Wait for the reply to raw bytes for at most this time."""
CANCELED = "it was canceled before it was answered: its outcome is unknown"
MAX_REASON_LENGTH = 4000
"""A reason may quote an argument, and the router drops a client that sends more than a megabyte."""

OWN_PROCEDURES: dict[str, dict[str, Any]] = {
    "describe": {"read_only": True, "audience": "program"},
    "telemetry": {"read_only": True, "audience": "program"},
    "samples": {"read_only": True, "audience": "program"},
    "journal": {"read_only": True, "audience": "program"},
    "wire": {"audience": "engineer"},
    "exchange": {"audience": "engineer"},
    "simulate": {"audience": "engineer"},
}
"""Declarations of the procedures that an agent adds to its device."""


class Agent:
    """One device on the network, under its name and its aliases.

    Raises HcamError if the device has a command of the name of one of OWN_PROCEDURES.
    """

    def __init__(
        self,
        device: Device,
        names: tuple[str, ...],
        journal: Journal,
        more: Mapping[str, Callable[..., Any]] | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.device, self.names, self.journal = device, names, journal
        self._outbox = outbox or Outbox(journal, MAX_BYTES)
        self._service = JournalService(journal)
        own: dict[str, Callable[..., Any]] = {
            "describe": self.describe,
            "telemetry": self.telemetry,
            "samples": self.samples,
            "journal": self.held,
            "wire": self.wire,
            "exchange": self.exchange,
            **(more or {}),
        }
        commands = device.procedures()
        if taken := commands.keys() & OWN_PROCEDURES.keys():
            raise HcamError(
                f"{device.name}: {type(device).__name__} has a command {', '.join(sorted(taken))}, "
                "and so has every device on the network: give it another name"
            )
        self.procedures = {
            **commands,
            **{name: Procedure(call, **OWN_PROCEDURES[name]) for name, call in own.items()},
        }
        self.warning: str | None = None
        self._since: dict[tuple[str, str], str] = {}
        self.taken = ""
        """Why another server presents the device instead."""
        self.displaced = ""
        """Why no commands arrive: another program took the name by force."""
        self.stands_in: Callable[[str], bool] = lambda procedure: False
        self.published: Callable[[Sample], None] = lambda sample: None
        self._untrace: asyncio.TimerHandle | None = None
        self._session: Session | None = None
        self._newest: Sample | None = None
        self.commands = CommandLog(device, journal, self.telemetry, self._publish_command)
        device.listeners.append(self.publish)
        device.call_peer = self.call_peer
        device.record = self.commands.note

    async def present(self, session: Session) -> None:
        """Present the device in a session. An error undoes the whole attempt.

        Raises NameTakenError if another session has one of the names, TimeoutError if the router
        does not answer, autobahn's errors if it refuses or the session is over.
        """
        made: list[Callable[[], Awaitable[None]]] = []
        try:
            async with patience(SET_UP_WITHIN):
                await self._claim_names(session, made)
                await self._subscribe(session, made)
                await session.call(
                    "wamp.session.add_testament",
                    uris.telemetry(self.device.name),
                    [self._testament()],
                    {},
                    publish_options={"retain": True},
                )
        except (NameTakenError, ApplicationError) as error:
            if isinstance(error, ApplicationError):
                self.taken = ""  # nobody else presents it: its samples are kept again
            with suppress(AutobahnError):
                for undo in made:
                    await undo()
            raise
        self._session = self._outbox.session = session
        if self._newest:
            self._send(self._newest)

    async def _subscribe(self, session: Session, made: list[Callable[[], Awaitable[None]]]) -> None:
        settable = [f.name for f in self.device.fields.values() if isinstance(f, Setpoint)]
        results = await asyncio.gather(
            *(
                session.subscribe(
                    self._setter(field),
                    uris.setpoint(alias, field),
                    SubscribeOptions(details_arg="_event"),
                )
                for alias in self.names
                for field in settable
            ),
            session.subscribe(self._correct, uris.telemetry(self.device.name)),
            return_exceptions=True,
        )
        made += [each.unsubscribe for each in results if not isinstance(each, BaseException)]
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _claim_names(
        self, session: Session, made: list[Callable[[], Awaitable[None]]]
    ) -> None:
        """Register every name. Raise NameTakenError if another session has one."""
        try:
            for alias in self.names:
                registration = await session.claim(
                    self._serve, uris.rpc(alias), "prefix", "_call", self._displaced
                )
                made.append(partial(session.unclaim, registration))
        except NameTakenError as error:
            self._session = None
            reason = f"{self.device.name} is not presented and its samples are not kept: {error}"
            if reason != self.taken:
                ours = error.owner and session.owner and error.owner.server == session.owner.server
                log.log(logging.DEBUG if ours else logging.WARNING, "%s", reason)
                self.taken = reason
            raise
        if self.taken:
            self.taken = ""
            self.device.poll_now()
        self._displaced("")

    def _displaced(self, reason: str) -> None:
        if reason and not self.displaced:
            since = iso_from_s(self.device.clock())
            self.displaced = f"commands have not arrived here since {since}: {reason}; end it"
            log.error("%s: %s", self.device.name, self.displaced)
        elif not reason and self.displaced:
            log.info("%s: commands arrive again", self.device.name)
            self.displaced = ""
        else:
            return
        self.device.poll_now()

    def publish(self, sample: Sample) -> None:
        """Append a sample to the journal and publish it, even if the journal fails.

        A ``warning`` about the journal becomes an alarm of the sample. A sample that is too large
        for the router is replaced by one with an alarm and no values. While another server presents
        the device, nothing is kept or published.
        """
        if self.taken:
            return
        if self.displaced:
            alarm = self._alarm("commands", "ERR", self.displaced, sample)
            sample = sample | {"alarms": [*sample["alarms"], alarm]}
        if self.warning:
            alarm = self._alarm("journal", "WARN", self.warning, sample)
            sample = sample | {"alarms": [*sample["alarms"], alarm]}
        self._outbox.add(sample, partial(self._kept, sample))

    def _kept(self, sample: Sample, kept: Kept) -> None:
        """Publish a kept sample, or an alarm with the reason why it is not kept."""
        if isinstance(kept, ValueError):
            alarm = self._not_kept("telemetry", str(kept), sample)
            few = {name: sample[name] for name in ("device", "timestamp")}
            state = {"connection": sample["state"]["connection"]}
            self.publish(dict.fromkeys(sample) | few | {"state": state, "alarms": [alarm]})
            return
        if isinstance(kept, sqlite3.Error):
            reason = f"samples are not being kept: {self.journal.path}: {kept}"
            alarm = self._not_kept("journal", reason, sample)
            unkept = {"device": self.device.name, "seq": None, "epoch": self.journal.epoch}
            kept = unkept | sample | {"alarms": [*sample["alarms"], alarm]}
        elif isinstance(kept, Exception):
            raise kept
        elif self._since:
            present = {(alarm["field"], alarm["severity"]) for alarm in sample["alarms"]}
            self._since = {key: at for key, at in self._since.items() if key in present}
        self._newest = kept
        self._send(kept)

    def _not_kept(self, field: str, reason: str, sample: Sample) -> dict[str, str]:
        """Return the alarm about a sample that is not kept; log the first of a series."""
        if (field, "ERR") not in self._since:
            log.error("%s: %s", self.device.name, reason)
        return self._alarm(field, "ERR", reason, sample)

    def _alarm(self, field: str, severity: str, reason: str, sample: Sample) -> dict[str, str]:
        """Return one of the agent's own alarms, with the time of its first sample."""
        since = self._since.setdefault((field, severity), sample["timestamp"])
        return {"field": field, "severity": severity, "reason": reason, "since": since}

    def _send(self, sample: Sample) -> None:
        if self._session and self._session.is_attached():
            try:
                self._session.publish_retained(uris.telemetry(self.device.name), sample)
                self.published(sample)
            except TransportLost:
                log.debug("%s: sample %s is only in the journal", self.device.name, sample["seq"])

    def _correct(self, sample: Any) -> None:
        """Publish the newest sample again after a late testament of an earlier session."""
        if self._newest and isinstance(sample, dict) and sample.get("timestamp") is None:
            self._send(self._newest)

    def _testament(self) -> Sample:
        """Return the sample that the router publishes if this server dies: no value is known."""
        reason = "its server has gone"
        return {
            "device": self.device.name,
            "seq": None,
            "epoch": self.journal.epoch,
            "timestamp": None,
            "state": {"connection": "offline"},
            "alarms": [{"field": "connection", "severity": "ERR", "reason": reason, "since": None}],
            **dict.fromkeys(self.device.values()),
        }

    def _setter(self, field: str) -> Any:
        procedure = self.procedures[f"set_{field}"]

        def receive(*args: Any, _event: Any, _why: Any = None, **kwargs: Any) -> Awaitable[None]:
            publisher = _event.publisher_authid, _event.publisher_authrole
            # At once, as in _serve: a call that arrives next must not get an earlier time.
            command = self.commands.begin(publisher, field, procedure, args, kwargs, why=_why)
            return self._set(field, command)

        return receive

    async def _set(self, field: str, command: Command) -> None:
        reason: str | None = CANCELED
        try:
            reason = await self.device.set_unacknowledged(field, *command.args, **command.kwargs)
        finally:
            self._outbox.flush()
            self.commands.end(command, reason)

    def _serve(self, *args: Any, _call: Any, _why: Any = None, **kwargs: Any) -> Any:
        name = _call.procedure.split(".rpc.", 1)[1]
        procedure = self.procedures.get(name)
        CALLER.set(_call.caller_authid or "")
        command = None
        if procedure is None or not procedure.read_only:
            caller = _call.caller_authid, _call.caller_authrole
            command = self.commands.begin(caller, name, procedure, args, kwargs, why=_why)
        try:
            result = self.call(name, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  (the caller gets any error)
            raise self._failed(name, error, command) from None
        if inspect.isawaitable(result):
            return self._finish(name, result, command)
        self._outbox.flush()
        if command:
            self.commands.end(command, refusal(result))
        return result

    async def _finish(self, name: str, result: Awaitable[Any], command: Command | None) -> Any:
        try:
            answer = await result
        except Exception as error:  # noqa: BLE001  (the caller gets any error)
            raise self._failed(name, error, command) from None
        except BaseException:
            if command:
                self.commands.end(command, CANCELED)
            raise
        self._outbox.flush()
        if command:
            self.commands.end(command, refusal(answer))
        return answer

    def _failed(self, name: str, error: Exception, command: Command | None) -> ApplicationError:
        """Return the error for the caller, and note it with the command."""
        self._outbox.flush()
        told = self._explained(name, error)
        if command:
            self.commands.end(command, " ".join(map(str, told.args)) or told.error)
        return told

    def _explained(self, name: str, error: Exception) -> ApplicationError:
        """Return the error for the caller."""
        if isinstance(error, ApplicationError):
            return error
        uri, text = uri_of(error), str(error)
        if isinstance(error, ValidationError):
            text = sentence(error, name, list(self.procedures[name].signature.parameters))
        elif uri == WampError.uri:
            log.error("%s: %s failed", self.device.name, name, exc_info=error)
            text = f"{type(error).__name__}: {error}"
        return ApplicationError(uri, text[:MAX_REASON_LENGTH])

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a procedure by the name after ``rpc.``; return its result, or an awaitable of it."""
        procedure = self.procedures.get(name)
        if procedure is None:
            there = ", ".join(sorted(self.procedures))
            raise NoSuchProcedureError(
                f"{self.device.name} has no {shorten(name)}; it has {there}"
                f"{did_you_mean(name, self.procedures)}",
            )
        try:
            procedure.signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = usage(procedure.describe(name)) or "no argument"
            raise ValueError(f"{name}: {error}; it takes {takes}") from None
        if not (procedure.read_only or procedure.sets):  # setpoints are checked where they are set
            self.device.require_permission(name)
        return procedure.call(*args, **kwargs)

    async def call_peer(
        self, device: str, procedure: str, *args: Any, within: float = 10.0, **kwargs: Any
    ) -> Any:
        """Call another device: see ``device.CallPeer``."""
        what = f"{device}.{procedure}"
        if procedure not in self.device.peers.get(device, ()):
            raise LookupError(f"{type(self.device).__name__} does not declare that it calls {what}")
        try:
            return await call_device(
                self._session, device, procedure, *args, within=within, **kwargs
            )
        except NobodyOffersError:
            if self.stands_in(what):
                return None
            raise

    def describe(self) -> dict[str, Any]:
        """Return the description of the device: its fields, setpoints and procedures."""
        interlocks = {name: describe() for name, describe in self.device.interlocks.items()}
        return self._description | {"interlocks": interlocks}

    @cached_property
    def _description(self) -> dict[str, Any]:
        described = self.device.describe() | {
            "aliases": list(self.names[1:]),
            "procedures": {
                name: procedure.describe(name)
                for name, procedure in sorted(self.procedures.items())
            },
        }
        return described | {name: shared(described[name]) for name in SHARED}

    def telemetry(self) -> Sample | None:
        """Return the newest sample, or None if there is none yet."""
        self._outbox.flush()
        return self._newest

    def samples(self, after: int = 0, limit: int = 1000, epoch: str | None = None) -> list[Sample]:
        """Return samples with numbers above ``after``, in order; ask again until there are none."""
        self._outbox.flush()
        return self._service.samples(self.device.name, after, limit, epoch)

    async def held(self, start: float | None = None, end: float | None = None) -> dict[str, Any]:
        """Return which samples the journal has, and which are lost, with reasons (Unix times)."""
        return await self._service.holds(self.device.name, start, end)

    async def wire(self, seconds: float = 60.0) -> None:
        """Publish the bytes sent and received, for some seconds (topic ``wire``)."""
        _check_seconds(seconds, MAX_WIRE_S)
        if self._untrace:
            self._untrace.cancel()
        self.device.link.trace = self._publish_wire
        loop = asyncio.get_running_loop()
        self._untrace = loop.call_later(seconds, setattr, self.device.link, "trace", None)

    def _publish_wire(self, direction: str, data: bytes, meaning: str) -> None:
        if self._session and self._session.is_attached():
            event = {
                "device": self.device.name,
                "time": iso_from_s(self.device.clock()),
                "direction": direction,
                "hex": data.hex(" "),
                "text": data.decode("ascii", "backslashreplace"),
                "meaning": meaning[:MAX_REASON_LENGTH],
            }
            with suppress(TransportLost):
                self._session.publish(uris.wire(self.device.name), event)

    def _publish_command(self, event: dict[str, Any]) -> None:
        if self._session and self._session.is_attached():
            with suppress(TransportLost):
                self._session.publish(uris.command(self.device.name), event)

    async def exchange(self, hex: str, seconds: float = 1.0, *, confirm: bool = False) -> str:
        """Send raw bytes to the hardware and return the reply, both in hexadecimal.

        Nothing checks what is sent, so it needs confirm=True. Raises TimeoutError if there is no
        reply within ``seconds``; the device then reconnects, because a late reply would answer
        the next request.
        """
        try:
            data = bytes.fromhex(hex)
        except (TypeError, ValueError):
            raise ValueError(f"hex must be bytes such as '01 3C', not {shorten(hex)}") from None
        if not data:
            raise ValueError(f"hex must be bytes such as '01 3C', not {shorten(hex)}")
        _check_seconds(seconds, MAX_EXCHANGE_S)
        if not hasattr(self.device.link, "exchange"):
            raise ValueError(f"{self.device.name} does not accept raw bytes such as {shorten(hex)}")
        if confirm is not True:
            raise ValueError("raw bytes are sent unchecked; if you are sure, add confirm=True")
        self.device.require_online()
        said: bytes = await self.device.link.exchange(data, seconds)
        return said.hex(" ")


def _check_seconds(seconds: object, most: float) -> None:
    if not (is_number(seconds) and 0 < seconds <= most):
        raise ValueError(f"seconds must be over 0, at most {most:g}, not {shorten(seconds)}")
