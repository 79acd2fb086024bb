"""The telescope served by omniORB, in processes of their own: omniNames, and `python -m ...orb`."""

import asyncio
import importlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from hcam_devices.telescope.corba import Corba
from hcam_devices.telescope.sim import IDL, NAME

from ..helpers import AT_MOST

OMNINAMES = Path(str(files("jeteve_omniorb") / "bin" / "omniNames"))
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
    command = [sys.executable, "-m", __name__, str(naming_port), *options]
    async with _running(*command) as process:
        assert await said(process) == "ready"
        yield process


async def said(process: asyncio.subprocess.Process) -> str:
    """Return the next line that the telescope says."""
    assert process.stdout
    async with asyncio.timeout(AT_MOST):
        return (await process.stdout.readline()).decode().strip()


def serve(naming_port: str, *options: str) -> None:
    """Serve a telescope with the types of our IDL file until the process is killed."""
    corba = importlib.import_module("omniORB.CORBA")
    orb = corba.ORB_init([__name__, *LOOPBACK, *options], corba.ORB_ID)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    importlib.import_module("omniORB").importIDL(IDL)
    naming = importlib.import_module("CosNaming")
    skeleton: Any = importlib.import_module("HIPERTELESCOPESERVER__POA")

    class Telescope(skeleton.HIPERTelescopeServer_ifce):  # type: ignore[misc]
        m1NoiseMaxValue = 0.0

        def getTelescopeParams(self) -> list[str]:
            return ["T_TUBE = 20 / [C];JUNK", "NAME = 'caf\xe9' / of Latin-1"]

        def getHumidity(self) -> float:
            return 50.0

        def getCabinetTemperature1(self) -> float:
            return 12.5

        getCabinetTemperature2 = getCabinetTemperature3 = getCabinetTemperature1

        def areMACSFollowErrorBelowThreshold(self) -> bool:
            return True

        def requestTelescopeOffset(self, dra: float, ddec: float) -> None:
            print("offset", dra, ddec, flush=True)
            if dra > 100:
                raise corba.NO_PERMISSION
            if ddec > 100:
                os.kill(os.getpid(), signal.SIGKILL)

        def startPointingModel(self, stars: int) -> None:
            print("stars", stars, flush=True)

    adapter = orb.resolve_initial_references("RootPOA")
    adapter._get_the_POAManager().activate()
    context = orb.string_to_object(f"corbaname::127.0.0.1:{naming_port}")
    context = context._narrow(naming.NamingContext)
    context.rebind([naming.NameComponent(NAME, "")], Telescope()._this())
    print("ready", flush=True)
    orb.run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
