"""Dithering: an exposure at each place of a pattern, and a motion between two exposures.

    pattern              (0, 0)  (5, 0)  (5, 5)  (0, 5)       arcsec from where it started, for ever
    requests, relative   (0, 0)  (5, 0)  (0, 5)  (-5, 0)  (0, -5)  (5, 0) ...
    for each frame       request, in position, trigger, frame written

A suspended coroutine remembers where it is, so there is no chart. What cannot be done, or is not
known to have been done, pauses it, with the reason in ``notices``; a person looks, and resumes or
stops it.
"""

import asyncio
import io
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..core.device import utc
from ..core.part import Alarm, Part
from ..errors import LINK_LOST, NotAllowedError, WampError
from .frames import Progress

log = logging.getLogger(__name__)

State: TypeAlias = Literal["disabled", "idle", "nodding", "waiting", "paused"]
Offset: TypeAlias = tuple[float, float]

FAILED = (*LINK_LOST, WampError, ValueError)


class Telescope(Protocol):
    """What moves the telescope: one motion at a time, whoever asks for it."""

    def turn(self) -> AbstractAsyncContextManager[object]:
        """Wait for one's turn; while it is held nobody else moves the telescope."""

    async def request(self, dra: float, ddec: float) -> None:
        """Request an offset (arcsec, relative), holding the turn; return once it is accepted.

        Raises TimeoutError if it may have been carried out; any other exception: it was not.
        """

    async def settle(self) -> None:
        """Return when it is in position, holding the turn; raises TimeoutError if it never is."""


class FrameCounter(Protocol):
    """What sees frames being written: ``frames.Frames``."""

    @property
    def trouble(self) -> str:
        """Why it sees nothing, or nothing."""

    async def look(self) -> Progress | None:
        """Return what is there now; None if that cannot be seen."""

    async def news(self, seen: Progress | None) -> Progress:
        """Return what is there as soon as it is something else than ``seen``."""


@dataclass(frozen=True)
class Exposure:
    """Where a frame was exposed (arcsec from the start), and when (Unix times)."""

    ra: float
    dec: float
    triggered: float
    in_position: float


class _PausedError(Exception):
    """Why dithering does not go on until somebody has looked."""


class _OverError(Exception):
    """Why there is nothing more to dither."""


class Nodding(Part):
    """Dithers the telescope, one run after the other, never two at once.

    ``trigger`` starts one exposure; it raises TimeoutError if it may have started, any other
    exception if not. ``guide`` tells the autoguider of an offset (arcsec). ``limit`` is the largest
    offset, and the largest step, in each coordinate (arcsec). ``frame_within`` returns in how many
    seconds after its trigger a frame has to be written. ``changed`` is called when ``state`` is.
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
        """``idle`` is before a motion or a trigger, ``waiting`` is for a frame."""
        self.reason = ""
        """Why it is paused, or has ended otherwise than by ``stop`` or with the run."""
        self.told: Offset = (0.0, 0.0)
        """The sum of the offsets that the telescope has accepted since the start, arcsec."""
        self.exposures: dict[int, Exposure] = {}
        """By the number of the frame in its run, from 1."""
        self._trigger, self._guide, self._frame_within = trigger, guide, frame_within
        self._changed, self._clock = changed, clock
        self._guide_notice = ""
        self._guided: Offset = (0.0, 0.0)
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._resumed: asyncio.Future[None] | None = None
        self._step = 0  # exposures since the start
        self._in_position = 0.0
        self._unknown: Offset | None = None  # a request that may have been carried out
        self._begun: Exposure | None = None  # one that may be under way, or its frame unseen
        self._told_written: asyncio.Future[int] | None = None
        self._after = 0  # only runs above this number are of interest
        self._run: int | None = None
        self._frames = 0  # of the run that are accounted for
        self._blind = False
        self._seen: Progress | None = None

    # --- what an observer asks for ----------------------------------------------------------

    def load(self, ra: Sequence[float], dec: Sequence[float]) -> None:
        """Take a pattern: offsets from the start in arcsec, repeated for ever.

        Raises ValueError if it is not acceptable, NotAllowedError while dithering.
        """
        if self.state != "disabled":
            raise NotAllowedError("the pattern is in use: stop dithering, then load another")
        if len(ra) != len(dec) or not ra:
            raise ValueError(
                f"a pattern has as many offsets in RA as in Dec, and at least one, not {len(ra)} "
                f"and {len(dec)}"
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
        """Begin to dither from where the telescope is, at the first place of the pattern.

        ``run`` is the number of the run to be dithered, if the detector knows it; otherwise it is
        the newest one, or a newer one that begins before the first frame is written. Raises
        NotAllowedError while dithering, and without a pattern.
        """
        if self.state != "disabled":
            raise NotAllowedError("the telescope is being dithered already; to begin anew, stop it")
        if not self.pattern:
            raise NotAllowedError("there is no pattern to dither: load one (load_nod_pattern)")
        if run is not None:
            self._after = run - 1
        self.told = self._guided = (0.0, 0.0)
        self.exposures, self._step = {}, 0
        self._run, self._frames, self._seen = None, 0, None
        self._unknown = self._begun = None
        self.reason, self._ending = "", False
        self._set("idle")
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Stop dithering: at once, or when a motion under way has ended."""
        if self.state == "paused":
            self.reason = ""
        self._end()
        if self._task:
            await asyncio.wait([self._task])

    def run_ended(self) -> None:
        """Learn that the detector's run has ended: dithering does, too."""
        if self.state != "disabled":
            log.info("dithering ends with its run, after %d exposures", self._step)
            self._end()

    async def close(self) -> None:
        """End at once, even in mid-motion: the server ends. Returns when its end is announced."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _end(self) -> None:
        self._ending = True
        if self._task and self.state != "nodding":
            self._task.cancel()

    async def track_new_run(self) -> None:
        """Take no run for the one to be dithered that has frames now."""
        seen = await self.frames.look()
        if seen is not None:
            self._after = seen.run if seen.frames else seen.run - 1
            self._run, self._frames, self._seen = None, 0, None
            self.exposures = {}

    def frame_written(self) -> None:
        """Learn from elsewhere that the frame has been written; nothing if none is awaited."""
        if self._told_written and not self._told_written.done():
            self._told_written.set_result(1)

    def acknowledge(self, *, moved: bool) -> None:
        """Learn whether a nod of unknown outcome was carried out; nothing if there is none."""
        if self._unknown:
            if moved:
                self._accept(self._unknown)
            self._unknown = None
            counts = f"the nod counts as {'' if moved else 'not '}made: resume, or stop"
            self.reason = counts if self.state == "paused" else ""
            self._changed()

    async def resume(self, exposed: bool | None = None) -> None:
        """Go on after a pause, from the place where it was.

        ``exposed`` says whether a frame that was not seen has been exposed nevertheless: if not, it
        is triggered again. Raises NotAllowedError if nothing is paused, or the outcome of a motion
        has to be acknowledged before, ValueError if ``exposed`` is needed, or makes no sense.
        """
        self._paused()
        if self._unknown:
            raise NotAllowedError(
                "look where the telescope is, and say so with acknowledge(moved=True) or "
                "acknowledge(moved=False); then resume"
            )
        if self._begun is None and exposed is not None:
            raise ValueError("no frame is in doubt: resume without saying whether one was exposed")
        seen = await self.frames.look() if self._begun else None
        resumed = self._paused()
        if self._begun:
            with suppress(_OverError):  # the next look before a trigger ends it
                exposed = True if self._new(seen) > 0 else exposed
            if exposed is None:
                raise ValueError(
                    f"frame {self._frames + 1} is not in the data folder: when the detector is idle"
                    ", say resume(exposed=True) if it was exposed, to go on with the next, or "
                    "resume(exposed=False) to trigger it again"
                )
            if exposed:
                self._count(self._begun)
            self._begun = None
        resumed.set_result(None)

    def _paused(self) -> asyncio.Future[None]:
        if self.state != "paused" or self._resumed is None or self._resumed.done():
            raise NotAllowedError(f"dithering is not paused, it is {self.state}")
        return self._resumed

    # --- what others are told ---------------------------------------------------------------

    def notices(self) -> list[Alarm]:
        """Return why it is paused or has ended, and who sees or hears nothing."""
        found = []
        if self.reason:
            found.append(Alarm("dither", "ERR", self.reason))
        if self.state != "disabled" and self.frames.trouble:
            found.append(Alarm("dither", "WARN", self.frames.trouble))
        if self._guide_notice:
            found.append(Alarm("autoguider", "WARN", self._guide_notice))
        return found

    async def as_ecsv(self) -> str:
        """Return the nod table of the run, as ECSV: a row for each of its frames.

        RAOFF and DECOFF are the offsets from the start (arcsec, NaN for a frame that was not
        dithered); FRAME counts from 1; TRIGGER and INPOS are UTC. Without sight of the run's file
        the rows end with the last frame that was seen.
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
            log.exception("dithering has ended by a fault")
            self.reason = f"dithering has ended by a fault: {error!r}; it can be started again"
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
        step = (ra - self.told[0], dec - self.told[1])
        nod = f"the nod by ({step[0]:g}, {step[1]:g}) arcsec"
        self._set("nodding")
        try:
            await self.telescope.request(*step)
        except TimeoutError as error:
            self._unknown = step
            raise _PausedError(
                f"it is not known whether {nod} was carried out; it is not sent again: {error}. "
                "Look where the telescope is, acknowledge it, then resume or stop"
            ) from None
        except FAILED as error:
            raise _PausedError(f"{nod} was not made: {error}. Resume to ask for it again") from None
        self._accept(step)
        settled, _ = await asyncio.gather(
            self.telescope.settle(), self._tell_autoguider(), return_exceptions=True
        )
        if isinstance(settled, FAILED):
            raise _PausedError(
                f"{nod} was accepted, but the telescope is not in position: {settled}. Resume to "
                "wait for it again; it is not sent again"
            )
        if settled is not None:
            raise settled
        self._in_position = self._clock()
        self._set("idle")

    def _accept(self, step: Offset) -> None:
        self.told = (self.told[0] + step[0], self.told[1] + step[1])

    async def _tell_autoguider(self) -> None:
        step = (self.told[0] - self._guided[0], self.told[1] - self._guided[1])
        self._guided = self.told
        try:
            await self._guide(*step)
        except Exception as error:  # noqa: BLE001  (whatever it is, the run goes on)
            self._guide_notice = (
                f"the autoguider was not told of the nod by ({step[0]:g}, {step[1]:g}) arcsec: "
                f"{error or type(error).__name__}"
            )
        else:
            self._guide_notice = ""

    async def _expose(self) -> None:
        await self._look_before()
        loop = asyncio.get_running_loop()
        self._told_written = loop.create_future()
        self._begun = Exposure(*self.told, self._clock(), self._in_position)
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
        """Wait for the frame; return how many more were written."""
        assert self._told_written  # noqa: S101  (type checker)
        within = self._frame_within()
        watching: asyncio.Future[int] = asyncio.create_task(self._watch())
        try:
            done, _ = await asyncio.wait(
                [watching, self._told_written],
                timeout=within,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        if not done:
            raise _PausedError(
                f"{unanswered}frame {self._frames + 1} was not written within {within:g} s: look "
                "at the detector and the data folder, then resume or stop; it is not triggered "
                "again unless you say so"
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
                f"{extra} more frames were written than were triggered here, at places that are "
                "not known: does the detector wait for its triggers (DET.SEQ.TRIGGER)? Resume to "
                "go on"
            )

    # --- frames of the right run ------------------------------------------------------------

    async def _look_before(self) -> None:
        """Account for what has been written before the next trigger."""
        run, self._seen = self._run, await self.frames.look()
        self._blind = self._seen is None
        frames = self._frames_of(self._seen)
        if self._run != run and self._step == 0:
            self._frames = frames
        self._reject(frames - self._frames)

    async def _watch(self) -> int:
        """Return how many frames have been written since the trigger, as soon as there is one."""
        while True:
            self._seen = await self.frames.news(self._seen)
            if (new := self._new(self._seen)) > 0:
                return new

    def _new(self, seen: Progress | None) -> int:
        """Return how many frames have been written since the trigger."""
        run, frames = self._run, self._frames_of(seen)
        if self._run != run and self._step == 0:
            # What was there when nothing could be seen may be from before the trigger.
            self._frames = frames if self._blind else 0
        self._blind = self._blind and seen is None
        return frames - self._frames

    def _frames_of(self, seen: Progress | None) -> int:
        """Return how many frames the run has; it is the first one above ``_after`` to be seen."""
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
        return ["" if math.isnan(one) else utc(one) for one in seconds]

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
