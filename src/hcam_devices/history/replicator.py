"""Keeps a store complete: what it does not have is asked of the devices' journals.

Nothing waits in memory for a store that is away: the journals have it.
"""

import asyncio
import logging
import math
import sqlite3
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from pydantic import BaseModel, TypeAdapter

from ..core.backoff import Backoff
from ..core.device import Sample, utc
from ..core.fields import shorten
from ..core.part import Alarm
from ..journal import DAY, KEEP, Journal, read_page
from ..journal.digest import SIZE
from ..journal.points import Point, flatten, milliseconds
from ..journal.ranges import SampleRange, SampleRanges
from ..wamp import uris
from ..wamp.journal_service import JournalService
from ..wamp.session import Session
from .stores import AwayError, Store
from .stores.lost import Lost

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_EVERY = 1.0
CHECK_EVERY = 60.0
TIDY_EVERY = 3600.0
"""Seconds between writing what was heard, asking every journal, and tidying the store."""
MANY = 1000
"""Of samples that are heard: then they are written before their time."""
MAX_LIVE = 5000
"""Of samples that wait to be written; what is heard beyond is fetched from the journals later."""
MAX_JUMP = 100_000
"""A number further ahead is not believed before the device's journal has been asked."""
PAGE = 1000
MAX_PAGES = 3
"""Of those that wait for what is being written; then they are written together."""
ANSWER_WITHIN = 20.0
NOT_THERE = "the device's journal does not have it, or it cannot be read"
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
STUCK_AFTER = 120.0
"""Seconds. A night that is rolled up takes some twenty."""
NAMES = TypeAdapter(list[str])
NO_ANSWER = (WampError, OSError, ValueError)
"""What is raised when a device's server, or the router, is away or late, or answers nonsense."""


class _Held(BaseModel):
    """What a journal says of one epoch."""

    epoch: str
    first: int
    last: int


class _Lost(NamedTuple):
    """Numbers that a journal has no more."""

    epoch: str
    first: int
    last: int
    reason: str


class Holdings(BaseModel):
    """What the journal of a device holds: the reply to ``hipercam.<device>.rpc.journal()``."""

    device: str
    """Not the one that was asked for, if that is only a name of this one by now."""
    epoch: str
    """The present one: no other journal has it, nor this one when it has been made anew."""
    epochs: list[_Held]
    gone: list[_Lost]
    lost: list[Lost] = []
    """What was published without a number, and kept nowhere."""
    keep: float
    """Seconds."""
    used: int
    most: int
    """Bytes, as is ``used``."""
    oldest: float | str | None
    """The time of the oldest sample: Unix seconds, or a text in the reply of a server."""
    salvaging: bool = False
    server: str = ""
    """The server that was asked instead of the device."""

    @property
    def journal(self) -> tuple[str, str]:
        """Which journal this is, and how it is asked."""
        return self.epoch, self.server

    def gone_of(self, device: str) -> list[SampleRange]:
        """Return the samples that are gone, with reasons."""
        return [SampleRange(device, *one) for one in self.gone]

    def covers(self, now: float) -> float:
        """Return how far back it reaches, or will when it is full, in seconds."""
        if self.oldest is None or self.used < 0.9 * self.most:
            return self.keep
        if isinstance(self.oldest, str):
            return now - milliseconds(self.oldest) / 1000
        return now - self.oldest


@contextmanager
def _own_journal() -> Iterator[None]:
    """Make its errors some of NO_ANSWER."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"the recorder's own journal: {error}") from error


class Journals:
    """The journals of all devices, through the router; and the recorder's own.

    What a server has of devices that it does not present any more is asked of the server.
    """

    def __init__(self, devices: Iterable[str], servers: Iterable[str] = ()) -> None:
        self.devices = set(devices)
        self.declared = frozenset(self.devices)
        self._former: dict[str, list[str]] = {server: [] for server in servers}
        self._server: dict[tuple[str, str], str] = {}
        self.own: Journal
        self.session: Session | None = None
        self.lost: set[Lost] = set()
        """What the journals have noted as lost, in the time that they were asked for."""
        self.epochs: set[tuple[str, str]] = set()
        """Devices and epochs that a journal has said that it has."""
        self._known: dict[str, Holdings] = {}

    async def _call(self, procedure: str, *arguments: Any) -> Any:
        if self.session is None or not self.session.is_attached():
            raise ConnectionError("there is no router")
        async with asyncio.timeout(ANSWER_WITHIN):
            return await self.session.call(procedure, *arguments)

    async def find(self) -> None:
        """Learn of devices that were renamed, removed or moved; who does not answer is left out."""

        async def ask(server: str) -> None:
            with suppress(*NO_ANSWER):
                reply = await self._call(uris.journal(server, "former"))
                self._former[server] = NAMES.validate_python(reply)
                self.devices.update(self._former[server])

        await asyncio.gather(*map(ask, self._former))

    def knows(self, name: str) -> bool:
        """Return whether a name is that of a device, present or former, and no other program's."""
        former = any(name in names for names in self._former.values())
        return former or name in self.declared or name in self._known

    async def holdings(self, device: str, *during: float, certain: bool = False) -> list[Holdings]:
        """Return what is held of a device; raises one of NO_ANSWER.

        With ``during``, two Unix times, the epochs are of what was appended between them. If it has
        to be ``certain``, what the recorder itself has kept of a device does not do without what
        the server has.
        """
        with _own_journal():
            kept_here = await asyncio.to_thread(self.own.holds, device, *during)
        own = Holdings.model_validate(kept_here)
        found = [own] if own.epochs or own.gone or own.salvaging or own.lost else []
        try:
            reply = await self._call(uris.rpc(device, "journal"), *during)
        except ApplicationError as error:
            absent = error.error == ApplicationError.NO_SUCH_PROCEDURE
            enough = not certain and bool(own.epochs or own.gone)
            if not absent or (device in self.declared and not enough):
                raise
        else:
            there = Holdings.model_validate(reply)
            if there.device == device:
                self._known[device] = there
                if there.epoch != own.epoch:
                    found.append(there)
        for server in [one for one, names in self._former.items() if device in names]:
            reply = await self._call(uris.journal(server, "held"), device, *during)
            there = Holdings.model_validate(reply)
            there.server = server
            if there.epoch not in {one.epoch for one in found}:
                found.append(there)
                self._server |= {(device, one.epoch): server for one in there.epochs}
        if len(found) > 1:  # what the device's own journal lost is all that was
            own.lost = []
        for held in found:
            self.lost.update(held.lost)
            self.epochs.add((device, held.epoch))
            self.epochs.update((device, one.epoch) for one in held.epochs)
        return found

    def covered(self, now: float) -> float:
        """Return how far back every journal reaches, in seconds."""
        return min((one.covers(now) for one in self._known.values()), default=KEEP)

    async def samples(self, device: str, after: int, epoch: str) -> list[Sample]:
        """Return some of the samples with numbers above ``after``; raises one of NO_ANSWER."""
        with _own_journal():
            found = self.own.samples(device, after, PAGE, epoch)
        if found:
            return found
        if server := self._server.get((device, epoch)):
            page = await self._call(uris.journal(server, "page"), device, after, PAGE, epoch)
        else:
            page = await self._call(uris.rpc(device, "page"), after, PAGE, epoch)
        return read_page(page)

    async def digests(self, device: str, epoch: str, first: int, last: int) -> bytes:
        """Return the digests of the samples from one number to another, zeros where there is none.

        Raises one of NO_ANSWER.
        """
        found = bytearray()
        while (start := first + len(found) // SIZE) <= last:
            if epoch == self.own.epoch or self.own.samples(device, start - 1, 1, epoch):
                reply = await self._own_shelf.digests(device, start, last, epoch)
            elif server := self._server.get((device, epoch)):
                asked = uris.journal(server, "digests")
                reply = await self._call(asked, device, start, last, epoch)
            else:
                reply = await self._call(uris.rpc(device, "digests"), start, last, epoch)
            some = b64decode(reply, validate=True)
            if not some or len(some) % SIZE:
                raise ValueError(f"{shorten(reply)} is not digests")
            found += some
        return bytes(found[: (last + 1 - first) * SIZE])

    @cached_property
    def _own_shelf(self) -> JournalService:
        return JournalService(self.own)


class Replicator:
    """Keeps one store complete: live samples at once, missing ones from the journals.

    ``away`` is why the store cannot be used, empty if it can, since ``away_since`` (Unix time).
    ``written``, ``aside``, ``gone``, ``backlog`` (samples) and ``lag`` (s) are what the recorder
    says of it.
    """

    def __init__(
        self, store: Store[Any], journals: Journals, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.journals, self.clock = store, journals, clock
        self.due: set[str] = set()
        self.written = 0
        self.aside = store.aside()
        self.gone = sum(one.samples for one in store.gone())
        self.away = ""
        self.away_since = 0.0
        self._backlog: dict[str, int] = {}
        self._lag = 0.0
        self._live: list[Point] = []
        self._writing: list[Point] = []
        self._busy_since: float | None = None
        self._accepts = True
        self._newest: dict[tuple[str, str], int] = {}
        self._news: dict[str, tuple[float, str]] = {}
        self._wake = asyncio.Event()
        self._checked = self._tidied = -math.inf
        self._thread = ThreadPoolExecutor(1, f"store {store.name}")

    def hear(self, point: Point) -> None:
        """Take in a live sample; what it does not follow on from is asked of the journal."""
        key = point.device, point.epoch
        newest = self._newest.get(key)
        if newest is None or point.seq != newest + 1:
            if newest is not None and point.seq <= newest:
                return
            self.due.add(point.device)
            if newest is not None and point.seq - newest > MAX_JUMP:
                return
        self._newest[key] = point.seq
        if self._accepts and len(self._live) < MAX_LIVE:
            self._live.append(point)
            if len(self._live) >= MANY:
                self._wake.set()
        else:
            self.due.add(point.device)

    def hurry(self) -> None:
        """Ask every journal now, and which there are."""
        self._checked = -math.inf
        self._wake.set()

    async def run(self) -> None:
        """Keep the store complete, for ever."""
        backoff = Backoff(FIRST_PAUSE, LAST_PAUSE)
        while True:
            try:
                await self._round()
                backoff.reset()
            except AwayError as error:
                self._is_away(str(error))
                await asyncio.sleep(backoff.next())
                self._accepts = True
                self.due |= self.journals.devices

    async def _round(self) -> None:
        try:
            async with asyncio.timeout(WRITE_EVERY):
                await self._wake.wait()
        except TimeoutError:
            pass
        await self._write([])
        now = time.monotonic()
        if now - self._checked > CHECK_EVERY:
            self._checked = now
            await self._meanwhile(self.journals.find())
            self.due |= self.journals.devices
        while self.due:
            device = self.due.pop()
            try:
                await self._complete(device)
            except NO_ANSWER as error:
                log.debug("%s: cannot ask the journal of %s: %r", self.store.name, device, error)
        if now - self._tidied > TIDY_EVERY:
            self._tidied = now
            await self._do(self.store.tidy)

    async def _meanwhile(self, asking: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer, and write what is heard meanwhile."""
        asked = asyncio.ensure_future(asking)
        try:
            while not (await asyncio.wait([asked], timeout=WRITE_EVERY))[0]:
                await self._write([])
            return await asked
        finally:
            asked.cancel()

    async def noted(self) -> SampleRanges:
        """Return a copy of what the store notes that it has."""
        noted: SampleRanges = await self._do(self.store.stored.copy)
        return noted

    async def _do(self, what: Callable[..., Any], *args: Any) -> Any:
        """Do something with the store. Whatever fails there, it is away: raises AwayError."""
        self._busy_since = self._busy_since or self.clock()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, what, *args)
        except AwayError:
            raise
        except Exception as error:
            log.exception("store %s failed", self.store.name)
            raise AwayError(f"it failed: {type(error).__name__}: {error}") from error
        finally:
            self._busy_since = None

    async def _write(self, rows: list[Any]) -> None:
        batch, self._live = self._live, []
        self._wake.clear()
        unique = {one[:3]: one for one in (*self.store.rows(batch), *rows)}
        if not unique:
            return

        def write() -> int:
            self.store.write(list(unique.values()))
            return self.store.aside()

        self._writing = batch
        try:
            aside = await self._do(write)
        finally:
            self._writing = []
        self.written += len(unique)
        self.aside = aside
        if batch:
            self._lag = self._late(batch)
        if self.away:
            log.warning("store %s is back", self.store.name)
            self.away = ""

    def _is_away(self, reason: str) -> None:
        if not self.away:
            self.away_since = self.clock()
        if reason != self.away:
            log.warning("store %s is away: %s", self.store.name, reason)
        self.away = reason
        self._accepts = False
        self._live = []

    async def _complete(self, device: str) -> None:
        """Fetch what the store does not have of a device; raises one of NO_ANSWER, or AwayError."""
        holdings = await self._meanwhile(self.journals.holdings(device))
        await self._write([])
        await self._settle([one for held in holdings for one in held.gone_of(device)])
        missing = []
        for held in holdings:
            for one in held.epochs:
                key = device, one.epoch
                if not one.last <= self._newest.get(key, 0) <= one.last + MAX_JUMP:
                    self._newest[key] = one.last
                known = SampleRanges([SampleRange(*key, 1, one.last)])
                missing += [(held.journal, part) for part in (known - self.store.stored).ranges()]
        self._backlog[device] = sum(part.samples for _, part in missing)
        for journal, (_, epoch, first, last, _) in missing:
            await self._fetch(device, epoch, first, last, journal)

    async def _fetch(
        self, device: str, epoch: str, first: int, last: int, journal: tuple[str, str]
    ) -> None:
        """Bring the numbers from ``first`` to ``last``: write what comes while one writes.

        ``journal`` is the one that has said that it has them.
        """
        writing = asyncio.ensure_future(self._write([]))
        waiting: list[Sequence[Any]] = []
        try:
            async with aclosing(self._pages(device, epoch, first, last)) as pages:
                async for upto, points in pages:
                    waiting.append(self.store.rows(points))
                    if len(waiting) == MAX_PAGES or writing.done() or upto == last:
                        await writing
                        fetched = SampleRange(device, epoch, first, upto, NOT_THERE)
                        bring = self._bring(fetched, [*chain(*waiting)], journal)
                        writing = asyncio.ensure_future(bring)
                        first = upto + 1
                        waiting = []
        except NO_ANSWER:
            await writing  # that the store is away counts more than why no page came
            raise
        finally:
            await asyncio.gather(writing, return_exceptions=True)
        await writing

    async def _pages(
        self, device: str, epoch: str, first: int, last: int
    ) -> AsyncGenerator[tuple[int, list[Point]]]:
        """Yield points and up to which number they are all; ask for a page while reading one."""
        asked = asyncio.ensure_future(self.journals.samples(device, first - 1, epoch))
        try:
            while first <= last:
                samples = await asked
                seqs = (one.get("seq") for one in samples)
                upto = max((n for n in seqs if type(n) is int and first <= n <= last), default=last)
                if upto < last:
                    asked = asyncio.ensure_future(self.journals.samples(device, upto, epoch))
                await asyncio.sleep(0)  # so that this is asked, and what was read is written
                yield upto, _points(samples, device, epoch, first, upto)
                first = upto + 1
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def repair(
        self,
        replace: Callable[[Sequence[Point]], None],
        device: str,
        epoch: str,
        first: int,
        last: int,
    ) -> None:
        """Have the store ``replace`` what it has of some numbers by what the journal has.

        Raises one of NO_ANSWER, or AwayError.
        """
        async with aclosing(self._pages(device, epoch, first, last)) as pages:
            async for _, points in pages:
                if points:
                    await self._do(replace, points)
        log.warning(
            "store %s: %s %d to %d (epoch %s) were not what the journal has, and are replaced",
            *(self.store.name, device, first, last, epoch),
        )

    async def _bring(self, fetched: SampleRange, rows: list[Any], journal: tuple[str, str]) -> None:
        """Write rows; what is missing then is lost, if the journal is still the same.

        A journal that was damaged begins anew, and salvages the numbers that it does not have now.
        """
        await self._write(rows)
        device = fetched.device
        if SampleRanges([fetched]) - self.store.stored:
            holdings = {held.journal: held for held in await self.journals.holdings(device)}
            if journal not in holdings:
                raise ConnectionError("its journal has begun anew, and is asked again later")
            if not holdings[journal].salvaging:
                await self._settle([*holdings[journal].gone_of(device), fetched])
        self._backlog[device] -= fetched.samples

    async def _settle(self, lost: list[SampleRange]) -> None:
        """Note the lost samples that the store does not have: it never will."""
        gone = (SampleRanges(lost) - self.store.stored).explained(lost)
        if not gone or not await self._do(self.store.settle, gone):
            return
        for new in gone:
            said = f"it will never have {new.device} {new.first} to {new.last}: {new.reason}"
            self._news["gone"] = self.clock(), said
            self.gone += new.samples
            log.warning("store %s: %s (epoch %s)", self.store.name, said, new.epoch)

    @property
    def backlog(self) -> int:
        """Return how many samples it does not have; while it is away, of those heard of."""
        if not self.away:
            return sum(self._backlog.values())
        heard = SampleRanges(SampleRange(*key, 1, newest) for key, newest in self._newest.items())
        return len(heard - self.store.stored)

    @property
    def lag(self) -> float:
        """Return how late (s) the last batch was written, or what waits is already."""
        waiting = self._late([*self._writing, *self._live])
        away = self.clock() - self.away_since if self.away else 0.0
        return max(self._lag, waiting, away)

    def _late(self, points: list[Point]) -> float:
        return self.clock() - min((one.time / 1000 for one in points), default=math.inf)

    def notices(self) -> list[Alarm]:
        """Say what happened in the last day, and whether the store is away."""
        now, name = self.clock(), self.store.name
        found = [
            Alarm(f"{field}_{name}", "WARN", f"store {name}: {said}")
            for field, (when, said) in self._news.items()
            if now - when < DAY
        ]
        if self.aside:
            found += [
                Alarm(f"aside_{name}", "WARN", f"store {name}: {said}")
                for said in self.store.refusals()
            ]
        if self.store.warning:
            found.append(Alarm(f"gone_{name}", "WARN", f"store {name}: {self.store.warning}"))
        if self._busy_since is not None and now - self._busy_since > STUCK_AFTER:
            said = f"store {name} has not answered since {utc(self._busy_since)[:19]}"
            found.append(Alarm(f"lag_{name}", "ERR", f"{said}: see to its disk or network"))
        if self.away:
            covered = self.journals.covered(now)
            since = now - self.away_since
            found.append(
                Alarm(
                    f"rate_{name}",
                    "ERR" if since > covered / 2 else "WARN",
                    f"store {name} is away since {utc(self.away_since)[:16]}; what it misses waits "
                    f"in the journals, which keep {covered / DAY:.1f} days: {self.away}",
                )
            )
        return found

    def close(self) -> None:
        """Wait for what is being written, and close the store."""
        self._thread.submit(self.store.close)
        self._thread.shutdown()


def _points(samples: list[Sample], device: str, epoch: str, first: int, last: int) -> list[Point]:
    """Return those samples that are wanted and can be kept, in order."""
    found = []
    for sample in samples:
        try:
            point = flatten(sample)
        except ValueError as error:
            log.warning("a sample of %s cannot be kept: %s", device, error)
            continue
        if point[:2] == (device, epoch) and first <= point.seq <= last:
            found.append(point)
    return sorted(found, key=attrgetter("seq"))
