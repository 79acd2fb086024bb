"""The recorder is killed at any instant: nothing is lost or doubled."""

import random
import time

from hcam_devices.wamp.utils import call

from .recorded import all_home, joined, start_flood, stored
from .tools import Net, until

KILLS = 200


def test_a_recorder_killed_at_200_instants_neither_loses_nor_doubles(own: Net) -> None:
    own.start_router()
    start_flood(own, rate=200)
    instants = random.Random(22)
    for kills in range(KILLS):
        before = joined(own)
        recorder = own.start_recorder()
        if kills % 4:  # otherwise while it starts
            until(lambda before=before: joined(own) > before)  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.6))
        recorder.kill()
        recorder.wait()
    assert len(stored(own)) > 1000
    own.start_recorder()
    all_home(own)
    assert "gone_local" in call("hipercam.recorder.rpc.samples", 0)[-1]
    assert call("hipercam.recorder.rpc.samples", 0)[-1]["gone_local"] == 0
