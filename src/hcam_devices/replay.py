"""A recorded night, published again for tools and rehearsal.

It goes to the same topics with the same samples and times, but in a realm of its own: what is said
there is never taken for what is so now, and nothing here can join the instrument's realm.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from autobahn.wamp.exception import TransportLost
from autobahn.wamp.types import PublishOptions

from . import HcamError
from .device import utc
from .stores.points import Point, night_bounds, unflatten
from .wamp import uris
from .wamp.session import join
from .wamp.uris import Address

CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
ACKNOWLEDGE_EVERY = 100
"""The router is waited for now and then, so that nothing piles up on the way to it."""


def moment(night: str, clock_time: str) -> int:
    """Return when in a night it is, say, ``23:00`` or ``01:30:05`` UTC, in ms; HcamError."""
    match = CLOCK_TIME.fullmatch(clock_time)
    if not match:
        raise HcamError(f"{clock_time!r} is not a time such as 23:00 or 01:30:05 (UTC)")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    since_noon = (hours - 12) % 24
    return night_bounds(night)[0] + 1000 * (3600 * since_noon + 60 * minutes + seconds)


async def paced(
    points: Iterable[Point],
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Point]:
    """Yield points in their order, each as long after the first as its time says, over ``speed``.

    One that is late comes at once, and does not delay those after it.
    """
    begun = first = None
    for point in points:
        if begun is None or first is None:
            begun, first = clock(), point.time
        wait = begun + (point.time - first) / 1000 / speed - clock()
        if wait > 0:
            await sleep(wait)
        yield point


async def replay(
    points: AsyncIterator[Point], address: Address, say: Callable[[Point, int], None]
) -> int:
    """Publish points as they come, and ``say`` which, and how many so far; return how many.

    HcamError if there is no router, or it goes.
    """
    count = 0
    said = "nothing"
    try:
        async with join(address, uris.REPLAY) as session:
            async for point in points:
                options = PublishOptions(retain=True, acknowledge=count % ACKNOWLEDGE_EVERY == 0)
                topic = uris.telemetry(point.device)
                published = session.publish(topic, unflatten(point), options=options)
                if published is not None:
                    await published
                count += 1
                said = utc(point.time / 1000)
                say(point, count)
            await session.call("wamp.session.count")  # the router has read everything before it
    except (OSError, TimeoutError, TransportLost) as error:
        raise HcamError(
            f"no router at {address} with realm {uris.REPLAY} ({error or 'no answer'}): "
            f"start it with: hcam up; published until then: {said}"
        ) from None
    return count
