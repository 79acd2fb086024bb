"""The recorder is killed at any instant: nothing is lost or doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from hcam_devices.wamp.utils import call

from ..conftest import Scaled
from .recorded import all_home, joined, start_flood, stored
from .tools import Net, until

FORKS = Path(__file__).with_name("forks.py")


def test_a_recorder_killed_at_any_instant_neither_loses_nor_doubles(
    guest: Net, scaled: Scaled
) -> None:
    start_flood(guest, rate=200)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    forks = guest.start(sys.executable, FORKS, log="hwlogger.out", **pipes)
    assert forks.stdin
    assert forks.stdout
    instants = random.Random(22)
    for kills in range(scaled(15, soak=200)):
        before = joined(guest)
        forks.stdin.write(b"\n")
        forks.stdin.flush()
        recorder = int(forks.stdout.readline())
        if kills % 4:  # otherwise it is killed while it starts
            until(lambda before=before: joined(guest) > before)  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.6))
        os.kill(recorder, signal.SIGKILL)
        assert forks.stdout.readline() == b"over\n"
    forks.communicate()
    assert stored(guest), "the recorder was killed before it had stored anything"
    guest.start_recorder()
    all_home(guest)
    assert call("hipercam.recorder.rpc.samples", 0)[-1]["gone_local"] == 0
