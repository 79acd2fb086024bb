"""A server alone: what it claims for itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.instrument import load
from hcam_devices.journal import Journal
from hcam_devices.server import AlreadyRunningError, Server
from hcam_devices.wamp.uris import Address

from .helpers import AT_MOST, until


def server(name: str, device: str, folder: Path) -> Server:
    """Return a server of one device, which finds no router."""
    entry = load().entries[device]
    return Server(name, [entry], Address("127.0.0.1", 1), folder, emulate=True)


async def test_two_servers_with_one_journal_are_refused_although_they_share_no_device(
    tmp_path: Path,
) -> None:
    first = server("hwserver", "pressure1", tmp_path)
    running = asyncio.create_task(first.run())
    try:
        await until(lambda: bool(first.devices))
        async with asyncio.timeout(AT_MOST):
            with pytest.raises(AlreadyRunningError, match=r"^hwserver\.sqlite is .* HCAM_HOME"):
                await server("hwserver", "pressure2", tmp_path).run()
            with pytest.raises(AlreadyRunningError, match=r"^pressure1 is already in use"):
                await server("another", "pressure1", tmp_path).run()
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("in_the_way", ["locks", "journal"])
async def test_a_home_that_cannot_be_written_is_told(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / in_the_way).touch()
    with pytest.raises(HcamError, match=rf"{in_the_way}.* cannot be written .*: make room"):
        await server("hwserver", "pressure1", tmp_path).run()


async def test_a_server_that_ends_while_the_telescope_settles_keeps_every_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    presented = server("gtcserver", "gtc", tmp_path)
    running = asyncio.create_task(presented.run())
    try:
        await until(lambda: "gtc" in presented.devices)
        telescope: Any = presented.devices["gtc"]
        await until(lambda: telescope.connection == "online")
        await telescope.do_offset(raoff=5.0, decoff=0.0)
    finally:
        running.cancel()
        await asyncio.wait([running])
    telescope.emit()  # as a call does that ends late
    assert telescope.motion.doing is None
    assert "not being kept" not in caplog.text
    assert not telescope.motion._tasks
    journal = Journal(tmp_path / "journal" / "gtcserver.sqlite")
    last = journal.samples("gtc", 0, 10_000)[-1]
    journal.close()
    assert last["seq"] > 1
    assert last["state"]["gtc"] != "offsetting"
