"""SQL over the history, in the caller's own process and with his rights.

Every device has a view, named as the device: all of its samples of all nights until now, with
``time``, ``seq``, ``epoch`` and its fields. The commands to ``slide`` are in ``"slide.command"``.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import HcamError
from ..names import nearest
from .archive import files_here
from .stores import AwayError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from .stores.nights import NightFiles, Snapshot

UNQUOTED = re.compile(r'(?<![\w".])([A-Za-z]\w*)\.[A-Za-z]\w*(?![\w"])')
NO_TABLE = re.compile(r'Table with name "?(.+?)"? does not exist')


def connect(home: Path | str | None = None) -> "DuckDBPyConnection":
    """Return a connection to DuckDB with a view for each device, in which times are UTC.

    ``home`` is the folder HCAM_HOME, with the first embedded store of the instrument file.

        connect().sql('SELECT time, "state.connection" FROM ccd1 WHERE temperature > -80')

    The views have what was stored until now: connect again to see what came later. When the
    recorder has merged files meanwhile, which it does every noon, a query fails because a file does
    not exist; connect again then, too. Raises HcamError if there is no history.
    """
    files = files_here(folder=None if home is None else Path(home).absolute())
    try:
        return _connected(files, files.streams())[0]
    except AwayError as error:
        raise HcamError(str(error)) from None


def ask(files: "NightFiles", text: str) -> "DuckDBPyRelation | None":
    """Return the answer to a statement, or None if it has none.

    Only the views that the statement names are made. Raises HcamError if it is wrong, and AwayError
    if a file cannot be read.
    """
    import duckdb  # noqa: PLC0415  (takes 0.1 s and 57 MiB)

    streams = files.streams()
    named = [stream for stream in streams if stream.lower() in text.lower()] or streams
    while True:
        found, error = None, None
        con, there = _connected(files, named)
        try:
            answer = con.sql(text)
            found = None if answer is None else answer.materialize()
        except duckdb.Error as raised:
            error = raised
        if all(map(files.is_current, there)):
            break
    if error is None:
        return found
    first = str(error).partition("\n\nLINE")[0].replace("\n", " ")
    if wrong := NO_TABLE.search(first):
        first = (
            f"there is no history of {wrong[1]!r}; there is history of {nearest(wrong[1], streams)}"
        )
    dotted = (
        match[0]
        for match in UNQUOTED.finditer(text)
        if match[0] in streams or match[1] not in streams
    )
    if name := next(dotted, None):
        first += f'; in SQL, names with a dot need double quotes: "{name}"'
    raise HcamError(first) from None


def _connected(
    files: "NightFiles", streams: Iterable[str]
) -> tuple["DuckDBPyConnection", list["Snapshot"]]:
    """Return a connection with the views of some streams, and what they are made of."""
    import duckdb  # noqa: PLC0415

    from .stores.duck import quoted  # noqa: PLC0415
    from .stores.nights import rows_as_table, with_files  # noqa: PLC0415

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; CREATE SCHEMA tonight")
    snapshots = []
    for stream in streams:
        columns, name = files.columns(stream), quoted(stream)
        there = files.snapshot(stream, columns)
        rows = rows_as_table(columns, "$rows")
        con.execute(f"CREATE TABLE tonight.{name} AS {rows}", {"rows": there.rows})
        whole = with_files(f"SELECT * FROM tonight.{name}", [path for path, _ in there.files])
        con.execute(f"CREATE VIEW {name} AS {whole}")
        snapshots.append(there)
    return con, snapshots
