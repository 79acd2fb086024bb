"""Meerstetter TEC-1090 peltier controllers, three to an LTR-1200 rack, over TCP (MeCom).

    -> #011235?VR03E801696A<CR>        address 01, sequence 1235, read parameter 1000, CRC
    <- !011235C2B3E666D459<CR>         -89.95 deg_C
    -> #01123AVS0BB801C2B40000BBA1<CR> set the target, 3000, to -90 deg_C
    <- !01123ABBA1<CR>                 done (the CRC of the request), or +07 and its own CRC

Sources: MeCom protocol specification 5117F; TEC controller communication protocol 5136AL (firmware
5; in firmware 6, parameter 2010 has no "HW Enable"). The greeting of the rack is unknown, so the
first bytes after connecting are discarded.
"""

import math
import re
import struct
from binascii import crc_hqx
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..core import (
    Alarm,
    Beyond,
    Device,
    Labels,
    ProtocolError,
    Range,
    Readback,
    RefusedError,
    Setpoint,
    Until,
    is_number,
    rpc,
    toward,
)
from ..core import Simulator as Base

STATUS = Labels(enumerate(("init", "ready", "run", "error", "bootloader", "resetting")))
STAGE_ENABLE = Labels({0: "Static OFF", 1: "Static ON", 2: "Live OFF/ON", 3: "HW Enable"})
OFF, STATIC_ON, HW_ENABLE = 0, 1, 3
INTEGERS = (100, 104, 105, 106, 107, 108, 2010)
ERRORS = {
    1: "command not available",
    2: "busy",
    3: "communication",
    4: "format",
    5: "parameter not available",
    6: "read only",
    7: "out of range",
    8: "instance not available",
    9: "parameter failure",
}
STOPPED_BECAUSE = {
    11: "emergency stop",
    12: "front panel timeout",
    30: "supply voltage low",
    31: "supply voltage high",
    60: "controller too hot",
    **dict.fromkeys(range(100, 112), "output stage"),
    **dict.fromkeys(range(130, 151), "temperature measurement"),
}
HEX = re.compile(rb"[0-9A-F]{2}")
TEC_CURRENT_LIMIT = 10.7
"""Greatest current through a peltier, in A. ``hcam_widgets`` imports it."""
NO_CURRENT_A = 0.2
"""A channel that should cool and has less current is stopped by the coolant interlock."""
RESTORE_PERIOD_S = 60.0
"""Pause between attempts to restore HW Enable, because each write wears the flash memory."""


def crc(text: bytes) -> bytes:
    """Return the CRC-16/XMODEM of a frame in hexadecimal, such as ``b"31C3"``."""
    return b"%04X" % crc_hqx(text, 0)


def encode(parameter: int, value: float) -> str:
    """Return a value as eight hexadecimal digits. Raises ValueError if it does not fit."""
    try:
        packed = struct.pack(">i" if parameter in INTEGERS else ">f", value)
    except (struct.error, OverflowError):
        raise ValueError(f"{value!r} cannot be sent") from None
    return packed.hex().upper()


def decode(parameter: int, text: str) -> float:
    """Return the value in eight hexadecimal digits."""
    number: float
    (number,) = struct.unpack(">i" if parameter in INTEGERS else ">f", bytes.fromhex(text))
    return number


class Codec:
    """The MeCom protocol. A reply must have the address and sequence number of its request."""

    cut = Until(b"\r", start=b"!#")

    def __init__(self, sequence: int = 0) -> None:
        self.sequence = sequence

    def request(self, ref: tuple[int | str, int], value: float | None = None) -> bytes:
        """Return a frame that reads a parameter, writes it, or sends a command (a text)."""
        parameter, channel = ref
        if isinstance(parameter, str):
            payload = parameter
        elif value is None:
            payload = f"?VR{parameter:04X}01"
        else:
            payload = f"VS{parameter:04X}01{encode(parameter, value)}"
        self.sequence = (self.sequence + 1) % 0x10000
        text = f"#{channel:02X}{self.sequence:04X}{payload}".encode()
        return text + crc(text) + b"\r"

    def reply(self, request: bytes, frame: bytes) -> float | str | None:
        """Return the value or text of a reply; an acknowledgement is an empty text."""
        head, payload, check = frame[:7], frame[7:-4], frame[-4:]
        if not re.match(rb"![0-9A-F]{6}.{4}", frame):
            return None  # a greeting
        reads = request.startswith(b"?", 7)
        acknowledged = not reads and not payload and check == request[-5:-1]
        if not acknowledged and check != crc(frame[:-4]):
            raise ProtocolError("wrong checksum")
        if head[1:] != request[1:7]:
            raise ProtocolError(f"this does not answer {request.decode().strip()}")
        text = payload.decode("ascii", "replace")
        if refusal := re.fullmatch(r"\+([0-9A-F]{2})", text):
            code = int(refusal[1], 16)
            raise RefusedError(
                f"the controller refused: {ERRORS.get(code, 'device specific')} (+{code:02X})"
            )
        if not (reads or acknowledged):
            raise ProtocolError(f"this does not acknowledge {request.decode().strip()}")
        if not request.startswith(b"?VR", 7):
            return text
        try:
            return decode(int(request[10:14], 16), text)
        except (ValueError, struct.error):
            raise ProtocolError("this is not a value") from None


class PeltierRack(Device):
    """Three peltier controllers, each of which cools one CCD."""

    temperature = Readback(
        unit="deg_C", ref=1000, channels=3, doc="Temperature of the CCD that this channel cools."
    )
    target_temperature = Setpoint(
        unit="deg_C",
        ref=3000,
        channels=3,
        deployed_name="temperature",
        limits=(-100, 25),
        tolerance=1e-3,
        doc="Temperature at which this channel keeps its CCD.",
    )
    status = Readback(
        ref=104,
        kind=STATUS,
        channels=3,
        advice="Note the error number. Check coolant and heatsink, then restart the controller: "
        "hcam call {device}.reset CHANNEL. If the error comes again, call support.",
        doc="State of the controller of this channel.",
    )
    current = Readback(
        unit="A",
        ref=1020,
        channels=3,
        advice="Look at the coolant: is the pump on, is the flow of this head above 0.4 l/min? "
        "When it flows, the interlock closes and cooling continues by itself. If it does not, "
        "call support.",
        doc="Current through the peltier of this channel.",
    )
    heatsink = Readback(
        unit="deg_C",
        ref=1001,
        channels=3,
        doc="Temperature of the warm side of the peltier of this channel.",
    )
    stage_enable = Setpoint(
        ref=2010,
        kind=STAGE_ENABLE,
        channels=3,
        words=Labels({OFF: STAGE_ENABLE[OFF], HW_ENABLE: STAGE_ENABLE[HW_ENABLE]}),
        advice="If nobody works on the cooling, switch it on again with the interlock: hcam call "
        "{device}.set_stage_enable1 'HW Enable' (with the channel's number). Ask who did it: hcam "
        "history --commands.",
        needs_confirm_to_leave=(STAGE_ENABLE[HW_ENABLE],),
        safe=(STAGE_ENABLE[OFF],),
        doc="Output enable: with HW Enable the coolant interlock can stop the peltier.",
    )

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.codec = Codec(int(self.clock() * 1000) % 0x10000)
        self._asserted_at: dict[str, float] = {}
        self._not_restored: dict[str, str] = {}
        self._errors: dict[str, str] = {}

    async def on_connect(self) -> None:
        """Discard the greeting, and check that TEC controllers answer."""
        await self.link.drain(0.1)
        for channel in (1, 2, 3):
            if "TEC" not in (identity := await self.ask(("?IF", channel))):
                raise ProtocolError(
                    f"{self.link}: channel {channel} is {identity!r}, not a TEC controller"
                )

    async def poll(self) -> None:
        """Read all fields, and restore the coolant interlock of a channel where it is bypassed."""
        await super().poll()
        for channel in (1, 2, 3):
            await self._explain(channel)
            await self._safeguard(f"stage_enable{channel}")

    async def _explain(self, channel: int) -> None:
        self._errors.pop(f"status{channel}", None)
        if self.readings[f"status{channel}"].value == STATUS[3]:
            try:
                number = int(await self.ask((105, channel)))
                what = STOPPED_BECAUSE.get(number, "see the manual of the controller")
                self._errors[f"status{channel}"] = f"error {number} ({what})"
            except RefusedError as error:
                self._errors[f"status{channel}"] = f"error, whose number is unknown: {error}"

    async def _safeguard(self, name: str) -> None:
        field = self.settable(name)
        # the safeguard works also while the reading is disabled
        unread = field.deployed_name in self.disabled
        now = (await self._reading(field) if unread else self.readings[name]).value
        overdue = self.clock() - self._asserted_at.get(name, -math.inf) >= RESTORE_PERIOD_S
        if now in (None, STAGE_ENABLE[HW_ENABLE], STAGE_ENABLE[OFF]):  # only people switch it on
            self._not_restored.pop(name, None)
            return
        if not overdue:
            return
        self._asserted_at[name] = self.clock()
        try:
            await super().write(field, HW_ENABLE)
        except RefusedError as error:
            self._not_restored[name] = f"; it could not be restored: {error}"
            return
        self._not_restored.pop(name, None)
        if not unread:
            self.readings[name] = await self._reading(field)

    def _should_cool(self, channel: int) -> bool:
        """Return whether a channel is enabled and runs, and its CCD is warmer than its setpoint."""
        value = {
            name: self.readings[f"{name}{channel}"].value
            for name in ("status", "stage_enable", "temperature", "target_temperature")
        }
        now, target = value["temperature"], value["target_temperature"]
        enabled = value["stage_enable"] in (STAGE_ENABLE[STATIC_ON], STAGE_ENABLE[HW_ENABLE])
        warmer = is_number(now) and is_number(target) and now > target
        return value["status"] == STATUS[2] and enabled and warmer

    async def write(self, field: Setpoint, value: float) -> None:
        """Send a setpoint only if it differs, to save wear of the flash memory."""
        if field.differs(value, await self.read(field)):
            await super().write(field, value)

    @rpc(label="Reset controller")
    async def reset(self, address: Annotated[int, Field(ge=1, le=3)]) -> None:
        """Restart one controller; its CCD is not cooled for a few seconds."""
        self.require_online()
        await self.ask(("RS", address))

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for controllers in error, and for channels stopped by the interlock.

        A channel without the interlock is an alarm, too.
        """
        for name, reason in self._errors.items():
            yield Alarm(name, "ERR", reason)
        for channel in (1, 2, 3):
            current = self.readings[f"current{channel}"].value
            if self._should_cool(channel) and is_number(current) and current < NO_CURRENT_A:
                reason = (
                    f"{current:.2f} A although channel {channel} should cool: the coolant "
                    "interlock is open, or the peltier is not connected"
                )
                yield Alarm(f"current{channel}", "ERR", reason)
        for name in (f"stage_enable{channel}" for channel in (1, 2, 3)):
            now = self.readings[name].value
            if now == STAGE_ENABLE[OFF]:
                on = f"set_{name} to {STAGE_ENABLE[HW_ENABLE]} switches it on"
                yield Alarm(name, "WARN", f"cooling is switched off ({now}); {on}")
            elif now not in (None, STAGE_ENABLE[HW_ENABLE]):
                why = self._not_restored.get(name, "")
                reason = f"{now}: the coolant interlock is bypassed{why}"
                yield Alarm(name, "ERR", reason)


AMBIENT = 15.0
DEVICE_TYPE = 1089
"""The type of the TEC-1089 family, from the vendor's example."""


class _Controller:
    """One simulated TEC controller: its settings and temperatures (deg_C)."""

    def __init__(self, target: float) -> None:
        self.target, self.object, self.sink, self.enable = target, target + 0.05, 38.0, HW_ENABLE
        self.error = self.saving_disabled = 0
        self.reset_at = -math.inf

    def status(self, now: float) -> int:
        since = now - self.reset_at
        if since < 1.2:
            return 5 if since < 0.2 else 0 if since < 0.7 else 1
        return 3 if self.error else 2

    def cools(self, now: float, interlock: str) -> bool:
        allowed = self.enable == STATIC_ON or (self.enable == HW_ENABLE and interlock == "closed")
        return allowed and self.status(now) == 2

    def advance(self, dt: float, *, on: bool) -> None:
        self.object = toward(self.object, self.target if on else AMBIENT, dt, 240)
        self.sink = toward(self.sink, 38.0 if on else AMBIENT, dt, 120)

    def current(self, *, on: bool) -> float:
        needed = 0.076 * (AMBIENT - self.object) + 0.5 * (self.object - self.target)
        return min(max(needed, 0), TEC_CURRENT_LIMIT) if on else 0.0


class Simulator(Base):
    """A rack of three controllers at -90 deg_C; an open ``interlock`` means no coolant.

    Their warm sides are hotter than they should be by ``overheat``, their CCDs warmer than they are
    by ``warmer`` (K). ``error`` and ``enable`` are those of all three.
    """

    cut = Codec.cut
    greeting = b"Welcome to LTR-1200\r\n"
    controls = ("interlock", "overheat", "warmer", "error", "enable")
    ranges: ClassVar[dict[str, Range]] = {
        "overheat": (0, 100),
        "warmer": (0, 100),
        "error": (0, 999),
        "enable": (0, 3),
    }
    beyond: ClassVar[Beyond] = {
        "heatsink": {"above": {"overheat": 30.0}},
        "current": {"alarm": {"interlock": "open"}},
        "status": {"alarm": {"error": 11}},
        "stage_enable": {"alarm": {"enable": OFF}},
        "temperature": {"alarm": {"warmer": 10.0}},
    }
    WRITABLE: ClassVar[dict[int, Range]] = {108: (0, 1), 2010: (0, 3), 3000: (-273, 1000)}
    READ_ONLY = (100, 104, 105, 106, 107, 1000, 1001, 1020, 1021)
    EVERYBODY = 255

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.interlock, self.overheat, self.warmer = "closed", 0.0, 0.0
        self.controllers = {n: _Controller(-90.0) for n in (1, 2, 3)}

    @property
    def error(self) -> int:
        """The error of the controllers; 0 is none."""
        return max(controller.error for controller in self.controllers.values())

    @error.setter
    def error(self, code: int) -> None:
        for controller in self.controllers.values():
            controller.error = code

    @property
    def enable(self) -> int:
        """The output enable of the controllers, as another client would set it."""
        return max(controller.enable for controller in self.controllers.values())

    @enable.setter
    def enable(self, value: int) -> None:
        for controller in self.controllers.values():
            controller.enable = value

    def advance(self, dt: float) -> None:
        """Cool or warm each CCD, with a time constant of 4 minutes."""
        for controller in self.controllers.values():
            controller.advance(dt, on=controller.cools(self.clock(), self.interlock))

    def answer(self, frame: bytes) -> bytes:
        """Answer a frame with a correct checksum and a known address; be silent otherwise."""
        if frame[:1] != b"#" or len(frame) < 11 or frame[-4:] != crc(frame[:-4]):
            return b""
        address = int(frame[1:3], 16) if HEX.match(frame, 1) else 0
        if address == self.EVERYBODY:  # no controller answers, because all would at once
            for controller in self.controllers.values():
                self._reply(controller, frame)
            return b""
        if address not in self.controllers:
            return b""
        payload, head = self._reply(self.controllers[address], frame), b"!" + frame[1:7]
        return self._seal(head + payload.encode()) if payload else head + frame[-4:] + b"\r"

    def _reply(self, controller: _Controller, frame: bytes) -> str:
        try:
            return self._obey(controller, frame[7:-4].decode("ascii", "replace"))
        except (ValueError, struct.error):
            return "+04"

    @staticmethod
    def _seal(text: bytes) -> bytes:
        return text + crc(text) + b"\r"

    def _obey(self, controller: _Controller, payload: str) -> str:
        if payload == "?IF":
            return "8065-TEC SW G01     "
        if payload == "RS":
            controller.reset_at = self.clock()
            return ""
        if not payload.startswith(("?VR", "VS")):
            return "+01"
        match = re.fullmatch(r"(\?VR|VS)(.{4})(.{2})(.{8})?", payload)
        if match is None or (match[1] == "VS") != bool(match[4]):
            return "+04"
        if match[3] != "01":
            return "+08"
        parameter = int(match[2], 16)
        if match[4]:
            return self._write(controller, parameter, match[4])
        return self._read(controller, parameter)

    def _read(self, controller: _Controller, parameter: int) -> str:
        now = self.clock()
        current = controller.current(on=controller.cools(now, self.interlock))
        values: dict[int, float] = {
            100: DEVICE_TYPE,
            104: controller.status(now),
            105: controller.error,
            106: int(controller.error != 0),  # the instance of the error; 107 is its parameter
            107: 0,
            108: controller.saving_disabled,
            1000: controller.object + self.warmer + self.random.gauss(0, 0.01),
            1001: controller.sink + self.overheat + self.random.gauss(0, 0.05),
            1020: current,
            1021: 1.9 * current,
            2010: controller.enable,
            3000: controller.target,
        }
        return encode(parameter, values[parameter]) if parameter in values else "+05"

    def _write(self, controller: _Controller, parameter: int, text: str) -> str:
        if parameter not in self.WRITABLE:
            return "+06" if parameter in self.READ_ONLY else "+05"
        value = decode(parameter, text)
        low, high = self.WRITABLE[parameter]
        if not low <= value <= high:
            return "+07"
        if parameter == 3000:
            controller.target = value
        elif parameter == 108:
            controller.saving_disabled = int(value)
        else:
            controller.enable = int(value)
        return ""

    def constant(self, frame: bytes) -> bytes:
        """Return a request without its sequence number and checksum."""
        return frame[:3] + frame[7:-4]

    def renumber(self, reply: bytes, frame: bytes) -> bytes:
        """Return a recorded reply with the sequence number of this frame and its checksum."""
        said = Codec.cut(bytearray(reply))
        if said is None or len(said) < 11:
            return reply
        head = said[:3] + frame[3:7]
        if len(said) == 11:
            return head + frame[-4:] + b"\r"
        whole = head + said[7:-4]
        return self._seal(whole) if said[-4:] == crc(said[:-4]) else whole + said[-4:] + b"\r"

    def fault_checksum(self, reply: bytes) -> bytes:
        """Send a wrong checksum."""
        return reply[:-2] + (b"0" if reply[-2:-1] != b"0" else b"1") + b"\r"

    def fault_error(self, reply: bytes, code: int = 2) -> bytes:
        """Refuse everything."""
        return self._seal(reply[:7] + b"+%02X" % code)

    def fault_identity(self, reply: bytes, address: int = 9) -> bytes:
        """Answer with another address."""
        return self._seal(b"!%02X" % address + reply[3:-5])

    def fault_sequence(self, reply: bytes) -> bytes:
        """Answer with another sequence number."""
        return self._seal(reply[:3] + b"FFFF" + reply[7:-5])

    def fault_alarm(self, reply: bytes, code: int = 11, channel: int = 1) -> bytes:
        """Set the error of one controller; 0 clears it."""
        if channel in self.controllers:
            self.controllers[channel].error = code
        return reply

    def fault_static(self, reply: bytes, value: int = 1, channel: int = 1) -> bytes:
        """Change the output enable of a controller once, as another client would."""
        if channel in self.controllers:
            self.controllers[channel].enable = value
        self.faults.pop("static", None)
        return reply

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Send an unsolicited frame after each reply."""
        return reply + self._seal(b"!01FFFF00000002")
