"""The parts that a device is made of; what its author needs is imported from here."""

from ..errors import LINK_LOST, NotAllowedError, ProtocolError, RefusedError
from ..names import shorten
from .axis import Axis, Drive
from .device import Device, Sample, Source, iso_from_s
from .fields import Labels, Procedure, Range, Readback, Setpoint, Value, is_number, rpc
from .link import Exactly, Lasting, Seconds, Serial, Tcp, Until
from .part import Alarm, Part, Reading
from .sim import Beyond, Impatient, Rehearsal, Simulator, toward

__all__ = [
    "LINK_LOST", "Alarm", "Axis", "Beyond", "Device", "Drive", "Exactly", "Impatient", "Labels",
    "Lasting", "NotAllowedError", "Part", "Procedure", "ProtocolError", "Range", "Readback",
    "Reading", "RefusedError", "Rehearsal", "Sample", "Seconds", "Serial", "Setpoint", "Simulator",
    "Source", "Tcp", "Until", "Value", "is_number", "iso_from_s", "rpc", "shorten", "toward",
]  # fmt: skip
