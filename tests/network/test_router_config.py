"""The configuration of the router that the package carries."""

import socket

import psutil
import pytest

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import as_text, configuration, shipped

from .tools import Net, living


def test_the_package_carries_what_it_would_generate() -> None:
    assert shipped().read_text() == as_text(load().router.port)


def test_only_loopback_is_listened_on(net: Net) -> None:
    for worker in configuration(net.port)["workers"]:
        for transport in worker["transports"]:
            assert transport["endpoint"]["interface"] == "127.0.0.1"
    heard_on = {
        one.laddr
        for process in living(net.home)
        for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in heard_on} == {"127.0.0.1"}
    assert ("127.0.0.1", net.port) in heard_on
    others = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    }
    for other in others:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((other, net.port), timeout=5)
