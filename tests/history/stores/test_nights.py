"""History is read from closed files and open rows as one, also while files are replaced."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.history.stores import AwayError, nights
from hcam_devices.history.stores.nights import NightFiles, Snapshot
from hcam_devices.history.stores.tonight import NAME
from hcam_devices.journal.points import DAY_MS, MAX_FIELDS, Field, Point, night_of

from ...helpers import records
from ..written import NOON, TODAY, Written

HOUR = 3_600_000


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path / "a[b]*?" / "history")
    yield written
    written.store.close()


def files(written: Written) -> list[str]:
    return sorted(path.name for path in written.store.folder.glob("nights/*/*"))


# --- closed or not --------------------------------------------------------------------------------

DEVICES = ("ccd1", "b/c d", "ccd1.command")
values = st.dictionaries(
    st.sampled_from(["temperature", "Temperature", "state.health", "time", "x"]),
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=9)),
    min_size=1,
)
samples = st.tuples(
    st.sampled_from(DEVICES),
    st.sampled_from("ab"),
    st.integers(NOON - HOUR, NOON + 3 * HOUR),
    values,
    st.booleans(),  # whether to close then what is over
)


@settings(max_examples=6)
@given(st.lists(samples, max_size=12))
def test_what_is_closed_and_what_is_not_are_read_as_one(
    tmp_path_factory: pytest.TempPathFactory, given: list[Any]
) -> None:
    written = Written(tmp_path_factory.mktemp("history"))
    points = []
    try:
        for seq, (device, epoch, at, fields, closes) in enumerate(given, 1):
            units = {name: "mbar" for name in fields if name == "x"}
            points.append(Point(device, epoch, seq, at, fields, units))
            written.store.write(records(points[-1:]))
            if closes:
                written.clock.now = at / 1000 + 600
                written.close_hours()
        found = NightFiles(written.store.folder)
        every = [point for night in found.nights() for point in found.samples(night)]
        assert every == sorted(points, key=lambda point: (point.time, point.seq))
        assert found.nights() == sorted({night_of(point.time) for point in points})
        for name in ("temperature", "state.health", "x"):
            some = [p for p in points if p.device == "ccd1" and name in p.values]
            true = sorted((p.time, p.seq, p.values[name]) for p in some)
            assert found.series("ccd1", name, 0, 10**15) == true
    finally:
        written.store.close()


VALUES: list[tuple[Field, str]] = [(1.0, ""), (2.0, "mbar"), (300.0, "Pa"), ("n/a", "")]


def test_values_in_another_unit_have_a_name_of_their_own(written: Written) -> None:
    for seq, (value, unit) in enumerate(VALUES):
        units = {"pressure": unit} if unit else {}
        written.store.write(
            records([Point("pressure1", "a", seq, NOON + seq, {"pressure": value}, units)])
        )
    found = NightFiles(written.store.folder)
    assert found.fields() == {"pressure1": {"pressure": "mbar", "pressure [Pa]": "Pa"}}
    assert [value for *_, value in found.series("pressure1", "pressure", *TODAY)] == [1, 2, "n/a"]
    (bucket,) = found.downsampled("pressure1", "pressure [Pa]", *TODAY, 1)
    assert bucket.max == 300.0
    assert [point.values for point in found.samples("2026-11-22")][2] == {"pressure": 300.0}


def test_a_bool_is_told_as_one_unless_there_are_numbers(written: Written) -> None:
    written.write("slide", 1000, moving=[True, False, True])
    found = NightFiles(written.store.folder)
    (bucket,) = found.downsampled("slide", "moving", *TODAY, 1)
    assert bucket.last is True
    written.write("slide", 1000, NOON + 5000, moving=[0.5])
    (bucket,) = found.downsampled("slide", "moving", *TODAY, 1)
    assert (bucket.last, bucket.n) == (0.5, 4)


def test_samples_with_many_fields_are_read_before_and_after_they_are_closed(
    written: Written,
) -> None:
    values: dict[str, Field] = {f"x{n}": n / 2 for n in range(MAX_FIELDS)}
    written.write("ccd1", 1000, NOON, **{name: [value] for name, value in values.items()})
    for _ in range(2):
        (point,) = NightFiles(written.store.folder).samples("2026-11-22")
        assert point.values == values
        written.close()


def test_no_points_and_no_time_are_refused(written: Written) -> None:
    for span, points in ((TODAY, 0), ((NOON, NOON), 5)):
        with pytest.raises(ValueError, match="both must be positive"):
            NightFiles(written.store.folder).downsampled("slide", "position", *span, points)


def test_a_folder_without_files_is_empty(tmp_path: Path) -> None:
    found = NightFiles(tmp_path / "nowhere")
    assert (found.nights(), found.fields(), found.series("a", "b", *TODAY)) == ([], {}, [])


def test_files_that_nobody_may_write_are_read(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write("slide", 1000, position=[1.0])
    written.store.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(NightFiles(written.store.folder).series("slide", "position", *TODAY)) == 1
    assert not [*written.store.folder.glob(f"{NAME}-*")], "SQLite has made files"


# --- while files are replaced ---------------------------------------------------------------------


def rows_of_an_hour(written: Written) -> None:
    written.write("ccd1", 1000, temperature=[1.0] * 10)


def parts_of_a_night(written: Written) -> None:
    rows_of_an_hour(written)
    written.close_hours()
    written.write("ccd1", 1000, NOON + HOUR, temperature=[2.0] * 10)
    written.close_hours()


def late_samples(written: Written) -> None:
    rows_of_an_hour(written)
    written.close()
    written.write("ccd1", 1000, NOON + HOUR, temperature=[2.0] * 10)


@pytest.mark.parametrize("begin", [rows_of_an_hour, parts_of_a_night, late_samples])
@pytest.mark.parametrize("looks", [1, 2])
def test_a_file_that_is_replaced_while_it_is_read_is_neither_missed_nor_counted_twice(
    written: Written, monkeypatch: pytest.MonkeyPatch, begin: Any, looks: int
) -> None:
    begin(written)
    looked: list[Snapshot] = []
    look = NightFiles.snapshot

    def look_and_close(self: NightFiles, *args: Any) -> Snapshot:
        looked.append(look(self, *args))
        if len(looked) == looks:
            written.close()
        return looked[-1]

    found = NightFiles(written.store.folder)
    true = found.series("ccd1", "temperature", *TODAY)
    assert len(true) == written.seq
    monkeypatch.setattr(NightFiles, "snapshot", look_and_close)
    for _ in range(3):
        assert found.series("ccd1", "temperature", *TODAY) == true
    assert files(written) == ["ccd1.parquet"]
    assert len(looked) == 4


def test_a_reader_waits_for_a_file_that_is_being_replaced(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.write("ccd1", 1000, temperature=[1.0])
    written.write("slide", 1000, position=[1.0])
    found = NightFiles(written.store.folder)
    with closing(sqlite3.connect(written.store.folder / NAME, isolation_level=None)) as db:
        db.execute("INSERT INTO pending VALUES ('2026-11-22', 'ccd1.parquet', '{}')")
        assert found.series("slide", "position", *TODAY)
        assert found.series("ccd1", "temperature", NOON + DAY_MS, NOON + 2 * DAY_MS) == []
        monkeypatch.setattr(nights, "MAX_WAIT_S", 0.0)
        with pytest.raises(AwayError, match=r"only half replaced .* run: hcam history close"):
            found.series("ccd1", "temperature", *TODAY)
        monkeypatch.setattr(nights, "MAX_WAIT_S", 600.0)
        waited = []

        def enter(_: float) -> None:
            waited.append(db.execute("DELETE FROM pending"))

        monkeypatch.setattr(nights, "sleep", enter)
        assert found.series("ccd1", "temperature", *TODAY)
        assert len(waited) == 1


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["footer", "cut", "gone"])
def test_a_damaged_file_is_left_out_with_a_warning(
    written: Written, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    for day in range(3):
        written.write("ccd1", 1000, NOON + day * DAY_MS, temperature=[float(day)] * 5)
    written.close()
    found = NightFiles(written.store.folder)
    file = written.store.folder / "nights" / "2026-11-23" / "ccd1.parquet"
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] + b"\xff" * 9 if how == "footer" else content[:100])
    for _ in range(2):
        buckets = found.downsampled("ccd1", "temperature", NOON, NOON + 3 * DAY_MS, 3)
        assert [bucket.mean for bucket in buckets] == [0.0, 2.0]
    assert caplog.messages == [f"{file} is damaged: its samples are left out until it is repaired"]


def test_a_damaged_row_is_left_out(written: Written) -> None:
    written.write("ccd1", 1000, temperature=[1.0, 2.0, 3.0])
    with closing(sqlite3.connect(written.store.folder / NAME, isolation_level=None)) as db:
        db.execute("UPDATE sample SET body = '[2.' WHERE seq = 2")
    series = NightFiles(written.store.folder).series("ccd1", "temperature", *TODAY)
    assert [value for *_, value in series] == [1.0, 3.0]


def test_a_file_that_cannot_be_used_is_named(written: Written) -> None:
    written.write("ccd1", 1000, temperature=[1.0])
    written.store.close()
    path = written.store.folder / NAME
    path.write_bytes(b"\xff" * 8192)
    with pytest.raises(AwayError, match=r"tonight\.sqlite cannot be used now .*: check its disk"):
        NightFiles(written.store.folder).fields()
