"""Calls of programs of version 1.7: each is answered in time, those of the detector in turn.

The router's worker imports this module; it has Crossbar but not this package. ``legacy`` sends the
calls of realm1 with it, and ``door`` those over HTTP without a key.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from autobahn.wamp.exception import ApplicationError
from twisted.internet import reactor
from twisted.internet.defer import (
    Deferred,
    DeferredLock,
    TimeoutError,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.python.failure import Failure

ANSWER_WITHIN_S = 60.0
"""Answer a call with an error after this time: programs of version 1.7 wait for ever."""
OUTCOME_UNKNOWN, NOT_ALLOWED = (
    f"com.hipercam.error.{name}" for name in ("outcome_unknown", "not_allowed")
)
ONE_BY_ONE = "ngc.Controller"
"""Calls to devices of this kind are sent one at a time, as in version 1.7."""
AT_ONCE = frozenset({"abort", "stop", "summary", "status"})
"""Calls to such a device that do not wait."""


class Turns:
    """The calls of one device."""

    def __init__(self, kind: str = "") -> None:
        self._lock = DeferredLock() if kind == ONE_BY_ONE else None
        self.answering = 0
        """The calls without an answer yet."""

    def answer(self, name: str, send: Callable[[], Any]) -> Any:
        """Send a call in its turn; return a Deferred of the answer, or of an ApplicationError.

        If that is cancelled, the call is not sent, or its answer is dropped.
        """
        lock = self._lock if name not in AT_ONCE else None
        turn = lock.acquire().addTimeout(ANSWER_WITHIN_S, reactor) if lock else succeed(None)
        answer: Any = Deferred(lambda _: turn.cancel())
        self._answer(name, send, lock, turn).chainDeferred(answer)
        return answer

    @inlineCallbacks  # type: ignore[untyped-decorator]
    def _answer(
        self, name: str, send: Callable[[], Any], lock: Any, turn: Any
    ) -> Generator[Any, Any, Any]:
        until = reactor.seconds() + ANSWER_WITHIN_S
        self.answering += 1
        try:
            yield turn
            try:
                return (yield within(until - reactor.seconds(), name, maybeDeferred(send)))
            finally:
                if lock:
                    lock.release()
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


_turns: dict[str, Turns] = {}


def take(names: Iterable[str], turns: Turns) -> None:
    """Take the turns of a device, by its name and its aliases."""
    _turns.update(dict.fromkeys(names, turns))


def answer(procedure: str, send: Callable[[], Any]) -> Any:
    """Send a call of any procedure in its turn: see ``Turns.answer``."""
    place, _, name = procedure.partition(".rpc.")
    device = place.rpartition(".")[2] if name else ""
    return _turns.get(device, Turns()).answer(name or procedure, send)
