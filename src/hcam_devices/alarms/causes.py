"""Which alarm explains another one: a server its devices, a device its fields, a source its view.

meerstetter1.connection <- ccd1.temperature     a view repeats its source
ccd1.flow <- meerstetter1.current1              declared: ``because`` of the view's field
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from ..core.device import Device
from ..core.fields import Readback
from .rules import CONNECTION, STATUS


class Causes:
    """The possible causes of each alarm, nearest first."""

    def __init__(self, devices: Mapping[str, Device], servers: Mapping[str, Iterable[str]]) -> None:
        self._devices = devices
        self._of: dict[str, list[str]] = {}
        for server, names in servers.items():
            for name in names:
                self._add(f"{name}.{CONNECTION}", f"{server}.{STATUS}")
        for name, device in devices.items():
            for field in device.fields.values():
                self._note(name, device, field)

    def _add(self, alarm: str, *causes: str) -> None:
        self._of.setdefault(alarm, []).extend(causes)

    def _note(self, name: str, device: Device, field: Readback) -> None:
        here = self._both(name, device, field.name)
        causes = [cause for other in field.because for cause in self._both(name, device, other)]
        for alarm in here:
            self._add(alarm, f"{alarm.partition('.')[0]}.{CONNECTION}", *causes)
        if len(here) > 1:
            source = here[1]
            self._add(here[0], f"{source.partition('.')[0]}.{CONNECTION}", source)

    @staticmethod
    def _both(name: str, device: Device, field: str) -> list[str]:
        """Return an alarm of a device, and that of the source if it is a view."""
        declared = (device.fields | device.acts_on)[field]
        return list(dict.fromkeys((f"{name}.{field}", ".".join(device.origin(declared)))))

    def candidates(self, alarm: str) -> Iterator[str]:
        """Yield the alarms that may explain one, nearest first."""
        if alarm in self._of:
            yield from self._of[alarm]
            return
        device, _, name = alarm.partition(".")
        yield f"{device}.{CONNECTION}"
        for source in self._devices[device].sources() if device in self._devices else ():
            yield from (f"{source}.{CONNECTION}", f"{source}.{name}")

    def cause(self, alarm: str, is_bad: Callable[[str], bool]) -> str | None:
        """Return the first cause of an alarm among those that are bad, or None."""
        found, seen = None, {alarm}
        while True:
            near = (one for one in self.candidates(found or alarm) if one not in seen)
            following = next((one for one in near if is_bad(one)), None)
            if following is None:
                return found
            found = following
            seen.add(found)
