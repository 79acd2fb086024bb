"""A router that takes TLS only; clients that come to it otherwise, and to other routers."""

import asyncio
import base64
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from hcam_devices.client import connect
from hcam_devices.config.tables import Router
from hcam_devices.wamp import access, certificates, session, utils
from hcam_devices.wamp.access import AccessError, Key, read_key
from hcam_devices.wamp.router import answers, own_address
from hcam_devices.wamp.session import join, keep_joined
from hcam_devices.wamp.uris import Address, address
from hcam_devices.wamp.utils import NotAuthorizedError, RouterError, call
from tests.browser import chromium

from .panel import panel
from .tools import BIN, INSTRUMENT, PATIENCE, Net, soon, until

QUESTION = '{"procedure": "wamp.session.count"}'


class Secure(Net):
    """A network whose router has TLS, on loopback."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.file = home / "secure.toml"
        text = INSTRUMENT.path.read_text()
        settings = f'[router]\ntls = true\nnames = ["router.example"]\nport = {self.port}'
        head, _, rest = text.partition("[router]")
        self.file.write_text(head + settings + rest[rest.index("\n\n") :])

    def key_file(self, name: str = "local") -> Path:
        return self.home / "access" / "keys" / f"{name}.key"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    net = Secure(tmp_path_factory.mktemp("secure"))
    try:
        router = net.start(BIN / "hcam", "router", "--instrument", net.file, log="router.out")
        ca = net.home / "access" / "ca.pem"
        until(lambda: router.poll() is not None or ca.exists())
        assert router.poll() is None, (net.home / "router.out").read_text()
        until(lambda: answers(net.port, ca=ca.read_text()) or router.poll() is not None)
        net.start(BIN / "hwserver", "--emulate", "--devices", "slide", log="hwserver.out")
        net.hcam_here("access", "add", "ada", "--role", "operator", "--instrument", str(net.file))
        yield net
    finally:
        net.end()


@pytest.fixture
def net(network: Secure, monkeypatch: pytest.MonkeyPatch) -> Secure:
    monkeypatch.setenv("HCAM_HOME", str(network.home))
    until(slide_answers)
    return network


def slide_answers() -> bool:
    try:
        return bool(call("hipercam.slide.rpc.telemetry"))
    except utils.NoSuchProcedureError:
        return False


@pytest.mark.parametrize(
    ("listen", "given", "why"),
    [
        ("127.0.0.1", "192.0.2.1", "says that the router is at 192.0.2.1, but it listens on 127.0"),
        ("192.0.2.1", "127.0.0.1", "is at 127.0.0.1, but it listens on 192.0.2.1 only"),
        ("192.0.2.1", "192.0.2.1", "listen = 192.0.2.1, where this machine cannot listen .Cannot"),
        ("127.0.0.2", "127.0.0.2", ""),
        ("0.0.0.0", "127.0.0.1", ""),
    ],
)
def test_the_router_is_where_programs_look_for_it(listen: str, given: str, why: str) -> None:
    router = Router(listen=listen, tls=True, host="router.example")
    if why:
        with pytest.raises(RouterError, match=why):
            own_address(router, Address(given, 8443))
    else:
        assert own_address(router, Address(given, 8443)) == Address("router.example", 8443)


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A key of another site, whose router would be at the same place."""
    ca = certificates.make_missing(tmp_path, {"127.0.0.1"})
    path = tmp_path / "stranger.key"
    access.write_secret(path, Key.new("stranger", "operator", "127.0.0.1:1", ca).as_text())
    return path


def test_a_key_file_is_all_that_a_client_needs(
    net: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither WAMP_SERVER nor an instrument file says where the router is."""
    assert address() == net.address
    ada = read_key(net.key_file("ada"))
    assert ada.router == str(net.address)
    assert ada.ca == (net.home / "access" / "ca.pem").read_text()
    monkeypatch.setenv("HCAM_KEY", str(net.key_file("ada")))
    monkeypatch.delenv("HCAM_HOME")
    assert address() == net.address
    assert call("hipercam.slide.rpc.telemetry")["device"] == "slide"
    with pytest.raises(NotAuthorizedError, match='authid="ada"'):
        call("hipercam.slide.rpc.exchange", "00", confirm=True)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_client_library_finds_key_and_router(net: Secure, stranger: Path) -> None:
    with connect() as instrument:
        assert instrument.slide.set("target_position", 1000) == 1000
    with connect(key=net.key_file("ada")) as instrument:
        assert instrument.slide.position.unit == "pix"
    with pytest.raises(AccessError, match="cannot prove that it is the one of"):
        connect(str(net.address), key=stranger).open()


def test_curl_comes_in_with_a_netrc(net: Secure, tmp_path: Path) -> None:
    """The key file serves as the file of the CA, too."""
    ada = read_key(net.key_file("ada"))
    netrc = tmp_path / ".netrc"
    access.write_secret(netrc, f"machine 127.0.0.1 login ada password {ada.token}\n")
    command = ["curl", "-sS", "--cacert", str(net.key_file("ada")), "--netrc-file", str(netrc)]
    command += ["-H", "Content-Type: application/json", "-d", QUESTION]
    done = subprocess.run(
        [*command, f"https://{ada.router}/call"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert json.loads(done.stdout)["args"][0] > 0, done.stderr


async def test_people_come_in_with_a_browser(net: Secure) -> None:
    async with chromium() as browser, panel(browser, net, ignore_https_errors=True) as page:
        await page.load(scheme="https")
        await expect(page.at("command:slide.block")).to_have_count(0)
        await page.give("ada", read_key(net.key_file("ada")).token)
        await expect(page.at("answer")).to_have_text("You are ada, operator.")
        await expect(page.at("command:slide.block")).to_be_enabled()
        assert f"wss://{net.address}/ws" in page.asked


def post(http: HTTPConnection, **headers: str) -> tuple[int, str]:
    with closing(http):
        http.request("POST", "/call", QUESTION, {"Content-Type": "application/json"} | headers)
        answer = http.getresponse()
        return answer.status, answer.read().decode()


def test_scripts_come_in_with_name_and_token(net: Secure) -> None:
    ada = read_key(net.key_file("ada"))
    secure = ssl.create_default_context(cafile=net.key_file("ada"))
    for token, status in ((ada.token, 200), (f"{ada.token}x", 401)):
        given = base64.b64encode(f"ada:{token}".encode()).decode()
        http = HTTPSConnection("127.0.0.1", net.port, context=secure, timeout=PATIENCE)
        assert post(http, Authorization=f"Basic {given}")[0] == status
    for name, status in (("router.example", 200), ("evil.example", 421)):
        http = HTTPSConnection("127.0.0.1", net.port, context=secure, timeout=PATIENCE)
        assert post(http, Host=name)[0] == status
    http = HTTPSConnection("127.0.0.1", net.port, context=secure, timeout=PATIENCE)
    assert post(http, Origin="https://127.0.0.1")[0] == 403


# --- without TLS where there is TLS, and the reverse ----------------------------------------


def test_plain_http_is_answered_in_words(net: Secure) -> None:
    status, said = post(HTTPConnection("127.0.0.1", net.port, timeout=PATIENCE))
    assert status == 426
    assert "takes TLS only: use https or wss" in said


async def test_who_has_no_key_for_tls_is_told(
    net: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    with pytest.raises(NotAuthorizedError, match="takes TLS only"):
        call("hipercam.slide.rpc.stage.home")
    with pytest.raises(NotAuthorizedError, match=r"takes TLS only.*HCAM_KEY is not set"):
        async with join(net.address):
            pass


def test_older_tls_is_not_spoken(net: Secure) -> None:
    old = ssl.create_default_context(cafile=net.key_file())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="protocol version"):
        old.wrap_socket(
            socket.create_connection(net.address, PATIENCE), server_hostname="127.0.0.1"
        )


async def refusal(where: Address) -> str:
    """Return why a session and a call are refused, in the same words."""
    with pytest.raises(AccessError) as of_session:
        async with join(where):
            pass
    with pytest.raises(RouterError) as of_call:
        call("hipercam.slide.rpc.stage.home")
    assert str(of_session.value) == str(of_call.value)
    return str(of_call.value)


async def test_a_router_without_tls_is_no_router_of_a_key_with_a_ca(
    net: Secure, bare_router: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAMP_SERVER", str(bare_router.address))
    said = await refusal(bare_router.address)
    assert f"what listens at {bare_router.address} does not speak TLS" in said
    assert "nothing was sent" in said


async def test_a_port_that_says_nothing_is_given_up_in_time(
    net: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake of TLS alone would wait for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = Address(*silent.getsockname())
        monkeypatch.setenv("WAMP_SERVER", str(where))
        with pytest.raises(RouterError, match=r"within 0\.2 s: .* has no TLS, which the key asks"):
            call("hipercam.slide.rpc.stage.home", timeout=0.2)
        monkeypatch.setattr(session, "JOIN_WITHIN", 0.2)
        with pytest.raises(TimeoutError):
            async with join(where, within=0.2):
                pass


# --- certificates ---------------------------------------------------------------------------


async def test_a_router_of_another_ca_is_refused(
    net: Secure, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_KEY", str(stranger))
    said = await refusal(net.address)
    assert "cannot prove that it is the one of the key of 'stranger'" in said
    assert "the key trusts hcam CA, " in said
    assert "get a new key file from its machine" in said


async def test_a_name_that_the_certificate_lacks_is_refused(
    net: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Address("localhost", net.port)
    monkeypatch.setenv("WAMP_SERVER", str(where))
    said = await refusal(where)
    assert "not valid for 'localhost'" in said
    assert "add that name to names under [router]" in said


def certificate_of(folder: Path, began: datetime) -> tuple[ssl.SSLContext, Key]:
    """Return what a server needs that began at some time, and a key for it."""
    ca = certificates.make_missing(folder, {"127.0.0.1"}, began)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "router.pem", folder / "router.key")
    return serving, Key.new("ada", "operator", "127.0.0.1:1", ca)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-830, "certificate has expired.*start the router again, which renews it"),
        (30, "not yet valid.*set the clock of this machine right"),
    ],
)
async def test_a_certificate_that_does_not_hold_now_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, words: str
) -> None:
    began = datetime.now(UTC)
    serving, key = certificate_of(tmp_path, began + timedelta(days=min(days, 0)))
    if days > 0:  # the CA holds already
        own = certificates.make_missing(tmp_path / "later", {"127.0.0.1"}, began)
        for name in ("ca.key", "ca.pem"):
            shutil.copy(tmp_path / "later" / name, tmp_path / name)
        serving, key = certificate_of(tmp_path, began + timedelta(days=days))
        assert key.ca == own
    access.write_secret(tmp_path / "ada.key", key.as_text())
    monkeypatch.setenv("HCAM_KEY", str(tmp_path / "ada.key"))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=serving)
    async with server:
        with pytest.raises(AccessError, match=words):
            async with join(Address(*server.sockets[0].getsockname())):
                pass


async def test_a_wrong_certificate_is_no_outage_and_is_told_once(
    net: Secure,
    stranger: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HCAM_KEY", str(stranger))
    monkeypatch.setattr(session, "REFUSED_PAUSE_S", 0.05)
    tries = 0
    opened = session._opened

    async def counted(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        return await opened(*arguments)

    async def joined(_: object) -> None:
        raise AssertionError("it was let in")

    monkeypatch.setattr(session, "_opened", counted)
    caplog.set_level("DEBUG")
    trying = asyncio.create_task(keep_joined(net.address, joined))

    async def tried() -> bool:
        return tries > 3

    await soon(tried)
    trying.cancel()
    [told] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "'stranger'" in told.getMessage()
    assert "trying again every 0.05 s" in told.getMessage()
    assert not [record for record in caplog.records if "no router" in record.getMessage()]
