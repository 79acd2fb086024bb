"""Huber Unichiller 025-MPC, for sites without a cooling circuit of their own (LAI protocol).

    -> [M01V07C6<CR>                    ask for the name
    <- [S01V0EMINI CCAD<CR>             "MINI CC"
    -> [M01G0D**0190E2<CR>              keep mode and alarm, set 4.00 deg_C
    <- [S01G15I001900187C504AB<CR>      controlling, no alarm, setpoint 4.00, internal 3.91,
                                        external -151.00: there is no such sensor

After the address: command, length up to the last character of the data (hexadecimal), data, and
the low byte of the sum of all characters. Temperatures are hundredths of a degree in two's
complement. A frame with a mistake is not answered. Sources: Huber manuals of the MPC controller
(UC006, p. 27), Unichiller in desktop housing (p. 25-26) and CC508 (p. 72). The range of -10 to
40 deg_C is from the data sheet, to be confirmed at the unit.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

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
"""The data of a request that changes nothing."""
ABSENT = "C504"


def checksum(text: bytes) -> bytes:
    """Return the low byte of the sum of all characters, in hexadecimal."""
    return b"%02X" % (sum(text) & 0xFF)


def seal(head: str, data: str) -> bytes:
    """Return a complete frame; ``head`` is start, sender, address and command."""
    text = f"{head}{len(head) + 2 + len(data):02X}{data}".encode()
    return text + checksum(text) + b"\r"


def encode(temperature: float) -> str:
    """Return a temperature (deg_C) as four hexadecimal digits. Raises ValueError."""
    hundredths = round(temperature * 100)
    if not -0x8000 <= hundredths < 0x8000:
        raise ValueError(f"{temperature:g} deg_C cannot be sent: the range is -327.68 to 327.67")
    return f"{hundredths & 0xFFFF:04X}"


def decode(text: str) -> float:
    """Return the temperature (deg_C) in four hexadecimal digits.

    Raises RefusedError if the chiller does not have the sensor.
    """
    if text == ABSENT:
        raise RefusedError("the chiller does not have this sensor (it reports -151.00 deg_C)")
    return ((int(text, 16) ^ 0x8000) - 0x8000) / 100


class Codec:
    """The LAI protocol, for the unit with address 01."""

    cut = Until(b"\r", start=b"[")

    def request(self, ref: str, value: str | None = None) -> bytes:
        """Return a frame: ``V`` reads the name, STATUS the status; a value commands."""
        return seal(f"[M01{ref}", "" if ref == "V" else value or ASK)

    def reply(self, request: bytes, frame: bytes) -> str:
        """Return the data of a reply."""
        text, check = frame[:-2], frame[-2:]
        if len(frame) < 9 or check != checksum(text) or int_or_none(text[5:7]) != len(text):
            raise ProtocolError("wrong checksum or length, or not an LAI reply")
        if text[:5] != b"[S01" + request[4:5]:
            raise ProtocolError(f"this does not answer {request.decode().strip()}")
        data = text[7:].decode("ascii", "replace")
        if request[4:5] == b"G" and not re.fullmatch(r"[CIO][0-9]([0-9A-F]{4}){3}", data):
            raise ProtocolError("this is not a status")
        return data


def int_or_none(digits: bytes) -> int | None:
    """Return the number of two upper case hexadecimal digits."""
    return int(digits, 16) if re.fullmatch(rb"[0-9A-F]{2}", digits) else None


def status(ref: Any, kind: Callable[[str], Value], doc: str, unit: str = "") -> Readback:
    """Return the readback of a part of the status."""
    return Readback(unit=unit, question=STATUS, ref=ref, kind=kind, doc=doc)


class WaterChiller(Device):
    """A water chiller with a pump."""

    codec = Codec()

    advice: ClassVar[dict[str, str]] = {
        "alarm": "Read the display of the chiller, check its level of coolant, then acknowledge: "
        "hcam call {device}.cancel_alarm, and pump_on. The CCDs warm up without it.",
        "mode": "If nobody works on the cooling: hcam call {device}.pump_on.",
    }

    settle: Seconds = 2.0
    """The time (s) for which the coolant circulates before the cooling begins."""

    mode = status(
        0, MODES, "Mode: off, circulating (the pump runs), or controlling (it also cools)."
    )
    alarm = status(1, int, "Number of the alarm on the display; 0 if there is none.")
    setpoint = Setpoint(
        unit="deg_C",
        question=STATUS,
        ref=slice(2, 6),
        kind=decode,
        limits=(-10, 40),
        tolerance=0.0051,
        readback="temperature",
        doc="Coolant temperature to keep, lost at a power cut; the limits are uncertain.",
    )
    temperature = status(slice(6, 10), decode, "Coolant temperature inside the chiller.", "deg_C")
    external_temperature = status(
        slice(10, 14), decode, "Temperature at the external sensor, if there is one.", "deg_C"
    )

    async def on_connect(self) -> None:
        """Check that a chiller answers."""
        await self.ask("V")

    def value_in(self, answer: str, field: Readback) -> Value | None:
        """Return a value from the status; None if there is no external sensor."""
        said = answer[field.ref]
        absent = said == ABSENT and field.name == "external_temperature"
        return None if absent else field.kind(said)

    async def write(self, field: Setpoint, value: float) -> None:
        """Send the setpoint."""
        await self.ask(STATUS, f"**{encode(value)}")

    @rpc()
    async def pump_on(self) -> None:
        """Start the circulation of the coolant, then the cooling."""
        self.require_online()
        await self._begin(CIRCULATE)
        await self.link.idle(self.settle)
        self._require(CIRCULATE, await self.ask(STATUS))  # it may have been stopped meanwhile
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
        """Acknowledge the alarm; it returns if its cause persists."""
        self.require_online()
        await self.ask(STATUS, "*1****")
        alarm = (await self.ask(STATUS))[1]
        self.poll_now()
        if alarm != "0":
            raise RefusedError(f"the chiller still reports alarm {alarm}: see its display")

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for a fault that the chiller reports, and if it does not cool."""
        if number := self.readings["alarm"].value:
            reason = f"the chiller reports alarm {number}: see its display"
            yield Alarm("alarm", "ERR", reason)
        if (mode := self.readings["mode"].value) not in (None, MODES[CONTROL]):
            yield Alarm("mode", "WARN", f"the chiller is {mode}: pump_on starts it")


class Simulator(Base):
    """A chiller that controls at 5 deg_C; an ``alarm`` (1 to 9) stops it until acknowledged."""

    controls = ("alarm", "ambient", "external", "persists")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.mode, self.alarm, self.persists = CONTROL, 0, False
        self.setpoint, self.temperature, self.ambient = 5.0, 5.0, 15.0
        self.external = -151.0
        self.cut = Impatient(Codec.cut, 0.1, self.clock)

    def answer(self, frame: bytes) -> bytes:
        """Answer a valid frame; be silent otherwise."""
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
        """Send a wrong length with a matching checksum."""
        text = reply[:5] + b"FF" + reply[7:-3]
        return text + checksum(text) + b"\r"

    def fault_truncated(self, reply: bytes) -> bytes:
        """Omit the second half of the data."""
        return reply[: len(reply) // 2] + b"\r"

    def fault_identity(self, reply: bytes, address: int = 2) -> bytes:
        """Answer as another unit."""
        return seal(f"[S{address % 100:02d}{chr(reply[4])}", reply[7:-3].decode())

    def fault_alarm(self, reply: bytes, code: int = 3) -> bytes:
        """Report an alarm that cannot be acknowledged."""
        status = f"O{code % 10}{reply[9:-3].decode()}"
        return seal("[S01G", status) if reply[4:5] == b"G" else reply

    def fault_stuck(self, reply: bytes) -> bytes:
        """Report another setpoint than the one that was sent."""
        status = f"{reply[7:9].decode()}{encode(20)}{reply[13:-3].decode()}"
        return seal("[S01G", status) if reply[4:5] == b"G" else reply

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Send an unsolicited frame after each reply."""
        return reply + self._status()
