"""``hcam doctor`` and ``about`` with a router and every server; and what systemd is told."""

import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import load
from hcam_devices.host.clock import clock_is_disciplined
from hcam_devices.host.installation import commit
from hcam_devices.wamp.router import answers
from hcam_devices.wamp.utils import call

from .tools import BIN, INSTRUMENT, PATIENCE, Net, living, plain, until


@pytest.mark.parametrize("server", INSTRUMENT.servers)
def test_each_server_says_what_it_is(net: Net, server: str) -> None:
    before = time.time()
    said = call(f"hipercam.{server}.rpc.about")
    assert before - 1 <= said.pop("time") <= time.time() + 1
    assert said.pop("clock_disciplined") in (True, False, None)
    assert plain(said)
    assert Path(f"/proc/{said.pop('pid')}").exists()
    assert said.pop("since").endswith("Z")
    assert said == {
        "server": server,
        "version": version("hcam_devices"),
        "commit": commit() or None,
        "python": platform.python_version(),
        "host": platform.node(),
        "emulated": server not in ("hwlogger", "hwalarm"),
    }
    assert json.loads(net.hcam_here("call", f"{server}.about"))["server"] == server


def examined(net: Net, code: int) -> dict[str, list[dict[str, Any]]]:
    """Return the findings of a row by its name."""
    said = json.loads(net.hcam("doctor", "--json", code=code))
    assert said["exit"] == code
    rows: dict[str, list[dict[str, Any]]] = {}
    for finding in said["findings"]:
        rows.setdefault(finding["row"], []).append(finding)
    return rows


def test_it_finds_an_instrument_without_faults(net: Net) -> None:
    rows = examined(net, 1 if clock_is_disciplined() is False else 0)
    rows.pop("clocks")  # the test machine may have no time service
    wrong = [one for row in rows.values() for one in row if one["level"] != "OK"]
    assert not wrong
    for row in ("packages", "router", "instrument file", "hardware", "listeners", "files"):
        assert len(rows[row]) == 1
    assert "is local for the router, with the role engineer" in rows["own role"][0]["text"]
    assert ", ".join(INSTRUMENT.servers) in rows["servers"][0]["text"]
    assert "every server is" in rows["versions"][0]["text"]
    assert "store local lags" in rows["recorder"][0]["text"]


def test_without_a_router_it_says_what_to_start(tmp_path: Path) -> None:
    alone = Net(tmp_path)
    rows = examined(alone, 2)
    assert f"no router at {alone.address}" in rows["router"][0]["text"]
    assert f"router --instrument {load().path}, or" in rows["router"][0]["cure"]
    assert "servers" not in rows
    said = alone.hcam_here("doctor", code=2)
    assert f"ERR  router          {alone.address}: no router" in said


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    path = f"@hcam-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{path[1:]}")
        listening.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listening


def test_systemd_is_told_when_router_and_server_are_ready_and_that_they_live(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(tmp_path)
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    try:
        net.start(BIN / "hcam", "router", "--port", str(net.port), log="router.out")
        assert manager.recv(100) == b"READY=1"
        assert answers(net.port)
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        net.start(BIN / "hwserver", "--emulate", log="hwserver.out")
        assert {manager.recv(100), manager.recv(100)} == {b"WATCHDOG=1", b"READY=1"}
        for entry in INSTRUMENT.choose("hwserver"):
            assert call(f"hipercam.{entry.name}.rpc.describe")["device"] == entry.name
    finally:
        net.end()


def test_the_router_feeds_the_watchdog_while_it_answers(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    net = Net(tmp_path)
    try:
        net.start(BIN / "hcam", "router", "--port", str(net.port), log="router.out")
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        [crossbar] = living(net.home, "crossbar-worker")
        crossbar.suspend()
        until(lambda: not answers(net.port))
        manager.setblocking(False)
        until(lambda: not heard(manager))
        until(lambda: not answers(net.port))
        assert not heard(manager), "a router that hangs is not called alive"
        crossbar.resume()
        until(lambda: heard(manager))
    finally:
        net.end()


def heard(manager: socket.socket) -> bytes:
    """Return the next message to systemd, if there is one."""
    try:
        return manager.recv(100)
    except BlockingIOError:
        return b""
