"""A name on the network belongs to one server, whoever else wants it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import RegisterOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp.server import Server
from hcam_devices.wamp.uris import Address

from .tools import Client, Follower, Net, Proxy, Sample, client, soon

GAUGE = """
[devices.shared1]
kind = "pdr900.VacuumGauge"
port = 1
"""
NOBODY = Address("127.0.0.1", 1)


@asynccontextmanager
async def presented(
    address: Address, folder: Path, name: str = "hwserver-shared"
) -> AsyncIterator[Server]:
    """Present one simulated gauge from this process, as a server of its own home."""
    file = folder.with_suffix(".toml")
    file.write_text(GAUGE)
    entries = list(load(file).entries.values())
    server = Server(name, entries, address, folder, emulate=True)
    running = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.wait([running])


async def epoch(session: Client) -> str:
    """Return the epoch of the server that answers for the gauge; nothing if nobody does."""
    try:
        newest = await session.call("hipercam.shared1.rpc.telemetry")
    except ApplicationError:
        return ""
    return str(newest["epoch"]) if newest and newest["pressure"] else ""


async def other_than(session: Client, former: str) -> str:
    """Wait until another server answers than before; return its epoch."""

    async def answered() -> str:
        found = await epoch(session)
        return "" if found == former else found

    return await soon(answered)


async def anything(heard: list[Sample]) -> bool:
    """Return whether something has been heard."""
    return bool(heard)


async def closed(link: Any) -> bool:
    """Return whether there is no connection to the hardware."""
    try:
        await link.exchange(b"@254PR1?;FF", 1)
    except ConnectionError:
        return True
    return False


async def refused(log: pytest.LogCaptureFixture, words: str) -> str:
    """Wait until a server has said that it was refused; return what it said."""

    async def said() -> str:
        return next((one for one in log.messages if words in one), "")

    return await soon(said)


async def test_a_second_server_says_whose_the_name_is_and_touches_nothing(
    guest: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(guest.address) as session:
        status = await Follower.of(session, "hipercam.hwserver-shared.status")
        async with presented(guest.address, tmp_path / "first") as first:
            mine = await other_than(session, "")
            begin = len(status.heard)
            async with presented(guest.address, tmp_path / "second") as second:
                said = await refused(caplog, "hwserver-shared is refused by the router at")
                assert second.devices["shared1"].connection == "offline"
                assert await epoch(session) == mine
            for word in (first.owner.host, f"process {first.owner.pid}", first.owner.since):
                assert word in said
            again = [record for record in caplog.records if "is refused" in record.message]
            assert [record.levelno for record in again] == [logging.WARNING]
            assert await epoch(session) == mine
            assert status.heard[begin:] == []


async def test_a_second_server_takes_over_when_the_first_has_ended(
    guest: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(guest.address) as session, AsyncExitStack() as first:
        status = await Follower.of(session, "hipercam.hwserver-shared.status")
        await first.enter_async_context(presented(guest.address, tmp_path / "first"))
        mine = await other_than(session, "")
        async with presented(guest.address, tmp_path / "second") as second:
            await refused(caplog, "hwserver-shared is refused")
            await first.aclose()
            theirs = await other_than(session, mine)
            running = await status.until(lambda s: s.get("since") == second.owner.since)
            assert running["state"] == "running"
            telemetry = await Follower.of(session, "hipercam.shared1.telemetry")
            assert (await telemetry.until(lambda s: s["pressure"]))["epoch"] == theirs


async def test_a_server_that_was_away_too_long_leaves_its_devices_to_its_successor(
    guest: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Proxy(guest.address) as proxy,
        client(guest.address) as session,
        presented(proxy.address, tmp_path / "first") as first,
        AsyncExitStack() as other,
    ):
        mine = await other_than(session, "")
        await other.enter_async_context(presented(guest.address, tmp_path / "second"))
        await refused(caplog, "hwserver-shared is refused")
        proxy.to = NOBODY
        for router in proxy.lose_clients():
            router.transport.abort()
        theirs = await other_than(session, mine)
        caplog.clear()
        proxy.to = guest.address
        await refused(caplog, "hwserver-shared is refused")
        await soon(lambda: closed(first.devices["shared1"].link))
        assert await epoch(session) == theirs
        await other.aclose()
        assert await other_than(session, theirs) == mine


async def test_a_server_whose_connections_were_cut_is_back_before_the_router_has_noticed(
    guest: Net, tmp_path: Path
) -> None:
    async with (
        Proxy(guest.address) as proxy,
        client(guest.address) as session,
        presented(proxy.address, tmp_path / "first"),
    ):
        mine = await other_than(session, "")
        telemetry = await Follower.of(session, "hipercam.shared1.telemetry")
        begin = len(telemetry.heard)
        assert proxy.lose_clients()

        async def back() -> str:
            with suppress(TimeoutError):  # the question went to the dead session
                async with asyncio.timeout(1):
                    return await epoch(session)
            return ""

        assert await soon(back) == mine
        assert all(sample["timestamp"] for sample in telemetry.heard[begin:])


async def test_a_name_is_taken_by_force_with_the_server_s_key_only_and_is_an_alarm_then(
    guest: Net, tmp_path: Path
) -> None:
    async with client(guest.address) as session, presented(guest.address, tmp_path / "first"):
        mine = await other_than(session, "")
        telemetry = await Follower.of(session, "hipercam.shared1.telemetry")
        force = RegisterOptions(match="prefix", force_reregister=True)
        steal = "hipercam.shared1.rpc.", force
        for key in (guest.key("local"), guest.key("hwserver-other"), None):
            async with client(guest.address, key=key) as thief:
                with pytest.raises(ApplicationError, match="not authorized to register"):
                    await thief.register(lambda *_: "mine now", *steal)
        async with client(guest.address, key=guest.key("hwserver-shared")) as thief:
            await thief.register(lambda *_: "mine now", *steal)
            sample = await telemetry.next(lambda s: s["alarms"])
            assert [(a["field"], a["severity"]) for a in sample["alarms"]] == [("commands", "ERR")]
            assert "the name hipercam.shared1.rpc. belongs to" in sample["alarms"][0]["reason"]
            assert "commands have not arrived here since 20" in sample["alarms"][0]["reason"]
            assert sample["pressure"]
            assert await session.call("hipercam.shared1.rpc.describe") == "mine now"
        assert await other_than(session, "") == mine
        await telemetry.next(lambda s: not s["alarms"])


async def test_a_device_that_another_server_presents_is_refused_by_name(
    guest: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(guest.address) as session, AsyncExitStack() as first:
        await first.enter_async_context(presented(guest.address, tmp_path / "first"))
        mine = await other_than(session, "")
        async with presented(guest.address, tmp_path / "second", "hwserver-other") as second:
            said = await refused(caplog, "shared1 is not presented")
            assert "belongs to hwserver-shared on " in said
            assert await epoch(session) == mine
            ask = partial(session.call, "hipercam.hwserver-other.journal.samples", "shared1")
            kept, read = await ask(), list[Sample]()
            second.devices["shared1"].listeners.append(read.append)
            second.devices["shared1"].poll_now()
            await soon(lambda: anything(read))
            assert await ask() == kept
            await first.aclose()
            said = await refused(caplog, "refuses 'hwserver-other'")
            assert 'not authorized to register procedure "hipercam.shared1.rpc."' in said
            assert not await epoch(session)


TWO = """
[devices.both1]
kind = "pdr900.VacuumGauge"
port = 1
aliases = ["Both1"]

[devices.both2]
kind = "pdr900.VacuumGauge"
port = 1
"""


async def test_a_device_that_is_refused_leaves_nothing_behind_and_keeps_no_other_from_the_network(
    guest: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "two.toml"
    file.write_text(TWO)
    server = Server(
        "hwserver-two", [*load(file).entries.values()], guest.address, tmp_path, emulate=True
    )
    async with client(guest.address) as session, AsyncExitStack() as other:
        key = guest.key("hwserver-two")
        thief = await other.enter_async_context(client(guest.address, key=key))
        await thief.register(lambda *_: "mine", "hipercam.Both1.rpc.", RegisterOptions("prefix"))
        telemetry = await Follower.of(session, "hipercam.both2.telemetry")
        running = asyncio.create_task(server.run())
        try:
            await telemetry.until(lambda s: s["pressure"])
            assert "the name hipercam.Both1.rpc. belongs to" in await refused(
                caplog, "both1 is not"
            )

            async def nobody() -> bool:
                with suppress(ApplicationError):
                    await session.call("hipercam.both1.rpc.describe")
                    return False
                return True

            await soon(nobody)
            first = await Follower.of(session, "hipercam.both1.telemetry")
            await other.aclose()
            await first.until(lambda s: s["pressure"])
            for name in ("both1", "Both1", "both2"):
                assert (await session.call(f"hipercam.{name}.rpc.telemetry"))["pressure"]
            assert server.restarts == 0
        finally:
            running.cancel()
            await asyncio.wait([running])
