"""The fault of an emulated server: it is away from the router for some time.

    hcam simulate hwserver away seconds=20

For everybody else it is as if the server had died: the router publishes its testaments. Its devices
go on, and their samples are in the journal.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ..core.sim import Simulator


class Absence(Simulator):
    """Ends the session of a server with ``end``, and says how long it has to stay away."""

    end: Callable[[str], None]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._until = 0.0

    def offers(self) -> dict[str, dict[str, Any]]:
        """Return the one fault: there is no wire here."""
        return {"away": self._parameters("fault_away")}

    def fault_away(self, seconds: float = 20.0) -> None:
        """Leave the router, and join it again after some seconds."""
        del self.faults["away"]
        self._until = self.clock() + seconds
        # when the caller has its answer
        asyncio.get_running_loop().call_soon(self.end, f"away for {seconds:g} s, as simulated")

    async def over(self) -> None:
        """Wait until the server may be seen again."""
        await asyncio.sleep(self._until - self.clock())
