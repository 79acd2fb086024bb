"""What the journal of a server has, of any device: for agents, and under the name of the server.

A device that is in the journal, but has been renamed, removed or moved to another server, has no
agent here any more; its samples have to come home all the same.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Collection
from typing import Any

import orjson

from ..core.device import Sample, utc
from ..core.fields import is_number, shorten
from ..errors import InvalidArgumentError
from ..journal import Journal
from ..journal.digest import NONE, SIZE, digest
from ..journal.points import flatten
from . import uris
from .session import Session

MAX_SAMPLES = 10_000
BLOCK = 1000
MAX_BLOCKS = 100
"""Whole blocks of numbers whose digests are kept in memory: two nights of a device."""
UNIX_SECONDS = 1.5e9, 1e10
"""From July 2017, before HiPERCAM saw first light; milliseconds, for instance, are beyond."""


class JournalService:
    """A journal, as it is asked through the network; ``present`` are the devices that have agents.

    What it is asked with is checked: ValueError says what is wrong.
    """

    def __init__(self, journal: Journal, present: Collection[str] = ()) -> None:
        self.journal, self.present = journal, present
        self._blocks: dict[tuple[str, str, int], bytes] = {}

    async def register(self, session: Session, server: str) -> None:
        """Answer under the name of the server. Raises NameTakenError if another server has it."""
        # autobahn says "an Exception", and means its class.
        session.define(ValueError, InvalidArgumentError.uri)  # type: ignore[arg-type]
        for answer in (self.former, self.held, self.page, self.samples, self.digests):
            await session.claim(answer, uris.journal(server, answer.__name__))

    async def former(self) -> list[str]:
        """Return the devices that the journal knows of, and that have no agent here."""
        known = await asyncio.to_thread(self.journal.devices)
        return sorted(known.difference(self.present))

    def samples(
        self, device: str, after: int = 0, limit: int = 1000, epoch: str | None = None
    ) -> list[Sample]:
        """Return a device's samples with numbers above ``after``, in order."""
        _check_place(after, limit, epoch or "")
        return self.journal.samples(device, after, min(limit, MAX_SAMPLES), epoch)

    def page(self, device: str, after: int = 0, limit: int = 1000, epoch: str | None = None) -> str:
        """Return what ``samples`` does, as JSON in zlib in base64."""
        _check_place(after, limit, epoch or "")
        return self.journal.page(device, after, min(limit, MAX_SAMPLES), epoch)

    async def digests(self, device: str, first: int, last: int, epoch: str) -> str:
        """Return the digests (``journal/digest.py``) of the samples from one number to another.

        They are bytes in base64, eight for each number and zeros where there is no sample, from
        ``first`` on: at most 10,000, so that the caller has to ask again for those after them.
        """
        _check_place(first, last, epoch)
        last = min(last, first + MAX_SAMPLES - 1)
        blocks = range(first // BLOCK, last // BLOCK + 1)
        found = [await asyncio.to_thread(self._block, device, epoch, block) for block in blocks]
        start, end = (one - blocks.start * BLOCK for one in (first, last + 1))
        return b64encode(b"".join(found)[start * SIZE : end * SIZE]).decode()

    def _block(self, device: str, epoch: str, block: int) -> bytes:
        """Return the digests of a block of numbers; those of a whole one never change."""
        if known := self._blocks.get((device, epoch, block)):
            return known
        found = [NONE] * BLOCK
        first = block * BLOCK
        for seq, text in self.journal.records(device, first, first + BLOCK - 1, epoch):
            try:
                found[seq - first] = digest(flatten(_sample(text)))
            except ValueError:  # nor does any store keep it
                continue
        packed = b"".join(found)
        if NONE not in found[not block :]:  # numbers begin with 1
            self._blocks[device, epoch, block] = packed
            while len(self._blocks) > MAX_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)), None)
        return packed

    async def held(
        self, device: str, start: float | None = None, end: float | None = None
    ) -> dict[str, Any]:
        """Return which samples of a device there are and which are gone, with reasons."""
        for name, value in (("start", start), ("end", end)):
            low, high = UNIX_SECONDS
            if value is not None and not (is_number(value) and low <= value <= high):
                raise ValueError(
                    f"{name} is a time in Unix seconds, {low:g} to {high:g}, not {shorten(value)}"
                )
        found = await asyncio.to_thread(self.journal.holds, device, start, end)
        return found | {"oldest": None if found["oldest"] is None else utc(found["oldest"])}


def _sample(text: bytes) -> Sample:
    try:
        return dict(orjson.loads(text))
    except ValueError:  # it knows no lone surrogates, and no numbers beyond a double
        return dict(json.loads(text))


def _check_place(after: object, limit: object, epoch: object) -> None:
    for name, value in (("after", after), ("limit", limit)):
        if type(value) is not int or not 0 <= value < 2**63:
            raise ValueError(f"{name} is a whole number, not {shorten(value)}")
    if not isinstance(epoch, str):
        raise ValueError(f"epoch is a text, not {shorten(epoch)}")
