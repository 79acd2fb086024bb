"""Huber Unichiller 025-MPC, which cools the coolant where no observatory does (LAI protocol).

    -> [M01V07C6<CR>                    who are you?
    <- [S01V0EMINI CCAD<CR>             "MINI CC"
    -> [M01G0D**0190E2<CR>              mode as it is, alarm as it is, setpoint 4.00 deg_C
    <- [S01G15I001900187C504AB<CR>      controlling, no alarm, setpoint 4.00, internal 3.91,
                                        external -151.00: there is no such sensor

After the address: command, length up to the last character of the data (hexadecimal), data, and
the low byte of the sum of all characters. Temperatures are hundredths of a degree in two's
complement. A frame with a mistake is not answered. Sources: Huber manuals of the MPC controller
(UC006, p. 27), Unichiller in desktop housing (p. 25-26) and CC508 (p. 72). That the unit works from
-10 to 40 deg_C is its data sheet's and to be confirmed at the unit.
"""

import re
from collections.abc import Iterator
from typing import Any

from ..core import (
    Alarm,
    Device,
    Impatient,
    Labels,
    ProtocolError,
    Readback,
    RefusedError,
    Seconds,
    Setpoint,
    Until,
    Value,
    rpc,
    toward,
)
from ..core import Simulator as Base

OFF, CIRCULATE, CONTROL = "O", "C", "I"
MODES = Labels({OFF: "off", CIRCULATE: "circulating", CONTROL: "controlling"})
STATUS = "G"
ASK = "******"
"""The data of a question: nothing is to change."""
ABSENT = "C504"


def checksum(text: bytes) -> bytes:
    """Return the low byte of the sum of all characters, as it is written."""
    return b"%02X" % (sum(text) & 0xFF)


def seal(head: str, data: str) -> bytes:
    """Return a whole frame; ``head`` is start, sender, address and command."""
    text = f"{head}{len(head) + 2 + len(data):02X}{data}".encode()
    return text + checksum(text) + b"\r"


def encode(temperature: float) -> str:
    """Return deg_C as four hexadecimal digits, rounded; ValueError if it does not fit."""
    hundredths = round(temperature * 100)
    if not -0x8000 <= hundredths < 0x8000:
        raise ValueError(f"{temperature:g} deg_C cannot be sent")
    return f"{hundredths & 0xFFFF:04X}"


def decode(text: str) -> float:
    """Return the deg_C of four hexadecimal digits; RefusedError if there is no sensor."""
    if text == ABSENT:
        raise RefusedError("the chiller has no such sensor (-151.00 deg_C)")
    return ((int(text, 16) ^ 0x8000) - 0x8000) / 100


class Codec:
    """LAI, to the unit with address 01."""

    cut = Until(b"\r", start=b"[")

    def request(self, ref: str, value: str | None = None) -> bytes:
        """Return a frame: ``V`` asks for the name, STATUS for the status, or commands."""
        return seal(f"[M01{ref}", "" if ref == "V" else value or ASK)

    def reply(self, request: bytes, frame: bytes) -> str:
        """Return the data of a reply."""
        text, check = frame[:-2], frame[-2:]
        if len(frame) < 9 or check != checksum(text) or int_or_none(text[5:7]) != len(text):
            raise ProtocolError("wrong checksum or length, or no reply of LAI")
        if text[:5] != b"[S01" + request[4:5]:
            raise ProtocolError(f"this does not answer {request.decode().strip()}")
        data = text[7:].decode("ascii", "replace")
        if request[4:5] == b"G" and not re.fullmatch(r"[CIO][0-9]([0-9A-F]{4}){3}", data):
            raise ProtocolError("this is no status")
        return data


def int_or_none(digits: bytes) -> int | None:
    """Return the number of two upper case hexadecimal digits."""
    return int(digits, 16) if re.fullmatch(rb"[0-9A-F]{2}", digits) else None


class WaterChiller(Device):
    """A chiller of the instrument's own, with its pump."""

    codec = Codec()

    settle: Seconds = 2.0
    """Seconds for which the coolant circulates before the cooling begins."""

    mode = Readback(
        question=STATUS,
        ref=0,
        kind=MODES,
        doc="What the chiller does: nothing, circulate the coolant, or control it too.",
    )
    alarm = Readback(
        question=STATUS,
        ref=1,
        kind=int,
        doc="Number of the alarm that the chiller shows; 0 if there is none.",
    )
    setpoint = Setpoint(
        unit="deg_C",
        question=STATUS,
        ref=slice(2, 6),
        kind=decode,
        limits=(-10, 40),
        tolerance=0.0051,
        readback="temperature",
        doc="Temperature of the coolant, kept until the power is cut; the limits are uncertain.",
    )
    temperature = Readback(
        unit="deg_C",
        question=STATUS,
        ref=slice(6, 10),
        kind=decode,
        doc="Temperature of the coolant inside the chiller.",
    )
    external_temperature = Readback(
        unit="deg_C",
        question=STATUS,
        ref=slice(10, 14),
        kind=decode,
        doc="Temperature at the external sensor of the chiller, if it has one.",
    )

    async def on_connect(self) -> None:
        """Make sure that such a chiller answers."""
        await self.ask("V")

    def value_in(self, answer: str, field: Readback) -> Value | None:
        """Return what the status says; None of an external sensor that is not there."""
        said = answer[field.ref]
        absent = said == ABSENT and field.name == "external_temperature"
        return None if absent else field.kind(said)

    async def write(self, field: Setpoint, value: float) -> None:
        """Send the setpoint."""
        await self.ask(STATUS, f"**{encode(value)}")

    @rpc()
    async def pump_on(self) -> None:
        """Let the coolant circulate, and then cool it."""
        self.require_online()
        await self._begin(CIRCULATE)
        await self.link.idle(self.settle)
        self._require(CIRCULATE, await self.ask(STATUS))  # somebody may have stopped it meanwhile
        await self._begin(CONTROL)
        self.poll_now()

    @rpc()
    async def pump_off(self) -> None:
        """Stop the cooling and the circulation of the coolant."""
        self.require_online()
        await self._begin(OFF)
        self.poll_now()

    async def _begin(self, mode: str) -> None:
        self._require(mode, await self.ask(STATUS, f"{mode}*****"))

    @staticmethod
    def _require(mode: str, status: str) -> None:
        if status[0] != mode:
            because = f": it reports alarm {status[1]}" if status[1] != "0" else ""
            raise RefusedError(f"the chiller is {MODES[status[0]]}{because}")

    @rpc()
    async def cancel_alarm(self) -> None:
        """Acknowledge the chiller's alarm, which comes again if its cause is still there."""
        self.require_online()
        await self.ask(STATUS, "*1****")
        alarm = (await self.ask(STATUS))[1]
        self.poll_now()
        if alarm != "0":
            raise RefusedError(f"the chiller still reports alarm {alarm}")

    def notices(self) -> Iterator[Alarm]:
        """Return an alarm for each fault that the chiller reports, and for coolant that stands."""
        if number := self.readings["alarm"].value:
            reason = f"the chiller reports alarm {number}: see its display"
            yield Alarm("alarm", "ERR", reason)
        if (mode := self.readings["mode"].value) not in (None, MODES[CONTROL]):
            yield Alarm("mode", "WARN", f"the chiller is {mode}: pump_on starts it")


class Simulator(Base):
    """A chiller that controls at 5 deg_C; an ``alarm`` (1 to 9) stops it until it is cancelled."""

    controls = ("alarm", "ambient", "external", "persists")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mode, self.alarm, self.persists = CONTROL, 0, False
        self.setpoint, self.temperature, self.ambient = 5.0, 5.0, 15.0
        self.external = -151.0
        self.cut = Impatient(Codec.cut, 0.1, self.clock)

    def answer(self, frame: bytes) -> bytes:
        """Answer a frame without a mistake; be silent otherwise."""
        text, data = frame[:-2], frame[7:-2].decode("ascii", "replace")
        if frame[-2:] != checksum(text) or int_or_none(text[5:7]) != len(text):
            return b""
        if text == b"[M01V07":
            return seal("[S01V", "MINI CC")
        if text[:5] != b"[M01G" or not re.fullmatch(r"[CIO*][01*]([0-9A-F]{4}|\*{4})", data):
            return b""
        if data[1] == "1" and not self.persists:
            self.alarm = 0
        if data[0] != "*":
            self.mode = data[0]
        if data[2:] not in ("****", ABSENT):
            self.setpoint = decode(data[2:])
        return self._status()

    def advance(self, dt: float) -> None:
        """Cool or warm the coolant, with a time constant of 5 minutes."""
        if self.alarm:
            self.mode = OFF
        goal = self.setpoint if self.mode == CONTROL else self.ambient
        self.temperature = toward(self.temperature, goal, dt, 300)

    def _status(self) -> bytes:
        mode = OFF if self.alarm else self.mode
        values = (self.setpoint, self.temperature, self.external)
        shown = "".join(encode(min(max(value, -300), 300)) for value in values)
        return seal("[S01G", f"{mode}{self.alarm % 10}{shown}")

    def fault_checksum(self, reply: bytes) -> bytes:
        """Send a wrong checksum."""
        return reply[:-2] + (b"0" if reply[-2:-1] != b"0" else b"1") + b"\r"

    def fault_length(self, reply: bytes) -> bytes:
        """Send a wrong length, with the checksum that belongs to it."""
        text = reply[:5] + b"FF" + reply[7:-3]
        return text + checksum(text) + b"\r"

    def fault_truncated(self, reply: bytes) -> bytes:
        """Leave out the second half of the data."""
        return reply[: len(reply) // 2] + b"\r"

    def fault_identity(self, reply: bytes, address: int = 2) -> bytes:
        """Answer as another unit."""
        return seal(f"[S{address % 100:02d}{chr(reply[4])}", reply[7:-3].decode())

    def fault_alarm(self, reply: bytes, code: int = 3) -> bytes:
        """Report an alarm, whatever is done about it."""
        status = f"O{code % 10}{reply[9:-3].decode()}"
        return seal("[S01G", status) if reply[4:5] == b"G" else reply

    def fault_stuck(self, reply: bytes) -> bytes:
        """Answer with another setpoint than it was given."""
        status = f"{reply[7:9].decode()}{encode(20)}{reply[13:-3].decode()}"
        return seal("[S01G", status) if reply[4:5] == b"G" else reply

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Send an unsolicited frame after each reply."""
        return reply + self._status()
