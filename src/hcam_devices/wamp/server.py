"""One server: some devices of the instrument in one process, each with its agent, and a journal.

With emulation, each device connects to its simulator on a free loopback port; nothing else
differs.
"""

import asyncio
import logging
import resource
import signal
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from autobahn.wamp.exception import Error as WampError

from .. import HcamError
from ..config.instrument import COMMON, Entry, Instrument
from ..core import capture, sim
from ..core.device import Device, iso_from_s
from ..core.interlock import Interlock
from ..errors import NotAuthorizedError
from ..host import surroundings, systemd
from ..host.home import KeptState, exclusive, home, writable_or_explain
from ..host.installation import commit
from ..host.limits import NO_MORE_FILES, raise_open_files_limit
from ..journal import Journal
from ..names import did_you_mean
from . import emulated, uris
from .about import about
from .absence import Absence
from .agent import MAX_BYTES, SET_UP_WITHIN, Agent
from .changes import MIN_DEVICES, ServerChanges
from .described import MAX_DEVICES, packed
from .journal_service import JournalService
from .outbox import Outbox
from .owner import NameTakenError, Owner
from .session import CLAIM_AGAIN, REFUSED_PAUSE_S, Session, explained, keep_joined
from .sources import RemoteSources
from .uris import Address

log = logging.getLogger(__name__)

TIDY_EVERY = 60.0
"""Seconds between two times when the journal is tidied."""
RESTART_AFTER = 1.0
"""Seconds until a task that has failed is started again."""
ANSWER_WITHIN = 2.0
"""Start the devices after this time (s) even if it is unknown whether the name is taken."""
PRESENTED_WITHIN = 30.0
"""Seconds until READY=1 is sent to systemd even if a device is not presented."""
MAX_PRESENTING = 100
"""Present at most this many devices at once, so that the router can answer others."""
MAX_POLLING, PHASE_STEP_S = 50, 0.05
"""At most this many devices poll at once, and the next ones after this time (s), so that a command
does not wait for a thousand of them."""
FILES_PER_DEVICE = 2
"""A device keeps its lock and its link to the hardware open."""
FILES_PER_SIMULATOR = 2
"""A simulator keeps the port on which it listens and its end of the link open."""
OTHER_FILES = 50
"""A server has at most this many files open that belong to no device."""


Task: TypeAlias = Callable[[], Awaitable[None]]


class Server:
    """The devices of one server; ``run`` presents them until it is cancelled.

    While another process has the server's name on the network, nothing runs: no device touches its
    hardware. ``elsewhere`` are devices of other servers that its views show. ``beside`` returns
    further tasks to keep running, by name.
    """

    def __init__(
        self,
        name: str,
        entries: list[Entry],
        address: Address,
        folder: Path,
        *,
        emulate: bool,
        replay: Mapping[str, Path] | None = None,
        elsewhere: Iterable[Entry] = (),
        beside: Callable[["Server", Journal], Mapping[str, Task]] = lambda *_: {},
    ) -> None:
        self.name, self.entries, self.address = name, entries, address
        self.folder, self.emulate, self.replay = folder, emulate, replay or {}
        self.remote = RemoteSources(elsewhere)
        self.beside = beside
        self.changes = ServerChanges(name)
        self.restarts = 0
        self.owner = Owner(name, iso_from_s(time.time()))
        self.devices: dict[str, Device] = {}
        self._agents: dict[str, Agent] = {}
        self._named = asyncio.Event()
        self._waits_for = ""
        self._working: asyncio.Task[None] | None = None
        self._presented: set[str] = set()
        self._all_presented = asyncio.Event()
        self._commit = ""
        self._absence = Absence()

    async def run(self) -> None:
        """Present the devices. Raise AlreadyRunningError if another process has one, or the name.

        Raises HcamError if the home cannot be written. Only one process writes a journal, because
        it counts the samples.
        """
        async with AsyncExitStack() as stack:
            for what in (*(entry.name for entry in self.entries), f"{self.name}.sqlite"):
                stack.enter_context(exclusive(self.folder / "locks", what))
            path = self.folder / "journal" / self.name
            with writable_or_explain(path):
                if self.name not in COMMON:
                    emulated.note(self.folder, emulate=self.emulate)
                journal = Journal(path)
            stack.callback(journal.close)
            noting = asyncio.create_task(self._note_commit())
            stack.callback(noting.cancel)
            outbox = Outbox(journal, MAX_BYTES)
            stack.callback(outbox.flush)
            agents = [await self._agent(entry, outbox, stack) for entry in self.entries]
            self._agents = {agent.device.name: agent for agent in agents}
            for agent in agents:
                # A call that ends after its device has ended makes no sample any more.
                stack.callback(agent.device.listeners.clear)
                stack.callback(agent.commands.close)
            for number, device in enumerate(self.devices.values()):
                device.attach({**self.devices, **self.remote.devices})
                device.phase += PHASE_STEP_S * (number // MAX_POLLING)
                self._attach_interlocks(device)
            async with asyncio.TaskGroup() as tasks:

                def work() -> None:
                    if self._working is None:
                        self._working = tasks.create_task(self._work(agents, journal))

                async def announce(session: Session) -> None:
                    await self._absence.over()
                    await self._announce(JournalService(journal), session)
                    self.changes.begin(session)
                    work()
                    await self.remote.follow(session)
                    presenting = tasks.create_task(self._present(agents, session))
                    session.over.add_done_callback(lambda _: presenting.cancel())

                join = partial(keep_joined, self.address, announce, owner=self.owner)
                tasks.create_task(self._keep(self.name, join))
                tasks.create_task(self._keep(self.name, self._tidy, journal, agents[0]))
                if len(agents) >= MIN_DEVICES:
                    for agent in agents:
                        agent.published = self.changes.note
                    tasks.create_task(self._keep(self.name, self.changes.run))
                watch = partial(surroundings.watch, log.warning, self.folder, path.parent)
                tasks.create_task(self._keep(self.name, watch))
                tasks.create_task(systemd.feed_watchdog())
                named = tasks.create_task(self._named.wait())
                await asyncio.wait([named], timeout=ANSWER_WITHIN)
                if not self._waits_for:
                    work()
                if named.done():
                    presented = tasks.create_task(self._all_presented.wait())
                    await asyncio.wait([presented], timeout=PRESENTED_WITHIN)
                systemd.notify(systemd.READY)

    async def _work(self, agents: list[Agent], journal: Journal) -> None:
        async with asyncio.TaskGroup() as tasks:
            for agent in agents:
                tasks.create_task(self._keep(agent.device.name, agent.device.run))
            for what, task in self.beside(self, journal).items():
                tasks.create_task(self._keep(what, task))

    async def _present(self, agents: list[Agent], session: Session) -> None:
        """Present all devices in a session, until it is over."""
        turns = asyncio.Semaphore(MAX_PRESENTING)
        async with asyncio.TaskGroup() as tasks:
            for agent in agents:
                present = partial(self._present_one, agent, session, turns)
                tasks.create_task(self._keep(agent.device.name, present))

    async def _present_one(self, agent: Agent, session: Session, turns: asyncio.Semaphore) -> None:
        """Present one device as soon as the router and the present owner of its names allow it."""
        told = ""
        while True:
            try:
                async with turns:
                    with explained(self.address, session):
                        await agent.present(session)
                break
            except NameTakenError:  # the agent has logged it
                pause = CLAIM_AGAIN
            except TimeoutError:
                session.end(f"{self.address} has not answered within {SET_UP_WITHIN:g} s")
                return
            except (NotAuthorizedError, WampError) as error:
                level = (
                    logging.DEBUG if str(error) == told or session.over.done() else logging.ERROR
                )
                told, pause = str(error), REFUSED_PAUSE_S
                log.log(level, "%s: %s; trying again every %g s", agent.device.name, error, pause)
            await asyncio.sleep(pause)
        self._presented.add(agent.device.name)
        if self._presented >= self.devices.keys():
            self._all_presented.set()
        await asyncio.wait([session.over])

    async def _agent(self, entry: Entry, outbox: Outbox, stack: AsyncExitStack) -> Agent:
        overrides: dict[str, Any] = entry.cls.emulated if self.emulate else {}
        more: dict[str, Callable[..., Any]] = {}
        simulator = None
        if self.emulate and entry.cls.simulator:
            simulator = entry.cls.simulator(seed=zlib.crc32(entry.name.encode()))
            simulator.folder = self.folder / "simulated"
            if entry.name in self.replay:
                simulator.play(capture.read(self.replay[entry.name]))
            overrides = await stack.enter_async_context(sim.serve(simulator))
            more["simulate"] = simulator.simulate
        device = self.devices[entry.name] = entry.build(**overrides)
        agent = Agent(device, entry.names, outbox.journal, more, outbox)
        if simulator:
            agent.stands_in = simulator.stands_in
        return agent

    def _attach_interlocks(self, device: Device) -> None:
        """Wire the interlocks of a device whose devices are here; with emulation, arm them."""
        folder = self.folder / "simulated" if self.emulate else self.folder
        for part in device.parts:
            if isinstance(part, Interlock) and self.devices.keys() >= {*part.declared.devices}:
                part.armed = part.armed or self.emulate  # it acts on simulators
                kept = folder / "interlocks" / f"{device.name}.{part.name}.json"
                part.attach(device, self.devices, KeptState(kept))

    async def _keep(self, what: str, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task that should never end; log any error, and run it again after a pause."""
        while True:
            try:
                await run(*args)
            except Exception:
                self.restarts += 1
                log.exception("%s failed and is started again (restart %d)", what, self.restarts)
            await asyncio.sleep(RESTART_AFTER)

    async def _announce(self, service: JournalService, session: Session) -> None:
        """Register the server's name once it is free, and publish that the server runs."""
        session.over.add_done_callback(self._lost)
        while True:
            try:
                await service.register(session, self.name, self._displaced)
                await session.claim(self._about, uris.rpc(self.name, "about"))
                await session.claim(self._devices, uris.rpc(self.name, "devices"))
                if self.emulate:
                    self._absence.end = session.end
                    await session.claim(self._absence.simulate, uris.rpc(self.name, "simulate"))
                break
            except NameTakenError as error:
                await self._wait_for(error.holder)
        self._waits_for = ""
        log.info("%s is on the network at %s", self.name, self.address)
        topic = uris.status(self.name)
        owner = self.owner
        process = {"server": self.name, "host": owner.host, "pid": owner.pid, "since": owner.since}
        gone = process | {"state": "gone"}
        await session.call(
            "wamp.session.add_testament", topic, [gone], {}, publish_options={"retain": True}
        )
        here = process | {
            "state": "running",
            "devices": [entry.name for entry in self.entries],
            "emulated": self.emulate,
            "restarts": self.restarts,
        }

        def say(event: Any = gone) -> None:
            """Publish the status again after a testament of a server of this name."""
            if isinstance(event, dict) and event.get("state") == "gone":
                session.publish_retained(topic, here)

        await session.subscribe(say, topic)
        say()
        self._named.set()

    def _about(self) -> dict[str, Any]:
        """Return the server's version, process, machine and clock: see ``About``."""
        return about(self.owner, self._commit, emulated=self.emulate).model_dump()

    def _devices(self, names: list[str]) -> dict[str, Any]:
        """Return description and newest sample of devices that it presents: see ``packed``."""
        if not isinstance(names, list) or len(names) > MAX_DEVICES:
            raise ValueError(f"names must be a list of at most {MAX_DEVICES} names of devices")
        agents = (self._agents.get(name) for name in names if isinstance(name, str))
        present = (agent for agent in agents if agent and not agent.taken)
        return packed((agent.describe(), agent.telemetry()) for agent in present)

    async def _note_commit(self) -> None:
        self._commit = await asyncio.to_thread(commit)

    async def _wait_for(self, holder: str) -> None:
        """Stop all devices because another process has the name; then wait a moment."""
        self._named.clear()
        if holder != self._waits_for:
            self._waits_for = holder
            log.warning(
                "%s is refused by the router at %s: this name belongs to %s. This process does "
                "nothing until that one has ended. End one of the two, or give this one another "
                "router (WAMP_SERVER)",
                self.name,
                self.address,
                holder,
            )
        if self._working:
            self._working.cancel()
            await asyncio.wait([self._working])
            self._working = None
        await asyncio.sleep(CLAIM_AGAIN)

    def _displaced(self, reason: str) -> None:
        if reason:
            log.error("the journal of %s cannot be reached: %s; end it", self.name, reason)
        else:
            log.info("the journal of %s can be reached again", self.name)

    def _lost(self, over: asyncio.Future[str]) -> None:
        if self._named.is_set() and not over.cancelled():
            log.info("the session is over (%s); samples go to the journal", over.result())
        self._named.clear()

    async def _tidy(self, journal: Journal, agent: Agent) -> None:
        """Tidy the journal every TIDY_EVERY seconds; its warning becomes an alarm of one device."""
        while True:
            await asyncio.to_thread(journal.tidy)
            agent.warning = journal.warning
            await asyncio.sleep(TIDY_EVERY)


def serve(
    name: str,
    instrument: Instrument,
    pattern: str,
    address: Address,
    *,
    emulate: bool,
    replay: Mapping[str, Path] | None = None,
) -> None:
    """Run a server in this process until SIGINT or SIGTERM."""
    entries = instrument.choose(name, pattern)
    if not entries:
        there = [entry.name for entry in instrument.choose(name)]
        raise HcamError(
            f"no device of {name} matches {pattern!r} in {instrument.path}; "
            f"there are {', '.join(there) or 'none'}{did_you_mean(pattern, there)}"
        )
    chosen = [entry.name for entry in entries]
    elsewhere = instrument.sources_elsewhere(name)
    heard = {*chosen, *(entry.name for entry in elsewhere)}
    for entry in entries:
        if missing := set(entry.sources) - heard:
            raise HcamError(
                f"{entry.name} is a view of {', '.join(sorted(missing))}: "
                f"{pattern!r} must not leave that out"
            )
        for interlock in entry.interlocks:
            if interlock.armed and (missing := {*interlock.devices} - {*chosen}):
                raise HcamError(
                    f"the interlock {entry.name}.{interlock.name} needs "
                    f"{', '.join(sorted(missing))}: {pattern!r} must not leave that out"
                )
    server = Server(
        name, entries, address, home(), emulate=emulate, replay=replay, elsewhere=elsewhere
    )
    log.info("%s presents %s%s", name, ", ".join(chosen), ", emulated" if emulate else "")
    asyncio.run(until_told(server))


def too_few_files(what: str) -> str:
    """Return an error text for a process that may not open as many files as it needs."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (
        f"{what}, and this process may open {limit} files: "
        "raise its hard limit (ulimit -Hn; LimitNOFILE= of a systemd unit)"
    )


async def until_told(server: Server) -> None:
    """Run a server until SIGINT or SIGTERM.

    Raises HcamError if there are too few open files to begin.
    """
    limit = raise_open_files_limit()
    each = FILES_PER_DEVICE + FILES_PER_SIMULATOR * server.emulate
    needed = each * len(server.entries) + OTHER_FILES
    if needed > limit:
        log.error(too_few_files(f"{server.name} needs about {needed} open files"))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_explainer())
    running = asyncio.create_task(server.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    await asyncio.wait([running])
    if running.cancelled():
        return
    try:
        running.result()
    except OSError as error:
        if error.errno not in NO_MORE_FILES:
            raise
        raise HcamError(too_few_files(f"{server.name} cannot start ({error.strerror})")) from None


def _explainer() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return a loop's exception handler; it logs a lack of open files once, in one sentence."""
    told = False

    def explain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in NO_MORE_FILES:
            loop.default_exception_handler(context)
        elif not told:
            told = True
            log.error(too_few_files(f"connections wait to be accepted ({error.strerror})"))

    return explain
