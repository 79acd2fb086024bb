"""An HTTP client, whose parser is h11.

One deadline covers a request and its whole answer. Nothing is sent twice, and redirections are not
followed. ``Exchange`` does no I/O: ``core/web.py`` runs it on asyncio streams, ``Connection`` on a
blocking socket. Both raise OSError (TimeoutError after the deadline), or ProtocolError if the
answer is not HTTP or is cut short.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import h11

from ..errors import ProtocolError

if TYPE_CHECKING:  # 9 ms, which hcam call does not need without TLS
    import ssl

CHUNK = 65536
MAX_QUOTE = 100
"""Bytes of an invalid answer that an error quotes."""


class Answer(NamedTuple):
    """The status, the body, and the headers (by lower-case name) of an answer.

    ``whole`` is false if the body was too long and only its beginning is here.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    whole: bool = True

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status == 200


class Exchange:
    """One request on a connection, whose bytes are ``sent``, and the parser of its answer.

    Raises ValueError if the request cannot be sent.
    """

    def __init__(
        self,
        http: h11.Connection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        max_bytes: int | None = None,
    ) -> None:
        self._http, self._max_bytes = http, max_bytes
        self._status, self._headers, self._body = 0, dict[str, str](), bytearray()
        try:
            events = (
                h11.Request(method=method, target=target, headers=list(headers.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            self.sent = b"".join(http.send(event) or b"" for event in events)
        except h11.LocalProtocolError as error:
            raise ValueError(f"{method} {target} cannot be sent: {error}") from None

    def receive(self, arrived: bytes) -> Answer | None:
        """Parse bytes (none: the connection has ended); return the answer when it is complete.

        Raises ProtocolError if the answer is not HTTP or is cut short, ConnectionResetError if the
        connection has ended before an answer.
        """
        try:
            self._http.receive_data(arrived)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.Response(status_code=status, headers=headers):
                        self._status = status
                        self._headers = {
                            name.decode("ascii"): value.decode("latin-1") for name, value in headers
                        }
                    case h11.Data(data=data):
                        self._body += data
                        if self._max_bytes is not None and len(self._body) > self._max_bytes:
                            return self._answer(whole=False)
                    case h11.EndOfMessage():
                        return self._answer(whole=True)
        except h11.RemoteProtocolError as error:
            if not arrived and self._status:
                raise ProtocolError("the answer is cut short") from None
            if not arrived:
                raise ConnectionResetError("the server closed the connection") from None
            # h11 appends the bytes, which the callers quote anyway
            raise ProtocolError(str(error).partition(": bytearray(")[0]) from None
        return None

    def _answer(self, *, whole: bool) -> Answer:
        return Answer(
            self._status, bytes(self._body[: self._max_bytes]), self._headers, whole=whole
        )


class Connection:
    """A blocking connection that is kept between requests; it is TLS if there is a ``context``."""

    def __init__(self, host: str, port: int, context: "ssl.SSLContext | None" = None) -> None:
        self.host, self.port, self._context = host, port, context
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._socket is not None

    def open(self, timeout: float) -> None:
        """Connect unless the connection is open. Raises OSError, or UnicodeError for a bad host."""
        if self._socket:
            return
        # Only names that are not ASCII need the tables of IDNA, which take 2 ms to import.
        host: Any = self.host.encode() if self.host.isascii() else self.host
        connected = socket.create_connection((host, self.port), timeout)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context:
                connected = self._context.wrap_socket(connected, server_hostname=self.host)
        except BaseException:
            connected.close()
            raise
        self._socket, self._http = connected, h11.Connection(h11.CLIENT)

    def ended(self) -> bool:
        """Return whether the server has closed the connection between requests."""
        if self._socket is None:
            return False
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except BlockingIOError:
            return False
        except OSError as error:
            return type(error).__name__ != "SSLWantReadError"  # ssl may not be imported
        return True  # the end, or bytes that nobody asked for

    def get(self, target: str, *, timeout: float) -> Answer:
        """Get a document as ``post`` sends one."""
        return self._ask("GET", target, {}, b"", timeout=timeout)

    def post(
        self,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,
        max_bytes: int | None = None,
    ) -> Answer:
        """Send a request on the open connection and return the answer, within ``timeout`` seconds.

        The connection is closed after an error, and after an answer that says so or is longer than
        ``max_bytes``.
        """
        return self._ask("POST", target, headers, body, timeout=timeout, max_bytes=max_bytes)

    def _ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout: float,
        max_bytes: int | None = None,
    ) -> Answer:
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = {
            "Host": f"{name}:{self.port}",
            "Accept-Encoding": "identity",
            "Content-Length": str(len(body)),
        }
        until = time.monotonic() + timeout
        try:
            exchange = Exchange(
                self._http, method, target, usual | dict(headers), body, max_bytes=max_bytes
            )
            answer = self._exchange(exchange, until)
        except BaseException:  # also Ctrl-C: a late answer would be taken for the next one
            self.close()
            raise
        if not answer.whole or (self._http.our_state, self._http.their_state) != (h11.DONE,) * 2:
            self.close()
        else:
            self._http.start_next_cycle()
        return answer

    def _exchange(self, exchange: Exchange, until: float) -> Answer:
        if self._socket is None:
            raise ConnectionError("the connection is not open")
        connected = self._socket
        connected.settimeout(_left(until))
        with suppress(BrokenPipeError):  # the server may have answered already, such as 413
            connected.sendall(exchange.sent)
        heard = bytearray()
        while True:
            connected.settimeout(_left(until))
            data = connected.recv(CHUNK)
            heard += data[: MAX_QUOTE - len(heard)]
            try:
                answer = exchange.receive(data)
            except (ProtocolError, ConnectionResetError) as error:
                quote = f"; it began with {bytes(heard)!r}" if heard else ""
                raise type(error)(f"{error}{quote}") from None
            if answer:
                return answer

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def __del__(self) -> None:
        self.close()


def _left(until: float) -> float:
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError("the answer is not complete")
    return left
