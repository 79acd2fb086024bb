"""The home folder, which contains all files that the programs write, and its locks."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import HcamError
from .limits import NO_MORE_FILES


def home() -> Path:
    """Return ``HCAM_HOME``, the folder for journals, logs and generated configuration.

    By default it is in the user's home directory. Raises HcamError if the user has none.
    """
    if given := os.environ.get("HCAM_HOME"):
        return Path(given).absolute()
    if os.path.expanduser("~") == "~" and not os.environ.get("XDG_STATE_HOME"):
        raise HcamError("this user has no home directory: set HCAM_HOME to a folder for its files")
    return user_folder("XDG_STATE_HOME", "~/.local/state")


def user_folder(variable: str, default: str) -> Path:
    """Return the user's folder for this package, as in the XDG Base Directory Specification."""
    given = os.environ.get(variable, "")
    return Path(given if os.path.isabs(given) else default).expanduser() / "hcam_devices"


def write_whole(path: Path, text: str) -> None:
    """Write a file for its owner only, as a whole or not at all; return when it is on disk.

    Raises OSError.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Return when the names of the files in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeptState:
    """A small state in a JSON file of its own; there is no file while there is no state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return the state, or None. Raises OSError, or ValueError if it is damaged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if not isinstance(content, dict):
            raise ValueError(f"{self.path} has {type(content).__name__}, not an object")
        return content

    def save(self, content: dict[str, Any] | None) -> None:
        """Keep a state, or None; return when it is on disk. Raises OSError."""
        if content is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(content) + "\n")
        elif self.path.exists():
            self.path.unlink()
            _sync_folder(self.path.parent)


class AlreadyRunningError(HcamError):
    """Another process with the same home holds a lock that this process needs."""


def _unwritable() -> tuple[type[Exception], ...]:
    import sqlite3  # noqa: PLC0415  (hcam call does not need it)

    return OSError, sqlite3.Error


@contextmanager
def writable_or_explain(path: Path) -> Iterator[None]:
    """Raise HcamError, which says what to do, if the file at ``path`` cannot be opened or written.

    An error because too many files are open passes unchanged.
    """
    try:
        yield
    except _unwritable() as error:
        if isinstance(error, OSError) and error.errno in NO_MORE_FILES:
            raise
        raise HcamError(
            f"{path} cannot be written ({error}): make room on its disk, let this user write "
            "there, or set another HCAM_HOME"
        ) from error


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock ``what``, in a folder of locks, while the context is open.

    Raises AlreadyRunningError if another process holds it, HcamError if its file cannot be written.
    """
    path = folder / f"{what}.lock"
    with writable_or_explain(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyRunningError(
                f"{what} is already in use by process {lock.read().decode() or '?'}; "
                "stop that process first, or set another HCAM_HOME for this one"
            ) from None
        with writable_or_explain(path):
            lock.truncate(0)
            lock.write(b"%d" % os.getpid())
        yield
