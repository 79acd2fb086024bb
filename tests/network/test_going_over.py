"""Follow docs/going-over-from-1.7.md: over to the new version, and back, on a machine of its own.

Version 1.7 runs there before and afterwards, with its simulated hardware. Its programs write into a
real database, which the new version continues.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from hcam_devices.config.instrument import load

from ..conftest import Scaled
from ..history.stores.databases import program
from .gui import ORIGINAL, need_original
from .namespaces import Host, made_hosts
from .test_original import messages
from .tools import BIN, PATIENCE, ROUTER_PYTHON, until

pytestmark = pytest.mark.merge

PAGE = (Path(__file__).parents[2] / "docs" / "going-over-from-1.7.md").read_text()
BEFORE, REST = PAGE.split("\n## Before the evening\n")[1].split("\n## On the evening\n")
EVENING, BACK = REST.split("\n## How to go back\n")
BACK, DATABASE = BACK.split("\n## The database\n")
EVERYTHING = dict.fromkeys(("call", "register", "publish", "subscribe"), True)
ROLE = {"uri": "", "match": "prefix", "allow": EVERYTHING}
BRIDGE = {"realm": "realm1", "role": "anonymous"}
ROUTER_OF_1_7 = {
    "version": 2,
    "workers": [
        {
            "type": "router",
            "realms": [{"name": "realm1", "roles": [{"name": "anonymous", "permissions": [ROLE]}]}],
            "transports": [
                {
                    "type": "web",
                    "endpoint": {"type": "tcp", "port": 8080},
                    "paths": {
                        "/": {"type": "json", "value": {}},
                        "ws": {"type": "websocket"},
                        "call": {"type": "caller", **BRIDGE},
                        "publish": {"type": "publisher", **BRIDGE},
                    },
                }
            ],
        }
    ],
}
HWLOGGER = """
import influxdb, runpy, sys
client = influxdb.InfluxDBClient
influxdb.InfluxDBClient = lambda host, port: client("127.0.0.1", port)
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""``hwlogger`` of version 1.7, whose database is at a fixed address elsewhere."""
ASK = """
import sys, urllib.error, urllib.request
try:
    request = urllib.request.Request(sys.argv[1], sys.argv[2].encode())
    print(urllib.request.urlopen(request, timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""


def blocks(language: str, text: str) -> list[str]:
    """Return the blocks of a language, which may be part of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands_of(text: str) -> list[str]:
    return [line for block in blocks("sh", text) for line in block.splitlines()]


class Machine:
    """The machine of the page, with both versions."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.running: list[subprocess.Popen[bytes]] = []
        self.done: list[str] = []
        self.file = host.home / "ours.toml"
        self.file.write_text(load().path.read_text() + "".join(blocks("toml", BEFORE)))

    def type(self, command: str) -> str:
        """Run a command of the page; return what it prints."""
        self.done.append(command)
        command = command.replace("/tmp/trial", str(self.host.home / "trial"))
        if "hcam up " in command:
            more = [] if "--emulate" in command else ["--emulate"]
            words = ["env", f"PATH={BIN}:{os.environ['PATH']}", *shlex.split(command), *more]
            self.running = [self.host.start(*words, log="up.out")]
            self.host.wait_until_online()
            return ""
        code = None if " doctor " in command else 0
        return self.host.hcam(*shlex.split(command)[1:], code=code)

    def original(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a program of version 1.7."""
        env = ("env", "WAMP_SERVER=127.0.0.1", f"HOME={self.host.home}", "PYTHONUNBUFFERED=1")
        return self.host.start(*env, ORIGINAL / command[0], *command[1:], log=log)

    def begin_1_7(self) -> None:
        folder = self.host.home / "crossbar"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(ROUTER_OF_1_7))
        crossbar = ROUTER_PYTHON.with_name("crossbar")
        self.running = [
            self.host.start(crossbar, "start", "--cbdir", folder, log="crossbar.out"),
            self.original("hwserver", "-e", log="hwserver-1.7.out"),
            self.original("python", "-c", HWLOGGER, str(ORIGINAL / "hwlogger"), log="logger.out"),
        ]

    def stop(self) -> None:
        """Press Ctrl-C in every terminal, that of the router at last."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
        self.running.clear()

    def ask(self, path: str, body: str = "", **arguments: str) -> str:
        url = f"http://127.0.0.1:8086{path}?{urlencode(arguments)}"
        return self.host.run(sys.executable, "-c", ASK, url, body).strip()

    def query(self, text: str) -> list[list[Any]]:
        """Return the rows that InfluxQL selects from one measurement."""
        (result,) = json.loads(self.ask("/query", db="hipercam", q=text))["results"]
        assert "error" not in result, result
        return [row for series in result.get("series", ()) for row in series["values"]]

    def types_of_gps(self) -> dict[str, str]:
        return {name: kind for name, kind in self.query("SHOW FIELD KEYS FROM gps") if "_" in name}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    need_original()
    influxd = program("influxd")
    config = subprocess.run([influxd, "config"], capture_output=True, text=True, check=True).stdout
    with made_hosts(tmp_path, {"desk": "10.77.0.1"}) as (host,):
        text = re.sub(r'"/[^"]*influxdb/', f'"{host.home}/influxdb/', config)
        (host.home / "influxd.conf").write_text(text)
        host.start(influxd, "run", "-config", host.home / "influxd.conf", log="influxd.out")
        machine = Machine(host)
        until(lambda: "Listening for signals" in (host.home / "influxd.out").read_text())
        machine.ask("/query", q="CREATE DATABASE hipercam")
        yield machine


def test_a_site_goes_over_on_an_evening_and_back(machine: Machine, scaled: Scaled) -> None:
    with_up = scaled(0, soak=1)
    trial = [one for one in commands_of(BEFORE) if with_up or "hcam up" not in one]
    for command in trial:
        machine.type(command)
    machine.stop()

    log = machine.host.home / "slide.shown"
    machine.begin_1_7()
    shown = machine.original("show_telemetry", "hipercam.slide.telemetry", log=log.name)
    until(lambda: messages(log))
    until(lambda: machine.query("SELECT * FROM gps") and machine.query("SELECT * FROM rack"))
    before = machine.types_of_gps()
    assert before == {"num_sats": "integer", "pps_valid": "boolean", "time_valid": "boolean"}
    machine.stop()

    seen = len(messages(log))
    with machine.file.open("a") as file:
        file.writelines(blocks("toml", DATABASE))
    for command in commands_of(EVENING):
        machine.type(command)
    until(lambda: len(messages(log)) > seen)
    until(lambda: machine.query("SELECT seq FROM gps"))
    [[_, number]] = machine.query("SELECT count(num_sats) FROM gps WHERE seq > 0")
    assert number
    assert {name: kind for name, kind in machine.types_of_gps().items() if name in before} == before
    machine.query("".join(blocks("sql", DATABASE)).strip())
    [old] = machine.query("SELECT first(temp_top) FROM rack")
    assert machine.query("SELECT first(rack_temp_top) FROM rack") == [old]
    machine.stop()

    machine.begin_1_7()
    seen = len(messages(log))
    until(lambda: len(messages(log)) > seen)
    [[last, _]] = machine.query("SELECT last(seq) FROM gps")
    until(lambda: machine.query(f"SELECT num_sats FROM gps WHERE time > '{last}'"))
    machine.stop()
    shown.kill()

    nights = machine.host.hcam("history", "rack.dewpoint", "--last", "1h", "--csv")
    assert len(nights.splitlines()) > 3
    assert machine.done == [*trial, *commands_of(EVENING)]
