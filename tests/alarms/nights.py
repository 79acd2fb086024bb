"""Nights of the simulated instrument, with faults at known times, as ``hwalarm`` hears them.

    python -m tests.alarms.nights        records them again, in about a minute

The ordinary drivers ask the simulators through a wire without a network, on a clock that jumps from
poll to poll. A night is kept as JSON lines, ``[seconds, device, sample]``, with what hwalarm looks
at, and a line only where that differs from the last one of the device: values are rounded, and the
reason of an alarm is that of its beginning. Between two lines the device repeats itself each poll.
"""

import asyncio
import json
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcam_devices.config.instrument import load
from hcam_devices.core import Device, RefusedError
from hcam_devices.core.sim import Simulator

FOLDER = Path(__file__).parent / "recorded"
BEGIN = 1_795_287_600.0  # 2026-11-21T19:00:00Z
POLL_S = 2.0
COOLING = ("pressure", "flow", "meerstetter", "ccd")


class Wire:
    """A link that hands each request to a simulator, and its reply to the codec."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.down = ""
        """Why nothing can be asked."""

    def _require(self) -> None:
        if self.down:
            raise ConnectionError(self.down)

    async def open(self) -> None:
        self._require()

    def close(self, reason: BaseException | None = None) -> None:
        pass

    async def drain(self, quiet: float) -> None:
        pass

    async def ask(self, codec: Any, ref: Any, value: Any = None) -> Any:
        self._require()
        self.simulator.catch_up()
        request = codec.request(ref, value)
        frame = self.simulator.cut(bytearray(request))
        assert frame is not None
        reply = self.simulator.own_faults(self.simulator.answer(frame))
        buffer = bytearray(reply)
        while (said := codec.cut(buffer)) is not None:
            if (answer := codec.reply(request, said)) is not None:
                return answer
        raise TimeoutError("no answer")

    async def ask_all(self, codec: Any, refs: Any) -> list[Any]:
        found: list[Any] = []
        for ref in refs:
            try:
                found.append(await self.ask(codec, ref))
            except RefusedError as error:
                found.append(error)
        return found


class Registers(Wire):
    """The same for Modbus, whose requests are not made by a codec."""

    async def ask(self, codec: Any, ref: Any, value: Any = None) -> list[int]:
        self._require()
        address, number = ref
        request = bytes.fromhex("000100000006ff04") + address.to_bytes(2) + number.to_bytes(2)
        reply = self.simulator.own_faults(self.simulator.answer(request))
        if reply[7] & 0x80:
            raise RefusedError(f"Modbus exception {reply[8]}")
        return [int.from_bytes(reply[n : n + 2]) for n in range(9, len(reply), 2)]


@dataclass
class Night:
    """The cooling of the instrument, its clock, and what was recorded."""

    now: float = BEGIN
    lines: list[list[Any]] = field(default_factory=list)
    faults: list[tuple[float, float, list[str]]] = field(default_factory=list)
    """The beginning and end of each fault, and the alarms that people have to see."""

    def __post_init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.hardware: dict[str, Any] = {}
        self.wires: dict[str, Wire] = {}
        self._last: dict[str, dict[str, Any]] = {}
        views = []
        for number, entry in enumerate(load().entries.values()):
            name = entry.name
            if name.rstrip("0123456789") not in COOLING:
                continue
            device = entry.cls(name, clock=self.clock, **entry.settings)
            self.devices[name] = device
            if device.sources():
                views.append(device)
                continue
            simulator = entry.cls.simulator(clock=self.clock, seed=number)
            kind = Registers if name == "flow" else Wire
            self.hardware[name], self.wires[name] = simulator, kind(simulator)
            device.link = self.wires[name]
        for view in views:
            view.attach(self.devices)
        self._order = [self.devices[name] for name in self.wires] + views

    def clock(self) -> float:
        return self.now

    async def run(self, seconds: float) -> None:
        """Poll each device every two seconds."""
        for _ in range(round(seconds / POLL_S)):
            self.now += POLL_S
            for device in self._order:
                await self._poll(device)
            for device in self._order:
                self._note(device)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self.run(POLL_S)

    async def _poll(self, device: Device) -> None:
        try:
            if device.connection == "offline":
                await device.link.open()
                await device.on_connect()
                device._connected()
            await device.poll()
        except (OSError, TimeoutError) as error:
            device._disconnected(error)
        device.emit()

    @contextmanager
    def fault(self, *alarms: str) -> Iterator[None]:
        """Note that something is wrong while the context lasts, and what people have to see."""
        began = self.now
        yield
        self.faults.append((began - BEGIN, self.now - BEGIN, [*alarms]))

    def say(self, what: str) -> None:
        """Note what happens to the network or the server."""
        self.lines.append([self.now - BEGIN, "", what])

    def _note(self, device: Device) -> None:
        sample, last = device.snapshot(), self._last.get(device.name, {})
        known = {alarm["field"] + alarm["severity"]: alarm for alarm in last.get("alarms", ())}
        kept: dict[str, Any] = {
            "connection": sample["state"]["connection"],
            "alarms": [known.get(a["field"] + a["severity"], a) for a in sample["alarms"]],
        }
        for name in device.fields:
            if name in sample:
                kept[name] = _thinned(sample[name], last.get(name))
        if kept != last:
            changed = {key: value for key, value in kept.items() if value != last.get(key, ...)}
            self.lines.append([self.now - BEGIN, device.name, changed])
            self._last[device.name] = kept

    def save(self, path: Path) -> None:
        """Write the faults and the samples."""
        rows = [json.dumps(self.faults), *map(json.dumps, self.lines)]
        path.write_bytes(lzma.compress("\n".join(rows).encode(), preset=9))


def _thinned(value: Any, last: Any) -> Any:
    """Return what is kept of a value: the last one, unless it has changed by more than noise."""
    if not isinstance(value, dict):
        return value
    if "current" in value:
        earlier = last if isinstance(last, dict) else {}
        return {key: _thinned(value[key], earlier.get(key)) for key in value}
    number, unit = value["value"], value["unit"]
    noise = 0.1 if unit == "deg_C" else 0.06 * abs(number)
    if isinstance(last, dict) and abs(number - last["value"]) <= noise:
        return last
    return {"value": float(f"{number:.4g}"), "unit": unit}


# --- the nights -----------------------------------------------------------------------------


async def coolant(night: Night) -> None:
    """A setpoint is changed twice, a reading is lost, and the pump stops for eight minutes."""
    await night.run(600)
    rack = night.devices["meerstetter1"]
    await rack.set("target_temperature1", -80)
    await night.run(1200)
    await rack.set("target_temperature1", -90)
    await night.run(1200)
    night.hardware["flow"].simulate("nan")
    await night.run(POLL_S)
    night.hardware["flow"].simulate("clear")
    await night.run(600)
    racks = [night.hardware[name] for name in ("meerstetter1", "meerstetter2")]
    with night.fault(*(f"ccd{n}.flow" for n in range(1, 6)), "meerstetter2.current3"):
        night.hardware["flow"].pump = False
        for one in racks:
            one.interlock = "open"
        await night.run(480)
    night.hardware["flow"].pump = True
    for one in racks:
        one.interlock = "closed"
    await night.run(3000)


async def network(night: Night) -> None:
    """Two devices are unreachable, the server is killed, and the router is away for a while."""
    await night.run(300)
    for name in ("pressure1", "meerstetter2"):  # a link that is back at the next poll is no alarm
        night.wires[name].down = "the other end closed the link"
        await night.run(POLL_S)
        night.wires[name].down = ""
        await night.run(60)
    with night.fault("meerstetter1.connection"):
        night.wires["meerstetter1"].down = "connection refused"
        await night.run(300)
    night.wires["meerstetter1"].down = ""
    await night.run(300)
    night.say("router away")
    await night.run(120)
    night.say("router back")
    await night.run(300)
    with night.fault("pressure3.connection"):
        night.wires["pressure3"].down = "no answer"
        await night.run(1200)
    night.wires["pressure3"].down = ""
    await night.run(300)
    with night.fault("hwserver.status"):
        night.say("server gone")
        await night.run(60)
    night.say("server back")
    await night.run(600)


async def vacuum(night: Night) -> None:
    """A head leaks slowly, a controller stops, and somebody switches the cooling of another off."""
    await night.run(300)
    gauge = night.hardware["pressure2"]
    gauge.pressure = 0.2
    await night.run(POLL_S)
    gauge.pressure = gauge.base
    await night.run(300)
    leaking = night.hardware["pressure4"]

    async def drift(to: float, seconds: float) -> None:
        steps = round(seconds / POLL_S)
        factor = (to / leaking.base) ** (1 / steps)
        for _ in range(steps):
            leaking.base *= factor
            leaking.pressure = leaking.base
            await night.run(POLL_S)

    await drift(7.7e-3, 1200)
    with night.fault("pressure4.pressure"):
        await drift(8.6e-3, POLL_S)
        await night.run(600)
        await drift(7.4e-3, 600)  # the noise brings it above and below the limit for minutes
    await drift(1e-5, 600)
    rack = night.hardware["meerstetter1"]
    with night.fault("meerstetter1.status2"):
        rack.controllers[2].error = 60
        await night.run(600)
    rack.controllers[2].error = 0
    await night.run(1800)
    other = night.hardware["meerstetter2"]
    with night.fault("meerstetter2.stage_enable1"):
        other.controllers[1].enable = 0
        await night.run(600)
    await night.devices["meerstetter2"].set("stage_enable1", "HW Enable")
    await night.run(1800)


NIGHTS = {one.__name__: one for one in (coolant, network, vacuum)}


async def record() -> None:
    """Record all nights."""
    FOLDER.mkdir(exist_ok=True)
    for name, script in NIGHTS.items():
        night = Night()
        await script(night)
        path = FOLDER / f"{name}.jsonl.xz"
        night.save(path)
        print(f"{path.name}: {len(night.lines)} lines, {path.stat().st_size} bytes")


if __name__ == "__main__":
    asyncio.run(record())
