"""Steps of the clock, and folders that are moved, are reported once."""

from pathlib import Path

import pytest

from hcam_devices.host.surroundings import Surroundings

from ..helpers import Clock


class Moment:
    """A machine whose clock can be set."""

    def __init__(self, *folders: Path) -> None:
        self.wall, self.steady = Clock(), Clock(5000.0)
        self.surroundings = Surroundings(*folders, wall=self.wall, steady=self.steady)

    def look(self, seconds: float = 10.0) -> list[str]:
        self.wall.now += seconds
        self.steady.now += seconds
        return self.surroundings.look()


@pytest.mark.parametrize(("step", "way"), [(3600.0, "forward"), (-2.5, "back")])
def test_a_step_of_the_clock_is_told_once(step: float, way: str) -> None:
    machine = Moment()
    assert machine.look() == []
    machine.wall.now += step
    [said] = machine.look()
    assert f"set {way} by {abs(step):.1f} s" in said
    assert machine.look() == []


def test_a_clock_that_is_disciplined_is_not_told() -> None:
    machine = Moment()
    for _ in range(1000):
        machine.wall.now += 0.005
        assert machine.look() == []


def test_a_process_that_was_stopped_while_it_looked_tells_no_step() -> None:
    machine = Moment()
    machine.look()
    wall = machine.wall

    def stopped() -> float:
        machine.steady.now += 60
        wall.now += 60
        return wall.now

    machine.surroundings.wall = stopped
    assert machine.look() == []
    machine.surroundings.wall = wall
    assert machine.look() == []


def test_a_folder_that_is_moved_is_told_once_and_when_it_is_back(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    (home / "log").mkdir(parents=True)
    machine = Moment(home, home / "log")
    assert machine.look() == []
    home.rename(away)
    [said] = machine.look()
    assert str(home) in said
    assert "renamed, removed or replaced" in said
    home.mkdir()
    assert machine.look() == [], "another folder of that name is not the one"
    home.rmdir()
    away.rename(home)
    [said] = machine.look()
    assert "again" in said
    assert machine.look() == []
