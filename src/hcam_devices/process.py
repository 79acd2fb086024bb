"""A link to programs: each question runs one, and what it prints is the answer."""

import asyncio
import os
import shlex
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .link import MOST_UNREAD, Codec, Local, ProtocolError, RefusedError, Seconds


class _Run(asyncio.SubprocessProtocol):
    """One run of a program: what it has printed, whether it has ended, and its output too."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.said = bytearray()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.SubprocessTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101  (type checker)
        self.transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.said += data
        if len(self.said) > MOST_UNREAD:  # it then waits to be read until its time is over
            pipe = self.transport.get_pipe_transport(fd)
            assert isinstance(pipe, asyncio.ReadTransport)  # noqa: S101  (type checker)
            pipe.pause_reading()

    def process_exited(self) -> None:
        self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(None)

    async def kill(self) -> None:
        """End the program, and whatever it has started; wait until it has gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.transport.get_pid(), signal.SIGKILL)
        await asyncio.shield(self.ended)
        self.transport.close()


@dataclass(kw_only=True)
class Programs(Local):
    """Programs in ``folder`` (if empty, on the PATH); each run ends within ``timeout`` seconds.

    Runs do not wait for each other. There is no shell, and nothing to read on standard input;
    what goes to standard error is part of the answer; the exit status is not.
    """

    folder: str = ""
    timeout: Seconds = 2.0

    async def ask(self, codec: Codec, ref: Any, value: Any = None) -> Any:
        """Run the program that the codec's request names, as on a command line; return its answer.

        Raises what the codec raises; OSError if the program cannot be run; TimeoutError if it does
        not end in time (it is then killed); ProtocolError if it was killed by somebody else.
        """
        request = codec.request(ref, value)
        name, *arguments = shlex.split(request.decode())
        try:
            async with asyncio.timeout(self.timeout):
                said, status = await self._run(self._path(name), arguments)
        except TimeoutError:
            self._show(">", request + b"\n", "it did not end")
            raise TimeoutError(f"{name} did not end within {self.timeout:g} s") from None
        self._show(">", request + b"\n", ref)  # several run at once: keep them together
        self._show("<", said + b"\x04%d\n" % status, f"exit status {status}")
        if status < 0:
            raise ProtocolError(f"{name} was killed by signal {-status}")
        try:
            return codec.reply(request, said)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None

    async def ask_all(self, codec: Codec, refs: Iterable[Any]) -> list[Any]:
        """Ask several at once; a refusal stands in the list in place of an answer.

        Raises as ``ask``, when all have ended.
        """
        answers = await asyncio.gather(
            *(self.ask(codec, ref) for ref in refs), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, RefusedError):
                raise answer
        return answers

    def _path(self, name: str) -> str:
        return os.path.join(os.path.expanduser(self.folder), name)

    async def _run(self, path: str, arguments: list[str]) -> tuple[bytes, int]:
        starting = asyncio.create_task(self._start(path, arguments))
        try:
            run = await asyncio.shield(starting)  # asyncio would kill only the program itself
            await asyncio.shield(run.over)
        except BaseException:
            await (await starting).kill()
            raise
        run.transport.close()
        return bytes(run.said), run.transport.get_returncode() or 0

    async def _start(self, path: str, arguments: list[str]) -> _Run:
        try:
            _, run = await asyncio.get_running_loop().subprocess_exec(
                _Run,
                path,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise type(error)(f"{path} cannot be run: {error.strerror}") from None
        return run

    def __str__(self) -> str:
        return self.folder or "PATH"
