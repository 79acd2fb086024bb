"""Measures ours, the original and the floor in one run and prints the table.

Everything runs in a network of its own with nothing but loopback, because the original knows
only port 8080 and the addresses of the telescope. Each system gets a router, a bare echo on it
(the floor) and its emulated hardware server; what is compared is asked in turn, block by block.
In brackets: the least and the greatest of the same figure of ten parts of the run.
"""

import argparse
import json
import math
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".venv"
ORIGINAL = VENV / "original"
LAUNCHES, SLICES = 5, 10
VIEWERS, CROWDS = 500, 4  # sessions, and the keys that they join with
SETTLE, START_LIMIT, PROBE_LIMIT = 10, 60, 1800  # seconds
QUIET = 0.1  # cores that other programs may use before the table mentions it
HUGE = 2**52  # a number above that of every sample: the reply is empty
DEVICES = """
from hcam_devices.config.instrument import load
print(*(entry.name for entry in load().choose("hwserver")))
"""
SIMULATORS = """
import asyncio, json
from contextlib import AsyncExitStack
from hcam_devices.config.instrument import load
from hcam_devices.core import sim

async def main():
    async with AsyncExitStack() as stack:
        lines = []
        for entry in load().choose("hwserver"):
            settings = {"kind": entry.cls.kind(), **entry.settings}
            if entry.cls.simulator:
                settings |= await stack.enter_async_context(sim.serve(entry.cls.simulator()))
            lines += [f"[devices.{entry.name}]"]
            lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        print(json.dumps({"instrument": "\\n".join(lines)}), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
"""Serves the simulators of hwserver and prints an instrument file with their places."""
BENCH = """
[servers.hwserver-bench]

[devices.bench]
kind = "zaber.FocalPlaneSlide"
port = 10001
server = "hwserver-bench"
"""
"""What lets the router know the floor, which echoes."""
ALONE = "HCAM_BENCH_ALONE"
UP = 'ip link set lo up && ip link add eth0 type veth peer name eth1 && exec "$@"'
FAILURES = (OSError, subprocess.SubprocessError, psutil.Error, ValueError)

Command = list[str | Path]
Samples = dict[str, list[float]]


@dataclass
class System:
    """How a router and its hardware server are started and asked, and what was found."""

    name: str
    home: Path
    port: int
    realm: str
    python: Path
    router: Command
    devices: list[str]
    calls: dict[str, list[Any]]  # quantity: [procedure, *arguments]; "rpc" also over HTTP
    options: tuple[str, ...] = ()
    keys: Path | None = None  # where its router makes keys
    own: Samples = field(default_factory=lambda: defaultdict(list))
    floor: Samples = field(default_factory=lambda: defaultdict(list))
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """Nothing of the user's: a home of its own, and the address of its router."""
        return {
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "HCAM_HOME": str(self.home / "hcam"),
            "WAMP_SERVER": "127.0.0.1" if self.port == 8080 else f"127.0.0.1:{self.port}",
        }

    @property
    def server(self) -> Command:
        """The emulated hardware server."""
        return [self.python, self.python.parent / "hwserver", "-e"]

    def session(self, what: str, *options: str) -> Command:
        """Return the command of one WAMP session in this system's environment."""
        url = f"ws://127.0.0.1:{self.port}/ws"
        probe: Command = [self.python, HERE / "wamp_probe.py", what, url, self.realm, *self.options]
        name = "hwserver-bench.key" if what == "echo" else "local.key"
        key: Command = ["--key", self.keys / name] if self.keys else []
        return [*probe, *key, *options]

    def ask(self, command: Command) -> Samples:
        """Run a probe to its end and return the seconds it found."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=PROBE_LIMIT, check=False
        )
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["the probe said nothing"])[-1])
        found: Samples = json.loads(done.stdout)
        return found

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Note what could not be measured, and why, and go on."""
        try:
            yield
        except FAILURES as error:
            log = (self.home / "log").read_text(errors="replace").splitlines() or ["nothing"]
            self.missing.append(f"{self.name}, {what}: {error}; its log ends: {log[-1][:300]}")


@dataclass
class Running:
    """A started process and everything it started."""

    process: psutil.Popen

    def tree(self) -> set[psutil.Process]:
        """Return the process, its descendants, and those of its session whose parent has ended."""
        found: set[psutil.Process] = {self.process}
        for process in psutil.process_iter():
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid:
                    found.add(process)
        with suppress(psutil.NoSuchProcess):
            found.update(self.process.children(recursive=True))
        return found

    def sum(self, quantity: Callable[[psutil.Process], float]) -> float:
        """Add a quantity up over the tree; a child may end while it is read."""
        total = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                total += quantity(process)
        return total

    def cpu(self) -> float:
        """Return the processor seconds so far, with those of children already gone."""
        return self.sum(lambda process: sum(process.cpu_times()[:4]))

    def reports(self) -> Iterator[dict[str, Any]]:
        """Yield what a probe prints, as it does."""
        for line in self.process.stdout:
            yield json.loads(line)
        raise OSError("the probe ended early")


@contextmanager
def running(system: System, command: Command, *, reports: bool = False) -> Iterator[Running]:
    """Start a process; at the end nothing of its tree is left."""
    with (system.home / "log").open("a") as log:
        process = psutil.Popen(
            [str(word) for word in command],
            env=system.env,
            cwd=system.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if reports else log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield Running(process)
    finally:
        tree = Running(process).tree()
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        psutil.wait_procs([process], timeout=15)
        for left in tree:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(tree, timeout=5)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def limit(seconds: float, waiting: Callable[[], str]) -> Iterator[None]:
    """Raise TimeoutError when the body takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"waited {seconds:g} s for {waiting()}")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def start_echo(stack: ExitStack, system: System) -> Running:
    """Start a bare callee and note how long it took to be registered."""
    start = time.monotonic()
    echo = stack.enter_context(running(system, system.session("echo"), reports=True))
    with limit(START_LIMIT, lambda: "a bare session to be registered"):
        system.floor["launch"].append(next(echo.reports())["ready"] - start)
    return echo


def start_server(stack: ExitStack, system: System) -> Running:
    """Start the hardware server and note when the last of its devices told true values.

    A launch that is not over by then counts as START_LIMIT; the devices that are missing are noted.
    """
    silent, last = set(system.devices), 0.0
    watch = system.session("watch", "--devices", *system.devices)
    with running(system, watch, reports=True) as watching:
        reports = watching.reports()
        with limit(START_LIMIT, lambda: "a bare session to be subscribed"):
            next(reports)
        start = time.monotonic()
        server = stack.enter_context(running(system, system.server))
        with suppress(TimeoutError), limit(START_LIMIT, lambda: "true values"):
            while silent:
                report = next(reports)
                silent.remove(report["device"])
                last = report["time"]
    if silent:
        last = start + START_LIMIT
        names = ", ".join(sorted(silent))
        system.notes.append(f"{system.name}: no true values within {START_LIMIT} s: {names}")
    system.own["launch"].append(last - start)
    return server


def waits(process: psutil.Process) -> float:
    """Return how often the threads of a process have waited so far."""
    threads = (psutil.Process(thread.id) for thread in process.threads())
    return sum(thread.num_ctx_switches().voluntary for thread in threads)


def idle_alone(system: System, seconds: float) -> None:
    """Sample a server whose simulators are another program, as hardware would be."""
    served: Command = [system.python, "-c", SIMULATORS]
    samples: Samples = defaultdict(list)
    with running(system, served, reports=True) as simulators:
        file = system.home / "alone.toml"
        with limit(START_LIMIT, lambda: "the simulators"):
            file.write_text(next(simulators.reports())["instrument"])
        server: Command = [*system.server[:-1], "--instrument", file]
        with running(system, server) as program:
            idle(system, program, samples, seconds)
    system.own |= {f"{quantity} alone": found for quantity, found in samples.items()}


def commands(system: System) -> None:
    """Sample the processor time of ``hcam call``, and how long ``hcam status`` takes.

    hwlogger does not run: nothing must wait for a server that is not there.
    """
    hcam: Command = [system.python, system.python.parent / "hcam"]
    status: Command = ["status", "--instrument", system.home / "alone.toml"]
    for _ in range(SLICES):
        for quantity, command in (
            ("hcam call", ["call", "pressure1.telemetry"]),
            ("hcam status", status),
        ):
            used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(
                [*hcam, *command], env=system.env, stdout=subprocess.DEVNULL, check=False
            )
            system.own[quantity].append(time.monotonic() - start)
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime
            system.own[f"{quantity} cpu"].append(cpu)


def view(system: System, router: Running, seconds: float) -> None:
    """Sample a value's way to the last of many viewers, and the processor time of the router."""
    with ExitStack() as stack:
        for n in range(CROWDS):
            key = system.home / f"viewer{n}.key"
            add: Command = [system.python.parent / "hcam", "access", "add", f"viewer{n}"]
            add += ["--role", "observer", "--out", key]
            subprocess.run(add, env=system.env, stdout=subprocess.DEVNULL, check=True)
            crowd = system.session("crowd", "--count", str(VIEWERS // CROWDS), "--key", str(key))
            crowding = stack.enter_context(running(system, crowd, reports=True))
            with limit(PROBE_LIMIT, lambda: "the viewers"):
                next(crowding.reports())
        for _ in range(SLICES):
            start, used = time.monotonic(), router.cpu()
            time.sleep(seconds / SLICES)
            cores = (router.cpu() - used) / (time.monotonic() - start)
            system.own["router"].append(cores)
        system.own |= system.ask(system.session("view"))


def idle(system: System, program: Running, samples: Samples, seconds: float) -> None:
    """Sample memory, processes and processor time of a program that nobody asks anything."""
    time.sleep(SETTLE)
    psutil.cpu_percent()
    for _ in range(SLICES):
        start, used, waited = time.monotonic(), program.cpu(), program.sum(waits)
        time.sleep(seconds / SLICES)
        if program.process.status() == psutil.STATUS_ZOMBIE:
            raise OSError("it has ended")
        cores = (program.cpu() - used) / (time.monotonic() - start)
        machine = psutil.cpu_percent() / 100 * (os.cpu_count() or 1)
        samples["cpu"].append(cores)
        samples["others"].append(max(0.0, machine - cores))
        samples["pss"].append(program.sum(lambda p: p.memory_full_info().pss / 2**20))
        samples["processes"].append(len(program.tree()))
        samples["waits"].append((program.sum(waits) - waited) / (time.monotonic() - start))
    if (others := statistics.fmean(samples["others"])) > QUIET:
        system.notes.append(f"{system.name}: other programs kept {others:.2f} cores busy")


def measure(system: System, seconds: float, *, with_server: bool) -> None:
    """Fill in what one system, and the floor on its router, take."""
    with system.attempt("everything"), ExitStack() as stack:
        router = stack.enter_context(running(system, system.router))
        with ExitStack() as once:
            start_echo(once, system)
        system.floor.clear()  # the first one waited for the router
        for _ in range(LAUNCHES):
            with ExitStack() as once:
                echo = start_echo(once, system)
                if len(system.floor["launch"]) == LAUNCHES:
                    idle(system, echo, system.floor, seconds)
        if with_server:
            system.own["devices"] = [len(system.devices)]
            for _ in range(LAUNCHES - 1):
                with ExitStack() as once:
                    start_server(once, system)
            if system.keys:
                with system.attempt("devices without simulators"):
                    idle_alone(system, seconds)
            server = start_server(stack, system)
            with system.attempt("memory and idle processor"):
                idle(system, server, system.own, seconds)
        start_echo(stack, system)
        calls = system.calls if with_server else {}
        with system.attempt("RPC"):
            system.own |= system.ask(system.session("ask", "--calls", json.dumps(calls)))
            system.floor["rpc"] = system.own.pop("echo")
        if not with_server:
            with system.attempt("setpoint of the floor"):
                system.floor |= system.ask(system.session("floor"))
            return
        with system.attempt("call()"):
            procedure, *args = calls["rpc"]
            where = ["127.0.0.1", str(system.port), procedure, json.dumps(args)]
            system.own |= system.ask([system.python, HERE / "http_probe.py", *where])
            system.floor["call"] = system.own.pop("post")
        with system.attempt("setpoint"):
            system.own |= system.ask(system.session("setpoint"))
            system.floor["setpoint"] = system.own.pop("echo")
        if system.keys:
            with system.attempt("commands"):
                commands(system)
            with system.attempt("viewers"):
                view(system, router, seconds)


def ours(home: Path) -> System:
    """Return the system of this checkout."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = VENV / "bin" / "python"
    file = home / "router.toml"
    carried = HERE.parent / "src" / "hcam_devices" / "data" / "hipercam.toml"
    file.write_text(carried.read_text() + BENCH)
    # in another process, which shares no memory with the measured one
    devices = subprocess.run([python, "-c", DEVICES], capture_output=True, text=True, check=True)
    return System(
        name="ours",
        home=home,
        port=port,
        realm="hipercam",
        python=python,
        router=[
            *(python, VENV / "bin" / "hcam", "router", "--port", str(port)),
            *("--instrument", file),
        ],
        keys=home / "hcam" / "access" / "keys",
        devices=devices.stdout.split(),
        calls={
            "rpc": ["hipercam.pressure1.rpc.samples", HUGE, 1],
            "describe": ["hipercam.slide.rpc.describe"],
        },
    )


def original(home: Path) -> System:
    """Return the original, with a router as it expects one; its call only sets a flag."""
    allow = {"call": True, "register": True, "publish": True, "subscribe": True}
    permissions = [{"uri": "", "match": "prefix", "allow": allow, "cache": True}]
    role = {"realm": "realm1", "role": "anonymous"}
    transport = {
        "type": "web",
        "endpoint": {"type": "tcp", "port": 8080, "interface": "127.0.0.1"},
        "paths": {
            "/": {"type": "json", "value": {}},
            "ws": {"type": "websocket", "auth": {"anonymous": {"type": "static", **role}}},
            "call": {"type": "caller", **role},
            "publish": {"type": "publisher", **role},
        },
    }
    realm = {"name": "realm1", "roles": [{"name": "anonymous", "permissions": permissions}]}
    worker = {"type": "router", "realms": [realm], "transports": [transport]}
    (home / "config.json").write_text(json.dumps({"version": 2, "workers": [worker]}))
    crossbar = VENV / "router" / "bin" / "crossbar"
    return System(
        name="original",
        home=home,
        port=8080,
        realm="realm1",
        python=ORIGINAL / "bin" / "python",
        router=[crossbar, "start", "--cbdir", home, "--loglevel", "warn"],
        devices=[
            *(f"{kind}{n}" for kind in ("ccd", "pressure") for n in range(1, 6)),
            *("meerstetter1", "meerstetter2", "flow", "slide", "compo_lens", "compo_arms"),
            *("compo", "rack", "gps", "chiller", "rackpc"),
        ],
        calls={"rpc": ["hipercam.slide.rpc.enable"]},
        options=("--original",),
    )


def percentile(samples: list[float], fraction: float) -> float:
    """Return the smallest sample that at least this fraction does not exceed."""
    return sorted(samples)[math.ceil(fraction * len(samples)) - 1]


def digits(number: float) -> str:
    """Return a number with three significant digits, or a dash if it is not known."""
    return "-" if math.isnan(number) else f"{float(f'{number:.3g}'):g}"


STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "n": len,
    "mean": statistics.fmean,
    "p50": statistics.median,
    "p95": lambda samples: percentile(samples, 0.95),
    "p99": lambda samples: percentile(samples, 0.99),
    "max": max,
}


@dataclass
class Row:
    """One line of the table: a statistic of a quantity, or how many times the floor's it is."""

    title: str
    quantity: str
    statistic: str
    factor: float = 1
    at_most: float = math.inf
    over_floor: bool = False

    def of(self, system: System, slice_: slice = slice(None)) -> float:
        """Return the statistic of ours or the original in its unit; NaN if it is not known."""
        figure = self._statistic(system.own, slice_)
        return figure / self._statistic(system.floor, slice_) if self.over_floor else figure

    def spread(self, system: System) -> str:
        """Return the least and the greatest of the figures of up to ten parts of the run."""
        count = min(SLICES, len(system.own.get(self.quantity, [])))
        parts = [self.of(system, slice(n, None, count)) for n in range(count)]
        return f" [{digits(min(parts))}-{digits(max(parts))}]" if count > 1 else ""

    def _statistic(self, samples: Samples, slice_: slice) -> float:
        taken = samples.get(self.quantity, [])[slice_]
        return STATISTICS[self.statistic](taken) * self.factor if taken else math.nan

    def cells(self, systems: list[System]) -> list[str]:
        """Return what the table shows: original, ours, floor, ours / original, target."""
        old, new, floor, ratio, target = "-", "-", "-", "-", ""
        figures = {system.name: self.of(system) for system in systems}
        for system in systems:  # where both were measured, the floor is the present version's
            figure = figures[system.name]
            text = "-" if math.isnan(figure) else digits(figure) + self.spread(system)
            old, new = (text, new) if system.name == "original" else (old, text)
            floor = "1" if self.over_floor else digits(self._statistic(system.floor, slice(None)))
        if len(figures) == 2:
            ratio = digits(figures["ours"] / figures["original"])
        if not math.isinf(self.at_most):
            figure = figures.get("ours", math.nan)
            verdict = "" if math.isnan(figure) else " met" if figure <= self.at_most else " MISSED"
            target = f"<= {self.at_most:g}{verdict}"
        return [self.title, old, new, floor, ratio, target]


ROWS = [
    Row("devices", "devices", "max"),
    Row("memory (PSS), MiB", "pss", "p50"),
    Row("memory / floor", "pss", "p50", at_most=1.3, over_floor=True),
    Row("processes", "processes", "p50", at_most=1),
    Row("idle CPU, devices alone, cores", "cpu alone", "mean", at_most=0.005),
    Row("idle CPU, with simulators, cores", "cpu", "mean", at_most=0.006),
    Row("idle waits/s, with simulators", "waits", "mean"),
    Row("other programs meanwhile, cores", "others", "mean"),
    Row("launch to true values*, s", "launch", "p50", at_most=0.5),
    Row("RPC p50, ms", "rpc", "p50", 1e3),
    Row("RPC p50 / echo", "rpc", "p50", at_most=1.0, over_floor=True),
    Row("RPC p99, ms", "rpc", "p99", 1e3),
    Row("RPC p99 / echo", "rpc", "p99", at_most=1.1, over_floor=True),
    Row("rpc.describe p50, ms", "describe", "p50", 1e3),
    Row("call() p50, ms", "call", "p50", 1e3),
    Row("call() p50 / bare POST", "call", "p50", at_most=1.1, over_floor=True),
    Row("hcam call, ms of processor time", "hcam call cpu", "p50", 1e3, at_most=55),
    Row("hcam status, s", "hcam status", "p50", at_most=0.5),
    Row("setpoint to telemetry p50, ms", "setpoint", "p50", 1e3),
    Row("setpoint to telemetry p50 / floor", "setpoint", "p50", at_most=1.2, over_floor=True),
    Row("setpoint to telemetry p95, ms", "setpoint", "p95", 1e3),
    Row(f"{VIEWERS} viewers: value p95, ms", "view", "p95", 1e3, at_most=30),
    Row(f"{VIEWERS} viewers: router, cores", "router", "mean", at_most=0.2),
]


def show(heads: list[str], lines: list[list[str]]) -> None:
    """Print a table, its columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for line in [heads, ["-" * width for width in widths], *lines, []]:
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)))


def install_original() -> None:
    """Bring the original's environment to what its lock says; a failure shows when it starts."""
    subprocess.run([HERE.parent / "tests" / "original"], check=False)


def go_alone(up: str = UP) -> None:
    """Start again where there is only loopback, if this machine allows it."""
    fresh = ["unshare", "-nm" if os.geteuid() == 0 else "-rnm", "sh", "-c", up, "sh"]
    if shutil.which("unshare") and subprocess.run([*fresh, "true"], check=False).returncode == 0:
        os.execvpe(fresh[0], [*fresh, sys.executable, *sys.argv], os.environ | {ALONE: "yes"})


def main() -> int:
    """Measure what is asked for; 1 when something of it could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="how long idleness is watched")
    parser.add_argument(
        "--all",
        action="store_true",
        help="also 1000 gauges (scale.py) and catching up (recorder.py)",
    )
    parser.add_argument("--only", choices=["ours", "original", "floor"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the distributions here")
    args = parser.parse_args()
    if ALONE not in os.environ:
        if args.all:
            for other in (["scale.py", "1", "1000"], ["recorder.py"]):
                subprocess.run([sys.executable, HERE / other[0], *other[1:]], check=False)
        if args.only in (None, "original"):
            install_original()
        go_alone()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = {None: (original, ours), "original": (original,)}.get(args.only, (ours,))
    missing = []
    if original in wanted and ALONE not in os.environ:
        wanted = tuple(build for build in wanted if build is not original)
        missing = ["original: this machine gives it no network of its own (unshare -n, ip)"]
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder:
        systems = [build(Path(tempfile.mkdtemp(dir=folder))) for build in wanted]
        for system in systems:
            print(f"measuring {args.only or system.name} ...", file=sys.stderr)
            measure(system, args.seconds, with_server=args.only != "floor")
            missing += system.missing
    found = {
        f"{part} of {system.name}": {
            quantity: {s: round(f(samples), 6) for s, f in STATISTICS.items()}
            for quantity, samples in taken.items()
            if samples
        }
        for system in systems
        for part, taken in (("server", system.own), ("floor", system.floor))
    }
    distributions = [
        [part, quantity, *(f"{number:.4g}" for number in numbers.values())]
        for part, quantities in found.items()
        for quantity, numbers in quantities.items()
    ]
    heads = ["quantity", "original", "ours", "floor", "ours/original", "target"]
    show(heads, [row.cells(systems) for row in ROWS])
    show(["distribution (s, MiB, cores)", "quantity", *STATISTICS], distributions)
    print("* of the original: first telemetry, since nothing here reads a pickle")
    for note in (note for system in systems for note in system.notes):
        print(f"NOTE: {note}")
    for one in missing:
        print(f"NOT MEASURED: {one}")
    if args.json:
        args.json.write_text(json.dumps({"found": found, "missing": missing}, indent=1))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
