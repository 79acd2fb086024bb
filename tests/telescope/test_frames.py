import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from asyncinotify import Inotify, Mask
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.telescope import frames
from hcam_devices.telescope.frames import Frames, Progress, filesystem_of, run_number

from ..helpers import AT_MOST, Clock, until

FRAME = 2 * 500 * 3


def header(*cards: str) -> bytes:
    """Return a FITS header: by default that of a cube whose frames have FRAME bytes."""
    cube = ("BITPIX  = 16", "NAXIS   = 3", "NAXIS1  = 500 / pixels", "NAXIS2  = 3", "NAXIS3  = 0")
    filler = [f"HIERARCH ESO DET CLDC{n} = {n}" for n in range(60)]
    lines = ["SIMPLE  =                    T / FITS", *(cards or cube), *filler, "END"]
    text = "".join(f"{line:80}" for line in lines)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


HEADER = header()
IMAGE = header("BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 500", "NAXIS2  = 3")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def a_run(folder: Path, number: int, count: int = 0, head: bytes = HEADER) -> Path:
    path = folder / f"run{number:04d}.fits"
    path.write_bytes(head + bytes(count * FRAME))
    return path


class Script:
    """A clock and a sleep: each sleep lasts no time, and does the next thing of a list."""

    def __init__(self, *things: Callable[[], object]) -> None:
        self.clock, self.things = Clock(0.0), iter(things)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds
        next(self.things, _nothing_left)()


def _nothing_left() -> None:
    raise AssertionError("everything has happened, and still nothing was seen")


def polling(folder: Path, script: Script | None = None) -> Frames:
    script = script or Script()
    return Frames(folder, clock=script.clock, sleep=script.sleep, filesystem=lambda _folder: "nfs4")


async def counts(watched: Frames, run: int, until: int) -> list[int]:
    """Return every number of frames that was seen on the way."""
    seen = [Progress(run, 0)]
    async with asyncio.timeout(AT_MOST):
        while seen[-1].frames < until:
            seen.append(await watched.news(seen[-1]))
    assert {one.run for one in seen} == {run}
    return [one.frames for one in seen]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("run0012.fits", 12),
        ("run9999.fits", 9999),
        ("run10000.fits", 10000),
        ("run0012_001.fits", 0),
        ("run012.fits", 0),
        ("run00012.fits", 0),
        (".run0012.fits", 0),
        ("run0012.fits.tmp", 0),
        ("run0012.fits\n", 0),
        ("run\u0660\u0661\u0662\u0663.fits", 0),
        ("xrun0012.fits", 0),
        ("run0000.fits", 0),
    ],
)
def test_only_a_run_s_own_file_has_its_number(name: str, number: int) -> None:
    assert run_number(name) == number


async def test_the_newest_run_is_that_with_the_highest_number(tmp_path: Path) -> None:
    assert await polling(tmp_path).look() == Progress(0, 0)
    a_run(tmp_path, 10000, 2)
    a_run(tmp_path, 9999, 1)
    for name in ("run10001_001.fits", "run10002.fits.tmp", "run9.fits", "notes.txt"):
        (tmp_path / name).write_bytes(HEADER + bytes(5 * FRAME))
    assert await polling(tmp_path).look() == Progress(10000, 2)


@given(st.lists(st.integers(1, 2 * FRAME), max_size=12))
def test_a_frame_counts_once_however_it_is_split(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    path = a_run(folder, 1)
    watched = polling(folder)

    async def grow() -> None:
        total = 0
        for size in sizes:
            total += size
            append(path, bytes(size))
            assert await watched.look() == Progress(1, total // FRAME)

    asyncio.run(grow())


async def test_a_run_without_a_whole_header_has_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "run0001.fits"
    watched = polling(tmp_path)
    for size in (0, 100, 2880, len(HEADER) - 1, len(HEADER), len(HEADER) + FRAME - 1):
        path.write_bytes((HEADER + bytes(FRAME))[:size])
        assert await watched.look() == Progress(1, 0)
    append(path, b"\0")
    assert await watched.look() == Progress(1, 1)


async def test_frames_over_a_network_are_seen_late_several_at_once_and_none_is_lost(
    tmp_path: Path,
) -> None:
    path = a_run(tmp_path, 7)
    script = Script(
        lambda: os.utime(path),  # the time stamp comes before the size
        lambda: append(path, bytes(FRAME // 2)),
        lambda: None,
        lambda: append(path, bytes(FRAME // 2)),
        lambda: os.utime(path),
        lambda: append(path, bytes(3 * FRAME)),
        lambda: append(path, bytes(FRAME + 1)),
    )
    assert await counts(polling(tmp_path, script), 7, 5) == [0, 1, 4, 5]
    assert script.slept == [frames.LOOK_PERIOD_S] * 7


async def test_a_run_that_appears_late_is_found_with_all_its_frames(tmp_path: Path) -> None:
    a_run(tmp_path, 7, 3)
    script = Script(*[lambda: None] * 30, lambda: a_run(tmp_path, 8, 2), *[lambda: None] * 10)
    watched = polling(tmp_path, script)
    seen = await watched.look()
    assert seen == Progress(7, 3)
    assert await watched.news(seen) == Progress(8, 2)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list of the folders that have been listed."""
    made: list[Any] = []
    listdir = os.listdir

    def counted(path: Any) -> list[str]:
        made.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    return made


async def test_a_large_folder_is_listed_only_when_something_has_come(
    tmp_path: Path, listings: list[Any]
) -> None:
    for number in range(1, 2001):
        (tmp_path / f"run{number:04d}.fits").touch()
    path = a_run(tmp_path, 2000)
    script = Script(*[lambda: append(path, bytes(FRAME // 10))] * 1000)
    assert len(await counts(polling(tmp_path, script), 2000, 100)) == 101
    assert len(listings) == 2  # again, for another file within the same tick of the clock


async def test_a_large_folder_where_files_come_all_the_time_is_listed_once_a_second(
    tmp_path: Path, listings: list[Any]
) -> None:
    script = Script(*[(tmp_path / f"x{n}").touch for n in range(500)])
    with pytest.raises(AssertionError, match="everything has happened"):
        await polling(tmp_path, script).news(Progress(0, 0))
    assert 45 <= len(listings) <= 51  # in 50 s


async def test_a_run_that_came_in_the_tick_of_the_last_listing_is_found(tmp_path: Path) -> None:
    a_run(tmp_path, 1, 1)
    script = Script()
    watched = polling(tmp_path, script)
    assert await watched.look() == Progress(1, 1)
    stamp = os.stat(tmp_path).st_mtime_ns
    a_run(tmp_path, 2, 4)
    os.utime(tmp_path, ns=(stamp, stamp))
    script.clock.now += frames.LIST_PERIOD_S
    assert await watched.look() == Progress(2, 4)


async def test_a_folder_that_cannot_be_read_is_said_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    script = Script(folder.touch, folder.unlink, folder.mkdir)
    watched = polling(folder, script)
    assert await watched.look() is None
    assert "No such file or directory" in watched.trouble
    assert str(folder) in watched.trouble
    assert await watched.news(None) == Progress(0, 0)
    assert script.slept == [frames.RETRY_PERIOD_S] * 3
    assert watched.trouble == ""
    script.things = iter([lambda: a_run(folder, 3, 2), *[lambda: None] * 20])
    assert await watched.news(Progress(0, 0)) == Progress(3, 2)


async def test_a_run_that_is_taken_away_is_looked_for_again(tmp_path: Path) -> None:
    a_run(tmp_path, 1, 1)
    path = a_run(tmp_path, 2, 2)
    watched = polling(tmp_path)
    assert await watched.look() == Progress(2, 2)
    path.unlink()
    await watched.look()
    assert await watched.look() == Progress(1, 1)


async def test_a_run_written_anew_is_counted_anew(tmp_path: Path) -> None:
    path = a_run(tmp_path, 1, 4)
    watched = polling(tmp_path)
    assert await watched.look() == Progress(1, 4)
    path.write_bytes(HEADER + bytes(FRAME))
    assert await watched.look() == Progress(1, 1)
    path.rename(tmp_path / "old")
    path.write_bytes(header("BITPIX  = -32", "NAXIS   = 3", "NAXIS1  = 10", "NAXIS2  = 2"))
    append(path, bytes(4 * 10 * 2 * 3))
    assert await watched.look() == Progress(1, 3)


@pytest.mark.parametrize(
    "head",
    [
        IMAGE,
        header("BITPIX  = 16", "NAXIS   = 0"),
        header("BITPIX  = many", "NAXIS   = 3"),
        header("BITPIX  = 16", "NAXIS   = 3", "NAXIS1  = 0", "NAXIS2  = 0"),
        b"not FITS at all".ljust(2880),
    ],
)
async def test_without_a_known_size_a_frame_is_what_came_before_a_pause(
    tmp_path: Path, head: bytes
) -> None:
    script = Script()
    watched = polling(tmp_path, script)
    assert await watched.look() == Progress(0, 0)
    path = a_run(tmp_path, 1, 0, head[:2880])
    script.clock.now += 10
    if head[:3] == b"not":  # of such a file only the growth is known
        assert await watched.look() == Progress(1, 0)
        script.clock.now += 1
        assert await watched.look() == Progress(1, 1)
        offset = 1
    else:
        append(path, head[2880:])
        offset = 0
    for frame in (1, 2, 3):
        for _piece in range(5):
            append(path, bytes(FRAME))
            assert await watched.look() == Progress(1, frame - 1 + offset)
            script.clock.now += 0.09
        assert await watched.look() == Progress(1, frame - 1 + offset)
        script.clock.now += 0.02
        assert await watched.look() == Progress(1, frame + offset)
        script.clock.now += 5
        assert await watched.look() == Progress(1, frame + offset)


async def test_without_a_known_size_what_was_there_at_first_is_not_counted(tmp_path: Path) -> None:
    path = a_run(tmp_path, 1, 30, IMAGE)
    script = Script()
    watched = polling(tmp_path, script)
    for _ in range(3):
        assert await watched.look() == Progress(1, 0)
        script.clock.now += 1
    append(path, bytes(FRAME))
    assert await watched.look() == Progress(1, 0)
    script.clock.now += 1
    assert await watched.look() == Progress(1, 1)


async def test_a_disk_of_this_machine_tells_of_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "RETRY_PERIOD_S", 1e6)
    monkeypatch.setattr(frames, "LIST_PERIOD_S", 0.0)
    watched = Frames(tmp_path, filesystem=lambda _folder: "ext4")

    async def after(seen: Progress, change: Callable[[], object]) -> Progress:
        listens: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        get = Inotify.get

        async def listened(changes: Inotify) -> object:
            if not listens.done():
                listens.set_result(None)
            return await get(changes)

        monkeypatch.setattr(Inotify, "get", listened)
        waiting = asyncio.create_task(watched.news(seen))
        try:
            await until(lambda: listens.done() or waiting.done())
            change()
            async with asyncio.timeout(AT_MOST):
                return await waiting
        finally:
            waiting.cancel()

    seen = await watched.look()
    assert seen == Progress(0, 0)
    seen = await after(seen, lambda: a_run(tmp_path, 1, 1))
    assert seen == Progress(1, 1)
    seen = await after(seen, lambda: append(tmp_path / "run0001.fits", bytes(2 * FRAME)))
    assert seen == Progress(1, 3)

    def moved_there() -> None:
        path = tmp_path / "part"
        path.write_bytes(HEADER + bytes(FRAME))
        path.rename(tmp_path / "run0002.fits")

    assert await after(seen, moved_there) == Progress(2, 1)


async def test_a_disk_that_does_not_tell_after_all_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "RETRY_PERIOD_S", 0.01)
    add_watch = Inotify.add_watch

    def deaf(changes: Inotify, path: Path, _: Mask) -> object:
        return add_watch(changes, path, Mask.DELETE_SELF)

    monkeypatch.setattr(Inotify, "add_watch", deaf)
    path = a_run(tmp_path, 1)
    watched = Frames(tmp_path, filesystem=lambda _folder: "ext4")
    waiting = asyncio.create_task(watched.news(Progress(1, 0)))
    await asyncio.sleep(0)
    append(path, bytes(FRAME))
    async with asyncio.timeout(AT_MOST):
        assert await waiting == Progress(1, 1)


async def test_without_watches_left_the_folder_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Inotify, "add_watch", none_left)
    path = a_run(tmp_path, 1)
    script = Script(lambda: append(path, bytes(FRAME)))
    watched = Frames(
        tmp_path, clock=script.clock, sleep=script.sleep, filesystem=lambda _folder: "ext4"
    )
    assert await watched.news(Progress(1, 0)) == Progress(1, 1)
    assert script.slept == [frames.LOOK_PERIOD_S]


async def test_a_disk_that_does_not_answer_is_asked_by_one_thread_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()
    listdir = os.listdir

    def hung(path: Any) -> list[str]:
        asked.release()
        answer.wait(AT_MOST)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", hung)
    monkeypatch.setattr(frames, "MAX_LOOK_S", 0.01)
    a_run(tmp_path, 1, 1)
    watched = polling(tmp_path)
    try:
        for _ in range(5):
            assert await watched.look() is None
            assert f"no answer from the data folder {tmp_path} since" in watched.trouble
        assert asked.acquire(timeout=AT_MOST)
        assert not asked.acquire(blocking=False)
    finally:
        answer.set()
    monkeypatch.setattr(frames, "MAX_LOOK_S", AT_MOST)
    assert await watched.look() == Progress(1, 1)
    assert watched.trouble == ""


def test_the_type_of_a_file_system_is_that_of_the_innermost_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem_of(tmp_path) != ""
    mounts = {"/": "ext4", str(tmp_path): "nfs4", str(tmp_path / "a" / "b"): "xfs"}

    def partitions(*, all: bool) -> list[SimpleNamespace]:
        assert all
        return [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]

    monkeypatch.setattr(psutil, "disk_partitions", partitions)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert filesystem_of(tmp_path / "a") == "nfs4"
    assert filesystem_of(tmp_path / "a" / "b") == "xfs"
    assert filesystem_of(tmp_path / "link" / "deeper") == "xfs"
    assert filesystem_of(Path("/elsewhere")) == "ext4"
    mounts.clear()
    assert filesystem_of(tmp_path) == ""
