"""``hcam up``: the router and the servers as child processes, restarted if they end."""

import asyncio
import os
import platform
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .. import HcamError
from ..config.instrument import COMMON, Instrument, command_of
from ..errors import RouterError
from ..host import output, rotation, surroundings
from ..host.backoff import Backoff
from ..host.home import exclusive, home
from ..host.installation import program, this_program
from ..host.machine import why_elsewhere
from ..names import did_you_mean
from ..ui import terminal
from ..wamp import access
from ..wamp.emulated import has_real_records
from ..wamp.router import crossbar, listening, make_keys, with_parent_death_signal
from ..wamp.uris import Address

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
"""The pause before a restart doubles from the first value to the last."""
STEADY_AFTER_S = 60.0
"""After a program ran for this long, the pause is the first one again."""
MAX_STOP_S = 12.0
"""A program that has not ended by then is killed."""
ROUTER = "router"
"""The name of the router, beside the names of the servers."""
NEWS_PERIOD_S = 300.0
"""News, such as the restart of a program, is shown for this long."""


def show(text: str) -> None:
    """Print a line, or drop it if standard output cannot be written at once."""
    output.write(1, f"{text}\n")


class News:
    """Events to show beside telemetry. ``clock``: Unix time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.events: dict[str, tuple[float, str]] = {}
        """The newest event about each subject, and when it happened."""

    def add(self, text: str, about: str = "") -> None:
        """Add an event that happened now, in place of the last one about the same subject."""
        now = self.clock()
        clock = time.strftime("%H:%M:%S UTC", time.gmtime(now))
        self.events = self._recent() | {about or text: (now, f"{clock} {text}")}

    def _recent(self) -> dict[str, tuple[float, str]]:
        now = self.clock()
        return {key: it for key, it in self.events.items() if abs(now - it[0]) < NEWS_PERIOD_S}

    @property
    def recent(self) -> str:
        """The recent events; of each restarted program the newest."""
        return "  ".join(text for _, text in sorted(self._recent().values()))

    async def print_all(self) -> None:
        """Print each event once, until cancelled."""
        printed: set[tuple[float, str]] = set()
        while True:
            for event in sorted({*self.events.values()} - printed):
                show(event[1])
            printed = {*self.events.values()}
            await asyncio.sleep(1)


class Child:
    """A program to keep running, whose output goes to a log."""

    def __init__(
        self, name: str, command: list[str], environment: dict[str, str], news: News
    ) -> None:
        self.name, self.command, self.environment, self.news = name, command, environment, news
        self.log = home() / "log" / f"{name}.log"
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Run the program, restart it when it ends, and stop it when cancelled."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while True:
            began = time.monotonic()
            try:
                with self._opened() as log:
                    self.process = await asyncio.create_subprocess_exec(
                        *with_parent_death_signal(self.command),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=self.environment,
                        start_new_session=True,
                    )
            except OSError as error:  # no memory, or too many processes or files: this may pass
                self.note_end(str(error))
                await asyncio.sleep(backoff.next())
                continue
            try:
                await self.process.wait()
            except asyncio.CancelledError:
                await self._stop(self.process)
                raise
            self.note_end(self.process.returncode)
            if time.monotonic() - began > STEADY_AFTER_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    def _opened(self) -> BinaryIO:
        """Return the log, open for appending, or /dev/null if it cannot be opened."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return self.log.open("ab")
        except OSError:
            return Path(os.devnull).open("ab")

    def note_end(self, status: int | str | None) -> None:
        """Note when and how the program ended, and the last line of its log."""
        self.restarts += 1
        self.news.add(
            f"{self.name} ended ({status}); restart {self.restarts}; {self.log} ends: "
            f"{last_line(self.log)}",
            about=self.name,
        )

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(MAX_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def last_line(log: Path) -> str:
    """Return the last line of a log that has text, or why the log cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 1000, 0))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"(it cannot be read: {error.strerror})"
    return next((line for line in reversed(lines) if line.strip()), "")


def runs_here(instrument: Instrument, only: Collection[str] = ()) -> list[str]:
    """Return the names of what runs on this machine: ``router`` (first), and servers.

    ``only`` selects names. Raises HcamError if one of them does not exist or runs on another
    machine, or if nothing runs here.
    """
    hosts = {
        ROUTER: instrument.router.host,
        **{server: instrument.host_of(server) for server in instrument.servers},
    }
    for name in only:
        if name not in hosts:
            raise HcamError(
                f"there is no server {name!r}; there are {', '.join(hosts)}"
                f"{did_you_mean(name, hosts)}"
            )
    reasons = {host: why_elsewhere(host) for host in {*hosts.values()}}
    wanted = [name for name in hosts if name in (only or hosts)]
    away = {name: reasons[hosts[name]] for name in wanted if reasons[hosts[name]]}
    if away.keys() & {*only} or len(away) == len(wanted):
        why = "; ".join(f"{name}: {reason}" for name, reason in away.items())
        raise HcamError(
            f"nothing to run on this machine, {platform.node()} ({why}): correct host in [router] "
            f"or [servers.NAME] of {instrument.path}, or run this on the other machine"
        )
    return [name for name in wanted if name not in away]


def children(
    instrument: Instrument, address: Address, names: Iterable[str], news: News, *, emulate: bool
) -> list[Child]:
    """Return the programs of the router and of servers, in the order of ``names``, not started."""
    environment = os.environ | {"WAMP_SERVER": str(address), "HCAM_HOME": str(home())}
    file = ["--instrument", str(instrument.path)]
    found = []
    for name in names:
        if name == ROUTER:
            command = [str(program("hcam")), "router", "--port", str(address.port)]
        else:
            own, *options = command_of(name)
            command = [str(program(own)), *options]
            if emulate and name not in COMMON:
                command += ["--emulate"]
        known = environment.copy()
        if name == ROUTER or access.key_path(name).exists():
            known.pop("HCAM_KEY", None)  # that of a person
        found.append(Child(name, [*command, *file], known, news))
    return found


def hints(address: Address, *, emulate: bool) -> str:
    """Return a line of commands to try."""
    hcam, key = this_program(), access.local_key(access.folder())
    scheme = "https" if key and key.ca else "http"
    if address != Address():
        hcam = f"WAMP_SERVER={address} {hcam}"
    simulate = f"  ·  {hcam} simulate pressure1 silence" if emulate else ""
    return (
        f"The panel: {scheme}://{address}/  ·  Try, in another terminal:  {hcam} call slide.block"
        f"{simulate}  ·  {hcam} --help"
        "  ·  Ctrl-C stops everything."
    )


async def up(
    instrument: Instrument, address: Address, names: Sequence[str], *, emulate: bool
) -> int:
    """Run programs and show the instrument until SIGINT, SIGTERM or SIGHUP; return exit status 0.

    ``names`` are names of the router and of servers, as ``runs_here`` returns them.

    Raises RouterError if the router is not installed or its port is taken, AlreadyRunningError
    if another ``hcam up`` has the same home, and HcamError if simulators would be recorded in a
    home with records of real hardware.
    """
    if emulate and {*names} - {ROUTER, *COMMON} and has_real_records(home()):
        raise HcamError(
            f"{home()} has records of real hardware, which must not be mixed with emulated ones: "
            f"give those another folder, as in HCAM_HOME=~/emulated {this_program()} up --emulate"
        )
    if ROUTER in names:
        crossbar()
    with exclusive(home() / "locks", "hcam up"):
        return await _up(instrument, address, names, emulate=emulate)


async def _up(
    instrument: Instrument, address: Address, names: Sequence[str], *, emulate: bool
) -> int:
    if ROUTER in names and listening(address.port, instrument.router.listen):
        raise RouterError(
            f"port {address.port} is in use: perhaps the instrument is running already (hcam watch "
            "shows it); otherwise choose another port with --port"
        )
    if ROUTER in names:
        # a program that started before its key exists would join without one
        make_keys(instrument, instrument.entries.values(), address)
    news = News()
    family = children(instrument, address, names, news, emulate=emulate)
    with suppress(OSError):  # without this folder the programs have no logs
        family[0].log.parent.mkdir(parents=True, exist_ok=True)
    running = [asyncio.create_task(child.keep_running()) for child in family]
    beside = [
        asyncio.create_task(rotation.keep_small(*(child.log for child in family))),
        asyncio.create_task(surroundings.watch(news.add, home(), family[0].log.parent)),
    ]
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if os.isatty(1):
        showing = asyncio.create_task(
            terminal.watch(
                instrument,
                address,
                hints=lambda: news.recent or hints(address, emulate=emulate),
                quits=False,
            )
        )
    else:
        show(f"router {address}, logs in {home() / 'log'}; Ctrl-C stops everything")
        if missing := [name for name in instrument.servers if name not in names]:
            show(f"not started here: {', '.join(missing)}")
        showing = asyncio.create_task(news.print_all())
    await asyncio.wait([showing, asyncio.create_task(stop.wait())], return_when="FIRST_COMPLETED")
    for task in (showing, *beside):
        task.cancel()
        await asyncio.wait([task])
    for task in reversed(running):  # the router last, so that the servers can publish that they end
        task.cancel()
        await asyncio.wait([task])
    if not showing.cancelled():
        showing.result()
    return 0
