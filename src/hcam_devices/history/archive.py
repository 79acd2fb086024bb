"""History: the recorded values of each field, from the recorder or straight from its files.

    from hcam_devices.history import timeseries

    timeseries("ccd1.temperature", "ccd1.setpoint", last="24h")

Fields are named ``device.field`` as in telemetry: ``ccd1.state.health``, ``slide.position.target``.
Times are UTC, in milliseconds since 1970; spans have their start but not their end.
"""

import heapq
import json
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from .. import HcamError
from ..journal.commands import event_of
from ..journal.points import (
    DAY_MS,
    TIMES,
    Field,
    milliseconds,
    night_bounds,
    night_named,
    timestamp_of,
)
from ..names import nearest
from ..wamp import uris
from ..wamp.utils import (
    PRESENT_WITHIN,
    NoSuchProcedureError,
    OutcomeUnknownError,
    RouterError,
    call,
)

if TYPE_CHECKING:
    from astropy.timeseries import TimeSeries

    from .stores.nights import NightFiles

T = TypeVar("T")

Reply: TypeAlias = dict[str, Any]
Moment: TypeAlias = str | int
"""A time as text (see ``moment``), or in ms."""

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY_MS, "w": 7 * DAY_MS}
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)
MAX_POINTS = 3000
"""Return at most this many buckets, less than 500 kB: the router ends a session that sends a MB."""
MAX_VALUES = 10_000
"""Return at most this many samples in one reply."""
MAX_COMMANDS = 1000
"""Return at most this many commands in one reply."""
MAX_TEXT = 300_000
"""Return at most this many characters of texts in one reply."""
MAX_LOST = 20
"""Name at most this many losses in one reply."""
ANSWER_WITHIN = 60.0


class HistoryError(HcamError, ValueError):
    """The field or time does not exist; the text names what exists."""


class Span(NamedTuple):
    """A span from ``start`` (included) to ``end`` (excluded), in ms."""

    start: int
    end: int

    def __str__(self) -> str:
        digits = 16 if self.end - self.start >= HOUR else 19
        return f"{text_from_ms(self.start)[:digits]} to {text_from_ms(self.end)[:digits]} UTC"


EVER = Span(TIMES.start, TIMES.stop)


def text_from_ms(time: int) -> str:
    """Return a time (ms) as text: ``2026-11-22 04:44:44``."""
    return timestamp_of(time)[:19].replace("T", " ")


def duration(text: str) -> int:
    """Return a duration such as ``90s``, ``15m``, ``24h``, ``7d`` or ``2w`` in ms."""
    match = DURATION.fullmatch(str(text).strip())
    length = float(match[1]) * UNITS[match[2]] if match else 0
    if math.isinf(length) or round(length) < 1:
        raise HistoryError(f"{text!r} is not a duration such as 90s, 15m, 24h, 7d or 2w")
    return round(length)


def moment(given: Moment, now: int) -> int:
    """Return a time in ms: a date is its midnight, ``21:30`` the last such time before ``now``.

    Raises HistoryError if it is not a time.
    """
    if isinstance(given, int):
        found = given
    else:
        text = str(given)
        clock_time = re.match(r"\d?\d:\d\d", text)
        if clock_time and re.search("[+-]", text):
            raise HistoryError(
                f"{given!r} has a zone but no date: add the date (2026-11-22T{given}), or give UTC"
            )
        try:
            if clock_time:
                day, zero = text_from_ms(now)[:10], "0" * (text[1] == ":")
                found = milliseconds(f"{day}T{zero}{text}")
                found -= DAY_MS if found > now else 0
            else:
                found = milliseconds(text)
        except ValueError:
            hint = "; for a night use --night" * (text in ("tonight", "yesterday"))
            raise HistoryError(
                f"{given!r} is not a time such as 2026-11-22, 2026-11-22T21:30 or 21:30 (UTC), "
                f"from 1970 to 2261{hint}"
            ) from None
    return min(max(found, EVER.start), EVER.end)


def span(
    now: int,
    last: str | None = None,
    start: Moment | None = None,
    end: Moment | None = None,
    night: str | None = None,
) -> Span:
    """Return the span given by two of ``last``, ``start`` and ``end``, or by a night.

    The default of ``end`` is now, that of ``last`` 24 hours. A night such as ``2026-11-22`` begins
    at noon (UTC) of that date; ``tonight`` is the present night, ``yesterday`` the one before.
    Raises HistoryError.
    """
    if night is not None:
        if (last, start, end) != (None, None, None):
            raise HistoryError("a night already has a start and an end: give no other time with it")
        try:
            return Span(*night_bounds(night_named(night, now)))
        except ValueError as error:
            raise HistoryError(str(error)) from None
    if None not in (last, start, end):
        raise HistoryError("give two of last, start (from) and end (to), not all three")
    length = duration(last or "24h")
    until = now if end is None else moment(end, now)
    since = max(until - length, 0) if start is None else moment(start, now)
    if start is not None and last is not None:
        until = min(since + length, EVER.end)
    if until <= since:
        raise HistoryError(
            f"the end, {text_from_ms(until)} UTC, is not after the start, {text_from_ms(since)} UTC"
        )
    return Span(since, until)


class Archive:
    """The history in the files of an embedded store, which may be writing to them.

    The methods block. They raise HistoryError if a field does not exist, and AwayError if a file
    cannot be read.
    """

    def __init__(self, files: "NightFiles") -> None:
        self.files = files

    def fields(self) -> dict[str, dict[str, str]]:
        """Return the unit (``""`` if none) of every field, by device and name."""
        return self.files.fields()

    def history(self, field: str, start: int, end: int, points: int = 1000) -> Reply:
        """Return the history of a field, as plain data of less than 500 kB.

        The reply has ``field``, ``unit``, and lists of equal length, the first of which is ``time``
        (ms). For numbers, the others are ``min``, ``mean``, ``max``, ``last`` and ``n`` (the count
        of samples) of at most ``points`` (1 to 3000) buckets of equal length; ``time`` is the start
        of each. Texts among numbers are left out. If there are only texts, the other list is
        ``value``, at each change: the newest ``points`` changes. Then ``until`` is the time of the
        last known text, and ``earlier`` the count of omitted changes.

        ``newest`` is null or, if the span is empty, the time of the newest value. ``lost`` contains
        sentences about samples of the span that were published but stored nowhere.
        """
        if not 1 <= points <= MAX_POINTS:
            raise HistoryError(f"points must be from 1 to {MAX_POINTS}, not {points}")
        device, name, reply = self._head(field, Span(start, end))
        found = self.files.downsampled(device, name, start, end, points)
        if not found:
            recorded = self._samples(device, name, Span(start, end))
            if first := next(recorded, None):
                return reply | _changes(chain([first], recorded), points)
        columns = zip(*found, strict=True) if found else [()] * 6
        keys = ("time", "min", "mean", "max", "last", "n")
        return self._or_newest(
            reply | {key: list(column) for key, column in zip(keys, columns, strict=True)}
        )

    def raw(self, field: str, start: int, end: int) -> Reply:
        """Return samples as recorded: ``field``, ``unit``, ``time`` (ms), ``seq`` and ``value``.

        ``seq`` is the number of the sample, equal for all of its fields. If ``next`` is not null,
        there is more: ask again with it as ``start``. ``newest`` and ``lost`` are as in
        ``history``.
        """
        device, name, reply = self._head(field, Span(start, end))
        recorded = self._samples(device, name, Span(start, end), MAX_VALUES + 1)
        found, more = _page(recorded, itemgetter(0), lambda sample: _size(sample[2]), MAX_VALUES)
        times, seqs, values = map(list, zip(*found, strict=True)) if found else ([], [], [])
        return self._or_newest(reply | {"time": times, "seq": seqs, "value": values, "next": more})

    def commands(self, device: str | None, start: int, end: int) -> Reply:
        """Return the commands to a device, or to all devices, in order of time.

        ``commands`` are the events ``hipercam.<device>.command``. If ``next`` is not null, there
        are more: ask again with it as ``start``.
        """
        points = self.files.commands(device, start, end)
        if not points and device is not None:
            self._of(device)
        events = map(event_of, points)
        found, more = _page(events, _time, lambda event: len(json.dumps(event)), MAX_COMMANDS)
        return {"commands": found, "next": more}

    def _head(self, field: str, span: Span) -> tuple[str, str, Reply]:
        """Return the device and the name of a field, and the first entries of a reply."""
        device, _, name = field.partition(".")
        units = self._of(device)
        if name not in units:
            wrong = f"{device} has no {name!r}" if name else f"name a field of {device}"
            raise HistoryError(f"{wrong}; it has {nearest(name, list(units))}")
        lost = self.files.lost(device, *span)
        more = [f"and {len(lost) - MAX_LOST} more losses"] * (len(lost) > MAX_LOST)
        said = [*map(str, lost[:MAX_LOST]), *more]
        return device, name, {"field": field, "unit": units[name], "newest": None, "lost": said}

    def _of(self, device: str) -> dict[str, str]:
        """Return the units of the fields of a device. Raises HistoryError if there is none."""
        every = self.fields()
        if device not in every:
            there = nearest(device, list(every)) or "nothing yet"
            raise HistoryError(f"there is no history of {device!r}; there is history of {there}")
        return every[device]

    def _or_newest(self, reply: Reply) -> Reply:
        """Add the time of the newest value to an empty reply."""
        if reply["time"]:
            return reply
        device, _, name = reply["field"].partition(".")
        if newest := self.files.newest(device, name):
            return reply | {"newest": newest}
        raise HistoryError(f"no sample with {reply['field']} is kept any more")

    def _samples(
        self, device: str, name: str, span: Span, most: int = 0
    ) -> Iterator[tuple[int, int, Field]]:
        """Yield times, numbers and values, a night at a time; of each the oldest ``most``."""
        for night in self.files.nights(device):
            start, end = night_bounds(night)
            if start < span.end and span.start < end:
                part = max(start, span.start), min(end, span.end)
                yield from self.files.series(device, name, *part, most)


def _page(
    items: Iterable[T], time: Callable[[T], int], size: Callable[[T], int], most: int
) -> tuple[list[T], int | None]:
    """Return the first items, in order of time, which fit into a reply, and the time of the rest.

    Items of the same time are not separated, unless there are no others.
    """
    found: list[T] = []
    room = MAX_TEXT
    for item in items:
        room -= size(item)
        if found and (len(found) >= most or room < 0):
            upto = time(item)
            if upto == time(found[0]):
                return found, upto + 1
            return [other for other in found if time(other) != upto], upto
        found.append(item)
    return found, None


def _time(event: dict[str, Any]) -> int:
    return milliseconds(event["time"])


def _size(value: Field) -> int:
    """Return the length of a text in JSON, or 0 for a number, because their count is limited."""
    return len(json.dumps(value)) if isinstance(value, str) else 0


def _changes(recorded: Iterable[tuple[int, int, Field]], most: int) -> Reply:
    """Return the newest changes of a text: at most ``most``, and not more than a reply can have."""
    times: list[int] = []
    values: list[str] = []
    until = 0
    for at, _, value in recorded:
        until = at
        if not values or str(value) != values[-1]:
            times.append(at)
            values.append(str(value))
    earlier, room = len(values), MAX_TEXT
    for value in reversed(values[-most:]):
        room -= _size(value)
        if room < 0:
            break
        earlier -= 1
    return {"time": times[earlier:], "value": values[earlier:], "until": until, "earlier": earlier}


class Remote:
    """The history of the recorder, through the router. The methods raise WampErrors."""

    def fields(self) -> dict[str, dict[str, str]]:
        """As ``Archive.fields``."""
        return dict(self._ask("fields"))

    def history(self, field: str, start: int, end: int, points: int = 1000) -> Reply:
        """As ``Archive.history``."""
        return dict(self._ask("history", field, start=start, end=end, points=points))

    def raw(self, field: str, start: int, end: int) -> Reply:
        """As ``Archive.raw``."""
        return dict(self._ask("raw", field, start, end))

    def commands(self, device: str | None, start: int, end: int) -> Reply:
        """As ``Archive.commands``."""
        return dict(self._ask("commands", device, start=start, end=end))

    def _ask(self, what: str, *args: Any, **kwargs: Any) -> Any:
        return call(uris.rpc("recorder", what), *args, timeout=ANSWER_WITHIN, **kwargs)


Source: TypeAlias = Archive | Remote


def source(instrument: Path | None = None) -> tuple[Source, str]:
    """Return the recorder at WAMP_SERVER or, if it does not answer, an archive and the reason.

    The archive has the files of ``files_here``. Raises HistoryError if there are none.
    """
    with suppress(RouterError, NoSuchProcedureError, OutcomeUnknownError):
        described = call(uris.rpc("recorder", "describe"), timeout=PRESENT_WITHIN)
        if "history" in described["procedures"]:
            return Remote(), ""
    where = f"no recorder answers at {uris.address()} (WAMP_SERVER)"
    try:
        files = files_here(instrument)
    except HistoryError as error:
        raise HistoryError(f"{where}, and {error}") from None
    return Archive(files), f"{where}: reading {files.folder} instead"


def files_here(instrument: Path | None = None, folder: Path | None = None) -> "NightFiles":
    """Return the files of an instrument's first embedded store; ``folder`` is the home.

    Raises HistoryError if there are none.
    """
    # Not above: the process for closed files needs them as little as a caller of the recorder.
    from ..config.instrument import load  # noqa: PLC0415
    from ..config.stores import elsewhere, embedded_folders  # noqa: PLC0415
    from .stores.nights import NightFiles  # noqa: PLC0415

    given = instrument or os.environ.get("HCAM_INSTRUMENT")
    stores = load(Path(given) if given else None).stores
    folders = embedded_folders(stores, folder)
    if not folders:
        raise HistoryError(elsewhere(stores))
    if not folders[0].is_dir():
        raise HistoryError(f"there is no history in {folders[0]} (HCAM_HOME)")
    return NightFiles(folders[0])


Sampled: TypeAlias = tuple[int, int, str, Field]
"""The time, the number of the sample, the field, and its value."""


def samples(source: Source, field: str, span: Span) -> tuple[Reply, Iterator[Sampled]]:
    """Return the first page of a field as recorded, and an iterator over all pages."""
    first = source.raw(field, *span)

    def every() -> Iterator[Sampled]:
        page = first
        while True:
            for at, seq, value in zip(page["time"], page["seq"], page["value"], strict=True):
                yield at, seq, field, value
            if page["next"] is None:
                return
            page = source.raw(field, page["next"], span.end)

    return first, every()


def commands(source: Source, device: str | None, span: Span) -> Iterator[dict[str, Any]]:
    """Yield the events of the commands to a device, or to all, in order of time."""
    start: int | None = span.start
    while start is not None and start < span.end:
        page = source.commands(device, start, span.end)
        yield from page["commands"]
        start = page["next"]


def rows(streams: Iterable[Iterator[Sampled]]) -> Iterator[tuple[int, dict[str, Field]]]:
    """Yield times and values of fields; the values of one sample are together."""
    sample = itemgetter(0, 1)
    for (at, _), together in groupby(heapq.merge(*streams, key=sample), sample):
        row: dict[str, Field] = {}
        for *_, field, value in together:
            if field in row:  # a sample of another epoch
                yield at, row
                row = {}
            row[field] = value
        yield at, row


def nothing(reply: Reply, span: Span) -> str:
    """Return a sentence that a span is empty, with the time of the newest value."""
    field, newest = reply["field"], text_from_ms(reply["newest"])[:16]
    return (
        f"there are no values of {field} from {span}; the newest is from {newest} UTC; "
        f"if it could not be read, {field.partition('.')[0]}.alarms has the reason"
    )


def lost(replies: Iterable[Reply]) -> list[str]:
    """Return the sentences in replies about lost samples, without repetition."""
    return list(dict.fromkeys(text for reply in replies for text in reply["lost"]))


def timeseries(
    *fields: str,
    last: str | None = None,
    start: Moment | datetime | None = None,
    end: Moment | datetime | None = None,
    night: str | None = None,
) -> "TimeSeries":
    """Return samples as recorded, as an astropy TimeSeries with a column for each field.

    Numbers have their units. Times are unique and increase: there is one row for each ms with
    samples, which has the last value of each field. Missing values are masked, and so are texts in
    a column with numbers. A sample in which none of the fields could be read has no row: ask for
    ``ccd1.alarms``, too, to see it.

    The span is the last 24 hours, or as in ``span``; ``start`` and ``end`` may also be an astropy
    Time or a datetime (UTC if it has no zone). The samples come from the recorder or, with a note
    on stderr, from the files. Raises HistoryError or WampError.
    """
    from astropy.time import Time  # noqa: PLC0415  (see ``as_timeseries``)

    start, end = (
        Time(given).utc.isot if isinstance(given, datetime | Time) else given
        for given in (start, end)
    )
    asked = span(round(time.time() * 1000), last, start, end, night)
    place, note = source()
    if note:
        print(note, file=sys.stderr)
    return as_timeseries(place, fields, asked)


def as_timeseries(source: Source, fields: tuple[str, ...], span: Span) -> "TimeSeries":
    """Return what ``timeseries`` does, from a source."""
    # takes 0.7 s, which the recorder and hcam do not need
    import numpy as np  # noqa: PLC0415
    from astropy.table import MaskedColumn  # noqa: PLC0415
    from astropy.time import Time  # noqa: PLC0415
    from astropy.timeseries import TimeSeries  # noqa: PLC0415
    from astropy.units import Unit  # noqa: PLC0415
    from astropy.utils.masked import Masked  # noqa: PLC0415

    if not fields or not all(isinstance(field, str) for field in fields):
        raise HistoryError(
            "name at least one field, such as 'ccd1.temperature', 'ccd2.temperature'"
        )
    fields = tuple(dict.fromkeys(fields))
    pages, streams = zip(*(samples(source, field, span) for field in fields), strict=True)
    for text in lost(pages):
        print(text, file=sys.stderr)
    if all(page["newest"] for page in pages):
        raise HistoryError(nothing(pages[0], span))
    found: dict[int, dict[str, Field]] = defaultdict(dict)
    for at, _, field, value in chain(*streams):
        found[at][field] = value
    ms = np.array(sorted(found), dtype=np.int64)
    times = Time(ms // DAY_MS * 86400.0, ms % DAY_MS / 1000, format="unix", scale="utc")
    times.format = "isot"
    series = TimeSeries(time=times)
    for field, page in zip(fields, pages, strict=True):
        values = [found[at].get(field) for at in ms.tolist()]
        if not all(value is None or isinstance(value, str) for value in values):
            values = [None if isinstance(value, str) else value for value in values]
        missing = np.array([value is None for value in values])
        filler = next((value for value in values if value is not None), 0.0)
        filled = np.array([filler if value is None else value for value in values])
        if page["unit"] and filled.dtype.kind == "f":
            filled = filled * Unit(page["unit"], parse_strict="silent")
            series[field] = Masked(filled, missing) if missing.any() else filled
        else:
            series[field] = MaskedColumn(filled, mask=missing)
    return series
