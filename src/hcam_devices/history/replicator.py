"""Keeps a store complete: fetches missing samples from the servers' journals.

No samples wait in memory for an unavailable store, because the journals have them.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import chain
from typing import Any, TypeVar

from autobahn.wamp.exception import ApplicationError

from ..core.device import iso_from_s
from ..core.part import Alarm
from ..host.backoff import Backoff
from ..journal import DAY_S
from ..journal.ranges import SampleRange, SampleRanges, numbers_of
from ..journal.records import Record
from .journals import NO_ANSWER, Inventory, Journals
from .stores import AwayError, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_PERIOD_S = 1.0
"""Write live samples this often."""
CHECK_PERIOD_S = 60.0
"""Ask every journal this often."""
TIDY_PERIOD_S = 3600.0
"""Tidy the store this often."""
FLUSH_AT = 1000
"""Write early once this many live samples are queued."""
MAX_LIVE = 5000
"""Queue at most this many live samples; fetch others from the journals later."""
MAX_JUMP = 100_000
"""Trust a number that is further ahead only after asking the device's journal."""
MAX_PAGES = 3
"""Fetched pages to buffer while a write is running."""
NOT_THERE = "the device's journal does not have it, or it cannot be read"
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 30.0
"""The first and the longest pause before an unavailable store is tried again."""
MAX_BUSY_S = 120.0
"""Alarm on a store that has not answered for this long (s)."""


class Replicator:
    """Keeps one store complete: live samples at once, missing ones from the journals.

    ``away``: why the store has been unavailable since ``away_since`` (Unix time); empty if it is
    available. ``due``: the devices whose journals must be asked. The recorder publishes
    ``written``, ``aside``, ``gone``, ``backlog`` (samples) and ``lag`` (s).
    """

    def __init__(
        self, store: Store[Any], journals: Journals, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.journals, self.clock = store, journals, clock
        self.due: set[str] = set()
        self.written = 0
        self.aside = store.aside()
        self.gone = sum(samples.samples for samples in store.gone())
        self.away = ""
        self.away_since = 0.0
        self._lag = 0.0
        self._live: list[Record] = []
        self._writing: list[Record] = []
        self._busy_since: float | None = None
        self._accepts = True
        self._newest: dict[tuple[str, str], int] = {}
        self._news: dict[str, tuple[float, str]] = {}
        self._wake = asyncio.Event()
        self._checked = self._tidied = -math.inf
        self._thread = ThreadPoolExecutor(1, f"store {store.name}")

    def hear(self, record: Record) -> None:
        """Queue a live sample. If samples before it are missing, mark the device as ``due``."""
        key = record.device, record.epoch
        newest = self._newest.get(key)
        if newest is None or record.seq != newest + 1:
            if newest is not None and record.seq <= newest:
                return
            self.due.add(record.device)
            if newest is not None and record.seq - newest > MAX_JUMP:
                return
        self._newest[key] = record.seq
        if self._accepts and len(self._live) < MAX_LIVE:
            self._live.append(record)
            if len(self._live) >= FLUSH_AT:
                self._wake.set()
        else:
            self.due.add(record.device)

    def poll_now(self) -> None:
        """Ask every journal at once instead of at the next check."""
        self._checked = -math.inf
        self._wake.set()

    async def run(self) -> None:
        """Keep the store complete until cancelled."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while True:
            try:
                await self._round()
                backoff.reset()
            except AwayError as error:
                self._is_away(str(error))
                await asyncio.sleep(backoff.next())
                self._accepts = True
                self._checked = -math.inf

    async def _round(self) -> None:
        try:
            async with asyncio.timeout(WRITE_PERIOD_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        await self._write([])
        now = time.monotonic()
        devices: set[str] | None = self.due
        if now - self._checked > CHECK_PERIOD_S:
            self._checked, devices = now, None
        if devices is None or devices:
            self.due = set()
            await self._ask(devices)
        if now - self._tidied > TIDY_PERIOD_S:
            self._tidied = now
            await self._do(self.store.tidy)

    async def _ask(self, devices: set[str] | None) -> None:
        """Complete all devices, or some, from the journals of the servers that answer."""
        answers = await self._meanwhile(self.journals.inventories(devices))
        found = [answer for answer in answers.values() if isinstance(answer, Inventory)]
        for inventory in found:  # all first, because fetching may take long
            self._know(inventory)
        if devices is None and len(found) == len(answers):
            # Forget epochs that no journal has any more.
            held = {samples[:2] for inventory in found for samples in inventory.held}
            self._newest = {key: last for key, last in self._newest.items() if key in held}
        await self._write([])
        for inventory in found:
            await self._complete(inventory)

    async def _meanwhile(self, asking: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer while writing live samples."""
        asked = asyncio.ensure_future(asking)
        try:
            while not (await asyncio.wait([asked], timeout=WRITE_PERIOD_S))[0]:
                await self._write([])
            return await asked
        finally:
            asked.cancel()

    async def noted(self) -> SampleRanges:
        """Return a copy of the samples that the store notes as stored."""
        noted: SampleRanges = await self._do(self.store.stored.copy)
        return noted

    def call(self, what: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the store, in the store's thread, from any other thread."""
        return self._thread.submit(what, *args).result()

    async def _do(self, what: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the store's thread. Any error there becomes an AwayError."""
        self._busy_since = self._busy_since or self.clock()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, what, *args)
        except AwayError:
            raise
        except Exception as error:
            log.exception("store %s failed", self.store.name)
            raise AwayError(f"{type(error).__name__}: {error}") from error
        finally:
            self._busy_since = None

    async def _write(self, rows: list[Any]) -> None:
        batch, self._live = self._live, []
        self._wake.clear()
        unique = {row[:3]: row for row in (*self.store.rows(batch), *rows)}
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
            log.warning("store %s is available again", self.store.name)
            self.away = ""

    def _is_away(self, reason: str) -> None:
        if not self.away:
            self.away_since = self.clock()
        if reason != self.away:
            log.warning("store %s is unavailable: %s", self.store.name, reason)
        self.away = reason
        self._accepts = False
        self._live = []

    def _know(self, inventory: Inventory) -> None:
        """Note the newest numbers of a journal, unless live samples are slightly ahead of it."""
        for samples in inventory.held:
            key = samples.device, samples.epoch
            if not samples.last <= self._newest.get(key, 0) <= samples.last + MAX_JUMP:
                self._newest[key] = samples.last

    async def _complete(self, inventory: Inventory) -> None:
        """Fetch the samples of a journal that the store does not have. Raises AwayError."""
        await self._settle(inventory.gone)
        for samples in inventory.held:
            known = SampleRanges([samples._replace(first=1)])
            for part in (known - self.store.stored).ranges():
                try:
                    await self._fetch(part, inventory)
                except NO_ANSWER as error:
                    log.debug(
                        "%s: %s does not return samples of %s: %r",
                        *(self.store.name, inventory.server, samples.device, error),
                    )
                    if not isinstance(error, (ApplicationError, ValueError)):
                        return  # its server or the router is unavailable: ask again later
                    break

    async def _fetch(self, samples: SampleRange, inventory: Inventory) -> None:
        """Fetch samples of a journal and write them. Pages are fetched during a write.

        Raises one of NO_ANSWER, or AwayError.
        """
        writing = asyncio.ensure_future(self._write([]))
        waiting: list[Sequence[Any]] = []
        first = samples.first
        try:
            async with aclosing(self.journals.pages(inventory.server, samples)) as pages:
                async for upto, records in pages:
                    waiting.append(self.store.rows(records))
                    if len(waiting) == MAX_PAGES or writing.done() or upto == samples.last:
                        await writing
                        fetched = samples._replace(first=first, last=upto, reason=NOT_THERE)
                        bring = self._bring(fetched, [*chain(*waiting)], inventory)
                        writing = asyncio.ensure_future(bring)
                        first = upto + 1
                        waiting = []
        except NO_ANSWER:
            await writing  # its AwayError matters more than the missing page
            raise
        finally:
            await asyncio.gather(writing, return_exceptions=True)
        await writing

    async def _bring(self, fetched: SampleRange, rows: list[Any], inventory: Inventory) -> None:
        """Write rows; samples that are still missing are lost if the journal is still the same.

        A journal that turns out to be damaged gets a new epoch, and is asked again.
        """
        await self._write(rows)
        if SampleRanges([fetched]) - self.store.stored:
            now = await self.journals.inventory(inventory.server, [fetched.device])
            if now.epoch != inventory.epoch:
                raise ConnectionError("its journal has a new epoch, and is asked again later")
            await self._settle([*now.gone, fetched])

    async def _settle(self, lost: list[SampleRange]) -> None:
        """Note that the store will never have lost samples, except those it already has."""
        gone = (SampleRanges(lost) - self.store.stored).explained(lost)
        if not gone or not await self._do(self.store.settle, gone):
            return
        for new in gone:
            said = f"samples {new.first} to {new.last} of {new.device} are lost: {new.reason}"
            self._news["gone"] = self.clock(), said
            self.gone += new.samples
            log.warning("store %s: %s (epoch %s)", self.store.name, said, new.epoch)

    @property
    def backlog(self) -> int:
        """The number of samples, in journals or received, that the store does not have yet."""
        known = SampleRanges(SampleRange(*key, 1, last) for key, last in self._newest.items())
        queued = numbers_of((*self._live, *self._writing))
        return len(known - self.store.stored - queued)

    @property
    def lag(self) -> float:
        """The delay (s) of the last written batch, or of the oldest queued sample until now."""
        waiting = self._late([*self._writing, *self._live])
        away = self.clock() - self.away_since if self.away else 0.0
        return max(self._lag, waiting, away)

    def _late(self, records: list[Record]) -> float:
        return self.clock() - min((record.time / 1000 for record in records), default=math.inf)

    def notices(self) -> list[Alarm]:
        """Return alarms about losses on the last day, rejected samples, and the store itself."""
        now, name = self.clock(), self.store.name
        found = [
            Alarm(f"{field}_{name}", "WARN", f"store {name}: {said}")
            for field, (when, said) in self._news.items()
            if now - when < DAY_S
        ]
        if self.aside:
            found += [
                Alarm(f"aside_{name}", "WARN", f"store {name}: {said}")
                for said in self.store.refusals()
            ]
        if self.store.warning:
            found.append(Alarm(f"gone_{name}", "WARN", f"store {name}: {self.store.warning}"))
        if self._busy_since is not None and now - self._busy_since > MAX_BUSY_S:
            said = f"store {name} has not answered since {iso_from_s(self._busy_since)[:19]}"
            found.append(Alarm(f"lag_{name}", "ERR", f"{said}: check its disk and its network"))
        if self.away:
            covered = self.journals.covered(now)
            since = now - self.away_since
            found.append(
                Alarm(
                    f"rate_{name}",
                    "ERR" if since > covered / 2 else "WARN",
                    f"store {name} has been unreachable since {iso_from_s(self.away_since)[:16]}; "
                    f"missing samples are kept in the journals ({covered / DAY_S:.1f} days): "
                    f"{self.away}",
                )
            )
        return found

    def close(self) -> None:
        """Wait for the current write, and close the store."""
        self._thread.submit(self.store.close)
        self._thread.shutdown()
