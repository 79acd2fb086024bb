"""A server alone: what it claims for itself."""

import asyncio
from pathlib import Path

import pytest

from hcam_devices import HcamError
from hcam_devices.instrument import load
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
