"""Recordings of the traffic on a wire.

A recording is what ``hcam wire DEVICE --record FILE`` writes, a JSON object a line:

    {"time": "2026-11-22T04:44:44.196Z", "direction": ">", "hex": "40 30 ...", "meaning": "PR1"}

A simulator that plays one (``Simulator.play``) answers as the hardware did.
"""

import json
from pathlib import Path
from typing import Any

from .. import HcamError


def read(path: Path) -> list[tuple[str, bytes]]:
    """Return the directions and bytes of a recording. Raises HcamError, with the bad line."""
    passed = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HcamError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            passed.append((str(event["direction"]), bytes.fromhex(event["hex"])))
        except (ValueError, KeyError, TypeError):
            raise HcamError(f"{path}:{number}: not a line of a recording: {line[:60]!r}") from None
    return passed


def record(event: dict[str, Any]) -> str:
    """Return an event of the wire as a line of a recording."""
    kept = ("time", "direction", "hex", "meaning")
    return json.dumps({key: event[key] for key in kept})
