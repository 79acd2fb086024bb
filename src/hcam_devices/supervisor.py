"""``hcam up``: the router and the servers as child processes, begun again if they die."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import panel
from .installation import program, this_program
from .instrument import Instrument
from .router import RouterError, crossbar, listening, tied
from .server import home
from .wamp.uris import Address

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
STEADY_AFTER = 60.0
STOPS_WITHIN = 12.0
TOLD_FOR = 300.0
"""Seconds after which it is not told any more that a program had to be started again."""


class Child:
    """One program that is kept running; what it prints goes to a file. ``clock``: Unix time."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.name, self.command, self.environment = name, command, environment
        self.log = home() / "log" / f"{name}.log"
        self.restarts = 0
        self.ended = 0.0
        self.last_words = ""
        self.process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Run it, for ever; SIGTERM, then SIGKILL, when cancelled."""
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *tied(self.command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            try:
                await self.process.wait()
            except asyncio.CancelledError:
                await self._stop(self.process)
                raise
            self.note_end(self.process.returncode)
            if time.monotonic() - began > STEADY_AFTER:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def note_end(self, status: int | None) -> None:
        """Note that it has ended, when, and what it said last."""
        self.restarts += 1
        self.ended = self.clock()
        self.last_words = (
            f"{time.strftime('%H:%M:%S UTC', time.gmtime(self.ended))} {self.name} ended "
            f"({status}); restart {self.restarts}; {self.log} ends: {last_line(self.log)}"
        )

    @property
    def trouble(self) -> str:
        """How it ended lately; nothing if it did not."""
        return self.last_words if self.clock() - self.ended < TOLD_FOR else ""

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOPS_WITHIN)
            except TimeoutError:
                process.kill()
                await process.wait()


def last_line(log: Path) -> str:
    """Return the end of what a program printed."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 1000, 0))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def children(instrument: Instrument, address: Address, *, emulate: bool) -> list[Child]:
    """Return what is to run: the router first."""
    environment = os.environ | {"WAMP_SERVER": str(address), "HCAM_HOME": str(home())}
    file = ["--instrument", str(instrument.path)]
    arguments = {
        name: ["--emulate"] if emulate and name != "hwlogger" else [] for name in instrument.servers
    }
    return [
        Child(
            "router",
            [str(program("hcam")), "router", "--port", str(address.port), *file],
            environment,
        ),
        *(
            Child(name, [str(program(name)), *flags, *file], environment)
            for name, flags in arguments.items()
        ),
    ]


def hints(address: Address, *, emulate: bool) -> str:
    """Say what to try next."""
    hcam = this_program()
    if address != Address():
        hcam = f"WAMP_SERVER={address} {hcam}"
    rehearse = f"  ·  {hcam} simulate pressure1 set pressure=0.02" if emulate else ""
    return (
        f"Try, in another terminal:  {hcam} call slide.block{rehearse}  ·  {hcam} --help"
        "  ·  Ctrl-C stops everything."
    )


async def up(instrument: Instrument, address: Address, *, emulate: bool) -> int:
    """Run everything and show it, until SIGINT or SIGTERM; returns the exit status.

    Raises RouterError if the router is not installed or its port is taken.
    """
    crossbar()
    if listening(address.port):
        raise RouterError(
            f"port {address.port} is taken: is everything running already (hcam watch)? "
            "Otherwise choose another with --port"
        )
    family = children(instrument, address, emulate=emulate)
    running = [asyncio.create_task(child.keep_running()) for child in family]
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if sys.stdout.isatty():
        showing = asyncio.create_task(
            panel.watch(
                instrument,
                address,
                hints=lambda: trouble(family) or hints(address, emulate=emulate),
                quits=False,
            )
        )
    else:
        print(f"router {address}, logs in {home() / 'log'}; Ctrl-C stops everything", flush=True)
        showing = asyncio.create_task(_say_restarts(family))
    await asyncio.wait(
        [showing, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    showing.cancel()
    await asyncio.wait([showing])
    for task in reversed(running):  # the router last, so that the servers can say goodbye
        task.cancel()
        await asyncio.wait([task])
    if not showing.cancelled():
        showing.result()
    return 0


def trouble(family: list[Child]) -> str:
    """Say which programs had to be started again lately, and what they said last."""
    return "  ".join(child.trouble for child in family if child.trouble)


async def _say_restarts(family: list[Child]) -> None:
    said: dict[str, str] = {}
    while True:
        for child in family:
            if child.last_words != said.get(child.name, ""):
                print(child.last_words, flush=True)
                said[child.name] = child.last_words
        await asyncio.sleep(1)
