"""A sample as a row of numbers and texts, and back."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

Field: TypeAlias = float | bool | str

HEADER = frozenset(("device", "seq", "epoch", "timestamp"))
MAX_FIELDS = 500
MAX_DEPTH = 8
MAX_TEXT_LENGTH = 60_000
"""Cut longer texts: InfluxDB refuses those of 64 KiB."""
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
TIMES = range(9_214_646_400_000)
"""From 1970 to 2261, in ms, as every store can hold them: InfluxDB has 64 bits of nanoseconds."""


class Point(NamedTuple):
    """One sample, flat.

    ``time`` is UTC in milliseconds since 1970. A pair of positions is ``position`` (the current
    one) and ``position.target``. Other nested values have paths such as ``state.connection``; the
    name of a field may have a dot as well (``exposure.time``). ``alarms`` is a list as JSON. Nulls,
    NaN and infinities are left out.
    """

    device: str
    epoch: str
    seq: int
    time: int
    values: dict[str, Field]
    units: dict[str, str]


def milliseconds(timestamp: str) -> int:
    """Return a time such as ``2026-11-22T04:44:44.196Z`` in ms since 1970.

    A leap second (``23:59:60.5Z``) counts, as in Unix time, as the first second of the next day.
    Raises ValueError if it is not one of TIMES.
    """
    leap = timestamp[17:19] == "60"
    text = f"{timestamp[:17]}59{timestamp[19:]}" if leap else timestamp
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    found = round((moment - EPOCH) / MILLISECOND) + 1000 * leap
    if found not in TIMES:
        raise ValueError(f"{timestamp} is not between 1970 and 2261")
    return found


def timestamp_of(time: int) -> str:
    """Return ms since 1970 as the text that telemetry carries."""
    moment = EPOCH + timedelta(milliseconds=time)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def flatten(sample: dict[str, Any]) -> Point:
    """Return a numbered sample as a point. Raises ValueError if it is not one."""
    device, epoch, seq = sample.get("device"), sample.get("epoch"), sample.get("seq")
    if not isinstance(device, str) or not isinstance(epoch, str):
        raise ValueError("it has no device or epoch")
    if not (device + epoch).isprintable():  # a file could not keep it
        raise ValueError(f"its device {device!a} or epoch {epoch!a} is not printable")
    if type(seq) is not int or not 0 < seq < 2**63:
        raise ValueError(f"{device}: it has no number")
    timestamp = sample.get("timestamp")
    if not isinstance(timestamp, str):
        raise ValueError(f"{device} {seq}: it has no time")
    values: dict[str, Field] = {}
    units: dict[str, str] = {}
    rest = sample.copy()
    for name in HEADER:
        del rest[name]
    if "alarms" in rest:
        rest["alarms"] = json.dumps(rest["alarms"], default=str) if rest["alarms"] else "[]"
    put("", rest, values, units, 0)
    return Point(device, epoch, seq, milliseconds(timestamp), values, units)


def put(
    path: str, inside: dict[str, Any], values: dict[str, Field], units: dict[str, str], depth: int
) -> None:
    """Add the values inside of ``path``, which is empty or ends in a dot, and their units."""
    for key, whole in inside.items():
        if len(values) >= MAX_FIELDS:
            return
        current = path and key == "current" and "target" in inside
        name = path[:-1] if current else f"{path}{key}"
        value = whole
        kind = type(value)
        while kind is dict and len(value) == 2 and "unit" in value and "value" in value:
            value = value["value"]
            kind = type(value)
        if (kind is float and isfinite(value)) or kind is bool:  # fast path: most values
            values[name] = value
        elif kind is str:
            values[name] = value[:MAX_TEXT_LENGTH]
        elif kind is dict:
            if depth < MAX_DEPTH:
                put(f"{name}.", value, values, units, depth + 1)
        elif kind is int:
            with suppress(OverflowError):
                values[name] = float(value)
        elif kind is list:
            values[name] = json.dumps(value, default=str)[:MAX_TEXT_LENGTH]
        if value is not whole and name in values:
            units[name] = str(whole["unit"])


def unflatten(point: Point) -> dict[str, Any]:
    """Return the sample of a point, without values that were null.

    Only states and targets are nested again: any other dot is taken as part of the name. Alarms
    that were too long to be kept become one, with the text that is left of them.
    """

    def value(name: str) -> Field | dict[str, Any]:
        unit = point.units.get(name)
        plain = point.values[name]
        return plain if unit is None else {"value": plain, "unit": unit}

    sample: dict[str, Any] = {
        "device": point.device,
        "seq": point.seq,
        "epoch": point.epoch,
        "timestamp": timestamp_of(point.time),
        "state": {},
        "alarms": [],
    }
    for name in point.values:
        base, _, last = name.rpartition(".")
        if name == "alarms":
            text = str(point.values[name])
            try:
                sample["alarms"] = json.loads(text)
            except ValueError:
                sample["alarms"] = [{"field": "alarms", "severity": "ERR", "reason": text}]
        elif name.startswith("state."):
            sample["state"][name.removeprefix("state.")] = value(name)
        elif base and last == "target":
            pair = sample.setdefault(base, {"current": None})
            if isinstance(pair, dict):
                pair["target"] = value(name)
        else:
            pair = f"{name}.target" in point.values
            before = sample.get(name) or {}  # whichever of the two comes first
            sample[name] = before | {"current": value(name)} if pair else value(name)
    return sample


def night_of(time: int) -> str:
    """Return the night of a time (ms): from noon to noon UTC, named by its evening's date."""
    return (EPOCH + timedelta(milliseconds=time, hours=-12)).date().isoformat()


def night_named(text: str, now: int) -> str:
    """Return the date of ``tonight`` or ``yesterday``, the night before it, at a time (ms).

    Any other text is returned as it is.
    """
    back = {"tonight": 0, "yesterday": 1}.get(text)
    return text if back is None else night_of(now - back * DAY_MS)


def night_bounds(night: str) -> tuple[int, int]:
    """Return the beginning and the end (ms) of a night such as ``2026-11-22``.

    Raises ValueError if it is no date, or none of TIMES is in it.
    """
    with suppress(ValueError):
        days = (date.fromisoformat(night) - EPOCH.date()).days
        start = days * DAY_MS + DAY_MS // 2
        if -DAY_MS < start < TIMES.stop:
            return start, start + DAY_MS
    raise ValueError(f"{night!r} is not a night such as 2026-11-22, tonight or yesterday")


def nights(start: int, end: int) -> Iterator[str]:
    """Yield the nights that a span of time (ms) touches."""
    first = start - (start - DAY_MS // 2) % DAY_MS
    for begin in range(first, end + 1, DAY_MS):
        yield night_of(begin)
