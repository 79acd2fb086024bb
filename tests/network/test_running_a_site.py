"""Run the commands of docs/running-a-site.md in order; programs of the system are played."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcam_devices.wamp.router import answers

from .tools import BIN, PATIENCE, Net, until

pytestmark = pytest.mark.merge

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "running-a-site.md").read_text()


def commands_of(text: str) -> list[str]:
    """Return the lines of the blocks of commands in a text."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


NOT_RUN = [
    "sudo useradd ",
    "sudo apt-get install ",
    "sudo python3 -m venv /opt/hcam",
    "sudo /opt/hcam/bin/pip install ",
    "sudo systemctl edit ",
    "sudo journalctl ",
]
"""They change this machine, or need a running systemd."""
SUDO = """#!/bin/sh
[ "$1" != -u ] || shift 2
exec env "$@"
"""
INSTALL = """#!/bin/sh
# install -d -o hcam: that user does not exist here
[ "$1 $2 $3" = "-d -o hcam" ] && shift 3 && exec /usr/bin/install -d "$@"
"""
OURS = """\
[router]
port = {port}

[devices.rackpc]
kind = "rackpc.RackPC"
poll_every = 0.2
"""


class Systemd:
    """Starts and stops the programs of units as systemd would, without their sandbox."""

    def __init__(self, net: Net, folder: Path, home: Path) -> None:
        self.net, self.folder, self.home = net, folder, home
        self.running: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> None:
        match command.split():
            case ["daemon-reload"]:
                return
            case ["enable", "--now", "hcam.target"] | ["start", "hcam.target"]:
                self.start()
            case ["stop", "hcam.target"]:
                self.stop()
            case ["restart", "hcam.target"]:
                self.stop()
                self.start()
            case ["restart", "hcam-hwserver"]:
                assert "hcam-hwserver.service" in self.units()
            case _:
                raise AssertionError(f"what should systemctl {command} do?")

    def units(self) -> list[str]:
        target = (self.folder / "hcam.target").read_text()
        wants = re.search("^Wants=(.*)$", target, re.MULTILINE)
        assert wants
        return wants[1].split()

    def start(self) -> None:
        assert not self.running
        for name in self.units():
            text = (self.folder / name).read_text()
            assert "HCAM_HOME=/var/lib/hcam_devices\n" in text
            lines = text.replace("/var/lib/hcam_devices", str(self.home)).splitlines()
            set_to = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
            assert set_to["Type"] == "notify"
            where = str(self.net.home / "notify")
            Path(where).unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(where)
                manager.settimeout(PATIENCE)
                environment = [shlex.split(set_to["Environment"])[0], f"NOTIFY_SOCKET={where}"]
                self.running.append(
                    self.net.start(
                        *("env", "-u", "WAMP_SERVER", *environment),
                        *shlex.split(set_to["ExecStart"]),
                        log=f"{name}.out",
                    )
                )
                assert manager.recv(100) == b"READY=1"

    def stop(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        self.running.clear()


class Machine:
    """The machine of the page, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.net = Net(folder)
        self.home = folder / "var" / "lib" / "hcam_devices"
        self.history = self.home / "history"
        units = folder / "units"
        self.places = {
            "/opt/hcam/bin": str(BIN),
            "/etc/hcam": str(folder / "etc" / "hcam"),
            "/var/lib/hcam_devices": str(self.home),
            "/var/backups": str(folder / "backups"),
            "/etc/systemd/system": str(units),
        }
        self.backup = folder / "backups" / "hcam"
        etc = folder / "etc" / "hcam"
        for path in (etc, folder / "bin", self.home.parent, self.backup.parent):
            path.mkdir(parents=True)
        (etc / "ours.toml").write_text(OURS.format(port=self.net.port))
        for name, text in (("sudo", SUDO), ("install", INSTALL)):
            program = folder / "bin" / name
            program.write_text(text)
            program.chmod(0o755)
        self.path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.systemd = Systemd(self.net, units, self.home)
        self.done: list[str] = []

    def type(self, command: str) -> None:
        """Run a command of the page; it has to succeed."""
        self.done.append(command)
        if command.startswith(tuple(NOT_RUN)):
            return
        if command.startswith("sudo systemctl "):
            self.systemd.run(command.removeprefix("sudo systemctl "))
        elif " audit " in command:
            until(lambda: self.run(command)[0] == 0)  # the page says to wait
        else:
            status, said = self.run(command)
            accepted = {" doctor ": (0, 1, 2), " status ": (0, 1)}  # it depends on the machine
            well = next((codes for word, codes in accepted.items() if word in command), (0,))
            assert status in well, f"{command}\n{said}"

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit status of a command of the page, and what it printed."""
        for there, here in self.places.items():
            command = command.replace(there, here)
        done = subprocess.run(
            ["sh", "-c", command],
            env={"PATH": self.path, "HOME": str(self.net.home), "LANG": "C.UTF-8"},
            cwd=self.net.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        return done.returncode, said

    def type_section(self, title: str) -> None:
        section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        commands = commands_of(section)
        assert commands
        for command in commands:
            self.type(command)

    def rows(self) -> set[str]:
        """Return what is stored of the rack's computer."""
        hcam = "/opt/hcam/bin/hcam history rackpc.mem --last 2h --csv"
        _, said = self.run(f"HCAM_HOME=/var/lib/hcam_devices {hcam} --url {self.net.address}")
        return {line for line in said.splitlines() if line.startswith("20")}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        machine.net.end()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the program sqlite3 is missing")
def test_a_site_is_started_backed_up_restored_and_upgraded(machine: Machine) -> None:
    machine.type_section("Start it at boot")
    assert answers(machine.net.port)
    until(lambda: len(machine.rows()) > 3)
    machine.type_section("Look after it")
    machine.type_section("Back it up while it runs")
    saved = {path.name for path in (machine.backup / "history").iterdir()}
    assert saved >= {path.name for path in machine.history.glob("*.sqlite")} != set()
    assert (machine.backup / "hcam" / "ours.toml").exists()
    then = machine.rows()
    until(lambda: len(machine.rows() - then) > 3)
    then = machine.rows()
    machine.type_section("Restore it")
    until(lambda: machine.rows() >= then)  # the rest came from the journals
    machine.type_section("Upgrade it")
    assert machine.done == commands_of(PAGE), "every command of the page was considered"
    _, said = machine.run(machine.done[-1])
    assert re.search(r"^OK +servers .*running: hwalarm, hwlogger, hwserver$", said, re.MULTILINE), (
        said
    )
    assert not (machine.net.home / "systemd").exists(), "--out is where the units go"
