"""The router is killed again and again: the recorder has everything in the end."""

from contextlib import suppress

import psutil

from .recorded import all_home, start_flood, stored
from .tools import Net, living, until

ROUTERS = 20


def test_a_router_killed_20_times_loses_nothing(own: Net) -> None:
    start_flood(own)
    own.start_recorder()
    for _ in range(ROUTERS):
        own.start_router()
        before = len(stored(own))
        until(lambda before=before: len(stored(own)) > before)  # type: ignore[misc]
        kill_router(own)
    own.start_router()
    all_home(own)


def kill_router(net: Net) -> None:
    assert net.router
    for process in living(net.home):
        with suppress(psutil.NoSuchProcess):
            if "crossbar" in " ".join(process.cmdline()):
                process.kill()
    net.router.wait()
