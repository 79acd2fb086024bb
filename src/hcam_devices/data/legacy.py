"""The realm of programs of version 1.7, and the bridge between it and the instrument.

The bridge publishes the telemetry of each device there, and forwards calls and setpoints of those
programs to the instrument's realm, as a caller named by the program's address. The router's worker
imports this module; it has Crossbar but not this package.
"""

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

import turns
from autobahn.wamp.types import RegisterOptions, SubscribeOptions
from door import QuietSession, at, guests
from legacy_telemetry import KINDS, NEWEST_FILE, Telemetry, base_name
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import LoopingCall
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

NAME = "realm1"


class Device:
    """A device of the instrument, in both realms.

    ``texts`` are procedures that take texts; arguments of others are converted (``typed``).
    """

    def __init__(self, kind: str, texts: list[str]) -> None:
        self.texts = texts
        self.turns = turns.Turns(kind)
        self.telemetry = Telemetry(KINDS[kind], reactor.seconds()) if kind in KINDS else None
        self.wrong = ""

    def hear(self, sample: Any = None, *_: Any) -> None:
        """Take a sample of the instrument's realm."""
        if self.telemetry and isinstance(sample, dict) and isinstance(sample.get("state"), dict):
            self.telemetry.hear(sample, reactor.seconds())

    def message(self, iso: str) -> bytes | None:
        """Return the telemetry; if the sample is malformed, telemetry without any known value."""
        assert self.telemetry  # noqa: S101  (the others have no clock)
        try:
            message: bytes | None = self.telemetry.message(reactor.seconds(), iso)
        except Exception as error:  # noqa: BLE001  (a malformed sample may raise any)
            if repr(error) != self.wrong:
                self.wrong = repr(error)
                log.error("a sample cannot be told to version 1.7: {wrong}", wrong=self.wrong)
            message = self.telemetry.unknown(iso)
        return message


def typed(text: Any) -> Any:
    """Convert a text to a number, True or False; return others unchanged."""
    if not isinstance(text, str):
        return text
    if text in ("True", "False"):
        return text == "True"
    for form in (int, float):
        try:
            return form(text)
        except ValueError:
            continue
    return text


def without_folder(result: Any) -> Any:
    """Return an answer without the run's folder: its digits would be taken for the run number."""
    if isinstance(result, dict) and NEWEST_FILE in result:
        return result | {NEWEST_FILE: base_name(result[NEWEST_FILE])}
    return result


class Bridge(QuietSession):  # type: ignore[misc]
    """The session in the realm of version 1.7.

    ``config.extra`` contains: ``realm``, the instrument's realm; ``role``, the role there of calls
    from version 1.7, and ``observer``, that of the telemetry's subscriber; ``devices``, with kind,
    ``names`` (with aliases), setpoints and ``texts`` of each; ``strangers``, the roles of programs
    that devices call and that only realm1 has.
    """

    @inlineCallbacks  # type: ignore[untyped-decorator]
    def onJoin(self, details: Any) -> Generator[Any, Any, None]:
        """Present every device here, and this realm's programs in the instrument's realm."""
        extra = self.config.extra
        ears = self._guest(NAME, extra["observer"])
        for number, (name, about) in enumerate(extra["devices"].items()):
            device = Device(about["kind"], about["texts"])
            turns.take(about["names"], device.turns)
            yield ears.subscribe(device.hear, f"hipercam.{name}.telemetry")
            options = RegisterOptions("prefix", details_arg="_call")
            yield self.register(self._endpoint(device), f"hipercam.{name}.rpc.", options)
            for setpoint in about["setpoints"]:
                topic = f"hipercam.{name}.{setpoint}"
                yield self.subscribe(self._set, topic, SubscribeOptions(details_arg="_event"))
            if device.telemetry:
                period, topic = device.telemetry.kind.period, f"hipercam.{name}.telemetry"
                # telemetry_gui lists only topics to which somebody subscribes.
                yield self.subscribe(lambda _: None, topic)
                publish = LoopingCall(self._publish, device, topic)
                # Spread them out: hdriver reads a pickle for each.
                reactor.callLater(period * number / len(extra["devices"]), publish.start, period)
        for name, role in extra["strangers"].items():
            mouth = self._guest(NAME, role)
            # The program itself may have a key: its own registrations precede a wildcard.
            options = RegisterOptions("wildcard", details_arg="_call")
            yield mouth.register(self._call_here, f"hipercam.{name}.rpc.", options)

    def _guest(self, name: str, role: str) -> Any:
        return guests.session(self.config.extra["realm"], name, role)

    def _from(self, session: int) -> Any:
        """Return the session in the instrument's realm for a session of this one."""
        transport: Any = self._transport
        there = transport._router._session_id_to_session.get(session)
        connection = there and getattr(there._transport, "transport", None)
        name = at(NAME, connection and connection.getPeer())
        return self._guest(name, self.config.extra["role"])

    def _endpoint(self, device: Device) -> Callable[..., Any]:
        def endpoint(*args: Any, _call: Any, **kwargs: Any) -> Any:
            procedure = _call.procedure
            name = procedure.split(".rpc.", 1)[1]
            call = self._from(_call.caller).call
            given = args if name in device.texts else map(typed, args)
            answer = device.turns.answer(name, lambda: call(procedure, *given, **kwargs))
            return answer.addCallback(without_folder)

        return endpoint

    def _set(self, *args: Any, _event: Any, **kwargs: Any) -> None:
        self._from(_event.publisher).publish(_event.topic, *args, **kwargs)

    def _call_here(self, *args: Any, _call: Any, **kwargs: Any) -> Any:
        return self.call(_call.procedure, *args, **kwargs)

    def _publish(self, device: Device, topic: str) -> None:
        if device.turns.answering:
            return  # as in version 1.7: hdriver would handle the end of a run twice
        iso = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        if message := device.message(iso):
            self.publish(topic, message)
