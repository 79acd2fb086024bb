"""Dithering: an exposure at each position of a pattern, and a motion between two exposures.

    pattern              (0, 0)  (5, 0)  (5, 5)  (0, 5)       arcsec from the start, repeated
    requests, relative   (0, 0)  (5, 0)  (0, 5)  (-5, 0)  (0, -5)  (5, 0) ...
    for each frame       request, in position, trigger, frame written

The state is the position of a suspended coroutine, so there is no chart. A step that fails, or
whose outcome is unknown, pauses it, with the reason in ``notices``. Then a person looks and resumes
or stops it.
"""

import asyncio
import io
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..core.device import iso_from_s
from ..core.part import Alarm, Part
from ..errors import LINK_LOST, NotAllowedError, WampError
from .frames import Progress

log = logging.getLogger(__name__)

State: TypeAlias = Literal["disabled", "idle", "nodding", "waiting", "paused"]
Offset: TypeAlias = tuple[float, float]

FAILED = (*LINK_LOST, WampError, ValueError)


class Telescope(Protocol):
    """Moves the telescope, one motion at a time: see ``motion.Motion``."""

    def turn(self) -> AbstractAsyncContextManager[object]:
        """Return a context that waits for the turn to move the telescope, and then holds it."""

    async def request(self, dra: float, ddec: float) -> None:
        """Request a relative offset (arcsec) within a turn; return once it is accepted.

        Raises TimeoutError if it may have been carried out. Any other error means it was not.
        """

    async def settle(self) -> None:
        """Wait, within a turn, until the telescope is in position. Raises TimeoutError."""


class FrameCounter(Protocol):
    """Counts the frames of a run: see ``frames.Frames``."""

    @property
    def trouble(self) -> str:
        """The reason why frames cannot be counted; empty if they can."""

    async def look(self) -> Progress | None:
        """Return the progress of the newest run, or None if it is unknown."""

    async def news(self, seen: Progress | None) -> Progress:
        """Wait until the progress differs from ``seen``, and return it."""


@dataclass(frozen=True)
class Exposure:
    """The offset of an exposure from the start (arcsec), and its times (Unix)."""

    ra: float
    dec: float
    triggered: float
    in_position: float


class _PausedError(Exception):
    """Pauses dithering until a person resumes it; the text is the reason."""


class _OverError(Exception):
    """Ends dithering; the text is the reason."""


class Dithering(Part):
    """Dithers the telescope, for one run at a time.

    ``trigger`` starts one exposure; it raises TimeoutError if the exposure may have started, and
    any other error if it has not. ``guide`` reports an offset (arcsec) to the autoguider. ``limit``
    is the largest offset and the largest step in each coordinate (arcsec). ``frame_within`` returns
    the time (s) after a trigger within which the frame must be written. ``changed`` is called after
    each change of ``state``.
    """

    def __init__(
        self,
        telescope: Telescope,
        trigger: Callable[[], Awaitable[object]],
        frames: FrameCounter,
        guide: Callable[[float, float], Awaitable[object]],
        *,
        limit: float,
        frame_within: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.telescope, self.frames = telescope, frames
        self.limit = limit
        self.pattern: list[Offset] = []
        self.state: State = "disabled"
        """idle: before a motion or a trigger; waiting: until a frame is written."""
        self.reason = ""
        """The reason for a pause or a fault; empty after ``stop`` or the end of the run."""
        self.total: Offset = (0.0, 0.0)
        """The sum of the offsets that the telescope has accepted since the start, in arcsec."""
        self.exposures: dict[int, Exposure] = {}
        """The exposures by the number of the frame in its run, from 1."""
        self._trigger, self._guide, self._frame_within = trigger, guide, frame_within
        self._changed, self._clock = changed, clock
        self._guided: Offset = (0.0, 0.0)
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._resumed: asyncio.Future[None] | None = None
        self._step = 0  # the number of exposures since the start
        self._in_position = 0.0
        self._unknown: Offset | None = None  # a step that may have been carried out
        self._begun: Exposure | None = None  # an exposure without a frame so far
        self._reported: asyncio.Future[int] | None = None
        self._after = 0  # the run has a number above this one
        self._run: int | None = None
        self._frames = 0  # the number of counted frames of the run
        self._blind = False
        self._seen: Progress | None = None

    # --- commands ---------------------------------------------------------------------------

    def load(self, ra: Sequence[float], dec: Sequence[float]) -> None:
        """Load a pattern: offsets from the start (arcsec), repeated until the run ends.

        Raises ValueError if an offset or a step is too large, or if the lists differ in length;
        NotAllowedError while dithering.
        """
        if self.state != "disabled":
            raise NotAllowedError("the pattern is in use: stop dithering, then load another")
        if len(ra) != len(dec) or not ra:
            raise ValueError(
                "a pattern must have as many offsets in RA as in Dec, and at least one, not "
                f"{len(ra)} and {len(dec)}"
            )
        pattern = [(float(x), float(y)) for x, y in zip(ra, dec, strict=True)]
        before = (0.0, 0.0)
        for place in [*pattern, pattern[0]]:
            for value in (*place, place[0] - before[0], place[1] - before[1]):
                if not abs(value) <= self.limit:
                    raise ValueError(
                        f"the pattern has an offset or a step of {value:g} arcsec, which is not "
                        f"within -{self.limit:g} to {self.limit:g} arcsec; it was not loaded"
                    )
            before = place
        self.pattern = pattern

    def start(self, run: int | None = None) -> None:
        """Begin to dither around the present position, at the first offset of the pattern.

        ``run`` is the number of the run to dither, if it is known; otherwise it is the newest run,
        or a newer one that begins before the first frame is written. Raises NotAllowedError while
        dithering, or if there is no pattern.
        """
        if self.state != "disabled":
            raise NotAllowedError("the telescope is already being dithered; stop that first")
        if not self.pattern:
            raise NotAllowedError("there is no dither pattern: load one (load_nod_pattern)")
        if run is not None:
            self._after = run - 1
        self.total = self._guided = (0.0, 0.0)
        self.exposures, self._step = {}, 0
        self._run, self._frames, self._seen = None, 0, None
        self._unknown = self._begun = None
        self.reason, self._ending = "", False
        self._set("idle")
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Stop dithering: at once, or after a motion that is under way."""
        if self.state == "paused":
            self.reason = ""
        self._end()
        if self._task:
            await asyncio.wait([self._task])

    def run_ended(self) -> None:
        """End dithering, because the detector's run has ended."""
        if self.state != "disabled":
            log.info("dithering ends with its run, after %d exposures", self._step)
            self._end()

    async def close(self) -> None:
        """End at once, even during a motion, because the server ends."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _end(self) -> None:
        self._ending = True
        if self._task and self.state != "nodding":
            self._task.cancel()

    async def track_new_run(self) -> None:
        """Dither the next run, which is not one that already has frames."""
        seen = await self.frames.look()
        if seen is not None:
            self._after = seen.run if seen.frames else seen.run - 1
            self._run, self._frames, self._seen = None, 0, None
            self.exposures = {}

    def frame_written(self) -> None:
        """Count the awaited frame as written, if there is one."""
        if self._reported and not self._reported.done():
            self._reported.set_result(1)

    def acknowledge(self, *, moved: bool) -> None:
        """Note whether the step of unknown outcome, if there is one, was carried out."""
        if self._unknown:
            if moved:
                self._accept(self._unknown)
            self._unknown = None
            counts = f"the step counts as {'' if moved else 'not '}made: resume, or stop"
            self.reason = counts if self.state == "paused" else ""
            self._changed()

    async def resume(self, exposed: bool | None = None) -> None:
        """Continue after a pause, with the step that was not completed.

        ``exposed``: whether a frame that was not seen was exposed; if not, it is triggered again.
        Raises NotAllowedError if dithering is not paused, or if the outcome of a motion must be
        acknowledged first; ValueError if ``exposed`` is needed but missing, or the other way round.
        """
        self._paused()
        if self._unknown:
            raise NotAllowedError(
                "check the position of the telescope, and call acknowledge(moved=True) or "
                "acknowledge(moved=False); then resume"
            )
        if self._begun is None and exposed is not None:
            raise ValueError("no frame is in doubt: resume without exposed")
        seen = await self.frames.look() if self._begun else None
        resumed = self._paused()
        if self._begun:
            with suppress(_OverError):  # the look before the next trigger ends it
                exposed = True if self._new(seen) > 0 else exposed
            if exposed is None:
                raise ValueError(
                    f"frame {self._frames + 1} is not in the data folder: when the detector is idle"
                    ", call resume(exposed=True) if it was exposed, which continues with the next "
                    "frame, or resume(exposed=False), which triggers it again"
                )
            if exposed:
                self._count(self._begun)
            self._begun = None
        resumed.set_result(None)

    def _paused(self) -> asyncio.Future[None]:
        if self.state != "paused" or self._resumed is None or self._resumed.done():
            raise NotAllowedError(f"dithering is not paused: its state is {self.state}")
        return self._resumed

    # --- reports ----------------------------------------------------------------------------

    def notices(self) -> Iterator[Alarm]:
        """Return why dithering is paused or has ended, and faults of folder and autoguider."""
        if self.reason:
            yield Alarm("dither", "ERR", self.reason)
        if self.state != "disabled" and self.frames.trouble:
            yield Alarm("dither", "WARN", self.frames.trouble)

    async def as_ecsv(self) -> str:
        """Return the dither table of the run as ECSV, with a row for each frame.

        RAOFF and DECOFF are the offsets from the start (arcsec, NaN for a frame that was not
        dithered). FRAME counts from 1. TRIGGER and INPOS are UTC. If the file of the run cannot be
        read, the rows end with the last frame that was seen.
        """
        seen = await self.frames.look()
        exposures = dict(self.exposures)
        if self._begun:
            exposures.setdefault(self._frames + 1, self._begun)
        last = max(self.exposures, default=0)
        if seen and seen.run == self._run:
            last = max(last, seen.frames)
        return await asyncio.to_thread(_ecsv, exposures, last, self._run)

    def _set(self, state: State) -> None:
        self.state = state
        self._changed()

    # --- the loop ---------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            while not self._ending:
                await self._one_frame()
        except _OverError as over:
            log.info("dithering has ended: %s", over)
        except Exception as error:
            log.exception("dithering has ended after a fault of the program")
            self.reason = f"dithering has ended after a fault: {error!r}; it can be started again"
        finally:
            self._set("disabled")

    async def _one_frame(self) -> None:
        try:
            async with self.telescope.turn():
                await self._move()
                if not self._ending:
                    await self._expose()
        except _PausedError as pause:
            self.reason = str(pause)
            log.warning("dithering is paused: %s", pause)
            if self._ending:
                return
            self._resumed = asyncio.get_running_loop().create_future()
            self._set("paused")
            await self._resumed
            self.reason = ""
            self._set("idle")

    async def _move(self) -> None:
        ra, dec = self.pattern[self._step % len(self.pattern)]
        step = (ra - self.total[0], dec - self.total[1])
        offset = f"the offset by ({step[0]:g}, {step[1]:g}) arcsec"
        self._set("nodding")
        try:
            await self.telescope.request(*step)
        except TimeoutError as error:
            self._unknown = step
            raise _PausedError(
                f"it is unknown whether {offset} was carried out; it is not sent again: {error}. "
                "Check the position of the telescope, call acknowledge, then resume or stop"
            ) from None
        except FAILED as error:
            raise _PausedError(
                f"{offset} was not made: {error}. Resume to request it again"
            ) from None
        self._accept(step)
        settled, _ = await asyncio.gather(
            self.telescope.settle(), self._inform_autoguider(), return_exceptions=True
        )
        if isinstance(settled, FAILED):
            raise _PausedError(
                f"{offset} was accepted, but the telescope is not in position: {settled}. Resume "
                "to wait again; the offset is not sent again"
            )
        if settled is not None:
            raise settled
        self._in_position = self._clock()
        self._set("idle")

    def _accept(self, step: Offset) -> None:
        self.total = (self.total[0] + step[0], self.total[1] + step[1])

    async def _inform_autoguider(self) -> None:
        step = (self.total[0] - self._guided[0], self.total[1] - self._guided[1])
        self._guided = self.total
        await self._guide(*step)

    async def _expose(self) -> None:
        await self._look_before()
        loop = asyncio.get_running_loop()
        self._reported = loop.create_future()
        self._begun = Exposure(*self.total, self._clock(), self._in_position)
        self._set("waiting")
        unanswered = ""
        try:
            await self._trigger()
        except TimeoutError as error:
            unanswered = f"the trigger was not answered ({error}), and "
        except FAILED as error:
            self._begun = None
            raise _PausedError(
                f"frame {self._frames + 1} was not triggered: {error}. Resume to trigger it"
            ) from None
        extra = await self._written(unanswered)
        self._count(self._begun)
        self._begun = None
        self._reject(extra)

    async def _written(self, unanswered: str) -> int:
        """Wait until the frame has been written; return the number of further frames."""
        assert self._reported  # noqa: S101  (type checker)
        within = self._frame_within()
        watching: asyncio.Future[int] = asyncio.create_task(self._watch())
        try:
            done, _ = await asyncio.wait(
                [watching, self._reported], timeout=within, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        if not done:
            raise _PausedError(
                f"{unanswered}frame {self._frames + 1} was not written within {within:g} s: check "
                "the detector and the data folder, then resume or stop; it is triggered again only "
                "by resume(exposed=False)"
            )
        return max(written.result() for written in done) - 1

    def _count(self, exposure: Exposure) -> None:
        self._frames += 1
        self._step += 1
        self.exposures[self._frames] = exposure

    def _reject(self, extra: int) -> None:
        if extra > 0:
            self._frames += extra
            raise _PausedError(
                f"{extra} more frames were written than were triggered here, at unknown positions: "
                "check that the detector waits for triggers (DET.SEQ.TRIGGER), then resume"
            )

    # --- counting the frames of the right run -----------------------------------------------

    async def _look_before(self) -> None:
        """Count the frames before the next trigger. Raises _PausedError if there are too many."""
        run, self._seen = self._run, await self.frames.look()
        self._blind = self._seen is None
        frames = self._frames_of(self._seen)
        if self._run != run and self._step == 0:
            self._frames = frames
        self._reject(frames - self._frames)

    async def _watch(self) -> int:
        """Wait for a frame; return the number of frames that were written since the trigger."""
        while True:
            self._seen = await self.frames.news(self._seen)
            if (new := self._new(self._seen)) > 0:
                return new

    def _new(self, seen: Progress | None) -> int:
        """Return the number of frames that were written since the trigger."""
        run, frames = self._run, self._frames_of(seen)
        if self._run != run and self._step == 0:
            # If nothing could be seen, these frames may be from before the trigger.
            self._frames = frames if self._blind else 0
        self._blind = self._blind and seen is None
        return frames - self._frames

    def _frames_of(self, seen: Progress | None) -> int:
        """Return the number of frames of the run, the first one seen after ``_after``.

        Raises _OverError if a newer run has begun.
        """
        if seen is None or seen.run <= self._after or (self._run and seen.run < self._run):
            return self._frames
        if self._run is None or (seen.run > self._run and self._step == 0):
            self._run = seen.run
        if seen.run > self._run:
            raise _OverError(f"run {seen.run} has begun")
        return seen.frames


def _ecsv(exposures: Mapping[int, Exposure], last: int, run: int | None) -> str:
    from astropy.table import Table  # noqa: PLC0415  (costs 0.7 s and 35 MiB)

    none = Exposure(math.nan, math.nan, math.nan, math.nan)
    rows = [exposures.get(frame, none) for frame in range(1, last + 1)]

    def times(seconds: list[float]) -> list[str]:
        return ["" if math.isnan(moment) else iso_from_s(moment) for moment in seconds]

    table = Table(
        [
            [row.ra for row in rows],
            [row.dec for row in rows],
            list(range(1, last + 1)),
            times([row.triggered for row in rows]),
            times([row.in_position for row in rows]),
        ],
        names=["RAOFF", "DECOFF", "FRAME", "TRIGGER", "INPOS"],
        dtype=["f8", "f8", "i4", "U24", "U24"],
        meta={"RUN": run or 0},
    )
    table["RAOFF"].unit = table["DECOFF"].unit = "arcsec"
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue()
