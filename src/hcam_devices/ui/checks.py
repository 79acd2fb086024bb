"""The checks of ``hcam doctor``: each looks at one subject and returns its findings.

A check reads what is known about the ``Site`` and changes nothing. It connects to the hardware of
devices that are not online, and sends nothing there. Here are the checks of programs and hardware,
in ``access_checks`` those of the router and of who may use it; ``doctor`` runs them.
"""

import asyncio
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ..config.instrument import COMMON, Entry, Instrument, command_of, line_of
from ..core.link import Serial
from ..host.addresses import addresses_of
from ..host.clock import clock_is_disciplined
from ..host.installation import commit, this_program
from ..host.machine import why_elsewhere
from ..host.threads import in_own_thread
from ..wamp.about import About
from ..wamp.uris import Address
from .troubles import count, some

Level: TypeAlias = Literal["OK", "WARN", "ERR"]
LEVELS: tuple[Level, ...] = "OK", "WARN", "ERR"
"""The levels in the order of the exit statuses 0, 1 and 2."""
ANSWER_WITHIN_S = 1.0
"""Timeout of one answer of a server, of a hardware host, or of the router over HTTP."""
MAX_OFFSETS_S: Mapping[Level, float] = {"ERR": 2.0, "WARN": 0.1}
"""A clock offset that certainly exceeds these is an error or a warning."""
MAX_LAG_S = 60.0
"""A store that gets samples later than this is a warning."""
MAX_SAMPLE_AGE_S = 60.0
"""An older newest sample of the recorder is an error."""
MAX_HEARTBEAT_AGE_S = 90.0
"""An older last heartbeat is a warning: hwalarm sends one each minute."""
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


async def messages(site: Site) -> list[Finding]:
    """Check that errors are told to people who are not looking, and that a watcher hears of us."""
    if site.instrument is None:
        return []
    where, hwalarm = str(site.file), site.start("hwalarm")
    sample = site.samples.get("alarms") or {"alarms": ()}
    found = [
        Finding(alarm["severity"], "hwalarm", alarm["reason"], f"{this_program()} alarms messages")
        for alarm in sample["alarms"]
        if alarm["field"] in ("undelivered", "heartbeat")
    ]
    age = _value(sample, "heartbeat")
    if age is not None and age > MAX_HEARTBEAT_AGE_S and not found:
        text = f"the last heartbeat was not heard: the one before is {age:.0f} s old"
        found.append(Finding("WARN", "hwalarm", text, "look at the log of hwalarm"))
    level: Level = "OK" if _is_rehearsal(site) else "WARN"
    if not site.instrument.notify:
        text = "nobody is told of errors who is not looking: there is no [notify.NAME]"
        found.append(Finding(level, where, text, f"add [notify.observer] with urls; {hwalarm}"))
    if not site.instrument.heartbeat:
        text = "nobody elsewhere notices if this machine ends: [notify] has no heartbeat"
        cure = f"add heartbeat, a URL of a watcher on another machine, to [notify]; {hwalarm}"
        found.append(Finding(level, where, text, cure))
    names = ", ".join(site.instrument.notify)
    return found or [Finding("OK", where, f"{names} can be told, and a heartbeat is sent")]


def _is_rehearsal(site: Site) -> bool:
    """Return whether every device that runs is emulated."""
    running = [one for name, one in site.statuses.items() if name not in COMMON]
    return all(one.get("emulated") for one in running if one.get("state") == "running")


def _age(sample: Mapping[str, Any]) -> float:
    """Return the age of a sample in s."""
    return time.time() - datetime.fromisoformat(sample["timestamp"]).timestamp()


def _value(sample: Mapping[str, Any], name: str) -> float | None:
    value = sample.get(name)
    return value["value"] if isinstance(value, dict) else None
