"""StoreReaders count what a store's files or database really have, not what the store noted."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.config.stores import Embedded, InfluxDB
from hcam_devices.history.audit import Audit, Published, audit
from hcam_devices.history.inventory import readers
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.files import checksum
from hcam_devices.history.stores.line_protocol import LineStore
from hcam_devices.journal.digest import digest
from hcam_devices.journal.points import Field, Point, night_bounds
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from tests.network.tools import free_port

from ...helpers import records, samples
from . import databases, scripted

NIGHT = "2026-11-22"
START, END = night_bounds(NIGHT)
DAY_MS = 86_400_000
NOW = END / 1000
EPOCH = "4f3c0a9be1d2"
OTHER = 'the slide\'s, "own"'


def point(seq: int, device: str = "ccd1", time: int = 0, **values: Field) -> Point:
    fields: dict[str, Field] = {"pressure": seq / 7, "state.connection": "online"}
    moment = time or START + 1000 * seq
    return Point(device, EPOCH, seq, moment, fields | values, {"pressure": "mbar"})


def points(first: int, last: int, device: str = "ccd1", offset: int = 0) -> list[Point]:
    return [point(n, device, START + 1000 * n + offset) for n in range(first, last + 1)]


class Local:
    """An embedded store of a home, written and closed."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "history"

    def keep(self, some: Iterable[Point], *gone: SampleRange, close: str = "") -> None:
        """Write samples; ``close`` the night of that date."""
        with closing(EmbeddedStore("local", self.folder, clock=lambda: NOW)) as store:
            store.write(store.rows(records([*some])))
            store.settle(gone)
            if close:
                assert store.close_nights(close) == []

    def damage(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / "tonight.sqlite")) as db, db:
            for one in statements:
                db.execute(one)

    def forge(self, query: str, device: str = "ccd1") -> None:
        """Write another file in place of a closed one, and enter it with its checksum.

        ``query`` selects from ``sample``, the rows of the file.
        """
        path = self.folder / "nights" / NIGHT / f"{device}.parquet"
        con = duckdb.connect()
        con.execute(f"CREATE TABLE sample AS SELECT * FROM read_parquet('{path}')")
        con.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        con.close()
        self.damage(f"UPDATE file SET checksum = '{checksum(path)}' WHERE device = '{device}'")

    def audited(
        self, first: int = 1, last: int = 0, some: Iterable[Point] = (), night: str = NIGHT
    ) -> Audit:
        """Return the audit, with the digests of some samples that were published."""
        digests = [(one.epoch, one.seq, digest(one)) for one in some]
        said = {
            "ccd1": Published(samples("ccd1", EPOCH, first, last), digests=digests),
            OTHER: Published(),
        }
        return audit(night, said, readers({"local": Embedded()}, self.home, night), NOW)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def found(result: Audit) -> list[tuple[int, int, str]]:
    return [(one.first, one.last, one.cause) for one in result.stores[0].findings]


CLOSED = pytest.mark.parametrize("close", ["", NIGHT], ids=["tonight", "closed"])
LOST = "noted as stored, but missing or damaged"
ALTERED = "differs from the journal, which is right: it is fetched again"


@CLOSED
def test_a_store_that_has_everything_is_believed(local: Local, close: str) -> None:
    some = points(1, 50)
    local.keep([*some, *points(1, 30, OTHER)], close=close)
    result = local.audited(1, 50, some)
    assert result.complete, result
    assert [line.stored for line in result.stores[0].lines] == [50, 30]


VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(),
    st.sampled_from([-0.0, 5e-324, 1e22, 1e17, 123456789012345678, "\0", "\ud800x", "x" * 60_000]),
)
NAMES = st.text(max_size=5) | st.sampled_from(
    ["time", "Seq", "a", "A", "x'\"", "\0", "é", "a\x1fb"]
)


@given(st.lists(st.dictionaries(NAMES, VALUES), max_size=20))
@settings(max_examples=6)
def test_files_have_the_digests_of_the_journal(some: list[dict[str, Field]]) -> None:
    written = [
        Point("ccd1", EPOCH, seq, START + seq, values, {"a": "K"} if seq % 2 else {})
        for seq, values in enumerate(some, 1)
    ]
    for close in ("", NIGHT):
        with TemporaryDirectory() as home:
            local = Local(Path(home))
            local.keep(written, close=close)
            assert found(local.audited(1, len(written), written)) == []


@CLOSED
@pytest.mark.parametrize("known", [50, 0])
def test_rows_that_are_gone_are_missing(local: Local, known: int, close: str) -> None:
    local.keep(points(1, 50), close=close)
    if close:
        local.forge("SELECT * FROM sample WHERE seq NOT BETWEEN 20 AND 22")
        result = local.audited(1, known)
        assert found(result) == [(20, 22, LOST)]
        assert result.stores[0].findings[0].when == "12:00:19 to 12:00:23"
    else:  # nothing but numbers that the journals have says that they were there
        local.damage("DELETE FROM sample WHERE seq BETWEEN 20 AND 22")
        result = local.audited(1, known)
        cause = "pending" if known else "never stored, and no journal has it any more"
        assert result.stores[0].lines[0].verdict == ("3 pending" if known else "3 MISSING")
        assert found(result) == ([] if known else [(20, 22, cause)])
    assert not result.complete


@CLOSED
def test_values_that_changed_are_altered(local: Local, close: str) -> None:
    some = points(1, 50)
    local.keep(some, close=close)
    if close:
        local.forge("SELECT * REPLACE (if(seq = 7, -pressure, pressure) AS pressure) FROM sample")
        later = "if(seq = 9, time + INTERVAL 1 millisecond, time) AS time"
        local.forge(f"SELECT * REPLACE ({later}) FROM sample")
    else:
        local.damage(
            "UPDATE sample SET body = replace(body, '1.0', '1.5') WHERE seq = 7",
            "UPDATE sample SET time = time + 1 WHERE seq = 9",
        )
    assert found(local.audited(1, 50, some)) == [(7, 7, ALTERED), (9, 9, ALTERED)]


def test_a_body_that_is_damaged_is_missing_or_altered(local: Local) -> None:
    some = points(1, 50)
    local.keep(some)
    local.damage(
        "UPDATE sample SET body = '[1, 2' WHERE seq = 7",
        'UPDATE sample SET body = \'["x", "online"]\' WHERE seq = 8',
        "UPDATE sample SET body = '[]' WHERE seq = 9",
    )
    assert found(local.audited(1, 50, some)) == [(8, 9, ALTERED), (7, 7, LOST)]


def test_the_last_rows_of_a_night_are_missed_too(local: Local) -> None:
    local.keep(points(1, 50), close=NIGHT)
    local.forge("SELECT * FROM sample WHERE seq <= 40")
    assert found(local.audited()) == [(41, 50, LOST)]


def test_a_row_that_is_there_twice_is_doubled(local: Local) -> None:
    local.keep(points(1, 50), close=NIGHT)
    twice = "SELECT * FROM sample UNION ALL SELECT * FROM sample WHERE seq = 7"
    local.forge(twice)
    result = local.audited(1, 50)
    assert found(result) == [(7, 7, "stored more than once")]
    assert not result.complete


@pytest.mark.parametrize("where", [0, 100, -500, -1])
def test_a_closed_file_that_is_damaged_is_named(local: Local, where: int) -> None:
    local.keep([*points(1, 500), *points(1, 30, OTHER)], close=NIGHT)
    path = local.folder / "nights" / NIGHT / "ccd1.parquet"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    result = local.audited(1, 500)
    assert result.stores[0].troubles == [f"{path} is damaged"]
    assert found(result) == [(1, 500, LOST)]
    assert [line.verdict for line in result.stores[0].lines] == ["500 MISSING", "complete"]
    assert "local cannot be read completely" in result.verdict
    path.unlink()
    assert local.audited(1, 500).stores[0].troubles == [f"{path} is damaged"]


@pytest.mark.parametrize("where", [0, 100, 20_000])
def test_a_catalogue_that_is_damaged_is_named(local: Local, where: int) -> None:
    local.keep(points(1, 500))
    path = local.folder / "tonight.sqlite"
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\x99" * 3000)
    result = local.audited(1, 500)
    assert not result.complete
    said = [*result.stores[0].troubles, result.stores[0].unread]
    assert any("tonight.sqlite" in one for one in said), said


def test_files_that_may_not_be_read_are_told(local: Local) -> None:
    local.keep(points(1, 50))
    path = local.folder / "tonight.sqlite"
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    result = local.audited(1, 50)
    assert not result.complete
    assert "tonight.sqlite cannot be used now" in result.stores[0].troubles[0]


@pytest.mark.parametrize("night", ["2026-11-23", "20261123", "2026-W48-1"])
def test_a_night_is_the_same_in_each_form_of_its_date(local: Local, night: str) -> None:
    """In order of the alphabet, ``20261123`` comes after every other night."""
    local.keep([*points(1, 20), *points(41, 60, offset=2 * DAY_MS)], close=NIGHT)
    assert [one[:2] for one in found(local.audited(night=night))] == [(21, 40)]


def test_what_is_gone_is_told_with_its_cause(local: Local) -> None:
    local.keep(
        [*points(1, 20), *points(31, 50)], SampleRange("ccd1", EPOCH, 21, 30, "older than 14 days")
    )
    assert found(local.audited(25, 50)) == [(21, 30, "older than 14 days")]


def test_samples_of_a_file_that_was_set_aside_are_told_with_its_name(local: Local) -> None:
    local.keep(points(1, 50), close=NIGHT)
    path = local.folder / "nights" / NIGHT / "ccd1.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with closing(EmbeddedStore("local", local.folder, clock=lambda: NOW)) as store:
        store.check(NIGHT)
        assert not store.stored
        store.write(records(points(1, 40)))  # what the journals still had
        store.write(records(points(61, 70, offset=DAY_MS)))
    cause = f"its file was damaged: {NIGHT}/ccd1.parquet"
    never = "never stored, and no journal has it any more"
    assert found(local.audited()) == [(41, 50, cause), (51, 60, never)]


@CLOSED
def test_one_with_a_time_of_another_night_is_there(local: Local, close: str) -> None:
    stray = point(20, time=START + 40 * DAY_MS)
    local.keep([*points(1, 19), stray, *points(21, 50)], close=close)
    assert local.audited(1, 50).complete
    if close:
        local.keep([], close="2027-01-01")
        assert local.audited(1, 50).complete


class Offsite:
    """A LineStore, and the InfluxDB that it writes to."""

    def __init__(self, home: Path, url: str, **table: Any) -> None:
        self.home = home
        self.settings = InfluxDB(kind="influxdb", url=url, database="hipercam", timeout=5, **table)

    def keep(self, some: Iterable[Point], *gone: SampleRange) -> SampleRanges:
        """Write; return what it noted."""
        store = LineStore("offsite", self.settings, self.home / "stores")
        store.write(store.rows(records([*some])))
        store.settle(gone)
        store.close()
        return store.stored

    def audited(
        self, noted: SampleRanges | None = None, first: int = 1, last: int = 0, night: str = NIGHT
    ) -> Audit:
        said = {"ccd1": Published(samples("ccd1", EPOCH, first, last)), OTHER: Published()}
        stores = {"offsite": self.settings}
        known = {"offsite": noted} if noted else {}
        return audit(night, said, readers(stores, self.home, night, known), NOW)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[databases.InfluxDB]:
    with databases.influxdb(tmp_path_factory.mktemp("database")) as one:
        yield one


@pytest.fixture
def influx(tmp_path: Path, database: databases.InfluxDB) -> Offsite:
    database.query(f'DROP DATABASE "{database.database}"')
    database.query(f'CREATE DATABASE "{database.database}"')
    return Offsite(tmp_path, database.url)


def test_a_database_that_has_everything_is_believed(influx: Offsite) -> None:
    some = [*points(1, 50), *points(51, 60, offset=DAY_MS), *points(1, 9, OTHER)]
    noted = influx.keep(some)
    result = influx.audited(noted, 1, 50)
    assert result.complete, result
    assert [line.stored for line in result.stores[0].lines] == [50, 9]
    assert influx.audited(noted, night="2026-11-23").stores[0].lines[0].published == 10


def test_a_database_that_lost_rows_is_found_out(
    influx: Offsite, database: databases.InfluxDB
) -> None:
    noted = influx.keep([*points(1, 50), *points(51, 60, offset=DAY_MS)])
    for first, last in ((20, 22), (45, 50)):
        begin, end = START + 1000 * first, START + 1000 * last + 1
        database.query(f'DELETE FROM "ccd1" WHERE time >= {begin}ms AND time < {end}ms')
    lost = "noted as stored, but missing or damaged"
    for known in (50, 0):
        result = influx.audited(noted, 1, known)
        assert found(result) == [(20, 22, lost), (45, 50, lost)]
        assert not result.complete


def test_a_row_written_again_at_another_time_is_doubled(
    influx: Offsite, database: databases.InfluxDB
) -> None:
    noted = influx.keep(points(1, 50))
    later = (START + 7000) * 1_000_000 + 8
    line = f'ccd1 pressure=1,seq=7,epoch="{EPOCH}" {later}'
    database.ask("/write", line.encode(), db=database.database)
    result = influx.audited(noted, 1, 50)
    assert found(result) == [(7, 7, "stored more than once")]
    assert not result.complete


def test_what_the_database_refused_is_set_aside_with_its_reason(
    influx: Offsite, database: databases.InfluxDB
) -> None:
    line = f"ccd1 mode=5 {START * 1_000_000}"
    database.ask("/write", line.encode(), db=database.database)
    noted = influx.keep([*points(1, 9), point(10, mode="fast"), *points(11, 20)])
    ((first, last, cause),) = found(influx.audited(noted, 1, 20))
    assert (first, last) == (10, 10)
    assert cause.startswith("set aside: 400: ")
    assert "field type conflict" in cause


def test_what_is_gone_for_a_database_is_told_with_its_cause(influx: Offsite) -> None:
    gone = SampleRange("ccd1", EPOCH, 21, 30, "older than 14 days")
    noted = influx.keep([*points(1, 20), *points(31, 50)], gone)
    assert found(influx.audited(noted, 1, 50)) == [(21, 30, "older than 14 days")]


def test_a_row_with_a_time_of_another_night_is_in_the_database(influx: Offsite) -> None:
    stray = point(20, time=START - 40 * DAY_MS)
    noted = influx.keep([*points(1, 19), stray, *points(21, 50)])
    assert influx.audited(noted, 1, 50).complete


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    away = Offsite(tmp_path, f"http://127.0.0.1:{free_port()}")
    result = away.audited(None, 1, 50)
    assert not result.complete
    assert "offsite could not be read: http://127.0.0.1:" in result.verdict


@pytest.mark.parametrize("status", [200, 403])
def test_a_secret_is_not_repeated_after_a_database_that_repeats_it(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", 'hush-"<hush')

    def judge(request: scripted.Request) -> scripted.Answer:
        said = request.headers["Authorization"] + r", hush-\"\u003Chush"
        return scripted.answer(status, f'{{"results": [{{"error": "{said}"}}]}}'.encode())

    with scripted.scripted() as server:
        server.judge = judge
        offsite = Offsite(tmp_path, server.url, user="hw", secret_variable="SECRET")
        unread = offsite.audited(None, 1, 50).stores[0].unread
    assert "Basic ***, ***" in unread
    assert "hush" not in unread


def test_victoria_metrics_cannot_be_counted(tmp_path: Path) -> None:
    with databases.victoria_metrics(tmp_path) as database:
        other = Offsite(tmp_path, database.url)
        noted = other.keep(points(1, 50))
        result = other.audited(noted, 1, 50)
        assert (
            "offsite acknowledged 50 samples of 1 device, which cannot be counted" in result.verdict
        )
        assert not result.complete
