"""StoreReaders count what a store's files or database really have, not what the store noted."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.stores import Embedded, InfluxDB
from hcam_devices.history.audit import Audit, Published, audit
from hcam_devices.history.inventory import readers
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.line_protocol import LineStore
from hcam_devices.journal.checked import sealed
from hcam_devices.journal.points import Field, Point, night_bounds
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from tests.network.tools import free_port

from ...helpers import samples
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

    def keep(self, some: Iterable[Point], *gone: SampleRange, now: float = NOW) -> None:
        store = EmbeddedStore("local", self.folder, clock=lambda: now)
        store.write(store.rows([*some]))
        store.settle(gone)
        store.tidy()
        store.close()

    def damage(self, *statements: str, night: str = NIGHT) -> None:
        db = sqlite3.connect(self.folder / f"{night}.sqlite")
        with db:
            for one in statements:
                db.execute(one)
        db.close()

    def audited(self, first: int = 1, last: int = 0, night: str = NIGHT, now: float = NOW) -> Audit:
        said = {"ccd1": Published(samples("ccd1", EPOCH, first, last)), OTHER: Published()}
        return audit(night, said, readers({"local": Embedded()}, self.home, night), now)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def found(result: Audit) -> list[tuple[int, int, str]]:
    return [(one.first, one.last, one.cause) for one in result.stores[0].findings]


def test_a_store_that_has_everything_is_believed(local: Local) -> None:
    local.keep([*points(1, 50), *points(1, 30, OTHER)])
    result = local.audited(1, 50)
    assert result.complete, result
    assert [line.stored for line in result.stores[0].lines] == [50, 30]


@pytest.mark.parametrize(
    "lie",
    [
        "DELETE FROM sample WHERE seq BETWEEN 20 AND 22",
        "UPDATE sample SET body = zeroblob(length(body)) WHERE seq BETWEEN 20 AND 22",
        "UPDATE sample SET seq = seq + 1000 WHERE seq BETWEEN 20 AND 22",
    ],
)
@pytest.mark.parametrize("known", [50, 0])
def test_rows_that_are_gone_or_damaged_are_missing(local: Local, lie: str, known: int) -> None:
    local.keep(points(1, 50))
    local.damage(lie)
    result = local.audited(1, known)
    assert not result.complete
    assert found(result) == [(20, 22, "noted as stored, but missing or damaged")]
    assert result.stores[0].findings[0].when == "12:00:19 to 12:00:23"


def test_the_last_rows_of_a_night_are_missed_too(local: Local) -> None:
    local.keep(points(1, 50))
    local.damage("DELETE FROM sample WHERE seq > 40")
    assert found(local.audited()) == [(41, 50, "noted as stored, but missing or damaged")]


def test_a_row_at_another_time_is_doubled(local: Local) -> None:
    local.keep(points(1, 50))
    db = sqlite3.connect(local.folder / f"{NIGHT}.sqlite")
    with db:
        stream, time, seq, body = db.execute("SELECT * FROM sample WHERE seq = 7").fetchone()
        key = stream, time + 1, seq
        db.execute("INSERT INTO sample VALUES (?, ?, ?, ?)", (*key, sealed(body[:-4], *key)))
    db.close()
    result = local.audited(1, 50)
    assert found(result) == [(7, 7, "stored more than once")]
    assert not result.complete


@pytest.mark.parametrize("where", [0, 100, 5000])
def test_a_file_that_is_damaged_is_told(local: Local, where: int) -> None:
    local.keep(points(1, 500))
    path = local.folder / f"{NIGHT}.sqlite"
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\x99" * 3000)
    result = local.audited(1, 500)
    assert not result.complete
    assert "2026-11-22.sqlite is damaged: " in result.stores[0].troubles[0]
    assert "local cannot be read completely" in result.verdict


def test_files_that_may_not_be_read_are_told(local: Local) -> None:
    local.keep(points(1, 50))
    for path in (local.folder / "history.sqlite", local.folder / f"{NIGHT}.sqlite"):
        path.rename(path.with_suffix(".away"))
        path.mkdir()
    result = local.audited(1, 50)
    assert not result.complete
    assert len(result.stores[0].troubles) == 2
    assert "history.sqlite cannot be used now" in result.stores[0].troubles[0]


def test_a_night_whose_file_was_removed_is_missed(local: Local) -> None:
    local.keep([*points(1, 20), *points(21, 40, offset=DAY_MS), *points(41, 60, offset=2 * DAY_MS)])
    (local.folder / "2026-11-23.sqlite").unlink()
    assert [one[:2] for one in found(local.audited(night="2026-11-23"))] == [(21, 40)]


@pytest.mark.parametrize("night", [NIGHT, "20261122", "2026-W47-7"])
def test_a_night_is_the_same_in_each_form_of_its_date(local: Local, night: str) -> None:
    """In order of the alphabet, ``20261122`` comes after every other night."""
    local.keep([*points(1, 20, offset=-DAY_MS), *points(21, 40), *points(41, 60, offset=DAY_MS)])
    local.damage("DELETE FROM sample WHERE seq IN (21, 40)")
    assert [one[:2] for one in found(local.audited(night=night))] == [(21, 21), (40, 40)]


def test_what_is_gone_is_told_with_its_cause(local: Local) -> None:
    local.keep(
        [*points(1, 20), *points(31, 50)], SampleRange("ccd1", EPOCH, 21, 30, "older than 14 days")
    )
    assert found(local.audited(25, 50)) == [(21, 30, "older than 14 days")]


def test_one_with_a_time_of_another_night_is_there(local: Local) -> None:
    stray = point(20, time=START + 40 * DAY_MS)
    local.keep([*points(1, 19), stray, *points(21, 50)])
    assert local.audited(1, 50).complete


def test_a_night_that_is_only_there_in_minutes_cannot_be_counted(local: Local) -> None:
    later = NOW + 31 * 86400
    local.keep([*points(1, 18), point(20)])
    passed = {"time": later, "clock": later, "waited": 0}  # and no clock has jumped
    (local.folder / "nights.clock").write_text(json.dumps(passed))
    local.keep(points(21, 40, offset=31 * DAY_MS), now=later)

    def check() -> None:
        result = local.audited(1, 20, now=later)
        assert result.stores[0].uncounted == "only minutes are kept of such old nights"
        assert not result.complete

    assert not (local.folder / f"{NIGHT}.sqlite").exists()
    check()
    with closing(EmbeddedStore("local", local.folder, clock=lambda: later)) as store:
        store.write([point(19)])
    assert (local.folder / f"{NIGHT}.sqlite").exists()
    check()
    assert local.audited(night="2026-12-23", now=later).complete


class Offsite:
    """A LineStore, and the InfluxDB that it writes to."""

    def __init__(self, home: Path, url: str, **table: Any) -> None:
        self.home = home
        self.settings = InfluxDB(kind="influxdb", url=url, database="hipercam", timeout=5, **table)

    def keep(self, some: Iterable[Point], *gone: SampleRange) -> SampleRanges:
        """Write; return what it noted."""
        store = LineStore("offsite", self.settings, self.home / "stores")
        store.write(store.rows([*some]))
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
