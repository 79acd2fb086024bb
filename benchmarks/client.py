"""Measures the client, the commands and ``GET /metrics`` with 22, 100 and 1000 emulated gauges.

    .venv/bin/python benchmarks/client.py [22 100 1000] [--seconds 10]

``s`` is by the clock, ``CPU s`` what the program itself has used, start of Python included, which
other programs on the machine change less. A scrape is of the router alone; its first one asks every
device for its description.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import scale
from compare import Running, System, digits, limit, running, show

SCRAPES = 5
CLIENT = """
import json, os, resource, sys, time
import psutil
from hcam_devices.client import connect

def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

began = time.monotonic()
with connect() as instrument:
    said = {"connect, s": time.monotonic() - began, "connect, CPU s": spent()}
    said["connected, MiB"] = psutil.Process().memory_full_info().pss / 2**20
    before, began, number = spent(), time.monotonic(), 0
    for reading in instrument.subscribe("*.pressure", seconds=float(sys.argv[1])):
        number += 1
    took = time.monotonic() - began
    said["subscribed, readings/s"] = number / took
    said["subscribed, cores"] = (spent() - before) / took
print(json.dumps(said))
"""
COMMANDS = {
    "hcam get of one field": ("get", "gauge7.pressure"),
    "hcam get of all": ("get", "*.pressure"),
    "hcam monitor --count 1": ("monitor", "gauge7.pressure", "--count", "1"),
    "hcam status": ("status",),
}


def used(system: System, *command: str) -> tuple[float, float]:
    """Return the seconds and the processor seconds of a command of ``hcam``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = scale.timed(system, *command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scraped(system: System, router: Running) -> tuple[float, float, int]:
    """Return the seconds and the router's processor seconds of a scrape, and its bytes."""
    cpu, began = router.cpu(), time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{system.port}/metrics", timeout=60) as answer:
        size = len(answer.read())
    return time.monotonic() - began, router.cpu() - cpu, size


def measure(count: int, seconds: float) -> dict[str, float]:
    """Return the figures of one number of devices."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder, ExitStack() as stack:
        system = scale.site(Path(folder), count)
        router = stack.enter_context(running(system, system.router))
        scale.presented(stack, system, 1)
        time.sleep(scale.SETTLE)
        with limit(scale.PATIENCE, lambda: "the client"):
            said = subprocess.run(
                [sys.executable, "-c", CLIENT, str(seconds)],
                env=system.env,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        found |= json.loads(said.stdout)
        for title, command in COMMANDS.items():
            found[f"{title}, s"], found[f"{title}, CPU s"] = used(system, *command)
        found["first scrape, s"], found["first scrape, CPU s"], _ = scraped(system, router)
        idle = router.cpu()
        time.sleep(2)
        idle = (router.cpu() - idle) / 2
        scrapes = [scraped(system, router) for _ in range(SCRAPES)]
        found["scrape, s"] = median(took for took, _, _ in scrapes)
        found["scrape, CPU s"] = median(cpu - idle * took for took, cpu, _ in scrapes)
        found["scrape, kB"] = scrapes[0][2] / 1000
    return found


def main() -> int:
    """Measure, and print a table with a column for each number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[22, 100, 1000])
    parser.add_argument("--seconds", type=float, default=10, help="of the subscription")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the router
    found = []
    for count in args.counts:
        print(f"measuring {count} devices ...", file=sys.stderr)
        found.append(measure(count, args.seconds))
    show(
        ["of one client", *map(str, args.counts)],
        [[title, *(digits(one[title]) for one in found)] for title in found[0]],
    )
    print(f"other programs kept the machine busy: load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
