"""The ledger of a database store survives damage: what SQLite cannot read is written again."""

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from hcam_devices.history.stores.ledger import Ledger, read_notes
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from tests.helpers import Clock

EPOCH = "4f3c0a9be1d2"
DEVICES = [f"ccd{number}" for number in range(450)]
GONE = [SampleRange(device, EPOCH, 50, 59, "in no journal") for device in DEVICES]
OLD = """
PRAGMA journal_mode = WAL;
CREATE TABLE stored (device, epoch, first, last, stamp, PRIMARY KEY (device, epoch, first, last))
 WITHOUT ROWID;
CREATE TABLE gone (noticed, device, epoch, first, last, cause, stamp,
 PRIMARY KEY (noticed, device, epoch, first)) WITHOUT ROWID;
CREATE TABLE aside (device, epoch, seq, body, reason, noticed, stamp,
 PRIMARY KEY (device, epoch, seq)) WITHOUT ROWID;
INSERT INTO stored VALUES ('ccd1', 'a', 1, 20, 4711);
INSERT INTO gone VALUES (17.5, 'ccd1', 'a', 5, 6, 'in no journal', 4711);
INSERT INTO aside VALUES ('ccd1', 'a', 9, 'ccd1 x=1.0', 'no', 17.5, 4711);
"""


def ranges(devices: Iterable[str]) -> SampleRanges:
    return SampleRanges(SampleRange(device, EPOCH, 1, 100) for device in devices)


def filled(path: Path) -> None:
    with closing(Ledger(path, Clock())) as ledger:
        ledger.enter(ranges(DEVICES), gone=GONE)
        rows = [(device, EPOCH, 7, f"{device} x=1.0", "no") for device in DEVICES]
        ledger.enter(SampleRanges(SampleRange(*row[:3], 7) for row in rows), aside=rows)


def test_it_is_read_again(tmp_path: Path) -> None:
    filled(path := tmp_path / "offsite.sqlite")
    with closing(Ledger(path)) as ledger:
        assert ledger.stored == ranges(DEVICES)
        assert sorted(ledger.gone()) == sorted(GONE)
        assert ledger.refused() == dict.fromkeys(DEVICES, (1, "no"))
        ledger.forget()
        assert len(ledger.stored) == 11 * len(DEVICES)
        ledger.enter(SampleRanges([SampleRange("ccd7", EPOCH, 7, 8)]))
        assert "ccd7" not in ledger.refused()
    stored, missing = read_notes(path)
    assert len(stored) == 11 * len(DEVICES) + 1
    assert sum(samples.samples for samples in missing) == 11 * len(DEVICES) - 1


def test_one_of_the_version_before_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "offsite.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD)
    with closing(Ledger(path)) as ledger:
        assert ledger.gone() == [SampleRange("ccd1", "a", 5, 6, "in no journal")]
        assert ledger.refused() == {"ccd1": (1, "no")}
        ledger.enter(SampleRanges([SampleRange("ccd1", "a", 21, 30)]))
    with closing(Ledger(path)) as ledger:
        assert ledger.stored == SampleRanges([SampleRange("ccd1", "a", 1, 30)])
    assert [*tmp_path.glob("*.damaged-*")] == []


def test_a_page_that_is_damaged_costs_its_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(path := tmp_path / "offsite.sqlite")
    content = path.read_bytes()
    losses = []
    for page in range(4096, len(content), 4096):
        path.write_bytes(content[:page] + b"\x99" * 4096 + content[page + 4096 :])
        with closing(Ledger(path, Clock())) as ledger:
            assert not ledger.stored - ranges(DEVICES)
            assert not SampleRanges(ledger.gone()) - SampleRanges(GONE)
            losses.append(len(ranges(DEVICES)) - len(ledger.stored))
    assert len([*tmp_path.glob("*.damaged-*[0-9]")]) == len(losses)
    assert "offsite.sqlite was damaged (" in caplog.text
    some = [lost for lost in losses if 0 < lost < len(ranges(DEVICES)) / 2]
    assert len(some) > 2  # of a leaf
    assert losses.count(len(ranges(DEVICES))) <= 1  # of the root


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.soak] * (seed >= 10)) for seed in range(30)]
)
def test_no_damage_stops_it_or_makes_up_samples(tmp_path: Path, seed: int) -> None:
    filled(path := tmp_path / "offsite.sqlite")
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(20):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content[: chance.choice([None, chance.randrange(len(content))])])
    with closing(Ledger(path, Clock())) as ledger:
        ledger.gone()
        ledger.refused()
        ledger.enter(new := SampleRanges([SampleRange("new", EPOCH, 1, 9)]))
    with closing(Ledger(path, Clock())) as ledger:
        assert not new - ledger.stored
    read_notes(path)


def test_one_that_is_damaged_while_it_is_used_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "offsite.sqlite"
    filled(path)
    with closing(Ledger(path, Clock())) as ledger:
        path.write_bytes(b"\x99" * path.stat().st_size)
        ledger.close()
        ledger.enter(SampleRanges([SampleRange("new", EPOCH, 1, 9)]))
        assert ledger.stored == SampleRanges([SampleRange("new", EPOCH, 1, 9)])
    assert len([*tmp_path.glob("*.damaged-*")]) == 1
