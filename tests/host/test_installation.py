"""Where an installation has its programs and its router, and how the router is installed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from hcam_devices import HcamError
from hcam_devices.cli.main import main
from hcam_devices.errors import RouterError
from hcam_devices.host import installation
from hcam_devices.host.installation import (
    install_router,
    installed_router,
    pip_settings,
    program,
    router_folders,
    uv,
)
from hcam_devices.wamp.router import crossbar


class FakeUv:
    """A program in place of uv that notes its arguments and variables, and ends as it is told."""

    def __init__(self, folder: Path) -> None:
        self.file, self.notes, self.status = folder / "uv", folder / "notes", folder / "status"
        self.file.write_text(
            f'#!/bin/sh\n(echo "$@"; env) >>{self.notes}\nexit $(cat {self.status})\n'
        )
        self.file.chmod(0o755)
        self.end_with(0)

    def end_with(self, status: int) -> None:
        self.status.write_text(str(status))

    @property
    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    @property
    def runs(self) -> list[str]:
        return [line for line in self.noted if line.startswith("pip sync")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    (tmp_path / "fake").mkdir()
    fake = FakeUv(tmp_path / "fake")
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(fake.file))
    return fake


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with no settings for pip or uv, and an installation without a router."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_", "XDG_", "SSL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_program_is_found_where_it_was_installed_whatever_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "hwserver", "#!/bin/sh\n")
    (tmp_path / "hwserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("hwserver") == Path(sys.prefix) / "bin" / "hwserver"
    assert program("omniidl", "jeteve-omniorb") == Path(sys.prefix) / "bin" / "omniidl"


@pytest.mark.parametrize("package", ["hcam_devices", "no-such-package"])
def test_a_program_that_is_missing_is_named(package: str) -> None:
    with pytest.raises(HcamError, match=f"nonesuch of {package} is missing: install"):
        program("nonesuch", package)


def test_the_settings_of_pip_are_taken_as_pip_takes_them(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(site / "etc" / "pip" / "pip.conf", "[global]\nindex-url = a\ncert = a\nproxy = a\n")
    write(site / ".config" / "pip" / "pip.conf", "[global]\ncert = b\nproxy = b\ntimeout = %s\n")
    assert pip_settings()["timeout"] == "%s"
    found = [pip_settings()[name] for name in ("index-url", "cert", "proxy")]
    assert found == ["a", "b", "b"]
    write(site / "etc" / "pip" / "pip.conf", "[install]\nindex_url = c\n")
    assert pip_settings()["index-url"] == "c"
    monkeypatch.setenv("PIP_INDEX_URL", "d")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(site / "own.conf"))
    write(site / "own.conf", "[global]\nindex-url = e\ncert = e\n")
    found = [pip_settings()[name] for name in ("index-url", "cert", "proxy")]
    assert found == ["d", "e", "b"]
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert pip_settings() == {"index-url": "d", "config-file": os.devnull}


def test_a_wrong_file_of_pip_is_named(site: Path) -> None:
    write(site / ".config" / "pip" / "pip.conf", "index-url = a\n")
    with pytest.raises(HcamError, match=r"(?s)configuration of pip cannot be read: .*pip\.conf"):
        pip_settings()


def test_uv_is_given_the_index_and_the_certificates_of_pip(
    site: Path, fake: FakeUv, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        site / ".config" / "pip" / "pip.conf",
        "[global]\nindex-url = https://mirror.example/simple\ncert = /ours.pem\n",
    )
    assert uv("--version") == 0
    assert {
        "--version",
        "UV_DEFAULT_INDEX=https://mirror.example/simple",
        "SSL_CERT_FILE=/ours.pem",
    } <= {*fake.noted}
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example/simple")
    fake.notes.unlink()
    assert uv("--version") == 0
    assert "UV_DEFAULT_INDEX=https://other.example/simple" in fake.noted


def test_the_router_is_installed_once_into_the_home_or_else_the_users_data(
    site: Path, fake: FakeUv, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installed_router() is None
    assert install_router() == site / ".local" / "share" / "hcam_devices" / "crossbar"
    monkeypatch.setenv("HCAM_HOME", str(site / "home"))
    assert crossbar() == site / ".local/share/hcam_devices/crossbar/bin/crossbar"
    for _ in range(2):
        assert install_router() == installed_router() == site / "home" / "crossbar"
    assert len(fake.runs) == 2
    assert "PYBJDATA_NO_EXTENSION=1" in fake.noted
    assert all("--require-hashes" in run and "--build-constraints" in run for run in fake.runs)


def test_an_installation_that_failed_is_said_and_is_none(site: Path, fake: FakeUv) -> None:
    folder = router_folders()[1]
    write(folder / "left" / "over", "")
    fake.end_with(2)
    with pytest.raises(HcamError, match=rf"installed in {folder} .uv ended with status 2"):
        install_router()
    with pytest.raises(RouterError, match=r"not installed: run .* router install, once"):
        crossbar()
    fake.end_with(0)
    install_router()
    assert installed_router() == folder
    assert not (folder / "left").exists()


def test_a_folder_that_cannot_be_written_is_said(site: Path, fake: FakeUv) -> None:
    write(site / ".local" / "share", "a file")
    with pytest.raises(HcamError, match=r"the router cannot be installed in .*: \[Errno"):
        install_router()


def test_a_router_of_another_version_or_place_or_python_is_none(
    site: Path, fake: FakeUv, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install_router()
    assert installed_router() == folder
    with monkeypatch.context() as other:
        write(site / "router.lock", "crossbar==99\n")
        other.setattr(installation, "LOCK", site / "router.lock")
        assert installed_router() is None
    moved = folder.rename(folder.with_name("moved"))
    moved.parent.rename(site / "aside")
    monkeypatch.setenv("HCAM_HOME", str(site / "aside"))
    (site / "aside" / "moved").rename(site / "aside" / "crossbar")
    assert installed_router() is None
    install_router()
    assert installed_router() == site / "aside" / "crossbar"
    python = site / "aside" / "crossbar" / "bin" / "python"
    python.unlink()
    python.symlink_to(site / "gone")
    assert installed_router() is None


def test_two_that_install_at_once_install_once(site: Path, fake: FakeUv) -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: install_router(), range(2))
    assert first == second == installed_router()
    assert len(fake.runs) == 1


def test_the_command_says_where_the_router_is(site: Path, fake: FakeUv) -> None:
    for said in ("installing the router into", "the router is already installed in"):
        result = CliRunner().invoke(main, ["router", "install"])
        assert result.exit_code == 0
        assert f"{said} {router_folders()[1]}" in result.output
    fake.end_with(2)
    router_folders()[1].joinpath(installation.STAMP).unlink()
    result = CliRunner().invoke(main, ["router", "install"])
    assert result.exit_code == 1
    assert "Error: the router could not be installed" in result.output


def test_up_and_router_offer_to_install_it(site: Path) -> None:
    for command in (["up", "--emulate"], ["router"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1
        assert "is not installed: run " in result.output
        assert "router install, once" in result.output


def test_a_pyopenssl_that_does_not_fit_hinders_nobody(tmp_path: Path) -> None:
    write(
        tmp_path / "OpenSSL" / "__init__.py", "raise AttributeError('not of this cryptography')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "hcam_devices", "status", "--url", "127.0.0.1:1"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "HCAM_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "no router at 127.0.0.1:1" in done.stdout + done.stderr
    assert done.returncode == 1
