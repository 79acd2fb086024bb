"""Descriptions and newest samples of many devices in one answer: ``hipercam.<server>.rpc.devices``.

Large parts of the descriptions of like devices are equal, such as the procedures. An answer has
each of them once, and a process keeps each of them once. This module imports little, because
``hcam get`` uses it, too.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .reading import Description

MAX_DEVICES = 50
"""Ask a server for at most this many devices at once, so that it answers others meanwhile."""
SHARED = "fields", "procedures", "axes"

_parts: dict[str, Any] = {}


def shared(part: Any) -> Any:
    """Return the part of a description that this process keeps, equal to ``part``."""
    return _parts.setdefault(json.dumps(part), part)


def packed(found: Iterable[tuple[Description, Any]]) -> dict[str, Any]:
    """Return the answer: for each device its description and its newest sample, if it has one."""
    places: dict[int, int] = {}
    parts: list[Any] = []
    devices = []
    for description, sample in found:
        short = dict(description)
        for name in SHARED:
            part = description[name]
            short[name] = places.setdefault(id(part), len(parts))
            if short[name] == len(parts):
                parts.append(part)
        devices.append([short, sample])
    return {"parts": parts, "devices": devices}


def unpacked(answer: Mapping[str, Any]) -> dict[str, tuple[Description, Any]]:
    """Return the description and the newest sample (or None) of each device in an answer."""
    parts = [shared(part) for part in answer["parts"]]
    return {
        short["device"]: (short | {name: parts[short[name]] for name in SHARED}, sample)
        for short, sample in answer["devices"]
    }


def questions(devices: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield each server with names of its devices, at most ``MAX_DEVICES`` at once.

    ``devices`` are some of ``GET /instrument``.
    """
    names: dict[str, list[str]] = {}
    for device in devices:
        names.setdefault(device["server"], []).append(device["name"])
    for server, all_names in names.items():
        for first in range(0, len(all_names), MAX_DEVICES):
            yield server, all_names[first : first + MAX_DEVICES]
