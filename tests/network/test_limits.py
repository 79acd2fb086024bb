"""What a client may take from the others depends on its role; a refusal says limit and value."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions

from hcam_devices.wamp.router import ROLES

from .test_door import call, log, send, start
from .test_door_people import Access, Member, guarded_config, join
from .tools import PATIENCE, Net, client, until

MEBI = 2**20
MOST = 40
"""Connections to the router."""
LIMITS = {
    "observer": {"message": 2000, "unread": 2 * MEBI, "at_once": 3, "idle_s": 1},
    "device": {"message": MEBI, "unread": 16 * MEBI, "at_once": 100, "idle_s": None},
}
NOT_AUTHORIZED = "wamp.error.not_authorized"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router whose roles may do everything, within limits; there are few connections."""
    net = Net(tmp_path_factory.mktemp("limits"))
    Access(net.home / "people.json").write("{}")
    config = guarded_config(net, net.home / "people.json")
    [worker] = config["workers"]
    [transport] = worker["transports"]
    for realm in worker["realms"]:
        realm["roles"] = [ROLES[0] | {"name": name} for name in LIMITS]
    transport["max_connections"] = MOST
    # A client that does not read answers no ping either.
    transport["paths"]["ws"]["options"]["auto_ping_timeout"] = 1000 * round(PATIENCE)
    for name in ("call", "publish"):
        transport["paths"][name]["extra"]["limits"] = LIMITS
    try:
        start(net, config)
        yield net
        assert not re.search("Traceback|Unhandled|cannot be", log(net))
    finally:
        net.end()


@pytest.fixture
def access(net: Net) -> Access:
    """The people of the router: nobody yet."""
    access = Access(net.home / "people.json")
    access.write("{}")
    return access


@pytest.fixture
async def otto(net: Net, access: Access) -> AsyncIterator[Member]:
    """An observer."""
    async with join(net, access.add("otto", "observer")) as session:
        await session.subscribe(print, "hipercam.otto")  # a subscriber is not idle
        yield session


@pytest.fixture
async def device(net: Net, access: Access) -> AsyncIterator[Member]:
    """A server; its procedure returns the length of a text."""
    async with join(net, access.add("server", "device")) as session:
        await session.register(len, "hipercam.length")
        yield session


async def test_a_long_message_is_refused_in_words(otto: Member, device: Member) -> None:
    heard: list[object] = []
    await device.subscribe(heard.append, "hipercam.topic")
    assert await otto.call("hipercam.length", "x" * 1000) == 1000
    refused = r"message has 30\d\d bytes, and role observer may send 2000"
    with pytest.raises(ApplicationError, match=refused) as caught:
        await otto.call("hipercam.length", "x" * 3000)
    assert caught.value.error == NOT_AUTHORIZED
    acknowledged = PublishOptions(acknowledge=True)
    with pytest.raises(ApplicationError, match=refused):
        await otto.publish("hipercam.topic", "x" * 3000, options=acknowledged)
    otto.publish("hipercam.topic", "x" * 3000)
    otto.publish("hipercam.topic", "y")
    await otto.call("wamp.session.count")
    await device.call("wamp.session.count")
    assert heard == ["y"]
    assert await device.call("hipercam.length", "x" * 30_000) == 30_000
    device.publish("hipercam.topic", "x" * 30_000)  # an observer may hear long messages


async def test_a_long_request_is_refused_in_words(net: Net, access: Access, device: Member) -> None:
    otto, server = access.add("hans", "observer"), access.add("server2", "device")
    body = call("hipercam.length", "x" * 3000)
    status, text, _ = await asyncio.to_thread(send, net, "/call", body, otto.bearer())
    answer = json.loads(text)
    assert (status, answer["error"]) == (413, NOT_AUTHORIZED)
    assert answer["args"] == [f"the message has {len(body)} bytes, and role observer may send 2000"]
    status, text, _ = await asyncio.to_thread(send, net, "/call", body, server.bearer())
    assert (status, json.loads(text)) == (200, {"args": [3000]})


async def test_a_subscriber_may_leave_as_much_unread_as_its_role_allows(
    net: Net, access: Access, otto: Member, device: Member
) -> None:
    async with join(net, access.add("slow", "device")) as slow:
        for session in (otto, slow):
            await session.subscribe(print, "hipercam.flood")
            session.pause()
        for session, messages in ((otto, 6), (slow, 40)):
            while session.session_id in await device.call("wamp.session.list"):
                for _ in range(messages):
                    device.publish("hipercam.flood", "x" * 400_000)
    until(lambda: re.search(r"left \d{7} bytes unread \(role observer: at most 2097152", log(net)))
    until(lambda: re.search(r"left \d{8} bytes unread \(role device: at most 16777216", log(net)))


async def test_a_name_may_have_some_sessions(net: Net, access: Access) -> None:
    hans, grete = access.add("hans", "observer"), access.add("grete", "observer")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            first = await stack.enter_async_context(join(net, hans))
        refused = "{} has 3 sessions or requests already, and role observer may have 3"
        with pytest.raises(ApplicationError, match=refused.format("hans")) as caught:
            await stack.enter_async_context(join(net, hans))
        assert caught.value.error == NOT_AUTHORIZED
        await stack.enter_async_context(join(net, grete))
        for _ in range(3):
            await stack.enter_async_context(client(net.address, key=None))
        with pytest.raises(ApplicationError, match=refused.format("anonymous")):
            await stack.enter_async_context(client(net.address, key=None))
        first.leave()
        await first.ended
        await stack.enter_async_context(join(net, hans))


async def test_a_name_may_have_some_requests_without_answer(
    net: Net, access: Access, device: Member
) -> None:
    hans = access.add("hans", "observer")
    waiting, ready = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> None:
        waiting.release()
        await ready.wait()

    await device.register(slow, "hipercam.slow")
    body = call("hipercam.slow")
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.to_thread(send, net, "/call", body, hans.bearer()))
            await waiting.acquire()
        status, text, _ = await asyncio.to_thread(send, net, "/call", body, hans.bearer())
        assert (status, json.loads(text)["error"]) == (429, NOT_AUTHORIZED)
        assert "hans has 3 sessions or requests" in json.loads(text)["args"][0]
        assert (await asyncio.to_thread(send, net, "/call", body[:-1], hans.bearer()))[0] == 400
        ready.set()
    status, _, _ = await asyncio.to_thread(send, net, "/call", body, hans.bearer())
    assert status == 200


async def test_who_neither_speaks_nor_listens_is_shown_out(
    net: Net, access: Access, otto: Member, device: Member
) -> None:
    async with join(net, access.add("hans", "observer")) as idle:
        details = await idle.ended
    assert details.reason == "wamp.close.idle"
    assert details.message == "it was idle for more than the 1 s that role observer may be"
    assert {otto.session_id, device.session_id} <= {*await device.call("wamp.session.list")}


async def test_silent_connections_keep_nobody_out(net: Net, access: Access, device: Member) -> None:
    waiting, ready = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        waiting.set()
        await ready.wait()

    await device.register(slow, "hipercam.slow")
    async with asyncio.TaskGroup() as group:
        request = group.create_task(asyncio.to_thread(send, net, "/call", call("hipercam.slow")))
        await waiting.wait()
        silent = []
        for number in range(5):
            for _ in range(MOST):
                with suppress(ConnectionError):  # closed at once where there are too many
                    silent.append(socket.create_connection(("127.0.0.1", net.port)))
            async with join(net, access.add(f"server{number}", "device")) as other:
                assert await other.call("wamp.session.count") >= 2
        ready.set()
        assert (await request)[0] == 200
    assert await device.call("hipercam.length", "still there") == 11
    for connection in silent:
        connection.close()
