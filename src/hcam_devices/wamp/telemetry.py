"""Hears every device: the newest sample and the description of each, calls, and streams.

The session with the router is made again whenever it is lost. A device is known from its
description, which its server is asked for after each start.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from autobahn.exception import PayloadExceededError
from autobahn.wamp.exception import ApplicationError, SerializationError, TransportLost
from autobahn.wamp.exception import Error as AutobahnError
from autobahn.wamp.types import EventDetails, SubscribeOptions

from ..errors import (
    InvalidArgumentError,
    NoSuchProcedureError,
    OutcomeUnknownError,
    RefusedError,
    RouterError,
    WampError,
    from_uri,
    refusal,
)
from ..host.threads import in_own_thread
from . import uris
from .access import own_key, read_key
from .described import questions, unpacked
from .motion import is_later, progress
from .overview import devices
from .reading import Description
from .session import JOIN_WITHIN, Session, join, keep_joined
from .stream import BUFFER, Sample, Stream, is_testament
from .uris import Address
from .utils import PRESENT_WITHIN, TIMEOUT, unreachable

log = logging.getLogger(__name__)

MAX_AT_ONCE = 50
"""Ask at most this many servers or devices at once for descriptions."""
MAX_SILENCE_S = 30.0
"""Stop waiting for a motion after its device was not heard for this long."""


class Telemetry:
    """What the devices say. Its methods are called in the thread of its loop.

    ``devices``: those of the instrument file, in order, as ``GET /instrument`` has them;
    ``descriptions`` and ``newest`` (samples): of the devices whose server is, or was, running.
    ``described`` is called with the name of a device when its description has changed.
    """

    def __init__(
        self,
        where: Address,
        key_file: Path | None = None,
        described: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.where, self._key_file, self._described = where, key_file, described
        self.session: Session | None = None
        self.devices: dict[str, dict[str, Any]] = {}
        self.descriptions: dict[str, Description] = {}
        self.newest: dict[str, Sample] = {}
        self._first: dict[str, Sample] = {}
        """The first sample of each device that was heard before its description."""
        self._unheard: dict[str, str] = {}
        """Why a device could not be asked."""
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._streams: list[Stream] = []
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._news = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    # --- the session ------------------------------------------------------------------------

    async def open(self) -> None:
        """Join the router and ask for every device.

        Raises RouterError if it cannot be reached, NotAuthorizedError if it refuses, AccessError if
        the key cannot be used.
        """
        try:
            async with AsyncExitStack() as stack:
                session = await stack.enter_async_context(join(self.where, key_file=self._key_file))
                await self._joined(session)
                self._keeping = asyncio.create_task(self._keep(stack.pop_all(), session))
        except RouterError:
            raise
        except (OSError, AutobahnError) as error:
            raise RouterError(unreachable(self.where, error, JOIN_WITHIN)) from None

    async def _keep(self, stack: AsyncExitStack, session: Session) -> None:
        async with stack:
            log.debug("the session is over: %s", await session.over)
        await keep_joined(self.where, self._joined, key_file=self._key_file)

    async def close(self) -> None:
        """Leave the router; all streams end."""
        for stream in self._streams:
            stream.close()
        tasks = [*self._looking.values(), *([self._keeping] if self._keeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lost()

    async def _joined(self, session: Session) -> None:
        """Hear everything, then ask for every device: what was missed is in its newest sample."""
        await asyncio.gather(
            session.subscribe(
                self._hear,
                uris.ALL_TELEMETRY,
                SubscribeOptions(match="wildcard", details_arg="_event"),
            ),
            session.subscribe(
                self._hear_status, uris.ALL_STATUS, SubscribeOptions(match="wildcard")
            ),
        )
        session.over.add_done_callback(lambda _: self._lost())
        key = read_key(self._key_file) if self._key_file else own_key()
        self.devices = await in_own_thread(devices, self.where, key)
        self.session = session
        await asyncio.gather(*self._look(self.devices))

    def _lost(self) -> None:
        self.session = None
        self.newest.clear()  # it may be old before the next session
        self._news.set()

    def require_session(self) -> Session:
        """Return the session; RouterError if there is none."""
        if self.session is None or not self.session.is_attached():
            raise RouterError(
                f"there is no connection with the router at {self.where}; it is made again as soon "
                "as the router answers"
            )
        return self.session

    # --- what is heard ----------------------------------------------------------------------

    def _hear_status(self, event: Any = None, *_: Any, **__: Any) -> None:
        """Ask the devices of a server that was started: it may describe them in another way."""
        if isinstance(event, dict) and event.get("state") == "running":
            server = event.get("server")
            self._look(name for name, one in self.devices.items() if one["server"] == server)

    def _hear(self, sample: Any = None, *_: Any, _event: EventDetails, **__: Any) -> None:
        name = uris.device_of(_event.topic or "")
        if name in self.devices and _is_sample(sample, name):
            self._take(name, sample)

    def _take(self, name: str, sample: Sample) -> None:
        self.newest[name] = sample
        self._news.set()
        if name in self.descriptions:
            for stream in self._streams:
                stream.hear(sample)
        elif not is_testament(sample):
            self._first.setdefault(name, sample)
            self._look([name])

    def _look(self, names: Iterable[str]) -> list[asyncio.Task[None]]:
        """Ask for the descriptions and newest samples of devices that are not being asked."""
        asked = [self.devices[name] for name in names if name not in self._looking]
        tasks = []
        for server, group in questions(asked):
            task = asyncio.create_task(self._ask(server, group))
            self._looking |= dict.fromkeys(group, task)
            task.add_done_callback(partial(self._looked, group))
            tasks.append(task)
        return tasks

    def _looked(self, names: list[str], _: object) -> None:
        for name in names:
            del self._looking[name]

    async def _ask(self, server: str, names: list[str]) -> None:
        """Ask a server for some of its devices; ask one by one what it does not tell."""
        before = {name: self.newest.get(name) for name in names}
        found: dict[str, tuple[Description, Any]] = {}
        try:
            async with self._at_once:
                answer = await self.call(server, "devices", names, within=PRESENT_WITHIN)
            found = unpacked(answer)
        except OutcomeUnknownError as error:
            self._unheard |= dict.fromkeys(names, str(error))
            return
        except WampError as error:
            log.debug("the devices of %s are asked one by one: %s", server, error)
        for name in names:
            if name in found:
                self._told(name, *found[name], before[name])
        await asyncio.gather(*(self._ask_one(name) for name in names if name not in found))

    async def _ask_one(self, name: str) -> None:
        before = self.newest.get(name)
        try:
            async with self._at_once:
                description = await self.call(name, "describe", within=PRESENT_WITHIN)
                sample = await self.call(name, "telemetry", within=PRESENT_WITHIN)
        except WampError as error:
            self._unheard[name] = str(error)
        else:
            self._told(name, description, sample, before)

    def _told(
        self, name: str, description: Description, sample: Any, before: Sample | None
    ) -> None:
        """Note what was told of a device; ``before`` is its newest sample when it was asked."""
        self._unheard.pop(name, None)
        if description != self.descriptions.get(name):
            self.descriptions[name] = description
            self._described(name)
        if first := self._first.pop(name, None):
            for stream in self._streams:
                stream.hear(first)
        newest = self.newest.get(name)
        if newest is not before:  # it was heard meanwhile
            sample = newest
        if _is_sample(sample, name):
            self._take(name, sample)

    # --- what is asked ----------------------------------------------------------------------

    async def call(
        self,
        device: str,
        procedure: str,
        *args: Any,
        named: Mapping[str, Any] | None = None,
        within: float = TIMEOUT,
    ) -> Any:
        """Call a procedure of a device and return its answer. Raise the WampError that fits.

        After OutcomeUnknownError the command may have been carried out; it is never sent twice.
        """
        what = f"{device}.{procedure}"
        session = self.require_session()
        try:
            async with asyncio.timeout(within):
                answer = await session.call(uris.rpc(device, procedure), *args, **(named or {}))
        except TimeoutError:
            raise OutcomeUnknownError(
                f"{what} has not answered within {within:g} s: look at the telemetry before you "
                "repeat a command"
            ) from None
        except TransportLost:
            raise RouterError(f"{what} was not sent: the connection is lost") from None
        except (SerializationError, PayloadExceededError) as error:
            raise InvalidArgumentError(f"{what}: cannot be sent: {error}") from None
        except ApplicationError as error:
            if error.error == ApplicationError.NO_SUCH_PROCEDURE:
                raise NoSuchProcedureError(f"{what}: {self._not_running(device)}") from None
            text = " ".join(map(str, error.args)) or error.error_message()
            raise from_uri(error.error, text) from None
        if reason := refusal(answer):
            raise RefusedError(reason)
        return answer

    def _not_running(self, device: str) -> str:
        server = self.devices.get(device, {}).get("server", f"the server of {device}")
        return f"{server} is not running (hcam status shows what is)"

    def sample(self, device: str) -> Sample:
        """Return the newest sample of a device.

        Raises RouterError if there is no connection, NoSuchProcedureError if its server is not
        running.
        """
        if sample := self.newest.get(device):
            return sample
        self.require_session()
        reason = self._unheard.get(device, f"{device} has published no sample yet")
        raise NoSuchProcedureError(reason)

    async def page(self, device: str, after: int, limit: int, epoch: str) -> list[Sample]:
        """Return samples from the journal of a device: see ``stream.Journals``."""
        page = await self.call(device, "samples", after, limit, epoch)
        return [sample for sample in page if _is_sample(sample, device)]

    async def epochs(self, device: str) -> list[str]:
        """Return the epochs in the journal of a device, in order."""
        held = await self.call(device, "journal")
        return [epoch["epoch"] for epoch in held["epochs"]]

    async def follow(self, device: str, axis: str) -> Sample:
        """Wait for the end of a motion whose command has just answered; return the last sample.

        Raises NotArrivedError if the axis did not arrive, OutcomeUnknownError if the server has
        died, or nothing was heard of the device for half a minute.
        """
        before, loop = self.newest.get(device), asyncio.get_running_loop()
        declared, until = self.descriptions[device]["axes"][axis], loop.time() + MAX_SILENCE_S
        while True:
            self._news.clear()
            sample = self.newest.get(device)
            if sample and sample is not before:
                if is_testament(sample):
                    raise OutcomeUnknownError(
                        f"{device}: its server has ended, and {axis} may still move"
                    )
                later = before is None or is_later(sample, before)
                if later and progress(sample, axis, declared)[0]:
                    return sample
                before, until = sample, loop.time() + MAX_SILENCE_S
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                raise OutcomeUnknownError(
                    f"{device} was not heard for {MAX_SILENCE_S:g} s: {axis} may still move"
                ) from None

    def stream(self, wants: Callable[[str], bool], size: int = BUFFER) -> Stream:
        """Return a stream of the devices that ``wants`` accepts, the newest sample of each first.

        ``wants`` is asked about devices with a description.
        """
        stream = Stream(self, wants, size)
        self._streams = [one for one in self._streams if not one.closed] + [stream]
        for name in self.devices:
            if name in self.newest and name in self.descriptions:
                stream.hear(self.newest[name])
        return stream


def _is_sample(sample: Any, device: str) -> bool:
    """Return whether a device may have published this: any program may, at an open router."""
    return (
        isinstance(sample, dict)
        and sample.get("device") == device
        and isinstance(sample.get("epoch"), str)
        and type(sample.get("seq", "")) in (int, type(None))
        and type(sample.get("timestamp", 0)) in (str, type(None))
        and isinstance(sample.get("state"), dict)
        and isinstance(sample.get("alarms"), list)
    )
