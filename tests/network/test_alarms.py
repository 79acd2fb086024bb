"""The alarms over the network: raised, acknowledged by people of each role, and kept over kills."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError

from hcam_devices.errors import InvalidArgumentError, NotAllowedError
from hcam_devices.wamp import access
from hcam_devices.wamp.utils import WampError, call

from .tools import BIN, INSTRUMENT, Client, Follower, Net, client, living, until

RPC = "hipercam.alarms.rpc."
PRESSURE = "pressure3.pressure"
OURS = {"hwserver", "alarms", *(entry.name for entry in INSTRUMENT.choose("hwserver"))}
"""The other servers do not run here, which is an alarm of each."""


@pytest.fixture
def running(own: Net) -> Net:
    """A router, hwserver and hwalarm that tests may kill."""
    if own.router is None:
        own.start_router()
        own.start_server()
        own.start_alarms()
    own.wait_for_devices("pressure3", "ccd1", "meerstetter1", "alarms")
    return own


def listed() -> dict[str, dict[str, Any]]:
    """Return the alarms of hwserver and its devices by name; empty if hwalarm does not answer."""
    try:
        found = {record["alarm"]: record for record in call(f"{RPC}list")}
    except WampError:
        return {}
    return {alarm: one for alarm, one in found.items() if alarm.partition(".")[0] in OURS}


def is_in(state: str, alarm: str = PRESSURE) -> Callable[[], bool]:
    return lambda: listed().get(alarm, {"state": "normal"})["state"] == state


def simulate(device: str, *args: Any, **values: Any) -> None:
    call(f"hipercam.{device}.rpc.simulate", *args, **values)


def breaks(gauge: str = "pressure3", base: float = 0.05) -> None:
    """Let air into a head. Each test has its own: what comes three times is kept for minutes."""
    simulate(gauge, "set", base=base, pressure=base)


def repairs() -> None:
    """Mend all, and acknowledge all that is over."""
    for number in range(1, 6):
        breaks(f"pressure{number}", 1e-5)
    simulate("meerstetter1", "set", interlock="closed")
    simulate("flow", "set", pump=True)

    def quiet() -> bool:
        shown = [record for record in listed().values() if not record["suppressed"]]
        for record in shown:
            if record["state"] in ("active", "returned"):
                call(f"{RPC}acknowledge", record["alarm"], record["occurrence"])
        return not shown  # a CCD takes minutes to be cold again, which is hidden

    until(quiet)


def test_an_alarm_is_raised_acknowledged_and_over(running: Net) -> None:
    breaks()
    until(is_in("active"))
    record = listed()[PRESSURE]
    assert record["severity"] == "ERR"
    assert record["reason"] == f"{record['value']:g} mbar is above 0.008 mbar"
    assert (record["unit"], record["limit"]) == ("mbar", 0.008)
    assert record["advice"].startswith("Check that the head's valve is closed")
    assert listed()["ccd3.pressure"]["cause"] == PRESSURE, "the view repeats its source"
    with pytest.raises(NotAllowedError, match="has come again since you looked"):
        call(f"{RPC}acknowledge", PRESSURE, record["occurrence"] - 1)
    told = json.loads(running.hcam("alarms", "ack", PRESSURE, "valve closed", "--json"))
    assert told["acknowledged"]["by"] == "local"
    said = running.hcam("alarms", code=1)
    assert f"ERR  {PRESSURE} since" in said
    assert "(acknowledged by local at" in said
    assert "'valve closed'" in said
    repairs()
    events = [event["event"] for event in call(f"{RPC}log", PRESSURE)]
    assert events[-3:] == ["raised", "acknowledged", "cleared"]


def test_the_coolant_interlock_is_an_alarm_with_its_consequences_hidden(running: Net) -> None:
    simulate("meerstetter1", "set", interlock="open")
    current = "meerstetter1.current1"
    until(is_in("active", current))
    until(is_in("active", "ccd1.temperature"))
    record = listed()["ccd1.temperature"]
    assert record["cause"] == current
    assert record["suppressed"] == f"explained by {current}"
    repairs()


def test_bad_arguments_are_refused(running: Net) -> None:
    for minutes in (0, -1, 61, "10", True, 1e300):
        with pytest.raises(InvalidArgumentError):
            call(f"{RPC}shelve", PRESSURE, minutes, "known")
    with pytest.raises(InvalidArgumentError, match="there is no alarm"):
        call(f"{RPC}shelve", "pressure9.pressure", 5, "known")
    with pytest.raises(InvalidArgumentError, match="is not a duration"):
        call(f"{RPC}log", last="yesterday")
    with pytest.raises(InvalidArgumentError, match="nobody is called 'bob'"):
        call(f"{RPC}test", "bob")
    assert "there is no ghost.alarm to acknowledge" in running.hcam_here(
        "alarms", "ack", "ghost.alarm", code=1
    )


@asynccontextmanager
async def person(net: Net, role: str) -> AsyncIterator[Client]:
    """Join as somebody of a role."""
    name = f"a{role}"
    if name not in access.people(net.access):
        access.add(net.access, name, role, str(net.address))
    async with client(net.address, key=net.key(name)) as session:
        yield session


MAY = {
    "observer": {"list", "log", "report"},
    "operator": {"list", "log", "report", "shelve", "unshelve", "handover"},
    "engineer": {
        *("list", "log", "report", "shelve", "unshelve", "handover"),
        *("out_of_service", "in_service"),
    },
}
CALLS: dict[str, tuple[Any, ...]] = {
    "list": (),
    "log": (),
    "report": (),
    "shelve": (PRESSURE, 5, "known"),
    "unshelve": (PRESSURE,),
    "handover": ("all is well",),
    "out_of_service": (PRESSURE, "removed"),
    "in_service": (PRESSURE,),
}


@pytest.mark.parametrize("role", MAY)
async def test_each_role_may_do_what_it_should(running: Net, role: str) -> None:
    async with person(running, role) as session:
        for name, args in CALLS.items():
            if name not in MAY[role]:
                with pytest.raises(ApplicationError, match="not authorized"):
                    await session.call(RPC + name, *args)
                continue
            told = await session.call(RPC + name, *args)
            if name == "shelve":
                assert told["shelved"]["by"] == f"a{role}"


async def test_changes_are_published_with_numbers_without_a_gap(running: Net) -> None:
    async with client(running.address) as session:
        changed = await Follower.of(session, "hipercam.alarms.changed")
        await asyncio.to_thread(call, f"{RPC}shelve", PRESSURE, 5, "known")
        await asyncio.to_thread(call, f"{RPC}unshelve", PRESSURE)
        await changed.until(lambda event: event["event"] == "unshelved")
        numbers = [event["seq"] for event in changed.heard]
        assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
        shelved = next(event for event in changed.heard if event["event"] == "shelved")
        assert shelved["by"] == "local"
        assert shelved["alarm"] == PRESSURE
        assert shelved["shelved"]["reason"] == "known"


def test_changes_are_printed_until_ctrl_c(running: Net) -> None:
    watch = running.start(BIN / "hcam", "alarms", "watch", "--json", log="watch.out")
    said = running.home / "watch.out"
    until(said.read_text)
    assert isinstance(json.loads(said.read_text().splitlines()[0]), list)

    def heard() -> bool:
        call(f"{RPC}shelve", PRESSURE, 5, "known")
        return '"event": "shelved"' in said.read_text()

    until(heard)
    watch.send_signal(signal.SIGINT)
    assert watch.wait() == 130
    call(f"{RPC}unshelve", PRESSURE)


def killed(net: Net) -> None:
    """Kill hwalarm and start it again."""
    (process,) = living(net.home, "bin/hwalarm")
    process.send_signal(signal.SIGKILL)
    process.wait()
    net.start_alarms()


def test_each_state_survives_a_kill(running: Net) -> None:
    alarm, other = "pressure1.pressure", "pressure2.pressure"
    for gauge in ("pressure1", "pressure2"):
        breaks(gauge)
    until(is_in("active", alarm))
    until(is_in("active", other))
    before = listed()[alarm]
    breaks("pressure2", 1e-5)
    until(is_in("returned", other))
    killed(running)
    until(is_in("active", alarm))
    assert listed()[alarm] == before
    assert listed()[other]["state"] == "returned"
    call(f"{RPC}acknowledge", alarm, before["occurrence"], "looking")
    call(f"{RPC}shelve", alarm, 30, "known")
    killed(running)
    until(is_in("acknowledged", alarm))
    after = listed()[alarm]
    assert after["acknowledged"]["note"] == "looking"
    assert after["shelved"]["reason"] == "known"
    call(f"{RPC}unshelve", alarm)
    repairs()


def test_a_killed_server_is_one_row(running: Net) -> None:
    (server,) = living(running.home, "bin/hwserver")
    server.send_signal(signal.SIGKILL)
    server.wait()
    until(is_in("active", "hwserver.status"))

    def all_hidden() -> bool:
        hidden = [r["cause"] for r in listed().values() if r["suppressed"]]
        return hidden.count("hwserver.status") >= len(INSTRUMENT.choose("hwserver"))

    until(all_hidden)
    said = running.hcam_here("alarms", code=1)
    rows = [line for line in said.splitlines() if line.startswith(("ERR", "WARN"))]
    shown = {name.strip(",") for row in rows for name in row.partition(" since ")[0].split()[1:]}
    assert shown & {f"{name}.connection" for name in OURS} == set()
    assert "hwserver.status" in shown
    running.start_server()
    running.wait_for_devices("pressure3")
    until(is_in("returned", "hwserver.status"))


def test_a_killed_router_loses_nothing(running: Net) -> None:
    alarm = "pressure4.pressure"
    breaks("pressure4")
    until(is_in("active", alarm))
    before = listed()[alarm]
    for process in living(running.home, "crossbar"):
        process.kill()
    assert running.router
    running.router.wait()
    running.start_router()
    running.wait_for_devices("pressure4", "alarms")
    until(is_in("active", alarm))
    assert listed()[alarm] == before
    repairs()
