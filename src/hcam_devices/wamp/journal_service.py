"""Serves one server's journal over WAMP, including devices that no longer have an agent.

Such devices were renamed, removed or moved to another server; their samples still have to reach
the recorder.
"""

import asyncio
import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from ..core.device import Sample, iso_from_s
from ..core.fields import is_number
from ..errors import InvalidArgumentError
from ..journal import Journal
from ..journal.digest import NONE, SIZE, digest
from ..journal.records import records_in
from ..names import shorten
from . import uris
from .session import Session

MAX_SAMPLES = 10_000
"""Return at most this many samples or digests in one reply."""
BLOCK = 1000
MAX_BLOCKS = 100
"""Keep the digests of this many whole blocks of samples in memory: two nights of a device."""
UNIX_SECONDS = 1.5e9, 1e10
"""Plausible times, from July 2017, before HiPERCAM saw first light. Milliseconds are above."""


class JournalService:
    """Serves a journal's contents. Its methods raise ValueError for a wrong argument."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._blocks: dict[tuple[str, str, int], bytes] = {}

    async def register(
        self, session: Session, server: str, displaced: Callable[[str], None]
    ) -> None:
        """Offer the procedures under the server's name; ``displaced`` as in ``claim``.

        Raises NameTakenError if another server has the name.
        """
        # autobahn says "an Exception", and means its class.
        session.define(ValueError, InvalidArgumentError.uri)  # type: ignore[arg-type]
        for answer in (self.inventory, self.samples, self.page, self.digests):
            uri = uris.journal(server, answer.__name__)
            await session.claim(answer, uri, displaced=displaced)

    async def inventory(
        self,
        devices: list[str] | None = None,
        after: str = "",
        start: float | None = None,
        end: float | None = None,
    ) -> dict[str, Any]:
        """Return which samples of all devices, or of some, there are: see ``Journal.inventory``."""
        if not isinstance(after, str):
            raise ValueError(f"after must be the name of a device, not {shorten(after)}")
        if devices is not None and not (
            isinstance(devices, list) and all(isinstance(name, str) for name in devices)
        ):
            raise ValueError(f"devices must be a list of names, not {shorten(devices)}")
        period = _period(start, end)
        return await asyncio.to_thread(self.journal.inventory, devices, after, *period)

    def samples(
        self, device: str, after: int = 0, limit: int = 1000, epoch: str | None = None
    ) -> list[Sample]:
        """Return a device's samples with numbers above ``after``, in order."""
        _check_place(after, limit, epoch or "")
        return self.journal.samples(device, after, min(limit, MAX_SAMPLES), epoch)

    def page(self, device: str, after: int = 0, limit: int = 1000, epoch: str | None = None) -> str:
        """Return more of them at once, as ``journal/records.py`` describes, for the recorder."""
        _check_place(after, limit, epoch or "")
        return self.journal.page(device, after, min(limit, MAX_SAMPLES), epoch)

    async def digests(self, device: str, first: int, last: int, epoch: str) -> str:
        """Return the digests (``journal/digest.py``) of the samples from ``first`` to ``last``.

        They are bytes in base64: eight for each number, zeros where there is no sample. There are
        at most 10,000; ask again for those after them.
        """
        _check_place(first, last, epoch)
        last = min(last, first + MAX_SAMPLES - 1)
        blocks = range(first // BLOCK, last // BLOCK + 1)
        found = [await asyncio.to_thread(self._block, device, epoch, block) for block in blocks]
        start, end = (seq - blocks.start * BLOCK for seq in (first, last + 1))
        return b64encode(b"".join(found)[start * SIZE : end * SIZE]).decode()

    def _block(self, device: str, epoch: str, block: int) -> bytes:
        """Return the digests of a block of numbers. Cache whole blocks: they never change."""
        if known := self._blocks.get((device, epoch, block)):
            return known
        found = [NONE] * BLOCK
        first = block * BLOCK
        for seq, text in self.journal.records(device, first, first + BLOCK - 1, epoch):
            if record := records_in(text)[seq]:
                found[seq - first] = digest(record.point)
        packed = b"".join(found)
        if NONE not in found[not block :]:  # numbers start at 1
            self._blocks[device, epoch, block] = packed
            while len(self._blocks) > MAX_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)), None)
        return packed

    async def holds(
        self, device: str, start: float | None = None, end: float | None = None
    ) -> dict[str, Any]:
        """Return which samples of one device there are, for people: see ``Journal.holds``."""
        found = await asyncio.to_thread(self.journal.holds, device, *_period(start, end))
        return found | {"oldest": None if found["oldest"] is None else iso_from_s(found["oldest"])}


def _period(start: float | None, end: float | None) -> tuple[float, float]:
    """Return two Unix times. Raise ValueError if one is given and implausible."""
    for name, value in (("start", start), ("end", end)):
        low, high = UNIX_SECONDS
        if value is not None and not (is_number(value) and low <= value <= high):
            raise ValueError(
                f"{name} must be Unix seconds from {low:g} to {high:g}, not {shorten(value)}"
            )
    return -math.inf if start is None else start, math.inf if end is None else end


def _check_place(after: object, limit: object, epoch: object) -> None:
    for name, value in (("after", after), ("limit", limit)):
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"{name} must be a whole number, not {shorten(value)}")
    if not isinstance(epoch, str):
        raise ValueError(f"epoch must be a text, not {shorten(epoch)}")
