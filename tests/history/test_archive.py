"""History by field and span, downsampled without losing an extreme."""

import csv
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.time import Time
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from hcam_devices import HcamError
from hcam_devices.config.stores import Embedded, InfluxDB, place
from hcam_devices.core.fields import Readback
from hcam_devices.errors import NotAllowedError
from hcam_devices.history import archive
from hcam_devices.history.archive import (
    Archive,
    HistoryError,
    Span,
    duration,
    samples,
    span,
    text_from_ms,
)
from hcam_devices.history.figures import with_stores
from hcam_devices.history.journals import Journals
from hcam_devices.history.recorder import Recorder
from hcam_devices.history.replicator import Replicator
from hcam_devices.history.stores.line_protocol import LineStore
from hcam_devices.history.stores.lost import LostNotes
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal.notebook import Lost
from hcam_devices.journal.points import DAY_MS, Field, Point
from hcam_devices.ui import plot

from ..helpers import Clock, records
from .written import NOON, NOW, TODAY, Written


@pytest.fixture(params=["rows", "files"])
def written(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Written]:
    written = Written(tmp_path / "history")
    written.closes = request.param == "files"
    yield written
    written.store.close()


CLOSED = pytest.mark.parametrize("written", ["files"], indirect=True)
"""For tests of pictures, which take long and do not depend on where a reply was read."""


# --- when -----------------------------------------------------------------------------------------


def test_commands_come_page_by_page_and_mark_a_plot(
    written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive, "MAX_COMMANDS", 7)
    written.write("slide", 1000, position=[float(n) for n in range(60)])
    for device in ("slide", "flow", "pressure1"):  # three commands at each time
        name = [f"{device} {n}" for n in range(20)]
        written.write(f"{device}.command", 2000, what=["stage.home"] * 20, why=name)
    every = list(archive.commands(written.archive, None, TODAY))
    assert [event["time"] for event in every] == sorted(event["time"] for event in every)
    assert len(every) == len({event["why"] for event in every}) == 60
    some = list(archive.commands(written.archive, "slide", Span(NOON, NOON + 10_000)))
    assert [event["why"] for event in some] == [f"slide {n}" for n in range(5)]
    assert list(archive.commands(written.archive, "slide", Span(NOON + 1, NOON + 2000))) == []
    with pytest.raises(
        HistoryError, match="there is no history of 'nobody'; there is history of slide"
    ):
        written.archive.commands("nobody", *TODAY)
    shown = Span(NOON, NOON + 60_000)
    kwargs: dict[str, Any] = {"points": None, "png": None}
    assert plot.show(written.archive, ("slide.position",), shown, {}, how="plot", **kwargs) == 0
    said = capsys.readouterr().out
    assert "▲ 20 commands" in said
    assert said.count("▲") == 1 + 20


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ({}, "2026-11-22 12:00:00", "2026-11-23 12:00:00"),
        ({"last": "90s"}, "2026-11-23 11:58:30", "2026-11-23 12:00:00"),
        ({"last": "1.5h"}, "2026-11-23 10:30:00", "2026-11-23 12:00:00"),
        ({"last": "2w"}, "2026-11-09 12:00:00", "2026-11-23 12:00:00"),
        ({"last": "99999w"}, "1970-01-01 00:00:00", "2026-11-23 12:00:00"),
        ({"night": "2026-11-20"}, "2026-11-20 12:00:00", "2026-11-21 12:00:00"),
        ({"night": "tonight"}, "2026-11-23 12:00:00", "2026-11-24 12:00:00"),
        ({"night": "yesterday"}, "2026-11-22 12:00:00", "2026-11-23 12:00:00"),
        ({"start": "2026-11-21"}, "2026-11-21 00:00:00", "2026-11-23 12:00:00"),
        ({"start": "11:59"}, "2026-11-23 11:59:00", "2026-11-23 12:00:00"),
        ({"start": "21:30", "end": "06:00"}, "2026-11-22 21:30:00", "2026-11-23 06:00:00"),
        ({"start": "21:30Z", "last": "10m"}, "2026-11-22 21:30:00", "2026-11-22 21:40:00"),
        ({"start": "21:30", "last": "10m"}, "2026-11-22 21:30:00", "2026-11-22 21:40:00"),
        ({"end": "2026-11-20T01:00+02:00"}, "2026-11-18 23:00:00", "2026-11-19 23:00:00"),
        ({"end": "2026-11-20", "last": "7d"}, "2026-11-13 00:00:00", "2026-11-20 00:00:00"),
        ({"start": NOON, "end": NOON + 1}, "2026-11-22 12:00:00", "2026-11-22 12:00:00"),
    ],
)
def test_a_span_is_what_was_meant(asked: dict[str, Any], start: str, end: str) -> None:
    found = span(NOW, **asked)
    assert (text_from_ms(found.start), text_from_ms(found.end)) == (start, end)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"last": "24"}, "'24' is not a duration such as 90s, 15m, 24h, 7d or 2w"),
        ({"last": "0h"}, "'0h' is not a duration"),
        ({"last": f"{'9' * 400}h"}, "9h' is not a duration"),
        ({"last": "yesterday"}, "'yesterday' is not a duration"),
        ({"start": "yesterday"}, "not a time such as 2026-11-22, 2026-11-22T21:30 or 21:30"),
        ({"start": "25:00"}, "'25:00' is not a time"),
        ({"start": "00:30+02:00"}, "zone but no date: add the date .2026-11-22T00:30.02:00"),
        ({"end": "21:30:00.5-07:00"}, "zone but no date"),
        ({"night": "2026-13-01"}, "'2026-13-01' is not a night such as 2026-11-22"),
        ({"night": "tomorrow"}, "'tomorrow' is not a night such as 2026-11-22, tonight"),
        ({"night": "0001-01-01"}, "'0001-01-01' is not a night such as 2026-11-22"),
        ({"night": "9999-12-31"}, "'9999-12-31' is not a night such as 2026-11-22"),
        ({"night": "2026-11-01", "last": "1h"}, "give no other time with it"),
        ({"start": 1, "end": 2, "last": "1h"}, "give two of"),
        ({"start": "2026-11-22", "end": "2026-11-21"}, "the end, 2026-11-21 00:00:00 UTC"),
        ({"start": 10**20, "last": "1h"}, "is not after the start, 2262-"),
        ({"end": 0}, "is not after the start, 1970-01-01"),
    ],
)
def test_a_span_that_is_none_is_told_in_a_sentence(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        span(NOW, **asked)


@given(st.text())
def test_any_other_text_is_no_duration(text: str) -> None:
    if not archive.DURATION.fullmatch(text.strip()):
        with pytest.raises(HistoryError):
            duration(text)


# --- what -----------------------------------------------------------------------------------------


@given(
    values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200),
    every=st.integers(1, 5_000_000),
    points=st.integers(1, 50),
)
def test_no_extreme_and_no_sample_is_lost_by_downsampling(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], every: int, points: int
) -> None:
    written = Written(tmp_path_factory.mktemp("history"))
    try:
        times = written.write("ccd1", every, temperature=values)
        end = times[-1] + 1
        reply = written.archive.history("ccd1.temperature", NOON, end, points)
    finally:
        written.store.close()
    assert len(reply["time"]) <= points
    assert reply["unit"] == "deg_C"
    assert reply["newest"] is None
    assert sum(reply["n"]) == len(values)
    assert (min(reply["min"]), max(reply["max"])) == (min(values), max(values))
    assert reply["last"][-1] == values[-1]
    assert all(NOON <= at < end for at in reply["time"])
    ordered = zip(reply["min"], reply["mean"], reply["max"], strict=True)
    assert all(low <= mean <= high for low, mean, high in ordered)


def test_the_longest_replies_are_shorter_than_500_kb(written: Written) -> None:
    numbers = [-1.2345678901234567e-100 * (1 + 1 / (n + 3)) for n in range(25_000)]
    texts = [f'"{n}\u00b0' * 100 for n in range(2000)]
    written.write("ccd1", 1000, temperature=numbers)
    written.write("ccd2", 1000, status=texts)
    most = written.archive.history("ccd1.temperature", *TODAY, archive.MAX_POINTS)
    assert len(most["time"]) > archive.MAX_POINTS // 4
    for reply in (
        most,
        written.archive.history("ccd2.status", *TODAY, archive.MAX_POINTS),
        written.archive.raw("ccd1.temperature", *TODAY),
        written.archive.raw("ccd2.status", *TODAY),
    ):
        assert 100_000 < len(json.dumps(reply)) < 500_000


@pytest.mark.parametrize("points", [0, -1, 3001])
def test_points_without_bounds_are_refused(written: Written, points: int) -> None:
    with pytest.raises(HistoryError, match=f"points must be from 1 to 3000, not {points}"):
        written.archive.history("ccd1.temperature", *TODAY, points)


def test_of_texts_the_newest_changes_are_told(written: Written) -> None:
    times = written.write("ccd1", 1000, state__health=["OK", "OK", "WARN", "WARN", "OK", "OK"])
    reply = written.archive.history("ccd1.state.health", *TODAY)
    assert reply["time"] == [times[0], times[2], times[4]]
    assert reply["value"] == ["OK", "WARN", "OK"]
    assert (reply["until"], reply["earlier"], reply["unit"]) == (times[5], 0, "")
    reply = written.archive.history("ccd1.state.health", *TODAY, 1)
    assert (reply["value"], reply["time"], reply["earlier"]) == (["OK"], [times[4]], 2)


def test_of_true_and_false_the_numbers_are_told(written: Written) -> None:
    written.write("ccd1", 1000, homed=[False, True, True])
    reply = written.archive.history("ccd1.homed", *TODAY, 1)
    assert (reply["min"], reply["max"], reply["last"], reply["n"]) == ([0], [1], [True], [3])


@pytest.mark.parametrize("field", ["fwhm", "pressure"])  # without a unit, and with one
@pytest.mark.parametrize("order", [1, -1])
def test_of_numbers_and_texts_the_numbers_are_told(
    written: Written, field: str, order: int
) -> None:
    values: list[Field] = [1.0, "n/a", 3.0, "over"]
    values += ["n/a"] * 60
    times = written.write("ccd1", 1000, NOON, **{field: values[::order]})
    whole = Span(NOON, times[-1] + 1)
    reply = written.archive.history(f"ccd1.{field}", *whole, 1)
    assert (reply["min"], reply["mean"], reply["max"], reply["n"]) == ([1.0], [2.0], [3.0], [2])
    assert reply["last"] == [3.0 if order > 0 else 1.0]
    pieces = written.archive.history(f"ccd1.{field}", *whole, 64)
    assert all(isinstance(value, float) for key in ("min", "last") for value in pieces[key])
    assert list(plot.table(pieces))
    assert written.archive.raw(f"ccd1.{field}", *whole)["value"] == values[::order]


def test_a_text_with_a_unit_is_a_text(written: Written) -> None:
    written.write("pressure1", 1000, pressure=["over", "over", "under"])
    reply = written.archive.history("pressure1.pressure", *TODAY)
    assert (reply["value"], reply["unit"]) == (["over", "under"], "mbar")


def test_a_field_has_the_unit_that_it_had_at_times(written: Written) -> None:
    written.write("ccd1", 1000, temperature=[1.0])
    for seq, at in enumerate((NOON, NOON + DAY_MS)):
        point = Point("ccd1", f"b{seq}", 1, at, {"temperature": "n/a"}, {})
        written.store.write(records([point]))
    assert written.archive.fields() == {"ccd1": {"temperature": "deg_C"}}


def test_raw_pages_together_are_what_was_recorded(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_VALUES", 7)
    values = [math.sin(n) for n in range(100)]
    times = written.write("ccd1", 250_000, temperature=list(values))
    for at in (times[6], times[6], times[20]):  # samples of the same time
        written.write("ccd1", 1, at, temperature=[5.0])
    _, every = samples(written.archive, "ccd1.temperature", TODAY)
    found = list(every)
    true = sorted([*zip(times, values, strict=True), *((times[n], 5.0) for n in (6, 6, 20))])
    assert sorted((at, value) for at, _, _, value in found) == true
    assert [at for at, *_ in found] == [at for at, _ in true]


def test_more_samples_of_one_time_than_a_page_holds_do_not_stop_the_pages(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_VALUES", 3)
    for _ in range(5):
        written.write("ccd1", 1, temperature=[1.0])
    written.write("ccd1", 1, NOON + 1, temperature=[2.0])
    _, every = samples(written.archive, "ccd1.temperature", TODAY)
    assert [value for *_, value in every] == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("cdc1.temperature", "no history of 'cdc1'; there is history of ccd1, slide"),
        ("ccd1.temprature", "ccd1 has no 'temprature'; it has temperature, state.health"),
        ("ccd1", "name a field of ccd1; it has state.health, temperature"),
        ("", "no history of ''"),
    ],
)
def test_a_wrong_name_is_answered_by_the_nearest(written: Written, field: str, said: str) -> None:
    written.write("slide", 1000, position=[1.0])
    written.write("ccd1", 1000, temperature=[1.0], state__health=["OK"])
    for ask in (written.archive.history, written.archive.raw):
        with pytest.raises(HistoryError, match=said):
            ask(field, *TODAY)


def test_samples_of_one_time_are_not_mixed_up(written: Written) -> None:
    written.write("ccd1", 0, temperature=[1.0])
    written.write("ccd1", 0, temperature=[2.0, 3.0], state__health=["WARN", "OK"])
    fields = ("ccd1.temperature", "ccd1.state.health")
    streams = [samples(written.archive, field, TODAY)[1] for field in fields]
    assert [row for _, row in archive.rows(streams)] == [
        {"ccd1.temperature": 1.0},
        *(dict(zip(fields, row, strict=True)) for row in ((2.0, "WARN"), (3.0, "OK"))),
    ]


def test_where_nothing_was_recorded_the_newest_is_told(written: Written) -> None:
    newest = written.write("ccd1", 1000, temperature=[1.0] * 3700)[-1]
    written.write("slide", 1000, NOON + 5 * archive.HOUR, position=[1.0])
    later = Span(NOON + 2 * archive.HOUR, NOW)
    for reply in (
        written.archive.history("ccd1.temperature", *later),
        written.archive.raw("ccd1.temperature", *later),
    ):
        assert reply["time"] == []
        assert reply["newest"] == newest
        minute = text_from_ms(newest)[:16]
        assert f"the newest is from {minute} UTC" in archive.nothing(reply, later)


@pytest.mark.parametrize("field", ["ccd1.temperature", "ccd1.state.health"])
def test_time_in_which_nothing_was_recorded_costs_nothing(
    written: Written, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    for start in (1000, NOON - 2000 * DAY_MS, NOON):  # from a clock that was not set; years
        written.write("ccd1", 1000, start, temperature=[1.0, 2.0], state__health=["OK", "WARN"])
    for days in range(1, 20):
        written.write("slide", 1000, NOON + days * DAY_MS, position=[1.0])
    asked: list[Any] = []
    ask = NightFiles.ask

    def counted(self: NightFiles, *args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(NightFiles, "ask", counted)
    assert len(written.archive.raw(field, 0, 10**18)["value"]) == 6
    assert len(asked) == 3
    assert written.archive.history(field, 0, 10**18)["time"]
    asked.clear()
    nothing = written.archive.raw(field, NOON + DAY_MS, 10**18)
    assert (nothing["time"], nothing["newest"]) == ([], NOON + 1000)
    assert len(asked) == 1


def test_what_there_is_is_listed_with_units(written: Written) -> None:
    assert written.archive.fields() == {}
    written.write("ccd1", 1000, temperature=[1.0], state__health=["OK"])
    assert written.archive.fields() == {"ccd1": {"temperature": "deg_C", "state.health": ""}}


# --- in a notebook --------------------------------------------------------------------------------


@pytest.fixture
def alone(written: Written, monkeypatch: pytest.MonkeyPatch) -> Written:
    """The files of this home, without a router."""
    monkeypatch.setenv("HCAM_HOME", str(written.store.folder.parent))
    monkeypatch.setenv("WAMP_SERVER", "127.0.0.1:1")
    return written


def test_a_timeseries_has_units_and_what_is_missing_is_masked(
    alone: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    times = alone.write("ccd1", 1000, temperature=[1.0, 2.0], state__health=["OK", "WARN"])
    alone.write("ccd1", 1000, NOON + 2000, temperature=[3.0])
    alone.write("slide", 1000, NOON + 500, moving=[True])
    series = archive.timeseries(
        "ccd1.temperature", "ccd1.state.health", "slide.moving", start=NOON, end=NOW
    )
    assert series.time.isot.tolist()[1] == "2026-11-22T12:00:00.500"
    assert series.time.unix.tolist()[2] == times[1] / 1000
    column = series["ccd1.temperature"]
    assert column.unit == u.deg_C
    assert column.mask.tolist() == [False, True, False, False]
    assert column[~column.mask].value.tolist() == [1.0, 2.0, 3.0]
    assert series["ccd1.state.health"].tolist() == ["OK", None, "WARN", None]
    assert series["slide.moving"].tolist() == [None, True, None, None]
    assert ": reading " in capsys.readouterr().err
    begin = datetime(2026, 11, 22, 12, tzinfo=UTC)
    whole = archive.timeseries(*["ccd1.temperature"] * 2, start=begin, end=Time(series.time[-1]))[
        "ccd1.temperature"
    ]
    assert isinstance(whole, u.Quantity)
    assert np.array_equal(whole.value, [1.0, 2.0])


def test_texts_among_the_numbers_of_a_timeseries_are_masked(alone: Written) -> None:
    alone.write("ccd1", 1000, pressure=["over", 1.0, 2.0], fwhm=[1.5, "n/a", 2.5])
    series = archive.timeseries("ccd1.pressure", "ccd1.fwhm", start=NOON, end=NOW)
    assert series["ccd1.pressure"].unit == u.mbar
    assert series["ccd1.pressure"].mask.tolist() == [True, False, False]
    assert series["ccd1.fwhm"].tolist() == [1.5, None, 2.5]


def test_a_timeseries_of_nothing_says_what_there_is(alone: Written) -> None:
    alone.write("ccd1", 1000, temperature=[1.0])
    for fields in ((), (["ccd1.temperature"],)):
        with pytest.raises(HistoryError, match="name at least one field"):
            archive.timeseries(*fields)
    with pytest.raises(HistoryError, match="60 is not a duration"):
        archive.timeseries("ccd1.temperature", last=60)  # type: ignore[arg-type]
    with pytest.raises(HistoryError, match=r"no values of ccd1\.temperature .* newest is from"):
        archive.timeseries("ccd1.temperature", end="2026-01-01")


def test_without_recorder_and_files_both_places_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setenv("WAMP_SERVER", "127.0.0.1:1")
    with pytest.raises(HistoryError, match=rf"127\.0\.0\.1:1 .*no history in {tmp_path}/history"):
        archive.source()


INSTRUMENT = """
[stores.offsite]
kind = "influxdb"
url = "http://192.0.2.20:8086"
database = "hipercam"
{more}
[devices]
"""


def test_the_files_are_where_the_instrument_says(
    alone: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ours.toml"
    monkeypatch.setenv("HCAM_INSTRUMENT", str(file))
    file.write_text(INSTRUMENT.format(more=""))
    with pytest.raises(HistoryError, match=f"no recorder answers .*, and history is {OFFSITE}"):
        archive.source()
    elsewhere = tmp_path / "big disk"
    more = f"[stores.local]\nkind = 'embedded'\nfolder = '{elsewhere}'"
    file.write_text(INSTRUMENT.format(more=more))
    with pytest.raises(HistoryError, match=f"there is no history in {elsewhere}"):
        archive.source()
    elsewhere.mkdir()
    found, said = archive.source(file)
    assert isinstance(found, Archive)
    assert found.files.folder == elsewhere
    assert said.endswith(f"reading {elsewhere} instead")
    assert place(Embedded(), tmp_path) == alone.store.folder
    assert place(Embedded(folder="~/hist"), tmp_path) == Path.home() / "hist"


# --- as people see it -----------------------------------------------------------------------------


PRESSURE = Readback(unit="mbar", scale="log", digits=1)


def drawn(
    written: Written,
    *fields: str,
    span: Span = TODAY,
    size: Any = (80, 40),
    declared: Readback | None = None,
) -> list[str]:
    replies = [
        written.archive.history(field, *span, archive.MAX_POINTS) | {"declared": declared}
        for field in fields
    ]
    return [line.plain for line in plot.charts(replies, span, *size)]


def area(lines: list[str]) -> list[str]:
    """Return what is right of the axis."""
    return [re.split("[│┤]", line)[1] for line in lines if re.search("[│┤]", line)]


def test_a_spike_of_one_sample_in_a_day_is_drawn_and_told(written: Written) -> None:
    values = [-90.0] * 4000
    values[2000] = -80.0
    written.write("ccd1", 20_000, temperature=values)
    lines = drawn(written, "ccd1.temperature")
    plotted = area(lines)
    spike = {len(line) - len(line.lstrip()) for line in plotted[2:-3]}
    assert len(spike) == 1
    assert spike.pop() == pytest.approx(len(plotted[0]) * 11.11 / 24, abs=1)
    assert "last -90.0 (10:12), min -90.0 (12:00), max -80.0 (23:06)" in lines[-1]


def test_how_exact_the_times_of_a_long_plot_are_is_told(written: Written) -> None:
    written.write("ccd1", 20_000, temperature=[-90.0, -80.0])
    long = Span(NOON - 400 * DAY_MS, NOON + 50 * DAY_MS)
    (line,) = (one for one in drawn(written, "ccd1.temperature", span=long) if "last" in one)
    assert line.endswith("max -80.0 (2026-11-22 09:36), each within 216 min of that time")


def test_what_was_not_recorded_is_left_empty(written: Written) -> None:
    for hours in (0, 12):
        written.write("ccd1", 20_000, NOON + hours * archive.HOUR, temperature=[1.0] * 360)
    (line,) = (line for line in area(drawn(written, "ccd1.temperature")) if line.strip())
    pieces = line.split()
    assert len(pieces) == 2
    assert [len(piece) for piece in pieces] == pytest.approx([len(line) / 12] * 2, abs=1)


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    width=st.integers(40, 200),
    height=st.integers(5, 60),
    length=st.integers(1, 10**12),
    unit=st.sampled_from(["", "mbar"]),
)
@example(values=[-1e308, 1e308], width=80, height=20, length=1000, unit="")
@example(values=[5e-324, 1e308], width=80, height=20, length=1000, unit="mbar")
@example(values=[1e-200, 1e308], width=80, height=20, length=1000, unit="mbar")
@example(values=[0.0, 5e-324], width=80, height=20, length=1000, unit="")
def test_any_numbers_fit_into_any_terminal(
    values: list[float], width: int, height: int, length: int, unit: str
) -> None:
    whole = Span(NOON, NOON + length)
    times = [NOON + n * length // len(values) for n in range(len(values))]
    same = dict.fromkeys(("min", "mean", "max", "last"), values)
    reply = {"field": "x.y", "unit": unit, "time": times, "n": [1] * len(values), **same}
    lines = list(plot.chart([reply], whole, width, height))
    assert len(lines) == height + 2
    assert all(len(line.plain) <= width for line in lines)
    assert any(set(line.plain) - set(" \u2502\u2524") for line in lines[:height])
    assert len("\n".join(plot.table(reply)).splitlines()) == len(values) + 2


@pytest.mark.parametrize(
    ("length", "first", "second"),
    [
        (10 * 1000, "12:00:00", "12:00:02"),
        (archive.HOUR, "12:00", "12:10"),
        (DAY_MS, "12:00", "16:00"),
        (14 * DAY_MS, "2026-11-23", "2026-11-25"),
    ],
)
def test_the_axis_of_time_has_round_marks(length: int, first: str, second: str) -> None:
    marks = plot.Times(Span(NOON, NOON + length), 80).marks(7)
    assert list(marks.values())[:2] == [first, second]
    assert all(
        text_from_ms(at)[11:].startswith(text) or text_from_ms(at).startswith(text)
        for at, text in marks.items()
    )


def test_midnight_is_marked_by_its_date() -> None:
    assert "2026-11-23" in plot.Times(TODAY, 80).marks(7).values()


def test_pressures_have_a_logarithmic_axis_when_they_need_it(written: Written) -> None:
    written.write("pressure1", 1000, pressure=[10.0 ** (-n / 100) for n in range(100, 600)])
    written.write("pressure2", 1000, pressure=[1e-5, 1.1e-5])
    lines = drawn(written, "pressure1.pressure", declared=PRESSURE)
    assert "mbar, logarithmic" in lines[0]
    assert [line.split()[0] for line in lines if "\u2524" in line] == [
        f"1e-0{n}" for n in range(1, 7)
    ]
    assert "logarithmic" not in drawn(written, "pressure2.pressure", declared=PRESSURE)[0]
    assert "logarithmic" not in drawn(written, "pressure1.pressure")[0], "nobody declares it"
    declared = [line for line in lines if "last" in line]
    assert re.search(r"last 1\.0e-06 .*, min 1\.0e-06 .*, max 1\.0e-01", declared[0])


def test_fields_of_one_unit_share_a_plot_and_texts_are_tables(written: Written) -> None:
    times = written.write(
        "ccd1", 1000, temperature=[1.0, 2.0], setpoint=[1.0, 1.0], state__health=["OK", "WARN"]
    )
    written.write("ccd2", 1000, temperature=[3.0, 4.0])
    lines = drawn(
        written, "ccd1.temperature", "ccd2.temperature", "ccd1.setpoint", "ccd1.state.health"
    )
    assert sum("2026-11-22 12:00 to 2026-11-23 12:00 UTC" in line for line in lines) == 2
    assert lines[0].startswith("ccd1.temperature, ccd2.temperature  deg_C")
    assert lines[-4:] == [
        "time (UTC)           ccd1.state.health",
        f"{text_from_ms(times[0])}  OK",
        f"{text_from_ms(times[1])}  WARN",
        f"{text_from_ms(times[1])}  still WARN",
    ]


def test_texts_do_nothing_to_a_terminal(written: Written) -> None:
    written.write("ccd1", 1000, status=["\x1b[31mred\nnew\r\ud800é"])
    assert drawn(written, "ccd1.status")[1].endswith(r"  \x1b[31mred\nnew\r?é")


def test_many_changes_of_a_text_do_not_scroll_the_plots_away(written: Written) -> None:
    words = [str(n) for n in range(100)]
    written.write("ccd1", 1000, temperature=[1.0] * 100, status=words)
    lines = drawn(written, "ccd1.temperature", "ccd1.status", size=(80, 40))
    assert len(lines) <= 40
    assert re.search(r"\(\d\d changes before\)", "\n".join(lines))
    assert lines[-1].endswith("still 99")


@pytest.mark.parametrize(
    ("low", "high", "value", "shown"),
    [
        (-90.5, -89.4, -90.123456, "-90.12"),
        (0.0, 0.0, 0.0, "0"),
        (-90.25, -90.25, -90.25, "-90.25"),
        (1e-5, 3e-4, 2.5e-5, "2.50e-05"),
        (1e-5, 3e2, 1.0, "1.00e+00"),
        (0.0, 99.0, 33.333, "33.3"),
        (0.0, 5e8, 1.5e8, "1.50e+08"),
        (1100.0, 1100.02, 1100.0042, "1100.0042"),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(
    low: float, high: float, value: float, shown: str
) -> None:
    assert plot.formatter(low, high)(value) == shown


def test_csv_has_units_times_and_every_sample(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written.write("ccd1", 1500, temperature=[1.5, -2.25], peltier_status=["a, b", "c"])
    written.write("slide", 1000, NOON + 1500, position=[3.0])
    fields = ("ccd1.temperature", "ccd1.peltier_status", "slide.position")
    assert plot.show(written.archive, fields, TODAY, {}, how="csv", points=None, png=None) == 0
    said = capsys.readouterr().out
    assert said == (
        "time,ccd1.temperature [deg_C],ccd1.peltier_status,slide.position\n"
        '2026-11-22T12:00:00.000Z,1.5,"a, b",\n'
        "2026-11-22T12:00:01.500Z,-2.25,c,\n"
        "2026-11-22T12:00:01.500Z,,,3.0\n"
    )
    assert len(list(csv.reader(said.splitlines()))) == 4


def test_in_a_pipe_it_is_a_table_with_all_changes_of_texts(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[Field] = [str(n) for n in range(100)]
    written.write("ccd1", 1000, temperature=[float(n) for n in range(100)], status=words)

    def shown(field: str, points: int | None = None) -> list[str]:
        assert (
            plot.show(written.archive, (field,), TODAY, {}, how=None, points=points, png=None) == 0
        )
        return capsys.readouterr().out.splitlines()

    assert len(shown("ccd1.status")) == 102
    assert shown("ccd1.status", 1)[1:3] == ["(99 changes before)", "2026-11-22 12:01:39  99"]
    assert shown("ccd1.temperature") == [
        "ccd1.temperature  deg_C",
        "time (UTC)           min  mean   max  last      n",
        "2026-11-22 12:00:00  0.0  49.5  99.0  99.0    100",
    ]


def test_a_field_of_which_there_is_nothing_is_told_beside_the_others(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written.write("ccd1", 1000, temperature=[1.0])
    written.write("ccd2", 1000, NOON - DAY_MS, temperature=[1.0])
    fields = ("ccd1.temperature", "ccd2.temperature")
    for how in (None, "csv"):
        assert plot.show(written.archive, fields, TODAY, {}, how=how, points=None, png=None) == 1
        said = capsys.readouterr()
        assert "ccd1.temperature" in said.out
        assert said.err == (
            "there are no values of ccd2.temperature from 2026-11-22 12:00 to 2026-11-23 12:00 "
            "UTC; the newest is from 2026-11-21 12:00 UTC; "
            "if it could not be read, ccd2.alarms has the reason\n"
        )


@CLOSED
def test_a_png_has_a_panel_for_each_unit_and_each_text(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written.write("ccd1", 1000, temperature=[1.0, 2.0], state__health=["OK", "WARN"])
    written.write("pressure1", 1000, pressure=[1e-5, 1.0])
    heights = []
    for fields in (
        ("ccd1.temperature",),
        ("ccd1.temperature", "pressure1.pressure", "ccd1.state.health"),
    ):
        file = tmp_path / "out.png"
        assert plot.show(written.archive, fields, TODAY, {}, how=None, points=None, png=file) == 0
        assert capsys.readouterr().out == f"written: {file}\n"
        head = file.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        heights.append(int.from_bytes(head[20:24]))
    assert heights == [480, 960]
    with pytest.raises(HcamError, match="cannot be written"):
        plot.write_png([written.archive.history("ccd1.temperature", *TODAY)], TODAY, tmp_path)


@CLOSED
def test_the_largest_numbers_are_drawn(written: Written, tmp_path: Path) -> None:
    written.write("x", 1000, fwhm=[1e308, -1e308], pressure=[5e-324, 1e308])
    written.write("y", 1000, pressure=[1e-200, 1e308])
    fields = ("x.fwhm", "x.pressure", "y.pressure")
    replies = [written.archive.history(field, *TODAY) for field in fields]
    plot.write_png(replies[2:], TODAY, tmp_path / "out.png")
    plot.write_png(replies, TODAY, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


@CLOSED
def test_texts_have_short_names_in_a_png(written: Written, tmp_path: Path) -> None:
    alarm = {"field": "temperature", "severity": "WARN", "reason": "it is too warm" * 100}
    alarms: list[Field] = [json.dumps([alarm] * n) if n else "[]" for n in (0, 1, 2)]
    cut_off = json.dumps([alarm] * 9)[:-1]
    status: list[Field] = ["a $x^ and $y_{", "\x1b[31m\n", "x" * 41, *map(str, range(20))]
    written.write("ccd1", 1000, alarms=[*alarms, cut_off])
    written.write("$\\frac{$", 1000, status=status)
    fields = ("ccd1.alarms", "$\\frac{$.status")
    replies = [written.archive.history(field, *TODAY) for field in fields]
    words = plot.words_of(replies[0])
    assert words[:3] == ["none", "WARN temperature", "WARN temperature, WARN temperature"]
    assert len(words[3]) == plot.MAX_WORD_LENGTH
    words = plot.words_of(replies[1])
    assert words == [plot.OTHERS] * 12 + [str(n) for n in range(9, 20)]
    few = {**replies[1], "time": [NOON] * 3, "value": status[:3], "unit": "$\\frac{$"}
    assert plot.words_of(few)[1:] == [r"\x1b[31m\n", "x" * 39 + "…"]
    plot.write_png([*replies, few | {"field": "x.y"}], TODAY, tmp_path / "out.png")


def test_without_matplotlib_it_is_said_how_to_get_it(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    written.write("ccd1", 1000, temperature=[1.0])
    with pytest.raises(HcamError, match=r"pip install 'hcam_devices\[plot\]'"):
        plot.write_png([written.archive.history("ccd1.temperature", *TODAY)], TODAY, tmp_path / "a")


# --- by the recorder ------------------------------------------------------------------------------


def recorder(stores: list[Any], folder: Path) -> Recorder:
    journals = Journals({})
    replicators = [Replicator(store, journals) for store in stores]
    cls = with_stores(Recorder, [store.name for store in stores])
    clock = Clock(NOW / 1000)
    settings = {one.name: one.settings for one in stores if isinstance(one, LineStore)}
    parts: dict[str, Any] = {"journals": journals, "folder": folder, "stores": settings}
    return cls("recorder", replicators=replicators, clock=clock, **parts)


async def test_the_recorder_answers_from_its_files(written: Written) -> None:
    written.write("ccd1", 1000, temperature=[1.0, 2.0])
    asked = recorder([written.store], written.store.folder)
    ask = {name: one for name, one in asked.procedures().items() if one.read_only}
    assert {"history", "raw", "fields"} <= ask.keys()
    assert await ask["fields"].call() == written.archive.fields()
    reply = await ask["history"].call("ccd1.temperature", last="24h", points=1)
    assert (reply["min"], reply["max"], reply["n"]) == ([1.0], [2.0], [2])
    page = await ask["raw"].call("ccd1.temperature", start="2026-11-22", end=NOW)
    assert (page["value"], page["next"]) == ([1.0, 2.0], None)


OFFSITE = (
    r"kept in offsite \(database 'hipercam' at http://192\.0\.2\.20:8086\): query it there, or add"
)


async def test_a_recorder_without_files_says_where_history_is(tmp_path: Path) -> None:
    settings = InfluxDB(kind="influxdb", url="http://192.0.2.20:8086", database="hipercam")
    with closing(LineStore("offsite", settings, tmp_path)) as store:
        asked = recorder([store], tmp_path)
        for call in (asked.recorded(), asked.history("ccd1.temperature"), asked.raw("a.b", 0, 1)):
            with pytest.raises(NotAllowedError, match=OFFSITE):
                await call


@pytest.mark.parametrize(
    "wrong", [{"points": "many"}, {"points": 1.5}, {"last": 24}, {"start": True}, {"field": None}]
)
async def test_wrong_arguments_are_refused(written: Written, wrong: dict[str, Any]) -> None:
    asked = recorder([written.store], written.store.folder)
    with pytest.raises(ValidationError):
        await asked.history(**{"field": "ccd1.temperature"} | wrong)


def test_what_was_lost_in_a_span_is_told_beside_its_history(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written.write("ccd1", 1000, temperature=[1.0, 2.0])
    LostNotes(written.archive.files.folder).add(
        Lost(
            device=device,
            epoch="a",
            since=NOON / 1000 + hours * 3600,
            until=NOON / 1000 + hours * 3600 + 60,
            samples=31,
            reason="database or disk is full",
        )
        for device, hours in (("ccd1", 1), ("ccd1", 30), ("slide", 1))
    )
    for how in (None, "csv"):
        plot.show(written.archive, ("ccd1.temperature",), TODAY, {}, how=how, points=None, png=None)
        assert capsys.readouterr().err == (
            "31 samples of ccd1 were published without a number and are lost, "
            "2026-11-22 13:00:00 to 13:01:00 UTC: database or disk is full\n"
        )
