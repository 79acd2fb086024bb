"""The load of the computer in the rack. There is no protocol: psutil reads this machine.

CPU, memory and network rates (MB are 10^6 bytes) are means over the last minute.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from ..core import Alarm, Device, Lasting, Readback, RefusedError

FIRST_LOOK_S = 0.1
"""The pause between the first look and the second one."""
LOOKS = 7
"""The number of looks to keep; the first and the last are a minute apart."""


class Look(NamedTuple):
    """The counters of a machine: time (s), CPU times (s), memory (%), bytes in and out."""

    time: float
    busy: float
    total: float
    memory: float
    interfaces: dict[str, tuple[int, int]]


def look() -> Look:
    """Return the counters of this machine."""
    import psutil  # noqa: PLC0415  (7 ms, which only the server of this device needs)

    cpu = psutil.cpu_times()
    total = cpu.user + cpu.nice + cpu.system + cpu.idle + cpu.iowait + cpu.irq + cpu.softirq
    return Look(
        time.monotonic(),
        total - cpu.idle - cpu.iowait,
        total,
        psutil.virtual_memory().percent,
        {
            name: (count.bytes_recv, count.bytes_sent)
            for name, count in psutil.net_io_counters(pernic=True).items()
        },
    )


def look_at_simulated() -> Look:
    """Return the counters of a simulated, quiet computer."""
    now = time.monotonic()
    return Look(now, 0.12 * now, now, 31.0, {"eth0": (int(2.5e5 * now), int(1.5e5 * now))})


class RackPC(Device):
    """The computer in the rack."""

    link_type = Lasting
    emulated: ClassVar[dict[str, Any]] = {"look": look_at_simulated, "interface": ""}
    poll_every = 10.0

    interface: str = ""
    """The network interface whose traffic is read; by default the busiest."""

    cpu = Readback(
        unit="%",
        healthy=(0, 95),
        advice="",  # nobody has to act on a busy computer
        doc="Processor load, mean over the last minute.",
    )
    mem = Readback(
        unit="%",
        healthy=(0, 90),
        advice="End programs on the rack's computer that are not needed, such as plots. If it "
        "stays, restart the servers between two runs; nothing recorded is lost.",
        doc="Memory in use, mean over the last minute.",
    )
    net_in = Readback(unit="MB / s", ref=0, doc="Data received from the network in a second.")
    net_out = Readback(unit="MB / s", ref=1, doc="Data sent to the network in a second.")

    def __init__(self, name: str, *, look: Callable[[], Look] = look, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._look = look
        self._looks: deque[Look] = deque(maxlen=LOOKS)

    async def on_connect(self) -> None:
        """Look twice within a moment, so that there are means at once."""
        self._looks.clear()
        self._looks.append(self._look())
        await self.link.idle(FIRST_LOOK_S, self._new_wake())

    async def poll(self) -> None:
        """Read the counters again, then the fields."""
        self._looks.append(self._look())
        await super().poll()

    async def read(self, field: Readback) -> float:
        """Return the mean of a field over the kept looks."""
        first, last = self._looks[0], self._looks[-1]
        if field.name == "mem":
            return sum(look.memory for look in self._looks) / len(self._looks)
        if field.name == "cpu":
            busy = 100 * (last.busy - first.busy) / max(last.total - first.total, 1e-9)
            return min(busy, 100.0)  # rounding can make it slightly more
        name = self.interface or max(
            last.interfaces, key=lambda name: (name != "lo", sum(last.interfaces[name])), default=""
        )
        if name not in last.interfaces or name not in first.interfaces:
            there = ", ".join(last.interfaces)
            raise RefusedError(f"there is no network interface {name!r}; there are {there}")
        count = last.interfaces[name][field.ref] - first.interfaces[name][field.ref]
        return count / 1e6 / max(last.time - first.time, 1e-9)

    def alarms(self) -> list[Alarm]:
        """Return the alarms, but one about the processor only after a full minute."""
        busy = self.readings["cpu"].value is not None and len(self._looks) < LOOKS
        return [alarm for alarm in super().alarms() if not (busy and alarm.field == "cpu")]
