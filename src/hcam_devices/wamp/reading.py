"""A reading: the value of one field in one sample; and the patterns that choose fields.

This module imports little, because ``hcam get`` uses it, too.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from ..names import did_you_mean

Description = Mapping[str, Any]


def value_and_unit(value: Any) -> tuple[Any, str]:
    """Return the value and the unit of a field as telemetry carries it; empty if it has no unit."""
    return (value["value"], value["unit"]) if isinstance(value, dict) else (value, "")


def moment_of(timestamp: str) -> datetime:
    """Return the time of a sample; in a leap second, which datetime does not know, that before."""
    return datetime.fromisoformat(timestamp.replace(":60", ":59"))


class Reading:
    """The value of a field of a device in one sample.

    ``raw``: the number, bool or text, None if it could not be read. ``unit``: as astropy writes it,
    empty without one. ``timestamp``: UTC, when the hardware was read. ``seq`` and ``epoch``: the
    number of the sample. ``severity`` (WARN or ERR) and ``reason``: of the alarm that concerns the
    field, else None. If the server has ended, ``raw``, ``timestamp`` and ``seq`` are None.
    """

    __slots__ = (
        "_declared",
        "device",
        "epoch",
        "field",
        "raw",
        "reason",
        "seq",
        "severity",
        "timestamp",
        "unit",
    )

    def __init__(self, sample: Mapping[str, Any], field: str, description: Description) -> None:
        self._declared = declared = description["fields"][field]
        self.device, self.field, self.unit = sample["device"], field, declared["unit"]
        self.seq, self.epoch = sample["seq"], sample["epoch"]
        self.timestamp = sample["timestamp"]
        value: Any = sample
        for step in declared["path"]:
            value = value.get(step) if isinstance(value, dict) else None
        self.raw = value["value"] if isinstance(value, dict) and "value" in value else value
        alarm = _alarm(sample, field, description, missing=self.raw is None)
        self.severity, self.reason = alarm.get("severity"), alarm.get("reason")

    @property
    def value(self) -> Any:
        """The value: an astropy Quantity, a bool, a text, or None."""
        if self.raw is None or isinstance(self.raw, bool | str):
            return self.raw
        from astropy import units  # noqa: PLC0415  (it takes 0.15 s)

        return units.Quantity(self.raw, self.unit)

    @property
    def time(self) -> Any:
        """The time, an astropy Time; None if the server has ended."""
        if self.timestamp is None:
            return None
        from astropy.time import Time  # noqa: PLC0415  (see above)

        return Time(self.timestamp.removesuffix("Z"), format="isot", scale="utc")

    @property
    def name(self) -> str:
        """The device and the field, such as ``ccd1.temperature``."""
        return f"{self.device}.{self.field}"

    def __str__(self) -> str:
        """Return the value as people read it, with its declared digits and its unit."""
        if self.raw is None:
            return f"not read ({self.reason or 'there is no value now'})"
        text = str(self.raw)
        if isinstance(self.raw, float):
            kind = "e" if self._declared["scale"] == "log" else "f"
            text = f"{self.raw:.{self._declared['digits']}{kind}}"
        return f"{text} {self.unit}".rstrip()

    def __repr__(self) -> str:
        return f"<{self.name} {self}, {self.timestamp}>"


def _alarm(
    sample: Mapping[str, Any], field: str, description: Description, *, missing: bool
) -> Mapping[str, Any]:
    """Return the alarm about a field, or about what its value depends on; empty if none."""
    about = [field]
    if missing:
        axes = description["axes"].items()
        about += [name for name, axis in axes if field in (axis["readback"], axis["setpoint"])]
        about += ["connection", "telemetry"]
    alarms = {alarm["field"]: alarm for alarm in reversed(sample["alarms"])}
    return next((alarms[name] for name in about if name in alarms), {})


class Pattern:
    """A choice of fields, such as ``ccd*.temperature``, ``slide.position`` or ``slide``.

    The part before the first dot is a glob for devices (or an alias), the rest one for their fields
    (by default all of them). A target may also have its name in history, ``position.target``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.device, _, field = text.partition(".")
        self.field = field or "*"

    def has_device(self, device: Mapping[str, Any]) -> bool:
        """Return whether it includes a device of ``GET /instrument``."""
        names = device["name"], *device["aliases"]
        return self.device in names or fnmatchcase(device["name"], self.device)

    def fields(self, description: Description) -> Iterator[str]:
        """Yield the names of a device's fields that it includes."""
        for name, declared in description["fields"].items():
            historical = ".".join(declared["path"]).removesuffix(".current")
            if fnmatchcase(name, self.field) or historical == self.field:
                yield name

    def unmatched(
        self, devices: Mapping[str, Mapping[str, Any]], descriptions: Mapping[str, Description]
    ) -> str:
        """Return why no field matches, with names that are alike; empty if one may match.

        The fields of a device without a description are unknown.
        """
        chosen = [name for name, device in devices.items() if self.has_device(device)]
        if not chosen:
            return unknown("device", self.device, devices)
        known = [descriptions[name] for name in chosen if name in descriptions]
        if len(known) < len(chosen) or any(any(self.fields(each)) for each in known):
            return ""
        names = dict.fromkeys(name for each in known for name in each["fields"])
        return f"{' and '.join(chosen[:3])}: {unknown('field', self.field, names)}"


def unknown(kind: str, name: str, names: Mapping[str, Any]) -> str:
    """Return a sentence that there is no device or field of a name, and which there are."""
    there = ", ".join(names) or "none"
    return f"there is no {kind} {name!r}; there are {there}{did_you_mean(name, names)}"
