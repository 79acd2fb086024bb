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

    [legacy]                         # programs of version 1.7 (see tables.py)
    enabled = true

    [stores.offsite]                 # a store for history; by default files in HCAM_HOME
    kind = "influxdb"
    url = "http://192.0.2.20:8086"

    [interlocks.coolant]             # what a server refuses or does by itself (see interlocks.py)
    for_each = "ccd*"

    [alarms."ccd*.pressure"]         # changes what is declared where the field is (see tables.py)
    healthy = [0, 1e-3]
    delay = 10

    [notify.observer]                # a person to tell of errors that nobody acknowledges
    urls = ["mailtos://..."]         # of apprise; they are secrets
"""

import fnmatch
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError, create_model

from .. import HcamError
from ..core.condition import Declared
from ..core.device import Device, settings_of
from ..core.fields import Readback
from ..core.interlock import Interlock
from ..names import did_you_mean, shorten
from .interlocks import InterlockTable, Resolver
from .kinds import KindError, find, is_ours
from .stores import Embedded, Folder, InfluxDB, StoreSettings, is_near, place
from .tables import Common, File, Judgment, Legacy, Notify, Router, Server, Table

NAME = re.compile(r"[a-z][a-z0-9_]*")
ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NO_SECRETS = ("api", "keep_days", "timeout", "after")
"""Settings of stores and of [notify] that are not secret: messages may quote their values."""
PROGRAMS = "hwserver", "hserver", "gtcserver"
"""The programs that present devices. Each is also the name of a server."""
LOGGER = "hwlogger"
"""The server, and the program, that presents the recorder. There is only one."""
ALARMS = "hwalarm"
"""The server, and the program, that presents the alarms. There is only one."""
COMMON = {LOGGER: "recorder", ALARMS: "alarms"}
"""The servers that every instrument has, and their devices, which its file does not name."""
OF_ALL = "connection", "journal", "commands", "telemetry"
"""The alarms that every device may have."""
SERVER = re.compile(rf"(?:{'|'.join(PROGRAMS)})(?:-[a-z0-9_]+)?|{'|'.join(COMMON)}")
STORES: dict[str, type[StoreSettings]] = {
    "embedded": Embedded,
    "influxdb": InfluxDB,
    "folder": Folder,
}


def program_of(server: str) -> str:
    """Return the program that runs a server: the part of its name before the dash."""
    return server.partition("-")[0]


def command_of(server: str) -> list[str]:
    """Return the program that runs a server, with the option that names the server."""
    program = program_of(server)
    return [program] if server == program else [program, "--name", server]


class InstrumentError(HcamError):
    """The mistakes in an instrument file: one line each, with file and line number."""


@dataclass(frozen=True)
class Entry:
    """A device as the instrument file declares it."""

    name: str
    cls: type[Device]
    server: str
    aliases: tuple[str, ...]
    settings: dict[str, Any]
    interlocks: tuple[Declared, ...] = ()

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
        device = self.cls(self.name, **(self.settings | overrides))
        device.parts += map(Interlock, self.interlocks)
        return device


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
    alarms: Mapping[str, Mapping[str, Any]]
    """What the file changes of the judgment of alarms, by glob."""
    notify: Mapping[str, Notify]
    heartbeat: str
    """The URL that hwalarm asks for each minute, so that an outside watcher misses it; or empty."""

    @property
    def servers(self) -> list[str]:
        """The names of the servers, including hwlogger and hwalarm."""
        return sorted({entry.server for entry in self.entries.values()} | COMMON.keys())

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
        """The names of all devices, the recorder and the alarms last."""
        return [*self.entries, *COMMON.values()]

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


def load(path: Path | None = None, server: str = "") -> Instrument:
    """Return the instrument that a file declares: ``hipercam`` (the default), ``wht``, or a path.

    With ``server`` it has only the devices of that server, and those that its views show. The kinds
    of other devices are not imported, which takes a third of the time, nor are their settings
    checked. Raises InstrumentError, which lists all mistakes in the file.
    """
    path = path or carried("hipercam")
    if not path.is_file() and (known := carried(str(path))).is_file():
        path = known
    text = _text(path)
    try:
        return _Reader(path, text, server).instrument(tomllib.loads(text))
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
    """Yield the tables in a table; File reports anything else in it as a mistake."""
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

    schemas: ClassVar[dict[type[Device], type[BaseModel]]] = {}
    """The models of settings, for all files: making them takes most of the time of ``load``."""

    def __init__(self, path: Path, text: str, server: str) -> None:
        self.path, self.lines, self.server = path, text.splitlines(), server
        self.mistakes: list[tuple[int, str]] = []

    def instrument(self, content: dict[str, Any]) -> Instrument:
        file = self._check(File, content, ())
        declared = {}
        for name, table in _tables(content, "devices"):
            if entry := self._declared(name, table):
                declared[name] = entry
        self._check_names(declared.values())
        hosts = self._hosts(content, declared.values())
        alarms = self._alarms(content, declared)
        entries = {name: _judged(one, alarms) for name, one in self._entries(declared).items()}
        entries = self._with_interlocks(content, declared, entries)
        self._check_alarms(alarms, entries)
        notify, heartbeat = self._notify(content)
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
            alarms,
            notify,
            heartbeat,
        )

    def _alarms(
        self, content: dict[str, Any], declared: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """Return what each table changes."""
        found = {}
        names = [*declared, *COMMON.values(), *PROGRAMS, *COMMON]
        for pattern, table in _tables(content, "alarms"):
            device, dot, alarm = pattern.partition(".")
            if not dot or not alarm or not any(fnmatchcase(name, device) for name in names):
                meant = did_you_mean(device, names)
                self._mistake(
                    ("alarms", *pattern.split(".")),
                    f"{pattern!r} is no alarm: write a device or a glob, a dot, and the name of an "
                    f'alarm, such as "ccd*.pressure"{meant}',
                )
            if judgment := self._check(Judgment, table, ("alarms", *pattern.split("."))):
                found[pattern] = judgment.model_dump(exclude_none=True)
        return found

    def _check_alarms(self, patterns: Iterable[str], entries: Mapping[str, Entry]) -> None:
        """Note patterns that no alarm of the devices has; those of the servers are not checked."""
        for pattern in patterns:
            device, _, alarm = pattern.partition(".")
            found = [entries[name] for name in fnmatch.filter(entries, device)]
            known = list(OF_ALL)
            for entry in found:
                guards = [one.name for one in entry.interlocks]
                known += [*entry.cls.fields, *entry.cls.advice, *guards]
            if found and not fnmatch.filter(known, alarm):
                self._mistake(
                    ("alarms", *pattern.split(".")),
                    f"{device} has no alarm {alarm}{did_you_mean(alarm, known)}",
                )

    def _notify(self, content: dict[str, Any]) -> tuple[dict[str, Notify], str]:
        """Return whom to tell, and the URL for the heartbeat."""
        found, heartbeat = {}, ""
        tables = content.get("notify")
        for name, table in (tables if isinstance(tables, dict) else {}).items():
            if name == "heartbeat":
                heartbeat = table if isinstance(table, str) else ""
                if not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/\S*)?", heartbeat):
                    self._mistake(
                        ("notify", name),
                        "heartbeat: it has to be a URL of http or https, with a host, and without "
                        "user and password",
                    )
            elif not NAME.fullmatch(name):
                self._mistake(
                    ("notify", name), f"{name!r:.60} is not a name (lower case letters, digits, _)"
                )
            elif not isinstance(table, dict):
                self._mistake(
                    ("notify", name),
                    f"{name}: it has to be a table, [notify.{name}] with urls"
                    f"{did_you_mean(name, ('heartbeat',))}",
                )
            elif notify := self._check(Notify, table, ("notify", name)):
                found[name] = notify
        return found, heartbeat

    def _declared(self, name: str, table: dict[str, Any]) -> Entry | None:
        """Return an entry whose kind and settings are not checked yet: they are the whole table."""
        place = ("devices", name)
        if not NAME.fullmatch(name):
            self._mistake(place, f"{name!r} is not a device name (lower case letters, digits, _)")
        common_keys = Common.model_fields.keys()
        common = self._check(Common, {k: v for k, v in table.items() if k in common_keys}, place)
        if common is None:
            return None
        for alias in common.aliases:
            if not ALIAS.fullmatch(alias):
                self._mistake((*place, "aliases"), f"{alias!r} is not a name (letters, digits, _)")
        return Entry(name, Device, common.server, tuple(common.aliases), table)

    def _entries(self, declared: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return the entries that are wanted, with their classes and checked settings."""
        wanted = [name for name, one in declared.items() if self.server in ("", one.server)]
        entries = {}
        for name in wanted:  # it grows
            if entry := self._entry(declared[name]):
                entries[name] = entry
                for source in entry.sources:
                    if source not in declared:
                        meant = did_you_mean(source, declared)
                        self._mistake(("devices", name), f"there is no device {source!r}{meant}")
                    elif source not in wanted:
                        wanted.append(source)
        return entries

    def _with_interlocks(
        self, content: dict[str, Any], declared: Collection[str], entries: dict[str, Entry]
    ) -> dict[str, Entry]:
        """Return the entries; those of the wanted server have their interlocks."""
        tables = list(_tables(content, "interlocks"))
        if not tables or self.mistakes:
            return entries
        devices = {name: entry.build() for name, entry in entries.items()}
        resolver = Resolver(devices, {name: entry.server for name, entry in entries.items()})
        found = dict(entries)
        for name, content_of in tables:
            place = ("interlocks", name)
            if not NAME.fullmatch(name):
                self._mistake(place, f"{name!r} is not a name (lower case letters, digits, _)")
            table: InterlockTable | None = self._check(InterlockTable, content_of, place)
            if table is None:
                continue
            if mistakes := list(table.mistakes()):
                for key, text in mistakes:
                    self._mistake((*place, key), text)
                continue
            if not any(fnmatchcase(one, table.for_each) for one in declared):
                self._mistake((*place, "for_each"), f"no device matches {table.for_each!r}")
            for entry in list(found.values()):
                if fnmatchcase(entry.name, table.for_each) and self.server in ("", entry.server):
                    try:
                        one = resolver.declared(name, table, devices[entry.name])
                    except ValueError as error:
                        self._mistake(place, str(error))
                        break
                    both = (*found[entry.name].interlocks, one)
                    found[entry.name] = replace(found[entry.name], interlocks=both)
        return found

    def _entry(self, declared: Entry) -> Entry | None:
        place, table = ("devices", declared.name), declared.settings
        cls = self._kind(table["kind"], place)
        if cls is None:
            return None
        if cls not in self.schemas:
            fields: dict[str, Any] = settings_of(cls) | settings_of(cls.link_type)
            self.schemas[cls] = create_model(cls.__name__, __base__=Table, **fields)
        own = {k: v for k, v in table.items() if k not in Common.model_fields}
        settings = self._check(self.schemas[cls], own, place)
        if settings is None:
            return None
        given = settings.model_dump(exclude_unset=True)
        entry = replace(declared, cls=cls, settings=given)
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
        for name, store in stores.items():
            if isinstance(store, Folder) and (not taken or str(store.folder) in taken):
                self._mistake(
                    ("stores", name, "folder"),
                    "folder: it gets copies of a store of kind embedded, in another folder",
                )

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
                    if loc[0] not in ("stores", "notify") or loc[-1] in NO_SECRETS:
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
        taken = {device: server for server, device in COMMON.items()}
        for entry in entries:
            for name in entry.names:
                if name in taken:
                    place = ("devices", entry.name, "aliases")
                    self._mistake(place, f"{name!r} is already a name of {taken[name]}")
                taken[name] = entry.name

    def _hosts(self, content: dict[str, Any], entries: Iterable[Entry]) -> dict[str, str]:
        """Return the host of each server that sets one; check the servers of the devices."""
        tables = dict(_tables(content, "servers"))
        known = {*PROGRAMS, *tables} - COMMON.keys()
        for entry in entries:
            place = ("devices", entry.name, "server")
            if not SERVER.fullmatch(entry.server) or entry.server in COMMON:
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
            settings = self._check(Server, table, ("servers", name))
            if not SERVER.fullmatch(name):
                self._mistake(("servers", name), _no_such_server(name, (*PROGRAMS, *COMMON)))
            elif name not in (*used, *COMMON):
                self._mistake(("servers", name), f'no device has server = "{name}"')
            elif settings and settings.host:
                found[name] = settings.host
        return found

    def _mistake(self, place: tuple[str, ...], text: str) -> None:
        where = f"[{'.'.join(place[:2])}] " if len(place) > 1 else ""
        self.mistakes.append((_line(self.lines, place), where + text))


def _judged(entry: Entry, alarms: Mapping[str, Mapping[str, Any]]) -> Entry:
    """Return an entry whose class has the healthy ranges of the file."""
    changed = {
        name: replace(field, healthy=tuple(changes["healthy"]))
        for pattern, changes in alarms.items()
        for name, field in entry.cls.fields.items()
        if "healthy" in changes and fnmatchcase(f"{entry.name}.{name}", pattern)
    }
    if not changed:
        return entry
    cls = entry.cls
    own = {"__module__": cls.__module__, "__doc__": cls.__doc__, "fields": cls.fields | changed}
    return replace(entry, cls=type(cls.__name__, (cls,), own))


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
