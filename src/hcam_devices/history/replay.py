"""Publishes a recorded night again, for tools and rehearsals.

The topics and times are the same, but in another realm, so that nobody takes the samples for
present ones, and nothing here reaches the instrument's realm.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import PublishOptions

from .. import HcamError
from ..journal.commands import is_commands
from ..journal.points import Point, night_bounds, night_named, night_of, timestamp_of, unflatten
from ..names import did_you_mean
from ..wamp import uris
from ..wamp.session import JOIN_WITHIN, join
from ..wamp.uris import Address
from ..wamp.utils import unreachable
from .archive import moment, text_from_ms
from .stores import AwayError

if TYPE_CHECKING:
    from .stores.nights import NightFiles

SHOW_PERIOD_S = 0.2
READ_AT_ONCE = 500
ACKNOWLEDGE_EVERY = 100
"""Wait for the router after this many samples, so that they do not pile up."""


async def recorded(
    history: "NightFiles", night: str, pattern: str = "*", begin: str = "12:00", end: str = ""
) -> AsyncIterator[Point]:
    """Yield the recorded samples of a night, in order of time.

    ``night`` may be tonight or yesterday. The default ``end`` is that of the night. Files are read
    in a thread. Raises HcamError if there are no samples or they cannot be read.
    """
    night = night_named(night, round(time.time() * 1000))
    try:
        first, last = night_bounds(night)
    except ValueError as error:
        raise HcamError(str(error)) from None
    night = night_of(first)  # in the usual form
    start, stop = moment(begin, last - 1), moment(end or "12:00", last - 1)
    stop = last if stop == first else stop
    if stop <= start:
        until = end or f"the end of night {night}"
        raise HcamError(
            f"{until} is not after {begin} in a night, which is from 12:00 to 12:00 UTC"
        )
    points = history.samples(night, start, stop)
    chosen = (
        point
        for point in points
        if fnmatchcase(point.device, pattern) and not is_commands(point.device)
    )
    nothing = True
    try:
        while some := await asyncio.to_thread(lambda: list(islice(chosen, READ_AT_ONCE))):
            nothing = False
            for point in some:
                yield point
        if nothing:
            raise HcamError(await asyncio.to_thread(_nothing, history, night, pattern))
    except AwayError as error:
        raise HcamError(str(error)) from None


def _nothing(history: "NightFiles", night: str, pattern: str) -> str:
    """Return why there are no samples of a night to replay."""
    if night not in (nights := history.nights()):
        there = ", ".join(nights) or "none"
        return f"{history.folder} has no samples of {night}; its nights are: {there}"
    devices = history.devices(night)
    if not any(fnmatchcase(device, pattern) for device in devices):
        meant = did_you_mean(pattern, devices)
        return f"no device of {night} matches {pattern!r}; there are: {', '.join(devices)}{meant}"
    return f"{history.folder} has samples of {pattern} in {night}, but none at that time"


async def paced(
    points: AsyncIterable[Point],
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Point]:
    """Yield points at the intervals of their times, divided by ``speed``.

    A late point is yielded at once, and does not delay later points.
    """
    begun = first = None
    async for point in points:
        if begun is None or first is None:
            begun, first = clock(), point.time
        wait = begun + (point.time - first) / 1000 / speed - clock()
        if wait > 0:
            await sleep(wait)
        yield point


async def replay(
    points: AsyncIterable[Point], address: Address, show: Callable[[Point, int], None]
) -> int:
    """Publish points as they come; return their number.

    ``show`` is called with each point and the number so far. Raises HcamError if there is no router
    with that realm, or if the connection to it is lost.
    """
    count = 0
    newest = "nothing"
    try:
        async with join(address, uris.REPLAY) as session:
            async for point in points:
                options = PublishOptions(retain=True, acknowledge=count % ACKNOWLEDGE_EVERY == 0)
                topic = uris.telemetry(point.device)
                published = session.publish(topic, unflatten(point), options=options)
                if published is not None:
                    await published
                count += 1
                newest = timestamp_of(point.time)
                show(point, count)
            # Its answer means that the router has read every sample.
            await session.call("wamp.session.count")
    except (OSError, WampError) as error:
        raise HcamError(
            f"{unreachable(address, error, JOIN_WITHIN)}; published until then: {newest}"
        ) from None
    return count


class Progress:
    """Shows the time and the speed of a replay, on a terminal continuously."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.line = ""
        self._first: tuple[float, int] | None = None
        self._shown = -math.inf

    def __call__(self, point: Point, count: int) -> None:
        """Count a published point, and show the progress on a terminal."""
        now = self.clock()
        begun, first = self._first = self._first or (now, point.time)
        speed = (point.time - first) / 1000 / max(now - begun, 1e-3)
        self.line = f"{text_from_ms(point.time)} UTC   {speed:.3g} times as fast   {count} samples"
        if now - self._shown >= SHOW_PERIOD_S and self.stream.isatty():
            self._shown = now
            self.stream.write(f"\r{self.line}\x1b[K")
            self.stream.flush()

    def end(self) -> None:
        """Write the last progress on its own line."""
        start, rest = ("\r", "\x1b[K") if self.stream.isatty() else ("", "")
        if self.line:
            self.stream.write(f"{start}{self.line}{rest}\n")
