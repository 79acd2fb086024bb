"""The devices as items and attributes, for programs with asyncio and without."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from ..errors import RouterError
from ..wamp import uris
from ..wamp.access import own_key, read_key
from ..wamp.background import Background, Subscription
from ..wamp.reading import Description, Pattern, Reading, unknown
from ..wamp.stream import Sample, Stream
from ..wamp.telemetry import Telemetry
from .devices import Call, Device, UnknownNameError, absent_class, class_of

if TYPE_CHECKING:
    from ..journal.ranges import SampleRange


class Core:
    """What both faces share: the devices, and how the network is asked."""

    def __init__(self, address: str | None, key: str | os.PathLike[str] | None) -> None:
        file = Path(key) if key else None
        if address is None and file:
            address = os.environ.get("WAMP_SERVER") or read_key(file).router
        where = uris.Address.parse(address) if address else uris.address(own_key)
        self.telemetry: Telemetry = Telemetry(where, file, self._described)
        self.objects: dict[str, Device] = {}
        self.network: Any = None

    async def open(self) -> None:
        """Join the router; raises as ``Telemetry.open``."""
        await self.telemetry.open()
        for name in self.telemetry.devices:
            if name not in self.objects:
                self.objects[name] = absent_class(name)(name, self.network)

    def _described(self, name: str) -> None:
        kind = class_of(self.telemetry.descriptions[name])
        if name in self.objects:
            object.__setattr__(self.objects[name], "__class__", kind)
        else:
            self.objects[name] = kind(name, self.network)

    def device(self, name: str) -> Device:
        """Return a device by its name or an alias; raise UnknownNameError."""
        devices = self.telemetry.devices
        for device in devices.values():
            if name in (device["name"], *device["aliases"]):
                return self.objects[device["name"]]
        raise UnknownNameError(unknown("device", name, devices))

    async def command(self, call: Call) -> Any:
        """Call a procedure, and wait for the end of its motion if the call has an axis."""
        answer = await self.telemetry.call(
            call.device, call.procedure, *call.args, named=call.named, within=call.timeout
        )
        if not call.axis:
            return answer
        sample = await self.telemetry.follow(call.device, call.axis)
        description = self.telemetry.descriptions[call.device]
        position = description["axes"][call.axis]["readback"]
        return Reading(sample, position, description) if position else answer

    async def stream(self, choice: "Choice", seconds: float | None) -> tuple[Stream, float | None]:
        """Return a stream of what a choice includes, and the loop's time when it ends."""
        until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        return self.telemetry.stream(choice.wants), until


class Choice:
    """The fields that patterns include, and the readings of them in a sample."""

    def __init__(self, telemetry: "Telemetry", patterns: Iterable[str]) -> None:
        self._telemetry = telemetry
        self._patterns = [Pattern(text) for text in patterns]
        self._fields: dict[str, tuple[Any, list[str]]] = {}
        """The description of each device, and its fields that are included."""
        for pattern in self._patterns:
            if why := pattern.unmatched(telemetry.devices, telemetry.descriptions):
                raise UnknownNameError(why)

    def wants(self, device: str) -> bool:
        """Return whether it includes a field of a described device."""
        return bool(self._of(device)[1])

    def _of(self, device: str) -> tuple[Any, list[str]]:
        description = self._telemetry.descriptions[device]
        known = self._fields.get(device)
        if known is None or known[0] is not description:
            entry = self._telemetry.devices[device]
            chosen = [pattern for pattern in self._patterns if pattern.has_device(entry)]
            fields = dict.fromkeys(name for each in chosen for name in each.fields(description))
            known = self._fields[device] = description, list(fields)
        return known

    def readings(self, sample: Sample) -> Iterator[Reading]:
        """Yield the readings in a sample."""
        description, fields = self._of(sample["device"])
        for field in fields:
            yield Reading(sample, field, description)


class _Instrument:
    """The devices as items and attributes."""

    def __init__(self, core: Core) -> None:
        vars(self)["_core"] = core
        for name, device in core.objects.items():
            if not hasattr(type(self), name):
                vars(self)[name] = device

    def __getitem__(self, name: str) -> Device:
        return self._core.device(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._core.telemetry.devices)

    def descriptions(self) -> dict[str, Description]:
        """Return what ``describe`` says of each device whose server has been running, in order."""
        known = self._core.telemetry.descriptions
        return {name: known[name] for name in self if name in known}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"nothing is set by assignment: {name} = {value!r}")

    def __repr__(self) -> str:
        return f"<the instrument at {self._core.telemetry.where}: {', '.join(self)}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    _core: Core
    if TYPE_CHECKING:  # without the stubs of this instrument (hcam stubs), any name may be right

        def __getattr__(self, name: str) -> Any: ...


class Instrument(_Instrument):
    """The devices of the instrument, for programs that do not use asyncio."""

    _background: Background

    def __init__(self, core: Core, background: Background) -> None:
        super().__init__(core)
        vars(self)["_background"] = background

    def subscribe(
        self,
        *patterns: str,
        seconds: float | None = None,
        callback: Callable[[Reading], Any] | None = None,
    ) -> Subscription[Reading]:
        """Return an iterator over readings: the newest known of each field, then every sample.

        A pattern is ``ccd*.temperature``, ``slide.position`` or ``slide``. No sample is lost,
        doubled or out of order, also if the router or a server is restarted meanwhile, or the
        caller is slow. It ends after ``seconds``. A ``callback`` is called with each reading in a
        thread of its own, and may command. Raises UnknownNameError if nothing matches.
        """
        choice = Choice(self._core.telemetry, patterns)
        run = self._background.run
        stream, until = run(self._core.stream(choice, seconds))
        subscription = Subscription(run, stream, choice.readings, until)
        if callback:
            subscription.call(callback)
        return subscription

    def close(self) -> None:
        """Leave the router. Subscriptions end."""
        try:
            self._background.run(self._core.telemetry.close())
        except RouterError:
            return  # closed already, or the parent of this process has it
        self._background.close()

    def __enter__(self) -> "Instrument":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncInstrument(_Instrument):
    """The devices of the instrument, in asyncio: ``set``, ``call`` and commands are awaited."""

    def subscribe(self, *patterns: str, seconds: float | None = None) -> "AsyncSubscription":
        """Return an asynchronous iterator over readings; see ``Instrument.subscribe``."""
        choice = Choice(self._core.telemetry, patterns)
        until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        return AsyncSubscription(self._core.telemetry.stream(choice.wants), choice, until)

    async def close(self) -> None:
        """Leave the router. Subscriptions end."""
        await self._core.telemetry.close()


class AsyncSubscription:
    """An asynchronous iterator over readings."""

    def __init__(self, stream: Stream, choice: Choice, until: float | None) -> None:
        self._stream, self._choice, self._until = stream, choice, until
        self._ready: deque[Reading] = deque()
        loop = asyncio.get_running_loop()
        self._end = finalize(
            self, lambda: loop.is_closed() or loop.call_soon_threadsafe(stream.close)
        )
        self._end.atexit = False

    @property
    def lost(self) -> "list[SampleRange]":
        """Ranges of samples that were missed and are in no journal any more."""
        return self._stream.lost

    def __aiter__(self) -> AsyncIterator[Reading]:
        return self

    async def __anext__(self) -> Reading:
        while not self._ready:
            samples = await self._stream.take(self._until)
            if not samples:
                self.close()
                raise StopAsyncIteration
            for sample in samples:
                self._ready.extend(self._choice.readings(sample))
        return self._ready.popleft()

    def close(self) -> None:
        """End it."""
        self._stream.close()


class Network:
    """A device's way to the network: the function ``run`` makes the face."""

    def __init__(
        self, core: Core, run: Callable[[Any], Any], require: Callable[[], None] = lambda: None
    ) -> None:
        self._core, self._run, self._require = core, run, require

    def sample(self, device: str) -> Sample:
        """Return the newest sample of a device."""
        self._require()
        return self._core.telemetry.sample(device)

    def command(self, call: Call) -> Any:
        """Call a procedure: return the answer, or an awaitable of it."""
        try:
            return self._run(self._core.command(call))
        except KeyboardInterrupt as error:
            if call.axis:
                error.add_note(f"{call.device}: the motion of {call.axis} goes on")
            raise
