"""Measures what programs of version 1.7 cost the router: processor time and memory.

Two emulated instruments run side by side, one with ``[legacy]`` and a program that subscribes to
all its telemetry as ``hdriver`` does: ``.venv/bin/python benchmarks/legacy.py --seconds 120``.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import answers

BIN = Path(__file__).resolve().parent.parent / ".venv" / "bin"
SETTLE_S, START_LIMIT_S = 60, 120
CORE, MIB = 0.01, 10.0
SUBSCRIPTIONS = 2
"""How often ``hdriver`` subscribes to a topic, about; the router sends each event once."""


class Program(ApplicationSession):
    """Hears all telemetry."""

    async def onJoin(self, details: object) -> None:
        """Subscribe, and say so."""
        for name in load().entries:
            for _ in range(SUBSCRIPTIONS):
                await self.subscribe(lambda *_: None, f"hipercam.{name}.telemetry")
        print("ready", flush=True)

    def onDisconnect(self) -> None:
        """End the program."""
        asyncio.get_running_loop().stop()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Instrument:
    """An emulated instrument, and the process of its router that has the connections."""

    def __init__(self, home: Path, stack: ExitStack, *, legacy: bool) -> None:
        home.mkdir()
        self.port = free_port()
        file = home / "site.toml"
        more = "\n[legacy]\nenabled = true\n" if legacy else ""
        file.write_text(load().path.read_text() + more)
        env = os.environ | {"HCAM_HOME": str(home), "WAMP_SERVER": f"127.0.0.1:{self.port}"}
        options = ("--emulate", "--instrument", str(file), "--port", str(self.port))
        command = [str(BIN / "hcam"), "up", *options]
        with (home / "up.log").open("wb") as log:
            up = stack.enter_context(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        stack.callback(up.send_signal, signal.SIGINT)
        until = time.monotonic() + START_LIMIT_S
        while not answers(self.port):
            assert time.monotonic() < until, (home / "up.log").read_text()
            time.sleep(0.1)
        [self.worker] = (
            one for one in psutil.Process(up.pid).children(recursive=True) if "worker" in one.name()
        )

    def used(self) -> tuple[float, float]:
        """Return the processor time (s) and the memory (MiB, proportional) of the router."""
        times = self.worker.cpu_times()
        return times.user + times.system, self.worker.memory_full_info().pss / 2**20


def main() -> int:
    """Print the figures; 1 if one of them is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--program", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.program:
        ApplicationRunner(f"ws://127.0.0.1:{args.program}/ws", "realm1").run(Program)
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        without = Instrument(folder / "without", stack, legacy=False)
        with_it = Instrument(folder / "with", stack, legacy=True)
        command = [str(BIN / "python"), __file__, "--program", str(with_it.port)]
        program = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(program.kill)
        assert program.stdout
        assert program.stdout.readline() == b"ready\n"
        time.sleep(SETTLE_S)
        before = [one.used() for one in (without, with_it)]
        time.sleep(args.seconds)
        after = [one.used() for one in (without, with_it)]
    cores = [(end[0] - begin[0]) / args.seconds for begin, end in zip(before, after, strict=True)]
    pss = [memory for _, memory in after]
    print(f"router without version 1.7: {cores[0]:.4f} core, {pss[0]:.1f} MiB")
    print(f"router with it:             {cores[1]:.4f} core, {pss[1]:.1f} MiB")
    core, mib = cores[1] - cores[0], pss[1] - pss[0]
    print(f"difference: {core:.4f} core (at most {CORE:g}), {mib:.1f} MiB (at most {MIB:g})")
    return int(core > CORE or mib > MIB)


if __name__ == "__main__":
    raise SystemExit(main())
