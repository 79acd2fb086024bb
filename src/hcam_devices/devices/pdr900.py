"""MKS PDR900 vacuum gauge controller, on a serial line behind a terminal server.

    -> @001PR1?;FF
    <- @001ACK1.23E-5;FF     or, when it refuses,    @001NAK160;FF

Sources: MKS 902B and 910 operation manuals (commands of all 900-series transducers, p. 12-24) and
MKS 946 manual, table 9-15 (NAK codes). The manual of the PDR900 itself was not found: the command
``ADC``, which asks for the controller's address, is known only from its use.
"""

import math
import re
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..core import Beyond, Device, ProtocolError, Readback, RefusedError, Until, toward
from ..core import Simulator as Base

EVERYBODY, EVERYBODY_SILENTLY = 254, 255
NAK_UNKNOWN, NAK_WRONG_SIGN = "NAK160", "NAK175"
NAK = {
    150: "wrong gauge",
    151: "no gauge",
    160: "unrecognised message",
    161: "setup locked",
    163: "invalid channel",
    169: "invalid argument",
    172: "value out of range",
    175: "bad ? or !",
    177: "not on RS-485",
    180: "transducer setup locked",
}
MBAR = {"MBAR": 1.0, "TORR": 1.33322, "PASCAL": 0.01}
MAX_MBAR = 1500.0
"""The upper end of the measuring range."""


class Codec:
    """The protocol for one address; 254 addresses every gauge, and any gauge may answer."""

    cut = Until(b";FF")

    def __init__(self, address: int = EVERYBODY) -> None:
        self.address = address

    def request(self, ref: str, value: str | None = None) -> bytes:
        """Return the bytes that ask for ``ref``, or set it to a value."""
        return f"@{self.address:03d}{ref}{'?' if value is None else '!' + value};FF".encode()

    def reply(self, request: bytes, frame: bytes) -> str:
        """Return the text after ACK. Raises RefusedError for NAK."""
        match = re.fullmatch(r"@(\d{3})(?:ACK([^;@]*)|NAK(\d+))", frame.decode("ascii", "replace"))
        if match is None:
            raise ProtocolError("this is not a reply of a PDR900")
        if self.address not in (EVERYBODY, int(match[1])):
            raise ProtocolError(f"address {match[1]} answered instead of {self.address:03d}")
        if match[3]:
            meaning = NAK.get(int(match[3]), "not in the manual")
            asked = request[4:-3].decode()
            raise RefusedError(f"the gauge answered NAK {match[3]} ({meaning}) to {asked}")
        return match[2]


def pressure_number(text: str) -> float:
    """Return a pressure. Raises ValueError unless it has the three-digit form of the manual."""
    if not re.fullmatch(r"\d\.\d\dE[-+]?\d{1,2}", text):
        raise ValueError(f"the gauge answered {text!r}, which is not a pressure")
    return float(text)


class VacuumGauge(Device):
    """The pressure inside one CCD head."""

    address: Annotated[int, Field(ge=1, le=EVERYBODY)] = EVERYBODY
    """The address of the gauge on its line; 254 is answered by every gauge."""

    pressure = Readback(
        unit="mbar",
        ref="PR1",
        kind=pressure_number,
        healthy=(0, 8e-3),
        advice="Check that the head's valve is closed and its pump, if one is connected, runs. "
        "Compare the other heads. If it still rises and the CCD is cold, call support: a warm-up "
        "takes hours.",
        deployed_name="gauge",
        scale="log",
        digits=1,
        doc="Pressure inside the CCD head.",
    )

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.codec = Codec(self.address)

    async def on_connect(self) -> None:
        """Ask for the address of the gauge, so that no other gauge can answer in its place."""
        self.codec = Codec(self.address)
        text = await self.ask("ADC")
        if not re.fullmatch(r"\d{3}", text):
            raise ProtocolError(f"{self.link}: {text!r} is not the address of a gauge")
        self.codec = Codec(int(text))

    async def read(self, field: Readback) -> float:
        """Return the pressure in mbar, whatever unit the gauge uses."""
        pressure = float(field.kind(await self.ask(field.ref)))
        unit = await self.ask("U")
        if unit not in MBAR:
            raise ValueError(f"the gauge measures in {unit!r}, an unknown unit")
        if pressure * MBAR[unit] > MAX_MBAR:
            raise ValueError(f"the gauge answered {pressure:g} {unit}, above its measuring range")
        return pressure * MBAR[unit]


class Simulator(Base):
    """A gauge in a head that is being pumped; it refuses unknown commands.

    Its setup may be ``locked``. Unit, address and logger can be set.
    """

    cut = Until(re.compile(b";FF", re.IGNORECASE))
    controls = ("pressure", "base", "unit", "address", "locked")
    beyond: ClassVar[Beyond] = {"pressure": {"above": {"pressure": 0.2, "base": 0.2}}}
    CONSTANTS: ClassVar[dict[str, str]] = {
        "SNC": "1125123457",
        "FVC": "1.10",
        "SN": "1125123456",
        "FV": "1.12",
        "MD": "902B",
        "BR": "9600",
        "T": "O",
        "TIM": "1234",
        "TEM": "2.31E+1",
    }
    """The constant answers. Only the serial number of the transducer is a published one."""
    pressure, base, unit, address, locked = 1e-5, 1e-5, "MBAR", 1, False
    logging, interval = "STOP", "00:00:10"

    def answer(self, frame: bytes) -> bytes:
        """Answer one command; be silent to other addresses and to 255."""
        match = re.fullmatch(rb"@(\d{3})([A-Z0-9]+)([?!])(.*)", frame[frame.rfind(b"@") :].upper())
        if not match or int(match[1]) not in (self.address, EVERYBODY, EVERYBODY_SILENTLY):
            return b""
        here = self.address
        asked, value = match[2].decode(), match[4].decode("ascii", "replace")
        text = self._ask(asked) if match[3] == b"?" else self._write(asked, value)
        return b"" if int(match[1]) == EVERYBODY_SILENTLY else f"@{here:03d}{text};FF".encode()

    def _ask(self, ref: str) -> str:
        known = self.CONSTANTS | {
            "ADC": f"{self.address:03d}",
            "AD": f"{self.address:03d}",
            "U": self.unit,
            "DLT": self.interval,
        }
        if ref in known:
            return f"ACK{known[ref]}"
        if re.fullmatch(r"PR[1-5]", ref):
            digits = 3 if ref == "PR4" else 2
            noisy = self.pressure * self.random.gauss(1, 0.01)
            shown = f"{noisy / MBAR.get(self.unit, 1.0):.{digits}E}"
            return f"ACK{shown}".replace("E-0", "E-").replace("+0", "+")
        return NAK_WRONG_SIGN if ref == "DLC" else NAK_UNKNOWN

    def _write(self, ref: str, value: str) -> str:
        if ref not in ("U", "AD", "DLC", "DLT"):
            return NAK_WRONG_SIGN if self._ask(ref) != NAK_UNKNOWN else NAK_UNKNOWN
        if self.locked:
            return "NAK161" if ref.startswith("DL") else "NAK180"
        if ref == "AD" and re.fullmatch(r"\d{3}", value):
            if not 1 <= int(value) < EVERYBODY:
                return "NAK172"
            self.address = int(value)
        elif ref == "U" and value in MBAR:
            self.unit = value
        elif ref == "DLC" and value in ("START", "STOP"):
            self.logging = value
        elif ref == "DLT" and re.fullmatch(r"\d\d:[0-5]\d:[0-5]\d", value):
            self.interval = value
        else:
            return "NAK169"
        return f"ACK{value}"

    def _reply(self, text: str) -> bytes:
        return f"@{self.address:03d}{text};FF".encode()

    def advance(self, dt: float) -> None:
        """Pump towards the base pressure: a decade in about a minute."""
        now, base = (math.log(max(p, 1e-9)) for p in (self.pressure, self.base))
        self.pressure = math.exp(toward(now, base, dt, 60))

    def fault_error(self, reply: bytes, code: int = 160) -> bytes:
        """Refuse everything."""
        return self._reply(f"NAK{code}")

    def fault_identity(self, reply: bytes, address: int = 2) -> bytes:
        """Answer as another gauge."""
        return f"@{address:03d}".encode() + reply[4:]

    def fault_text(self, reply: bytes, text: str = "OFF") -> bytes:
        """Answer with something that is not a number."""
        return self._reply(f"ACK{text}")

    def fault_unsolicited(self, reply: bytes) -> bytes:
        """Send an unsolicited line after each reply."""
        return reply + b"@253ACK9.99E-9;FF"
