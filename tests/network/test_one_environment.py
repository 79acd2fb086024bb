"""Our package in place of version 1.7, in the environment of its GUI."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from hcam_devices.core.sim import serve
from hcam_devices.devices.zaber import Simulator

from . import gui
from .gui import Gui, Screen, site_file
from .namespaces import made_hosts
from .tools import INSTRUMENT, PATIENCE, until

pytestmark = pytest.mark.merge

CONFIG = """
focal_plane_slide_on = 1
tcs_on = 1
telins_name = GTC
file_logging_on = 0
"""
SLIDE_PORT = 'aliases = ["FocalPlaneSlide"]\nport = 10001'
IMPORTS = """
import importlib, pkgutil, sys
import astropy, hcam_devices
print(astropy.__version__)
print(hcam_devices.__file__)
for package in ("hcam_widgets", "hcam_drivers"):
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, package + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


def run(environment: Path, *command: str, **variables: str) -> str:
    """Run a program of the environment; return what it prints."""
    done = subprocess.run(
        [environment / "bin" / "python", *command],
        env=os.environ | variables,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_module_of_the_gui_imports(environment: Path) -> None:
    astropy, ours, *modules = run(environment, "-c", IMPORTS).splitlines()
    assert astropy.startswith("6.1.")
    assert Path(ours).is_relative_to(environment)
    assert {"hcam_widgets.widgets", "hcam_widgets.hardware.slide", "hcam_drivers.config"} <= {
        *modules
    }


async def test_slide_eng_drives_the_slide(environment: Path, tmp_path: Path) -> None:
    async with serve(slide := Simulator()) as place:
        slide.speed = 1e6
        text = INSTRUMENT.path.read_text()
        assert SLIDE_PORT in text
        file = tmp_path / "site.toml"
        file.write_text(text.replace(SLIDE_PORT, f"{SLIDE_PORT[:-5]}{place['port']}"))

        async def eng(*words: str) -> str:
            command = (str(environment / "bin" / "slide_eng"), *words)
            given = {"HCAM_HOME": str(tmp_path), "HCAM_INSTRUMENT": str(file)}
            return await asyncio.to_thread(run, environment, *command, **given)

        for words in (["home"], ["move", "1000"]):
            assert await eng(*words) == "None\n"
        assert await eng("position") == "1000.0 microstep\n"
        assert await eng("-e", "move", "150000") == "None\n"
        assert slide.position == 1000


@pytest.mark.soak
def test_hdriver_and_our_servers_run(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made_hosts(tmp_path, {"desk": "10.77.0.1"}) as [host]:
        file = site_file(host.home)
        host.start(
            environment / "bin" / "hcam", "up", "--emulate", "--instrument", file, log="up.out"
        )
        monkeypatch.setattr(gui, "ORIGINAL", environment / "bin")
        with Gui(Screen(host), "hdriver", files={".hdriver/config": CONFIG}) as driver:
            until(lambda: driver.read("globals.session"))
            until(lambda: "curr=1100, targ=1100\ninpos" in driver.read("globals.fpslide.label"))
            until(lambda: driver.read("globals.info.ra").count(":") == 2)
            until(
                lambda: re.match(r" *-?\d", driver.read("globals.info.alt"))
            )  # from the sky frame
            assert host.online_on_disk()
        # Ours: its program of this name has replaced that of version 1.7.
        show = environment / "bin" / "show_telemetry"
        host.start(show, "hipercam.slide.telemetry", log="shown")
        until(lambda: "1100" in (host.home / "shown").read_text())
