"""Zaber T-series linear stages in the 6-byte binary protocol, behind a terminal server.

    -> 01 3C 00 00 00 00     device 1: where are you?
    <- 01 3C 40 E2 01 00     at 123456 microsteps (signed, little-endian)
    -> 01 14 00 41 0A 00     move to 672000: the reply comes when the motion has ended
    <- 01 FF 14 00 00 00     refused, error 20

A move, home or stop is therefore followed by a question for the status, whose answer comes at once,
and the end of a motion is seen by polling. Source: Zaber binary protocol manual; T-series command
reference.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, ClassVar

from ..core import (
    Alarm,
    Axis,
    Device,
    Exactly,
    Impatient,
    ProtocolError,
    Range,
    Readback,
    RefusedError,
    Setpoint,
    rpc,
)
from ..core import Simulator as Base

RESET, HOME, MOVE, STOP, SET_MODE = 0, 1, 20, 23, 40
RETURN_SETTING, STATUS, ECHO, POSITION, ERROR = 53, 54, 55, 60, 255
UNASKED = (1, 8, 9, 10, 11, 12, 13, 20, 21, 23)
IDLE, HOMING, STOPPING = 0, 1, 23
KNOB_OFF, HOMED = 8, 128
ERRORS = {
    1: "it cannot home",
    2: "device number invalid",
    14: "supply voltage low",
    15: "supply voltage high",
    20: "position outside the stage's own range",
    21: "relative position outside the stage's own range",
    22: "velocity invalid",
    36: "peripheral id invalid",
    40: "mode invalid",
    44: "maximum position invalid",
    53: "setting invalid",
    64: "command invalid",
    65: "park state invalid",
    255: "busy",
    1600: "saved position invalid",
    1601: "not homed",
    6501: "parked",
}
SPONTANEOUS = (14, 15)
INTER_BYTE_TIMEOUT_S = 0.01
"""After which a stage forgets a message that has not come whole."""
PROBE = 0x2A51
BEYOND = 5000
"""How far, in microsteps, a homed stage may be beyond either end of its travel."""


def frame(device: int, command: int, data: int = 0) -> bytes:
    """Return one message."""
    return struct.pack("<BBi", device, command, data)


class Codec:
    """One device on the line. Commands that move are followed by a question for the status."""

    cut = Exactly(6)

    def __init__(self, device: int = 1) -> None:
        self.device = device
        self.spontaneous = ""
        self._refusal = ""

    def request(self, ref: int, value: int | None = None) -> bytes:
        """Return the message; for home, move and stop with a question for the status behind it."""
        self._refusal = ""
        message = frame(self.device, ref, value or 0)
        return message + frame(self.device, STATUS) if ref in (HOME, MOVE, STOP) else message

    def reply(self, request: bytes, answer: bytes) -> int | None:
        """Return the data; None for what the stage says unasked."""
        device, command, data = struct.unpack("<BBi", answer)
        _, asked, asked_data = struct.unpack("<BBi", request[-6:])
        if device != self.device:
            raise ProtocolError(f"device {device} answered, {self.device} was asked")
        if command == ERROR and data not in SPONTANEOUS:
            first = not self._refusal
            self._refusal = f"the stage refused: {ERRORS.get(data, 'error')} ({data})"
            if first and len(request) > 6:
                return None  # the answer to the question for the status comes next
            raise RefusedError(self._refusal)
        if command == (asked_data if asked == RETURN_SETTING else asked):
            if self._refusal:
                raise RefusedError(self._refusal)
            return int(data)
        if command == ERROR:
            self.spontaneous = f"{ERRORS[data]} (error {data})"
        if command in UNASKED or command == ERROR:
            return None
        raise ProtocolError(f"this does not answer {request.hex(' ')}")


class LinearStage(Device):
    """One stage, in a unit of its own: ``scale`` and ``zero`` relate it to microsteps."""

    scale: ClassVar[float]
    zero: ClassVar[float]
    travel: ClassVar[int]

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.codec = self._codec = Codec()
        self.stage = Axis(
            "stage",
            self,
            readback="position",
            setpoint="target_position",
            tolerance=5 * abs(self.scale),
        )
        self.parts = [self.stage]

    def microsteps(self, position: float) -> int:
        """Return the microsteps of a position."""
        return math.floor((position - self.zero) / self.scale + 0.5)

    async def on_connect(self) -> None:
        """Make sure that a stage answers, with what it was asked to echo."""
        if await self.ask(ECHO, PROBE) != PROBE:
            raise ProtocolError(f"{self.link}: the stage did not echo what it was sent")

    async def poll(self) -> None:
        """Follow position, status and whether the stage has been homed."""
        self._codec.spontaneous = ""
        asked_at = self.stage.commands_given
        mode = await self.ask(RETURN_SETTING, SET_MODE)
        status = await self.ask(STATUS)
        steps = await self.ask(POSITION)
        if mode & HOMED and not -BEYOND <= steps <= self.travel + BEYOND:
            raise ProtocolError(
                f"{self.link}: the stage says that it is at {steps}, which is out of its range"
            )
        self.stage.report(
            self.zero + steps * self.scale,
            homed=bool(mode & HOMED),
            homing=status == HOMING,
            moving=status not in (IDLE, HOMING, STOPPING),
            asked_at=asked_at,
        )
        await super().poll()

    def notices(self) -> Iterator[Alarm]:
        """Report what the stage complained of unasked."""
        if complaint := self._codec.spontaneous:
            yield Alarm("stage", "ERR", complaint)

    async def drive_home(self, axis: Axis) -> None:
        """Begin to look for the home position."""
        await self.ask(HOME)

    async def drive_to(self, axis: Axis) -> None:
        """Begin to move to the target."""
        assert axis.target is not None  # noqa: S101  (the chart has no move without a target)
        await self.ask(MOVE, self.microsteps(axis.target))

    async def drive_stop(self, axis: Axis) -> None:
        """Decelerate and stop."""
        await self.ask(STOP)

    async def _knob(self, *, on: bool) -> None:
        self.require_online()
        mode = await self.ask(RETURN_SETTING, SET_MODE)
        await self.ask(SET_MODE, mode & ~KNOB_OFF if on else mode | KNOB_OFF)

    @rpc(label="Enable knob")
    async def enable(self) -> None:
        """Let the knob on the stage move the stage."""
        await self._knob(on=True)

    @rpc(label="Disable knob")
    async def disable(self) -> None:
        """Stop the knob on the stage from moving the stage."""
        await self._knob(on=False)

    @rpc()
    async def reset(self) -> None:
        """Restart the controller of the stage, which then has to be homed."""
        self.require_online()
        await self.link.tell(self.codec, RESET)
        self.link.close(ConnectionAbortedError("the stage was reset by request"))


class FocalPlaneSlide(LinearStage):
    """The slide that blocks the focal plane. Its position is in pixels of the detector."""

    travel = 672000
    scale = -1578.1818 / travel
    zero = 1453.1212
    UNBLOCKED, BLOCKED = 1100.0, -100.0

    position = Readback(
        unit="pix",
        deployed_name="stage",
        doc="Position at which the slide is, in pixels of the detector.",
    )
    target_position = Setpoint(
        unit="pix",
        deployed_name="stage",
        limits=(-125.0606, 1453.1212),
        tolerance=5 * abs(scale),
        doc="Position to which the slide goes at the next move.",
    )

    async def _go(self, position: float) -> None:
        await self.set("target_position", position)
        await self.stage.move()
        self.poll_now()

    @rpc(moves="stage")
    async def block(self) -> None:
        """Move the slide into the beam (-100 pix)."""
        await self._go(self.BLOCKED)

    @rpc(moves="stage")
    async def unblock(self) -> None:
        """Move the slide out of the beam (1100 pix)."""
        await self._go(self.UNBLOCKED)


class COMPOLens(LinearStage):
    """The lens of COMPO. Its position is in millimetres from its home."""

    travel = 1049869
    scale = 2.38125e-5
    zero = 0.0
    emulated: ClassVar[dict[str, Any]] = {"travel": travel, "begin": 0.0}

    position = Readback(
        unit="mm",
        deployed_name="stage",
        digits=3,
        doc="Position at which the lens is, from its home.",
    )
    target_position = Setpoint(
        unit="mm",
        deployed_name="stage",
        limits=(0, travel * scale),
        tolerance=5 * scale,
        digits=3,
        doc="Position to which the lens goes at the next move.",
    )


MOVE_TRACKING, NO_MANUAL_TRACKING = 16, 32
"""Bits of the mode, beside KNOB_OFF and HOMED."""


class Simulator(Base):
    """A homed, unblocked slide; ``speed`` in microsteps a second.

    It knows neither message ids (bit 6 of the mode) nor how to leave out replies (bit 0).
    """

    controls = ("speed", "homed", "stalled", "knob")
    ranges: ClassVar[dict[str, Range]] = {"speed": (1, 1e6)}

    def __init__(
        self, travel: int = FocalPlaneSlide.travel, begin: float = 150361.0, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.longest = self.travel = travel
        self.speed, self.homed, self.stalled, self.knob = 45000.0, True, False, False
        self.mode = 0
        self.position = self.goal = begin
        self.status = IDLE
        # What the real stages say is not known.
        self.device_id, self.firmware, self.supply = 2027, 529, 150
        self._unasked = b""
        self._turning = False
        self.cut = Impatient(Exactly(6), INTER_BYTE_TIMEOUT_S, self.clock)

    def answer(self, message: bytes) -> bytes:
        """Answer one message; the reply to a motion comes later, from ``unsolicited``."""
        device, command, data = struct.unpack("<BBi", message)
        if device not in (0, 1):
            return b""
        said = self._obey(command, data)
        return b"" if said is None else frame(1, *said)

    def _obey(self, command: int, data: int) -> tuple[int, int] | None:
        match command:
            case 0:
                self.homed, self.status, self.position, self.goal = False, IDLE, 0.0, 0.0
                return None
            case 1:
                self.status, self.goal = HOMING, 0
                return None
            case 20 | 21:
                goal = data + (self.position if command == 21 else 0)
                if self.status == HOMING:
                    return ERROR, 255
                if not 0 <= goal <= self.travel:
                    return ERROR, command
                self.status, self.goal = command, goal
                return None
            case 23:
                self.goal, self.status = self.position, IDLE
                return STOP, int(self.position)
        return self._change(command, data) or self._tell(command, data)

    def _change(self, command: int, data: int) -> tuple[int, int] | None:
        match command:
            case 36:
                if data:
                    return ERROR, 36
                self.mode, self.travel = 0, self.longest
                return 36, 0
            case 40:
                if not 0 <= data <= 255:
                    return ERROR, 40
                self.mode = data & ~HOMED
                self.homed = self.homed and bool(data & HOMED)
                return SET_MODE, data
            case 44:
                if not 0 <= data <= self.longest:
                    return ERROR, 44
                self.travel = data
                return 44, data
        return None

    def _tell(self, command: int, data: int) -> tuple[int, int]:
        match command:
            case 50 | 51 | 52:
                return command, (self.device_id, self.firmware, self.supply)[command - 50]
            case 53:
                settings = {40: self.mode | (HOMED if self.homed else 0), 44: self.travel}
                return (data, settings[data]) if data in settings else (ERROR, 53)
            case 54:
                return STATUS, self.status
            case 55:
                return ECHO, data
            case 60:
                return POSITION, int(self.position)
        return ERROR, 64

    def advance(self, dt: float) -> None:
        """Move toward the goal, and report the end of the motion."""
        if self.status == IDLE:
            return
        step = 0.0 if self.stalled else dt * self.speed
        distance = self.goal - self.position
        self.position += math.copysign(min(step, abs(distance)), distance)
        if self.stalled or self.position == self.goal:
            self.homed = self.homed or self.status == HOMING
            self._unasked += frame(1, self.status, int(self.position))
            self.status = IDLE

    def unsolicited(self) -> tuple[bytes, float | None]:
        """Report the end of a motion, or where it is, and the knob being turned."""
        if self.status != IDLE and self.mode & MOVE_TRACKING:
            self._unasked += frame(1, 8, int(self.position))
        turning = self.knob and not self.mode & KNOB_OFF
        if turning:
            self.position = self.goal = min(self.position + 100, self.travel)
        if (turning or self._turning) and not self.mode & NO_MANUAL_TRACKING:
            self._unasked += frame(1, 10 if turning else 11, int(self.position))
        self._turning = turning
        said, self._unasked = self._unasked, b""
        return said, 0.25

    def fault_error(self, reply: bytes, code: int = 255) -> bytes:
        """Refuse everything."""
        return frame(1, ERROR, code)

    def fault_identity(self, reply: bytes, device: int = 2) -> bytes:
        """Answer as another device."""
        return bytes([device % 256]) + reply[1:]

    def fault_alarm(self, reply: bytes, code: int = 14) -> bytes:
        """Report a low supply voltage before each reply."""
        return frame(1, ERROR, code) + reply

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Report the knob being turned before each reply."""
        return frame(1, 10, int(self.position)) + reply
