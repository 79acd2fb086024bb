"""The instrument file of the William Herschel Telescope: the same code with other devices."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import InstrumentError, carried, load
from hcam_devices.core import sim

from ..helpers import FAST, living, online, sample_where

WHT = load(Path("wht"))


def test_a_bare_name_is_a_file_that_the_package_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert WHT.path == carried("wht")
    assert load().path == load(Path("hipercam")).path == carried("hipercam")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hipercam").mkdir()
    assert load().path == load(Path("hipercam")).path == carried("hipercam")
    (tmp_path / "wht").write_text("[devices]\n")
    assert load(Path("wht")).entries == {}
    with pytest.raises(InstrumentError, match="elsewhere: cannot be read"):
        load(Path("elsewhere"))


def test_it_has_a_chiller_of_its_own_and_nothing_of_the_gtc() -> None:
    kinds = {name: entry.cls.__name__ for name, entry in WHT.entries.items()}
    assert kinds["chiller"] == "WaterChiller"
    assert not kinds.keys() & {"compo", "compo_arms", "compo_lens", "rack", "gtc"}
    here = load().entries
    assert kinds.keys() <= here.keys()
    assert {name for name in kinds if WHT.entries[name].cls != here[name].cls} == {"chiller"}


def test_it_is_checked_by_name() -> None:
    said = CliRunner().invoke(main, ["config", "check", "--instrument", "wht"])
    assert said.exit_code == 0, said.output
    assert f"{carried('wht')}: {len(WHT.entries)} devices, no mistakes" in said.output


async def test_all_of_it_runs_emulated() -> None:
    async with AsyncExitStack() as stack:
        devices = {}
        for name, entry in WHT.entries.items():
            place = {}
            if entry.cls.simulator:
                place = await stack.enter_async_context(sim.serve(entry.cls.simulator()))
            devices[name] = entry.build(**({} if entry.sources else FAST) | place)
        for device in devices.values():
            device.attach(devices)
        await stack.enter_async_context(living(*devices.values()))
        for device in devices.values():
            if not device.sources():
                await sample_where(device, online)
