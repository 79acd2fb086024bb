"""Machines that are network namespaces, joined by a bridge."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from .tools import BIN, INSTRUMENT, PATIENCE, Net, until


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


AWAIT = """
import sys, time
from hcam_devices.wamp import utils

def is_online(name):
    try:
        sample = utils.call(f"hipercam.{name}.rpc.telemetry")
    except utils.WampError:
        return False
    return bool(sample) and sample["state"]["connection"] == "online"

for name in sys.argv[1:]:
    while not is_online(name):
        time.sleep(0.2)
"""


class Host(Net):
    """A machine: a namespace with one address, a home, and the router at a loopback port."""

    def __init__(self, home: Path, prefix: str) -> None:
        home.mkdir()
        super().__init__(home)
        self.inside = ("ip", "netns", "exec", prefix + home.name)
        self.switch = prefix + HUB
        self.port = 8080

    def start(self, *command: Any, log: str, **more: Any) -> subprocess.Popen[bytes]:
        return super().start(*self.inside, *command, log=log, **more)

    def run(self, *command: Any, **more: Any) -> str:
        return super().run(*self.inside, *command, **more)

    def wait_until_online(self) -> None:
        """Wait until every device of the default instrument is on the network, and online."""
        every = len(INSTRUMENT.names)
        # One program, not one a look; it ends with this process.
        looking = self.start(sys.executable, "-c", AWAIT, *INSTRUMENT.names, log="await.out")
        assert looking.wait(PATIENCE) == 0, (self.home / "await.out").read_text()
        until(lambda: f"{every} of {every} devices" in self.hcam("status", code=None))

    def up(self, file: Path) -> subprocess.Popen[bytes]:
        command = (BIN / "hcam", "up", "--emulate", "--instrument", file)
        return self.start(*command, log="up.out")

    def cable(self, state: str) -> None:
        """Pull the cable out of the switch (``down``), or put it in (``up``)."""
        ip("-n", self.switch, "link", "set", self.home.name, state)


HUB = "hub"
"""The name of the bridge, and the end of the name of its namespace."""
NUMBERS = count()
"""A number for each network that this process makes: several may be there at once."""


@contextmanager
def made_hosts(
    folder: Path, addresses: Mapping[str, str], kind: type[Host] = Host
) -> Iterator[list[Any]]:
    """Make machines, with their homes in a folder; skip the test where that is impossible."""
    if reason := why_not():
        pytest.skip(f"network namespaces cannot be made: {reason}")
    prefix = f"hcam{os.getpid()}-{next(NUMBERS)}-"
    hub = prefix + HUB
    made: list[str] = []
    found: list[Host] = []
    try:
        ip("netns", "add", hub)
        made.append(hub)
        ip("-n", hub, "link", "add", "name", HUB, "type", "bridge")
        ip("-n", hub, "link", "set", HUB, "up")
        for name, address in addresses.items():
            inside = prefix + name
            ip("netns", "add", inside)
            made.append(inside)
            ip("-n", hub, *f"link add {name} type veth peer name eth0 netns {inside}".split())
            ip("-n", hub, "link", "set", name, "master", HUB, "up")
            ip("-n", inside, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", inside, "link", "set", "eth0", "up")
            ip("-n", inside, "link", "set", "lo", "up")
            found.append(kind(folder / name, prefix))
        yield found
    finally:
        for host in found:
            host.end()
        for namespace in made:
            ip("netns", "delete", namespace)
