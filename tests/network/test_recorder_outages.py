"""The router is killed again and again: the recorder has everything in the end."""

from contextlib import suppress

import psutil

from ..conftest import Scaled
from .recorded import LOADS, all_home, published, start_flood, stored
from .tools import Net, living, until

TWO_STORES = """
[devices.rackpc]
kind = "rackpc.RackPC"
server = "hwserver-flood"

[servers.hwserver-flood]

[stores.local]

[stores.second]
folder = "second"
"""


def start_router(net: Net) -> None:
    net.start_router("--instrument", net.instrument_with({"hwserver-flood": LOADS}))


def test_a_router_killed_again_and_again_loses_nothing(own: Net, scaled: Scaled) -> None:
    start_flood(own)
    own.start_recorder()
    for _ in range(scaled(2, soak=20)):
        start_router(own)
        before = len(stored(own))
        until(lambda before=before: len(stored(own)) > before)  # type: ignore[misc]
        kill_router(own)
    start_router(own)
    all_home(own)


def kill_router(net: Net) -> None:
    assert net.router
    for process in living(net.home):
        with suppress(psutil.NoSuchProcess):
            if "crossbar" in " ".join(process.cmdline()):
                process.kill()
    net.router.wait()


def test_a_store_that_cannot_be_opened_holds_up_no_other(own: Net) -> None:
    recorders = living(own.home, "hwlogger")
    for process in recorders:
        process.kill()
    psutil.wait_procs(recorders)
    (own.home / "second").touch()
    (own.home / "site.toml").write_text(TWO_STORES)
    before = len(stored(own))
    own.start_recorder("--instrument", own.home / "site.toml")
    until(lambda: len(stored(own)) > before + 100)
    newest = own.newest("recorder")
    (alarm,) = newest["alarms"]
    assert alarm["field"] == "rate_second"
    assert "second cannot be used now" in alarm["reason"]
    assert newest["gone_second"] is None
    (own.home / "second").unlink()
    all_home(own)
    wanted = published(own)
    until(lambda: wanted <= stored(own, "second").keys())
