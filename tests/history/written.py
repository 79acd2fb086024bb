"""A store, what is written to it, and its closing."""

from collections.abc import Sequence
from pathlib import Path

from hcam_devices.history.archive import Archive, Span
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import DAY_MS, Field, Point, milliseconds

from ..helpers import Clock, records

NOON = milliseconds("2026-11-22T12:00:00Z")
NOW = NOON + DAY_MS
TODAY = Span(NOON, NOW)
UNITS = {"temperature": "deg_C", "pressure": "mbar"}


class Written:
    """A store, and what has been written to it."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock(NOW / 1000)
        self.store = EmbeddedStore("local", folder, clock=self.clock)
        self.archive = Archive(NightFiles(folder))
        self.closes = False
        """Whether what is written is closed at once."""
        self.seq = 0

    def write(
        self, device: str, every: int, start: int = NOON, **fields: Sequence[Field]
    ) -> list[int]:
        """Write a sample each ``every`` ms; return their times."""
        values = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
        times = [start + n * every for n in range(len(values))]
        points = []
        for at, row in zip(times, values, strict=True):
            self.seq += 1
            named = {name.replace("__", "."): value for name, value in row.items()}
            points.append(Point(device, "a", self.seq, at, named, UNITS))
        self.store.write(records(points))
        if self.closes:
            self.close()
        return times

    def close(self) -> None:
        """Close all nights."""
        for night in self.archive.files.nights():
            self.close_hours(night)

    def close_hours(self, night: str = "") -> None:
        """Close what is due at the time of the clock, or a night."""
        assert self.store.close_nights(night) == []
