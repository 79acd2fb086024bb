"""Measures what access control costs: routers without, with it and with TLS, asked in turn.

    .venv/bin/python benchmarks/access.py

``without`` is the router with the configuration that the package carries for a plain Crossbar: its
own bridge for HTTP, one role, no keys. Calls go to a bare session, and are timed block by block of
each router in turn, so whatever else the machine does slows all alike.
"""

import asyncio
import http.client
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import compare
from compare import START_LIMIT, Running, System, digits, limit, running, show
from hcam_devices.wamp import utils
from hcam_devices.wamp.access import own_key
from hcam_devices.wamp.owner import Owner
from hcam_devices.wamp.router import answers
from hcam_devices.wamp.session import Session, join
from hcam_devices.wamp.uris import Address

LAUNCHES, BLOCKS, CALLS = 5, 150, 20  # launches, blocks, and calls of each way in one
PROCEDURE = "hipercam.slide.rpc.describe"
ARGUMENTS = [1, "two"]
BODY = json.dumps({"procedure": PROCEDURE, "args": ARGUMENTS})
WITHOUT = """
from hcam_devices.wamp import access, router
access.make_missing = lambda *_, **__: None
router.with_door = router.with_access = lambda configuration, *_, **__: configuration
from hcam_devices.cli.main import main
main()
"""
"""Runs ``hcam`` without access control."""
ROWS = [
    ("WAMP call", "wamp", "without", "with", 1.05),
    ("POST with a token", "post", "without", "with", 1.1),
    ("call(), signed", "call", "without", "with", 1.25),
    ("WAMP call over TLS", "wamp", "with", "tls", 1.4),
    ("call() over TLS", "call", "with", "tls", 1.4),
]
"""Title, quantity, the two systems that are compared, and how many times as long it may take."""
MAX_LATER_S = 0.5
"""The router and a server may be ready this much later."""


def systems(home: Path) -> dict[str, System]:
    """Return the systems by what access control they have."""
    found = {}
    for name in ("without", "with", "tls"):
        (home / name).mkdir()
        found[name] = compare.ours(home / name)
    without = found["without"]
    without.router = [without.python, "-c", WITHOUT, *without.router[2:]]
    without.keys = None
    file = home / "tls" / "router.toml"
    file.write_text(file.read_text().replace("[router]", "[router]\ntls = true"))
    return found


def until_up(system: System) -> None:
    """Wait until a router answers."""
    with limit(START_LIMIT, lambda: f"the router {system.name}"):
        while not answers(system.port):
            time.sleep(0.005)


def measure_start(system: System) -> tuple[float, float]:
    """Return the seconds until a router answers and a server's devices are true; and of processor.

    The server is started when the router answers.
    """
    with ExitStack() as stack:
        begin = time.monotonic()
        router = stack.enter_context(running(system, system.router))
        until_up(system)
        up = time.monotonic() - begin
        server = compare.start_server(stack, system)
        return up + system.own["launch"][-1], router.cpu() + server.cpu()


def use(system: System) -> None:
    """Let ``join`` and ``call`` of this process use a system's router, with its keys."""
    os.environ |= {name: system.env[name] for name in ("HCAM_HOME", "WAMP_SERVER")}


def bare_post(system: System) -> Callable[[], Any]:
    """Return what sends a request on a connection that is kept, with the token if there is one."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=START_LIMIT)
    headers = {"Content-Type": "application/json"}
    if key := own_key():
        headers["Authorization"] = f"Bearer {key.token}"

    def post() -> Any:
        connection.request("POST", "/call", BODY, headers)
        return json.load(connection.getresponse())["args"][0]

    return post


class Meter:
    """Notes how long the calls of each way to each router take, and the processor time of a call.

    That of a call is the router's and this process's, which is the caller and the callee.
    """

    def __init__(self, routers: dict[str, Running]) -> None:
        self.routers = routers
        self.took: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.processor: dict[tuple[str, str], float] = defaultdict(float)

    @contextmanager
    def block(self, name: str, way: str) -> Iterator[list[float]]:
        """Give the list for the times of a block of calls."""
        before = self.routers[name].cpu() + time.process_time()
        yield self.took[name, way]
        self.processor[name, way] += self.routers[name].cpu() + time.process_time() - before

    def row(self, title: str, way: str, base: str, name: str, most: float) -> list[str]:
        """Return the line of the table that compares a way to call two routers.

        The ratio of the times is the median of all pairs of blocks.
        """
        base_took, took = self.took[base, way], self.took[name, way]
        blocks = [
            statistics.median(took[n : n + CALLS]) / statistics.median(base_took[n : n + CALLS])
            for n in range(0, len(took), CALLS)
        ]
        ratio = statistics.median(blocks)
        times = (1e3 * statistics.median(one) for one in (base_took, took))
        processor = self.processor[name, way] / self.processor[base, way]
        verdict = "met" if ratio <= most else "MISSED"
        ratios = [f"{ratio:.3f}", f"{processor:.3f}", f"<= {most:g} {verdict}"]
        return [f"{title}, p50, ms", base, name, *map(digits, times), *ratios]


def time_http(wanted: dict[str, System], meter: Meter) -> None:
    """Time requests and ``call()`` to each router."""
    posts = {}
    for name in ("without", "with"):
        use(wanted[name])
        posts[name] = bare_post(wanted[name])
    for _ in range(BLOCKS):
        for name, system in wanted.items():
            use(system)
            ways: dict[str, Callable[[], Any]]
            ways = {"call": partial(utils.call, PROCEDURE, *ARGUMENTS)}
            if name in posts:
                ways["post"] = posts[name]
            for way, ask in ways.items():
                ask()  # it may have to connect
                with meter.block(name, way) as took:
                    for _ in range(CALLS):
                        begin = time.perf_counter()
                        answer = ask()
                        took.append(time.perf_counter() - begin)
                        if answer != ARGUMENTS:
                            raise RuntimeError(f"{name} answered {answer!r}")


async def time_wamp(callers: dict[str, Session], meter: Meter) -> None:
    """Time calls of a session of each router."""
    for _ in range(BLOCKS):
        for name, caller in callers.items():
            with meter.block(name, "wamp") as took:
                for _ in range(CALLS):
                    begin = time.perf_counter()
                    await caller.call(PROCEDURE, *ARGUMENTS)
                    took.append(time.perf_counter() - begin)


async def time_calls(wanted: dict[str, System], meter: Meter) -> None:
    """Time calls over WAMP and HTTP to a bare session at each router."""
    async with AsyncExitStack() as stack:
        callers = {}
        for name, system in wanted.items():
            use(system)
            address = Address("127.0.0.1", system.port)
            callee = await stack.enter_async_context(join(address, owner=Owner("hwserver", "")))
            await callee.register(lambda *args: list(args), PROCEDURE)
            callers[name] = await stack.enter_async_context(join(address))
        await time_wamp(callers, meter)
        await asyncio.to_thread(time_http, wanted, meter)


def main() -> int:
    """Measure, and print a table with the targets; 1 if one is missed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="hcam-bench-") as folder, ExitStack() as stack:
        wanted = systems(Path(folder))
        starts: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for _ in range(LAUNCHES):
            for name, found in starts.items():
                found.append(measure_start(wanted[name]))
        routers = {}
        for name, system in wanted.items():
            routers[name] = stack.enter_context(running(system, system.router))
            until_up(system)
        meter = Meter(routers)
        asyncio.run(time_calls(wanted, meter))
    lines = [meter.row(*row) for row in ROWS]
    for title, column in (("start, quickest, s", 0), ("start, processor, s", 1)):
        before, after = (min(one[column] for one in found) for found in starts.values())
        verdict = "met" if after - before <= MAX_LATER_S else "MISSED"
        shown = [digits(before), digits(after), f"{after - before:+.2f}", ""]
        lines.append([title, *starts, *shown, f"<= +{MAX_LATER_S:g} {verdict}"])
    show(["", "of this", "of this", "first", "second", "ratio", "processor", "target"], lines)
    print(f"other programs kept the machine busy: load {os.getloadavg()[0]:.1f} at the end")
    return int(any("MISSED" in line[-1] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
