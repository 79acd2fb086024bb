"""A link that asks a web server: one GET, one connection, one deadline for all of it."""

import asyncio
from dataclasses import dataclass, field
from http.client import responses
from typing import Any
from urllib.parse import quote, unquote

import h11

from ..errors import ProtocolError
from ..host.addresses import addresses_of, first_reached
from ..host.http import Answer, Exchange
from .link import MAX_SKIPPED, MAX_UNREAD, Lasting, Port, Seconds, quoted

__all__ = ["Answer", "Get", "Web", "path_of", "quoted_segment", "response"]


def quoted_segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def path_of(target: str) -> str:
    """Return the path of a request's target, without its query, and no longer quoted."""
    return unquote(target.partition("?")[0])


def response(status: int, body: str) -> bytes:
    """Return a whole answer in JSON of a server that closes the connection after it."""
    return (
        f"HTTP/1.1 {status} {responses.get(status, '')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


@dataclass(frozen=True)
class Get:
    """A request: the path (with its query), and headers beyond the usual ones."""

    target: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Web(Lasting):
    """HTTP at ``host`` and ``port``; the answer is there within ``timeout`` seconds.

    The look-up of the host may take as long again. Each request has a connection of its own: at one
    in ten seconds, a kept connection would be closed by most servers in between. Redirections are
    not followed.
    """

    host: str = "127.0.0.1"
    """The name or address of the server."""
    port: Port = 80
    """Its TCP port."""
    timeout: Seconds = 5.0
    """The deadline (s) of an answer."""

    async def ask(self, codec: Any, ref: Any, value: None = None) -> Any:
        """Return what the codec makes of the ``Answer`` to its request, a ``Get``.

        Raises what the codec raises; OSError or TimeoutError without an answer; ProtocolError if
        it is not HTTP, or more than 64 KiB.
        """
        request: Get = codec.request(ref, value)
        addresses = await addresses_of(self.host, self.timeout)
        heard = bytearray()
        try:
            async with asyncio.timeout(self.timeout):
                return codec.reply(request, await self._get(request, addresses, heard))
        except TimeoutError:
            late = f"{self} did not answer within {self.timeout:g} s{quoted(heard)}"
            raise TimeoutError(late) from None
        except ConnectionRefusedError:
            raise ConnectionRefusedError(f"{self} refused the connection") from None
        except ConnectionError:
            raise ConnectionResetError(f"{self} closed the connection{quoted(heard)}") from None
        except OSError as error:
            raise ConnectionError(f"{self} cannot be reached: {error}") from None
        except ProtocolError as error:
            raise ProtocolError(f"{self}: {error}") from None

    async def _get(self, request: Get, addresses: list[str], heard: bytearray) -> Answer:
        headers = {"Host": str(self), "Connection": "close"} | request.headers
        exchange = Exchange(
            h11.Connection(h11.CLIENT), "GET", request.target, headers, max_bytes=MAX_UNREAD
        )
        reader, writer = await first_reached(
            addresses, lambda address: asyncio.open_connection(address, self.port)
        )
        try:
            writer.write(exchange.sent)
            self._show(">", exchange.sent, f"GET {request.target}")
            answer = None
            while answer is None:
                data = await reader.read(4096)
                heard += data[: MAX_SKIPPED - len(heard)]
                self._show("<", data, "")
                try:
                    answer = exchange.receive(data)
                except ProtocolError as error:
                    raise ProtocolError(f"this is not HTTP: {error}{quoted(heard)}") from None
            if not answer.whole:
                raise ProtocolError("it answers without end")
            return answer
        finally:
            writer.transport.abort()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
