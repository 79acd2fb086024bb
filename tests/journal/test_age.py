"""The age clock: a jump of the machine's clock does not advance it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal import DAY_S, Journal
from hcam_devices.journal.age import AgeClock
from hcam_devices.journal.points import Point, night_bounds

from ..helpers import Clock, records

KEEP = 14 * DAY_S
NOW = Clock().now


class Machine:
    """A machine whose clock may be wrong, and whose programs may be off."""

    def __init__(self) -> None:
        self.clock, self.steady = Clock(NOW), Clock(0.0)

    def run(self, seconds: float) -> None:
        self.clock.now += seconds
        self.steady.now += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def begin(machine: Machine, tmp_path: Path) -> Callable[..., AgeClock]:
    """Start a program."""

    def start(newest: float | None = None) -> AgeClock:
        path = tmp_path / "data.clock"
        return AgeClock(path, KEEP, machine.clock, machine.steady, lambda: newest)

    return start


def test_nothing_grows_old_by_a_start_with_a_clock_ahead_and_it_is_told(
    machine: Machine, begin: Callable[..., AgeClock], caplog: pytest.LogCaptureFixture
) -> None:
    begin()
    for _ in range(3):  # the second start is as doubtful as the first
        machine.clock.now += 60 * DAY_S
        ahead = begin()
        machine.run(100)
        assert ahead.now() < NOW + 1000
        assert "60 days after 20" in ahead.warning()
        assert "set it" in ahead.warning()
        machine.clock.now -= 60 * DAY_S
        again = begin()
        assert again.now() == machine.clock.now
        assert again.warning() == ""
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


def test_nor_by_a_clock_that_is_set_while_the_program_runs(
    machine: Machine, begin: Callable[..., AgeClock]
) -> None:
    age = begin()
    machine.clock.now += 60 * DAY_S
    machine.run(DAY_S)
    assert age.now() == NOW + DAY_S
    machine.clock.now -= 120 * DAY_S
    assert age.now() == machine.clock.now
    machine.clock.now += 60 * DAY_S
    assert age.now() == NOW + DAY_S


def test_a_night_off_is_believed_and_a_month_when_the_clock_has_stood_by_it(
    machine: Machine, begin: Callable[..., AgeClock]
) -> None:
    age = begin()
    for _ in range(30):
        machine.run(DAY_S / 2)
        age.now()
        machine.clock.now += DAY_S / 2
        age = begin()
    assert age.now() == machine.clock.now == NOW + 30 * DAY_S
    machine.clock.now += 30 * DAY_S
    age = begin()
    for _ in range(27):
        machine.run(DAY_S / 2)
        assert age.now() == machine.clock.now - 30 * DAY_S
    age = begin()  # a start does not begin the wait again
    machine.run(DAY_S)
    assert age.now() == machine.clock.now
    assert age.warning() == ""


def test_without_a_file_the_newest_of_the_data_counts(
    machine: Machine, begin: Callable[..., AgeClock]
) -> None:
    assert begin(NOW - 60 * DAY_S).now() == NOW - 60 * DAY_S
    assert begin().path.exists()
    begin().path.write_text('{"time": "noon"')
    assert begin(NOW - DAY_S).now() == NOW


def test_a_journal_keeps_everything_when_it_starts_with_a_clock_ahead(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "hwserver"

    def opened(boot: str) -> Journal:
        return Journal(path, clock=machine.clock, steady=machine.steady, boot=boot)

    with closing(opened("one")) as journal:
        journal.append({"device": "slide"})
    (tmp_path / "hwserver.clock").unlink()  # an earlier version did not write the file
    machine.clock.now += 60 * DAY_S
    for boot in ("two", "three"):  # the second time, there are samples with the wrong time
        with closing(opened(boot)) as journal:
            journal.append({"device": "slide"})
            assert journal.tidy() == 0
            assert "days after" in (journal.warning or "")
    machine.clock.now -= 60 * DAY_S
    machine.run(DAY_S)
    with closing(opened("four")) as journal:
        assert journal.tidy() == 0
        assert "days after" not in (journal.warning or "")
        assert len(journal.holds("slide")["epochs"]) == 3


def test_what_was_appended_by_a_clock_of_1970_is_as_young_as_what_came_before(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "hwserver"
    for boot, now in (("one", NOW), ("two", 1000.0), ("three", NOW + DAY_S)):
        machine.clock.now = now
        opened = Journal(path, clock=machine.clock, steady=machine.steady, boot=boot)
        with closing(opened) as journal:
            journal.append({"device": "slide"})
            assert journal.tidy() == 0
            machine.run(60)


def test_a_store_keeps_its_nights_when_it_starts_with_a_clock_ahead(
    machine: Machine, tmp_path: Path
) -> None:
    night = "2026-11-22"
    begin, end = night_bounds(night)

    def opened() -> EmbeddedStore:
        return EmbeddedStore(
            "local", tmp_path, keep_days=30, clock=machine.clock, steady=machine.steady
        )

    machine.clock.now = end / 1000
    with closing(opened()) as store:
        store.write(records([Point("ccd1", "a", 1, begin, {"x": 1.0}, {})]))
    (tmp_path / "nights.clock").unlink()
    machine.clock.now += 60 * DAY_S
    for seq in (2, 3):
        with closing(opened()) as store:
            store.write(
                records([Point("ccd1", "a", seq, int(machine.clock.now * 1000), {"x": 1.0}, {})])
            )
            assert store.close_nights() == []
            store.tidy()
            assert "60 days after" in store.warning
    assert night in NightFiles(tmp_path).nights()
    with closing(opened()) as store:
        for _ in range(31):
            machine.run(DAY_S)
            store.tidy()
        assert store.warning == ""
    assert night not in NightFiles(tmp_path).nights()
