"""Whatever becomes of the wire or of the hardware: the truth, or null and offline with a reason.

Each fault is put between each kind of device and its simulator, whose clock stands still, so that
what was read before the fault is the truth until its end. A neighbour of the same kind lives in
the same loop and must not notice.

Not tested is what no driver can notice: a digit that was changed or added (flip, insert) where the
protocol has no checksum - PDR900, Zaber, Modbus.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import Entry
from hcam_devices.core.device import Sample
from hcam_devices.core.link import Tcp
from hcam_devices.core.modbus import Modbus
from hcam_devices.core.web import Web
from hcam_devices.devices.ngc import Controller
from hcam_devices.telescope.corba import Corba

from ..helpers import (
    CONNECTED,
    SIMULATED,
    Clock,
    complete,
    lies,
    offline,
    presented,
    reasons,
    sample_where,
)

HARMLESS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.002},
    "split": {"gap": 0.0005},
    "double": {},
    "unsolicited": {},
    "closed": {},
}
"""Those after which the device may go on."""

WIRE: dict[str, dict[str, Any]] = {
    "silence": {},
    "late": {"seconds": 0.2, "times": 1},
    "late for ever": {"seconds": 0.2, "times": 1000},
    "garbage": {},
    "drop": {},
    "drop the first": {"index": 0},
    "disconnect": {"when": "before"},
    "disconnect in the middle": {"when": "during"},
    "disconnect afterwards": {"when": "after"},
    "busy": {},
    "refuse": {},
}
CHECKED = {"flip", "insert"}
"""Those that only a checksum reveals."""
TRUE = {"alarm", "static", "emergency", "power_cycle", "limit", "heading", "closing"}
TRUE |= {"leap_second", "time", "status", "failure", "disk_full"}
TRUE |= {"refused", "unheard", "unanswered", "broken", "failed", "hang", "unsettled", "flapping"}
"""Those that change the hardware, or what does not matter, and do not lie: see their own tests."""
ON_CONNECTION = {"identity", "unnamed"}
"""Those that may only be noticed when a connection is made."""


def faults(entry: Entry) -> dict[str, dict[str, Any]]:
    offers = entry.cls.simulator().offers()
    own: dict[str, dict[str, Any]] = {
        name: {} for name in offers if name not in {*TRUE, "silence", *CHECKED, *HARMLESS}
    }
    checked: dict[str, dict[str, Any]] = {name: {} for name in CHECKED if "checksum" in offers}
    harmless = {name: chosen for name, chosen in HARMLESS.items() if name in offers}
    found = own | WIRE | dict(sorted(checked.items())) | harmless
    if entry.cls is Controller:  # the value is what follows the last =, whatever stands before
        found = {name: chosen for name, chosen in found.items() if not name.startswith("drop")}
    if entry not in CONNECTED.values():  # the answer has come, and nothing else was to be kept
        del found["disconnect afterwards"]
    return found


CASES = [
    pytest.param(entry, fault, chosen, id=f"{kind}-{fault}")
    for kind, entry in SIMULATED.items()
    for fault, chosen in faults(entry).items()
]


@pytest.mark.parametrize(("entry", "fault", "chosen"), CASES)
async def test_a_fault_is_said_at_once_is_never_a_wrong_value_and_leaves_nothing_behind(
    entry: Entry, fault: str, chosen: dict[str, Any], tmp_path: Path
) -> None:
    simulator = entry.cls.simulator(clock=Clock())
    untouched = entry.cls.simulator(clock=Clock())
    simulator.folder = untouched.folder = tmp_path
    told: list[Sample] = []
    beside: list[Sample] = []
    async with (
        presented(entry, simulator, timeout=0.1) as device,
        presented(entry, untouched, timeout=20.0) as neighbour,
    ):
        truth = await sample_where(device, complete)
        await sample_where(neighbour, complete)
        device.listeners.append(told.append)
        neighbour.listeners.append(beside.append)

        simulator.simulate(fault.split(maxsplit=1)[0], **chosen)
        if fault == "unnamed":  # its name is only looked up when it was restarted
            simulator.simulate("disconnect", when="before", times=1)
        if fault in ON_CONNECTION:
            simulator.hang_up()
        for _ in range(4):
            await sample_where(device, lambda sample: True)
        for _ in range(3):
            await sample_where(neighbour, lambda sample: True)
        during = list(told)
        simulator.simulate("clear")
        await sample_where(device, complete)
        await sample_where(device, complete)

    assert [lie for sample in told for lie in lies(sample, truth)] == []
    assert [lie for sample in beside for lie in lies(sample, truth)] == []
    assert all(complete(sample) for sample in beside)
    if fault not in HARMLESS:
        # The first sample may be of a poll that had begun before.
        assert not all(complete(sample) for sample in during[:2]), "it did not say so"


@pytest.mark.parametrize("entry", CONNECTED.values(), ids=CONNECTED)
async def test_hardware_that_goes_and_comes_while_it_is_not_looked_at_is_still_noticed(
    entry: Entry,
) -> None:
    simulator = entry.cls.simulator(clock=Clock())
    async with presented(entry, simulator, poll_every=3600.0) as device:
        truth = await sample_where(device, complete)
        for _ in range(3):
            simulator.hang_up()
            gone = await sample_where(device, offline)
            back = await sample_where(device, complete)
            assert lies(gone, truth) == lies(back, truth) == []


TAKEN = {
    kind: entry
    for kind, entry in SIMULATED.items()
    if issubclass(entry.cls.link_type, (Tcp, Modbus, Web, Corba))
}
"""Those that are reached at an address."""


@pytest.mark.parametrize("entry", TAKEN.values(), ids=TAKEN)
async def test_what_a_terminal_server_says_instead_of_the_hardware_is_told_with_its_address(
    entry: Entry,
) -> None:
    simulator = entry.cls.simulator(clock=Clock())
    async with presented(entry, simulator, timeout=0.5) as device:
        await sample_where(device, complete)
        simulator.simulate("taken")
        said = "; it said 'Port already in use'"
        told = await sample_where(device, lambda one: said in reasons(one))
        where = f"{device.link.host}:{device.link.port}"
        assert re.search(f"{where}.*{said}", reasons(told, "connection"))
        simulator.simulate("clear")
        await sample_where(device, complete)
