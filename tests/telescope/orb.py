"""The telescope served by omniORB, in processes of their own: omniNames, and `orb_served.py`."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from hcam_devices.telescope.corba import Corba
from hcam_devices.telescope.sim import IDL, NAME

from ..helpers import AT_MOST

OMNINAMES = Path(str(files("jeteve_omniorb") / "bin" / "omniNames"))
SERVED = Path(__file__).with_name("orb_served.py")
LOOPBACK = ["-ORBendPoint", "giop:tcp:127.0.0.1:"]


@asynccontextmanager
async def _running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def name_service(folder: Path) -> AsyncIterator[int]:
    """Run omniNames on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    end_point = [*LOOPBACK[:1], LOOPBACK[1] + str(port)]
    command = [str(OMNINAMES), "-start", str(port), "-always", "-logdir", str(folder), *end_point]
    async with _running(*command) as process:
        async with asyncio.timeout(AT_MOST):
            while not await _serves(port):
                assert process.returncode is None, "omniNames ended"
        yield port


async def _serves(port: int) -> bool:
    """Ask for a name: omniNames accepts connections before there is a name service in it."""
    try:
        await Corba(port=port).open()
    except ConnectionError as error:
        if "has no object" not in str(error):
            await asyncio.sleep(0.01)
            return False
    return True


@asynccontextmanager
async def telescope(naming_port: int, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a telescope that has bound its name; it says on stdout what it is told.

    ``options`` are those of the ORB.
    """
    command = [sys.executable, str(SERVED), str(naming_port), IDL, NAME, *options]
    async with _running(*command) as process:
        assert await said(process) == "ready"
        yield process


async def said(process: asyncio.subprocess.Process) -> str:
    """Return the next line that the telescope says."""
    assert process.stdout
    async with asyncio.timeout(AT_MOST):
        return (await process.stdout.readline()).decode().strip()
