"""The state chart of an axis, transition by transition, and the Axis that follows it."""

import re
from itertools import product

import pytest

from hcam_devices.core.axis import (
    ADVICE,
    CHART,
    COMMANDS,
    Axis,
    E,
    S,
)
from hcam_devices.errors import NotAllowedError

TOLERANCE = 0.1
STATES, EVENTS = list(S), list(E)


class Motor:
    """A drive that records its commands, or fails."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fails = False

    async def _tell(self, what: str) -> None:
        if self.fails:
            raise TimeoutError("no answer")
        self.told.append(what)

    async def drive_home(self, axis: Axis) -> None:
        await self._tell("home")

    async def drive_to(self, axis: Axis) -> None:
        await self._tell(f"to {axis.target}")

    async def drive_stop(self, axis: Axis) -> None:
        await self._tell("stop")


def axis_in(state: S = S.INIT, position: float | None = 0.0, target: float | None = 0.0) -> Axis:
    axis = Axis("stage", Motor(), readback="position", setpoint="target", tolerance=TOLERANCE)
    axis.state, axis.position, axis.target = state, position, target
    return axis


def told(axis: Axis) -> list[str]:
    assert isinstance(axis.drive, Motor)
    return axis.drive.told


def report(axis: Axis, position: float, what: str = "") -> None:
    axis.report(position, homed=what != "lost", homing=what == "homing", moving=what == "moving")


async def do(axis: Axis, event: E) -> None:
    if event is E.TARGET:
        axis.aim(5.0)
    else:
        await axis.commands()[event]()


def test_every_state_is_reached_from_the_first() -> None:
    reached = {S.DISABLED}
    while more := {after for state in reached for after in CHART[state].values()} - reached:
        reached |= more
    assert reached == set(S) == set(CHART)


@pytest.mark.parametrize("state", [S.DISABLED, S.INIT, S.HOMING])
def test_nothing_moves_and_nothing_is_aimed_before_homing(state: S) -> None:
    assert not CHART[state].keys() & {E.MOVE, E.TARGET}
    assert S.MOVING not in CHART[state].values()


@pytest.mark.parametrize("state", [s for s in STATES if s is not S.DISABLED])
def test_a_lost_home_and_disabling_are_followed_from_anywhere(state: S) -> None:
    assert CHART[state].get(E.LOST_HOME, state) is S.INIT
    assert CHART[state][E.DISABLE] is S.DISABLED


@pytest.mark.parametrize(("state", "event"), list(product(STATES, COMMANDS)))
async def test_a_command_follows_its_arrow_or_leaves_everything_as_it_was(
    state: S, event: E
) -> None:
    axis = axis_in(state, target=1.0)
    if event in CHART[state]:
        await do(axis, event)
        assert axis.state is CHART[state][event]
        return
    with pytest.raises(NotAllowedError) as refused:
        await do(axis, event)
    assert (axis.state, axis.target, told(axis)) == (state, 1.0, [])
    legal = re.search("it allows (.*)", str(refused.value))
    assert legal
    assert set(legal[1].split(", ")) == {e for e in COMMANDS if e in CHART[state]}
    assert axis.advice() in str(refused.value)


@pytest.mark.parametrize(("state", "event"), list(product(STATES, [E.HOME, E.MOVE, E.STOP])))
async def test_a_command_that_does_not_reach_the_hardware_changes_nothing(
    state: S, event: E
) -> None:
    axis = axis_in(state, target=1.0)
    assert isinstance(axis.drive, Motor)
    axis.drive.fails = True
    with pytest.raises((TimeoutError, NotAllowedError)):
        await do(axis, event)
    assert (axis.state, axis.target) == (state, 1.0)


@pytest.mark.parametrize(
    ("state", "position", "what", "after"),
    [
        (S.INIT, 0.0, "homing", S.HOMING),
        (S.INIT, 0.0, "lost", S.INIT),
        (S.INIT, 0.0, "", S.INPOS),
        (S.INIT, 3.0, "", S.OUTPOS),
        (S.INIT, 3.0, "moving", S.MOVING),
        (S.HOMING, 0.0, "homing", S.HOMING),
        (S.HOMING, 0.0, "", S.INPOS),
        (S.HOMING, 0.0, "lost", S.INIT),
        (S.INPOS, 0.0, "", S.INPOS),
        (S.INPOS, 3.0, "", S.OUTPOS),
        (S.INPOS, 3.0, "moving", S.MOVING),
        (S.OUTPOS, 0.0, "", S.INPOS),
        (S.OUTPOS, 3.0, "", S.OUTPOS),
        (S.OUTPOS, 3.0, "moving", S.MOVING),
        (S.MOVING, 3.0, "moving", S.MOVING),
        (S.MOVING, 0.05, "", S.INPOS),
        (S.MOVING, 3.0, "", S.OUTPOS),
        (S.STOPPED, 3.0, "", S.STOPPED),
        (S.STOPPED, 0.0, "", S.INPOS),
        (S.STOPPED, 3.0, "moving", S.MOVING),
        *((state, 0.0, "homing", S.HOMING) for state in STATES[3:]),
        *((state, 0.0, "lost", S.INIT) for state in STATES[3:]),
        *((S.DISABLED, 3.0, what, S.DISABLED) for what in ("", "moving", "homing", "lost")),
    ],
)
def test_the_state_follows_what_the_hardware_reports(
    state: S, position: float, what: str, after: S
) -> None:
    axis = axis_in(state)
    report(axis, position, what)
    assert (axis.state, axis.position) == (after, position)


def test_a_target_set_twice_keeps_the_last() -> None:
    axis = axis_in(S.INPOS)
    axis.aim(5.0)
    axis.aim(7.0)
    assert (axis.target, axis.state) == (7.0, S.OUTPOS)


async def test_a_target_set_during_a_motion_is_kept_and_is_no_fault_of_that_motion() -> None:
    axis = axis_in(S.INPOS)
    axis.aim(5.0)
    await axis.move()
    report(axis, 2.0, "moving")
    axis.aim(7.0)
    report(axis, 5.0)
    assert (axis.state, axis.target, axis.short) == (S.OUTPOS, 7.0, False)
    await axis.move()
    report(axis, 7.0)
    assert (axis.state, told(axis)) == (S.INPOS, ["to 5.0", "to 7.0"])


async def test_a_motion_that_ends_short_of_its_target_is_said_until_something_is_done() -> None:
    axis = axis_in(S.OUTPOS, target=5.0)
    await axis.move()
    for _ in range(3):
        report(axis, 2.0)
        assert axis.state is S.OUTPOS
        assert axis.advice() == "it stopped at 2, short of its target 5"
    axis.aim(2.0)
    report(axis, 2.0)
    assert (axis.state, axis.short) == (S.INPOS, False)


async def test_a_motion_stopped_by_command_is_not_short() -> None:
    axis = axis_in(S.OUTPOS, target=5.0)
    await axis.move()
    await axis.stop()
    report(axis, 2.0)
    assert (axis.state, axis.short, axis.target) == (S.STOPPED, False, 5.0)


async def test_an_axis_that_lost_its_home_says_to_home_it_and_not_that_it_was_short() -> None:
    axis = axis_in(S.OUTPOS, target=5.0)
    await axis.move()
    report(axis, 2.0)
    report(axis, 2.0, "lost")
    assert (axis.short, axis.advice()) == (False, ADVICE[S.INIT])


async def test_what_was_said_before_a_command_does_not_undo_it() -> None:
    axis = axis_in(S.OUTPOS, target=5.0)
    asked_at = axis.commands_given
    await axis.move()
    axis.report(0.0, homed=True, homing=False, moving=False, asked_at=asked_at)
    assert (axis.state, axis.short) == (S.MOVING, False)
    await axis.home()
    axis.report(0.0, homed=True, homing=False, moving=True, asked_at=asked_at)
    assert str(axis.state) == "homing"
    assert axis.target is None
    axis.report(0.0, homed=True, homing=False, moving=False, asked_at=axis.commands_given)
    assert axis.state is S.INPOS


async def test_the_target_after_homing_is_where_it_then_is() -> None:
    axis = axis_in(S.INPOS, position=3.0, target=3.0)
    await axis.home()
    report(axis, 1.0, "homing")
    assert axis.target is None
    report(axis, 0.0)
    assert vars(axis)["target"] == 0.0
    assert axis.state is S.INPOS


async def test_a_motion_met_on_connecting_has_no_target_until_it_has_ended() -> None:
    axis = axis_in(S.DISABLED, None, None)
    axis.connect()
    report(axis, 2.0, "moving")
    assert (axis.state, axis.target) == (S.MOVING, None)
    with pytest.raises(NotAllowedError, match="no target yet"):
        await axis.move()
    report(axis, 4.0)
    assert (axis.state, axis.target, axis.short) == (S.INPOS, 4.0, False)


async def test_a_disabled_axis_stays_so_until_enabled_also_when_the_link_comes_back() -> None:
    axis = axis_in(S.INPOS)
    await axis.disable()
    axis.lose()
    axis.connect()
    report(axis, 3.0)
    assert (axis.state, axis.position, axis.target) == (S.DISABLED, 3.0, None)
    await axis.enable()
    report(axis, 3.0)
    assert axis.state is S.INPOS


def test_a_lost_link_leaves_nothing_known() -> None:
    axis = axis_in(S.MOVING)
    axis.lose()
    assert (axis.state, axis.position, axis.target, axis.busy) == (S.DISABLED, None, None, False)
