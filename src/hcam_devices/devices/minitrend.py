"""Honeywell Minitrend recorder, which measures the coolant flows, over Modbus TCP.

    -> 0001 0000 0006 01 04 18C0 0014          read 20 input registers: pens 0 to 9
    <- 0001 0000 002B 01 04 28 3FA00000 ...    1.25 l/min ...
    <- 0001 0000 0003 01 84 02                 or refused: illegal address

The value of pen i is a float at 18C0 + 2i; its six alarms are bits at 1980 + i. Sources: Honeywell
X-Series user manual 43-TV-25-30, appendix J; the address 1980 is known only from its use.
"""

import struct
from collections.abc import Iterator
from typing import Any, ClassVar

from ..core import Alarm, Beyond, Device, Exactly, Range, Readback, Value
from ..core import Simulator as Base
from ..core.modbus import Modbus

RECORDED_AS = (0, 1, 2, 3, 8, 9)
"""The recorder's numbers of pens 1 to 6, which measure the flows of CCD 1 to 5 and of the NGC."""
PENS, ALARMS = (0x18C0, 20), (0x1980, 10)
"""The first register and the number of registers: ten values of two each, and ten alarms."""
SIX_BITS = 0x3F


class FlowRecorder(Device):
    """The coolant flows of the five CCD heads (pens 1 to 5) and of the NGC (pen 6)."""

    link_type: ClassVar[Any] = Modbus

    pen = Readback(
        unit="l / min",
        question=PENS,
        channels=6,
        doc="Coolant flow that this pen measures.",
    )
    alarm = Readback(
        question=ALARMS,
        kind=bool,
        channels=6,
        advice="Read the display of the flow recorder, which says which limit of this pen it "
        "guards; then look at the chiller and the valves of this head.",
        doc="Whether one of the six alarms of this pen is on.",
    )

    def value_in(self, answer: list[int], field: Readback) -> Value:
        """Return the value or the alarm of one pen from the registers of all pens."""
        _, number = field.ref
        place = RECORDED_AS[number - 1]
        if field.question == ALARMS:
            return bool(answer[place] & SIX_BITS)
        (flow,) = struct.unpack(">f", struct.pack(">2H", *answer[2 * place : 2 * place + 2]))
        return float(flow)

    def notices(self) -> Iterator[Alarm]:
        """Return an alarm for each pen that the recorder reports in alarm."""
        for n in range(1, 7):
            if self.readings[f"alarm{n}"].value:
                yield Alarm(
                    f"alarm{n}",
                    "ERR",
                    f"the flow recorder reports an alarm on pen {n}: see its display",
                )


class Simulator(Base):
    """A recorder whose flows are about ``flow`` (l/min) while the ``pump`` runs."""

    controls = ("flow", "pump", "alarms")
    ranges: ClassVar[dict[str, Range]] = {"alarms": (0, 0xFFFF)}
    beyond: ClassVar[Beyond] = {
        "pen": {"below": {"pump": False}},
        "alarm": {"alarm": {"alarms": 1}},
    }
    flow, pump, alarms = 1.05, True, 0
    cut = Exactly(6, lambda buffer: 6 + int.from_bytes(buffer[4:6], "big"))

    def answer(self, frame: bytes) -> bytes:
        """Answer functions 3 and 4; other functions and addresses get exceptions 1 and 2."""
        if len(frame) < 8:
            return b""
        if len(frame) < 12 or frame[7] not in (3, 4):
            return self._reply(frame, bytes([frame[7] | 0x80, 1]))
        address, count = struct.unpack(">HH", frame[8:12])
        if not 1 <= count <= 125:
            return self._reply(frame, bytes([frame[7] | 0x80, 3]))
        try:
            words = [self._register(address + n) for n in range(count)]
        except KeyError:
            return self._reply(frame, bytes([frame[7] | 0x80, 2]))
        return self._reply(frame, struct.pack(f">BB{count}H", frame[7], 2 * count, *words))

    @staticmethod
    def _reply(frame: bytes, pdu: bytes) -> bytes:
        return frame[:4] + struct.pack(">HB", len(pdu) + 1, frame[6]) + pdu

    def _register(self, address: int) -> int:
        values, alarms = PENS[0], ALARMS[0]
        if values <= address < values + 0x40:
            flow = max(self.random.gauss(self.flow, 0.01), 0.0) if self.pump else 0.0
            high, low = struct.unpack(">HH", struct.pack(">f", flow))
            return int(low if (address - values) % 2 else high)
        if alarms <= address < alarms + 0x20:
            return self.alarms if address - alarms in RECORDED_AS else 0
        raise KeyError(address)

    def constant(self, frame: bytes) -> bytes:
        """Return a request without its transaction number."""
        return frame[2:]

    def renumber(self, reply: bytes, frame: bytes) -> bytes:
        """Return a recorded reply with the transaction number of this frame."""
        return frame[:2] + reply[2:]

    def fault_error(self, reply: bytes, code: int = 4) -> bytes:
        """Refuse everything with a Modbus exception."""
        return self._reply(reply, bytes([reply[7] | 0x80, code % 256]))

    def fault_identity(self, reply: bytes) -> bytes:
        """Answer with another transaction's number."""
        return b"\xff\xff" + reply[2:]

    def fault_nan(self, reply: bytes) -> bytes:
        """Answer NaN, as with a broken sensor."""
        return reply[:9] + b"\x7f\xc0\x00\x00" * ((len(reply) - 9) // 4)

    def fault_truncated(self, reply: bytes) -> bytes:
        """Send half of each reply."""
        return reply[: len(reply) // 2]
