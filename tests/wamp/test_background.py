"""A loop in a thread of its own ends all work in it."""

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from hcam_devices.errors import RouterError
from hcam_devices.wamp.background import Background

PATIENCE_S = 60


async def never() -> None:
    await asyncio.Event().wait()


def test_work_that_comes_while_the_loop_ends_is_refused() -> None:
    background = Background()
    begun, ending, go = threading.Event(), threading.Event(), threading.Event()

    async def slow_to_end() -> None:
        try:
            begun.set()
            await never()
        finally:
            ending.set()
            go.wait()  # the other tasks are cancelled by now, and the loop still runs

    with ThreadPoolExecutor() as threads:
        before = threads.submit(background.run, slow_to_end())
        begun.wait()
        closing = threads.submit(background.close)
        ending.wait()
        late = threads.submit(background.run, never())
        go.set()
        with pytest.raises(RouterError, match="was closed"):
            late.result(PATIENCE_S)
        with pytest.raises(CancelledError):
            before.result(PATIENCE_S)
        closing.result(PATIENCE_S)
