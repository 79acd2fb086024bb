"""Who may come in at the router's door, by signature, token or key, and who is shown out."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.message import Goodbye
from autobahn.wamp.types import CallDetails, RegisterOptions
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hcam_devices.config.instrument import load
from hcam_devices.wamp import utils
from hcam_devices.wamp.access import AccessError, Key, write_secret
from hcam_devices.wamp.router import configuration, shipped, with_door

from .test_door import call, log, send, start
from .tools import PATIENCE, ROUTER_PYTHON, Client, Net, client, soon, until

ROUTER = "router.example:8080"
NOT_AUTHORIZED = "wamp.error.not_authorized"
RULES: dict[str, dict[str, str]] = {
    "observer": {"hipercam.look": "call"},
    "operator": {"hipercam.": "call publish"},
    "device": {"hipercam.": "register subscribe", "wamp.": "call"},
}
"""What roles may do, with the URIs that begin so."""


def role(name: str) -> dict[str, Any]:
    """Return the configuration of a role."""
    actions = ("call", "register", "publish", "subscribe")
    return {
        "name": name,
        "permissions": [
            {
                "uri": uri,
                "match": "prefix",
                "allow": {action: action in allowed.split() for action in actions},
                "disclose": {"caller": True, "publisher": True},
                "cache": True,
            }
            for uri, allowed in ({"": ""} | RULES[name]).items()
        ],
    }


@dataclass
class Person:
    """A name with its secrets."""

    name: str
    role: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    token: str = field(default_factory=secrets.token_urlsafe)

    @property
    def public(self) -> str:
        return self.key.public_key().public_bytes_raw().hex()

    @property
    def secret(self) -> bytes:
        return hashlib.sha256(self.token.encode()).digest()

    def entry(self) -> dict[str, Any]:
        return {"role": self.role, "keys": [self.public], "token": self.secret.hex()}

    def basic(self) -> tuple[str, str]:
        given = base64.b64encode(f"{self.name}:{self.token}".encode()).decode()
        return "Authorization", f"Basic {given}"

    def bearer(self) -> tuple[str, str]:
        return "Authorization", f"Bearer {self.token}"

    def signed(
        self,
        body: bytes,
        path: str = "/call",
        router: str = ROUTER,
        age: float = 0.0,
        at: str | None = None,
    ) -> tuple[str, str]:
        """Return the header of a signed request."""
        signed_at, nonce = at or f"{time.time() - age:.6f}", secrets.token_hex(8)
        hashed = hashlib.sha256(body).hexdigest()
        text = "\n".join(("hcam1", "POST", path, router, signed_at, nonce, hashed))
        mac = hmac.digest(self.secret, text.encode(), "sha256").hex()
        value = f"Hcam name={self.name},time={signed_at},nonce={nonce},mac={mac}"
        return "Authorization", value


class Access:
    """The file of people that a router reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Any] = {}

    def add(self, name: str, role: str) -> Person:
        person = Person(name, role)
        self.change(name, **person.entry())
        return person

    def change(self, name: str, **entry: Any) -> None:
        self.entries[name] = self.entries.get(name, {}) | entry
        self.write(json.dumps(self.entries))

    def remove(self, name: str) -> None:
        del self.entries[name]
        self.write(json.dumps(self.entries))

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)


def guarded_config(net: Net, people: Path) -> dict[str, Any]:
    """Return a configuration with roles, in which anonymous callers observe."""
    config = configuration(load(), net.port)
    [worker] = config["workers"]
    [transport] = worker["transports"]
    for realm in worker["realms"]:
        realm["roles"] = [role(name) for name in RULES]
    paths = transport["paths"]
    with_door(config, [])
    extra = paths["call"]["extra"] | {
        "anonymous": "observer",
        "people": str(people),
        "router": ROUTER,
    }
    door = {"type": "resource", "classname": "door.Door", "extra": extra}
    closed = door | {"extra": extra | {"anonymous": None}}
    paths |= {"call": door, "publish": door, "closed": {"type": "path", "paths": {"call": closed}}}
    paths["ws"]["auth"] = {
        "anonymous": {"type": "static", "role": "observer"},
        "cryptosign": {
            "type": "function",
            "create": "people.create",
            "config": {"people": str(people)},
        },
    }
    return config


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    net = Net(tmp_path_factory.mktemp("people"))
    Access(net.home / "people.json").write("{}")
    try:
        start(net, guarded_config(net, net.home / "people.json"))
        yield net
        assert not re.search("connections cannot be|session cannot|request cannot", log(net))
    finally:
        net.end()


@pytest.fixture
def access(net: Net) -> Access:
    """The people of the router: nobody yet."""
    access = Access(net.home / "people.json")
    access.write("{}")
    return access


class Member(Client):
    """A session that joins with the key of a person; it keeps the reason why it was shown out."""

    def __init__(self, person: Person, key: Ed25519PrivateKey | None = None) -> None:
        super().__init__("hipercam")
        self.person, self.signs_with = person, key or person.key
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.deaf = False

    def onConnect(self) -> None:
        extra = {"pubkey": self.person.public}
        self.join("hipercam", ["cryptosign"], self.person.name, authextra=extra)

    def onChallenge(self, challenge: Any) -> str:
        data = bytes.fromhex(challenge.extra["challenge"])
        return self.signs_with.sign(data).hex() + data.hex()

    def onMessage(self, message: Any) -> None:
        if not (self.deaf and isinstance(message, Goodbye)):
            super().onMessage(message)

    def onLeave(self, details: Any) -> None:
        if not self.joined.done():
            self.joined.set_exception(ApplicationError(details.reason, details.message))
        if not self.ended.done():
            self.ended.set_result(details)
        super().onLeave(details)


@contextlib.asynccontextmanager
async def join(net: Net, person: Person, **options: Any) -> AsyncIterator[Member]:
    """Join as a person."""
    member = Member(person, **options)
    async with client(net.address, session=member):
        yield member


Called = list[tuple[str, str | None, str | None]]


@pytest.fixture
async def called(net: Net, access: Access) -> AsyncIterator[Called]:
    """What was called, by whom, with which role."""
    found: Called = []
    async with join(net, access.add("server", "device")) as server:
        for name in ("look", "move"):

            def note(*_: Any, details: CallDetails, name: str = name) -> None:
                found.append((name, details.caller_authid, details.caller_authrole))

            await server.register(note, f"hipercam.{name}", RegisterOptions(details_arg="details"))
        yield found


async def ask(net: Net, body: bytes, *headers: tuple[str, str], path: str = "/call") -> Any:
    """Return the status and the error, if any, of a request."""
    status, text, _ = await asyncio.to_thread(send, net, path, body, *headers)
    return status, json.loads(text).get("error")


LOOK, MOVE = call("hipercam.look"), call("hipercam.move", 1)
WAYS: list[Callable[[Person, bytes], tuple[str, str]]] = [
    Person.signed,
    lambda person, _: person.basic(),
    lambda person, _: person.bearer(),
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_has_a_name_and_the_rights_of_its_role(
    net: Net, access: Access, called: Called, way: Callable[[Person, bytes], tuple[str, str]]
) -> None:
    anna, otto = access.add("anna", "operator"), access.add("otto", "observer")
    assert await ask(net, MOVE, way(anna, MOVE)) == (200, None)
    assert await ask(net, MOVE, way(otto, MOVE)) == (200, NOT_AUTHORIZED)
    assert await ask(net, LOOK, way(otto, LOOK)) == (200, None)
    assert called == [("move", "anna", "operator"), ("look", "otto", "observer")]


async def test_who_gives_no_name_only_observes(net: Net, called: Called) -> None:
    assert await ask(net, LOOK) == (200, None)
    assert await ask(net, MOVE) == (200, NOT_AUTHORIZED)
    assert called == [("look", "anonymous at 127.0.0.1", "observer")]


async def test_without_a_role_for_the_nameless_all_must_give_a_name(
    net: Net, access: Access, called: Called
) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, LOOK, path="/closed/call") == (401, NOT_AUTHORIZED)
    assert await ask(net, LOOK, anna.bearer(), path="/closed/call") == (200, None)
    assert called == [("look", "anna", "operator")]


@pytest.fixture
def key_file(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Person], Path]:
    """Make a key file and let ``call`` and ``publish`` use it."""
    path = tmp_path / "anna.key"
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_KEY", str(path))

    def write(person: Person) -> Path:
        seed = person.key.private_bytes_raw().hex()
        key = Key(person.name, person.role, str(net.address), seed, person.token)
        write_secret(path, key.as_text())
        return path

    return write


async def test_a_script_calls_and_publishes_with_the_name_in_its_key_file(
    net: Net,
    access: Access,
    called: Called,
    key_file: Callable[[Person], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key_file(access.add("anna", "operator"))
    for host in ("127.0.0.1", "LocalHost"):
        monkeypatch.setenv("WAMP_SERVER", f"{host}:{net.port}")
        await asyncio.to_thread(utils.call, "hipercam.move", 1)
    await asyncio.to_thread(utils.publish, "hipercam.topic", 1)
    assert called == 2 * [("move", "anna", "operator")]


async def test_a_script_without_a_key_file_only_observes(
    net: Net, called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    await asyncio.to_thread(utils.call, "hipercam.look")
    with pytest.raises(utils.NotAuthorizedError, match="set HCAM_KEY to a key file"):
        await asyncio.to_thread(utils.call, "hipercam.move", 1)
    assert called == [("look", "anonymous at 127.0.0.1", "observer")]


async def test_a_script_reads_its_key_file_again_when_it_was_refused(
    net: Net, access: Access, called: Called, key_file: Callable[[Person], Path]
) -> None:
    key_file(access.add("anna", "operator"))
    await asyncio.to_thread(utils.call, "hipercam.move", 1)
    key_file(access.add("anna", "operator"))
    with pytest.raises(utils.NotAuthorizedError, match="not signed with the token of 'anna'"):
        await asyncio.to_thread(utils.call, "hipercam.move", 2)
    await asyncio.to_thread(utils.call, "hipercam.move", 3)
    assert len(called) == 2


async def test_a_script_sends_nothing_with_a_key_file_that_others_can_read(
    net: Net, access: Access, called: Called, key_file: Callable[[Person], Path]
) -> None:
    key_file(access.add("anna", "operator")).chmod(0o644)
    with pytest.raises(AccessError, match="chmod 600"):
        await asyncio.to_thread(utils.call, "hipercam.move", 1)
    assert not called


async def test_a_signed_request_is_carried_out_once(
    net: Net, access: Access, called: Called
) -> None:
    header = access.add("anna", "operator").signed(MOVE)
    assert await ask(net, MOVE, header) == (200, None)
    for _ in range(2):
        assert await ask(net, MOVE, header) == (401, NOT_AUTHORIZED)
    assert called == [("move", "anna", "operator")]


SIGNERS: dict[str, Callable[[Net, Person], tuple[tuple[str, str], ...]]] = {
    "its name": lambda _, person: (person.signed(MOVE),),
    "its address": lambda net, person: (person.signed(MOVE, router=f"127.0.0.1:{net.port}"),),
    "the name in Host": lambda net, person: (
        person.signed(MOVE, router=f"localhost:{net.port}"),
        ("Host", f"LOCALHOST:{net.port}"),
    ),
}


@pytest.mark.parametrize("sign", SIGNERS.values(), ids=SIGNERS)
async def test_a_request_is_signed_for_a_name_of_the_router(
    net: Net,
    access: Access,
    called: Called,
    sign: Callable[[Net, Person], tuple[tuple[str, str], ...]],
) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, MOVE, *sign(net, anna)) == (200, None)
    assert len(called) == 1


async def test_a_request_is_not_signed_for_a_router_at_another_port(
    net: Net, access: Access, called: Called
) -> None:
    elsewhere = f"127.0.0.1:{net.port - 1}"
    header = access.add("anna", "operator").signed(MOVE, router=elsewhere)
    assert await ask(net, MOVE, header, ("Host", elsewhere)) == (401, NOT_AUTHORIZED)
    assert not called


IMPORTS = """
import json, sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
import crossbar
crossbar._import_serializers_quietly()
import door
"""
"""The beginning of a program in the router's environment."""

AGES = """
class Clock:
    now = 1000.0
    def time(self): return self.now
    monotonic = time

door.time = Clock()
signatures = door.Signatures("router")

def accepts(mac, age):
    try:
        signatures._require_new(mac, str(door.time.now - age))
    except door.RefusedError:
        return False
    return True

door.time.now += 10
young = [accepts(f"young {age}", age) for age in (-31, -29, 0, 9, 11)]
door.time.now += 90
old = [accepts(f"old {age}", age) for age in (-31, -29, 0, 29, 31)]
again = []
for passed in (0, 1, 28, 30):
    door.time.now += passed
    again.append(accepts("old -29", 0))
door.time.now += 61
accepts("last", 0)
print(json.dumps([young, old, again, len(signatures._used)]))
"""


def test_a_signature_is_valid_for_a_while_and_not_from_before_the_router_s_start(
    tmp_path: Path,
) -> None:
    said = Net(tmp_path).run(ROUTER_PYTHON, "-c", IMPORTS + AGES, shipped().parent)
    young, old, again, kept = json.loads(said)
    assert young == [False, True, True, True, False]
    assert old == [False, True, True, True, False]
    assert again == [False, False, False, False]
    assert kept == 1


TOKEN_FROM = """
def accepts(host, secure):
    request = SimpleNamespace(
        getClientAddress=lambda: SimpleNamespace(host=host), isSecure=lambda: secure
    )
    try:
        door._require_private(request)
    except door.RefusedError as error:
        return error.status
    return True

hosts = ("127.0.0.1", "127.1.2.3", "::1", "10.77.0.2", "fe80::1")
print(json.dumps([[accepts(host, secure) for host in hosts] for secure in (False, True)]))
"""


def test_a_token_is_not_taken_over_a_network_without_tls(tmp_path: Path) -> None:
    said = Net(tmp_path).run(ROUTER_PYTHON, "-c", IMPORTS + TOKEN_FROM, shipped().parent)
    assert json.loads(said) == [[True, True, True, 403, 403], [True] * 5]


FORGED: dict[str, Callable[[Person], tuple[str, str]]] = {
    "another body": lambda person: person.signed(LOOK),
    "another path": lambda person: person.signed(MOVE, path="/publish"),
    "another router": lambda person: person.signed(MOVE, router="other.example:8080"),
    "40 s old": lambda person: person.signed(MOVE, age=40),
    "40 s in the future": lambda person: person.signed(MOVE, age=-40),
    "not a number": lambda person: person.signed(MOVE, at="nan"),
    "no time": lambda person: person.signed(MOVE, at="now"),
    "another token": lambda person: Person("anna", "operator").signed(MOVE),
    "another name": lambda person: Person("otto", "operator", token=person.token).signed(MOVE),
    "no signature": lambda _: ("Authorization", "Hcam name=anna"),
    "another mac": lambda _: ("Authorization", "Hcam name=anna,time=1,nonce=1,mac=\xff"),
    "wrong token": lambda _: Person("anna", "operator").basic(),
    "token of nobody": lambda _: Person("anna", "operator").bearer(),
    "token of somebody else": lambda person: Person("otto", "", token=person.token).basic(),
    "no token": lambda _: Person("anna", "operator", token="").basic(),
    "not base64": lambda _: ("Authorization", "Basic anna:secret"),
    "hash for token": lambda person: ("Authorization", f"Bearer {person.secret.hex()}"),
    "unknown scheme": lambda person: ("Authorization", f"Digest {person.token}"),
    "nothing": lambda _: ("Authorization", ""),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_forged_request_is_refused(
    net: Net, access: Access, called: Called, forge: Callable[[Person], tuple[str, str]]
) -> None:
    anna = access.add("anna", "operator")
    access.add("otto", "operator")
    access.change("nina", role="operator", keys=[], token=None)
    assert await ask(net, MOVE, forge(anna)) == (401, NOT_AUTHORIZED)
    assert not called
    _, _, headers = await asyncio.to_thread(send, net, "/call", MOVE, forge(anna))
    assert dict(headers)["www-authenticate"] == 'Basic realm="hipercam"'


async def test_two_names_are_none(net: Net, access: Access, called: Called) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, MOVE, anna.bearer(), anna.basic()) == (401, NOT_AUTHORIZED)
    assert not called


async def test_a_page_or_another_name_is_refused_whoever_sends(
    net: Net, access: Access, called: Called
) -> None:
    anna = access.add("anna", "operator")
    origin, host = ("Origin", "null"), ("Host", "evil.test")
    assert await ask(net, MOVE, anna.signed(MOVE), origin) == (403, NOT_AUTHORIZED)
    assert await ask(net, MOVE, anna.basic(), host) == (421, NOT_AUTHORIZED)
    assert not called


async def test_the_clocks_are_told_when_they_differ(net: Net, access: Access) -> None:
    anna = access.add("anna", "operator")
    _, text, _ = await asyncio.to_thread(send, net, "/call", MOVE, anna.signed(MOVE, age=40))
    assert "the router's clock is at 1" in json.loads(text)["args"][0]


def test_a_request_from_before_the_router_s_start_is_refused(tmp_path: Path) -> None:
    net = Net(tmp_path)
    access = Access(tmp_path / "people.json")
    anna = access.add("anna", "operator")
    header = anna.signed(LOOK)
    try:
        start(net, guarded_config(net, access.path))
        assert send(net, "/call", LOOK, header)[0] == 401
        assert send(net, "/call", LOOK, anna.signed(LOOK))[0] == 200
    finally:
        net.end()


async def test_a_key_lets_in_and_nothing_else_does(net: Net, access: Access) -> None:
    anna, otto = access.add("anna", "operator"), access.add("otto", "observer")
    async with join(net, anna) as member:
        assert (member.authid, member.authrole) == ("anna", "operator")
    for person, key in (
        (anna, otto.key),
        (Person("anna", "operator"), None),
        (Person("anna", "operator", key=otto.key), None),
        (Person("nobody", "operator"), None),
    ):
        with pytest.raises(ApplicationError) as refused:
            async with join(net, person, key=key):
                pass
        assert refused.value.error == NOT_AUTHORIZED
    async with client(net.address) as session:
        assert session.authrole == "observer"


CHANGES: dict[str, tuple[Callable[[Access], None], str]] = {
    "removed": (lambda access: access.remove("anna"), "'anna' was removed"),
    "role": (lambda access: access.change("anna", role="observer"), "the role observer now"),
    "key": (lambda access: access.change("anna", keys=[]), "this key of 'anna' was removed"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
async def test_who_may_no_longer_be_in_is_shown_out(
    net: Net, access: Access, change: Callable[[Access], None], reason: str
) -> None:
    anna, otto = access.add("anna", "operator"), access.add("otto", "observer")
    async with join(net, anna) as one, join(net, anna) as two, join(net, otto) as other:
        change(access)
        for member in (one, two):
            details = await asyncio.wait_for(member.ended, PATIENCE)
            assert details.reason == "wamp.close.access_changed"
            assert reason in details.message
        with pytest.raises(ApplicationError, match="no_such_procedure"):
            await other.call("hipercam.look")
        assert not other.ended.done()


async def test_who_does_not_leave_is_cut_off(net: Net, access: Access) -> None:
    async with join(net, access.add("anna", "operator")) as member:
        member.deaf = True
        access.remove("anna")
        await asyncio.wait_for(member.ended, PATIENCE)


async def test_a_change_holds_for_the_next_request(
    net: Net, access: Access, called: Called
) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, None)
    access.change("anna", role="observer")
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, NOT_AUTHORIZED)
    access.remove("anna")
    for header in (anna.signed(MOVE), anna.bearer(), anna.basic()):
        assert await ask(net, MOVE, header) == (401, NOT_AUTHORIZED)
    assert len(called) == 1


async def test_the_session_of_a_removed_caller_ends_after_its_calls(
    net: Net, access: Access
) -> None:
    anna, started, ready = access.add("anna", "operator"), asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        started.set()
        await ready.wait()
        return "done"

    async with join(net, access.add("server", "device")) as server:

        async def names() -> list[str]:
            found = []
            for number in await server.call("wamp.session.list"):
                with contextlib.suppress(ApplicationError):  # it has gone meanwhile
                    found.append((await server.call("wamp.session.get", number))["authid"])
            return found

        await server.register(slow, "hipercam.slow")
        body = call("hipercam.slow")
        asked = asyncio.create_task(ask(net, body, anna.signed(body)))
        await started.wait()
        access.remove("anna")
        assert await ask(net, LOOK, anna.bearer()) == (401, NOT_AUTHORIZED)
        for _ in range(3):  # what shows out has looked
            async with join(net, access.add("otto", "operator")) as otto:
                access.remove("otto")
                await asyncio.wait_for(otto.ended, PATIENCE)
        assert "anna" in await names()
        ready.set()
        assert await asked == (200, None)

        async def gone() -> bool:
            return "anna" not in await names()

        await soon(gone)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"otto": {}}', '{"otto": {"role": 1, "keys": [], "token": null}}',
     '{"otto": {"role": "operator", "keys": ["ab"], "token": null}}',
     '{"otto": {"role": "operator", "keys": [], "token": ""}}'],
)  # fmt: skip
async def test_a_damaged_list_changes_nothing(
    net: Net, access: Access, called: Called, text: str
) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, None)
    before = len(log(net))
    access.write(text)
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, None)
    until(lambda: "people known before stay" in log(net)[before:])
    async with join(net, anna):
        pass
    access.remove("anna")
    assert await ask(net, MOVE, anna.signed(MOVE)) == (401, NOT_AUTHORIZED)


async def test_a_missing_list_changes_nothing(net: Net, access: Access, called: Called) -> None:
    anna = access.add("anna", "operator")
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, None)
    access.path.unlink()
    assert await ask(net, MOVE, anna.signed(MOVE)) == (200, None)
