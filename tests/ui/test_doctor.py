"""Each check of ``hcam doctor`` finds its fault and names the cure."""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.config.tables import Legacy, Router
from hcam_devices.core.device import iso_from_s
from hcam_devices.ui import access_checks, checks, doctor
from hcam_devices.ui.checks import HERE, LEVELS, Finding, Heard, Site
from hcam_devices.wamp import access, certificates
from hcam_devices.wamp.about import About
from hcam_devices.wamp.about import about as about_now
from hcam_devices.wamp.owner import Owner
from hcam_devices.wamp.uris import Address

FILE = """\
title = "Ours"

[devices.gauge]
kind = "pdr900.VacuumGauge"
host = "127.0.0.1"
port = {port}

[devices.arms]
kind = "esp301.Arms"
path = "/dev/no-such-port"
"""


def heard(server: str, offset: float = 0.0, uncertainty: float = 0.01, **more: Any) -> Heard:
    """Return the answer of a server; ``more`` replaces what it says of itself."""
    said = about_now(Owner(server, "2026-11-30T00:00:00.000Z"), "", emulated=False)
    known: dict[str, Any] = {"clock_disciplined": True, "pid": 2**30} | more
    return Heard(said.model_copy(update=known), offset, uncertainty)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site without a fault, of a gauge that is online."""
    monkeypatch.setattr(checks, "clock_is_disciplined", lambda: True)
    home = tmp_path / "home"
    (home / "journal").mkdir(parents=True)
    (tmp_path / "ours.toml").write_text(FILE.format(port=1))
    online = {"state": {"connection": "online"}, "alarms": []}
    now = iso_from_s(time.time())
    stored = {"lag_local": {"value": 0.5, "unit": "s"}, "disk": {"value": 90.0, "unit": "GB"}}
    return Site(
        Address("127.0.0.1", 1),
        home,
        load(tmp_path / "ours.toml"),
        servers={name: heard(name) for name in ("hwserver", "hwlogger", "hwalarm")},
        samples={
            "gauge": online,
            "arms": online,
            "recorder": online | stored | {"timestamp": now},
        },
        statuses={
            name: {"state": "running", "host": HERE, "emulated": False}
            for name in ("hwserver", "hwlogger", "hwalarm")
        },
    )


def only(found: Any, level: str, text: str) -> Finding:
    """Return the one finding, of a level and with a text; it names a place and a command."""
    (one,) = found
    assert isinstance(one, Finding)
    assert one.level == level, one
    assert re.search(text, one.text), one
    assert one.where
    assert (one.cure != "") == (level != "OK"), one
    return one


@pytest.mark.parametrize("name", ["packages", "instrument file", "hardware", "listeners", "files",
                                  "clocks", "servers", "versions", "recorder"])  # fmt: skip
async def test_a_check_that_finds_no_fault_says_so(site: Site, name: str) -> None:
    site.servers = {name: heard(name, host="elsewhere") for name in site.servers}
    only(await doctor.CHECKS[name](site), "OK", "")


async def test_a_package_that_does_not_fit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"autobahn": "27.1", "h11": "0.16.0"}
    monkeypatch.setattr(checks, "version", lambda name: versions.get(name, "999"))
    monkeypatch.setattr(
        checks,
        "_requirements",
        lambda: [("autobahn", "<27,>=26.10", "27.1"), ("h11", ">=0.16", "")],
    )
    first, second = await checks.packages(site)
    assert first.level == second.level == "ERR"
    assert "autobahn is 27.1; <27,>=26.10 is required" in first.text
    assert first.cure.endswith("-m pip install 'autobahn<27,>=26.10'")
    assert "h11 is missing" in second.text


@pytest.mark.parametrize(
    ("found", "fits"),
    [("26.10", True), ("26.10.2", True), ("26.9", False), ("27.0", False), ("26.100", True)],
)
def test_versions_are_compared_as_numbers(found: str, fits: bool) -> None:
    assert checks._satisfies(found, "<27,>=26.10") is fits


def test_the_requirements_of_this_package_are_all_looked_at() -> None:
    names = {name for name, *_ in checks._requirements()}
    assert {"autobahn", "h11", "pydantic", "uv"} <= names
    assert "matplotlib" not in names, "it is optional"


async def test_a_router_that_is_neither_installed_nor_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_checks, "installed_router", lambda: None)
    site.no_router = "no router at 127.0.0.1:1"
    absent, silent = await access_checks.router(site)
    assert (absent.level, silent.level) == ("WARN", "ERR")
    assert absent.cure.endswith("router install")
    assert f"router --instrument {site.file}, or systemctl restart" in silent.cure


async def test_a_router_on_another_machine_that_refuses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_checks, "installed_router", lambda: None)
    table = '[router]\nlisten = "192.0.2.1"\ntls = true\n'
    site.file.write_text(f"{FILE.format(port=1)}\n{table}")
    site.instrument = load(site.file)
    site.no_router, site.refused = "the router refuses 'ada'", True
    one = only(await access_checks.router(site), "ERR", "refuses 'ada'")
    assert "hcam access add" in one.cure


async def test_each_mistake_in_the_instrument_file_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("title = 1\n\n[devices.gauge]\nkind = 'nothing.Nothing'\n")

    def fail() -> Address:
        raise HcamError("no address")

    found = await doctor.examine(file, fail)
    wrong = [one for row, one in found if row == "instrument file"]
    assert [one.where for one in wrong] == [f"{file}:1", f"{file}:4"]
    assert all(one.cure.endswith(f"config check --instrument {file}") for one in wrong)
    assert any("no address" in one.text for row, one in found if row == "router")
    assert doctor.exit_status(found) == 2


async def test_hardware_that_refuses_is_named_with_its_line(site: Site) -> None:
    site.samples = {"gauge": {"state": {"connection": "offline"}, "alarms": []}}
    one = only(await checks.hardware(site), "ERR", "gauge .port 1. at 127.0.0.1 .* refused")
    assert one.where == f"{site.file}:3"
    assert one.cure == "nc -vz 127.0.0.1 1"


async def test_a_host_that_has_no_address_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(host: str, within: float) -> list[str]:
        raise socket.gaierror(-2, f"no address of {host}")

    monkeypatch.setattr(checks, "addresses_of", unknown)
    site.samples = {}
    one = only(await checks.hardware(site), "ERR", "gauge .* no address of 127.0.0.1")
    assert one.cure == "ping -c 3 127.0.0.1"


async def test_nothing_is_sent_to_hardware_that_is_not_online(tmp_path: Path, site: Site) -> None:
    received: list[bytes] = []
    asked = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()
        asked.set()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        site.file.write_text(FILE.format(port=port))
        site.instrument = load(site.file)
        found = await checks.hardware(site)
        assert not received, "a device that is online is left alone"
        site.samples = {}
        found = await checks.hardware(site)
        await asyncio.wait_for(asked.wait(), 60)
    only(found, "OK", "0 online, 1 reachable but not online")
    assert received == [b""]


async def test_the_addresses_of_emulated_devices_are_not_tried(site: Site) -> None:
    site.samples = {}
    site.statuses = {"hwserver": {"state": "running", "emulated": True}}
    only(await checks.hardware(site), "OK", "0 reachable but not online, 2 simulated")


async def test_a_serial_port_that_is_missing(site: Site) -> None:
    one = only(await checks.serial_ports(site), "ERR", "arms: the serial port /dev/no-such")
    assert one.where == f"{site.file}:8"
    site.servers["hwserver"] = heard("hwserver", host="elsewhere")
    assert not await checks.serial_ports(site), "it may be there"


async def test_a_port_open_to_other_machines(site: Site) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        site.address = Address("127.0.0.1", listening.getsockname()[1])
        one = only(
            await access_checks.listeners(site), "ERR", "listens to other machines, on 0.0.0.0"
        )
    assert one.where == HERE


async def test_a_home_that_others_may_write(site: Site) -> None:
    journal = site.home / "journal"
    journal.chmod(0o777)
    one = only(await access_checks.files(site), "ERR", "others can write there")
    assert one.cure == f"chmod go-w {journal}"
    journal.chmod(0o700)
    only(await access_checks.files(site), "OK", "")


async def test_a_key_that_others_can_read(site: Site) -> None:
    keys = site.home / "access" / "keys"
    keys.mkdir(parents=True)
    for folder in (keys.parent, keys):
        folder.chmod(0o700)
    (keys / "local.key").write_text("secret")
    (keys / "local.key").chmod(0o640)
    one = only(await access_checks.files(site), "ERR", "others can use the keys there")
    assert one.cure == f"chmod go= {keys / 'local.key'}"
    (keys / "local.key").chmod(0o600)
    only(await access_checks.files(site), "OK", "")


async def test_keys_that_are_known_and_keys_that_are_not(site: Site) -> None:
    assert not await access_checks.keys(site), "there is no list of people here"
    folder = site.home / "access"
    people = {
        "local": "engineer",
        "hwserver": "device-hwserver",
        "hwlogger": "recorder",
        "hwalarm": "device-hwalarm",
    }
    access.make_missing(folder, people, "h:1")
    access.add(folder, "ann", "observer", "h:1")
    only(await access_checks.keys(site), "OK", "5 names may join")

    access.remove(folder, "hwlogger")
    one = only(await access_checks.keys(site), "ERR", "hwlogger has no key")
    assert f"access add hwlogger --role recorder --instrument {site.file}" in one.cure
    access.make_missing(folder, people, "h:1")

    access.add(folder, "gone", "device-oldserver", "h:1")
    one = only(await access_checks.keys(site), "WARN", "gone has the role device-oldserver, which")
    assert one.cure.endswith("access remove gone")
    access.remove(folder, "gone")

    path = access.keys_folder(folder) / "hwserver.key"
    path.unlink()
    access.write_secret(path, access.Key.new("hwserver", "device-hwserver", "h:1").as_text())
    one = only(
        await access_checks.keys(site), "ERR", "the router does not know this key of hwserver"
    )
    assert one.where == str(path)
    path.chmod(0o644)
    only(await access_checks.keys(site), "ERR", "others can read the key file")
    path.unlink()

    (folder / "people.json").chmod(0o644)
    one = only(await access_checks.keys(site), "ERR", "others can read .*people.json")
    assert one.cure == f"chmod 600 {folder / 'people.json'}"


@pytest.mark.parametrize(
    ("who", "role", "level", "text"),
    [
        ("local", "engineer", "OK", "hcam is local for the router, with the role engineer$"),
        ("ada", "operator", "OK", "with the role operator$"),
        ("ada", "observer", "OK", "it may look and not command"),
        ("anonymous", "observer", "WARN", "hcam has no key here: it may look and not command"),
        ("hwserver", "device-hwserver", "WARN", "not one of those of people"),
        ("W8H2", "local", "WARN", "with the role local, which is not one of those of people"),
    ],
)
async def test_what_hcam_may_do(site: Site, who: str, role: str, level: str, text: str) -> None:
    site.who, site.role = who, role
    only(await access_checks.own_role(site), level, text)
    site.no_router = "it is away"
    assert not await access_checks.own_role(site)


async def test_a_key_file_that_cannot_be_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setenv("HCAM_KEY", str(tmp_path / "nosuch.key"))
    learned = await doctor.learn(site.file, lambda: Address("127.0.0.1", 1))
    assert "the key file" in learned.no_router
    assert "nosuch.key cannot be read" in learned.no_router


async def test_a_secret_that_everybody_can_read(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    store = (
        f'[stores.off]\nkind = "influxdb"\nurl = "https://192.0.2.9"\norganization = "o"\n'
        f'bucket = "b"\nsecret_file = "{secret}"\n'
    )
    site.file.write_text(FILE.format(port=1) + store)
    site.instrument = load(site.file)
    secret.chmod(0o644)
    one = only(await access_checks.files(site), "ERR", "everybody can read the secret of store off")
    assert one.cure == f"chmod o= {secret}"
    secret.chmod(0o640)
    only(await access_checks.files(site), "OK", "")


@pytest.mark.parametrize(
    ("offset", "uncertainty", "level"),
    [(0.05, 0.0, "OK"), (0.3, 0.25, "OK"), (-0.3, 0.1, "WARN"), (2.5, 1.0, "WARN"), (9, 1, "ERR")],
)
async def test_clocks_that_differ(
    site: Site, offset: float, uncertainty: float, level: str
) -> None:
    site.servers["hwserver"] = heard("hwserver", offset, uncertainty, host="there")
    one = only(await checks.clocks(site), level, "")
    if level != "OK":
        assert one.where == "there"
        way = "ahead of" if offset > 0 else "behind"
        assert f"the clock of hwserver is {abs(offset):.1f} s {way} the clock of {HERE}" in one.text


async def test_a_clock_that_nothing_keeps_right(site: Site) -> None:
    site.servers["hwserver"] = heard("hwserver", host="there", clock_disciplined=False)
    assert only(await checks.clocks(site), "WARN", "no time service").where == "there"
    site.servers["hwserver"] = heard("hwserver", host="there", clock_disciplined=None)
    only(await checks.clocks(site), "OK", "")


async def test_a_server_that_does_not_run(site: Site) -> None:
    del site.servers["hwserver"]
    gone = {"state": "gone", "host": "there"}
    site.statuses = {**site.statuses, "hwserver": gone}
    one = only(await checks.servers(site), "ERR", "hwserver is not running")
    assert one.where == "there"
    assert one.cure.startswith(f"hwserver --instrument {site.file}, or systemctl restart")
    site.statuses = {**site.statuses, "hwserver": gone | {"state": "running"}}
    only(await checks.servers(site), "WARN", "hwserver does not answer")


async def test_a_server_of_another_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "commit", lambda: "0123abcd")
    site.servers["hwserver"] = heard("hwserver", version="1.9.9", host="there")
    one = only(await checks.versions(site), "WARN", "hwserver is version 1.9.9; this hcam is 2")
    assert one.where == "there"
    site.servers["hwserver"] = heard("hwserver", commit="ffff0000")
    only(await checks.versions(site), "WARN", r"\(ffff0000\); this hcam is .* \(0123abcd\)")
    site.servers["hwserver"] = heard("hwserver", commit="0123abcd")
    only(await checks.versions(site), "OK", "")


@pytest.mark.parametrize(
    ("changed", "level", "text"),
    [
        (
            {"lag_local": {"value": 600.0, "unit": "s"}},
            "WARN",
            "local lags: it gets samples 600 s",
        ),
        ({"timestamp": "2026-11-22T04:44:44.196Z"}, "ERR", "last sample is .* s old"),
        (
            {"alarms": [{"field": "disk", "severity": "ERR", "reason": "1 GB is below 2 GB"}]},
            "ERR",
            "recorder.disk: 1 GB is below 2 GB",
        ),
        ({"lag_local": None}, "OK", "^90 GB of disk are free"),
    ],
)
async def test_what_the_recorder_says(
    site: Site, changed: dict[str, Any], level: str, text: str
) -> None:
    site.samples = {**site.samples, "recorder": {**site.samples["recorder"], **changed}}
    only(await checks.recorder(site), level, text)


async def test_a_journal_that_is_full_and_a_recorder_that_is_missing(site: Site) -> None:
    alarm = {"field": "journal", "severity": "WARN", "reason": "it is full"}
    other = alarm | {"field": "pressure"}
    gauge = {**site.samples["gauge"], "alarms": [alarm, other]}
    site.samples = {**site.samples, "gauge": gauge}
    only(await checks.recorder(site), "WARN", "gauge.journal: it is full")
    site.samples = {}
    only(await checks.recorder(site), "ERR", "nothing is recorded")


Answer = Callable[[str], int]


async def answering(status: Answer, check: Callable[[Address], Awaitable[Any]]) -> Any:
    """Return what a check returns that asks a web server; ``status`` answers its requests."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        server = "Server: Crossbar/1.2.3\r\nContent-Length: 0\r\n\r\n"
        writer.write(f"HTTP/1.1 {status(head)} Whatever\r\n{server}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        return await check(Address("127.0.0.1", server.sockets[0].getsockname()[1]))


@pytest.mark.parametrize(
    ("open_to", "text"),
    [
        ("origin: http://x", "a call from a web page is accepted .status 200."),
        ("host: x", "a call with another host name is accepted"),
        ("origin: null", "a WebSocket from a web page is accepted .status 101."),
        ("nothing", "web pages of other sites are rejected"),
    ],
)
async def test_a_door_that_is_open_to_web_pages(site: Site, open_to: str, text: str) -> None:
    def status(head: str) -> int:
        lines = head.lower().split("\r\n")
        if open_to not in lines:
            return 403
        return 101 if "upgrade: websocket" in lines else 200

    def look(address: Address) -> Awaitable[Any]:
        return access_checks.web_door(replace(site, address=address))

    only(await answering(status, look), "OK" if open_to == "nothing" else "ERR", text)


async def test_a_router_of_another_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_checks, "installed_router", Path)

    def look(address: Address) -> Awaitable[Any]:
        return access_checks.router(replace(site, address=address))

    found = await answering(lambda _: 400, look)
    only(found, "WARN", r"Crossbar 1\.2\.3 is running; this version needs \d+\.")


async def test_a_check_that_hangs_or_fails_costs_only_its_own_findings(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Site) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def break_(_: Site) -> list[Finding]:
        raise KeyError("surprise")

    async def learn(*_: object) -> Site:
        return site

    monkeypatch.setattr(doctor, "learn", learn)
    monkeypatch.setattr(doctor, "CHECK_WITHIN_S", 0.05)

    async def hide(_: Site) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    async def pass_(_: Site) -> list[Finding]:
        return [Finding("OK", "here", "nothing is wrong")]

    rows = {"hangs": hang, "breaks": break_, "hides": hide, "passes": pass_}
    monkeypatch.setattr(doctor, "CHECKS", rows)
    found = await doctor.examine(None, Address)
    assert [(row, one.level) for row, one in found] == [
        ("hangs", "ERR"),
        ("breaks", "ERR"),
        ("hides", "WARN"),
        ("passes", "OK"),
    ]
    assert found[2][1].text == "this user may not read /secret"
    assert found[2][1].cure == f"run it as the owner of {site.home}"
    assert "did not end within 0.05 s" in found[0][1].text
    assert "KeyError: 'surprise'" in found[1][1].text


async def test_a_router_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "ROUTER_WITHIN_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        learned = await doctor.learn(site.file, lambda: address)
    assert "does not answer within 0.1 s" in learned.no_router


def test_the_exit_status_is_that_of_the_worst() -> None:
    found = [("row", Finding(level, "here", "text", "cure")) for level in LEVELS]
    assert [doctor.exit_status(found[:n]) for n in range(4)] == [0, 0, 1, 2]


def test_findings_as_text_and_as_json() -> None:
    found = [
        ("files", Finding("ERR", "/a", "b\x1b[31m", "chmod")),
        ("web", Finding("OK", "c", "d")),
    ]
    text = doctor.as_text(found)
    assert re.search(
        r"^ERR  files +/a: b\?\[31m\n +cure: chmod\nOK   web +c: d\n1 error, 0 w", text
    )
    told = doctor.as_object(found)
    assert told["exit"] == 2
    wanted = {"row": "files", "level": "ERR", "where": "/a", "text": "b\x1b[31m", "cure": "chmod"}
    assert told["findings"][0] == wanted


def test_an_answer_of_a_server_is_checked() -> None:
    said = heard("hwserver").about.model_dump()
    assert About.model_validate(said).server == "hwserver"
    with pytest.raises(ValueError, match="time"):
        About.model_validate(said | {"time": "noon"})


async def test_who_may_command_because_programs_of_version_1_7_may(site: Site) -> None:
    assert site.instrument
    assert not await access_checks.version_1_7(site)
    site.file.write_text(FILE.format(port=1) + '[legacy]\nenabled = true\nlisten = ["192.0.2.1"]\n')
    site.instrument = load(site.file)
    told, network, port = await access_checks.version_1_7(site)
    assert "every program on the router's machine may command as an operator" in told.text
    assert "in realm1 and over HTTP (127.0.0.1 port 1); commands are recorded" in told.text
    assert told.where.endswith(":11")
    assert network.level == port.level == "WARN"
    assert "everybody who reaches 192.0.2.1 port 1 may command" in network.text
    assert "remove listen" in network.cure
    assert "at port 8080, not 1" in port.text
    site.instrument = replace(site.instrument, router=Router(tls=True, port=8443))
    _, network = await access_checks.version_1_7(site)
    assert "everybody who reaches 192.0.2.1 port 8080 may command" in network.text
    [heard] = await access_checks.listeners(site)
    assert "at 192.0.2.1 for programs of version 1.7, accepts connections" in heard.text
    legacy = Legacy(enabled=True, listen=[])
    site.instrument = replace(site.instrument, legacy=legacy)
    [heard] = await access_checks.listeners(site)
    assert "nothing of ours accepts connections" in heard.text


# --- certificates ---------------------------------------------------------------------------


def secured(site: Site, days_ago: float = 0, names: str = "") -> None:
    """Let the router have TLS, with a certificate and a key file that were made some days ago."""
    site.file.write_text(f"{site.file.read_text()}\n[router]\ntls = true\n{names}\n")
    made_at = datetime.now(UTC) - timedelta(days=days_ago)
    ca = certificates.make_missing(site.home / "access", {"127.0.0.1"}, made_at)
    access.make_missing(site.home / "access", {"local": "engineer"}, "127.0.0.1:1", ca)
    site.instrument = load(site.file)
    site.no_router = "it does not run"


@pytest.mark.parametrize(
    ("age", "level", "text"),
    [
        (0.5, "OK", "is good for 824 days"),
        (794.5, "OK", "is good for 30 days"),
        (796, "WARN", "ends on "),
        (817, "WARN", "ends on "),
        (819, "ERR", "ends on "),
        (900, "ERR", "ends on "),
    ],
)
async def test_a_certificate_that_ends(site: Site, age: float, level: str, text: str) -> None:
    secured(site, age)
    one = only(await access_checks.certificates(site), level, text)
    assert level == "OK" or "systemctl restart hcam-router" in one.cure


async def test_without_tls_there_are_no_certificates_to_look_at(site: Site) -> None:
    access.make_missing(site.home / "access", {"local": "engineer"}, "127.0.0.1:1")
    assert await access_checks.certificates(site) == []


async def test_a_certificate_that_lacks_a_name(site: Site) -> None:
    secured(site, names='names = ["router.example"]')
    one = only(await access_checks.certificates(site), "ERR", "is not for router.example")
    assert "start it again" in one.cure


async def test_a_key_file_of_another_ca_or_of_none(site: Site, tmp_path: Path) -> None:
    secured(site)
    folder = site.home / "access"
    other = certificates.make_missing(tmp_path / "other", {"127.0.0.1"})
    path = access.add(folder, "ada", "operator", "127.0.0.1:1", ca=other)
    one = only(
        await access_checks.certificates(site), "ERR", "has not signed the router's certificate"
    )
    assert one.where == str(path)
    assert "access remove ada" in one.cure
    path.unlink()
    access.add(folder, "bob", "operator", "127.0.0.1:1")
    only(await access_checks.certificates(site), "WARN", "has no CA, so nobody can join with it")


async def test_the_ca_in_a_key_file_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secured(site, 3640)
    old = site.home / "access" / "keys" / "local.key"
    given = old.rename(site.home / "given.key")
    monkeypatch.setenv("HCAM_KEY", str(given))
    certificates.make_missing(site.home / "access", {"127.0.0.1"})
    one = only(await access_checks.certificates(site), "WARN", "the CA in this key file ends on ")
    assert one.where == str(given)


@pytest.mark.parametrize(
    "case",
    [
        ("127.0.0.2", 426, 401, "OK", "only the router, at 127.0.0.2, accepts"),
        ("127.0.0.2", 200, 401, "ERR", "answers a network without TLS"),
        ("127.0.0.2", 426, 200, "ERR", "without a key"),
        ("0.0.0.0", 426, 401, "WARN", "every network"),
    ],
)
async def test_a_router_in_a_network_needs_tls_and_keys(
    site: Site, monkeypatch: pytest.MonkeyPatch, case: tuple[str, int, int, str, str]
) -> None:
    listen, plain, unnamed, level, text = case

    async def request(*_: Any, tls: bool = True) -> tuple[int, dict[str, str]]:
        return (unnamed if tls else plain), {}

    monkeypatch.setattr(access_checks, "_request", request)
    monkeypatch.setattr(Router, "is_open", True)
    with socket.create_server((listen, 0)) as listening:
        port = listening.getsockname()[1]
        site.address = Address("127.0.0.1", port)
        table = f"[router]\ntls = true\nhost = 'router.example'\nlisten = '{listen}'\n"
        site.file.write_text(f"{site.file.read_text()}\n{table}")
        site.instrument = load(site.file)
        only(await access_checks.listeners(site), level, text)


# --- messages to people ---------------------------------------------------------------------


def told(site: Site, notify: str, **sample: Any) -> Site:
    """Return a site whose file has a table ``[notify]``, and a sample of the alarms."""
    site.file.write_text(f"{site.file.read_text()}\n{notify}\n")
    site.file.chmod(0o600)
    samples = {**site.samples, "alarms": {"alarms": []} | sample}
    return replace(site, instrument=load(site.file), samples=samples)


NOTIFY = """[notify]
heartbeat = "http://127.0.0.1:1/secret"
[notify.ada]
urls = ["json://127.0.0.1:1/secret"]
"""


async def test_nobody_who_can_be_told_is_a_warning(site: Site) -> None:
    people, watcher = await checks.messages(site)
    only([people], "WARN", r"nobody is told of errors who is not looking: there is no .notify.NAME")
    only([watcher], "WARN", "nobody elsewhere notices if this machine ends")
    assert "hwalarm" in people.cure
    for status in site.statuses.values():
        status["emulated"] = True  # type: ignore[index]
    assert {finding.level for finding in await checks.messages(site)} == {"OK"}


async def test_people_who_can_be_told_are_named(site: Site) -> None:
    known = told(site, NOTIFY, heartbeat={"value": 50.0, "unit": "s"})
    only(await checks.messages(known), "OK", "ada can be told, and a heartbeat is sent")


async def test_a_heartbeat_that_was_not_heard_is_a_warning(site: Site) -> None:
    known = told(site, NOTIFY, heartbeat={"value": 100.0, "unit": "s"})
    only(await checks.messages(known), "WARN", "the one before is 100 s old")


async def test_messages_that_were_not_sent_are_an_error(site: Site) -> None:
    alarm = {"field": "undelivered", "severity": "ERR", "reason": "1 message, not sent: refused"}
    known = told(site, NOTIFY, alarms=[alarm])
    found = only(await checks.messages(known), "ERR", "1 message, not sent: refused")
    assert found.cure.endswith("alarms messages")


async def test_urls_that_everybody_can_read_are_an_error(site: Site) -> None:
    known = told(site, NOTIFY)
    only(await access_checks.files(known), "OK", "")
    known.file.chmod(0o644)
    found = only(await access_checks.files(known), "ERR", "everybody can read the URLs of .notify.")
    assert found.cure == f"chmod o= {known.file}"
    assert "secret" not in found.text.replace("secrets", "")
