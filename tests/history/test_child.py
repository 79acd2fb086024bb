"""The process that reads and writes closed files, as the recorder uses it."""

import os
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from hcam_devices.history import child as children
from hcam_devices.history.archive import HistoryError
from hcam_devices.history.child import Child
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal.points import Point, night_bounds

from ..helpers import AT_MOST, Clock, records

START, _ = night_bounds("2026-11-22")


@pytest.fixture(autouse=True)
def here() -> None:
    """Use the other process, unlike the other tests."""


def living() -> list[psutil.Process]:
    """Return the processes for closed files that this one has started."""
    begun = psutil.Process().children()
    found = []
    for process in begun:
        with suppress(psutil.Error):  # it has just ended
            if "hcam_devices.history.worker" in process.cmdline():
                found.append(process)
    return found


def test_it_answers_and_tells_errors_and_ends_when_it_is_closed(tmp_path: Path) -> None:
    with closing(EmbeddedStore("embedded", tmp_path, clock=Clock(START / 1000 + 60))) as store:
        store.write(
            records([Point("ccd1", "one", 1, START, {"temperature": -90.0}, {"temperature": "C"})])
        )
        assert store.child.ask("fields") == {"ccd1": {"temperature": "C"}}
        with pytest.raises(HistoryError, match="there is no history of 'ccd9'"):
            store.child.ask("history", "ccd9.temperature", START, START + 1000)
        with pytest.raises(OSError, match="there is no method"):
            store.child.ask("nonsense")
        (process,) = living()
        assert store.close_nights("2026-11-22") == []
        assert living() == [process]
    assert living() == []


def test_it_imports_neither_devices_nor_the_checks_of_their_file() -> None:
    program = (
        "import sys, hcam_devices.history.worker;"
        "print({'asyncio', 'pydantic', 'hcam_devices.core'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_it_ends_when_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "IDLE_S", 0.0)
    with closing(EmbeddedStore("embedded", tmp_path)) as store:
        for _ in range(2):
            assert store.child.ask("fields") == {}
            end = time.monotonic() + AT_MOST
            while living() and time.monotonic() < end:
                os.sched_yield()
            assert living() == []


def test_one_that_was_killed_or_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(EmbeddedStore("embedded", tmp_path)) as store:
        store.child.ask("fields")
        (first,) = living()
        first.kill()
        with pytest.raises(ConnectionError, match="ended"):
            store.child.ask("fields")
        assert store.child.ask("fields") == {}
        (second,) = living()
        second.suspend()
        monkeypatch.setattr(children, "ANSWER_WITHIN", 0.1)
        with pytest.raises(ConnectionError, match="ended"):
            store.child.ask("fields")
        monkeypatch.undo()
        assert store.child.ask("fields") == {}
        (third,) = living()
        assert third not in (first, second)


def test_it_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from hcam_devices.history.stores.embedded import EmbeddedStore\n"
        "store = EmbeddedStore('embedded', Path(sys.argv[1]))\n"
        "store.child.ask('fields')\nprint(store.child._process.pid, flush=True)\ntime.sleep(999)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        other = psutil.Process(int(process.stdout.readline()))
        process.kill()
    other.wait(AT_MOST)


def test_the_recorder_does_without_duckdb() -> None:
    """It takes more memory than all of the recorder."""
    program = "import sys, hcam_devices.history.recorder; assert 'duckdb' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    child = Child(tmp_path)
    try:
        with pytest.raises(OSError, match="no method"):
            child.ask("x" * 10)
        (process,) = living()
        assert process.rlimit(psutil.RLIMIT_AS) == (2**30, 2**30)
    finally:
        child.close()
