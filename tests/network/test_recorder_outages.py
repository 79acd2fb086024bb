"""The router is killed again and again: the recorder has everything in the end."""

from contextlib import suppress

import duckdb
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


def test_a_store_that_cannot_be_opened_holds_up_no_other(as_left: Net) -> None:
    recorders = living(as_left.home, "hwlogger")
    for process in recorders:
        process.kill()
    psutil.wait_procs(recorders)
    (as_left.home / "second").touch()
    (as_left.home / "site.toml").write_text(TWO_STORES)
    before = len(stored(as_left))
    as_left.start_recorder("--instrument", as_left.home / "site.toml")
    until(lambda: len(stored(as_left)) > before + 100)
    newest = as_left.newest("recorder")
    (alarm,) = newest["alarms"]
    assert alarm["field"] == "rate_second"
    assert "second cannot be used now" in alarm["reason"]
    assert newest["gone_second"] is None
    (as_left.home / "second").unlink()
    all_home(as_left)
    wanted = published(as_left)
    until(lambda: wanted <= stored(as_left, "second").keys())


def test_a_night_is_closed_on_demand_with_and_without_a_recorder(as_left: Net) -> None:
    if not living(as_left.home, "hwlogger"):
        as_left.start_recorder()
    before = len(stored(as_left))
    until(lambda: len(stored(as_left)) > before + 50)
    for _ in range(2):
        before = sum(device == "load1" for device, *_ in stored(as_left))
        as_left.hcam_here("history", "close")
        (file,) = as_left.home.glob("history/nights/*/load1.parquet")
        closed = duckdb.execute("SELECT count(*) FROM read_parquet(?)", [str(file)]).fetchone()
        assert closed
        assert closed[0] >= before > 0
        running = living(as_left.home, "hwlogger")
        for process in running:
            process.kill()
        psutil.wait_procs(running)
    as_left.start_recorder()
    all_home(as_left)
