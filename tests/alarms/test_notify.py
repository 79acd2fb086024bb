"""Messages to people: over each way at least once, said so when perhaps twice, and not too many."""

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.alarms import notify
from hcam_devices.alarms.news import Message
from hcam_devices.alarms.notify import AGAIN, Notifier, Outcome
from hcam_devices.alarms.store import Store
from hcam_devices.config.tables import Notify

from .bench import NOON
from .sinks import webhook

URLS = ["json://user:secret@127.0.0.1/token", "mailto://127.0.0.1/"]
REFUSED, UNCLEAR = Outcome("HTTP status 500"), Outcome("no answer in time", is_unclear=True)


class Post:
    """A notifier with a store, a clock that the test turns, and services that answer as told."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        self.folder, self.urls, self.now = folder, urls, NOON
        self.answers: dict[str, Outcome] = {}
        self.got: dict[str, list[tuple[str, str]]] = {url: [] for url in urls}
        self.tried: list[float] = []
        self.numbers = itertools.count(1)
        self.beats: list[str] = []
        self.start()

    def start(self, *, to: str = "observer") -> None:
        """Begin as a new process would: with what is on the disk."""
        self.store = Store(self.folder / "alarms.sqlite", self.clock)
        self.notifier = Notifier(
            self.store,
            {to: Notify(urls=self.urls)},
            "Ours",
            clock=self.clock,
            send=self.send,
            heartbeat="http://127.0.0.1:1/secret",
            ask=self.ask,
        )
        self.notifier.forget_strangers()

    def clock(self) -> float:
        return self.now

    def ask(self, url: str) -> str:
        self.beats.append(url)
        return ""

    async def send(self, url: str, title: str, body: str) -> Outcome:
        self.tried.append(self.now)
        outcome = self.answers.get(url, Outcome())
        if not outcome.error:
            self.got[url].append((title, body))
        return outcome

    def enter(self, text: str = "", to: str = "observer") -> None:
        text = text or f"ERR g{next(self.numbers)}.pressure: 2 mbar\nClose the valve."
        self.store.keep([], [], [Message(to, "g1.pressure", 1, to, text)])

    async def after(self, seconds: float, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            for ways in self.notifier.ways.values():
                for way in ways:
                    await self.notifier.send_due(way)
            self.now += step

    @property
    def bodies(self) -> list[str]:
        return [body for _, body in self.got[self.urls[0]]]


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    made = Post(tmp_path, URLS[:1])
    yield made
    made.store.close()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Post]:
    made = Post(tmp_path, URLS)
    yield made
    made.store.close()


async def test_a_message_is_sent_once_with_what_to_do(post: Post) -> None:
    post.enter()
    await post.after(100)
    ((title, body),) = post.got[URLS[0]]
    assert title == "Ours: ERR g1.pressure: 2 mbar"
    assert body == "ERR g1.pressure: 2 mbar\nClose the valve."
    (message,) = post.store.messages(0)
    assert message["sent"] == "2026-11-21T12:00:00.000Z"
    assert (message["tries"], message["error"], message["may_be_twice"]) == (1, "", False)
    post.start()
    await post.after(100)
    assert len(post.bodies) == 1


async def test_a_way_that_refuses_is_tried_with_growing_pauses_and_no_other_is(both: Post) -> None:
    both.answers[URLS[0]] = REFUSED
    both.enter()
    await both.after(80)
    assert both.tried == [NOON + after for after in (0, 0, 5, 15, 35, 75)]
    assert len(both.got[URLS[1]]) == 1
    (message,) = both.store.messages(0)
    assert message["sent"] is None
    assert message["error"] == "json (1 of 2): HTTP status 500"
    both.answers.clear()
    await both.after(160)
    assert [len(got) for got in both.got.values()] == [1, 1]
    assert both.store.messages(0)[0]["sent"]


async def test_only_the_ways_that_are_left_are_tried_after_a_restart(both: Post) -> None:
    both.answers[URLS[0]] = REFUSED
    both.enter()
    await both.after(2)
    both.start()
    both.answers.clear()
    await both.after(2)
    assert [len(got) for got in both.got.values()] == [1, 1]
    assert AGAIN not in both.bodies[0], "it was refused, so it did not arrive"


async def test_a_message_says_that_it_may_have_arrived_before(post: Post) -> None:
    class Killed(BaseException):
        """The end of a process, which it does not notice."""

    async def killed(*_: str) -> Outcome:
        raise Killed

    post.notifier._send = killed
    post.enter()
    with pytest.raises(Killed):
        await post.after(1)
    assert post.store.messages(0)[0]["may_be_twice"]
    post.start()
    await post.after(2)
    assert post.bodies == [f"ERR g1.pressure: 2 mbar {AGAIN}\nClose the valve."]
    assert not post.store.messages(0)[0]["may_be_twice"]


async def test_a_service_that_hangs_may_have_taken_it(post: Post) -> None:
    post.answers[URLS[0]] = UNCLEAR
    post.enter()
    await post.after(1)
    post.answers[URLS[0]] = REFUSED
    await post.after(10)
    post.answers.clear()
    await post.after(60)
    assert AGAIN in post.bodies[0]


async def test_a_service_that_hangs_gets_ten_an_hour(post: Post) -> None:
    post.answers[URLS[0]] = UNCLEAR
    post.enter()
    await post.after(3600, step=5)
    assert len(post.tried) <= notify.MAX_PER_HOUR


async def test_after_ten_in_an_hour_those_that_follow_become_one(post: Post) -> None:
    for _ in range(10):
        post.enter()
        await post.after(2)
    assert len(post.bodies) == 10
    for _ in range(25):
        post.enter()
    post.start()
    await post.after(3570, step=10)
    assert len(post.bodies) == 10, "a restart does not make it forget how many there were"
    await post.after(40, step=10)
    title, body = post.got[URLS[0]][-1]
    assert title == "Ours: 25 messages, first: ERR g11.pressure: 2 mbar"
    lines = body.splitlines()
    assert lines[0] == "ERR g11.pressure: 2 mbar"
    assert lines[-1] == "and 5 more: hcam alarms shows what to do"
    assert len(lines) == 21
    assert not post.notifier.waiting()


async def test_a_message_does_not_wait_because_the_clock_was_set_back(post: Post) -> None:
    post.answers[URLS[0]] = REFUSED
    post.enter()
    await post.after(1)
    post.answers.clear()
    post.now -= 86_400
    await post.after(10)
    assert len(post.bodies) == 1


async def test_ten_an_hour_do_not_silence_a_day_because_the_clock_was_set_back(post: Post) -> None:
    for _ in range(10):
        post.enter()
        await post.after(1)
    post.now -= 86_400
    post.enter()
    await post.after(1)
    assert len(post.bodies) == 11


async def test_what_could_not_be_sent_for_an_hour_is_an_alarm(post: Post) -> None:
    post.answers[URLS[0]] = REFUSED
    post.enter()
    await post.after(3600, step=5)
    assert not post.notifier.undelivered()
    await post.after(10)
    assert post.notifier.undelivered() == (
        "1 message, the first to observer from 60 min ago, not sent: json (1 of 1): HTTP status 500"
    )


async def test_after_a_day_it_is_given_up_and_said(post: Post, caplog: Any) -> None:
    post.answers[URLS[0]] = REFUSED
    post.enter()
    await post.after(86_700, step=100)
    assert not post.notifier.waiting()
    (message,) = post.store.messages(0)
    assert message["given_up"]
    assert message["sent"] is None
    assert message["error"] == "given up after a day: json (1 of 1): HTTP status 500"
    assert "a message to observer was not sent: given up after a day" in caplog.text
    assert "secret" not in caplog.text
    assert "token" not in caplog.text


async def test_whom_the_file_does_not_name_any_more_gets_nothing(post: Post, caplog: Any) -> None:
    post.enter()
    post.start(to="support")
    await post.after(5)
    assert not post.bodies
    assert "[notify] names nobody called observer any more" in caplog.text


class Full:
    """A disk that is full: everything can be read, and nothing written."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        if name.startswith("note"):
            raise sqlite3.OperationalError("database or disk is full")
        return getattr(self.store, name)


async def test_a_full_disk_neither_silences_nor_repeats_messages(post: Post, caplog: Any) -> None:
    post.enter()
    post.notifier.store = Full(post.store)  # type: ignore[assignment]
    post.notifier.hold([Message("observer", "alarms.store", 1, "observer", "ERR the disk is full")])
    await post.after(100)
    (body,) = post.bodies
    assert body.splitlines()[:2] == ["ERR g1.pressure: 2 mbar", "ERR the disk is full"]
    assert "what was sent is not kept: database or disk is full" in caplog.text


# --- the heartbeat --------------------------------------------------------------------------


async def test_a_heartbeat_is_heard_and_missed(post: Post) -> None:
    await post.notifier.beat()
    assert post.beats == ["http://127.0.0.1:1/secret"]
    post.now += 20
    assert post.notifier.beat_age() == 20
    post.notifier._ask = lambda _: "HTTP status 404"
    post.now += 290
    await post.notifier.beat()
    assert post.notifier.missed() == "no heartbeat was heard for 5 min: HTTP status 404"


async def test_the_heartbeat_ends_while_nobody_can_be_told(post: Post) -> None:
    post.answers[URLS[0]] = REFUSED
    post.enter()
    await post.after(3700, step=5)
    await post.notifier.beat()
    assert not post.beats
    assert post.notifier.beat_error == "messages cannot be sent"


async def test_a_heartbeat_says_why_it_was_not_heard_and_not_where() -> None:
    async with webhook() as watcher:
        url = f"http://127.0.0.1:{watcher.port}/secret"
        assert await asyncio.to_thread(notify._ask, url) == ""
        assert watcher.taken == ["/secret"]
        watcher.answer = "refuse"
        assert await asyncio.to_thread(notify._ask, url) == "HTTP status 500"
    assert await asyncio.to_thread(notify._ask, url) == "Connection refused"
    assert "secret" not in notify._ask("http://127.0.0.1:port/secret")
