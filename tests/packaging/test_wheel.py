"""Install the wheel with pip in the usual ways, and run the emulated instrument.

That installs everything anew, for a minute.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from hcam_devices.host.installation import commit, uv
from hcam_devices.wamp.router import answers

from ..network.tools import Net, living, until

ROOT = Path(__file__).parents[2]
AT_MOST = 600.0
VERSION = version("hcam_devices")

pytestmark = pytest.mark.merge


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    assert uv("build", "--quiet", "--out-dir", str(folder), str(ROOT)) == 0
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the HCAM_HOME of all trials, so that the router is installed by one of them only."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def net(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    net = Net(home)
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    try:
        yield net
    finally:
        net.end()


def tracked(folder: str) -> set[str]:
    """Return the files of the repository, relative to a folder of it."""
    command = ["git", "-C", str(ROOT / folder), "ls-files"]
    return {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}


def offered(said: str) -> list[str]:
    """Return the command that an error tells to run."""
    command = re.search(r"(?:: run |\): )(.*?)(?:, once)?$", said)
    assert command, said
    return shlex.split(command[1])


def a_python(number: str) -> str | None:
    """Return the path of a Python of this version, on PATH or of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [*versions.glob(f"{number}.*/bin/python"), shutil.which(f"python{number}")]
    return next((str(each) for each in found if each and runs(each)), None)


def runs(python: Path | str) -> bool:
    """Return whether this starts; a shim of pyenv may not."""
    done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
    return done.returncode == 0


def pip_install(*pip: str | Path) -> list[str | Path]:
    """Return the command that installs a file, without compiling modules that nobody imports."""
    return [*pip, "install", "--no-compile"]


def try_it(net: Net, hcam: Path) -> None:
    """Run the emulated instrument until every server has presented a device; end it by Ctrl-C."""
    up = net.start(hcam, "up", "--emulate", "--port", str(net.port), log="up.out")
    end = time.monotonic() + AT_MOST
    while not answers(net.port):  # a busy machine needs longer than for a router alone
        assert up.poll() is None, (net.home / "up.out").read_text()
        assert time.monotonic() < end, (net.home / "log" / "router.log").read_text()
        time.sleep(0.1)
    net.wait_for_devices("slide", "ngc", "gtc", "recorder")
    assert '"device": "ccd1"' in net.run(hcam, "call", "ccd1.telemetry")
    status = subprocess.run(
        [hcam, "status"], env=net.environment, capture_output=True, text=True, check=False
    )
    assert "NOT RUNNING" not in status.stdout
    assert "hwlogger is running" in status.stdout
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    until(lambda: not living(net.home))


def test_the_distributions_have_every_file_of_the_repository(built: Path, wheel: Path) -> None:
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked(".") <= packed
    names = zipfile.ZipFile(wheel).namelist()
    installed = {name for name in names if ".dist-info/" not in name}
    files = tracked("src/hcam_devices")
    assert installed == {f"hcam_devices/{name}" for name in (*files, "data/commit")}
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE"} | {Path(name).name for name in files if "/LICENSE-" in name}


def test_in_an_environment_each_error_offers_the_command_that_cures_it(
    net: Net, wheel: Path, tmp_path: Path
) -> None:
    assert uv("venv", "--quiet", "--seed", "--python", sys.executable, str(tmp_path / "venv")) == 0
    programs = tmp_path / "venv" / "bin"
    net.run(*pip_install(programs / "pip"), wheel, timeout=AT_MOST)

    said = net.run(programs / "hcam", "up", "--emulate", "--port", str(net.port), code=1)
    net.run(*offered(said), timeout=AT_MOST)
    said = net.run(programs / "gtcserver", "--emulate", code=1)
    net.run(*offered(said), timeout=AT_MOST)
    try_it(net, programs / "hcam")


def test_the_source_distribution_for_a_user_beside_pythons_own_packages(
    net: Net, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [source] = built.glob("*.tar.gz")
    base = Path(sys.base_prefix) / "bin" / "python3"
    assert uv("pip", "install", "--quiet", "--target", str(tmp_path / "pip"), "pip") == 0
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    with monkeypatch.context() as with_pip:
        with_pip.setenv("PYTHONPATH", str(tmp_path / "pip"))
        flags = ["--user", "--break-system-packages"]
        net.run(*pip_install(base, "-m", "pip"), *flags, f"{source}[gtc]", timeout=AT_MOST)
    net.run(tmp_path / "user" / "bin" / "hcam", "router", "install", timeout=AT_MOST)
    try_it(net, tmp_path / "user" / "bin" / "hcam")


@pytest.mark.soak
@pytest.mark.parametrize("number", ["3.11", "3.12", "3.13"])
def test_each_python_installs_both_files(
    net: Net, built: Path, tmp_path: Path, number: str
) -> None:
    python = a_python(number)
    if python is None:
        pytest.skip(f"there is no Python {number}")
    programs = tmp_path / "venv" / "bin"
    assert uv("venv", "--quiet", "--seed", "--python", python, str(programs.parent)) == 0
    for file in built.glob("hcam_devices-*"):
        net.run(programs / "pip", "install", "--force-reinstall", file, timeout=AT_MOST)
        assert (
            net.run(programs / "hcam", "--version") == f"hcam_devices {VERSION} (git {commit()})\n"
        )
        assert "no mistakes" in net.run(programs / "hcam", "config", "check")
