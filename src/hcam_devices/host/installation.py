"""The programs, the optional extras and the router of this installation.

The router, Crossbar, has an environment of its own, because it needs older versions of packages
than this package does. ``data/router.lock`` pins them, with hashes. pip does not install it.

``python -m hcam_devices.host.installation ...`` runs uv with the settings of pip. ``./setup`` does
that before anything else is installed, so this module imports only the standard library.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from configparser import Error as ConfigError
from configparser import RawConfigParser
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .. import HcamError
from .home import user_folder

LOCK = Path(__file__).parent.parent / "data" / "router.lock"
COMMIT = LOCK.with_name("commit")
"""The file that a distribution has in place of ``.git``: the commit it was built from."""
STAMP = "hcam-stamp"
"""The last file written into the router's environment; it names the installed versions."""

GIT_WITHIN_S = 2.0

UV_VARIABLES = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
"""The settings of pip that uv does not read, and uv's variables for them."""

DEFAULTS = {
    "UV_SYSTEM_CERTS": "true",  # trust the system's certificates, as Debian's pip does
    "PYBJDATA_NO_EXTENSION": "1",  # otherwise two packages of the router need a C compiler
    "PYUBJSON_NO_EXTENSION": "1",
}
"""Variables for uv, and for the packages that it builds, unless they are set."""


def program(name: str, package: str = "hcam_devices") -> Path:
    """Return the path of a program of an installed package.

    PATH is not searched, because it may lack the folder or contain another program of that name.
    Raises HcamError if the package has no such program.
    """
    try:
        installed = distribution(package).files or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == name and file.parts[0] == "..":  # outside the package
            return Path(os.path.normpath(str(file.locate())))
    raise HcamError(
        f"the program {name} of {package} is missing: install {package} again with "
        f"{sys.executable} -m pip"
    )


def this_program() -> str:
    """Return the command that starts this program again from the current folder."""
    path = sys.argv[0]
    if Path(path).name == "__main__.py":
        return f"{sys.executable} -m hcam_devices"
    return min(path, os.path.relpath(path), key=len)


def install_extra(name: str) -> str:
    """Return the command that adds an optional extra to this installation."""
    return f"{sys.executable} -m pip install 'hcam_devices[{name}]'"


def commit(within_s: float = GIT_WITHIN_S) -> str:
    """Return the commit that this package is from, ``-dirty`` if a file was changed.

    Return an empty text if there is no git, here or where the package was built, or it takes longer
    than it may.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return COMMIT.read_text(encoding="ascii") if COMMIT.exists() else ""
    command = ["git", "--no-optional-locks", "-C", str(root), "describe"]
    command += ["--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, encoding="ascii", timeout=within_s, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def router_folders() -> list[Path]:
    """Return where the router may be: in the checkout, in HCAM_HOME, in the user's data folder."""
    home = os.environ.get("HCAM_HOME")
    homes = [Path(home).absolute()] if home else []
    homes.append(user_folder("XDG_DATA_HOME", "~/.local/share"))
    return [Path(sys.prefix) / "router", *(folder / "crossbar" for folder in homes)]


def installed_router() -> Path | None:
    """Return the folder of the router that this version needs, or None if it is not installed."""
    return next((folder for folder in router_folders() if _is_complete(folder)), None)


def install_router(folder: Path | None = None) -> Path:
    """Install the router into a folder unless it is there already, and return the folder.

    The default is in HCAM_HOME if that is set, else in the user's data folder. The folder is
    emptied first.
    Raises HcamError if the router cannot be installed; uv prints the reason on standard error.
    """
    folder = folder or router_folders()[1]
    try:
        with _alone_in(folder):
            if not _is_complete(folder):
                venv.create(folder, clear=True, symlinks=True)
                _install_crossbar(folder)
                (folder / STAMP).write_text(_stamp(folder), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise HcamError(f"the router cannot be installed in {folder}: {error}") from None
    return folder


def _install_crossbar(folder: Path) -> None:
    # Without --compile-bytecode the first start of the router takes a minute.
    status = uv(
        *("pip", "sync", "--quiet", "--python", str(folder / "bin" / "python")),
        *("--require-hashes", "--compile-bytecode", "--build-constraints", str(LOCK), str(LOCK)),
        folder=folder,  # where uv finds no project settings
    )
    if status:
        raise HcamError(
            f"the router could not be installed in {folder} (uv ended with status {status}: the "
            f"reason is above); run {this_program()} router install again"
        )


def _stamp(folder: Path) -> str:
    """Return a text that changes when the router has to be installed again.

    The folder is in it because scripts in the environment contain its path.
    """
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    return f"router.lock {lock}\n{folder}\nPython {sys.version_info[0]}.{sys.version_info[1]}\n"


def _is_complete(folder: Path) -> bool:
    try:
        same = (folder / STAMP).read_text(encoding="utf-8") == _stamp(folder)
    except OSError:
        return False
    return same and (folder / "bin" / "python").exists()  # a link to a Python that may be gone


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, so that only one process installs into it at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def uv(*arguments: str, folder: Path | None = None) -> int:
    """Run uv with the settings of pip, in a folder (default: the current); return its status."""
    from uv import find_uv_bin  # noqa: PLC0415  (only an installation needs it)

    settings = pip_settings()
    given = {UV_VARIABLES[key]: value for key, value in settings.items() if key in UV_VARIABLES}
    command = [find_uv_bin(), *arguments]
    environment = DEFAULTS | given | os.environ
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode  # noqa: S603


def pip_settings() -> dict[str, str]:
    """Return the options that pip takes from its files and, with precedence, its variables.

    Raises HcamError if such a file cannot be parsed.
    """
    own = os.environ.get("PIP_CONFIG_FILE", "")
    user = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    folders = (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    files = [*(f"{folder}/pip/pip.conf" for folder in folders), "/etc/pip.conf"]
    files += ["~/.pip/pip.conf", f"{user}/pip/pip.conf", f"{sys.prefix}/pip.conf", own]
    parser = RawConfigParser()
    if own != os.devnull:  # then pip reads no file at all
        try:
            parser.read((os.path.expanduser(file) for file in files), "utf-8")
        except (ConfigError, UnicodeError) as error:
            raise HcamError(f"the configuration of pip cannot be read: {error}") from None
    settings: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            settings |= parser.items(section)
    settings |= {key[4:]: value for key, value in os.environ.items() if key.startswith("PIP_")}
    return {key.lower().replace("_", "-"): value for key, value in settings.items() if value}


if __name__ == "__main__":
    try:
        sys.exit(uv(*sys.argv[1:]))
    except HcamError as error:
        sys.exit(str(error))
