"""The journal: gapless numbers, bounds, and survival of kills, reboots and damage."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.journal import DAY_S, Journal, contents, read_page, upkeep
from hcam_devices.journal import journal as module
from hcam_devices.journal.journal import MAX_REPLY_BYTES
from hcam_devices.journal.notebook import Lost, Notebook
from hcam_devices.journal.salvage import Value, records
from hcam_devices.journal.tables import MAX_SAMPLE_BYTES, PAIRS, pack

from ..helpers import AT_MOST, Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path, clock=Clock(), boot="one")) as journal:
        yield journal


def sample(device: str = "slide", **more: Any) -> dict[str, Any]:
    return {"device": device, "position": 1.5} | more


def fill(journal: Journal, count: int, device: str = "slide", **more: Any) -> list[int]:
    return [journal.append(sample(device, **more))["seq"] for _ in range(count)]


def seqs(journal: Journal, after: int = 0, limit: int = 10_000, **more: Any) -> list[int]:
    return [one["seq"] for one in journal.samples("slide", after, limit, **more)]


def test_each_device_has_its_own_gapless_numbers(journal: Journal) -> None:
    assert fill(journal, 3) == [1, 2, 3]
    assert fill(journal, 2, "flow") == [1, 2]
    assert fill(journal, 1) == [4]
    assert seqs(journal) == [1, 2, 3, 4]
    assert journal.samples("slide", 3, 9) == [sample(seq=4, epoch=journal.epoch)]


@pytest.mark.parametrize(
    ("after", "limit", "expected"),
    [(0, 2, [1, 2]), (2, 2, [3, 4]), (4, 2, [5]), (5, 2, []), (0, 0, []), (99, 9, [])],
)
def test_samples_are_paged_by_number(
    journal: Journal, after: int, limit: int, expected: list[int]
) -> None:
    fill(journal, 5)
    assert seqs(journal, after, limit) == expected


def test_a_page_fits_into_a_message_and_has_at_least_one_sample(journal: Journal) -> None:
    fill(journal, 5, text="x" * (MAX_REPLY_BYTES // 2 - 200))
    assert [seqs(journal), seqs(journal, 2), seqs(journal, 4)] == [[1, 2], [3, 4], [5]]
    fill(journal, 1, text="x" * (MAX_REPLY_BYTES + 1))
    assert seqs(journal, 5) == [6]


@pytest.mark.parametrize("value", [1e-7, -0.0, 2**63, 10**400, "é\n", "\ud800", [[None, True]]])
def test_a_page_has_what_was_appended(journal: Journal, value: Any) -> None:
    journal.append(sample(value=value))
    page = read_page(journal.samples_compressed("slide", 0, 9, journal.epoch))
    assert page == [sample(value=value, seq=1, epoch=journal.epoch)]


@pytest.mark.parametrize(
    "page",
    [None, "[]", b"[]", zlib.compress(b"{}"), zlib.compress(b"[1]"), zlib.compress(b"[{}")],
)
def test_what_is_no_page_is_refused(page: object) -> None:
    with pytest.raises(ValueError, match=r"not a page of samples|not a list of samples"):
        read_page(page)


def test_a_sample_that_json_does_not_have_is_not_kept_and_takes_no_number(
    journal: Journal,
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        journal.append(sample(position=float("nan")))
    with pytest.raises(ValueError, match="digits"):
        journal.append(sample(position=10**5000))
    assert fill(journal, 1) == [1]


def test_a_sample_that_is_too_large_is_not_kept_and_takes_no_number(journal: Journal) -> None:
    size = len(json.dumps(journal.append(sample())))
    with pytest.raises(ValueError, match=f"{size} bytes is more than {size - 1}"):
        journal.append(sample(), size - 1)
    with pytest.raises(ValueError, match="is more than 16777216"):  # it could not be read again
        journal.append(sample(text="x" * MAX_SAMPLE_BYTES))
    assert journal.append(sample(), size)["seq"] == 2
    assert seqs(journal) == [1, 2]


def test_samples_that_are_appended_together_have_the_numbers_that_each_alone_would_have(
    path: Path,
) -> None:
    clock = Clock()
    mixed = [sample(device, n=n) for n, device in enumerate(("slide", "flow", "slide", "rack"))]
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 2)
        numbers = [{"seq": 3}, {"seq": 1}, {"seq": 4}, {"seq": 1}]
        kept = journal.append_all(mixed)
        assert kept == [
            one | number | {"epoch": journal.epoch}
            for one, number in zip(mixed, numbers, strict=True)
        ]
        assert journal.append_all([]) == []
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        assert seqs(journal) == [1, 2, 3, 4]
        assert journal.append_all(mixed[:1]) == [mixed[0] | {"seq": 5, "epoch": journal.epoch}]


def test_of_samples_that_are_appended_together_each_that_can_be_kept_is_kept(
    path: Path, disk: "FullDisk"
) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 1)
        good, bad, too_large = sample(), sample(position=inf), sample(text="x" * 1000)
        kept = journal.append_all([good, bad, too_large, good, sample("flow")], 500)
        assert [one["seq"] for one in kept if isinstance(one, dict)] == [2, 3, 1]
        assert [type(one) for one in kept[1:3]] == [ValueError, ValueError]
        disk.full = True
        clock.now += 5
        failed = journal.append_all([good, sample("flow")])
        assert [str(one) for one in failed] == ["database or disk is full"] * 2
        disk.full = False
        assert lost(journal) == lost(journal, "flow") == [(clock.now, clock.now, 1)]
        again = journal.append_all([good, sample("flow")])
        assert [one["seq"] for one in again if isinstance(one, dict)] == [4, 2]
        assert lost(journal) == [(clock.now, clock.now, 1)]
        assert not journal._lost  # it is noted in the journal
        assert seqs(journal) == [1, 2, 3, 4]


def test_a_commit_that_fails_takes_the_numbers_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = True

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if failing and sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    with closing(Journal(path, boot="one")):
        pass
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    failing = False
    with closing(Journal(path, boot="one")) as journal:
        failing = True
        kept = journal.append_all([sample(), sample("flow"), sample()])
        assert [one["seq"] for one in kept if isinstance(one, dict)] == [1, 1, 2]
        assert seqs(journal) == [1, 2]


def test_numbers_go_on_after_reopening(path: Path) -> None:
    epochs = set()
    for expected in ([1, 2], [3, 4], [5, 6]):
        with closing(Journal(path, boot="one")) as journal:
            assert fill(journal, 2) == expected
            epochs.add(journal.epoch)
    assert len(epochs) == 1


def test_after_another_boot_numbers_begin_again_in_a_new_epoch_and_the_old_stay(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 3)
        old = journal.epoch
    for boot in ("two", "one"):
        with closing(Journal(path, boot=boot)) as journal:
            assert journal.epoch != old
            assert fill(journal, 1) == [1]
            assert seqs(journal, epoch=old) == [1, 2, 3]
            assert seqs(journal, epoch="nonsense") == []


def test_this_machine_has_a_boot_of_its_own(path: Path) -> None:
    with closing(Journal(path)) as one:
        epoch = one.epoch
    with closing(Journal(path)) as two:
        assert two.epoch == epoch


def gone(journal: Journal, device: str = "slide") -> list[tuple[int, int, str]]:
    return [(one["first"], one["last"], one["reason"]) for one in journal.holds(device)["gone"]]


def truth(journal: Journal, *devices: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return all samples; see that each number is either given or gone, and counted rightly."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for device in devices or ("slide",):
        said = journal.holds(device)
        lost: dict[str, list[int]] = defaultdict(list)
        for one in said["gone"]:
            lost[one["epoch"]] += range(one["first"], one["last"] + 1)
        for one in said["epochs"]:
            epoch = one["epoch"]
            kept = {sample["seq"]: sample for sample in all_of(journal, device, epoch)}
            numbers = list(kept)
            assert (numbers[0], numbers[-1], len(numbers)) == (
                one["first"],
                one["last"],
                one["count"],
            )
            numbers += lost[epoch]
            assert sorted(numbers) == list(range(1, max(numbers) + 1))
            found |= {(device, epoch, seq): sample for seq, sample in kept.items()}
    return found


def test_what_is_too_old_is_dropped_but_no_number_is_used_twice(path: Path) -> None:
    clock = Clock()
    old = "older than 14 days"
    with closing(Journal(path, clock=clock, steady=clock, boot="one")) as journal:
        fill(journal, 1000)
        clock.now += 15 * DAY_S
        fill(journal, 2)
        assert journal.tidy() == 1000
        assert seqs(journal) == [1001, 1002]
        assert gone(journal) == [(1, 1000, old)]
        clock.now += 15 * DAY_S
        assert journal.tidy() == 2
        assert (seqs(journal), gone(journal)) == ([], [(1, 1002, old)])
        assert journal.devices() == {"slide"}
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        assert fill(journal, 1) == [1003]
    with closing(Journal(path, clock=clock, steady=clock, boot="two")) as journal:
        clock.now += 15 * DAY_S
        assert journal.tidy() == 1
        assert gone(journal) == [(1, 1003, old)]
        assert fill(journal, 1) == [1]


@pytest.mark.parametrize("before", [1000.0, Clock().now - 20 * DAY_S], ids=["1970", "20 days"])
def test_a_clock_that_is_put_forward_makes_nothing_older(path: Path, before: float) -> None:
    clock, steady = Clock(before), Clock(0.0)
    with closing(Journal(path, clock=clock, steady=steady, boot="one")) as journal:
        fill(journal, 3)
        clock.now = Clock().now
        fill(journal, 1)
        steady.now += 13 * DAY_S
        clock.now += 13 * DAY_S
        assert journal.tidy() == 0
        steady.now += 2 * DAY_S
        clock.now += 2 * DAY_S
        assert journal.tidy() == 3


def test_what_was_gone_is_forgotten_when_nothing_has_been_left_of_its_epoch_for_long(
    path: Path,
) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 3)
    with closing(Journal(path, clock=clock, steady=clock, boot="two")) as journal:
        fill(journal, 3)
        for days, ranges in ((15, 2), (13, 2), (2, 1), (15, 1)):  # the last epoch is this one
            clock.now += days * DAY_S
            journal.tidy()
            assert len(gone(journal)) == ranges
        assert fill(journal, 1) == [4]


def test_what_is_too_much_is_dropped_oldest_first_while_others_append(path: Path) -> None:
    clock = Clock()
    most = 400_000
    with closing(Journal(path, clock=clock, boot="one", most=most)) as journal:
        dropped: list[int] = []
        done = threading.Event()

        def tidy() -> None:
            while not done.is_set():
                dropped.append(journal.tidy())

        tidying = threading.Thread(target=tidy)
        tidying.start()
        try:
            for n in range(3000):
                clock.now += 1
                journal.append(sample(text=f"{n * 7919:x}" * 30))
        finally:
            done.set()
            tidying.join(AT_MOST)
        clock.now += 1
        dropped.append(journal.tidy())
        kept = [seq for _, _, seq in truth(journal)]
        assert sum(dropped) > 0
        assert kept == list(range(kept[0], 3001))
        assert gone(journal) == [(1, 3000 - len(kept), "the journal reached 0.0004 GB")]
    assert path.stat().st_size < 2 * most


def all_of(
    journal: Journal, device: str = "slide", epoch: str | None = None
) -> Iterator[dict[str, Any]]:
    after = 0
    while page := journal.samples(device, after, 500, epoch):
        yield from page
        after = page[-1]["seq"]


def test_of_several_devices_and_epochs_the_oldest_is_dropped_first(path: Path) -> None:
    clock = Clock()
    for boot in ("one", "two"):
        with closing(Journal(path, clock=clock, boot=boot, most=100_000)) as journal:
            for n in range(600):
                clock.now += 1
                for device in ("slide", "flow"):
                    journal.append(sample(device, text=f"{n * 7919:x}" * 30, time=clock.now))
    with closing(Journal(path, clock=clock, boot="two", most=100_000)) as journal:
        assert journal.tidy() > 1200
        times = [one["time"] for one in truth(journal, "slide", "flow").values()]
        assert len(times) > 100
        assert min(times) > clock.now - len(times) / 2 - upkeep.SPAN_S


def test_a_clock_that_was_put_back_does_not_hang_the_tidying(path: Path) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one", most=0)) as journal:
        fill(journal, 3)
        clock.now -= DAY_S
        assert journal.tidy() == 3
        assert fill(journal, 1) == [4]


@settings(max_examples=30)
@given(
    steps=st.lists(st.integers(-5, 10), max_size=60),
    gaps=st.sets(st.integers(1, 60)),
    window=st.tuples(*[st.none() | st.integers(-50, 300)] * 2),
)
def test_it_says_what_it_holds_of_any_time_whatever_the_clock_did(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    gaps: set[int],
    window: tuple[int | None, int | None],
) -> None:
    path = tmp_path_factory.mktemp("holds") / "journal.sqlite"
    clock = Clock(100.0)
    times: list[list[float]] = [[], []]
    for times_of_boot in times:
        with closing(Journal(path, clock=clock, boot=str(id(times_of_boot)))) as journal:
            for step in steps:
                clock.now += step
                journal.append(sample())
                journal.append(sample("flow"))
                times_of_boot.append(clock.now)
    with closing(sqlite3.connect(path)) as db:  # damaged bodies are found and deleted
        db.executemany("UPDATE sample SET body = x'00' WHERE seq = ?", [(gap,) for gap in gaps])
        db.commit()
    start, end = window
    period = (-inf if start is None else start, inf if end is None else end)
    with closing(Journal(path, clock=clock, boot=str(id(times[1])))) as journal:
        journal.tidy()
        truth(journal, "slide", "flow")
        expected = [
            [
                seq
                for seq, time in enumerate(times_of_boot, 1)
                if seq not in gaps
                and (start is None or time >= start)
                and (end is None or time < end)
            ]
            for times_of_boot in times
        ]
        assert [
            (one["first"], one["last"], one["count"])
            for one in journal.holds("slide", *period)["epochs"]
        ] == [(seqs[0], seqs[-1], len(seqs)) for seqs in expected if seqs]


def test_what_it_holds_is_plain_data_and_complete(journal: Journal) -> None:
    assert journal.holds("slide")["oldest"] is None
    fill(journal, 3)
    fill(journal, 1, "flow")
    said = journal.holds("slide")
    assert 0 < said.pop("used") < 100_000
    assert said.pop("free") > 0
    assert said == {
        "device": "slide",
        "epoch": journal.epoch,
        "keep": 14 * DAY_S,
        "most": 2_000_000_000,
        "oldest": Clock().now,
        "salvaging": False,
        "epochs": [{"epoch": journal.epoch, "first": 1, "last": 3, "count": 3}],
        "gone": [],
        "lost": [],
    }


@pytest.mark.parametrize(
    "query",
    [PAIRS, contents.EPOCHS, contents.HELD, contents.HELD_BETWEEN, module.NEWEST],
)
def test_what_is_asked_often_looks_only_at_what_it_needs(journal: Journal, query: str) -> None:
    fill(journal, 3)
    with closing(sqlite3.connect(journal.path)) as db:
        named = dict.fromkeys(re.findall(r":(\w+)", query))
        values = named or (None,) * query.count("?")
        plan = db.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
    assert not [step for *_, step in plan if step.startswith("SCAN sample")]


def test_an_almost_full_disk_is_told(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.tidy()
    assert journal.warning is None or "GB are free" in journal.warning
    monkeypatch.setattr(upkeep, "MIN_FREE_BYTES", 10**18)
    journal.tidy()
    assert journal.warning
    assert "make room" in journal.warning
    monkeypatch.setattr(upkeep, "MIN_FREE_BYTES", 0)
    journal.tidy()
    assert journal.warning is None


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
    "damage",
    [overwrite, cut_to(0.5), cut_to(0.9), cut_to(4096), cut_to(100), cut_to(5000)],
    ids=["header", "half", "nine tenths", "first page", "100 bytes", "5000 bytes"],
)
def test_a_damaged_journal_is_kept_aside_and_a_new_epoch_begins(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 3000)
        epoch = journal.epoch
    damage(path)
    damaged = path.read_bytes()
    with closing(Journal(path, boot="one", clock=Clock(5.0))) as journal:
        assert journal.epoch != epoch
        assert fill(journal, 2) == [1, 2]
        assert seqs(journal) == [1, 2]
    assert path.with_name("journal.sqlite.damaged-5").read_bytes() == damaged
    assert "is damaged" in caplog.text


def large(path: Path, clock: Clock) -> Journal:
    """Return a journal of two devices, most of which is not in SQLite's cache."""
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        for device in ("slide", "flow"):
            fill(journal, 1500, device, text=random.Random(1).randbytes(800).hex())
    return Journal(path, clock=clock, steady=clock, boot="one")


def spoil(path: Path, first: int, last: int) -> None:
    """Overwrite some pages, and make SQLite notice that the file has changed."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
        with path.open("r+b") as stream:
            stream.seek(first * 4096)
            stream.write(random.Random(2).randbytes((last - first) * 4096))
        db.execute("PRAGMA user_version = 2")
        db.commit()


@pytest.mark.parametrize("seen_by", ["append", "samples", "holds", "tidy", "newest"])
def test_damage_while_it_is_open_costs_no_number_and_no_undamaged_sample(
    path: Path, seen_by: str
) -> None:
    clock = Clock()
    with closing(large(path, clock)) as journal:
        epoch = journal.epoch
        fill(journal, 1)
        fill(journal, 1, "flow")
        pages = path.stat().st_size // 4096
        if seen_by == "samples":
            spoil(path, pages // 2, pages // 2 + 20)
        else:
            spoil(path, 1, 20)
        match seen_by:
            case "append":
                fill(journal, 1)
            case "samples":
                list(all_of(journal, "flow"))
                list(all_of(journal, "slide"))
            case "holds":
                journal.holds("flow")
            case "tidy":
                journal.tidy()
            case "newest":
                journal.samples("rack", 0, 1)
        assert journal.epoch != epoch
        assert fill(journal, 1) == [2 if seen_by == "append" else 1]
        journal.tidy()
        found = truth(journal, "slide", "flow")
        old = [key for key in found if key[1] == epoch]
        assert 2500 < len(old) < 3002
        for device in ("slide", "flow"):  # losses at the end are known, too
            lost = sum(b - a + 1 for a, b, _ in gone(journal, device))
            assert lost + sum(key[0] == device for key in old) == 1501
            assert {why for *_, why in gone(journal, device)} <= {
                f"lost by damage ({path.name}.salvaged-{clock.now:.0f})"
            }


def test_the_room_of_what_was_dropped_is_given_back_a_piece_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "MAX_PAGES", 100)
    with closing(large(path, clock)) as journal, closing(sqlite3.connect(path)) as db:
        clock.now += 15 * DAY_S
        sizes = [db.execute("PRAGMA page_count").fetchone()[0]]
        for _ in range(sizes[0] // 100 + 1):
            journal.tidy()
            sizes.append(db.execute("PRAGMA page_count").fetchone()[0])
            assert sizes[-2] - sizes[-1] <= 101  # one more may be of a pointer map
    assert sizes[0] > 500
    assert sizes[-1] < 20


def test_damage_that_is_never_read_is_found_by_the_first_tidying(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 2000)
        epoch = journal.epoch
    spoil(path, 30, 31)
    with closing(Journal(path, boot="one")) as journal:
        assert fill(journal, 1) == [2001]
        journal.tidy()
        assert journal.epoch != epoch
        assert len(truth(journal)) > 1800
        epoch = journal.epoch
        journal.tidy()
        assert journal.epoch == epoch


def test_a_damaged_body_is_no_sample_but_gone(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 30)
    data = path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT body FROM sample WHERE seq IN (3, 4, 5, 9, 30)"
        for (body,) in db.execute(query).fetchall():
            data = data.replace(body, body[:20] + bytes([body[20] ^ 4]) + body[21:])
    path.write_bytes(data)
    with closing(Journal(path, boot="one")) as journal:
        assert seqs(journal, 2, 2) == [6, 7]
        why = "the record was damaged"
        assert gone(journal) == [(3, 5, why)]
        journal.tidy()
        assert gone(journal) == [(3, 5, why), (9, 9, why), (30, 30, why)]
        assert len(truth(journal)) == 25
    with closing(Journal(path, boot="one")) as journal:
        assert fill(journal, 1) == [31]


def test_samples_in_the_wrong_place_are_salvaged(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        kept = fill(journal, 30)
        epoch = journal.epoch
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE sample SET seq = 1000 WHERE seq = 5")
        db.execute("UPDATE sample SET device = 'nobody' WHERE seq = 7")
        db.execute("UPDATE sample SET epoch = 3 WHERE seq = 9")
        db.commit()
    with closing(Journal(path, boot="one")) as journal:
        journal.tidy()
        assert seqs(journal, epoch=epoch) == kept
        assert gone(journal) == []


def test_salvaging_is_completed_after_an_interruption(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    with closing(large(path, clock)) as journal:
        epoch = journal.epoch
    overwrite(path)

    def some(file: Path) -> Iterator[tuple[Value, ...]]:
        yield from islice(records(file), 4000)
        raise OSError("the disk has gone")

    with monkeypatch.context() as patch, closing(Journal(path, clock=clock, boot="one")) as journal:
        patch.setattr(upkeep, "records", some)
        journal.tidy()
    assert "the disk has gone" in caplog.text
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        assert journal.holds("slide")["salvaging"]
        assert [one["epoch"] for one in journal.holds("slide")["epochs"]] == []
        assert seqs(journal, epoch=epoch) == []
        fill(journal, 1)
        journal.tidy()
        assert not journal.holds("slide")["salvaging"]
        assert len(truth(journal, "slide", "flow")) == 3001
        assert [one["epoch"] for one in journal.holds("slide")["epochs"]] == [epoch, journal.epoch]
    assert "3000 samples" not in caplog.text  # some had been copied before
    assert "0 are lost" in caplog.text
    assert "may be lost, too" in caplog.text
    assert path.with_name(f"{path.name}.salvaged-{clock.now:.0f}").exists()


def test_no_file_that_was_put_aside_is_replaced_by_another_of_the_same_second(path: Path) -> None:
    for n in (1, 2, 3):
        with closing(Journal(path, clock=Clock(), boot="one")) as journal:
            fill(journal, 1)
            journal.tidy()
            assert len([*path.parent.glob("*.salvaged-*")]) == n - 1
            assert len(truth(journal)) == n
        overwrite(path)


def test_nothing_is_copied_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 3000)
    overwrite(path)
    monkeypatch.setattr(upkeep, "MIN_FREE_BYTES", 10**18)
    with closing(Journal(path, boot="one")) as journal:
        journal.tidy()
        assert journal.holds("slide")["salvaging"]
        monkeypatch.setattr(upkeep, "MIN_FREE_BYTES", 0)
        journal.tidy()
        assert len(truth(journal)) == 3000


def test_closing_does_not_wait_for_a_thread(path: Path) -> None:
    with closing(large(path, Clock())) as journal:
        running = threading.Thread(target=lambda: [journal.tidy() for _ in range(3)])
        running.start()
    running.join(AT_MOST)
    assert not running.is_alive()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        journal.append(sample())
    with pytest.raises(sqlite3.OperationalError, match="closed"):
        journal.holds("slide")


def test_an_earlier_form_of_the_journal_is_opened(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 30)
        epoch = journal.epoch
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE gone; DROP INDEX sample_when; CREATE INDEX sample_time ON sample (time);"
            "UPDATE sample SET epoch = 1; UPDATE epoch SET id = 1;"
        )
    with closing(Journal(path, boot="one")) as journal:
        assert journal.epoch == epoch
        assert fill(journal, 1) == [31]
        journal.tidy()
        assert journal.epoch == epoch
        assert len(truth(journal)) == 31


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with closing(Journal(path, boot="one")) as journal:
        assert fill(journal, 1) == [1]


def test_a_journal_that_only_cannot_be_opened_is_not_put_aside(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 1)
    path.rename(path.with_name("elsewhere"))
    path.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Journal(path, boot="one")
    assert path.is_dir()


APPEND = """
import sys
from pathlib import Path
from hcam_devices.journal import Journal
journal = Journal(Path(sys.argv[1]), boot="one")
while True:
    print(journal.append({"device": "slide", "text": "x" * 300})["seq"], flush=True)
"""


def test_a_process_killed_while_it_appends_loses_nothing_that_was_appended(path: Path) -> None:
    told = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        with process.stdout:
            for _ in range(200):
                told = int(process.stdout.readline())
            process.kill()
            whole_lines = process.stdout.read().split("\n")[:-1]
            told = int(whole_lines[-1]) if whole_lines else told
        process.wait(AT_MOST)
        with closing(Journal(path, boot="one")) as journal:
            kept = [one["seq"] for one in all_of(journal)]
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) in (told, told + 1)


def spoil_header(data: bytearray, rng: random.Random) -> None:
    data[:210] = b"not a database at all" * 10


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 10, 100))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def blank(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 5))):
        at = rng.randrange(0, len(data), 4096)
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))


def misplace(data: bytearray, rng: random.Random) -> None:
    a, b = (rng.randrange(0, len(data) - 4096, 4096) for _ in range(2))
    data[a : a + 4096] = data[b : b + 4096]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def undamaged(path: Path, before: bytes, after: bytes, frame: int) -> set[tuple[str, int, bytes]]:
    """Return the samples on pages, or frames of the WAL, that are as they were."""
    header = 32 if frame else 0
    step = 4096 + frame
    clean = bytearray(before)
    for at in range(header, len(before), step):
        if before[at : at + step] != after[at : at + step]:
            clean[at + frame : at + step] = bytes(4096)
    alone = path.with_name("alone")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    (alone / ("file-wal" if frame else "file")).write_bytes(clean)
    return {
        (str(row[0]), int(str(row[2])), row[4])
        for row in records(alone / "file")
        if len(row) == 5 and isinstance(row[4], bytes)
    }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("damage", [spoil_header, flip, blank, misplace, cut])
@pytest.mark.parametrize("place", ["", "-wal"], ids=["file", "wal"])
def test_no_undamaged_sample_is_lost_and_what_is_gone_is_told(
    path: Path, place: str, damage: Callable[[bytearray, random.Random], None], seed: int
) -> None:
    rng = random.Random(seed)
    clock = Clock()
    devices = "slide", "flow", "rack"
    kept: dict[tuple[str, str, int], dict[str, Any]] = {}
    with closing(
        Journal(path.with_name("original"), clock=clock, steady=clock, boot="one")
    ) as journal:
        fill(journal, 200)
        clock.now += 20 * DAY_S
        journal.tidy()  # so that some are gone already
    for boot in ("one", "two"):
        with closing(Journal(path.with_name("original"), clock=clock, boot=boot)) as journal:
            for n in range(60):
                if n == 30:
                    journal.tidy()
                clock.now += 1
                for device in devices:
                    one = journal.append(sample(device, text=rng.randbytes(60).hex()))
                    kept[device, journal.epoch, one["seq"]] = one
            for end in ("", "-wal"):  # as after a kill
                shutil.copyfile(f"{journal.path}{end}", f"{path}{end}")
            epochs = {epoch for _, epoch, _ in kept}
    file = path.with_name(path.name + place)
    before = file.read_bytes()
    data = bytearray(before)
    damage(data, rng)
    file.write_bytes(data)
    safe = undamaged(path, before, bytes(data), 24 if place else 0)
    bodies = {pack(json.dumps(one).encode()): key for key, one in kept.items()}
    expected = {bodies[body] for _, _, body in safe if body in bodies}

    with closing(Journal(path, clock=clock, boot="two")) as journal:
        for device in devices:
            fill(journal, 1, device)
        journal.tidy()
        new = journal.epoch
        found = truth(journal, *devices)
        assert not journal.holds("slide")["salvaging"]
        for key, one in found.items():
            assert kept.get(key, one) == one or damage is cut
            assert key in kept or key[1] == new or key[1] in epochs
        assert expected <= found.keys()


class FullDisk:
    """Makes writing to a journal fail as on a full disk, while ``full``; reading goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if disk.full and sql.startswith("INSERT"):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *arguments)

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))


def lost(journal: Journal, device: str = "slide", *during: float) -> list[tuple[float, ...]]:
    notes = journal.holds(device, *during)["lost"]
    return [(one["since"], one["until"], one["samples"]) for one in notes]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def lose(journal: Journal, clock: Clock, count: int, device: str = "slide") -> None:
    for _ in range(count):
        clock.now += 2
        with pytest.raises(sqlite3.Error):
            journal.append(sample(device))


def test_what_could_not_be_kept_is_noted_when_it_can_be(path: Path, disk: FullDisk) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 1)
        begin, disk.full = clock.now, True
        lose(journal, clock, 3)
        lose(journal, clock, 2, "flow")
        expected = [(begin + 2, begin + 6, 3)]
        assert lost(journal) == expected  # also while the disk is full
        disk.full = False
        clock.now += 60
        assert fill(journal, 1) == [2]
        assert lost(journal) == expected
        assert lost(journal, "flow") == [(begin + 8, begin + 10, 2)]
        assert lost(journal, "slide", begin + 7, begin + 100) == []
        assert lost(journal, "slide", begin, begin + 3) == expected
        assert journal.holds("slide")["lost"][0]["reason"] == "database or disk is full"
        assert journal.devices() == {"slide", "flow"}
    with closing(Journal(path, clock=clock, boot="two")) as journal:
        assert lost(journal) == expected


@pytest.mark.parametrize("closed", [True, False], ids=["ended", "killed"])
def test_what_was_lost_is_known_although_the_disk_was_full_until_the_end(
    path: Path, disk: FullDisk, closed: bool
) -> None:
    clock = Clock()
    journal = Journal(path, clock=clock, boot="one")
    fill(journal, 1)
    begin, disk.full = clock.now, True
    lose(journal, clock, 4)
    if closed:
        journal.close()
    disk.full = False
    with closing(Journal(path, clock=clock, boot="two")) as following:
        assert lost(following) == [(begin + 2, begin + 8, 4)]
    with closing(Journal(path, clock=clock, boot="two")) as following:
        assert lost(following) == [(begin + 2, begin + 8, 4)]
    journal._lost.clear()
    journal.close()


def test_notes_of_what_was_lost_survive_damage(path: Path, disk: FullDisk) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        begin, disk.full = clock.now, True
        lose(journal, clock, 4)
        disk.full = False
        fill(journal, 300)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\x99" * 20)
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        journal.tidy()
        assert lost(journal) == [(begin + 2, begin + 8, 4)]


def test_the_notebook_takes_as_many_notes_as_there_is_room_for(path: Path) -> None:
    path.parent.mkdir()
    notebook = Notebook(path.parent / "journal.lost")
    many = [Lost(f"device{n}", "4f3c0a9be1d2", 1e9, 1e9, 3, "disk full") for n in range(3000)]
    notebook.write(many)
    kept = notebook.read()
    assert 800 < len(kept) < 3000
    assert kept == many[: len(kept)]
    assert notebook.path.stat().st_size == 131_072
    notebook.write([])
    assert notebook.read() == []


def test_a_journal_is_closed_while_it_is_being_tidied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, clock=Clock())
    fill(journal, 3)
    begun = threading.Event()

    def check(_: upkeep.Upkeep) -> None:
        begun.set()
        while not journal._leave:
            pass

    monkeypatch.setattr(upkeep.Upkeep, "check", check)
    threads = [threading.Thread(target=work, daemon=True) for work in (journal.tidy, journal.close)]
    threads[0].start()
    assert begun.wait(AT_MOST)
    threads[1].start()
    for thread in threads:
        thread.join(AT_MOST)
    assert not any(thread.is_alive() for thread in threads)
