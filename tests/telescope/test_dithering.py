import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hcam_devices.errors import NotAllowedError
from hcam_devices.telescope.dithering import Dithering
from hcam_devices.telescope.frames import Frames, Progress

from ..helpers import AT_MOST
from .test_frames import FRAME, HEADER
from .virtual import CYCLE, DISK, EXPOSURE, FRAME_WITHIN, SQUARE, World, in_virtual_time, now

Action = Callable[[World, Dithering], Awaitable[object]]

EXAMPLE = [(0, 0), (5, 0), (0, 5), (-5, 0), (0, -5), (5, 0)]


def reasons(dither: Dithering) -> str:
    return "; ".join(notice.reason for notice in dither.notices())


async def dithered(
    world: World, frames: int, *, at: float | None = None, action: Action | None = None
) -> Dithering:
    """Dither a run of some frames, in which a person answers every pause; act once meanwhile."""
    dither = world.dither()
    world.last, world.on_run_over = frames, dither.run_ended
    person = asyncio.create_task(world.person(dither))
    dither.start()
    if action:
        assert at is not None
        await asyncio.sleep(at)
        await action(world, dither)
    await world.until(dither, "disabled")
    person.cancel()
    await asyncio.wait([person])
    await world.quiet()
    world.acknowledge(dither)
    world.check(dither)
    return dither


def grid(until: float, step: float = 0.05) -> list[float]:
    return [n * step for n in range(round(until / step))]


# --- what it does ---------------------------------------------------------------------------


def test_each_frame_is_exposed_at_its_place_of_the_pattern() -> None:
    async def scenario() -> None:
        world = World()
        dither = await dithered(world, 6)
        assert world.requests[:6] == EXAMPLE
        assert [(e.ra, e.dec) for e in world.exposures] == [
            (0, 0),
            (5, 0),
            (5, 5),
            (0, 5),
            (0, 0),
            (5, 0),
        ]
        assert world.guided == world.requests
        assert list(dither.exposures) == [1, 2, 3, 4, 5, 6]
        assert [*dither.notices()] == []

    in_virtual_time(scenario())


def test_a_pattern_may_begin_away_from_the_start() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither([3.0], [-4.0])
        dither.start()
        await asyncio.sleep(2.5 * CYCLE)
        await dither.stop()
        await world.quiet()
        world.check(dither, ([3.0], [-4.0]))
        assert world.requests == [(3, -4), (0, 0), (0, 0)]

    in_virtual_time(scenario())


def test_its_state_is_shown_at_each_change() -> None:
    async def scenario() -> None:
        world = World(triggers={1: "refused"})
        dither = world.dither()
        shown = [dither.state]

        def changed() -> None:
            shown.append(dither.state)
            world.state_changed.set()

        dither._changed = changed
        dither.start()
        await world.until(dither, "paused")
        await dither.resume()
        await world.until(dither, "idle")
        await world.until(dither, "waiting")
        await dither.stop()
        await world.quiet()
        cycle = ["idle", "nodding", "idle", "waiting"]
        assert shown == [
            *["disabled", *cycle],
            *["nodding", "idle", "waiting", "paused"],
            *[*cycle, "disabled"],
        ]

    in_virtual_time(scenario())


def test_a_run_of_twenty_frames_in_a_real_folder(tmp_path: Path) -> None:
    async def scenario() -> tuple[World, Dithering, str]:
        world = World()
        path = tmp_path / "run0013.fits"
        (tmp_path / "run0012.fits").write_bytes(HEADER + bytes(7 * FRAME))
        exposed = []

        async def trigger() -> None:
            exposed.append((world.ra, world.dec))
            if not path.exists():
                path.write_bytes(HEADER)
            for size in (1, FRAME - 1):
                with path.open("ab") as file:
                    file.write(bytes(size))

        async def request(dra: float, ddec: float) -> None:
            world.ra, world.dec = world.ra + dra, world.dec + ddec

        async def settle() -> None:
            pass

        world.request, world.settle = request, settle  # type: ignore[method-assign]
        dither = Dithering(
            world,
            trigger,
            Frames(tmp_path, sleep=lambda _seconds: asyncio.sleep(0)),
            world.guide,
            limit=10.0,
            frame_within=lambda: AT_MOST,
        )
        dither.load(*SQUARE)
        dither.start(run=13)
        async with asyncio.timeout(AT_MOST):
            while len(dither.exposures) < 20:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await dither.stop()
        assert exposed[:20] == list(zip(*SQUARE, strict=True)) * 5
        assert [(e.ra, e.dec) for e in list(dither.exposures.values())[:20]] == exposed[:20]
        return world, dither, await dither.as_ecsv()

    asyncio.run(scenario())


def test_frames_written_while_nothing_is_dithered_change_nothing() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()
        for _ in range(3):
            world.expose()
            await world.quiet()
            dither.frame_written()
        assert (world.requests, dither.total, dither.state) == ([], (0, 0), "disabled")
        dither.start()
        await asyncio.sleep(6 * CYCLE)
        await dither.stop()
        await world.quiet()
        assert world.requests[:6] == EXAMPLE
        assert list(dither.exposures)[:2] == [4, 5]

    in_virtual_time(scenario())


# --- whatever happens, and whenever ---------------------------------------------------------


async def _offset(world: World, dither: Dithering) -> None:
    await world.offset(7.0, -3.0)


async def _guide_step(world: World, dither: Dithering) -> None:
    await world.offset(0.25, 0.5, by="guide step")


async def _written_already(world: World, dither: Dithering) -> None:
    if dither.state != "waiting" or world.frames == len(world.exposures):
        dither.frame_written()  # not idle while exposing


async def _start_again(world: World, dither: Dithering) -> None:
    with pytest.raises(NotAllowedError, match="already"):
        dither.start()


async def _load(world: World, dither: Dithering) -> None:
    with pytest.raises(NotAllowedError, match="in use"):
        dither.load([1.0], [1.0])


@pytest.mark.parametrize("action", [_offset, _guide_step, _written_already, _start_again, _load])
def test_whatever_is_asked_meanwhile_takes_its_turn(action: Action) -> None:
    async def scenario(at: float) -> None:
        world = World()
        dither = await dithered(world, 5, at=at, action=action)
        assert len(world.exposures) == 5
        assert dither.reason == ""
        assert len(world.requests) in (5, 6)
        if action is _offset:
            assert [m.by for m in world.motions].count("observer") == 1

    for at in grid(2 * CYCLE):
        in_virtual_time(scenario(at))


def test_two_observers_at_once_take_turns() -> None:
    async def scenario(at: float) -> None:
        async def both(world: World, dither: Dithering) -> None:
            await asyncio.gather(
                world.offset(1.0, 2.0), world.offset(3.0, 4.0), world.offset(0.1, 0.0, "guide step")
            )

        world = World()
        await dithered(world, 5, at=at, action=both)
        assert len(world.exposures) == 5

    for at in grid(CYCLE, 0.2):
        in_virtual_time(scenario(at))


def test_it_stops_at_any_time_but_never_in_mid_motion() -> None:
    async def scenario(at: float) -> None:
        async def stop(world: World, dither: Dithering) -> None:
            before, moving = now(), dither.state == "nodding"
            await dither.stop()
            assert dither.state == "disabled"
            if not moving:
                assert now() == before
            assert all(motion.end <= now() + 1e-9 for motion in world.motions)
            requests = len(world.requests)
            await dither.stop()
            await asyncio.sleep(3 * CYCLE)
            assert len(world.requests) == requests

        await dithered(World(), 10**6, at=at, action=stop)

    for at in grid(2 * CYCLE):
        in_virtual_time(scenario(at))


def test_a_stop_while_an_observer_moves_the_telescope_makes_no_further_nod() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()
        async with world.turn():
            dither.start()
            await asyncio.sleep(1.0)
            await dither.stop()
        assert world.requests == []

    in_virtual_time(scenario())


def test_it_can_be_started_again_at_once_from_the_beginning() -> None:
    async def scenario(at: float) -> None:
        world = World()
        dither = world.dither()
        dither.start()
        await asyncio.sleep(at)
        await dither.stop()
        await world.quiet()
        nods, begun = len(world.requests), len(world.exposures)
        dither.start()
        await asyncio.sleep(6 * CYCLE)
        await dither.stop()
        await world.quiet()
        assert world.requests[nods : nods + 6] == EXAMPLE
        exposed = world.exposures[begun:]
        origin = (exposed[0].ra, exposed[0].dec)
        places = [(e.ra - origin[0], e.dec - origin[1]) for e in exposed[:4]]
        assert places == [(0, 0), (5, 0), (5, 5), (0, 5)]
        assert min(dither.exposures) == begun + 1
        assert dither.exposures[begun + 1].ra == 0

    for at in grid(3 * CYCLE, 0.3):
        in_virtual_time(scenario(at))


NODS = ["refused", "offline", "unknown, done", "unknown, not done", "never in position"]
TRIGGERS = ["refused", "nobody", "answer lost", "lost", "silent"]


@pytest.mark.parametrize("fault", NODS)
@pytest.mark.parametrize("step", range(4))
def test_a_nod_that_fails_pauses_it_and_no_frame_is_lost(fault: str, step: int) -> None:
    async def scenario() -> None:
        world = World(nods={step: fault})
        dither = await dithered(world, 6)
        assert len(world.exposures) == 6
        again = [] if fault in ("unknown, done", "never in position") else [EXAMPLE[step]]
        rest = EXAMPLE[step + 1 :]
        expected = [*EXAMPLE[: step + 1], *(again or [(0, 0)]), *rest]
        assert world.requests[:7] == expected[:7]
        assert math.dist(dither.total, (5, 0)) in (0, 5)
        assert sum(x for x, _ in world.guided) == dither.total[0]
        assert sum(y for _, y in world.guided) == dither.total[1]

    in_virtual_time(scenario())


@pytest.mark.parametrize("fault", TRIGGERS)
@pytest.mark.parametrize("step", range(3))
def test_a_trigger_that_fails_pauses_it_and_is_never_sent_twice_for_a_frame(
    fault: str, step: int
) -> None:
    async def scenario() -> None:
        world = World(triggers={step: fault})
        dither = await dithered(world, 6)
        retried = fault in ("refused", "nobody", "lost", "silent")
        assert (len(world.exposures), world.triggered) == (6, 6 + retried)
        assert list(dither.exposures) == [1, 2, 3, 4, 5, 6]

    in_virtual_time(scenario())


times = st.floats(0.0, 4 * CYCLE)


@settings(max_examples=2 * settings().max_examples)
@given(
    st.dictionaries(st.integers(0, 8), st.sampled_from(NODS), max_size=4),
    st.dictionaries(st.integers(0, 8), st.sampled_from(TRIGGERS), max_size=4),
    st.lists(st.tuples(times, st.sampled_from([(7.0, -3.0), (0.25, 0.0)])), max_size=4),
    st.one_of(st.none(), times.map(lambda at: 10 * at)),
)
@example({1: "unknown, done", 2: "unknown, not done"}, {1: "lost"}, [(0.0, (7.0, -3.0))], None)
def test_no_offset_is_doubled_or_lost_and_no_exposure_is_moved(
    nods: dict[int, str],
    triggers: dict[int, str],
    offsets: list[tuple[float, tuple[float, float]]],
    stopped_at: float | None,
) -> None:
    async def observer(world: World, at: float, offset: tuple[float, float]) -> None:
        await asyncio.sleep(at)
        while True:
            try:
                return await world.offset(*offset)
            except NotAllowedError:
                await asyncio.sleep(1.0)

    async def scenario() -> None:
        world = World(nods=nods, triggers=triggers)
        observers = [asyncio.create_task(observer(world, *one)) for one in offsets]

        async def stop(world: World, dither: Dithering) -> None:
            for exposure in world.exposures:  # an exposure under way is up to the observer
                exposure.end = min(exposure.end, now())
            await dither.stop()

        action = None if stopped_at is None else stop
        dither = await dithered(world, 6, at=stopped_at, action=action)
        for one in observers:
            await one
        world.check(dither)
        if stopped_at is None:
            assert len(world.exposures) == 6
            # The end of the run may come before the answer to its last trigger.
            assert {1, 2, 3, 4, 5} <= set(dither.exposures) <= {1, 2, 3, 4, 5, 6}

    in_virtual_time(scenario())


# --- what an observer is told, and has to say -----------------------------------------------


async def paused(world: World, dither: Dithering, **start: Any) -> str:
    dither.start(**start)
    await world.until(dither, "paused")
    await world.quiet()
    (notice,) = dither.notices()
    assert (notice.field, notice.severity) == ("dither", "ERR")
    return notice.reason


def test_a_refused_nod_is_told_and_nothing_is_triggered_or_counted() -> None:
    async def scenario() -> None:
        world = World(nods={1: "refused"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert "(5, 0) arcsec was not made: the telescope refused it" in reason
        await asyncio.sleep(1000)
        assert (world.triggered, dither.total, world.guided) == (1, (0, 0), [(0, 0)])
        with pytest.raises(ValueError, match="no frame is in doubt"):
            await dither.resume(exposed=True)
        await dither.resume()
        await world.until(dither, "waiting")
        assert world.requests == [(0, 0), (5, 0), (5, 0)]
        assert [*dither.notices()] == []
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())


@pytest.mark.parametrize("moved", [True, False])
def test_an_unknown_nod_is_not_sent_again_until_somebody_has_looked(moved: bool) -> None:
    async def scenario() -> None:
        world = World(nods={1: "unknown, done" if moved else "unknown, not done"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert "unknown whether the offset by (5, 0) arcsec was carried out" in reason
        assert "did not answer within 2 s" in reason
        await asyncio.sleep(1000)
        with pytest.raises(NotAllowedError, match="acknowledge"):
            await dither.resume()
        assert (world.triggered, len(world.requests)) == (1, 2)
        world.unknown = False
        dither.acknowledge(moved=moved)
        dither.acknowledge(moved=moved)
        assert list(dither.total) == [5 * moved, 0]
        assert (
            reasons(dither) == f"the step counts as {'' if moved else 'not '}made: resume, or stop"
        )
        await dither.resume()
        await world.until(dither, "waiting")
        assert list(world.requests[2]) == [0 if moved else 5, 0]
        assert world.guided[1:] == [(5, 0)]
        await dither.stop()
        await world.quiet()
        world.check(dither)

    in_virtual_time(scenario())


def test_a_telescope_that_never_is_in_position_is_told_and_not_exposed() -> None:
    async def scenario() -> None:
        world = World(nods={1: "never in position"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert "accepted, but the telescope is not in position: not in position within" in reason
        assert (world.triggered, dither.total) == (1, (5, 0))
        await dither.resume()
        await world.until(dither, "waiting")
        assert world.requests == [(0, 0), (5, 0), (0, 0)]
        await dither.stop()
        await world.quiet()
        world.check(dither)

    in_virtual_time(scenario())


def test_a_frame_that_is_not_written_is_told_and_triggered_again_only_if_somebody_says_so() -> None:
    async def scenario() -> None:
        world = World(triggers={1: "silent"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert f"frame 2 was not written within {FRAME_WITHIN:g} s" in reason
        with pytest.raises(ValueError, match=r"frame 2 is not in .*exposed=False"):
            await dither.resume()
        assert dither.state == "paused"
        await dither.resume(exposed=False)
        await world.until(dither, "waiting")
        assert (world.triggered, world.ra) == (3, 5)
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())


def test_a_frame_that_is_late_needs_no_answer() -> None:
    async def scenario() -> None:
        world = World(triggers={1: "silent"})
        dither = world.dither()
        await paused(world, dither)
        world.expose()
        await world.quiet()
        await dither.resume()
        await world.until(dither, "waiting")
        assert (world.triggered, list(dither.exposures)) == (3, [1, 2])
        await dither.stop()
        await world.quiet()
        world.check(dither)

    in_virtual_time(scenario())


@pytest.mark.parametrize("run", [None, 13])
def test_the_first_frame_may_come_late_with_its_whole_file(run: int | None) -> None:
    async def scenario() -> None:
        world = World(run=12, frames=40, triggers={0: "silent"})
        dither = world.dither()
        await dither.track_new_run()
        await paused(world, dither, run=run)
        await world.show(Progress(13, 1))
        await dither.resume()
        await world.until(dither, "nodding")
        assert list(dither.exposures) == [1]
        await dither.stop()

    in_virtual_time(scenario())


def test_two_resumes_at_once_are_one() -> None:
    async def scenario() -> None:
        world = World(triggers={0: "silent"})
        dither = world.dither()
        await paused(world, dither)
        answers = await asyncio.gather(
            dither.resume(exposed=False), dither.resume(exposed=True), return_exceptions=True
        )
        assert answers[0] is None
        assert isinstance(answers[1], NotAllowedError)
        assert dither.exposures == {}
        await dither.stop()

    in_virtual_time(scenario())


def test_a_lost_answer_to_a_trigger_does_not_matter_if_the_frame_comes() -> None:
    async def scenario() -> None:
        world = World(triggers={0: "answer lost", 1: "lost"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert list(dither.exposures) == [1]
        assert "the trigger was not answered (ngc did not answer within 10 s" in reason
        assert "frame 2 was not written" in reason
        assert world.triggered == 2
        await dither.stop()
        assert [*dither.notices()] == []

    in_virtual_time(scenario())


def test_frames_that_were_not_triggered_are_noticed() -> None:
    async def scenario() -> None:
        world = World(triggers={1: "two frames"})
        dither = world.dither()
        reason = await paused(world, dither)
        assert "1 more frames were written than were triggered here" in reason
        assert list(dither.exposures) == [1, 2]
        await dither.resume()
        await world.until(dither, "waiting")
        await world.quiet()
        await world.until(dither, "nodding")
        assert list(dither.exposures) == [1, 2, 4]  # nobody triggered frame 3 of the file
        await dither.stop()

    in_virtual_time(scenario())


def test_a_stop_in_a_pause_leaves_nothing_to_say_but_the_end_of_the_run_does() -> None:
    async def scenario(end: Callable[[Dithering], Awaitable[object]], left: bool) -> None:
        world = World(nods={0: "refused"})
        dither = world.dither()
        await paused(world, dither)
        await end(dither)
        await world.until(dither, "disabled")
        assert any(dither.notices()) == left
        dither.start()
        assert [*dither.notices()] == []
        await dither.close()
        await dither.stop()

    async def run_ended(dither: Dithering) -> None:
        dither.run_ended()

    in_virtual_time(scenario(Dithering.stop, left=False))
    in_virtual_time(scenario(run_ended, left=True))


def test_a_stop_during_a_nod_that_fails_still_tells_of_it() -> None:
    async def scenario() -> None:
        world = World(nods={0: "unknown, done"})
        dither = world.dither()
        dither.start()
        await world.until(dither, "nodding")
        await dither.stop()
        assert "unknown whether" in reasons(dither)
        assert len(world.requests) == 1
        world.acknowledge(dither)
        assert [*dither.notices()] == []
        world.check(dither)

    in_virtual_time(scenario())


def test_a_run_goes_on_although_the_autoguider_cannot_be_told() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()

        async def absent(dra: float, ddec: float) -> None:
            raise ConnectionError("nobody offers autoguider.add_relative_dither")

        dither._guide = absent
        dither.start()
        await asyncio.sleep(2 * CYCLE)
        assert dither.state == "waiting"
        assert world.triggered == 2
        await dither.stop()
        await world.quiet()
        world.check(dither)

    in_virtual_time(scenario())


def test_a_slow_autoguider_does_not_delay_a_motion_but_an_exposure_waits_for_it() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()

        async def slow(dra: float, ddec: float) -> None:
            await asyncio.sleep(0.5)

        dither._guide = slow
        dither.start()
        await world.until(dither, "waiting")
        assert now() < CYCLE - EXPOSURE - DISK + 0.1
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())


def test_a_fault_of_ours_ends_it_and_is_told() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()

        async def broken() -> None:
            raise KeyError("bug")

        dither._trigger = broken
        dither.start()
        await world.until(dither, "disabled")
        assert "ended after a fault: KeyError('bug')" in reasons(dither)
        assert not world.lock.locked()

    in_virtual_time(scenario())


def test_the_server_may_go_in_mid_motion() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()
        await dither.close()
        dither.start()
        await world.until(dither, "nodding")
        await dither.close()
        assert dither.state == "disabled"

    in_virtual_time(scenario())


# --- frames of the right run ----------------------------------------------------------------


def test_the_frames_of_an_older_run_do_not_count() -> None:
    async def scenario(**start: Any) -> None:
        world = World(run=12, frames=40)
        dither = world.dither()
        if not start:
            await dither.track_new_run()
        dither.start(**start)
        await world.until(dither, "waiting")
        await world.show(Progress(12, 41))  # seen late
        await asyncio.sleep(1.0)
        assert dither.state == "waiting"
        world.run = 13
        await world.show(Progress(13, 0))
        await asyncio.sleep(0.1)
        assert dither.state == "waiting"
        await world.show(Progress(13, 1))
        await world.until(dither, "nodding")
        assert list(dither.exposures) == [1]
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())
    in_virtual_time(scenario(run=13))


def test_a_run_whose_file_is_there_already_is_dithered_from_its_next_frame() -> None:
    async def scenario() -> None:
        world = World(run=12, frames=3)
        dither = world.dither()
        dither.start(run=12)
        await asyncio.sleep(1.5 * CYCLE)
        assert list(dither.exposures) == [4]
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())


def test_tracking_a_run_that_has_begun_but_has_no_frame_yet_keeps_it() -> None:
    async def scenario() -> None:
        world = World(run=12)
        dither = world.dither()
        await dither.track_new_run()
        dither.start()
        await asyncio.sleep(1.5 * CYCLE)
        assert list(dither.exposures) == [1]
        await dither.stop()
        await world.quiet()

    in_virtual_time(scenario())


def test_a_new_run_ends_the_dithering_of_the_one_before() -> None:
    async def scenario() -> None:
        world = World()
        dither = world.dither()
        dither.start()
        await asyncio.sleep(1.5 * CYCLE)
        await world.show(Progress(13, 0))
        await world.until(dither, "disabled")
        assert [*dither.notices()] == []
        await world.quiet()

    in_virtual_time(scenario())


def test_a_frame_may_be_told_from_elsewhere_when_the_folder_cannot_be_read() -> None:
    async def scenario() -> None:
        world = World(folder=False)
        dither = world.dither()
        dither.frame_written()
        dither.start()
        for number in (1, 2, 3):
            await world.until(dither, "waiting")
            assert "the data folder cannot be read" in reasons(dither)
            await asyncio.sleep(EXPOSURE + 1)
            dither.frame_written()
            dither.frame_written()
            await world.until(dither, "nodding")
            dither.frame_written()  # nothing is awaited
            assert max(dither.exposures) == number
        await dither.stop()
        world.check(dither)

    in_virtual_time(scenario())


def test_what_a_folder_had_when_it_could_not_be_read_is_not_the_frame() -> None:
    async def scenario() -> None:
        world = World(triggers={0: "silent"}, folder=False)
        dither = world.dither()
        dither.start()
        await world.until(dither, "waiting")
        world.folder = True
        await world.show(Progress(12, 30))
        await asyncio.sleep(1.0)
        assert dither.state == "waiting"
        await world.show(Progress(12, 31))
        await world.until(dither, "nodding")
        assert list(dither.exposures) == [31]
        await dither.stop()

    in_virtual_time(scenario())


# --- the pattern, and the table -------------------------------------------------------------


@pytest.mark.parametrize(
    ("ra", "dec", "why"),
    [
        ([], [], "at least one, not 0"),
        ([1.0], [], "as many offsets in RA as in Dec, and at least one, not 1 and 0"),
        ([1.0, math.nan], [0.0, 0.0], "nan"),
        ([1.0], [math.inf], "inf"),
        ([0.0, 100.1], [0.0, 0.0], "100.1 arcsec, which is not within -100 to 100"),
        ([60.0, -60.0], [0.0, 0.0], "step of -120"),
    ],
)
def test_a_pattern_that_cannot_be_dithered_is_refused_and_the_old_one_stays(
    ra: list[float], dec: list[float], why: str
) -> None:
    dither = World().dither()
    dither.pattern.clear()
    with pytest.raises(NotAllowedError, match="no dither pattern"):
        dither.start()
    dither.load(*SQUARE)
    with pytest.raises(ValueError, match=why):
        dither.load(ra, dec)
    assert dither.pattern == [(0, 0), (5, 0), (5, 5), (0, 5)]


def test_the_nod_table_has_a_row_for_each_frame_of_the_file(tmp_path: Path) -> None:
    world = World(run=12, frames=1)
    dither = world.dither()

    async def scenario() -> None:
        dither._clock = lambda: 1_800_000_000.0 + now()
        dither.start(run=12)
        await asyncio.sleep(2.5 * CYCLE)
        assert dither.state == "waiting"
        await dither.stop()  # during an exposure: its frame is written nevertheless
        await world.quiet()

    in_virtual_time(scenario())
    assert (world.frames, list(dither.exposures)) == (4, [2, 3])
    text = asyncio.run(dither.as_ecsv())
    table = Table.read(text, format="ascii.ecsv")
    assert table["FRAME"].tolist() == [1, 2, 3, 4]
    assert str(table["RAOFF"].unit) == str(table["DECOFF"].unit) == "arcsec"
    assert math.isnan(table["RAOFF"][0])
    assert table["RAOFF"].tolist()[1:] == [0, 5, 5]
    assert table["DECOFF"].tolist()[1:] == [0, 0, 5]
    assert table["TRIGGER"][1].startswith("2027-01-15T08:00:01")
    assert table["INPOS"][1] <= table["TRIGGER"][1] < table["INPOS"][2]
    fits.BinTableHDU(table).writeto(tmp_path / "nods.fits")
    with fits.open(tmp_path / "nods.fits") as file:
        assert file[1].data["DECOFF"].tolist()[1:] == [0, 0, 5]


def test_a_table_without_frames_is_a_table() -> None:
    world = World()
    table = Table.read(asyncio.run(world.dither().as_ecsv()), format="ascii.ecsv")
    assert len(table) == 0
    assert table.colnames == ["RAOFF", "DECOFF", "FRAME", "TRIGGER", "INPOS"]
