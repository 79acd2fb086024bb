"""The transfer of a night's data into the GTC's archive: one long call beside all others.

-> transferObservationDataFromHIPERToGCS     returns when it is done, after up to an hour
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeAlias

from ..core.device import iso_from_s
from ..core.part import Alarm, Part
from ..errors import LINK_LOST, NotAllowedError, RefusedError

OPERATION = "transferObservationDataFromHIPERToGCS"
AskApart: TypeAlias = Callable[[str, float], Awaitable[Any]]


class Transfer(Part):
    """The transfer in progress, or the last one. ``clock`` returns Unix time.

    ``changed`` is called when a transfer has ended.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.clock, self.changed = clock, changed
        self.state: Literal["idle", "running", "finished", "failed"] = "idle"
        self.began: float | None = None
        self.ended: float | None = None
        self.reason = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, ask_apart: AskApart, within: float) -> None:
        """Begin a transfer, which fails if it takes longer than ``within`` seconds.

        Raises NotAllowedError while a transfer is running.
        """
        if self.state == "running":
            raise NotAllowedError("a transfer into the archive is already running")
        self.state, self.began, self.ended, self.reason = "running", self.clock(), None, ""
        self._task = asyncio.create_task(self._run(ask_apart, within))

    async def _run(self, ask_apart: AskApart, within: float) -> None:
        try:
            await ask_apart(OPERATION, within)
            self.state = "finished"
        except TimeoutError as error:
            self._fail(f"{error}; it may still be running: check the archive first")
        except (*LINK_LOST, RefusedError, ValueError) as error:
            self._fail(f"{error}; nothing is being transferred")
        self.ended = self.clock()
        self.changed()

    def _fail(self, reason: str) -> None:
        self.state, self.reason = "failed", f"the transfer into the archive failed: {reason}"

    def states(self) -> dict[str, str]:
        """Return the state: idle (none yet), running, finished or failed."""
        return {"archive": self.state}

    def values(self) -> dict[str, Any]:
        """Return when the transfer began and ended (UTC), or None for either."""
        began, ended = self.began, self.ended
        return {
            "archive": {"began": began and iso_from_s(began), "ended": ended and iso_from_s(ended)}
        }

    def notices(self) -> Iterator[Alarm]:
        """Return an alarm with the reason if the last transfer has failed."""
        if self.state == "failed":
            yield Alarm("archive", "ERR", self.reason)
