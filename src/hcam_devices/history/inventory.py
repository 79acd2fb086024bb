"""Reads the samples of a night that each store really has, whatever the store has noted."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from weakref import finalize

from ..config.stores import Folder, InfluxDB, SecretError, StoreSettings, embedded_folders, place
from ..journal.digest import SIZE
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_of
from ..journal.ranges import SampleRange, SampleRanges
from .audit import Row, StoreReader
from .child import Child
from .copier import MARKER
from .stores import AwayError
from .stores.embedded import LOST
from .stores.files import away, connect
from .stores.http import Connection
from .stores.ledger import read_notes
from .stores.line_protocol import name_of, one_line
from .stores.lost import LostNotes
from .stores.tonight import DAY, NAME, NIGHTS, entries, gone_in

MARGIN = 3_600_000
"""Look for samples this far (ms) outside the night, because noon may pass between a sample and its
entry in the journal."""
ROWS_AT_A_TIME = 10_000
ISLANDS = f"""
SELECT device, epoch, min(seq), max(seq), min(time), max(time) FROM (
    SELECT *, {DAY} AS day,
        seq - row_number() OVER (PARTITION BY device, epoch, {DAY} ORDER BY seq) AS island
    FROM sample)
GROUP BY device, epoch, day, island
"""


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
    """A ``StoreReader`` of the files of an EmbeddedStore.

    Another process reads the samples, because the recorder does without DuckDB. With
    ``copies``, it reads their copies in that folder, and no rows of tonight.
    """

    def __init__(self, name: str, folder: Path, night: str, copies: Path | None = None) -> None:
        self.name, self._copies = name, copies
        self._start, self._end = night_bounds(night)
        self.night = night_of(self._start)  # the date in its usual form
        self._child = Child(folder)
        finalize(self, self._child.close)  # it takes 100 MB
        self.troubles: list[str] = []
        self.uncounted = ""
        self.stored, self.gone = SampleRanges(), list[SampleRange]()
        self._noted: dict[str, list[tuple[str, int, int, SampleRange]]] = defaultdict(list)
        """Night, first and last time (ms) of a file, or of rows, and samples in it, by device."""
        path = folder / NAME
        try:
            if path.exists():
                with closing(connect(path)) as db:
                    self._read(db)
        except sqlite3.OperationalError as error:
            self.troubles.append(str(away(path, error)))
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.troubles.append(f"{path} is damaged: {error}")

    def _read(self, db: sqlite3.Connection) -> None:
        """Read the catalogue and the notes."""
        db.execute("BEGIN")
        self.gone = gone_in(db)
        found = [part for part in self.gone if not part.reason.startswith(LOST)]
        for night, name, device, first, last, _, samples, *_ in entries(db):
            self._noted[device] += ((night, first, last, part) for part in samples.ranges())
            copies = self._copies if night == self.night else None
            if copies is None or (copies / NIGHTS / night / name).exists():
                found += samples.ranges()
        for *island, first, last in db.execute(ISLANDS):
            part = SampleRange(*island)
            self._noted[part.device].append((night_of(first), first, last, part))
            if self._copies is None:
                found.append(part)
        self.stored = SampleRanges(found)

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        """See ``StoreReader``."""
        found = self._rows(device, self._start - MARGIN, self._end + MARGIN)
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        here = [(row.epoch, row.seq) for row in found if self._start <= row.time < self._end]
        for night, _, _, (_, epoch, first, last, _) in self._noted[device]:
            if night < self.night:
                before[epoch] = max(last, before.get(epoch, 0))
            elif night > self.night:
                after[epoch] = min(first, after.get(epoch, first))
            else:
                here += [(epoch, first), (epoch, last)]
        return found, belonging(device, before, extent(here), after)

    def find(self, wanted: SampleRange) -> list[Row]:
        """See ``StoreReader``."""
        samples = SampleRanges([wanted])
        spans = {
            (first, last)
            for _, first, last, part in self._noted[wanted.device]
            if SampleRanges([part]) & samples
        }
        rows = (row for first, last in spans for row in self._rows(wanted.device, first, last + 1))
        found = {row[:2]: row for row in rows if (wanted.device, *row[:2]) in samples}
        return [*found.values()]

    def _rows(self, device: str, start: int, end: int) -> list[Row]:
        """Return the samples of a device in a span (ms), but not those in damaged files."""
        if self._copies and not (self._copies / MARKER).exists():
            raise AwayError(f"{self._copies} has no copies: mount its disk")
        copies = str(self._copies) if self._copies else None
        try:
            answer = self._child.ask("content", device, start, end, copies)
        except (OSError, ValueError) as error:
            raise AwayError(f"the files of {device} cannot be read: {error}") from error
        for path in answer["damaged"]:
            if (trouble := f"{path} is damaged") not in self.troubles:
                self.troubles.append(trouble)
        return [
            Row(epoch, seq, time, code.to_bytes(SIZE, "little"))
            for epoch, *lists in answer["rows"]
            for seq, time, code in zip(*lists, strict=True)
        ]


class Lines:
    """A ``StoreReader`` of a LineStore, which can only ask an InfluxDB of version 1."""

    def __init__(self, name: str, settings: InfluxDB, folder: Path, night: str) -> None:
        self.name, self.settings = name, settings
        self._start, self._end = night_bounds(night)
        self.troubles: list[str] = []
        self.stored, self.gone = SampleRanges(), list[SampleRange]()
        path = folder / f"{name}.sqlite"
        try:
            if path.exists():
                self.stored, self.gone = read_notes(path)
        except (OSError, sqlite3.Error) as error:
            self.troubles.append(str(away(path, error)))
        self.uncounted = ""
        if settings.version != 1:
            self.uncounted = "only an InfluxDB of version 1 can be read"
        elif not self._answers():
            self.uncounted = "VictoriaMetrics loses the last seconds if it is killed"

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
        question = f"SELECT seq, epoch FROM {series} WHERE {where}"
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
        reader: StoreReader
        if isinstance(settings, InfluxDB):
            reader = Lines(name, settings, folder, night)
        elif isinstance(settings, Folder):
            (source, *_) = embedded_folders(stores, home)
            reader = Nights(name, source, night, settings.folder)
        else:
            reader = Nights(name, folder, night)
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
    return [note for note in found.values() if note.overlaps(start, end)]
