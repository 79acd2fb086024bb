"""One server: some devices of the instrument in one process, each with its agent, and a journal.

With emulation each device's simulator is served on a free loopback port, and the device is pointed
there; nothing else differs.
"""

import asyncio
import fcntl
import logging
import os
import signal
import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from platformdirs import user_state_path

from . import HcamError, recording, sim
from .device import Device, utc
from .fields import Procedure
from .instrument import Entry, Instrument
from .journal import Journal
from .names import did_you_mean
from .wamp import uris
from .wamp.agent import RETAIN, Agent
from .wamp.session import Session, keep_joined
from .wamp.shelf import Shelf
from .wamp.uris import Address

log = logging.getLogger(__name__)

TIDY_EVERY = 60.0
RESTART_AFTER = 1.0


def home() -> Path:
    """Return ``HCAM_HOME``: the one folder for journals, logs and generated configuration.

    By default it is in the user's home; HcamError if there is none.
    """
    if given := os.environ.get("HCAM_HOME"):
        return Path(given).absolute()
    if os.path.expanduser("~") == "~" and not os.environ.get("XDG_STATE_HOME"):
        raise HcamError("this user has no home directory: set HCAM_HOME to a folder for its files")
    return user_state_path("hcam_devices", appauthor=False)


Task: TypeAlias = Callable[[], Awaitable[None]]


class AlreadyRunningError(HcamError):
    """Another process with the same home has what only one may have."""


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Open what has to be written; raises HcamError if it cannot be."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise HcamError(
            f"{path} cannot be written ({error}): make room on its disk, or let this user write "
            "there, or give another HCAM_HOME"
        ) from error


@contextmanager
def claim(folder: Path, what: str) -> Iterator[None]:
    """Make sure that no other process with this home has it: a device, a journal, the history."""
    path = folder / f"{what}.lock"
    with usable(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyRunningError(
                f"{what} is already in use by process {lock.read().decode() or '?'}; "
                "stop that one first, or give this one another HCAM_HOME"
            ) from None
        with usable(path):
            lock.truncate(0)
            lock.write(b"%d" % os.getpid())
        yield


class Server:
    """The devices of one server; ``run`` presents them until it is cancelled.

    ``beside`` gives what else is to be kept running, by name.
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
        beside: Callable[["Server", Journal], Mapping[str, Task]] = lambda *_: {},
    ) -> None:
        self.name, self.entries, self.address = name, entries, address
        self.folder, self.emulate, self.replay = folder, emulate, replay or {}
        self.beside = beside
        self.restarts = 0
        self.since = utc(time.time())
        self.devices: dict[str, Device] = {}

    async def run(self) -> None:
        """Present the devices. Raises AlreadyRunningError if another process has one, or the name.

        Raises HcamError if the home cannot be written. A journal is written by one process only: it
        may have to replace the file.
        """
        async with AsyncExitStack() as stack:
            for what in (*(entry.name for entry in self.entries), f"{self.name}.sqlite"):
                stack.enter_context(claim(self.folder / "locks", what))
            path = self.folder / "journal" / f"{self.name}.sqlite"
            with usable(path):
                journal = Journal(path)
            stack.callback(journal.close)
            agents = [await self._agent(entry, journal, stack) for entry in self.entries]
            for agent in agents:
                # A call that ends after its device has ended makes no sample any more.
                stack.callback(agent.device.listeners.clear)
            for device in self.devices.values():
                device.attach(self.devices)
            announce = partial(self._announce, Shelf(journal, self.devices))
            async with asyncio.TaskGroup() as tasks:
                for agent in agents:
                    tasks.create_task(self._keep(agent.device.name, agent.device.run))
                    tasks.create_task(self._keep(agent.device.name, agent.run, self.address))
                tasks.create_task(self._keep(self.name, keep_joined, self.address, announce))
                tasks.create_task(self._keep(self.name, self._tidy, journal, agents[0]))
                for what, task in self.beside(self, journal).items():
                    tasks.create_task(self._keep(what, task))

    async def _agent(self, entry: Entry, journal: Journal, stack: AsyncExitStack) -> Agent:
        overrides: dict[str, Any] = {}
        more: dict[str, Procedure] = {}
        if self.emulate and entry.cls.simulator:
            simulator = entry.cls.simulator(seed=zlib.crc32(entry.name.encode()))
            simulator.folder = self.folder / "simulated"
            if entry.name in self.replay:
                simulator.play(recording.read(self.replay[entry.name]))
            overrides = await stack.enter_async_context(sim.serve(simulator))
            more["simulate"] = Procedure(simulator.simulate)
        device = self.devices[entry.name] = entry.build(**overrides)
        return Agent(device, entry.names, journal, more)

    async def _keep(self, what: str, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run something that never ends; if it dies all the same, say so and begin again."""
        while True:
            try:
                await run(*args)
            except Exception:
                self.restarts += 1
                log.exception("%s failed and is begun again (restart %d)", what, self.restarts)
            await asyncio.sleep(RESTART_AFTER)

    async def _announce(self, shelf: Shelf, session: Session) -> None:
        log.info("%s is on the network at %s", self.name, self.address)
        session.over.add_done_callback(self._lost)
        topic = uris.status(self.name)
        gone = {"server": self.name, "state": "gone", "pid": os.getpid()}
        await session.call(
            "wamp.session.add_testament", topic, [gone], {}, publish_options={"retain": True}
        )
        here = gone | {
            "state": "running",
            "since": self.since,
            "devices": [entry.name for entry in self.entries],
            "emulated": self.emulate,
            "restarts": self.restarts,
        }

        def say(event: Any = gone) -> None:
            """Also when the router has only now found an earlier session of ours dead."""
            if event == gone:
                session.publish(topic, here, options=RETAIN)

        await session.subscribe(say, topic)
        await shelf.register(session, self.name)  # before the recorder is told
        say()

    def _lost(self, over: asyncio.Future[str]) -> None:
        if not over.cancelled():
            log.warning("no router (%s); samples go to the journal", over.result())

    async def _tidy(self, journal: Journal, agent: Agent) -> None:
        """Tidy the journal now and then; what people should know of it is one device's alarm."""
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
    for entry in entries:
        if missing := set(entry.sources) - set(chosen):
            raise HcamError(
                f"{entry.name} is a view of {', '.join(sorted(missing))}: "
                f"{pattern!r} must not leave that out"
            )
    server = Server(name, entries, address, home(), emulate=emulate, replay=replay)
    log.info("%s presents %s%s", name, ", ".join(chosen), ", emulated" if emulate else "")
    asyncio.run(until_told(server))


async def until_told(server: Server) -> None:
    """Run a server until SIGINT or SIGTERM."""
    running = asyncio.create_task(server.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()
