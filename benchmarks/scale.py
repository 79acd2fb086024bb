"""Measures one emulated hwserver with 1, 100 and 1000 gauges, the router, and hwlogger beside it.

    .venv/bin/python benchmarks/scale.py [1 100 1000] [--seconds 120] [--share 0.25]

``presented``: from the start of hwserver until a subscriber has heard true values of all devices.
``at a quarter``: the same while hwserver is stopped and continued ten times a second, so that it
runs a quarter of the time (``--share``). CPU and memory (PSS) are those of the steady state with
hwlogger; watch it for more than a minute, because once a minute the recorder asks every journal.
``MiB for each more``: in hwserver and the router, for each device more than in the first column.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import compare
from compare import Command, Running, System, digits, limit, running, show

GAUGE = '[devices.gauge{n}]\nkind = "pdr900.VacuumGauge"\nport = 1\n'
PATIENCE = 300.0
SETTLE = 10.0
SWITCHES = 10
"""Times a second that a slowed program is stopped and continued."""
TARGETS = {
    "at a quarter, s": 30.0,
    "presented, s": 10.0,
    "hwserver, cores": 0.2,
    "router, cores": 0.12,
    "MiB for each more": 0.1,
}


def site(home: Path, count: int) -> System:
    """Return a system whose instrument file has so many gauges."""
    system = compare.ours(home)
    numbers = range(1, count + 1)
    (home / "site.toml").write_text("".join(GAUGE.format(n=n) for n in numbers))
    system.devices = [f"gauge{n}" for n in numbers]
    system.router = [*system.router, "--instrument", home / "site.toml"]
    return system


def program(system: System, name: str, *options: str) -> Command:
    """Return the command of one of the servers, with the instrument file."""
    command: Command = [system.python.parent / name, "--instrument", system.home / "site.toml"]
    return [*command, *options]


@contextmanager
def slowed(process: Running, share: float) -> Iterator[None]:
    """Let a program run for only a share of the time."""
    over = threading.Event()
    period = 1 / SWITCHES

    def switch() -> None:
        while not over.is_set():
            for number, seconds in ((signal.SIGSTOP, 1 - share), (signal.SIGCONT, share)):
                process.process.send_signal(number)
                time.sleep(seconds * period)

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def presented(stack: ExitStack, system: System, share: float) -> tuple[Running, float]:
    """Start hwserver; return it, and the seconds until true values of all devices were heard."""
    silent = set(system.devices)
    watch = system.session("watch", "--devices", *system.devices)
    with running(system, watch, reports=True) as watching:
        reports = watching.reports()
        with limit(PATIENCE, lambda: "a bare session to be subscribed"):
            next(reports)
        begin = last = time.monotonic()
        server = stack.enter_context(running(system, program(system, "hwserver", "--emulate")))
        with ExitStack() as slow, limit(PATIENCE, lambda: f"{len(silent)} devices"):
            if share < 1:
                slow.enter_context(slowed(server, share))
            while silent:
                report = next(reports)
                silent.remove(report["device"])
                last = report["time"]
    return server, last - begin


def ask(system: System, procedure: str) -> Any:
    """Call a procedure over HTTP and return its result."""
    body = json.dumps({"procedure": procedure}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{system.port}/call", body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["args"][0]


def recorded(system: System) -> dict[str, float]:
    """Return how far the recorder is behind, as it says itself."""
    newest = ask(system, "hipercam.recorder.rpc.telemetry")
    values = {name: newest[f"{name}_local"] for name in ("lag", "rate", "backlog")}
    lag, rate = (values[name]["value"] for name in ("lag", "rate"))
    return {"recorded samples/s": rate, "lag, s": lag, "backlog, samples": values["backlog"]}


def timed(system: System, *arguments: str) -> float:
    """Return the seconds that a command of hcam takes; it may say that something is wrong."""
    begin = time.monotonic()
    command = program(system, "hcam", *arguments)
    with (system.home / "log").open("a") as log:
        subprocess.run(
            [command[0], *arguments, *command[1:3]],
            env=system.env,
            stdout=log,
            stderr=log,
            timeout=PATIENCE,
            check=False,
        )
    return time.monotonic() - begin


def memory(one: Running) -> float:
    """Return the memory (PSS, MiB) of a program and what it started."""
    return one.sum(lambda process: process.memory_full_info().pss / 2**20)


def measure(count: int, seconds: float, share: float) -> dict[str, float]:
    """Return the figures of one number of devices."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder, ExitStack() as stack:
        system = site(Path(folder), count)
        programs = {"router": stack.enter_context(running(system, system.router))}
        programs["hwlogger"] = stack.enter_context(running(system, program(system, "hwlogger")))
        with ExitStack() as once:
            found["at a quarter, s"] = presented(once, system, share)[1]
        programs["hwserver"], found["presented, s"] = presented(stack, system, 1)
        time.sleep(SETTLE)
        begin = time.monotonic()
        before = {name: one.cpu() for name, one in programs.items()}
        time.sleep(seconds)
        after = {name: one.cpu() for name, one in programs.items()}
        took = time.monotonic() - begin
        for name in ("hwserver", "router", "hwlogger"):
            found[f"{name}, cores"] = (after[name] - before[name]) / took
            found[f"{name}, MiB"] = memory(programs[name])
        found |= recorded(system)
        found["hcam watch --once, s"] = timed(system, "watch", "--once")
        found["hcam status, s"] = timed(system, "status")
    return found


def main() -> int:
    """Measure, and print a table with a column for each number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[1, 100, 1000])
    parser.add_argument("--seconds", type=float, default=120, help="how long it is watched")
    parser.add_argument("--share", type=float, default=0.25, help="of the time, when slowed")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the router
    found = []
    for count in args.counts:
        print(f"measuring {count} devices ...", file=sys.stderr)
        one = measure(count, args.seconds, args.share)
        found.append(one)
        more, first = count - args.counts[0], found[0]
        grown = sum(one[f"{name}, MiB"] - first[f"{name}, MiB"] for name in ("hwserver", "router"))
        one["MiB for each more"] = grown / more if more else 0.0
    lines = []
    for title, most in ((title, TARGETS.get(title)) for title in found[0]):
        figures = [one[title] for one in found]
        target = ""
        if most is not None:
            target = f"<= {most:g} " + ("met" if max(figures) <= most else "MISSED")
        lines.append([title, *map(digits, figures), target])
    show(["of one server", *map(str, args.counts), "target"], lines)
    print(f"other programs kept the machine busy: load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
