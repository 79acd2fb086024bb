"""Long runs: of devices whose programs are killed, and of the whole instrument.

The first mixes kills, a full disk and forged samples: the audit is right about each device. A
witness that only listens says what was published, whatever journals and recorder believe. It
needs a disk of its own, which only root may mount. The second restarts each server every hour:
memory, files, threads and disk stay flat.

Each takes an hour, or HCAM_SOAK_S seconds: a day is

    HCAM_SOAK_S=86400 ./check --soak tests/network/test_mixed.py -k whole --timeout 100000
"""

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
import pytest
from autobahn.wamp.types import SubscribeOptions

from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import flatten, nights
from hcam_devices.wamp.utils import RouterError, WampError, call, publish

from . import tools
from .recorded import FLOOD, LOADS
from .test_forged import FORGED, alter, forge
from .tools import BIN, INSTRUMENT, Client, Net, client, until

RATE = 20
FULL_S = 8.0
"""Seconds for which the disk is full each time."""
LOST_A_KILL = 3 * RATE
"""Samples that nobody may have heard when a server is killed, as they were lost or waited."""


SERVERS = ("hwserver", "hserver", "gtcserver", "hwlogger")
RESTART_S = 3600.0
"""Seconds in which each server is restarted once."""
MAX_MORE = {"MiB": 4.0, "files": 4.0, "threads": 3.0, "MiB of disk": 8.0}
"""By this much, the last quarter of a program's life may exceed the second quarter."""
MAX_SAMPLE_BYTES, MAX_LOGS_BYTES = 1000, 64 * 2**20
"""Bytes that journals and history may take for each sample, and for SQLite's write-ahead logs."""


class Disk(Net):
    """A network whose journals and history are on a disk of their own; its logs are not."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.data = home / "data"
        self.data.mkdir()
        self.site = home / "site.toml"
        tables = (
            f'[devices.{name}]\nkind = "rackpc.RackPC"\nserver = "hwserver-flood"\n'
            for name in LOADS
        )
        self.site.write_text("\n".join(("[servers.hwserver-flood]", *tables)))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"HCAM_HOME": str(self.data)}

    def revive(self) -> None:
        """Start what has ended."""
        commands = {
            "flood": (sys.executable, FLOOD, str(RATE), "hwserver-flood", *LOADS),
            "hwlogger": (BIN / "hwlogger", "--instrument", self.site),
        }
        for name, command in commands.items():
            if name not in self.running or self.running[name].poll() is not None:
                self.running[name] = self.start(*command, log=f"{name}.out")

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()

    def fill(self) -> None:
        for size in (65536, 1):
            with suppress(OSError), (self.data / "filler").open("ab", buffering=0) as file:
                while file.write(b"x" * size):
                    pass

    def make_room(self) -> None:
        (self.data / "filler").unlink(missing_ok=True)


class Witness:
    """What was published by others than the forger: samples by number, and those without."""

    def __init__(self, forger: int) -> None:
        self.forger = forger
        self.numbered: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.unnumbered: set[tuple[str, str]] = set()
        """Device and time of each: the newest is published again after a late testament."""
        self.newest: dict[str, dict[str, Any]] = {}

    def hear(self, sample: Any, event: Any) -> None:
        if event.publisher == self.forger or sample["timestamp"] is None:
            return
        if sample["seq"] is None:
            self.unnumbered.add((sample["device"], sample["timestamp"]))
        else:
            self.numbered[sample["device"], sample["epoch"], sample["seq"]] = sample
            self.newest[sample["device"]] = sample


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    if not (request.config.getoption("--soak", default=False) or "HCAM_SOAK_S" in os.environ):
        pytest.skip("takes an hour: ./check --soak")
    return float(os.environ.get("HCAM_SOAK_S", "3600"))


@pytest.fixture
def disk(tmp_path: Path, seconds: float) -> Iterator[Disk]:
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    net = Disk(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(net.data)]
    subprocess.run(mount, check=True)
    try:
        yield net
    finally:
        net.end()
        subprocess.run(["umount", "-l", net.data], check=True)


@pytest.mark.soak
async def test_the_audit_is_right_about_each_device_after_kills_a_full_disk_and_forgers(
    disk: Disk, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAMP_SERVER", "HCAM_HOME"):
        monkeypatch.setenv(name, disk.environment[name])
    monkeypatch.setattr(tools, "PATIENCE", 300.0)  # hours do not matter here
    chance = random.Random(int(os.environ.get("HCAM_SOAK_SEED", "15")))
    disk.start_router("--instrument", disk.site)
    key = disk.key("hwserver-flood")  # nobody else can publish under the names of its devices
    async with client(disk.address, key=key) as forger, client(disk.address) as listener:
        assert forger._session_id
        witness = Witness(forger._session_id)
        options = SubscribeOptions(match="wildcard", details_arg="event")
        await listener.subscribe(witness.hear, "hipercam..telemetry", options)
        disk.revive()
        kills = await torment(disk, forger, witness, chance, seconds)
        disk.make_room()
        lines = await asyncio.to_thread(settled, disk, witness)
    lost = Counter(device for device, _ in witness.unnumbered)
    history = NightFiles(disk.data / "history")
    recorded = {
        (one.device, one.epoch, one.seq): one
        for night in history.nights()
        for one in history.samples(night)
    }
    published = {number[:2] for number in witness.numbered}
    kept = Counter(number[0] for number in recorded if number[:2] not in published)
    print(f"{len(witness.numbered)} samples, {kills} kills, lost {lost}, kept by recorder {kept}")
    assert lost
    for device in LOADS:
        line, heard = lines[device], lost[device]
        assert heard - kept[device] <= line["lost"] <= heard + kills * LOST_A_KILL, line
        assert line["missing"] == line["lost"], line
        assert (line["doubled"], line["coming"], line["altered"], line["unknown"]) == (0, 0, 0, 0)
    for number, sample in witness.numbered.items():
        assert number[0] == "recorder" or recorded[number].values == flatten(sample).values
    assert not any(
        one.values.get("count1") == FORGED for one in recorded.values() if one.device in LOADS
    )
    number = max(one for one in recorded if one[0] == "load3")
    alter(disk.data / "history", "load3", number[2])
    assert audited(disk)["load3"]["altered"] == 1
    until(lambda: audited(disk)["load3"]["altered"] == 0)


async def torment(
    disk: Disk, forger: Client, witness: Witness, chance: random.Random, seconds: float
) -> int:
    """Kill, fill and forge for a while; return how often a program was killed."""
    kills, end, room_at = 0, time.monotonic() + seconds, 0.0
    while time.monotonic() < end or not witness.unnumbered:
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        if time.monotonic() > room_at:
            disk.make_room()
        await asyncio.to_thread(disk.revive)
        match chance.choice(("forge", "forge", "forge", "kill", "full")):
            case "forge":
                for real in [witness.newest[one] for one in LOADS if one in witness.newest]:
                    seq = real["seq"] + chance.choice((1, 2, 50, 10**6))
                    epoch = chance.choice((real["epoch"], "f" * 12))
                    await forge(forger, real, seq=seq, epoch=epoch)
            case "kill":
                kills += 1
                await asyncio.to_thread(disk.kill, chance.choice(("flood", "hwlogger")))
            case "full" if time.monotonic() > room_at + 2 * FULL_S:
                room_at = time.monotonic() + FULL_S
                await asyncio.to_thread(disk.fill)
    return kills


def settled(disk: Disk, witness: Witness) -> dict[str, dict[str, Any]]:
    """Return what the audit says of each device when everything has come home."""
    disk.revive()
    before = len(witness.numbered)

    def at_home() -> bool:
        try:
            newest = call("hipercam.recorder.rpc.telemetry")
        except (RouterError, WampError):
            return False
        return bool(newest and newest["seq"] and newest["backlog_local"] == 0.0)

    until(lambda: len(witness.numbered) > before + 10 * RATE)
    until(at_home)
    until(lambda: all(not line["coming"] for line in audited(disk).values()))
    disk.running["flood"].terminate()
    disk.running["flood"].wait()
    disk.running["flood"] = disk.start(
        sys.executable, FLOOD, "0.01", "hwserver-flood", *LOADS, log="flood.out"
    )
    for name in LOADS:
        until(lambda name=name: answers(name))  # type: ignore[misc]
    until(at_home)
    return audited(disk)


def answers(name: str) -> bool:
    try:
        return bool(call(f"hipercam.{name}.rpc.journal"))
    except (RouterError, WampError):
        return False


def audited(disk: Disk) -> dict[str, dict[str, Any]]:
    """Return what ``hcam audit`` says of each device."""
    done = subprocess.run(
        [BIN / "hcam", "audit", "--json", "--instrument", disk.site],
        env=disk.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    store = json.loads(done.stdout)["stores"][0]
    print([one for one in store["findings"] if "journal" in one["cause"]], file=sys.stderr)
    return {line["device"]: line for line in store["lines"]}


class Instrument(Net):
    """The whole instrument, emulated, with a program that watches it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.looks: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
        """What each process took, at each look."""

    def begin(self, name: str) -> None:
        """Start a program, or start it again after its orderly end."""
        if running := self.programs.get(name):
            running.terminate()
            assert running.wait(tools.PATIENCE) == 0
        commands = {"hwlogger": ("hwlogger",), "watch": ("hcam", "watch")}
        program, *options = commands.get(name, (name, "--emulate"))
        self.programs[name] = self.start(BIN / program, *options, log=f"{name}.out")

    def look(self) -> None:
        """Note memory, open files and threads of each program with its children."""
        for name, program in self.programs.items():
            look = dict.fromkeys(("MiB", "files", "threads"), 0.0)
            process = psutil.Process(program.pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    look["MiB"] += one.memory_full_info().uss / 2**20
                    look["files"] += one.num_fds()
                    look["threads"] += one.num_threads()
            self.looks[name, program.pid].append(look)
        logs = self.size("") - self.size("journal") - self.size("history")
        self.looks["home", 0].append({"MiB of disk": logs / 2**20})

    def size(self, folder: str) -> int:
        """Return the bytes that a folder of the home takes."""
        found = 0
        for file in (self.home / folder).rglob("*"):
            with suppress(FileNotFoundError):
                found += file.lstat().st_blocks * 512
        return found

    def growth(self) -> list[str]:
        """Return what has grown by more than it may."""
        found = []
        for (name, pid), looks in self.looks.items():
            quarter = len(looks) // 4
            for what in looks[0] if quarter else ():
                early, late = (
                    statistics.median(look[what] for look in part)
                    for part in (looks[quarter : 2 * quarter], looks[-quarter:])
                )
                line = f"{name} ({pid}): {early:.1f} to {late:.1f} {what}, {len(looks)} looks"
                print(line)
                found += [line] if late - early > MAX_MORE[what] else []
        return found

    def errors(self) -> list[str]:
        """Return the lines of logs that report an error."""
        logs = [*self.home.glob("*.out"), *self.home.rglob("*.log")]
        return [
            f"{log.name}: {line}"
            for log in logs
            for line in log.read_text(errors="replace").splitlines()
            if " ERROR " in line or "Traceback" in line
        ]


@pytest.fixture
def instrument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instrument]:
    net = Instrument(tmp_path)
    for name in ("WAMP_SERVER", "HCAM_HOME"):
        monkeypatch.setenv(name, net.environment[name])
    try:
        yield net
    finally:
        net.end()


@pytest.mark.soak
def test_a_long_run_of_the_whole_instrument_stays_flat(
    seconds: float, instrument: Instrument
) -> None:
    instrument.start_router()
    assert instrument.router
    instrument.programs["router"] = instrument.router
    for name in (*SERVERS, "watch"):
        instrument.begin(name)
    names = [*INSTRUMENT.entries, "recorder"]
    instrument.wait_for_devices(*names)
    chance, began = random.Random(20), round(time.time() * 1000)
    instrument.hcam("call", "slide.stage.home", "--wait")
    end = time.monotonic() + seconds
    step = min(RESTART_S, seconds) / len(SERVERS)
    servers, restart_at = cycle(SERVERS), time.monotonic() + step / 2
    while time.monotonic() < end:
        for name in names:
            if answers(name):
                call(f"hipercam.{name}.rpc.telemetry")
        if answers("slide"):
            publish("hipercam.slide.target_position", chance.uniform(100, 1500))
        instrument.look()
        if time.monotonic() > restart_at:
            restart_at += step
            instrument.begin(next(servers))
        time.sleep(chance.uniform(0, seconds / 360))
    instrument.wait_for_devices(*names)
    growth = instrument.growth()
    samples = sum(map(instrument.last, names))
    data = instrument.size("journal") + instrument.size("history")
    print(f"{samples} samples in {data} bytes")
    for night in nights(began, round(time.time() * 1000)):
        until(lambda night=night: is_complete(instrument, night))  # type: ignore[misc]
    assert not instrument.errors()
    assert not growth
    assert data < MAX_LOGS_BYTES + MAX_SAMPLE_BYTES * samples


def is_complete(instrument: Instrument, night: str) -> bool:
    """Return whether the audit finds every sample of a night."""
    command = [str(BIN / "hcam"), "audit", night]
    done = subprocess.run(command, env=instrument.environment, capture_output=True, check=False)
    return done.returncode == 0
