"""Links from devices to their hardware: one request at a time, each with a deadline.

A request fails in one of three ways. The link is lost (``LINK_LOST``: OSError, timeout,
ProtocolError): the exchange was interrupted or made no sense. The link is then closed, because a
late reply would be taken for the answer to the next request; the error quotes the bytes that came
instead. The hardware refused (RefusedError): the link stays open. The value cannot be sent
(ValueError): nothing was sent.
"""

import asyncio
import importlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeAlias, TypeVar

from pydantic import Field

from ..errors import ProtocolError, RefusedError
from ..host.addresses import addresses_of, first_reached
from ..host.deadline import Deadline, patience

Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=86400, json_schema_extra={"unit": "s"})]

MAX_UNREAD = 65536
"""Keep at most this many bytes that were not read yet; the oldest are dropped."""
MAX_SKIPPED = 200
"""Keep at most this many bytes that were not an answer."""
MAX_QUOTE = 100
"""Quote at most this many characters of them in an error."""
IT_SAID = "; it said "
"""The beginning of the quotation in an error."""
UNASKED = object()
"""Stands for the answer in a frame that does not answer the request."""
Trace: TypeAlias = Callable[[str, bytes, str], None]
T = TypeVar("T")


class Codec(Protocol):
    """The protocol of some hardware, without I/O."""

    def request(self, ref: Any, value: Any = None) -> bytes:
        """Return the bytes that read ``ref``, or write ``value`` to it."""

    def cut(self, buffer: bytearray) -> bytes | None:
        """Remove and return the first whole frame of the buffer, or None until there is one."""

    def reply(self, request: bytes, frame: bytes) -> Any:
        """Return the answer; None if the frame does not answer this request.

        Raises RefusedError if the hardware refused, ProtocolError if the frame makes no sense.
        """


def quoted(said: bytes | bytearray) -> str:
    """Return a clause for an error message: what the peer said instead of an answer.

    Text is quoted as text, anything else in hexadecimal, both shortened and without control
    characters. The clause is empty if the peer said nothing.
    """
    words = said.decode("latin-1").split()
    text = " ".join(words)
    if not text:
        return ""
    if sum(letter.isascii() and letter.isprintable() for letter in text) < 0.75 * len(text):
        text = said.hex(" ")
    shortened = text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 3] + "..."
    return f"{IT_SAID}{shortened!r}"


class Until:
    """A ``cut`` for frames that end with given bytes, or with a match of a regular expression.

    The end is removed, and leading white space. A frame begins with the last of the bytes in
    ``start`` before its end, if there are any.
    """

    def __init__(self, end: bytes | re.Pattern[bytes], start: bytes = b"") -> None:
        self._end = re.compile(re.escape(end)) if isinstance(end, bytes) else end
        self._start = start

    def __call__(self, buffer: bytearray) -> bytes | None:
        """Remove and return one frame; None if there is none."""
        end = self._end.search(buffer)
        if end is None:
            return None
        frame = bytes(buffer[: end.start()])
        del buffer[: end.end()]
        return frame[max([0, *map(frame.rfind, self._start)]) :].lstrip()


class Exactly:
    """A ``cut`` for frames of a number of bytes, which is fixed or stands in their beginning.

    ``size_of`` returns it from the first ``size`` bytes.
    """

    def __init__(self, size: int, size_of: Callable[[bytearray], int] | None = None) -> None:
        self.size, self._size_of = size, size_of or (lambda _: size)

    def __call__(self, buffer: bytearray) -> bytes | None:
        """Cut one frame."""
        if len(buffer) < self.size or len(buffer) < (size := self._size_of(buffer)):
            return None
        frame = bytes(buffer[:size])
        del buffer[:size]
        return frame


class _Stream(asyncio.Protocol):
    """The unread bytes of one connection, and ``lost``, which raises the reason for its end.

    ``skipped`` has the last bytes that were read since the last answer and were not an answer.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.unread, self.skipped = bytearray(), b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # asyncio would log an error that nobody retrieves
        self.lost.add_done_callback(lambda lost: lost.exception())
        self._arrival: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (for the type checker)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        if len(self.unread) > MAX_UNREAD:
            del self.unread[:-MAX_UNREAD]
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            closed = error is None or isinstance(error, ConnectionError)
            what = f"{self.peer} closed the connection" if closed else f"{self.peer}: {error}"
            self.lost.set_exception(ConnectionResetError(what + self.quote()))
        self.wake()

    def clear(self) -> None:
        """Skip all unread bytes."""
        self.skip(bytes(self.unread))
        self.unread.clear()

    def skip(self, data: bytes) -> None:
        """Keep bytes that were not an answer, to be quoted in an error."""
        self.skipped = (self.skipped + data)[-MAX_SKIPPED:]

    def quote(self) -> str:
        """Return what was skipped and what is unread, as ``quoted`` does."""
        return quoted(self.skipped + bytes(self.unread[:MAX_SKIPPED]))

    def end(self, reason: BaseException) -> None:
        """Drop the connection; waiting callers get the reason as a ConnectionAbortedError."""
        if not self.lost.done():
            self.lost.set_exception(ConnectionAbortedError(str(reason)))
        self.transport.abort()

    def wake(self) -> None:
        """End the wait for more bytes."""
        if self._arrival and not self._arrival.done():
            self._arrival.set_result(None)

    async def more(self, deadline: Deadline | None = None) -> None:
        """Wait for bytes. Raises the reason if the connection ends; TimeoutError if too late."""
        if self.lost.done():
            self.lost.result()
        if deadline and deadline.expired:
            raise TimeoutError
        self._arrival = asyncio.get_running_loop().create_future()
        await self._arrival
        if self.lost.done():
            self.lost.result()


@dataclass(kw_only=True)
class _Traced:
    """A link that calls ``trace`` with its traffic: direction (``>`` or ``<``), bytes, meaning."""

    trace: Trace | None = field(default=None, init=False, repr=False)

    def _show(self, direction: str, data: bytes, meaning: object) -> None:
        if self.trace:
            self.trace(direction, data, str(meaning))

    async def ask(self, codec: Any, ref: Any, value: Any = None) -> Any:
        """Return the answer to one request."""
        raise NotImplementedError

    async def ask_all(self, codec: Any, refs: Iterable[Any]) -> list[Any]:
        """Return the answers to several requests; a RefusedError stands in place of an answer.

        Raises as ``ask`` if the link is lost.
        """
        answers = []
        for ref in refs:
            try:
                answers.append(await self.ask(codec, ref))
            except RefusedError as error:
                answers.append(error)
        return answers


@dataclass(kw_only=True)
class _Wire(_Traced):
    """A stream of bytes in both directions; every exchange ends within ``timeout`` seconds."""

    timeout: Seconds = 1.0
    """The deadline (s) of an answer."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)
    _stream: _Stream | None = field(default=None, init=False, repr=False)
    _why: str = field(default="", init=False, repr=False)

    async def open(self) -> None:
        """Connect; raises OSError or TimeoutError."""
        try:
            async with patience(self.timeout):
                self._stream = await self._connect()
        except TimeoutError:
            raise TimeoutError(f"no connection to {self} within {self.timeout:g} s") from None

    async def _connect(self) -> _Stream:
        raise NotImplementedError

    def _new_stream(self) -> _Stream:
        return _Stream(str(self))

    def close(self, reason: BaseException | None = None) -> None:
        """Drop the connection and all unread bytes."""
        if self._stream:
            reason = reason or ConnectionAbortedError("closed from here")
            self._why = str(reason) or type(reason).__name__
            self._stream.end(reason)
            self._stream = None

    async def ask(self, codec: Codec, ref: Any, value: Any = None) -> Any:
        """Return the answer to one request.

        Raises what the codec raises, or OSError or TimeoutError; the link is then closed, except
        after a RefusedError or ValueError.
        """
        async with self._turn:
            request = codec.request(ref, value)  # in its turn: codecs may remember a request
            stream = self._require()
            stream.clear()  # late, doubled or unsolicited bytes
            deadline = Deadline(self.timeout, stream.wake)
            try:
                stream.transport.write(request)
                self._show(">", request, ref if value is None else f"{ref} = {value}")
                while True:
                    while (answer := self._answer(codec, request, stream)) is not None:
                        if answer is not UNASKED:
                            stream.skipped = b""
                            return answer
                    await stream.more(deadline)
            except RefusedError:
                stream.skipped = b""
                raise
            except TimeoutError:
                late = TimeoutError(
                    f"{self} did not answer within {self.timeout:g} s{stream.quote()}"
                )
                self._show("<", bytes(stream.unread), late)
                self.close(late)
                raise late from None
            except ProtocolError as error:
                nonsense = ProtocolError(f"{self}: {error}{stream.quote()}")
                self.close(nonsense)
                raise nonsense from None
            except BaseException as error:
                self.close(error)
                raise
            finally:
                deadline.cancel()

    def _answer(self, codec: Codec, request: bytes, stream: _Stream) -> Any:
        """Return the answer in the next frame; UNASKED if it has none, None without a frame."""
        before = bytes(stream.unread)
        if (frame := codec.cut(stream.unread)) is None:
            return None
        data = before[: len(before) - len(stream.unread)]
        stream.skip(data)
        try:
            answer = codec.reply(request, frame)
        except (ProtocolError, RefusedError) as error:
            self._show("<", data, error)
            raise
        self._show("<", data, "unasked" if answer is None else answer)
        return UNASKED if answer is None else answer

    async def exchange(self, data: bytes, seconds: float) -> bytes:
        """Send raw bytes and return all bytes that arrive within ``seconds``.

        Raises OSError, or TimeoutError if there are none; the link is then closed, as by ``ask``.
        The late end of an incomplete reply is not whole, so the next request does not take it.
        """
        async with self._turn:
            stream = self._require()
            stream.clear()
            try:
                stream.transport.write(data)
                self._show(">", data, "raw")
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        while True:
                            await stream.more()
                if not stream.unread:
                    raise TimeoutError(f"{self} did not answer within {seconds:g} s")
            except BaseException as error:
                self.close(error)
                raise
            self._show("<", said := bytes(stream.unread), "raw")
            stream.unread.clear()
            return said

    async def tell(self, codec: Codec, ref: Any, value: Any = None) -> None:
        """Send a request to which there is no answer."""
        async with self._turn:
            request = codec.request(ref, value)
            self._require().transport.write(request)
            self._show(">", request, ref if value is None else f"{ref} = {value}")

    async def drain(self, quiet: float) -> None:
        """Discard bytes, such as a greeting, until none has arrived for ``quiet`` seconds.

        Raises ProtocolError if that has not happened within ``timeout`` + ``quiet`` seconds.
        """
        async with self._turn:
            stream, clock = self._require(), asyncio.get_running_loop().time
            end = clock() + self.timeout
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(quiet):
                        await stream.more()
                    if clock() > end:
                        raise ProtocolError(f"{self} will not stop talking{stream.quote()}")
            stream.clear()

    async def idle(self, seconds: float, wake: asyncio.Future[None] | None = None) -> None:
        """Wait ``seconds``, or until ``wake`` is done. Raises the reason if the link is lost."""
        stream, loop = self._require(), asyncio.get_running_loop()
        over = wake or loop.create_future()

        def end(*_: object) -> None:
            if not over.done():
                over.set_result(None)

        timer = loop.call_later(seconds, end)
        stream.lost.add_done_callback(end)
        try:
            await over  # half the cost of asyncio.wait, for each poll of each device
        finally:
            timer.cancel()
            stream.lost.remove_done_callback(end)
        if stream.lost.done():
            stream.lost.result()

    def _require(self) -> _Stream:
        if self._stream is None:
            raise ConnectionError(self._why or f"not connected to {self}")
        return self._stream


@dataclass(kw_only=True)
class Tcp(_Wire):
    """A TCP connection to ``host`` and ``port``."""

    host: str = "127.0.0.1"
    """The name or address of the hardware, or of what leads to it."""
    port: Port
    """Its TCP port."""
    _addresses: list[str] = field(default_factory=list, init=False, repr=False)

    async def open(self) -> None:
        """Look the host up, and connect, each within ``timeout`` seconds; raises OSError."""
        self._addresses = await addresses_of(self.host, self.timeout)
        await super().open()

    async def _connect(self) -> _Stream:
        loop = asyncio.get_running_loop()

        async def attempt(address: str) -> _Stream:
            return (await loop.create_connection(self._new_stream, address, self.port))[1]

        try:
            return await first_reached(self._addresses, attempt)
        except ConnectionRefusedError:
            raise ConnectionRefusedError(f"{self} refused the connection") from None
        except OSError as error:
            raise ConnectionError(f"{self} cannot be reached: {error}") from None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(kw_only=True)
class Serial(_Wire):
    """A serial port: the device ``path``, with 8 data bits, no parity and one stop bit.

    With ``rtscts`` each side waits until the other is ready (hardware handshake). The port is
    locked, so that no other program that locks it reads half of the answers.
    """

    path: str
    """The file of the serial port, such as /dev/ttyUSB0."""
    baudrate: Annotated[int, Field(gt=0)] = 9600
    """The speed of the port, bit/s."""
    rtscts: bool = False
    """Whether each side waits until the other is ready (hardware handshake)."""
    _closing: Any = field(default=None, init=False, repr=False)

    async def _connect(self) -> _Stream:
        # The import costs 35 to 80 ms, and most servers have no serial port.
        serialx = await asyncio.to_thread(importlib.import_module, "serialx")
        if self._closing:
            # Closing takes a while, and the port is locked until then. Shielded, because a
            # cancelled wait would count as closed.
            await asyncio.shield(self._closing.wait_closed())
        try:
            transport, stream = await serialx.create_serial_connection(
                asyncio.get_running_loop(),
                self._new_stream,
                self.path,
                self.baudrate,
                rtscts=self.rtscts,
                transport_cls=serialx.SerialTransport,
            )
        except (OSError, serialx.SerialException) as error:
            why = getattr(error, "strerror", None) or error
            raise ConnectionError(f"{self} cannot be opened: {why}") from None
        self._closing = transport
        with suppress(OSError):
            transport.serial.reset_read_buffer()  # replies to another program
        return stream  # type: ignore[no-any-return]

    def close(self, reason: BaseException | None = None) -> None:
        """Drop the connection and all unread or unsent bytes."""
        if self._stream and not self._stream.transport.is_closing():
            # The system would keep the port open until the hardware has taken all unsent bytes.
            with suppress(OSError):
                self._stream.transport.get_extra_info("serial").reset_write_buffer()
        super().close(reason)

    def __str__(self) -> str:
        return self.path


@dataclass(kw_only=True)
class Lasting(_Traced):
    """A link that lasts until it is closed: to this machine itself, or to be extended."""

    _lost: asyncio.Future[None] | None = field(default=None, init=False, repr=False)

    async def open(self) -> None:
        """Make ``idle`` wait; nothing is opened."""
        self._lost = asyncio.get_running_loop().create_future()

    def close(self, reason: BaseException | None = None) -> None:
        """Let ``idle`` raise the reason."""
        if self._lost and not self._lost.done():
            self._lost.set_exception(reason or ConnectionAbortedError("closed from here"))
            self._lost.exception()

    async def idle(self, seconds: float, wake: asyncio.Future[None]) -> None:
        """Wait ``seconds``, or until ``wake`` is done. Raises the reason if the link is closed."""
        assert self._lost  # noqa: S101  (open comes first)
        await asyncio.wait([self._lost, wake], timeout=seconds, return_when="FIRST_COMPLETED")
        if self._lost.done():
            self._lost.result()
