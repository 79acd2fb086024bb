"""``hcam up`` in a terminal of 80 by 24."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hcam_devices.config.instrument import carried, load
from hcam_devices.wamp.router import listening
from hcam_devices.wamp.utils import NotAuthorizedError, call, publish

from .tools import BIN, PATIENCE, Net, free_port, living, until

WIDTH, HEIGHT = 80, 24
BUSY = '[devices.rackpc]\nkind = "rackpc.RackPC"\n'
"""A device whose alarm, that this machine is busy, would take the place of another."""


class Terminal:
    """A terminal in which ``hcam up -e`` runs, and what it shows."""

    def __init__(self, net: Net) -> None:
        self.net = net
        text = carried("hipercam").read_text()
        assert text.count(BUSY) == 1
        self.file = net.home / "ours.toml"
        self.file.write_text(text.replace(BUSY, ""))
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.process = net.start(
            *("setsid", "--ctty", str(BIN / "hcam"), "up", "-e", "--port", str(net.port)),
            *("--instrument", str(self.file)),
            log="up.out",
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=False,
        )
        os.close(slave)
        self.output = b""
        self._closing = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        try:
            while not self._closing.is_set():
                if select.select([self.master], [], [], 0.2)[0]:
                    self.output = self.output[-200_000:] + os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def picture(self) -> list[str]:
        """Return the lines of the last complete picture."""
        pictures = self.output.decode(errors="replace").split("\x1b[H")
        if len(pictures) < 3:
            return []
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", pictures[-2])
        return [line.rstrip() for line in text.replace("\r", "").split("\n")]

    def shows(self, *words: str) -> bool:
        text = "\n".join(self.picture())
        return all(word in text for word in words)

    def await_picture(self, *words: str) -> None:
        """Wait until it shows all of these words."""
        try:
            until(lambda: self.shows(*words))
        except AssertionError:
            raise AssertionError("\n".join([f"without {words}:", *self.picture()])) from None

    def close(self) -> None:
        self._closing.set()
        self._reading.join()
        os.close(self.master)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    net = Net(tmp_path)
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_HOME", str(net.home))
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal(net)
    try:
        yield terminal
    finally:
        net.end()
        terminal.close()


def server_of(net: Net) -> psutil.Process | None:
    found = living(net.home, "hwserver")
    return found[0] if found else None


def test_hcam_up_shows_everything_survives_mischief_and_ends_with_control_c(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = terminal.net
    terminal.await_picture("hwserver running (emulated)", "inpos", "1100.00", "-90")
    call("hipercam.rack.rpc.dewpoint.disable")
    terminal.await_picture("reading it was disabled")
    lines = terminal.picture()
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("pressures ") for line in lines), "the gauges share a row"
    rows = [name for name in load(terminal.file).names if not name.startswith("pressure")]
    absent = [name for name in rows if not any(line.startswith(f"{name} ") for line in lines)]
    told = re.search(r"^\.\.\. +(\d+) more", "\n".join(lines), re.MULTILINE)
    assert len(absent) == (int(told[1]) if told else 0)
    assert "rack" not in absent, "what has alarms comes first"

    with pytest.raises(NotAuthorizedError):
        publish("hipercam.slide.telemetry", {"device": "slide"})
    monkeypatch.setenv("HCAM_KEY", str(net.key_file("hwserver")))
    for nonsense in (
        {"device": "slide"},
        {"device": "slide", "state": 1, "alarms": 2},
        {"device": "slide", "state": {"connection": [1]}, "alarms": [3], "position": {}},
        {"device": "ghost\x1b[31m", "alarms": [{"severity": "?", "reason": None}]},
        [1], None, "text",
    ):  # fmt: skip
        publish("hipercam.slide.telemetry", nonsense)
        publish("hipercam.hwserver.status", nonsense)
    publish("hipercam.hwserver.status", {"server": "hwserver"})
    monkeypatch.delenv("HCAM_KEY")

    first = server_of(net)
    assert first
    first.kill()
    until(lambda: (again := server_of(net)) and again.pid != first.pid)
    terminal.await_picture("hwserver running (emulated)", "inpos", "1100.00")
    net.wait_for_devices("slide")
    assert "slide" in json.dumps(call("hipercam.slide.rpc.describe"))

    terminal.type("/gtc")
    until(lambda: terminal.shows("names with: gtc_"))
    assert not any(line.startswith("slide ") for line in terminal.picture())
    terminal.type("\x1bq")  # q would stop the instrument
    until(lambda: terminal.shows("/ filters", "slide "))

    terminal.type("\x03")
    assert terminal.process.wait(PATIENCE) == 0
    until(lambda: not living(net.home))
    until(lambda: not listening(net.port))
    assert b"Traceback" not in terminal.output
    assert "\x1b[?1049l" in terminal.output.decode(errors="replace"), "the screen is given back"


def test_a_killed_hcam_up_leaves_no_process_behind(terminal: Terminal) -> None:
    net = terminal.net
    until(lambda: server_of(net) and len(living(net.home)) >= 5)
    terminal.process.kill()
    terminal.process.wait()
    until(lambda: not living(net.home))
    until(lambda: not listening(net.port))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),
        pytest.param(signal.SIGHUP, marks=pytest.mark.soak),
    ],
)
def test_a_signal_while_it_begins_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    net = Net(tmp_path)
    monkeypatch.delenv("WAMP_SERVER", raising=False)
    try:
        up = net.start(
            BIN / "hcam", "up", "-e", "--port", str(net.port), log="up.out", start_new_session=True
        )
        until(lambda: b"Ctrl-C" in (tmp_path / "up.out").read_bytes())
        up.send_signal(number)
        assert up.wait(PATIENCE) == 0
        until(lambda: not living(net.home))
        until(lambda: not listening(net.port))
    finally:
        net.end()


def test_a_second_one_with_the_same_home_is_refused_while_the_first_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = Net(tmp_path), free_port()
    monkeypatch.delenv("WAMP_SERVER", raising=False)
    try:
        first = net.start(BIN / "hcam", "up", "-e", "--port", str(net.port), log="up.out")
        lock = tmp_path / "locks" / "hcam up.lock"
        until(lambda: lock.exists() and lock.read_text())
        first.send_signal(signal.SIGSTOP)
        said = net.hcam("up", "-e", "--port", str(other), code=1)
        assert f"hcam up is already in use by process {first.pid}" in said
        first.send_signal(signal.SIGCONT)
        assert first.poll() is None
    finally:
        net.end()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("up", "(router: 192.0.2.7 is not an address of this"),
        ("router", "the router is at 192.0.2.7, but it listens on 127.0.0.1 only"),
    ],
)
def test_a_host_at_which_nobody_would_find_the_router_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str
) -> None:
    net = Net(tmp_path)
    file = tmp_path / "ours.toml"
    text = load().path.read_text()
    file.write_text(text.replace("[router]", '[router]\nhost = "192.0.2.7"', 1))
    monkeypatch.setattr(Net, "environment", os.environ | {"HCAM_HOME": str(tmp_path)})
    said = net.hcam(command, "--instrument", str(file), code=1)
    assert words in said


@pytest.mark.parametrize(
    "output",
    [
        pytest.param("closed", marks=pytest.mark.soak),
        pytest.param("full", marks=pytest.mark.soak),
        "pipe",
    ],
)
def test_it_goes_on_when_nobody_can_read_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    net = Net(tmp_path)
    monkeypatch.delenv("WAMP_SERVER", raising=False)
    reader, writer = os.pipe()
    redirect = {"closed": ">&-", "full": ">/dev/full", "pipe": ""}[output]
    command = f"exec {BIN / 'hcam'} up -e --port {net.port} {redirect}"
    try:
        up = net.start("sh", "-c", command, log="up.out", stdout=writer)
        os.close(writer)
        os.close(reader)
        first = until(lambda: server_of(net))
        assert first
        first.kill()
        until(lambda: (again := server_of(net)) and again.pid != first.pid)
        assert up.poll() is None
        up.terminate()
        assert up.wait(30) == 0
        until(lambda: not living(net.home))
    finally:
        net.end()
