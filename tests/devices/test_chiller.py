"""The cooling circuit: what the broker says of each temperature, and how old it is."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.core.device import iso_from_s
from hcam_devices.core.link import MAX_UNREAD
from hcam_devices.core.web import Get, Web
from hcam_devices.devices.chiller import Codec, CoolingCircuit, Simulator, measured_at, number
from hcam_devices.errors import ProtocolError, RefusedError
from hcam_devices.host.http import Answer

from ..helpers import (
    AT_MOST,
    ENTRIES,
    Clock,
    fed,
    living,
    offline,
    online,
    presented,
    reasons,
    sample_where,
)

ENTRY = ENTRIES["chiller"]
CODEC = Codec("gtc", "/", "TemperatureSensor3")
VECTOR = json.loads("""
{"id":"TemperatureSensor3","type":"TemperatureSensor",
 "temperature1":{"type":"Number","value":12.3,"metadata":{}},
 "temperature2":{"type":"Number","value":"12.9","metadata":{}},
 "temperature3":{"type":"Number","value":5.0,"metadata":{}}}
""")
FIELDS = ("cab_post_filter", "cab_pre_filter", "ccd_input")


@asynccontextmanager
async def telling(content: Any, **settings: Any) -> AsyncIterator[CoolingCircuit]:
    """Run the device with a broker that says something."""
    simulator = Simulator()
    simulator._known = lambda: content  # type: ignore[method-assign]
    async with presented(ENTRY, simulator, **settings) as device:
        assert isinstance(device, CoolingCircuit)
        yield device


def values(sample: dict[str, Any]) -> list[Any]:
    return [sample[field] and sample[field]["value"] for field in FIELDS]


def test_the_request() -> None:
    assert CODEC.request("entities") == Get(
        "/v2/entities/TemperatureSensor3?metadata=dateModified,*",
        {"fiware-service": "gtc", "fiware-servicePath": "/"},
    )
    assert (
        Codec("gtc", "/", "a b/?\n")
        .request("entities")
        .target.startswith("/v2/entities/a%20b%2F%3F%0A?")
    )


async def test_the_published_answer() -> None:
    async with telling(VECTOR) as device:
        sample = await sample_where(device, online)
        assert values(sample) == [12.3, 12.9, 5.0]
        assert sample["alarms"] == []
        assert sample["state"] == {"connection": "online"}


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b'{"error": "NotFound", "description": "The entity"}', "404: NotFound: The entity"),
        (409, b'{"error": "TooManyResults"}', "409: TooManyResults: None"),
        (400, b"<html>", "400: b'<html>'"),
        (500, b"", "500"),
        (302, b"[]", "302"),
    ],
)
def test_a_refusal_is_told_as_the_broker_told_it(status: int, body: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(why)):
        CODEC.reply(CODEC.request("entities"), Answer(status, body))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"12", b"{", b"[" * 50_000, b"\xff", b'{"id": "y"}', b"{}", b"null"]
)
def test_what_is_not_the_entity_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        CODEC.reply(CODEC.request("entities"), Answer(200, body))


@pytest.mark.parametrize(
    ("said", "value"), [(5, 5.0), (-1.5, -1.5), ("12.9", 12.9), (" -3e0 ", -3.0), (".5", 0.5)]
)
def test_a_number_or_a_text_that_is_one(said: object, value: float) -> None:
    assert number(said) == value


@pytest.mark.parametrize("said", ["NaN", "inf", "", "1_0", "12,9", "warm", True, [], {}, 10**400])
def test_a_value_that_is_not_a_number_is_rejected(said: object) -> None:
    with pytest.raises(ValueError, match="the broker's value is"):
        number(said)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_a_value_becomes_a_float_or_a_value_error(said: object) -> None:
    try:
        assert isinstance(number(said), float)
    except ValueError:
        assert not isinstance(said, float)


@pytest.mark.parametrize("bad", [None, "NaN", "warm", True, [1], float("nan"), float("inf")])
async def test_one_bad_value_takes_no_other_with_it(bad: object) -> None:
    content = VECTOR | {"temperature1": {"value": bad}}
    async with telling(content) as device:
        sample = await sample_where(device, online)
        assert values(sample) == [None, 12.9, 5.0]
        assert re.search("the broker|the hardware answered", reasons(sample, "cab_post_filter"))
        assert len(sample["alarms"]) == 1


@pytest.mark.parametrize("bad", [None, 12.3, "12.3", []])
async def test_an_attribute_that_is_not_there(bad: object) -> None:
    async with telling(VECTOR | {"temperature1": bad}) as device:
        sample = await sample_where(device, online)
        assert values(sample) == [None, 12.9, 5.0]
        assert "has no temperature1" in reasons(sample, "cab_post_filter")


@pytest.mark.parametrize("name", ["TimeInstant", "dateModified"])
async def test_an_old_value_is_unknown(name: str) -> None:
    clock = Clock()
    metadata = {name: {"type": "DateTime", "value": iso_from_s(clock.now)}}
    content = VECTOR | {"temperature3": {"value": 5.0, "metadata": metadata}}
    async with telling(content, clock=clock, oldest=60.0) as device:
        assert values(await sample_where(device, online)) == [12.3, 12.9, 5.0]
        clock.now += 61
        sample = await sample_where(device, lambda sample: sample["ccd_input"] is None)
        assert values(sample) == [12.3, 12.9, None]
        assert "more than 60 s ago" in reasons(sample, "ccd_input")


def test_when_it_was_measured_comes_before_when_it_changed() -> None:
    def at(text: str) -> dict[str, str]:
        return {"type": "DateTime", "value": text}

    old, new = at("2026-11-22T00:00:00Z"), at("2026-11-22T01:00:00.000+00:00")
    early = 1_795_305_600.0
    assert measured_at({}, {"metadata": {"TimeInstant": old, "dateModified": new}}) == early
    assert measured_at({"TimeInstant": old}, {"metadata": {"dateModified": new}}) == early
    assert measured_at({}, {"metadata": {"dateModified": new}}) == early + 3600
    assert measured_at({}, {"metadata": {"dateModified": at("2026-11-22T00:00:00")}}) == early
    assert measured_at({}, {"metadata": []}) is measured_at({}, {}) is None
    for text in ("", "yesterday", None, 5):
        with pytest.raises(ValueError, match="the broker's time is"):
            measured_at({}, {"metadata": {"TimeInstant": {"value": text}}})


@given(st.lists(st.integers(1, 9)))
def test_requests_survive_any_split(sizes: list[int]) -> None:
    stream = b"GET / HTTP/1.1\r\na: b\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n"
    frames = [b"GET / HTTP/1.1\r\na: b", b"GET /v2 HTTP/1.1"]
    assert fed(Simulator.cut, stream, sizes) == frames


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"service": "other"}, "404: NotFound: The requested entity has not been found"),
        ({"entity": "TemperatureSensor9"}, "404: NotFound"),
        ({"service_path": "gtc"}, "400: BadRequest"),
    ],
)
async def test_a_wrong_setting_shows_the_error_of_the_broker(
    settings: dict[str, Any], why: str
) -> None:
    async with presented(ENTRY, Simulator(), **settings) as device:
        sample = await sample_where(device, online)
        assert values(sample) == [None, None, None]
        assert why in reasons(sample, "ccd_input")


@pytest.mark.parametrize(
    ("fault", "chosen", "gone", "why"),
    [
        ("error", {"status": 500}, FIELDS, "the broker answered 500"),
        ("error", {"status": 404}, FIELDS, "the broker answered 404"),
        ("null", {}, FIELDS[:1], "no value for temperature1"),
        ("text", {"attribute": "temperature3"}, FIELDS[2:], "'NaN', not a number"),
        ("missing", {"attribute": "temperature2"}, FIELDS[1:2], "has no temperature2"),
        ("stale", {}, FIELDS[:1], "more than 900 s ago"),
    ],
)
async def test_what_the_broker_does_not_know_is_null_with_a_reason(
    fault: str, chosen: dict[str, Any], gone: tuple[str, ...], why: str
) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as device:
        await sample_where(device, online)
        simulator.simulate(fault, **chosen)
        bad = await sample_where(device, lambda sample: sample[gone[0]] is None)
        assert online(bad)
        assert [field for field in FIELDS if bad[field] is None] == list(gone)
        assert why in reasons(bad, gone[0])
        simulator.simulate("clear")
        await sample_where(device, lambda sample: None not in values(sample))


@pytest.mark.parametrize(
    ("fault", "chosen", "why"),
    [
        ("identity", {}, "with 'TemperatureSensor4' instead"),
        ("garbage", {}, "not HTTP|did not answer"),
        ("flip", {}, "this is not HTTP"),
        ("drop", {}, "this is not HTTP"),
        ("insert", {}, "this is not HTTP"),
        ("silence", {}, "did not answer within"),
        ("late", {"seconds": AT_MOST}, "did not answer within"),
        ("busy", {}, "did not answer within|closed"),
        ("split", {"gap": 1}, "did not answer within"),
        ("disconnect", {"when": "before"}, "not HTTP|closed"),
        ("disconnect", {"when": "during"}, "not HTTP|closed"),
        ("refuse", {}, "not HTTP|closed"),
    ],
)
async def test_a_broker_that_cannot_be_heard_is_offline_until_it_can(
    fault: str, chosen: dict[str, Any], why: str
) -> None:
    simulator = Simulator()
    async with presented(ENTRY, simulator) as device:
        await sample_where(device, online)
        device.link.timeout = 0.3
        simulator.simulate(fault, **chosen)
        lost = await sample_where(device, offline)
        assert re.search(why, reasons(lost))
        assert values(lost) == [None, None, None]
        simulator.simulate("clear")
        device.link.timeout = AT_MOST
        await sample_where(device, online)


@pytest.mark.parametrize(
    ("fault", "chosen"),
    [("split", {"size": 50, "gap": 0.001}), ("double", {}), ("delay", {"seconds": 0.02})],
)
async def test_slow_split_and_doubled_answers_are_read(fault: str, chosen: dict[str, Any]) -> None:
    simulator = Simulator()
    simulator.simulate(fault, **chosen)
    async with presented(ENTRY, simulator, timeout=AT_MOST) as device:
        assert None not in values(await sample_where(device, online))


async def test_without_a_broker_it_is_offline() -> None:
    device = ENTRY.build(port=1, poll_every=0.02)
    async with living(device):
        assert reasons(await sample_where(device, offline)) == "127.0.0.1:1 refused the connection"


# --- the link to web servers ------------------------------------------------------------------


class Page:
    """A path, and what comes of it as it is."""

    def request(self, ref: str, value: None = None) -> Get:
        return Get(ref)

    def reply(self, request: Get, answer: Answer) -> Answer:
        return answer


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[Web]:
    """Serve an answer in pieces, and then hang up; give a link to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.close()
        except ConnectionError:
            pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Web(port=server.sockets[0].getsockname()[1], timeout=AT_MOST)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"Content-Length: 5\r\n\r\nhello and more",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"),
        (OK + b"Connection: close\r\n\r\nhel", b"lo"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello",),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 5\r\n\r\n", b"hello"),
    ],
)
async def test_a_body_ends_as_its_header_says(pieces: tuple[bytes, ...]) -> None:
    async with answering(*pieces) as link:
        assert (await link.ask(Page(), "/"))[:2] == (200, b"hello")


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"SSH-2.0-OpenSSH\r\n",),
        (OK,),
        (OK + b"Content-Length: 9\r\n\r\nhello",),
        (OK + b"Content-Length: nine\r\n\r\nhello",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",),
        (OK + b"a: b\r\n" * 9999,),
        (OK + b"\r\n", b"x" * (MAX_UNREAD + 1)),
    ],
)
async def test_what_is_not_a_whole_answer_is_none(pieces: tuple[bytes, ...]) -> None:
    async with answering(*pieces) as link:
        with pytest.raises((ProtocolError, ConnectionResetError)):
            await link.ask(Page(), "/")


async def test_what_cannot_be_sent_is_a_mistake_of_the_caller() -> None:
    async with answering() as link:
        with pytest.raises(ValueError, match="cannot be sent"):
            await link.ask(Page(), "/with blank")
