"""The answer to ``GET /instrument``: the servers and devices, and how to show them.

The live view in the terminal and the panel in the browser both follow it, so they show the same
things in the same words.
"""

from collections import Counter
from importlib.metadata import version
from typing import Any

from ..config.instrument import ALARMS, LOGGER, Entry, Instrument
from ..core.device import Device
from ..core.fields import Readback
from ..names import family
from . import uris

UNITS = {"deg_C": "°C", "l / min": "l/min", "MB / s": "MB/s", "1 / s": "/s"}
"""Units as people read them, where that is not as they are declared."""
EXPOSURE = {
    "state": "system.stateName",
    "activity": "system.subStateName",
    "outcome": "exposure.expStatusName",
    "run": "run",
    "done": "frames_done",
    "expected": "frames_expected",
    "left": "exposure.countDown",
    "time": "exposure.time",
    "clocks": "cldc_0.statusName",
    "sequencer": "seq_0.statusName",
    "rate": "data_rate",
    "disk": "disk_free",
    "file": "exposure.newDataFileName",
}
"""The fields of a run, by what they mean; a device that has them all is a detector."""
EXPOSURE_COMMANDS = ("load_setup", "start", "stop", "abort", "trigger", "pon", "poff")
"""The commands of a detector that people need each night."""
AT_REST = "armed"
"""The state of an interlock that people need not see."""
MIN_HEADS, MAX_HEADS, MIN_HEAD_FIELDS = 3, 12, 4
"""Devices are heads if there are 3 to 12 of a kind, with at least 4 fields. The panel asks the
recorder for the last hour of each head, so there must not be too many."""
MISSED_POLLS, PATIENCE_S = 3, 20.0
"""A device is silent after this many polling periods and this time (s) without a sample."""


def silent_after(device: Device | None) -> float:
    """Return the age (s) of its newest sample at which a device counts as silent."""
    return MISSED_POLLS * (device.poll_every if device else Device.poll_every) + PATIENCE_S


def is_detector(names: Any) -> bool:
    """Return whether a collection of names of fields has those of a detector."""
    return all(name in names for name in EXPOSURE.values())


def group_of(name: str, fields: dict[str, Readback]) -> str:
    """Return the name of the row or card that a device shares with its numbered siblings.

    It is empty unless the device has one value, which its own name says: ``pressures`` for the
    ``pressure`` of ``pressure1``.
    """
    kind = family(name)
    return f"{kind}s" if kind != name and [*fields] == [kind] else ""


def _place(device: Device, siblings: int) -> str:
    """Return where people look for a device: at the heads, the detector, the axes, or a card."""
    if MIN_HEADS <= siblings <= MAX_HEADS and len(device.fields) >= MIN_HEAD_FIELDS:
        return "head"
    if is_detector(device.fields):
        return "detector"
    moved = (axis["readback"] for part in device.parts for axis in part.describe().values())
    return "axes" if any(moved) else "card"


def overview(instrument: Instrument) -> dict[str, Any]:
    """Return the answer to ``GET /instrument``: title, servers, devices, and how to show them.

    Of a device, ``place`` is ``head``, ``detector``, ``axes`` or ``card``; ``group`` names the card
    that it shares with its siblings, or is empty; ``silent_after`` is in seconds.
    """
    entries = instrument.entries.values()
    kinds = Counter(entry.cls.kind() for entry in entries)
    devices = [_presented(entry, kinds[entry.cls.kind()]) for entry in entries]
    common = [
        {"name": "recorder", "kind": "recorder.Recorder", "server": LOGGER, "aliases": ()},
        {"name": "alarms", "kind": "server.Alarms", "server": ALARMS, "aliases": ()},
    ]
    shown = {"place": "card", "group": "", "silent_after": silent_after(None)}
    return {
        "title": instrument.title,
        "version": version("hcam_devices"),
        "realm": uris.REALM,
        "websocket": "/ws",
        "servers": instrument.servers,
        "devices": [*devices, *(one | shown for one in common)],
        "units": UNITS,
        "exposure": EXPOSURE,
        "exposure_commands": EXPOSURE_COMMANDS,
        "at_rest": AT_REST,
    }


def _presented(entry: Entry, siblings: int) -> dict[str, Any]:
    device = entry.build()
    return {
        "name": entry.name,
        "kind": entry.cls.kind(),
        "server": entry.server,
        "aliases": entry.aliases,
        "place": _place(device, siblings),
        "group": group_of(entry.name, device.fields),
        "silent_after": silent_after(device),
    }
