"""Services that take messages on loopback: mail and a webhook, which may also refuse, or hang."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any


class Sink:
    """What a service has taken. ``answer``: ``take``, ``refuse`` or ``hang``."""

    def __init__(self) -> None:
        self.answer = "take"
        self.port = 0
        self.taken: list[str] = []
        self.asked = asyncio.Semaphore(0)

    async def is_asked(self) -> None:
        """Wait until somebody sends something more, whatever becomes of it."""
        async with asyncio.timeout(180):
            await self.asked.acquire()

    async def _taken(self, text: str) -> bool:
        self.asked.release()
        if self.answer == "hang":
            await asyncio.Event().wait()
        if self.answer == "refuse":
            return False
        self.taken.append(text)
        return True


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _served(sink: Sink, serve: Serve, port: int) -> AsyncIterator[Sink]:
    running: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        running.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def webhook(port: int = 0) -> AsyncIterator[Sink]:
    """Serve HTTP; what was taken are the bodies, of requests without one the targets."""
    sink = Sink()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
        size = int(lengths[0].partition(":")[2]) if lengths else 0
        body = (await reader.readexactly(size)).decode()
        status = "200 OK" if await sink._taken(body or head.split()[1]) else "500 No"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()

    async with _served(sink, serve, port):
        yield sink


@asynccontextmanager
async def mail(port: int = 0) -> AsyncIterator[Sink]:
    """Serve SMTP, as much of it as a client without TLS and password needs."""
    sink = Sink()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(text: str) -> None:
            writer.write(f"{text}\r\n".encode())
            await writer.drain()

        await say("220 sink")
        while line := (await reader.readline()).decode():
            match line[:4].upper():
                case "DATA":
                    await say("354 go on")
                    text = (await reader.readuntil(b"\r\n.\r\n"))[:-3].decode()
                    await say("250 taken" if await sink._taken(text) else "554 no")
                case "QUIT":
                    await say("221 bye")
                    return
                case _:
                    await say("250 yes")

    async with _served(sink, serve, port):
        yield sink


def body_of(taken: str) -> str:
    """Return the text of a message that apprise's ``json`` service has posted."""
    found = json.loads(taken)
    return f"{found['title']}\n{found['message']}"
