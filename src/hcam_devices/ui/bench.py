"""The emulated instrument as ``hcam drill`` uses it: telemetry, alarms, simulators and wires."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeAlias

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import SubscribeOptions

from .. import HcamError
from ..alarms.chart import S as AlarmState
from ..alarms.rules import CONNECTION
from ..config.instrument import ALARMS, Instrument
from ..core.condition import Act, Condition
from ..core.device import Device, Sample
from ..core.sim import Rehearsal
from ..wamp import uris
from ..wamp.session import Session
from .samples import is_telemetry

Side: TypeAlias = Literal["above", "below", "alarm"]
Controls: TypeAlias = dict[str, dict[str, Any]]
"""Values of simulated hardware, by device and control."""

ASK_WITHIN_S = 10.0
"""The deadline of a call."""
COMMAND_WITHIN_S, REST_WITHIN_S = 30.0, 60.0
"""The time of one command of a rehearsal, and of the motions that it begins."""
LIST_PERIOD_S, LIST_WITHIN_S = 0.5, 2.0
"""Ask for the alarms this often, and wait this long for the answer."""


def without_channel(name: str) -> str:
    """Return the name of a field without the number of its channel."""
    return name.rstrip("0123456789")


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

    @property
    def servers(self) -> list[str]:
        """The servers of the instrument, which are emulated."""
        return sorted({entry.server for entry in self.instrument.entries.values()})

    async def begin(self) -> None:
        """Hear the devices. Raises HcamError unless every server is there, and emulated."""
        for server in (*self.servers, ALARMS):
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

    async def call(
        self, device: str, procedure: str, *args: Any, within: float = ASK_WITHIN_S, **kwargs: Any
    ) -> Any:
        """Call a procedure. Raises ApplicationError, or HcamError if there is no answer."""
        try:
            async with asyncio.timeout(within):
                return await self._session.call(uris.rpc(device, procedure), *args, **kwargs)
        except TimeoutError:
            raise HcamError(f"{device}.{procedure}: no answer in {within:g} s") from None

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

    def why_unseen(self, alarm: str) -> str:
        """Return why people do not see an alarm: what hides it, or its state."""
        record = self.records.get(alarm, {"state": AlarmState.NORMAL, "suppressed": None})
        return str(record["suppressed"] or record["state"])

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
        controls = simulator and simulator.beyond.get(without_channel(name), {}).get(side)
        return {device: dict(controls)} if controls else None

    def rehearsals(self, device: str, name: str) -> Iterator[Rehearsal]:
        """Yield the ways to bring an alarm of a device about."""
        simulator = self._simulator(device)
        if simulator is None:
            return
        if name == CONNECTION:
            yield Rehearsal(fault=simulator.unplugged)
        sides: tuple[Side, ...] = ("above", "below", "alarm")
        for side in sides:
            if controls := self.drive(device, name, side):
                yield Rehearsal(controls=controls[device])
        for rehearsal in simulator.rehearsals:
            if without_channel(name) in rehearsal.alarms:
                yield rehearsal

    def why_not(self, device: str, rehearsal: Rehearsal) -> str:
        """Return why something cannot be rehearsed now; empty if it can."""
        setting = rehearsal.setting
        if setting and getattr(self.devices[device], setting) is None:
            return f"it comes only if the instrument file sets {setting}"
        for name, value in rehearsal.only_while.items():
            if (now := self.samples[device].get(name)) != value:
                return f"only while {device}.{name} is {value}, and it is {now}"
        return ""

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
    async def rehearsed(
        self, devices: Collection[str], rehearsal: Rehearsal
    ) -> AsyncIterator[list[str]]:
        """Bring about what is rehearsed at some devices, and set everything back at the end.

        The list, complete after the end, has what could not be set back.
        """
        troubles: list[str] = []
        controls = {device: dict(rehearsal.controls) for device in devices if rehearsal.controls}
        async with self.driven(controls), AsyncExitStack() as stack:
            for device in devices:
                if rehearsal.fault:
                    stack.push_async_callback(self.call, device, "simulate", "clear")
                    await self.call(device, "simulate", rehearsal.fault, **rehearsal.options)
            for device in devices:
                for command, *args in rehearsal.begin:
                    with suppress(ApplicationError):  # it may be what is rehearsed
                        await self.call(device, command, *args, within=COMMAND_WITHIN_S)
            yield troubles
        for device in devices:
            for command, *args in rehearsal.end:
                try:
                    await self.call(device, command, *args, within=COMMAND_WITHIN_S)
                except (ApplicationError, HcamError) as error:
                    troubles.append(f"{command}: {' '.join(map(str, error.args))}")
                seen = self.samples[device].get("seq")
                await self.until(partial(self._rests, device, seen), REST_WITHIN_S)

    def _rests(self, device: str, seen: int | None) -> bool:
        """Return whether nothing of a device moves, according to a sample after the seen one."""
        axes = self.devices[device].describe()["axes"].items()
        moves = any(self.state(device, name) in axis["busy"] for name, axis in axes)
        return self.samples[device].get("seq") != seen and not moves

    @asynccontextmanager
    async def unplugged(self, *devices: str) -> AsyncIterator[None]:
        """Let the hardware of devices be out of reach."""
        async with AsyncExitStack() as stack:
            for device in devices:
                stack.push_async_callback(self.call, device, "simulate", "clear")
                await self.call(device, "simulate", self._simulator(device).unplugged)
            yield

    async def send_away(self, servers: Iterable[str], seconds: float) -> None:
        """Let emulated servers leave the router for some seconds."""
        await asyncio.gather(
            *(self.call(server, "simulate", "away", seconds=seconds) for server in servers)
        )

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
