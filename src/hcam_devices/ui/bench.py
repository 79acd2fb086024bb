"""The emulated instrument as ``hcam drill`` uses it: telemetry, alarms, simulators and wires."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal, TypeAlias

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import SubscribeOptions

from .. import HcamError
from ..alarms.chart import S as AlarmState
from ..config.instrument import ALARMS, Instrument
from ..core.condition import Act, Condition
from ..core.device import Device, Sample
from ..wamp import uris
from ..wamp.session import Session
from .samples import is_telemetry

Side: TypeAlias = Literal["above", "below", "alarm"]
Controls: TypeAlias = dict[str, dict[str, Any]]
"""Values of simulated hardware, by device and control."""

ASK_WITHIN_S = 10.0
"""The deadline of a call."""
LIST_PERIOD_S, LIST_WITHIN_S = 0.5, 2.0
"""Ask for the alarms this often, and wait this long for the answer."""


class Bench:
    """The instrument as the drill sees it: its telemetry, alarms, simulators and wires."""

    def __init__(self, instrument: Instrument, session: Session) -> None:
        self.instrument, self._session = instrument, session
        self.devices = {name: entry.build() for name, entry in instrument.entries.items()}
        self.samples: dict[str, Sample] = {name: {} for name in self.devices}
        self.records: dict[str, Mapping[str, Any]] = {}
        """The alarms that are not normal, by name, as hwalarm listed them last."""
        self._wires: dict[str, list[bytes]] = {}
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Hear the devices. Raises HcamError unless every server is there, and emulated."""
        servers = {entry.server for entry in self.instrument.entries.values()}
        for server in (*sorted(servers), ALARMS):
            try:
                about = await self.call(server, "about")
            except ApplicationError:
                raise HcamError(
                    f"{server} does not run: hcam up --emulate starts an instrument for a drill"
                ) from None
            if about.get("emulated") is not True and server != ALARMS:
                raise HcamError(
                    f"{server} drives real hardware: hcam drill is only for an instrument whose "
                    "servers are all emulated"
                )
        await self._session.subscribe(
            self._hear, uris.ALL_TELEMETRY, SubscribeOptions(match="wildcard")
        )
        for name in self.devices:
            self._hear(await self.call(name, "telemetry"))
        self._note_alarms(await self.call("alarms", "list"))

    def _hear(self, sample: Any, *_: Any, **__: Any) -> None:
        if is_telemetry(sample):
            self.samples[sample["device"]] = sample
            self._news.set()

    async def call(self, device: str, procedure: str, *args: Any, **kwargs: Any) -> Any:
        """Call a procedure. Raises ApplicationError, or HcamError if there is no answer."""
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                return await self._session.call(uris.rpc(device, procedure), *args, **kwargs)
        except TimeoutError:
            raise HcamError(f"{device}.{procedure}: no answer in {ASK_WITHIN_S:g} s") from None

    async def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition is true, looking at each sample; return whether it was in time."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def wait(self, device: str, wanted: Callable[[Sample], bool], seconds: float) -> bool:
        """Wait until the newest sample of a device is wanted; return whether it was in time."""
        return await self.until(lambda: wanted(self.samples[device]), seconds)

    # --- alarms -----------------------------------------------------------------------------

    async def follow_alarms(self) -> None:
        """Ask for the alarms, for ever. While hwalarm does not answer, they are as they were."""
        while True:
            await asyncio.sleep(LIST_PERIOD_S)
            with suppress(ApplicationError, TimeoutError):
                async with asyncio.timeout(LIST_WITHIN_S):
                    self._note_alarms(await self._session.call(uris.rpc("alarms", "list")))

    def _note_alarms(self, records: Iterable[Mapping[str, Any]]) -> None:
        self.records = {record["alarm"]: record for record in records}
        self._news.set()

    def is_in(self, alarm: str, *states: AlarmState) -> bool:
        """Return whether an alarm is in one of some states."""
        return self.records.get(alarm, {"state": AlarmState.NORMAL})["state"] in states

    async def acknowledge(self, alarm: str, seconds: float) -> bool:
        """Acknowledge an alarm unless somebody has; return whether that was done in time."""
        try:
            async with asyncio.timeout(seconds):
                while self.is_in(alarm, AlarmState.ACTIVE, AlarmState.RETURNED):
                    occurrence = self.records[alarm]["occurrence"]
                    with suppress(ApplicationError):  # hwalarm is away, or it has come again
                        await self.call("alarms", "acknowledge", alarm, occurrence, "drill")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def alarmed(self, device: str, name: str, text: str, seconds: float) -> bool:
        """Wait for an error whose reason contains a text; return whether it came in time."""
        return await self.wait(device, lambda _: text in self.error(device, name), seconds)

    async def became(self, device: str, name: str, states: Collection[str], seconds: float) -> bool:
        """Wait until a machine is in one of some states; return whether it was in time."""
        return await self.wait(device, lambda _: self.state(device, name) in states, seconds)

    async def judged(self, condition: Condition, met: Collection[bool], seconds: float) -> bool:
        """Wait until a condition is known to be one of ``met``; return whether it was in time."""

        def wanted(_: Sample) -> bool:
            value = self.value(condition)
            return value is not None and condition.is_met(value) in met

        return await self.wait(condition.device, wanted, seconds)

    def value(self, condition: Condition) -> float | None:
        """Return the newest value of a condition, or None."""
        value: Any = self.samples[condition.device]
        for key in (*condition.path, *(("value",) if condition.unit else ())):
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, int | float) else None

    def error(self, device: str, name: str) -> str:
        """Return the reasons of the errors about a field or machine; empty if there are none."""
        alarms = self.samples[device].get("alarms") or ()
        found = [one for one in alarms if (one["field"], one["severity"]) == (name, "ERR")]
        return "; ".join(one["reason"] for one in found)

    def state(self, device: str, name: str) -> str:
        """Return the state of a machine, such as an interlock or the connection."""
        return str((self.samples[device].get("state") or {}).get(name))

    def polls(self, *devices: str) -> float:
        """Return the longest time between two polls of some devices, in s."""
        return max(self.devices[name].poll_every for name in devices)

    # --- simulators -------------------------------------------------------------------------

    def drive(self, device: str, name: str, side: Side) -> Controls | None:
        """Return the controls that bring a field above or below its limits; None if none can.

        With ``alarm`` they bring about an alarm that is about no limit.
        """
        simulator = self._simulator(device)
        controls = simulator and simulator.beyond.get(name.rstrip("0123456789"), {}).get(side)
        return {device: dict(controls)} if controls else None

    def is_simulated(self, device: str) -> bool:
        """Return whether a device has simulated hardware, which can be unplugged."""
        return self._simulator(device) is not None

    def _simulator(self, device: str) -> Any:
        entry = self.instrument.entries.get(device)
        made = entry and entry.cls.simulator
        return made and made.func

    @asynccontextmanager
    async def driven(self, controls: Controls) -> AsyncIterator[None]:
        """Set controls of simulators, and set them back at the end."""
        async with AsyncExitStack() as stack:
            for device, values in controls.items():
                before = (await self.call(device, "simulate"))["values"]
                former = {name: before[name] for name in values}
                stack.push_async_callback(self.call, device, "simulate", "set", **former)
                await self.call(device, "simulate", "set", **values)
            yield

    @asynccontextmanager
    async def unplugged(self, *devices: str) -> AsyncIterator[None]:
        """Let the hardware of devices be out of reach."""
        async with AsyncExitStack() as stack:
            for device in devices:
                stack.push_async_callback(self.call, device, "simulate", "clear")
                await self.call(device, "simulate", self._simulator(device).unplugged)
            yield

    # --- wires ------------------------------------------------------------------------------

    async def trace(self, device: str, seconds: float) -> None:
        """Collect what a device sends to its hardware."""
        if device not in self._wires:
            self._wires[device] = []
            await self._session.subscribe(self._hear_wire, uris.wire(device))
        self._wires[device].clear()
        await self.call(device, "wire", seconds)

    def _hear_wire(self, event: dict[str, Any]) -> None:
        if event["direction"] == ">":
            self._wires[event["device"]].append(bytes.fromhex(event["hex"]))

    def sent(self, act: Act) -> int:
        """Return how often an act was sent since the beginning of the trace."""
        device, number = self._setting(act)
        simulator = self.instrument.entries[act.device].cls.simulator()

        def frames(data: Iterable[bytes]) -> Iterator[bytes]:
            for one in data:
                buffer = bytearray(one)
                while (frame := simulator.cut(buffer)) is not None:
                    yield simulator.constant(frame)

        (wanted,) = frames([device.codec.request(device.fields[act.setpoint].ref, number)])
        return sum(frame == wanted for frame in frames(self._wires[act.device]))

    def _setting(self, act: Act) -> tuple[Device, float]:
        device = self.devices[act.device]
        (number,) = [
            n for n, word in device.settable(act.setpoint).words.items() if word == act.word
        ]
        return device, number

    async def read_back(self, act: Act) -> str:
        """Ask the simulated hardware itself, with raw bytes, for the word of a setpoint."""
        device, _ = self._setting(act)
        setpoint = device.settable(act.setpoint)
        request = device.codec.request(setpoint.ref)
        said = await self.call(act.device, "exchange", request.hex(), 0.5, confirm=True)
        frame = device.codec.cut(bytearray.fromhex(said))
        return str(setpoint.kind(device.codec.reply(request, frame)))
