"""Zaber T-series linear stages in the 6-byte binary protocol, behind a terminal server.

    -> 01 3C 00 00 00 00     read the position of device 1
    <- 01 3C 40 E2 01 00     123456 microsteps (signed, little-endian)
    -> 01 14 00 41 0A 00     move to 672000: the reply comes when the motion has ended
    <- 01 FF 14 00 00 00     refused, error 20

Therefore a request for the status, which is answered at once, follows each move, home or stop, and
polling notices the end of a motion. Sources: Zaber binary protocol manual; T-series command
reference.
"""

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

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
    Rehearsal,
    Setpoint,
    rpc,
)
from ..core import Simulator as Base

RESET, HOME, MOVE, STOP, SET_MODE = 0, 1, 20, 23, 40
RETURN_SETTING, STATUS, ECHO, POSITION, ERROR = 53, 54, 55, 60, 255
UNSOLICITED = (1, 8, 9, 10, 11, 12, 13, 20, 21, 23)
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
"""The stage discards a message that is not complete within this time."""
PROBE = 0x2A51
MAX_BEYOND = 5000
"""Microsteps that a homed stage may be beyond either end of its travel."""


def frame(device: int, command: int, data: int = 0) -> bytes:
    """Return one message."""
    return struct.pack("<BBi", device, command, data)


class Codec:
    """The protocol for one device on the line."""

    cut = Exactly(6)

    def __init__(self, device: int = 1) -> None:
        self.device = device
        self.spontaneous = ""
        self._refusal = ""

    def request(self, ref: int, value: int | None = None) -> bytes:
        """Return the message; home, move and stop are followed by a request for the status."""
        self._refusal = ""
        message = frame(self.device, ref, value or 0)
        return message + frame(self.device, STATUS) if ref in (HOME, MOVE, STOP) else message

    def reply(self, request: bytes, answer: bytes) -> int | None:
        """Return the data, or None if the message is unsolicited."""
        device, command, data = struct.unpack("<BBi", answer)
        _, asked, asked_data = struct.unpack("<BBi", request[-6:])
        if device != self.device:
            raise ProtocolError(f"device {device} answered instead of {self.device}")
        if command == ERROR and data not in SPONTANEOUS:
            first = not self._refusal
            self._refusal = f"the stage refused: {ERRORS.get(data, 'error')} ({data})"
            if first and len(request) > 6:
                return None  # the reply to the request for the status comes next
            raise RefusedError(self._refusal)
        if command == (asked_data if asked == RETURN_SETTING else asked):
            if self._refusal:
                raise RefusedError(self._refusal)
            return int(data)
        if command == ERROR:
            self.spontaneous = f"{ERRORS[data]} (error {data})"
        if command in UNSOLICITED or command == ERROR:
            return None
        raise ProtocolError(f"this does not answer {request.hex(' ')}")


class LinearStage(Device):
    """A stage, whose position is ``zero + scale * microsteps``, in its own unit."""

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
        """Convert a position to microsteps."""
        return math.floor((position - self.zero) / self.scale + 0.5)

    async def on_connect(self) -> None:
        """Check that a stage answers, with an echo."""
        if await self.ask(ECHO, PROBE) != PROBE:
            raise ProtocolError(f"{self.link}: the stage did not echo the data that was sent")

    async def poll(self) -> None:
        """Read the position, the status, and whether the stage is homed."""
        self._codec.spontaneous = ""
        asked_at = self.stage.commands_given
        mode = await self.ask(RETURN_SETTING, SET_MODE)
        status = await self.ask(STATUS)
        steps = await self.ask(POSITION)
        if mode & HOMED and not -MAX_BEYOND <= steps <= self.travel + MAX_BEYOND:
            raise ProtocolError(
                f"{self.link}: the stage reports {steps} microsteps, outside 0 to {self.travel}"
            )
        self.stage.report(
            self.zero + steps * self.scale,
            homed=bool(mode & HOMED),
            homing=status == HOMING,
            moving=status not in (IDLE, HOMING, STOPPING),
            asked_at=asked_at,
        )
        await super().poll()

    advice: ClassVar[dict[str, str]] = {
        "stage": "Stop it, look whether something is in its way, and home it again: hcam call "
        "{device}.stage.home. If the error comes again, call support.",
    }

    def notices(self) -> Iterator[Alarm]:
        """Return an alarm for an error that the stage reported unsolicited."""
        if complaint := self._codec.spontaneous:
            yield Alarm("stage", "ERR", complaint)

    async def drive_home(self, axis: Axis) -> None:
        """Begin homing."""
        await self.ask(HOME)

    async def drive_to(self, axis: Axis) -> None:
        """Begin a move to the target."""
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
        """Enable the knob on the stage, which moves it by hand."""
        await self._knob(on=True)

    @rpc(label="Disable knob")
    async def disable(self) -> None:
        """Disable the knob on the stage."""
        await self._knob(on=False)

    @rpc()
    async def reset(self) -> None:
        """Restart the controller of the stage, which must then be homed."""
        self.require_online()
        await self.link.tell(self.codec, RESET)
        self.link.close(ConnectionAbortedError("the stage was reset on request"))


class FocalPlaneSlide(LinearStage):
    """The slide that blocks the focal plane, with its position in detector pixels."""

    travel = 672000
    scale = -1578.1818 / travel
    zero = 1453.1212
    UNBLOCKED, BLOCKED = 1100.0, -100.0

    position = Readback(
        unit="pix",
        deployed_name="stage",
        doc="Position of the slide, in detector pixels.",
    )
    target_position = Setpoint(
        unit="pix",
        deployed_name="stage",
        limits=(-125.0606, 1453.1212),
        tolerance=5 * abs(scale),
        doc="Position of the slide after the next move, in detector pixels.",
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
    """The lens of COMPO, with its position in mm from home."""

    travel = 1049869
    scale = 2.38125e-5
    zero = 0.0
    emulated: ClassVar[dict[str, Any]] = {"travel": travel, "begin": 0.0}

    position = Readback(
        unit="mm",
        deployed_name="stage",
        digits=3,
        doc="Position of the lens, measured from home.",
    )
    target_position = Setpoint(
        unit="mm",
        deployed_name="stage",
        limits=(0, travel * scale),
        tolerance=5 * scale,
        digits=3,
        doc="Position of the lens after the next move, measured from home.",
    )


MOVE_TRACKING, NO_MANUAL_TRACKING = 16, 32
"""Bits of the mode, beside KNOB_OFF and HOMED."""


class Simulator(Base):
    """A homed slide out of the beam; ``speed`` is in microsteps per second.

    It supports neither message ids (bit 6 of the mode) nor suppressed replies (bit 0).
    """

    controls = ("speed", "homed", "stalled", "knob")
    rehearsals = (Rehearsal(("stage",), fault="alarm"),)
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
        # The values of the real stages are unknown.
        self.device_id, self.firmware, self.supply = 2027, 529, 150
        self._pending = b""
        self._turning = False
        self.cut = Impatient(Exactly(6), INTER_BYTE_TIMEOUT_S, self.clock)

    def answer(self, message: bytes) -> bytes:
        """Answer one message; the reply to a motion comes later, from ``unsolicited``."""
        device, command, data = struct.unpack("<BBi", message)
        if device not in (0, 1):
            return b""
        reply = self._obey(command, data)
        return b"" if reply is None else frame(1, *reply)

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
        return self._change(command, data) or self._read(command, data)

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

    def _read(self, command: int, data: int) -> tuple[int, int]:
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
        """Move towards the goal, and report the end of the motion."""
        if self.status == IDLE:
            return
        step = 0.0 if self.stalled else dt * self.speed
        distance = self.goal - self.position
        self.position += math.copysign(min(step, abs(distance)), distance)
        if self.stalled or self.position == self.goal:
            self.homed = self.homed or self.status == HOMING
            self._pending += frame(1, self.status, int(self.position))
            self.status = IDLE

    def unsolicited(self) -> tuple[bytes, float | None]:
        """Return messages about the end of a motion, about its position, and about the knob."""
        if self.status != IDLE and self.mode & MOVE_TRACKING:
            self._pending += frame(1, 8, int(self.position))
        turning = self.knob and not self.mode & KNOB_OFF
        if turning:
            self.position = self.goal = min(self.position + 100, self.travel)
        if (turning or self._turning) and not self.mode & NO_MANUAL_TRACKING:
            self._pending += frame(1, 10 if turning else 11, int(self.position))
        self._turning = turning
        pending, self._pending = self._pending, b""
        return pending, math.inf if self.status == IDLE and not turning else 0.25

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
        """Report a turn of the knob before each reply."""
        return frame(1, 10, int(self.position)) + reply


if not TYPE_CHECKING:  # or the type checker would find any name here

    def __getattr__(name: str) -> Any:
        """Return ``ZaberLS`` or ``ZaberLSEmulator``, which only ``slide_eng`` imports from here."""
        if name in ("ZaberLS", "ZaberLSEmulator"):
            from ..models import driver  # noqa: PLC0415  (it does I/O, unlike this module)

            return getattr(driver, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
