"""The configuration of the router that the package carries."""

import json
import socket
from contextlib import closing
from http.client import HTTPConnection

import psutil
import pytest

from hcam_devices.alarms.server import Alarms
from hcam_devices.config.instrument import load
from hcam_devices.history.figures import with_stores
from hcam_devices.history.recorder import Recorder
from hcam_devices.wamp.presentation import overview
from hcam_devices.wamp.router import as_text, configuration, panel, shipped

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
    own = [f"http://{name}:{net.port}" for name in ("127.0.0.1", "localhost")]
    wanted = overview(instrument) | {"origins": own}
    assert (status, told) == (200, json.loads(json.dumps(wanted)))
    assert told["title"] == "HiPERCAM on the GTC"
    assert told["servers"] == ["gtcserver", "hserver", "hwalarm", "hwlogger", "hwserver"]
    assert [one["name"] for one in told["devices"]] == instrument.names
    ngc, *_ = (one for one in told["devices"] if one["name"] == "ngc")
    assert ngc == {
        "name": "ngc",
        "kind": "ngc.Controller",
        "server": "hserver",
        "aliases": ["NGC"],
        "place": "detector",
        "group": "",
        "silent_after": 26.0,
    }
    for one in told["devices"][:-2]:
        assert instrument.entries[one["name"]].build().describe()["kind"] == one["kind"]
    assert told["devices"][-2]["kind"] == with_stores(Recorder, instrument.stores).kind()
    assert told["devices"][-1]["kind"] == Alarms.kind()


def test_a_browser_is_given_the_panel_and_no_other_file(net: Net) -> None:
    assert get(net, "/") == (200, (panel() / "index.html").read_text())
    assert get(net, "/style.css") == (200, (panel() / "style.css").read_text())
    for path in ("/nonsense", "/../config.json", "/%2e%2e/config.json", "/instrument/x"):
        assert get(net, path)[0] == 404
