"""Access to the journals of all servers, through the router, and to the recorder's own."""

import asyncio
import logging
import math
import sqlite3
from base64 import b64decode
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from pydantic import BaseModel, Field

from ..config.instrument import LOGGER
from ..host.threads import ask
from ..journal import KEEP, Journal
from ..journal.commands import commands_of, device_of
from ..journal.digest import SIZE
from ..journal.notebook import Lost
from ..journal.ranges import SampleRange, SampleRanges
from ..journal.records import Page, Record, read_page
from ..names import shorten
from ..wamp import uris
from ..wamp.journal_service import JournalService
from ..wamp.session import Session
from .audit import Published

log = logging.getLogger(__name__)

T = TypeVar("T")

OWN = LOGGER
"""The server of the recorder itself, whose journal is in this process."""
PAGE = 1000
"""Ask for this many samples at a time."""
ANSWER_WITHIN = 20.0
MAX_PRESENTED = 10_000
"""Remember the servers of at most this many devices that the instrument file does not declare."""
MAX_PARTS = 1000
"""Ask for at most this many parts of one inventory."""
NO_ANSWER = (WampError, OSError, ValueError)
"""The errors if a server or the router is unavailable or late, or its answer is invalid."""


class Inventory(BaseModel):
    """The samples that the journal of a server has: the reply of ``Journal.inventory``."""

    server: str
    epoch: str
    """The present epoch of the journal."""
    held: list[SampleRange] = Field(default=[])
    gone: list[SampleRange] = Field(default=[])
    lost: list[Lost] = Field(default=[])
    keep: float
    """How long (s) samples are kept."""
    used: int
    most: int
    """The limit (bytes) of ``used``."""
    oldest: float | None
    """Unix time of the oldest sample."""
    next: str | None = None

    @property
    def devices(self) -> set[str]:
        """The devices whose samples the journal has or had."""
        found = {samples.device for samples in (*self.held, *self.gone)}
        return found | {note.device for note in self.lost}

    def restrict(self, devices: Collection[str]) -> None:
        """Drop all devices but these."""
        self.held = [samples for samples in self.held if samples.device in devices]
        self.gone = [samples for samples in self.gone if samples.device in devices]
        self.lost = [note for note in self.lost if note.device in devices]

    def covers(self, now: float) -> float:
        """Return how far back (s) the journal reaches, or will reach when it is full."""
        if self.oldest is None or self.used < 0.8 * self.most:  # a full one drops an eighth
            return self.keep
        return now - self.oldest


class Journals:
    """Asks each server which samples its journal has, and fetches them.

    ``declared`` maps each device of the instrument file to its server. Other servers are asked for
    the devices that they present, whose names on the network belong to them.
    """

    def __init__(self, declared: Mapping[str, str]) -> None:
        self.declared = dict(declared)
        self.presented: dict[str, str] = {}
        """The servers of devices that another server than the declared one presents."""
        self.own: Journal
        self.session: Session | None = None
        self.lost: set[Lost] = set()
        """The losses that the journals have reported."""
        self.epochs: set[tuple[str, str]] = set()
        """The pairs of device and epoch in the journals."""
        self._newest: dict[str, Inventory] = {}
        self._listed: dict[str, set[str]] = {}
        """The devices in the journal of each server."""

    @property
    def servers(self) -> set[str]:
        """The servers to ask."""
        return {OWN, *self.declared.values(), *self.presented.values()}

    def knows(self, name: str) -> bool:
        """Return whether a name is that of a present or former device."""
        former = any(name in some for server, some in self._listed.items() if server != OWN)
        return former or name in self.declared or name in self.presented

    def present(self, device: str, server: str) -> None:
        """Note that a server presents a device on the network."""
        self.presented.pop(device, None)
        if self.declared.get(device) != server and len(self.presented) < MAX_PRESENTED:
            self.presented[device] = server

    def by_server(self, devices: Iterable[str]) -> dict[str, list[str]]:
        """Return the devices, and streams of commands, by the server that presents them."""
        found: dict[str, list[str]] = defaultdict(list)
        for device in sorted(devices):
            name = device_of(device)
            server = self.presented.get(name) or self.declared.get(name, OWN)
            found[server].append(device)
        return found

    async def inventories(
        self, devices: Iterable[str] | None = None, *period: float
    ) -> dict[str, Inventory | Exception]:
        """Ask all servers at once; return the answer, or the error instead, of each.

        With ``devices``, only their servers are asked, and only for them. With a ``period`` of two
        Unix times, ``held`` are the samples that were appended in it.
        """
        asked: Mapping[str, list[str] | None] = (
            dict.fromkeys(self.servers) if devices is None else self.by_server(devices)
        )
        answers = await asyncio.gather(
            *(self.inventory(server, some, *period) for server, some in asked.items()),
            return_exceptions=True,
        )
        found: dict[str, Inventory | Exception] = {}
        for server, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, NO_ANSWER):
                    raise answer
                log.debug("the journal of %s does not answer: %r", server, answer)
            found[server] = answer
        return found

    async def inventory(
        self, server: str, devices: list[str] | None = None, *period: float
    ) -> Inventory:
        """Return which samples a server has, of all devices or some. Raises one of NO_ANSWER."""
        found = await self._part(server, devices, "", *period)
        for _ in range(MAX_PARTS):
            if found.next is None:
                break
            more = await self._part(server, devices, found.next, *period)
            if more.epoch != found.epoch:
                raise ConnectionError(f"the journal of {server} has a new epoch")
            found.held += more.held
            found.gone += more.gone
            found.lost += more.lost
            found.next = more.next
        else:
            raise ValueError(f"the inventory of {server} does not end")
        if not all(
            0 < samples.first <= samples.last < 2**63 for samples in (*found.held, *found.gone)
        ):
            raise ValueError(f"the journal of {server} has invalid ranges")
        if server not in {OWN, *self.declared.values()}:
            theirs = {device for device, name in self.presented.items() if name == server}
            found.restrict(theirs | set(map(commands_of, theirs)))
        self._learn(found, whole=devices is None and not period)
        return found

    async def _part(
        self, server: str, devices: list[str] | None, after: str, *period: float
    ) -> Inventory:
        arguments = devices, after, *period
        if server == OWN:
            answer = await self.ask_own(self.own.inventory, *arguments)
        else:
            answer = await self._call(uris.journal(server, "inventory"), *arguments)
        return Inventory.model_validate({**answer, "server": server})

    def _learn(self, found: Inventory, *, whole: bool) -> None:
        if found.server == OWN:  # other servers note their own losses
            found.lost = [note for note in found.lost if not self.knows(note.device)]
        else:
            declared = (name for name, server in self.declared.items() if server == found.server)
            self.epochs.update((device, found.epoch) for device in declared)
        self.epochs.update((samples.device, samples.epoch) for samples in found.held)
        self.lost.update(found.lost)
        if whole:
            self._newest[found.server] = found
            self._listed[found.server] = found.devices

    def covered(self, now: float) -> float:
        """Return how far back (s) all journals reach."""
        return min((inventory.covers(now) for inventory in self._newest.values()), default=KEEP)

    async def page(self, server: str, device: str, after: int, epoch: str) -> Page:
        """Return some of the samples with numbers above ``after``. Raises one of NO_ANSWER."""
        arguments = device, after, PAGE, epoch
        if server == OWN:
            return read_page(await self.ask_own(self.own.page, *arguments))
        return read_page(await self._call(uris.journal(server, "page"), *arguments))

    async def pages(
        self, server: str, wanted: SampleRange
    ) -> AsyncGenerator[tuple[int, list[Record]]]:
        """Yield samples in order, with the number up to which they are complete.

        The next page is requested while the caller handles one. Raises one of NO_ANSWER.
        """
        device, epoch, first, last, _ = wanted
        asked = asyncio.ensure_future(self.page(server, device, first - 1, epoch))
        try:
            while first <= last:
                page = await asked
                upto = max((seq for seq in page if first <= seq <= last), default=last)
                if upto < last:
                    asked = asyncio.ensure_future(self.page(server, device, upto, epoch))
                await asyncio.sleep(0)  # let the question go out and the write begin
                records = (record for record in page.values() if record)
                yield (
                    upto,
                    [one for one in records if one[:2] == wanted[:2] and first <= one.seq <= upto],
                )
                first = upto + 1
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def digests(self, server: str, samples: SampleRange) -> bytes:
        """Return the digest of each sample, zeros if it is missing. Raises one of NO_ANSWER."""
        found = bytearray()
        while (first := samples.first + len(found) // SIZE) <= samples.last:
            arguments = samples.device, first, samples.last, samples.epoch
            if server == OWN:
                with _no_answer():
                    reply = await self._own_service.digests(*arguments)
            else:
                reply = await self._call(uris.journal(server, "digests"), *arguments)
            some = b64decode(reply, validate=True)
            if not some or len(some) % SIZE:
                raise ValueError(f"{shorten(reply)} is not a list of digests")
            found += some
        return bytes(found[: samples.samples * SIZE])

    async def published(self, start: float, end: float) -> dict[str, Published]:
        """Return what the journals appended of each device between two Unix times."""
        ever, then = await self.inventories(), await self.inventories(None, start, end)
        found: dict[str, Published] = defaultdict(Published)
        servers = sorted(ever.keys() & then.keys(), key=lambda server: server == OWN)
        epochs: dict[str, set[str]] = defaultdict(set)
        for server in servers:
            self._add(found, epochs, server, ever[server], then[server])
        for server in servers:
            for samples in () if isinstance(answer := then[server], Exception) else answer.held:
                if (said := found[samples.device]).silent:
                    continue
                try:
                    said.digests.append(
                        (samples.epoch, samples.first, await self.digests(server, samples))
                    )
                except NO_ANSWER as error:
                    said.silent = _silence(error)
        for device in found.keys() | epochs.keys():
            found[device].epochs = None if found[device].silent else epochs[device]
        return dict(found)

    def _add(
        self,
        found: dict[str, Published],
        epochs: dict[str, set[str]],
        server: str,
        ever: Inventory | Exception,
        then: Inventory | Exception,
    ) -> None:
        """Add what a server has, of any time and of a night, or why that is unknown."""
        known = self.by_server({*self.declared, *self.presented})
        mine = {*known.get(server, ()), *self._listed.get(server, ())}
        for answer in (ever, then):
            if silence := _silence(answer):
                for device in {*found, *mine} if server == OWN else mine:
                    found[device].silent = silence
        if isinstance(ever, Exception) or isinstance(then, Exception):
            return
        for device in {*known.get(server, ()), *ever.devices, *then.devices}:
            epochs[device] |= {ever.epoch, then.epoch}
        for samples in (*ever.held, *ever.gone, *then.held):
            epochs[samples.device].add(samples.epoch)
        for samples in then.held:
            found[samples.device].held |= SampleRanges([samples])
        for samples in then.gone:
            found[samples.device].gone.append(samples)
        for note in then.lost:
            found[note.device].lost.append(note)

    async def not_kept_here(self, notes: Iterable[Lost]) -> list[Lost]:
        """Return the losses of one device less what the recorder's own journal has of them.

        It may be on another disk. It has no more of a sample than the time of its arrival, which
        is at most a second from when it was lost; losses may be closer to one another than that.
        """
        left, kept, until = [], 0, -math.inf
        for note in sorted(notes, key=lambda note: note.since):
            if note.epoch == self.own.epoch:
                left.append(note)
                continue
            if note.since - 1 > until:
                kept, until = 0, note.since - 1
            period = until, max(until, note.until + 1)
            held = await self.ask_own(self.own.holds, note.device, *period)
            until = period[1]
            kept += sum(epoch["count"] for epoch in held["epochs"])
            if kept < note.samples:
                left.append(note._replace(samples=note.samples - kept))
            kept = max(0, kept - note.samples)
        return left

    async def ask_own(self, work: Callable[..., T], *arguments: Any) -> T:
        """Ask the recorder's own journal in a thread. Raises one of NO_ANSWER."""
        with _no_answer():
            return await ask("the recorder's own journal", work, *arguments, within=ANSWER_WITHIN)

    @cached_property
    def _own_service(self) -> JournalService:
        return JournalService(self.own)

    async def _call(self, procedure: str, *arguments: Any) -> Any:
        if self.session is None or not self.session.is_attached():
            raise ConnectionError("there is no router")
        async with asyncio.timeout(ANSWER_WITHIN):
            return await self.session.call(procedure, *arguments)


@contextmanager
def _no_answer() -> Iterator[None]:
    """Convert errors of the recorder's own journal to one of NO_ANSWER."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"the recorder's own journal: {error}") from error


def _silence(answer: Exception | Inventory) -> str:
    """Return why the answer of a journal is missing; empty if it is not."""
    if isinstance(answer, Inventory):
        return ""
    if getattr(answer, "error", "") == ApplicationError.NO_SUCH_PROCEDURE:
        return "its journal does not answer: check that its server is running"
    reason = " ".join(map(str, answer.args)) or type(answer).__name__
    return f"its journal does not answer: {reason}"
