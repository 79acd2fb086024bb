"""The realm of programs of version 1.7, and the bridge between it and the instrument.

Imported in the router's worker, which has Crossbar but not this package. The bridge publishes the
telemetry of each device there, and forwards calls and setpoints of those programs to the
instrument's realm, as a caller named by the program's address.
"""

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions, SubscribeOptions
from door import QuietSession, at, guests
from legacy_telemetry import KINDS, NEWEST_FILE, Telemetry, base_name
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

NAME = "realm1"
ANSWER_WITHIN_S = 60.0
"""Answer a call with an error after this time: programs of version 1.7 wait for ever."""
OUTCOME_UNKNOWN, NOT_ALLOWED = (
    f"com.hipercam.error.{name}" for name in ("outcome_unknown", "not_allowed")
)
ONE_BY_ONE = "ngc.Controller"
"""Calls to devices of this kind run one at a time, as in version 1.7."""
AT_ONCE = frozenset({"abort", "stop", "summary", "status"})
"""Calls to such a device that do not wait."""


class Device:
    """A device of the instrument, in both realms.

    ``texts`` are procedures that take texts; arguments of others are converted (``typed``).
    """

    def __init__(self, kind: str, texts: list[str]) -> None:
        self.texts = texts
        self.turn = DeferredLock() if kind == ONE_BY_ONE else None
        self.telemetry = Telemetry(KINDS[kind], reactor.seconds()) if kind in KINDS else None
        self.answering = 0
        """The calls without an answer yet."""
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

    @inlineCallbacks  # type: ignore[untyped-decorator]
    def answer(self, name: str, send: Callable[[], Any]) -> Generator[Any, Any, Any]:
        """Send a call in its turn, and return the answer. Raise ApplicationError if it is late."""
        until = reactor.seconds() + ANSWER_WITHIN_S
        turn = self.turn if name not in AT_ONCE else None
        self.answering += 1
        try:
            if turn:
                yield turn.acquire().addTimeout(ANSWER_WITHIN_S, reactor)
            try:
                return (yield within(until - reactor.seconds(), name, send()))
            finally:
                if turn:
                    turn.release()
        except TimeoutError:
            why = f"calls before it were not answered in {ANSWER_WITHIN_S:g} s"
            raise ApplicationError(NOT_ALLOWED, f"{name} was not sent: {why}") from None
        finally:
            self.answering -= 1


def within(seconds: float, name: str, called: Any) -> Any:
    """Return a Deferred with the result of ``called``, or an error after ``seconds``."""
    answer: Any = Deferred()

    def give_up() -> None:
        text = f"{name} was not answered in {ANSWER_WITHIN_S:g} s; it may have been carried out"
        answer.errback(ApplicationError(OUTCOME_UNKNOWN, text))

    timer = reactor.callLater(seconds, give_up)

    def answered(result: Any) -> None:
        if timer.active():
            timer.cancel()
            answer.errback(result) if isinstance(result, Failure) else answer.callback(result)

    called.addBoth(answered)
    return answer


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
    setpoints and ``texts`` of each; ``strangers``, the roles of programs that devices call and that
    only realm1 has.
    """

    @inlineCallbacks  # type: ignore[untyped-decorator]
    def onJoin(self, details: Any) -> Generator[Any, Any, None]:
        """Present every device here, and this realm's programs in the instrument's realm."""
        extra = self.config.extra
        ears = self._guest(NAME, extra["observer"])
        for number, (name, about) in enumerate(extra["devices"].items()):
            device = Device(about["kind"], about["texts"])
            yield ears.subscribe(device.hear, f"hipercam.{name}.telemetry")
            options = RegisterOptions("prefix", details_arg="_call")
            yield self.register(self._endpoint(device), f"hipercam.{name}.rpc.", options)
            for setpoint in about["setpoints"]:
                topic = f"hipercam.{name}.{setpoint}"
                yield self.subscribe(self._set, topic, SubscribeOptions(details_arg="_event"))
            if device.telemetry:
                period = device.telemetry.kind.period
                publish = LoopingCall(self._publish, device, f"hipercam.{name}.telemetry")
                # Spread them out: hdriver reads a pickle for each.
                reactor.callLater(period * number / len(extra["devices"]), publish.start, period)
        for name, role in extra["strangers"].items():
            mouth = self._guest(NAME, role)
            options = RegisterOptions("prefix", details_arg="_call")
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
            answer = device.answer(name, lambda: call(procedure, *given, **kwargs))
            return answer.addCallback(without_folder)

        return endpoint

    def _set(self, *args: Any, _event: Any, **kwargs: Any) -> None:
        self._from(_event.publisher).publish(_event.topic, *args, **kwargs)

    def _call_here(self, *args: Any, _call: Any, **kwargs: Any) -> Any:
        return self.call(_call.procedure, *args, **kwargs)

    def _publish(self, device: Device, topic: str) -> None:
        if device.answering:
            return  # as in version 1.7: hdriver would handle the end of a run twice
        iso = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        if message := device.message(iso):
            # Retained: telemetry_gui lists only topics with subscribers or retained events.
            self.publish(topic, message, options=PublishOptions(retain=True))
