"""What is in the files of a store, read without its help."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb

from hcam_devices.history.stores.files import checksum, connect
from hcam_devices.journal.points import Point, night_of
from hcam_devices.journal.ranges import SampleRanges


def all_of(folder: Path) -> list[Point]:
    """Return all samples in the files of a store, in order of time.

    Check that the files are those in the catalogue, and what it says of them.
    """
    found = []
    with closing(connect(folder / "tonight.sqlite")) as db:
        fields = {(device, column): tuple(what) for device, column, *what in db.execute(FIELDS)}
        files = db.execute("SELECT * FROM file").fetchall()
        shapes = {number: json.loads(text) for number, _, text in db.execute("SELECT * FROM shape")}
        rows = db.execute("SELECT * FROM sample").fetchall()
        assert db.execute("SELECT * FROM pending").fetchall() == []

    def point(device: str, epoch: str, seq: int, time: int, row: dict[str, Any]) -> Point:
        named = {fields[device, column]: value for column, value in row.items()}
        units = {field: unit for field, _, unit in named if unit is not None}
        values = {field: value for (field, _, _), value in named.items()}
        assert len(values) == len(row), "a field has two values"
        kinds = {"number": float, "bool": bool, "text": str}
        assert all(type(value) is kinds[kind] for (_, kind, _), value in named.items())
        return Point(device, epoch, seq, time, values, units)

    for device, epoch, seq, time, shape, body in rows:
        row = dict(zip(shapes[shape], map(plain, json.loads(body)), strict=True))
        found.append(point(device, epoch, seq, time, row))
    # A process that outlives a killed recorder may leave an unfinished file (*.new) behind.
    there = {path.relative_to(folder / "nights") for path in folder.glob("nights/*/*.parquet")}
    assert there == {Path(night) / name for night, name, *_ in files}
    for night, name, device, first, last, samples, ranges, known, _ in files:
        path = folder / "nights" / night / name
        assert checksum(path) == known
        assert unquote(name.partition(".")[0]) == device
        query = "SELECT epoch_ms(time) AS at, * EXCLUDE time FROM read_parquet(?)"
        answer = duckdb.execute(query, [str(path)])
        columns = [column for column, *_ in answer.description][3:]
        inside = []
        for at, seq, epoch, *values in answer.fetchall():
            row = dict(zip(columns, values, strict=True))
            row = {column: value for column, value in row.items() if value is not None}
            inside.append(point(device, epoch, seq, at, row))
            assert night_of(at) == night
        assert inside == sorted(inside, key=lambda one: (one.time, one.epoch, one.seq))
        assert (len(inside), inside[0].time, inside[-1].time) == (samples, first, last)
        numbers = {
            (epoch, n) for epoch, low, high in json.loads(ranges) for n in range(low, high + 1)
        }
        assert numbers == {(one.epoch, one.seq) for one in inside}
        found += inside
    return in_order(found)


FIELDS = 'SELECT device, "column", field, kind, unit FROM field'


def plain(value: Any) -> Any:
    """Return a value as the store has it: JSON has integers, which are numbers as well."""
    return float(value) if type(value) is int else value


def in_order(points: list[Point]) -> list[Point]:
    """Return points in an order that is always the same."""
    return sorted(points, key=lambda one: (one.time, one.device, one.epoch, one.seq))


def numbers_of(ranges: SampleRanges) -> set[tuple[str, str, int]]:
    """Return device, epoch and number of each of some samples."""
    return {
        (device, epoch, seq)
        for device, epoch, first, last, _ in ranges.ranges()
        for seq in range(first, last + 1)
    }
