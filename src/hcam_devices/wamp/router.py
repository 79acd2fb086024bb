"""The router, Crossbar: its configuration, and running it.

Crossbar's own dependencies are old, so it has a separate environment: ``router`` inside ours. Its
configuration is generated; ``data/router.json`` is the one for the default instrument.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

from ..config.instrument import Entry, Instrument
from ..config.router import DEFAULT_HOST, EVERY_NETWORK
from ..config.tables import Router
from ..errors import ProtocolError, RouterError
from ..host import output, rotation, systemd
from ..host.home import writable_or_explain
from ..host.http import Connection
from ..host.installation import installed_router, this_program
from ..host.limits import raise_open_files_limit
from . import access, legacy, roles, uris
from .presentation import overview
from .uris import Address

log = logging.getLogger(__name__)

EVERYTHING = {"call": True, "register": True, "publish": True, "subscribe": True}
ROLES = [
    {
        "name": "local",
        "permissions": [
            {
                "uri": "",
                "match": "prefix",
                "allow": EVERYTHING,
                "disclose": {"caller": True, "publisher": True},
                "cache": True,
            }
        ],
    }
]
"""The only role of a plain Crossbar with the shipped file, for any program of the machine."""

STARTS_WITHIN_S = 60.0
STOPS_WITHIN_S = 8.0
"""The router is killed if it has not stopped by then."""
MAX_CONNECTIONS = 8192
SPARE_FILES = 100
"""Open files of the router other than connections."""
USUAL_OPEN_FILES = 1024
"""Debian's soft limit, which a plain Crossbar with the shipped file runs under."""
PAGES = "pages"
"""The folder of the pages for browsers, in the router's own folder."""
DESCRIBED = "described.json"
"""What each device of the instrument file is, in the folder of the pages."""
PAGE_OPTIONS = {"cache_timeout": 0, "mime_types": {".mjs": "text/javascript"}}
"""No file is cached, so that a browser never mixes the files of two versions."""
PATIENT_PING_MS = 3_600_000
"""The time to answer a ping, for programs of version 1.7 on a Crossbar that is not ours."""
DOORS = {
    "call": "door.Door",
    "publish": "door.Door",
    "events": "events.Events",
    "metrics": "metrics.Metrics",
}
"""What answers each path over HTTP, in place of Crossbar's bridge: modules in ``data/``."""
CLIENT_TIMEOUT_S = 10
"""Close a connection without a complete request after this time."""


def panel() -> Path:
    """Return the folder of the web page that shows the instrument."""
    return shipped().parents[1] / "ui" / "panel"


def write_pages(folder: Path, instrument: Instrument) -> None:
    """Write the panel's files, and what replayed devices are: in a replay nobody describes them.

    They are copied because Crossbar cannot serve a path that is not ASCII.
    """
    rmtree(folder, ignore_errors=True)
    copytree(panel(), folder)
    described = {name: one.build().describe() for name, one in instrument.entries.items()}
    (folder / DESCRIBED).write_text(json.dumps(described), encoding="utf-8")


def origins(names: Iterable[str], port: int, *, tls: bool) -> list[str]:
    """Return the origins of the panel's page: the only ones whose web pages may join."""
    scheme = "https" if tls else "http"
    return [f"{scheme}://{name}:{port}" for name in sorted({*names, "127.0.0.1", "localhost"})]


def configuration(
    instrument: Instrument, port: int, open_files: int = USUAL_OPEN_FILES
) -> dict[str, Any]:
    """Return Crossbar's configuration, for a process that may have ``open_files`` open files.

    It is for a router on loopback, without roles.
    """
    role, own_origins = ROLES[0]["name"], origins((), port, tls=False)
    bridge = {
        "realm": uris.REALM,
        "role": role,
        "options": {"post_body_limit": uris.MAX_MESSAGE_BYTES},
    }
    websocket = {
        "type": "websocket",
        "serializers": ["cbor", "msgpack", "json"],
        "auth": {"anonymous": {"type": "static", "role": role}},
        "options": {
            "auto_ping_interval": 5000,
            "auto_ping_timeout": 5000,
            "auto_ping_size": 12,
            "max_message_size": uris.MAX_MESSAGE_BYTES,
            # Browsers send an Origin, programs do not: refuse all web pages but the panel.
            "allowed_origins": own_origins,
            "allow_null_origin": False,
        },
    }
    web = {
        "type": "web",
        "endpoint": {"type": "tcp", "interface": "127.0.0.1", "port": port},
        "max_connections": min(MAX_CONNECTIONS, open_files - SPARE_FILES),
        "options": {"client_timeout": CLIENT_TIMEOUT_S},
        "paths": {
            "/": {"type": "static", "directory": PAGES, "options": PAGE_OPTIONS},
            "instrument": {
                "type": "json",
                "value": overview(instrument) | {"origins": own_origins},
            },
            "ws": websocket,
            "call": {"type": "caller", **bridge},
            "publish": {"type": "publisher", **bridge},
        },
    }
    return {
        "version": 2,
        "workers": [
            {
                "type": "router",
                "realms": [{"name": name, "roles": ROLES} for name in (uris.REALM, uris.REPLAY)],
                "transports": [web],
            }
        ],
    }


def with_door(configuration: dict[str, Any], hosts: list[str]) -> dict[str, Any]:
    """Return a configuration with ``data/door.py`` in place of Crossbar's bridge.

    ``hosts`` are names of the router; those of loopback need not be given. A plain Crossbar cannot
    use the configuration.
    """
    extra: dict[str, Any] = {
        "realm": uris.REALM,
        "anonymous": ROLES[0]["name"],
        "people": None,
        "router": "",
        "hosts": hosts,
        "max_body": uris.MAX_MESSAGE_BYTES,
        "limits": {},
    }
    for worker in configuration["workers"]:
        for transport in worker["transports"]:
            paths = transport["paths"]
            extra |= {"devices": paths["instrument"]["value"]["devices"]}
            for path, name in DOORS.items():
                paths[path] = {"type": "resource", "classname": name, "extra": extra}
    return configuration


def with_access(
    configuration: dict[str, Any], entries: Iterable[Entry], folder: Path, router: str, on: Router
) -> dict[str, Any]:
    """Return a configuration with a door that admits only clients with a role.

    ``entries`` are the devices that may be presented, with the recorder; ``folder`` has the list of
    people who may join, and the certificate; ``router`` is the name for which requests over HTTP
    are signed. ``on`` says where the router listens: beyond loopback nobody is anonymous.
    """
    devices = [*entries]
    realms = {uris.REALM: roles.roles(devices), uris.REPLAY: roles.replay_roles(devices)}
    known = {"people": str(folder / access.PEOPLE)}
    anonymous = None if on.is_open else roles.OBSERVER
    endpoint: dict[str, Any] = {"interface": on.listen}
    if on.tls:
        files = {"key": "router.key", "certificate": "router.pem"}
        endpoint["tls"] = {name: str(folder / file) for name, file in files.items()}
    limits = {one["name"]: asdict(roles.limit(one["name"])) for one in realms[uris.REALM]}
    for worker in configuration["workers"]:
        worker["realms"] = [{"name": name, "roles": made} for name, made in realms.items()]
        for transport in worker["transports"]:
            transport["endpoint"] |= endpoint
            paths = transport["paths"]
            paths["ws"]["auth"] = {
                "cryptosign": {"type": "function", "create": "people.create", "config": known},
                "ticket": {
                    "type": "function",
                    "create": "people.create_for_tokens",
                    "config": known,
                },
            }
            own_origins = origins(on.certified, transport["endpoint"]["port"], tls=on.tls)
            paths["ws"]["options"]["allowed_origins"] = own_origins
            paths["instrument"]["value"]["origins"] = own_origins
            if anonymous:
                paths["ws"]["auth"]["anonymous"] = {"type": "static", "role": anonymous}
            for name in DOORS:
                extra = {"anonymous": anonymous, "router": router, "limits": limits, **known}
                paths[name] |= {"extra": paths[name]["extra"] | extra}
    return configuration


def for_plain_crossbar(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with a door and roles for a Crossbar that is not ours."""
    keeper = {"type": "class", "classname": "door.Doorkeeper", "realm": uris.REALM}
    for worker in configuration["workers"]:
        worker["options"] = {"pythonpath": [str(shipped().parent)]}
        worker["components"] = [keeper, *(others := worker.get("components", []))]
        for transport in worker["transports"]:
            transport["paths"].pop("metrics", None)  # prometheus-client may not be installed there
            transport["paths"]["/"]["directory"] = str(panel())
        for transport in worker["transports"] if others else ():
            # Programs of version 1.7 do not answer while they ask their user something.
            transport["paths"]["ws"]["options"]["auto_ping_timeout"] = PATIENT_PING_MS
    return configuration


def as_text(instrument: Instrument, port: int) -> str:
    """Return the configuration for a plain Crossbar, as it is shipped."""
    return json.dumps(configuration(instrument, port), indent=2) + "\n"


def shipped() -> Path:
    """Return the path of the shipped configuration."""
    return Path(str(files("hcam_devices") / "data" / "router.json"))


def crossbar() -> Path:
    """Return Crossbar's path. Raise RouterError if it is missing."""
    folder = installed_router()
    if folder is None:
        raise RouterError(
            "the router that this version needs is not installed: run "
            f"{this_program()} router install, once"
        )
    return folder / "bin" / "crossbar"


def with_parent_death_signal(command: list[str]) -> list[str]:
    """Return a command that gets SIGTERM when its parent dies or is killed."""
    return ["setpriv", "--pdeathsig", "TERM", "--", *command]


def own_address(router: Router, given: Address) -> Address:
    """Return the address of this machine's router for programs of this machine.

    ``given`` is their setting. Raises RouterError if the router will not listen there.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(given.host, None, socket.AF_INET)}
    except OSError:
        found = set()
    if router.listen not in (*found, EVERY_NETWORK):
        raise RouterError(
            f"WAMP_SERVER or [router] of the instrument file says that the router is at "
            f"{given.host}, but it listens on {router.listen} only, so no program would find it: "
            f"set host to {router.listen} there, or listen to an address of {given.host}"
        )
    with socket.socket() as probe:
        try:
            probe.bind((router.listen, 0))
        except OSError as error:
            raise RouterError(
                f"[router] of the instrument file has listen = {router.listen}, where this machine "
                f"cannot listen ({error.strerror}): ip -brief address prints its addresses"
            ) from None
    return Address(router.host if router.tls else router.listen, given.port)


def make_keys(instrument: Instrument, entries: Iterable[Entry], where: Address) -> None:
    """Make the keys and certificates that are missing.

    The keys say that the router is at ``where``. Raises HcamError if they cannot be made.
    """
    folder, ca = access.folder(), ""
    if instrument.router.tls:
        from . import certificates  # noqa: PLC0415  (60 ms)

        ca = certificates.make_missing(folder, instrument.router.certified | {where.host})
    access.make_missing(folder, roles.programs(entries), str(where), ca)


def listening(port: int, host: str = DEFAULT_HOST) -> bool:
    """Return whether a program of this machine accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def answers(port: int, host: str = DEFAULT_HOST, ca: str = "") -> bool:
    """Return whether the router serves its paths. It accepts connections earlier, and ``/ws`` last.

    With a CA (PEM), it must answer with TLS and a certificate of that CA.
    """
    connection = Connection(host, port, access.context_of(ca))
    try:
        connection.open(timeout=1)
        found = connection.post("/publish", {}, b"", timeout=1), connection.get("/ws", timeout=1)
        return all(answer.status not in uris.UNKNOWN_PATH for answer in found)
    except (OSError, ProtocolError):
        return False
    finally:
        connection.close()


def guarded(
    instrument: Instrument, entries: Iterable[Entry], where: Address, folder: Path
) -> dict[str, Any]:
    """Return the configuration with roles, after making the keys of this machine.

    It has the realm of version 1.7 if the instrument file says so. ``where`` is the router for
    programs of this machine.
    """
    entries, on = [*entries], instrument.router
    plain = configuration(instrument, where.port, raise_open_files_limit())
    with_names = with_door(plain, sorted(on.certified | {uris.address().host}))
    make_keys(instrument, entries, where)
    router = access.name_of_router(folder / "access", str(where))
    made = with_access(with_names, entries, folder / "access", router, on)
    if instrument.legacy.enabled:
        made = legacy.with_realm1(made, instrument, entries, where.port)
    return made


async def run(instrument: Instrument, entries: list[Entry], where: Address, folder: Path) -> int:
    """Run an instrument's router until SIGINT or SIGTERM; return its exit status.

    ``entries`` are the devices that may be presented; ``where`` is the router for programs of this
    machine (``own_address``). Their keys, and the certificate, are made before anybody can join.

    Raises RouterError if it is not installed, the port is taken or it does not start; HcamError if
    its files cannot be written.
    """
    program, on, port = crossbar(), instrument.router, where.port
    if listening(port, on.listen):
        raise RouterError(
            f"port {port} is in use: perhaps a router is running already; otherwise choose another "
            "port with --port"
        )
    node = folder / "router" / str(port)
    made = guarded(instrument, entries, where, folder)
    legacy.require_addresses(made)
    own = access.local_key(access.folder())
    ca = own.ca if own else ""
    with writable_or_explain(node):
        write_pages(node / PAGES, instrument)
        (node / "config.json").write_text(json.dumps(made), encoding="utf-8")
        (node / "node.pid").unlink(missing_ok=True)  # Crossbar trips over the number of a zombie
        router_log = (node / "router.log").open("ab")
    del made  # 6 MB for a thousand devices
    ours = shipped().with_name("guarded_crossbar.py")
    command = [str(program.with_name("python")), str(ours), "start"]
    command += ["--cbdir", str(node), "--config", "config.json"]
    level = "info" if log.isEnabledFor(logging.DEBUG) else "warn"
    with router_log as file:
        process = await asyncio.create_subprocess_exec(
            *with_parent_death_signal([*command, "--loglevel", level]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # UTC for times in its log. Crossbar itself would report READY=1 to systemd too early.
            env=os.environ | {"TZ": "UTC", "NOTIFY_SOCKET": ""},
            start_new_session=True,
        )
    told = asyncio.Event()
    well = partial(answers, port, where.host, ca)

    def end() -> None:
        told.set()
        _end(process)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await _wait_until(well, process, node / "router.log")
        output.write(1, f"router at {'wss' if ca else 'ws'}://{where}/ws, realm {uris.REALM}\n")
        systemd.notify(systemd.READY)
        small = asyncio.create_task(rotation.keep_small(node / "router.log"))
        fed = asyncio.create_task(systemd.feed_watchdog(lambda: asyncio.to_thread(well)))
        status = await process.wait()
        small.cancel()
        fed.cancel()
    except RouterError:
        if not told.is_set():
            raise
        status = 0
    finally:
        _kill_group(process.pid)
    return 0 if told.is_set() else status


async def _wait_until(
    well: Callable[[], bool], process: asyncio.subprocess.Process, log: Path
) -> None:
    began = time.monotonic()
    while not well():
        if process.returncode is not None or time.monotonic() - began > STARTS_WITHIN_S:
            raise RouterError(f"the router did not start; see the end of {log}")
        await asyncio.sleep(0.05)


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        asyncio.get_running_loop().call_later(STOPS_WITHIN_S, _kill_group, process.pid)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
