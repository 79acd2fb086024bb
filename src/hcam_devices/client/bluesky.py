"""The instrument in plans of bluesky: values as Readable, setpoints and axes as Movable.

    from bluesky import RunEngine
    from bluesky.plans import scan
    from hcam_devices.client import connect
    from hcam_devices.client.bluesky import Movable, Readable

    instrument = connect().open()
    slide = Movable(instrument, "slide.target_position")
    heads = Readable(instrument, "heads", "ccd*.temperature")
    RunEngine()(scan([heads], slide, 900, 1100, 5))

bluesky itself comes with the extra ``hcam_devices[bluesky]``. Keys in its documents are
``ccd1_temperature``; times are those when the hardware was read.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .. import HcamError
from ..wamp.reading import Pattern, Reading, moment_of
from .devices import Device, UnknownNameError
from .instrument import Instrument

if TYPE_CHECKING:
    from bluesky.protocols import Hints, Location
    from bluesky.protocols import Reading as Event
    from event_model import DataKey
    from event_model.documents.event_descriptor import Dtype

FRESH_WITHIN_S = 60.0
"""Wait at most this long for a new sample after a trigger; the slowest devices are polled less
often than every 10 s."""
DTYPES: "dict[str, Dtype]" = {"number": "number", "bool": "boolean", "text": "string"}
SEVERITIES = {None: 0, "WARN": 1, "ERR": 2}


class Status:
    """The state of work that goes on in a thread of its own (``bluesky.protocols.Status``)."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._future: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  (bluesky raises it in the plan)
                self._future.set_exception(error)
            else:
                self._future.set_result(None)

        threading.Thread(target=run, name="hcam bluesky", daemon=True).start()

    def add_callback(self, callback: Callable[["Status"], None]) -> None:
        """Call a function when the work has ended, at once if it has."""
        self._future.add_done_callback(lambda _: callback(self))

    def exception(self, timeout: float | None = 0.0) -> BaseException | None:
        """Return the error of the work, or None; raise TimeoutError if it goes on (s)."""
        return self._future.exception(timeout)

    @property
    def done(self) -> bool:
        """Whether the work has ended."""
        return self._future.done()

    @property
    def success(self) -> bool:
        """Whether the work has ended without an error."""
        return self.done and self.exception() is None


class Readable:
    """Values that patterns such as ``ccd*.temperature`` include, under one name.

    A trigger waits for a sample of each device that was not known before. A value that could not be
    read ends the plan, with its reason, because an event has no place for null. Raises
    UnknownNameError if a pattern includes nothing.
    """

    parent = None

    def __init__(self, instrument: Instrument, name: str, *patterns: str) -> None:
        self.name, self._instrument, self._patterns = name, instrument, patterns
        self._fields = [field for pattern in patterns for field in self._matching(pattern)]
        self._fresh: dict[str, Reading] = {}

    def _matching(self, text: str) -> Iterable[tuple[Device, str]]:
        pattern, described = Pattern(text), self._instrument.descriptions()
        fields = [
            (self._instrument[name], field)
            for name, description in described.items()
            if pattern.has_device({"name": name, "aliases": description["aliases"]})
            for field in pattern.fields(description)
        ]
        if not fields:
            raise UnknownNameError(f"no device that is running has a field {text!r}")
        return fields

    def trigger(self) -> Status:
        """Wait for new samples."""
        return Status(self._wait)

    def _wait(self) -> None:
        fresh: dict[str, Reading] = {}
        before: dict[str, tuple[str, int | None]] = {}
        with self._instrument.subscribe(*self._patterns, seconds=FRESH_WITHIN_S) as readings:
            for reading in readings:
                place = reading.epoch, reading.seq
                if before.setdefault(reading.name, place) != place:
                    fresh[reading.name] = reading
                if len(fresh) == len(self._fields):
                    self._fresh = fresh
                    return
        late = sorted({reading for reading in before if reading not in fresh})
        raise HcamError(f"no new value of {', '.join(late)} within {FRESH_WITHIN_S:g} s")

    def read(self) -> "dict[str, Event[Any]]":
        """Return the values of the last trigger, or the newest ones."""
        found = [self._fresh.get(f"{d._name}.{f}") or d[f] for d, f in self._fields]
        self._fresh = {}
        return {_key(one.device, one.field): _event(one) for one in found}

    def describe(self) -> "dict[str, DataKey]":
        """Return the type and unit of each value."""
        return {
            _key(device._name, field): _data_key(device, field) for device, field in self._fields
        }

    @property
    def hints(self) -> "Hints":
        """The values to show: the numbers."""
        return {"fields": [key for key, one in self.describe().items() if one["dtype"] == "number"]}


class Movable(Readable):
    """A setpoint; if it is the target of an axis, setting it also moves there.

    ``setpoint``: its full name, such as ``slide.target_position``. Its value and that of its
    readback are read. Raises UnknownNameError if there is no such setpoint.
    """

    def __init__(self, instrument: Instrument, setpoint: str) -> None:
        name, _, field = setpoint.partition(".")
        self._device = device = instrument[name]
        self._field = field = device._field(field)
        declared = device._description["fields"][field]
        if not declared["settable"]:
            raise UnknownNameError(f"{setpoint} is not a setpoint")
        axes = device._description["axes"].items()
        self._axis = next((axis for axis, one in axes if one["setpoint"] == field), "")
        self._readback = declared["pair"] or field
        patterns = dict.fromkeys(f"{device._name}.{one}" for one in (self._readback, field))
        super().__init__(instrument, _key(device._name, self._readback), *patterns)

    def set(self, value: Any) -> Status:
        """Set the value and, on an axis, move; the status ends when it has arrived."""
        return Status(lambda: self._move(value))

    def _move(self, value: Any) -> None:
        self._device.set(self._field, value)
        if self._axis:
            self._device.call(f"{self._axis}.move", wait=True)

    def locate(self) -> "Location[Any]":
        """Return the setpoint and the readback."""
        setpoint, readback = self._device[self._field], self._device[self._readback]
        return {"setpoint": setpoint.raw, "readback": readback.raw}

    def stop(self, success: bool = True) -> None:
        """Stop the axis; bluesky calls this when a plan is aborted."""
        if self._axis:
            self._device.call(f"{self._axis}.stop")

    @property
    def hints(self) -> "Hints":
        """The value to show: the readback."""
        return {"fields": [self.name]}


def _key(device: str, field: str) -> str:
    return f"{device}_{field}".replace(".", "_")


def _event(reading: Reading) -> "Event[Any]":
    if reading.raw is None or reading.timestamp is None:
        raise HcamError(f"{reading.name} has no value: {reading.reason or 'it was not read'}")
    return {
        "value": reading.raw,
        "timestamp": moment_of(reading.timestamp).timestamp(),
        "alarm_severity": SEVERITIES[reading.severity],
        "message": reading.reason or "",
    }


def _data_key(device: Device, field: str) -> "DataKey":
    declared = device._description["fields"][field]
    return {
        "source": f"hipercam:{device._name}.{field}",
        "dtype": DTYPES[declared["type"]],
        "shape": [],
        "units": declared["unit"],
    }
