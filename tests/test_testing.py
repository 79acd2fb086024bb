"""The suite of faults finds a device that lies, and one that does not notice."""

import re
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.core import Device, ProtocolError, Readback, Until
from hcam_devices.core import Simulator as Base
from hcam_devices.testing import Fault, check_fault, complete, faults_of, lies


class Codec:
    """Lines such as ``T=12.75``."""

    cut = Until(b"\n")

    def request(self, ref: str, value: None = None) -> bytes:
        return f"{ref}\n".encode()

    def reply(self, request: bytes, frame: bytes) -> Any:
        if not re.fullmatch(rb"T=\d\d\.\d\d", frame):
            raise ProtocolError("no temperature")
        return float(frame[2:])


class Trusting(Codec):
    """It takes what it does not understand for zero."""

    def reply(self, request: bytes, frame: bytes) -> Any:
        try:
            return super().reply(request, frame)
        except ProtocolError:
            return 0.0


class Honest(Device):
    """A thermometer."""

    codec = Codec()
    temperature = Readback(unit="deg_C", ref="T")


class Liar(Honest):
    """One that takes anything for an answer."""

    codec = Trusting()


class Simulator(Base):
    """A thermometer at 12.75 deg_C."""

    cut = Codec.cut

    def answer(self, frame: bytes) -> bytes:
        return b"T=12.75\n"

    def fault_text(self, reply: bytes) -> bytes:
        """Say something that is no number."""
        return b"OFF\n"

    def fault_off(self, seconds: float = 1.0) -> None:
        """Be switched off."""


@pytest.mark.parametrize("fault", faults_of(Honest, without=["off"]), ids=str)
async def test_an_honest_device_passes(fault: Fault, tmp_path: Path) -> None:
    await check_fault(Honest, fault, tmp_path)


async def test_a_lie_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"Liar, text: temperature is .* in truth .*12\.75"):
        await check_fault(Liar, Fault("text"), tmp_path)


async def test_a_fault_that_is_not_noticed_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="off: the device did not report the fault"):
        await check_fault(Honest, Fault("off"), tmp_path)


def test_a_position_that_is_null_beside_its_target_has_to_have_a_reason() -> None:
    pix = {"value": 1.0, "unit": "pix"}
    truth = {"state": {"connection": "online"}, "alarms": [], "x": {"current": pix, "target": pix}}
    null = truth | {"x": {"current": None, "target": pix}}
    assert lies(truth, truth) == []
    assert lies(null, truth) == ["x is null without a reason"]
    told = null | {"alarms": [{"field": "x", "reason": "not homed"}]}
    assert lies(told, truth) == []
    assert complete(null)
    assert not complete(told)


def test_a_fault_of_the_hardware_is_offered_as_one_of_its_replies_is() -> None:
    simulator = Simulator()
    assert {"text": {}, "off": {"seconds": 1.0}}.items() <= simulator.offers().items()
    simulator.simulate("off", seconds=2.0)
    assert simulator.own_faults(b"T=12.75\n") == b"T=12.75\n"
    assert simulator.fault("off") is not None
    simulator.simulate("text", times=1)
    assert simulator.own_faults(b"T=12.75\n") == b"OFF\n"
    assert simulator.own_faults(b"T=12.75\n") == b"T=12.75\n"
