"""Threads for work that may hang: a dead file server or a silent name server never answers.

Such work runs in daemon threads. It occupies none of the few threads of asyncio, which everything
else shares, and the process ends without waiting for it.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Question(NamedTuple):
    work: tuple[Callable[..., Any], tuple[Any, ...]]
    since: str
    answer: Future[Any]


_waiting: dict[str, _Question] = {}
"""The one question that each resource is being asked now."""


def begin(work: Callable[..., T], *args: Any) -> Future[T]:
    """Begin some work in a thread to itself, and return its answer, which cannot be cancelled."""
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()  # a caller that stops waiting does not end the work

    def run() -> None:
        try:
            result = work(*args)
        except BaseException as error:  # noqa: BLE001  (the caller is told)
            answer.set_exception(error)
        else:
            answer.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return answer


async def in_own_thread(work: Callable[..., T], *args: Any) -> T:
    """Return what ``work`` returns, or raise what it raises; it has a thread to itself.

    For work that ends. Cancelling stops the wait, not the work.
    """
    return await asyncio.wrap_future(begin(work, *args))


async def ask(resource: str, work: Callable[..., T], *args: Any, within: float) -> T:
    """Return what ``work`` returns, or raise what it raises; a resource does one work at a time.

    ``resource`` names in errors what may hang: ``the folder /data``. While it hangs, nothing else
    is begun there, and a caller with the same work and arguments gets the answer to the first.

    Raises TimeoutError, with the resource and since when, if there is no answer ``within`` that
    many seconds. Work that was begun goes on; work that had to wait for other work was not begun.
    """
    question: _Question | None = None
    try:
        async with asyncio.timeout(within) as deadline:
            while (question := _waiting.get(resource)) and question.work != (work, args):
                try:
                    await asyncio.wrap_future(question.answer)
                except Exception:  # noqa: BLE001, S112  (its own caller gets the error)
                    continue
            if question is None:
                since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                question = _Question((work, args), since, begin(work, *args))
                _waiting[resource] = question
                question.answer.add_done_callback(lambda _: _waiting.pop(resource, None))
            answer: T = await asyncio.wrap_future(question.answer)
            return answer
    except TimeoutError:
        if question and deadline.expired():
            raise TimeoutError(f"no answer from {resource} since {question.since}") from None
        raise  # the work itself raised it
