"""systemd units for the router and the servers of an instrument file: ``hcam systemd``.

Each server may access only what its devices need. It is unknown what the programs of others need
(``Programs``: the detector's, the timing card's), so a server that runs them is less confined. No
unit requires another one, because a server waits for the router by itself.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from .. import HcamError
from ..core.link import Serial
from ..core.process import Programs
from ..host.installation import program
from ..telescope.corba import Corba
from .instrument import ALARMS, LOGGER, Entry, Instrument, command_of
from .stores import Embedded, Folder, InfluxDB, place

TARGET = "hcam.target"
"""Starts, stops and restarts all units of the instrument."""
VARIABLES = "/etc/default/hcam_devices"
"""An optional file of variables for all units, such as secrets of stores and paths of programs."""
USER = re.compile(r"[a-z_][a-z0-9_-]*\$?")
STATE = Path("/var/lib")
"""Where systemd makes the state folders of units."""
HOMES = "/home", "/root", "/run/user"
"""The folders that ``ProtectHome`` hides."""

FOR_ALL = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
"""
"""Without ProtectClock, which also forbids to ask whether a time service keeps the clock. A program
without capabilities cannot set the clock anyway."""
FOR_OWN_PROGRAMS = """\
ProtectSystem=strict
PrivateTmp=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
"""
"""For units that run only this package and the router."""
NO_NEW_CODE = "MemoryDenyWriteExecute=yes\n"
"""Not for the router, which does not start with it, nor for CORBA, where it was not tried."""
SERIAL = """\
DevicePolicy=closed
DeviceAllow=char-ttyUSB rw
DeviceAllow=char-ttyACM rw
DeviceAllow=char-ttyS rw
"""
"""All serial ports, because a port may get another number when it is plugged in again."""


@dataclass(frozen=True)
class Installation:
    """The user and the home with which the units run."""

    user: str = "hcam"
    home: Path = STATE / "hcam_devices"

    def __post_init__(self) -> None:
        """Raise HcamError if the user or the home is not valid in a unit."""
        if not USER.fullmatch(self.user):
            raise HcamError(f"{self.user!r} is not the name of a user of this system")
        if not self.home.is_absolute():
            raise HcamError(f"the home {str(self.home)!r} must be an absolute path")


def units(instrument: Instrument, where: Installation, names: Iterable[str] = ()) -> dict[str, str]:
    """Return the text of each unit by its file name: the target, the router, and each server.

    ``names``: only these of the router and the servers. Raises HcamError if a program is missing
    from this installation.
    """
    texts = {}
    for name in names or ("router", *instrument.servers):
        unit = _Unit(instrument, where, name, instrument.choose(name))
        texts[f"hcam-{name}.service"] = unit.text()
    return {TARGET: _target(instrument, texts)} | texts


def write(
    instrument: Instrument, where: Installation, folder: Path, names: Iterable[str] = ()
) -> list[Path]:
    """Write the units into a folder, which is created, and return their paths.

    Raises HcamError as ``units`` does, or if the folder cannot be written.
    """
    texts = units(instrument, where, names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HcamError(f"the units cannot be written into {folder}: {error}") from None
    return [folder / name for name in texts]


def _target(instrument: Instrument, wanted: Iterable[str]) -> str:
    return f"""\
# Written by hcam systemd from {_plain(instrument.path)}
[Unit]
Description={_plain(instrument.title)}
Wants={" ".join(wanted)}

[Install]
WantedBy=multi-user.target
"""


class _Unit:
    """The unit of the router, or of a server with its devices."""

    def __init__(
        self, instrument: Instrument, where: Installation, name: str, entries: list[Entry]
    ) -> None:
        self.instrument, self.where, self.name, self.entries = instrument, where, name, entries
        links = {entry.name: entry.build().link for entry in entries}
        self.run_others = [name for name, link in links.items() if isinstance(link, Programs)]
        self.corba = [name for name, link in links.items() if isinstance(link, Corba)]
        self.serial = [name for name, link in links.items() if isinstance(link, Serial)]
        hosts = [str(link.host) for link in links.values() if hasattr(link, "host")]
        if name == LOGGER:
            stores = instrument.stores.values()
            hosts += [urlsplit(s.url).hostname or "" for s in stores if isinstance(s, InfluxDB)]
        self.hosts = list(dict.fromkeys([instrument.router.host, *hosts]))

    def text(self) -> str:
        """Return the unit."""
        return "".join((self._unit(), self._service(), self._sandbox()))

    def _unit(self) -> str:
        return f"""\
# Written by hcam systemd from {_plain(self.instrument.path)}
[Unit]
Description={_plain(self.instrument.title)}: {self.name}
PartOf={TARGET}
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

"""

    def _service(self) -> str:
        command = ["hcam", "router"] if self.name == "router" else command_of(self.name)
        words = [str(program(command[0])), *command[1:]]
        words += ["--instrument", str(self.instrument.path.absolute())]
        groups = "SupplementaryGroups=dialout\n" if self.serial else ""
        return f"""\
[Service]
Type=notify
WatchdogSec=30
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in words)}
Environment={_quoted(f"HCAM_HOME={self.where.home}")}
EnvironmentFile=-{VARIABLES}
User={self.where.user}
{groups}UMask=0077
{self._folders()}Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec=20
MemoryMax=1G

"""

    def _folders(self) -> str:
        """Return the settings that let the unit write into its folders."""
        home = self.where.home
        if home.parent == STATE:
            text = f"StateDirectory={_quoted(home.name)}\nStateDirectoryMode=0700\n"
        else:
            text = f"ReadWritePaths={_quoted(str(home))}\n"
        if self.name == LOGGER:
            stores = self.instrument.stores.values()
            folders = {place(store, home) for store in stores if isinstance(store, Embedded)}
            folders |= {store.folder for store in stores if isinstance(store, Folder)}
            for folder in sorted(folders):
                if not folder.is_relative_to(home):
                    text += f"ReadWritePaths={_quoted(str(folder))}\n"
        return text

    def _sandbox(self) -> str:
        text = FOR_ALL
        if hidden := sorted({path for path in self._paths() if _is_in_a_home(path)}):
            text += f"# in home directories: {_plain(', '.join(hidden))}\nProtectHome=read-only\n"
        else:
            text += "ProtectHome=yes\n"
        if self.run_others:
            return (
                f"{text}# It is unknown what the programs of {', '.join(self.run_others)} need.\n"
                "ProtectSystem=full\n"
            )
        text += FOR_OWN_PROGRAMS
        if self.name != "router" and not self.corba:
            text += NO_NEW_CODE
        text += SERIAL if self.serial else "PrivateDevices=yes\n"
        return text + self._network()

    def _network(self) -> str:
        if self.name == "router" and self.instrument.router.is_open:
            return "# The firewall says who may connect.\n"
        if self.corba:
            names = ", ".join(self.corba)
            return f"# The name service may give any address for the telescope of {names}.\n"
        if self.name == ALARMS and (self.instrument.notify or self.instrument.heartbeat):
            return "# No limit, because the services in [notify] may have any address.\n"
        legacy = self.instrument.legacy
        if self.name == "router" and legacy.enabled and legacy.listen:
            where = ", ".join(legacy.listen)
            return f"# No limit, because [legacy] lets programs of other machines in at {where}\n"
        named = [host for host in self.hosts if not _is_address(host)]
        if named:
            return f"# No limit, because systemd cannot resolve names: {_plain(', '.join(named))}\n"
        allowed = [host for host in self.hosts if not _is_loopback(host)]
        return f"IPAddressDeny=any\nIPAddressAllow={' '.join(['localhost', *allowed])}\n"

    def _paths(self) -> Iterator[str]:
        """Yield the paths that the unit reads or writes."""
        yield str(self.instrument.path.absolute())
        yield str(self.where.home)
        yield os.path.realpath(program("hcam"))
        yield os.path.realpath(program("hcam").with_name("python"))
        yield str(Path(__file__))
        for entry in self.entries:
            for value in entry.settings.values():
                if isinstance(value, (str, Path)) and str(value).startswith(("/", "~")):
                    yield str(value)


def _is_in_a_home(path: str) -> bool:
    return path.startswith("~") or any(Path(path).is_relative_to(home) for home in HOMES)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ip_address(host).is_loopback


def _plain(value: object) -> str:
    """Return a text in one line, with % escaped for systemd."""
    return " ".join(str(value).split()).replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a text as one word of a unit. Raises HcamError if it is not printable."""
    if not text.isprintable():
        raise HcamError(f"{text!r} has characters that a unit cannot contain")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;#]", text) else escaped
