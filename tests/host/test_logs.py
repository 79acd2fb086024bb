"""What programs log: its form, what is repeated, that it stays small, and what happens outside."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hcam_devices.host import logs
from hcam_devices.host.logs import OLD_LOGS, REPEAT_AFTER_S, Repeats, Surroundings, rotate
from hcam_devices.wamp.session import Outages
from hcam_devices.wamp.uris import Address

from ..helpers import AT_MOST, Clock


def test_times_are_utc_and_say_so() -> None:
    program = "from hcam_devices.host import logs; import logging; logs.set_up('info'); " + (
        "record = logging.makeLogRecord({'created': 1800000000.25, 'msecs': 250, 'levelno': 20, "
        "'levelname': 'INFO', 'msg': 'text', 'pathname': logs.__file__}); "
        "logging.getLogger().handle(record)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TZ": "America/Santiago"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    ).stderr
    assert said == "2027-01-15T08:00:00.250Z INFO text\n"


def record(text: str, level: int = logging.WARNING, *, ours: bool = False) -> logging.LogRecord:
    path = logs.__file__ if ours else "/elsewhere/library.py"
    return logging.LogRecord("some.library", level, path, 1, text, None, None)


def test_what_a_library_repeats_is_logged_once_an_hour_with_its_number() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    assert repeats.filter(record("transaction 1 timed out"))
    assert not any(repeats.filter(record(f"transaction {n} timed out")) for n in range(2, 9))
    assert repeats.filter(record("connection refused")), "another cause"
    clock.now += REPEAT_AFTER_S
    again = record("transaction 9 timed out")
    assert repeats.filter(again)
    assert again.getMessage() == "transaction 9 timed out (and 7 times before)"


def test_what_a_library_tells_below_a_warning_is_not_logged() -> None:
    assert not Repeats().filter(record("connected", logging.INFO))


def test_our_own_messages_are_all_logged() -> None:
    repeats = Repeats()
    assert all(repeats.filter(record("no router", logging.INFO, ours=True)) for _ in range(3))


def test_a_traceback_that_repeats_is_logged_once_an_hour() -> None:
    repeats = Repeats()
    shown = []
    for _ in range(3):
        one = record("gps failed and is begun again", logging.ERROR, ours=True)
        one.exc_info = (ValueError, ValueError("odd"), None)
        shown.append(repeats.filter(one))
    assert shown == [True, False, False]


def test_causes_without_end_take_no_memory_without_end() -> None:
    repeats = Repeats()
    for letter in range(2000):
        repeats.filter(record("x" * letter))
    assert len(repeats.causes) == logs.MAX_CAUSES


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
    os.truncate(log, logs.MAX_LOG_BYTES + 1)
    cut = asyncio.Event()

    def moved(path: Path) -> None:
        rotate(path)
        if not path.exists() or not path.stat().st_size:
            cut.set()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "rotate", moved)
        looking = asyncio.create_task(logs.keep_small(tmp_path / "no.log", log))
        async with asyncio.timeout(AT_MOST):
            await cut.wait()
        looking.cancel()
    assert log.with_name("hwserver.log.1").stat().st_size == logs.MAX_LOG_BYTES + 1


class Moment:
    """A machine whose clock can be set."""

    def __init__(self, *folders: Path) -> None:
        self.wall, self.steady = Clock(), Clock(5000.0)
        self.surroundings = Surroundings(*folders, wall=self.wall, steady=self.steady)

    def look(self, seconds: float = 10.0) -> list[str]:
        self.wall.now += seconds
        self.steady.now += seconds
        return self.surroundings.look()


@pytest.mark.parametrize(("step", "way"), [(3600.0, "forward"), (-2.5, "back")])
def test_a_step_of_the_clock_is_told_once(step: float, way: str) -> None:
    machine = Moment()
    assert machine.look() == []
    machine.wall.now += step
    [said] = machine.look()
    assert f"set {way} by {abs(step):.1f} s" in said
    assert machine.look() == []


def test_a_clock_that_is_disciplined_is_not_told() -> None:
    machine = Moment()
    for _ in range(1000):
        machine.wall.now += 0.005
        assert machine.look() == []


def test_a_process_that_was_stopped_while_it_looked_tells_no_step() -> None:
    machine = Moment()
    machine.look()
    wall = machine.wall

    def stopped() -> float:
        machine.steady.now += 60
        wall.now += 60
        return wall.now

    machine.surroundings.wall = stopped
    assert machine.look() == []
    machine.surroundings.wall = wall
    assert machine.look() == []


def test_an_outage_of_the_router_is_logged_once_however_many_sessions_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    outages, address = Outages(), Address("127.0.0.1", 1)
    for _ in range(2):
        for _ in range(24):
            outages.begin(address, "hipercam", ConnectionRefusedError("refused"))
        for _ in range(24):
            outages.end(address, "hipercam")
    said = [(one.levelname, one.getMessage()[:40]) for one in caplog.records]
    once = [
        ("WARNING", "no router at 127.0.0.1:1, trying again (refused)"[:40]),
        ("INFO", "the router at 127.0.0.1:1 is there again, after"[:40]),
    ]
    assert said == 2 * once


def test_a_folder_that_is_moved_is_told_once_and_when_it_is_back(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    (home / "log").mkdir(parents=True)
    machine = Moment(home, home / "log")
    assert machine.look() == []
    home.rename(away)
    [said] = machine.look()
    assert str(home) in said
    assert "renamed, removed or replaced" in said
    home.mkdir()
    assert machine.look() == [], "another folder of that name is not the one"
    home.rmdir()
    away.rename(home)
    [said] = machine.look()
    assert "again" in said
    assert machine.look() == []
