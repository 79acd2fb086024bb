"""The instrument file (TOML): its devices, their kinds and addresses, and the stores.

    title = "HiPERCAM on the GTC"    # by default the name of the file

    [devices.pressure1]
    kind = "pdr900.VacuumGauge"      # a module of devices/ and its class (see kinds.py)
    host = "192.0.2.10"
    port = 10001
    aliases = ["Pressure1"]          # other names of the device on the network

The class is the schema of the table: its annotated names, and those of its link, are the settings.

    [router]                         # by default on this machine, for this machine only
    listen = "192.0.2.1"             # an address of its machine
    tls = true                       # without which it listens to no other machine
    names = ["router.example"]       # by which it is called, too

    [servers.hwserver]               # where a server runs; by default on the router's host
    host = "192.0.2.30"              # name or address of that machine

    [servers.hwserver-dome]          # a second hwserver, for devices with server = "hwserver-dome"
    host = "192.0.2.31"

    [legacy]                         # programs of version 1.7 (see Legacy)
    enabled = true

    [stores.offsite]                 # a store for history; by default files in HCAM_HOME
    kind = "influxdb"
    url = "http://192.0.2.20:8086"
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from .. import HcamError
from ..core.device import Device, settings_of
from ..core.fields import Readback, shorten
from ..names import did_you_mean
from .kinds import KindError, find, is_ours
from .router import DEFAULT_HOST, DEFAULT_PORT, EVERY_NETWORK
from .stores import Embedded, InfluxDB, StoreSettings, is_near, place

NAME = re.compile(r"[a-z][a-z0-9_]*")
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
STRICT = ConfigDict(extra="forbid", strict=True)
HOST = r"^[\w.:-]+$"
NO_SECRETS = ("api", "raw_days", "timeout")
"""Settings of stores that are not secret: messages may quote their values."""
PROGRAMS = "hwserver", "hserver", "gtcserver"
"""The programs that present devices. Each is also the name of a server."""
LOGGER = "hwlogger"
"""The server, and the program, that presents the recorder. There is only one."""
SERVER = re.compile(rf"(?:{'|'.join(PROGRAMS)})(?:-[a-z0-9_]+)?|{LOGGER}")
STORES: dict[str, type[StoreSettings]] = {"embedded": Embedded, "influxdb": InfluxDB}


def program_of(server: str) -> str:
    """Return the program that runs a server: the part of its name before the dash."""
    return server.partition("-")[0]


def command_of(server: str) -> list[str]:
    """Return the program that runs a server, with the option that names the server."""
    program = program_of(server)
    return [program] if server == program else [program, "--name", server]


class InstrumentError(HcamError):
    """The mistakes in an instrument file: one line each, with file and line number."""


def _address(text: str) -> str:
    """Return the address of one network interface; ValueError if a text is none."""
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueError(f"{shorten(text)} is not an IPv4 address of this machine") from None
    if address.is_unspecified or address.is_loopback:
        raise ValueError(
            f"{text}: name each address of this machine at which programs of version 1.7 may "
            "come in; on this machine itself they always may"
        )
    return text


class Router(BaseModel):
    """The router: ``[router]`` in the file.

    It listens on one address, ``listen``. Programs look for it at ``host``, by default the same;
    ``names`` are further names and addresses by which it may be called.
    """

    model_config = STRICT

    port: int = Field(default=DEFAULT_PORT, ge=1, le=65535)
    listen: str = DEFAULT_HOST
    tls: bool = Field(default=False, validate_default=True)
    names: list[Annotated[str, Field(pattern=HOST, max_length=253)]] = []
    host: str = Field(default="", validate_default=True)

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        try:
            return str(IPv4Address(listen))
        except ValueError:
            raise ValueError(
                "it has to be an IPv4 address of the router's machine, such as 192.0.2.1 "
                "(Crossbar, the router, has no TLS over IPv6)"
            ) from None

    @field_validator("tls")
    @classmethod
    def _is_needed(cls, tls: bool, info: ValidationInfo) -> bool:
        listen = info.data.get("listen", DEFAULT_HOST)
        if not tls and not IPv4Address(listen).is_loopback:
            raise ValueError(
                f"it has to be true with listen = {listen}, because everybody in that network "
                "could read and command the instrument otherwise"
            )
        return tls

    @field_validator("host")
    @classmethod
    def _has_a_default(cls, host: str, info: ValidationInfo) -> str:
        listen = info.data.get("listen", DEFAULT_HOST)
        if not host and listen == EVERY_NETWORK and info.data.get("tls"):
            raise ValueError(f"with listen = {listen} it has to say where programs find the router")
        if not IPv4Address(listen).is_loopback and (host == "localhost" or host.startswith("127.")):
            raise ValueError(f"the router listens on {listen}, not there: leave host out")
        if ":" in host and info.data.get("tls"):
            raise ValueError("Crossbar, the router, has no TLS over IPv6: give an IPv4 address")
        return host or listen

    @property
    def is_open(self) -> bool:
        """Whether the router listens to other machines."""
        return not IPv4Address(self.listen).is_loopback

    @property
    def certified(self) -> set[str]:
        """The names and addresses that are in the router's certificate."""
        return {self.host, self.listen, *self.names} - {EVERY_NETWORK}

    @property
    def elsewhere(self) -> str:
        """A warning if programs look for the router where it does not listen, or empty."""
        if self.is_open or self.host in ("localhost", self.listen):
            return ""
        return (
            f"[router] host is {self.host!r}, but the router of hcam up and hcam router listens on "
            f"{self.listen} only: servers and hcam find no router unless another runs at "
            f"{self.host}, port {self.port}; leave host out to use the router on this machine, "
            "or set listen, with tls = true, to its address in the network"
        )


class Legacy(BaseModel):
    """Programs of version 1.7: ``[legacy]`` in the file.

    ``enabled``: whether they may join the router, in the realm ``realm1``, and command without a
    key; from this machine, and from wherever the addresses of this machine in ``listen`` can be
    reached.
    """

    model_config = STRICT

    enabled: bool = False
    listen: list[Annotated[str, AfterValidator(_address)]] = []


class _Server(BaseModel):
    """Where a server runs: ``[servers.NAME]`` in the file."""

    model_config = STRICT

    host: str = Field(default="", pattern=HOST, max_length=253)


class _File(BaseModel):
    model_config = STRICT

    title: str = Field(default="", max_length=100)
    router: Router = Router()
    legacy: Legacy = Legacy()
    servers: dict[str, dict[str, Any]] = {}
    devices: dict[str, dict[str, Any]]
    stores: dict[str, dict[str, Any]] = {}


class _Common(BaseModel):
    """The settings of a device's table that do not depend on its kind."""

    model_config = STRICT

    kind: str
    server: str = "hwserver"
    aliases: list[str] = []


@dataclass(frozen=True)
class Entry:
    """A device as the instrument file declares it."""

    name: str
    cls: type[Device]
    server: str
    aliases: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the device on the network: its own name, then its aliases."""
        return self.name, *self.aliases

    @property
    def sources(self) -> tuple[str, ...]:
        """The devices whose values a view shows, on its own server or others; else empty."""
        return self.build().sources()

    def build(self, **overrides: Any) -> Device:
        """Return a new device that is not running; ``overrides`` replace settings of the file."""
        return self.cls(self.name, **(self.settings | overrides))


@dataclass(frozen=True)
class Instrument:
    """An instrument file: the router, the stores, and the devices in the order of the file."""

    path: Path
    title: str
    router: Router
    legacy: Legacy
    entries: dict[str, Entry]
    stores: Mapping[str, StoreSettings]
    hosts: Mapping[str, str]
    """The host of each server whose table sets one."""

    @property
    def servers(self) -> list[str]:
        """The names of the servers, including hwlogger."""
        return sorted({entry.server for entry in self.entries.values()} | {LOGGER})

    def host_of(self, server: str) -> str:
        """Return the host on which a server runs: by default the router's."""
        return self.hosts.get(server, self.router.host)

    def sources_elsewhere(self, server: str) -> list[Entry]:
        """Return the devices of other servers whose values the views of a server show."""
        shown = {source for entry in self.choose(server) for source in entry.sources}
        return [
            entry
            for entry in self.entries.values()
            if entry.name in shown and entry.server != server
        ]

    @property
    def names(self) -> list[str]:
        """The names of all devices, the recorder last."""
        return [*self.entries, "recorder"]

    def recorded_fields(self) -> dict[str, tuple[str, Readback]]:
        """Return the recorded name and the field for each declared name.

        The names differ for the target of an axis: ``slide.target_position`` is recorded as
        ``slide.position.target``.
        """
        found = {}
        for device in (entry.build() for entry in self.entries.values()):
            stored = {target: f"{readback}.target" for readback, target in device.nested().items()}
            for name, field in device.fields.items():
                recorded = f"{device.name}.{stored.get(name, name)}"
                found[f"{device.name}.{name}"] = recorded, field
        return found

    def choose(self, server: str, pattern: str = "*") -> list[Entry]:
        """Return the devices of a server whose names match a glob."""
        return [
            entry
            for entry in self.entries.values()
            if entry.server == server and fnmatchcase(entry.name, pattern)
        ]


def carried(name: str) -> Path:
    """Return the path of an instrument file in the package; its addresses are loopback."""
    return Path(str(files("hcam_devices") / "data" / f"{name}.toml"))


def load(path: Path | None = None) -> Instrument:
    """Return the instrument that a file declares: ``hipercam`` (the default), ``wht``, or a path.

    Raises InstrumentError, which lists all mistakes in the file.
    """
    path = path or carried("hipercam")
    if not path.is_file() and (known := carried(str(path))).is_file():
        path = known
    text = _text(path)
    try:
        return _Reader(path, text).instrument(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        last = len(text.splitlines())
        raise InstrumentError(f"{path}:{line[1] if line else last}: {error}") from None


def _text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InstrumentError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InstrumentError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from None


def _tables(content: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the tables in a table; _File reports anything else in it as a mistake."""
    tables = content.get(key)
    for name, table in (tables if isinstance(tables, dict) else {}).items():
        if isinstance(table, dict):
            yield name, table


def _no_such_server(name: str, known: Collection[str]) -> str:
    return (
        f"there is no server {shorten(name)}; there are {', '.join(known)}, and others with a "
        f"dash, such as {PROGRAMS[0]}-dome{did_you_mean(name, known)}"
    )


class _Reader:
    """Reads one file and collects its mistakes."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.lines = path, text.splitlines()
        self.mistakes: list[tuple[int, str]] = []
        self.schemas: dict[type[Device], type[BaseModel]] = {}

    def instrument(self, content: dict[str, Any]) -> Instrument:
        file = self._check(_File, content, ())
        entries = {}
        for name, table in _tables(content, "devices"):
            if entry := self._entry(name, table):
                entries[name] = entry
        self._check_names(entries.values())
        self._check_sources(entries)
        hosts = self._hosts(content, entries.values())
        stores = {}
        for name, table in _tables({"stores": {"local": {}}} | content, "stores"):
            if store := self._store(name, table):
                stores[name] = store
        self._check_folders(stores)
        if content.get("stores") == {}:
            self._mistake(
                ("stores",),
                "[stores] is empty, so nothing would be recorded: leave it out to record in "
                "HCAM_HOME, or add a table [stores.NAME]",
            )
        if self.mistakes or file is None:
            raise InstrumentError(
                "\n".join(f"{self.path}:{line}: {text}" for line, text in sorted(self.mistakes))
            )
        return Instrument(
            self.path,
            file.title or self.path.stem,
            file.router,
            file.legacy,
            entries,
            stores,
            hosts,
        )

    def _entry(self, name: str, table: dict[str, Any]) -> Entry | None:
        place = ("devices", name)
        if not NAME.fullmatch(name):
            self._mistake(place, f"{name!r} is not a device name (lower case letters, digits, _)")
        common_keys = _Common.model_fields.keys()
        common = self._check(_Common, {k: v for k, v in table.items() if k in common_keys}, place)
        if common is None:
            return None
        for alias in common.aliases:
            if not ALIAS.fullmatch(alias):
                self._mistake((*place, "aliases"), f"{alias!r} is not a name (letters, digits, _)")
        cls = self._kind(common.kind, place)
        if cls is None:
            return None
        if cls not in self.schemas:
            fields: dict[str, Any] = settings_of(cls) | settings_of(cls.link_type)
            self.schemas[cls] = create_model(cls.__name__, __config__=STRICT, **fields)
        settings = self._check(
            self.schemas[cls], {k: v for k, v in table.items() if k not in common_keys}, place
        )
        if settings is None:
            return None
        given = settings.model_dump(exclude_unset=True)
        entry = Entry(name, cls, common.server, tuple(common.aliases), given)
        return entry if is_ours(cls) or self._can_be_built(entry, place) else None

    def _can_be_built(self, entry: Entry, place: tuple[str, ...]) -> bool:
        try:
            entry.build().describe()
        except Exception as error:  # noqa: BLE001  (the site's class may raise any error)
            reason = f"{entry.cls.__name__} cannot be built: {type(error).__name__}: {error}"
            self._mistake(place, reason)
            return False
        return True

    def _store(self, name: str, table: dict[str, Any]) -> StoreSettings | None:
        place = ("stores", name)
        if not NAME.fullmatch(name):
            self._mistake(place, f"{name!r} is not a store name (lower case letters, digits, _)")
        kind = table.get("kind", "embedded")
        schema = STORES.get(kind) if isinstance(kind, str) else None
        if schema is None:
            known = ", ".join(STORES)
            self._mistake(
                (*place, "kind"),
                f"there is no kind of store {shorten(kind)}; there are "
                f"{known}{did_you_mean(str(kind), STORES)}",
            )
            return None
        settings: StoreSettings | None = self._check(schema, table, place)
        if (
            isinstance(settings, InfluxDB)
            and settings.secret_from
            and settings.url.startswith("http:")
            and not is_near(settings.url)
        ):
            self._mistake(
                (*place, "url"),
                "url: must begin with https, or the secret would be sent unencrypted",
            )
        return settings

    def _check_folders(self, stores: dict[str, StoreSettings]) -> None:
        taken: dict[str, str] = {}
        for name, store in stores.items():
            if isinstance(store, Embedded):
                folder = os.path.normpath(place(store, Path()))
                if folder in taken:
                    self._mistake(
                        ("stores", name, "folder"),
                        f"folder: {folder!r} is already used by {taken[folder]}: choose another",
                    )
                taken[folder] = name

    def _kind(self, kind: str, place: tuple[str, ...]) -> type[Device] | None:
        try:
            return find(kind, self.path.parent)
        except KindError as error:
            self._mistake((*place, "kind"), str(error))
            return None

    def _check(self, schema: type[Any], content: Any, place: tuple[str, ...]) -> Any:
        try:
            return schema.model_validate(content)
        except ValidationError as error:
            for mistake in error.errors(include_url=False):
                loc = (*place, *(str(part) for part in mistake["loc"]))
                reason = mistake["msg"].removeprefix("Value error, ")
                if mistake["loc"]:
                    reason = f"{loc[-1]}: {reason}"
                    if loc[0] != "stores" or loc[-1] in NO_SECRETS:
                        reason += f", not {shorten(mistake['input'])}"
                text = {
                    "missing": f"{loc[-1]} is missing",
                    "extra_forbidden": f"{loc[-1]} is not a setting here; "
                    + f"there are {', '.join(sorted(schema.model_fields))}"
                    + did_you_mean(loc[-1], schema.model_fields),
                }.get(mistake["type"], reason)
                self._mistake(loc, text)
            return None

    def _check_names(self, entries: Iterable[Entry]) -> None:
        taken: dict[str, str] = {}
        for entry in entries:
            for name in entry.names:
                if name in taken:
                    place = ("devices", entry.name, "aliases")
                    self._mistake(place, f"{name!r} is already a name of {taken[name]}")
                taken[name] = entry.name

    def _check_sources(self, entries: dict[str, Entry]) -> None:
        for entry in entries.values():
            for source in entry.sources:
                if source not in entries:
                    meant = did_you_mean(source, entries)
                    self._mistake(("devices", entry.name), f"there is no device {source!r}{meant}")

    def _hosts(self, content: dict[str, Any], entries: Iterable[Entry]) -> dict[str, str]:
        """Return the host of each server that sets one; check the servers of the devices."""
        tables = dict(_tables(content, "servers"))
        known = {*PROGRAMS, *tables} - {LOGGER}
        for entry in entries:
            place = ("devices", entry.name, "server")
            if not SERVER.fullmatch(entry.server) or entry.server == LOGGER:
                self._mistake(place, f"server: {_no_such_server(entry.server, PROGRAMS)}")
            elif entry.server not in known:
                self._mistake(
                    place,
                    f"server: add the table [servers.{entry.server}]; a server with a dash in its "
                    f"name needs one{did_you_mean(entry.server, known)}",
                )
        used = [table.get("server", PROGRAMS[0]) for _, table in _tables(content, "devices")]
        found = {}
        for name, table in tables.items():
            settings = self._check(_Server, table, ("servers", name))
            if not SERVER.fullmatch(name):
                self._mistake(("servers", name), _no_such_server(name, (*PROGRAMS, LOGGER)))
            elif name not in (*used, LOGGER):
                self._mistake(("servers", name), f'no device has server = "{name}"')
            elif settings and settings.host:
                found[name] = settings.host
        return found

    def _mistake(self, place: tuple[str, ...], text: str) -> None:
        where = f"[{'.'.join(place[:2])}] " if len(place) > 1 else ""
        self.mistakes.append((_line(self.lines, place), where + text))


def line_of(path: Path, *place: str) -> int:
    """Return the line of a table or key, such as ``devices``, ``slide``, in an instrument file."""
    return _line(_text(path).splitlines(), place)


def _line(lines: list[str], place: tuple[str, ...]) -> int:
    """Return the line of a key, else of the table that it belongs to, else 1."""
    table: tuple[str, ...] = ()
    line = 1
    for number, text in enumerate(lines, 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", text):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if table and table == place[: len(table)]:
                line = number
        elif (key := re.match(r"\s*([\w-]+)\s*=", text)) and (*table, key[1]) == place[
            : len(table) + 1
        ]:
            return number
    return line
