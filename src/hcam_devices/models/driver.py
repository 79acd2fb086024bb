"""The driver of the slide as ``slide_eng`` of version 1.7 imports it from ``devices.zaber``."""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from astropy import units as u

from ..config.instrument import InstrumentError, load
from ..core import Axis
from ..core.device import BUSY_POLL_S
from ..core.sim import serve
from ..devices.zaber import FocalPlaneSlide, Simulator
from ..errors import RefusedError
from ..host.home import exclusive, home

MICROSTEP = u.def_unit("microstep")


class ZaberLS:
    """The slide, in place of ``hwserver``, which may not run meanwhile.

    Its address is in the instrument file ``HCAM_INSTRUMENT``; InstrumentError is raised if that has
    no slide. A motion returns when it has ended.
    Nothing is repeated: each method raises OSError, TimeoutError or ProtocolError if the slide does
    not answer, RefusedError if it refuses, NotAllowedError if it cannot do that now.
    """

    def __init__(self) -> None:
        file = os.environ.get("HCAM_INSTRUMENT")
        instrument = load(Path(file) if file else None)
        entries = instrument.entries.values()
        slides = [entry for entry in entries if issubclass(entry.cls, FocalPlaneSlide)]
        if not slides:
            raise InstrumentError(
                f"{instrument.path} has no slide (kind zaber.FocalPlaneSlide): set HCAM_INSTRUMENT "
                "to the instrument file of the site"
            )
        self._entry = slides[0]
        self._stack = AsyncExitStack()
        self._runner = asyncio.Runner()
        self._slide: FocalPlaneSlide

    def connect(self) -> None:
        """Connect. Raises AlreadyRunningError if ``hwserver`` runs here; nothing is sent then."""
        self._run(self._connect())

    async def _connect(self) -> None:
        slide = self._entry.build(**await self._place())
        assert isinstance(slide, FocalPlaneSlide)  # noqa: S101  (for the type checker)
        self._stack.callback(slide.link.close)
        await slide.link.open()
        await slide.on_connect()
        slide.connection = "online"
        slide.stage.connect()
        await slide.poll()
        self._slide = slide

    async def _place(self) -> dict[str, Any]:
        """Return the settings of the link that differ from the file, and reserve the slide."""
        self._stack.enter_context(exclusive(home() / "locks", self._entry.name))
        return {}

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        self._runner.run(what)

    def close(self) -> None:
        """Disconnect; a motion continues."""
        self._run(self._stack.aclose())
        self._runner.close()

    @property
    def position(self) -> u.Quantity:
        """The position in microsteps from home, read now."""
        self._run(self._slide.poll())
        position = self._slide.stage.position
        assert position is not None  # noqa: S101  (a poll reads it, or raises)
        return self._slide.microsteps(position) * MICROSTEP

    def home(self) -> None:
        """Home the slide, and wait until it is there."""
        self._run(self._home())

    async def _home(self) -> None:
        await self._slide.stage.home()
        await self._arrive(self._slide.stage)

    def move(self, position: int) -> None:
        """Move to a position in microsteps from home, and wait until the slide is there.

        Raises ValueError if the position is outside the slide's travel; nothing is sent then.
        """
        self._run(self._move(position))

    async def _move(self, position: int) -> None:
        slide = self._slide
        if not 0 <= position <= slide.travel:
            raise ValueError(
                f"the slide cannot move to {position} microsteps: its travel is 0 to {slide.travel}"
            )
        # Rounded, or the last microstep is beyond the limit by a bit of its float.
        await slide.set("target_position", round(slide.zero + slide.scale * position, 6))
        await slide.stage.move()
        await self._arrive(slide.stage)

    async def _arrive(self, stage: Axis) -> None:
        await self._slide.poll()
        while stage.busy:
            await asyncio.sleep(BUSY_POLL_S)
            await self._slide.poll()
        if stage.state != "inpos":
            raise RefusedError(f"the slide has not arrived: {stage.advice()}")

    def stop(self) -> None:
        """Stop the slide."""
        self._run(self._slide.stage.stop())

    def enable(self) -> None:
        """Enable the knob on the slide."""
        self._run(self._slide.enable())

    def disable(self) -> None:
        """Disable the knob on the slide."""
        self._run(self._slide.disable())


class ZaberLSEmulator(ZaberLS):
    """A simulated slide of its own, which is homed, and out of the beam, when it is connected."""

    async def _place(self) -> dict[str, Any]:
        return await self._stack.enter_async_context(serve(Simulator()))
