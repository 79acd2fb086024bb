"""The WebSocket of a session: the short way for binary messages, and autobahn's for all others."""

import asyncio
import base64
import hashlib
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from autobahn.asyncio.websocket import WampWebSocketClientFactory
from autobahn.exception import PayloadExceededError
from autobahn.wamp.exception import SerializationError, TransportLost
from autobahn.wamp.message import Event
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer

from hcam_devices.wamp.transport import Transport, cut
from hcam_devices.wamp.uris import MAX_MESSAGE_BYTES

from ..helpers import until

SERIALIZERS = {"cbor": CBORSerializer, "json": JsonSerializer}
SIZES = (0, 90, 125, 126, 300, 65_400, 65_535, 65_536, 70_000)


def frame(payload: bytes, first: int) -> bytes:
    """Return a frame as a router sends it."""
    size = len(payload)
    if size <= 125:
        return bytes((first, size)) + payload
    if size <= 0xFFFF:
        return bytes((first, 126)) + size.to_bytes(2) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the first byte and the payload of each frame that a client sends."""
    while True:
        first, second = await reader.readexactly(2)
        assert second & 0x80, "a client masks"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        mask = itertools.cycle(await reader.readexactly(4))
        payload = await reader.readexactly(size)
        yield first, bytes(byte ^ key for byte, key in zip(payload, mask, strict=False))


class Heard:
    """A session that only keeps what it hears."""

    _authid = _session_id = None

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.closed = False

    def onOpen(self, transport: Transport) -> None:
        self.transport = transport

    def onMessage(self, message: Any) -> None:
        if message.args == ["fail"]:
            raise ZeroDivisionError
        self.messages.append(message.args)

    def onClose(self, clean: bool) -> None:
        self.closed = True


class Router:
    """The other end of one connection, without WAMP."""

    def __init__(self, serializer: str) -> None:
        self.serializer: Any = SERIALIZERS[serializer]()
        self.first = 0x82 if serializer == "cbor" else 0x81
        self.session = Heard()
        self.joined = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(
            line[19:] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-K")
        )
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: wamp.2.%s\r\n\r\n"
            % (base64.b64encode(digest), self.serializer.SERIALIZER_ID.encode())
        )
        self.joined.set()

    def packed(self, *args: Any) -> bytes:
        payload: bytes = self.serializer.serialize(Event(1, 2, args=list(args)))[0]
        return payload


@asynccontextmanager
async def connected(serializer: str) -> AsyncIterator[Router]:
    """Connect a transport to a router of a test."""
    router = Router(serializer)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(router.accept, "127.0.0.1", 0)
    factory = WampWebSocketClientFactory(
        lambda: router.session,
        url="ws://127.0.0.1/ws",
        serializers=[SERIALIZERS[serializer]()],
        loop=loop,
    )
    factory.protocol = Transport
    factory.setProtocolOptions(autoPingInterval=3600, autoPingTimeout=3600, autoPingSize=12)
    transport, protocol = await loop.create_connection(
        factory, "127.0.0.1", server.sockets[0].getsockname()[1]
    )
    await router.joined.wait()
    await until(lambda: hasattr(router.session, "transport"))
    try:
        yield router
    finally:
        transport.abort()
        await protocol.is_closed
        router.writer.close()
        server.close()


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("seed", range(3))
async def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    serializer: str, seed: int
) -> None:
    rng = random.Random(seed)
    async with connected(serializer) as router:
        stream, sent = b"", []
        for n, size in enumerate(rng.sample([*SIZES, *range(20)], len(SIZES) + 20)):
            sent.append([n, "x" * size])
            payload = router.packed(*sent[-1])
            middle = rng.randrange(len(payload))
            stream += rng.choice(
                (
                    frame(payload, router.first),
                    frame(payload[:middle], router.first & 0x0F) + frame(payload[middle:], 0x80),
                    frame(b"well?", 0x89) + frame(payload, router.first),
                )
            )
        while stream:
            size = rng.choice((1, 3, 50, 5000, 100_000))
            router.session.transport.data_received(stream[:size])
            stream = stream[size:]
        assert router.session.messages == sent
        assert not router.session.closed


@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_messages_of_any_size_are_sent_masked_and_in_order(serializer: str) -> None:
    async with connected(serializer) as router:
        arriving = frames(router.reader)
        for size in SIZES:
            router.session.transport.send(Event(1, 2, args=["x" * size]))
            assert await anext(arriving) == (router.first, router.packed("x" * size))
        with pytest.raises(PayloadExceededError, match="bytes is more than"):
            router.session.transport.send(Event(1, 2, args=["x" * MAX_MESSAGE_BYTES]))
        with pytest.raises(SerializationError):
            router.session.transport.send(Event(1, 2, args=[object()]))


async def test_nothing_is_sent_while_the_connection_is_being_closed() -> None:
    async with connected("cbor") as router:
        transport = router.session.transport
        transport.close()  # type: ignore[no-untyped-call]
        assert transport.isOpen()  # type: ignore[no-untyped-call]
        with pytest.raises(TransportLost):
            transport.send(Event(1, 2))


async def test_any_message_answers_a_ping() -> None:
    async with connected("cbor") as router:
        transport = router.session.transport
        transport._sendAutoPing()
        assert transport.autoPingTimeoutCall
        transport.data_received(frame(router.packed("alive"), router.first))
        assert transport.autoPingTimeoutCall is None
        assert transport.autoPingPendingCall


async def test_a_message_that_cannot_be_handled_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for bad in (b"\xff", Router("cbor").packed("fail")):
        async with connected("cbor") as router:
            session = router.session
            router.writer.write(frame(bad, router.first) + frame(router.packed(1), router.first))
            await until(lambda session=session: session.closed)  # type: ignore[misc]
            assert session.messages == []
            with pytest.raises(TransportLost):
                session.transport.send(Event(1, 2))
    assert "ZeroDivisionError" in caplog.text


def test_what_is_no_whole_short_message_is_left_to_autobahn() -> None:
    whole = b"\x82\x02ab"
    assert cut(whole + b"more") == (b"ab", b"more")
    for other in (
        whole[:-1],
        b"\x81\x02ab",
        b"\x02\x02ab",
        b"\xc2\x02ab",
        b"\x82\x82maskab",
        b"\x82\x7e\x00\x02ab",
        b"\x82\x7f" + bytes(8),
    ):
        assert cut(other) is None
