"""Closes nights: writes the samples of a device and a night to a Parquet file.

This runs in a process of its own, beside the recorder (``worker.py``), which enters the file into
the catalogue. It writes nothing but new files, which have names that nobody else uses.
"""

import json
import os
import secrets
import sqlite3
from collections import defaultdict
from contextlib import ExitStack, closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from ...journal.points import Field, night_bounds
from ...journal.ranges import SampleRanges
from .duck import TYPES, connection, literal, parquet, quoted
from .files import checksum, connect, differs, readable, sync
from .tonight import KINDS, NAME, NIGHTS, TAKEN, Job, ranges_of

DATATYPES = {"number": "float64", "bool": "bool", "text": "string"}
RANGES = """
SELECT epoch, min(seq), max(seq) FROM (
    SELECT epoch, seq, seq - row_number() OVER (PARTITION BY epoch ORDER BY seq) AS island FROM {})
GROUP BY epoch, island ORDER BY 1, 2
"""
ROWS = """
SELECT {} FROM sample
WHERE device = ? AND time >= ? AND time < ? ORDER BY epoch, seq
"""
EMPTY = "SELECT make_timestamptz(0) AS time, 0::BIGINT AS seq, '' AS epoch WHERE false"


def build(folder: Path, job: Job) -> dict[str, Any]:
    """Write the file of a job, read it back, and return the facts for ``EmbeddedStore.enter``.

    If there is damage, nothing is written, and the facts are ``bad_files`` (names) or ``bad_rows``
    (epoch and number of each). Raises OSError, ValueError or duckdb.Error.
    """
    place = folder / NIGHTS / job.night
    paths = [place / name for name, *_ in job.parts]
    if bad := [name for name, known, _ in job.parts if differs(place / name, known)]:
        return {"bad_files": bad}
    con = connection()
    with closing(connect(folder / NAME)) as db, ExitStack() as opened:
        db.text_factory = readable
        db.execute("BEGIN")
        query = 'SELECT "column", field, kind, unit FROM field WHERE device = ?'
        fields = {column: what for column, *what in db.execute(query, (job.device,))}
        try:
            text, values, rows = _read_rows(db, job, fields, opened)
            if paths:
                values += sum(count for _, _, count in job.parts)
                text += f" UNION ALL BY NAME FROM {parquet(paths)}"
            con.execute(f"CREATE OR REPLACE TABLE whole AS {text}")
            there = (name for name, *_ in con.execute("DESCRIBE whole").fetchall())
            fields = {name: fields[name] for name in sorted(there) if name not in TAKEN}
            found = _sums(con, "whole", fields)
            if found["values"] != values:
                raise ValueError(f"{found['values']} of {values} values were read")
        except (duckdb.Error, sqlite3.OperationalError, LookupError, TypeError, ValueError):
            if bad_rows := _bad_rows(db, job, fields):
                return {"bad_rows": bad_rows}
            raise
    if job.drop:
        query = "DELETE FROM whole WHERE epoch = ? AND seq BETWEEN ? AND ?"
        con.executemany(query, [samples[1:] for samples in job.drop])
        found = _sums(con, "whole", fields)
    ranges = con.execute(RANGES.format("whole")).fetchall() if paths else rows
    if len(ranges_of(job.device, ranges)) != found["samples"]:
        raise ValueError("some numbers are there twice")
    listed = ", ".join(map(quoted, (*TAKEN, *fields)))
    about = _metadata(job.device, ranges, fields, found["lengths"])
    place.mkdir(parents=True, exist_ok=True)
    new = place / f"{job.name}.{secrets.token_hex(4)}.new"
    try:
        con.execute(
            f"COPY (SELECT {listed} FROM whole ORDER BY time, epoch, seq) TO {literal(new)}"
            " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 2, ROW_GROUP_SIZE 1000000000,"
            f" KV_METADATA {{{about}}})"
        )
        sync(new)
        if _sums(con, parquet([new]), fields) != found:
            raise ValueError(f"{new} is not what was written")
        facts = {"file": new.name, "ranges": ranges, "rows": rows, "checksum": checksum(new)}
        return {**found, **facts, "size": new.stat().st_size}
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _read_rows(
    db: sqlite3.Connection, job: Job, fields: dict[str, Any], opened: ExitStack
) -> tuple[str, int, list[tuple[str, int, int]]]:
    """Return the query of the rows of a job, how many values they have, and which numbers.

    The rows are in files in memory, as CSV, until ``opened`` is closed.
    """
    query = "SELECT id, columns FROM shape WHERE device = ?"
    shapes = {number: json.loads(text) for number, text in db.execute(query, (job.device,))}
    lines: dict[int, list[str]] = defaultdict(list)
    there = SampleRanges()
    query = ROWS.format("epoch, seq, time, shape, body")
    db.text_factory = str  # faster than ``readable``, but an error if a text is damaged
    for epoch, some in groupby(db.execute(query, _span(job)), itemgetter(0)):
        seqs, quoted_epoch = [], _csv(epoch)
        for _, seq, when, shape, body in some:
            seqs.append(seq)
            # Without backslashes, a JSON list is CSV.
            values = body[1:-1] if "\\" not in body else ",".join(map(_csv, json.loads(body)))
            lines[shape].append(f"{when},{seq},{quoted_epoch},{values}\n")
        there.add_numbers(job.device, epoch, seqs)
    texts, count = [], 0
    for shape, rows in lines.items():
        columns = shapes[shape]
        count += len(rows) * len(columns)
        memory = os.memfd_create("rows")
        file = opened.enter_context(os.fdopen(memory, "w", encoding="utf-8", errors="replace"))
        file.writelines(rows)
        file.flush()
        texts.append(_select(file.fileno(), 4 * max(map(len, rows)), columns, fields))
    ranges = [part[1:4] for part in there.ranges()]
    return " UNION ALL BY NAME ".join(texts or [EMPTY]), count, ranges


def _csv(value: Field) -> str:
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else json.dumps(value)


def _span(job: Job) -> tuple[str, int, int]:
    """Return the device of a job, and the span of the times of its rows."""
    return job.device, night_bounds(job.night)[0], job.upto


def _select(file: int, longest: int, columns: list[str], fields: dict[str, Any]) -> str:
    """Return the query of the rows in a file: time, number, epoch and values."""
    types = {f"c{n}": TYPES[fields[column][1]] for n, column in enumerate(columns)}
    named = ", ".join(
        f"{place} AS {quoted(name)}" for place, name in zip(types, columns, strict=True)
    )
    form = {"ms": "BIGINT", "seq": "BIGINT", "epoch": "VARCHAR"} | (types or {"none": "VARCHAR"})
    return (
        f"SELECT make_timestamptz(1000 * ms) AS time, seq, epoch, {named} "
        f"FROM read_csv('/proc/self/fd/{file}', columns = {form}, auto_detect = false,"
        f" header = false, max_line_size = {2**20 + longest}, new_line = '\\n', quote = '\"',"
        " escape = '\"', allow_quoted_nulls = false)"
    )


def _bad_rows(db: sqlite3.Connection, job: Job, fields: dict[str, Any]) -> list[tuple[str, int]]:
    """Return epoch and number of the rows without the values that their shapes promise."""

    def fits(columns: str, body: bytes) -> bool:
        try:
            kinds = [fields[column][1] for column in json.loads(columns)]
            return kinds == [
                KINDS.get(type(value), "number") for value in json.loads(body.decode())
            ]
        except (LookupError, TypeError, ValueError):
            return False

    db.text_factory = readable
    shapes = dict(db.execute("SELECT id, columns FROM shape WHERE device = ?", (job.device,)))
    query = ROWS.format("CAST(epoch AS BLOB), seq, shape, CAST(body AS BLOB)")
    return [
        (readable(epoch), seq)
        for epoch, seq, shape, body in db.execute(query, _span(job))
        if not fits(shapes.get(shape, ""), body)
    ]


def _sums(con: duckdb.DuckDBPyConnection, table: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the count of samples and values, a hash of them, their times, and lengths of texts."""
    names = [*map(quoted, fields)]
    texts = [name for name in fields if fields[name][1] == "text"]
    values = " + ".join((*(f"count({name})" for name in names), "0"))
    lengths = ", ".join(f"max(strlen({quoted(name)}))" for name in ("epoch", *texts))
    found = con.execute(
        f"SELECT count(*), {values}, sum(hash({', '.join((*TAKEN, *names))}))::VARCHAR,"
        f" epoch_ms(min(time)), epoch_ms(max(time)), [{lengths}] FROM {table}"
    ).fetchone()
    assert found is not None  # noqa: S101  (an aggregate has one row)
    return dict(zip(("samples", "values", "hash", "first", "last", "lengths"), found, strict=True))


def _metadata(
    device: str, ranges: list[Any], fields: dict[str, Any], lengths: list[int | None]
) -> str:
    """Return what a file says about itself: keys and values, some of them for astropy."""
    units = {column: unit for column, (_, _, unit) in fields.items() if unit}
    kinds = {"time": "datetime64", "seq": "int64", "epoch": "string"}
    kinds |= {column: DATATYPES[kind] for column, (_, kind, _) in fields.items()}
    table = [
        {"name": column, "datatype": kind} | ({"unit": units[column]} if column in units else {})
        for column, kind in kinds.items()
    ]
    texts = (column for column, kind in kinds.items() if kind == "string")
    found = {
        "device": device,
        "units": json.dumps(units),
        "columns": json.dumps(fields),
        "ranges": json.dumps(ranges),
        "table_meta_yaml": "\n".join(("datatype:", *(f"- {json.dumps(one)}" for one in table))),
    }
    found |= {f"table::len::{name}": str(n or 1) for name, n in zip(texts, lengths, strict=True)}
    return ", ".join(f"{quoted(key)}: {literal(value)}" for key, value in found.items())


def examine(path: str) -> dict[str, Any]:
    """Return the facts of a closed file that the catalogue does not know; none if unreadable."""
    con, file = connection(), parquet([Path(path)])
    try:
        query = (
            f"SELECT decode(value) FROM parquet_kv_metadata({literal(path)}) WHERE key = 'columns'"
        )
        ((columns,),) = con.execute(query).fetchall()
        fields = json.loads(columns)
        sums = _sums(con, file, fields)
        ranges = con.execute(RANGES.format(file)).fetchall()
        facts = {"ranges": ranges, "checksum": checksum(Path(path)), "fields": fields}
        return {**sums, **facts, "size": Path(path).stat().st_size}
    except (duckdb.Error, OSError, ValueError):
        return {}
