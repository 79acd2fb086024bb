"""The configuration of the router that the package carries."""

import json
import socket
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection

import psutil
import pytest

from hcam_devices.config.instrument import load
from hcam_devices.history.recorder import recorder_of
from hcam_devices.wamp.router import as_text, configuration, overview, page, shipped

from .tools import PATIENCE, Net, living


def test_the_package_carries_what_it_would_generate() -> None:
    assert shipped().read_text() == as_text(load(), load().router.port)


def test_only_loopback_is_listened_on(net: Net) -> None:
    for worker in configuration(load(), net.port)["workers"]:
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


def get(net: Net, path: str) -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", net.port, timeout=PATIENCE)) as http:
        http.request("GET", path)
        response = http.getresponse()
        return response.status, response.read().decode()


def test_the_router_says_which_instrument_it_is_of(net: Net) -> None:
    instrument = load()
    status, text = get(net, "/instrument")
    told = json.loads(text)
    assert (status, told) == (200, json.loads(json.dumps(overview(instrument))))
    assert told["title"] == "HiPERCAM on the GTC"
    assert told["servers"] == ["gtcserver", "hserver", "hwlogger", "hwserver"]
    assert [one["name"] for one in told["devices"]] == instrument.names
    ngc, *_ = (one for one in told["devices"] if one["name"] == "ngc")
    assert ngc == {
        "name": "ngc",
        "kind": "ngc.Controller",
        "server": "hserver",
        "aliases": ["NGC"],
    }
    for one in told["devices"][:-1]:
        assert instrument.entries[one["name"]].build().describe()["kind"] == one["kind"]
    assert told["devices"][-1]["kind"] == recorder_of(instrument.stores).kind()


def test_a_browser_is_shown_the_devices_and_no_other_file(net: Net) -> None:
    status, text = get(net, "/")
    assert (status, text) == (200, page(load()))
    assert "<title>HiPERCAM on the GTC</title>" in text
    for name in load().names:
        assert f"<tr><td>{name}<td>" in text
    for path in ("/nonsense", "/../config.json", "/%2e%2e/config.json", "/instrument/x"):
        assert get(net, path)[0] == 404


def test_a_title_is_shown_as_it_is_written() -> None:
    text = page(replace(load(), title="<b> & Söhne"))
    assert "<h1>&lt;b&gt; &amp; Söhne</h1>" in text
