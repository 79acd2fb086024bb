"""Newport ESP301 motion controller, on a serial port: the arms of COMPO.

    -> 1TP?                     read the position of axis 1
    <- 13.0400
    -> 1PA13.04                 move there: there is no reply, so
    -> TB?                      read the oldest error
    <- 0, 451322, NO ERROR DETECTED
    <- 213, 52230, MOTOR NOT ENABLED        or, when it refuses (axis 2, error 13)

Lines are sent with CR and received with CR LF. The controller keeps ten errors, and each ``TB?``
takes the oldest one; its second number counts units of 400 us since the start of the controller.
Every exchange ends with ``TB?``, so the error of a refused command is read at once. Source: ESP301
user's manual (EDH0235), command set and appendix A.

The controller cannot report whether an axis is homed: see docs/decisions/0010-homed-arms.md.
"""

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..core import (
    Alarm,
    Axis,
    Device,
    Drive,
    ProtocolError,
    Range,
    Readback,
    RefusedError,
    Rehearsal,
    Serial,
    Setpoint,
    Until,
    rpc,
)
from ..core import Simulator as Base

DEGREES = 7
DONE, ON = "MD?", "MO?"
"""Queries: whether a motion has ended, and whether a motor is on."""
UNITS = (
    "encoder counts", "motor steps", "millimetres", "micrometres", "inches", "milli-inches",
    "micro-inches", "degrees", "gradians", "radians", "milliradians", "microradians",
)  # fmt: skip
MAX_ERRORS = 10
"""The number of errors that the controller keeps."""

NO_ERROR, EMERGENCY_STOP, NO_COMMAND, OUT_OF_RANGE, NO_AXIS = 0, 4, 6, 7, 9
AXIS_MISSING, PARAMETER_MISSING = 37, 38
HARDWARE_LIMITS, SOFTWARE_LIMITS, UNCONNECTED, MOTOR_OFF, WHILE_HOMING = (4, 5), (6, 7), 8, 13, 30
TOO_FAST = 10
ERRORS = {
    NO_ERROR: "NO ERROR DETECTED",
    1: "PCI COMMUNICATION TIME-OUT",
    EMERGENCY_STOP: "EMERGENCY STOP ACTIVATED",
    NO_COMMAND: "COMMAND DOES NOT EXIST",
    OUT_OF_RANGE: "PARAMETER OUT OF RANGE",
    8: "CABLE INTERLOCK ERROR",
    NO_AXIS: "AXIS NUMBER OUT OF RANGE",
    27: "COMMAND NOT ALLOWED",
    AXIS_MISSING: "AXIS NUMBER MISSING",
    PARAMETER_MISSING: "COMMAND PARAMETER MISSING",
}
AXIS_ERRORS = {
    0: "MOTOR TYPE NOT DEFINED",
    1: "PARAMETER OUT OF RANGE",
    2: "AMPLIFIER FAULT DETECTED",
    3: "FOLLOWING ERROR THRESHOLD EXCEEDED",
    4: "POSITIVE HARDWARE LIMIT DETECTED",
    5: "NEGATIVE HARDWARE LIMIT DETECTED",
    6: "POSITIVE SOFTWARE LIMIT DETECTED",
    7: "NEGATIVE SOFTWARE LIMIT DETECTED",
    UNCONNECTED: "MOTOR / STAGE NOT CONNECTED",
    9: "FEEDBACK SIGNAL FAULT DETECTED",
    10: "MAXIMUM VELOCITY EXCEEDED",
    11: "MAXIMUM ACCELERATION EXCEEDED",
    MOTOR_OFF: "MOTOR NOT ENABLED",
    20: "HOMING ABORTED",
    24: "SPEED OUT OF RANGE",
    29: "DIGITAL I/O INTERLOCK DETECTED",
    WHILE_HOMING: "COMMAND NOT ALLOWED DURING HOMING",
}
"""Errors of an axis, by the last two digits; the first digit is the axis."""

ERROR_LINE = re.compile(rb" *(\d{1,3}) *, *(\d+) *, *([^\r\n]*)")
LAST_LINE = re.compile(rb"(?:^|[\r\n])" + ERROR_LINE.pattern + rb"[\r\n]")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")


def meaning(code: int) -> str:
    """Return the meaning of an error; empty if the manual has none."""
    return (AXIS_ERRORS.get(code % 100) if code >= 100 else ERRORS.get(code)) or ""


class Error(NamedTuple):
    """An error that the controller keeps."""

    code: int
    said: str

    @property
    def axis(self) -> int:
        """The number of the axis; 0 if the error concerns no single axis."""
        return self.code // 100

    def __str__(self) -> str:
        where = f", axis {self.axis}" if self.axis else ""
        said = self.said or meaning(self.code) or "not in the manual"
        return f"{said} (error {self.code}{where})"


class Answer(NamedTuple):
    """The answer of one exchange: its text, the oldest error, and the controller's clock."""

    text: str
    error: Error
    ticks: int


def cut(buffer: bytearray) -> bytes | None:
    """Cut one exchange: all bytes up to the line that answers ``TB?``."""
    match = LAST_LINE.search(buffer)
    if match is None:
        return None
    frame = bytes(buffer[: match.end()])
    del buffer[: match.end()]
    return frame.strip()


class Codec:
    """Queries and commands, each followed by ``TB?``."""

    cut = staticmethod(cut)

    def request(self, ref: str, value: None = None) -> bytes:
        """Return the lines to send."""
        return b"TB?\r" if ref == "TB?" else f"{ref}\rTB?\r".encode("ascii")

    def reply(self, request: bytes, frame: bytes) -> Answer | None:
        """Return the answer, or None if it belongs to an earlier question.

        Raises RefusedError, with the controller's text, if it refused.
        """
        asked = request.partition(b"\r")[0].decode()
        *lines, last = re.split(rb"[\r\n]+", frame)
        match = ERROR_LINE.fullmatch(last)
        if match is None:
            raise ProtocolError("this is not a reply of an ESP301")
        error = Error(int(match[1]), match[3].decode("ascii", "replace").strip())
        if (error.code == NO_ERROR) != ("NO ERROR" in error.said.upper()):
            raise ProtocolError("the number of the error contradicts its text")
        answer = Answer(lines[0].decode("ascii", "replace") if lines else "", error, int(match[2]))
        wants_text = asked.endswith("?") and asked != "TB?"
        if len(set(lines)) > wants_text:
            raise ProtocolError(f"this does not answer {asked}")
        if wants_text and not lines and error.code == NO_ERROR:
            return None  # left over from an earlier question
        if error.code != NO_ERROR and asked != "TB?" and not lines:
            raise RefusedError(f"the controller refused {asked}: {error}")
        return answer


def number(text: str) -> float:
    """Return a number. Raises ProtocolError unless it has the controller's form."""
    if not NUMBER.fullmatch(text.strip()):
        raise ProtocolError(f"the controller answered {text!r}, which is not a number")
    return float(text)


def written(value: float) -> str:
    """Return a number as text without an exponent, which the controller cannot read."""
    return f"{round(value, 4) + 0.0:.4f}"


@dataclass(kw_only=True)
class Line(Serial):
    """A serial port with the controller's settings: 19200 baud, hardware handshake."""

    baudrate: int = 19200
    """The speed of the port, bit/s."""
    rtscts: bool = True
    """Whether each side waits until the other is ready (hardware handshake)."""


class Arm(Axis):
    """One axis of the controller, and whether it is homed.

    ``homed``: a homing that this process began has succeeded, and nothing since then suggests that
    the controller has lost its position. A new connection keeps it; a new process does not.
    """

    ENDED_HOME = 0.1
    """A homing has succeeded if it ended within this angle (deg) of 0."""

    def __init__(self, name: str, drive: Drive, number: int) -> None:
        super().__init__(
            name, drive, readback=f"{name}_angle", setpoint=f"target_{name}_angle", tolerance=0.005
        )
        self.number = number
        self.homed = self.homing = self.on = False
        self.trouble = ""

    def advice(self) -> str:
        """Return the state of the arm and the next step, for an error message."""
        return self.trouble or super().advice()

    def doubt(self) -> None:
        """Treat the arm as not homed."""
        self.homed = self.homing = False
        if self.position is not None:
            self.report(self.position, homed=False, homing=False, moving=False)

    def follow(self, position: float, *, done: bool, on: bool, asked_at: int) -> None:
        """Report readings of the controller, unless a command was given since ``asked_at``."""
        if asked_at != self.commands_given:
            return
        if on and not self.on:
            self.doubt()  # it may have been turned by hand while the motor was off
        if self.homing and done:
            self.homing = False
            self.homed = on and abs(position) <= self.ENDED_HOME
        self.on = on
        if self.trouble:
            self.trouble = ""
            self.connect()
        self.report(
            position, homed=self.homed, homing=self.homing, moving=not done, asked_at=asked_at
        )

    def unreadable(self, reason: str) -> None:
        """Treat the state of the arm as unknown until it can be read again."""
        self.trouble = reason
        self.forget()


def angles(arm: str) -> tuple[Readback, Setpoint]:
    """Return the fields of an arm: where it is, and where it goes at the next move."""
    doc = f"Angle to which the {arm} arm goes at the next move."
    return (
        Readback(unit="deg", deployed_name=arm, doc=f"Angle at which the {arm} arm is."),
        Setpoint(unit="deg", deployed_name=arm, limits=(-67, 67), doc=doc),
    )


class Arms(Device):
    """The pickoff and the injection arm of COMPO.

    A motor that is off stays off until ``power_on_axis`` or ``home``: connecting changes nothing.

    ``homed_at_start``: whether arms whose motors are on count as homed when this program starts.
    The controller cannot report that. It is right if the arms are always homed after the controller
    is switched on.
    """

    link_type = Line
    codec = Codec()

    homed_at_start: bool = False
    """Whether arms whose motors are on count as homed when this program starts."""

    pickoff_angle, target_pickoff_angle = angles("pickoff")
    injection_angle, target_injection_angle = angles("injection")

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.arms = [Arm("pickoff", self, 1), Arm("injection", self, 2)]
        self.parts = [*self.arms]
        for arm in self.arms:
            arm.homed = arm.on = self.homed_at_start
        self._ticks = 0
        self._errors: dict[int, Error] = {}

    # --- the connection ---------------------------------------------------------------------

    async def on_connect(self) -> None:
        """Check that an ESP301 answers, and that its arms are set to degrees."""
        await self.link.drain(0.05)  # a late reply, after silence at a travel limit
        version = await self.ask("VE?")
        if "ESP301" not in version.upper():
            raise ProtocolError(f"{self.link}: this is not an ESP301: its version is {version!r}")
        for arm in self.arms:
            try:
                await self._check(arm)
                arm.trouble = ""
                if not await self._is(arm, ON):
                    arm.doubt()  # motors are off after a restart of the controller
            except RefusedError as error:
                arm.unreadable(str(error))

    async def _check(self, arm: Arm) -> None:
        units = int(number(await self.ask(f"{arm.number}SN?")))
        if units != DEGREES:
            what = UNITS[units] if 0 <= units < len(UNITS) else "unknown"
            raise ProtocolError(
                f"{arm.name} is set to {what} (units {units}), not to degrees ({DEGREES})"
            )

    async def _is(self, arm: Arm, question: str) -> bool:
        answer = await self.ask(f"{arm.number}{question}")
        if answer not in ("0", "1"):
            raise ProtocolError(f"the controller answered {answer!r} to {arm.number}{question}")
        return answer == "1"

    async def ask(self, ref: str, value: None = None) -> str:
        """Ask, and keep any error that came with the answer. Raises as ``Link.ask``."""
        return (await self._exchange(ref)).text

    async def _exchange(self, ref: str) -> Answer:
        answer: Answer = await super().ask(ref)
        if answer.ticks < self._ticks:
            self._ticks = answer.ticks
            for arm in self.arms:
                arm.doubt()
            if self.connection == "online":
                restarted = ProtocolError("the controller has been restarted")
                self.link.close(restarted)  # its settings may have changed, too
                raise restarted
        self._ticks = answer.ticks
        if answer.error.code != NO_ERROR:
            self._keep(answer.error)
        return answer

    def _keep(self, error: Error) -> None:
        self._errors[error.code] = error
        for arm in self.arms:
            if error.axis in (0, arm.number) and error.code % 100 != WHILE_HOMING:
                arm.homing = False

    # --- readings ---------------------------------------------------------------------------

    async def poll(self) -> None:
        """Read the kept errors, then each arm."""
        await self._take_errors()
        for arm in self.arms:
            try:
                await self._look(arm)
            except RefusedError as error:
                arm.unreadable(str(error))
        await super().poll()

    async def _take_errors(self) -> None:
        for _ in range(MAX_ERRORS + 1):
            if (await self._exchange("TB?")).error.code == NO_ERROR:
                return

    async def _look(self, arm: Arm) -> None:
        if arm.trouble:
            await self._check(arm)
        asked_at = arm.commands_given
        done = await self._is(arm, DONE)
        position = number(await self.ask(f"{arm.number}TP?"))
        arm.follow(position, done=done, on=await self._is(arm, ON), asked_at=asked_at)

    advice: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("pickoff", "injection"),
            "Do what the reason says. If the motor is off, home the arm; if it stalled, look "
            "whether something is in its way. COMPO can stay where it is: it disturbs no run.",
        ),
        "controller": "Switch the ESP301 off and on, then home both arms. If the error comes "
        "again, call support; COMPO disturbs no run where it is.",
    }

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for errors since the last command, and for motors that are off."""
        names = {arm.number: arm.name for arm in self.arms}
        for error in self._errors.values():
            yield Alarm(names.get(error.axis, "controller"), "ERR", str(error))
        for place, arm in enumerate(self.arms):
            if self.connection == "online" and not arm.trouble and not arm.on:
                reason = f"the motor is off: home or power_on_axis({place}) turns it on"
                yield Alarm(arm.name, "ERR", reason)

    # --- commands ---------------------------------------------------------------------------

    async def _command(self, arm: Arm, command: str) -> None:
        """Send a command that has no reply. Raises RefusedError, with the controller's text."""
        await self._take_errors()  # so that no earlier error is taken for the answer
        await self.ask(f"{arm.number}{command}")
        for code, error in list(self._errors.items()):
            if error.axis in (0, arm.number):
                del self._errors[code]

    async def drive_home(self, axis: Axis) -> None:
        """Turn the motor on, and begin homing."""
        arm = self._arm(axis)
        arm.doubt()
        await self._command(arm, "MO")
        await self._command(arm, "OR1")
        arm.on = arm.homing = True

    async def drive_to(self, axis: Axis) -> None:
        """Begin a move to the target."""
        assert axis.target is not None  # noqa: S101  (the chart has no move without a target)
        await self._command(self._arm(axis), f"PA{written(axis.target)}")

    async def drive_stop(self, axis: Axis) -> None:
        """Decelerate and stop. A homing has then failed."""
        arm = self._arm(axis)
        await self._command(arm, "ST")
        arm.homing = False

    def _arm(self, axis: Axis) -> Arm:
        return next(arm for arm in self.arms if arm is axis)

    def _numbered(self, i: int) -> Arm:
        if not 0 <= i < len(self.arms):
            known = ", ".join(f"{place} is {arm.name}" for place, arm in enumerate(self.arms))
            raise ValueError(f"there is no axis {i}: {known}")
        return self.arms[i]

    @rpc(label="Power motor on")
    async def power_on_axis(self, i: int) -> None:
        """Turn a motor on (0 pickoff, 1 injection); if it was off, the arm must be homed."""
        arm = self._numbered(i)
        self.require_online()
        was_on = await self._is(arm, ON)
        await self._command(arm, "MO")
        if not was_on:
            arm.doubt()
        arm.on = True
        self.poll_now()

    @rpc(label="Power motor off")
    async def power_off_axis(self, i: int) -> None:
        """Turn a motor off (0 pickoff, 1 injection), so that the arm can be turned by hand."""
        arm = self._numbered(i)
        self.require_online()
        await self._command(arm, "MF")
        arm.on = False
        self.poll_now()


PARKED = -66.4
"""Where the simulated arms are at the start, in degrees."""
ACCELERATION = 40.0
"""The acceleration (deg / s^2) that the simulator reports; its arms have none."""


class Motor:
    """One simulated axis, in degrees; ``limits`` are the ends of its travel."""

    SOFT_LIMIT = 67.0
    MAX_VELOCITY = 80.0
    """In degrees per second. The limit of the real arms is unknown."""

    def __init__(self, axis: int, *limits: float) -> None:
        self.axis, self.limits = axis, limits
        self.angle, self.zero = PARKED if limits else 0.0, 0.0
        self.goal: float | None = None
        self.on, self.homing = bool(limits), False
        self.velocity: float | None = None

    @property
    def position(self) -> float:
        """The controller's position: relative to switching on until it is homed."""
        return self.angle - self.zero

    def error(self, number: int) -> int:
        """Return the code of an error of this axis."""
        return 100 * self.axis + number

    def halt(self, *, on: bool | None = None) -> None:
        """Stop at once, and switch the motor if ``on`` is given."""
        self.goal, self.homing = None, False
        self.on = self.on if on is None else on

    def travel(self, step: float) -> int:
        """Go a step towards the goal; return the error if it reached an end of the travel."""
        if self.goal is None:
            return NO_ERROR
        distance = self.goal - self.angle
        self.angle += math.copysign(min(step, abs(distance)), distance)
        low, high = self.limits
        if not low <= self.angle <= high:
            self.angle = min(max(self.angle, low), high)
            self.halt()
            return self.error(HARDWARE_LIMITS[self.angle == low])
        if self.angle == self.goal:
            self.zero = self.angle if self.homing else self.zero
            self.halt()
        return NO_ERROR

    def obey(self, command: str, parameter: str) -> int:
        """Carry out a command; return its error."""
        if command == "DH":
            parameter = parameter or "0"
        if error := self._why_not(command, parameter):
            return error
        match command:
            case "ST" | "AB":
                self.halt()
            case "MO":
                self.on = True
            case "MF":
                self.halt(on=False)
            case "OR":
                self.goal, self.homing = 0.0, True
            case "DH":
                self.zero = self.angle - float(parameter)
            case "VA":
                self.velocity = float(parameter)
            case _:
                self.goal = self._counted(command, parameter) + self.zero
        return NO_ERROR

    def _why_not(self, command: str, parameter: str) -> int:
        """Return the error of a command that cannot be carried out, or NO_ERROR."""
        if command not in ("MO", "MF", "OR", "PA", "PR", "ST", "AB", "DH", "VA"):
            return NO_COMMAND
        if not self.limits:
            return self.error(UNCONNECTED)
        if command in ("OR", "PA", "PR") and not self.on:
            return self.error(MOTOR_OFF)
        if command in ("OR", "PA", "PR") and self.homing:
            return self.error(WHILE_HOMING)
        if command == "OR":
            return NO_ERROR if parameter in ("", *"0123456") else OUT_OF_RANGE
        if command in ("PA", "PR", "DH", "VA"):
            if not NUMBER.fullmatch(parameter):
                return OUT_OF_RANGE if parameter else PARAMETER_MISSING
            if command == "VA" and not 0 < float(parameter) <= self.MAX_VELOCITY:
                return self.error(TOO_FAST)
            if abs(goal := self._counted(command, parameter)) > self.SOFT_LIMIT:
                return self.error(SOFTWARE_LIMITS[goal < 0])
        return NO_ERROR

    def _counted(self, command: str, parameter: str) -> float:
        """Return the controller's position after PA or PR; 0 for any other command."""
        start = {"PA": 0.0, "PR": self.position}
        return start[command] + float(parameter) if command in start else 0.0


class Simulator(Base):
    """A controller whose two arms are parked and on.

    ``speed`` (deg / s) is that of an axis for which VA has set no other. After an arm has reached
    an end of its travel, the controller is silent for ``limit_silence`` seconds.
    """

    cut = Until(re.compile(rb"[\r\n]"))
    serial = True
    controls = ("speed", "limit_silence", "version", "units")
    rehearsals = (
        Rehearsal(
            ("controller", "pickoff", "injection"),
            fault="emergency",
            end=(
                ("pickoff.home",),
                ("injection.home",),
                ("set_target_pickoff_angle", PARKED),
                ("pickoff.move",),
                ("set_target_injection_angle", PARKED),
                ("injection.move",),
            ),
        ),
    )
    ranges: ClassVar[dict[str, Range]] = {"speed": (0.01, 1000), "limit_silence": (0, 600)}

    def __init__(self, *, homed: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.homed = homed
        self.speed, self.limit_silence = 10.0, 3.0
        self.version, self.units = "ESP301 Version 3.0.1 6/1/99", DEGREES
        self.motors = [Motor(1, -67.55, 67.79), Motor(2, -67.8, 67.4), Motor(3)]
        if not homed:
            self._lose_home()
        self._errors: deque[tuple[int, int]] = deque(maxlen=MAX_ERRORS)
        self._started = self.clock()
        self._silent_until = -math.inf

    @property
    def link_settings(self) -> dict[str, Any]:  # type: ignore[override]  # it is known only now
        """The device's settings beside the port: whether the arms are homed."""
        return {"homed_at_start": self.homed}

    def _lose_home(self) -> None:
        for motor in self.motors:
            motor.zero = motor.angle

    def answer(self, line: bytes) -> bytes:
        """Answer the commands of one line, in order."""
        if self.clock() < self._silent_until:
            return b""
        commands = line.decode("ascii", "replace").upper().split(";")
        replies = [self._obey(command.strip()) for command in commands]
        return "".join(f"{reply}\r\n" for reply in replies if reply).encode()

    def _obey(self, command: str) -> str:
        match = re.fullmatch(r"(\d{0,3}) *([A-Z]{2}) *(.*)", command, re.ASCII)
        if match is None:
            return self._fail(NO_COMMAND if command else NO_ERROR)
        axis, name, parameter = match.groups()
        if name in ("VE", "TB", "TE") and parameter == "?":
            return self.version if name == "VE" else self._take_error(text=name == "TB")
        if name in ("ST", "AB") and not axis:
            for motor in self.motors:
                motor.halt()
            return ""
        if not axis or not 1 <= int(axis) <= len(self.motors):
            return self._fail(NO_AXIS if axis else AXIS_MISSING)
        motor = self.motors[int(axis) - 1]
        asked = parameter == "?"
        return self._tell(name, motor) if asked else self._fail(motor.obey(name, parameter))

    def _tell(self, name: str, motor: Motor) -> str:
        known: dict[str, float | str] = {
            "MO": str(int(motor.on)),
            "MD": str(int(motor.goal is None)),
            "SN": str(self.units),
            "TP": motor.position,
            "DP": motor.position if motor.goal is None else motor.goal - motor.zero,
            "VA": motor.velocity or self.speed,
            "AC": ACCELERATION,
            "AG": ACCELERATION,
            "SL": -motor.SOFT_LIMIT,
            "SR": motor.SOFT_LIMIT,
        }
        if name not in known:
            return self._fail(NO_COMMAND)
        value = known[name]
        return value if isinstance(value, str) else written(value)

    def _fail(self, code: int) -> str:
        """Keep an error, if it is one; commands have no reply."""
        if code != NO_ERROR:
            self._errors.append((code, self._ticks()))
        return ""

    def _ticks(self) -> int:
        return int((self.clock() - self._started) / 400e-6)

    def _take_error(self, *, text: bool) -> str:
        code, ticks = self._errors.popleft() if self._errors else (NO_ERROR, self._ticks())
        return self._error_line(code, ticks) if text else str(code)

    def _error_line(self, code: int, ticks: int) -> str:
        return f"{code}, {ticks}, {meaning(code) or 'UNKNOWN ERROR'}"

    def advance(self, dt: float) -> None:
        """Move the arms; at an end of its travel an arm stops and the controller is silent."""
        for motor in self.motors:
            if error := motor.travel(dt * (motor.velocity or self.speed)):
                self._fail(error)
                self._silent_until = self.clock() + self.limit_silence

    def fault_error(self, reply: bytes, code: int = 7) -> bytes:
        """Refuse everything."""
        if not ERROR_LINE.match(reply):
            return b""
        return f"{self._error_line(code, self._ticks())}\r\n".encode()

    def fault_identity(self, reply: bytes) -> bytes:
        """Answer as the previous model, ESP300."""
        return reply.replace(b"ESP301", b"ESP300")

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Send an unsolicited line before each reply."""
        return b"POWER UP\r\n" + reply

    def fault_limit(self, reply: bytes, axis: int = 1, times: int = 1) -> bytes:
        """Let an arm reach the end of its travel: an error, then silence."""
        motor = self.motors[(axis - 1) % 2]
        motor.on, motor.homing, motor.goal = True, False, motor.limits[1] + 1
        return b""

    def fault_emergency(self, reply: bytes, times: int = 1) -> bytes:
        """Press the emergency stop: the arms stop, and the motors go off."""
        self._fail(EMERGENCY_STOP)
        for motor in self.motors:
            motor.halt(on=False)
        return reply

    def fault_power_cycle(self, reply: bytes, seconds: float = 3.0, times: int = 1) -> bytes:
        """Power cycle the controller: the motors are off, and the present positions become 0."""
        self._errors.clear()
        self._started = self.clock() + seconds
        self._silent_until = self._started
        for motor in self.motors:
            motor.halt(on=False)
        self._lose_home()
        return b""
