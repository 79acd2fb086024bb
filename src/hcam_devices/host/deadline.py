"""Deadlines that allow more time while this process is stopped or busy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MIN_TURNS = 30
"""Let the loop turn this many times before a deadline, however late it is. An answer of a simulator
in this process takes about five turns, a session with the router about twenty."""


class Deadline:
    """Calls ``expire`` after some seconds in which this process was able to read answers.

    The second half of the time is waited for in steps, and a step that ends late counts as one. So
    when a process was stopped, or its loop was busy, the loop still turns MIN_TURNS times before
    the deadline. Most answers come in the first half, which costs one timer.
    """

    def __init__(self, seconds: float, expire: Callable[[], object]) -> None:
        self._step, self._steps_left, self._expire = seconds / 2 / MIN_TURNS, MIN_TURNS, expire
        self._loop = asyncio.get_running_loop()
        self.expired = False
        self._timer = self._loop.call_later(seconds / 2, self._end_step)

    def _end_step(self) -> None:
        if self._steps_left:
            self._steps_left -= 1
            self._timer = self._loop.call_later(self._step, self._end_step)
        else:
            self.expired = True
            self._expire()

    def cancel(self) -> None:
        """Stop the timer, so that ``expire`` is not called."""
        self._timer.cancel()


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Act as ``asyncio.timeout``, but allow more time while this process is stopped or busy."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        deadline = Deadline(seconds, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            deadline.cancel()
