"""What one client, or a web page, does to the router costs the others nothing."""

import asyncio
import base64
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import psutil
import pytest
from autobahn.wamp.types import PublishOptions, SubscribeOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import SPARE_FILES, answers, as_text, crossbar
from hcam_devices.wamp.utils import call

from .tools import BIN, PATIENCE, Client, Net, client, living, soon, until

DEPTH = 100_000
SERVER = "hwserver-loads"
TOPIC = "hipercam.load{}.telemetry"
"""A topic of this server for each number."""
MEBI = 2**20


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router without servers; there is a key for one that has many devices."""
    net = Net(tmp_path_factory.mktemp("abused"))
    devices = [f"load{number}" for number in range(100)]
    try:
        net.start_router("--instrument", net.instrument_with({SERVER: devices}))
        yield net
    finally:
        net.end()


@pytest.fixture
def worker(router: Net, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """The process that does the router's work; it has to be the same after the test."""
    monkeypatch.setenv("WAMP_SERVER", str(router.address))
    monkeypatch.setenv("HCAM_HOME", str(router.home))
    [process] = living(router.home, "crossbar-worker")
    yield process
    assert living(router.home, "crossbar-worker") == [process]
    assert call("wamp.session.count") >= 1


def connect(net: Net) -> socket.socket:
    return socket.create_connection(("127.0.0.1", net.port), timeout=PATIENCE)


def upgrade(net: Net, *, origin: str | None = None, serializer: str = "json") -> socket.socket:
    """Return a connection on which the handshake of a WebSocket has been sent."""
    connection = connect(net)
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{net.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        f"Sec-WebSocket-Protocol: wamp.2.{serializer}",
        *([] if origin is None else [f"Origin: {origin}"]),
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def frame(payload: bytes, *, text: bool) -> bytes:
    """Return a message of a client; its mask is zero."""
    return struct.pack(">BBQ4x", 0x81 if text else 0x82, 0x80 | 127, len(payload)) + payload


def ping(connection: socket.socket) -> bytes:
    """Wait for an answer, also the end, to a ping; what was sent before has been read then."""
    connection.sendall(b"\x89\x80" + bytes(4))
    return connection.recv(4096)


def closed(connection: socket.socket) -> bool:
    """Wait until the other side has closed a connection."""
    with connection, suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


@pytest.mark.parametrize(
    ("serializer", "opening"),
    [("json", b"["), ("cbor", b"\x81"), ("msgpack", b"\x91"), ("json", b'{"":')],
)
def test_a_deeply_nested_message_before_any_login_disturbs_nobody(
    router: Net, worker: psutil.Process, serializer: str, opening: bytes
) -> None:
    with upgrade(router, serializer=serializer) as connection:
        assert b" 101 " in connection.recv(4096)
        connection.sendall(frame(opening * DEPTH, text=serializer == "json"))
        ping(connection)


@pytest.mark.parametrize("path", ["call", "publish"])
def test_a_deeply_nested_request_is_refused(router: Net, worker: psutil.Process, path: str) -> None:
    connection = connect(router)
    head = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {DEPTH}\r\n\r\n".encode() + b"[" * DEPTH)
    assert b" 400 " in connection.recv(4096)
    connection.close()


@pytest.mark.parametrize(
    "origin", ["null", "http://127.0.0.1:8080", "http://localhost", "https://example.org", ""]
)
def test_no_web_page_can_open_a_websocket(router: Net, worker: psutil.Process, origin: str) -> None:
    with upgrade(router, origin=origin) as refused:
        assert b" 101 " not in refused.recv(4096)


def test_a_program_can_open_a_websocket(router: Net, worker: psutil.Process) -> None:
    with upgrade(router) as accepted:
        assert b" 101 " in accepted.recv(4096)


def alive(connection: socket.socket) -> bool:
    """Answer the pings of the router, until it closes the connection all the same."""
    end = time.monotonic() + PATIENCE
    with connection, suppress(ConnectionError):
        while data := connection.recv(65536):
            assert time.monotonic() < end, "it is still open"
            begin = data.rfind(b"\x89")
            if begin >= 0:
                payload = data[begin + 2 : begin + 2 + data[begin + 1]]
                connection.sendall(struct.pack(">BB4x", 0x8A, 0x80 | len(payload)) + payload)
    return True


def trickle(connection: socket.socket, text: bytes) -> None:
    """Send a byte whenever the other side has been silent for a second, until it closes."""
    with connection, suppress(ConnectionError):
        connection.settimeout(1)
        for byte in text:
            connection.sendall(bytes([byte]))
            try:
                if not connection.recv(4096):
                    return
            except TimeoutError:
                continue
        raise AssertionError("the router waited for all of it")


def pings_while_speaking(connection: socket.socket) -> int:
    """Speak about once a second, for longer than the interval of the router's pings."""
    heard = b""
    with connection:
        heard += connection.recv(4096)
        connection.settimeout(1)
        for _ in range(8):
            heard += ping(connection)
            with suppress(TimeoutError):
                heard += connection.recv(4096)
    return heard.count(b"\x89")


async def test_idle_and_slow_connections_are_closed_but_not_who_has_joined(
    router: Net, worker: psutil.Process
) -> None:
    silent, half, unjoined = connect(router), connect(router), upgrade(router)
    half.sendall(b"POST /call HTTP/1.1\r\nContent-Length: 1000\r\nHost: x\r\n\r\n")
    line, body, speaking = connect(router), connect(router), upgrade(router)
    body.sendall(b"POST /call HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    async with client(router.address) as session:
        _, _, _, _, _, pings = await asyncio.gather(
            asyncio.to_thread(closed, silent),
            asyncio.to_thread(closed, half),
            asyncio.to_thread(alive, unjoined),
            asyncio.to_thread(trickle, line, b"G" * 90),
            asyncio.to_thread(trickle, body, b"{" * 90),
            asyncio.to_thread(pings_while_speaking, speaking),
        )
        assert not pings
        assert await session.call("wamp.session.count")


def test_a_request_without_end_is_not_stored(router: Net, worker: psutil.Process) -> None:
    head = b"POST /call HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % MEBI + b"[" * MEBI + b"\r\n"
    with connect(router) as connection, pytest.raises(ConnectionError):
        connection.sendall(head + 64 * chunk)


def test_more_connections_than_open_files_lock_nobody_out_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(tmp_path)
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    most = 30
    try:
        command = ("prlimit", f"--nofile={SPARE_FILES + most}", BIN / "hcam", "router")
        net.start(*command, "--port", str(net.port), log="router.out")
        until(lambda: answers(net.port))
        idle = []
        for _ in range(3 * most):
            with suppress(ConnectionError):  # closed at once where there are too many
                idle.append(connect(net))
        [worker] = living(net.home, "crossbar-worker")
        assert worker.num_fds() < SPARE_FILES + most
        until(lambda: answers(net.port))
        assert call("wamp.session.count") >= 1
        for connection in idle:
            connection.close()
        log = next(net.home.glob("router/*/router.log")).read_text()
        assert "Traceback" not in log
        assert "max_connections" in log
    finally:
        net.end()


async def test_a_subscriber_that_does_not_read_is_closed_and_costs_little_memory(
    router: Net, worker: psutil.Process
) -> None:
    topic, text = TOPIC.format(0), "x" * 500_000
    before = worker.memory_info().rss
    for _ in range(3):
        async with (
            server(router) as publisher,
            client(router.address, key=None) as deaf,
            client(router.address) as other,
        ):
            await deaf.subscribe(print, topic)
            deaf.pause()
            sessions = await other.call("wamp.session.count")
            sent = 0
            while await other.call("wamp.session.count") == sessions:
                publisher.publish(topic, text)
                sent += len(text)
                assert sent < 500 * MEBI, "it was never closed"
                assert worker.memory_info().rss < before + 64 * MEBI


def server(net: Net) -> AbstractAsyncContextManager[Client]:
    """Return a session of the server that has many devices."""
    return client(net.address, key=net.key(SERVER))


async def retained(net: Net, topic: str) -> list[object]:
    """Return what the router has retained on a topic."""
    async with client(net.address) as session:
        heard: list[object] = []
        await session.subscribe(heard.append, topic, SubscribeOptions(get_retained=True))
        await session.call("wamp.session.count")  # the retained event comes first
        return heard


KEPT = PublishOptions(retain=True, acknowledge=True)


async def test_what_a_client_retained_is_given_back_when_it_has_gone(
    router: Net, worker: psutil.Process
) -> None:
    topic = TOPIC.format(1)
    async with server(router) as session:
        await session.publish(topic, 1, options=KEPT)
        assert await retained(router, topic) == [1]
    await soon(lambda: _gone(router, topic))
    async with client(router.address) as session:
        assert await session.call("wamp.subscription.lookup", topic) is None


async def _gone(net: Net, topic: str) -> bool:
    return not await retained(net, topic)


async def test_a_value_belongs_to_who_retained_it_last(router: Net, worker: psutil.Process) -> None:
    topic, other = TOPIC.format(2), TOPIC.format(3)
    async with server(router) as second:
        async with server(router) as first:
            await first.publish(topic, 1, options=KEPT)
            await first.publish(other, 1, options=KEPT)
            await second.publish(topic, 2, options=KEPT)
        await soon(lambda: _gone(router, other))
        assert await retained(router, topic) == [2]


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_testament_stays_retained(
    router: Net, worker: psutil.Process, goodbye: bool
) -> None:
    topic = TOPIC.format(4 + goodbye)
    async with server(router) as session:
        await session.publish(topic, "alive", options=KEPT)
        await session.call(
            "wamp.session.add_testament", topic, ["gone"], {}, publish_options={"retain": True}
        )
        if goodbye:
            session.leave()

    async def said() -> bool:
        return await retained(router, topic) == ["gone"]

    await soon(said)


async def test_a_client_may_not_retain_without_bound(router: Net, worker: psutil.Process) -> None:
    large = "x" * 400_000
    async with server(router) as session:
        for number in range(100):
            await session.publish(TOPIC.format(number), large, options=KEPT)
        assert await retained(router, TOPIC.format(99)) == [large]
        assert await retained(router, TOPIC.format(0)) == []


async def test_events_for_some_only_are_not_retained(router: Net, worker: psutil.Process) -> None:
    topic = "hipercam.load6.wire"
    async with server(router) as session, client(router.address) as other:
        for number in range(3):
            some = PublishOptions(retain=True, acknowledge=True, exclude=[number + 1])
            await session.publish(topic, number, options=some)
        assert await other.call("wamp.subscription.lookup", topic) is None


def test_the_shipped_configuration_starts_a_plain_crossbar(tmp_path: Path) -> None:
    net = Net(tmp_path)
    try:
        (tmp_path / "config.json").write_text(as_text(load(), net.port))
        plain = net.start(crossbar(), "start", "--cbdir", tmp_path, log="plain.out")
        until(lambda: answers(net.port) or plain.poll() is not None)
        assert answers(net.port), (tmp_path / "plain.out").read_text()
    finally:
        net.end()
