"""How a motion ends: what a sample says of an axis after the command was answered.

A command answers before its motion is in the telemetry, so only later samples count.
"""

from collections.abc import Mapping
from typing import Any

from .. import HcamError
from .reading import value_and_unit


class NotArrivedError(HcamError):
    """The motion has ended elsewhere, or the device is offline; the text says where and why."""


def is_later(sample: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Return whether a device published a sample after another one."""
    numbers = sample["seq"], before["seq"]
    if None in numbers or sample["epoch"] != before["epoch"]:  # the journal is broken or new
        return bool((sample["timestamp"] or "") > (before["timestamp"] or ""))
    return bool(numbers[0] > numbers[1])


def progress(sample: Mapping[str, Any], axis: str, declared: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether an axis has arrived, and its state and position as text.

    ``declared`` is the axis in the description of the device. Raises NotArrivedError if the axis
    neither moves nor has arrived, or if the device is offline.
    """
    if sample["state"]["connection"] != "online":
        why = _reasons(sample, "connection") or "offline"
        raise NotArrivedError(f"{sample['device']} is offline ({why}): the motion may go on")
    state = sample["state"].get(axis)
    text = f"{axis} is {state}{_place(sample, declared)}"
    if state in declared["arrived"]:
        return True, text
    if state not in declared["busy"]:
        why = _reasons(sample, axis, declared["readback"], declared["setpoint"])
        raise NotArrivedError(
            f"{axis} did not arrive: it{text.removeprefix(axis)}{why and f' ({why})'}; "
            "check it before you repeat the command"
        )
    return False, text


def _place(sample: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    pair = sample.get(declared["readback"])
    if not isinstance(pair, dict):
        return ""
    (current, unit), (target, _) = map(value_and_unit, (pair["current"], pair["target"]))
    if current is None:
        return ""
    goal = "" if target is None else f" (target {target:.2f})"
    return f" at {current:.2f} {unit}".rstrip() + goal


def _reasons(sample: Mapping[str, Any], *fields: str | None) -> str:
    return "; ".join(alarm["reason"] for alarm in sample["alarms"] if alarm["field"] in fields)
