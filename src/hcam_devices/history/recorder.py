"""The recorder: stores every sample of every device in every store, exactly once.

It receives live telemetry (``listener.py``), and its replicators (``replicator.py``) fetch the
samples that a store does not have from the servers' journals.
"""

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

from .. import HcamError
from ..config.instrument import LOGGER, Entry, Instrument
from ..config.stores import (
    Embedded,
    Folder,
    InfluxDB,
    StoreSettings,
    elsewhere,
    embedded_folders,
    place,
)
from ..core.fields import Procedure, Readback, Value, rpc
from ..core.part import Alarm
from ..errors import NotAllowedError
from ..host.home import exclusive, home
from ..host.threads import ask, in_own_thread
from ..journal import DAY_S, Journal
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_named
from ..journal.ranges import SampleRanges
from ..wamp.server import Server, Task, until_told
from ..wamp.session import keep_joined
from ..wamp.uris import Address
from .archive import Moment, Reply, span
from .audit import Audit, Audited, Published, audit
from .copier import Copier
from .figures import Figures, names_of, with_stores
from .inventory import lost_between, readers
from .journals import Journals
from .listener import Listener
from .replicator import Replicator
from .stores import AwayError, Store
from .stores.embedded import EmbeddedStore
from .stores.line_protocol import LineStore
from .stores.lost import LostNotes
from .stores.tonight import GRACE_MS, PART_MS

log = logging.getLogger(__name__)

MAX_LOOKS = 50
"""Before an audit, wait up to this many times 0.1 s for the newest samples to be written."""
REMEMBER_PERIOD_S = 10.0
"""Check this often whether a journal has noted a loss."""
OPEN_PERIOD_S = 10.0
"""Try this often to open a store that could not be opened."""
ANSWER_WITHIN = 60.0
"""Timeout (s) of reading history, including the wait for other callers."""
CLOSE_PERIOD_S = 10.0
"""Look this often whether there is something to close."""
MAX_OPEN = 500_000
"""Close after so many new samples, without waiting for the next part."""
DISK_WITHIN = 2.0
"""Timeout (s) of reading the free space of a disk."""


class Recorder(Figures):
    """The recorder: its rate, its disks, and how complete each store is."""

    def __init__(
        self,
        name: str,
        *,
        replicators: list[Replicator],
        journals: Journals,
        folder: Path,
        stores: Mapping[str, StoreSettings],
        copiers: Sequence[Copier] = (),
        **settings: Any,
    ) -> None:
        self.replicators, self.journals, self.copiers = replicators, journals, copiers
        self.folder, self.stores = folder, stores
        self.unopened: dict[str, str] = {}
        """Why a store could not be opened yet, by store."""
        self._counted: dict[str, tuple[float, int]] = {}
        self._remembered: set[Lost] = set()
        self._closing = asyncio.Lock()
        self._closed: dict[str, tuple[int, int]] = {}
        """By store: when files were last closed (in parts), and how many samples it had then."""
        self._repairing: asyncio.Task[None] | None = None
        super().__init__(name, **settings)
        self.listener = Listener(replicators, journals, self.clock)

    def _embedded(self) -> Iterator[EmbeddedStore]:
        stores = (replicator.store for replicator in self.replicators)
        return (store for store in stores if isinstance(store, EmbeddedStore))

    # --- procedures -------------------------------------------------------------------------

    @rpc(read_only=True)
    async def history(
        self,
        field: str,
        last: str | None = None,
        start: Moment | None = None,
        end: Moment | None = None,
        points: int = 1000,
    ) -> Reply:
        """Return min, mean, max and last of a field (ccd1.temperature) in equal pieces of time."""
        asked = span(round(self.clock() * 1000), last, start, end)
        reply: Reply = await self._look("history", field, *asked, points)
        return reply

    @rpc(read_only=True, label="Samples")
    async def raw(self, field: str, start: Moment, end: Moment) -> Reply:
        """Return samples of a field as recorded, and the start of the next page."""
        asked = span(round(self.clock() * 1000), None, start, end)
        reply: Reply = await self._look("raw", field, *asked)
        return reply

    @rpc(read_only=True, label="Commands")
    async def commands(
        self,
        device: str | None = None,
        last: str | None = None,
        start: Moment | None = None,
        end: Moment | None = None,
    ) -> Reply:
        """Return the commands to a device, or to all, and the start of the next page."""
        asked = span(round(self.clock() * 1000), last, start, end)
        reply: Reply = await self._look("commands", device, *asked)
        return reply

    async def recorded(self) -> dict[str, dict[str, str]]:
        """Return the unit of every recorded field, by device and name."""
        fields: dict[str, dict[str, str]] = await self._look("fields")
        return fields

    def procedures(self) -> dict[str, Procedure]:
        """Return the procedures of a device, ``fields``, which lists these, and ``close``."""
        more = {
            "fields": Procedure(self.recorded, read_only=True),
            "close": Procedure(self.close_night),
        }
        return super().procedures() | more

    async def _look(self, method: str, *args: Any) -> Any:
        """Read history from the files of a store, in another process, for one caller at a time.

        Raises NotAllowedError if no store has files here, OSError if they cannot be read now.
        """
        for store in self._embedded():
            work = store.child.ask, method, *args
            try:
                return await ask(f"the folder {store.folder}", *work, within=ANSWER_WITHIN)
            except AwayError as error:
                raise ConnectionError(str(error)) from None
        for name, reason in self.unopened.items():
            if isinstance(self.stores[name], Embedded):
                raise ConnectionError(f"store {name}: {reason}")
        raise NotAllowedError(elsewhere(self.stores))

    # --- closing ----------------------------------------------------------------------------

    async def close_night(self, night: str = "") -> list[str]:
        """Write what there is of a night (default: tonight) into its files; return the troubles."""
        night = night_named(night or "tonight", round(self.clock() * 1000))
        night_bounds(night)  # raises ValueError
        return [
            trouble
            for replicator in self.replicators
            for trouble in await self._close(replicator, night)
        ]

    async def _close(self, replicator: Replicator, night: str = "") -> list[str]:
        store = replicator.store
        if not isinstance(store, EmbeddedStore):
            return []
        async with self._closing:
            troubles = await in_own_thread(store.close_nights, night, replicator.call)
        for copier in self.copiers:
            copier.poll_now()
        return troubles

    async def close_nights(self, name: str) -> None:
        """Close the parts and nights of a store when they are over."""
        while True:
            await self.close_due(name)
            await asyncio.sleep(CLOSE_PERIOD_S)

    async def close_due(self, name: str) -> None:
        """Close what is due in a store, once for each part, or after MAX_OPEN new samples."""
        for replicator in self.replicators:
            part = int(self.clock() * 1000 - GRACE_MS) // PART_MS
            before, written = self._closed.get(name, (-1, 0))
            large = replicator.written - written > MAX_OPEN
            if replicator.store.name == name and (part != before or large):
                self._closed[name] = part, replicator.written
                try:
                    await self._close(replicator)
                except (AwayError, OSError, ValueError) as error:
                    log.warning("store %s closes no files now: %s", name, error)

    # --- figures and alarms -----------------------------------------------------------------

    async def read(self, field: Readback) -> Value | None:
        """Return one figure. Raises ValueError if its store or its disk is unavailable."""
        if field.name == "heard":
            return self._rate("heard", self.listener.heard)
        if field.name == "disk":
            folders = {
                self.folder,
                *(place(settings, self.folder) for settings in self.stores.values()),
            }
            try:
                free = [
                    await ask(f"the disk of {folder}", _free, folder, within=DISK_WITHIN)
                    for folder in folders
                ]
            except OSError as error:
                raise ValueError(str(error)) from None  # a hung disk does not end the connection
            return min(free) / 1e9
        name, _, store = field.name.partition("_")
        if store in self.unopened:
            if name == "rate":
                raise ValueError(f"store {store} is not open yet: {self.unopened[store]}")
            return None
        for copier in self.copiers:
            if copier.name == store:
                return float(copier.backlog)
        replicator = next(each for each in self.replicators if each.store.name == store)
        if name == "rate":
            return self._rate(store, replicator.written)
        return float(getattr(replicator, name))  # lag, backlog, aside or gone, see ``with_stores``

    def _rate(self, name: str, count: int) -> float:
        now = time.monotonic()
        before, counted = self._counted.get(name, (now - self.poll_every, 0))
        self._counted[name] = now, count
        return (count - counted) / max(now - before, 1e-3)

    @rpc(read_only=True)
    async def audit(self, night: str = "") -> dict[str, Any]:
        """Compare what was published in a night (2026-11-22) with what each store has."""
        night = night_named(night or "tonight", round(self.clock() * 1000))
        start, end = (time / 1000 for time in night_bounds(night))
        published = await self.journals.published(start, end)
        for device in self.listener.unexplained():
            published.setdefault(device, Published(silent="no journal has its epoch"))
        await self._until_written(published)
        for note in await in_own_thread(lost_between, self.stores, self.folder, start, end):
            said = published.setdefault(note.device, Published())
            if note.since not in {other.since for other in said.lost}:
                said.lost.append(note)
        for said in published.values():
            said.lost = await self.journals.not_kept_here(said.lost)
        noted = {replicator.store.name: await replicator.noted() for replicator in self.replicators}

        def compare() -> Audit:
            found = readers(self.stores, self.folder, night, noted)
            return audit(night, published, found, self.clock())

        result = await in_own_thread(compare)
        wrong = [one for one in result.stores if one.troubles or one.total("altered", "missing")]
        if wrong and (self._repairing is None or self._repairing.done()):
            self._repairing = asyncio.create_task(self._repair(night, wrong))
        return result.model_dump()

    async def _repair(self, night: str, stores: list[Audited]) -> None:
        """Fetch the samples again that an audit did not find, or that differ from the journals."""
        for copier in self.copiers:
            if copier.name in {store.name for store in stores}:
                await in_own_thread(copier.verify, night)
        for store, replicator in product(stores, self.replicators):
            kept = replicator.store
            if kept.name != store.name or not isinstance(kept, EmbeddedStore):
                continue  # rows of databases cannot be replaced
            try:
                await in_own_thread(replicator.call, kept.check, night)
                if store.wrong:
                    await in_own_thread(kept.repair, store.wrong, replicator.call)
            except (AwayError, OSError, ValueError) as error:
                log.warning(
                    "store %s was not repaired, the next audit will try again: %s",
                    store.name,
                    error,
                )
            replicator.poll_now()

    async def remember_lost(self) -> None:
        """Note the losses in the journals, which will forget them, beside each store."""
        while True:
            if new := self.journals.lost - self._remembered:
                for settings in self.stores.values():
                    notes = LostNotes(place(settings, self.folder))
                    await in_own_thread(notes.add, new)
                self._remembered |= new
            await asyncio.sleep(REMEMBER_PERIOD_S)

    async def _until_written(self, published: dict[str, Published]) -> None:
        """Wait until the stores have written the newest samples, for a limited time."""
        held = SampleRanges()
        for said in published.values():
            held |= said.held
        stores = [replicator.store for replicator in self.replicators if not replicator.away]
        for _ in range(MAX_LOOKS):
            if not any(held - store.stored for store in stores):
                break
            await asyncio.sleep(0.1)

    def notices(self) -> list[Alarm]:
        """Return alarms about samples that are not recorded or not stored."""
        found = self.listener.notices()
        lost = [note for note in self.journals.lost if self.clock() - note.until < DAY_S]
        if lost:
            newest = max(lost, key=attrgetter("until"))
            others = len({note.device for note in lost}) - 1
            more = (
                f"; and of {others} other device{'s' * (others > 1)}: see hcam audit"
                if others
                else ""
            )
            found.append(Alarm("disk", "ERR", f"{newest}{more}"))
        for replicator in self.replicators:
            found += replicator.notices()
        for copier in self.copiers:
            found += copier.notices()
        return found


def recorder_for(stores: Mapping[str, StoreSettings]) -> type[Recorder]:
    """Return the class of the recorder of an instrument."""
    return with_stores(Recorder, *names_of(stores))


def entry_of(instrument: Instrument, **parts: Any) -> Entry:
    """Return the recorder as a device of an instrument; without ``parts`` it is idle."""
    idle = {"replicators": [], "journals": Journals({}), "folder": Path(), "stores": {}}
    return Entry("recorder", recorder_for(instrument.stores), LOGGER, (), idle | parts)


def _free(folder: Path) -> float:
    """Return the free bytes on the disk of a folder; infinity if the folder does not exist."""
    try:
        return float(shutil.disk_usage(folder).free)
    except FileNotFoundError:
        return math.inf


def open_store(name: str, settings: StoreSettings, folder: Path) -> Store[Any]:
    """Return the store that a table ``[stores.NAME]`` describes; ``folder`` is the home.

    Raises AwayError if its files cannot be used.
    """
    where = place(settings, folder)
    if isinstance(settings, Embedded):
        return EmbeddedStore(name, where, keep_days=settings.keep_days)
    assert isinstance(settings, InfluxDB)  # noqa: S101  (the other kind gets copies of files)
    return LineStore(name, settings, where)


def serve(instrument: Instrument, address: Address) -> None:
    """Run the recorder in this process until SIGINT or SIGTERM."""
    folder = home()
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder / "locks", "history"))
        journals = Journals({entry.name: entry.server for entry in instrument.entries.values()})
        replicators: list[Replicator] = []
        unopened: dict[str, str] = {}
        sources = embedded_folders(instrument.stores, folder)
        copiers = [
            Copier(name, settings.folder, sources[0], folder / "stores" / f"{name}.folder")
            for name, settings in instrument.stores.items()
            if isinstance(settings, Folder)
        ]
        stores = [name for name in instrument.stores if name not in {one.name for one in copiers}]

        def try_open(name: str) -> None:
            try:
                replicator = Replicator(open_store(name, instrument.stores[name], folder), journals)
            except AwayError as error:
                unopened[name] = str(error)
            else:
                store = replicator.store
                if isinstance(store, EmbeddedStore) and store.folder == sources[0]:
                    store.copies = lambda: [one.folder for one in copiers if not one.away]
                stack.callback(replicator.close)
                replicators.append(replicator)
                unopened.pop(name, None)

        for name in stores:
            try_open(name)
        if not replicators:
            raise HcamError("\n".join(f"store {name}: {why}" for name, why in unopened.items()))

        async def keep(name: str) -> None:
            """Keep a store complete, once it can be opened."""
            while name in unopened:
                await asyncio.sleep(OPEN_PERIOD_S)
                await in_own_thread(try_open, name)
            (replicator,) = (each for each in replicators if each.store.name == name)
            replicator.poll_now()
            await replicator.run()

        parts = {
            "replicators": replicators,
            "journals": journals,
            "folder": folder,
            "stores": instrument.stores,
            "copiers": copiers,
        }
        entry = entry_of(instrument, **parts)

        def beside(server: Server, journal: Journal) -> dict[str, Task]:
            recorder = server.devices["recorder"]
            assert isinstance(recorder, Recorder)  # noqa: S101  (built from the entry above)
            recorder.unopened = unopened
            journals.own = journal
            recorder.listener.remember_names(journal.devices())
            return {
                "telemetry": lambda: keep_joined(
                    address, recorder.listener.follow, owner=server.owner
                ),
                "lost samples": recorder.remember_lost,
                **{f"store {name}": partial(keep, name) for name in stores},
                **{f"store {copier.name}": copier.run for copier in copiers},
                **{
                    f"closing {name}": partial(recorder.close_nights, name)
                    for name, settings in instrument.stores.items()
                    if isinstance(settings, Embedded)
                },
            }

        server = Server(LOGGER, [entry], address, folder, emulate=False, beside=beside)
        log.info("%s records into %s", LOGGER, ", ".join(instrument.stores))
        asyncio.run(until_told(server))
