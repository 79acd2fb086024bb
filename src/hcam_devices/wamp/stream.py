"""A stream: samples of devices, each once and in order, over outages and for a slow consumer.

A stream has a place in the samples of each device. *Live*, it passes on the next sample when it
hears it. After a gap, in another epoch, or with a full buffer, it is *behind*: it only remembers
the newest sample that it hears, and asks the journal for pages until it has that one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import WampError

if TYPE_CHECKING:
    from ..journal.ranges import SampleRange

log = logging.getLogger(__name__)

Sample = dict[str, Any]

BUFFER = 1000
"""Let at most this many samples wait for the consumer."""
PAGE = 100
"""Ask a journal for at most this many samples at once."""


class Journals(Protocol):
    """The journals of devices. Each method raises WampError if there is no answer."""

    async def page(self, device: str, after: int, limit: int, epoch: str) -> list[Sample]:
        """Return samples with numbers above ``after``, in order; none if there are no more."""

    async def epochs(self, device: str) -> list[str]:
        """Return the epochs of a device's samples, in the order in which they began."""


@dataclass
class Place:
    """The last sample that was passed on. ``past``: the last number in each earlier epoch."""

    epoch: str
    seq: int
    past: dict[str, int] = field(default_factory=dict)
    newest: Sample | None = None
    """The newest sample that was heard, while the stream is behind."""
    catching_up: asyncio.Task[None] | None = None


class Stream:
    """Samples of the devices that ``wants`` accepts. ``lost``: those that no journal has any more.

    Its methods are called in the thread of its loop.
    """

    def __init__(
        self, journals: Journals, wants: Callable[[str], bool] = lambda _: True, size: int = BUFFER
    ) -> None:
        self.lost: list[SampleRange] = []
        self.closed = False
        self._journals, self._wants, self._size = journals, wants, size
        self._page = max(1, min(PAGE, size // 2))
        self._places: dict[str, Place] = {}
        self._waiting: deque[Sample] = deque()
        self._reserved = 0
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()

    @property
    def waiting(self) -> int:
        """The number of samples that wait for the consumer."""
        return len(self._waiting)

    async def take(self, until: float | None = None) -> list[Sample]:
        """Return the samples that wait, once there are some.

        None are returned if the stream was closed, or at the loop's time ``until``. If it is
        cancelled, no sample is lost.
        """
        if until is not None and until <= asyncio.get_running_loop().time():
            return []
        while not self._waiting and not self.closed:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        self._taken.set()
        return taken

    def close(self) -> None:
        """End the stream; what waits is dropped."""
        self.closed = True
        self._waiting.clear()
        self._arrived.set()
        for place in self._places.values():
            if place.catching_up:
                place.catching_up.cancel()

    def hear(self, sample: Sample) -> None:
        """Handle a sample of a device, which may be late, or heard before.

        Without a number (a testament, or the journal is broken) it is passed on as it is.
        """
        device, epoch, seq = sample["device"], sample["epoch"], sample["seq"]
        if self.closed or not self._wants(device):
            return
        place = self._places.get(device)
        if place is None:
            if seq is None:
                if self._free:
                    self._pass_on(sample)
                return
            place = self._places[device] = Place(epoch, seq - 1)
        if place.epoch == epoch and seq is not None and seq <= place.seq:
            return
        following = seq is None or (epoch, seq) == (place.epoch, place.seq + 1)
        if following and self._free and not place.newest:
            self._pass_on(sample)
            place.seq = place.seq if seq is None else seq
        else:
            place.newest = sample
            if not place.catching_up:
                place.catching_up = asyncio.create_task(self._catch_up(device, place))

    @property
    def _free(self) -> int:
        return self._size - len(self._waiting) - self._reserved

    def _pass_on(self, sample: Sample) -> None:
        self._waiting.append(sample)
        self._arrived.set()

    async def _catch_up(self, device: str, place: Place) -> None:
        """Pass on what was missed. After an error, the next sample that is heard tries again."""
        try:
            while place.newest:
                # Reserve before asking, or the pages of all devices come on top of the buffer.
                while self._free < self._page:
                    self._taken.clear()
                    await self._taken.wait()
                self._reserved += self._page
                try:
                    await self._step(device, place, place.newest)
                finally:
                    self._reserved -= self._page
                    self._taken.set()
        except WampError as error:
            log.debug("samples of %s come later: %s", device, error)
        finally:
            place.catching_up = None

    async def _step(self, device: str, place: Place, newest: Sample) -> None:
        """Pass on one page; if there is none, the newest sample, or go to the next epoch."""
        page = await self._journals.page(device, place.seq, self._page, place.epoch)
        if page:
            for sample in page:
                self._advance(device, place, sample)
        elif place.newest is not newest:
            return  # the journal may have answered before this one was published: ask again
        elif newest["seq"] is None:
            self._pass_on(newest)
            place.newest = None
        elif newest["epoch"] == place.epoch:
            self._advance(device, place, newest)
            place.newest = None
        elif following := _following(place, newest, await self._journals.epochs(device)):
            place.past[place.epoch] = place.seq
            place.epoch, place.seq = following, place.past.get(following, 0)
        elif place.newest is newest:
            place.newest = None  # it is older than what was passed on

    def _advance(self, device: str, place: Place, sample: Sample) -> None:
        seq = sample["seq"]
        if seq <= place.seq:
            return
        if seq > place.seq + 1:
            from ..journal.ranges import SampleRange  # noqa: PLC0415  (0.1 s, mostly in vain)

            gone = SampleRange(device, place.epoch, place.seq + 1, seq - 1)
            self.lost.append(gone)
            log.warning("%s: its journal does not have the samples %d to %d", device, *gone[2:4])
        place.seq = seq
        self._pass_on(sample)


def _following(place: Place, newest: Sample, epochs: list[str]) -> str | None:
    """Return the epoch after that of a place; None if the newest sample is of an earlier one."""
    if place.epoch not in epochs:  # a new journal, or another machine
        return str(newest["epoch"])
    later = epochs[epochs.index(place.epoch) + 1 :]
    if later:
        return later[0]
    return None if newest["epoch"] in epochs else str(newest["epoch"])


def is_testament(sample: Any) -> bool:
    """Return whether a sample is a testament of its device's server: it has no time."""
    return (
        isinstance(sample, dict)
        and sample.get("seq", 0) is None
        and sample.get("timestamp", 0) is None
    )
