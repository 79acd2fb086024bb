"""Telemetry as programs of version 1.7 read it: a pickle of a dict, for each kind of device.

``KINDS`` defines the keys of the dict, and the replacements for unknown values, which must never
look healthy to the instrument's GUI, ``hdriver``. For NaN it switches a check off; for a missing
value it raises its alarm.

Pickles are written by hand, and none is read. The router's worker imports this module; it has
neither this package nor astropy.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple, TypeAlias

Sample: TypeAlias = Mapping[str, Any]

# --- pickles ----------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """Unpickled as an ``astropy.units.Quantity``."""

    value: float
    unit: str


class Time(NamedTuple):
    """Unpickled as an ``astropy.time.Time`` (UTC)."""

    iso: str


CALLS = {
    Quantity: (b"castropy.units\nQuantity\n", b"\x86R"),
    Time: (b"castropy.time\nTime\n", b"\x85R"),
}
"""The class to call, and the opcodes that call it with its arguments."""


def pickled(value: Any) -> bytes:
    """Pickle plain data, quantities and times (protocol 2). Raise TypeError for others."""
    return b"\x80\x02" + _pushed(value) + b"."


def _pushed(value: Any) -> bytes:
    """Return the opcodes that put a value on the unpickler's stack."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + struct.pack("<B", size) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(text)) + text
        case Quantity() | Time():
            name, call = CALLS[type(value)]
            return name + b"".join(map(_pushed, value)) + call
        case list() | tuple():
            return b"](" + b"".join(map(_pushed, value)) + b"e"
        case Mapping():
            items = (_pushed(key) + _pushed(one) for key, one in value.items())
            return b"}(" + b"".join(items) + b"u"
    raise TypeError(f"a {type(value).__name__} cannot be in telemetry of version 1.7")


# --- states -----------------------------------------------------------------------------------

MOTOR = {
    "disabled": ["disabled"],
    "init": ["enabled", "init"],
    "homing": ["enabled", "homing"],
    **{one: ["enabled", "homed", one] for one in ("inpos", "outpos", "moving", "stopped")},
}
POINTED = ["active", "online", "in position"]
TELESCOPE = {
    "offline": ["active", "offline"],
    "inpos": [*POINTED, "nodding disabled"],
    "outpos": [*POINTED, "nodding disabled"],
    "nodding.idle": [*POINTED, "nodding enabled", "idle"],
    "nodding.nodding": [*POINTED, "nodding enabled", "nodding"],
    "nodding.waiting": [*POINTED, "nodding enabled", "waiting_for_frame"],
    "nodding.paused": [*POINTED, "nodding enabled", "waiting_for_frame"],
}
"""States of the telescope. Any other (moving, outcome unknown) is given as offsetting."""


def connection(state: Mapping[str, str], machine: str = "connection") -> list[str]:
    """Return a device's connection: online, or offline for any other state."""
    return ["active", "online" if state.get(machine) == "online" else "offline"]


def axis(state: Mapping[str, str], machine: str) -> list[str]:
    """Return the state of an axis; if unknown, it is not homed."""
    return ["active", "motorController", *MOTOR.get(state.get(machine, ""), MOTOR["init"])]


def sensors(*fields: str, **machines: str) -> Callable[[Sample], Any]:
    """Return a function that makes a state with a machine per field, by default of its name."""
    names = {**{one: one for one in fields}, **machines}

    def state(sample: Sample) -> dict[str, list[str]]:
        read = {
            machine: ["active", "disabled" if sample.get(one) is None else "enabled"]
            for machine, one in names.items()
        }
        return {"connection": connection(sample["state"]), **read}

    return state


def axes(*machines: str, of: str = "connection") -> Callable[[Sample], Any]:
    """Return a function that makes the state of axes; ``of`` names their connection."""

    def state(sample: Sample) -> dict[str, list[str]]:
        ours = sample["state"]
        return {"connection": connection(ours, of), **{one: axis(ours, one) for one in machines}}

    return state


def compo_state(sample: Sample) -> dict[str, Any]:
    """Return the state of COMPO: its arms and its lens."""
    arms, lens = axes("pickoff", "injection", of="arms"), axes("stage", of="lens")
    return {"arms_state": arms(sample), "lens_state": lens(sample)}


def health(sample: Sample) -> str:
    """Return the health of a CCD head: OK, WARN or ERR."""
    ours = sample["state"]
    return str(ours.get("health", "ERR")) if ours.get("connection") == "online" else "ERR"


def telescope_state(sample: Sample) -> dict[str, list[str]]:
    """Return the state of the telescope."""
    known = sample["state"].get("gtc", "offline")
    return {"gtc": TELESCOPE.get(known, ["active", "online", "offsetting"])}


# --- values -----------------------------------------------------------------------------------

NAN, INFINITE = math.nan, math.inf
LEFT_OUT = "(left out)"
LAST_KNOWN = "(last known)"
NEWEST_FILE = "exposure.newDataFileName"


@dataclass(frozen=True)
class Field:
    """How to give a value: as a quantity if it has a unit, otherwise through ``form``.

    ``unknown`` replaces an unknown value, which is left out by default. For an unknown position,
    the last known one is given, with an infinite target, and the device is offline.
    """

    unit: str = ""
    unknown: Any = LEFT_OUT
    form: Callable[[Any], Any] = lambda value: value

    def given(self, value: Any) -> Any:
        """Return a sample's value (not null) in the form of version 1.7."""
        number = value["value"] if isinstance(value, Mapping) and "value" in value else value
        return Quantity(float(number), value["unit"]) if self.unit else self.form(number)

    def instead(self) -> Any:
        """Return the replacement for an unknown value."""
        return Quantity(self.unknown, self.unit) if self.unit else self.unknown


@dataclass(frozen=True)
class Kind:
    """The telemetry of a kind of device, published every ``period`` seconds."""

    fields: Mapping[str, Field]
    state: Callable[[Sample], Any] | None = lambda sample: {}
    period: float = 2.0


def header(telpars: Mapping[str, Any]) -> dict[str, str]:
    """Return the telescope's header as texts, with NaN for missing items that hdriver needs.

    A missing angle of the rotator is infinite: with NaN, hdriver sees no limit for 12 hours.
    """
    needed = dict.fromkeys(("RADEG", "DECDEG", "INSTRPA", "M2UZ"), "nan") | {"ROTATOR": "inf"}
    return needed | {name: str(value) for name, value in telpars.items() if value is not None}


def base_name(path: Any) -> str:
    """Return a file's name without its folder: hdriver reads digits there as the run number."""
    return PurePath(str(path)).name


def numbered(count: int, **fields: Field) -> dict[str, Field]:
    """Return the fields of ``count`` channels."""
    return {f"{name}{n}": one for name, one in fields.items() for n in range(1, count + 1)}


PLAIN, WORD, DATABASE = Field(), Field(unknown="unknown"), Field(unknown="ERR", form=str)
DURATION = Field(unknown="ERR", form=lambda seconds: f"{seconds:.3f}")
CELSIUS, CELSIUS_OR_NAN = Field("deg_C"), Field("deg_C", NAN)
ANGLE, PIXELS, LENGTH = (Field(unit, LAST_KNOWN) for unit in ("deg", "pix", "mm"))
ARMS = {"pickoff_angle": ANGLE, "injection_angle": ANGLE}
RACK_FIELDS = numbered(
    3,
    temperature=CELSIUS,
    target_temperature=CELSIUS_OR_NAN,
    heatsink=CELSIUS,
    current=Field("A", INFINITE),  # hdriver has no alarm for a missing current
    status=WORD,
    stage_enable=WORD,
)
KINDS: Mapping[str, Kind] = {
    "meerstetter.PeltierRack": Kind(
        RACK_FIELDS, sensors(*(name for name in RACK_FIELDS if not name.startswith("target")))
    ),
    "pdr900.VacuumGauge": Kind({"pressure": Field("mbar")}, sensors(gauge="pressure")),
    "minitrend.FlowRecorder": Kind(
        numbered(6, pen=Field("l / min"), alarm=PLAIN), sensors(*numbered(6, pen=PLAIN))
    ),
    "zaber.FocalPlaneSlide": Kind({"position": PIXELS}, axes("stage")),
    "zaber.COMPOLens": Kind({"position": LENGTH}, axes("stage")),
    "esp301.Arms": Kind(ARMS, axes("pickoff", "injection")),
    "views.COMPO": Kind(ARMS | {"lens_position": LENGTH}, compo_state),
    "views.CCDHead": Kind(
        {
            "temperature": CELSIUS_OR_NAN,
            "setpoint": CELSIUS_OR_NAN,
            "heatsink": CELSIUS_OR_NAN,
            "pressure": Field("mbar", NAN),
            "flow": Field("l / min", NAN),
            "peltier_current": Field("A", NAN),
            "peltier_status": WORD,
            "state_reason": WORD,
        },
        health,
    ),
    "ngc.Controller": Kind(
        {
            "system.stateName": DATABASE,
            "system.subStateName": DATABASE,
            "cldc_0.statusName": DATABASE,
            "seq_0.statusName": DATABASE,
            "exposure.time": DURATION,
            "exposure.countDown": DURATION,
            "exposure.expStatusName": DATABASE,
            "exposure.baseName": DATABASE,
            NEWEST_FILE: Field(unknown="ERR", form=base_name),
            "exposure.frame": Field(unknown=0, form=int),
        },
        state=None,
    ),
    "gtc.Telescope": Kind(
        {
            "telpars": Field(unknown=header({}), form=header),
            **dict.fromkeys(("rack_temp", "humidity", "dewpoint"), PLAIN),
            **dict.fromkeys(("ra_offset", "dec_offset"), PLAIN),
        },
        telescope_state,
    ),
    "rack.Rack": Kind(
        {
            **{f"rack_temp_{where}": PLAIN for where in ("bottom", "middle", "top")},
            "dewpoint": Field(unknown=NAN),
        }
    ),
    "gps.TimingCard": Kind(
        dict.fromkeys(("num_sats", "time_valid", "pps_valid", "synced"), PLAIN), period=10.0
    ),
    "chiller.CoolingCircuit": Kind(
        dict.fromkeys(("ccd_input", "cab_pre_filter", "cab_post_filter"), PLAIN), period=10.0
    ),
    "unichiller.WaterChiller": Kind({"temperature": PLAIN}, period=10.0),
    "rackpc.RackPC": Kind(
        dict.fromkeys(("cpu", "mem", "net_in", "net_out"), Field(unknown=None)), None, 60.0
    ),
}

# --- messages ---------------------------------------------------------------------------------

STALE_AFTER_S, STALE_PERIODS = 30.0, 4
"""A sample is stale after this time, and this many periods of its device."""
OFFLINE = dict.fromkeys(("connection", "arms", "lens"), "offline")
"""Connections of a device, or of parts of a view, if a position is unknown."""
NOTHING: Sample = {"state": {}}


class Telemetry:
    """The published telemetry of one device: its newest sample until that is stale."""

    def __init__(self, kind: Kind, now: float) -> None:
        self.kind = kind
        self._sample: Sample | None = None
        self._heard_at = now
        self._iso = ""
        self._positions: dict[str, Any] = {}

    def hear(self, sample: Sample, now: float) -> None:
        """Take a sample that came at ``now``, in seconds of any steady clock."""
        self._sample, self._heard_at = sample, now

    def message(self, now: float, iso: str) -> bytes | None:
        """Return the telemetry; None if the device may still be starting.

        ``iso`` is the time to give for a device that never sent a sample. Raises any error if the
        sample does not fit the kind.
        """
        stale = now - self._heard_at > max(STALE_AFTER_S, STALE_PERIODS * self.kind.period)
        sample = NOTHING if stale else self._sample
        return None if sample is None else pickled(self._told(sample, iso))

    def unknown(self, iso: str) -> bytes:
        """Return the telemetry without any known value."""
        return pickled(self._told(NOTHING, iso))

    def _told(self, sample: Sample, iso: str) -> dict[str, Any]:
        if read_at := sample.get("timestamp"):
            self._iso = read_at.removesuffix("Z").replace("T", " ")
        told: dict[str, Any] = {"timestamp": Time(self._iso or iso)}
        for name, one in self.kind.fields.items():
            value = sample.get(name)
            if one.unknown is LAST_KNOWN:
                told[name] = self._position(name, one, value)
                if not value or value["current"] is None:
                    sample = {**sample, "state": sample["state"] | OFFLINE}
            elif value is not None:
                told[name] = one.given(value)
            elif one.unknown is not LEFT_OUT:
                told[name] = one.instead()
        if self.kind.state:
            told["state"] = self.kind.state(sample)
        return told

    def _position(self, name: str, field: Field, value: Any) -> dict[str, Any]:
        """Return the last known position of an axis, and its target."""
        here, target = (value or {}).get("current"), (value or {}).get("target")
        if here is None:
            # hdriver shows a slide as healthy, offline or not, unless it is far from its target.
            last = self._positions.get(name, Quantity(NAN, field.unit))
            return {"current": last, "target": Quantity(INFINITE, field.unit)}
        self._positions[name] = position = field.given(here)
        # Before an axis is homed it has no target, and hdriver cannot do without one.
        return {"current": position, "target": field.given(target) if target else position}
