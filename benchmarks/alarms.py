"""Measures the alarms: how fast, how few, how cheap.

    .venv/bin/python benchmarks/alarms.py              a table, in about four minutes
    .venv/bin/python benchmarks/alarms.py --times 50

It runs the emulated instrument in a temporary folder. ``row`` is the time from the command that
breaks the simulated hardware until a client has the raised alarm, without the declared delay of the
alarm. The alarm's delay begins with the sample that is bad first, so a poll may pass before.

A killed server is an alarm, and so is the connection of each of its devices: 22 for hwserver.
Their fields, which made it 53 once, are not known to be wrong then, and raise nothing.
"""

import argparse
import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from compare import percentile
from hcam_devices.alarms.rules import Rules
from hcam_devices.config.instrument import load
from hcam_devices.ui.alarms import rows
from hcam_devices.wamp import uris
from hcam_devices.wamp.session import Session, join
from hcam_devices.wamp.uris import Address
from panel import emulated

PORT, GAUGE, FIELD = 9476, "pressure{}", "pressure"
GAUGES = 5
QUIET_S, SETTLE_S = 60.0, 60.0
RULES = Rules(load().entries.values(), {})
KILLED = "hwserver"
ALARMS = 1 + len(RULES.servers[KILLED])
"""Those of a killed server: its own, and the connection of each of its devices."""
POLL_S = RULES.poll_s(GAUGE.format(1))
TARGETS = {
    "row p50, s": None,
    "row p95, s": POLL_S + 0.3,
    "alarms of a killed server": None,
    "rows of a killed server": 1,
    "CPU, cores": 0.005,
    "memory (PSS), MiB": 40,
}


def process_of(name: str, *words: str) -> psutil.Process:
    """Return the process of a program of this instrument."""
    for one in psutil.process_iter():
        with suppress(psutil.Error), one.oneshot():  # others come and go meanwhile
            command = one.cmdline()
            is_it = len(command) > 1 and Path(command[1]).name == name and {*words} <= {*command}
            if is_it and one.environ().get("HCAM_HOME") == os.environ["HCAM_HOME"]:
                return one
    raise LookupError(f"{name} does not run")


async def listed(session: Session) -> list[dict[str, Any]]:
    """Return the alarms."""
    found: list[dict[str, Any]] = await session.call(uris.rpc("alarms", "list"))
    return found


async def quiet(session: Session) -> None:
    """Acknowledge everything, and wait until nothing is shown."""
    while shown := [one for row in rows(await listed(session)) for one in row]:
        for record in shown:
            if record["state"] != "acknowledged":
                await session.call(
                    uris.rpc("alarms", "acknowledge"), record["alarm"], record["occurrence"]
                )
        await asyncio.sleep(1)


async def delays(session: Session, times: int) -> dict[str, float]:
    """Break gauges at arbitrary times; return when their alarms are there, without the delay."""
    raised: dict[str, asyncio.Future[float]] = {}

    def hear(event: dict[str, Any]) -> None:
        found = raised.get(event["alarm"])
        if event["event"] == "raised" and found and not found.done():
            found.set_result(time.monotonic())

    await session.subscribe(hear, uris.changed("alarms"))
    took = []
    for number in range(times):
        gauge = GAUGE.format(number % GAUGES + 1)
        alarm = f"{gauge}.{FIELD}"
        raised[alarm] = asyncio.get_running_loop().create_future()
        await asyncio.sleep(0.37 * (number % 7))  # anywhere between two polls
        began = time.monotonic()
        await session.call(uris.rpc(gauge, "simulate"), "set", base=0.05, pressure=0.05)
        took.append(await raised[alarm] - began - RULES.of(alarm).delay)
        await session.call(uris.rpc(gauge, "simulate"), "set", base=1e-5, pressure=1e-5)
        if number % GAUGES == GAUGES - 1:
            await quiet(session)
    return {
        "row p50, s": percentile(sorted(took), 0.5),
        "row p95, s": percentile(sorted(took), 0.95),
    }


async def cost() -> dict[str, float]:
    """Return what the alarms cost while nothing is wrong."""
    process = process_of("hwalarm")
    before, began = process.cpu_times(), time.monotonic()
    await asyncio.sleep(QUIET_S)
    after, passed = process.cpu_times(), time.monotonic() - began
    spent = after.user + after.system - before.user - before.system
    return {
        "CPU, cores": spent / passed,
        "memory (PSS), MiB": process.memory_full_info().pss / 2**20,
    }


async def killed(session: Session) -> dict[str, float]:
    """Kill a server for good, and return how many alarms and rows that is, once all are there."""
    process_of("hcam", "up").suspend()  # it would be started again at once
    process_of(KILLED).kill()
    end = time.monotonic() + SETTLE_S
    active = 0
    while active < ALARMS and time.monotonic() < end:
        await asyncio.sleep(1)
        found = await listed(session)
        active = sum(one["state"] == "active" for one in found)
    process_of("hcam", "up").resume()
    return {"alarms of a killed server": active, "rows of a killed server": len(rows(found))}


async def main(times: int, address: Address) -> None:
    """Measure, and print a table."""
    async with join(address) as session:
        await quiet(session)
        found = await cost() | await delays(session, times) | await killed(session)
    for name, target in TARGETS.items():
        print(f"{name:26} {found[name]:8.4g}   {'' if target is None else f'<= {target:g}'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    chosen = parser.parse_args()
    with emulated(PORT) as running:
        asyncio.run(main(chosen.times, running))
