"""How long the telescope's calls keep the event loop waiting: prints the largest gaps.

    .venv/bin/python benchmarks/telescope_loop.py

The telescope is simulated in a process of its own, so that only the driver's loop is measured: it
ticks every 5 ms, and a gap is what a tick came late.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hcam_devices.config.instrument import load
from hcam_devices.core import sim
from hcam_devices.devices.gtc import Simulator, Telescope
from hcam_devices.errors import NotAllowedError
from hcam_devices.telescope.motion import Move
from hcam_devices.telescope.sim import IDL

TICK = 0.005
SERVE = "serve"


async def serve() -> None:
    """Serve a telescope that does what it is told on stdin: a fault and its options."""
    simulator = Simulator()
    simulator.folder = Path(tempfile.mkdtemp())
    async with sim.serve(simulator) as place:
        print(place["port"], flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            fault, *options = line.split()
            simulator.simulate(
                fault, **{k: float(v) for k, _, v in (o.partition("=") for o in options)}
            )
            if fault == "disconnect":
                simulator.hang_up()
            print("done", flush=True)


class Gaps:
    """Ticks for ever, and keeps the largest delay of a tick, in s."""

    def __init__(self) -> None:
        self.largest = 0.0

    async def tick(self) -> None:
        """Tick."""
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.largest = max(self.largest, time.perf_counter() - due)


@asynccontextmanager
async def measured(name: str) -> AsyncIterator[None]:
    """Print the largest gap of what is done meanwhile."""
    gaps = Gaps()
    ticking = asyncio.create_task(gaps.tick())
    begin = time.perf_counter()
    try:
        yield
    finally:
        ticking.cancel()
        took = time.perf_counter() - begin
        print(f"{name:<44} {took:6.1f} s   largest gap {1000 * gaps.largest:6.1f} ms", flush=True)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    while not condition():  # noqa: ASYNC110  (what is measured must not be disturbed)
        await asyncio.sleep(0.05)


async def main() -> None:
    """Measure."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        SERVE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    read = process.stdout.readline
    port = int(await read())

    async def simulate(what: str) -> None:
        assert process.stdin
        process.stdin.write(f"{what}\n".encode())
        await read()

    device: Any = load().entries["gtc"].build(port=port, idl=IDL)
    assert isinstance(device, Telescope)
    running = asyncio.create_task(device.run())

    def online() -> bool:
        return device.connection == "online" and device.motion.in_position is True

    async def offset() -> None:
        move = Move("offset", "requestTelescopeOffset", (1.0, 0.0), 1.0, settles=True)
        await (await device.motion.begin(move))

    async def tried(call: Awaitable[Any]) -> None:
        with suppress(OSError, NotAllowedError):
            await call

    async with measured("import of omniORB, IDL, first connection"):
        await until(online)
    async with measured("polling"):
        await asyncio.sleep(10)
    async with measured("20 offsets, one after the other"):
        for _ in range(20):
            await offset()
    await simulate("set transfer=10")
    async with measured("offsets during a transfer into the archive"):
        await device.archive()
        while device.transfer.state == "running":
            await offset()
    async with measured("a server that hangs for 30 s"):
        await simulate("hang seconds=30")
        await tried(device.do_offset(1.0, 0.0))
        await asyncio.sleep(30)
        await until(online)
    async with measured("an offset of unknown outcome"):
        await simulate("unanswered")
        await tried(device.do_offset(20.0, 0.0))
        await until(lambda: device.connection == "online")
    await device.acknowledge(moved=True)
    async with measured("a server that is restarted"):
        await simulate("disconnect")
        await asyncio.sleep(5)
        await simulate("clear")
        await until(online)
    running.cancel()
    await asyncio.wait([running])
    process.terminate()
    await process.wait()


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1:] == [SERVE] else main())
