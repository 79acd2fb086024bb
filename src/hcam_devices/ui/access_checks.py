"""The checks of ``hcam doctor`` of the router and of who may use it."""

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

import psutil
from cryptography import x509

from ..config.instrument import Instrument, line_of
from ..config.router import EVERY_NETWORK
from ..config.stores import InfluxDB
from ..host.addresses import addresses_of
from ..host.installation import LOCK, installed_router, router_folders, this_program
from ..host.threads import in_own_thread
from ..wamp import access, roles
from ..wamp import certificates as pki
from ..wamp.legacy import PORT
from ..wamp.uris import Address
from .checks import ANSWER_WITHIN_S, HERE, Finding, Level, Site
from .troubles import count

MIN_DAYS: Mapping[Level, int] = {"ERR": 7, "WARN": 30}
"""A certificate that ends in fewer days is an error, or a warning."""
RESTART = "systemctl restart hcam-router, or stop hcam up and start it again"


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


async def listeners(site: Site) -> list[Finding]:
    """Check that nothing listens to other machines but a router that should, with TLS and keys."""
    ours = {heard.about.pid for heard in site.servers.values() if heard.about.host == HERE}
    on = site.instrument.router if site.instrument else None
    guests = _where_1_7_may_connect(site)
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
        if (ip, port) in guests:
            continue  # which version_1_7 reports
        if not ip_address(ip.removeprefix("::ffff:")).is_loopback:
            process = f"process {connection.pid}" if connection.pid else "a process"
            text = f"{process} listens to other machines, on {ip} port {port}"
            cure = f"kill {connection.pid or 'it'}, and start it with {this_program()}"
            found.append(Finding("ERR", HERE, text, cure))
    open_at = [on.listen] if on and on.is_open else []
    open_at += [f"{ip} for programs of version 1.7" for ip, _ in guests[1:]]
    who = f"only the router, at {' and at '.join(open_at)}," if open_at else "nothing of ours"
    return found or [Finding("OK", HERE, f"{who} accepts connections from other machines")]


def _where_1_7_may_connect(site: Site) -> list[tuple[str, int]]:
    """Return addresses and ports without keys: on the router's machine first, then to others."""
    if site.instrument is None or not site.instrument.legacy.enabled:
        return []
    port = PORT if site.instrument.router.tls else site.address.port
    return [(ip, port) for ip in ("127.0.0.1", *site.instrument.legacy.listen)]


async def version_1_7(site: Site) -> list[Finding]:
    """Report who may command without a key because programs of version 1.7 may."""
    if site.instrument is None or not site.instrument.legacy.enabled:
        return []
    where = f"{site.file}:{line_of(site.file, 'legacy')}"
    here, *guests = [f"{ip} port {port}" for ip, port in _where_1_7_may_connect(site)]
    rights = "may command as an operator, without a key, in realm1 and over HTTP"
    text = f"every program on the router's machine {rights} ({here})"
    found = [Finding("OK", where, f"{text}; commands are recorded with the address of the program")]
    if guests:
        text = f"everybody who reaches {' or '.join(guests)} {rights}, in clear text"
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
    file = site.file
    if site.instrument and site.instrument.notify and file.stat().st_mode & stat.S_IRWXO:
        text = "everybody can read the URLs of [notify], which are secrets"
        yield Finding("ERR", str(file), text, f"chmod o= {file}")


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
        return [Finding("WARN", where, f"{who}, which is not one of those of people", cure)]
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
