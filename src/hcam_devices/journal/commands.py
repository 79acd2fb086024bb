"""Records of commands: who did what to a device, when, why and with what result.

The commands of a device are a stream of their own in the journal of its server, ``slide.command``:
numbered, fetched, stored and audited like the samples of a device. The name of a device has no dot.
"""

import json
from typing import Any

from .points import Point, timestamp_of

ENDING = ".command"


def commands_of(device: str) -> str:
    """Return the name of the stream of a device's commands."""
    return f"{device}{ENDING}"


def is_commands(stream: str) -> bool:
    """Return whether a stream has commands, and not the samples of a device."""
    return stream.endswith(ENDING)


def device_of(stream: str) -> str:
    """Return the device of a stream of commands, or of samples."""
    return stream.removesuffix(ENDING)


def record_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as ``Journal.append`` takes it: lists and objects as JSON.

    Callers choose the names of arguments, and a store has a column for each name.
    """
    texts = {name: json.dumps(event[name]) for name in ("args", "kwargs", "before")}
    same = {name: event[name] for name in ("who", "role", "what", "why", "error")}
    header = {"device": commands_of(event["device"]), "timestamp": event["time"]}
    return header | same | texts | {"sample": event["seq"]}


def event_of(point: Point) -> dict[str, Any]:
    """Return the event of a stored record."""
    values = point.values
    sample = values.get("sample")
    return {
        "device": device_of(point.device),
        "time": timestamp_of(point.time),
        **{name: values.get(name) for name in ("who", "role", "what")},
        "args": _parsed(values.get("args"), []),
        "kwargs": _parsed(values.get("kwargs"), {}),
        "why": values.get("why"),
        "before": _parsed(values.get("before"), {}),
        "error": values.get("error"),
        "seq": None if sample is None else int(float(sample)),
    }


def _parsed(text: object, empty: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else empty
