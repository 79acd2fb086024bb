"""Record what passes on a wire, and let a simulator answer as recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.config.instrument import Entry
from hcam_devices.core import capture
from hcam_devices.core.device import Device, Sample
from hcam_devices.telescope.corba import Corba

from ..helpers import SIMULATED, Clock, complete, offline, presented, reasons, sample_where

RECORDABLE = {
    kind: entry for kind, entry in SIMULATED.items() if not issubclass(entry.cls.link_type, Corba)
}
"""All but CORBA, whose bytes stay inside the ORB."""


def event(direction: str, data: bytes, meaning: str) -> dict[str, Any]:
    return {
        "device": "x",
        "time": "2026-11-22T04:44:44.196Z",
        "direction": direction,
        "hex": data.hex(" "),
        "text": repr(data),
        "meaning": meaning,
    }


def record_to(file: Path, device: Device) -> None:
    """Do what ``hcam wire --record`` does."""

    def keep(direction: str, data: bytes, meaning: str) -> None:
        with file.open("a") as kept:
            kept.write(capture.record(event(direction, data, meaning)) + "\n")

    device.link.trace = keep


def measured(sample: Sample) -> dict[str, Any]:
    changing = ("timestamp", "seq", "epoch", "disk_free")
    alarms = [{**alarm, "since": ""} for alarm in sample["alarms"]]
    return {name: sample[name] for name in sample if name not in changing} | {"alarms": alarms}


@pytest.mark.parametrize("entry", RECORDABLE.values(), ids=RECORDABLE)
async def test_a_recording_speaks_as_the_hardware_did(entry: Entry, tmp_path: Path) -> None:
    file = tmp_path / "wire.jsonl"
    async with presented(entry, entry.cls.simulator(clock=Clock())) as device:
        record_to(file, device)
        device.link.close(ConnectionAbortedError("to record the connection too"))
        await sample_where(device, complete)
        await sample_where(device, complete)
        told = measured(await sample_where(device, complete))
        device.link.trace = None

    simulator = entry.cls.simulator(clock=Clock(), seed=7)
    simulator.play(capture.read(file))
    async with presented(entry, simulator) as device:
        seen = []
        for _ in range(8):
            seen.append(measured(await sample_where(device, complete)))
            if told in seen:
                break
    assert told in seen


async def test_a_recorded_fault_happens_again(tmp_path: Path) -> None:
    entry = SIMULATED["PeltierRack"]
    file = tmp_path / "wire.jsonl"
    simulator = entry.cls.simulator(clock=Clock())
    async with presented(entry, simulator, timeout=0.3) as device:
        await sample_where(device, complete)
        record_to(file, device)
        simulator.simulate("checksum")
        recorded = reasons(await sample_where(device, offline))
    assert "wrong checksum" in recorded

    again = entry.cls.simulator(clock=Clock())
    passed = capture.read(file)
    again.play(passed)
    async with presented(entry, again, timeout=0.3) as device:
        # The questions on connection were not recorded, so only they are not answered.
        reason = reasons(await sample_where(device, offline))
    assert "did not answer" in reason or "wrong checksum" in reason


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"direction": ">", "hex": "zz"}', "no JSON"])
def test_what_is_no_recording_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "wire.jsonl"
    good = capture.record(event(">", b"\x01", "x"))
    file.write_text(f"{good}\n{line}\n")
    with pytest.raises(HcamError, match=r"wire\.jsonl:2: not a line of a recording"):
        capture.read(file)


def test_a_recording_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HcamError, match="cannot be read"):
        capture.read(tmp_path / "absent")


def test_a_recording_is_lines_of_plain_json(tmp_path: Path) -> None:
    line = json.loads(capture.record(event("<", b"\x01\xff", "1")))
    assert line == {
        "time": "2026-11-22T04:44:44.196Z",
        "direction": "<",
        "hex": "01 ff",
        "meaning": "1",
    }
