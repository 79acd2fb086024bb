"""Which host of an instrument file is this machine."""

import platform
import socket
from collections import namedtuple
from typing import Any

import psutil
import pytest

from hcam_devices.host.machine import why_elsewhere

Part = namedtuple("Part", "address")
OURS = {"rack": "192.0.2.2", "rack6": "fd00::2", "loops": "127.0.1.1"}
NAMES = OURS | {"dome.site": "192.0.2.3"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine a name and two addresses; a few names have addresses."""

    def getaddrinfo(host: str, port: None, type: int) -> list[Any]:
        address = NAMES.get(host, host)
        if not address[-1].isdigit():
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, type, 0, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(platform, "node", lambda: "Laser.site")
    interfaces = {
        "eth0": [Part("192.0.2.2"), Part("02:00:00:00:00:01")],
        "eth1": [Part("fd00::2%eth1")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)


@pytest.mark.parametrize(
    "host",
    ["laser", "laser.site", "LASER.SITE.", "127.0.0.1", "::1", "192.0.2.2", "fd00::2", *OURS],
)
def test_a_machine_is_known_by_its_name_and_its_addresses(host: str) -> None:
    assert why_elsewhere(host) == ""


@pytest.mark.parametrize("host", ["192.0.2.3", "dome.site", "0.0.0.0", "fd00::3", "laser.else"])
def test_another_machine_is_told_with_the_reason(host: str) -> None:
    assert host in why_elsewhere(host)


def test_a_name_without_an_address_is_told() -> None:
    assert why_elsewhere("nobody") == "nobody has no known address (Name or service not known)"
