"""The link to programs: arguments, output, and that every program ends."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.core.link import MAX_UNREAD
from hcam_devices.core.process import Output, Programs, _Run
from hcam_devices.errors import ProtocolError, RefusedError

from ..helpers import AT_MOST, until


class Plain:
    """Command lines as they are; what a program prints as it is."""

    cut = staticmethod(lambda buffer: None)

    def request(self, ref: str, value: None = None) -> bytes:
        return ref.encode()

    def reply(self, request: bytes, frame: bytes) -> str:
        if frame.startswith(b"no"):
            raise RefusedError(frame.decode().strip())
        if isinstance(frame, Output) and frame.errors:
            return f"{frame.status}: {frame.errors.decode().strip()}"
        return frame.decode().strip()


def script(folder: Path, text: str, name: str = "program") -> Programs:
    """Write a program; return a link to its folder."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o700)
    return Programs(folder=str(folder), timeout=AT_MOST)


async def test_arguments_arrive_as_they_are_without_a_shell(tmp_path: Path) -> None:
    link = script(tmp_path, "printf '<%s>' \"$@\"")
    said = await link.ask(Plain(), "program 'a b' '$HOME' ';' '*' ''")
    assert said == "<a b><$HOME><;><*><>"


async def test_there_is_nothing_to_read_and_errors_and_status_come_too(tmp_path: Path) -> None:
    link = script(tmp_path, "cat; echo oh >&2; exit 7")
    assert await link.ask(Plain(), "program") == "7: oh"


async def test_programs_run_at_the_same_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meeting")  # each end waits for the other
    link = script(tmp_path, f"echo hello > {tmp_path}/meeting; echo told", "tell")
    script(tmp_path, f"cat {tmp_path}/meeting", "hear")
    script(tmp_path, "echo no way", "refuse")
    told, heard, refused = await link.ask_all(Plain(), ["tell", "hear", "refuse"])
    assert (told, heard) == ("told", "hello")
    assert isinstance(refused, RefusedError)


async def test_what_a_program_said_that_does_not_end_is_told(tmp_path: Path) -> None:
    script(tmp_path, "echo waiting for a licence; echo oh >&2; exec sleep 60")
    run = _Run(str(tmp_path / "program"), [], AT_MOST)
    await until(lambda: all(said.endswith(b"\n") for said in run._said.values()))
    run._give_up()  # as after its timeout
    with pytest.raises(TimeoutError) as error:
        Programs()._understood(Plain(), b"program", run.over, 2.0)
    said = "; it said 'waiting for a licence oh'"
    assert str(error.value) == f"program did not end within 2 s{said}"
    await run.ended


async def gone(pids: Iterable[int]) -> None:
    """Wait until processes have ended (or are dead, and wait for somebody to notice)."""

    def ended(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await until(lambda: all(ended(pid) for pid in pids))


HANGS = "sleep 600 & echo $$ $! > {0}/new; mv {0}/new {0}/pids; wait"


async def pids(folder: Path) -> list[int]:
    await until((folder / "pids").exists)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


async def test_a_program_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    link = script(tmp_path, HANGS.format(tmp_path))
    link.timeout = 0.5
    with pytest.raises(TimeoutError, match=r"program did not end within 0.5 s"):
        await link.ask(Plain(), "program")
    await gone(await pids(tmp_path))


async def test_a_program_that_nobody_waits_for_any_more_is_killed(tmp_path: Path) -> None:
    link = script(tmp_path, HANGS.format(tmp_path))
    asking = asyncio.create_task(link.ask(Plain(), "program"))
    started = await pids(tmp_path)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await gone(started)


def running(folder: Path) -> list[int]:
    """Return the processes that have the name of a folder in their command line."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in one.read_bytes():
                found.append(int(one.parent.name))
    return found


@pytest.mark.parametrize("turns", range(8))
async def test_a_program_is_killed_even_while_it_starts(tmp_path: Path, turns: int) -> None:
    link = script(tmp_path, f"(exec -a {tmp_path} sleep 600) & wait")
    asking = asyncio.create_task(link.ask(Plain(), "program"))
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251  (the loop stands still; the program, if any, goes on)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    await until(lambda: not running(tmp_path))


async def test_what_a_program_leaves_behind_is_killed_if_it_holds_the_output(
    tmp_path: Path,
) -> None:
    link = script(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pids; echo done")
    link.timeout = 0.5
    with pytest.raises(TimeoutError):
        await link.ask(Plain(), "program")
    await gone(await pids(tmp_path))


async def test_a_program_that_talks_without_end_is_stopped(tmp_path: Path) -> None:
    link = script(tmp_path, "exec yes")
    link.timeout = 0.5
    with pytest.raises(TimeoutError):
        await link.ask(Plain(), "program")


async def test_a_long_answer_comes_whole(tmp_path: Path) -> None:
    size = MAX_UNREAD - 1
    link = script(tmp_path, f"head -c {size} /dev/zero | tr '\\0' x")
    assert await link.ask(Plain(), "program") == "x" * size


async def test_a_program_that_crashes_has_not_answered(tmp_path: Path) -> None:
    link = script(tmp_path, "echo half; kill -SEGV $$")
    with pytest.raises(ProtocolError, match="program was killed by signal 11"):
        await link.ask(Plain(), "program")


async def test_what_is_no_program_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    link = Programs(folder=str(tmp_path))
    with pytest.raises(PermissionError, match="text cannot be run: Permission denied"):
        await link.ask(Plain(), "text")
    with pytest.raises(FileNotFoundError, match="none cannot be run"):
        await link.ask(Plain(), "none")


async def test_without_a_folder_a_program_is_found_on_the_path() -> None:
    assert await Programs(timeout=AT_MOST).ask(Plain(), "echo hello") == "hello"


async def test_only_so_many_questions_are_asked_at_once(tmp_path: Path) -> None:
    link = script(tmp_path, f"touch {tmp_path}/$1; until [ -e {tmp_path}/go ]; do sleep 0.01; done")

    def asked() -> int:
        return len(list(tmp_path.glob("[0-9]")))

    asking = asyncio.create_task(link.ask_all(Plain(), [f"program {n}" for n in range(9)]))
    await until(lambda: asked() == link.most)
    (tmp_path / "go").touch()
    await asking
    assert asked() == 9


async def test_commands_are_given_one_after_the_other_and_beside_questions(tmp_path: Path) -> None:
    turn = f"echo begin $1 >> {tmp_path}/log; until [ -e {tmp_path}/$1 ]; do sleep 0.01; done"
    link = script(tmp_path, f"{turn}; echo end $1 >> {tmp_path}/log")
    commands = [
        asyncio.create_task(link.command(Plain(), f"program {n}", AT_MOST)) for n in range(2)
    ]
    await until((tmp_path / "log").exists)
    (tmp_path / "question").touch()
    await link.ask_all(Plain(), ["program question"] * 2 * link.most)
    for n in range(2):
        (tmp_path / str(n)).touch()
        await commands[n]
    told = (tmp_path / "log").read_text().splitlines()
    assert [one for one in told if "question" not in one] == [
        "begin 0", "end 0", "begin 1", "end 1"
    ]  # fmt: skip


async def test_a_command_that_hangs_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    link = script(tmp_path, '[ "$1" = quick ] || sleep 600')
    with pytest.raises(TimeoutError, match=r"did not end within 0\.2 s"):
        await link.command(Plain(), "program slow", 0.2)
    assert await link.command(Plain(), "program quick", AT_MOST) == ""


async def test_what_is_asked_beside_is_told_when_it_is_answered(tmp_path: Path) -> None:
    link = script(tmp_path, "case $1 in hang) sleep 600;; *) echo $1;; esac")
    told: list[Any] = []
    for what, within in (("yes", AT_MOST), ("no", AT_MOST), ("hang", 0.2)):
        link.ask_beside(Plain(), f"program {what}", within, told.append)
    await until(lambda: len(told) == 3)
    assert {type(one) for one in told} == {str, RefusedError, TimeoutError}
    with pytest.raises(FileNotFoundError):
        link.ask_beside(Plain(), "none", 1.0, told.append)


async def test_closing_ends_what_is_asked_beside_and_nobody_is_told(tmp_path: Path) -> None:
    link = script(tmp_path, HANGS.format(tmp_path))
    told: list[Any] = []
    await link.open()
    link.ask_beside(Plain(), "program", AT_MOST, told.append)
    started = await pids(tmp_path)
    link.close()
    await gone(started)
    assert told == []


async def test_what_blocks_is_done_in_a_thread_and_errors_name_the_place() -> None:
    work = threading.get_ident
    link = Programs()
    assert await link.in_thread("a folder", work, within=AT_MOST) != threading.get_ident()
    goes_on = threading.Event()
    with pytest.raises(TimeoutError, match="no answer from a folder since"):
        await link.in_thread("a folder", goes_on.wait, within=0.01)
    goes_on.set()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_pipe_stays_open(tmp_path: Path) -> None:
    link = script(tmp_path, '[ "$1" != hang ] || sleep 600')
    await link.ask(Plain(), "program")
    gc.collect()  # closes files of earlier tests now, and not between the two counts
    before = open_files()
    await link.ask_all(Plain(), ["program"] * 10)
    for command, error in (("program hang", TimeoutError), ("none", FileNotFoundError)):
        with pytest.raises(error):
            await link.command(Plain(), command, 0.2)
    await until(lambda: open_files() <= before)
