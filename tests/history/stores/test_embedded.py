"""The embedded store keeps each sample once, through kills, damage and late samples."""

import errno
import itertools
import random
import re
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.history.stores import AwayError, Store
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import Bucket, NightFiles, rows, streams
from hcam_devices.journal.checked import File
from hcam_devices.journal.points import DAY_MS, Field, Point, night_bounds, night_of
from hcam_devices.journal.ranges import SampleRange, SampleRanges

from ...conftest import Scaled
from ...helpers import AT_MOST, Clock, samples

NIGHT = "2026-11-22"
START, END = night_bounds(NIGHT)
NAMES = ("slide", "flow", "ccd1")


def point(seq: int, device: str = "slide", epoch: str = "4f3c", **more: Any) -> Point:
    """Return one of the samples of a device that comes every two seconds."""
    rng = random.Random(f"{device} {epoch} {seq}")
    values: dict[str, Field] = {
        "position": rng.random() * 1000,
        "synced": rng.random() < 0.5,
        "state.stage": rng.choice(["inpos", "moving", "lost"]),
    }
    units = {"position": "pix"}
    plain = Point(device, epoch, seq, START + 2000 * seq + len(epoch), values, units)
    return plain._replace(**more)


def some(first: int, last: int, **more: Any) -> list[Point]:
    return [point(seq, device, **more) for seq in range(first, last + 1) for device in NAMES]


@pytest.fixture
def clock() -> Clock:
    return Clock(END / 1000 - 3600)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore("embedded", tmp_path / "deep", clock=clock)) as store:
        yield store


@pytest.fixture
def history(store: EmbeddedStore) -> NightFiles:
    return NightFiles(store.folder)


def all_of(folder: Path) -> list[Point]:
    history = NightFiles(folder)
    return [one for night in history.nights() for one in history.samples(night)]


def in_order(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda one: (one.time, one.device, one.epoch, one.seq))


def numbers(ranges: SampleRanges) -> set[tuple[str, str, int]]:
    return {
        (device, epoch, seq)
        for device, epoch, first, last, _ in ranges.ranges()
        for seq in range(first, last + 1)
    }


def keys(points: list[Point]) -> set[tuple[str, str, int]]:
    return {(one.device, one.epoch, one.seq) for one in points}


def count(history: NightFiles, device: str, epoch: str, first: int, last: int) -> int:
    """Return how many of these numbers, both included, are there as they were recorded."""
    there = keys(all_of(history.folder))
    return sum(key[:2] == (device, epoch) and first <= key[2] <= last for key in there)


def path_of(store: EmbeddedStore, night: str = NIGHT) -> Path:
    return store.folder / f"{night}.sqlite"


names = st.text(max_size=9)
values = st.dictionaries(
    names,
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=99)
    ),
    max_size=6,
)
points = st.builds(
    lambda device, epoch, seq, time, values, units: Point(
        device, epoch, seq, time, values, {k: v for k, v in units.items() if k in values}
    ),
    st.sampled_from(NAMES),
    st.sampled_from(["one", "two"]),
    st.integers(0, 2**62),
    st.integers(START - DAY_MS, END + DAY_MS),
    values,
    st.dictionaries(names, names),
)


@given(st.lists(points, unique_by=lambda one: (one.device, one.epoch, one.seq), max_size=20))
@settings(max_examples=25)
def test_what_is_written_comes_back_as_it_was_in_its_night(
    tmp_path_factory: pytest.TempPathFactory, written: list[Point]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    history = NightFiles(folder)
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write(written)
        assert in_order(all_of(folder)) == in_order(written)
        assert history.nights() == sorted({night_of(one.time) for one in written})
        for night in history.nights():
            times = [one.time for one in history.samples(night)]
            assert times == sorted(times)
            assert {night_of(time) for time in times} == {night}
        assert numbers(store.stored) == keys(written)
    with closing(EmbeddedStore("embedded", folder)) as store:
        assert numbers(store.stored) == keys(written)


def test_what_utf8_does_not_have_is_a_question_mark(store: EmbeddedStore) -> None:
    store.write([point(1, values={"label": "a\ud800\0b"}, units={})])
    assert [one.values for one in all_of(store.folder)] == [{"label": "a?\0b"}]


def test_a_number_is_kept_once_whatever_else_comes_with_it(store: EmbeddedStore) -> None:
    once = some(1, 5)
    store.write([*once, *once, point(3, time=START + 7), point(3, time=END + 7)])
    store.write([*once, point(4, values={"other": 1.0})])
    store.write([])
    assert in_order(all_of(store.folder)) == in_order(once)


def test_it_is_a_store(store: EmbeddedStore) -> None:
    used: Store[Point] = store
    assert (used.name, used.aside(), used.gone()) == ("embedded", 0, [])


def test_few_files_stay_open(store: EmbeddedStore) -> None:
    for night in range(20):
        store.write([point(night + 1, time=START + night * DAY_MS)])
        assert len(list(store.folder.glob("*-wal"))) <= 4
    assert len(all_of(store.folder)) == 20


def test_two_do_not_write_to_one_folder(store: EmbeddedStore) -> None:
    with pytest.raises(AwayError, match="another recorder"):
        EmbeddedStore("second", store.folder)
    store.close()
    EmbeddedStore("second", store.folder).close()


def test_a_series_is_what_was_recorded_in_order_of_time(
    store: EmbeddedStore, history: NightFiles
) -> None:
    some_points = [
        *some(1, 9),
        *some(5, 12, epoch="later"),
        *(point(seq, time=END + seq) for seq in range(20, 25)),
    ]
    random.Random(1).shuffle(some_points)
    store.write(some_points)
    mine = sorted((one for one in some_points if one.device == "slide"), key=lambda one: one.time)
    positions = history.series("slide", "position", START, END + DAY_MS)
    assert sorted((time, value) for time, _, value in positions) == sorted(
        (one.time, one.values["position"]) for one in mine
    )
    assert [time for time, _, _ in positions] == [one.time for one in mine]
    for field, kind in (("synced", bool), ("state.stage", str)):
        found = history.series("slide", field, START, END + DAY_MS)
        assert {type(value) for _, _, value in found} == {kind}
        assert len(found) == len(mine)
    first, last = mine[2].time, mine[6].time
    assert [time for time, _, _ in history.series("slide", "position", first, last)] == [
        one.time for one in mine if first <= one.time < last
    ]
    for nothing in (("slide", "nonsense"), ("nobody", "position")):
        assert history.series(*nothing, START, END) == []


def test_a_field_that_was_a_number_and_is_a_text_now_has_both(
    store: EmbeddedStore, history: NightFiles
) -> None:
    store.write([point(n, values={"mode": mode}) for n, mode in enumerate([1.0, "fast", True])])
    found = history.series("slide", "mode", START, END)
    assert [value for _, _, value in found] == [1.0, "fast", True]


def test_of_samples_of_one_millisecond_the_one_with_the_higher_number_is_the_last(
    store: EmbeddedStore, history: NightFiles
) -> None:
    names = [f"stage{n}" for n in range(20)]  # other streams for each, in another order
    for name in names:
        first = point(1, name, time=START, values={"mode": 1.0, "error": 0.0})
        store.write([first, point(2, name, time=START, values={"mode": 2.0})])
        assert history.series(name, "mode", START, END) == [(START, 1, 1.0), (START, 2, 2.0)]
        assert history.downsampled(name, "mode", START, END, 1)[0].last == 2.0
    assert [one.seq for one in history.samples(NIGHT)] == [1] * 20 + [2] * 20


def test_a_field_that_is_a_text_in_between_keeps_the_extremes_of_its_numbers(
    store: EmbeddedStore, history: NightFiles
) -> None:
    for n in range(20):  # other streams for each, in another order
        values = [5.0, "unknown", 7.0, 9.0]
        store.write([point(seq, f"d{n}", values={"x": one}) for seq, one in enumerate(values)])
        (bucket,) = history.downsampled(f"d{n}", "x", START, END, 1)
        assert bucket == (START, 5.0, 7.0, 9.0, 9.0, 4)
        store.write([point(9, f"d{n}", values={"x": "unknown"})])
        assert history.downsampled(f"d{n}", "x", START, END, 1)[0][1:] == (
            5.0,
            7.0,
            9.0,
            "unknown",
            5,
        )


@given(st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=60), st.integers(1, 40))
@settings(max_examples=25)
def test_downsampling_keeps_extremes_and_counts(
    tmp_path_factory: pytest.TempPathFactory, measured: list[float], count: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write([point(n, values={"p": value}) for n, value in enumerate(measured)])
    end = point(len(measured)).time
    buckets = NightFiles(folder).downsampled("slide", "p", START, end, count)
    assert len(buckets) <= count
    width = -(-(end - START) // count)
    for bucket in buckets:
        inside = [
            value
            for n, value in enumerate(measured)
            if bucket.time <= point(n).time < bucket.time + width
        ]
        assert (bucket.min, bucket.max) == (min(inside), max(inside))
        assert (bucket.last, bucket.n) == (inside[-1], len(inside))
        assert bucket.mean is not None
        assert min(inside) <= bucket.mean <= max(inside)
        assert bucket.mean == pytest.approx(fsum(one / len(inside) for one in inside))
    assert sum(bucket.n for bucket in buckets) == len(measured)


def test_no_points_and_no_time_are_refused(history: NightFiles) -> None:
    for start, end, count in ((START, START, 5), (START, END, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            history.downsampled("slide", "position", start, end, count)


def test_fields_and_counts_are_of_what_is_there(store: EmbeddedStore, history: NightFiles) -> None:
    units = {"position": "pix", "synced": "", "state.stage": ""}
    assert history.fields(START, END) == {}
    store.write(some(10, 19))
    store.write([point(25), point(30, "late", time=END + 1)])
    assert history.fields(START, END) == dict.fromkeys(NAMES, units)
    assert history.fields(START, END + 2)["late"] == units
    assert history.fields(START, START + 2000 * 10) == {}
    assert count(history, "slide", "4f3c", 1, 100) == 11
    assert count(history, "slide", "4f3c", 12, 13) == 2
    assert count(history, "slide", "later", 1, 100) == 0


def old_night(store: EmbeddedStore, clock: Clock) -> None:
    """Let the time pass after which a night is rolled up."""
    clock.now += 31 * 86400


def minutes(history: NightFiles, device: str = "slide", field: str = "position") -> list[Bucket]:
    return history.downsampled(device, field, START, END, DAY_MS // 60_000)


def close_to(buckets: list[Bucket]) -> list[Any]:
    """Return what these are equal to, but for the last digits of the means."""
    return [
        (b.time, b.min, b.mean and pytest.approx(b.mean, rel=1e-11), b.max, b.last, b.n)
        for b in buckets
    ]


def test_an_old_night_becomes_minutes_that_say_the_same(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    store.write([*some(1, 100), *some(1, 150, epoch="later"), point(7000)])
    fields = ("position", "synced", "state.stage")
    before = {field: minutes(history, field=field) for field in fields}
    known, units = numbers(store.stored), history.fields(START, END)
    store.tidy()
    assert history.nights() == [NIGHT]
    old_night(store, clock)
    store.tidy()
    assert history.nights() == []
    assert not list(store.folder.glob(f"{NIGHT}*"))
    for field in fields:
        assert minutes(history, field=field) == close_to(before[field])
    assert history.fields(START, END) == units
    assert numbers(store.stored) == known
    assert history.series("slide", "position", START, END) == []
    store.write(some(1, 100))
    assert history.nights() == []
    store.close()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        assert numbers(again.stored) == known


def test_each_command_is_kept_when_a_night_becomes_minutes(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    store.write(some(1, 10))
    texts: dict[str, Field] = {"what": "stage.home", "sample": 7.0}
    store.write([
        point(n, f"{device}.command", time=START + 7 * n, units={}, values=values)
        for device in ("slide", "flow")
        for n in range(1, 101)
        for values in (texts | {"why": f"{device} {n}"} if n % 3 else texts,)
    ])  # fmt: skip
    before = history.commands(None, START, END)
    assert len(before) == 200
    assert set(history.fields(START, END)) == set(NAMES)
    old_night(store, clock)
    store.tidy()
    assert history.nights() == []
    assert set(history.fields(START, END)) == set(NAMES)
    for device in (None, "slide"):
        kept = [one for one in before if device is None or one.device == "slide.command"]
        found = history.commands(device, START, END)
        assert [(one.device, one.time, one.values) for one in found] == [
            (one.device, one.time, one.values) for one in kept
        ]
    assert len(history.commands("slide", START + 70, START + 140)) == 10


def test_what_comes_late_counts_as_much_as_what_was_there(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    everything = [*some(1, 100), *some(50, 150, epoch="later")]
    store.write(everything)
    expected = {name: minutes(history, name) for name in NAMES}
    store.close()
    random.Random(2).shuffle(everything)
    folder = store.folder.with_name("late")
    late = NightFiles(folder)
    with closing(EmbeddedStore("late", folder, clock=clock)) as other:
        old_night(other, clock)
        for start in range(0, len(everything), 200):
            other.write(everything[start : start + 200])
            for name in NAMES:  # also while some of it is in minutes and some is not
                assert sum(b.n for b in minutes(late, name)) == len(
                    [one for one in everything[: start + 200] if one.device == name]
                )
            other.tidy()
        assert {name: minutes(late, name) for name in NAMES} == {
            name: close_to(buckets) for name, buckets in expected.items()
        }


@pytest.mark.parametrize("late", [False, True])
def test_a_night_counts_once_if_it_cannot_be_removed_after_it_was_rolled_up(
    store: EmbeddedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    history = NightFiles(store.folder)
    store.write(some(1, 100))
    before = minutes(history)
    old_night(store, clock)

    def fail(file: File) -> None:
        raise PermissionError(13, "not permitted", str(file.path))

    with monkeypatch.context() as patched:
        patched.setattr(File, "remove", fail)
        with pytest.raises(AwayError, match="not permitted"):
            store.tidy()
        assert history.nights() == [NIGHT]
        assert minutes(history) == close_to(before)
    store.close()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        assert minutes(history) == close_to(before)
        if late:
            again.write([point(200)])
        assert sum(bucket.n for bucket in minutes(history)) == 100 + late
        again.tidy()
        assert history.nights() == []
        assert sum(bucket.n for bucket in minutes(history)) == 100 + late
        assert minutes(history)[: len(before)] == close_to(before)
        assert numbers(again.stored) == keys(some(1, 100)) | (keys([point(200)]) if late else set())


def test_a_night_that_is_rolled_up_while_it_is_read_is_neither_missed_nor_counted_twice(
    store: EmbeddedStore, history: NightFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(some(1, 100))
    before = minutes(history)
    old_night(store, clock)
    reading = NightFiles._reading

    @contextmanager
    def slow(self: NightFiles, name: str, tables: Any) -> Iterator[sqlite3.Connection]:
        with reading(self, name, tables) as db:
            yield db
        if name == "history":
            store.tidy()

    monkeypatch.setattr(NightFiles, "_reading", slow)
    assert minutes(history) == close_to(before)
    assert history.nights() == []


def test_what_is_settled_is_stored_and_said_but_not_of_what_was_there(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(some(10, 20))
    store.settle([SampleRange("slide", "4f3c", 1, 30, "the journal had no more")])
    expected = [
        SampleRange("slide", "4f3c", 1, 9, "the journal had no more"),
        SampleRange("slide", "4f3c", 21, 30, "the journal had no more"),
    ]
    store.close()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        assert again.gone() == expected
        assert samples("slide", "4f3c", 1, 31) - again.stored == samples("slide", "4f3c", 31, 31)
        again.write([point(5)])
        assert len(all_of(again.folder)) == 3 * 11


def test_what_is_settled_together_is_kept_together_and_each_number_once(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [
        SampleRange("slide", "4f3c", 1, 20, "late"),
        SampleRange("slide", "4f3c", 10, 30, "later"),
    ]
    monkeypatch.setattr(File, "do", lambda *_: failing())
    with pytest.raises(AwayError):
        store.settle(iter(lost))
    assert not numbers(store.stored)
    monkeypatch.undo()
    store.settle(iter(lost))
    assert store.gone() == [lost[0], lost[1]._replace(first=21)]
    assert store.stored == samples("slide", "4f3c", 1, 30)


def failing() -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_full_disk_is_said_and_nothing_is_believed_to_be_kept(
    store: EmbeddedStore, history: NightFiles
) -> None:
    store.write(some(1, 10))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(AwayError, match=rf"{NIGHT}.sqlite cannot be used now .*: \w+"):
            store.write(some(11, 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert numbers(store.stored) == keys(some(1, 10))
    store.write(some(11, 5000))
    assert count(history, "slide", "4f3c", 1, 5000) == 5000
    assert numbers(store.stored) == keys(some(1, 5000))


def test_a_file_that_another_program_holds_is_named(store: EmbeddedStore) -> None:
    store.write(some(1, 2))
    db = store._nights[NIGHT].file._db
    assert db
    db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path_of(store), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AwayError, match=r"locked.*: stop the other program"):
            store.write(some(1, 5))
        other.execute("ROLLBACK")
    assert numbers(store.stored) == keys(some(1, 2))
    store.write(some(1, 5))
    assert in_order(all_of(store.folder)) == in_order(some(1, 5))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AwayError, match="file"):
        EmbeddedStore("embedded", tmp_path / "file" / "folder")


def test_a_night_that_somebody_removed_is_asked_for_again(store: EmbeddedStore) -> None:
    tomorrow = some(1, 5, time=END + 1)
    store.write(some(1, 5, epoch="later"))
    store.write(tomorrow)
    for part in store.folder.glob(f"{NIGHT}*"):
        part.unlink()
    store.tidy()
    assert numbers(store.stored) == keys(tomorrow)
    store.write(some(2, 4, time=END + 1, epoch="later"))
    for part in store.folder.glob("2026-11-23*"):
        part.unlink()
    store.write(some(6, 9, time=END + 2))
    assert numbers(store.stored) == keys(some(6, 9))


def week(store: EmbeddedStore, clock: Clock, days: int = 3) -> list[str]:
    """Let old nights come to be, one sample of each device in each; return their names."""
    for day in range(days):
        store.write(some(day + 1, day + 1, time=START + day * DAY_MS))
    clock.now = (START + (days + 30) * DAY_MS) / 1000
    return [night_of(START + day * DAY_MS) for day in range(days)]


def unreadable(store: EmbeddedStore, night: str, target: str = "") -> None:
    """Put in the place of a night what cannot be opened, or a link to what cannot be read."""
    store._nights[night].file.remove()
    path = path_of(store, night)
    path.symlink_to(target) if target else path.mkdir()


def test_a_bad_sector_is_damage_like_any_other(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    first, *others = week(store, clock)
    unreadable(store, first, "/proc/self/mem")  # whose first byte is EIO
    found = history.series("slide", "position", START, END + DAY_MS)
    assert [time for time, _, _ in found] == [START + DAY_MS]
    for _ in (first, *others):
        store.tidy()
    assert history.nights() == []
    assert numbers(store.stored) == keys(some(2, 3))
    assert len(list(store.folder.glob(f"{first}.sqlite.damaged-*"))) == 1


def test_a_night_that_cannot_be_read_keeps_no_other_from_its_turn(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    first, *others = week(store, clock)
    unreadable(store, first)
    for _ in (first, *others):
        with suppress(AwayError):
            store.tidy()
    assert history.nights() == [first]
    with pytest.raises(AwayError, match=rf"{first}.sqlite cannot .*: let this user read"):
        store.tidy()


def test_a_night_that_cannot_even_be_looked_for_keeps_no_other_from_its_turn(
    store: EmbeddedStore, history: NightFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = nights = week(store, clock)
    exists = Path.exists

    def looked_for(path: Path) -> bool:
        if path == path_of(store, first):
            raise OSError(errno.EIO, "Input/output error")
        return exists(path)

    monkeypatch.setattr(Path, "exists", looked_for)
    for _ in nights:
        with suppress(AwayError):
            store.tidy()
    monkeypatch.undo()
    assert history.nights() == [first]


def test_a_device_whose_clock_stands_still_keeps_no_night_from_its_turn(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    nights = week(store, clock)
    recent = point(1, epoch="later", time=int(clock.now * 1000) - 2 * DAY_MS)
    store.write([recent])
    store._nights[night_of(recent.time)].file.close()
    path_of(store, night_of(recent.time)).write_bytes(b"nonsense")
    for seq in range(1, 6):
        store.write([point(seq, "gps", time=1000 * seq)])
        store.tidy()
    assert not {*nights} & {*history.nights()}
    assert list(store.folder.glob("*.damaged-*"))


def test_a_night_that_cannot_be_read_does_not_keep_the_store_from_opening(
    store: EmbeddedStore, history: NightFiles, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(some(1, 10))
    store.close()
    clock.now += 86400
    today = int(clock.now * 1000)
    path = path_of(store).rename(store.folder / "elsewhere")
    path_of(store).mkdir()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        assert re.search(rf"{NIGHT}.sqlite cannot be used now .*: let this user", caplog.text)
        again.write([*some(5, 12), *some(20, 20, time=today)])
        again.settle([SampleRange("slide", "4f3c", 1, 4, "older than 14 days")])
        assert again.gone() == []
        assert not samples("slide", "4f3c", 1, 12) - again.stored
        with pytest.raises(AwayError, match=NIGHT):
            again.tidy()
        path_of(store).rmdir()
        path.rename(path_of(store))
        again.tidy()
        assert numbers(again.stored) == keys([*some(1, 10), *some(20, 20, time=today)])
        again.write(some(5, 12))
        assert len(list(history.samples(NIGHT))) == 3 * 12


def test_this_night_if_it_could_not_be_read_at_first_is_read_when_it_is_written_to(
    store: EmbeddedStore, clock: Clock
) -> None:
    store.write(some(1, 10))
    store.close()
    clock.now = START / 1000
    path = path_of(store).rename(store.folder / "elsewhere")
    path_of(store).mkdir()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        with pytest.raises(AwayError, match=NIGHT):
            again.write(some(11, 11))
        path_of(store).rmdir()
        path.rename(path_of(store))
        again.write(some(11, 11))
        again.settle([SampleRange("slide", "4f3c", 1, 11, "older than 14 days")])
        assert again.gone() == []


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("back", [False, True], ids=["removed", "restored"])
def test_a_night_outlives_a_main_file_that_somebody_removed_or_restored(
    store: EmbeddedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, done: bool, back: bool
) -> None:
    history = NightFiles(store.folder)
    store.write(some(1, 100))
    before = minutes(history)
    store._ledger.file.close()
    copied = shutil.copytree(store.folder, store.folder.with_name("copy"))
    store.gone()
    old_night(store, clock)
    if done:
        with monkeypatch.context() as patched:
            patched.setattr(File, "remove", lambda _: failing())
            with pytest.raises(AwayError, match="full"):
                store.tidy()
    for part in store.folder.glob("history.sqlite*"):
        part.unlink()
    if back:
        shutil.copy(copied / "history.sqlite", store.folder)
    store.tidy()
    assert history.nights() == []
    assert minutes(history) == close_to(before)


def test_a_night_that_comes_back_after_it_was_settled_as_gone_is_not_thrown_away(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    store.write(some(1, 100))
    before = minutes(history)
    clock.now += 86400
    store.tidy()
    away = path_of(store).rename(store.folder / "elsewhere")
    store.tidy()
    store.settle(SampleRange(name, "4f3c", 1, 100, "older than 14 days") for name in NAMES)
    away.rename(path_of(store))
    store.close()
    with closing(EmbeddedStore("embedded", store.folder, clock=clock)) as again:
        assert minutes(history) == before
        old_night(again, clock)
        again.tidy()
    assert history.nights() == []
    assert minutes(history) == close_to(before)


def test_it_is_read_while_it_is_written(store: EmbeddedStore, history: NightFiles) -> None:
    found: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() or not found:
            found.append(len(history.series("slide", "position", START, END)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seq in range(1, 300, 3):
            store.write(some(seq, seq + 2))
    finally:
        done.set()
        reader.join(AT_MOST)
    assert all(one <= two for one, two in pairwise(found))
    assert all(count % 3 == 0 for count in found)
    assert len(history.series("slide", "position", START, END)) == 300


def test_a_night_is_one_file_when_it_is_over(store: EmbeddedStore, clock: Clock) -> None:
    store.write([*some(1, 50), *some(1, 50, epoch="later", time=END)])
    clock.now += 2 * 86400
    store.tidy()
    assert {path.name for path in store.folder.glob("2026*")} == {
        f"{NIGHT}.sqlite",
        "2026-11-23.sqlite",
    }


WRITE = """
import sys
from pathlib import Path
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal.points import Point, night_bounds
store = EmbeddedStore("embedded", Path(sys.argv[1]), raw_days=float(sys.argv[2]))
times = [night_bounds(night)[0] for night in ("2025-11-21", "2025-11-22")]
first = store.stored.newest("slide", "one") + 1
for seq in range(first, first + 10**6):
    time = times[seq % 2] + 2000 * seq
    store.write([Point("slide", "one", seq, time, {"position": float(seq)}, {})])
    print(seq, flush=True)
    if seq % 20 == 0:
        store.tidy()
"""


@pytest.mark.parametrize("raw_days", [1e6, 0.0])
def test_a_process_killed_at_any_time_loses_and_doubles_nothing(
    tmp_path: Path, raw_days: float, scaled: Scaled
) -> None:
    """If there are no days to keep, nights are rolled up all the time."""
    rng = random.Random(3)
    start, end = night_bounds("2025-11-21")[0], night_bounds("2025-11-22")[1]
    history = NightFiles(tmp_path)
    told = 0
    for _ in range(scaled(4, soak=10)):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path), str(raw_days)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        with process.stdout:
            for _ in range(rng.randint(1, 60)):
                told = int(process.stdout.readline())
            threading.Event().wait(rng.random() / 100)
            process.kill()
            told = max([told, *map(int, process.stdout.read().split("\n")[:-1])])
        process.wait(AT_MOST)
        buckets = history.downsampled("slide", "position", start, end, 10_000)
        with closing(EmbeddedStore("embedded", tmp_path)) as store:
            stored = numbers(store.stored)
        assert len(stored) in (told, told + 1)
        assert stored == {("slide", "one", n) for n in range(1, len(stored) + 1)}
        assert sum(bucket.n for bucket in buckets) == len(stored)
        if raw_days:
            assert sorted(one.seq for one in all_of(tmp_path)) == sorted(n for _, _, n in stored)
            assert count(history, "slide", "one", 1, 10**6) == len(stored)


PAGE = 4096
MAX_PAGE_ROWS = 80
OLD = some(1, 200, epoch="old", time=START - 40 * DAY_MS)
SOME = [*some(1, 400), *some(1, 100, epoch="later")]
FILES = {"night": f"{NIGHT}.sqlite", "log": f"{NIGHT}.sqlite-wal", "main": "history.sqlite"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder with a closed night, and one as a killed process would leave it."""
    closed, killed = (tmp_path_factory.mktemp(name) / "whole" for name in ("closed", "killed"))
    with closing(EmbeddedStore("embedded", closed, clock=Clock(END / 1000))) as store:
        store.write([one._replace(time=one.time + 2000 * one.seq) for one in OLD])
        store.tidy()
        store.settle([SampleRange("slide", "dead", 1, 50, "the journal had no more")])
        for start in range(0, len(SOME), 100):
            store.write(SOME[start : start + 100])
        shutil.copytree(closed, killed)
    return {"night": closed, "main": closed, "log": killed}


def damaged(data: bytes, rng: random.Random) -> bytearray:
    """Return a file cut off, or with flipped bits, or with other bytes for a while."""
    new = bytearray(data)
    at = rng.randrange(len(new))
    how = rng.choice(["cut", "flips", "header", "block"])
    if how == "cut":
        return new[:at]
    if how == "block":
        new[at : at + PAGE] = rng.randbytes(len(new[at : at + PAGE]))
    for _ in range(rng.choice([1, 3, 20]) if how != "block" else 0):
        new[rng.randrange(100 if how == "header" else len(new))] ^= 1 << rng.randrange(8)
    return new


def nothing_wrong(history: NightFiles) -> None:
    """Check that all that is said is true, and is said once."""
    written = {(one.device, one.epoch, one.seq): one for one in SOME}
    found = [one for night in history.nights() for one in history.samples(night)]
    assert all(written[one.device, one.epoch, one.seq] == one for one in found)
    assert len(found) == len(keys(found))
    for device in NAMES:
        true = sorted((one.time, one.values["position"]) for one in SOME if one.device == device)
        positions = history.series(device, "position", START, END)
        assert {(time, value) for time, _, value in positions} <= set(true)
        history.fields(START, END)
        for field in ("position", "state.stage"):
            buckets = history.downsampled(device, field, START - 41 * DAY_MS, END, 41 * 1440)
            assert sum(bucket.n for bucket in buckets) <= 500 + 200


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 12))]
)
@pytest.mark.parametrize("which", FILES)
def test_of_a_damaged_file_only_what_was_hit_is_lost_and_is_known_to_be(
    tmp_path: Path, whole: dict[str, Path], which: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[which], folder)
    path = folder / FILES[which]
    before = path.read_bytes()
    after = damaged(before, random.Random(f"{which} {seed}"))
    path.write_bytes(after)
    history = NightFiles(folder)
    nothing_wrong(history)
    with closing(EmbeddedStore("embedded", folder, clock=Clock(END / 1000))) as store:
        nothing_wrong(history)
        store.tidy()
        nothing_wrong(history)
        there = sum(count(history, d, e, 1, 1000) for d in NAMES for e in ("4f3c", "later"))
        stored = {key for key in numbers(store.stored) if key[1] in ("4f3c", "later")}
        assert there == len(stored)
        assert stored <= keys(SOME)
        pages = [
            n for n in range(0, len(before), PAGE) if before[n : n + PAGE] != after[n : n + PAGE]
        ]
        if which != "log":
            assert len(SOME) - there <= (which == "night") * len(pages) * MAX_PAGE_ROWS
        store.write(SOME)
        assert in_order(list(history.samples(NIGHT))) == in_order(SOME)
        assert keys(SOME) <= numbers(store.stored)
        assert set(store.gone()) <= {SampleRange("slide", "dead", 1, 50, "the journal had no more")}
    aside = list(folder.glob(f"{path.name}.damaged-*[0-9]"))
    assert [one.read_bytes() for one in aside] in ([], [after])
    assert len([r for r in caplog.records if "was damaged" in r.message]) == len(aside)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 4]))


def test_a_flipped_bit_that_sqlite_does_not_see_is_left_out_and_then_mended(
    store: EmbeddedStore, history: NightFiles, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([point(seq) for seq in range(1, 30)])
    store._nights[NIGHT].file.close()
    value = struct.pack("<d", float(point(7).values["position"]))
    flip(path_of(store), path_of(store).read_bytes().index(value) + 3)
    with closing(sqlite3.connect(path_of(store))) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(history.series("slide", "position", START, END)) == 28
    assert count(history, "slide", "4f3c", 1, 100) == 28
    assert not samples("slide", "4f3c", 7, 7) - store.stored
    clock.now += 86400
    store.tidy()
    assert samples("slide", "4f3c", 1, 29) - store.stored == samples("slide", "4f3c", 7, 7)
    told = r"22.sqlite was damaged \(damaged samples: 1\): .*damaged-\d+.*: 28 sample"
    assert re.search(told, caplog.text)
    store.write([point(seq) for seq in range(1, 30)])
    assert in_order(all_of(store.folder)) == [point(seq) for seq in range(1, 30)]


@pytest.mark.parametrize(
    ("text", "copies", "is_lost"),
    [
        (b"moving", 1, lambda one: False),
        (b"moving", 2, lambda one: one.values["state.stage"] == "moving"),
        (b'["ccd1", "4f3c"', 2, lambda one: (one.device, one.epoch) == ("ccd1", "4f3c")),
    ],
)
def test_a_text_is_there_twice_and_without_it_a_sample_is_not_whole(
    tmp_path: Path,
    whole: dict[str, Path],
    text: bytes,
    copies: int,
    is_lost: Callable[[Point], bool],
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["night"], folder)
    path = folder / FILES["night"]
    assert path.read_bytes().count(text) == 2
    path.write_bytes(path.read_bytes().replace(text, text[:-2] + b"x" + text[-1:], copies))
    left = [one for one in SOME if not is_lost(one)]
    with closing(EmbeddedStore("embedded", folder, clock=Clock(END / 1000 + 86400))) as store:
        nothing_wrong(NightFiles(folder))
        store.tidy()
        assert in_order(all_of(folder)) == in_order(left)
        assert {key for key in numbers(store.stored) if key[1] in ("4f3c", "later")} == keys(left)


HEADERS = [(0, 0), (18, 3), (19, 1), (19, 3), (20, 4), (47, 5), (55, 1), (59, 2)]


@pytest.mark.parametrize(("at", "value"), HEADERS)
@pytest.mark.parametrize("which", ["night", "main"])
def test_a_header_that_is_damaged_is_not_taken_for_a_file_that_may_not_be_written(
    tmp_path: Path, whole: dict[str, Path], which: str, at: int, value: int
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[which], folder)
    with (folder / FILES[which]).open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([value]))
    nothing_wrong(NightFiles(folder))
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write([point(7000)])
        assert list(folder.glob(f"{FILES[which]}.damaged-*"))
        assert numbers(store.stored) >= keys([*OLD, *SOME, point(7000)])
        assert len(store.gone()) == 1


def test_what_is_said_to_be_stored_proves_itself(tmp_path: Path, whole: dict[str, Path]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["night"], folder)
    with closing(sqlite3.connect(folder / FILES["night"], isolation_level=None)) as db:
        db.execute("UPDATE stored SET last = 5000 WHERE last = 400")
    with closing(EmbeddedStore("embedded", folder)) as store:
        assert not samples("slide", "4f3c", 1, 400) - store.stored
        later = samples("slide", "4f3c", 401, 5000)
        assert later - store.stored == later


def test_what_is_stored_is_found_to_differ_from_what_is_there(
    tmp_path: Path, whole: dict[str, Path]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["night"], folder)
    with closing(sqlite3.connect(folder / FILES["night"], isolation_level=None)) as db:
        db.execute("DELETE FROM sample WHERE seq = 7")
    with closing(EmbeddedStore("embedded", folder, clock=Clock(END / 1000 + 86400))) as store:
        assert not samples("slide", "4f3c", 1, 400) - store.stored
        store.tidy()
        there = {(one.device, one.epoch, one.seq) for one in all_of(folder)}
        assert there == {key for key in numbers(store.stored) if key[1] in ("4f3c", "later")}
        before = numbers(store.stored)
    with closing(EmbeddedStore("embedded", folder)) as store:
        assert numbers(store.stored) == before


def test_a_damaged_minute_is_left_out(tmp_path: Path, whole: dict[str, Path]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["main"], folder)
    path = folder / FILES["main"]
    history = NightFiles(folder)
    before = history.downsampled("slide", "position", START - 41 * DAY_MS, END, 1)
    with closing(sqlite3.connect(path)) as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM minute")]
    for body in bodies:
        flip(path, path.read_bytes().index(body) + 9)
    after = history.downsampled("slide", "position", START - 41 * DAY_MS, END, 1)
    assert before[0].n == len([one for one in (*OLD, *SOME) if one.device == "slide"])
    assert after[0].n == len([one for one in SOME if one.device == "slide"])


def test_a_damaged_tree_is_found_before_anything_is_written_into_it(
    tmp_path: Path, whole: dict[str, Path]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["night"], folder)
    path = folder / FILES["night"]
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as stream:
        stream.seek((pages - 2) * PAGE)
        stream.write(bytes(PAGE))
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write([point(7000)])
        assert list(folder.glob("*.damaged-*"))
        assert numbers(store.stored) > keys([point(7000)])


def test_the_log_of_a_file_that_was_removed_is_not_read_into_the_next(
    tmp_path: Path, whole: dict[str, Path]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole["log"], folder)
    (folder / FILES["night"]).unlink()
    with closing(EmbeddedStore("embedded", folder)) as store:
        store.write([point(7000)])
        assert all_of(folder) == [point(7000)]


def test_rows_that_a_damaged_tree_has_twice_or_out_of_order_come_once_and_in_order(
    store: EmbeddedStore,
) -> None:
    store.write([point(seq) for seq in range(1, 20)])
    with closing(sqlite3.connect(path_of(store))) as db:
        (stream,) = streams(db)
        there = db.execute("SELECT * FROM sample").fetchall()
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE sample (stream, time, seq, body)")  # without a key
        disordered = [*there[:9], *there[3:6], *there[12:], *there[9:12]]
        db.executemany("INSERT INTO sample VALUES (?, ?, ?, ?)", disordered)
        found = [seq for _, seq, _ in rows(db, stream)]
    assert found == sorted(set(found))
    assert len(found) == 9 + 7


def test_a_file_damaged_while_it_is_open_is_made_anew(
    store: EmbeddedStore, history: NightFiles, clock: Clock
) -> None:
    store.write(some(1, 1000))
    db = store._nights[NIGHT].file._db
    assert db
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA shrink_memory")
    size = path_of(store).stat().st_size
    with path_of(store).open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(bytes(size // 2))
    with closing(sqlite3.connect(store.folder / "history.sqlite")) as other:
        other.execute("SELECT 1 FROM sqlite_master").fetchone()
    store.write(some(1001, 1500))
    clock.now += 86400
    store.tidy()
    assert list(store.folder.glob("*.damaged-*"))
    counts = {device: count(history, device, "4f3c", 1, 2000) for device in NAMES}
    assert sum(counts.values()) == len(numbers(store.stored))
    assert sum(counts.values()) > 500
    store.write(some(1, 1500))
    assert in_order(all_of(store.folder)) == in_order(some(1, 1500))


def test_the_ledger_is_made_anew_while_it_is_open(store: EmbeddedStore) -> None:
    store.settle([SampleRange("slide", "one", 1, 5, "why")])
    db = store._ledger.file._db
    assert db
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._ledger.file.close()
    with (store.folder / "history.sqlite").open("r+b") as stream:
        stream.write(b"nonsense")
    store.settle([SampleRange("slide", "one", 6, 9, "why")])
    assert [(gone.first, gone.last) for gone in store.gone()] == [(1, 5), (6, 9)]
    assert not samples("slide", "one", 1, 9) - store.stored


class KilledError(BaseException):
    """Here the process would have died."""


def test_making_a_file_anew_may_be_interrupted_anywhere(
    tmp_path: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and each removal in turn is the last thing that happens."""
    for step in itertools.count():
        folder = tmp_path / str(step)
        shutil.copytree(whole["night"], folder)
        (folder / FILES["log"]).touch()
        with (folder / FILES["night"]).open("r+b") as stream:
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
            assert in_order(all_of(folder)) == in_order(SOME)
            assert keys(SOME) <= numbers(store.stored)
            store.write(SOME)
        assert in_order(all_of(folder)) == in_order(SOME)
        if done:
            assert step > 5
            break
