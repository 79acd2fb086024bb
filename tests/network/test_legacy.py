"""Programs of version 1.7, in their realm of a router with roles; stand-ins are the devices."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions, SubscribeOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp.access import read_key
from hcam_devices.wamp.router import shipped

from ..wamp.test_legacy_telemetry import SLIDE, parsed
from .test_door import call, send
from .tools import ROUTER_PYTHON, Client, Net, client, soon

FILE = "ours.toml"
NAME = "realm1 at 127.0.0.1"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    net = Net(tmp_path_factory.mktemp("legacy"))
    text = load().path.read_text()
    (net.home / FILE).write_text(f"{text}\n[legacy]\nenabled = true\n")
    try:
        net.start_router("--instrument", FILE)
        yield net
        log = (net.home / "router" / str(net.port) / "router.log").read_text()
        assert "Traceback" not in log
        assert "onUserError" not in log
    finally:
        net.end()


@pytest.fixture
async def program(net: Net) -> AsyncIterator[Client]:
    """A program of version 1.7."""
    async with client(net.address, realm="realm1", key=None) as session:
        yield session


class StandIn:
    """Devices of one server: what they were called and set to, and by whom."""

    def __init__(self, session: Client) -> None:
        self.session = session
        self.got: list[Any] = []
        self.wait: dict[str, asyncio.Event] = {}

    async def present(self, *devices: str) -> None:
        for device in devices:
            options = RegisterOptions("prefix", details_arg="_call")
            await self.session.register(self._serve, f"hipercam.{device}.rpc.", options)

    async def _serve(self, *args: Any, _call: Any, **kwargs: Any) -> Any:
        name = _call.procedure.removeprefix("hipercam.")
        self.got.append((name, *args, kwargs, _call.caller_authid, _call.caller_authrole))
        if name in self.wait:
            await self.wait[name].wait()
        return {"exposure.newDataFileName": "/data/4711/run0041.fits"}

    async def hear(self, topic: str) -> None:
        def receive(*args: Any, _event: Any) -> None:
            self.got.append((topic, *args, _event.publisher_authid, _event.publisher_authrole))

        options = SubscribeOptions(details_arg="_event")
        await self.session.subscribe(receive, f"hipercam.{topic}", options)

    def publish(self, device: str, sample: Any) -> None:
        topic = f"hipercam.{device}.telemetry"
        self.session.publish(topic, sample, options=PublishOptions(retain=True))


@pytest.fixture
async def servers(net: Net) -> AsyncIterator[dict[str, StandIn]]:
    keys = net.home / "access" / "keys"
    async with AsyncExitStack() as stack:
        yield {
            name: StandIn(
                await stack.enter_async_context(
                    client(net.address, key=read_key(keys / f"{name}.key"))
                )
            )
            for name in ("hwserver", "hserver", "gtcserver")
        }


async def heard(program: Client, device: str) -> list[Any]:
    """Return what comes as telemetry of a device from now on, in version 1.7's form."""
    messages: list[Any] = []
    topic = f"hipercam.{device}.telemetry"
    await program.subscribe(lambda data: messages.append(parsed(data)), topic)
    return messages


async def has(condition: Any) -> None:
    async def look() -> Any:
        await asyncio.sleep(0.01)
        return condition()

    await soon(look)


async def test_telemetry_is_the_newest_sample_on_a_clock(
    program: Client, servers: dict[str, StandIn]
) -> None:
    messages = await heard(program, "slide")
    for seq in range(50):
        servers["hwserver"].publish("slide", SLIDE | {"seq": seq})
    moving = SLIDE | {"state": {"connection": "online", "stage": "moving"}}
    servers["hwserver"].publish("slide", moving)
    await has(lambda: [one for one in messages if one["state"]["stage"][-1] == "moving"])
    assert len(messages) < 5  # and not one for each sample
    servers["hwserver"].publish("slide", SLIDE | {"state": "wrong"})
    servers["hwserver"].publish("slide", SLIDE | {"position": "wrong"})
    await has(lambda: messages[-1]["state"]["connection"] == ["active", "offline"])
    topics = await program.call("wamp.subscription.list")
    there = [await program.call("wamp.subscription.get", one) for one in topics["exact"]]
    listed = {f"hipercam.{name}.telemetry" for name in load().entries}
    assert listed <= {one["uri"] for one in there}  # before any of the others has said anything


async def test_a_setpoint_and_a_call_arrive_in_order_and_named_by_address(
    program: Client, servers: dict[str, StandIn]
) -> None:
    hardware = servers["hwserver"]
    await hardware.present("slide", "meerstetter1")
    await hardware.hear("slide.target_position")
    program.publish("hipercam.slide.target_position", -50.0)
    await program.call("hipercam.slide.rpc.stage.move")
    await program.call("hipercam.meerstetter1.rpc.reset", "1")
    who = NAME, "operator"
    assert hardware.got == [
        ("slide.target_position", -50.0, *who),
        ("slide.rpc.stage.move", {}, *who),
        ("meerstetter1.rpc.reset", 1, {}, *who),
    ]


async def test_texts_stay_texts_where_a_procedure_takes_one(
    program: Client, servers: dict[str, StandIn]
) -> None:
    detector = servers["hserver"]
    await detector.present("ngc")
    await program.call("hipercam.ngc.rpc.start_ngc_server", "True")
    await program.call("hipercam.ngc.rpc.load_setup", "5")
    answer = await program.call("hipercam.ngc.rpc.status", "5")
    assert [one[1] for one in detector.got] == [True, "5", "5"]
    assert answer == {"exposure.newDataFileName": "run0041.fits"}
    with pytest.raises(ApplicationError, match="not authorized") as refused:
        await program.call("hipercam.ngc.rpc.cmd", "reset")  # an engineer's
    assert refused.value.error == ApplicationError.NOT_AUTHORIZED


async def test_calls_of_the_detector_wait_for_each_other_and_telemetry_for_them(
    program: Client, servers: dict[str, StandIn]
) -> None:
    detector = servers["hserver"]
    await detector.present("ngc")
    detector.wait["ngc.rpc.pon"] = asyncio.Event()
    messages = await heard(program, "ngc")
    detector.publish("ngc", {"state": {"connection": "online"}, "system.stateName": "ONLINE"})
    await has(lambda: messages)
    calls = [program.call(f"hipercam.ngc.rpc.{name}") for name in ("pon", "seq_start", "abort")]
    await has(lambda: len(detector.got) == 2)
    assert [one[0] for one in detector.got] == ["ngc.rpc.pon", "ngc.rpc.abort"]
    await program.call("wamp.subscription.list")  # earlier publications have arrived, too
    del messages[:]
    other = await heard(program, "slide")
    servers["hwserver"].publish("slide", SLIDE)
    await has(lambda: len(other) == 2)
    assert not messages
    detector.wait["ngc.rpc.pon"].set()
    await asyncio.gather(*calls)
    assert detector.got[2][0] == "ngc.rpc.seq_start"
    await has(lambda: messages)


async def post(net: Net, procedure: str, *args: Any) -> Any:
    """Call as a script of version 1.7 does, over HTTP; return the answer."""
    _, answer, _ = await asyncio.to_thread(send, net, "/call", call(procedure, *args))
    return json.loads(answer)


async def test_calls_over_http_wait_with_those_of_realm1(
    net: Net, program: Client, servers: dict[str, StandIn]
) -> None:
    detector = servers["hserver"]
    await detector.present("ngc", "NGC")
    detector.wait["ngc.rpc.pon"] = asyncio.Event()
    calls: list[Any] = [program.call("hipercam.ngc.rpc.pon")]
    await has(lambda: detector.got)
    with closing(HTTPConnection("127.0.0.1", net.port)) as left:
        left.request("POST", "/call", call("hipercam.ngc.rpc.poff"))
        await post(net, "hipercam.ngc.rpc.summary")
    calls.append(asyncio.create_task(post(net, "hipercam.NGC.rpc.seq_start")))
    for name in ("ngc.rpc.abort", "NGC.rpc.summary"):
        await post(net, f"hipercam.{name}")
    # Somebody with a key does not wait: the device itself refuses what it cannot do now.
    async with client(net.address, key=net.key("local")) as ours:
        await ours.call("hipercam.ngc.rpc.seq_stop")
    names = ["ngc.rpc.pon", "ngc.rpc.summary", "ngc.rpc.abort", "NGC.rpc.summary"]
    assert [one[0] for one in detector.got] == [*names, "ngc.rpc.seq_stop"]
    detector.wait["ngc.rpc.pon"].set()
    await asyncio.gather(*calls)
    assert [one[0] for one in detector.got][5:] == ["NGC.rpc.seq_start"]  # poff's caller has left


async def test_the_autoguider_is_called_where_it_is(
    net: Net, program: Client, servers: dict[str, StandIn]
) -> None:
    offset, name = servers["gtcserver"].session.call, "hipercam.autoguider.rpc.add_relative_dither"
    with pytest.raises(ApplicationError, match="no callee registered") as missing:
        await offset(name, 1.0, 2.0)
    assert missing.value.error == ApplicationError.NO_SUCH_PROCEDURE
    dithers: list[Any] = []
    await program.register(lambda *dither: dithers.append(dither), name)
    await offset(name, 1.0, 2.0)
    assert dithers == [(1.0, 2.0)]


@pytest.mark.parametrize("match", ["exact", "prefix"])
async def test_an_autoguider_with_a_key_precedes_one_of_realm1(
    net: Net, program: Client, servers: dict[str, StandIn], match: Literal["exact", "prefix"]
) -> None:
    offset, name = servers["gtcserver"].session.call, "hipercam.autoguider.rpc.add_relative_dither"
    dithers: list[Any] = []
    await program.register(lambda *dither: dithers.append(("realm1", *dither)), name)
    # As net.autoguider(), without the settings of this process.
    command = "access", "add", "autoguider", "--role", "device", "--server", "autoguider"
    await asyncio.to_thread(net.hcam, *command)  # the sessions of this test answer pings meanwhile
    try:
        async with client(net.address, key=net.key("autoguider")) as ours:
            registered = name if match == "exact" else "hipercam.autoguider.rpc."
            options = RegisterOptions(match)
            await ours.register(lambda *dither: dithers.append(dither), registered, options)
            await offset(name, 1.0, 2.0)
            assert dithers == [(1.0, 2.0)]
    finally:
        await asyncio.to_thread(net.hcam, "access", "remove", "autoguider")

    async def is_called_again() -> bool:
        await offset(name, 3.0, 4.0)
        return bool(dithers[-1] == ("realm1", 3.0, 4.0))

    await soon(is_called_again)


async def test_a_program_cannot_pose_as_a_device(program: Client) -> None:
    for name in ("hipercam.slide.rpc.stage.move", "hipercam.slide.rpc.x", "other"):
        with pytest.raises(ApplicationError, match="not authorized"):
            await program.register(print, name)
    acknowledged = PublishOptions(acknowledge=True)
    for topic in ("hipercam.slide.telemetry", "hipercam.slide.position", "other"):
        with pytest.raises(ApplicationError, match="not authorized"):
            await program.publish(topic, b"", options=acknowledged)


async def test_a_key_is_for_the_other_realm_and_no_key_for_this_one(
    net: Net, servers: dict[str, StandIn]
) -> None:
    await servers["hwserver"].present("slide")
    own = read_key(net.home / "access" / "keys" / "local.key")
    with pytest.raises(ApplicationError, match="engineer"):
        async with client(net.address, realm="realm1", key=own):
            pass
    async with client(net.address, key=None) as observer:
        assert await observer.call("hipercam.slide.rpc.telemetry")
        with pytest.raises(ApplicationError, match="not authorized"):
            await observer.call("hipercam.slide.rpc.stage.move")


async def test_the_door_finds_what_a_prefix_serves_by_its_exact_name(
    net: Net, servers: dict[str, StandIn]
) -> None:
    async def look_up(procedure: str) -> Any:
        return (await post(net, "wamp.registration.lookup", procedure))["args"][0]

    hardware = servers["hwserver"]
    await hardware.present("slide")
    assert await look_up("hipercam.slide.rpc.stage.move")
    assert await look_up("hipercam.nobody.rpc.stage.move") is None
    await post(net, "hipercam.slide.rpc.stage.move")
    assert hardware.got == [("slide.rpc.stage.move", {}, "anonymous at 127.0.0.1", "operator")]


CLOCK = """
import turns
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

turns.reactor = clock = Clock()
ngc = turns.Turns("ngc.Controller")
turns.take(["ngc", "NGC"], ngc)
answers, sent = [], []

def begin(name, device="ngc"):
    def send():
        sent.append((name, Deferred()))
        return sent[-1][1]
    answer = turns.answer(f"hipercam.{device}.rpc.{name}", send)
    answer.addBoth(lambda result: answers.append((name, getattr(result, "value", result))))
    return answer

begin("pon")
clock.advance(30)
begin("poff")
begin("standby")
clock.advance(29)
assert not answers and [name for name, _ in sent] == ["pon"], (answers, sent)
clock.advance(2)
[(name, error)] = answers
assert name == "pon" and error.error.endswith("outcome_unknown"), error
assert "may have been carried out" in error.args[0]
assert [name for name, _ in sent] == ["pon", "poff"]
sent[0][1].callback("late")
clock.advance(30)
assert [name for name, _ in answers] == ["pon", "standby", "poff"], answers
assert "was not sent" in answers[1][1].args[0]
assert [name for name, _ in sent] == ["pon", "poff"]
sent[1][1].callback("late")
gone = begin("gone"), begin("gone too", "NGC")
begin("online")
for call in reversed(gone):  # their caller has left
    call.cancel()
assert len(sent) == 3, "the device still carries the first one out, and the second is not sent"
sent[2][1].callback("done")
sent[3][1].callback("done")
assert [name for name, _ in sent[2:]] == ["gone", "online"]
assert answers[-1] == ("online", "done") and not ngc.answering
begin("stuck")
begin("abort")
begin("hangs", "slide")
begin("hangs as well", "slide")
assert [name for name, _ in sent[4:]] == ["stuck", "abort", "hangs", "hangs as well"]
clock.advance(60)
assert all(error.error.endswith("outcome_unknown") for _, error in answers[-4:]), answers[-4:]
sent[-1][1].errback(ValueError())
assert not ngc.answering and not clock.getDelayedCalls()
"""


def test_every_call_is_answered_in_time_whatever_the_device_does(tmp_path: Path) -> None:
    env = {
        "PYTHONPATH": str(shipped().parent),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(ROUTER_PYTHON), "-W", "ignore", "-c", CLOCK]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
