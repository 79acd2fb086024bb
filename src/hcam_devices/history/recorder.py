"""The recorder: stores every sample of every device in every store, exactly once.

It receives live telemetry (``listener.py``), and its replicators (``replicator.py``) fetch the
samples that a store does not have from the servers' journals.
"""

import asyncio
import gc
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from .. import HcamError
from ..config.instrument import LOGGER, Entry, Instrument
from ..config.stores import Embedded, InfluxDB, StoreSettings, place
from ..core.device import Device
from ..core.fields import Procedure, Readback, Value, rpc
from ..core.link import Lasting
from ..core.part import Alarm
from ..core.threads import ask, in_own_thread
from ..errors import NotAllowedError
from ..host.home import exclusive, home
from ..journal import DAY_S, Journal
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_of
from ..journal.ranges import SampleRange, SampleRanges
from ..wamp.server import Server, Task, until_told
from ..wamp.session import keep_joined
from ..wamp.uris import Address
from .archive import Archive, Moment, Reply, elsewhere, span
from .audit import ALTERED, Audit, Audited, Published, audit
from .inventory import lost_between, readers
from .journals import NO_ANSWER, Journals
from .listener import Listener
from .replicator import Replicator
from .stores import AwayError, Store
from .stores.embedded import EmbeddedStore
from .stores.line_protocol import LineStore
from .stores.lost import LostNotes
from .stores.nights import NightFiles

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_LOOKS = 50
"""Before an audit, wait up to this many times 0.1 s for the newest samples to be written."""
REMEMBER_PERIOD_S = 10.0
"""Check this often whether a journal has noted a loss."""
OPEN_PERIOD_S = 10.0
"""Try this often to open a store that could not be opened."""
ANSWER_WITHIN = 60.0
"""Timeout (s) of reading history, including the wait for other callers."""
DISK_WITHIN = 2.0
"""Timeout (s) of reading the free space of a disk."""


class Recorder(Device):
    """The recorder: its rate, its disks, and how complete each store is."""

    link_type = Lasting
    poll_every = 5.0

    heard = Readback(unit="1 / s", doc="Telemetry events per second that the recorder receives.")
    disk = Readback(
        unit="GB",
        healthy=(2, math.inf),
        doc="Free space on the fullest disk of the history.",
    )

    def __init__(
        self,
        name: str,
        *,
        replicators: list[Replicator],
        journals: Journals,
        folder: Path,
        stores: Mapping[str, StoreSettings],
        **settings: Any,
    ) -> None:
        self.replicators, self.journals = replicators, journals
        self.folder, self.stores = folder, stores
        self.unopened: dict[str, str] = {}
        """Why a store could not be opened yet, by store."""
        self._counted: dict[str, tuple[float, int]] = {}
        self._remembered: set[Lost] = set()
        self._repairing: asyncio.Task[None] | None = None
        super().__init__(name, **settings)
        self.listener = Listener(replicators, journals, self.clock)

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
        return await self._look(lambda archive: archive.history(field, *asked, points))

    @rpc(read_only=True, label="Samples")
    async def raw(self, field: str, start: Moment, end: Moment) -> Reply:
        """Return samples of a field as recorded, and the start of the next page."""
        asked = span(round(self.clock() * 1000), None, start, end)
        return await self._look(lambda archive: archive.raw(field, *asked))

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
        return await self._look(lambda archive: archive.commands(device, *asked))

    async def recorded(self) -> dict[str, dict[str, str]]:
        """Return the unit of every recorded field, by device and name."""
        return await self._look(lambda archive: archive.fields())

    def procedures(self) -> dict[str, Procedure]:
        """Return the procedures of a device, and ``fields``, which lists the recorded fields."""
        return super().procedures() | {"fields": Procedure(self.recorded, read_only=True)}

    async def _look(self, how: Callable[[Archive], T]) -> T:
        """Read history from the files of a store, for one caller at a time.

        Raises NotAllowedError if no store has files here, OSError if they cannot be read now.
        """
        for replicator in self.replicators:
            if isinstance(replicator.store, EmbeddedStore):
                folder = replicator.store.folder
                archive = Archive(NightFiles(folder))
                try:
                    return await ask(f"the folder {folder}", how, archive, within=ANSWER_WITHIN)
                except AwayError as error:
                    raise ConnectionError(str(error)) from None
        for name, reason in self.unopened.items():
            if isinstance(self.stores[name], Embedded):
                raise ConnectionError(f"store {name}: {reason}")
        raise NotAllowedError(elsewhere(self.stores))

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
        replicator = next(each for each in self.replicators if each.store.name == store)
        if name == "rate":
            return self._rate(store, replicator.written)
        return float(getattr(replicator, name))  # lag, backlog, aside or gone, see ``recorder_of``

    def _rate(self, name: str, count: int) -> float:
        now = time.monotonic()
        before, counted = self._counted.get(name, (now - self.poll_every, 0))
        self._counted[name] = now, count
        return (count - counted) / max(now - before, 1e-3)

    @rpc(read_only=True)
    async def audit(self, night: str = "") -> dict[str, Any]:
        """Compare what was published in a night (2026-11-22) with what each store has."""
        night = night or night_of(round(self.clock() * 1000))
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
        altered = [store for store in result.stores if store.total("altered")]
        if altered and (self._repairing is None or self._repairing.done()):
            self._repairing = asyncio.create_task(self._repair(altered))
        return result.model_dump()

    async def _repair(self, stores: list[Audited]) -> None:
        """Fetch the samples again that differ from the journals according to an audit."""
        for store in stores:
            (replicator,) = (each for each in self.replicators if each.store.name == store.name)
            assert isinstance(replicator.store, EmbeddedStore)  # noqa: S101  (only these are compared)
            altered = SampleRanges(
                SampleRange(finding.device, finding.epoch, finding.first, finding.last)
                for finding in store.findings
                if finding.cause == ALTERED
            )
            try:
                await replicator.repair(replicator.store.replace, altered)
            except (*NO_ANSWER, AwayError) as error:
                log.warning(
                    "store %s was not repaired, the next audit will try again: %s",
                    store.name,
                    error,
                )

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
        return found


def recorder_of(stores: Iterable[str]) -> type[Recorder]:
    """Return the class of the recorder, with the figures of some stores."""
    declared: dict[str, Any] = {}
    for store in stores:
        declared |= {
            f"rate_{store}": Readback(unit="1 / s", doc=f"Samples per second stored in {store}."),
            f"lag_{store}": Readback(unit="s", doc=f"Delay until a sample is in {store}."),
            f"backlog_{store}": Readback(doc=f"Samples that {store} does not have yet."),
            f"aside_{store}": Readback(doc=f"Samples that {store} has rejected."),
            f"gone_{store}": Readback(doc=f"Samples that {store} will never have."),
        }
    return type(
        "Recorder", (Recorder,), {"__module__": __name__, "__doc__": Recorder.__doc__} | declared
    )


def entry_of(instrument: Instrument, **parts: Any) -> Entry:
    """Return the recorder as a device of an instrument; without ``parts`` it is idle."""
    idle = {"replicators": [], "journals": Journals({}), "folder": Path(), "stores": {}}
    return Entry("recorder", recorder_of(instrument.stores), LOGGER, (), idle | parts)


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
    if isinstance(settings, InfluxDB):
        return LineStore(name, settings, where)
    return EmbeddedStore(name, where, raw_days=settings.raw_days)


def serve(instrument: Instrument, address: Address) -> None:
    """Run the recorder in this process until SIGINT or SIGTERM."""
    folder = home()
    gc.set_threshold(100_000)  # a page of samples is many objects without cycles
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder / "locks", "history"))
        journals = Journals({entry.name: entry.server for entry in instrument.entries.values()})
        replicators: list[Replicator] = []
        unopened: dict[str, str] = {}

        def try_open(name: str) -> None:
            try:
                replicator = Replicator(open_store(name, instrument.stores[name], folder), journals)
            except AwayError as error:
                unopened[name] = str(error)
            else:
                stack.callback(replicator.close)
                replicators.append(replicator)
                unopened.pop(name, None)

        for name in instrument.stores:
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
                **{f"store {name}": partial(keep, name) for name in instrument.stores},
            }

        server = Server(LOGGER, [entry], address, folder, emulate=False, beside=beside)
        log.info("%s records into %s", LOGGER, ", ".join(instrument.stores))
        asyncio.run(until_told(server))
