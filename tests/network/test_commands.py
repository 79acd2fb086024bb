"""Who did what, through a real router, into a real recorder: each command once, whoever sent it."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions

from hcam_devices.history.archive import EVER
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.commands import event_of
from hcam_devices.wamp.commands import MAX_ERROR
from hcam_devices.wamp.redaction import cut
from hcam_devices.wamp.utils import WampError, call, publish

from ..history.stores.databases import influxdb
from .recorded import published, stored
from .test_recorder import in_influxdb
from .tools import BIN, Client, Follower, Net, client, living, soon, until

SITE = """
[devices.meerstetter1]
kind = "meerstetter.PeltierRack"
port = 50001
server = "hwserver"

[devices.slide]
kind = "zaber.FocalPlaneSlide"
port = 10001
aliases = ["FocalPlaneSlide"]
server = "hwserver"

[stores.local]
kind = "embedded"
"""
OFFSITE = """
[stores.offsite]
kind = "influxdb"
url = "{url}"
database = "hipercam"
timeout = 3
"""
KEYS = {
    "device", "time", "who", "role", "what", "args", "kwargs", "why", "before", "error", "seq",
}  # fmt: skip
RACK = "hipercam.meerstetter1"
REFUSED = (
    ("set_target_temperature1", (9999,)),
    ("set_target_temperature1", ("-80 parsec",)),
    ("set_target_temperature1", ()),
    ("nonsense", (1,)),
    ("exchange", ("01",)),
)


@pytest.fixture
def site(own: Net) -> Net:
    """A rack and a slide, in their server, and a recorder: as the tests before have left them."""
    file = own.home / "site.toml"
    if not file.exists():
        file.write_text(SITE)
        own.start_router()
        own.server = own.start(
            BIN / "hwserver", "--emulate", "--instrument", file, log="hwserver.out"
        )
        start_recorder(own)
    own.wait_for_devices("meerstetter1", "slide", "recorder")
    return own


def start_recorder(net: Net) -> None:
    net.start_recorder("--instrument", net.home / "site.toml")


def kept(net: Net) -> list[dict[str, Any]]:
    """Return the commands that the store has, in order of time."""
    points = NightFiles(net.home / "history").commands(None, *EVER)
    return [event_of(point) for point in points]


def all_home(net: Net) -> None:
    """Wait until the store has each command of the journal, and fail if one is doubled."""
    wanted = {one for one in published(net, "hwserver") if one[0].endswith(".command")}
    until(lambda: wanted <= stored(net).keys())
    doubled = {number: count for number, count in stored(net).items() if count > 1}
    assert doubled == {}


def with_value(key: str, value: str) -> Callable[[Any], bool]:
    return lambda event: bool(event[key] == value)


async def refused(work: Any) -> str:
    with pytest.raises((ApplicationError, WampError)) as caught:
        await work
    return str(caught.value.args[0])


async def test_each_command_is_told_and_comes_home_once(site: Net) -> None:
    async with client(site.address) as session:
        follower = await Follower.of(session, f"{RACK}.command")
        for n, how in enumerate(("call", "http", "topic", "http topic")):
            await command(session, how, -60 - n)
            event = await follower.until(with_value("why", how))
            assert event.keys() == KEYS
            assert event["args"] == [-60 - n]
            assert event["error"] is None
            assert (event["who"], event["role"]) == ("local", "engineer")
            (after,) = call(f"{RACK}.rpc.samples", event["seq"] - 1, 1)
            assert after["seq"] == event["seq"]
            assert after["target_temperature1"]["value"] == -60 - n
            assert event["before"]["target_temperature1"]["value"] != -60 - n
        for name, args in REFUSED:
            reason = await refused(session.call(f"{RACK}.rpc.{name}", *args, _why="refused"))
            event = await follower.until(with_value("error", cut(reason, MAX_ERROR)))
            assert (event["what"], event["args"], event["why"]) == (name, [*args], "refused")
            again = await refused(asyncio.to_thread(call, f"{RACK}.rpc.{name}", *args))
            assert again == reason
        await session.call(f"{RACK}.rpc.describe", _why="nothing is changed")
        options = PublishOptions(acknowledge=True)
        topic = f"{RACK}.target_temperature1"
        await session.publish(topic, "cold", _why="bad input", options=options)
        event = await follower.until(with_value("why", "bad input"))
        assert "'cold' is not a number" in event["error"]
        heard = list(follower.heard)
    assert len(heard) == 4 + 2 * len(REFUSED) + 1
    until(lambda: len([one for one in kept(site) if one["device"] == "meerstetter1"]) == len(heard))
    assert [one for one in kept(site) if one["device"] == "meerstetter1"] == sorted(
        heard, key=lambda event: str(event["time"])
    )
    asked = call("hipercam.recorder.rpc.commands", "meerstetter1", last="1h")
    assert asked == {"commands": kept(site), "next": None}
    all_home(site)


async def command(session: Client, how: str, value: float) -> None:
    """Set the temperature in one of four ways, which is also why."""
    setpoint, topic = f"{RACK}.rpc.set_target_temperature1", f"{RACK}.target_temperature1"
    if how == "call":
        await session.call(setpoint, value, _why=how)
    elif how == "http":
        await asyncio.to_thread(call, setpoint, value, _why=how)
    elif how == "topic":
        options = PublishOptions(acknowledge=True)
        await session.publish(topic, value, _why=how, options=options)
    else:
        await asyncio.to_thread(publish, topic, value, _why=how)


def test_an_alias_is_the_device_and_a_motion_has_its_axis(site: Net) -> None:
    site.hcam_here("call", "FocalPlaneSlide.stage.home", "--why", "after a power cut")
    until(lambda: any(one["device"] == "slide" for one in kept(site)))
    (event,) = (one for one in kept(site) if one["device"] == "slide")
    assert (event["what"], event["why"]) == ("stage.home", "after a power cut")
    assert event["before"].keys() == {"position", "state"}
    site.hcam_here("publish", "slide.target_position", "1e9", "--why", "too far")
    until(lambda: any(one["why"] == "too far" for one in kept(site)))


def test_what_people_see(site: Net) -> None:
    said = site.hcam("history", "--commands", "meerstetter1", "--last", "1h")
    head, *lines = said.splitlines()
    assert re.split(r"  +", head) == ["time (UTC)", "device", "who", "command", "outcome", "why"]
    assert any(re.search(r"set_target_temperature1\(-60\) +done +call$", one) for one in lines)
    assert any("nonsense(1)" in line and "has no 'nonsense'" in line for line in lines)
    assert not any("stage.home" in line for line in lines)
    assert "stage.home()" in site.hcam_here("history", "--commands")
    assert "there is no history of 'nobody'" in site.hcam_here(
        "history", "--commands", "nobody", code=1
    )
    plot = site.hcam("history", "meerstetter1.target_temperature1", "--last", "1h", "--plot")
    assert "▲" in plot
    for seen in (("history",), ("status",)):
        said = site.hcam_here(*seen, "--instrument", "site.toml", code=None)
        assert ".command" not in said


async def test_commands_while_the_recorder_is_killed_come_home_once(site: Net) -> None:
    (recorder,) = living(site.home, "hwlogger")
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()
    before = len(kept(site))
    for n in range(5):
        call(f"{RACK}.rpc.set_target_temperature2", -50 - n, _why="nobody records")
    start_recorder(site)
    until(lambda: len(kept(site)) == before + 5)
    all_home(site)
    assert Counter(one["why"] for one in kept(site))["nobody records"] == 5


async def test_what_another_session_says_was_commanded_is_not_believed(site: Net) -> None:
    """The router refuses it, but to a program with the server's own key."""
    before = kept(site)

    async def forge(session: Client, device: str, topic: str) -> None:
        forged = before[-1] | {"device": device, "who": "mallory", "seq": 1, "epoch": "f" * 12}
        sample = forged | {"device": f"{device}.command", "timestamp": forged["time"]}
        said = sample if topic.endswith("telemetry") else forged
        options = PublishOptions(acknowledge=True)
        await session.publish(f"hipercam.{device}.{topic}", said, options=options)

    for name in ("local", "hwserver"):
        async with client(site.address, key=site.key(name)) as session:
            for device in ("meerstetter1", "ghost"):
                for topic in ("command", "command.telemetry"):
                    if (name, device, topic) == ("hwserver", "meerstetter1", "command"):
                        await forge(session, device, topic)
                    else:
                        assert "not authorized" in await refused(forge(session, device, topic))
    call(f"{RACK}.rpc.set_target_temperature2", -40, _why="after them")

    async def home() -> bool:
        return any(one["why"] == "after them" for one in kept(site))

    await soon(home)
    assert len(kept(site)) == len(before) + 1
    assert "mallory" not in json.dumps(kept(site))
    assert not {name for name, *_ in stored(site)} & {"ghost", "ghost.command"}


def test_the_audit_counts_commands_like_samples(site: Net) -> None:
    def audited() -> Any:
        said = site.hcam_here("audit", "--json", "--instrument", "site.toml", code=None)
        return json.loads(said)

    until(lambda: audited()["complete"])
    (store,) = audited()["stores"]
    lines = {line["device"]: line for line in store["lines"]}
    assert lines["meerstetter1.command"]["verdict"] == "complete"
    count = sum(one["device"] == "meerstetter1" for one in kept(site))
    assert lines["meerstetter1.command"]["published"] == count


def test_a_database_has_commands_too(site: Net) -> None:
    file = site.home / "site.toml"
    with influxdb(site.home) as database:
        (recorder,) = living(site.home, "hwlogger")
        recorder.terminate()
        recorder.wait()
        file.write_text(SITE + OFFSITE.format(url=database.url))
        start_recorder(site)
        wanted = {one for one in published(site, "hwserver") if one[0].endswith(".command")}
        until(lambda: wanted <= in_influxdb(database).keys())
        found = database.query('SELECT what, why, args FROM "meerstetter1.command"')
        (rows,) = found.values()
        row = next(row for row in rows if row["why"] == "http")
        assert (row["what"], row["args"]) == ("set_target_temperature1", "[-61]")
        until(lambda: site.hcam_here("audit", "--instrument", str(file), code=None).count(
            "Everything published is stored once"
        ))  # fmt: skip
