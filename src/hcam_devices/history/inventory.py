"""Reads the samples of a night that each store really has, whatever the store has noted."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ..config.stores import InfluxDB, SecretError, StoreSettings, place
from ..journal.checked import Table, is_damage, reading
from ..journal.digest import digest
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_of, nights
from ..journal.ranges import SampleRange, SampleRanges
from .audit import Row, StoreReader
from .stores import AwayError
from .stores.http import Connection
from .stores.ledger import LEDGER, load
from .stores.line_protocol import name_of, one_line
from .stores.lost import LostNotes
from .stores.nights import (
    HALF_HOUR,
    HALVES,
    MAIN,
    MAIN_TABLES,
    NIGHT_TABLES,
    SERIES,
    NightFiles,
    away,
    points_of,
    streams,
)

MARGIN = 3_600_000
"""Look for samples this far (ms) outside the night, because noon may pass between a sample and its
entry in the journal."""
ROWS_AT_A_TIME = 10_000


class Files:
    """Reads the readable parts of a store's files; ``troubles`` names the other parts."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def read(
        self, path: Path, tables: Iterable[Table], take: Callable[[sqlite3.Connection], None]
    ) -> None:
        """Call ``take`` with a file, if it exists."""
        try:
            if path.exists():
                with closing(reading(path, tables)) as db:
                    take(db)
        except (OSError, sqlite3.OperationalError) as error:
            self._report(str(away(path, error)))
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._report(f"{path} is damaged: {error}")

    def _report(self, trouble: str) -> None:
        if trouble not in self.troubles:
            self.troubles.append(trouble)

    def stored(self, path: Path, tables: Iterable[Table]) -> SampleRanges:
        """Return the samples that a file notes as stored."""
        found = SampleRanges()

        def take(db: sqlite3.Connection) -> None:
            nonlocal found
            found |= load(db)

        self.read(path, tables, take)
        return found

    def notes(self, path: Path, tables: Iterable[Table]) -> tuple[SampleRanges, list[SampleRange]]:
        """Return the samples that a ledger notes as stored, and those of them that are missing.

        The latter are lost or were rejected, and have the reason.
        """
        gone: list[SampleRange] = []
        rejected: dict[str, SampleRanges] = defaultdict(SampleRanges)

        def take(db: sqlite3.Connection) -> None:
            query = "SELECT device, epoch, first, last, cause FROM gone"
            gone.extend(SampleRange(*row) for row in db.execute(query))
            for *number, reason in db.execute("SELECT device, epoch, seq, seq, reason FROM aside"):
                rejected[f"set aside: {reason}"].add(*number)

        stored = self.stored(path, tables)
        self.read(path, tables, take)
        for reason, some in rejected.items():
            gone += [samples._replace(reason=reason) for samples in some.ranges()]
        return stored, gone


def belonging(
    device: str,
    before: Mapping[str, int],
    here: Mapping[str, tuple[int, int]],
    after: Mapping[str, int],
) -> SampleRanges:
    """Return the samples of a device that must belong to a night.

    By epoch, ``before`` has the last number before the night, ``here`` the lowest and the highest
    number in it, ``after`` the first number after it.
    """
    found = SampleRanges()
    for epoch in here.keys() | (before.keys() & after.keys()):
        first = before.get(epoch, 0) + 1  # numbers begin with 1
        last = after.get(epoch, 0) - 1
        if epoch in here:
            first, last = min(first, here[epoch][0]), max(last, here[epoch][1])
        if first <= last:
            found.add(device, epoch, first, last)
    return found


def extent(numbers: Iterable[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Return the lowest and the highest number of each epoch."""
    found: dict[str, tuple[int, int]] = {}
    for epoch, seq in numbers:
        low, high = found.get(epoch, (seq, seq))
        found[epoch] = min(low, seq), max(high, seq)
    return found


class Nights:
    """A ``StoreReader`` of the files of an EmbeddedStore."""

    def __init__(self, name: str, folder: Path, night: str) -> None:
        self.name, self.folder = name, folder
        self._start, self._end = night_bounds(night)
        self.night = night_of(self._start)  # the date in its usual form
        self._files = Files()
        self.troubles = self._files.troubles
        self.stored, self.gone = self._files.notes(self._path(MAIN), MAIN_TABLES)
        self._noted = {"": self.stored - SampleRanges(self.gone)}
        for date in NightFiles(folder).nights():
            self._noted[date] = self._files.stored(self._path(date), NIGHT_TABLES)
            self.stored |= self._noted[date]
        self.uncounted = ""
        self._files.read(self._path(MAIN), MAIN_TABLES, self._count)

    def _count(self, db: sqlite3.Connection) -> None:
        span = self._start // HALF_HOUR, self._end // HALF_HOUR
        series = db.execute(SERIES).fetchall()
        if any(db.execute(HALVES, (number, *span)).fetchone() for number, _ in series):
            self.uncounted = "only minutes are kept of such old nights"

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        """See ``StoreReader``."""
        window = self._start - MARGIN, self._end + MARGIN
        found = [row for night in nights(*window) for row in self._rows(night, device, *window)]
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        here = [(row.epoch, row.seq) for row in found if self._start <= row.time < self._end]
        for night, noted in self._noted.items():
            for who, epoch, first, last, _ in noted.ranges():
                if who == device and night < self.night:
                    before[epoch] = max(last, before.get(epoch, 0))
                elif who == device and night > self.night:
                    after[epoch] = min(first, after.get(epoch, first))
                elif who == device:
                    here += [(epoch, first), (epoch, last)]
        return found, belonging(device, before, extent(here), after)

    def find(self, wanted: SampleRange) -> list[Row]:
        """See ``StoreReader``."""
        samples = SampleRanges([wanted])
        there = [night for night, noted in self._noted.items() if night and noted & samples]
        rows = chain.from_iterable(self._rows(night, wanted.device) for night in there)
        return [row for row in rows if (wanted.device, row.epoch, row.seq) in samples]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.sqlite"

    def _rows(self, night: str, device: str, *window: int) -> list[Row]:
        found: list[Row] = []

        def take(db: sqlite3.Connection) -> None:
            for stream in streams(db):
                if stream.device == device:
                    for point in points_of(db, stream, *window):
                        found.append(Row(point.epoch, point.seq, point.time, digest(point)))

        self._files.read(self._path(night), NIGHT_TABLES, take)
        return found


class Lines:
    """A ``StoreReader`` of a LineStore, which can only ask an InfluxDB of version 1."""

    def __init__(self, name: str, settings: InfluxDB, folder: Path, night: str) -> None:
        self.name, self.settings = name, settings
        self._start, self._end = night_bounds(night)
        files = Files()
        self.troubles = files.troubles
        self.stored, self.gone = files.notes(folder / f"{name}.sqlite", LEDGER)
        self.uncounted = ""
        if settings.version != 1 or not self._answers():
            self.uncounted = "only an InfluxDB of version 1 can be read"

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        """See ``StoreReader``."""
        start, end = self._start, self._end
        window = f"time >= {start - MARGIN}ms AND time < {end + MARGIN}ms"
        found = list(self._rows(device, window))
        here = extent((row.epoch, row.seq) for row in found if start <= row.time < end)
        before = self._one(device, f"time < {start}ms ORDER BY time DESC")
        after = self._one(device, f"time >= {end}ms ORDER BY time")
        for epoch in here.keys() | before.keys():  # the store noted no later epoch
            after.setdefault(epoch, self.stored.newest(device, epoch) + 1)
        if not before:  # the retention of the database may have deleted all older samples
            before = {epoch: low - 1 for epoch, (low, _) in here.items()}
        return found, belonging(device, before, here, after)

    def find(self, wanted: SampleRange) -> list[Row]:
        """See ``StoreReader``."""
        text = _quoted(wanted.epoch, "'")
        where = f"epoch = {text} AND seq >= {wanted.first} AND seq <= {wanted.last}"
        return list(self._rows(wanted.device, where))

    def _one(self, device: str, where: str) -> dict[str, int]:
        return {row.epoch: row.seq for _, row in self._page(device, f"{where} LIMIT 1")}

    def _rows(self, device: str, where: str) -> Iterator[Row]:
        page, after = f"{where} LIMIT {ROWS_AT_A_TIME}", ""
        while some := self._page(device, f"{after}{page}"):
            yield from (row for _, row in some)
            after = f"time > {some[-1][0]} AND "

    def _page(self, device: str, where: str) -> list[tuple[int, Row]]:
        """Return rows with their times in ns."""
        series = _quoted(name_of(device))
        question = f"SELECT seq, epoch FROM {series} WHERE {where}"  # noqa: S608  (it is quoted)
        return [
            (time, Row(str(epoch), int(seq), time // 1_000_000))
            for series in self._ask(question)
            for time, seq, epoch in series["values"]
            if seq is not None
        ]

    def _answers(self) -> bool:
        """Return whether it is an InfluxDB, unlike VictoriaMetrics, whose answers are all alike."""
        try:
            found = self._ask("SHOW MEASUREMENTS LIMIT 1")
        except AwayError:
            return True  # it may be; reading its rows will raise the error
        return all(series["name"] == "measurements" for series in found)

    def _ask(self, question: str) -> list[dict[str, Any]]:
        """Return the series of an answer. Raises AwayError."""
        settings = self.settings
        arguments = {"db": settings.database, "epoch": "ns", "q": question}
        connection = Connection(settings)
        clean = connection.without_secret
        try:
            answer = connection.post(f"/query?{urlencode(arguments)}", {}, b"")
            if answer.status != HTTPStatus.OK:
                raise OSError(f"the answer is {answer.status}: {one_line(clean(answer.text))}")
            (result,) = json.loads(answer.text)["results"]
            if "error" in result:
                raise OSError(f"the answer is an error: {one_line(clean(result['error']))}")
            series: list[dict[str, Any]] = result.get("series", [])
            return series
        except (OSError, SecretError, ValueError, KeyError, TypeError) as error:
            raise AwayError(f"{settings.url}: {error}") from None
        finally:
            connection.close()


def _quoted(text: str, quote: str = '"') -> str:
    """Return a name or a text, quoted for InfluxQL."""
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def readers(
    stores: Mapping[str, StoreSettings],
    home: Path,
    night: str,
    noted: Mapping[str, SampleRanges] | None = None,
) -> list[StoreReader]:
    """Return a reader of each store.

    ``noted``: the samples that a running recorder notes as stored, newer than its files.
    """
    found: list[StoreReader] = []
    for name, settings in stores.items():
        folder = place(settings, home)
        reader = (
            Lines(name, settings, folder, night)
            if isinstance(settings, InfluxDB)
            else Nights(name, folder, night)
        )
        reader.stored = (noted or {}).get(name, reader.stored)
        found.append(reader)
    return found


def lost_between(
    stores: Mapping[str, StoreSettings], home: Path, start: float, end: float
) -> list[Lost]:
    """Return the losses between two Unix times from the notes beside stores. Raises OSError."""
    found = {
        (note.device, note.since): note
        for settings in stores.values()
        for note in LostNotes(place(settings, home)).read()
    }
    return [note for note in found.values() if start <= note.until and note.since < end]
