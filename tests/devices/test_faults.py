"""Every kind of device passes the suite of faults, and notices hardware that comes and goes."""

import re
from pathlib import Path

import pytest

from hcam_devices.config.instrument import Entry
from hcam_devices.core.link import Tcp
from hcam_devices.core.modbus import Modbus
from hcam_devices.core.web import Web
from hcam_devices.devices.ngc import Controller
from hcam_devices.telescope.corba import Corba
from hcam_devices.testing import Fault, check_fault, faults_of

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


def faults(entry: Entry) -> list[Fault]:
    found = faults_of(entry.cls)
    if entry.cls is Controller:  # only what follows the last = matters
        found = [fault for fault in found if fault.name != "drop"]
    return found


CASES = [
    pytest.param(entry, fault, id=f"{kind}-{fault}")
    for kind, entry in SIMULATED.items()
    for fault in faults(entry)
]


@pytest.mark.parametrize(("entry", "fault"), CASES)
async def test_a_fault_is_said_at_once_is_never_a_wrong_value_and_leaves_nothing_behind(
    entry: Entry, fault: Fault, tmp_path: Path
) -> None:
    await check_fault(entry.cls, fault, tmp_path, entry.build)


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
