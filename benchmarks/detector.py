"""Measures what a telemetry cycle of the detector costs: ours and the original's hserver.

    .venv/bin/python benchmarks/detector.py

Both run at the same time, each with a router and a simulated controller of its own behind the same
five programs on its PATH. What the true programs cost is not known; these are bash scripts, and the
lighter a program, the more the server's own share counts: it is told apart. The time of the
simulated controllers, in another process, does not count.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import compare
from compare import Running, System, limit, running, show

SITE = '[devices.ngc]\nkind = "ngc.Controller"\nserver = "hserver"\n'
ONLINE = (
    ("ngcdcsStartServer", "IRCAM1", "-port", "8080"),
    ("ngcbCmd", "online"),
    ("ngcbCmd", "cldc 0 enable"),
    ("ngcbCmd", "setup DET.SEQ1.DIT 1000"),
)
WARM_UP = 10.0
TARGET = 1 / 3


async def simulate() -> None:
    """Simulate two controllers; print their folders, and for each line how often each was asked."""
    from hcam_devices.core import sim  # noqa: PLC0415  (not in the process that measures)
    from hcam_devices.detector.sim import Simulator  # noqa: PLC0415

    class Counted(Simulator):
        asked = 0

        def answer(self, frame: bytes) -> bytes:
            self.asked += 1
            return super().answer(frame)

    both = Counted(), Counted()
    async with sim.serve(both[0]) as first, sim.serve(both[1]) as second:
        print(json.dumps([first["folder"], second["folder"]]), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps([one.asked for one in both]), flush=True)


@dataclass
class Measured:
    """A server under way, and how much of its telemetry was heard."""

    system: System
    server: Running
    programs: Path
    heard: int = 0

    def listen(self, telemetry: Iterator[object]) -> None:
        """Count telemetry until there is no more."""
        with suppress(OSError, ValueError):  # it ends with the probe
            for _ in telemetry:
                self.heard += 1

    def spent(self) -> tuple[float, float]:
        """Return the processor seconds of the server, and of the programs that have ended."""
        user, system, programs_user, programs_system, *_ = self.server.process.cpu_times()
        return user + system, programs_user + programs_system

    def give(self, *command: str) -> None:
        """Give the controller a command."""
        subprocess.run(
            [self.programs / command[0], *command[1:]], check=True, stdout=subprocess.DEVNULL
        )


@contextmanager
def started(system: System, programs: str) -> Iterator[Measured]:
    """Run a router and a server; the controller is online."""
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"  # which system.env adopts
    options = []
    if system.name == "ours":
        (system.home / "site.toml").write_text(SITE)
        options = ["--instrument", str(system.home / "site.toml")]
    listen = system.session("hear", "--devices", "ngc")
    with (
        running(system, system.router),
        running(system, listen, reports=True) as listening,
        running(system, [system.python, system.python.parent / "hserver", *options]) as server,
    ):
        measured = Measured(system, server, Path(programs))
        for command in ONLINE:
            measured.give(*command)
        reports = listening.reports()
        with system.attempt("telemetry"), limit(60, lambda: "telemetry"):
            next(reports)
        if system.missing:
            raise OSError(*system.missing)
        thread = threading.Thread(target=measured.listen, args=[reports])
        thread.start()
        yield measured
    thread.join()


def measure(both: list[Measured], simulator: "subprocess.Popen[str]", seconds: float) -> None:
    """Print what cycles of both have cost in the same seconds."""
    assert simulator.stdin
    assert simulator.stdout

    def now() -> list[tuple[int, float, float, int]]:
        print(file=simulator.stdin, flush=True)
        asked = json.loads(simulator.stdout.readline())  # type: ignore[union-attr]  # it is a pipe
        return [(m.heard, *m.spent(), n) for m, n in zip(both, asked, strict=True)]

    time.sleep(WARM_UP)
    before = now()
    time.sleep(seconds)
    lines, costs = [], []
    for one, old, new in zip(both, before, now(), strict=True):
        cycles, server, programs, asked = (b - a for a, b in zip(old, new, strict=True))
        if not cycles:
            raise OSError(f"{one.system.name} published nothing in {seconds:g} s")
        costs.append((server + programs) / cycles)
        each = asked / cycles, *(1000 * x / cycles for x in (server, programs, server + programs))
        lines.append([one.system.name, str(cycles), *(f"{x:.1f}" for x in each)])
    show(["", "cycles", "programs/cycle", "server, ms", "programs, ms", "together, ms"], lines)
    ratio = costs[1] / costs[0]
    verdict = "met" if ratio <= TARGET else "MISSED"
    print(f"ours/original: {ratio:.2f} (at most {TARGET:.2f}: {verdict})\n", flush=True)


def main() -> int:
    """Measure both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of each situation")
    parser.add_argument("--simulate", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.simulate:
        asyncio.run(simulate())
        return 0
    if compare.ALONE not in os.environ:
        compare.install_original()
        compare.go_alone()
        parser.error("this machine gives the original no network of its own (unshare -n, ip)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder, ExitStack() as stack:
        simulator = stack.enter_context(
            subprocess.Popen(
                [sys.executable, __file__, "--simulate"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(simulator.terminate)
        assert simulator.stdout
        programs = json.loads(simulator.stdout.readline())
        path = os.environ["PATH"]
        both = []
        for build, where in zip((compare.original, compare.ours), programs, strict=True):
            home = Path(tempfile.mkdtemp(dir=folder))
            both.append(stack.enter_context(started(build(home), where)))
            os.environ["PATH"] = path
        print("online, no run:")
        measure(both, simulator, args.seconds)
        for one in both:
            one.give("ngcbCmd", "start")
        print("in a run, a frame each second:")
        measure(both, simulator, args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
