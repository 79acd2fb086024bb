"""`hcam gtc probe` reports what a telescope's server is, and moves nothing."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hcam_devices.core import sim
from hcam_devices.telescope.corba import Corba
from hcam_devices.telescope.ior import describe
from hcam_devices.telescope.sim import IDL, Simulator
from hcam_devices.ui.probe import as_lines, report

from ..helpers import AT_MOST
from .orb import name_service, telescope

HCAM = Path(sys.prefix) / "bin" / "hcam"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(HCAM), "gtc", "probe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_telescope_served_by_omniorb_is_described(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port, telescope(port):
        done = await asyncio.to_thread(run, "--port", str(port), "--idl", IDL, "--timeout", "20")
    assert done.returncode == 0, done.stderr
    said = {line[:34].split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert said["type"] == "IDL:HIPERTELESCOPESERVER/HIPERTelescopeServer_ifce:1.0"
    assert (said["orb"], said["giop"], said["alive"]) == ("omniORB", "1.2", "yes")
    assert said["addresses"].startswith("127.0.0.1:")
    assert "code sets    ISO 8859-1, UTF-8; wide: UTF-16" in done.stdout
    assert said["getHumidity"] == "50.0"
    assert said["getM1Temperature"].startswith("not read: ")


async def test_without_gtcserver_the_instrument_file_says_where_the_telescope_is(
    tmp_path: Path,
) -> None:
    file = tmp_path / "site.toml"
    text = '[devices.gtc]\nkind = "gtc.Telescope"\nserver = "gtcserver"\n'
    async with sim.serve(Simulator()) as place:
        file.write_text(f"{text}port = {place['port']}\ntimeout = 20\nidl = '{IDL}'\n")
        nobody = ("--url", "127.0.0.1:1")
        done = await asyncio.to_thread(run, *nobody, "--instrument", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        found = f"found by     {file} (no gtcserver is running at 127.0.0.1:1)"
        assert done.stdout.startswith(found)
        assert f"addresses    127.0.0.1:{place['port']}\n" in done.stdout
        done = await asyncio.to_thread(run, *nobody, "--instrument", "wht")
    assert done.returncode == 1
    assert "has no device gtc: give the host of the telescope's name service" in done.stderr


async def test_nothing_is_moved_or_set() -> None:
    simulator = Simulator()
    async with sim.serve(simulator) as place:
        lines = list(as_lines(await report(Corba(**(place | {"timeout": AT_MOST})))))
    assert "alive        yes" in lines
    assert not simulator.commands()
    assert all(operation.startswith(("get", "are", "is")) for operation in simulator.heard)


async def test_one_that_has_died_is_described_from_its_reference(tmp_path: Path) -> None:
    async with name_service(tmp_path) as port:
        async with telescope(port):
            pass
        with pytest.raises(ConnectionError) as raised:
            await report(Corba(port=port, timeout=AT_MOST))
    assert "orb          omniORB" in str(raised.value)
    assert "alive        no: the telescope (HIPERTelescopeServer of" in str(raised.value)


async def test_nobody_there_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = await asyncio.to_thread(run, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"Error: the name service at 127.0.0.1:{port} cannot be reached\n"


@pytest.mark.parametrize("text", ["", "IOR:", "IOR:00", "IOR:zz", "IOR:0100000005000000"])
def test_what_is_no_reference_is_called_that(text: str) -> None:
    with pytest.raises(ValueError, match=r"object reference|hexadecimal"):
        describe(text)
