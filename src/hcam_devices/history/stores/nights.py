"""The files of the embedded store, which other programs may read while it writes.

A folder has one file for each night, and ``history.sqlite`` for old nights. Their tables are:

- ``sample`` (nights): the number of the stream, the time (ms), the number of the sample, and a
  double for each field (the id of a text; 0 or 1 for a bool), with a CRC-32.
- ``minute`` (``history.sqlite``): the number of the series, the half-hour since 1970, its part, and
  the columns of its minutes (compressed JSON), with a CRC-32. Every command is kept.
- ``text``, and its copy ``spare``: texts by their hash. A stream is the text (JSON) of device,
  epoch and fields, each with its kind and unit; a series is that of device, field, kind and unit.
- ``stored``: the ranges of samples that are stored or lost.
- ``gone`` (``history.sqlite``): lost samples, with reasons. ``aside``, for rejected samples, is
  empty here.
"""

import heapq
import json
import logging
import sqlite3
import struct
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import fsum, isnan, nan
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from ...journal.checked import SOUND, SPARE, TEXT, Table, digest, is_damage, reading, sealed, sound
from ...journal.commands import commands_of, is_commands
from ...journal.notebook import Lost
from ...journal.points import TIMES, Field, Point, night_of
from ...journal.ranges import SampleRanges
from . import AwayError
from .ledger import LEDGER, STORED, kept, load
from .lost import LostNotes

log = logging.getLogger(__name__)

MINUTE, HALF_HOUR = 60_000, 1_800_000  # half an hour of a noisy field fits into one page
MAIN = "history"
NIGHTS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].sqlite"


def _proves_body(*row: Any) -> bool:
    *key, body = row
    return sound(body, *key)


SAMPLE = Table("sample", "stream, time, seq, body", 3, _proves_body)
MINUTES = Table("minute", "series, half, part, body", 3, _proves_body)
NIGHT_TABLES = (SAMPLE, TEXT, STORED, SPARE)
MAIN_TABLES = (TEXT, MINUTES, *LEDGER, SPARE)

STREAMS = """
WITH RECURSIVE one (id) AS (
    SELECT min(stream) FROM sample UNION
    SELECT (SELECT min(stream) FROM sample WHERE stream > one.id) FROM one WHERE id IS NOT NULL)
SELECT id, text.text FROM one LEFT JOIN text USING (id) WHERE id IS NOT NULL
"""
SERIES = STREAMS.replace("stream", "series").replace("sample", "minute")
HALVES = "SELECT half, part, body FROM minute WHERE series = ? AND half >= ? AND half < ?"
FIRST_HALF = HALVES.replace("half, part, body", "min(half)")
NEWEST_HALF = "SELECT max(half) FROM minute WHERE series = ?"
FIRST_TIME = "SELECT min(time) FROM sample WHERE stream = ? AND time >= ? AND time < ?"
NEWEST_TIME = "SELECT max(time) FROM sample WHERE stream = ?"
ADVICE = {
    "SQLITE_FULL": "make room on its disk",
    "SQLITE_BUSY": "stop the other program that writes to it",
    "SQLITE_READONLY": "let this user write there",
    "SQLITE_CANTOPEN": "let this user read and write there",
}


def away(path: Path, error: Exception) -> AwayError:
    """Return an error that names the file that cannot be used, and the next step."""
    code = str(getattr(error, "sqlite_errorname", ""))
    advice = [step for beginning, step in ADVICE.items() if code.startswith(beginning)]
    return AwayError(f"{path} cannot be used now ({error}): {(*advice, 'check its disk')[0]}")


@contextmanager
def trying(path: Path) -> Iterator[None]:
    """Raise AwayError if the file of a store cannot be used within the context."""
    try:
        yield
    except BlockingIOError as error:
        raise AwayError(f"another recorder writes to {path}: stop one of the two") from error
    except (OSError, sqlite3.OperationalError) as error:
        raise away(path, error) from error
    except sqlite3.Error as error:
        if is_damage(error):  # even in the rebuilt file
            raise away(path, error) from error
        raise


@dataclass(frozen=True)
class Stream:
    """The samples of one device and epoch with the same fields."""

    device: str
    epoch: str
    fields: tuple[tuple[str, str, str | None], ...]
    """Names, kinds (``number``, ``bool``, ``text``) and units."""

    @cached_property
    def text(self) -> str:
        """The text (JSON) of the stream."""
        return json.dumps([self.device, self.epoch, self.fields])

    @cached_property
    def id(self) -> int:
        """The number of the stream: the hash of its text."""
        return digest(self.text)

    @cached_property
    def body(self) -> struct.Struct:
        """The format of the packed values of a sample."""
        return struct.Struct(f"<{len(self.fields)}d")

    @cached_property
    def texts(self) -> Callable[[bytes], tuple[float, ...]]:
        """A function that unpacks the ids of the texts of a sample."""
        kinds = "".join("d" if kind == "text" else "8x" for _, kind, _ in self.fields)
        return struct.Struct(f"<{kinds}").unpack_from

    @classmethod
    def parse(cls, text: str) -> "Stream":
        """Return the stream that a text describes."""
        device, epoch, fields = json.loads(text)
        return cls(device, epoch, tuple((name, kind, unit) for name, kind, unit in fields))


Decoder = Callable[[float], Field | None]


class Bucket(NamedTuple):
    """The values of a field in a period that begins at ``time`` (ms).

    ``last`` is the value of the last of ``n`` samples. Texts have no min, mean and max; a bool
    counts as 0 or 1.
    """

    time: int
    min: float | None
    mean: float | None
    max: float | None
    last: Field
    n: int


class Summary(NamedTuple):
    """A bucket that can be joined with others; ``when`` and ``seq`` belong to its last sample.

    Stored minutes have no ``seq``.
    """

    n: int
    when: int
    min: float
    mean: float
    max: float
    last: Any
    seq: int = 0


COLUMNS = Summary._fields[:-1]


def joined(some: list[Summary]) -> Summary:
    """Join several summaries to one."""
    numbers = [summary for summary in some if not isnan(summary.mean)] or some  # all may be texts
    n = sum(summary.n for summary in numbers)
    low, high = min(summary.min for summary in numbers), max(summary.max for summary in numbers)
    mean = min(max(fsum(summary.mean * (summary.n / n) for summary in numbers), low), high)
    newest = max(some, key=attrgetter("when", "seq"))
    return newest._replace(n=sum(summary.n for summary in some), min=low, mean=mean, max=high)


def summarize(
    keys: Sequence[tuple[int, int]],
    numbers: Sequence[float],
    value: Decoder,
    first: int,
    width: int,
) -> Iterator[tuple[int, Summary]]:
    """Yield the index and the summary of each period of ``width`` (ms) after ``first``, in order.

    ``keys`` are the times and numbers of samples; ``value`` decodes ``numbers``. A summary of texts
    has only the last text.
    """
    start = 0
    while start < len(keys):
        index = (keys[start][0] - first) // width
        end = bisect_left(keys, (first + (index + 1) * width,), start)
        some, n, (when, seq) = numbers[start:end], end - start, keys[end - 1]
        last = value(some[-1])
        if isinstance(last, str):
            yield index, Summary(n, when, nan, nan, nan, last, seq)
        elif last is not None:
            low, high = min(some), max(some)
            mean = min(max(fsum([number / n for number in some]), low), high)
            yield index, Summary(n, when, low, mean, high, last, seq)
        start = end


def streams(db: sqlite3.Connection) -> list[Stream]:
    """Return the undamaged streams of a night's file."""
    return [Stream.parse(text) for number, text in db.execute(STREAMS) if TEXT.proves(number, text)]


def rows(
    db: sqlite3.Connection, stream: Stream, start: int = -(2**63), end: int = 2**63 - 1
) -> Iterator[tuple[int, int, bytes]]:
    """Yield time, number and body of a stream's undamaged rows, in order, without repetition."""
    query = "SELECT time, seq, body FROM sample WHERE stream = ? AND time >= ? AND time < ?"
    number, before = stream.id, (start, -(2**63))
    pack, crc32 = (
        struct.Struct("<qqq").pack,
        zlib.crc32,
    )  # ``sound``, but faster, because there are many rows
    for row in db.execute(query, (number, start, end)):
        time, seq, body = row
        try:
            proven = crc32(body, crc32(pack(number, time, seq))) == SOUND
        except (TypeError, struct.error):
            continue
        if proven and (time, seq) > before:
            before = time, seq
            yield row


def decoder(db: sqlite3.Connection, kind: str) -> Decoder:
    """Return a function that decodes stored numbers; it returns None for a damaged text."""

    @lru_cache(maxsize=4096)
    def text_of(number: float) -> str | None:
        for row in db.execute("SELECT id, text FROM text WHERE id = ?", (int(number),)):
            if TEXT.proves(*row) and row[0] == number:
                return str(row[1])
        return None

    return {"number": float, "bool": bool}.get(kind, text_of)


def text_ids(db: sqlite3.Connection) -> set[int]:
    """Return the ids of all undamaged texts."""
    return {row[0] for row in db.execute("SELECT id, text FROM text") if TEXT.proves(*row)}


def survey(db: sqlite3.Connection) -> tuple[SampleRanges, list[tuple[int, int, int]]]:
    """Read a whole night; return its undamaged samples and the keys of its damaged rows."""
    found = SampleRanges()
    unsound = []
    texts = text_ids(db)
    for number, text in db.execute(STREAMS).fetchall():
        stream = Stream.parse(text) if TEXT.proves(number, text) else None
        there = []
        query = "SELECT time, seq, body FROM sample WHERE stream = ?"
        for time, seq, body in db.execute(query, (number,)):
            if stream and sound(body, number, time, seq) and texts.issuperset(stream.texts(body)):
                there.append(seq)
            else:
                unsound.append((number, time, seq))
        if stream:
            found.add_numbers(stream.device, stream.epoch, there)
    return found, unsound


def rolled_up(stored: SampleRanges, main: SampleRanges) -> bool:
    """Return whether a night is in the main file, which has all of its samples or none."""
    return bool(stored) and not stored - main


class NightFiles:
    """Reads the folder of an EmbeddedStore, from any thread or program, also while it writes.

    Times are UTC in milliseconds since 1970; spans include their start, not their end. Damaged
    rows are skipped, with a warning in the log, until the store has rebuilt the file. The methods
    raise AwayError if a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: set[Path] = set()

    def nights(self) -> list[str]:
        """Return the nights that are not rolled up, oldest first."""
        return sorted(path.stem for path in self.folder.glob(NIGHTS))

    def series(self, device: str, field: str, start: int, end: int) -> list[tuple[int, int, Field]]:
        """Return times, sample numbers and values of a field as recorded, in order.

        Old nights that have been rolled up have none; ``downsampled`` includes them.
        """
        found: list[tuple[int, int, Field]] = []
        for night in self._between(start, end):
            with self._reading(night, NIGHT_TABLES) as db:
                for kind, keys, numbers in _recorded(db, device, field, start, end):
                    decoded = zip(keys, map(decoder(db, kind), numbers), strict=True)
                    found += [(*key, value) for key, value in decoded if value is not None]
        return sorted(found, key=itemgetter(0, 1))

    def first(self, device: str, field: str, start: int, end: int) -> int:
        """Return the time of the first value of a field, or ``end`` if there is none.

        In a night that has been rolled up, it is the start of the half-hour.
        """
        found = end
        for night in self._between(start, end):
            with self._reading(night, NIGHT_TABLES) as db:
                for stream, _, _ in _streams(db, device, field):
                    (time,) = db.execute(FIRST_TIME, (stream.id, start, found)).fetchone()
                    found = found if time is None else time
            if found < end:
                break
        with self._reading(MAIN, MAIN_TABLES) as db:  # after the nights, which may move there
            for series in _series(db, device, field):
                halves = (series, start // HALF_HOUR, -(-found // HALF_HOUR))
                (half,) = db.execute(FIRST_HALF, halves).fetchone()
                found = found if half is None else min(max(half * HALF_HOUR, start), found)
        return found

    def newest(self, device: str, field: str) -> int:
        """Return the time of the newest value of a field, or the end of its half-hour; or 0."""
        found = 0
        for night in reversed(self.nights()):
            with self._reading(night, NIGHT_TABLES) as db:
                for stream, _, _ in _streams(db, device, field):
                    (time,) = db.execute(NEWEST_TIME, (stream.id,)).fetchone()
                    found = max(found, time)
            if found:
                break
        with self._reading(MAIN, MAIN_TABLES) as db:
            for series in _series(db, device, field):
                (half,) = db.execute(NEWEST_HALF, (series,)).fetchone()
                found = max(found, (half + 1) * HALF_HOUR - 1)
        return found

    def lost(self, device: str, start: int, end: int) -> list[Lost]:
        """Return the notes about samples of a device that were published but stored nowhere."""
        noted = LostNotes(self.folder)
        with trying(noted.path):
            notes = noted.read()
        return [
            note
            for note in notes
            if note.device == device and start <= note.until * 1000 and note.since * 1000 < end
        ]

    def has_minutes(self, device: str, field: str, start: int, end: int) -> bool:
        """Return whether a part of a span is so old that only minutes of a field are kept."""
        found = False
        with self._reading(MAIN, MAIN_TABLES) as db:
            found = next(_minutes(db, device, field, start, end), None) is not None
        return found

    def downsampled(
        self, device: str, field: str, start: int, end: int, points: int, *, numbers: bool = False
    ) -> list[Bucket]:
        """Return the buckets of ``points`` periods of equal length, without the empty ones.

        With ``numbers``, texts do not count as samples. Buckets are exact, except that a minute of
        an old night belongs to the bucket in which it begins. Raises ValueError if ``points`` or
        the span is not positive.
        """
        if points < 1 or end <= start:
            raise ValueError(f"{points} points from {start} to {end} (ms): both must be positive")
        width = -(-(end - start) // points)
        while True:
            nights = self._between(start, end)
            found = self._summaries(nights, (device, field, start, end), width, numbers=numbers)
            if set(nights) <= set(self.nights()):  # otherwise a night was rolled up meanwhile
                break
        buckets = []
        for index, some in sorted(found.items()):
            one = joined(some)
            low, mean, high = (None if isnan(v) else v for v in (one.min, one.mean, one.max))
            buckets.append(Bucket(start + index * width, low, mean, high, one.last, one.n))
        return buckets

    def _summaries(
        self, nights: list[str], what: tuple[str, str, int, int], width: int, *, numbers: bool
    ) -> dict[int, list[Summary]]:
        found: dict[int, list[Summary]] = defaultdict(list)
        start = what[2]
        known = SampleRanges()
        with self._reading(MAIN, MAIN_TABLES) as db:
            db.execute("BEGIN")  # read both at the same moment
            known = kept(db)
            for time, one in _minutes(db, *what, numbers=numbers):
                found[(time - start) // width].append(one)
        for night in nights:
            with self._reading(night, NIGHT_TABLES) as db:
                if not rolled_up(load(db), known):
                    for kind, keys, values in _recorded(db, *what, numbers=numbers):
                        value = decoder(db, kind)
                        for index, one in summarize(keys, values, value, start, width):
                            found[index].append(one)
        return found

    def fields(self, start: int, end: int) -> dict[str, dict[str, str]]:
        """Return the unit (``""`` if none) of every recorded field, by device and name.

        A field that had a unit only at times has that unit.
        """
        found: dict[str, dict[str, str]] = defaultdict(dict)
        with self._reading(MAIN, MAIN_TABLES) as db:
            for number, text in db.execute(SERIES).fetchall():
                span = (number, start // HALF_HOUR, -(-end // HALF_HOUR))
                if TEXT.proves(number, text) and db.execute(HALVES, span).fetchone():
                    device, field, _, unit = json.loads(text)
                    if is_commands(device):
                        continue
                    found[device][field] = unit or found[device].get(field, "")
        for night in self._between(start, end):
            with self._reading(night, NIGHT_TABLES) as db:
                for stream in streams(db):
                    if is_commands(stream.device):
                        continue
                    if next(rows(db, stream, start, end), None):
                        units = found[stream.device]
                        units.update((n, unit or units.get(n, "")) for n, _, unit in stream.fields)
        return dict(found)

    def commands(self, device: str | None, start: int, end: int) -> list[Point]:
        """Return the commands to a device, or to all devices, in order of time, as samples.

        In nights that have been rolled up they have neither numbers nor epochs.
        """
        wanted = device and commands_of(device)
        found: dict[tuple[str, int], Point] = {}

        def want(stream: str) -> bool:
            return is_commands(stream) and wanted in (None, stream)

        for night in self._between(start, end):
            with self._reading(night, NIGHT_TABLES) as db:
                for stream in filter(lambda stream: want(stream.device), streams(db)):
                    points = points_of(db, stream, start, end)
                    found |= {(point.device, point.time): point for point in points}
        with self._reading(MAIN, MAIN_TABLES) as db:  # after the nights, which may move there
            for series, text in db.execute(SERIES).fetchall():
                name, field, *_ = json.loads(text) if TEXT.proves(series, text) else ("", "")
                if want(name):
                    for one in _exact(db, series, start, end):
                        empty_point = Point(name, "", 0, one.when, {}, {})
                        point = found.setdefault((name, one.when), empty_point)
                        point.values[field] = one.last
        return sorted(found.values(), key=attrgetter("time", "device"))

    def samples(self, night: str, start: int = -(2**63), end: int = 2**63 - 1) -> Iterator[Point]:
        """Yield the samples of a night in order of time; none if it has been rolled up."""
        with self._reading(night, NIGHT_TABLES) as db:
            each = [points_of(db, stream, start, end) for stream in streams(db)]
            yield from heapq.merge(*each, key=attrgetter("time", "seq"))

    def _between(self, start: int, end: int) -> list[str]:
        first, last = (night_of(min(max(time, 0), TIMES.stop)) for time in (start, end - 1))
        return [night for night in self.nights() if first <= night <= last]

    @contextmanager
    def _reading(self, name: str, tables: tuple[Table, ...]) -> Iterator[sqlite3.Connection]:
        """Open a file, or an empty one if it does not exist. Damage ends the context."""
        path = self.folder / f"{name}.sqlite"
        try:
            db = reading(path, tables)
        except FileNotFoundError:
            db = empty(tables)
        except (sqlite3.Error, OSError) as error:
            self._leave_out(path, error)
            db = empty(tables)
        try:
            yield db
        except sqlite3.Error as error:
            self._leave_out(path, error)
        finally:
            db.close()

    def _leave_out(self, path: Path, error: sqlite3.Error | OSError) -> None:
        if isinstance(error, OSError) or not is_damage(error):
            if isinstance(error, (sqlite3.OperationalError, OSError)):
                raise away(path, error) from error
            raise error
        if path not in self._told:
            log.warning("%s is damaged (%s): a part of it cannot be read", path, error)
        self._told.add(path)


def _streams(
    db: sqlite3.Connection, device: str, field: str, *, numbers: bool = False
) -> Iterator[tuple[Stream, int, str]]:
    """Yield the streams of a night that have a field (or its numbers), with its index and kind."""
    for stream in streams(db):
        for index, (name, kind, _) in enumerate(stream.fields):
            if (stream.device, name) == (device, field) and not (numbers and kind == "text"):
                yield stream, index, kind


def _series(
    db: sqlite3.Connection, device: str, field: str, *, numbers: bool = False
) -> Iterator[int]:
    """Yield the series of a field (or of its numbers), of all kinds and units."""
    for series, text in db.execute(SERIES).fetchall():
        if TEXT.proves(series, text):
            *what, kind, _ = json.loads(text)
            if what == [device, field] and not (numbers and kind == "text"):
                yield series


def _recorded(
    db: sqlite3.Connection, device: str, field: str, start: int, end: int, *, numbers: bool = False
) -> Iterator[tuple[str, list[tuple[int, int]], list[float]]]:
    """Yield kind, keys (time, number) and values of a field, for each stream that has it."""
    for stream, index, kind in _streams(db, device, field, numbers=numbers):
        keys, values = [], []
        unpack = struct.Struct(f"<{8 * index}xd").unpack_from
        for time, seq, body in rows(db, stream, start, end):
            keys.append((time, seq))
            values.append(unpack(body)[0])
        yield kind, keys, values


def _minutes(
    db: sqlite3.Connection, device: str, field: str, start: int, end: int, *, numbers: bool = False
) -> Iterator[tuple[int, Summary]]:
    """Yield the minutes of a field with their times."""
    for series in _series(db, device, field, numbers=numbers):
        before = (-(2**63), 0)
        halves = (series, start // HALF_HOUR, -(-end // HALF_HOUR))
        for half, part, body in db.execute(HALVES, halves):
            if sound(body, series, half, part) and (half, part) > before:
                before = half, part
                for minute in unpacked(body, half):
                    if start <= (time := minute.when // MINUTE * MINUTE) < end:
                        yield time, minute


def _exact(db: sqlite3.Connection, series: int, start: int, end: int) -> Iterator[Summary]:
    """Yield the summaries of a series whose last samples are in a span."""
    for half, part, body in db.execute(HALVES, (series, start // HALF_HOUR, -(-end // HALF_HOUR))):
        if sound(body, series, half, part):
            yield from (summary for summary in unpacked(body, half) if start <= summary.when < end)


def packed(minutes: Iterable[Summary], *key: int) -> bytes:
    """Return minutes packed for a row: times within the half-hour, means to 12 digits."""
    columns = dict(zip(COLUMNS, map(list, zip(*minutes, strict=True)), strict=False))
    columns["when"] = [when % HALF_HOUR for when in columns["when"]]
    columns["mean"] = [float(f"{mean:.12g}") for mean in columns["mean"]]
    return sealed(zlib.compress(json.dumps(columns, separators=(",", ":")).encode()), *key)


def unpacked(body: bytes, half: int) -> Iterator[Summary]:
    """Yield the minutes in the row of a half-hour."""
    columns = json.loads(zlib.decompress(body[:-4]))
    columns["when"] = [half * HALF_HOUR + when for when in columns["when"]]
    return map(Summary, *(columns[name] for name in COLUMNS))


def points_of(
    db: sqlite3.Connection, stream: Stream, start: int = -(2**63), end: int = 2**63 - 1
) -> Iterator[Point]:
    """Yield the samples of a stream that are entirely readable, in order of time."""
    decoders = {kind: decoder(db, kind) for kind in ("number", "bool", "text")}
    fields = [(name, decoders[kind]) for name, kind, _ in stream.fields]
    units = {name: unit for name, _, unit in stream.fields if unit is not None}
    for time, seq, body in rows(db, stream, start, end):
        numbers = stream.body.unpack_from(body)
        values = {name: value(n) for (name, value), n in zip(fields, numbers, strict=True)}
        known = {name: value for name, value in values.items() if value is not None}
        if len(known) == len(values):
            yield Point(stream.device, stream.epoch, seq, time, known, dict(units))


def empty(tables: Iterable[Table]) -> sqlite3.Connection:
    """Return an empty database in memory."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for table in tables:
        db.execute(table.schema())
    return db
