"""A database that is unavailable, forgets, rejects or dies ends up with each sample once."""

import random
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hcam_devices.config.stores import InfluxDB, is_near
from hcam_devices.history.stores import AwayError, line_protocol
from hcam_devices.history.stores.files import SqliteFile, connect
from hcam_devices.history.stores.ledger import Ledger
from hcam_devices.history.stores.line_protocol import (
    LineStore,
    as_there,
    name_of,
)
from hcam_devices.journal.points import Field, Point
from hcam_devices.journal.ranges import SampleRange
from hcam_devices.journal.records import Record
from tests.helpers import Clock, records, samples
from tests.network.tools import free_port, until

from . import databases, scripted
from .scripted import Scripted, answer

EPOCH = "4f3c0a9be1d2"
START = 1_790_000_000_000


def point(seq: int, device: str = "slide", epoch: str = EPOCH, **values: Field) -> Point:
    units = {"position": "pix"}
    return Point(device, epoch, seq, START + 2000 * seq, {"position": 1100.5, **values}, units)


def line_of(point: Point) -> bytes:
    return line_protocol.line_of(Record.of(point))


def write(store: LineStore, points: Sequence[Point]) -> None:
    store.write(store.rows(records(points)))


def number(one: Point) -> tuple[str, str, int]:
    return one.device, one.epoch, one.seq


def in_ledger(store: LineStore, query: str) -> list[Any]:
    with closing(connect(store.ledger.path)) as db:
        return db.execute(query).fetchall()


def given_as(**table: Any) -> InfluxDB:
    return InfluxDB.model_validate({"kind": "influxdb", "database": "hipercam"} | table)


class Opener:
    """Opens stores of one folder, and closes them in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.opened: list[LineStore] = []

    def __call__(
        self, url: str, clock: Callable[[], float] | None = None, **table: Any
    ) -> LineStore:
        store = LineStore("offsite", given_as(url=url, **table), self.folder, clock or self.clock)
        self.opened.append(store)
        return store


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path)
    yield opener
    for store in opener.opened:
        store.close()


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted.scripted() as server:
        yield server


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[databases.InfluxDB]:
    with databases.influxdb(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[databases.VictoriaMetrics]:
    with databases.victoria_metrics(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def empty(influx: databases.InfluxDB) -> databases.InfluxDB:
    """InfluxDB with nothing in it."""
    influx.query(f'DROP DATABASE "{influx.database}"')
    influx.query(f'CREATE DATABASE "{influx.database}"')
    return influx


def numbers_in(
    server: databases.InfluxDB, database: str = "hipercam"
) -> list[tuple[str, str, int]]:
    """Return device, epoch and number of every row."""
    rows = server.query("SELECT seq, epoch FROM /.*/", db=database)
    return sorted(
        (unquote(name), row["epoch"], int(row["seq"]))
        for name, some in rows.items()
        for row in some
    )


def deliver(store: LineStore, points: list[Point], batch: int = 100, patience: float = 40) -> int:
    """Write what is not stored, as the recorder does; return how often it failed."""
    failures, end = 0, time.monotonic() + patience
    while missing := [one for one in points if number(one) not in store.stored]:
        assert time.monotonic() < end
        try:
            write(store, missing[:batch])
        except AwayError:
            failures += 1
            time.sleep(0.01)
    return failures


# --- what a line is -------------------------------------------------------------------------

TEXTS = (
    st.text()
    | st.text(alphabet="\\\"'=,# \n\r\t\0%_t␊é😀\ud800", max_size=6)
    | st.sampled_from(["time", "_time", "_field", "_measurement", "Time", "true", "1.0", "-", "."])
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
KEYS = TEXTS.map(lambda text: text.encode(errors="replace").decode())
"""Of samples from the network, the devices and epochs are printable."""
SAMPLES = st.builds(
    Point,
    device=KEYS,
    epoch=KEYS,
    seq=st.integers(1, 2**53),
    time=st.sampled_from([-6_000_000_000_000, -1, START, 9_000_000_000_000]),
    values=st.dictionaries(TEXTS.filter(lambda t: t not in ("seq", "epoch")), NUMBERS | TEXTS),
    units=st.just({}),
)


def kept(value: Field) -> Field:
    """Return what a database that keeps texts gives back."""
    if isinstance(value, str):
        return value.replace("\n", "␊").encode(errors="replace").decode()
    return float(value)


def name_back(name: str) -> str:
    return "" if name == "%" else unquote(name, errors="surrogatepass")


def test_a_line_is_as_simple_as_the_sample() -> None:
    one = Point("slide", EPOCH, 1842, 1_790_000_000_196, {"position.target": 3, "synced": True}, {})
    written = b'slide position.target=3.0,synced=1.0,seq=1842.0,epoch="4f3c0a9be1d2" '
    assert line_of(one) == written + b"1790000000196001842"


@given(TEXTS)
def test_no_name_means_anything_to_the_protocol_and_each_can_be_read_back(text: str) -> None:
    name = name_of(text)
    assert re.fullmatch(r"[A-Za-z0-9.~%-][A-Za-z0-9_.~%-]*", name)
    assert name != "time"
    assert name_back(name) == text


@given(some=st.lists(SAMPLES, min_size=1, max_size=20, unique_by=lambda one: one.device))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_influxdb_gives_back_whatever_was_sent_and_nothing_else(
    some: list[Point], influx: databases.InfluxDB, tmp_path_factory: pytest.TempPathFactory
) -> None:
    influx.query('DROP DATABASE "any"')
    store = LineStore("any", given_as(url=influx.url, database="any"), tmp_path_factory.mktemp("x"))
    write(store, some)
    assert store.aside() == 0
    store.close()
    found = influx.query("SHOW MEASUREMENTS", db="any")
    assert {name_back(row["name"]) for row in found["measurements"]} == {one.device for one in some}
    for one in some:
        ((row,),) = influx.query(f'SELECT * FROM "{name_of(one.device)}"', db="any").values()
        assert row.pop("time") == one.time * 1_000_000 + one.seq % 1_000_000
        values = one.values | {"seq": one.seq, "epoch": one.epoch}
        assert {name_back(n): kept(v) for n, v in row.items() if v is not None} == {
            name: kept(value) for name, value in values.items()
        }


@given(some=st.lists(SAMPLES, max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_victoriametrics_sees_the_same_names_and_nothing_else(
    some: list[Point], victoria: databases.VictoriaMetrics, tmp_path_factory: pytest.TempPathFactory
) -> None:
    evil: dict[str, Field] = {"evil": "\nevil x=1\n"}
    some = [one._replace(time=START, values={**one.values, **evil}) for one in some]
    store = LineStore("any", given_as(url=victoria.url), tmp_path_factory.mktemp("x"))
    write(store, some)
    store.close()
    numbers: set[str] = set()
    texts: set[str] = set()
    for one in some:
        values: dict[str, Field] = {**one.values, "seq": 1.0, "epoch": "a"}
        for field, value in values.items():
            kind = texts if isinstance(value, str) else numbers
            kind.add(f"{name_of(one.device)}_{name_of(field)}")
    SEEN.update(numbers, texts)
    names = victoria.names()
    assert names <= SEEN
    assert names >= numbers  # texts are zeros, or nothing


SEEN: set[str] = set()
"""What the tests with VictoriaMetrics have written into it."""


def test_writing_again_changes_nothing(
    empty: databases.InfluxDB, victoria: databases.VictoriaMetrics, tmp_path: Path
) -> None:
    points = [point(seq, "again", synced=True, mode="fast") for seq in range(1, 201)]
    for server in (empty, victoria):
        for name in ("first", "second"):
            store = LineStore(f"{name}{server.port}", given_as(url=server.url), tmp_path)
            deliver(store, points)
            store.close()
    assert numbers_in(empty) == sorted(map(number, points))
    found = victoria.query('{__name__=~"again_.*"}')
    SEEN.update(found)
    assert sorted(found) == sorted(
        f"again_{name}" for name in ("position", "synced", "mode", "seq", "epoch")
    )
    assert sorted(found["again_seq"]) == [(one.time, one.seq) for one in points]


def test_samples_of_one_millisecond_do_not_overwrite_each_other(
    empty: databases.InfluxDB, opened: Opener
) -> None:
    points = [Point("gps", EPOCH, seq, START, {"x": 1.0}, {}) for seq in range(999_990, 1_000_010)]
    write(opened(empty.url), points)
    assert numbers_in(empty) == sorted(map(number, points))


# --- how each version is spoken to ----------------------------------------------------------


VERSIONS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "1": ({}, "/write?db=hipercam&precision=ns", None),
    "1 with a password": (
        {"user": "hw logger", "secret_variable": "SECRET"},
        "/write?db=hipercam&precision=ns",
        "Basic aHcgbG9nZ2VyOmh1c2ggaHVzaA==",
    ),
    "2": (
        {"database": None, "organization": "o & o", "bucket": "b", "secret_variable": "SECRET"},
        "/api/v2/write?org=o+%26+o&bucket=b&precision=ns",
        "Token hush hush",
    ),
    "3": (
        {"api": 3, "secret_variable": "SECRET"},
        "/api/v3/write_lp?db=hipercam&precision=nanosecond",
        "Bearer hush hush",
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_spoken_to_in_its_own_way(
    version: str,
    server: Scripted,
    opened: Opener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, target, authorization = VERSIONS[version]
    monkeypatch.setenv("SECRET", "hush hush\n")
    store = opened(server.url + "/behind/", **table)
    write(store, [point(1), point(2)])
    (request,) = server.requests
    assert request.target == "/behind" + target
    assert request.headers.get("Authorization") == authorization
    assert request.lines == [line_of(point(1)), line_of(point(2))]


@pytest.mark.parametrize(
    ("host", "encoding"),
    [("127.0.0.1", None), ("127.1", "gzip")],  # only the system takes the last one for this machine
)
def test_what_leaves_this_machine_is_compressed(
    server: Scripted, opened: Opener, host: str, encoding: str | None
) -> None:
    store = opened(server.url.replace("127.0.0.1", host), database="hipercam")
    write(store, [point(1)])
    (request,) = server.requests
    assert request.headers.get("Content-Encoding") == encoding
    assert request.lines == [line_of(point(1))]


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://localhost:8086", True),
        ("https://[::1]:8086/behind", True),
        ("http://127.0.0.2", True),
        ("http://pulsar.shef.ac.uk:8086", False),
        ("http://192.168.1.2:8086", False),
    ],
)
def test_this_machine_is_known_by_its_addresses(url: str, near: bool) -> None:
    assert is_near(url) == near


def test_victoriametrics_takes_what_is_for_version_2(
    victoria: databases.VictoriaMetrics, opened: Opener
) -> None:
    store = opened(victoria.url, database=None, organization="o", bucket="b")
    deliver(store, [point(seq, "second") for seq in range(1, 11)])
    found = victoria.query('{__name__=~"second_.*"}')
    SEEN.update(found)
    assert len(found["second_seq"]) == 10


def test_many_writes_share_a_connection(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    for seq in range(1, 50):
        write(store, [point(seq)])
    assert (len(server.requests), len(server.connections)) == (49, 1)


def test_what_is_stored_is_not_written_again(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    write(store, [point(1), point(2)])
    write(store, [point(2), point(3), point(1)])
    assert server.lines == [line_of(point(seq)) for seq in (1, 2, 3)]


def test_a_request_is_never_too_long(
    server: Scripted, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_protocol, "MAX_LINES", 30)
    write(opened(server.url), [point(seq) for seq in range(1, 101)])
    assert [len(request.lines) for request in server.requests] == [30, 30, 30, 10]
    server.requests.clear()
    long = [point(seq, text="x" * 900_000) for seq in range(101, 111)]
    write(opened(server.url), long)
    assert [len(request.lines) for request in server.requests] == [4, 4, 2]


# --- answers that are no 204 ----------------------------------------------------------------

FAULTS: dict[str, tuple[scripted.Answer, str]] = {
    "unauthorized": (401, "401: credentials are required"),
    "forbidden": (answer(403, b'{"error": "no"}'), "403: everybody may not write into database"),
    "redirected": (
        answer(301, Location="http://127.0.0.1:1/"),
        "301, which is not an answer of a database",
    ),
    "a page": (answer(200, b"<html>welcome"), "200, which is not an answer of a database"),
    "too many": (429, "429: the database is overloaded"),
    "broken": (answer(500, b"engine\r\n\x1b[31m: cache full"), "500: engine [31m: cache full"),
    "no backend": (502, "502: "),
    "backend late": (504, "504: "),
    "hangs": (scripted.hang, "no answer within 0.3 s"),
    "trickles": (scripted.trickle, "no answer within 0.3 s"),
    "reset": (scripted.reset, "no valid answer: "),
    "closed": (b"", "no valid answer: "),
    "half a status": (b"HTTP/1.1 20", "no valid answer: "),
    "half a body": (answer(400, b"x" * 100)[:-50], "no valid answer: the answer is cut short"),
    "endless body": (
        b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2000\r\n" + b"x" * 8192 * 20,
        "no valid answer: ",
    ),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "no valid answer: "),
    "endless line": (b"HTTP/1.1 204 " + b"x" * 100_000, "no valid answer: "),
}


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_acknowledged_is_written_again(
    fault: scripted.Answer, said: str, server: Scripted, opened: Opener
) -> None:
    points = [point(seq) for seq in range(1, 11)]
    server.answers = [fault] * 3
    store = opened(server.url, timeout=0.3)
    for _ in range(3):
        with pytest.raises(AwayError) as raised:
            write(store, points)
        assert said in str(raised.value)
        assert server.url in str(raised.value)
        assert str(raised.value).isprintable()
        assert not store.stored
    write(store, points)
    assert store.stored == samples("slide", EPOCH, 1, 10)
    assert server.requests[3].lines == [line_of(one) for one in points]
    assert store.aside() == 0


def test_a_database_that_is_not_there_is_away(opened: Opener) -> None:
    store = opened(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(AwayError, match=r"the database cannot be reached: .*refused"):
        write(store, [point(1)])


def test_a_database_that_asks_for_a_rest_gets_it(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    server.answers = [
        answer(429, Retry_After="20"),
        answer(503, Retry_After="86400"),
    ]
    for rest in (20, line_protocol.MAX_REST_S):
        with pytest.raises(AwayError, match=r"429|503"):
            write(store, [point(1)])
        asked = len(server.requests)
        opened.clock.now += rest - 1
        with pytest.raises(AwayError, match="the database asked for a pause, of 1 s more"):
            write(store, [point(1)])
        assert len(server.requests) == asked
        opened.clock.now += 1
    write(store, [point(1)])


# --- lines that are refused -----------------------------------------------------------------


def refusing(*bad: bytes, status: int = 400) -> Callable[[scripted.Request], scripted.Answer]:
    """Return a function that rejects a request with one of some words in it."""

    def judge(request: scripted.Request) -> scripted.Answer:
        found = [word for line in request.lines for word in bad if word in line]
        return answer(status, b"it has " + found[0]) if found else 204

    return judge


@pytest.mark.parametrize("status", [400, 422])
def test_only_what_is_refused_alone_is_set_aside(
    status: int, server: Scripted, opened: Opener
) -> None:
    server.judge = refusing(b"seq=77.0", b"seq=78.0", b"seq=500.0", status=status)
    store = opened(server.url)
    write(store, [point(seq) for seq in range(1, 501)])
    assert store.stored == samples("slide", EPOCH, 1, 500)
    assert store.aside() == 3
    rows = in_ledger(store, "SELECT seq, body, reason FROM aside")
    assert rows[0] == (77, line_of(point(77)).decode(), f"{status}: it has seq=77.0")
    assert [row[0] for row in rows] == [77, 78, 500]
    assert len(server.requests) < 70
    write(store, [point(seq) for seq in range(501, 511)])
    assert len(server.requests[-1].lines) == 10


def test_a_refusal_that_talks_and_talks_is_one_like_any_other(
    server: Scripted, opened: Opener
) -> None:
    store = opened(server.url)
    bad = line_of(point(2))
    server.judge = lambda request: answer(400, b"x" * 3_000_000) if bad in request.lines else 204
    write(store, [point(1), point(2), point(3)])
    assert (store.stored, store.aside()) == (samples("slide", EPOCH, 1, 3), 1)


def test_what_was_too_large_once_is_not_tried_again(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    server.judge = lambda request: 413 if len(request.lines) > 30 else 204
    write(store, [point(seq) for seq in range(1, 101)])
    assert [len(one.lines) for one in server.requests] == [100, 50, 25, 25, 50, 25, 25]
    server.requests.clear()
    write(store, [point(seq) for seq in range(101, 201)])
    assert max(len(one.lines) for one in server.requests) <= 30
    assert len(server.lines) == 100


def test_when_every_line_is_refused_none_is_set_aside(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    server.judge = lambda request: answer(400, b"<html>this is a proxy")
    for count in (3, 1, 1000):
        with pytest.raises(AwayError, match=r"every line is rejected .*this is a proxy.*check"):
            write(store, [point(seq) for seq in range(1, count + 1)])
    server.judge = lambda request: 204
    write(store, [point(0)])
    server.judge = lambda request: answer(400, b"<html>this is a proxy")
    for count in (3, 1, 1000):
        with pytest.raises(AwayError, match=r"every line is rejected .*this is a proxy.*check"):
            write(store, [point(seq) for seq in range(1, count + 1)])
    assert store.aside() == 0
    assert len(server.requests) < 120


def test_bad_lines_alone_do_not_hold_up_the_others(server: Scripted, opened: Opener) -> None:
    store = opened(server.url)
    server.judge = refusing(b"evil")
    write(store, [point(1)])
    write(store, [point(seq, "evil") for seq in range(1, 31)])
    assert store.aside() == 30
    write(store, [point(2)])
    assert store.stored == samples("slide", EPOCH, 1, 2) | samples("evil", EPOCH, 1, 30)


def test_what_influxdb_says_of_all_lines_is_not_asked_of_each(
    server: Scripted, opened: Opener
) -> None:
    said = b'{"error":"partial write: points beyond retention policy dropped=1000"}'
    server.answers = [answer(400, said)]
    store = opened(server.url)
    write(store, [point(seq) for seq in range(1, 1001)])
    assert (store.aside(), len(server.requests)) == (1000, 1)


def test_a_type_conflict_a_time_out_of_range_and_an_old_sample_are_set_aside_by_influxdb(
    empty: databases.InfluxDB, opened: Opener
) -> None:
    empty.query('CREATE DATABASE "short" WITH DURATION 2h')
    now = time.time_ns() // 1_000_000
    good = [Point("slide", EPOCH, seq, now + seq, {"x": 1.0}, {}) for seq in range(1, 300)]
    bad = [
        Point("slide", EPOCH, 1001, now, {"x": "a text"}, {}),
        Point("slide", EPOCH, 1002, now - 86_400_000, {"x": 1.0}, {}),
        Point("slide", EPOCH, 1003, 10**14, {"x": 1.0}, {}),
        Point("slide", EPOCH, 1004, now, {"x" * 70_000: 1.0}, {}),
    ]
    points = good[:150] + bad[:2] + good[150:] + bad[2:]
    store = opened(empty.url, database="short")
    write(store, points)
    assert numbers_in(empty, "short") == sorted(map(number, good))
    rows = in_ledger(store, "SELECT seq, reason FROM aside")
    assert [row[0] for row in rows] == [1001, 1002, 1003, 1004]
    for (_, reason), said in zip(
        rows,
        ("field type conflict", "beyond retention", "out of range", "max key length"),
        strict=True,
    ):
        assert said in reason
    empty.query('DROP DATABASE "short"')


def test_what_is_too_large_is_sent_in_parts(tmp_path: Path, opened: Opener) -> None:
    with databases.influxdb(tmp_path, http="max-body-size = 3000") as small:
        noise = random.Random(1)
        points = [
            point(seq, text="".join(noise.choices("0123456789", k=200))) for seq in range(1, 101)
        ]
        points.append(point(101, text="".join(noise.choices("0123456789", k=20_000))))
        store = opened(small.url)
        write(store, points)
        assert numbers_in(small) == [number(one) for one in points[:-1]]
        assert store.aside() == 1
        ((reason,),) = in_ledger(store, "SELECT reason FROM aside")
        assert reason.startswith("413")


# --- accounts and addresses -----------------------------------------------------------------


def test_a_database_that_is_not_there_is_created_once(
    empty: databases.InfluxDB, opened: Opener
) -> None:
    name = 'a "new" one'
    store = opened(empty.url, database=name)
    write(store, [point(1)])
    assert numbers_in(empty, name) == [("slide", EPOCH, 1)]
    empty.query(r'DROP DATABASE "a \"new\" one"')
    with pytest.raises(AwayError, match=r'404: there is no database \'a "new".*create it'):
        write(store, [point(2)])


def test_a_database_that_was_dropped_gets_everything_again(
    empty: databases.InfluxDB, opened: Opener
) -> None:
    store = opened(empty.url)
    write(store, [point(1), point(2), point(3)])
    gone = SampleRange("slide", EPOCH, 5, 6, "it is in no journal")
    store.settle([gone])
    empty.query(f'DROP DATABASE "{empty.database}"')
    write(store, [point(4)])
    assert store.stored == samples("slide", EPOCH, 4, 6)
    empty.query(f'DROP DATABASE "{empty.database}"')
    with pytest.raises(AwayError, match="create it"):
        write(store, [point(7)])
    assert store.stored == samples("slide", EPOCH, 5, 6)
    assert store.gone() == [gone]
    empty.query(f'CREATE DATABASE "{empty.database}"')
    deliver(store, [point(seq) for seq in (1, 2, 3, 4)])
    assert numbers_in(empty) == [("slide", EPOCH, seq) for seq in (1, 2, 3, 4)]


def test_who_may_not_write_is_told_so(tmp_path: Path, opened: Opener) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("wrong-one\n")
    with databases.influxdb(tmp_path, http="auth-enabled = true") as locked:
        boss = {"u": "boss", "p": "hush"}
        locked.query("CREATE USER boss WITH PASSWORD 'hush' WITH ALL PRIVILEGES")
        locked.query("CREATE DATABASE hipercam", **boss)
        locked.query("CREATE USER guest WITH PASSWORD 'guest-word'", **boss)
        store = opened(locked.url, user="guest", secret_file=str(secret))
        messages = []
        for action in (
            lambda: secret.write_text("guest-word\n"),
            lambda: locked.query("GRANT WRITE ON hipercam TO guest", **boss),
        ):
            with pytest.raises(AwayError) as raised:
                write(store, [point(1)])
            messages.append(str(raised.value))
            action()
        assert f"401: the secret in {secret} is rejected: correct it" in messages[0]
        assert "403: guest may not write into database 'hipercam': allow it" in messages[1]
        write(store, [point(1)])
        rows = locked.query("SELECT seq, epoch FROM slide", **boss)["slide"]
        assert [row["seq"] for row in rows] == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("open to all", ": chmod o= "),
        ("", "must contain a secret"),
        ("hush\x00hush", "must contain a secret"),
        ("two\nlines", "must contain a secret"),
        (None, "cannot be read"),
    ],
)
def test_a_secret_that_is_none_is_refused(
    content: str | None, said: str, server: Scripted, opened: Opener, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
        file.chmod(0o644 if content == "open to all" else 0o600)
    with pytest.raises(AwayError) as raised:
        write(opened(server.url, api=3, secret_file=str(file)), [point(1)])
    assert str(file) in str(raised.value)
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)
    assert server.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_secret_is_not_repeated_after_a_server_that_repeats_it(
    status: int, server: Scripted, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hush-hush")
    given = "aHdsb2dnZXI6aHVzaC1odXNo"
    store = opened(server.url, user="hwlogger", secret_variable="SECRET")
    write(store, [point(1)])
    assert server.requests[0].headers["Authorization"] == f"Basic {given}"

    def judge(request: scripted.Request) -> scripted.Answer:
        said = f"you sent {request.headers['Authorization']}, hwlogger:hush-hush".encode()
        return 204 if request.lines == [line_of(point(1))] else answer(status, said)

    server.judge = judge
    try:
        write(store, [point(2)])
        ((text,),) = in_ledger(store, "SELECT reason FROM aside")
    except AwayError as error:
        text = str(error)
    assert "hush" not in text
    assert given not in text
    assert "hush" not in repr(store.settings)


def test_a_secret_in_what_is_no_answer_is_not_repeated(
    server: Scripted, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hush-hush")
    server.answers = [b"Authorization: Bearer hush-hush\r\n"]
    with pytest.raises(AwayError, match=r"no valid answer: .*Bearer \*\*\*"):
        write(opened(server.url, api=3, secret_variable="SECRET"), [point(1)])


MISTAKES = {
    "no database": ({"database": None}, "give either database, or"),
    "both": ({"bucket": "b", "organization": "o"}, "give either database, or"),
    "half of version 2": ({"database": None, "bucket": "b"}, "belong together"),
    "version": ({"api": 2}, "Input should be 3"),
    "scheme": ({"url": "ftp://127.0.0.1"}, "must be like"),
    "no host": ({"url": "http://"}, "must be like"),
    "port": ({"url": "http://127.0.0.1:http"}, "must be like"),
    "query": ({"url": "http://127.0.0.1/write?db=x"}, "must be like"),
    "space": ({"url": "http://127.0.0.1/a b"}, "must be like"),
    "secret in the URL": (
        {"url": "http://me:hunter2@127.0.0.1"},
        "must not contain a user",
    ),
    "with a slash": ({"url": "http://me:hu/sh@127.0.0.1"}, "must not contain a user"),
    "secret in the file": ({"password": "hunter2"}, "Extra inputs are not permitted"),
    "user alone": ({"user": "me"}, "belong together"),
    "secret alone": ({"secret_variable": "X"}, "belong together"),
    "user of version 3": ({"api": 3, "user": "me", "secret_variable": "X"}, "version 1 only"),
    "two secrets": ({"api": 3, "secret_variable": "X", "secret_file": "/x"}, "give either secret"),
    "relative": ({"api": 3, "secret_file": "x"}, "must be an absolute path"),
    "ca without TLS": ({"ca": "/x"}, "ca is for https only"),
    "timeout": ({"timeout": 0}, "greater than 0"),
    "text": ({"timeout": "10"}, "valid number"),
}


@pytest.mark.parametrize(("table", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_instrument_file_is_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        given_as(**({"url": "http://127.0.0.1:8086"} | table))


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "ca.pem", folder / "key.pem"


def test_tls_is_spoken_with_whom_the_given_file_vouches_for(
    tmp_path: Path, opened: Opener, certificate: tuple[Path, Path]
) -> None:
    ca, key = certificate
    http = f'https-enabled = true\nhttps-certificate = "{ca}"\nhttps-private-key = "{key}"'
    with databases.influxdb(tmp_path, http=http, ca=ca) as secure:
        with pytest.raises(AwayError, match=r"cannot be reached: .*certificate verify failed"):
            write(opened(secure.url), [point(1)])
        with pytest.raises(AwayError, match=r"cannot be reached: .*No such file"):
            write(opened(secure.url, ca="/nowhere/ca.pem"), [point(1)])
        store = opened(secure.url, ca=str(ca))
        for seq in range(1, 20):
            write(store, [point(seq)])
            assert not samples("slide", EPOCH, 1, seq) - store.stored  # still one connection
        assert len(numbers_in(secure)) == 19
        secure.freeze()
        impatient = opened(secure.url, ca=str(ca), timeout=0.3)
        with pytest.raises(AwayError, match=r"cannot be reached: .*timed out|no answer within"):
            write(impatient, [point(20)])
        secure.thaw()


# --- what is sure ---------------------------------------------------------------------------


def test_what_was_acknowledged_is_stored_also_after_a_start(
    server: Scripted, opened: Opener
) -> None:
    store = opened(server.url)
    for seq in range(1, 11):
        write(store, [point(seq)])
    store.close()
    assert opened(server.url).stored == samples("slide", EPOCH, 1, 10)


@pytest.mark.parametrize(
    "fault", [scripted.reset, scripted.hang, 502], ids=["reset", "hangs", "no backend"]
)
def test_a_failure_does_not_put_in_doubt_what_was_acknowledged(
    fault: scripted.Answer, server: Scripted, opened: Opener
) -> None:
    store = opened(server.url, timeout=0.3)
    write(store, [point(1)])
    server.answers = [fault]
    with pytest.raises(AwayError):
        write(store, [point(2)])
    assert store.stored == samples("slide", EPOCH, 1, 1)


def test_a_connection_that_the_server_closed_is_opened_again(
    server: Scripted, opened: Opener
) -> None:
    store = opened(server.url)
    for seq in range(1, 6):
        server.answers = [answer(204, Connection="close")]
        write(store, [point(seq)])
    write(store, [point(6)])
    server.connections[-1].shutdown(socket.SHUT_RDWR)
    write(store, [point(7)])
    assert store.stored == samples("slide", EPOCH, 1, 7)
    assert server.lines == [line_of(point(seq)) for seq in range(1, 8)]


def test_a_refusal_does_not_put_in_doubt_what_was_taken(server: Scripted, opened: Opener) -> None:
    """A database with a quota would otherwise get the same samples for ever."""
    store = opened(server.url)
    write(store, [point(1)])
    server.answers = [429]
    with pytest.raises(AwayError):
        write(store, [point(2)])
    assert store.stored == samples("slide", EPOCH, 1, 1)


def test_what_is_gone_or_set_aside_is_neither_asked_for_nor_counted_again(
    server: Scripted, opened: Opener
) -> None:
    store = opened(server.url)
    server.judge = refusing(b"seq=2.0")
    write(store, [point(1), point(2)])
    gone = SampleRange("slide", EPOCH, 3, 9, "it is in no journal")
    store.settle([gone])
    server.answers = [scripted.reset]
    with pytest.raises(AwayError):
        write(store, [point(10)])
    assert store.stored == samples("slide", EPOCH, 1, 9)
    store.close()
    again = opened(server.url)
    assert again.stored == samples("slide", EPOCH, 1, 9)
    assert (again.aside(), again.gone()) == (1, [gone])


def test_what_is_set_aside_is_counted_once(
    server: Scripted, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder asks after each write, and there may be a hundred thousand lines."""
    server.judge = refusing(b"seq=2.0", b"seq=4.0", b"seq=5.0")
    write(opened(server.url), [point(1), point(2)])
    store = opened(server.url)
    write(store, [point(3)])  # and the rejected line again, as after each start
    monkeypatch.delattr(Ledger, "refused")
    assert store.aside() == 1
    write(store, [point(seq) for seq in range(4, 7)])
    assert store.aside() == 3


@pytest.mark.parametrize(
    "error",
    [sqlite3.OperationalError("database is locked"), OSError(28, "No space left on device")],
    ids=["locked", "full"],
)
def test_a_ledger_that_cannot_be_used_is_a_store_that_is_away(
    error: Exception, server: Scripted, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    store = opened(server.url)
    write(store, [point(1)])
    monkeypatch.setattr(SqliteFile, "_transaction", fail)
    for action in (
        lambda: write(store, [point(2)]),
        lambda: store.settle([SampleRange("slide", EPOCH, 5, 5, "lost")]),
        store.gone,
        lambda: opened(server.url),
    ):
        with pytest.raises(
            AwayError, match=re.escape(f"offsite.sqlite cannot be used now ({error})")
        ):
            action()
    monkeypatch.undo()
    write(store, [point(2), point(3)])
    assert opened(server.url).stored == samples("slide", EPOCH, 1, 3)
    again = [line_of(point(seq)) for seq in (1, 2, 2, 3)]  # it was not noted as stored
    assert server.lines == again


# --- the real thing dies --------------------------------------------------------------------


def test_influxdb_may_die_as_it_likes(tmp_path: Path, opened: Opener) -> None:
    points = [point(seq, device) for seq in range(1, 3001) for device in ("ccd1", "slide")]
    with databases.influxdb(tmp_path) as server:
        store = opened(server.url, clock=time.monotonic, timeout=0.5)
        failures: list[int] = []
        delivery = threading.Thread(
            target=lambda: failures.append(deliver(store, points, batch=20))
        )
        delivery.start()
        chance = random.Random(7)
        for fault in ("kill", "stop", "freeze", "kill while frozen", "kill"):
            until(lambda: store.stored and delivery.is_alive())
            time.sleep(chance.uniform(0.01, 0.1))
            if "freeze" in fault or "frozen" in fault:
                server.freeze()
                time.sleep(1)
            if fault == "freeze":
                server.thaw()
                continue
            server.stop() if fault == "stop" else server.kill()
            server.start()
        delivery.join()
        assert failures
        assert failures[0] > 0
        assert numbers_in(server) == sorted(map(number, points))


# --- what a database has already --------------------------------------------------------------


def conflict(device: str, field: str, here: str, there: str, dropped: int) -> scripted.Answer:
    said = (
        f'{{"error":"partial write: field type conflict: input field \\"{field}\\" on measurement '
        f'\\"{device}\\" is type {here}, already exists as type {there} dropped={dropped}"}}'
    )
    return answer(400, said.encode())


def typed(**there: str) -> Callable[[scripted.Request], scripted.Answer]:
    """Return a judge that has ``x`` of some devices as another type than a float."""
    forms = {"integer": rb"\bx=-?\d+i,", "boolean": rb"\bx=(true|false),", "string": rb'\bx="'}

    def judge(request: scripted.Request) -> scripted.Answer:
        wrong = [
            name
            for line in request.lines
            for name, kind in there.items()
            if line.startswith(name.encode()) and not re.search(forms[kind], line)
        ]
        return conflict(wrong[0], "x", "float", there[wrong[0]], len(wrong)) if wrong else 204

    return judge


@pytest.mark.parametrize(
    ("text", "kind", "cast"),
    [
        (b'gps x=12.0,seq=1.0,epoch="e" 5', "integer", b'gps x=12i,seq=1.0,epoch="e" 5'),
        (b'gps a=1.0,x=-3e3,seq=1.0,t=" x=1.0,",epoch="e" 5', "integer", b"a=1.0,x=-3000i,seq"),
        (b'gps x=1.0,seq=1.0,epoch="e" 5', "boolean", b'gps x=true,seq=1.0,epoch="e" 5'),
        (b'gps x=0.0,seq=1.0,epoch="e" 5', "boolean", b"gps x=false,seq"),
        (b'gps x=1.5,seq=1.0,epoch="e" 5', "integer", None),
        (b'gps x=1e300,seq=1.0,epoch="e" 5', "integer", None),
        (b'gps x=2.0,seq=1.0,epoch="e" 5', "boolean", None),
        (b'gps x=2.0,seq=1.0,epoch="e" 5', "string", None),
        (b'gps seq=1.0,x="x=1.0,",epoch="e" 5', "integer", b'gps seq=1.0,x="x=1.0,",epoch="e" 5'),
    ],
)
def test_a_value_becomes_what_is_there_only_if_that_loses_nothing(
    text: bytes, kind: str, cast: bytes | None
) -> None:
    found = as_there(text, {"x": kind})
    assert found == cast if cast is None or found is None else cast in found


def test_a_database_gets_the_types_that_it_has(server: Scripted, opened: Opener) -> None:
    server.judge = typed(gps="integer", dome="boolean")
    store = opened(server.url)
    some = [Point(name, EPOCH, 1, 10**12, {"x": 1.0}, {}) for name in ("gps", "dome", "slide")]
    write(store, some)
    assert store.aside() == 0
    asked = len(server.requests)
    write(store, [one._replace(seq=2) for one in some])
    (request,) = server.requests[asked:]
    assert sorted(line.split(b",")[0] for line in request.lines) == [
        b"dome x=true",
        b"gps x=1i",
        b"slide x=1.0",
    ]


def test_each_refusal_is_told_of_its_own_device_with_field_and_types_and_what_to_do(
    server: Scripted, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    server.judge = typed(pressure1="string", pressure2="integer")
    store = opened(server.url)
    names = ("pressure1", "pressure2", "pressure3")
    write(store, [Point(n, EPOCH, seq, 10**12, {"x": 0.5}, {}) for seq in (1, 2) for n in names])
    assert store.aside() == 4
    rows = in_ledger(store, "SELECT device, reason FROM aside")
    assert all(f'measurement \\"{device}\\" is' in reason for device, reason in rows)
    first, second = store.refusals()
    assert first == (
        "2 samples of pressure1 are rejected, and written again every minute: field x of pressure1 "
        "is a float here and a string in the database: use another database or, if its old samples "
        'are not needed, DROP MEASUREMENT "pressure1"'
    )
    assert "field x of pressure2 is a float here and an integer in the database" in second
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 2


def test_what_was_refused_comes_in_when_its_cause_is_gone(server: Scripted, opened: Opener) -> None:
    server.judge = typed(pressure1="string", pressure2="integer")
    store = opened(server.url)
    points = [
        Point(n, EPOCH, seq, 10**12, {"x": 0.5}, {})
        for n in ("pressure1", "pressure2")
        for seq in range(1, 21)
    ]
    write(store, [point(1)])
    write(store, points)
    assert store.aside() == 40
    server.judge = typed(pressure1="string")
    opened.clock.now += 61
    server.requests.clear()
    write(store, [point(2)])
    offered = [line for request in server.requests for line in request.lines]
    assert sum(line.startswith(b"pressure1") for line in offered) == 1  # cheaply
    taken = [line for line in offered if line.startswith(b"pressure2")]
    assert len(set(taken)) == 20
    assert store.aside() == 20
    store.close()
    server.judge = lambda request: 204
    again = opened(server.url)  # at once, after a start
    write(again, [point(4)])
    assert again.aside() == 0
    assert again.stored == store.stored | samples("slide", EPOCH, 4, 4)
    assert again.refusals() == []


def test_what_the_original_logger_wrote_is_gone_on_with(
    empty: databases.InfluxDB, opened: Opener
) -> None:
    empty.query('CREATE DATABASE "original"')
    empty.ask(
        "/write",
        b"gps num_sats=9i,time_valid=true,synced=true 1",
        db="original",
    )
    store = opened(empty.url, database="original")
    values: dict[str, Any] = {"num_sats": 11.0, "time_valid": True, "synced": False, "drift": 0.5}
    write(store, [Point("gps", EPOCH, 1, 10**12, values, {}), point(1)])
    assert store.aside() == 0
    (_, row) = empty.query("SELECT * FROM gps", db="original")["gps"]
    assert (row["num_sats"], row["time_valid"], row["synced"], row["drift"]) == (
        11,
        True,
        False,
        0.5,
    )
    empty.query('DROP DATABASE "original"')
