"""The recorder: brings every sample of every device home to every store, each exactly once.

It hears telemetry as it is published; its replicators (``replicator.py``) fetch what a store lacks.
Telemetry of other programs, without numbers, goes through a journal of the recorder's own.
"""

import asyncio
import gc
import logging
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import SubscribeOptions

from .. import HcamError
from ..config.instrument import Entry, Instrument
from ..config.stores import Embedded, InfluxDB, StoreSettings, place
from ..core.device import Device, utc
from ..core.fields import Procedure, Readback, Value, rpc
from ..core.link import Local
from ..core.part import Alarm
from ..errors import NotAllowedError
from ..host.home import claim, home
from ..journal import DAY, Journal
from ..journal.points import MAX_FIELDS, Point, flatten, milliseconds, night_bounds, night_of
from ..journal.ranges import SampleRange, SampleRanges
from ..wamp import uris
from ..wamp.owners import Owners
from ..wamp.server import Server, Task, until_told
from ..wamp.session import Session, keep_joined
from ..wamp.uris import Address
from .archive import Archive, Moment, Reply, elsewhere, span
from .audit import ALTERED, Audit, Audited, Published, audit
from .inventory import lost_between, readers
from .replicator import NO_ANSWER, Journals, Replicator
from .stores import AwayError, Store
from .stores.embedded import EmbeddedStore
from .stores.line_protocol import LineStore
from .stores.lost import Lost, LostNotes
from .stores.nights import History

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_AGAIN = 50
"""Times, 0.1 s apart, for what has only just been published to be written before an audit."""
UNKEPT_FOR = 60.0
"""Seconds for which it is an alarm that something could not be kept; then it is a lost sample."""
MAX_APART_S = 120.0
"""Between the time of a live sample and this machine's clock; a telescope takes half a minute."""
REMEMBER_EVERY = 10.0
"""Seconds between looks whether a journal has said that something is lost."""
OPEN_EVERY = 10.0
"""Seconds between attempts to open a store that could not be opened at the start."""
MAX_FOREIGN_NAMES = 100
"""Names without an owner, such as the autoguider's, under which telemetry is recorded."""
MAX_UNDECIDED = 1000
"""Samples kept while the router is asked who owns their names."""
MAX_CULPRITS = 100
"""Sessions and names that are counted one by one among those that are not recorded."""
MAX_BITS = 1023
"""Of a number: a double has no more, and Python writes no more than 4300 digits."""


@dataclass
class Refusal:
    """Samples that were not recorded: who published them, when (Unix time), and how many."""

    who: str
    since: float
    until: float = 0.0
    count: int = 0


class Recorder(Device):
    """What the recorder hears, and how complete each store is."""

    link_type = Local
    poll_every = 5.0

    heard = Readback(
        unit="1 / s", doc="Number of telemetry events that the recorder hears in a second."
    )
    disk = Readback(
        unit="GB",
        healthy=(2, math.inf),
        doc="Space left on the fullest disk on which history is kept.",
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
        """Why a store could not be opened yet, by its name."""
        self._counted: dict[str, tuple[float, int]] = {}
        self._heard = 0
        self._foreign: dict[str, dict[str, Any]] = {}
        # Of their own: who asks for much must not hold up who records.
        self._lookers = ThreadPoolExecutor(2, "history")
        self._unkept, self._unkept_at = "", 0.0
        self._cut: set[str] = set()
        self._apart: dict[str, tuple[float, float]] = {}
        self.owners = Owners()
        self._undecided: set[asyncio.Task[None]] = set()
        self._refused: dict[tuple[str, int | None], Refusal] = {}
        self._names: set[str] = set()
        self._unrecorded: set[str] = set()
        self._nameless = 0
        self._unasked = ""
        self._remembered: set[Lost] = set()
        self._digesting = asyncio.Semaphore(1)  # a night of a device takes a server a second
        super().__init__(name, **settings)

    # --- what is heard ----------------------------------------------------------------------

    async def follow(self, session: Session) -> None:
        """Hear every device, and complete what was missed before."""
        await self.owners.follow(session)
        await session.subscribe(
            self._hear,
            uris.ALL_TELEMETRY,
            SubscribeOptions(match="wildcard", details_arg="_event"),
        )
        self.journals.session = session
        await session.subscribe(self._ask_all, uris.ALL_STATUS, SubscribeOptions(match="wildcard"))
        self._ask_all()

    def _ask_all(self, *_: Any, **__: Any) -> None:
        """Ask every journal now: the network has come back, or a server."""
        for replicator in self.replicators:
            replicator.hurry()

    def _hear(self, *args: Any, _event: Any, **named: Any) -> None:
        self._heard += 1
        name, publisher = uris.device_of(_event.topic), _event.publisher
        sample, rest = dict(named), list(args)
        if args and isinstance(args[0], dict):
            sample = rest.pop(0) | sample
        if rest:
            sample.setdefault("value", rest)
        if sample.get("seq", 0) is None and sample.get("timestamp", 0) is None:
            return  # the testament of a server: it says that nothing is known
        owner = self.owners.known.get(name)
        if publisher is not None and publisher == owner:
            self._hear_device(name, sample)
        elif (name, publisher) in self.owners.strangers and name in self.owners.known:
            self._hear_stranger(name, publisher, owner, sample)
        elif len(self._undecided) < MAX_UNDECIDED:
            self._decide(self._ask_owner(name, publisher, sample))
        else:
            self._refuse(name, publisher)

    def _decide(self, work: Coroutine[Any, Any, None]) -> None:
        """Ask the router something, and act upon it, while more is heard."""
        asking = asyncio.create_task(work)
        self._undecided.add(asking)
        asking.add_done_callback(self._undecided.discard)

    async def _ask_owner(self, name: str, publisher: int | None, sample: dict[Any, Any]) -> None:
        """Take in a sample when the router has said who owns the name it was published under."""
        try:
            owner = await self.owners.owner(name)
        except NO_ANSWER as error:
            self._unasked = f"{type(error).__name__}: {error}"
            self._fetch(name)
            return
        self._unasked = ""
        if publisher is not None and publisher == owner:
            self._hear_device(name, sample)
        else:
            if len(self.owners.strangers) < MAX_UNDECIDED:
                self.owners.strangers.add((name, publisher))
            self._hear_stranger(name, publisher, owner, sample)

    def _hear_stranger(
        self, name: str, publisher: int | None, owner: int | None, sample: dict[Any, Any]
    ) -> None:
        """Record what a session says under a name that nobody owns; refuse it under any other."""
        if owner is not None or self.journals.knows(name):
            self._refuse(name, publisher)
        elif name in self._names or len(self._names) < MAX_FOREIGN_NAMES:
            self._names.add(name)
            self._hear_foreign(name, sample)
        else:
            self._nameless += 1
            if len(self._unrecorded) < MAX_UNDECIDED:
                self._unrecorded.add(name)

    def _refuse(self, name: str, publisher: int | None) -> None:
        """Count a sample that another session has published than that of its device."""
        key, now = (name, publisher), self.clock()
        if key not in self._refused:
            self._fetch(name)
            if len(self._refused) >= MAX_CULPRITS:
                key = "other names", None
            else:
                self._decide(self._identify(key))
        refusal = self._refused.setdefault(key, Refusal(f"session {publisher}", now))
        refusal.count, refusal.until = refusal.count + 1, now

    async def _identify(self, key: tuple[str, int | None]) -> None:
        self._refused[key].who = await self.owners.describe(key[1])
        log.warning("telemetry of %s by %s is not recorded", key[0], self._refused[key].who)

    def _fetch(self, name: str) -> None:
        """Have what a device has published fetched from its journal."""
        if name in self.journals.devices:
            for replicator in self.replicators:
                replicator.due.add(name)

    def _hear_device(self, device: str, sample: dict[Any, Any]) -> None:
        """Take in what the owner of a name says of the device of that name."""
        try:
            point = flatten(sample)
            if point.device != device:
                raise ValueError(f"{point.device} speaks as {device}")
        except (ValueError, TypeError):
            self._hear_foreign(device, sample)
            return
        if (device, point.epoch) in self.journals.epochs:
            self._pass_on(point)
        else:  # no epoch is believed that no journal has
            self.journals.devices.add(device)
            self._fetch(device)

    def remember_names(self, recorded: Iterable[str]) -> None:
        """Count the names that the recorder's own journal has among those that are recorded."""
        self._names.update(name for name in recorded if not self.journals.knows(name))

    def _hear_foreign(self, device: str, sample: dict[Any, Any]) -> None:
        """Give numbers to what another program says, or a device whose journal is full.

        What it says where our samples have their header is kept as ``said.epoch`` and so on.
        """
        said = {str(k): _plain(v) for k, v in sample.items()}
        if said.get("device") == device:
            del said["device"]
        for key in ("device", "seq", "epoch"):
            if (own := said.pop(key, None)) is not None:
                said[f"said.{key}"] = own
        try:
            milliseconds(said["timestamp"])
        except (KeyError, TypeError, ValueError):
            if (own := said.pop("timestamp", None)) is not None:
                said["said.timestamp"] = own
            said["timestamp"] = utc(self.clock())
        else:
            if said == self._foreign.get(device):
                return  # said once more, when the router had come back
        try:
            numbered = self.journals.own.append({"device": device} | said)
        except (sqlite3.Error, ValueError) as error:
            self._unkept, self._unkept_at = f"{device}: {error}", self.clock()
            log.error("telemetry without numbers is not being kept: %s", self._unkept)
        else:
            self._unkept = ""
            self._foreign[device] = said
            self._pass_on(flatten(numbered))

    def _pass_on(self, point: Point) -> None:
        self.journals.devices.add(point.device)
        apart = point.time / 1000 - self.clock()
        if abs(apart) > MAX_APART_S:
            self._apart[point.device] = self.clock(), apart
        if len(point.values) >= MAX_FIELDS:
            self._cut.add(point.device)
        for replicator in self.replicators:
            replicator.hear(point)

    # --- what is asked of it ----------------------------------------------------------------

    @rpc(read_only=True)
    async def history(
        self,
        field: str,
        last: str | None = None,
        start: Moment | None = None,
        end: Moment | None = None,
        points: int = 1000,
    ) -> Reply:
        """Return the min, mean, max and last of a field (ccd1.temperature) in equal pieces."""
        asked = span(round(self.clock() * 1000), last, start, end)
        return await self._look(lambda archive: archive.history(field, *asked, points))

    @rpc(read_only=True, label="Samples")
    async def raw(self, field: str, start: Moment, end: Moment) -> Reply:
        """Return samples of a field as they were recorded, and where those after begin."""
        asked = span(round(self.clock() * 1000), None, start, end)
        return await self._look(lambda archive: archive.raw(field, *asked))

    async def recorded(self) -> dict[str, dict[str, str]]:
        """Return the unit of every field of which there is history, by device and name."""
        return await self._look(lambda archive: archive.fields())

    def procedures(self) -> dict[str, Procedure]:
        """Return what may be called; ``fields`` is what is recorded."""
        return super().procedures() | {"fields": Procedure(self.recorded, read_only=True)}

    async def _look(self, how: Callable[[Archive], T]) -> T:
        """Read history in a thread. Raises NotAllowedError if it is not kept here."""
        for replicator in self.replicators:
            if isinstance(replicator.store, EmbeddedStore):
                work = partial(how, Archive(History(replicator.store.folder)))
                try:
                    return await asyncio.get_running_loop().run_in_executor(self._lookers, work)
                except AwayError as error:
                    raise ConnectionError(str(error)) from None
        for name, reason in self.unopened.items():
            if isinstance(self.stores[name], Embedded):
                raise ConnectionError(f"store {name}: {reason}")
        raise NotAllowedError(elsewhere(self.stores))

    # --- what it says -----------------------------------------------------------------------

    async def read(self, field: Readback) -> Value | None:
        """Return one figure. Raises ValueError if its store is not open."""
        if field.name == "heard":
            return self._rate("heard", self._heard)
        if field.name == "disk":
            places = [place(one, self.folder) for one in self.stores.values()]
            there = [self.folder, *(one for one in places if one.exists())]
            return min(shutil.disk_usage(one).free for one in there) / 1e9
        name, _, store = field.name.partition("_")
        if store in self.unopened:
            if name == "rate":
                raise ValueError(f"store {store} is tried again: {self.unopened[store]}")
            return None
        replicator = next(one for one in self.replicators if one.store.name == store)
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
        await self.journals.find()
        devices = sorted(self.journals.devices)
        answers = await asyncio.gather(*(self._published(one, start, end) for one in devices))
        published = dict(zip(devices, answers, strict=True))
        await self._until_written(published)
        for one in await asyncio.to_thread(lost_between, self.stores, self.folder, start, end):
            said = published.setdefault(one.device, Published())
            if one.since not in {other.since for other in said.lost}:
                said.lost.append(one)
        for device, said in published.items():
            said.lost = [one for one in said.lost if not await self._kept_here(device, one)]
        noted = {replicator.store.name: await replicator.noted() for replicator in self.replicators}

        def compare() -> Audit:
            found = readers(self.stores, self.folder, night, noted)
            return audit(night, published, found, self.clock())

        result = await asyncio.to_thread(compare)
        if altered := [one for one in result.stores if one.total("altered")]:
            self._decide(self._repair(altered))
        return result.model_dump()

    async def _repair(self, stores: list[Audited]) -> None:
        """Fetch again what an audit has found to differ from the journals."""
        for store in stores:
            (replicator,) = (one for one in self.replicators if one.store.name == store.name)
            assert isinstance(replicator.store, EmbeddedStore)  # noqa: S101  (no other is compared)
            for one in store.findings:
                if one.cause == ALTERED:
                    try:
                        await replicator.repair(
                            replicator.store.replace, one.device, one.epoch, one.first, one.last
                        )
                    except (*NO_ANSWER, AwayError) as error:
                        log.warning("%s is not repaired, but by the next audit: %s", one, error)

    async def _published(self, device: str, start: float, end: float) -> Published:
        found = Published()
        try:
            found.epochs = set()
            for held in await self.journals.holdings(device, certain=True):
                found.epochs.add(held.epoch)
                found.epochs.update(one.epoch for one in held.epochs)
                found.epochs.update(one.epoch for one in held.gone)
            for held in await self.journals.holdings(device, start, end, certain=True):
                found.lost += held.lost
                found.held |= SampleRanges(
                    SampleRange(device, one.epoch, one.first, one.last) for one in held.epochs
                )
                found.gone += held.gone_of(device)
                if held.salvaging:
                    own = held.epoch == self.journals.own.epoch
                    whose = "the recorder's own" if own else "its"
                    found.silent = f"{whose} journal was damaged and is being restored: ask later"
            async with self._digesting:
                for _, epoch, first, last, _ in found.held.ranges():
                    packed = await self.journals.digests(device, epoch, first, last)
                    found.digests.append((epoch, first, packed))
        except NO_ANSWER as error:
            if getattr(error, "error", "") == ApplicationError.NO_SUCH_PROCEDURE:
                found.silent = "nobody answers for its journal: is its server running?"
            else:
                said = " ".join(map(str, error.args)) or type(error).__name__
                found.silent = f"no answer from its journal: {said}"
        if found.silent:
            found.epochs = None
        return found

    async def _kept_here(self, device: str, lost: Lost) -> bool:
        """Return whether the recorder's own journal, on another disk, has what a server lost."""
        if lost.epoch == self.journals.own.epoch:
            return False
        about = lost.since - 1, lost.until + 1
        held = await asyncio.to_thread(self.journals.own.holds, device, *about)
        return bool(sum(one["count"] for one in held["epochs"]) >= lost.samples)

    async def remember_lost(self) -> None:
        """Note beside each store, for ever, what the journals say is lost: they will forget it."""
        while True:
            if new := self.journals.lost - self._remembered:
                for settings in self.stores.values():
                    notes = LostNotes(place(settings, self.folder))
                    await asyncio.to_thread(notes.add, new)
                self._remembered |= new
            await asyncio.sleep(REMEMBER_EVERY)

    async def _until_written(self, published: dict[str, Published]) -> None:
        """Give the stores time to write what has only just been published."""
        held = SampleRanges()
        for said in published.values():
            held |= said.held
        stores = [replicator.store for replicator in self.replicators if not replicator.away]
        for _ in range(LOOK_AGAIN):
            if not any(held - store.stored for store in stores):
                break
            await asyncio.sleep(0.1)

    def notices(self) -> list[Alarm]:
        """Say what is away, set aside or gone, before data is at risk."""
        found = []
        if self._unkept and self.clock() - self._unkept_at < UNKEPT_FOR:
            found.append(Alarm("journal", "ERR", f"not being kept: {self._unkept}"))
        if self._cut:
            whose = ", ".join(sorted(self._cut))
            said = f"only {MAX_FIELDS} fields of a sample are kept of {whose}: let it say less"
            found.append(Alarm("heard", "WARN", said))
        found += self._not_recorded()
        apart = {
            name: seconds
            for name, (when, seconds) in self._apart.items()
            if self.clock() - when < UNKEPT_FOR
        }
        if apart:
            furthest = max(apart.values(), key=abs)
            said = (
                f"the times of {some(sorted(apart))} are up to {abs(furthest):.0f} s "
                f"{'ahead of' if furthest > 0 else 'behind'} this machine's clock, which says "
                f"{utc(self.clock())[:19]} UTC: set the clock that is wrong, theirs or this one"
            )
            found.append(Alarm("heard", "WARN", said))
        lost = [one for one in self.journals.lost if self.clock() - one.until < DAY]
        if lost:
            newest = max(lost, key=attrgetter("until"))
            others = len({one.device for one in lost}) - 1
            more = f"; and of {others} other devices: see hcam audit" if others else ""
            found.append(Alarm("disk", "ERR", f"{newest}{more}"))
        for replicator in self.replicators:
            found += replicator.notices()
        return found

    def _not_recorded(self) -> list[Alarm]:
        """Say what was heard but not recorded, because of who published it."""
        found = []
        if self._unasked:
            said = (
                f"the router does not say who publishes ({self._unasked}): only what the journals"
            )
            found.append(Alarm("heard", "WARN", f"{said} have is recorded until it does"))
        recent = {key: one for key, one in self._refused.items() if self.clock() - one.until < DAY}
        if recent:
            count, since = (
                sum(one.count for one in recent.values()),
                min(one.since for one in recent.values()),
            )
            names = list(dict.fromkeys(name for name, _ in recent))
            who = list(dict.fromkeys(one.who for one in recent.values()))
            said = (
                f"{count} samples under the names of {some(names)} since {utc(since)[:19]} are not "
                f"recorded: they were published by {some(who, 3)}, not by the devices' servers; "
                "end that program, or give it a name of its own"
            )
            found.append(Alarm("heard", "WARN", said))
        if self._nameless:
            said = (
                f"{self._nameless} samples of {some(sorted(self._unrecorded))} are not recorded: "
                f"no server owns these names, and {MAX_FOREIGN_NAMES} such names are recorded "
                "already; end the program that invents names"
            )
            found.append(Alarm("heard", "WARN", said))
        return found


def recorder_of(stores: Iterable[str]) -> type[Recorder]:
    """Return the recorder with the figures of some stores declared."""
    declared: dict[str, Any] = {}
    for store in stores:
        declared |= {
            f"rate_{store}": Readback(unit="1 / s", doc=f"Samples that {store} takes in a second."),
            f"lag_{store}": Readback(unit="s", doc=f"Time from a sample to when {store} has it."),
            f"backlog_{store}": Readback(doc=f"Number of samples that {store} does not have yet."),
            f"aside_{store}": Readback(doc=f"Number of samples that {store} rejected."),
            f"gone_{store}": Readback(doc=f"Number of samples that {store} will never have."),
        }
    return type(
        "Recorder", (Recorder,), {"__module__": __name__, "__doc__": Recorder.__doc__} | declared
    )


def some(names: list[str], most: int = 5) -> str:
    """Return names for people, the first few of many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _plain(value: Any, depth: int = 0) -> Any:
    """Return what JSON can carry of a value."""
    if isinstance(value, dict) and depth < 8:
        return {str(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list) and depth < 8:
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return None
    return value if isinstance(value, bool | int | str | None) else repr(value)[:1000]


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
    gc.set_threshold(100_000)  # a page of samples is many objects, and none of them a cycle
    with ExitStack() as stack:
        stack.enter_context(claim(folder / "locks", "history"))
        servers = {entry.server for entry in instrument.entries.values()}
        journals = Journals(instrument.entries, servers)
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
            """Keep a store complete, as soon as it can be opened."""
            while name in unopened:
                await asyncio.sleep(OPEN_EVERY)
                await asyncio.to_thread(try_open, name)
            (replicator,) = (one for one in replicators if one.store.name == name)
            replicator.hurry()
            await replicator.run()

        parts = {
            "replicators": replicators,
            "journals": journals,
            "folder": folder,
            "stores": instrument.stores,
        }
        entry = Entry("recorder", recorder_of(instrument.stores), "hwlogger", (), parts)

        def beside(server: Server, journal: Journal) -> dict[str, Task]:
            recorder = server.devices["recorder"]
            assert isinstance(recorder, Recorder)  # noqa: S101  (built from the entry above)
            recorder.unopened = unopened
            journals.own = journal
            kept = journal.devices()
            journals.devices |= kept
            recorder.remember_names(kept)
            return {
                "telemetry": lambda: keep_joined(address, recorder.follow),
                "lost samples": recorder.remember_lost,
                **{f"store {name}": partial(keep, name) for name in instrument.stores},
            }

        server = Server("hwlogger", [entry], address, folder, emulate=False, beside=beside)
        log.info("hwlogger records into %s", ", ".join(instrument.stores))
        asyncio.run(until_told(server))
