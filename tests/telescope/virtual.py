"""A telescope, a detector and an observer in virtual time, which passes when all of them wait."""

import asyncio
import math
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hcam_devices.errors import NotAllowedError, RefusedError
from hcam_devices.telescope.dithering import Dithering
from hcam_devices.telescope.frames import Progress

SQUARE = ([0.0, 5.0, 5.0, 0.0], [0.0, 0.0, 5.0, 5.0])
REQUEST, MOTION, SETTLE_WITHIN = 0.1, 1.0, 60.0
ANSWER, EXPOSURE, DISK, FRAME_WITHIN = 0.05, 2.0, 0.3, 30.0
CYCLE = REQUEST + MOTION + EXPOSURE + DISK


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in which nothing is waited for: its clock jumps to what comes next."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.SelectSelector()
        super().__init__(selector)
        really = selector.select

        def select(timeout: float | None = None) -> Any:
            if timeout is None:
                raise AssertionError("everybody waits for ever")
            self.now += timeout
            return really(0)

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now


def in_virtual_time(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario; when it ends no task may be left."""

    async def alone() -> Any:
        result = await scenario
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(alone())


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Interval:
    """Something from ``start`` to ``end``, at a place or by an offset."""

    start: float
    end: float
    ra: float
    dec: float
    by: str = "nod"

    def overlaps(self, other: "Interval") -> bool:
        return self.start < other.end - 1e-9 and other.start < self.end - 1e-9


@dataclass
class World:
    """What is true, with what shall fail: by the number of the nod, or of the trigger, from 0."""

    nods: dict[int, str] = field(default_factory=dict)
    triggers: dict[int, str] = field(default_factory=dict)
    run: int = 12
    frames: int = 0
    last: int = 10**6
    """After how many frames the run is over."""
    on_run_over: Callable[[], object] = lambda: None
    ra: float = 0.0
    dec: float = 0.0
    motions: list[Interval] = field(default_factory=list)
    exposures: list[Interval] = field(default_factory=list)
    guided: list[tuple[float, float]] = field(default_factory=list)
    requests: list[tuple[float, float]] = field(default_factory=list)
    """Every request of a nod, carried out or not."""
    triggered: int = 0
    unknown: bool = False
    carried_out: bool = False
    folder: bool = True
    """Whether the data folder can be read."""

    def __post_init__(self) -> None:
        self.lock = asyncio.Lock()
        self.changed = asyncio.Condition()
        self.tasks: set[asyncio.Task[None]] = set()
        self.state_changed = asyncio.Event()
        self.shown = Progress(self.run, self.frames)

    # --- the telescope ----------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self.lock:
            yield

    async def request(self, dra: float, ddec: float) -> None:
        fault = self.nods.get(len(self.requests), "")
        self.requests.append((dra, ddec))
        await self._request(dra, ddec, "nod", fault)

    async def _request(self, dra: float, ddec: float, by: str, fault: str = "") -> None:
        if self.unknown:
            self.requests.pop()
            raise NotAllowedError("the outcome of another offset is not known yet")
        await asyncio.sleep(REQUEST)
        if fault == "refused":
            raise RefusedError("the telescope refused it")
        if fault == "offline":
            raise ConnectionError("gtc is offline; nothing was sent")
        self.carried_out = fault != "unknown, not done"
        if self.carried_out:
            self.ra, self.dec = self.ra + dra, self.dec + ddec
            length = 2 * SETTLE_WITHIN if fault == "never in position" else MOTION
            self.motions.append(Interval(now(), now() + length, dra, ddec, by))
        if fault.startswith("unknown"):
            await asyncio.sleep(2.0)
            self.unknown = True
            raise TimeoutError("the telescope did not answer within 2 s")

    async def settle(self) -> None:
        wait = max(motion.end for motion in self.motions) - now()
        await asyncio.sleep(min(max(wait, 0.0), SETTLE_WITHIN))
        if wait > SETTLE_WITHIN:
            raise TimeoutError(f"not in position within {SETTLE_WITHIN:g} s")

    async def offset(self, dra: float, ddec: float, by: str = "observer") -> None:
        """Offset the telescope as an observer does."""
        async with self.turn():
            if self.unknown:
                raise NotAllowedError("the outcome of another offset is not known yet")
            await self._request(dra, ddec, by)
            await self.settle()

    # --- the detector -----------------------------------------------------------------------

    async def trigger(self) -> None:
        fault = self.triggers.get(self.triggered, "")
        self.triggered += 1
        if fault == "refused":
            raise RefusedError("no run is active")
        if fault == "nobody":
            raise ConnectionError("nobody offers ngc.trigger")
        if fault in ("", "answer lost"):
            self.expose()
        elif fault == "two frames":
            self.expose(2)
        if fault in ("answer lost", "lost"):
            await asyncio.sleep(10.0)
            raise TimeoutError("ngc did not answer within 10 s; it may have been carried out")
        await asyncio.sleep(ANSWER)

    def expose(self, count: int = 1) -> None:
        task = asyncio.create_task(self._expose(count))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _expose(self, count: int) -> None:
        self.exposures.append(Interval(now(), now() + EXPOSURE, self.ra, self.dec))
        await asyncio.sleep(EXPOSURE)
        self.frames += count
        await asyncio.sleep(DISK)
        await self.show(Progress(self.run, self.frames))
        if self.frames >= self.last:
            await asyncio.sleep(DISK)
            self.on_run_over()

    # --- the data folder --------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        return "" if self.folder else "the data folder cannot be read"

    async def show(self, seen: Progress) -> None:
        async with self.changed:
            self.shown = seen
            self.changed.notify_all()

    async def look(self) -> Progress | None:
        await asyncio.sleep(0.01)
        return self.shown if self.folder else None

    async def news(self, seen: Progress | None) -> Progress:
        async with self.changed:
            await self.changed.wait_for(lambda: self.folder and self.shown != seen)
            return self.shown

    # --- the rest ---------------------------------------------------------------------------

    async def guide(self, dra: float, ddec: float) -> None:
        self.guided.append((dra, ddec))

    def dither(
        self, ra: Iterable[float] = SQUARE[0], dec: Iterable[float] = SQUARE[1]
    ) -> Dithering:
        """Return what dithers this telescope, with a pattern loaded."""
        dither = Dithering(
            self,
            self.trigger,
            self,
            self.guide,
            limit=100.0,
            frame_within=lambda: FRAME_WITHIN,
            changed=self.state_changed.set,
            clock=now,
        )
        dither.load(list(ra), list(dec))
        return dither

    async def until(self, dither: Dithering, *states: str) -> None:
        """Wait for a state; its absence for an hour is a failure."""
        async with asyncio.timeout(3600):
            while dither.state not in states:
                self.state_changed.clear()
                await self.state_changed.wait()

    async def person(self, dither: Dithering) -> None:
        """Whenever dithering is paused, wait until all is quiet, look, say what is true, resume."""
        while True:
            await asyncio.sleep(1.0)
            if dither.state != "paused":
                continue
            await asyncio.sleep(SETTLE_WITHIN)
            self.acknowledge(dither)
            try:
                await dither.resume()
            except NotAllowedError:
                pass  # it ended before that
            except ValueError:
                await dither.resume(exposed=self.frames > max(dither.exposures, default=0))

    def acknowledge(self, dither: Dithering) -> None:
        """Say whether the offset of unknown outcome was carried out, if there is one."""
        if self.unknown:
            dither.acknowledge(moved=self.carried_out)
            self.unknown = False

    async def quiet(self) -> None:
        """Wait until the last exposure has ended."""
        while self.tasks:
            await asyncio.wait(self.tasks)

    def check(self, dither: Dithering, pattern: tuple[list[float], list[float]] = SQUARE) -> None:
        """Assert the conditions that hold after every run."""
        for exposure in self.exposures:
            for motion in self.motions:
                assert not exposure.overlaps(motion), (exposure, motion)
        for number, exposure in enumerate(self.exposures):
            shifts = [m for m in self.motions if m.by != "nod" and m.start < exposure.start]
            place = (
                exposure.ra - math.fsum(m.ra for m in shifts),
                exposure.dec - math.fsum(m.dec for m in shifts),
            )
            index = number % len(pattern[0])
            assert _near(place, (pattern[0][index], pattern[1][index])), (number, place)
            if number + 1 in dither.exposures:
                table = dither.exposures[number + 1]
                assert _near((table.ra, table.dec), place)
                assert table.in_position <= table.triggered <= exposure.start
        others = [m for m in self.motions if m.by != "nod"]
        assert _near(
            (self.ra, self.dec),
            (
                dither.total[0] + math.fsum(m.ra for m in others),
                dither.total[1] + math.fsum(m.dec for m in others),
            ),
        ), "an offset was doubled or lost"
        nods = [m for m in self.motions if m.by == "nod"]
        assert _near(dither.total, (math.fsum(m.ra for m in nods), math.fsum(m.dec for m in nods)))


def _near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return math.dist(one, other) < 1e-9
