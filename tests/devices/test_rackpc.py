"""The rack PC: means over what it counted."""

from typing import Any

import pytest

from hcam_devices.core.device import Sample
from hcam_devices.devices.rackpc import LOOKS, Look, RackPC, look

from ..helpers import living, offline, online, reasons, sample_where

Counts = dict[str, tuple[int, int]]


async def after(counts: list[Counts], **settings: Any) -> Sample:
    """Return the sample after looking once at each of these counts, 20 s apart."""
    looked = 0

    def next_look() -> Look:
        nonlocal looked
        n, looked = min(looked, len(counts) - 1), looked + 1
        return Look(20.0 * n, 5.0 * n, 20.0 * n, 10.0 * n, counts[n])

    pc = RackPC("rackpc", look=next_look, poll_every=0.02, **settings)
    async with living(pc):
        return await sample_where(pc, lambda sample: looked >= len(counts))


VECTOR: list[Counts] = [
    {"lo": (10**9, 10**9), "eth0": (0, 0)},
    {"lo": (10**9, 10**9), "eth0": (40_000_000, 0)},
    {"lo": (10**9, 10**9), "eth0": (120_000_000, 10_000_000)},
]


@pytest.mark.parametrize("settings", [{}, {"interface": "eth0"}])
async def test_rates_and_means_are_those_of_the_vector(settings: dict[str, str]) -> None:
    sample = await after(VECTOR, **settings)
    assert sample["net_in"] == {"value": 3.0, "unit": "MB / s"}
    assert sample["net_out"] == {"value": 0.25, "unit": "MB / s"}
    assert sample["cpu"] == {"value": 25.0, "unit": "%"}
    assert sample["mem"] == {"value": 10.0, "unit": "%"}


@pytest.mark.parametrize(
    ("counts", "settings", "why"),
    [
        (VECTOR, {"interface": "eth7"}, "no network interface 'eth7'; there are lo, eth0"),
        ([{}, {"eth0": (5, 5)}], {}, "no network interface 'eth0'"),
        ([{}, {}], {}, "no network interface"),
    ],
)
async def test_a_missing_interface_is_null_with_a_reason_and_the_rest_goes_on(
    counts: list[Counts], settings: dict[str, str], why: str
) -> None:
    sample = await after(counts, **settings)
    assert sample["net_in"] is sample["net_out"] is None
    assert why in reasons(sample, "net_in")
    assert sample["cpu"]["value"] == 25.0


@pytest.mark.parametrize("looks", [2, LOOKS - 1, LOOKS, LOOKS + 1])
async def test_being_busy_is_an_alarm_only_if_it_goes_on_for_a_minute(looks: int) -> None:
    looked = 0

    def busy() -> Look:
        nonlocal looked
        looked += 1
        return Look(10.0 * looked, 10.0 * looked, 10.0 * looked, 50.0, {"eth0": (0, 0)})

    pc = RackPC("rackpc", look=busy)
    await pc.link.open()
    pc.connection = "online"
    pc._looks.append(busy())
    for _ in range(looks - 1):
        await pc.poll()
    said = reasons(pc.snapshot(), "cpu")
    assert said == ("100 % is above 95 %" if looks >= LOOKS else "")
    pc.disabled.add("cpu")
    await pc.poll()
    assert "was disabled" in reasons(pc.snapshot(), "cpu")


async def test_the_emulated_one_is_quiet_whatever_this_machine_does() -> None:
    pc = RackPC("rackpc", **({"interface": "eno1"} | RackPC.emulated), poll_every=0.02)
    async with living(pc):
        sample = await sample_where(pc, online)
    assert sample["alarms"] == []
    assert sample["cpu"]["value"] == pytest.approx(12)
    assert sample["net_in"]["value"] == pytest.approx(0.25, rel=0.01)


async def test_this_machine_can_be_looked_at() -> None:
    pc = RackPC("rackpc", poll_every=0.02)
    async with living(pc):
        sample = await sample_where(pc, online)
        assert 0 <= sample["cpu"]["value"] <= 100
        assert 0 < sample["mem"]["value"] < 100
        assert sample["net_in"]["value"] >= 0
        await pc.disconnect()
        assert "by request" in reasons(await sample_where(pc, offline))
        await sample_where(pc, online)
    assert look().total > 0
