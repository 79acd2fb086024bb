"""A loop in a thread of its own, for programs that do not use asyncio."""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import finalize

from ..errors import InvalidArgumentError, RouterError
from . import uris
from .stream import Sample, Stream
from .uris import Address

if TYPE_CHECKING:
    from ..journal.ranges import SampleRange

log = logging.getLogger(__name__)

T = TypeVar("T")


class Background:
    """A loop that runs until ``close``, or until the program ends."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        started = threading.Event()
        live = self._live(started)
        self._thread = threading.Thread(target=asyncio.run, args=[live], name="hcam", daemon=True)
        self._thread.start()
        started.wait()

    async def _live(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await self._stop.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result; Ctrl-C cancels it.

        Raises RouterError if the loop was closed, or belongs to the parent of this process, which
        shares its files.
        """
        try:
            self.require_own_process()
            with self._closing:  # work that came after the end of the loop would never end
                if self._closed:
                    raise RouterError("the connection was closed: connect() again")
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RouterError:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def require_own_process(self) -> None:
        """Raise RouterError in a process that was forked from the one that made the loop."""
        if os.getpid() != self._pid:
            raise RouterError(
                "the connection was made by another process, which this one was forked from: "
                "connect() here again"
            )

    def close(self) -> None:
        """End the loop and its thread."""
        if os.getpid() != self._pid:
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def _end(
    run: Callable[[Coroutine[Any, Any, Any]], Any], stream: Stream, closed: Callable[[], object]
) -> None:
    async def close() -> None:
        stream.close()

    with suppress(RouterError, CancelledError):  # its client is closed, or is being closed
        run(close())
        closed()


def _end_later(*what: Any) -> None:
    """End a dropped subscription in another thread.

    The garbage collector may have dropped it in the thread of the loop, which must not wait.
    """
    with suppress(RuntimeError):  # the program ends
        threading.Thread(target=_end, args=what, daemon=True).start()


class Subscription(Generic[T]):
    """An iterator over what ``convert`` makes of each sample of a stream.

    It ends when it is closed or dropped, when its client is closed, and after Ctrl-C. ``lost``
    lists samples that were missed and are in no journal any more.
    """

    def __init__(
        self,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        stream: Stream,
        convert: Callable[[Sample], Iterable[T]],
        until: float | None,
        closed: Callable[[], object] = lambda: None,
    ) -> None:
        self._run, self._stream, self._convert, self._until = run, stream, convert, until
        self._end = finalize(self, _end_later, run, stream, closed)
        self._end.atexit = False
        self._ready: deque[T] = deque()

    @property
    def lost(self) -> "list[SampleRange]":
        """Ranges of samples that were missed and are in no journal any more."""
        return self._stream.lost

    def __iter__(self) -> "Subscription[T]":
        return self

    def __next__(self) -> T:
        while not self._ready:
            try:
                samples = [] if self._stream.closed else self._run(self._stream.take(self._until))
            except (RouterError, CancelledError):
                if not self._stream.closed:  # otherwise it was closed in another thread
                    raise
                samples = []
            except BaseException:
                self.close()
                raise
            if not samples:
                self.close()
                raise StopIteration
            for sample in samples:
                self._ready.extend(self._convert(sample))
        return self._ready.popleft()

    def close(self) -> None:
        """End it, from any thread."""
        self._ready.clear()
        if ending := self._end.detach():
            _, _, what, _ = ending
            _end(*what)

    def __enter__(self) -> "Subscription[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, callback: Callable[[T], Any]) -> None:
        """Call a function with each item, in a thread of its own; log its exceptions."""

        def run() -> None:
            for item in self:
                try:
                    callback(item)
                except Exception:  # the next item may be fine
                    log.exception("a callback of a subscription failed")

        threading.Thread(target=run, name="hcam subscription", daemon=True).start()


def samples(where: Address, topic: str, seconds: float | None) -> Subscription[Sample]:
    """Return the samples of a topic of telemetry, over a connection of their own.

    Raises as ``utils.subscribe``.
    """
    from .telemetry import Telemetry  # noqa: PLC0415  (0.1 s, which an import of the client avoids)

    prefix, _, rest = topic.partition(".")
    name, _, last = rest.rpartition(".")
    telemetry, background = Telemetry(where), Background()

    async def open_stream() -> tuple[Stream, float | None]:
        await telemetry.open()
        wanted = {
            device["name"]
            for device in telemetry.devices.values()
            if any(fnmatchcase(each, name) for each in (device["name"], *device["aliases"]))
        }
        if not wanted or (prefix, last) != (uris.PREFIX, "telemetry"):
            await telemetry.close()
            raise InvalidArgumentError(
                f"{topic!r} is not the telemetry of a device, such as hipercam.slide.telemetry; "
                f"the devices are {', '.join(telemetry.devices)}"
            )
        until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        return telemetry.stream(wanted.__contains__), until

    def close() -> None:
        background.run(telemetry.close())
        background.close()

    try:
        stream, until = background.run(open_stream())
    except BaseException:
        background.close()
        raise
    return Subscription(background.run, stream, lambda sample: [sample], until, close)
