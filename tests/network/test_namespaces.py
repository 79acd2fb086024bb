"""An instrument on three machines that are network namespaces, joined by a bridge."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .tools import BIN, Net, Sample, living, until

FORWARD = Path(__file__).with_name("forward.py")
TUNNEL = 9000
HOSTS = {"desk": "10.77.0.1", "head": "10.77.0.2", "rack": "10.77.0.3"}
SITE = """
[router]
host = "10.77.0.1"

[servers.hwserver]
host = "10.77.0.2"

[servers.hwserver-rack]
host = "10.77.0.3"

[devices.ccd1]
kind = "views.CCDHead"
gauge = "pressure1"
rack = "meerstetter1"
channel = 1
recorder = "flow"
pen = 1

[devices.pressure1]
kind = "pdr900.VacuumGauge"
port = 1

[devices.meerstetter1]
kind = "meerstetter.PeltierRack"
server = "hwserver-rack"
port = 1

[devices.flow]
kind = "minitrend.FlowRecorder"
server = "hwserver-rack"
port = 1
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)


def why_not() -> str:
    """Return why there can be no namespaces here; empty if there can."""
    if not shutil.which("ip"):
        return "there is no ip command (Debian: iproute2)"
    tried = subprocess.run(
        ["unshare", "-n", "true"], capture_output=True, text=True, timeout=60, check=False
    )
    return tried.stderr.strip()


class Host(Net):
    """A machine: a namespace with one address, a home, and the router at a loopback port."""

    def __init__(self, home: Path, namespace: str, port: int) -> None:
        home.mkdir()
        super().__init__(home)
        self.inside = ("ip", "netns", "exec", namespace)
        self.port = port

    def start(self, *command: Any, log: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start(*self.inside, *command, log=log, **more)

    def up(self, file: Path) -> subprocess.Popen[bytes]:
        command = (BIN / "hcam", "up", "--emulate", "--instrument", file)
        return self.start(*command, log="up.out")

    def head(self) -> Sample | None:
        """Return the newest sample of the view."""
        command = (*self.inside, BIN / "hcam", "call", "ccd1.telemetry")
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def programs(self) -> set[str]:
        """Return which of the servers, and whether the router, run in this home."""
        names = ("hwserver", "hwlogger", "crossbar")
        return {name for name in names if living(self.home, name)}


@contextmanager
def made_hosts(folder: Path) -> Iterator[dict[str, Host]]:
    """Make the machines, with their homes in a folder; skip the test where that is impossible."""
    if reason := why_not():
        pytest.skip(f"network namespaces cannot be made: {reason}")
    prefix = f"hcam{os.getpid()}"
    hub = f"{prefix}hub"
    made: list[str] = []
    found: dict[str, Host] = {}
    try:
        ip("netns", "add", hub)
        made.append(hub)
        ip("-n", hub, "link", "add", "name", "hub", "type", "bridge")
        ip("-n", hub, "link", "set", "hub", "up")
        for name, address in HOSTS.items():
            namespace = prefix + name
            ip("netns", "add", namespace)
            made.append(namespace)
            ip("-n", hub, *f"link add {name} type veth peer name eth0 netns {namespace}".split())
            ip("-n", hub, "link", "set", name, "master", "hub", "up")
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
            found[name] = Host(folder / name, namespace, 8080)
        yield found
    finally:
        for host in found.values():
            host.end()
        for namespace in made:
            ip("netns", "delete", namespace)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[dict[str, Host]]:
    with made_hosts(tmp_path) as found:
        yield found


def test_each_host_runs_its_own_and_a_cut_cable_is_told(hosts: dict[str, Host]) -> None:
    file = hosts["desk"].home / "site.toml"
    file.write_text(SITE)
    desk, head, rack = hosts.values()
    ends = (HOSTS["desk"], str(TUNNEL))
    router = ("127.0.0.1", "8080")
    desk.start(sys.executable, FORWARD, *ends, *router, log="tunnel.out")
    for host in (head, rack):
        host.start(sys.executable, FORWARD, *router, *ends, log="tunnel.out")
    for host in hosts.values():
        host.up(file)

    until(lambda: (told := desk.head()) and told["state"]["health"] == "OK")
    assert desk.programs() == {"hwlogger", "crossbar"}
    assert head.programs() == rack.programs() == {"hwserver"}
    assert (head.home / "log" / "hwserver.log").exists()
    assert (rack.home / "journal" / "hwserver-rack.sqlite").exists()

    ip("-n", rack.inside[-1], "link", "set", "eth0", "down")
    cut = until(lambda: (told := head.head()) and told["temperature"] is None and told)
    assert cut
    assert "meerstetter1" in cut["state_reason"]
    assert cut["pressure"]
    ip("-n", rack.inside[-1], "link", "set", "eth0", "up")
    until(lambda: (told := head.head()) and told["state"]["health"] == "OK")
