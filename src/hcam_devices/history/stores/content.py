"""The samples that closed files really have, with their digests, for the audit.

This runs in the process for closed files (``worker.py``).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from .duck import connection, literal, parquet, quoted
from .files import away, differs
from .nights import MS, Column, NightFiles

US = "\x1f"
TEXTS = {
    "number": "printf('%.17g', {})",
    "bool": "CASE WHEN {} THEN 'true' ELSE 'false' END",
    "text": "{}",
}


def digest(columns: list[Column]) -> str:
    """Return the SQL of the digest of a sample, as in ``journal/digest.py``, as a number."""
    fields: dict[str, list[Column]] = defaultdict(list)
    for column in columns:
        fields[column.field].append(column)
    parts = [f"seq || {literal(US)} || {MS}"]
    for field in sorted(fields):
        name = literal(f"{US}{field}{US}").replace("\0", "' || chr(0) || '")
        for column in fields[field]:
            text = TEXTS[column.kind].format(quoted(column.name))
            parts.append(
                f"CASE WHEN {quoted(column.name)} IS NULL THEN '' ELSE {name} || {text} END"
            )
    return f"md5_number_upper({' || '.join(parts)})"


def content(
    folder: Path, device: str, files: Sequence[tuple[str, str]], start: int, end: int
) -> dict[str, Any]:
    """Return the samples of a device in a span (ms), and which of its files are damaged.

    ``files`` are paths and checksums. ``rows`` are, for each epoch, it and the lists of numbers,
    times and digests. Raises AwayError or OSError.
    """
    damaged = [path for path, known in files if differs(Path(path), known)]
    sound = [Path(path) for path, _ in files if path not in damaged]
    if not sound:
        return {"rows": [], "damaged": damaged}
    con = connection()
    there = {name for name, *_ in con.execute(f"DESCRIBE FROM {parquet(sound)}").fetchall()}
    columns = [column for column in NightFiles(folder).columns(device) if column.name in there]
    query = f"""
        SELECT epoch, list(seq), list({MS}), list({digest(columns)}) FROM {parquet(sound)}
        WHERE time >= make_timestamptz({1000 * start}) AND time < make_timestamptz({1000 * end})
        GROUP BY epoch
    """
    try:
        return {"rows": con.execute(query).fetchall(), "damaged": damaged}
    except duckdb.Error as error:
        raise away(folder, error) from error
