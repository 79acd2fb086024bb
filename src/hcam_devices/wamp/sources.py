"""Devices of other servers that this server's views show, heard through the router.

A sample is believed if the session that published it has registered the device's name. That
session's testament is believed, too, even if it arrives after the name was freed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import EventDetails, SubscribeOptions
from pydantic import BaseModel, ValidationError

from ..config.instrument import Entry
from ..core.device import Sample
from ..core.fields import Value
from ..core.part import Severity
from ..names import shorten
from . import uris
from .owner import Owners
from .peers import call_device
from .session import Session
from .stream import is_testament

log = logging.getLogger(__name__)


class _Alarm(BaseModel):
    field: str
    severity: Severity
    reason: str


class _State(BaseModel):
    connection: str


class _Header(BaseModel):
    """The part of a sample that every view uses, whatever its fields."""

    device: str
    epoch: str
    seq: int | None
    timestamp: str | None
    state: _State
    alarms: list[_Alarm]


class RemoteSource:
    """A device of another server. It implements ``core.device.Source``."""

    def __init__(self, entry: Entry, session: Callable[[], Session | None]) -> None:
        self.name = entry.name
        self.listeners: list[Callable[[Sample], None]] = []
        self._declared, self._session = entry.build(), session
        self._newest: tuple[str, int] | None = None
        self._unreadable = ""

    def nested(self) -> dict[str, str]:
        """Map each readback to the setpoint in the same value of the telemetry."""
        return self._declared.nested()

    async def set(self, name: str, value: object) -> Value:
        """Set a setpoint there, read the next telemetry, and return the accepted value.

        Raises as ``core.device.CallPeer``.
        """
        session = self._session()
        accepted: Value = await call_device(session, self.name, f"set_{name}", value)
        self.hear(await call_device(session, self.name, "telemetry"))
        return accepted

    def hear(self, sample: Any) -> None:
        """Pass a sample to every listener, unless it repeats the last one."""
        try:
            header = _Header.model_validate(sample)
            if header.device != self.name:
                raise ValueError(f"it is of {shorten(header.device)}")
        except ValueError as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
            if reason != self._unreadable:
                self._unreadable = reason
                log.error("telemetry of %s cannot be read: %s", self.name, reason)
            return
        self._unreadable = ""
        if header.seq is not None:
            if self._newest == (header.epoch, header.seq):
                return
            self._newest = header.epoch, header.seq
        for listener in self.listeners:
            try:
                listener(sample)
            except Exception:  # a bug of one view must not stop the others
                log.exception("a view failed to process a sample of %s", self.name)


class RemoteSources:
    """Devices of other servers that a server's views show, by name in ``devices``."""

    def __init__(self, entries: Iterable[Entry], *, retained: bool = False) -> None:
        self._retained = retained
        self.devices = {entry.name: RemoteSource(entry, self._joined) for entry in entries}
        self._owners = Owners()
        self._session: Session | None = None
        self._believed: dict[str, int] = {}
        """The session of each device's last believed sample."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._warned: set[str] = set()

    def _joined(self) -> Session | None:
        return self._session

    async def follow(self, session: Session) -> None:
        """Hear the devices through a session. Raise autobahn's errors."""
        if not self.devices:
            return
        self._session = session
        await self._owners.follow(session)
        for name in self.devices:
            await session.subscribe(
                partial(self.hear, name),
                uris.telemetry(name),
                SubscribeOptions(details_arg="_event", get_retained=self._retained),
            )

    def hear(self, name: str, sample: Any = None, *_: Any, _event: EventDetails, **__: Any) -> None:
        """Handle an event from any publisher under a device's topic."""
        publisher = _event.publisher
        if publisher is not None and publisher == self._owners.known.get(name):
            self._believe(name, publisher, sample)
        elif is_testament(sample):
            if publisher == self._believed.get(name):
                self.devices[name].hear(sample)
        elif name in self._owners.known:
            self._disbelieve(name, publisher)
        elif name not in self._asking:  # events before the answer are left out
            asking = asyncio.create_task(self._ask(name, publisher, sample))
            self._asking[name] = asking
            asking.add_done_callback(lambda _: self._asking.pop(name))

    async def _ask(self, name: str, publisher: int | None, sample: Any) -> None:
        try:
            owner = await self._owners.owner(name)
        except (WampError, OSError) as error:
            log.debug("it is not known who owns %s: %r", name, error)
            return
        if publisher is not None and publisher == owner:
            self._believe(name, publisher, sample)
        else:
            self._disbelieve(name, publisher)

    def _believe(self, name: str, publisher: int, sample: Any) -> None:
        self._believed[name] = publisher
        self._warned.discard(name)
        self.devices[name].hear(sample)

    def _disbelieve(self, name: str, publisher: int | None) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning(
                "telemetry of %s by session %s is not shown: another server has this name",
                name,
                publisher,
            )
