"""The embedded store keeps each sample once, through closing, damage and late samples."""

import itertools
import os
import random
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.history.stores import AwayError, Store
from hcam_devices.history.stores.closing import build
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.files import SqliteFile, connect
from hcam_devices.history.stores.tonight import Job, due
from hcam_devices.journal.points import DAY_MS, Field, Point, night_bounds, night_of
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from hcam_devices.journal.records import Record

from ...conftest import Scaled
from ...helpers import Clock, records, samples
from .files import all_of, in_order, numbers_of

NIGHT = "2026-11-22"
START, END = night_bounds(NIGHT)
HOUR_MS = 3_600_000
NAMES = ("slide", "flow", "ccd1.command")


def point(seq: int, device: str = "slide", epoch: str = "4f3c", **more: Any) -> Point:
    """Return one of the samples of a device that comes every twenty seconds."""
    return plain(seq, device, epoch)._replace(**more)


@cache
def plain(seq: int, device: str, epoch: str) -> Point:
    rng = random.Random(f"{device} {epoch} {seq}")
    values: dict[str, Field] = {
        "position": rng.random() * 1000,
        "synced": rng.random() < 0.5,
        "state.stage": rng.choice(["inpos", "moving", "lost"]),
    }
    units = {"position": "pix"}
    return Point(device, epoch, seq, START + 20_000 * seq + len(epoch), values, units)


def some(first: int, last: int, **more: Any) -> list[Point]:
    return [point(seq, device, **more) for seq in range(first, last + 1) for device in NAMES]


@pytest.fixture
def clock() -> Clock:
    return Clock(START / 1000 + 4 * 3600 + 200)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore("embedded", tmp_path / "deep", clock=clock)) as store:
        yield store


def reopened(store: EmbeddedStore, **more: Any) -> Any:
    """Close a store, and open its folder again."""
    store.close()
    return closing(EmbeddedStore("embedded", store.folder, clock=store.clock, **more))


def keys(points: list[Point]) -> set[tuple[str, str, int]]:
    return {one[:3] for one in points}


def names_of(store: EmbeddedStore, night: str = NIGHT) -> set[str]:
    """Return the names of the closed files of a night."""
    return {path.name for path in (store.folder / "nights" / night).glob("*")}


def over(clock: Clock, nights: int = 1) -> None:
    """Let a night be over for long enough to be closed."""
    clock.now = END / 1000 + (nights - 1) * 86400 + 3700


def close(store: EmbeddedStore, night: str = "") -> None:
    assert store.close_nights(night) == []


texts = st.text(max_size=9)
values = st.dictionaries(
    texts | st.sampled_from(["x", "X", "x (text)", "x [mm]", "time", "Seq", "epoch", "filename"]),
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=99)
    ),
    max_size=6,
)
points = st.builds(
    lambda device, epoch, seq, time, values, units: Point(
        device, epoch, seq, time, values, {k: v for k, v in units.items() if k in values}
    ),
    st.sampled_from([*NAMES, "b/c", 'a"b', "*?[x]", "..", "é"]),
    st.sampled_from(["one", "two", 'a"b\\']),
    st.integers(1, 2**62),
    st.integers(START - DAY_MS, END + DAY_MS),
    values,
    st.dictionaries(texts | st.sampled_from(["x", "X"]), st.sampled_from(["mm", "pix", "]\0"])),
)


@given(st.lists(points, unique_by=lambda one: one[:3], max_size=20), st.integers(0, 20))
@settings(max_examples=8)
def test_what_is_written_comes_back_as_it_was_in_its_night(
    tmp_path_factory: pytest.TempPathFactory, written: list[Point], part: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    clock = Clock(END / 1000 - 3600)
    with closing(EmbeddedStore("embedded", folder, clock=clock)) as store:
        for batch in (written[:part], written[part:]):
            store.write(records(batch))
            close(store)
        assert all_of(folder) == in_order(written)
        assert numbers_of(store.stored) == keys(written)
        over(clock, 3)
        close(store)
        assert all_of(folder) == in_order(written)
        assert len([*folder.glob("nights/*/*")]) == len(
            {(one.device, night_of(one.time)) for one in written}
        )
        with reopened(store) as again:
            assert numbers_of(again.stored) == keys(written)


def test_what_utf8_does_not_have_is_a_question_mark(store: EmbeddedStore, clock: Clock) -> None:
    store.write(
        records([point(1, values={"la\ud800": "a\ud800\0b"}, units={"la\ud800": "\ud800m"})])
    )
    for _ in range(2):
        (there,) = all_of(store.folder)
        assert (there.values, there.units) == ({"la?": "a?\0b"}, {"la?": "?m"})
        over(clock)
        close(store)


def test_a_number_is_kept_once_whatever_else_comes_with_it(
    store: EmbeddedStore, clock: Clock
) -> None:
    once = some(1, 5)
    for _ in range(2):
        store.write(records([*once, *once, point(3, time=START + 7), point(3, time=END + 7)]))
        store.write(records([*once, point(4, values={"other": 1.0})]))
        store.write(records([]))
        assert all_of(store.folder) == in_order(once)
        over(clock)
        close(store)


def test_it_is_a_store(store: EmbeddedStore) -> None:
    used: Store[Record] = store
    assert (used.name, used.aside(), used.gone(), used.warning) == ("embedded", 0, [], "")


def test_two_do_not_write_to_one_folder(store: EmbeddedStore) -> None:
    with pytest.raises(AwayError, match="another recorder"):
        EmbeddedStore("second", store.folder)
    store.close()
    EmbeddedStore("second", store.folder).close()


def test_a_column_has_one_kind_and_one_unit_for_ever(store: EmbeddedStore, clock: Clock) -> None:
    kinds: list[tuple[str, Field, str | None, str]] = [
        ("x", 1.0, "mm", "x"),
        ("x", "unknown", None, "x (text)"),
        ("x", 2.0, "pix", "x [pix]"),
        ("x", 3.0, None, "x (number)"),
        ("x", True, None, "x (bool)"),
        ("X", 4.0, None, "X (number) 2"),
        ("time", 5.0, "s", "time (number)"),
        ("Epoch", "one", None, "Epoch (text)"),
        ("a\0", 1.0, None, "a?"),
        ("", 1.0, None, "?"),
    ]
    written = [
        point(seq, values={field: value}, units={field: unit} if unit else {})
        for seq, (field, value, unit, _) in enumerate(kinds * 2, 1)
    ]
    store.write(records(written[: len(kinds)]))
    close(store)
    with reopened(store) as again:
        again.write(records(written[len(kinds) :]))
        over(clock)
        close(again)
        assert all_of(again.folder) == in_order(written)
    path = store.folder / "nights" / NIGHT / "slide.parquet"
    columns = [name for name, *_ in duckdb.execute(f"DESCRIBE FROM '{path}'").fetchall()]
    assert columns == ["time", "seq", "epoch", *sorted(column for *_, column in kinds)]


def test_two_hours_become_a_part_and_a_night_one_file(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records(some(1, 400)))
    close(store)
    assert names_of(store) == {f"{name}.1.parquet" for name in ("slide", "flow", "ccd1%2Ecommand")}
    with closing(connect(store.folder / "tonight.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM sample").fetchone() == (0,)
    clock.now += 7200
    store.write(records(some(1000, 1200)))
    close(store)
    assert len(names_of(store)) == 6
    with closing(connect(store.folder / "tonight.sqlite")) as db:
        (time,) = db.execute("SELECT min(time) FROM sample").fetchone()
    assert time >= START + 6 * HOUR_MS
    clock.now += 60
    close(store)
    assert len(names_of(store)) == 6
    over(clock)
    close(store)
    assert names_of(store) == {f"{name}.parquet" for name in ("slide", "flow", "ccd1%2Ecommand")}
    assert all_of(store.folder) == in_order([*some(1, 400), *some(1000, 1200)])
    before = {path: path.stat().st_mtime_ns for path in store.folder.glob("nights/*/*")}
    close(store)
    assert before == {path: path.stat().st_mtime_ns for path in store.folder.glob("nights/*/*")}


def test_what_comes_late_is_a_part_until_the_night_rests(
    store: EmbeddedStore, clock: Clock
) -> None:
    over(clock)
    written = []
    for start in (100, 1, 200):
        written += some(start, start + 50)
        store.write(records(some(start, start + 50)))
        close(store)
        assert all_of(store.folder) == in_order(written)
    assert len(names_of(store)) == 9
    clock.now += 3600
    close(store)
    assert len(names_of(store)) == 3
    assert all_of(store.folder) == in_order(written)


def test_a_night_is_closed_at_once_on_demand(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records([*some(1, 10), *some(7, 9, epoch="later", time=START - DAY_MS)]))
    close(store, NIGHT)
    assert len(names_of(store)) == 3
    assert names_of(store, night_of(START - DAY_MS)) == set()
    store.write(records(some(11, 20)))
    close(store, "20261122")
    assert len(names_of(store)) == 3
    clock.now += 3600
    store.write(records(some(21, 30)))
    close(store)
    assert len(names_of(store)) == 6
    over(clock)
    close(store)
    assert len(all_of(store.folder)) == 3 * 33


def test_samples_of_a_wrong_clock_are_closed_too(store: EmbeddedStore, clock: Clock) -> None:
    future = some(1, 5, time=END + 40 * 365 * DAY_MS)
    past = some(6, 9, time=1000)
    store.write(records([*future, *past]))
    close(store)
    with closing(connect(store.folder / "tonight.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM sample").fetchone() == (0,)
    assert names_of(store, "1969-12-31") == names_of(store, night_of(future[0].time))
    assert all_of(store.folder) == in_order([*future, *past])


@pytest.mark.parametrize("ahead", [-400, 400], ids=["back", "ahead"])
def test_a_clock_that_jumps_loses_and_doubles_nothing(
    store: EmbeddedStore, clock: Clock, ahead: int
) -> None:
    store.write(records(some(1, 100)))
    clock.now += ahead * 86400
    close(store)
    store.tidy()
    store.write(records(some(90, 200)))
    close(store)
    clock.now -= ahead * 86400
    store.write(records(some(190, 300)))
    over(clock)
    close(store)
    close(store)
    clock.now += 3600
    close(store)
    assert all_of(store.folder) == in_order(some(1, 300))
    assert len(names_of(store)) == 3


def test_what_comes_while_a_file_is_written_stays(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records(some(1, 10)))
    (job, *_) = due(store.folder, int(clock.now * 1000), NIGHT)
    facts = build(store.folder, job)
    store.write(records(some(11, 20)))
    assert store.enter(job, facts)
    assert all_of(store.folder) == in_order(some(1, 20))


def test_a_file_whose_rows_or_parts_changed_meanwhile_is_not_entered(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(records(some(1, 10)))
    jobs = due(store.folder, int(clock.now * 1000), NIGHT)
    facts = [build(store.folder, job) for job in jobs]
    assert not store.drop(samples("slide", "4f3c", 3, 4))
    slide = next(n for n, job in enumerate(jobs) if job.device == "slide")
    assert not store.enter(jobs[slide], facts[slide])
    (flow,) = (n for n, job in enumerate(jobs) if job.device == "flow")
    assert store.enter(jobs[flow], facts[flow])
    assert not store.enter(jobs[flow], build(store.folder, jobs[flow]))
    (again,) = [
        job for job in due(store.folder, int(clock.now * 1000), NIGHT) if job.device == "slide"
    ]
    assert store.enter(again, build(store.folder, again))
    part = (("flow.parquet", facts[flow]["checksum"], facts[flow]["values"]),)
    merge = Job("flow", NIGHT, "flow.parquet", END, part)
    merged = build(store.folder, merge)
    store.set_aside(NIGHT, "flow.parquet")
    assert not store.enter(merge, merged)
    wanted = [
        one
        for one in some(1, 10)
        if one.device != "flow" and (one.device != "slide" or one.seq not in (3, 4))
    ]
    assert all_of(store.folder) == in_order(wanted)
    assert numbers_of(store.stored) == keys(wanted)


def test_samples_that_differ_are_asked_for_again(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records([*some(1, 30), *some(1, 30, epoch="later", time=END + 7)]))
    close(store, NIGHT)
    store.write(records(some(31, 40)))
    wrong = samples("slide", "4f3c", 5, 7)
    wrong |= samples("slide", "4f3c", 33, 34)
    wrong |= samples("flow", "later", 1, 30)
    store.repair(wrong)
    everything = [*some(1, 40), *some(1, 30, epoch="later", time=END + 7)]
    left = [one for one in everything if one[:3] not in wrong]
    assert all_of(store.folder) == in_order(left)
    assert numbers_of(store.stored) == keys(left)
    store.write(records(everything))
    over(clock, 3)
    close(store)
    assert all_of(store.folder) == in_order(everything)


def test_a_file_all_of_whose_samples_differ_is_removed_until_they_come_again(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(records([point(1), point(2)]))
    close(store, NIGHT)
    store.repair(samples("slide", "4f3c", 1, 2))
    assert not store.stored
    assert names_of(store) == set()
    assert all_of(store.folder) == []
    store.write(records([point(1), point(2)]))
    over(clock)
    close(store, NIGHT)
    assert all_of(store.folder) == [point(1), point(2)]


def test_what_is_settled_is_stored_and_said_but_not_of_what_was_there(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(records(some(10, 20)))
    close(store, NIGHT)
    store.settle([SampleRange("slide", "4f3c", 1, 30, "the journal had no more")])
    expected = [
        SampleRange("slide", "4f3c", 1, 9, "the journal had no more"),
        SampleRange("slide", "4f3c", 21, 30, "the journal had no more"),
    ]
    with reopened(store) as again:
        assert again.gone() == expected
        assert samples("slide", "4f3c", 1, 31) - again.stored == samples("slide", "4f3c", 31, 31)
        again.write(records([point(5)]))
        assert len(all_of(again.folder)) == 3 * 11


def test_what_is_settled_together_is_kept_together_and_each_number_once(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [
        SampleRange("slide", "4f3c", 1, 20, "late"),
        SampleRange("slide", "4f3c", 10, 30, "later"),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(SqliteFile, "_transaction", failing)
        with pytest.raises(AwayError):
            store.settle(iter(lost))
    assert not numbers_of(store.stored)
    store.settle(iter(lost))
    assert store.gone() == [lost[0], lost[1]._replace(first=21)]
    assert store.stored == samples("slide", "4f3c", 1, 30)


def failing(*_: Any, **__: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


# --- what cannot be used now ----------------------------------------------------------------


def test_a_full_disk_is_said_and_nothing_is_believed_to_be_kept(store: EmbeddedStore) -> None:
    store.write(records(some(1, 10)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limits[1]))
    try:
        with pytest.raises(AwayError, match=r"tonight.sqlite cannot be used now .*: \w+"):
            store.write(records(some(11, 2000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert numbers_of(store.stored) == keys(some(1, 10))
    store.write(records(some(11, 2000)))
    assert all_of(store.folder) == in_order(some(1, 2000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 2 MB."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_full_while_nights_are_closed_loses_nothing(
    small_disk: Path, clock: Clock, scaled: Scaled
) -> None:
    over(clock)
    filler = small_disk / "filler"
    written: list[Point] = []
    said = set()
    with closing(EmbeddedStore("embedded", small_disk / "history", clock=clock)) as store:
        for step in range(scaled(20, soak=40)):
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(max(0, free - 4096 * step)) if step % 2 else b"")
            batch = some(10 * step + 1, 10 * step + 10)
            try:
                store.write(records(batch))
                written += batch
            except AwayError as error:
                said.add(str(error).partition("(")[2])
            with suppress(AwayError):
                said.update(store.close_nights(NIGHT))
            assert numbers_of(store.stored) == keys(written)
        filler.unlink()
        close(store, NIGHT)
        assert all_of(store.folder) == in_order(written)
    assert any("disk is full" in sentence for sentence in said)
    assert any("its samples stay in tonight.sqlite" in sentence for sentence in said)


def test_a_folder_that_may_only_be_read_is_named_and_nothing_is_lost(
    small_disk: Path, clock: Clock
) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    with closing(EmbeddedStore("embedded", small_disk / "history", clock=clock)) as store:
        store.write(records(some(1, 10)))
        shutil.copytree(store.folder, copy := small_disk / "copy")
    remount("ro")
    with pytest.raises(AwayError, match=r"lock cannot be used now|Read-only"):
        EmbeddedStore("embedded", small_disk / "history", clock=clock)
    remount("rw")
    with closing(EmbeddedStore("embedded", copy, clock=clock)) as store:
        store.write(records(some(11, 20)))
        (copy / "nights").symlink_to("/proc")
        troubles = store.close_nights(NIGHT)
        assert [text for text in troubles if "its samples stay in tonight.sqlite" in text]
        (copy / "nights").unlink()
        close(store, NIGHT)
        assert all_of(copy) == in_order(some(1, 20))


def test_a_file_that_another_program_holds_is_named(store: EmbeddedStore) -> None:
    store.write(records(some(1, 2)))
    assert store._tonight._db
    store._tonight._db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(store.folder / "tonight.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AwayError, match=r"locked.*: stop the other program"):
            store.write(records(some(1, 5)))
        other.execute("ROLLBACK")
    assert numbers_of(store.stored) == keys(some(1, 2))
    store.write(records(some(1, 5)))
    assert all_of(store.folder) == in_order(some(1, 5))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AwayError, match="file"):
        EmbeddedStore("embedded", tmp_path / "file" / "folder")


def test_a_folder_that_was_renamed_away_is_missed_until_it_is_back(store: EmbeddedStore) -> None:
    store.write(records(some(1, 10)))
    close(store, NIGHT)
    store.write(records(some(11, 20)))
    elsewhere = store.folder.rename(store.folder.with_name("elsewhere"))
    with pytest.raises(AwayError, match=r"tonight.sqlite cannot be used now"):
        store.write(records(some(21, 30)))
    with suppress(AwayError, OSError):
        store.close_nights(NIGHT)
    assert not store.folder.exists()
    elsewhere.rename(store.folder)
    store.write(records(some(21, 30)))
    close(store, NIGHT)
    assert all_of(store.folder) == in_order(some(1, 30))


def test_closed_nights_that_are_not_there_are_not_taken_for_damaged_ones(
    store: EmbeddedStore,
) -> None:
    store.write(records(some(1, 10)))
    close(store, NIGHT)
    nights = store.folder / "nights"
    elsewhere = nights.rename(store.folder / "elsewhere")
    with pytest.raises(AwayError, match=r"nights is not there.*: put it back"):
        store.tidy()
    assert numbers_of(store.stored) == keys(some(1, 10))
    elsewhere.rename(nights)
    store.tidy()
    assert all_of(store.folder) == in_order(some(1, 10))


# --- old nights -----------------------------------------------------------------------------


def weeks(store: EmbeddedStore, clock: Clock, nights: int) -> list[str]:
    """Let nights come to be, one sample of each device in each; return their names."""
    for night in range(nights):
        store.write(records(some(night + 1, night + 1, time=START + night * DAY_MS + 1)))
    over(clock, nights)
    close(store)
    return [night_of(START + night * DAY_MS) for night in range(nights)]


def test_nothing_is_thrown_away_by_default(store: EmbeddedStore, clock: Clock) -> None:
    weeks(store, clock, 3)
    clock.now += 20 * 365 * 86400
    store.tidy()
    assert len(all_of(store.folder)) == 9
    assert store.warning == ""


def test_old_nights_are_deleted_and_said_to_be_if_the_site_wants_that(
    store: EmbeddedStore, clock: Clock
) -> None:
    nights = weeks(store, clock, 5)
    with reopened(store, keep_days=2) as again:
        again.tidy()
        assert sorted(path.name for path in again.folder.glob("nights/*")) == nights[3:]
        assert numbers_of(again.stored) == keys(some(1, 5))
        assert again.gone() == []
        again.write(records(some(1, 5)))
        assert all_of(again.folder) == in_order(
            [one for n in (3, 4) for one in some(n + 1, n + 1, time=START + n * DAY_MS + 1)]
        )
        with reopened(again) as third:
            assert numbers_of(third.stored) == keys(some(1, 5))


def test_a_clock_that_is_ahead_deletes_nothing(store: EmbeddedStore, clock: Clock) -> None:
    weeks(store, clock, 3)
    running = Clock(0)
    with reopened(store, keep_days=30, steady=running) as again:
        clock.now += 400 * 86400
        running.now += 3600
        again.tidy()
        assert len(all_of(again.folder)) == 9
        assert "the clock of this machine is at" in again.warning
        clock.now -= 400 * 86400
        again.tidy()
        assert again.warning == ""


# --- damage ---------------------------------------------------------------------------------


def test_a_closed_file_that_was_removed_is_asked_for_again(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(records(some(1, 5)))
    close(store, NIGHT)
    (store.folder / "nights" / NIGHT / "slide.parquet").unlink()
    store.tidy()
    assert numbers_of(store.stored) == {key for key in keys(some(1, 5)) if key[0] != "slide"}
    assert "slide in night 2026-11-22" in store.warning
    store.write(records(some(1, 5)))
    over(clock)
    close(store, NIGHT)
    assert all_of(store.folder) == in_order(some(1, 5))


def test_a_damaged_file_is_set_aside_and_its_samples_are_asked_for_again(
    store: EmbeddedStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(records(some(1, 50)))
    close(store, NIGHT)
    path = store.folder / "nights" / NIGHT / "slide.parquet"
    flip(path, path.stat().st_size // 2)
    after = path.read_bytes()
    store.tidy()
    left = [one for one in some(1, 50) if one.device != "slide"]
    assert all_of(store.folder) == in_order(left)
    (aside,) = store.folder.glob(f"damaged/{NIGHT}/slide.parquet-*")
    assert aside.read_bytes() == after
    said = "the closed file of slide in night 2026-11-22 is damaged, and is asked for again"
    assert said in caplog.text
    assert said in store.warning
    assert store.gone() == []
    clock.now += 2 * 86400
    assert store.warning == ""
    with reopened(store) as again:
        assert numbers_of(again.stored) == keys(left)
        again.settle([SampleRange("slide", "4f3c", 1, 10, "no journal has it")])
        again.write(records([point(n) for n in range(11, 51)]))
        assert again.gone() == [SampleRange("slide", "4f3c", 1, 10, "no journal has it")]
        with reopened(again) as third:
            assert numbers_of(third.stored) == keys(some(1, 50))


def test_a_damaged_part_is_not_merged(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records(some(1, 190)))
    close(store)
    path = store.folder / "nights" / NIGHT / "slide.1.parquet"
    flip(path, path.stat().st_size // 2)
    over(clock)
    close(store)
    assert len([*store.folder.glob("damaged/*/*")]) == 1
    store.write(records(some(1, 190)))
    clock.now += 3600
    close(store)
    assert all_of(store.folder) == in_order(some(1, 190))


def test_a_bad_sector_is_damage_and_a_file_that_may_not_be_read_is_not(
    store: EmbeddedStore, clock: Clock
) -> None:
    first, second, third = weeks(store, clock, 3)
    bad = store.folder / "nights" / first / "slide.parquet"
    bad.unlink()
    bad.symlink_to("/proc/self/mem")  # whose first byte is EIO
    closed = store.folder / "nights" / second / "slide.parquet"
    elsewhere = closed.rename(store.folder / "elsewhere")
    closed.mkdir()
    last = store.folder / "nights" / third / "slide.parquet"
    flip(last, 20)
    for _ in range(3):
        with suppress(AwayError):
            store.tidy()
    assert not samples("slide", "4f3c", 2, 2) - store.stored
    assert samples("slide", "4f3c", 1, 3) - store.stored == SampleRanges(
        [SampleRange("slide", "4f3c", 1, 1), SampleRange("slide", "4f3c", 3, 3)]
    )
    with pytest.raises(AwayError, match=rf"{second}/slide.parquet cannot be used"):
        store.check(second)
    closed.rmdir()
    elsewhere.rename(closed)
    store.check(second)


@pytest.mark.parametrize("back", [False, True], ids=["removed", "restored"])
def test_closed_files_outlive_a_catalogue_that_somebody_removed_or_restored(
    store: EmbeddedStore, clock: Clock, back: bool
) -> None:
    store.write(records(some(1, 400)))
    close(store)
    store._tonight.close()
    copied = shutil.copytree(store.folder, store.folder.with_name("copy"))
    clock.now += 3600
    store.write(records(some(401, 600)))
    close(store)
    store.write(records(some(1, 5, epoch="later", time=END + 5)))
    over(clock)
    close(store)
    store._tonight.close()
    for path in store.folder.glob("tonight.sqlite*"):
        path.unlink()
    if back:
        shutil.copy(copied / "tonight.sqlite", store.folder)
    store.write(records([point(7000)]))
    closed = [*some(1, 600), point(7000)]
    assert [one for one in all_of(store.folder) if one.epoch != "later"] == in_order(closed)
    store.write(records([*some(1, 600), *some(1, 5, epoch="later", time=END + 5)]))
    over(clock, 3)
    close(store)
    assert all_of(store.folder) == in_order([*closed, *some(1, 5, epoch="later", time=END + 5)])
    assert not list(store.folder.glob("damaged/*"))


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 4]))


PAGE = 4096
TONIGHT = [*some(1, 200), *some(1, 50, epoch="later")]
CLOSED = [*some(1, 100, epoch="old", time=START - 40 * DAY_MS)]
FILES = {
    "tonight": "tonight.sqlite",
    "log": "tonight.sqlite-wal",
    "closed": f"nights/{night_of(START - 40 * DAY_MS)}/slide.parquet",
}
DEAD = SampleRange("slide", "dead", 1, 50, "the journal had no more")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder as a store leaves it when it is closed, and one of a killed process."""
    closed, killed = (tmp_path_factory.mktemp(name) / "whole" for name in ("closed", "killed"))
    with closing(EmbeddedStore("embedded", closed, clock=Clock(START / 1000))) as store:
        store.write(records(CLOSED))
        close(store)
        store.settle([DEAD])
        for start in range(0, len(TONIGHT), 50):
            store.write(records(TONIGHT[start : start + 100]))
        shutil.copytree(closed, killed)
        store.child.close()
    return {"tonight": closed, "closed": closed, "log": killed}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file cut off, or with flipped bits, or with other bytes for a while."""
    new = bytearray(data)
    at = rng.randrange(len(new))
    how = rng.choice(["cut", "flips", "flips", "flips", "header", "block"])
    if how == "cut":
        return data[:at]
    if how == "block":
        new[at : at + PAGE] = rng.randbytes(len(new[at : at + PAGE]))
    for _ in range(rng.choice([1, 3, 20]) if how != "block" else 0):
        new[rng.randrange(100 if how == "header" else len(new))] ^= 1 << rng.randrange(8)
    return bytes(new)


@pytest.mark.parametrize("which", FILES)
def test_a_damaged_file_costs_nothing_that_comes_again(
    tmp_path: Path, whole: dict[str, Path], which: str, scaled: Scaled
) -> None:
    """What a flip changes in a row that SQLite takes for sound, the audit finds."""
    everything = {one[:3]: one for one in (*TONIGHT, *CLOSED)}
    seen = 0
    for seed in range(scaled(3, soak=100)):
        folder = tmp_path / str(seed)
        shutil.copytree(whole[which], folder)
        path = folder / FILES[which]
        before = path.read_bytes()
        path.write_bytes(after := damaged(before, random.Random(f"{which} {seed}")))
        clock = Clock(START / 1000)
        with closing(EmbeddedStore("embedded", folder, clock=clock)) as store:
            store.tidy()
            store.close_nights(NIGHT)
            store.close_nights(NIGHT)
            said = store.warning
            there = all_of(folder)
            assert numbers_of(store.stored) - {("slide", "dead", n) for n in range(1, 51)} == {
                one[:3] for one in there
            }
            wrong = [one for one in there if everything.get(one[:3]) != one]
            assert which != "closed" or not wrong
            store.repair(SampleRanges(SampleRange(*one[:3], one.seq) for one in wrong))
            store.write(records(everything.values()))
            clock.now += 3 * 86400
            store.close_nights(NIGHT)
            store.close_nights()
            there = all_of(folder)
            found = {one[:3]: one for one in there}
            assert len(found) == len(there)
            assert all(found[key] == one for key, one in everything.items())
            aside = [
                *folder.glob(f"{path.name}.damaged-*[0-9]"),
                *folder.glob(f"damaged/*/{path.name}-*"),
            ]
            assert [one.read_bytes() for one in aside] in ([], [after])
            assert said or not aside
            seen += len(aside)
            assert which != "closed" or (before == after) != bool(aside)
    assert which == "log" or seen > 1  # SQLite itself leaves out the rest of a damaged log


HEADERS = [(0, 0), (18, 3), (19, 1), (19, 3), (20, 4), (47, 5), (55, 1), (59, 2)]


@pytest.mark.parametrize(("at", "value"), HEADERS)
def test_a_header_that_is_damaged_is_not_taken_for_a_file_that_may_not_be_written(
    tmp_path: Path, whole: dict[str, Path], at: int, value: int
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["tonight"], folder)
    with (folder / "tonight.sqlite").open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([value]))
    with closing(EmbeddedStore("embedded", folder, clock=Clock(START / 1000))) as store:
        store.write(records([*TONIGHT, point(7000)]))
        assert numbers_of(store.stored) >= keys([*TONIGHT, *CLOSED, point(7000)])
        assert all_of(folder) == in_order([*TONIGHT, *CLOSED, point(7000)])


def test_the_log_of_a_file_that_was_removed_is_not_read_into_the_next(
    tmp_path: Path, whole: dict[str, Path]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["log"], folder)
    (folder / "tonight.sqlite").unlink()
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write(records([point(7000)]))
        assert all_of(folder) == in_order([*CLOSED, point(7000)])


def test_a_file_damaged_while_it_is_open_is_made_anew(store: EmbeddedStore, clock: Clock) -> None:
    store.write(records(some(1, 300)))
    close(store, NIGHT)
    store.write(records(some(301, 1000)))
    db = store._tonight._db
    assert db
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA shrink_memory")
    path = store.folder / "tonight.sqlite"
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(bytes(size // 2))
    store.write(records(some(1001, 1100)))
    store.write(records(some(1101, 1200)))
    close(store, NIGHT)
    assert list(store.folder.glob("tonight.sqlite.damaged-*"))
    assert "tonight.sqlite was damaged" in store.warning
    there = all_of(store.folder)
    assert keys(there) == numbers_of(store.stored)
    assert keys(there) > keys(some(1, 300))
    store.write(records(some(1, 1200)))
    assert all_of(store.folder) == in_order(some(1, 1200))


def test_rows_that_cannot_be_what_was_written_are_asked_for_again(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(records(some(1, 100)))
    bad = ["[1.0", '["a", true, "b"]', "[1.0, true]", '[1.0, 2, "inpos"]', "{}", "7"]
    with closing(sqlite3.connect(store.folder / "tonight.sqlite")) as db, db:
        for seq, body in enumerate(bad, 10):
            db.execute("UPDATE sample SET body = ? WHERE seq = ?", (body, seq))
        db.execute("UPDATE sample SET shape = 99 WHERE seq = 9")
    store.close_nights(NIGHT)
    assert (
        f"{len(NAMES) and 7} samples of slide in night {NIGHT} are asked for again" in store.warning
    )
    close(store, NIGHT)
    left = [one for one in some(1, 100) if not 9 <= one.seq < 10 + len(bad)]
    assert all_of(store.folder) == in_order(left)
    assert numbers_of(store.stored) == keys(left)
    store.write(records(some(1, 100)))
    close(store, NIGHT)
    assert all_of(store.folder) == in_order(some(1, 100))


def test_an_index_that_differs_from_its_table_is_damage(store: EmbeddedStore) -> None:
    store.write(records(some(1, 100)))
    store._tonight.close()
    path = store.folder / "tonight.sqlite"
    data = path.read_bytes()
    epoch = data.rindex(b"slide4f3c")  # in a row of the table: in the index the keys are in order
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    path.write_bytes(data[:epoch] + b"slide4f3d" + data[epoch + 9 :])
    store.close_nights(NIGHT)
    store.close_nights(NIGHT)
    there = all_of(store.folder)
    assert len(there) == 300
    assert keys(there) == numbers_of(store.stored)


class KilledError(BaseException):
    """Here the process would have died."""


def test_making_a_file_anew_may_be_interrupted_anywhere(
    tmp_path: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and each removal in turn is the last thing that happens."""
    for step in itertools.count():
        folder = tmp_path / str(step)
        shutil.copytree(whole["tonight"], folder)
        (folder / FILES["log"]).touch()
        with (folder / "tonight.sqlite").open("r+b") as stream:
            stream.write(b"nonsense")
        steps = iter(range(step))

        def counted(do: Callable[..., Any], steps: Iterator[int] = steps) -> Callable[..., Any]:
            def wrapped(*args: Any, **named: Any) -> Any:
                if next(steps, None) is None:
                    raise KilledError
                return do(*args, **named)

            return wrapped

        done = False
        with monkeypatch.context() as patched:
            for name in ("rename", "unlink"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            with suppress(KilledError):
                EmbeddedStore("embedded", folder).close()
                done = True
        with closing(EmbeddedStore("embedded", folder)) as store:
            assert keys(CLOSED) <= numbers_of(store.stored)
            store.write(records(TONIGHT))
            assert all_of(folder) == in_order([*TONIGHT, *CLOSED])
        if done:
            assert step > 5
            break
