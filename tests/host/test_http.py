"""A blocking connection: one deadline for the whole answer, and nothing left over for the next."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from hcam_devices.errors import ProtocolError
from hcam_devices.host import http

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@contextmanager
def served(serve: Callable[[socket.socket], object]) -> Iterator[http.Connection]:
    """Yield a connection to a server that does ``serve`` with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with listener.accept()[0] as peer:
                serve(peer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        with closing(http.Connection(*listener.getsockname())) as connection:
            connection.open(timeout=10)
            yield connection
        thread.join()


def post(connection: http.Connection, timeout: float = 10.0, most: int = 100) -> http.Answer:
    return connection.post("/call", {}, b"{}", timeout=timeout, max_bytes=most)


def test_a_connection_is_kept_for_the_next_request() -> None:
    def serve(peer: socket.socket) -> None:
        for _ in range(2):
            peer.recv(4096)
            peer.sendall(OK)

    with served(serve) as connection:
        for _ in range(2):
            answer = post(connection)
            assert (answer.status, answer.body, answer.ok) == (200, b"hello", True)
            assert connection.is_open


def test_pieces_that_come_in_time_do_not_prolong_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("hcam_devices.host.http.time.monotonic", lambda: now[0])

    def receive(self: http.Exchange, arrived: bytes) -> None:
        now[0] += 11.0

    monkeypatch.setattr(http.Exchange, "receive", receive)

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"H")
        peer.recv(4096)

    with served(serve) as connection:
        with pytest.raises(TimeoutError):
            post(connection)
        assert not connection.is_open


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (b"", ConnectionResetError, "^the server closed the connection$"),
        (OK[:-1], ProtocolError, "^the answer is cut short; it began with"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolError, "it began with b'SSH-2.0"),
    ],
)
def test_what_is_no_answer_closes_the_connection(
    said: bytes, error: type[Exception], why: str
) -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(said)

    with served(serve) as connection:
        with pytest.raises(error, match=why):
            post(connection)
        assert not connection.is_open


def test_of_an_answer_that_is_too_long_there_is_the_beginning() -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(OK)
        peer.recv(4096)

    with served(serve) as connection:
        answer = post(connection, most=4)
        assert (answer.body, answer.whole, connection.is_open) == (b"hell", False, False)


def test_a_request_that_cannot_be_sent_is_the_caller_s_mistake() -> None:
    with served(lambda peer: peer.recv(4096)) as connection:
        with pytest.raises(ValueError, match="POST /a b cannot be sent"):
            connection.post("/a b", {}, b"", timeout=10)
        assert not connection.is_open
