"""The answer to an SQL statement as a table, CSV or JSON."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .commands import printable

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

MAX_LINES = 1000
"""Print at most this many rows as a table, whose layout takes a ms for each row."""


def plain(value: Any) -> Any:
    """Return a value as JSON has it: a time as text, and null for NaN and infinities."""
    if isinstance(value, datetime):
        exactly = "microseconds" if value.microsecond % 1000 else "milliseconds"
        return value.isoformat(timespec=exactly).replace("+00:00", "Z")
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)


def show(answer: "DuckDBPyRelation", how: str) -> None:
    """Print an answer as ``table``, ``csv`` or ``json``."""
    columns = answer.columns
    rows = (tuple(map(plain, row)) for row in answer.iter_rows())
    if how == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    elif how == "json":
        lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        print("[", end="")
        for number, line in enumerate(lines):
            print(",\n " if number else "", line, sep="", end="")
        print("]")
    else:
        _table(columns, rows)


def _table(columns: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(printable(column), no_wrap=not sys.stdout.isatty())
    for row in islice(rows, MAX_LINES):
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    wide = None if sys.stdout.isatty() else 10**6
    Console(highlight=False, markup=False, width=wide).print(table)
    if more := sum(1 for _ in rows):
        print(f"and {more} more rows: use --csv or --json to print them all", file=sys.stderr)
