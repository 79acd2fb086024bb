"""A link to programs: each question runs one, and what it prints is the answer."""

import asyncio
import os
import shlex
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from ..errors import ProtocolError, RefusedError
from ..host import threads
from .link import MAX_UNREAD, Lasting, Seconds, quoted

T = TypeVar("T")


class Output(bytes):
    """The standard output of a program, with its standard error and exit status."""

    errors: bytes = b""
    status: int = 0

    @classmethod
    def of(cls, said: bytes, errors: bytes, status: int) -> "Output":
        """Return the output, error output and status of a program as one object."""
        output = cls(said)
        output.errors, output.status = errors, status
        return output


class _Run:
    """One run of a program; ``over`` is done when the program and its output have ended.

    Everything is done in callbacks of the event loop: no task, and no thread that waits.
    """

    def __init__(self, path: str, arguments: list[str], within: float) -> None:
        """Start the program. Raises OSError if it cannot be run, ValueError for bad arguments."""
        self.loop = asyncio.get_running_loop()
        self.over: asyncio.Future[Output] = self.loop.create_future()
        self.ended: asyncio.Future[int] = self.loop.create_future()
        self._said: dict[int, bytearray] = {}
        self._open: set[int] = set()
        ends = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
        try:
            self.pid = os.posix_spawnp(
                path,
                [path, *arguments],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    *((os.POSIX_SPAWN_DUP2, end, n) for n, (_, end) in enumerate(ends, 1)),
                ],
                setsid=True,
                # Python ignores these signals; a child would inherit that
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
            self._ended_fd = os.pidfd_open(self.pid)
        except BaseException:
            for reader, _ in ends:
                os.close(reader)
            raise
        finally:
            for _, writer in ends:
                os.close(writer)
        self.loop.add_reader(self._ended_fd, self._end)
        for reader, _ in ends:
            os.set_blocking(reader, False)
            self._said[reader] = bytearray()
            self._open.add(reader)
            self.loop.add_reader(reader, self._read, reader)
        self._timer = self.loop.call_later(within, self._give_up)
        self.over.add_done_callback(lambda _: self._timer.cancel())

    def _give_up(self) -> None:
        self.kill(TimeoutError(quoted(b" ".join(self._said.values()))))

    def _read(self, pipe: int) -> None:
        data = os.read(pipe, 65536)
        said = self._said[pipe]
        said += data
        if not data:
            self._close(pipe)
            self._finish()
        elif len(said) > MAX_UNREAD:  # the program then blocks until its timeout
            self.loop.remove_reader(pipe)

    def _end(self) -> None:
        self.loop.remove_reader(self._ended_fd)
        os.close(self._ended_fd)
        self.ended.set_result(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        self._finish()

    def _finish(self) -> None:
        if self.ended.done() and not self._open and not self.over.done():
            said, errors = map(bytes, self._said.values())
            self.over.set_result(Output.of(said, errors, self.ended.result()))

    def _close(self, pipe: int) -> None:
        self.loop.remove_reader(pipe)
        os.close(pipe)
        self._open.discard(pipe)

    def kill(self, reason: Exception | None = None) -> None:
        """Kill the program and its children; ``over`` raises the reason."""
        if self._open or not self.ended.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for pipe in list(self._open):
            self._close(pipe)
        if reason and not self.over.done():
            self.over.set_exception(reason)
        self.over.cancel()


@dataclass(kw_only=True)
class Programs(Lasting):
    """Programs in ``folder`` (if empty, on the PATH); each run ends within ``timeout`` seconds.

    At most ``most`` runs of one program answer questions at once. Commands run one at a time, but
    beside questions. So a program that hangs holds up nothing else. There is no shell, and standard
    input is empty.
    """

    folder: str = ""
    """The folder of the programs; if empty, they are found on the PATH."""
    timeout: Seconds = 2.0
    """The time (s) within which each run ends."""
    most: ClassVar[int] = 4
    _asking: dict[str, asyncio.Semaphore] = field(default_factory=dict, init=False, repr=False)
    _commanding: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)
    _beside: set[_Run] = field(default_factory=set, init=False, repr=False)

    async def ask(
        self, codec: Any, ref: Any, value: Any = None, *, within: float | None = None
    ) -> Any:
        """Run the program that the codec's request names, as on a command line; return its answer.

        It has to end ``within`` seconds, by default ``timeout``, once it has begun.

        Raises what the codec raises; OSError if the program cannot be run; TimeoutError if it does
        not end in time (it is then killed); ProtocolError if it was killed by somebody else.
        """
        request = codec.request(ref, value)
        name = request.partition(b" ")[0].decode()
        async with self._asking.setdefault(name, asyncio.Semaphore(self.most)):
            return await self._answer(codec, request, within or self.timeout)

    async def ask_all(self, codec: Any, refs: Iterable[Any]) -> list[Any]:
        """Ask several questions at once; a RefusedError stands in place of an answer.

        Raises as ``ask``, when all have ended.
        """
        answers = await asyncio.gather(
            *(self.ask(codec, ref) for ref in refs), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, RefusedError):
                raise answer
        return answers

    async def command(self, codec: Any, ref: Any, within: float) -> Any:
        """Run a command after all earlier ones, ``within`` seconds. Raises as ``ask``."""
        async with self._commanding:
            return await self._answer(codec, codec.request(ref), within)

    def ask_beside(self, codec: Any, ref: Any, within: float, then: Callable[[Any], None]) -> None:
        """Ask without waiting: ``then`` is called with the answer, or with the exception.

        It is not called if the link is closed first. Raises OSError if the program cannot be run.
        """
        request = codec.request(ref)
        run = self._start(request, within)

        def over(done: asyncio.Future[Output]) -> None:
            self._beside.discard(run)
            if done.cancelled():
                return
            try:
                answer = self._understood(codec, request, done, within)
            except Exception as error:  # noqa: BLE001  (``then`` gets any error)
                answer = error
            then(answer)

        self._beside.add(run)
        run.over.add_done_callback(over)

    async def pause(self, seconds: float) -> None:
        """Wait for the hardware to come to rest."""
        await asyncio.sleep(seconds)

    @staticmethod
    def variable(name: str, default: str) -> str:
        """Return an environment variable, which programs started by this link see, too."""
        return os.environ.get(name, default)

    async def in_thread(self, place: str, work: Callable[..., T], *args: Any, within: float) -> T:
        """Do some work that blocks, at a place that may hang; raises as ``threads.ask``."""
        return await threads.ask(place, work, *args, within=within)

    def close(self, reason: BaseException | None = None) -> None:
        """Kill the programs of ``ask_beside``; ``idle`` raises the reason."""
        for run in list(self._beside):
            run.kill()
        super().close(reason)

    def _start(self, request: bytes, within: float) -> _Run:
        name, *arguments = shlex.split(request.decode())
        path = os.path.join(os.path.expanduser(self.folder), name)
        try:
            return _Run(path, arguments, within)
        except OSError as error:
            raise type(error)(f"{path} cannot be run: {error.strerror}") from None

    async def _answer(self, codec: Any, request: bytes, within: float) -> Any:
        run = self._start(request, within)
        try:
            await asyncio.wait([run.over])
        except BaseException:
            run.kill()
            await asyncio.shield(run.ended)
            raise
        return self._understood(codec, request, run.over, within)

    def _understood(
        self, codec: Any, request: bytes, over: asyncio.Future[Output], within: float
    ) -> Any:
        name = shlex.split(request.decode())[0]
        try:
            output = over.result()
        except TimeoutError as late:
            self._show(">", request + b"\n", "it did not end")
            raise TimeoutError(f"{name} did not end within {within:g} s{late}") from None
        self._show(">", request + b"\n", "")  # several run at once: keep them together
        said = bytes(output) + output.errors
        self._show("<", said + b"\x04%d\n" % output.status, f"exit status {output.status}")
        if output.status < 0:
            raise ProtocolError(f"{name} was killed by signal {-output.status}")
        try:
            return codec.reply(request, output)
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from None

    def __str__(self) -> str:
        return self.folder or "PATH"
