"""Helpers of several tests: wait for a sample, run a device, set a clock."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from hcam_devices import testing
from hcam_devices.config.instrument import Entry, load
from hcam_devices.core.device import Device
from hcam_devices.journal.points import Point
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from hcam_devices.journal.records import Record
from hcam_devices.testing import (
    AT_MOST,
    FAST,
    Clock,
    complete,
    fed,
    lies,
    living,
    offline,
    online,
    reasons,
    sample_where,
    until,
)

__all__ = [
    "AT_MOST",
    "CONNECTED",
    "ENTRIES",
    "FAST",
    "SIMULATED",
    "Clock",
    "complete",
    "fed",
    "lies",
    "living",
    "offline",
    "online",
    "presented",
    "reasons",
    "sample_where",
    "samples",
    "until",
]

ENTRIES = load().entries
SIMULATED = {
    entry.settings.get("kind", entry.cls.__name__): entry
    for entry in reversed(ENTRIES.values())
    if entry.cls.simulator
}
"""One entry of the default instrument for each class that has a simulator."""


CONNECTED = {
    kind: entry for kind, entry in SIMULATED.items() if testing.keeps_a_connection(entry.cls)
}
"""Those that keep a connection, and so notice its end at once; the others when they next ask."""


@asynccontextmanager
async def presented(
    entry: Entry, simulator: Any, port: int = 0, **settings: Any
) -> AsyncIterator[Device]:
    """Run a device of the instrument with its simulator on a free port."""
    async with testing.presented(entry.build, simulator, port, **settings) as device:
        yield device


def samples(device: str, epoch: str, first: int, last: int) -> SampleRanges:
    """Return samples of one device; none if ``last`` is 0."""
    return SampleRanges([SampleRange(device, epoch, first, last)] * bool(last))


def records(points: Iterable[Point]) -> list[Record]:
    """Return points as stores take them."""
    return [*map(Record.of, points)]
