"""The home folder, which contains all files that the programs write, and its locks."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_state_path

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
    return user_state_path("hcam_devices", appauthor=False)


class AlreadyRunningError(HcamError):
    """Another process with the same home holds a lock that this process needs."""


@contextmanager
def writable_or_explain(path: Path) -> Iterator[None]:
    """Raise HcamError, which says what to do, if the file at ``path`` cannot be opened or written.

    An error because too many files are open passes unchanged.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
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
