"""Messages of ``hcam up`` about its child processes, also when their logs cannot be written."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hcam_devices.cli import supervisor
from hcam_devices.cli.supervisor import NEWS_PERIOD_S, Child, News, last_line

from ..helpers import AT_MOST, Clock


def test_news_are_shown_for_some_minutes() -> None:
    clock = Clock()
    news = News(clock)
    news.add("the clock was set")
    clock.now += NEWS_PERIOD_S - 1
    assert news.recent == "08:00:00 UTC the clock was set"
    clock.now += 1
    assert [news.recent] == [""]


async def test_news_are_printed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    enough = asyncio.Event()

    def show(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            enough.set()

    async def at_once(seconds: float) -> None:
        for _ in range(3):
            await yielded(0)

    yielded = asyncio.sleep
    monkeypatch.setattr(supervisor, "show", show)
    monkeypatch.setattr(asyncio, "sleep", at_once)
    news = News(Clock())
    printing = asyncio.create_task(news.print_all())
    news.add("one")
    for _ in range(20):
        await yielded(0)
    news.add("two")
    async with asyncio.timeout(AT_MOST):
        await enough.wait()
    printing.cancel()
    assert said == ["08:00:00 UTC one", "08:00:00 UTC two"]


async def ends(child: Child, times: int) -> None:
    """Keep a child running until it has ended so often."""
    over, note_end = asyncio.Event(), child.note_end

    def note(status: int | str | None) -> None:
        note_end(status)
        if child.restarts == times:
            over.set()

    child.note_end = note  # type: ignore[method-assign]
    running = asyncio.create_task(child.keep_running())
    async with asyncio.timeout(AT_MOST):
        await over.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_child_runs_although_its_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("where the folder of logs would be")
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    ran = tmp_path / "ran"
    child = Child("hwserver", [sys.executable, "-c", f"open({str(ran)!r}, 'w')"], {}, News())
    await ends(child, 1)
    assert ran.exists()
    assert "cannot be read" in child.news.recent


async def test_a_child_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))

    async def none_left(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", none_left)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    child = Child("hwserver", ["hwserver"], {}, News())
    await ends(child, 3)
    assert "Resource temporarily unavailable" in child.news.recent


def test_the_end_of_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "cannot be read" in last_line(tmp_path / "hwserver.log")
