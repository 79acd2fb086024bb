"""Who may do what, with keys, against a real router."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from autobahn.wamp.exception import ApplicationError, TransportLost
from autobahn.wamp.types import PublishOptions, RegisterOptions, SubscribeOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp import session as sessions
from hcam_devices.wamp.access import Key, read_key
from hcam_devices.wamp.owner import Owner
from hcam_devices.wamp.session import keep_joined

from ..conftest import Scaled
from ..wamp.rights import Declared, Right, rights
from .tools import Client, Net, client, soon

INSTRUMENT = load()
DECLARED = Declared(INSTRUMENT)
AT_ONCE = 300
REFUSED = ("wamp.error.not_authorized", "wamp.error.invalid_uri")
"""Names that are none may be published to and registered by nobody."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router, to which stand-ins come and no servers, so that nothing moves."""
    net = Net(tmp_path_factory.mktemp("guarded"))
    try:
        net.start_router()
        for role in ("observer", "operator"):
            net.hcam_here("access", "add", role, "--role", role)
        for name in DECLARED.strangers:
            net.hcam_here("access", "add", name, "--role", "device", "--server", name)
        yield net
    finally:
        net.end()


@pytest.fixture
def net(guarded: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    monkeypatch.setenv("HCAM_HOME", str(guarded.home))
    monkeypatch.setenv("WAMP_SERVER", str(guarded.address))
    return guarded


def key(net: Net, name: str) -> Key:
    return read_key(net.home / "access" / "keys" / f"{name}.key")


def keys(net: Net) -> dict[str, Key | None]:
    """Return a key for each role; and for who has none."""
    found: dict[str, Key | None] = {}
    for role, server in DECLARED.roles.items():
        found[role] = key(net, server or {"engineer": "local"}.get(role, role))
    return found


@asynccontextmanager
async def standing_in(net: Net) -> AsyncIterator[None]:
    """Answer for every device and server, each under the key of its own."""
    async with AsyncExitStack() as stack:
        for server in {*DECLARED.servers, *DECLARED.strangers}:
            session = await stack.enter_async_context(client(net.address, key=key(net, server)))
            for uri in {uri for uri, owner in DECLARED.owner.items() if owner == server}:
                if uri.endswith("."):
                    await session.register(
                        lambda *_, **__: "stood in", uri, RegisterOptions("prefix")
                    )
        yield


def match_of(uri: str) -> str:
    if ".." in uri:
        return "wildcard"
    return "prefix" if uri.endswith(".") else "exact"


def possible(right: Right) -> bool:
    """Return whether autobahn sends it at all: a pattern can be neither called nor published to."""
    return right.action in ("register", "subscribe") or match_of(right.uri) == "exact"


async def attempt(session: Client, right: Right) -> None:
    """Do something once. Raises ApplicationError if it is refused, or fails."""
    match right.action:
        case "call":
            await session.call(right.uri)
        case "publish":
            await session.publish(right.uri, options=PublishOptions(acknowledge=True))
        case "subscribe":
            heard = SubscribeOptions(match_of(right.uri))
            await (await session.subscribe(lambda *_, **__: None, right.uri, heard)).unsubscribe()
        case "register":
            offered = RegisterOptions(match_of(right.uri))
            await (await session.register(lambda: None, right.uri, offered)).unregister()


async def allowed(session: Client, right: Right) -> bool:
    """Return whether the router lets a session do something, whatever comes of it."""
    try:
        await attempt(session, right)
    except ApplicationError as error:
        return error.error not in REFUSED
    return True


async def surprises(session: Client, wanted: list[Right]) -> list[str]:
    """Try everything; return what was allowed and should not be, and the reverse."""
    found = []
    for begin in range(0, len(wanted), AT_ONCE):
        some = wanted[begin : begin + AT_ONCE]
        results = await asyncio.gather(*(allowed(session, right) for right in some))
        found += [
            f"{right.role}: {right.action} {right.uri} {'allowed' if result else 'refused'}"
            for right, result in zip(some, results, strict=True)
            if result != right.should
        ]
    return found


async def try_role(net: Net, role: str, own: Key | None, wanted: list[Right]) -> None:
    async with client(net.address, key=own) as session:
        assert session.role == role
        assert await surprises(session, wanted) == []


async def try_everything(net: Net, scaled: Scaled, *actions: str) -> None:
    """Try all rights in a soak, and otherwise every fifth: of each role, and of each action."""
    wanted = [right for right in rights(INSTRUMENT) if right.action in actions and possible(right)]
    for role, own in [*keys(net).items(), ("observer", None)]:
        mine = [right for right in wanted if right.role == role]
        assert len(mine) > 800
        mine = mine[:: scaled(5, soak=1)]
        try:
            await try_role(net, role, own, mine)
        except TransportLost:  # the router ends the session of a starved test: once more
            await try_role(net, role, own, mine)


async def test_every_role_may_do_what_it_should_and_nothing_else(net: Net, scaled: Scaled) -> None:
    async with standing_in(net):
        await try_everything(net, scaled, "call", "publish", "subscribe")


async def test_every_server_may_register_its_names_and_nobody_else(
    net: Net, scaled: Scaled
) -> None:
    """Without stand-ins: that a name is taken is said to those, too, who may not have it."""
    await try_everything(net, scaled, "register")


@pytest.mark.parametrize("name", ["local", "hwserver"])
async def test_no_key_but_the_own_is_taken(net: Net, name: str) -> None:
    right = key(net, name)
    stranger = Key.new(name, right.role, right.router)
    pretender = Key(name, right.role, right.router, key(net, "observer").key, "")
    for wrong in (stranger, pretender):
        with pytest.raises(ApplicationError, match="does not know this key"):
            async with client(net.address, key=wrong):
                pass


async def test_who_is_added_may_join_at_once_and_who_is_removed_is_shown_out(net: Net) -> None:
    path = Path(net.hcam("access", "add", "ada", "--role", "operator").strip())
    async with client(net.address, key=read_key(path)) as session:
        assert session.role == "operator"
        assert "ada" in net.hcam("access", "list")
        net.hcam("access", "remove", "ada")

        async def gone() -> bool:
            return not session.is_attached()

        await soon(gone)
    assert path not in [*(net.home / "access" / "keys").iterdir()]


async def test_a_refusal_is_no_outage_and_is_told_once(
    net: Net, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sessions, "REFUSED_PAUSE_S", 0.05)
    joined = asyncio.Event()
    tries = 0

    async def register(session: sessions.Session) -> None:
        nonlocal tries
        tries += 1
        await session.claim(lambda: None, "hipercam.slide.rpc.", "prefix")
        joined.set()

    owner = Owner("hserver", "2026-11-30T00:00:00.000Z")
    caplog.set_level("DEBUG")
    trying = asyncio.create_task(keep_joined(net.address, register, owner=owner))

    async def tried() -> bool:
        return tries > 3

    await soon(tried)
    trying.cancel()
    [told] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "refuses 'hserver'" in told.getMessage()
    assert "not authorized to register" in told.getMessage()
    assert not [record for record in caplog.records if "no router" in record.getMessage()]
    assert not joined.is_set()


def test_a_command_that_is_refused_says_why(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    path = net.home / "access" / "keys" / "observer.key"
    monkeypatch.setenv("HCAM_KEY", str(path))
    said = net.hcam_here("call", "slide.stage.home", code=1)
    assert "not authorized" in said
    said = net.hcam_here("publish", "slide.target_position", "1", code=1)
    assert "there is no hipercam.slide.target_position" in said
    path.chmod(0o644)
    said = net.hcam_here("watch", "--once", code=1)
    path.chmod(0o600)
    assert f"chmod 600 {path}" in said


def test_mistakes_of_the_command_line(net: Net) -> None:
    add = "access", "add", "bob", "--role"
    assert "needs --server" in net.hcam_here(*add, "device", code=2)
    assert "did you mean hwserver" in net.hcam_here(*add, "device", "--server", "hwservr", code=1)
    assert "64 hexadecimal" in net.hcam_here(*add, "observer", "--public", "12", code=1)
    assert "there is no 'bob'" in net.hcam_here("access", "remove", "bob", code=1)
    assert "bob" not in net.hcam_here("access", "list")
