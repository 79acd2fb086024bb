"""Kills, a full disk and forged samples, mixed: the audit is right about each device.

A witness that only listens says what was published, whatever journals and recorder believe. It
takes an hour, or HCAM_SOAK_S seconds, and a disk of its own, which only root may mount.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.types import SubscribeOptions

from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import flatten
from hcam_devices.wamp.utils import RouterError, WampError, call

from . import tools
from .recorded import FLOOD, LOADS
from .test_forged import FORGED, alter, forge
from .tools import BIN, Client, Net, client, until

RATE = 20
FULL_S = 8.0
"""Seconds for which the disk is full each time."""
LOST_A_KILL = 3 * RATE
"""Samples that nobody may have heard when a server is killed, as they were lost or waited."""


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
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    if not (request.config.getoption("--soak", default=False) or "HCAM_SOAK_S" in os.environ):
        pytest.skip("takes an hour: ./check --soak")
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
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAMP_SERVER", "HCAM_HOME"):
        monkeypatch.setenv(name, disk.environment[name])
    monkeypatch.setattr(tools, "PATIENCE", 300.0)  # hours do not matter here
    seconds = float(os.environ.get("HCAM_SOAK_S", "3600"))
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
    night, number = history.nights()[-1], max(one for one in recorded if one[0] == "load3")
    alter(disk.data / "history" / f"{night}.sqlite", "load3", number[2])
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
