"""Reading the records of a damaged SQLite file."""

import random
import re
import shutil
import sqlite3
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.journal.salvage import Value, records

SCHEMA = """
CREATE TABLE plain (name TEXT, number INTEGER, real REAL, body BLOB);
CREATE TABLE keyed (id INTEGER PRIMARY KEY, name TEXT, body BLOB);
CREATE TABLE tree (name TEXT, seq INTEGER, real REAL, body BLOB, PRIMARY KEY (name, seq))
    WITHOUT ROWID;
CREATE INDEX real_of_tree ON tree (real);
"""
INTEGERS = (0, 1, -1, 127, -128, 2**15, -(2**23), 2**31, -(2**47), 2**47, 2**63 - 1, -(2**63))
MARKER = rb"<\d{6}>"
Row = tuple[Value, ...]


def make(
    path: Path, *, page_size: int = 4096, count: int = 300, longest: int = 30, seed: int = 1
) -> dict[Row, bytes]:
    """Make a file; return its rows as ``records`` gives them, each with the marker it is full of.

    The last third of the rows is in the WAL only, in transactions of five.
    """
    rng = random.Random(seed)
    rows: dict[Row, bytes] = {}
    with closing(sqlite3.connect(path.with_name("original"), isolation_level=None)) as db:
        db.executescript(
            f"PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = INCREMENTAL;"
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;" + SCHEMA
        )
        for n in range(count):
            if n == count // 15 * 10:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if n % 5 == 0:
                db.execute("BEGIN")
            number, real = rng.choice(INTEGERS), rng.choice((None, rng.random()))
            name = f"é{n * 7919 % count}"
            markers = [b"<%06d>" % (3 * n + m) for m in range(3)]
            bodies = [marker * rng.choice((1, 2, longest)) for marker in markers]
            db.execute("INSERT INTO plain VALUES (?, ?, ?, ?)", (name, number, real, bodies[0]))
            db.execute("INSERT INTO keyed VALUES (?, ?, ?)", (n * 1000, name, bodies[1]))
            db.execute("INSERT INTO tree VALUES (?, ?, ?, ?)", (name, n, real, bodies[2]))
            rows[n + 1, name, number, real, bodies[0]] = markers[0]
            rows[n * 1000, None, name, bodies[1]] = markers[1]
            rows[name, n, real, bodies[2]] = markers[2]
            if n % 5 == 4:
                db.execute("COMMIT")
        for end in ("", "-wal"):
            shutil.copyfile(f"{path.with_name('original')}{end}", f"{path}{end}")
    return rows


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def salvaged(path: Path) -> set[Row]:
    return set(records(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.sqlite"


@pytest.mark.parametrize("longest", [1, 30, 3000])
@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_every_row_of_an_undamaged_file_is_found(path: Path, page_size: int, longest: int) -> None:
    expected = make(path, page_size=page_size, longest=longest)
    assert expected.keys() <= salvaged(path)
    with closing(sqlite3.connect(path)) as db:
        assert {row for row in expected if len(row) == 5} == set(
            db.execute("SELECT rowid, * FROM plain")
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert expected.keys() <= salvaged(path), "and when all of it is in the file itself"


def test_nothing_but_the_rows_the_indices_and_the_schema_is_found(path: Path) -> None:
    expected = make(path)
    others = salvaged(path) - expected.keys()
    schema = {row for row in others if isinstance(row[1], str) and row[1] in ("table", "index")}
    indices = {
        (row[2], row[0], row[1]) for row in expected if len(row) == 4 and row[1:2] != (None,)
    }
    assert others - schema == indices


def one_file(path: Path) -> None:
    """Write everything into the file itself, without remains of anything earlier."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not wal(path).exists()


def damage(data: bytearray, step: int, rng: random.Random) -> set[int]:
    """Damage the first of these pages or frames and some others; return which."""
    pages = {0} | {rng.randrange(len(data) // step) for _ in range(len(data) // step // 8)}
    for page in pages:
        for _ in range(rng.choice((1, 10, 100))):
            at = page * step + rng.randrange(step)
            data[at : at + 1] = rng.randbytes(1)
    return pages


def pages_with(data: bytes, size: int) -> dict[bytes, set[int]]:
    """Return which pages have a marker, or at their beginning the end of one: by the bytes only."""
    found: dict[bytes, set[int]] = defaultdict(set)
    ends: dict[bytes, set[int]] = defaultdict(set)
    for at in range(0, len(data), size):
        page = data[at : at + size]
        markers = set(re.findall(MARKER, page))
        for marker in markers:
            found[marker].add(at // size)
        if not markers and (end := re.match(rb"<?\d{0,6}>", page[4:])):
            ends[end[0]].add(at // size)
    for marker, pages in found.items():
        for n in range(len(marker)):
            pages.update(ends.get(marker[n:], ()))
    return found


@pytest.mark.parametrize("longest", [1, 30, 600])
@pytest.mark.parametrize("page_size", [512, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_every_row_on_undamaged_pages_of_a_file_is_found(
    path: Path, page_size: int, longest: int, seed: int
) -> None:
    rows = make(path, page_size=page_size, longest=longest, seed=seed)
    one_file(path)
    data = bytearray(path.read_bytes())
    pages = pages_with(bytes(data), page_size)
    damaged = damage(data, page_size, random.Random(seed))
    path.write_bytes(data)
    safe = {row for row, marker in rows.items() if not pages[marker] & damaged}
    assert len(safe) > len(rows) // 4
    assert safe <= salvaged(path)


@pytest.mark.parametrize("longest", [1, 600])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_frame_of_the_wal_costs_no_more_than_its_own_page(
    path: Path, longest: int, seed: int
) -> None:
    """SQLite accepts nothing behind the first damaged one."""
    rows = make(path, longest=longest, seed=seed)
    path.unlink()
    data = bytearray(wal(path).read_bytes())
    step = 24 + 4096
    frames = bytearray(data[32:])
    damaged = damage(frames, step, random.Random(seed))
    wal(path).write_bytes(data[:32] + frames)
    found = salvaged(path)
    for frame in damaged:
        data[32 + frame * step + 24 : 32 + (frame + 1) * step] = bytes(4096)
    wal(path).write_bytes(data)
    safe = salvaged(path) & rows.keys()
    assert len(safe) > len(rows) // 6
    assert safe <= found


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_the_page_size_is_found_without_the_headers(path: Path, page_size: int) -> None:
    rows = make(path, page_size=page_size)
    one_file(path)
    with path.open("r+b") as stream:
        stream.write(b"not a database at all" * 10)
    assert rows.keys() <= salvaged(path)


@pytest.mark.parametrize("absent", ["", "-wal"])
def test_either_file_may_be_absent(path: Path, absent: str) -> None:
    rows = make(path)
    whole = salvaged(path)
    path.with_name(path.name + absent).unlink()
    assert 0 < len(salvaged(path) & rows.keys()) < len(whole & rows.keys())
    for file in (path, wal(path)):
        file.unlink(missing_ok=True)
    assert not salvaged(path)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 30, 3000))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + 9000] = rng.choice((bytes(9000), rng.randbytes(9000), data[:9000]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def shift(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :][: rng.randrange(1, 5000)]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from([flip, overwrite, cut, shift]), min_size=1, max_size=4),
    page_size=st.sampled_from([512, 4096]),
)
def test_no_damage_is_an_exception(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    kinds: list[Callable[[bytearray, random.Random], None]],
    page_size: int,
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("damaged") / "file.sqlite"
    make(path, page_size=page_size, count=60, longest=300)
    for file in (path, wal(path)):
        data = bytearray(file.read_bytes())
        for kind in kinds:
            if data:
                kind(data, rng)
        file.write_bytes(data)
    for row in records(path):
        assert all(isinstance(one, int | float | str | bytes | None) for one in row)


def test_a_chain_of_pages_that_is_a_circle_or_endless_is_left_out(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE one (body BLOB)")
        db.execute("INSERT INTO one VALUES (?)", (bytes(40_000),))
        db.commit()
    whole = path.read_bytes()
    assert any(row == (1, bytes(40_000)) for row in records(path))
    for successor in (3, 4, 2**31):
        data = bytearray(whole)
        data[4 * 4096 : 4 * 4096 + 4] = successor.to_bytes(4, "big")
        path.write_bytes(data)
        assert not any(len(row) == 2 for row in records(path))


def test_a_large_file_takes_no_more_memory_than_a_small_one(path: Path) -> None:
    peaks = []
    for count in (300, 2000):
        make(path, count=count)
        one_file(path)
        tracemalloc.start()
        for _ in records(path):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        path.with_name("original").unlink()
    assert path.stat().st_size > 20 * peaks[1]
    assert peaks[1] < 1.5 * peaks[0]
