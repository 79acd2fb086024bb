"""Work that may hang has its own threads, and delays neither other work nor the process's end."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hcam_devices.core.fields import Setpoint
from hcam_devices.host.threads import ask, in_own_thread

from ..helpers import AT_MOST, until

SHORT = 0.05


class Hanging:
    """Work that hangs until it is let go; counts how often it was begun."""

    def __init__(self) -> None:
        self.begun, self.goes_on = 0, threading.Event()

    def __call__(self, answer: str = "well") -> str:
        self.begun += 1
        self.goes_on.wait(AT_MOST)
        return answer


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    work = Hanging()
    yield work
    work.goes_on.set()


async def test_what_hangs_is_awaited_and_never_started_twice(hanging: Hanging) -> None:
    said = []
    for _ in range(3):
        with pytest.raises(TimeoutError) as late:
            await ask("the folder /data", hanging, within=SHORT)
        said.append(str(late.value))
    assert said[0].startswith("no answer from the folder /data since 2")
    assert said[0].endswith(" UTC")
    assert said == said[:1] * 3  # it has been hanging since the first time
    waiting = asyncio.create_task(ask("the folder /data", hanging, within=AT_MOST))
    await asyncio.sleep(0)
    hanging.goes_on.set()
    assert await waiting == "well"
    assert hanging.begun == 1
    assert await ask("the folder /data", hanging, within=AT_MOST) == "well"
    assert hanging.begun == 2


async def test_no_other_work_is_begun_where_some_hangs_and_it_is_begun_afterwards(
    hanging: Hanging,
) -> None:
    first = asyncio.create_task(ask("a folder", hanging, within=AT_MOST))
    await until(lambda: hanging.begun == 1)
    for answer in ("given up", "given up too"):
        with pytest.raises(TimeoutError, match="no answer from a folder since"):
            await ask("a folder", hanging, answer, within=SHORT)
    others = [asyncio.create_task(ask("a folder", hanging, n, within=AT_MOST)) for n in "abc"]
    await asyncio.sleep(0)
    assert hanging.begun == 1
    hanging.goes_on.set()
    assert [await first, *[await other for other in others]] == ["well", *"abc"]
    assert hanging.begun == 4


async def test_what_hangs_holds_up_no_other_resource_no_conversion_and_no_thread_of_asyncio(
    hanging: Hanging,
) -> None:
    for n in range(40):
        with pytest.raises(TimeoutError, match=f"no answer from folder {n} since"):
            await ask(f"folder {n}", hanging, within=0.001)
    assert hanging.begun == 40
    async with asyncio.timeout(AT_MOST):
        assert await ask("another folder", os.getpid, within=AT_MOST) == os.getpid()
        assert await Setpoint(unit="deg_C", limits=(-100, 25)).accept("200 K") == pytest.approx(
            -73.15
        )
        assert await asyncio.to_thread(os.getpid) == os.getpid()


async def test_who_stops_waiting_ends_neither_the_work_nor_the_wait_of_others(
    hanging: Hanging,
) -> None:
    first, second = (asyncio.create_task(ask("disk", hanging, within=AT_MOST)) for _ in range(2))
    await until(lambda: hanging.begun == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    hanging.goes_on.set()
    assert await second == "well"
    assert hanging.begun == 1


def fail_with(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError("by itself")])
async def test_what_the_work_raises_is_raised(error: Exception) -> None:
    asks: list[Callable[[], object]] = [
        lambda: ask("the disk", fail_with, error, within=AT_MOST),
        lambda: in_own_thread(fail_with, error),
    ]
    for one in asks:
        with pytest.raises(type(error)) as raised:
            await one()  # type: ignore[misc]
        assert str(raised.value) == str(error)


PROGRAM = """
import asyncio, sys
from hcam_devices.host.threads import ask

async def main():
    try:
        await ask("the file server", open, sys.argv[1], within=0.1)  # hangs in the kernel
    except TimeoutError as error:
        print(error)

asyncio.run(main())
"""


def test_a_process_ends_although_something_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run0001.fits")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run0001.fits")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=AT_MOST, check=True)
    assert ended.stdout.startswith("no answer from the file server since ")
    assert ended.stderr == ""
