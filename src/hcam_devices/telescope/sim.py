"""A simulated telescope that answers over CORBA, together with its name service.

Both are objects at the same port: the name service has the key ``NameService``, and returns a
reference to the telescope, whose key is new after each restart of its server. The interface is
inferred (``data/telescope.idl``). The telescope tracks. An offset takes ``motion`` seconds, and the
telescope is in position ``settling`` seconds later. The focus moves at ``focus_speed`` (mm / s).
Each motion is a line of ``motions.jsonl`` in its folder, from which a new simulator reads its
position. If there is no autoguider, it is simulated, too, unless ``autoguider`` is false.

After ``disconnect`` the server is a new one: references to the old one are invalid.
"""

import json
import math
import struct
import time
from collections import deque
from collections.abc import Callable
from importlib.resources import files
from typing import Any, ClassVar

from ..core.fields import Range
from ..core.sim import Simulator as Base
from . import giop

NAME = "HIPERTelescopeServer"
INTERFACE = "IDL:HIPERTELESCOPESERVER/HIPERTelescopeServer_ifce:1.0"
NAMING = "IDL:omg.org/CosNaming/NamingContext:1.0"
NOT_FOUND = "IDL:omg.org/CosNaming/NamingContext/NotFound:1.0"
IDL = str(files("hcam_devices") / "data" / "telescope.idl")
JUNK = ["", "JUNK", "T_TUBE = warm;;= 5 / nameless;DEWPOINT= n/a / [C]", "\xff\xfe / = ;"]
LATITUDE, LONGITUDE = 28.7567, -17.8917
"""The latitude and longitude of the GTC in deg; east is positive."""
COMMANDS = {
    "requestTelescopeOffset": "dd",
    "requestFocusOffset": "d",
    "startPointingModel": "i",
    "addStarAndContinue": "",
    "addStarAndFinish": "",
    "changeStar": "",
    "changePointing": "",
    "_set_m1NoiseMaxValue": "f",
}
"""The operations that change something, with the types of their arguments."""
REST: dict[str, Any] = {"ra": 17.5541, "dec": 60.0766, "focus": -1.25}
POSITION = tuple(REST)
REST |= {"kind": "rest", "begin": 0.0, "end": 0.0, "from": list(REST.values())}
"""The motion of a telescope that has not moved yet."""
TRANSFER = "transferObservationDataFromHIPERToGCS"
FOCUS_SCALE = 0.01
"""mm per unit of requestFocusOffset: the caller's value in mm is sent times 100."""


class Simulator(Base):
    """A telescope in a cold, dry dome, its name service, and its server, which can be restarted."""

    controls = (
        *("top", "middle", "bottom", "humidity", "tube", "m1"),
        *("motion", "settling", "focus_speed", "transfer", "autoguider"),
    )
    ranges: ClassVar[dict[str, Range]] = {
        "motion": (0, 3600),
        "settling": (0, 3600),
        "focus_speed": (1e-4, 1e6),
        "transfer": (0, 86400),
    }
    link_settings: ClassVar[dict[str, Any]] = {"idl": IDL}
    cut = giop.cut

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.top, self.middle, self.bottom = 21.0, 20.0, 19.0
        self.humidity, self.tube, self.m1 = 31.0, 9.5, 9.0
        self.motion, self.settling, self.focus_speed = 1.0, 0.5, 0.05
        self.transfer, self.autoguider = 5.0, True
        self.noise_max = 0.0
        self.stars: int | None = None
        self.restarts = 0
        self.heard: deque[str] = deque(maxlen=1000)
        self.since = time.time() - self.clock()
        self._hangs_until = -math.inf
        self._looks = 0
        self._motions: list[dict[str, Any]] | None = None

    @property
    def key(self) -> bytes:
        """The key of the telescope object, which changes at each restart of its server."""
        return b"telescope-%d" % self.restarts

    def simulate(self, fault: str = "", **chosen: Any) -> dict[str, Any]:
        """Inject a fault, as in every simulator. ``disconnect`` also restarts the server."""
        shown = super().simulate(fault, **chosen)
        if fault == "disconnect":
            self.restarts += 1
        if fault == "clear":
            self._hangs_until = -math.inf
        return shown

    def stands_in(self, procedure: str) -> bool:
        """Return whether the simulator answers a procedure for the autoguider, another program."""
        return self.autoguider and procedure == "autoguider.add_relative_dither"

    # --- position ---------------------------------------------------------------------------

    def now(self) -> float:
        """Return the Unix time of the simulator's clock."""
        return self.since + self.clock()

    @property
    def motions(self) -> list[dict[str, Any]]:
        """All motions: {kind, begin, end, dra, ddec, from, ra, dec, focus}.

        ``begin`` and ``end`` are Unix times, between which the telescope is out of position.
        ``dra`` and ``ddec`` are the offset in arcsec; ``ra``, ``dec`` (deg) and ``focus`` (mm) are
        the position at the end, and ``from`` has these three at the beginning.
        """
        if self._motions is None:
            file = self._file()
            lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
            self._motions = [json.loads(line) for line in lines]
        return self._motions

    def _file(self) -> Any:
        folder = getattr(self, "folder", None)
        return folder and folder / "motions.jsonl"

    def _last(self) -> dict[str, Any]:
        return self.motions[-1] if self.motions else REST

    def _move(self, kind: str, dra: float = 0.0, ddec: float = 0.0, focus: float = 0.0) -> None:
        last, begin = self._last(), self.now()
        dec = last["dec"] + ddec / 3600
        ra = (last["ra"] + dra / 3600 / math.cos(math.radians(dec))) % 360
        takes = abs(focus) / self.focus_speed if focus else self.motion + self.settling
        record = {
            "kind": kind,
            "begin": begin,
            "end": max(begin, last["end"]) + takes,
            "dra": dra,
            "ddec": ddec,
            "from": [last[key] for key in POSITION],
            "ra": ra,
            "dec": dec,
            "focus": last["focus"] + focus,
        }
        self.motions.append(record)
        if file := self._file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")

    def position(self) -> tuple[float, float, float]:
        """Return the present position: RA and Dec in deg, focus in mm."""
        last = self._last()
        settling = 0.0 if last["kind"] == "focus" else self.settling
        moving = max(last["end"] - last["begin"] - settling, 1e-9)
        part = min(max((self.now() - last["begin"]) / moving, 0.0), 1.0)
        ra, dec, focus = (
            begin + part * (last[key] - begin)
            for key, begin in zip(POSITION, last["from"], strict=True)
        )
        return ra, dec, focus

    def in_position(self) -> bool:
        """Return whether the telescope has settled."""
        return self.now() >= self._last()["end"] and "unsettled" not in self.faults

    # --- the objects ------------------------------------------------------------------------

    def latency(self, frame: bytes) -> float:
        """Return the delay (s) of a request: the rest of a hang, or the time of a transfer."""
        return max(self._hangs_until - self.clock(), self.transfer * (TRANSFER.encode() in frame))

    def answer(self, frame: bytes) -> bytes:
        """Answer a request to one of the two objects."""
        try:
            request = giop.parse(frame)
        except ValueError:
            return giop.MESSAGE_ERROR
        if request is None:
            return b""
        try:
            return self._object(request)
        except struct.error:  # the arguments are too short
            return request.refusal("MARSHAL")

    def _object(self, request: giop.Request) -> bytes:
        if request.key not in (b"NameService", self.key):
            if request.kind == giop.LOCATE:
                return request.reply(giop.UNKNOWN_OBJECT)
            return request.refusal("OBJECT_NOT_EXIST")
        if request.kind == giop.LOCATE:
            return request.reply(giop.OBJECT_HERE)
        naming = request.key == b"NameService"
        if request.operation == "_is_a":
            here = request.arguments.text() == (NAMING if naming else INTERFACE)
            return request.reply(giop.NO_EXCEPTION, lambda writer: writer.number("?", here))
        if request.operation == "_non_existent":
            return request.reply(giop.NO_EXCEPTION, lambda writer: writer.number("?", False))
        return self._resolve(request) if naming else self._telescope(request)

    def _resolve(self, request: giop.Request) -> bytes:
        if request.operation != "resolve":
            return request.refusal("BAD_OPERATION")
        name = [
            (request.arguments.text(), request.arguments.text())
            for _ in range(request.arguments.number("I"))
        ]

        def not_found(writer: giop.Writer) -> None:
            writer.text(NOT_FOUND)
            writer.number("I", 0)  # missing node
            writer.number("I", len(name))
            for identifier, kind in name:
                writer.text(identifier)
                writer.text(kind)

        if name != [(NAME, "")] or self.fault("unnamed"):
            return request.reply(giop.USER_EXCEPTION, not_found)
        return request.reply(
            giop.NO_EXCEPTION,
            lambda writer: writer.reference(INTERFACE, "127.0.0.1", self.port, self.key),
        )

    def _telescope(self, request: giop.Request) -> bytes:
        self.heard.append(request.operation)
        if options := self.fault("error"):
            return request.refusal(str(options["exception"]))
        if request.operation == TRANSFER and self.fault("archive"):
            return request.refusal("NO_RESOURCES")
        if request.operation in COMMANDS:
            return self._command(request)
        write = self._reading(request.operation)
        return (
            request.reply(giop.NO_EXCEPTION, write) if write else request.refusal("BAD_OPERATION")
        )

    def _reading(self, operation: str) -> Callable[[giop.Writer], None] | None:
        numbers = {
            "getCabinetTemperature1": self.top,
            "getCabinetTemperature2": self.middle,
            "getCabinetTemperature3": self.bottom,
            "getHumidity": self.humidity,
            "getM1Temperature": self.m1,
            "_get_m1NoiseMaxValue": self.noise_max,
        }
        if operation in numbers:
            number = math.nan if self.fault("nan") else numbers[operation]
            return lambda writer: writer.number("f", number)
        if operation == "getTelescopeParams":
            groups = self.groups()
            return lambda writer: writer.texts(groups)
        if operation in ("areMACSFollowErrorBelowThreshold", "isM1NoiseBelowThreshold"):
            still = self.in_position()
            if operation.startswith("are") and self.fault("flapping"):
                self._looks += 1
                still = still and self._looks % 2 == 0
            return lambda writer: writer.number("?", still)
        if operation == TRANSFER:
            return lambda writer: None
        return None

    def _command(self, request: giop.Request) -> bytes:
        if options := self.fault("refused"):
            return request.refusal(str(options["exception"]))
        arguments = [request.arguments.number(code) for code in COMMANDS[request.operation]]
        if self.fault("unheard"):
            return b""
        self._carry_out(request.operation, arguments)
        if self.fault("unanswered"):
            return b""
        if self.fault("broken"):
            self.hang_up()
            return b""
        if self.fault("failed"):
            return request.refusal("UNKNOWN", completed=giop.COMPLETED_MAYBE)
        return request.reply(giop.NO_EXCEPTION)

    def commands(self) -> list[str]:
        """Return the commands that were received, the oldest first."""
        return [operation for operation in self.heard if operation in COMMANDS]

    def _carry_out(self, operation: str, arguments: list[Any]) -> None:
        if operation == "requestTelescopeOffset":
            self._move("offset", *arguments)
        elif operation == "requestFocusOffset":
            self._move("focus", focus=FOCUS_SCALE * arguments[0])
        elif operation == "_set_m1NoiseMaxValue":
            (self.noise_max,) = arguments
        elif operation == "startPointingModel":
            (self.stars,) = arguments
        elif operation.startswith("addStar"):
            left = (self.stars or 1) - 1
            self.stars = left if operation == "addStarAndContinue" and left else None

    # --- the header -------------------------------------------------------------------------

    def groups(self) -> list[str]:
        """Return the header groups: telescope, pointing, focus, weather."""
        if self.fault("empty"):
            return []
        ra, dec, focus = self.position()
        sidereal = (280.46062 + 360.985647366 * (self.now() / 86400 - 10957.5) + LONGITUDE) % 360
        up, azimuth, parallactic = horizontal(math.radians(sidereal - ra), math.radians(dec))
        day = time.strftime("%Y/%m/%d", time.gmtime(self.now()))
        groups = [
            f"TELESCOP= 'GTC     ' / Telescope name;DATE-OBS= '{day}' / date",
            f"RADEG   = {ra:.6f} / RA (degrees);DECDEG  = {dec:.6f} / DEC (degrees);"
            f"LST     = {clock_of(sidereal / 15)} / [h];INSTRPA = 45.0 / [deg] PA;"
            f"ROTATOR = {(parallactic - 12.5) % 360:.4f} / [deg];"
            f"PARANG  = {parallactic:.4f} / [deg];"
            f"AZIMUTH = {azimuth:.4f} / [deg];ELEVAT  = {up:.4f} / [deg];"
            f"DOME_AZ = {azimuth:.1f} / [deg];"
            f"AIRMASS = {1 / max(math.sin(math.radians(up)), 0.05):.4f};",
            f"M2UX    = 0.01 / [mm];M2UY    = -0.02 / [mm];M2UZ    = {focus:.4f} / [mm];"
            f"M2RX    = 0.001 / [deg];TELFOCUS= {focus:.4f} / [mm]",
            f"T_TUBE  = {self.tube:.2f} / [C] Tube temperature;T_PRIM  = {self.m1:.2f} / [C];"
            f"HUMIN   = {self.humidity:.1f} / [%];HUMOUT  = {self.humidity:.1f} / [%];",
            f"TAMBIENT= {self.tube:.2f} / [C];HUMIDITY= {self.humidity:.1f} / [%];"
            "PRESSURE= 782.4 / [mbar];WINDSPEE= 4.2 / [m/s];WINDDIRE= 310 / [deg];"
            "DEWPOINT= -6.81 / [C];",
        ]
        return groups + JUNK if self.fault("junk") else groups

    # --- faults -----------------------------------------------------------------------------

    def fault_error(self, exception: str = "UNKNOWN") -> None:
        """Answer with a CORBA exception."""

    def fault_archive(self) -> None:
        """Refuse transfers into the archive."""

    def fault_unnamed(self) -> None:
        """Remove the telescope from the name service."""

    def fault_nan(self) -> None:
        """Answer NaN instead of numbers."""

    def fault_junk(self) -> None:
        """Send garbage between the header items; T_TUBE and DEWPOINT are not numbers."""

    def fault_empty(self) -> None:
        """Send no header groups."""

    def fault_refused(self, exception: str = "NO_PERMISSION") -> None:
        """Answer a command with an exception, and do not carry it out."""

    def fault_unheard(self, times: int = 1) -> None:
        """Neither carry out nor answer a command."""

    def fault_unanswered(self, times: int = 1) -> None:
        """Carry a command out and do not answer."""

    def fault_broken(self, times: int = 1) -> None:
        """Carry a command out and break the connection."""

    def fault_failed(self, times: int = 1) -> None:
        """Carry a command out and raise an exception."""

    def fault_closed(self) -> None:
        """Close all connections once, as servers close idle ones."""
        del self.faults["closed"]
        self.hang_up(giop.CLOSE_CONNECTION)

    def fault_hang(self, seconds: float = 30.0) -> None:
        """Hang for some seconds, then answer all waiting requests."""
        del self.faults["hang"]
        self._hangs_until = self.clock() + seconds

    def fault_unsettled(self) -> None:
        """Never reach the position."""

    def fault_flapping(self) -> None:
        """Let the follow error flap."""


def horizontal(hour_angle: float, dec: float) -> tuple[float, float, float]:
    """Return elevation, azimuth (from north through east) and parallactic angle at the GTC, in deg.

    Hour angle and declination are in radians.
    """
    latitude = math.radians(LATITUDE)
    sin, cos = math.sin, math.cos
    up = math.asin(sin(latitude) * sin(dec) + cos(latitude) * cos(dec) * cos(hour_angle))
    azimuth = math.atan2(
        -cos(dec) * sin(hour_angle),
        sin(dec) * cos(latitude) - cos(dec) * cos(hour_angle) * sin(latitude),
    )
    parallactic = math.atan2(
        sin(hour_angle), math.tan(latitude) * cos(dec) - sin(dec) * cos(hour_angle)
    )
    return math.degrees(up), math.degrees(azimuth) % 360, math.degrees(parallactic)


def clock_of(hours: float) -> str:
    """Return hours as text, such as 01:10:12.99."""
    hundredths = round(360_000 * hours) % 8_640_000
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 100:02d}.{rest % 100:02d}"
