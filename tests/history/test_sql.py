"""SQL over the history: a view for each device, with closed nights and open rows."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from hcam_devices import HcamError, history
from hcam_devices.history import sql
from hcam_devices.history.stores.nights import NightFiles, Snapshot
from hcam_devices.journal.points import DAY_MS

from .written import NOON, Written


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    """A closed night, and one that is not closed."""
    written = Written(tmp_path / "history")
    for start in (NOON, NOON + DAY_MS):
        fields: dict[str, Any] = {"temperature": [1.0, 2.0], "state__health": ["OK", "WARN"]}
        written.write("ccd1", 1000, start, **fields)
        written.write("slide", 1000, start, moving=[True])
        written.write("slide.command", 1000, start, what=["stage.home"])
        if start == NOON:
            written.close()
    yield written
    written.store.close()


def asked(written: Written, text: str) -> Any:
    answer = sql.ask(NightFiles(written.store.folder), text)
    return answer and answer.fetchall()


def test_a_connection_has_a_view_of_each_device(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    con = history.connect(written.store.folder.parent)
    first = con.sql("SELECT * FROM ccd1 WHERE \"state.health\" = 'OK' ORDER BY time")
    assert first.columns == ["time", "seq", "epoch", "state.health", "temperature"]
    when = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert first.fetchall()[0] == (when, 1, "a", "OK", 1.0)
    span = "time >= '2026-11-23 12:00' AND time < '2026-11-23 12:00:01'"
    assert con.sql(f"SELECT temperature FROM ccd1 WHERE {span}").fetchall() == [(1.0,)]
    assert con.sql("SELECT count(*), bool_and(moving) FROM slide").fetchall() == [(2, True)]
    assert con.sql('SELECT DISTINCT what FROM "slide.command"').fetchall() == [("stage.home",)]
    written.write("ccd1", 1000, NOON + DAY_MS + 5000, temperature=[3.0])
    count = "SELECT count(*) FROM ccd1"
    assert con.sql(count).fetchall() == [(4,)], "a view is of the moment of connecting"
    monkeypatch.setenv("HCAM_HOME", str(written.store.folder.parent))
    assert history.connect().sql(count).fetchall() == [(5,)]


def test_no_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HcamError, match=rf"there is no history in {tmp_path}/history"):
        history.connect(tmp_path)


def test_after_a_merge_a_view_fails_rather_than_counting_twice(written: Written) -> None:
    written.clock.now += 3 * 3600
    written.close_hours()  # into a part
    con = history.connect(written.store.folder.parent)
    written.close()
    with pytest.raises(duckdb.IOException, match=r"ccd1\.1\.parquet"):
        con.sql("SELECT count(*) FROM ccd1").fetchall()
    again = history.connect(written.store.folder.parent)
    assert again.sql("SELECT count(*) FROM ccd1").fetchall() == [(4,)]


def test_a_statement_is_answered_by_the_views_that_it_names(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = set()
    look = NightFiles.snapshot

    def noted(self: NightFiles, device: str, *args: Any) -> Snapshot:
        looked.add(device)
        return look(self, device, *args)

    monkeypatch.setattr(NightFiles, "snapshot", noted)
    assert asked(written, "SELECT max(temperature) FROM CCD1") == [(2.0,)]
    assert looked == {"ccd1"}
    assert asked(written, "SHOW TABLES") == [("ccd1",), ("slide",), ("slide.command",)]
    assert asked(written, "SELECT count(*) FROM ccd1 ASOF JOIN slide USING (time)") == [(4,)]
    assert asked(written, "") is None


def test_a_statement_is_repeated_if_files_are_replaced_meanwhile(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = NightFiles.snapshot

    def look_and_close(self: NightFiles, *args: Any) -> Snapshot:
        looks.append(look(self, *args))
        if len(looks) == 1:
            written.write("ccd1", 1000, NOON + 5000, temperature=[9.0])  # late
            written.close()
        return looks[-1]

    monkeypatch.setattr(NightFiles, "snapshot", look_and_close)
    assert asked(written, "SELECT count(*) FROM ccd1") == [(5,)]
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "SELECT state.health FROM ccd1",
            'in SQL, names with a dot need double quotes: "state.health"',
        ),
        ("SELECT * FROM slide.command", 'names with a dot need double quotes: "slide.command"'),
        ("SELECT * FROM cdc1", "there is no history of 'cdc1'; there is history of ccd1, slide"),
        ("SELECT temprature FROM ccd1", 'column "temprature" not found .* "temperature"'),
        ("SELEC 1", 'Parser Error: syntax error at or near "SELEC"$'),
    ],
)
def test_a_wrong_statement_is_answered_in_a_sentence(
    written: Written, text: str, said: str
) -> None:
    with pytest.raises(HcamError, match=said) as raised:
        asked(written, text)
    assert "\n" not in str(raised.value)


def test_a_qualified_name_needs_no_quotes(written: Written) -> None:
    with pytest.raises(HcamError) as raised:
        asked(written, "SELECT ccd1.temperature, ccd1.nothing FROM ccd1")
    assert "double quotes" not in str(raised.value)
