"""The telescope as it answers over CORBA, together with its name service.

Both are objects at the same port: the name service has the key ``NameService``, and returns a
reference to the telescope, whose key is new each time its server is restarted. What it is like is
inferred (``data/telescope.idl``). Its faults beside those of the wire:

    error exception=UNKNOWN  the telescope raises an exception of CORBA
    unnamed                  the name service does not know the telescope
    nan                      numbers are not numbers
    junk                     garbage between the header items, and T_TUBE without a number
    empty                    no header groups at all

After ``disconnect`` the server is another one: references to the old one are dead.
"""

import math
import struct
from importlib.resources import files
from typing import Any, ClassVar

from ..sim import WIRE_FAULTS
from ..sim import Simulator as Base
from . import giop

NAME = "HIPERTelescopeServer"
INTERFACE = "IDL:HIPERTELESCOPESERVER/HIPERTelescopeServer_ifce:1.0"
NAMING = "IDL:omg.org/CosNaming/NamingContext:1.0"
NOT_FOUND = "IDL:omg.org/CosNaming/NamingContext/NotFound:1.0"
IDL = str(files("hcam_devices") / "data" / "telescope.idl")
JUNK = ["", "JUNK", "T_TUBE = warm / not a number;;= 5 / nameless", "\xff\xfe / = ;"]


class Simulator(Base):
    """A telescope in a cold, dry dome; its name service; and the server that may be restarted."""

    controls = ("top", "middle", "bottom", "humidity", "tube", "m1")
    link_settings: ClassVar[dict[str, Any]] = {"idl": IDL}
    cut = staticmethod(giop.cut)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.top, self.middle, self.bottom = 12.5, 11.0, 9.5
        self.humidity, self.tube, self.m1 = 31.0, 9.5, 9.0
        self.restarts = 0

    @property
    def key(self) -> bytes:
        """What the telescope object is called by this incarnation of its server."""
        return b"telescope-%d" % self.restarts

    def simulate(self, fault: str = "", **chosen: Any) -> dict[str, Any]:
        """As every simulator; but a server that breaks its connections was restarted."""
        shown = super().simulate(fault, **chosen)
        if fault == "disconnect":
            self.restarts += 1
        return shown

    # --- the objects ------------------------------------------------------------------------

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
        numbers = {
            "getCabinetTemperature1": self.top,
            "getCabinetTemperature2": self.middle,
            "getCabinetTemperature3": self.bottom,
            "getHumidity": self.humidity,
            "getM1Temperature": self.m1,
        }
        if options := self.fault("error"):
            return request.refusal(str(options["exception"]))
        if request.operation in numbers:
            number = math.nan if self.fault("nan") else numbers[request.operation]
            return request.reply(giop.NO_EXCEPTION, lambda writer: writer.number("f", number))
        if request.operation == "getTelescopeParams":
            groups = self.groups()
            return request.reply(giop.NO_EXCEPTION, lambda writer: writer.texts(groups))
        return request.refusal("BAD_OPERATION")

    def groups(self) -> list[str]:
        """Return the header groups."""
        if self.fault("empty"):
            return []
        groups = [
            "TELESCOP= 'GTC     ' / Telescope name;RADEG   = 17.5541 / RA (degrees);"
            "DECDEG  = 60.0766 / DEC (degrees);INSTRPA = 45.0 / [deg] PA;ROTATOR = -12.5 / [deg];"
            "LST     = 01:10:12.99 / [h];DATE-OBS= '2026/11/22' / date;",
            f"M2UZ    = -1.25 / [mm];T_TUBE  = {self.tube:.2f} / [C] Tube temperature;",
            f"TAMBIENT= {self.tube:.2f} / [C];HUMIDITY= {self.humidity:.1f} / [%];"
            "DEWPOINT= -6.81 / [C];",
        ]
        return groups + JUNK if self.fault("junk") else groups

    # --- faults -----------------------------------------------------------------------------

    def offers(self) -> dict[str, dict[str, Any]]:
        """Return every fault, with what may be chosen and its default."""
        own: dict[str, dict[str, Any]] = {
            "error": {"exception": "UNKNOWN"},
            "unnamed": {},
            "nan": {},
            "junk": {},
            "empty": {},
        }
        return WIRE_FAULTS | own

    def own_faults(self, reply: bytes) -> bytes:
        """Leave a reply alone: these faults are in what it says, not in how."""
        return reply
