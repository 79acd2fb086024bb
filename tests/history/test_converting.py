"""Nights of the version before become closed files: every sample, once, whatever happens."""

import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.history.converting import MAIN
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.points import Field, Point, night_bounds

from ..conftest import Scaled
from ..helpers import records

NIGHT, NEXT = "2026-11-22", "2026-11-23"
START, _ = night_bounds(NIGHT)
DAY_MS = 86_400_000
EPOCH = "4f3c0a9be1d2"
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE sample (stream, time, seq, body, PRIMARY KEY (stream, time, seq)) WITHOUT ROWID;
CREATE TABLE text (id, text, PRIMARY KEY (id)) WITHOUT ROWID;
CREATE TABLE stored (device, epoch, first, last, stamp, PRIMARY KEY (device, epoch, first, last))
 WITHOUT ROWID;
"""
KINDS = {bool: "bool", str: "text"}


def point(seq: int, device: str = "ccd1", **more: Field) -> Point:
    values: dict[str, Field] = {"x": seq / 7, "n": float(seq), "on": seq % 2 == 0, "state": "é\x00"}
    return Point(device, EPOCH, seq, START + 1000 * seq, values | more, {"x": "mbar"})


SOME = [point(n) for n in range(1, 301)]
OTHERS = [
    point(n, "b/c", **({"x": "a text", "state": f"s{n}"} if n % 2 else {})) for n in range(1, 91)
]


def text_id(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest()) >> 12


def stamp(*values: Any) -> int:
    return crc32(json.dumps(values, default=repr).encode())


def write_old(path: Path, points: Iterable[Point]) -> None:
    """Write a file as the version before did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seqs: dict[tuple[str, str], list[int]] = {}
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)

        def keep(text: str) -> int:
            row = text_id(text), text.encode(errors="replace").decode()
            db.execute("INSERT OR IGNORE INTO text VALUES (?, ?)", row)
            return text_id(text)

        for one in points:
            fields = [
                (name, KINDS.get(type(value), "number"), one.units.get(name))
                for name, value in one.values.items()
            ]
            stream = keep(json.dumps([one.device, one.epoch, fields]))
            numbers = [
                float(keep(value)) if isinstance(value, str) else float(value)
                for value in one.values.values()
            ]
            body = struct.pack(f"<{len(numbers)}d", *numbers)
            key = stream, one.time, one.seq
            sealed = body + crc32(body, crc32(struct.pack("<qqq", *key))).to_bytes(4, "little")
            db.execute("INSERT INTO sample VALUES (?, ?, ?, ?)", (*key, sealed))
            seqs.setdefault(one[:2], []).append(one.seq)
        for key_, some in seqs.items():
            noted = *key_, min(some), max(some)
            db.execute(
                "INSERT INTO stored VALUES (?, ?, ?, ?, ?)", (*noted, stamp("stored", *noted))
            )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    return tmp_path / "history"


def converted(code: int = 0) -> str:
    result = CliRunner().invoke(main, ["history", "convert"])
    assert result.exit_code == code, result.output
    return result.output


def there(folder: Path) -> list[Point]:
    files = NightFiles(folder)
    found = [one for night in files.nights() for one in files.samples(night)]
    return sorted(one._replace(values=dict(sorted(one.values.items()))) for one in found)


def in_order(points: Iterable[Point]) -> list[Point]:
    return sorted(one._replace(values=dict(sorted(one.values.items()))) for one in points)


def test_every_sample_is_in_a_closed_file_once_and_the_old_file_stays(folder: Path) -> None:
    later = [one._replace(seq=one.seq + 300, time=one.time + DAY_MS) for one in SOME]
    write_old(folder / f"{NIGHT}.sqlite", [*SOME, *OTHERS])
    write_old(folder / f"{NEXT}.sqlite", later)
    old = {path: path.read_bytes() for path in folder.glob("*.sqlite")}
    said = converted()
    assert f"{NIGHT}.sqlite: 390 samples of 2 devices were converted and compared" in said
    assert f"{NEXT}.sqlite: 300 samples of 1 devices" in said
    names = {str(path.relative_to(folder / "nights")) for path in folder.glob("nights/*/*")}
    assert names == {
        f"{NIGHT}/ccd1.parquet",
        f"{NIGHT}/b%2Fc.parquet",
        f"{NEXT}/ccd1.parquet",
    }
    assert there(folder) == in_order([*SOME, *OTHERS, *later])
    assert {path: path.read_bytes() for path in old} == old
    assert converted() == said
    assert there(folder) == in_order([*SOME, *OTHERS, *later])


def test_what_the_journals_brought_again_meanwhile_is_not_doubled(folder: Path) -> None:
    with closing(EmbeddedStore("local", folder)) as store:
        store.write(records(SOME[100:200]))
        assert store.close_nights(NIGHT) == []
        store.write(records(SOME[200:250]))
    write_old(folder / f"{NIGHT}.sqlite", SOME)
    converted()
    assert there(folder) == in_order(SOME)


def test_rows_that_are_damaged_are_named(folder: Path) -> None:
    path = folder / f"{NIGHT}.sqlite"
    write_old(path, SOME)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE sample SET body = zeroblob(length(body)) WHERE seq BETWEEN 20 AND 22")
        db.execute("DELETE FROM sample WHERE seq = 31")
    for _ in range(2):
        said = converted(1)
        assert "297 samples of 1 devices" not in said
        assert "296 samples of 1 devices were converted and compared, but ccd1 20-22 (epoch" in said
        assert "ccd1 31-31 (epoch 4f3c0a9be1d2) cannot be read: the file is kept" in said
    assert there(folder) == in_order(one for one in SOME if one.seq not in (20, 21, 22, 31))


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_gives_what_sqlite_can_read_and_nothing_else(
    folder: Path, seed: int
) -> None:
    path = folder / f"{NIGHT}.sqlite"
    write_old(path, SOME)
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    page = chance.randrange(1, len(content) // 4096) * 4096
    for _ in range(1 + 100 * (seed % 2)):
        content[page + chance.randrange(4096)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["history", "convert"])
    assert result.exit_code in (0, 1), result.output
    assert isinstance(result.exception, (SystemExit, type(None)))
    found, wanted = there(folder), in_order(SOME)
    assert all(one in wanted for one in found)
    assert (result.exit_code == 0) <= (found == wanted)
    if len(found) < len(wanted):
        assert "cannot be read" in result.output or "malformed" in result.output


def test_minutes_stay(folder: Path) -> None:
    write_old(folder / MAIN, [])
    write_old(folder / f"{NIGHT}.sqlite", SOME)
    assert f"{MAIN} has only minutes of older nights" in converted()


def test_nothing_is_converted_while_a_recorder_runs(folder: Path) -> None:
    write_old(folder / f"{NIGHT}.sqlite", SOME)
    with closing(EmbeddedStore("local", folder)):
        assert "hwlogger must not run meanwhile" in converted(1)


def test_it_may_be_killed_at_any_time(folder: Path, scaled: Scaled) -> None:
    later = [one._replace(seq=one.seq + 300, time=one.time + DAY_MS) for one in SOME]
    write_old(folder / f"{NIGHT}.sqlite", [*SOME, *OTHERS])
    write_old(folder / f"{NEXT}.sqlite", later)
    command = [sys.executable, "-m", "hcam_devices", "history", "convert"]
    chance, whole, kills = random.Random(3), 3.0, 0
    while kills < scaled(2, soak=60):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        try:
            begun = time.monotonic()
            process.communicate(timeout=chance.uniform(0.3, 1.0) * whole)
            assert process.returncode == 0
            whole = min(whole, time.monotonic() - begun)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            found = there(folder)
            assert len({one[:3] for one in found}) == len(found)
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert there(folder) == in_order([*SOME, *OTHERS, *later])
