"""``call`` and ``publish``: an exception for each kind of failure, one POST for each call."""

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from autobahn.wamp.types import RegisterOptions

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.ui import terminal
from hcam_devices.ui.picture import Picture
from hcam_devices.wamp import session, utils
from hcam_devices.wamp.router import CLIENT_TIMEOUT_S
from hcam_devices.wamp.uris import Address, address
from hcam_devices.wamp.utils import call, publish

from .conftest import DEVICES
from .tools import Follower, Net, client, free_port, until


@contextmanager
def hanging(*, full: bool) -> Iterator[Address]:
    """Listen without ever answering; full: so that the kernel takes no connection any more."""
    with socket.socket() as listener, socket.socket() as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0 if full else 5)
        where = Address(*listener.getsockname())
        if full:
            other.connect(where)
        yield where


class Counting(BaseHTTPRequestHandler):
    """A real HTTP server that counts what comes, and answers as it is told."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[list[Any]] = []
    requests: ClassVar[list[str]] = []
    answer: ClassVar[bytes | None] = b'{"args": [1]}'
    status: ClassVar[int] = 200

    def setup(self) -> None:
        self.connections.append(self.client_address)
        super().setup()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(self.path)
        if self.answer is None:
            self.close_connection = True
            return
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def counting(host: str = "127.0.0.1") -> Iterator[tuple[type[Counting], Address]]:
    class Handler(Counting):
        connections: ClassVar[list[Any]] = []
        requests: ClassVar[list[str]] = []

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield Handler, Address(host, server.server_address[1])
        finally:
            utils._kept.__dict__.clear()  # the server waits for its connections to end
            server.shutdown()
            thread.join()


def test_a_router_that_hangs_is_told_from_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(utils, "CONNECT_WITHIN", 0.1)
    monkeypatch.setattr(session, "JOIN_WITHIN", 0.1)
    said = r"router at {} does not answer within .* its log, HCAM_HOME/router/{}/router\.log$"
    with hanging(full=True) as where:
        monkeypatch.setenv("WAMP_SERVER", str(where))
        with pytest.raises(utils.RouterError, match=said.format(where, where.port)):
            call("hipercam.slide.rpc.describe", timeout=600)
    with hanging(full=False) as where, pytest.raises(HcamError) as error:
        asyncio.run(terminal.look(Picture(load(), "*"), where))
    assert re.search(said.format(where, where.port), str(error.value))


def test_an_absent_router_raises_router_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (f"127.0.0.1:{free_port()}", "no-such-host.invalid"):
        monkeypatch.setenv("WAMP_SERVER", where)
        with pytest.raises(utils.RouterError, match=rf"no router at {where}.*hcam up"):
            call("hipercam.slide.rpc.describe")
        with pytest.raises(ConnectionError):
            publish("hipercam.slide.target_position", 1)


def test_a_router_that_never_accepts_has_not_got_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        full = [socket.socket() for _ in range(3)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        monkeypatch.setenv("WAMP_SERVER", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(utils.RouterError):
            call("hipercam.slide.rpc.describe", timeout=0.5)
        for one in full:
            one.close()


@pytest.mark.parametrize("answer", [b"<html>It works!</html>", b"[]", b"\xff", b""])
def test_something_else_on_the_router_s_port(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with counting() as (server, where):
        server.answer = answer
        monkeypatch.setenv("WAMP_SERVER", str(where))
        with pytest.raises(utils.RouterError, match="is not the router"):
            call("hipercam.slide.rpc.describe")


@pytest.mark.parametrize("status", [401, 403, 421, 500])
def test_a_status_that_refuses_is_an_error_whatever_the_answer(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with counting() as (server, where):
        server.status = status
        monkeypatch.setenv("WAMP_SERVER", str(where))
        with pytest.raises(utils.WampError) as caught:
            call("hipercam.slide.rpc.describe")
    assert caught.value.uri == f"com.hipercam.error.http_{status}"


def test_unknown_procedures_and_bad_arguments_raise_their_errors(net: Net) -> None:
    with pytest.raises(utils.NoSuchProcedureError):
        call("hipercam.nobody.rpc.describe")
    with pytest.raises(utils.NoSuchProcedureError, match=r"slide has no 'dance'; it has block,"):
        call("hipercam.slide.rpc.dance")
    with pytest.raises(utils.InvalidArgumentError, match=r"1e\+09 pix is not within") as caught:
        call("hipercam.slide.rpc.set_target_position", 1e9)
    assert caught.value.uri == "com.hipercam.error.invalid_argument"
    assert isinstance(caught.value, ValueError)
    with pytest.raises(utils.WampError):
        call("not a uri")
    for value in (float("nan"), object(), b"", "\udc80"):
        with pytest.raises(utils.InvalidArgumentError, match="cannot be sent"):
            call("hipercam.slide.rpc.set_target_position", value)
        with pytest.raises(utils.InvalidArgumentError, match="cannot be sent"):
            publish("hipercam.slide.target_position", value)


def test_a_move_of_a_disabled_axis_is_not_allowed(net: Net) -> None:
    call("hipercam.slide.rpc.stage.disable")
    try:
        with pytest.raises(utils.NotAllowedError, match=r"disabled .*it allows enable"):
            call("hipercam.slide.rpc.stage.move")
    finally:
        call("hipercam.slide.rpc.stage.enable")


def test_a_refusal_of_the_hardware_raises_refused_error(net: Net) -> None:
    call("hipercam.meerstetter1.rpc.simulate", "error", code=7)
    try:
        with pytest.raises(utils.RefusedError, match="out of range"):
            call("hipercam.meerstetter1.rpc.set_target_temperature1", -80)
    finally:
        call("hipercam.meerstetter1.rpc.simulate", "clear")


def test_an_offline_device_raises_offline_error(net: Net) -> None:
    call("hipercam.meerstetter2.rpc.simulate", "refuse")
    try:
        until(lambda: net.newest("meerstetter2")["state"]["connection"] == "offline")
        with pytest.raises(utils.OfflineError, match=r"is offline .*nothing was sent"):
            call("hipercam.meerstetter2.rpc.set_target_temperature1", -80)
    finally:
        call("hipercam.meerstetter2.rpc.simulate", "clear")
        call("hipercam.meerstetter2.rpc.connection.connect")
    until(lambda: net.newest("meerstetter2")["state"]["connection"] == "online")


async def test_a_call_without_an_answer_has_an_unknown_outcome(net: Net) -> None:
    async with client(net.address, key=net.autoguider()) as session:
        called = asyncio.Event()

        async def slow() -> None:
            called.set()
            await asyncio.Event().wait()

        await session.register(slow, "hipercam.autoguider.rpc.sleep", RegisterOptions())
        with pytest.raises(utils.OutcomeUnknownError, match=r"within 0\.2 s.*before you repeat"):
            await asyncio.to_thread(call, "hipercam.autoguider.rpc.sleep", timeout=0.2)
        called.clear()
        waiting = asyncio.create_task(asyncio.to_thread(call, "hipercam.autoguider.rpc.sleep"))
        await called.wait()
        session.cut()
        with pytest.raises(utils.OutcomeUnknownError) as caught:
            await waiting
        assert isinstance(caught.value, TimeoutError)


def test_every_call_is_one_post_on_a_connection_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with counting() as (server, where):
        monkeypatch.setenv("WAMP_SERVER", str(where))
        for n in range(10):
            assert call("hipercam.slide.rpc.describe") == 1
            publish("hipercam.slide.target_position", n)
        assert server.requests == ["/call", "/publish"] * 10
        assert len(server.connections) == 1


def test_a_connection_is_not_used_again_when_the_router_may_be_closing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert utils.MAX_IDLE_S < CLIENT_TIMEOUT_S
    now = 0.0
    monkeypatch.setattr(utils, "monotonic", lambda: now)
    with counting() as (server, where):
        monkeypatch.setenv("WAMP_SERVER", str(where))
        for now in (0.0, utils.MAX_IDLE_S - 1, 2 * utils.MAX_IDLE_S):  # noqa: B007
            call("hipercam.slide.rpc.describe")
        assert len(server.connections) == 2


def test_a_post_is_never_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with counting() as (server, where):
        monkeypatch.setenv("WAMP_SERVER", str(where))
        call("hipercam.slide.rpc.describe")  # so that the connection is one that was kept
        server.answer = None
        with pytest.raises(utils.OutcomeUnknownError):
            call("hipercam.slide.rpc.stage.move")
        assert server.requests == ["/call"] * 2
        server.answer = b'{"args": []}'
        assert call("hipercam.slide.rpc.stage.move") is None
        assert server.requests == ["/call"] * 3


def test_wamp_server_says_where_the_router_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (
        ("127.0.0.1", Address("127.0.0.1", 8080)),
        (" router.local:9000 ", Address("router.local", 9000)),
        ("[::1]:9000", Address("::1", 9000)),
        ("[::1]", Address("::1", 8080)),
        ("", Address("127.0.0.1", 8080)),
    ):
        monkeypatch.setenv("WAMP_SERVER", text)
        assert address() == expected
        assert Address.parse(str(expected)) == expected
    for text in (
        "::1", "host:", ":9000", "host:0", "host:65536", "host:http", "http://host:8080", "a b",
        "[::1", "::1]:80", "host:80:80", "user@host", "host/path", "[host]", "8080\n9", "[]:1",
    ):  # fmt: skip
        monkeypatch.setenv("WAMP_SERVER", text)
        with pytest.raises(HcamError, match="is not a host or host:port"):
            call("hipercam.slide.rpc.describe")
    with counting("::1") as (_, where):
        monkeypatch.setenv("WAMP_SERVER", f"[::1]:{where.port}")
        assert call("hipercam.slide.rpc.describe") == 1


def test_threads_do_not_get_each_others_answers(net: Net) -> None:
    names = [name for name in DEVICES for _ in range(10)]
    with ThreadPoolExecutor(12) as threads:
        calls = threads.map(lambda name: call(f"hipercam.{name}.rpc.describe"), names)
        assert [described["device"] for described in calls] == names


async def test_named_and_positional_arguments_arrive_as_they_were_sent(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(net.address, key=net.autoguider()) as session, client(net.address) as other:

        def echo(*args: Any, **kwargs: Any) -> list[Any]:
            return [list(args), kwargs]

        await session.register(echo, "hipercam.autoguider.rpc.echo")
        sent = [1, -0.05, "µm", True, None, [1, [2]], {"a": {"b": 3}}]
        answer = await asyncio.to_thread(call, "hipercam.autoguider.rpc.echo", *sent, raoff=0.05)
        assert answer == [sent, {"raoff": 0.05}]
        heard = await Follower.of(other, "hipercam.autoguider.telemetry")
        monkeypatch.setenv("HCAM_KEY", str(net.key_file("autoguider")))
        await asyncio.to_thread(publish, "hipercam.autoguider.telemetry", {"µ": 1})
        assert await heard.until(bool) == {"µ": 1}
