"""An HTTP server on loopback that gives the answers that a test lists."""

import gzip
import http
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias


@dataclass
class Request:
    """What came in."""

    target: str
    headers: dict[str, str]
    lines: list[bytes]
    """Of the body, unpacked."""


class Whole(bytes):
    """An answer after which the connection stays, unless it says otherwise."""


Answer: TypeAlias = int | bytes | Callable[[socket.socket, threading.Event], None]
"""A status, or what is sent before the connection is closed, or what is done with it."""


def hang(connection: socket.socket, over: threading.Event) -> None:
    """Say nothing until the other side is tired of waiting."""
    connection.recv(1)


def trickle(connection: socket.socket, over: threading.Event) -> None:
    """Send a byte of a long answer now and then."""
    connection.sendall(b"HTTP/1.1 204 No Content\r\nX-Slow: ")
    for _ in range(1000):
        connection.sendall(b"x")
        if over.wait(0.01):
            return
    connection.sendall(b"\r\n\r\n")


def reset(connection: socket.socket, over: threading.Event) -> None:
    """End the connection as a crash does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answer(status: int, body: bytes = b"", **headers: str) -> Whole:
    """Return an answer; a header's underscores are hyphens."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return Whole("\r\n".join([*lines, "", ""]).encode() + body)


class Scripted:
    """Answers 204, but for what the test has put into ``answers``, or what ``judge`` returns."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.judge: Callable[[Request], Answer] = lambda request: 204
        self.requests: list[Request] = []
        self.connections: list[socket.socket] = []
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._begin(self._accept)

    def _begin(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while start := stream.readline():
                headers = {}
                while (line := stream.readline().strip()) != b"":
                    name, _, value = line.decode().partition(": ")
                    headers[name] = value
                body = stream.read(int(headers["Content-Length"]))
                if headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = Request(start.decode().split()[1], headers, body.splitlines())
                self.requests.append(request)
                what = self.answers.pop(0) if self.answers else self.judge(request)
                said = answer(what) if isinstance(what, int) else what
                if isinstance(said, bytes):
                    connection.sendall(said)
                else:
                    said(connection, self.over)
                if not isinstance(said, Whole) or said.find(b"Connection: close") >= 0:
                    connection.shutdown(socket.SHUT_RDWR)
                    return

    @property
    def lines(self) -> list[bytes]:
        """Every line of every request, also of rejected ones."""
        return [line for request in self.requests for line in request.lines]

    def close(self) -> None:
        """End every connection, and wait for the threads."""
        self.over.set()
        for one in (self.listener, *self.connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self.threads:
            thread.join()


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Run one."""
    server = Scripted()
    try:
        yield server
    finally:
        server.close()
