"""A server's report on itself: the answer of ``hipercam.<server>.rpc.about()``."""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version

from pydantic import BaseModel

from ..host.clock import clock_is_disciplined
from .owner import Owner


class About(BaseModel):
    """A server's version, process, machine and clock."""

    server: str
    version: str
    commit: str | None
    """The commit from which it was started or built, with ``-dirty`` if files had been changed.
    None if git did not tell."""
    python: str
    host: str
    pid: int
    since: str
    """When it was started (UTC, ISO 8601)."""
    emulated: bool
    time: float
    """Unix time on its machine, in s, when it answered."""
    clock_disciplined: bool | None
    """Whether a time service keeps the clock of its machine right. None if it cannot tell."""


def about(
    owner: Owner, commit: str, *, emulated: bool, clock: Callable[[], float] = time.time
) -> About:
    """Return the report of a server in this process."""
    return About(
        server=owner.server,
        version=version("hcam_devices"),
        commit=commit or None,
        python=platform.python_version(),
        host=owner.host,
        pid=owner.pid,
        since=owner.since,
        emulated=emulated,
        clock_disciplined=clock_is_disciplined(),
        time=clock(),
    )
