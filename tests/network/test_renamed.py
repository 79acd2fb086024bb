"""Devices that are renamed, removed or moved while the only store is away: nothing is lost."""

import sqlite3
from contextlib import suppress
from typing import Any

import psutil
import pytest

from hcam_devices.wamp.utils import InvalidArgumentError, call

from ..history.stores.databases import influxdb
from .recorded import Number, published, start_flood
from .test_recorder import in_influxdb
from .tools import PATIENCE, Net, living, until

STORE = """
[stores.offsite]
kind = "influxdb"
url = "{url}"
database = "hipercam"
"""
DEVICE = """
[devices.{name}]
kind = "rackpc.RackPC"
server = "{server}"
aliases = {aliases}
"""
BEFORE = {"hwserver-flood": ["kept", "rackpc", "removed", "moved"], "hwserver-other": ["quiet"]}
AFTER = {"hwserver-flood": ["kept", "rackcomputer=rackpc"], "hwserver-other": ["quiet", "moved"]}


def test_what_was_published_under_former_names_comes_home(own: Net) -> None:
    site = own.home / "site.toml"
    with influxdb(own.home) as database:
        database.stop()
        begin(own, BEFORE, STORE.format(url=database.url))
        end(own)
        before = appended(own)
        begin(own, AFTER, STORE.format(url=database.url))
        database.start()
        wanted = {number for _, number in before | appended(own)}
        until(lambda: wanted <= in_influxdb(database).keys())
        assert set(in_influxdb(database).values()) == {1}
        said = own.hcam_here("audit", "--instrument", str(site))
        assert "Everything published is stored once: offsite has " in said
        assert all(f"\n{name} " in said for name in ("rackpc", "rackcomputer", "removed", "moved"))


def test_a_journal_that_is_asked_in_a_wrong_way_says_so(as_left: Net) -> None:
    wrong: dict[str, tuple[Any, ...]] = {
        "page": ("rackpc", -1),
        "samples": ("rackpc", 0, "all"),
        "digests": ("rackpc", 1, 2, 3),
        "inventory": (["rackpc"], "", 3),
    }
    for name, arguments in wrong.items():
        with pytest.raises(InvalidArgumentError, match="must be"):
            call(f"hipercam.hwserver-flood.journal.{name}", *arguments)
    with pytest.raises(InvalidArgumentError, match="devices must be a list of names, not 'rackpc'"):
        call("hipercam.hwserver-flood.journal.inventory", "rackpc")
    assert call("hipercam.hwserver-flood.journal.samples", "rackpc", 0, 1)[0]["device"] == "rackpc"


def begin(net: Net, servers: dict[str, list[str]], store: str) -> None:
    """Start everything with an instrument; wait until each device has published in its server."""
    split = {server: [names.split("=") for names in some] for server, some in servers.items()}
    own = {server: [name for name, *_ in some] for server, some in split.items()}
    tables = [
        DEVICE.format(name=name, server=server, aliases=aliases)
        for server, some in split.items()
        for name, *aliases in some
    ]
    tables += [f"[servers.{server}]\n" for server in own]
    (net.home / "site.toml").write_text(store + "".join(tables))
    net.start_router("--instrument", net.home / "site.toml")
    old = appended(net)
    for server, devices in servers.items():
        start_flood(net, 50, devices, server)
    net.start_recorder("--instrument", net.home / "site.toml")
    wanted = {(server, name) for server in own for name in own[server]}
    until(lambda: wanted <= {(server, one[0]) for server, one in appended(net) - old})


def end(net: Net) -> None:
    """End everything; the router last, which then starts with the next instrument."""
    programs = [one for name in ("flood.py", "hwlogger") for one in living(net.home, name)]
    for program in programs:
        program.terminate()
    assert not psutil.wait_procs(programs, timeout=PATIENCE)[1]
    assert net.router
    net.router.terminate()
    net.router.wait(PATIENCE)


def appended(net: Net) -> set[tuple[str, Number]]:
    """Return what is in the journals of the servers that have one."""
    found: set[tuple[str, Number]] = set()
    for server in BEFORE:
        with suppress(sqlite3.OperationalError):  # it is being created
            found |= {(server, number) for number in published(net, server)}
    return found
