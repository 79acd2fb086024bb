"""Measures how fast ours and the original's hwlogger bring telemetry into the same InfluxDB.

Everything runs in a network of its own with nothing but loopback, because the original knows only
a database called pulsar.shef.ac.uk. Each logger gets a router and a flood of telemetry of CCD
heads, one after the other into one InfluxDB, which counts the points itself.

``live``: as it is published, faster than the logger can take it. ``catching up``: from the journal,
after the logger has been away; the original has none. Live, the router is the
busiest of what is ours; what the recorder sustains is what it does catching up. Another load on the
machine changes every figure: compare those of one run, with the load steady.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import compare
from compare import VENV, Command, limit, running, show

HERE = Path(__file__).resolve().parent
DATABASES = VENV / "databases"
INFLUXD = 8086
PATIENCE = 180.0
MESSAGES, SAMPLES = 60_000, 600_000
CATCHING_UP = 25.0
"""How many times the rate of the original, live, a recorder that catches up should reach."""
CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:8088"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
query-log-enabled = false
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:8086"
log-enabled = false
"""
INSTRUMENT = """
[devices.rackpc]
kind = "rackpc.RackPC"
[stores.influx]
kind = "influxdb"
url = "http://127.0.0.1:8086"
database = "hipercam"
"""


def ask(path: str, body: bytes | None = None) -> bytes:
    """Return what InfluxDB answers."""
    url = f"http://127.0.0.1:{INFLUXD}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
        return bytes(answer.read())


def points() -> int:
    """Return how many points the database has taken in so far."""
    for name, what in json.loads(ask("/debug/vars")).items():
        if name == "write":
            return int(what["values"]["pointReq"])
    return 0


@contextmanager
def database(folder: Path) -> Iterator[None]:
    """Run InfluxDB where the original looks for it."""
    (folder / "influxd.conf").write_text(CONFIG.format(folder=folder))
    command: Command = [DATABASES / "influxd", "run", "-config", folder / "influxd.conf"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with limit(60, lambda: "InfluxDB"):
            while True:
                try:
                    ask("/ping")
                    break
                except OSError:
                    time.sleep(0.1)
        ask("/query?q=CREATE+DATABASE+hipercam", b"")
        yield
    finally:
        process.terminate()
        process.wait()


def rate(wanted: int) -> float:
    """Return the points a second between a tenth and nine tenths of those that are to come."""
    before = points()
    marks: list[tuple[float, int]] = []
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        marks.append((time.monotonic(), points() - before))
        if marks[-1][1] >= 0.9 * wanted:
            break
        time.sleep(0.05)
    begun = next((mark for mark in marks if mark[1] >= 0.1 * wanted), marks[0])
    return (marks[-1][1] - begun[1]) / max(marks[-1][0] - begun[0], 1e-9)


def memory(program: compare.Running) -> float:
    """Return the memory (PSS, MiB) of a program and what it started."""
    return program.sum(lambda process: process.memory_full_info().pss / 2**20)


def measure_original(home: Path) -> dict[str, float]:
    """Return what the original manages; as it is published, acknowledged, one after the other."""
    system = compare.original(home)
    found = {}
    flood = system.session("flood", "--count", str(MESSAGES))
    logger: Command = [system.python, system.python.parent / "hwlogger"]
    with (
        running(system, system.router),
        running(system, logger) as program,
        running(system, flood, reports=True) as flooding,
    ):
        with limit(PATIENCE, lambda: "the flood"):
            next(flooding.reports())
        found["live"] = rate(MESSAGES)
        found["memory"] = memory(program)
    return found


def measure_ours(home: Path) -> dict[str, float]:
    """Return what ours manages, live and from a journal."""
    system = compare.ours(home)
    (home / "site.toml").write_text(INSTRUMENT)
    heads: Command = [system.python, HERE / "heads.py"]
    logger: Command = [system.python.parent / "hwlogger", "--instrument", home / "site.toml"]
    found = {}
    with running(system, system.router):
        with running(system, logger) as program:
            with limit(PATIENCE, lambda: "the recorder"):
                while points() == 0:  # of the recorder itself
                    time.sleep(0.1)
            with running(system, [*heads, "serve", str(MESSAGES)]):
                found["live"] = rate(MESSAGES)
                found["memory"] = memory(program)
        journal = home / "hcam" / "journal" / "hwserver"
        fill = [*heads, "fill", str(SAMPLES), journal]
        subprocess.run(fill, env=system.env, check=True)
        with running(system, [*heads, "serve"]):
            time.sleep(2)  # so that the recorder finds all heads at once
            with running(system, logger) as program:
                found["catching up"] = rate(SAMPLES)
                found["memory catching up"] = memory(program)
    return found


def main() -> int:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["ours", "original"])
    args = parser.parse_args()
    if compare.ALONE not in os.environ:
        if args.only != "ours":
            compare.install_original()
        subprocess.run([HERE.parent / "tests" / "databases"], check=True)
        hosts = compare.ORIGINAL / "hosts"
        hosts.write_text("127.0.0.1 localhost pulsar.shef.ac.uk\n")
        compare.go_alone(f"mount --bind {hosts} /etc/hosts && {compare.UP}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    found: dict[str, dict[str, float]] = {}
    wanted: dict[str, Callable[[Path], dict[str, float]]] = {
        "original": measure_original,
        "ours": measure_ours,
    }
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder:
        for name, measure in wanted.items():
            if args.only in (None, name):
                home = Path(tempfile.mkdtemp(dir=folder))
                print(f"measuring {name} ...", file=sys.stderr)
                with database(home):
                    found[name] = measure(home)
    rows = ["live", "catching up", "memory", "memory catching up"]
    lines = []
    for row in rows:
        old, new = (found.get(name, {}).get(row) for name in wanted)
        base = found.get("original", {}).get(
            row.removesuffix(" catching up").replace("catching up", "live")
        )
        ratio = new / base if new and base else 0.0
        target = ""
        if row == "catching up":
            target = f">= {CATCHING_UP:g} " + ("met" if ratio >= CATCHING_UP else "MISSED")
        shown = ["-" if x is None else f"{x:.0f}" for x in (old, new)]
        lines.append([row, *shown, f"{ratio:.2f}" if ratio else "-", target])
    show(["samples/s, MiB", "original", "ours", "ours/original (live)", "target"], lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
