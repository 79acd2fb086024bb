"""How programs log: the form of a message, and repeated messages."""

import logging
import os
import subprocess
import sys

import pytest

from hcam_devices.host import logs
from hcam_devices.host.logs import REPEAT_AFTER_S, Repeats
from hcam_devices.wamp.session import Outages
from hcam_devices.wamp.uris import Address

from ..helpers import Clock


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
        one = record("gps failed and is started again", logging.ERROR, ours=True)
        one.exc_info = (ValueError, ValueError("odd"), None)
        shown.append(repeats.filter(one))
    assert shown == [True, False, False]


def test_causes_without_end_take_no_memory_without_end() -> None:
    repeats = Repeats()
    for letter in range(2000):
        repeats.filter(record("x" * letter))
    assert len(repeats.causes) == logs.MAX_CAUSES


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
        ("INFO", "the router at 127.0.0.1:1 is back after 1"[:40]),
    ]
    assert said == 2 * once


TO_THE_JOURNAL = """
import logging, os, sys
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino + int(sys.argv[1])}"
from hcam_devices.host import logs
logs.set_up("debug")
logging.debug("a")
logging.info("b")
logging.warning("c")
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("d")
"""


@pytest.mark.parametrize("another", [0, 1])
def test_lines_for_the_journal_begin_with_their_priority(another: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", TO_THE_JOURNAL, str(another)],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    ).stderr.splitlines()
    first = [line[:3] for line in said]
    assert len(said) > 5, "a traceback has lines of its own"
    if another:
        assert not any(line.startswith("<") for line in said), "it is not the journal's stream"
    else:
        assert first == ["<7>", "<6>", "<4>", *["<3>"] * (len(said) - 3)]


FAILS = """
import os
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
from hcam_devices.cli.main import main
main(["config", "check", "--instrument", "/nosuch.toml"])
"""


def test_the_error_that_ends_a_program_is_one_in_the_journal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("<3>Error: /nosuch.toml: cannot be read")
