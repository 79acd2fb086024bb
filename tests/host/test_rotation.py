"""Logs of child processes stay small, and nothing of their end is lost."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from hcam_devices.host import rotation
from hcam_devices.host.rotation import OLD_LOGS, rotate

from ..helpers import AT_MOST


def test_a_log_stays_small_while_a_program_has_it_open(tmp_path: Path) -> None:
    log = tmp_path / "hwserver.log"
    with log.open("ab", buffering=0) as file:
        for number in range(100):
            file.write(b"%d" % number + b"x" * 999)
            rotate(log, 5000)
        file.write(b"end")
    assert log.read_bytes().endswith(b"end")
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == [
        "hwserver.log",
        *(f"hwserver.log.{n}" for n in range(1, OLD_LOGS + 1)),
    ]
    assert all(path.stat().st_size <= 7000 for path in kept)
    assert not log.read_bytes().startswith(b"\0"), "it is open for appending"


def test_a_log_stays_small_where_there_is_no_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    log = tmp_path / "hwserver.log"
    log.write_bytes(b"x" * 6000)
    rotate(log, 5000)
    assert log.read_bytes() == b""
    assert [*tmp_path.iterdir()] == [log]


async def test_logs_are_looked_after(tmp_path: Path) -> None:
    log = tmp_path / "hwserver.log"
    log.touch()
    os.truncate(log, rotation.MAX_LOG_BYTES + 1)
    cut = asyncio.Event()

    def moved(path: Path) -> None:
        rotate(path)
        if not path.exists() or not path.stat().st_size:
            cut.set()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rotation, "rotate", moved)
        looking = asyncio.create_task(rotation.keep_small(tmp_path / "no.log", log))
        async with asyncio.timeout(AT_MOST):
            await cut.wait()
        looking.cancel()
    assert log.with_name("hwserver.log.1").stat().st_size == rotation.MAX_LOG_BYTES + 1
