"""``hcam history convert``: writes nights of the version before into closed files.

Such a night is a SQLite file. A row of ``sample`` has the id of its stream, its time, its number,
and packed doubles with a CRC-32 of all that. A double is a number, a bool, or the id of a text.
Streams are texts, too: JSON of device, epoch and fields. ``stored`` has the ranges that were noted.
"""

import json
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

from .. import HcamError
from ..config.instrument import load
from ..config.stores import embedded_folders
from ..host.home import home
from ..journal.digest import SIZE, digest
from ..journal.points import Field, Point, night_bounds
from ..journal.ranges import SampleRange, SampleRanges, numbers_of
from ..journal.records import Record
from .stores import AwayError
from .stores.embedded import EmbeddedStore
from .stores.files import connect, readable, trying

NIGHTS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].sqlite"
MAIN = "history.sqlite"
SOUND = 0x2144DF1C
"""The CRC-32 of anything followed by its own CRC-32, little-endian."""

Stream: TypeAlias = tuple[int, str, list[tuple[str, str, str | None]]]
"""The id and the epoch of a stream, and the name, kind and unit of each field."""


def convert(file: Path | None) -> Iterator[tuple[str, bool]]:
    """Convert what is in the folders of the embedded stores.

    Yield a sentence for each file, and whether all of it was converted. This may be interrupted at
    any time, and run again. Raises HcamError if a store cannot be used, or if the recorder is
    running.
    """
    for folder in embedded_folders(load(file).stores, home()):
        paths = sorted(folder.glob(NIGHTS))
        if not paths:
            yield f"{folder} has no nights of the version before", True
            continue
        try:
            with closing(EmbeddedStore("convert", folder)) as store:
                for path in paths:
                    with trying(path):
                        yield _convert(store, path)
        except AwayError as error:
            raise HcamError(f"{error} (hwlogger must not run meanwhile)") from None
        if (main := folder / MAIN).exists():
            yield f"{main} has only minutes of older nights, which stay there", True


def _convert(store: EmbeddedStore, path: Path) -> tuple[str, bool]:
    """Convert a night and compare it; return a sentence, and whether it is complete."""
    night = path.stem
    wrong: list[str] = []
    count, there = 0, SampleRanges()
    with closing(connect(path)) as db:
        db.text_factory = readable
        old = _OldNight(db)
        for device, streams in old.devices.items():
            points = old.points(device, streams)
            store.write([*map(Record.of, points)])
            wrong += store.close_nights(night)
            answer = store.child.ask("content", device, *night_bounds(night), None)
            closed = {
                (epoch, seq): code.to_bytes(SIZE, "little")
                for epoch, *lists in answer["rows"]
                for seq, _, code in zip(*lists, strict=True)
            }
            differing = [one for one in points if closed.get((one.epoch, one.seq)) != digest(one)]
            wrong += _named(numbers_of(differing), "differs")
            there |= numbers_of(points)
            count += len(points)
    wrong += [*_named(old.noted - there, "cannot be read"), *dict.fromkeys(old.damage)]
    said = f"{path}: {count} samples of {len(old.devices)} devices were converted and compared"
    if wrong:
        return f"{said}, but {'; '.join(wrong)}: the file is kept, as all of them are", False
    return f"{said}: the file may be removed", True


def _named(samples: SampleRanges, what: str) -> list[str]:
    return [
        f"{part.device} {part.first}-{part.last} (epoch {part.epoch}) {what}"
        for part in samples.ranges()
    ]


class _OldNight:
    """The readable part of a night; ``damage`` says why there is more in it, or is empty."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.damage: list[str] = []
        self._texts: dict[int, str] = {}
        for number, text in self._rows("SELECT id, text FROM text"):
            hashed = blake2b(str(text).encode(errors="replace"), digest_size=8).digest()
            if int.from_bytes(hashed) >> 12 == number:
                self._texts[number] = text
        self.noted = SampleRanges()
        """The samples that the file should have."""
        for *noted, stamp in self._rows("SELECT device, epoch, first, last, stamp FROM stored"):
            if crc32(json.dumps(["stored", *noted], default=repr).encode()) == stamp:
                self.noted |= SampleRanges([SampleRange(*noted)])
        self.devices: dict[str, list[Stream]] = defaultdict(list)
        for (number,) in self._rows("SELECT DISTINCT stream FROM sample"):
            if number in self._texts:
                device, epoch, fields = json.loads(self._texts[number])
                self.devices[device].append((number, epoch, fields))

    def points(self, device: str, streams: list[Stream]) -> list[Point]:
        """Return the samples of a device whose checksums are right, each number once."""
        found: dict[tuple[str, int], Point] = {}
        for number, epoch, fields in streams:
            packed = struct.Struct(f"<{len(fields)}d")
            units = {name: unit for name, _, unit in fields if unit is not None}
            query = "SELECT time, seq, body FROM sample WHERE stream = ?"
            for time, seq, body in self._rows(query, number):
                try:
                    if crc32(body, crc32(struct.pack("<qqq", number, time, seq))) != SOUND:
                        continue
                    numbers = packed.unpack_from(body)
                    values = {
                        name: self._value(kind, n)
                        for (name, kind, _), n in zip(fields, numbers, strict=True)
                    }
                except (LookupError, TypeError, struct.error):
                    continue
                found.setdefault((epoch, seq), Point(device, epoch, seq, time, values, units))
        return [*found.values()]

    def _value(self, kind: str, number: float) -> Field:
        if kind == "text":
            return self._texts[int(number)]
        return bool(number) if kind == "bool" else number

    def _rows(self, query: str, *values: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that SQLite can read."""
        try:
            yield from self.db.execute(query, values)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self.damage.append(str(error))
