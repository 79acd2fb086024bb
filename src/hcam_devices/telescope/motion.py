"""The motions of the telescope: one at a time, each until it is in position, none sent twice.

    -> requestTelescopeOffset 5.0 0.0                    arcsec, relative
    -> areMACSFollowErrorBelowThreshold, isM1NoiseBelowThreshold    both true: in position

If it is unknown whether a request was carried out (OutcomeUnknownError), the position is read and
shown, and nothing more is sent until a person has acknowledged it. The operations are those of the
predecessor; in its use the flags needed up to 0.2 s to notice a motion.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..core.part import Alarm, Part, Reading
from ..errors import LINK_LOST, NotAllowedError, OutcomeUnknownError, RefusedError

Ask: TypeAlias = Callable[[str, tuple[object, ...]], Awaitable[Any]]
Position: TypeAlias = Mapping[str, float]

LOOK_PERIOD_S = 0.2
STEADY_S = 0.2
"""The telescope has settled after this time in position, because follow errors flap."""
MAX_LOOK_AGAIN_S = 3.0
"""After an unknown outcome, wait this long for a steady position."""
FLAGS = {
    "areMACSFollowErrorBelowThreshold": "the follow error of the drives is above its threshold",
    "isM1NoiseBelowThreshold": "the noise of M1 is above its threshold",
}
KEYS = ("RADEG", "DECDEG", "M2UZ")
"""The header items of the position: deg, deg, and the focus in mm (an inferred unit)."""
MIN_VISIBLE_ARCSEC = 1.0
"""Positions with four decimals of a degree do not show smaller offsets."""


@dataclass(frozen=True)
class Move:
    """A request to the telescope; ``ra`` and ``dec`` are in arcsec if it is an offset.

    ``settles``: whether the telescope is out of position until the move has ended.
    """

    kind: str
    operation: str
    arguments: tuple[object, ...] = ()
    ra: float = 0.0
    dec: float = 0.0
    settles: bool = False
    in_position: bool = False
    """Whether the telescope has to be in position before the request."""

    def __str__(self) -> str:
        return f"the {self.kind} ({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True)
class Unknown:
    """A move that may have been carried out, and the position before it."""

    move: Move
    before: Position

    def carried_out(self, now: Position) -> bool | None:
        """Return whether the move was carried out, or None if the positions do not show it."""
        move = self.move
        asked = math.hypot(move.ra, move.dec)
        if asked < MIN_VISIBLE_ARCSEC or not {"RADEG", "DECDEG"} <= self.before.keys() & now.keys():
            return None
        dec = 3600 * (now["DECDEG"] - self.before["DECDEG"])
        ra = 3600 * ((now["RADEG"] - self.before["RADEG"] + 180) % 360 - 180)
        # It is unknown whether offsets in RA are on the sky or in the coordinate.
        on_sky = ra * math.cos(math.radians(now["DECDEG"]))
        if any(math.hypot(moved - move.ra, dec - move.dec) < asked / 4 for moved in (ra, on_sky)):
            return True
        return False if math.hypot(on_sky, dec) < asked / 4 else None

    def advice(self, now: Position) -> str:
        """Return a text with the positions before and ``now``, and the next step."""
        if not now:
            found = "the position cannot be read yet"
        else:
            verdict = {
                True: "as if it was carried out",
                False: "as if it was not carried out",
                None: "which does not show whether it was carried out",
            }[self.carried_out(now)]
            found = f"now {shown(now)}, {verdict}"
        return (
            f"it is unknown whether {self.move} was carried out. Before: {shown(self.before)}; "
            f"{found}. Nothing is sent until you have checked the position of the telescope and "
            "called acknowledge(moved=True) or acknowledge(moved=False)"
        )


def shown(position: Position) -> str:
    """Return a position as text."""
    return ", ".join(f"{key} {value:.10g}" for key, value in position.items()) or "not read"


def position_in(header: Mapping[str, float | str]) -> Position:
    """Return the position in a header, without items that are missing or not numbers."""
    found = {key: header.get(key) for key in KEYS}
    return {key: value for key, value in found.items() if isinstance(value, float)}


@dataclass
class Motion(Part):
    """Moves the telescope, one motion at a time.

    ``ask`` calls an operation, ``read_header`` reads the header, ``last_position`` returns the
    position that was read last, and ``changed`` is called when the state has changed.
    ``settle_after`` is the time (s) before the flags can be trusted. ``settle_within`` is the time
    (s) after which it is an alarm if the telescope is not in position.
    """

    ask: Ask
    read_header: Callable[[], Awaitable[Mapping[str, Any]]]
    changed: Callable[[], None]
    settle_after: float = 0.2
    settle_within: float = 60.0
    last_position: Callable[[], Position] = dict
    total: tuple[float, float] = (0.0, 0.0)
    """The sum of the accepted offsets (without guide steps), in arcsec."""
    doing: Move | None = None
    unknown: Unknown | None = None
    unsettled: str = ""
    """The reason why the telescope is not in position although it should be; or empty."""
    in_position: bool | None = None
    """Whether the telescope was in position at the last look; None if that is unknown."""
    _steady_since: float | None = None
    _last: Move | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    fields = ("ra_offset", "dec_offset")

    def lose(self) -> None:
        """Forget whether the telescope is in position. The sum of the offsets is kept."""
        super().lose()
        self.in_position = None

    @property
    def busy(self) -> bool:
        """Whether a motion is under way, from its request until the telescope is in position."""
        return self.doing is not None

    def states(self) -> dict[str, str]:
        """Return the state of the telescope's motions."""
        return {"gtc": self.state}

    def reading(self, name: str) -> Reading:
        """Return the sum of the offsets in one coordinate (arcsec)."""
        return Reading(self.total[self.fields.index(name)])

    def notices(self) -> Iterator[Alarm]:
        """Return alarms for a motion of unknown outcome, and for a telescope out of position."""
        if self.unknown:
            yield Alarm("gtc", "ERR", self.unknown.advice(self.last_position()))
        if self.unsettled:
            yield Alarm("gtc", "ERR", self.unsettled)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the state during an offset, and the state after its success."""
        offset = {"readback": None, "setpoint": None, "chart": None}
        return {"gtc": offset | {"busy": ["offsetting"], "arrived": ["inpos"]}}

    @property
    def state(self) -> str:
        """The state: offsetting, unknown (an outcome is unknown), offline, inpos or outpos."""
        if self.doing and self.doing.settles:
            return "offsetting"
        if self.unknown:
            return "unknown"
        return {None: "offline", True: "inpos", False: "outpos"}[self.in_position]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until nothing else moves the telescope, and keep it so within the context."""
        await self._turn.acquire()
        try:
            yield
        finally:
            self._release()

    async def request(self, move: Move) -> None:
        """Request a move within a turn; return once it is accepted. Raises as ``begin`` does."""
        self._check(move)
        self.doing = move
        self.changed()
        try:
            await self._send(move, await self._look(move))
        except BaseException:
            self.doing = None
            self.changed()
            raise

    async def settle(self) -> None:
        """Wait, within a turn, until the telescope is in position after the last request.

        Raises TimeoutError if that takes longer than ``settle_within`` seconds.
        """
        try:
            await self._settle()
        finally:
            self.doing = None
            self.changed()

    async def begin(self, move: Move, within: float | None = None) -> asyncio.Task[None]:
        """Request a move in a turn of its own; return once it is accepted.

        Return a task that ends when the telescope is in position. Raises OutcomeUnknownError if the
        move may have been carried out. Any other error means that it was not: NotAllowedError (out
        of position, no turn ``within`` seconds, or an earlier move of unknown outcome), OSError
        (the telescope cannot be reached), ValueError, or RefusedError.
        """
        self._check(move)
        try:
            async with asyncio.timeout(within):
                await self._turn.acquire()
        except TimeoutError:
            raise NotAllowedError(
                f"the telescope is still busy with {self.doing or 'a dithered exposure'}; nothing "
                "was sent: wait until it is in position, and try again"
            ) from None
        # From here on, the motion must come to its end even if the caller is cancelled.
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        making = asyncio.create_task(self._carry_out(move, accepted))
        self._tasks.add(making)
        making.add_done_callback(self._ended)
        await asyncio.shield(accepted)
        return making

    def _release(self) -> None:
        self.doing = None
        self._turn.release()
        self.changed()

    async def close(self) -> None:
        """Cancel motions under way, because the server ends; return when their callers know."""
        await asyncio.sleep(0)  # a task that is cancelled before it begins would keep the turn
        for making in self._tasks:
            making.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, making: asyncio.Task[None]) -> None:
        self._tasks.discard(making)
        if not making.cancelled():
            making.exception()  # the caller gets the error, and an alarm reports it

    def _check(self, move: Move) -> None:
        if not math.isfinite(move.ra + move.dec):
            raise ValueError(f"{move} is not a finite offset; nothing was sent")
        if self.unknown:
            raise NotAllowedError(
                f"nothing was sent: the outcome of {self.unknown.move} is unknown; check the "
                "position, then call acknowledge(moved=True) or acknowledge(moved=False)"
            )

    async def _carry_out(self, move: Move, accepted: asyncio.Future[None]) -> None:
        try:
            await self.request(move)
            accepted.set_result(None)
            if move.settles:
                await self.settle()
        except BaseException as error:
            if accepted.done():
                raise
            accepted.set_exception(error if isinstance(error, Exception) else self._cut_short(move))
        finally:
            self._release()

    def _cut_short(self, move: Move) -> Exception:
        if self.unknown:
            return OutcomeUnknownError(f"the server ends; {move} may have been carried out")
        return ConnectionAbortedError("the server ends; nothing was sent")

    async def _look(self, move: Move) -> Position:
        """Return the position before a move; it is empty if it cannot be read.

        Raises NotAllowedError unless the telescope is in position, if the move needs that.
        """
        before: Position = {}
        try:
            with suppress(RefusedError):
                before = position_in(await self.read_header())
            why = await self.out_of_position() if move.in_position else ""
        except RefusedError as error:
            why = f"it is unknown whether the telescope is in position ({error})"
        except LINK_LOST as error:
            raise ConnectionError(f"{error}; nothing was sent") from None
        if why:
            raise NotAllowedError(f"a {move.kind} has to wait: {why}; nothing was sent")
        return before

    async def _send(self, move: Move, before: Position) -> None:
        try:
            await self.ask(move.operation, move.arguments)
        except asyncio.CancelledError:
            self.unknown = Unknown(move, before)  # the request may have been sent already
            raise
        except OutcomeUnknownError as error:
            self.unknown = Unknown(move, before)
            self.changed()
            now = await self._look_again()
            raise OutcomeUnknownError(f"{error}: {self.unknown.advice(now)}") from None
        except LINK_LOST as error:
            raise ConnectionError(f"{error}; nothing was sent") from None
        self._last = move
        if move.settles:
            self.total = (self.total[0] + move.ra, self.total[1] + move.dec)

    async def _look_again(self) -> Position:
        """Return the position once it is steady, or the last one after MAX_LOOK_AGAIN_S."""
        end = time.monotonic() + MAX_LOOK_AGAIN_S
        last: Position = {}
        while time.monotonic() < end:
            try:
                now = position_in(await self.read_header())
                if now == last and not await self.out_of_position():
                    return now
                last = now
            except (*LINK_LOST, RefusedError):
                pass  # the link is being opened again
            await asyncio.sleep(LOOK_PERIOD_S)
        return last

    async def out_of_position(self) -> str:
        """Return why the telescope is not in position; empty if it is. Raises as ``ask`` does."""
        since, self.in_position, self._steady_since = self._steady_since, None, None
        reasons = [why for flag, why in FLAGS.items() if not await self.ask(flag, ())]
        self.in_position = not reasons
        self._steady_since = None if reasons else since or time.monotonic()
        if self.in_position and not self.doing:
            self.unsettled = ""
        return "; ".join(reasons)

    def _is_steady(self) -> bool:
        since = self._steady_since
        return since is not None and time.monotonic() - since >= STEADY_S

    async def _settle(self) -> None:
        end = time.monotonic() + self.settle_within
        await asyncio.sleep(self.settle_after)
        self._steady_since = None
        while True:
            try:
                why = await self.out_of_position()
            except (*LINK_LOST, RefusedError) as error:
                why = str(error)
            if self._is_steady():
                self.unsettled = ""
                return
            if why and time.monotonic() >= end:
                break
            await asyncio.sleep(LOOK_PERIOD_S)
        self.unsettled = (
            f"not in position {self.settle_within:g} s after {self._last}, which the telescope "
            f"accepted ({why}). Ask the telescope operator; do not send the offset again"
        )
        raise TimeoutError(self.unsettled)

    def acknowledge(self, now: Position, *, moved: bool | None) -> bool:
        """Allow motions again after an unknown outcome; return whether the move counts as made.

        ``moved``: whether the move was carried out; if None, the position ``now`` decides. Raises
        NotAllowedError if there is no such move, ValueError if the position does not decide it.
        """
        if self.unknown is None:
            raise NotAllowedError("there is no motion of unknown outcome to acknowledge")
        move = self.unknown.move
        carried_out = self.unknown.carried_out(now) if moved is None else moved
        if carried_out is None:
            raise ValueError(
                f"the position does not show whether {move} was carried out: check it, and give "
                "moved=True or moved=False"
            )
        if carried_out and move.settles:
            self.total = (self.total[0] + move.ra, self.total[1] + move.dec)
        self.unknown = None
        return carried_out
