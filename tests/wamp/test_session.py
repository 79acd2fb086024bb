"""How a session answers calls, without a router."""

import asyncio
import socket
from typing import Any

import pytest
from autobahn.wamp.exception import ProtocolError, SerializationError
from autobahn.wamp.message import Error, Event, Interrupt, Invocation, Yield
from autobahn.wamp.request import Endpoint, Handler, Registration, Subscription

from hcam_devices.wamp.session import Serializer, Session, _connected, _opened
from hcam_devices.wamp.uris import Address

from ..helpers import until


class Wire:
    """A transport that keeps what is sent, and cannot carry an object."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        if any(type(arg) is object for arg in message.args):
            raise SerializationError("it is an object")
        self.sent.append(message)


@pytest.fixture
async def wire() -> Wire:
    return Wire()


def offering(wire: Wire, procedure: Any, details_arg: str | None = None) -> Session:
    session = Session("realm1")
    session._transport, session._session_id = wire, 1  # type: ignore[assignment]
    endpoint = Endpoint(procedure, None, details_arg)
    session._registrations[7] = Registration(session, 7, "a.name.", endpoint)
    return session


def hearing(*handlers: Any) -> Session:
    session = offering(Wire(), None)
    session._subscriptions[5] = [
        Subscription(5, "a..name", session, Handler(handler, None, "_event"))
        for handler in handlers
    ]
    return session


def pass_on(session: Session, event: Event) -> None:
    """Let an event arrive as the bytes that a router sends."""
    serializer: Any = Serializer()  # type: ignore[no-untyped-call]  # autobahn has no types
    for message in serializer.unserialize(*serializer.serialize(event)):
        session.onMessage(message)


async def test_an_event_is_heard_at_once_with_its_publisher() -> None:
    heard: list[Any] = []

    def hear(*args: Any, _event: Any, **kwargs: Any) -> None:
        who = _event.publisher, _event.publisher_authid, _event.publisher_authrole
        heard.append([args, kwargs, _event.topic, *who])

    session = hearing(hear)
    sender = {"publisher": 3, "publisher_authid": "alice", "publisher_authrole": "observer"}
    pass_on(session, Event(5, 1, args=[2], kwargs={"n": 3}, topic="a.b.name", **sender))
    pass_on(session, Event(5, 2, kwargs={"_event": "forged"}))
    pass_on(session, Event(5, 3, payload=b"encrypted or not"))
    nobody = ["a..name", None, None, None]
    expected = [[(2,), {"n": 3}, "a.b.name", 3, "alice", "observer"], [(), {}, *nobody]]
    await until(lambda: len(heard) == 3)
    assert heard == [*expected, [(), {}, *nobody]]


async def test_an_error_of_one_listener_is_not_that_of_another() -> None:
    heard: list[Any] = []
    release = asyncio.Event()

    async def fail_later(*_: Any, _event: Any) -> None:
        await release.wait()
        raise ZeroDivisionError

    session = hearing(lambda: None, fail_later, lambda value, _event: heard.append(value))
    pass_on(session, Event(5, 1, args=["news"]))
    assert heard == ["news"]
    assert len(session._hearing) == 1
    release.set()
    await until(lambda: not session._hearing)


async def test_a_call_is_answered_before_anything_else_happens(wire: Wire) -> None:
    def procedure(*args: int, _call: Any, **kwargs: int) -> Any:
        return [args, kwargs, _call.procedure, _call.caller_authid]

    session = offering(wire, procedure, "_call")
    session.onMessage(
        Invocation(1, 7, args=[2], kwargs={"n": 3}, procedure="a.name.it", caller_authid="alice")
    )
    session.onMessage(Invocation(2, 7))
    assert [type(answer) for answer in wire.sent] == [Yield, Yield]
    assert wire.sent[0].args == [[(2,), {"n": 3}, "a.name.it", "alice"]]
    assert wire.sent[1].args == [[(), {}, "a.name.", None]]


async def test_an_answer_that_takes_longer_can_be_canceled(wire: Wire) -> None:
    async def procedure(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    session = offering(wire, procedure)
    session.onMessage(Invocation(1, 7, args=[3600]))
    session.onMessage(Invocation(2, 7, args=[0]))
    await until(lambda: len(wire.sent) == 1)
    assert (wire.sent[0].request, wire.sent[0].args) == (2, [0])
    with pytest.raises(ProtocolError):
        session.onMessage(Invocation(1, 7))
    session.onMessage(Interrupt(1))
    await until(lambda: len(wire.sent) == 2)
    assert (wire.sent[1].request, type(wire.sent[1])) == (1, Error)
    assert not session._invocations


async def test_an_error_is_the_answer(wire: Wire) -> None:
    def procedure(how: str) -> Any:
        return {"object": object(), "error": ZeroDivisionError(object())}.get(how) or int(how)

    session = offering(wire, procedure)
    session.define(ValueError, "a.wrong.number")  # type: ignore[arg-type]
    session.onMessage(Invocation(1, 7, args=["x"]))
    session.onMessage(Invocation(2, 7))
    session.onMessage(Invocation(3, 7, args=["object"]))
    assert [answer.error for answer in wire.sent] == [
        "a.wrong.number", "wamp.error.runtime_error", "wamp.error.invalid_payload",
    ]  # fmt: skip
    assert wire.sent[2].args == ["the answer cannot be sent: it is an object"]
    with pytest.raises(ProtocolError):
        session.onMessage(Invocation(4, 8))


async def test_an_answer_of_a_lost_session_is_dropped(wire: Wire) -> None:
    answers = asyncio.get_running_loop().create_future()
    session = offering(wire, lambda: answers)
    session.onMessage(Invocation(1, 7))
    session._transport = None
    answers.set_result("too late")
    await until(lambda: not session._invocations)
    assert wire.sent == []


async def test_an_answer_after_samples_is_sent_at_once() -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(asyncio.Protocol, "127.0.0.1") as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        connected = await _connected(*address)
        transport, _ = await _opened(asyncio.Protocol, connected, address, None)
        used = transport.get_extra_info("socket")
        assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()
