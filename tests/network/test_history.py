"""History is asked of the recorder, and without one read from its files: by people and scripts."""

import asyncio
import json
import os
import pty
import re
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from hcam_devices.core.device import iso_from_s
from hcam_devices.history import archive
from hcam_devices.history.archive import Remote
from hcam_devices.history.figures import with_stores
from hcam_devices.history.journals import Journals
from hcam_devices.history.recorder import Recorder
from hcam_devices.history.replicator import Replicator
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal import Journal
from hcam_devices.journal.points import Field, Point
from hcam_devices.wamp.agent import Agent
from hcam_devices.wamp.owner import Owner
from hcam_devices.wamp.session import keep_joined
from hcam_devices.wamp.utils import InvalidArgumentError, NoSuchProcedureError, call

from ..helpers import records
from .tools import BIN, PATIENCE, Net, soon

SAMPLES = 12_345


@pytest.fixture
def net(bare_router: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A router without a recorder, and a home."""
    net = Net(tmp_path)
    net.share_access(bare_router)
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_HOME", str(net.home))
    return net


@pytest.fixture
def alone(tmp_path: Path) -> Net:
    """A home without a router."""
    return Net(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """The files of this home: a sample each second until now."""
    store = EmbeddedStore("local", tmp_path / "history")
    begin = int(time.time() * 1000) - SAMPLES * 1000
    rows: list[dict[str, Field]] = [
        {"temperature": -90 + n % 100 / 100, "health": f"OK {n // 5000}"} for n in range(SAMPLES)
    ]
    units = {"temperature": "deg_C"}
    store.write(
        records([Point("ccd9", "a", n, begin + n * 1000, row, units) for n, row in enumerate(rows)])
    )
    yield store
    store.close()


@asynccontextmanager
async def recording(net: Net, store: EmbeddedStore, folder: Path) -> AsyncIterator[None]:
    """Present a recorder of the store on the network."""
    journals = Journals({})
    replicators = [Replicator(store, journals)]
    device = with_stores(Recorder, [store.name])(
        "recorder", replicators=replicators, journals=journals, folder=folder, stores={}
    )
    journal = Journal(folder / "journal")
    present = Agent(device, ("recorder",), journal).present
    owner = Owner("hwlogger", iso_from_s(0))
    agent = asyncio.create_task(keep_joined(net.address, present, owner=owner))

    async def answers() -> bool:
        try:
            return bool(await asyncio.to_thread(call, "hipercam.recorder.rpc.describe"))
        except NoSuchProcedureError:
            return False

    try:
        await soon(answers)
        yield
    finally:
        agent.cancel()
        await asyncio.wait([agent])
        journal.close()


async def test_people_and_scripts_get_it_from_the_recorder(
    net: Net, store: EmbeddedStore, tmp_path: Path
) -> None:
    async with recording(net, store, tmp_path):
        shown = await asyncio.to_thread(net.hcam, "history", "ccd9.temperature", "ccd9.health")
        written = await asyncio.to_thread(net.hcam, "history", "ccd9.temperature", "--csv")
        listed = await asyncio.to_thread(net.hcam, "history")
        wrong = await asyncio.to_thread(net.hcam, "history", "ccd9.temprature", code=1)
        series = await asyncio.to_thread(archive.timeseries, "ccd9.temperature", last="7d")
        with pytest.raises(InvalidArgumentError, match="points must be from 1 to 3000, not 5000"):
            await asyncio.to_thread(Remote().history, "ccd9.temperature", 0, 1, 5000)
        with pytest.raises(InvalidArgumentError, match=r"history: field: .*string, not 7"):
            await asyncio.to_thread(call, "hipercam.recorder.rpc.history", 7)
    assert "no recorder" not in shown
    assert re.search(r"ccd9\.temperature  deg_C\n.* min .* max ", shown)
    assert re.search(r"OK 0\n.*OK 1\n.*OK 2\n.*still OK 2\n", shown)
    assert written.startswith("time,ccd9.temperature [deg_C]\n")
    assert len(written.splitlines()) == SAMPLES + 1
    assert listed == "ccd9: health, temperature [deg_C]\n"
    assert wrong == "Error: ccd9 has no 'temprature'; it has temperature, health\n"
    assert len(series) == SAMPLES
    assert str(series["ccd9.temperature"].unit) == "deg_C"


def test_without_a_recorder_it_is_read_from_the_files(alone: Net, store: EmbeddedStore) -> None:
    done = subprocess.run(
        [str(BIN / "hcam"), "history", "ccd9.temperature", "--table", "--points", "1"],
        env=alone.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "ccd9.temperature  deg_C"
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == (
        f"no recorder answers at {alone.address} (WAMP_SERVER): reading {store.folder} instead\n"
    )
    assert "there are no values of ccd9.temperature" in alone.hcam_here(
        "history", "ccd9.temperature", "--to", "2026-01-01", code=1
    )
    assert "choose one of" in alone.hcam_here("history", "a.b", "--csv", "--points", "3", code=2)


def test_in_a_terminal_it_is_a_plot_as_wide_as_that(alone: Net, store: EmbeddedStore) -> None:
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    environment = {k: v for k, v in alone.environment.items() if k not in ("COLUMNS", "LINES")}
    shown = b""
    with subprocess.Popen(
        [BIN / "hcam", "history", "ccd9.temperature", "--last", "4h"],
        env=environment | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(slave)
        try:
            while some := os.read(master, 10_000):
                shown += some
        except OSError:  # how Linux says that the other end is closed
            pass
        assert process.wait(PATIENCE) == 0
    os.close(master)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    assert lines[0].startswith("ccd9.temperature  deg_C  20")
    assert max(map(len, lines[1:])) == 90
    assert any(0x2800 <= ord(character) < 0x2900 for character in "".join(lines))
    assert re.match(
        "\u2501\u2501 ccd9.temperature: last .*, min -90.000 .*, max -89.010 ", lines[-1]
    )
    assert b"\x1b[36m" in shown
    assert len(lines) < 30


def test_a_reader_that_stops_early_is_no_error(alone: Net, store: EmbeddedStore) -> None:
    command = f"{BIN / 'hcam'} history ccd9.temperature --csv | head -n 1"
    done = subprocess.run(
        command, shell=True, env=alone.environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "time,ccd9.temperature [deg_C]\n"
    assert "Traceback" not in done.stderr
    assert json.dumps(done.stderr).count("\\n") == 1
