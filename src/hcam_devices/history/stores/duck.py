"""DuckDB, as the closed files of a store are read and written with it.

It is imported when it is needed: it takes 0.1 s and 57 MiB, without which the recorder does.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TYPES = {"number": "DOUBLE", "bool": "BOOLEAN", "text": "VARCHAR"}
SETTINGS = """
SET memory_limit = '400MB'; SET temp_directory = ''; SET TimeZone = 'UTC';
SET parquet_metadata_cache = true;
SET disabled_optimizers = 'common_subplan';
SET autoinstall_known_extensions = false; SET autoload_known_extensions = false;
"""
"""``common_subplan`` would read all open rows, which are a constant of the query, to no effect."""


@cache
def connection(threads: int = 1) -> "DuckDBPyConnection":
    """Return a database in memory that reads and writes files, and nothing of the network."""
    import duckdb  # noqa: PLC0415

    # Each of the usual eight threads for I/O takes 64 MiB of addresses.
    con = duckdb.connect(config={"threads": threads, "async_threads": 1})
    con.execute(SETTINGS)
    return con


def quoted(name: str) -> str:
    """Return the name of a column, quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """Return a text or a list of texts, quoted for SQL."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return "'" + str(value).replace("'", "''") + "'"


def parquet(paths: list[Path]) -> str:
    """Return the SQL of the rows of closed files of one device."""
    return f"read_parquet({literal(paths)}, union_by_name = true, hive_partitioning = false)"
