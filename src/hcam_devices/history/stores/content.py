"""The samples that a store really has, with their digests, for the audit.

This runs in the process for closed files (``worker.py``).
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from .duck import literal, quoted
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


def content(folder: Path, device: str, start: int, end: int, copies: str | None) -> dict[str, Any]:
    """Return the samples of a device in a span (ms), and which of its files are damaged.

    ``rows`` are, for each epoch, it and the lists of numbers, times and digests. See ``NightFiles``
    for ``copies``. Raises AwayError.
    """
    files = NightFiles(folder, Path(copies) if copies else None)
    columns = files.columns(device)
    listed = f"list(seq), list({MS}), list({digest(columns)})"
    query = f"SELECT epoch, {listed} FROM sample GROUP BY epoch"
    rows = files.ask(device, columns, start, end, query, check=True)
    return {"rows": rows, "damaged": [*map(str, files.damaged)]}
