"""Interlocks through a real router, with killed servers and routers, and their rehearsal."""

import asyncio
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import Instrument, load
from hcam_devices.ui import drill
from hcam_devices.ui.drill.half import Row
from hcam_devices.wamp import access
from hcam_devices.wamp.utils import NoSuchProcedureError, NotAllowedError, WampError, call

from .tools import BIN, Net, Sample, client, living, until

SITE = """
[devices.ccd1]
kind = "views.CCDHead"
gauge = "pressure1"
rack = "meerstetter1"
channel = 2
recorder = "flow"
pen = 1
poll_every = 0.5

[devices.pressure1]
kind = "pdr900.VacuumGauge"
port = 1
poll_every = 0.5

[devices.meerstetter1]
kind = "meerstetter.PeltierRack"
port = 2
poll_every = 0.5

[devices.flow]
kind = "minitrend.FlowRecorder"
port = 3
poll_every = 0.5

[interlocks.coolant]
for_each = "ccd1"
when = [{field = "flow", below = "0.4 l/min"}, {field = "peltier_current", above = "0.5 A"}]
during = "5 s"
then = [{set = "stage_enable", to = "Static OFF"}]
verify = {field = "peltier_current", below = "0.2 A", within = "60 s"}
advice = "Look at the pump."

[interlocks.cooling]
for_each = "ccd1"
refuse = ["set_setpoint"]
only = "lowering"
unless = [{field = "pressure", below = "8e-3 mbar"}, {field = "flow", above = "0.4 l/min"}]
advice = "Pump the head."

[alarms."*.*"]
off_delay = 1

[alarms."pressure1.pressure"]
delay = 5

[alarms."hwlogger.status"]
delay = 3600
"""
HOPELESS = """
[interlocks.hopeless]
for_each = "ccd1"
when = [{field = "heatsink", above = "55 deg_C"}]
during = "1 s"
then = [{set = "stage_enable", to = "Static OFF"}]
verify = {field = "peltier_current", below = "-1 A", within = "1 s"}
advice = "Nothing helps."
"""
NAMES = "ccd1", "pressure1", "meerstetter1", "flow"
ENABLE = "stage_enable2"


def start(net: Net, *, emulate: bool = True) -> None:
    how = ["--emulate"] if emulate else []
    net.server = net.start(
        BIN / "hwserver", *how, "--instrument", net.home / "site.toml", log="hwserver.out"
    )


def kill(net: Net) -> None:
    server = net.server
    assert server is not None
    server.send_signal(signal.SIGKILL)
    server.wait()
    net.before |= {name: net.last(name) for name in NAMES}


def as_fresh(net: Net, text: str) -> Net:
    """Start a CCD head with this instrument file, whose interlocks are armed."""
    if net.server is not None:
        kill(net)
    else:
        net.start_router()
    for file in (net.home / "simulated" / "interlocks").glob("*"):
        file.unlink()
    (net.home / "site.toml").write_text(text)
    start(net)
    net.wait_for_devices(*NAMES)
    until(lambda: net.newest("ccd1")["temperature"] and not net.newest("ccd1")["alarms"])
    return net


@pytest.fixture
def site(own: Net) -> Net:
    return as_fresh(own, SITE + HOPELESS)


def state(name: str = "coolant") -> str:
    return str(call("hipercam.ccd1.rpc.telemetry")["state"][name])


def rack() -> Sample:
    return dict(call("hipercam.meerstetter1.rpc.telemetry"))


def simulate(device: str, *args: Any, **options: Any) -> None:
    call(f"hipercam.{device}.rpc.simulate", *args, **options)


def reason(work: Callable[[], Any]) -> str:
    with pytest.raises(NotAllowedError) as caught:
        work()
    return str(caught.value)


def kept(net: Net, name: str = "coolant") -> dict[str, Any]:
    path = net.home / "simulated" / "interlocks" / f"ccd1.{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def commands(net: Net) -> list[tuple[str, str, str | None]]:
    """Return who did what to the head and the rack, with the errors, from the journals."""
    found: list[tuple[str, str, str | None]] = []
    for device in ("ccd1", "meerstetter1"):
        page = call("hipercam.hwserver.journal.samples", f"{device}.command", 0, 1000)
        found += [(one["who"], one["what"], one["error"]) for one in page]
    return found


def test_a_pump_that_stops_switches_the_peltier_off_and_people_switch_it_on(site: Net) -> None:
    simulate("flow", "set", pump=False)
    until(lambda: state() == "timing")
    assert rack()[ENABLE] == "HW Enable"
    refused = reason(lambda: call("hipercam.ccd1.rpc.set_setpoint", -99))
    assert "only while pressure is below 0.008 mbar and flow is above 0.4 l / min" in refused
    assert "now flow 0 is below 0.4 l / min" in refused
    until(lambda: state() == "tripped")
    until(lambda: rack()[ENABLE] == "Static OFF")
    until(lambda: kept(site).get("verified"))
    assert "has tripped" in reason(
        lambda: call(f"hipercam.meerstetter1.rpc.set_{ENABLE}", "HW Enable")
    )
    assert "flow 0 is below" in reason(lambda: call("hipercam.ccd1.rpc.coolant.reset"))
    described = call("hipercam.meerstetter1.rpc.describe")["interlocks"]["ccd1.coolant"]
    assert described["guards"] == [f"meerstetter1.set_{ENABLE}"]
    assert (described["state"], described["armed"]) == ("tripped", True)
    simulate("flow", "set", pump=True)

    def is_reset() -> bool:
        try:
            call("hipercam.ccd1.rpc.coolant.reset")
        except NotAllowedError:
            return False
        return True

    until(is_reset)
    assert rack()[ENABLE] == "Static OFF"
    assert kept(site) == {}
    call(f"hipercam.meerstetter1.rpc.set_{ENABLE}", "HW Enable")
    until(lambda: rack()["current2"]["value"] > 1)
    noted = commands(site)
    assert ("ccd1.coolant", "coolant.trip", None) in noted
    assert ("ccd1.coolant", f"set_{ENABLE}", None) in noted
    assert ("local", "coolant.reset", None) in noted
    assert [one for one in noted if one[1] == "set_setpoint" and "allows it only" in str(one[2])]


async def test_operators_reset_and_only_engineers_bypass(site: Net) -> None:
    name = "ada"
    if name not in access.people(site.access):
        access.add(site.access, name, "operator", str(site.address))
    async with client(site.address, key=site.key(name)) as session:
        for procedure in ("coolant.bypass", "coolant.end_bypass", "cooling.bypass"):
            with pytest.raises(Exception, match="not authorized"):
                await session.call(f"hipercam.ccd1.rpc.{procedure}", 5, "the pump is serviced")
        with pytest.raises(Exception, match="cannot reset now: it is armed"):
            await session.call("hipercam.ccd1.rpc.coolant.reset")


def tripped(net: Net) -> None:
    simulate("flow", "set", pump=False)
    until(lambda: kept(net).get("verified"))


def timing(net: Net) -> None:
    simulate("flow", "set", pump=False)
    until(lambda: state() == "timing")


def failed(net: Net) -> None:
    simulate("meerstetter1", "set", overheat=40)
    until(lambda: kept(net, "hopeless").get("state") == "failed")


def bypassed(net: Net) -> None:
    call("hipercam.ccd1.rpc.coolant.bypass", 5, "the pump is serviced")


KILLED: dict[str, tuple[Callable[[Net], None], str, str]] = {
    "tripped": (tripped, "coolant", "tripped"),
    "bypassed": (bypassed, "coolant", "bypassed"),
    "armed": (lambda net: None, "coolant", "armed"),
    "timing": (timing, "coolant", "armed"),
    "failed": (failed, "hopeless", "failed"),
}
IN_SMALL = ("tripped", "failed")


@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=[pytest.mark.soak] * (one not in IN_SMALL)) for one in KILLED]
)
def test_a_killed_server_forgets_no_state_and_acts_on_none(site: Net, when: str) -> None:
    bring, name, afterwards = KILLED[when]
    bring(site)
    kill(site)
    start(site)  # with fresh simulators: the peltier is on
    site.wait_for_devices(*NAMES)
    until(lambda: "temperature" in call("hipercam.ccd1.rpc.telemetry"))
    began = site.last("meerstetter1")
    until(lambda: site.last("meerstetter1") > began + 4)
    assert state(name) == afterwards
    assert rack()[ENABLE] == "HW Enable"
    alarms = [one for one in site.newest("ccd1")["alarms"] if one["field"] == name]
    assert bool(alarms) == (afterwards != "armed")


def test_without_a_router_it_trips_all_the_same(site: Net) -> None:
    router = site.router
    assert router is not None
    simulate("flow", "set", pump=False)
    router.send_signal(signal.SIGKILL)
    router.wait()
    until(lambda: kept(site).get("verified"))
    site.start_router()
    site.wait_for_devices(*NAMES)
    assert rack()[ENABLE] == "Static OFF"
    assert ("ccd1.coolant", "coolant.trip", None) in commands(site)


def start_alarms(net: Net) -> None:
    net.start_alarms("--instrument", net.home / "site.toml")
    net.wait_for_devices("alarms")


def kill_alarms(net: Net) -> None:
    for process in living(net.home, "bin/hwalarm"):
        process.kill()
        process.wait()


@pytest.fixture
def quiet(own: Net) -> Iterator[Net]:
    """The same without the interlock that does not help, with hwalarm, and without an alarm."""
    site = as_fresh(own, SITE)
    start_alarms(site)
    try:
        yield site
    finally:
        kill_alarms(site)
        for file in site.home.rglob("alarms.sqlite*"):
            file.unlink()


def rehearsed(net: Net, pattern: str, instrument: Instrument | None = None) -> dict[str, str]:
    """Return the rows of a drill; none may be wrong."""
    told: list[str] = []
    instrument = instrument or load(net.home / "site.toml")
    rows: list[Row] = []
    asyncio.run(
        drill.rehearse(instrument, net.address, pattern, rows, tell=told.append, grace=120.0)
    )
    assert [str(row) for row in rows if row.right is False] == []
    return {row.name: str(row) for row in rows if row.right}


DRIVEN = {
    *("ccd1.cooling", "ccd1.coolant", "ccd1.connection"),
    *("meerstetter1.connection", "pressure1.connection"),
}
DRIVEN_TOO = {
    *("ccd1.flow", "ccd1.pressure", "ccd1.peltier_status", "ccd1.temperature"),
    *("flow.connection", "hwserver.status", "pressure1.pressure"),
    *(f"flow.alarm{n}" for n in range(1, 7)),
    *(
        f"meerstetter1.{name}{n}"
        for name in ("current", "status", "stage_enable")
        for n in (1, 2, 3)
    ),
}


@pytest.mark.parametrize(
    ("pattern", "driven"),
    [("*1.co*", DRIVEN), pytest.param("*", DRIVEN | DRIVEN_TOO, marks=pytest.mark.soak)],
)
def test_a_drill_finds_everything_right_and_sets_everything_back(
    quiet: Net, pattern: str, driven: set[str]
) -> None:
    site, rows = quiet, rehearsed(quiet, pattern)
    assert rows.keys() == driven
    assert "shown" in rows["pressure1.connection"]
    assert "cleared" in rows["pressure1.connection"]
    assert "explained by hwserver.status" in rows["ccd1.connection"]
    lines = list(rows.values())
    (coolant,) = [line for line in lines if "ccd1.coolant" in line]
    for seen in ("blind is said", "tripped after", "verified", "sent once", "says Static OFF",
                 "no early reset", "held off", "latched", "reset", "switched on"):  # fmt: skip
        assert seen in coolant
    (cooling,) = [line for line in lines if "ccd1.cooling" in line]
    assert "refused: flow" in cooling
    assert "refused: pressure is unknown" in cooling
    # A CCD that was not cooled needs minutes to come back to its setpoint: a warning.
    still = {("temperature", "WARN")}
    until(lambda: {(a["field"], a["severity"]) for a in site.newest("ccd1")["alarms"]} <= still)
    assert (state(), rack()[ENABLE]) == ("armed", "HW Enable")


def test_a_drill_of_nothing_but_the_status_of_a_server_lets_it_be_away(quiet: Net) -> None:
    [status] = rehearsed(quiet, "hwserver.status").values()
    assert "shown" in status
    assert "cleared" in status


WITH_COMMANDS = {
    "ngc.*": {"ngc.disk_free", "ngc.frames_done", "ngc.setup_ngc_server", "ngc.start_ngc_server"},
    "gtc.*": {"gtc.archive", "gtc.autoguider", "gtc.dither", "gtc.gtc", "gtc.telpars"},
    "compo_arms.*": {"compo_arms.controller", "compo_arms.injection", "compo_arms.pickoff"},
    "*.status": {"gtcserver.status", "hserver.status", "hwserver.status"},
}


@pytest.mark.soak
@pytest.mark.parametrize("pattern", WITH_COMMANDS)
def test_a_drill_gives_commands_and_sets_everything_back(net: Net, pattern: str) -> None:
    before = {name: net.newest(name)["state"] for name in ("ngc", "gtc", "compo_arms")}
    rows = rehearsed(net, pattern, load())
    assert rows.keys() >= WITH_COMMANDS[pattern]
    after = {name: net.newest(name)["state"] for name in before}
    after["gtc"]["archive"] = before["gtc"]["archive"]
    assert after == before


@pytest.mark.soak
def test_a_drill_is_right_although_hwalarm_is_killed_in_every_state(quiet: Net) -> None:
    alarm, states = "pressure1.pressure", ["pending", "active", "acknowledged"]
    killed: list[str] = []
    over = threading.Event()

    def kill_in_turn() -> None:
        while killed != states and not over.wait(0.02):
            found = {one["alarm"]: one["state"] for one in asked("list")}
            if found.get(alarm) == states[len(killed)]:
                killed.append(found[alarm])
                kill_alarms(quiet)
                start_alarms(quiet)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_in_turn)
        try:
            rows = rehearsed(quiet, alarm)
        finally:
            over.set()
        killing.result()
        # hwalarm ends with the thread that has started it, and may have just been started again.
        until(lambda: asked("log", alarm))
        events = [event["event"] for event in asked("log", alarm) if event["event"] != "updated"]
    assert killed == states
    assert "cleared" in rows[alarm]
    assert events == ["raised", "acknowledged", "cleared"]


def asked(procedure: str, *args: Any) -> list[dict[str, Any]]:
    """Return what hwalarm answers; nothing while it does not run."""
    try:
        return list(call(f"hipercam.alarms.rpc.{procedure}", *args))
    except WampError:
        return []


@pytest.mark.soak
def test_a_drill_shows_an_interlock_that_does_not_help(site: Net) -> None:
    start_alarms(site)
    told: list[str] = []
    instrument = load(site.home / "site.toml")
    rows: list[Row] = []
    asyncio.run(
        drill.rehearse(
            instrument, site.address, "ccd1.hopeless", rows, tell=told.append, grace=20.0
        )
    )
    (row,) = rows
    assert row.right is False
    assert "WRONG: not verified" in str(row)


def is_there(server: str) -> bool:
    try:
        return bool(call(f"hipercam.{server}.rpc.about"))
    except NoSuchProcedureError:
        return False


def test_a_drill_is_refused_unless_all_is_emulated_and_at_rest(quiet: Net) -> None:
    site = quiet
    file = str(site.home / "site.toml")
    bypassed(site)
    until(lambda: state() == "bypassed")
    said = site.hcam("drill", "--instrument", file, code=1)
    assert "ccd1.coolant is bypassed: a drill begins when every interlock is armed" in said
    said = site.hcam_here("drill", "--instrument", file, "nonsense", code=1)
    assert "nothing that can be rehearsed is called nonsense" in said
    kill(site)
    said = site.hcam_here("drill", "--instrument", file, code=1)
    assert re.search("hwserver does not run", said)
    start(site, emulate=False)
    until(lambda: is_there("hwserver"))
    said = site.hcam_here("drill", "--instrument", file, code=1)
    assert "hwserver drives real hardware" in said
    with pytest.raises(NoSuchProcedureError):  # it can be away only if it is emulated
        call("hipercam.hwserver.rpc.simulate", "away")
    assert not Path(site.home / "drills").exists()
