"""HTTP at the router's door: what Crossbar's bridge answers, and refusals of web pages."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallResult, SubscribeOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp import utils
from hcam_devices.wamp.router import answers, configuration, shipped, with_door
from hcam_devices.wamp.uris import MAX_MESSAGE_BYTES

from .tools import PATIENCE, ROUTER_PYTHON, Client, Net, client, soon, until

Headers = list[tuple[str, str]]


def start(net: Net, config: dict[str, Any]) -> None:
    """Start our router with a configuration."""
    (net.home / "config.json").write_text(json.dumps(config))
    guarded = shipped().with_name("guarded_crossbar.py")
    options = ("--cbdir", net.home, "--config", "config.json", "--loglevel", "warn")
    router = net.start(ROUTER_PYTHON, guarded, "start", *options, log="router.log")
    until(lambda: answers(net.port) or router.poll() is not None)
    assert router.poll() is None, log(net)


def log(net: Net) -> str:
    return (net.home / "router.log").read_text()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router with our door, and beside it Crossbar's bridge."""
    net = Net(tmp_path_factory.mktemp("door"))
    config = configuration(load(), net.port)
    [transport] = config["workers"][0]["transports"]
    bridge = {f"bridge-{name}": transport["paths"][name] for name in ("call", "publish")}
    with_door(config, ["Router.example"])
    transport["paths"] |= bridge
    websocket = transport["paths"]["ws"]
    lax = websocket["options"] | {"allow_null_origin": True}
    transport["paths"]["lax-ws"] = websocket | {"options": lax}
    try:
        start(net, config)
        yield net
        # The answer with bytes, and nothing else.
        assert log(net).count("request cannot be answered") == 1
        assert "Unhandled error in Deferred" not in log(net)
    finally:
        net.end()


@pytest.fixture
async def callee(router: Net) -> AsyncIterator[Client]:
    """A session with procedures that answer in every way."""
    async with client(router.address) as session:

        def fail(*args: Any, **kwargs: Any) -> None:
            raise ApplicationError("com.example.error", *args, **kwargs)

        procedures = {
            "echo": lambda *args, **kwargs: [list(args), kwargs],
            "nothing": lambda: None,
            "many": lambda: CallResult(1, 2, a=3),
            "none": CallResult,
            "fail": fail,
            "bytes": lambda: b"\xff",
            "fail_with_bytes": lambda: fail(b"\xff"),
        }
        for name, procedure in procedures.items():
            await session.register(procedure, f"hipercam.{name}")
        yield session


def send(
    net: Net, path: str, body: bytes, *headers: tuple[str, str], method: str = "POST"
) -> tuple[int, bytes, Headers]:
    """Send a request; return status, body and headers (lower case) of the answer."""
    with closing(HTTPConnection("127.0.0.1", net.port, timeout=PATIENCE)) as http:
        names = {name.lower() for name, _ in headers}
        http.putrequest(method, path, skip_host="host" in names)
        for name, value in (("Content-Length", str(len(body))), *headers):
            http.putheader(name, value)
        http.endheaders(body)
        response = http.getresponse()
        found = [(name.lower(), value) for name, value in response.getheaders()]
        return response.status, response.read(), found


def call(procedure: str, *args: object, **kwargs: object) -> bytes:
    """Return the body of a call."""
    return json.dumps({"procedure": procedure, "args": args, "kwargs": kwargs}).encode()


JSON = ("Content-Type", "application/json")
COUNT = call("wamp.session.count")
REQUESTS = [
    ("call", call("hipercam.echo", 1, -0.5, "µ", None, [[]], a={"b": True}), ()),
    ("call", call("hipercam.echo", "\x00", 2**53, b="b"), (JSON,)),
    ("call", call("hipercam.echo"), (("Content-Type", "Application/JSON; Charset=utf-8"),)),
    ("call", b'{"procedure": "hipercam.echo"}', ()),
    ("call", b'{"procedure": "hipercam.echo", "args": ["\\ud83d\\ude00"]}', ()),
    ("call", b'{"procedure": "hipercam.echo", "args": null, "kwargs": null, "more": 1}', ()),
    ("call", b'{"procedure": "hipercam.echo", "args": [NaN]}', ()),
    ("call", call("hipercam.echo") + b"\n", (("X-Other", "x"),)),
    ("call", call("hipercam.nothing"), ()),
    ("call", call("hipercam.many"), ()),
    ("call", call("hipercam.none"), ()),
    ("call", call("hipercam.fail"), ()),
    ("call", call("hipercam.fail", "why", 1, a=[2]), ()),
    ("call", call("hipercam.nobody"), ()),
    ("call", call("hipercam.echo", "x" * (MAX_MESSAGE_BYTES - 100)), ()),
    ("publish", b'{"topic": "hipercam.topic", "args": [1], "kwargs": {"a": 2}}', ()),
    ("publish", b'{"topic": "hipercam.topic", "options": {"exclude": [1], "retain": null}}', ()),
    ("publish", b'{"topic": "wamp.topic"}', ()),
]  # fmt: skip
BAD = [
    ("call", b"", ()),
    ("call", b"{", ()),
    ("call", b"[]", ()),
    ("call", b"\xff", ()),
    ("call", b'{"args": [1]}', ()),
    ("call", COUNT, (("Content-Type", "text/plain"),)),
    ("call", COUNT, (("Content-Type", "application/json; charset=latin-1"),)),
    ("call", b" " * (MAX_MESSAGE_BYTES + 1), ()),
    ("publish", b'{"procedure": "hipercam.topic"}', ()),
    ("publish", b'{"topic": "hipercam.topic", "args": ' + b"[" * 2000 + b"]" * 2000 + b"}", ()),
]


@pytest.mark.parametrize(("path", "body", "headers"), REQUESTS)
async def test_a_request_is_answered_as_by_crossbars_bridge(
    router: Net, callee: Client, path: str, body: bytes, headers: Headers
) -> None:
    ours, theirs = [
        await asyncio.to_thread(send, router, f"/{before}{path}", body, *headers)
        for before in ("", "bridge-")
    ]
    answer, expected = (json.loads(text) for _, text, _ in (ours, theirs))
    if path == "publish" and "id" in expected:
        answer["id"] = expected["id"]
    assert (ours[0], repr(answer)) == (theirs[0], repr(expected))
    assert dict(ours[2])["content-type"] == dict(theirs[2])["content-type"]


@pytest.mark.parametrize(("path", "body", "headers"), BAD)
def test_a_request_is_refused_as_by_crossbars_bridge(
    router: Net, path: str, body: bytes, headers: Headers
) -> None:
    ours, theirs = (send(router, f"/{before}{path}", body, *headers) for before in ("", "bridge-"))
    assert ours[0] == theirs[0] in (400, 413)
    assert json.loads(ours[1]).keys() == json.loads(theirs[1]).keys()


@pytest.mark.parametrize(
    "body",
    [
        b'{"procedure": "not a uri"}',
        b'{"procedure": "hipercam.echo", "args": ["\\uD800"]}',
        b'{"topic": "hipercam.topic", "args": [{"\\ude00": 1}]}',
        b'{"procedure": 1}',
        b'{"procedure": "hipercam.echo", "args": 1}',
        b'{"procedure": "hipercam.echo", "args": "abc"}',
        b'{"procedure": "hipercam.echo", "kwargs": [1]}',
        b'{"procedure": "hipercam.echo", "kwargs": {"procedure": 1}}',
        b'{"procedure": "hipercam.echo", "kwargs": {"options": 1}}',
        b'{"topic": "hipercam.topic", "options": 1}',
        b'{"topic": "hipercam.topic", "options": {"retain": 1}}',
        b'{"topic": "hipercam.topic", "kwargs": {"options": 1}}',
    ],
)
def test_what_cannot_be_sent_is_refused(router: Net, body: bytes) -> None:
    path = "/publish" if b"topic" in body else "/call"
    status, text, _ = send(router, path, body)
    assert (status, json.loads(text).keys()) == (400, {"error", "args", "kwargs"})


async def test_bytes_are_told_of_where_json_has_none(router: Net, callee: Client) -> None:
    status, text, _ = await asyncio.to_thread(send, router, "/call", call("hipercam.bytes"))
    assert (status, json.loads(text)["error"]) == (500, "wamp.error.runtime_error")
    body = call("hipercam.fail_with_bytes")
    status, text, _ = await asyncio.to_thread(send, router, "/call", body)
    expected = {"error": "com.example.error", "args": [r"(b'\xff',)"], "kwargs": {}}
    assert (status, json.loads(text)) == (200, expected)


PAGES = [
    *(
        ("Origin", origin)
        for origin in ("https://example.org", "null", "", "http://127.0.0.1:8080")
    ),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-site"),
]


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("header", PAGES)
async def test_a_web_page_commands_nothing(
    router: Net, callee: Client, method: str, header: tuple[str, str]
) -> None:
    heard: list[object] = []
    await callee.register(heard.append, "hipercam.command")
    await callee.subscribe(heard.append, "hipercam.topic")
    for path, key in (("/call", "procedure"), ("/publish", "topic")):
        uri = {"procedure": "hipercam.command", "topic": "hipercam.topic"}[key]
        body = json.dumps({key: uri, "args": [1]}).encode()
        status, text, headers = await asyncio.to_thread(
            send, router, path, body, header, method=method
        )
        assert (status, json.loads(text)["error"]) == (403, "wamp.error.not_authorized")
        assert not [name for name, _ in headers if name.startswith("access-control")]
    await callee.call("wamp.session.count")  # the publication has arrived
    assert not heard


UPGRADE = (
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="), ("Sec-WebSocket-Protocol", "wamp.2.json"),
    ("Origin", "null"),
)  # fmt: skip


async def test_without_the_looks_at_origins_pages_would_get_through(
    router: Net, callee: Client
) -> None:
    """Otherwise the tests of what is refused would prove nothing."""

    async def status(path: str, body: bytes, *headers: tuple[str, str]) -> int:
        method = "POST" if body else "GET"
        return (await asyncio.to_thread(send, router, path, body, *headers, method=method))[0]

    for path, expected in (("/call", 403), ("/bridge-call", 200)):
        assert await status(path, call("hipercam.echo"), ("Origin", "null")) == expected
    for path, expected in (("/ws", 400), ("/lax-ws", 101)):
        assert await status(path, b"", *UPGRADE) == expected


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "DELETE"])
def test_other_methods_are_refused(router: Net, method: str) -> None:
    status, _, headers = send(router, "/call", COUNT, method=method)
    assert (status, dict(headers)["allow"]) == (405, "POST, PUT")


@pytest.mark.parametrize(
    "hosts",
    [("evil.test",), ("evil.test:8080",), ("127.0.0.1.evil.test",), ("127.0.0.1", "evil.test"),
     ("127.0.0.2",), ("::1",), ("",), ("evil.test#127.0.0.1",)],
)  # fmt: skip
def test_a_request_to_another_name_is_refused(router: Net, hosts: tuple[str, ...]) -> None:
    status, text, _ = send(router, "/call", COUNT, *(("Host", host) for host in hosts))
    assert (status, json.loads(text)["error"]) == (421, "wamp.error.not_authorized")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8080", "router.example:80"]
)
def test_a_request_to_a_name_of_the_router_is_answered(router: Net, host: str) -> None:
    status, text, _ = send(router, "/call", COUNT, ("Host", host), ("Sec-Fetch-Site", "none"))
    assert (status, list(json.loads(text))) == (200, ["args"])


async def test_what_is_retained_over_http_has_a_bound(router: Net) -> None:
    large, topic = "x" * 400_000, "hipercam.hoard.{}"

    async def retained(number: int) -> list[object]:
        async with client(router.address) as session:
            heard: list[object] = []
            options = SubscribeOptions(get_retained=True)
            await session.subscribe(heard.append, topic.format(number), options)
            await session.call("wamp.session.count")  # the retained event comes first
            return heard

    for number in range(100):
        body = {"topic": topic.format(number), "args": [large], "options": {"retain": True}}
        status, _, _ = await asyncio.to_thread(send, router, "/publish", json.dumps(body).encode())
        assert status == 200
    assert await retained(99) == [large]
    assert await retained(0) == []


async def test_callers_get_a_new_session_when_theirs_was_killed(
    router: Net, callee: Client
) -> None:
    assert (await asyncio.to_thread(send, router, "/call", COUNT))[0] == 200
    before = await callee.call("wamp.session.list")
    for number in {*before} - {callee.session_id}:
        await callee.call("wamp.session.kill", number)

    async def killed() -> bool:
        return not {*before} & {*await callee.call("wamp.session.list")} - {callee.session_id}

    await soon(killed)
    status, text, _ = await asyncio.to_thread(send, router, "/call", COUNT)
    assert (status, json.loads(text)) == (200, {"args": [2]})


async def test_a_call_goes_on_when_its_caller_has_gone(
    router: Net, callee: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAMP_SERVER", str(router.address))
    called, ready, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        called.set()
        await ready.wait()
        done.set()

    await callee.register(slow, "hipercam.slow")
    with pytest.raises(utils.OutcomeUnknownError):
        await asyncio.to_thread(utils.call, "hipercam.slow", timeout=0.2)
    await called.wait()
    ready.set()
    await done.wait()
    await callee.call("wamp.session.count")
    assert await asyncio.to_thread(utils.call, "hipercam.nothing") is None
