"""Every name of the network contract, for every device there is, through the real router."""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from hcam_devices.config.instrument import load
from hcam_devices.core.device import iso_from_s
from hcam_devices.devices.pdr900 import VacuumGauge
from hcam_devices.journal import Journal
from hcam_devices.wamp import utils
from hcam_devices.wamp.agent import Agent
from hcam_devices.wamp.owner import Owner
from hcam_devices.wamp.session import keep_joined
from hcam_devices.wamp.utils import call, publish

from .conftest import DEVICES
from .tools import ROUTER_PYTHON, Follower, Net, Sample, as_json, client, plain, soon

RACKS = "meerstetter1", "meerstetter2"
GAUGES = [f"pressure{n}" for n in range(1, 6)]
HEADS = [f"ccd{n}" for n in range(1, 6)]


def channels(count: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of each channel, numbered from 1."""
    return {f"{name}{n}": what for n in range(1, count + 1) for name, what in fields.items()}


RACK = channels(
    3, status="", heatsink="deg_C", current="A", temperature="deg_C",
    target_temperature="deg_C", stage_enable="",
)  # fmt: skip
HEAD = {
    "pressure": "mbar", "flow": "l / min", "heatsink": "deg_C", "peltier_current": "A",
    "peltier_status": "", "setpoint": "deg_C", "temperature": "deg_C", "state_reason": "",
}  # fmt: skip
ARMS = {"pickoff_angle": "deg", "injection_angle": "deg"}
FIELDS: dict[str, dict[str, str]] = {
    **{name: RACK for name in RACKS},
    **{name: {"pressure": "mbar"} for name in GAUGES},
    "flow": channels(6, pen="l / min", alarm=""),
    "slide": {"position": "pix"},
    **{name: HEAD for name in HEADS},
    "compo_lens": {"position": "mm"},
    "compo_arms": ARMS,
    "compo": ARMS | {"lens_position": "mm"},
    "rack": dict.fromkeys(
        ("rack_temp_bottom", "rack_temp_middle", "rack_temp_top", "dewpoint"), "deg_C"
    ),
    "gps": dict.fromkeys(("num_sats", "time_valid", "pps_valid", "synced"), ""),
    "chiller": dict.fromkeys(("ccd_input", "cab_pre_filter", "cab_post_filter"), "deg_C"),
    "rackpc": {"cpu": "%", "mem": "%", "net_in": "MB / s", "net_out": "MB / s"},
}
COMMON = {"device", "seq", "epoch", "timestamp", "state", "alarms"}
MACHINES = {
    "slide": {"stage"},
    "compo_lens": {"stage"},
    "compo_arms": {"pickoff", "injection"},
    "compo": {"pickoff", "injection", "stage", "arms", "lens"},
} | {name: {"health", "coolant", "overheating", "vacuum", "cooling"} for name in HEADS}
SENSOR = ("enable", "disable")
CONTROLLER = (*SENSOR, "targetSet")
MOTOR = ("enable", "disable", "home", "positionSet", "move", "stop")
EVENTS: dict[str, dict[str, tuple[str, ...]]] = {
    **{
        name: channels(3, status=SENSOR, heatsink=SENSOR, current=SENSOR)
        | channels(3, temperature=CONTROLLER, stage_enable=CONTROLLER)
        for name in RACKS
    },
    **{name: {"gauge": SENSOR} for name in GAUGES},
    "flow": channels(6, pen=SENSOR),
    "slide": {"stage": MOTOR},
    "compo_lens": {"stage": MOTOR},
    "compo_arms": {"pickoff": MOTOR, "injection": MOTOR},
}
SETPOINTS = {
    **{name: list(channels(3, target_temperature=0, stage_enable=0)) for name in RACKS},
    "slide": ["target_position"],
    "compo_lens": ["target_position"],
    "compo_arms": [f"target_{name}" for name in ARMS],
    "compo": [*(f"target_{name}" for name in ARMS), "target_lens_position"],
    **{name: ["setpoint"] for name in HEADS},
}
COMMANDS = {
    **{name: ["reset"] for name in RACKS},
    "slide": ["block", "unblock", "enable", "disable", "reset"],
    "compo_lens": ["enable", "disable", "reset"],
    "compo_arms": ["power_on_axis", "power_off_axis"],
}

RETAINED = """
import asyncio, json, sys
from autobahn.asyncio.component import Component
from autobahn.wamp.types import SubscribeOptions
url, *topics = sys.argv[1:]
component = Component(realm="hipercam", transports=[
    {"type": "websocket", "url": url, "serializers": ["msgpack"]}])
@component.on_join
async def joined(session, details):
    heard = {}
    def hear(event, topic):
        heard[topic] = event
        if len(heard) == len(topics):
            print(json.dumps([heard[topic] for topic in topics]), flush=True)
            session.leave()
    for topic in topics:
        await session.subscribe(lambda event, topic=topic: hear(event, topic), topic,
                                SubscribeOptions(get_retained=True))
asyncio.get_event_loop().run_until_complete(component.start())
"""


def topic(device: str) -> str:
    return f"hipercam.{device}.telemetry"


def rpc(device: str, name: str, *args: Any, **kwargs: Any) -> Any:
    return call(f"hipercam.{device}.rpc.{name}", *args, **kwargs)


def has(field: str, value: float) -> Callable[[Sample], bool]:
    return lambda sample: bool(sample[field]["value"] == value)


async def retained(net: Net, serializer: str) -> list[Sample]:
    """Return what a late subscriber of every device hears at once."""
    if serializer == "msgpack":  # a dependency of the router only
        url = f"ws://{net.address}/ws"
        said = net.run(ROUTER_PYTHON, "-c", RETAINED, url, *map(topic, FIELDS))
        found: list[Sample] = json.loads(said.splitlines()[0])
        return found
    async with client(net.address, serializer) as session:
        followers = [await Follower.of(session, topic(name)) for name in FIELDS]
        return [await follower.until(bool) for follower in followers]


def test_these_are_the_devices_of_the_instrument() -> None:
    assert sorted(FIELDS) == sorted(DEVICES)


@pytest.mark.parametrize("serializer", ["cbor", "json", "msgpack"])
async def test_a_late_subscriber_gets_the_telemetry_of_the_contract(
    net: Net, serializer: str
) -> None:
    for name, sample in zip(FIELDS, await retained(net, serializer), strict=True):
        assert plain(sample)
        assert sample.keys() == COMMON | FIELDS[name].keys()
        assert sample["device"] == name
        assert sample["state"].keys() == {"connection"} | MACHINES.get(name, set())
        assert sample["state"]["connection"] == "online"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sample["timestamp"])
        for field, unit in FIELDS[name].items():
            value = sample[field]
            pair = isinstance(value, dict) and "current" in value
            for one in value.values() if pair else [value]:
                if one is None:
                    assert field.endswith("_angle"), "only arms that are not homed have no target"
                elif unit:
                    assert one.keys() == {"value", "unit"}
                    assert (type(one["value"]), one["unit"]) == (float, unit)
                else:
                    assert type(one) in (str, bool, int)
        [kept] = rpc(name, "samples", sample["seq"] - 1, 1)
        assert as_json(kept) == as_json(sample), "the journal has what was published"


@pytest.mark.parametrize("device", FIELDS)
def test_a_device_describes_all_the_names_of_the_contract(net: Net, device: str) -> None:
    described = rpc(device, "describe")
    names = {
        "describe", "samples", "connection.disconnect",
        *(f"{machine}.{e}" for machine, es in EVENTS.get(device, {}).items() for e in es),
        *(f"set_{name}" for name in SETPOINTS.get(device, ())),
        *COMMANDS.get(device, ()),
    }  # fmt: skip
    assert names <= described["procedures"].keys()
    assert described["device"] == device
    settable = [name for name, field in described["fields"].items() if field["settable"]]
    assert sorted(settable) == sorted(SETPOINTS.get(device, ()))


async def test_numbers_go_up_by_one_and_samples_are_what_was_published(net: Net) -> None:
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("slide"))
        for n in range(20):
            publish("hipercam.slide.target_position", 10_000 + n)
        last = await follower.until(lambda s: any("10019" in a["reason"] for a in s["alarms"]))
        heard = follower.heard
        numbers = [sample["seq"] for sample in heard]
        assert numbers == list(range(numbers[0], numbers[0] + len(heard)))
        assert len({sample["epoch"] for sample in heard}) == 1
        kept: list[Sample] = []
        while more := rpc("slide", "samples", kept[-1]["seq"] if kept else numbers[0] - 1, 7):
            kept += more
        assert as_json(kept[: len(heard)]) == as_json(heard)
        publish("hipercam.slide.target_position", last["position"]["target"]["value"])
        await follower.next(lambda s: not s["alarms"])


async def test_a_setpoint_takes_by_topic_and_by_rpc_a_number_a_quantity_and_a_text(
    net: Net,
) -> None:
    async with client(net.address) as session:
        for device, field in (("meerstetter2", "target_temperature2"), ("ccd5", "setpoint")):
            follower = await Follower.of(session, topic(device))
            for n, form in enumerate(("{}", '"{} deg_C"', '{{"value": {}, "unit": "deg_C"}}')):
                by_rpc, by_topic = -80.0 - n, -70.0 - n
                value = json.loads(form.format(by_rpc))
                assert rpc(device, f"set_{field}", value) == pytest.approx(by_rpc)
                publish(f"hipercam.{device}.{field}", json.loads(form.format(by_topic)))
                await follower.until(has(field, by_rpc))
                await follower.until(has(field, by_topic))
            kelvin = rpc(device, f"set_{field}", "183.15 K")
            assert kelvin == pytest.approx(-90, abs=1e-3)


async def test_a_view_and_its_source_tell_the_same_setpoint(net: Net) -> None:
    async with client(net.address) as session:
        rack = await Follower.of(session, topic("meerstetter1"))
        head = await Follower.of(session, topic("ccd2"))
        rpc("ccd2", "set_setpoint", -88)
        await rack.next(has("target_temperature2", -88))
        rpc("meerstetter1", "set_target_temperature2", -90)
        await head.next(has("setpoint", -90))


@pytest.mark.parametrize(
    ("device", "machine", "field"),
    [
        ("pressure3", "gauge", "pressure"),
        ("meerstetter1", "status1", "status1"),
        ("meerstetter1", "heatsink2", "heatsink2"),
        ("flow", "pen1", "pen1"),
    ],
)
async def test_a_reading_can_be_disabled_and_enabled(
    net: Net, device: str, machine: str, field: str
) -> None:
    async with client(net.address) as session:
        follower = await Follower.of(session, topic(device))
        try:
            rpc(device, f"{machine}.disable")
            sample = await follower.next(lambda s: s[field] is None)
            assert [a["field"] for a in sample["alarms"]] == [field]
            assert "enable" in sample["alarms"][0]["reason"]
        finally:
            rpc(device, f"{machine}.enable")
        await follower.next(lambda s: s[field] is not None and not s["alarms"])


async def test_controller_events_set_their_target_by_name(net: Net) -> None:
    assert rpc("meerstetter2", "temperature3.targetSet", target=-85) == -85
    assert rpc("meerstetter2", "temperature3.targetSet", target=-90) == -90
    assert rpc("meerstetter2", "stage_enable3.targetSet", target=3) == "HW Enable"


async def test_a_dropped_connection_is_told_and_made_again(net: Net) -> None:
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("pressure2"))
        rpc("pressure2", "connection.disconnect")
        sample = await follower.next(lambda s: s["state"]["connection"] == "offline")
        assert sample["pressure"] is None
        assert sample["alarms"] == [
            {
                "field": "connection",
                "severity": "ERR",
                "reason": "disconnected by request",
                "since": sample["timestamp"],
            }
        ]
        rpc("pressure2", "connection.connect")
        await follower.next(lambda s: s["state"]["connection"] == "online")


async def test_every_event_of_a_motor_does_what_it_says(net: Net) -> None:
    rpc("slide", "simulate", "set", speed=1e6)
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("slide"))

        for name, arguments, state, position in (
            ("stage.disable", {}, "disabled", 1100),
            ("stage.enable", {}, "inpos", 1100),
            ("stage.positionSet", {"position": 500}, "outpos", 1100),
            ("stage.stop", {}, "stopped", 1100),
            ("stage.move", {}, "inpos", 500),
            ("stage.home", {}, "inpos", 1453.1212),
            ("block", {}, "inpos", -100),
            ("unblock", {}, "inpos", 1100),
            ("disable", {}, "inpos", 1100),
            ("enable", {}, "inpos", 1100),
            ("reset", {}, "init", 1453.1212),
            ("stage.home", {}, "inpos", 1453.1212),
            ("unblock", {}, "inpos", 1100),
        ):
            begin = net.last("slide")
            rpc("slide", name, **arguments)
            rpc("slide", "connection.connect")  # it polls or connects at once
            await follower.until(is_at(state, position, begin))


def is_at(state: str, position: float, after: int) -> Callable[[Sample], bool]:
    """Return whether the slide, after a number, has this state and position."""

    def condition(sample: Sample) -> bool:
        if sample["seq"] <= after or sample["state"]["stage"] != state or not sample["position"]:
            return False
        return bool(sample["position"]["current"]["value"] == pytest.approx(position, abs=0.02))

    return condition


async def test_an_alias_is_the_device(net: Net) -> None:
    assert call("hipercam.FocalPlaneSlide.rpc.describe")["device"] == "slide"
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("slide"))
        publish("hipercam.FocalPlaneSlide.target_position", 1099)
        await follower.until(lambda s: s["position"]["target"]["value"] == 1099)
        call("hipercam.FocalPlaneSlide.rpc.set_target_position", 1100)
        await follower.until(lambda s: s["position"]["target"]["value"] == 1100)


README = """
from hcam_devices.wamp.utils import call, publish

publish('hipercam.FocalPlaneSlide.target_position', -50)
call('hipercam.slide.rpc.stage.move')
"""


async def test_the_slide_moves_as_the_published_readme_says(net: Net) -> None:
    net.hcam_here("simulate", "slide", "set", "speed=1e6")
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("slide"))
        await asyncio.to_thread(net.run, sys.executable, "-c", README)
        sample = await follower.until(
            lambda s: s["state"]["stage"] == "inpos" and s["position"]["target"]["value"] == -50
        )
        assert sample["position"]["current"]["value"] == pytest.approx(-50, abs=0.02)
        rpc("slide", "unblock")


async def test_two_setpoints_in_a_row_end_with_the_second(net: Net) -> None:
    """Also if the first needs a conversion of its unit, which takes longer."""
    async with client(net.address) as session:
        follower = await Follower.of(session, topic("meerstetter2"))
        await follower.until(lambda sample: True)
        for first, second in (("200 K", -81), ("201 K", -82), ("202 K", -83)):
            session.publish("hipercam.meerstetter2.target_temperature1", first)
            session.publish("hipercam.meerstetter2.target_temperature1", second)
            await follower.until(has("target_temperature1", second))
        heard = [sample["target_temperature1"]["value"] for sample in follower.heard]
        changes = [new for old, new in pairwise(heard) if new != old]
        assert changes == pytest.approx([-73.15, -81, -72.15, -82, -71.15, -83], abs=1e-3)
        rpc("meerstetter2", "set_target_temperature1", -90)


async def test_a_server_that_dies_announces_it_for_each_of_its_devices(net: Net) -> None:
    assert net.server
    async with client(net.address) as session:
        status = await Follower.of(session, "hipercam.hwserver.status")
        running = await status.until(lambda s: s["state"] == "running")
        assert (running["pid"], running["emulated"]) == (net.server.pid, True)
        assert running["devices"] == DEVICES
        net.server.kill()
        net.server.wait()
        await status.next(lambda s: s["state"] == "gone")
        for name, fields in FIELDS.items():
            follower = await Follower.of(session, topic(name))
            sample = await follower.until(lambda s: s["state"]["connection"] == "offline")
            assert sample.keys() == COMMON | fields.keys()
            assert {sample[field] for field in fields} == {None}
            assert sample["seq"] is None
            assert "has gone" in sample["alarms"][0]["reason"]
        with pytest.raises(utils.NoSuchProcedureError):
            rpc("slide", "describe")
        before = {name: net.last(name) for name in FIELDS}
        server = net.start_server()  # not in a thread, with which it would end
        await status.until(lambda s: s["state"] == "running" and s["pid"] == server.pid)
        # In a thread, so that this session goes on answering the router's pings.
        await asyncio.to_thread(net.wait_for_devices, *FIELDS)
        for name, last in before.items():  # the numbers continue
            assert rpc(name, "samples", last, 1)[0]["seq"] == last + 1


async def _or_none(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except ConnectionError:
        return None


class Curious(VacuumGauge):
    """A gauge that calls others."""

    peers: ClassVar[dict[str, tuple[str, ...]]] = {
        "slide": ("block",),
        "pressure1": ("samples", "nonsense", "describe"),
        "nobody": ("block",),
    }


async def test_a_device_calls_another_by_name_and_is_told_why_not(net: Net) -> None:
    device = replace(load().entries["pressure1"], cls=Curious).build()
    with pytest.raises(ConnectionError, match="there is no network here"):
        await device.call_peer("slide", "block")
    journal = Journal(net.home / "peer")
    agent = Agent(device, ("autoguider",), journal)
    with pytest.raises(ConnectionError, match="there is no router"):
        await device.call_peer("slide", "block")
    for undeclared in (("slide", "unblock"), ("flow", "describe")):
        with pytest.raises(LookupError, match=r"does not declare that it calls \w+\.\w+$"):
            await device.call_peer(*undeclared)
    net.autoguider()
    owner = Owner("autoguider", iso_from_s(0))
    present = asyncio.create_task(keep_joined(net.address, agent.present, owner=owner))
    try:
        ask = partial(device.call_peer, "pressure1", "samples", 0, limit=1)
        found = await soon(lambda: _or_none(ask()))
        assert found[0]["device"] == "pressure1"
        for procedure, error, reason in (
            (("nobody", "block"), utils.NotAuthorizedError, "not authorized to call"),
            (
                ("pressure1", "samples", -1),
                utils.InvalidArgumentError,
                "after must be a whole number, not -1",
            ),
            (("pressure1", "nonsense"), utils.NotAuthorizedError, "not authorized to call"),
        ):
            with pytest.raises(error, match=reason):
                await device.call_peer(*procedure)
        with pytest.raises(utils.OutcomeUnknownError, match="may have been carried out"):
            await device.call_peer("pressure1", "describe", within=1e-9)
    finally:
        present.cancel()
        await asyncio.wait([present])
        journal.close()
