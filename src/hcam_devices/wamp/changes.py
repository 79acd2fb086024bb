"""One event each half second with all that changed in the samples of a server of many devices.

A viewer of a thousand devices subscribes to these events instead of each device's telemetry.
"""

import asyncio
from typing import Any

from autobahn.exception import PayloadExceededError
from autobahn.wamp.exception import TransportLost

from ..core.device import Sample
from . import uris
from .session import Session

PERIOD_S = 0.5
MIN_DEVICES = 51
"""A server of fewer devices publishes no such events, so that it wakes less often."""
OMITTED = {"device", "seq", "epoch"}
"""The entries of a sample that no such event has."""


class ServerChanges:
    """What changed in the samples of one server, published in its ``session``."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.session: Session | None = None
        self._newest: dict[str, Sample] = {}
        self._changed: dict[str, dict[str, Any]] = {}

    def begin(self, session: Session) -> None:
        """Publish in a new session; each device's first sample there is repeated as a whole."""
        self.session = session
        self._newest.clear()
        self._changed.clear()

    def note(self, sample: Sample) -> None:
        """Note what changed since the device's last sample, which was published before."""
        name = sample["device"]
        before = self._newest.get(name, {})
        self._newest[name] = sample
        self._changed.setdefault(name, {}).update(
            (entry, value)
            for entry, value in sample.items()
            if entry not in OMITTED and (entry not in before or before[entry] != value)
        )

    async def run(self) -> None:
        """Publish what changed every PERIOD_S, for ever."""
        while True:
            await asyncio.sleep(PERIOD_S)
            if self.session and self.session.is_attached() and self._changed:
                changed, self._changed = self._changed, {}
                self._publish(self.session, changed)

    def _publish(self, session: Session, devices: dict[str, dict[str, Any]]) -> None:
        """Publish entries of samples, in several events if one would be too large."""
        event = {"server": self.server, "devices": devices}
        try:
            session.publish(uris.changes(self.server), event)
        except PayloadExceededError:
            names = [*devices]
            half = len(names) // 2
            for part in (names[:half], names[half:]) if half else ():
                self._publish(session, {name: devices[name] for name in part})
        except TransportLost:
            pass  # the next session begins with whole samples
