"""Keeps the logs of child processes small.

``hcam up`` and ``hcam router`` let their children write to files, and cut these files from outside:
a child needs no reader, and goes on if its parent dies.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path

MAX_LOG_BYTES = 10 * 2**20
OLD_LOGS = 3
"""The number of old logs that are kept. NAME.1 is the newest of them."""
LOOK_PERIOD_S = 1.0


def rotate(path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Move the content of a log with more than ``max_bytes`` to NAME.1, and leave it empty.

    Programs that have the log open for appending go on writing to it. If there is no room for
    another file, the content is lost.
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
    """Rotate logs when they have become large, until cancelled."""
    while True:
        for path in paths:
            with suppress(OSError):  # a missing folder is reported by surroundings.watch
                await asyncio.to_thread(rotate, path)
        await asyncio.sleep(LOOK_PERIOD_S)
