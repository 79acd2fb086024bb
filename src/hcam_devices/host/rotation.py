"""Rotates the logs of child processes.

The children of ``hcam up`` and ``hcam router`` write to files, which the parent rotates. So a child
needs no reader, and goes on if its parent dies.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

MAX_LOG_BYTES = 10 * 2**20
OLD_LOGS = 3
"""The number of old logs to keep; NAME.1 is the newest."""
LOOK_PERIOD_S = 1.0
"""Check this often whether a log has become too large."""


def rotate(path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Copy a log of more than ``max_bytes`` to NAME.1, and empty it.

    A program that has the log open for appending goes on writing to it. If the disk has no room
    for the copy, the content is lost.
    """
    if path.stat().st_size <= max_bytes:
        return
    for number in range(OLD_LOGS - 1, 0, -1):
        with suppress(FileNotFoundError):
            _old(path, number).replace(_old(path, number + 1))
    try:
        shutil.copyfile(path, _old(path, 1))
    except OSError:
        _old(path, 1).unlink(missing_ok=True)
    os.truncate(path, 0)


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


async def keep_small(*paths: Path) -> None:
    """Rotate logs that have become large, until cancelled."""
    while True:
        for path in paths:
            with suppress(OSError):  # a missing folder is reported by surroundings.watch
                await asyncio.to_thread(rotate, path)
        await asyncio.sleep(LOOK_PERIOD_S)
