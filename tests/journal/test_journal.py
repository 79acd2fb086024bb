"""The journal: gapless numbers, a file a night, bounds, kills, reboots and a full disk."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.journal import DAY_S, Journal
from hcam_devices.journal import journal as module
from hcam_devices.journal.journal import MAX_REPLY_BYTES
from hcam_devices.journal.notebook import SIZE, Notebook
from hcam_devices.journal.part import BETWEEN, BODIES, FIRST, LAST, NEXT_DEVICE, Part
from hcam_devices.journal.points import flatten, night_of
from hcam_devices.journal.records import MAX_SAMPLE_BYTES, Record, read_page, sample_of

from ..conftest import Scaled
from ..helpers import AT_MOST, Clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path, clock=Clock(), boot="one")) as journal:
        yield journal


def sample(device: str = "slide", **more: Any) -> dict[str, Any]:
    return {"device": device, "timestamp": "2026-11-22T04:44:44.196Z", "position": 1.5} | more


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
    kept = sample(value=value, seq=1, epoch=journal.epoch)
    assert journal.samples("slide", 0, 9) == [kept]
    record = read_page(journal.page("slide", 0, 9, journal.epoch))[1]
    assert record
    assert record.point == Record.of(flatten(kept)).point


@pytest.mark.parametrize(
    "page",
    [
        *(None, "[]", b"[]", zlib.compress(b"{}")),
        *(b64encode(zlib.compress(text)) for text in (b"[1]", b'{"x":0}\n1 1 [1]', b"{}\n1")),
    ],
)
def test_what_is_no_page_is_refused(page: object) -> None:
    with pytest.raises(ValueError, match=r"not a page of samples|not the beginning of a record"):
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
        assert seqs(journal) == [1, 2, 3, 4]


def test_the_notebook_of_a_file_is_complete_when_another_begins(path: Path) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        journal.append_all([sample(), sample("flow"), sample()])
        clock.now += DAY_S
        fill(journal, 1)
        notes = [Notebook(file).read()["held"] for file in sorted(path.parent.glob("*.json"))]
        assert notes == [{"slide": [1, 2], "flow": [1, 1]}, {"slide": [3, 3], "flow": [2, 1]}]


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


def reason(days: float, size: float) -> str:
    return f"the journal keeps samples for {days:g} days, and at most {size:g} GB"


def files(path: Path) -> list[Path]:
    """Return the files of a journal in the order in which they were begun."""
    return sorted(path.parent.glob(f"{path.name}.*.sqlite"))


def truth(journal: Journal, *devices: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return all samples; see that each number is either given or gone, and counted rightly."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for device in devices or ("slide",):
        samples = {
            one["epoch"]: {
                sample["seq"]: sample for sample in all_of(journal, device, one["epoch"])
            }
            for one in journal.holds(device)["epochs"]
        }
        said = journal.holds(device)  # now that it is known what can be read
        lost: dict[str, list[int]] = defaultdict(list)
        for one in said["gone"]:
            lost[one["epoch"]] += range(one["first"], one["last"] + 1)
        for one in said["epochs"]:
            epoch = one["epoch"]
            numbers = list(samples[epoch])
            assert (numbers[0], numbers[-1], len(numbers)) == (
                one["first"],
                one["last"],
                one["count"],
            )
            numbers += lost[epoch]
            assert sorted(numbers) == list(range(1, max(numbers) + 1))
            found |= {(device, epoch, seq): sample for seq, sample in samples[epoch].items()}
    return found


def test_what_is_too_old_is_dropped_but_no_number_is_used_twice(path: Path) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, steady=clock, boot="one")) as journal:
        fill(journal, 1000)
        clock.now += 15 * DAY_S
        fill(journal, 2)
        assert journal.tidy() == 1000
        assert seqs(journal) == [1001, 1002]
        assert gone(journal) == [(1, 1000, reason(14, 2))]
        clock.now += 15 * DAY_S
        assert journal.tidy() == 2
        assert (seqs(journal), gone(journal)) == ([], [(1, 1002, reason(14, 2))])
        assert journal.devices() == {"slide"}
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        assert fill(journal, 1) == [1003]
    with closing(Journal(path, clock=clock, steady=clock, boot="two")) as journal:
        clock.now += 15 * DAY_S
        assert journal.tidy() == 1
        assert gone(journal) == [(1, 1003, reason(14, 2))]
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
                while len(dropped) < n // 100:  # a file with all samples would be dropped
                    time.sleep(0.001)
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
        assert gone(journal) == [(1, 3000 - len(kept), reason(14, 0.0004))]
        assert sum(file.stat().st_size for file in files(path)) < 1.5 * most


def all_of(
    journal: Journal, device: str = "slide", epoch: str | None = None
) -> Iterator[dict[str, Any]]:
    after = 0
    while page := journal.samples(device, after, 500, epoch):
        yield from page
        after = page[-1]["seq"]


def test_of_several_devices_and_epochs_the_oldest_is_dropped_first(path: Path) -> None:
    clock = Clock()
    most = 400_000
    for boot in ("one", "two"):
        with closing(Journal(path, clock=clock, boot=boot, most=most)) as journal:
            for n in range(600):
                clock.now += 1
                for device in ("slide", "flow"):
                    journal.append(sample(device, text=f"{n * 7919:x}" * 50, time=clock.now))
                if n % 20 == 0:
                    journal.tidy()
            times = [one["time"] for one in truth(journal, "slide", "flow").values()]
            assert sum(file.stat().st_size for file in files(path)) < 1.5 * most
            assert 500 < len(times) < 1200
            assert min(times) > clock.now - len(times) / 2


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
    path = tmp_path_factory.mktemp("holds") / "journal"
    clock = Clock(100.0)
    times: list[list[float]] = [[], []]
    for times_of_boot in times:
        with closing(Journal(path, clock=clock, boot=str(id(times_of_boot)))) as journal:
            for step in steps:
                clock.now += step
                journal.append(sample())
                journal.append(sample("flow"))
                times_of_boot.append(clock.now)
    for file in files(path):
        with closing(sqlite3.connect(file)) as db:
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
        "epochs": [{"epoch": journal.epoch, "first": 1, "last": 3, "count": 3}],
        "gone": [],
        "lost": [],
    }


@pytest.mark.parametrize(
    "query",
    [BETWEEN, BODIES, FIRST, LAST, NEXT_DEVICE],
)
def test_what_is_asked_often_looks_only_at_what_it_needs(journal: Journal, query: str) -> None:
    fill(journal, 3)
    with closing(sqlite3.connect(files(journal.path)[-1])) as db:
        named = dict.fromkeys(re.findall(r":(\w+)", query))
        values = named or (None,) * query.count("?")
        plan = db.execute(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
    assert not [step for *_, step in plan if step.startswith("SCAN sample")]


def test_the_wal_begins_anew_although_it_could_not_be_copied_at_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, 100)
    [file] = journal.path.parent.glob("*.sqlite")
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT 1 FROM sample").fetchone()
    fill(journal, 1)

    class Watched(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            cursor = super().execute(*args)
            if "wal_checkpoint" in args[0]:
                reader.close()
            return cursor

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
        journal.tidy()
    wal = file.with_name(f"{file.name}-wal")
    before = wal.stat().st_size
    fill(journal, 50)
    assert wal.stat().st_size == before


def test_an_almost_full_disk_is_told(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.tidy()
    assert journal.warning is None or "GB are free" in journal.warning
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 10**18)
    journal.tidy()
    assert journal.warning
    assert "make room" in journal.warning
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 0)
    journal.tidy()
    assert journal.warning is None


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


class FullDisk:
    """Makes writing to a journal fail as on a full disk, while ``full``; reading goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                disk.check(sql)
                return super().execute(sql, *arguments)

            def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
                disk.check(sql)
                return super().executemany(sql, rows)

            def executescript(self, sql: str, /) -> sqlite3.Cursor:
                disk.check(sql)
                return super().executescript(sql)

        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))

    def check(self, sql: str) -> None:
        if self.full and ("INSERT" in sql or "CREATE" in sql):
            raise sqlite3.OperationalError("database or disk is full")


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
    journal.close()


def test_notes_of_what_was_lost_survive_damage(path: Path, disk: FullDisk) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        begin, disk.full = clock.now, True
        lose(journal, clock, 4)
        disk.full = False
        fill(journal, 300)
    files(path)[-1].write_bytes(b"nothing of it is left")
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        journal.tidy()
        assert lost(journal) == [(begin + 2, begin + 8, 4)]


def test_a_notebook_is_written_in_place_and_proves_itself(path: Path) -> None:
    path.parent.mkdir()
    notebook = Notebook(path)
    assert notebook.read() is None
    notebook.write({"a": "long" * 100})
    there = path.stat()
    for content in ({"a": 1}, {}, {"b": [2, "é"]}):
        notebook.write(content)
        assert notebook.read() == content
    assert (path.stat().st_ino, path.stat().st_size) == (there.st_ino, there.st_size)
    assert there.st_size == there.st_blocks * 512 == SIZE
    notebook.write({"a": "x" * SIZE})
    notebook.close()
    notebook.write({"a": "y"})
    assert Notebook(path).read() == {"a": "y"}
    text = path.read_bytes()
    path.write_bytes(text.replace(b"y", b"z"))
    assert notebook.read() is None


def test_a_journal_is_closed_while_it_is_being_tidied(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path, clock=Clock())
    fill(journal, 3)
    begun, closed = threading.Event(), threading.Event()
    connect = Part.connect

    def wait(part: Part, **more: Any) -> sqlite3.Connection:
        begun.set()
        assert closed.wait(AT_MOST)
        return connect(part, **more)

    monkeypatch.setattr(Part, "connect", wait)
    tidying = threading.Thread(target=journal.tidy, daemon=True)
    tidying.start()
    assert begun.wait(AT_MOST)
    journal.close()
    closed.set()
    tidying.join(AT_MOST)
    assert not tidying.is_alive()
    assert caplog.text == ""
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        journal.append(sample())
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        journal.holds("slide")
    assert journal.tidy() == 0


NOON = Clock().now // DAY_S * DAY_S + DAY_S / 2


def test_each_night_has_a_file_and_an_epoch_goes_on_over_noon_and_restarts(path: Path) -> None:
    clock = Clock(NOON - 10)
    epochs: set[str] = set()
    for boot in ("one", "one", "two"):
        with closing(Journal(path, clock=clock, steady=clock, boot=boot)) as journal:
            first = 1 if boot == "two" else 1 + len(epochs) * 30
            for _ in range(3):
                fill(journal, 10)
                fill(journal, 1, "flow")
                clock.now += 10
            epochs.add(journal.epoch)
            assert seqs(journal, 0, 1000) == [*range(1, first + 30)]
            clock.now += DAY_S - 30
    assert len(epochs) == 2
    evening = (
        night_of(round(1000 * NOON - 1)),
        *(night_of(round(1000 * (NOON + n * DAY_S))) for n in range(3)),
    )
    nights = [evening[n] for n in (0, 1, 2, 2, 3)]
    assert [file.name for file in files(path)] == [
        f"journal.{number:06d}.{night}.sqlite" for number, night in enumerate(nights, 1)
    ]


def test_a_page_and_a_period_may_cross_noon(path: Path) -> None:
    clock = Clock(NOON - 10)
    with closing(Journal(path, clock=clock, steady=clock, boot="one")) as journal:
        for _ in range(20):
            clock.now += 1
            fill(journal, 10)
        assert len(files(path)) == 2
        for after, limit in ((0, 500), (85, 10), (89, 1), (90, 5), (95, 200)):
            expected = [*range(after + 1, min(after + limit, 200) + 1)]
            assert seqs(journal, after, limit) == expected
            page = read_page(journal.page("slide", after, limit))
            assert [*page] == expected
        records = journal.records("slide", 80, 110, journal.epoch)
        assert [seq for seq, _ in records] == [*range(80, 111)]
        assert [sample_of(text)["seq"] for _, text in records] == [*range(80, 111)]
        for start, end, first, last in (
            (-5, 5, 41, 140),
            (0, inf, 91, 200),
            (-inf, 0, 1, 90),
            (1, 2, 101, 110),
        ):
            held = journal.inventory(None, "", NOON + start, NOON + end)["held"]
            assert held == [["slide", journal.epoch, first, last]]


def test_pages_are_right_while_files_are_removed_and_begun(path: Path, scaled: Scaled) -> None:
    clock, nights = Clock(NOON), scaled(20, soak=60)
    with closing(Journal(path, clock=clock, steady=clock, boot="one", keep=5 * DAY_S)) as journal:
        done = threading.Event()
        faults: list[Exception] = []

        def read() -> None:
            try:
                while not done.is_set():
                    low = max((one["last"] for one in journal.holds("slide")["gone"]), default=0)
                    page = seqs(journal, low, 300)
                    assert page == list(range(page[0], page[0] + len(page)))
                    held = journal.inventory()["held"]
                    assert all(first <= last for *_, first, last in held)
                    journal.records("slide", low, low + 50, journal.epoch)
            except Exception as error:  # noqa: BLE001
                faults.append(error)

        fill(journal, 10)
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        dropped = 0
        for _ in range(nights):
            clock.now += DAY_S
            fill(journal, 100)
            dropped += journal.tidy()
        done.set()
        for reader in readers:
            reader.join(AT_MOST)
        assert faults == []
        assert gone(journal) == [(1, dropped, reason(5, 2))]
        assert seqs(journal) == [*range(dropped + 1, 100 * nights + 11)]
        assert len(files(path)) == 6


def test_at_noon_on_a_full_disk_the_journal_goes_on_in_the_old_file(
    path: Path, disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(NOON - 10)
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 3)
        clock.now += 20
        disk.full = True
        lose(journal, clock, 2)
        assert "goes on in journal.000001" in caplog.text
        disk.full = False
        assert fill(journal, 2) == [4, 5]
        assert len(files(path)) == len([*path.parent.glob("*.json")]) == 1
        clock.now += DAY_S
        assert fill(journal, 2) == [6, 7]
        assert len(files(path)) == 2
        assert seqs(journal) == [*range(1, 8)]


def test_what_a_killed_process_had_not_noted_is_counted(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 5)
        (notebook,) = path.parent.glob("*.json")
        before = notebook.read_bytes()
        fill(journal, 1)
        fill(journal, 1, "flow")
        epoch = journal.epoch
    notebook.write_bytes(before)
    with closing(Journal(path, boot="one")) as journal:
        assert journal.epoch == epoch
        assert (fill(journal, 1), fill(journal, 1, "flow")) == ([7], [2])


@pytest.mark.parametrize("boot", ["one", "two"])
def test_samples_that_a_power_failure_took_are_gone_and_their_numbers_are_not_used_again(
    path: Path, boot: str
) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 10)
        epoch = journal.epoch
    with closing(sqlite3.connect(files(path)[0])) as db:
        db.execute("DELETE FROM sample WHERE seq > 7")
        db.commit()
    with closing(Journal(path, boot=boot)) as journal:
        assert journal.epoch != epoch
        assert fill(journal, 1) == [1]
        assert seqs(journal, epoch=epoch) == [*range(1, 8)]
        assert gone(journal) == [(8, 10, f"{files(path)[0].name} is damaged")]
        assert len(truth(journal)) == 8


def test_without_its_notebook_a_file_is_still_read_but_its_epoch_does_not_go_on(
    path: Path,
) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 10)
        epoch = journal.epoch
    (notebook,) = path.parent.glob("*.json")
    notebook.unlink()
    for _ in range(2):
        with closing(Journal(path, boot="one")) as journal:
            assert journal.epoch != epoch
            assert seqs(journal, epoch=epoch) == [*range(1, 11)]
    assert len(files(path)) == 2


def test_a_file_that_somebody_removed_is_gone_and_a_new_epoch_begins(path: Path) -> None:
    with closing(Journal(path, boot="one")) as journal:
        fill(journal, 10)
        epoch = journal.epoch
        (file,) = files(path)
        file.unlink()
        journal.tidy()
        assert journal.epoch != epoch
        assert fill(journal, 1) == [1]
        assert seqs(journal, epoch=epoch) == []
        assert gone(journal) == [(1, 10, f"{file.name} is damaged")]
    with closing(Journal(path, boot="one")) as journal:
        assert gone(journal) == [(1, 10, reason(14, 2))]
