"""The journal: gapless numbers, bounds, and what survives a kill, a reboot and a damaged disk."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.journal import DAY, MOST_BYTES_A_REPLY, Journal

from .helpers import AT_MOST, Clock


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
    fill(journal, 5, text="x" * (MOST_BYTES_A_REPLY // 2 - 200))
    assert [seqs(journal), seqs(journal, 2), seqs(journal, 4)] == [[1, 2], [3, 4], [5]]
    fill(journal, 1, text="x" * (MOST_BYTES_A_REPLY + 1))
    assert seqs(journal, 5) == [6]


def test_a_sample_that_json_does_not_have_is_not_kept_and_takes_no_number(
    journal: Journal,
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        journal.append(sample(position=float("nan")))
    assert fill(journal, 1) == [1]


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


def test_what_is_too_old_is_dropped_but_no_number_is_used_twice(path: Path) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        fill(journal, 1000)
        clock.now += 15 * DAY
        assert journal.tidy() == 999
        assert seqs(journal) == [1000]
        fill(journal, 2)
        assert journal.tidy() == 1
        assert seqs(journal) == [1001, 1002]
        clock.now += 15 * DAY
        assert journal.tidy() == 1
    with closing(Journal(path, clock=clock, boot="one")) as journal:
        assert fill(journal, 1) == [1003]
    with closing(Journal(path, clock=clock, boot="two")) as journal:
        clock.now += 15 * DAY
        assert journal.tidy() == 2
        assert fill(journal, 1) == [1]


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
        kept = [one["seq"] for one in all_of(journal)]
        assert sum(dropped) > 0
        assert kept == list(range(kept[0], 3001))
        assert len(kept) < 3000
    assert path.stat().st_size < 2 * most


def all_of(journal: Journal) -> Iterator[dict[str, Any]]:
    after = 0
    while page := journal.samples("slide", after, 500):
        yield from page
        after = page[-1]["seq"]


def test_a_clock_that_was_put_back_does_not_hang_the_tidying(path: Path) -> None:
    clock = Clock()
    with closing(Journal(path, clock=clock, boot="one", most=0)) as journal:
        fill(journal, 3)
        clock.now -= DAY
        assert journal.tidy() == 0


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
