"""GUIs of version 1.7, unchanged, on a screen that only a test sees, driven by their own widgets.

Their X server is Debian's Xvfb, which ``.ci/run`` installs. Without it the tests are skipped, or
fail where ``CI`` is set.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from hcam_devices.config.instrument import Instrument
from hcam_devices.journal.records import sample_of, unpack

from .namespaces import Host
from .tools import INSTRUMENT, PATIENCE, Net, Sample, until

ORIGINAL = Path(__file__).parents[2] / ".venv" / "original" / "bin"
DRIVEN = Path(__file__).with_name("driven.py")
ASTROPY = """
[utils.iers.iers]
iers_degraded_accuracy = "ignore"
auto_download = False
"""
"""Settings without which astropy wants the network for today's sky."""
WHO = "realm1 at 127.0.0.1"
"""Who gives the commands of a GUI."""


def missing(what: str) -> None:
    """Skip a test for want of something, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need_original() -> None:
    """Skip a test if version 1.7 is not installed."""
    if not ORIGINAL.exists():
        missing("version 1.7 is not there: run tests/original")


def need_screen() -> None:
    """Skip a test if there can be no GUI of version 1.7."""
    need_original()
    if not shutil.which("Xvfb"):
        missing("Xvfb is not there: install Debian's package xvfb")
    python = subprocess.run(
        [ORIGINAL / "python", "-c", "import tkinter"], capture_output=True, timeout=60, check=False
    )
    if python.returncode:
        missing("Python has no tkinter: install Debian's package python3-tk")


def site_file(home: Path, instrument: Instrument = INSTRUMENT) -> Path:
    """Write an instrument with the bridge to version 1.7 into a home; return the file's path."""
    file = home / "site.toml"
    file.write_text(instrument.path.read_text() + "\n[legacy]\nenabled = true\n")
    return file


def samples(home: Path, streams: str) -> list[Sample]:
    """Return what a home's journals have of streams that match a glob pattern, oldest first."""
    found: list[Sample] = []
    for file in sorted((home / "journal").glob("*.sqlite")):
        db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=PATIENCE)
        with closing(db), suppress(sqlite3.OperationalError):  # the server is creating it
            rows = db.execute("SELECT body FROM sample WHERE device GLOB ?", (streams,))
            found += [sample_of(unpack(body)[1]) for (body,) in rows]
    return sorted(found, key=lambda record: str(record["timestamp"]))


def commands(home: Path, who: str, devices: str = "*") -> list[Sample]:
    """Return the records of a caller's commands to devices that match a pattern, oldest first."""
    return [one for one in samples(home, f"{devices}.command") if one["who"] == who]


def written(command: Sample) -> str:
    """Return a recorded command as text, such as ``slide.target_position(-50)``."""
    values = json.loads(command["args"])
    arguments = [f"{one:g}" if isinstance(one, float) else str(one) for one in values]
    arguments += [f"{name}={one}" for name, one in json.loads(command["kwargs"]).items()]
    return f"{command['device'].removesuffix('.command')}.{command['what']}({', '.join(arguments)})"


class Site:
    """Our instrument and GUIs of version 1.7 on one machine."""

    def __init__(self, host: Host, instrument: Instrument = INSTRUMENT) -> None:
        self.host, self.instrument = host, instrument
        host.up(site_file(host.home, instrument))

    def samples(self, streams: str) -> list[Sample]:
        """Return what the journals have of streams that match a pattern, oldest first."""
        return samples(self.host.home, streams)

    def newest(self, device: str) -> Sample:
        """Return the newest sample of a device."""
        return self.samples(device)[-1]

    def commands(self, devices: str = "*") -> list[str]:
        """Return the commands of GUIs to devices that match a pattern, oldest first."""
        return [written(one) for one in commands(self.host.home, WHO, devices)]

    def wait_until(self, state: str, *devices: str) -> None:
        """Wait for a new sample of each device, online and with every axis in a state."""
        last = {device: self.newest(device)["seq"] for device in devices}

        def is_there(device: str) -> bool:
            sample = self.newest(device)
            return sample["seq"] > last[device] and {*sample["state"].values()} <= {"online", state}

        until(lambda: all(map(is_there, devices)))


class Screen:
    """An X server of a machine."""

    def __init__(self, host: Net, size: str = "1600x1200x24") -> None:
        need_screen()
        self.host = host
        reading, writing = os.pipe()
        # Xvfb chooses a free number, and writes it when it is ready. It listens only within the
        # network of its machine: its file in /tmp would replace that of another X server.
        options = ("-screen", "0", size, "-nolisten", "tcp", "-nolisten", "unix")
        command = ("Xvfb", "-displayfd", str(writing), *options)
        self.process = host.start(*command, log="xvfb.out", pass_fds=(writing,))
        os.close(writing)
        with os.fdopen(reading) as lines:
            self.display = f":{lines.readline().strip()}"

    def picture(self, path: Path) -> None:
        """Save what the screen shows, as PNG."""
        grab = "import sys; from PIL import ImageGrab; ImageGrab.grab().save(sys.argv[1])"
        command = ("env", f"DISPLAY={self.display}", ORIGINAL / "python", "-c", grab, path)
        process = self.host.start(*command, log="picture.out")
        assert process.wait(PATIENCE) == 0, (self.host.home / "picture.out").read_text()


class Gui:
    """A program of version 1.7 with windows.

    ``files`` are those of its home folder, by path. What it prints is in ``log``.
    """

    def __init__(
        self,
        screen: Screen,
        program: str,
        *args: str,
        files: dict[str, str] | None = None,
        variables: Iterable[str] = (),
        home: Path | None = None,
    ) -> None:
        host = screen.host
        self.screen = screen
        self.home = home or host.home / f"home-{program}-{len(host.started)}"
        self.home.mkdir(exist_ok=True)
        written = {".astropy/config/astropy.cfg": ASTROPY} | (files or {})
        for name, text in written.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        # Within the length of a socket's name.
        self.socket = Path(mkdtemp(prefix="gui")) / "driven"
        self.log = host.home / f"{program}-{len(host.started)}.out"
        command = tuple(map(str, (ORIGINAL / "python", DRIVEN, self.socket, ORIGINAL / program)))
        inside = (
            f"DISPLAY={screen.display}",
            f"HOME={self.home}",
            f"MPLCONFIGDIR={ORIGINAL.parent / 'matplotlib'}",
            "PYTHONUNBUFFERED=1",
            "PYTHONWARNINGS=ignore",
            *variables,
        )
        self.process = host.start("env", *inside, *command, *args, log=self.log.name)
        until(lambda: self.socket.exists() or self.process.poll() is not None)
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(PATIENCE)
        try:
            self._line.connect(str(self.socket))
        except OSError:
            pytest.fail(f"{program} has not started: {self.log.read_text()}")
        self._answers = self._line.makefile()

    def ask(self, action: str, *args: Any) -> Any:
        """Let an action of ``driven.Driver`` be done; return its result. Fail with its error."""
        self._line.sendall(json.dumps([action, *args]).encode() + b"\n")
        line = self._answers.readline()
        assert line, f"the program has ended: {self.log.read_text()}"
        result, error = json.loads(line)
        assert error is None, f"{action}{args}: {error}"
        return result

    def read(self, path: str) -> Any:
        """Return what a widget shows, or the value of another object."""
        return self.ask("read", path)[0]

    def press(self, path: str) -> None:
        """Press a button, once it is enabled."""
        until(lambda: self.ask("option", path, "state") != "disabled")
        self.ask("press", path)

    def windows(self, title: str) -> list[list[str]]:
        """Return the texts in each window of a title that is shown."""
        return [texts for name, texts in self.ask("windows") if name == title]

    def window(self, title: str) -> list[str]:
        """Return the texts in a window, when it is shown."""
        return until(lambda: self.windows(title))[0]

    def answer(self, title: str, text: str) -> list[str]:
        """Press a button of a window, when that is shown; return the window's texts."""
        texts = self.window(title)
        self.ask("press_in", title, text)
        return texts

    def choose_file(self, path: Path) -> None:
        """Choose a file in the dialog for files, when that is shown."""
        until(lambda: self.ask("enter_file", str(path)))

    def __enter__(self) -> "Gui":
        return self

    def __exit__(self, *_: object) -> None:
        """End the program, and free what drives it."""
        self._answers.close()
        self._line.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.socket.parent, ignore_errors=True)
