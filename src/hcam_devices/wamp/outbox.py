"""Passes samples from agents to the journal, and then to the router."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeAlias

from ..core.device import Sample
from ..journal import Journal
from .session import Session

log = logging.getLogger(__name__)

Kept: TypeAlias = Sample | Exception
"""A sample as the journal has it, or the journal's error."""


class Outbox:
    """Keeps all samples of a turn of the loop in one write, and publishes them afterwards.

    ``session`` is the session that publishes them.
    """

    def __init__(self, journal: Journal, most: int) -> None:
        self.journal, self.most = journal, most
        self.session: Session | None = None
        self._waiting: list[tuple[Sample, Callable[[Kept], None]]] = []

    def add(self, sample: Sample, publish: Callable[[Kept], None]) -> None:
        """Keep a sample at the end of this turn, or at ``flush``; then call ``publish``."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((sample, publish))

    def flush(self) -> None:
        """Keep and publish all samples now. An answer that follows them must not come first."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            kept = self.journal.append_all([sample for sample, _ in waiting], self.most)
            session = self.session if len(waiting) > 1 else None
            with session.together() if session else nullcontext():
                for (sample, publish), result in zip(waiting, kept, strict=True):
                    try:
                        publish(result)
                    except Exception:  # a bug of one device must not stop the others
                        log.exception("%s: a sample was not taken", sample["device"])
            self.journal.note()
