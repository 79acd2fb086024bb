"""Kinds of devices from outside the package: files, packages, entry points, and what is refused."""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import InstrumentError, load
from hcam_devices.core import sim

from ..helpers import living, online, sample_where

DOME = '''
"""A thermometer in the dome: -> T? <- T=12.75"""

from hcam_devices.core import Device, Readback, Until
from hcam_devices.core import Simulator as Base


class Codec:
    cut = Until(b"\\n")

    def request(self, ref, value=None):
        return f"{ref}?\\n".encode()

    def reply(self, request, frame):
        return frame.decode().partition("=")[2]


class Dome(Device):
    """The air in the dome."""

    codec = Codec()
    sensors: int = 1
    temperature = Readback(unit="deg_C", ref="T", doc="Temperature of the air.")


class Simulator(Base):
    cut = Codec.cut

    def answer(self, frame):
        return b"T=12.75\\n"
'''
TABLE = '[devices.dome]\nkind = "{}"\nport = 4001\n'


def instrument(folder: Path, kind: str, more: str = "") -> Path:
    (folder / "ours.toml").write_text(TABLE.format(kind) + more)
    return folder / "ours.toml"


def beside(folder: Path, text: str = DOME, name: str = "dome") -> Path:
    (folder / "devices").mkdir(exist_ok=True)
    (folder / "devices" / f"{name}.py").write_text(text)
    return folder / "devices" / f"{name}.py"


def installed(folder: Path, package: str) -> Path:
    """Write a package as an installer leaves it, with an entry point ``<package>-dome``."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "dome.py").write_text(DOME)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[hcam_devices.devices]\n{package}-dome = {package}.dome:Dome\n"
    )
    return folder


def mistakes(path: Path) -> str:
    with pytest.raises(InstrumentError) as told:
        load(path)
    return str(told.value)


async def emulated(path: Path) -> None:
    (entry,) = load(path).entries.values()
    async with sim.serve(entry.cls.simulator()) as place:
        device = entry.build(**place)
        async with living(device):
            sample = await sample_where(device, online)
    assert sample["temperature"] == {"value": 12.75, "unit": "deg_C"}
    assert device.describe()["kind"] == "dome.Dome"


async def test_a_file_beside_the_instrument_file(tmp_path: Path) -> None:
    beside(tmp_path)
    path = instrument(tmp_path, "dome.Dome", "sensors = 2\n")
    checked = CliRunner().invoke(main, ["config", "check", "--instrument", str(path)])
    assert checked.exit_code == 0, checked.output
    await emulated(path)


async def test_a_file_may_import_another_one_beside_it(tmp_path: Path) -> None:
    beside(tmp_path)
    beside(tmp_path, "from .dome import Dome as Base\n\nclass Dome(Base):\n    pass\n", "other")
    (entry,) = load(instrument(tmp_path, "other.Dome")).entries.values()
    assert entry.cls.simulator is not None


@pytest.mark.parametrize("kind", ["mysite1.dome.Dome", "mysite2-dome"])
async def test_a_package_by_its_module_and_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    package = kind.partition(".")[0].partition("-")[0]
    monkeypatch.syspath_prepend(str(installed(tmp_path, package)))
    try:
        await emulated(instrument(tmp_path, kind))
    finally:
        for name in (package, f"{package}.dome"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import nowhere_to_be_found\n", "cannot be imported: ModuleNotFoundError: No module"),
        ("class Dome(\n", "cannot be imported: SyntaxError"),
        ("Dome = 1\n", "there is no class Dome in"),
        ("class Dome:\n    pass\n", "Dome does not extend Device"),
        (DOME.replace("Readback(", "dict("), "Dome declares no field"),
        (DOME.replace('ref="T"', "kind=lambda text: text"), "does not say that it returns"),
        (DOME.replace("sensors: int", 'sensors: "Nothing"'), "name 'Nothing' is not defined"),
        (
            DOME.replace("Simulator as Base", "Simulator").replace("Simulator(Base)", "Sim"),
            "call yours Simulator",
        ),
        (
            DOME.replace("    sensors", "    def __init__(self, name): 1 / 0\n    sensors"),
            "Dome cannot be built: TypeError",
        ),
        (DOME.replace("sensors: int", "refused: int"), "refused cannot be a setting"),
        (
            DOME.replace("Until\n", "Until, rpc\n", 1).replace(
                "    sensors", "    @rpc()\n    async def heat(self, by: Codec): ...\n\n    sensors"
            ),
            "cannot be imported: PydanticSchemaGenerationError",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_a_mistake_with_its_line(
    tmp_path: Path, text: str, why: str
) -> None:
    beside(tmp_path, text)
    said = mistakes(instrument(tmp_path, "dome.Dome"))
    assert why in said
    assert said.startswith(f"{tmp_path}/ours.toml:")


def test_a_setting_that_a_class_from_outside_does_not_have_is_a_mistake(tmp_path: Path) -> None:
    beside(tmp_path)
    said = mistakes(instrument(tmp_path, "dome.Dome", "sensor = 2\n"))
    assert "sensor is not a setting here" in said
    assert "did you mean sensors?" in said


def test_a_file_must_not_have_the_name_of_a_module_of_the_package(tmp_path: Path) -> None:
    beside(tmp_path, name="zaber")
    said = mistakes(instrument(tmp_path, "zaber.FocalPlaneSlide"))
    assert "has the name of a module of hcam_devices: rename it" in said


@pytest.mark.parametrize("kind", ["dome", "nowhere.at.all.Dome", "nowhere.Dome", "..Dome", "a b.C"])
def test_a_kind_that_is_nowhere(tmp_path: Path, kind: str) -> None:
    said = mistakes(instrument(tmp_path, kind))
    assert f"there is no kind of device {kind!r}" in said
    assert "devices/ beside the instrument file" in said


@pytest.mark.parametrize("which", ["file", "folder"])
def test_nothing_is_imported_that_everybody_may_replace(tmp_path: Path, which: str) -> None:
    file = beside(tmp_path, "raise AssertionError('it was imported')\n")
    place = file if which == "file" else file.parent
    place.chmod(place.stat().st_mode | 0o002)
    said = mistakes(instrument(tmp_path, "dome.Dome"))
    assert f"is not imported, because every user may write to {place}: chmod o-w {place}" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_nothing_of_another_user_in_a_folder_of_everybody_is_imported(tmp_path: Path) -> None:
    file = beside(tmp_path, "raise AssertionError('it was imported')\n")
    file.parent.chmod(0o1777)
    os.chown(file, 12345, 12345)
    said = mistakes(instrument(tmp_path, "dome.Dome"))
    assert f"{file} belongs to another user" in said
