"""A damaged file of a journal: what can be read is served, the rest is gone, nothing dies."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.journal import DAY_S, Journal
from hcam_devices.journal.records import read_page, unpack

from ..conftest import Scaled
from ..helpers import Clock
from .test_journal import FullDisk, all_of, files, fill, gone, lost, sample, seqs, truth

DEVICES = "slide", "flow", "rack"
NOON = Clock().now // DAY_S * DAY_S + DAY_S / 2
Samples = dict[tuple[str, str, int], dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 10, 100))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def blank(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 5))):
        at = rng.randrange(0, len(data), 4096)
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))


def misplace(data: bytearray, rng: random.Random) -> None:
    a, b = (rng.randrange(0, len(data), 4096) for _ in range(2))
    data[a : a + 4096] = data[b : b + 4096].ljust(len(data[a : a + 4096]))


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def spoil_header(data: bytearray, rng: random.Random) -> None:
    data[:210] = b"not a database at all" * 10


KINDS = flip, flip, flip, cut, cut, blank, misplace, spoil_header


def publish(journal: Journal, kept: Samples, count: int, rng: random.Random) -> None:
    """Append samples; see that no number is used twice."""
    for _ in range(count):
        for device in DEVICES:
            one = journal.append(sample(device, text=rng.randbytes(60).hex()))
            key = device, one["epoch"], one["seq"]
            assert key not in kept
            kept[key] = one


def published(path: Path, clock: Clock, rng: random.Random) -> Samples:
    """Make the journal of two boots and three nights, as a killed process leaves it."""
    kept: Samples = {}
    elsewhere = path.with_name("original")
    elsewhere.mkdir(parents=True)
    for boot, nights in (("one", 1), ("two", 2)):
        journal = Journal(elsewhere / path.name, clock=clock, boot=boot)
        for night in range(nights):
            clock.now += DAY_S * bool(night)
            for _ in range(3):
                publish(journal, kept, 30, rng)
                journal.tidy()
                clock.now += 10
            publish(journal, kept, 30, rng)
        for file in elsewhere.iterdir():
            if boot == "two" and not file.name.endswith("-shm"):
                shutil.copy(file, path.parent)
        journal.close()
    return kept


def readable(path: Path, kept: Samples) -> Samples:
    """Return the samples that SQLite can find one by one in a copy of the files."""
    copies = path.with_name("copies")
    found: Samples = {}
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for file in path.parent.glob(f"{path.name}.*.sqlite*"):
        shutil.copy(file, copies)
    for file in copies.glob("*.sqlite"):
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA writable_schema = ON")
            for key, one in kept.items():
                try:
                    query = "SELECT body FROM sample WHERE (device, seq) = (?, ?)"
                    row = db.execute(query, (key[0], key[2])).fetchone()
                except sqlite3.Error:
                    continue
                if row and unpack(row[0])[0] == key:
                    found[key] = one
    return found


def check(journal: Journal, kept: Samples, expected: Samples) -> None:
    """See that the journal serves what is expected, and says what is gone of the rest."""
    found = truth(journal, *DEVICES)
    assert {key: one for key, one in found.items() if one != kept[key]} == {}
    assert expected.keys() <= found.keys()
    missing = {
        (device, one["epoch"], seq)
        for device in DEVICES
        for one in journal.holds(device)["gone"]
        for seq in range(one["first"], one["last"] + 1)
        if one["reason"]
    }
    assert kept.keys() - found.keys() == missing


@pytest.mark.parametrize("running", [False, True], ids=["ended", "running"])
def test_what_can_be_read_is_served_the_rest_is_gone_and_no_number_is_used_twice(
    tmp_path: Path, scaled: Scaled, running: bool
) -> None:
    for seed in range(scaled(4, soak=100)):
        rng = random.Random(seed)
        clock = Clock(NOON - DAY_S / 2)
        folder = tmp_path / str(seed)
        path = folder / "journal"
        kept = published(path, clock, rng)
        if running:
            journal = Journal(path, clock=clock, boot="two")
            publish(journal, kept, 1, rng)
        file = rng.choice(
            [
                file
                for file in sorted(folder.glob("journal.*"))
                if file.stat().st_size and not file.name.endswith("-shm")  # that is memory
            ]
        )
        data = bytearray(file.read_bytes().rstrip(b" "))
        rng.choice(KINDS)(data, rng)
        with file.open("r+b") as stream:
            stream.write(data)
            stream.truncate()
        expected = readable(path, kept)
        if not running:
            journal = Journal(path, clock=clock, boot="two")
        with closing(journal):
            publish(journal, kept, 1, rng)
            journal.tidy()
            if not running:
                check(journal, kept, expected)
            clock.now += 60
            publish(journal, kept, 30, rng)
            journal.tidy()
            for device in DEVICES:
                for one in journal.holds(device)["epochs"]:
                    read_page(journal.page(device, 0, 1000, one["epoch"]))
            publish(journal, kept, 1, rng)
            check(journal, kept, {})
        with closing(Journal(path, clock=clock, boot="two")) as journal:
            publish(journal, kept, 1, rng)
            check(journal, kept, {})


def overwrite(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"not a database at all" * 10)


def cut_to(size: float) -> Callable[[Path], None]:
    def cut(file: Path) -> None:
        whole = file.stat().st_size
        with file.open("r+b") as stream:
            stream.truncate(int(whole * size) if size < 1 else int(size))

    return cut


@pytest.mark.parametrize(
    ("damage", "served"),
    [
        (overwrite, 0),
        (cut_to(0.5), 0),
        (cut_to(0.9), 1000),
        (cut_to(4096), 0),
        (cut_to(100), 0),
        (cut_to(5000), 0),
    ],
    ids=["header", "half", "nine tenths", "first page", "100 bytes", "5000 bytes"],
)
def test_a_damaged_file_stays_where_it_is_and_a_new_epoch_begins_in_another(
    path: Path, damage: Callable[[Path], None], served: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 3000)
        epoch = journal.epoch
    (file,) = files(path)
    damage(file)
    damaged = file.read_bytes()
    for expected in ([1, 2], [3, 4]):
        with closing(Journal(path, boot="one", clock=Clock(5.0))) as journal:
            assert journal.epoch != epoch
            assert fill(journal, 2) == expected
            assert seqs(journal) == [*range(1, expected[-1] + 1)]
            found = [one["seq"] for one in all_of(journal, "slide", epoch)]
            assert served <= len(found) < 3000
            missing = [n for first, last, _ in gone(journal) for n in range(first, last + 1)]
            assert sorted(found + missing) == [*range(1, 3001)]
            assert {why for *_, why in gone(journal)} == {f"{file.name} is damaged"}
    assert file.read_bytes() == damaged
    assert "is damaged" in caplog.text
    assert len(files(path)) == 2


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a journal of two devices, most of which is not in SQLite's cache."""
    folder = tmp_path_factory.mktemp("large")
    with closing(Journal(folder / "journal", clock=Clock(), boot="one")) as journal:
        for device in ("slide", "flow"):
            fill(journal, 1500, device, text=random.Random(1).randbytes(800).hex())
    return folder


@pytest.fixture
def large(filled: Path, path: Path) -> Path:
    """Return where a copy of that journal is."""
    shutil.copytree(filled, path.parent)
    return path


def spoil(path: Path, first: int, last: int) -> None:
    """Overwrite some pages, and make SQLite notice that the file has changed."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
        with path.open("r+b") as stream:
            stream.seek(first * 4096)
            stream.write(random.Random(2).randbytes((last - first) * 4096))
        db.execute("PRAGMA user_version = 2")
        db.commit()


@pytest.mark.parametrize("seen_by", ["append", "append_all", "samples", "records", "tidy"])
def test_damage_while_it_is_open_costs_no_number_and_no_sample_but_the_unreadable(
    large: Path, seen_by: str
) -> None:
    clock, path = Clock(), large
    with closing(Journal(path, clock=clock, steady=clock, boot="one")) as journal:
        epoch = journal.epoch
        fill(journal, 1)
        fill(journal, 1, "flow")
        (file,) = files(path)
        pages = file.stat().st_size // 4096
        match seen_by:
            case "append":
                spoil(file, 1, 20)
                fill(journal, 1)
            case "append_all":
                spoil(file, 1, 20)
                assert all(
                    isinstance(one, dict) for one in journal.append_all([sample(), sample("flow")])
                )
            case "samples":
                spoil(file, pages // 2, pages // 2 + 20)
                truth(journal, "slide", "flow")
            case "records":
                spoil(file, pages // 2, pages // 2 + 20)
                journal.records("slide", 1, 2000, epoch)
                journal.records("flow", 1, 2000, epoch)
            case "tidy":
                file.unlink()
                journal.tidy()
        assert journal.epoch != epoch
        assert fill(journal, 1) == [2 if seen_by.startswith("append") else 1]
        journal.tidy()
        found = truth(journal, "slide", "flow")
        old = [key for key in found if key[1] == epoch]
        if seen_by in ("samples", "records"):
            assert 2500 < len(old) < 3002
        for device in ("slide", "flow"):  # losses at the end are known, too
            lost = sum(b - a + 1 for a, b, _ in gone(journal, device))
            assert lost + sum(key[0] == device for key in old) == 1501


def test_a_damaged_body_is_no_sample_but_gone(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 30)
        epoch = journal.epoch
    (file,) = files(path)
    data = file.read_bytes()
    with closing(sqlite3.connect(file)) as db:
        query = "SELECT body FROM sample WHERE seq IN (3, 4, 5, 9)"
        for (body,) in db.execute(query).fetchall():
            data = data.replace(body, body[:20] + bytes([body[20] ^ 4]) + body[21:])
    file.write_bytes(data)
    with closing(Journal(path, boot="one")) as journal:
        assert journal.epoch == epoch
        assert seqs(journal, 2, 2) == [6, 7]
        assert gone(journal) == [(3, 5, f"{file.name} is damaged")]
        assert journal.epoch != epoch
        assert len(truth(journal)) == 26
        assert [ends[:2] for ends in gone(journal)] == [(3, 5), (9, 9)]
        assert fill(journal, 1) == [1]


def test_a_number_is_not_used_twice_although_the_last_ones_are_misread(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 30)
        epoch = journal.epoch
    (file,) = files(path)
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE sample SET device = 'nobody' WHERE seq > 28")
        db.commit()
    with closing(Journal(path, boot="one")) as journal:
        assert journal.epoch != epoch
        assert seqs(journal, epoch=epoch) == [*range(1, 29)]
        assert [ends[:2] for ends in gone(journal)] == [(29, 30)]


def test_a_file_that_cannot_be_opened_is_served_when_it_can_be(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 3)
        epoch = journal.epoch
    (file,) = files(path)
    file.rename(path.with_name("elsewhere"))
    file.mkdir()
    with closing(Journal(path, boot="one")) as journal:
        assert fill(journal, 1) == [1]
        with pytest.raises(sqlite3.OperationalError):
            seqs(journal, epoch=epoch)
    file.rmdir()
    path.with_name("elsewhere").rename(file)
    with closing(Journal(path, boot="one")) as journal:
        assert fill(journal, 1) == [2]
        assert seqs(journal, epoch=epoch) == [1, 2, 3]


def test_a_journal_that_is_damaged_on_a_full_disk_is_read_and_counts_what_is_lost(
    large: Path, disk: FullDisk
) -> None:
    clock, path = Clock(), large
    with closing(Journal(path, clock=clock, steady=clock, boot="one")) as journal:
        epoch = journal.epoch
        (file,) = files(path)
        pages = file.stat().st_size // 4096
        spoil(file, pages // 2, pages // 2 + 20)
        disk.full = True
        assert 2500 < len(truth(journal, "slide", "flow")) < 3000
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            journal.append(sample())
        assert journal.epoch == epoch
        assert [one[2] for one in lost(journal)] == [1]
        disk.full = False
        assert journal.tidy() == 0
        truth(journal)
        fill(journal, 1)
        assert [one[2] for one in lost(journal)] == [1]
