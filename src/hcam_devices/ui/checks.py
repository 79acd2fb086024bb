"""The checks of ``hcam doctor``: each looks at one subject and returns its findings.

A check reads what is known about the ``Site`` and changes nothing. It connects to the hardware of
devices that are not online, and sends nothing there. ``doctor`` runs the checks.
"""

import asyncio
import os
import platform
import re
import stat
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import distribution, version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import psutil
from cryptography import x509

from ..config.instrument import Entry, Instrument, command_of, line_of
from ..config.router import EVERY_NETWORK
from ..config.stores import InfluxDB
from ..core.link import Serial, addresses_of
from ..core.threads import in_own_thread
from ..host.clock import clock_is_disciplined
from ..host.installation import LOCK, commit, installed_router, router_folders, this_program
from ..host.machine import why_elsewhere
from ..wamp import access, roles
from ..wamp import certificates as pki
from ..wamp.about import About
from ..wamp.legacy import PORT
from ..wamp.uris import Address
from .troubles import count, some

Level: TypeAlias = Literal["OK", "WARN", "ERR"]
LEVELS: tuple[Level, ...] = "OK", "WARN", "ERR"
"""In the order of the exit statuses 0, 1 and 2."""
ANSWER_WITHIN_S = 1.0
"""Timeout of one answer of a server, of a hardware host, or of the router over HTTP."""
MAX_OFFSETS_S: Mapping[Level, float] = {"ERR": 2.0, "WARN": 0.1}
"""A clock offset that certainly exceeds these is an error or a warning."""
MIN_DAYS: Mapping[Level, int] = {"ERR": 7, "WARN": 30}
"""A certificate that ends in fewer days is an error, or a warning."""
RESTART = "systemctl restart hcam-router, or stop hcam up and start it again"
MAX_LAG_S = 60.0
MAX_SAMPLE_AGE_S = 60.0
HERE = platform.node()
REFUSED = "the connection is refused"


@dataclass(frozen=True)
class Finding:
    """One result of a check. ``where``: a host, path or file:line. ``cure``: a command to run."""

    level: Level
    where: str
    text: str
    cure: str = ""


class Heard(NamedTuple):
    """The answer of a server, and how far (s) its clock is ahead of this machine's clock."""

    about: About
    offset: float
    uncertainty: float


@dataclass
class Site:
    """What is known about an installation."""

    address: Address
    home: Path
    instrument: Instrument | None = None
    mistakes: list[str] = field(default_factory=list)
    """Why ``instrument`` is None: one line for each mistake in its file."""
    no_router: str = ""
    """Why the router could not be asked; empty if it answered."""
    refused: bool = False
    """Whether there is a router, and it refuses this key, or this key does not trust it."""
    who: str = ""
    role: str = ""
    """The name and the role under which the router let ``hcam`` join."""
    servers: dict[str, Heard] = field(default_factory=dict)
    samples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest sample of each device; empty if none arrived."""
    statuses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest status of each server."""

    @property
    def file(self) -> Path:
        """The instrument file."""
        return self.instrument.path if self.instrument else Path()

    def is_elsewhere(self) -> bool:
        """Return whether the router belongs on another machine."""
        return bool(self.instrument and why_elsewhere(self.instrument.router.host))

    def option(self) -> str:
        """Return the option that tells a command where the instrument file is."""
        return f" --instrument {self.file}" if self.instrument else ""

    def runs(self, server: str) -> bool:
        """Return whether a server answered, or published that it is running."""
        state = self.statuses.get(server, {}).get("state")
        return server in self.servers or state == "running"

    def start(self, server: str) -> str:
        """Return the commands that restart a server."""
        command = " ".join(command_of(server))
        return f"{command}{self.option()}, or systemctl restart hcam-{server}"


async def packages(site: Site) -> list[Finding]:
    """Check that the required packages are installed, in versions that fit."""
    wrong = [
        Finding(
            "ERR",
            HERE,
            f"{name} {f'is {found}' if found else 'is missing'}; {needed} is required",
            f"{sys.executable} -m pip install '{name}{needed}'",
        )
        for name, needed, found in _requirements()
        if not found or not _satisfies(found, needed)
    ]
    text = f"Python {platform.python_version()}, autobahn {version('autobahn')}"
    return wrong or [Finding("OK", HERE, f"hcam_devices {version('hcam_devices')}, {text}")]


def _requirements() -> Iterator[tuple[str, str, str]]:
    """Yield the name, the version bounds and the installed version of each required package."""
    for line in distribution("hcam_devices").requires or []:
        if match := re.fullmatch(r"([\w.-]+)\s*([<>=!~,.\w*]*)", line):
            name, needed = match.groups()
            try:
                yield name, needed, version(name)
            except ModuleNotFoundError:
                yield name, needed, ""


def _satisfies(found: str, needed: str) -> bool:
    """Return whether a version is within bounds such as ``<27,>=26.10``."""
    for bound in filter(None, needed.split(",")):
        match = re.fullmatch(r"(>=|<)([\d.]+)", bound)
        if match and (match[1] == "<") != (_numbers(found) < _numbers(match[2])):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


async def router(site: Site) -> list[Finding]:
    """Check that the router is installed and runs, in the version that this package needs."""
    folder = await in_own_thread(installed_router)
    locked = re.search(r"^crossbar==([\w.]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = locked[1] if locked else "?"
    found = []
    if folder is None and not await in_own_thread(site.is_elsewhere):
        looked = ", ".join(map(str, router_folders()))
        text = (
            f"the router that this version needs (Crossbar {wanted}) is not installed in {looked}"
        )
        found.append(Finding("WARN", HERE, text, f"{this_program()} router install"))
    if site.no_router:
        cure = f"{this_program()} router{site.option()}, or systemctl restart hcam-router"
        if site.refused:
            cure = "hcam access add NAME, on the router's machine; set HCAM_KEY to the new key file"
        return [*found, Finding("ERR", str(site.address), site.no_router, cure)]
    _, headers = await _request(site.address, "POST", "/call", {}, b"")
    runs = headers.get("server", "?").removeprefix("Crossbar/")
    if runs != wanted:
        text = f"Crossbar {runs} is running; this version needs {wanted}"
        return [*found, Finding("WARN", str(site.address), text, RESTART)]
    return [*found, Finding("OK", str(site.address), f"Crossbar {runs} answers")]


async def instrument_file(site: Site) -> list[Finding]:
    """Report the mistakes in the instrument file."""
    if site.instrument is None:
        found: list[Finding] = []
        for line in site.mistakes:
            match = re.match(r"(.*?:\d+): (.*)", line)
            where, text = match.groups() if match else ("the instrument file", line)
            file = where.rpartition(":")[0] or "FILE"
            check = f"correct it, then {this_program()} config check --instrument {file}"
            found.append(Finding("ERR", where, text, check))
        return found
    text = f"{count(len(site.instrument.entries), 'device')}, no mistakes"
    return [Finding("OK", str(site.file), text)]


async def hardware(site: Site) -> list[Finding]:
    """Check that the hardware of devices that are not online accepts a connection."""
    if site.instrument is None:
        return []
    unreached: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    online, answering, simulated = 0, 0, 0

    async def reach(entry: Entry) -> None:
        nonlocal answering
        link = entry.build().link
        if not hasattr(link, "host"):
            return
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await _connect(link.host, link.port)
            answering += 1
        except (OSError, TimeoutError) as error:
            unreached[link.host, _reason(error)].append(entry)

    waiting = []
    for entry in site.instrument.entries.values():
        status = site.statuses.get(entry.server, {})
        if status.get("state") == "running" and status.get("emulated"):
            simulated += 1
            continue
        sample = site.samples.get(entry.name) or {}
        if site.runs(entry.server) and sample.get("state", {}).get("connection") == "online":
            online += 1
        else:
            waiting.append(reach(entry))
    await asyncio.gather(*waiting)
    found = []
    for (host, reason), entries in sorted(unreached.items(), key=lambda item: item[0]):
        line = line_of(site.file, "devices", entries[0].name)
        names = some([f"{entry.name} (port {entry.build().link.port})" for entry in entries])
        text = f"{names} at {host} cannot be reached: {reason}"
        port = entries[0].build().link.port
        try_it = f"nc -vz {host} {port}" if reason == REFUSED else f"ping -c 3 {host}"
        found.append(Finding("ERR", f"{site.file}:{line}", text, try_it))
    text = f"devices: {online} online, {answering} reachable but not online, {simulated} simulated"
    return found or [Finding("OK", HERE, text)]


async def _connect(host: str, port: int) -> None:
    """Connect to a port and close the connection. Raises OSError."""
    (address, *_) = await addresses_of(host, ANSWER_WITHIN_S)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, address, port)
    transport.abort()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_WITHIN_S:g} s"
    return REFUSED if isinstance(error, ConnectionRefusedError) else str(error)


async def serial_ports(site: Site) -> list[Finding]:
    """Check that the serial ports of this machine's servers exist."""
    found = []
    for entry in site.instrument.entries.values() if site.instrument else ():
        heard = site.servers.get(entry.server)
        link = entry.build().link
        if not isinstance(link, Serial) or heard is None or heard.about.emulated:
            continue
        if heard.about.host == HERE and not await in_own_thread(Path(link.path).exists):
            where = f"{site.file}:{line_of(site.file, 'devices', entry.name)}"
            text = f"{entry.name}: the serial port {link.path} does not exist"
            found.append(Finding("ERR", where, text, "ls -l /dev/serial/by-id"))
    return found


async def listeners(site: Site) -> list[Finding]:
    """Check that nothing listens to other machines but a router that should, with TLS and keys."""
    ours = {heard.about.pid for heard in site.servers.values() if heard.about.host == HERE}
    on = site.instrument.router if site.instrument else None
    found = []
    for connection in await in_own_thread(psutil.net_connections, "tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        ip, port = connection.laddr
        if connection.pid not in ours and port != site.address.port:
            continue
        if on and on.is_open and (ip, port) == (on.listen, site.address.port):
            found += [finding async for finding in _open_router(site, on.listen)]
            continue
        if site.instrument and ip in site.instrument.legacy.listen:
            continue  # which version_1_7 reports
        if not ip_address(ip.removeprefix("::ffff:")).is_loopback:
            process = f"process {connection.pid}" if connection.pid else "a process"
            text = f"{process} listens to other machines, on {ip} port {port}"
            cure = f"kill {connection.pid or 'it'}, and start it with {this_program()}"
            found.append(Finding("ERR", HERE, text, cure))
    who = f"only the router, at {on.listen}," if on and on.is_open else "nothing of ours"
    return found or [Finding("OK", HERE, f"{who} accepts connections from other machines")]


async def version_1_7(site: Site) -> list[Finding]:
    """Report who may command without a key because programs of version 1.7 may."""
    if site.instrument is None or not site.instrument.legacy.enabled:
        return []
    where, legacy = f"{site.file}:{line_of(site.file, 'legacy')}", site.instrument.legacy
    who = "every program on the router's machine"
    text = f"{who} may command as an operator, without a key, because programs of version 1.7 may"
    found = [Finding("OK", where, text)]
    if legacy.listen:
        at = " and ".join(legacy.listen)
        text = (
            f"everybody who reaches {at} may command as an operator, without a key, in clear text"
        )
        cure = "when no program of version 1.7 runs on another machine, remove listen in [legacy]"
        found.append(Finding("WARN", where, text, f"{cure}, and restart the router"))
    if site.address.port != PORT and not site.instrument.router.tls:
        text = (
            f"programs of version 1.7 look for the router at port {PORT}, not {site.address.port}"
        )
        found.append(Finding("WARN", where, text, f"set port in [router] to {PORT}"))
    return found


async def _open_router(site: Site, listen: str) -> AsyncIterator[Finding]:
    """Yield what is wrong with a router that listens to other machines, as the file says."""
    where, again = str(site.address), f"{RESTART}; then {this_program()} doctor"
    if listen == EVERY_NETWORK:
        text = "the router listens to every network of this machine"
        yield Finding("WARN", where, text, f"set listen to one address: {site.file}")
    status, _ = await _request(site.address, "POST", "/call", WEB, QUESTION, tls=False)
    if status != HTTPStatus.UPGRADE_REQUIRED:
        text = f"the router answers a network without TLS (status {status})"
        yield Finding("ERR", where, text, again)
    elif not site.no_router:
        status, _ = await _request(site.address, "POST", "/call", WEB, QUESTION)
        if status != HTTPStatus.UNAUTHORIZED:
            text = f"the router answers anybody in the network, without a key (status {status})"
            yield Finding("ERR", where, text, again)


async def files(site: Site) -> list[Finding]:
    """Check the permissions of the home folder, its keys, and the secrets of stores."""
    found = await in_own_thread(lambda: list(_open_files(site)))
    return found or [Finding("OK", str(site.home), "only its owner can write there")]


def _open_files(site: Site) -> Iterator[Finding]:
    for path in (site.home / "access", *sorted((site.home / "access").rglob("*"))):
        if path.exists() and path.stat().st_mode & access.OTHERS:
            yield Finding("ERR", str(path), "others can use the keys there", f"chmod go= {path}")
    if site.home.exists():
        for path in (site.home, *sorted(site.home.iterdir())):
            if not path.is_symlink() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                yield Finding("ERR", str(path), "others can write there", f"chmod go-w {path}")
    stores = site.instrument.stores if site.instrument else {}
    for name, store in stores.items():
        secret = store.secret_file if isinstance(store, InfluxDB) else None
        if secret and secret.exists() and secret.stat().st_mode & stat.S_IRWXO:
            text = f"everybody can read the secret of store {name}"
            yield Finding("ERR", str(secret), text, f"chmod o= {secret}")


async def keys(site: Site) -> list[Finding]:
    """Check that the router knows each key on this machine, and the instrument each role."""
    return await in_own_thread(lambda: list(_keys(site)))


async def own_role(site: Site) -> list[Finding]:
    """Check that ``hcam`` may command with the key that it has."""
    if site.no_router:
        return []
    where, who = str(site.address), f"hcam is {site.who} for the router, with the role {site.role}"
    if site.role in (roles.OPERATOR, roles.ENGINEER):
        return [Finding("OK", where, who)]
    if site.role != roles.OBSERVER:
        cure = f"{this_program()} router, or unset HCAM_KEY if it is the key of a server"
        return [Finding("WARN", where, f"{who}, which is none of those of people", cure)]
    if site.who != access.ANONYMOUS:
        return [Finding("OK", where, f"{who}: it may look and not command")]
    cure = (
        f"{this_program()} access add NAME --role operator on the router's machine, then "
        "HCAM_KEY=NAME.key here"
    )
    return [Finding("WARN", where, "hcam has no key here: it may look and not command", cure)]


def _keys(site: Site) -> Iterator[Finding]:
    folder = site.home / "access"
    if not (folder / access.PEOPLE).exists():
        return  # no router has ever run on this machine
    try:
        people = access.people(folder)
    except access.AccessError as error:
        yield Finding("ERR", str(folder), str(error), f"chmod 600 {folder / access.PEOPLE}")
        return
    faults = list(_unknown_keys(folder, people))
    for name, person in people.items():
        if site.instrument and person.role not in _roles_of(site.instrument):
            text = f"{name} has the role {person.role}, which does not exist in this instrument"
            cure = f"{this_program()} access remove {name}"
            faults.append(Finding("WARN", str(folder / access.PEOPLE), text, cure))
    known = {person.role for person in people.values()}
    for server in site.instrument.servers if site.instrument else ():
        if (role := roles.role_of(server)) not in known:
            option = role if role == roles.RECORDER else f"device --server {server}"
            cure = f"{this_program()} access add {server} --role {option}{site.option()}"
            text = f"{server} has no key, and the router does not accept it"
            faults.append(Finding("ERR", str(folder / access.PEOPLE), text, cure))
    yield from faults
    if not faults:
        yield Finding("OK", str(folder), f"{count(len(people), 'name')} may join")


def _unknown_keys(folder: Path, people: Mapping[str, access.Person]) -> Iterator[Finding]:
    """Yield the key files on this machine that the router would not accept."""
    for path in sorted(access.keys_folder(folder).glob("*.key")):
        again = f"rm {path}, then restart the router: it makes a new key"
        try:
            key = access.read_key(path)
        except access.AccessError as error:
            yield Finding("ERR", str(path), str(error), again)
            continue
        person = people.get(key.name)
        if person is None or key.public not in person.keys:
            text = f"the router does not know this key of {key.name}"
            yield Finding("ERR", str(path), text, again)


def _roles_of(instrument: Instrument) -> set[str]:
    servers = roles.servers(instrument.entries.values())
    return {roles.OBSERVER, roles.OPERATOR, roles.ENGINEER, *map(roles.role_of, servers)}


async def certificates(site: Site) -> list[Finding]:
    """Check how long the router's certificate and the CA in each key file are good, and for what.

    The certificate is the one that the router shows, or else the one that it will show.
    """
    path, router = site.home / "access" / "router.pem", None
    key = access.own_key()
    if key and key.ca and not site.no_router:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            _, writer = await _stream(site.address, key)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.transport.abort()
        router = x509.load_der_x509_certificate(shown)
    elif path.exists():
        router = pki.read(path)
    return await in_own_thread(lambda: list(_certificates(site, router)))


def _certificates(site: Site, router: x509.Certificate | None) -> Iterator[Finding]:
    where = str(site.address)
    faults: list[Finding] = []
    if router:
        faults += _ends(where, "the router's certificate", router, RESTART)
        named = site.instrument.router.certified if site.instrument else set()
        if missing := named - pki.names_of(router):
            text = f"the router's certificate is not for {', '.join(sorted(missing))}"
            faults.append(Finding("ERR", where, text, RESTART))
    for path, key in _key_files(site):
        again = f"{this_program()} access remove {key.name}, then access add {key.name}, there"
        if not key.ca:
            if router:
                text = "this key file has no CA, so nobody can join with it"
                faults.append(Finding("WARN", str(path), text, f"{RESTART}; or {again}"))
            continue
        ca = pki.parsed(key.ca)
        faults += _ends(str(path), "the CA in this key file", ca, f"{RESTART}; then {again}")
        if router and not pki.is_signed_by(router, ca):
            text = "the CA in this key file has not signed the router's certificate"
            faults.append(Finding("ERR", str(path), text, again))
    yield from faults
    if router and not faults:
        left = (router.not_valid_after_utc - datetime.now(UTC)).days
        yield Finding("OK", where, f"the router's certificate is good for {left} days")


def _key_files(site: Site) -> Iterator[tuple[Path, access.Key]]:
    """Yield the key files of this machine that can be read."""
    given = os.environ.get("HCAM_KEY")
    found = access.keys_folder(site.home / "access").glob("*.key")
    for path in sorted({*found, *([Path(given)] if given else [])}):
        with suppress(access.AccessError):
            yield path, access.read_key(path)


def _ends(where: str, what: str, one: x509.Certificate, cure: str) -> Iterator[Finding]:
    """Yield that a certificate ends soon."""
    left = one.not_valid_after_utc - datetime.now(UTC)
    if level := next((level for level, days in MIN_DAYS.items() if left.days < days), None):
        yield Finding(level, where, f"{what} ends on {one.not_valid_after_utc:%Y-%m-%d}", cure)


async def clocks(site: Site) -> list[Finding]:
    """Check that a time service keeps each clock, and that the clocks agree."""
    disciplined = {HERE: clock_is_disciplined()}
    disciplined |= {
        heard.about.host: heard.about.clock_disciplined for heard in site.servers.values()
    }
    found = [
        Finding(
            "WARN",
            host,
            "no time service corrects this clock, and samples carry its time",
            "sudo apt-get install chrony",
        )
        for host, answer in disciplined.items()
        if answer is False
    ]
    for server, (about, offset, uncertainty) in site.servers.items():
        least = abs(offset) - uncertainty
        if level := next((level for level, limit in MAX_OFFSETS_S.items() if least > limit), None):
            way = "ahead of" if offset > 0 else "behind"
            text = f"the clock of {server} is {abs(offset):.1f} s {way} the clock of {HERE}"
            found.append(Finding(level, about.host, text, "chronyc tracking, on both hosts"))
    worst = max((abs(heard.offset) for heard in site.servers.values()), default=0.0)
    text = f"{count(len(disciplined), 'host')}, offsets below {worst + 0.001:.3f} s"
    return found or [Finding("OK", HERE, text)]


async def servers(site: Site) -> list[Finding]:
    """Check that each server of the instrument file is running."""
    if site.no_router or site.instrument is None:
        return []
    found = []
    for server in site.instrument.servers:
        if not site.runs(server):
            status = site.statuses.get(server, {})
            host = str(status.get("host", "unknown host"))
            found.append(Finding("ERR", host, f"{server} is not running", site.start(server)))
        elif server not in site.servers:
            host = str(site.statuses[server].get("host"))
            text = f"{server} does not answer: it is another version, or it hangs"
            found.append(Finding("WARN", host, text, site.start(server)))
    hosts = {heard.about.host for heard in site.servers.values()}
    names = ", ".join(site.instrument.servers)
    return found or [Finding("OK", ", ".join(sorted(hosts)), f"running: {names}")]


async def versions(site: Site) -> list[Finding]:
    """Check that every server has the version of this program."""
    own = version("hcam_devices"), await in_own_thread(commit) or None
    found = []
    for server, heard in site.servers.items():
        theirs = heard.about.version, heard.about.commit
        if theirs[0] != own[0] or (None not in (theirs[1], own[1]) and theirs[1] != own[1]):
            text = f"{server} is version {_version(*theirs)}; this hcam is {_version(*own)}"
            found.append(Finding("WARN", heard.about.host, text, site.start(server)))
    if not found and site.servers:
        return [Finding("OK", HERE, f"every server is version {_version(*own)}")]
    return found


def _version(number: str, commit: str | None) -> str:
    return f"{number} ({commit})" if commit else number


async def recorder(site: Site) -> list[Finding]:
    """Check that samples are recorded, and report alarms of the recorder and of journals."""
    if site.no_router or site.instrument is None:
        return []
    sample = site.samples.get("recorder")
    if not sample:
        return [Finding("ERR", "hwlogger", "nothing is recorded", site.start("hwlogger"))]
    heard = site.servers.get("hwlogger")
    host = heard.about.host if heard else "hwlogger"
    found = []
    if (age := _age(sample)) > MAX_SAMPLE_AGE_S:
        text = f"the recorder's last sample is {age:.0f} s old"
        found.append(Finding("ERR", host, text, site.start("hwlogger")))
    for device, newest in site.samples.items():
        for alarm in newest.get("alarms", ()):
            if device == "recorder" or alarm["field"] == "journal":
                text = f"{device}.{alarm['field']}: {alarm['reason']}"
                found.append(Finding(alarm["severity"], host, text, f"{this_program()} audit"))
    lags = {name[4:]: _value(sample, name) for name in sample if name.startswith("lag_")}
    for store, lag in lags.items():
        if lag is not None and lag > MAX_LAG_S:
            text = f"store {store} lags: it gets samples {lag:.0f} s after they were taken"
            found.append(Finding("WARN", host, text, f"{this_program()} audit"))
    texts = [f"store {store} lags {lag:.1f} s" for store, lag in lags.items() if lag is not None]
    disk = _value(sample, "disk")
    if disk is not None:
        texts.append(f"{disk:.0f} GB of disk are free")
    return found or [Finding("OK", host, ", ".join(texts))]


def _age(sample: Mapping[str, Any]) -> float:
    """Return the age of a sample in s."""
    return time.time() - datetime.fromisoformat(sample["timestamp"]).timestamp()


def _value(sample: Mapping[str, Any], name: str) -> float | None:
    value = sample.get(name)
    return value["value"] if isinstance(value, dict) else None


WEB = {"Content-Type": "application/json"}
QUESTION = b'{"procedure": "wamp.session.count", "args": []}'
"""A call that commands nothing."""


async def web_door(site: Site) -> list[Finding]:
    """Check that the router rejects web pages of other sites in a browser on this machine."""
    if site.no_router:
        return []
    key = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": "null"}
    key |= {"Sec-WebSocket-Protocol": "wamp.2.json"}
    tries = (
        ("a call from a web page", "POST", "/call", WEB | {"Origin": "http://x"}, QUESTION),
        ("a call with another host name", "POST", "/call", WEB | {"Host": "x"}, QUESTION),
        ("a WebSocket from a web page", "GET", "/ws", key, b""),
    )
    found = []
    for what, method, target, headers, body in tries:
        status, _ = await _request(site.address, method, target, headers, body)
        if status < 400:
            text = f"{what} is accepted (status {status}): any web page can command the instrument"
            cure = f"restart the router with this version: {this_program()} router{site.option()}"
            found.append(Finding("ERR", str(site.address), text, cure))
    return found or [Finding("OK", str(site.address), "web pages of other sites are rejected")]


async def _request(
    address: Address,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    tls: bool = True,
) -> tuple[int, dict[str, str]]:
    """Return the status and headers of an answer, with ``tls`` over TLS if this key has a CA.

    Raises OSError, or TimeoutError after 1 s.
    """
    fields = {"Host": str(address), "Content-Length": str(len(body))} | dict(headers)
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
    async with asyncio.timeout(ANSWER_WITHIN_S):
        reader, writer = await _stream(address, access.own_key() if tls else None)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionError(f"{address} does not answer in HTTP: {error}") from None
        finally:
            writer.transport.abort()
    first, *rest = head.split("\r\n")
    if not (status := re.match(r"HTTP/1\.1 (\d{3})\b", first)):
        raise ConnectionError(f"{address} does not answer in HTTP: {first!r}")
    pairs = (line.partition(":") for line in rest)
    return int(status[1]), {name.lower(): text.strip() for name, _, text in pairs}


async def _stream(
    address: Address, key: access.Key | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to the router, with TLS if the key has a CA. Raises OSError."""
    (where, *_) = await addresses_of(address.host, ANSWER_WITHIN_S)
    secure = access.context_of(key.ca) if key else None
    name = address.host if secure else None
    return await asyncio.open_connection(where, address.port, ssl=secure, server_hostname=name)


Check: TypeAlias = Callable[[Site], Awaitable[Sequence[Finding]]]
CHECKS: Mapping[str, Check] = {
    "packages": packages,
    "router": router,
    "instrument file": instrument_file,
    "hardware": hardware,
    "serial ports": serial_ports,
    "listeners": listeners,
    "version 1.7": version_1_7,
    "files": files,
    "keys": keys,
    "own role": own_role,
    "certificates": certificates,
    "clocks": clocks,
    "servers": servers,
    "versions": versions,
    "recorder": recorder,
    "web door": web_door,
}
