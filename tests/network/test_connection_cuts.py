"""A connection to the router that is cut at any moment, and one whose end only we have noticed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from autobahn.wamp.exception import ApplicationError

from hcam_devices.config.instrument import load
from hcam_devices.wamp import session as sessions
from hcam_devices.wamp.server import Server

from .tools import Follower, Net, Proxy, client, soon

GAUGE = """
[devices.cut1]
kind = "pdr900.VacuumGauge"
port = 1
"""


@asynccontextmanager
async def presented(proxy: Proxy, folder: Path) -> AsyncIterator[Server]:
    """Present one simulated gauge from this process, through a proxy."""
    file = folder / "cut.toml"
    file.write_text(GAUGE)
    entries = list(load(file).entries.values())
    server = Server("hwserver-cut", entries, proxy.address, folder, emulate=True)
    running = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_connection_cut_anywhere_in_the_beginning_is_made_again(
    guest: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sessions, "LAST_PAUSE", 0.001)
    async with Proxy(guest.address) as proxy, client(guest.address) as session:
        proxy.cuts = list(range(0, 2480, 40))
        status = await Follower.of(session, "hipercam.hwserver-cut.status")
        telemetry = await Follower.of(session, "hipercam.cut1.telemetry")
        async with presented(proxy, tmp_path) as server:

            async def answers() -> bool:
                try:
                    described = await session.call("hipercam.cut1.rpc.describe")
                except ApplicationError:
                    return False
                return not proxy.cuts and bool(described["device"] == "cut1")

            await soon(answers)
            await status.until(lambda s: s["state"] == "running")
            await telemetry.until(lambda s: s["pressure"])
            assert server.restarts == 0


async def test_the_testament_of_a_lost_session_is_not_the_last_word(
    guest: Net, tmp_path: Path
) -> None:
    """The server is back before the router has noticed that its first connection is dead."""
    async with Proxy(guest.address) as proxy, client(guest.address) as session:
        status = await Follower.of(session, "hipercam.hwserver-cut.status")
        telemetry = await Follower.of(session, "hipercam.cut1.telemetry")
        async with presented(proxy, tmp_path):
            await status.until(lambda s: s["state"] == "running")
            await telemetry.until(lambda s: s["pressure"])
            begin = len(status.heard), len(telemetry.heard)
            dead = proxy.lose_clients()
            await status.until(lambda s: s["state"] == "running", begin[0])
            await telemetry.until(lambda s: s["pressure"], begin[1])
            assert not any(s["state"] == "gone" for s in status.heard[begin[0] :])
            for router in dead:
                router.transport.abort()
            await telemetry.until(lambda s: s["timestamp"] is None, begin[1])
            await status.until(lambda s: s["state"] == "gone", begin[0])
            begin = len(status.heard), len(telemetry.heard)
            last = await Follower.of(session, "hipercam.hwserver-cut.status")
            await last.until(lambda s: s["state"] == "running")
            last = await Follower.of(session, "hipercam.cut1.telemetry")
            await last.until(lambda s: s["state"]["connection"] == "online")
