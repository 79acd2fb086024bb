"""Whatever is sent to whatever is declared: refused with a sentence, and nothing else happens."""

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any, NamedTuple

import pytest
from autobahn.wamp.exception import ApplicationError

from .conftest import DEVICES
from .tools import INSTRUMENT, PATIENCE, Client, Follower, Net, Sample, client

INVALID = "com.hipercam.error.invalid_argument"


class Bad(NamedTuple):
    """Something that nothing accepts, and what of it the refusal mentions."""

    value: Any
    said: str


BAD = [
    Bad(math.nan, "nan"),
    Bad(math.inf, "inf"),
    Bad(-math.inf, "-inf"),
    Bad(1e9, "1e+09|1000000000"),
    Bad(10**30, "1e+30|1" + "0" * 30),
    Bad("abc", "abc"),
    Bad("", "''"),
    Bad("1e9", "1e+09|1e9"),
    Bad("nan", "nan"),
    Bad([1, 2], "[1, 2]"),
    Bad({"a": 1}, "{'a': 1}"),
    Bad({"value": math.nan, "unit": "deg_C"}, "nan|pix"),
    Bad({"value": 1, "unit": "furlong"}, "furlong"),
    Bad({"value": [1], "unit": "pix"}, "[1]"),
    Bad({"value": 1, "unit": None}, "None"),
    Bad("5 kg", "kg"),
    Bad(b"\x00\xff", "b'"),
    Bad(True, "True"),
    Bad([[[[[[[["x" * 100_000]]]]]]]], "[[[[[[[["),
]
NULL = Bad(None, "None")
"""For whatever does not have null as its default."""


class Attempt(NamedTuple):
    """A call that has to be refused, with what the refusal has to mention."""

    procedure: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    said: str


def attempts(procedure: str, described: dict[str, Any]) -> list[Attempt]:
    """Return everything wrong that can be done to a procedure."""
    parameters, rest = described["parameters"], described["rest"]
    names = [name for name in parameters["properties"] if name != rest]
    required = parameters["required"]
    found = []
    found.append(Attempt(procedure, (), {"nonsense": 1}, "nonsense|argument"))
    found.append(Attempt(procedure, (1,) * 9, {}, "argument"))
    if required:
        found.append(Attempt(procedure, (), {}, "argument"))
    for bad in BAD if names else []:
        said = bad.said if len(required) < 2 else "argument"
        found.append(Attempt(procedure, (bad.value,), {}, said))
    if required:
        said = NULL.said if len(required) < 2 else "argument"
        found.append(Attempt(procedure, (None,), {}, said))
    if not names:
        found += [Attempt(procedure, (bad.value,), {}, "argument") for bad in (*BAD, NULL)]
    return found


async def refusal(session: Client, device: str, attempt: Attempt) -> None:
    uri = f"hipercam.{device}.rpc.{attempt.procedure}"
    with pytest.raises(ApplicationError) as caught:
        await asyncio.wait_for(session.call(uri, *attempt.args, **attempt.kwargs), PATIENCE)
    assert caught.value.error == INVALID, f"{attempt}: {caught.value}"
    (said,) = caught.value.args
    assert any(word in said for word in attempt.said.split("|")), f"{attempt}: {said}"
    assert len(said) < 600, attempt


def what_is_set(sample: Sample, paths: list[list[str]]) -> list[Any]:
    """Return what may change only by command: a state, and the setpoints at some paths."""
    return [sample["state"].get("stage"), *(setting(sample, path) for path in paths)]


def setting(sample: Sample, path: list[str]) -> Any:
    """Return the value at a path of telemetry; None if a part of the path is null."""
    value: Any = sample
    for key in path:
        value = value and value[key]
    return value


def refused(field: str, said: str) -> Callable[[Sample], bool]:
    """Return whether the alarms of a sample say that, and why, a setpoint was refused."""
    return lambda sample: any(
        alarm["reason"].startswith(f"{field} refused: ")
        and any(word in alarm["reason"] for word in said.split("|"))
        for alarm in sample["alarms"]
        if alarm["field"] == field
    )


FIRST = {INSTRUMENT.entries[name].cls: name for name in reversed(DEVICES)}
"""The first device of each class; only a soak tries the others."""


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(name, marks=[pytest.mark.soak] * (name not in FIRST.values()))
        for name in DEVICES
    ],
)
async def test_bad_arguments_are_refused_and_change_nothing(net: Net, device: str) -> None:
    async with client(net.address) as session:
        described = await session.call(f"hipercam.{device}.rpc.describe")
        setpoints = [name for name, field in described["fields"].items() if field["settable"]]
        paths = [described["fields"][name]["path"] for name in setpoints]
        telemetry = await Follower.of(session, f"hipercam.{device}.telemetry")
        before = what_is_set(
            await telemetry.until(lambda s: None not in what_is_set(s, paths)[1:]), paths
        )
        names = [device, *described["aliases"]]

        every = [
            attempt
            for name, procedure in described["procedures"].items()
            for attempt in attempts(name, procedure)
            if name != "simulate"  # without a fault it says what there is
        ]
        await asyncio.gather(*(refusal(session, device, attempt) for attempt in every))
        for bad in (*BAD, NULL):  # by topic: the reason is an alarm until the next good one
            for name in names:
                for setpoint in setpoints:
                    session.publish(f"hipercam.{name}.{setpoint}", bad.value)
            for setpoint in setpoints:
                await telemetry.until(refused(setpoint, bad.said))
        for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"confirm": True})):
            for setpoint in setpoints:
                begin = len(telemetry.heard)
                session.publish(f"hipercam.{device}.{setpoint}", *args, **kwargs)
                await telemetry.until(lambda s: "one value" in str(s["alarms"]), begin)

        newest = telemetry.heard[-1]
        assert what_is_set(newest, paths) == before
        for setpoint, path in zip(setpoints, paths, strict=True):
            value = setting(newest, path)
            good = 3 if value == "HW Enable" else value
            session.publish(f"hipercam.{device}.{setpoint}", good)
        await telemetry.until(
            lambda s: "refused" not in str(s["alarms"]) and what_is_set(s, paths) == before,
            len(telemetry.heard) - 1,
        )
        assert (await session.call(f"hipercam.{device}.rpc.describe")) == described


async def test_leaving_a_protected_value_needs_confirm_true(net: Net) -> None:
    async with client(net.address) as session:
        for attempt in (
            Attempt("set_stage_enable1", (0,), {}, "confirm=True"),
            Attempt("set_stage_enable1", ("Static OFF",), {"confirm": "yes"}, "confirm=True"),
            Attempt("set_stage_enable1", (0,), {"confirm": 1}, "confirm=True"),
            Attempt("set_stage_enable1", (0, True), {}, "argument"),
            Attempt("stage_enable1.targetSet", (0,), {}, "confirm=True"),
            Attempt("set_stage_enable1", (1,), {"confirm": True}, "not one of"),
        ):
            await refusal(session, "meerstetter1", attempt)
        telemetry = await Follower.of(session, "hipercam.meerstetter1.telemetry")
        session.publish("hipercam.meerstetter1.stage_enable1", 0)
        sample = await telemetry.until(lambda s: "confirm=True" in str(s["alarms"]))
        assert sample["stage_enable1"] == "HW Enable"
        session.publish("hipercam.meerstetter1.stage_enable1", 3)
        await telemetry.next(lambda s: not s["alarms"])


HTTP = [
    ("NaN", "nan"), ("Infinity", "inf"), ("1e999", "inf"), ("1e9", "1e+09"), ('"abc"', "abc"),
    ("null", "None"), ("[1, 2]", "[1, 2]"), ("{}", "{}"), ('"5 kg"', "kg"), ("", "argument"),
    ("1, 2", "argument"), ("9" * 4000, "not within"), ("[" * 390 + "]" * 390, "[[["),
]  # fmt: skip


def post(net: Net, body: str) -> Any:
    with closing(HTTPConnection(net.address.host, net.port, timeout=PATIENCE)) as http:
        token = {"Authorization": f"Bearer {net.key('local').token}"}
        http.request("POST", "/call", body, token)
        return json.loads(http.getresponse().read())


async def test_bad_arguments_over_http_are_refused(net: Net) -> None:
    for text, said in HTTP:
        body = f'{{"procedure": "hipercam.slide.rpc.set_target_position", "args": [{text}]}}'
        answer = post(net, body)
        assert answer["error"] == INVALID, text
        assert said in answer["args"][0]


async def test_a_message_that_cannot_be_answered_disturbs_nobody(net: Net) -> None:
    """What it quotes is so long that the answer would be more than the router takes."""
    async with (
        client(net.address) as session,
        client(net.address, key=net.key("hwlogger")) as recorder,
    ):
        lost = await Follower.of(recorder, "wamp.registration.on_delete")
        for attempt in (
            Attempt("stage.move", (), {"\0" * 400_000: 1}, "argument"),
            Attempt("set_target_position", ("1 " + "x" * 900_000,), {}, "x"),
        ):
            with pytest.raises(ApplicationError) as caught:
                await session.call(
                    f"hipercam.slide.rpc.{attempt.procedure}", *attempt.args, **attempt.kwargs
                )
            assert caught.value.error == INVALID
        with pytest.raises(ApplicationError, match=r"no_such_procedure"):
            await session.call("hipercam.slide.rpc." + "z" * 900_000)
        assert not lost.heard


async def test_reset_takes_only_whole_numbers_as_an_address(net: Net) -> None:
    async with client(net.address) as session:
        for value in (True, 1.0):
            await refusal(session, "meerstetter2", Attempt("reset", (value,), {}, "address"))


@pytest.mark.parametrize("value", [[1], None, {}, 0])
async def test_simulate_refuses_what_is_no_name(net: Net, value: Any) -> None:
    async with client(net.address) as session:
        await refusal(session, "slide", Attempt("simulate", (value,), {}, "fault"))


async def test_white_space_does_not_stop_the_server(net: Net) -> None:
    async with client(net.address) as session, asyncio.timeout(PATIENCE):
        text = "1" + " " * 15_000 + "a\nb"
        await refusal(session, "slide", Attempt("set_target_position", (text,), {}, "number"))


async def test_a_message_too_deep_for_us_costs_no_more_than_a_moment(net: Net) -> None:
    """The router passes it on, and our serializer then ends the session."""
    deep = "[" * 600 + "]" * 600
    body = f'{{"procedure": "hipercam.slide.rpc.set_target_position", "args": [{deep}]}}'
    answer = post(net, body)
    assert answer["error"] in (INVALID, "wamp.error.canceled")
    net.wait_for_devices("slide")
