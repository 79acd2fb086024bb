"""Views: devices whose hardware is what other devices have read.

A view hears sources of its own process directly, so a router outage does not blind it, and those of
other servers through the router. It judges them on a timer, so that silence is noticed too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from ..core import (
    Alarm,
    Device,
    Local,
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
    """What a view is of, and what it has heard."""

    link_type = Local

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._heard: dict[str, tuple[float, Sample]] = {}
        self._devices: Mapping[str, Source] = {}
        self._emitted: object = None

    def sources(self) -> tuple[str, ...]:
        """Return the names of the devices it is a view of."""
        return tuple(dict.fromkeys(self.origin(field)[0] for field in self.fields.values()))

    def origin(self, field: Readback) -> tuple[str, str]:
        """Return the device that has a field, and its name there."""
        role, name = field.ref
        return getattr(self, role), name

    def passes_on(self) -> set[tuple[str, str]]:
        """Return the setpoints of its sources that it sets, each with the source's name first."""
        return {self.origin(field) for field in self.fields.values() if isinstance(field, Setpoint)}

    def attach(self, devices: Mapping[str, Source]) -> None:
        """Listen to the sources; KeyError if one is not there."""
        self._devices = {name: devices[name] for name in self.sources()}
        for device in self._devices.values():
            device.listeners.append(self._hear)

    def _hear(self, sample: Sample) -> None:
        self._heard[sample["device"]] = (self.clock(), sample)
        self._judge()
        if self.connection == "online" and (self.states(), self.alarms()) != self._emitted:
            self.emit()

    async def poll(self) -> None:
        """Judge what was heard."""
        self._judge()

    def _judge(self) -> None:
        for field in self.fields.values():
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
        """Return what a source said last; RefusedError if it says nothing, or is offline."""
        if source not in self._heard:
            raise RefusedError(f"nothing heard from {source} yet")
        at, sample = self._heard[source]
        if (age := self.clock() - at) > STALE_AFTER:
            raise RefusedError(f"nothing heard from {source} for {age:.0f} s")
        if sample["timestamp"] is None:
            raise RefusedError(f"{source} is offline: its server has gone")
        if sample["state"]["connection"] != "online":
            raise RefusedError(f"{source} is offline")
        return sample

    def _path(self, source: str, name: str) -> tuple[str, ...]:
        """Return where telemetry of a source has a field."""
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
                raise RefusedError(f"{source} has no {name}: it is of another kind")
            said = said[key]
        if said is None:
            why = (alarm["reason"] for alarm in sample["alarms"] if alarm["field"] == name)
            raise RefusedError(f"{source}: {next(why, 'not read')}")
        return _value(source, name, field, said)

    async def read(self, field: Readback) -> Value:
        """Return what the source says now."""
        return self._look(field)

    async def write(self, field: Setpoint, value: float) -> None:
        """Pass the setpoint on to the source; raises as its ``set``."""
        source, name = self.origin(field)
        await self._devices[source].set(name, value)

    def emit(self) -> None:
        """Hand a sample to every listener."""
        self._emitted = self.states(), self.alarms()
        super().emit()


def _value(source: str, name: str, field: Readback, said: Any) -> Value:
    """Return a value from a source's telemetry; RefusedError if it is none for the field."""
    try:
        value = field.kind(said["value"] if field.unit else said)
        unit = said["unit"] if field.unit else field.unit
    except (KeyError, TypeError, ValueError):
        raise RefusedError(f"{source} has {shorten(said)} for {name}: it is no value") from None
    if unit != field.unit:
        raise RefusedError(f"{source} has {name} in {shorten(unit)}, not in {field.unit}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RefusedError(f"{source} has {value} for {name}")
    return value


class CCDHead(View):
    """One CCD head: its pressure, coolant flow and peltier, judged together.

    Its health is the worst of what is wrong, and ``state_reason`` says everything that is. What
    cannot be read, or has not been read for a minute, is wrong too.
    """

    gauge: str
    rack: str
    channel: Literal[1, 2, 3]
    recorder: str
    pen: Literal[1, 2, 3, 4, 5, 6]

    temperature = seen("rack", PeltierRack, "temperature", doc="Temperature of the CCD.")
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
        doc="Flow of the coolant through the CCD head.",
    )
    heatsink = seen("rack", PeltierRack, "heatsink", doc="Temperature of the peltier's warm side.")
    peltier_current = seen("rack", PeltierRack, "current", doc="Current through the peltier.")
    peltier_status = seen(
        "rack", PeltierRack, "status", kind=str, doc="What the controller of the peltier does."
    )

    def origin(self, field: Readback) -> tuple[str, str]:
        """Return the device that has a field, and its name there with its number."""
        number = {"gauge": "", "rack": self.channel, "recorder": self.pen}[field.ref[0]]
        source, name = super().origin(field)
        return source, f"{name}{number}"

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for a peltier that does not run or is not yet at its setpoint."""
        status = self.readings["peltier_status"].value
        if status not in (None, "run"):
            yield Alarm("peltier_status", "ERR", f"the peltier is not running ({status})")
        now, goal = self.readings["temperature"].value, self.readings["setpoint"].value
        if isinstance(now, float) and isinstance(goal, float) and abs(now - goal) > NEAR_SETPOINT:
            reason = f"{now:.1f} deg_C, setpoint {goal:.1f} deg_C"
            yield Alarm("temperature", "WARN", reason)

    def states(self) -> dict[str, str]:
        """Return the health beside the connection."""
        worst = next((alarm.severity for alarm in self.alarms()), "OK")
        return super().states() | {"health": worst}

    def values(self) -> dict[str, Any]:
        """Return the fields, and every reason why the head is not well."""
        reasons = dict.fromkeys(alarm.reason for alarm in self.alarms())
        return super().values() | {"state_reason": "; ".join(reasons) or "None"}


class COMPO(View):
    """COMPO as one: its two arms and its lens. It passes targets on; each moves by itself."""

    arms: str
    lens: str

    pickoff_angle = seen("arms", Arms, "pickoff_angle")
    target_pickoff_angle = seen("arms", Arms, "target_pickoff_angle")
    injection_angle = seen("arms", Arms, "injection_angle")
    target_injection_angle = seen("arms", Arms, "target_injection_angle")
    lens_position = seen("lens", COMPOLens, "position")
    target_lens_position = seen("lens", COMPOLens, "target_position")

    def nested(self) -> dict[str, str]:
        """Return the pairs that are one value of the telemetry: all of them."""
        return self.pairs

    def _states(self, source: str) -> dict[str, str]:
        try:
            return dict(self.heard(source)["state"])
        except RefusedError:
            return {"connection": "offline"}

    def states(self) -> dict[str, str]:
        """Return what each part does, beside whether the arms and the lens can be reached."""
        arms, lens = self._states(self.arms), self._states(self.lens)
        reached = {"arms": arms.pop("connection"), "lens": lens.pop("connection")}
        return super().states() | reached | arms | lens

    def notices(self) -> Iterator[Alarm]:
        """Pass on what is wrong with the parts, beyond what cannot be read."""
        for source in self.sources():
            try:
                alarms = self.heard(source)["alarms"]
            except RefusedError:
                continue
            nested = self._devices[source].nested()
            for alarm in alarms:
                if (field := alarm["field"]) not in nested:
                    yield Alarm(field, alarm["severity"], f"{source}: {alarm['reason']}")
