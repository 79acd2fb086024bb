"""Views: devices that show and judge the values of other devices, their sources.

A view gets the samples of sources in its own process directly, also during a router outage, and
those of other servers through the router. It judges them on a timer, too, to notice silence.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from ..core import (
    Alarm,
    Device,
    Lasting,
    Readback,
    Reading,
    RefusedError,
    Sample,
    Setpoint,
    Source,
    Value,
    shorten,
)
from .esp301 import Arms
from .meerstetter import PeltierRack
from .minitrend import FlowRecorder
from .pdr900 import VacuumGauge
from .zaber import COMPOLens

STALE_AFTER = 60.0
NEAR_SETPOINT = 2.0


def seen(role: str, cls: type[Device], name: str, **changes: Any) -> Any:
    """Return the field ``name`` of a class of sources as a view declares it, with some changes.

    ``role`` is the setting of the view that names the source.
    """
    own = {"ref": (role, name), "question": None, "kind": float, "channels": 0, "deployed_name": ""}
    return replace(getattr(cls, name), **(own | changes))


class View(Device):
    """A device whose fields are fields of its sources."""

    link_type = Lasting
    phase = 0.2  # when its sources have answered

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._heard: dict[str, tuple[float, Sample]] = {}
        self._devices: Mapping[str, Source] = {}
        self._shown: dict[str, list[Readback]] = {}
        self._emitted: object = None
        self._found: list[Alarm] | None = None

    def sources(self) -> tuple[str, ...]:
        """Return the names of the sources."""
        return tuple(dict.fromkeys(self.origin(field)[0] for field in self.fields.values()))

    def origin(self, field: Readback) -> tuple[str, str]:
        """Return the source of a field, and the name of the field there."""
        role, name = field.ref
        return getattr(self, role), name

    def passes_on(self) -> set[tuple[str, str]]:
        """Return the setpoints that the view sets, each as (source, name)."""
        return {self.origin(field) for field in self.fields.values() if isinstance(field, Setpoint)}

    def attach(self, devices: Mapping[str, Source]) -> None:
        """Listen to the sources. Raises KeyError if one is missing."""
        self._devices = {name: devices[name] for name in self.sources()}
        for field in self.fields.values():
            self._shown.setdefault(self.origin(field)[0], []).append(field)
        for device in self._devices.values():
            device.listeners.append(self._hear)

    def _hear(self, sample: Sample) -> None:
        source = sample["device"]
        self._heard[source] = (self.clock(), sample)
        self._judge(self._shown[source])
        if self.connection == "online" and self._find_alarms() != self._emitted:
            self.emit()
        self._found = None

    def _find_alarms(self) -> object:
        """Find the alarms, once for a whole sample; return what is published when it changes."""
        self._found = super().alarms()
        return self.states(), self._found

    def alarms(self) -> list[Alarm]:
        """Return everything that is wrong, worst first."""
        return super().alarms() if self._found is None else self._found

    async def poll(self) -> None:
        """Judge the newest samples of the sources."""
        self._judge(self.fields.values())

    def _judge(self, fields: Iterable[Readback]) -> None:
        for field in fields:
            if field.deployed_name in self.disabled:
                self.readings[field.name] = self._off(field)
                continue
            try:
                self.readings[field.name] = Reading(self._look(field))
            except RefusedError as error:
                self.readings[field.name] = Reading(None, str(error))
        heard = [at for at, _ in self._heard.values()]
        self.read_at = min(heard, default=self.clock())

    def heard(self, source: str) -> Sample:
        """Return the newest sample of a source. Raises RefusedError if it is silent or offline."""
        if source not in self._heard:
            raise RefusedError(f"no telemetry of {source} yet")
        at, sample = self._heard[source]
        if (age := self.clock() - at) > STALE_AFTER:
            raise RefusedError(f"no telemetry of {source} for {age:.0f} s")
        if sample["timestamp"] is None:
            raise RefusedError(f"{source} is offline: its server has ended")
        if sample["state"]["connection"] != "online":
            raise RefusedError(f"{source} is offline")
        return sample

    def _path(self, source: str, name: str) -> tuple[str, ...]:
        """Return the path of a field in the telemetry of a source."""
        for readback, setpoint in self._devices[source].nested().items():
            if name in (readback, setpoint):
                return readback, "current" if name == readback else "target"
        return (name,)

    def _look(self, field: Readback) -> Value:
        source, name = self.origin(field)
        sample = self.heard(source)
        said: Any = sample
        for key in self._path(source, name):
            if said is None:
                break
            if not isinstance(said, dict) or key not in said:
                raise RefusedError(f"{source} has no {name}: it is another kind of device")
            said = said[key]
        if said is None:
            why = (alarm["reason"] for alarm in sample["alarms"] if alarm["field"] == name)
            raise RefusedError(f"{source}: {next(why, 'not read')}")
        return _value(source, name, field, said)

    async def read(self, field: Readback) -> Value:
        """Return the present value of a field from its source."""
        return self._look(field)

    async def write(self, field: Setpoint, value: float) -> None:
        """Set the setpoint of the source. Raises as ``Device.set``."""
        source, name = self.origin(field)
        await self._devices[source].set(name, value)

    def describe(self) -> dict[str, Any]:
        """Return what is declared; ``source`` of a field is its device and field, as a list."""
        told = super().describe()
        for name, field in self.fields.items():
            told["fields"][name]["source"] = [*self.origin(field)]
        return told

    def emit(self) -> None:
        """Hand a sample to every listener."""
        self._emitted = self._find_alarms()
        super().emit()
        self._found = None


def _value(source: str, name: str, field: Readback, said: Any) -> Value:
    """Return the value in a source's telemetry. Raises RefusedError if it is not valid."""
    try:
        value = field.kind(said["value"] if field.unit else said)
        unit = said["unit"] if field.unit else field.unit
    except (KeyError, TypeError, ValueError):
        raise RefusedError(
            f"{source} has {shorten(said)} for {name}, which is not a value"
        ) from None
    if unit != field.unit:
        raise RefusedError(f"{source} has {name} in {shorten(unit)}, not in {field.unit}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RefusedError(f"{source} has {value} for {name}")
    return value


class CCDHead(View):
    """One CCD head: its pressure, coolant flow and peltier, judged together.

    Its health is the worst severity of its alarms, and ``state_reason`` contains all their reasons.
    A value that cannot be read, or was not read for a minute, is an alarm too.
    """

    gauge: str
    """The device that reads the pressure of this head."""
    rack: str
    """The peltier rack that cools its CCD."""
    channel: Literal[1, 2, 3]
    """The channel of the rack."""
    recorder: str
    """The device that reads the coolant flow."""
    pen: Literal[1, 2, 3, 4, 5, 6]
    """The pen of the flow recorder."""

    temperature = seen(
        "rack",
        PeltierRack,
        "temperature",
        because=("peltier_current", "peltier_status", "flow", "stage_enable"),
        advice="Wait while it approaches its setpoint. If it does not, look at this head's flow, "
        "heatsink and peltier_current; data taken now have more dark current.",
        doc="Temperature of the CCD.",
    )
    setpoint = seen(
        "rack",
        PeltierRack,
        "target_temperature",
        readback="temperature",
        doc="Temperature at which the CCD is kept.",
    )
    pressure = seen("gauge", VacuumGauge, "pressure")
    flow = seen(
        "recorder",
        FlowRecorder,
        "pen",
        healthy=(0.4, math.inf),
        advice="Look at the chiller and at the valves of this head: is the pump on, is there "
        "coolant? The interlock stops the peltier without flow, and the CCD warms up slowly.",
        doc="Flow of the coolant through the CCD head.",
    )
    heatsink = seen("rack", PeltierRack, "heatsink", doc="Temperature of the peltier's warm side.")
    peltier_current = seen(
        "rack",
        PeltierRack,
        "current",
        because=("flow", "peltier_status"),
        advice=None,  # the rack judges it
        doc="Current through the peltier.",
    )
    peltier_status = seen(
        "rack", PeltierRack, "status", kind=str, doc="State of the peltier controller."
    )
    acts_on: ClassVar[dict[str, Readback]] = {
        "stage_enable": seen("rack", PeltierRack, "stage_enable")
    }

    def origin(self, field: Readback) -> tuple[str, str]:
        """Return the source of a field, and the name of the field there, with its channel."""
        number = {"gauge": "", "rack": self.channel, "recorder": self.pen}[field.ref[0]]
        source, name = super().origin(field)
        return source, f"{name}{number}"

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for a peltier that is not running, or not yet at its setpoint."""
        status = self.readings["peltier_status"].value
        if status not in (None, "run"):
            yield Alarm("peltier_status", "ERR", f"the peltier is not running ({status})")
        now, goal = self.readings["temperature"].value, self.readings["setpoint"].value
        if isinstance(now, float) and isinstance(goal, float) and abs(now - goal) > NEAR_SETPOINT:
            reason = f"{now:.1f} deg_C, setpoint {goal:.1f} deg_C"
            yield Alarm("temperature", "WARN", reason)

    def states(self) -> dict[str, str]:
        """Return the connection and the health."""
        worst = next((alarm.severity for alarm in self.alarms()), "OK")
        return super().states() | {"health": worst}

    def values(self) -> dict[str, Any]:
        """Return the fields, and ``state_reason``: the reasons of all alarms."""
        reasons = dict.fromkeys(alarm.reason for alarm in self.alarms())
        return super().values() | {"state_reason": "; ".join(reasons) or "None"}


class COMPO(View):
    """COMPO as one device: its two arms and its lens. It sets their targets, but moves nothing."""

    arms: str
    """The device of the two arms."""
    lens: str
    """The device of the lens."""

    pickoff_angle = seen("arms", Arms, "pickoff_angle")
    target_pickoff_angle = seen("arms", Arms, "target_pickoff_angle")
    injection_angle = seen("arms", Arms, "injection_angle")
    target_injection_angle = seen("arms", Arms, "target_injection_angle")
    lens_position = seen("lens", COMPOLens, "position")
    target_lens_position = seen("lens", COMPOLens, "target_position")

    def nested(self) -> dict[str, str]:
        """Return all pairs: each is one value of the telemetry."""
        return self.pairs

    def _states(self, source: str) -> dict[str, str]:
        try:
            return dict(self.heard(source)["state"])
        except RefusedError:
            return {"connection": "offline"}

    def states(self) -> dict[str, str]:
        """Return the states of the arms and the lens, and whether each can be reached."""
        arms, lens = self._states(self.arms), self._states(self.lens)
        reached = {"arms": arms.pop("connection"), "lens": lens.pop("connection")}
        return super().states() | reached | arms | lens

    def notices(self) -> Iterator[Alarm]:
        """Return the alarms of the sources, except about fields that the view itself reads."""
        for source in self.sources():
            try:
                alarms = self.heard(source)["alarms"]
            except RefusedError:
                continue
            nested = self._devices[source].nested()
            for alarm in alarms:
                if (field := alarm["field"]) not in nested:
                    yield Alarm(field, alarm["severity"], f"{source}: {alarm['reason']}")
