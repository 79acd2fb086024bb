"""Tells people who are not looking: messages from the store, each sent by a child.

Each URL of a recipient is a way, with its own pauses after failures. A message stays in the store
until every way has taken it. That an attempt begins is written before it does: if it is cut short,
the message is sent again, and says that it may have arrived before. After ten in an hour, those
that follow wait, and become one.
"""

import asyncio
import json
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from typing import NamedTuple, TypeAlias
from urllib.error import HTTPError, URLError

from ..config.tables import Notify
from ..host.backoff import Backoff
from ..host.installation import install_extra
from ..wamp.router import with_parent_death_signal
from .news import Message
from .send import MISSING, REFUSED, TAKEN
from .store import Delivery, Store, Waiting

log = logging.getLogger(__name__)

MAX_SEND_S = 30.0
"""A child that takes longer is killed."""
MAX_PER_HOUR, HOUR_S = 10, 3600.0
MAX_LINES = 20
"""A digest has at most this many lines."""
UNDELIVERED_S = 3600.0
"""It is an alarm if a message could not be sent for so long."""
GIVE_UP_S = 86_400.0
"""An older message is news to nobody: it is not tried any more."""
FIRST_PAUSE_S, LAST_PAUSE_S = 5.0, 300.0
PERIOD_S = 1.0
HEARTBEAT_S, HEARTBEAT_WITHIN_S = 60.0, 10.0
MISSED_S = 300.0
"""It is an alarm if no heartbeat was heard for so long."""
NO_APPRISE = "apprise is not installed"
AGAIN = "(sent again: it may have arrived before)"


class Way(NamedTuple):
    """One URL of a recipient. ``name`` contains no secret: ``mailtos (1 of 2)``."""

    to: str
    name: str
    url: str


class Outcome(NamedTuple):
    """Why a message was not taken, or an empty text; whether it may have arrived all the same."""

    error: str = ""
    is_unclear: bool = False


Send: TypeAlias = Callable[[str, str, str], Awaitable[Outcome]]
"""Sends to a URL a title and a body."""
Ask: TypeAlias = Callable[[str], str]


class Notifier:
    """Sends the messages of a store. ``recipients``: those that the instrument file names.

    ``ask`` asks for the URL of the heartbeat, and returns why it was not heard.
    """

    def __init__(
        self,
        store: Store,
        recipients: Mapping[str, Notify],
        title: str,
        *,
        clock: Callable[[], float] = time.time,
        send: Send | None = None,
        heartbeat: str = "",
        ask: Ask | None = None,
    ) -> None:
        self.store, self.title, self.clock = store, title, clock
        self.heartbeat = heartbeat
        self._send, self._ask = send or send_by_child, ask or _ask
        self.ways = {
            to: [
                Way(to, f"{url.partition(':')[0]} ({n} of {len(one.urls)})", url)
                for n, url in enumerate(one.urls, 1)
            ]
            for to, one in recipients.items()
        }
        self._held: list[Waiting] = []
        self._finished: set[int] = set()
        self._deliveries = store.deliveries()
        self._sent: dict[Way, list[float]] = {}
        for ways in self.ways.values():
            for way in ways:
                self._sent[way] = store.sent_since(way.to, way.name, clock() - HOUR_S)
        self._retry: dict[Way, tuple[float, float, Backoff]] = {}
        """When an attempt failed last, the pause (s) after it, and those that follow."""
        self._errors: dict[str, str] = {}
        self.beat_at = clock()
        self.beat_error = ""

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what has to run beside the alarms, by name: each way, and the heartbeat."""
        ways = [way for ways in self.ways.values() for way in ways]
        found: dict[str, Callable[[], Awaitable[None]]] = {
            f"messages to {way.to}, {way.name}": partial(self._serve, way) for way in ways
        }
        if self.heartbeat:
            found["heartbeat"] = self._beat
        return found

    async def _serve(self, way: Way) -> None:
        while True:
            await self.send_due(way)
            await asyncio.sleep(PERIOD_S)

    # --- messages ---------------------------------------------------------------------------

    def hold(self, messages: Iterable[Message]) -> None:
        """Send messages that the disk refuses, from memory."""
        now = self.clock()
        for each in messages:
            number = -1 - len(self._held)
            self._held.append(Waiting(number, each.to, each.alarm, each.text, now))

    def waiting(self) -> list[Waiting]:
        """Return the messages that some way has not taken yet, oldest first."""
        both = [*self.store.waiting(), *self._held]
        return [each for each in both if each.id not in self._finished]

    async def send_due(self, way: Way) -> None:
        """Send over one way what may be sent now, in one message."""
        now = self.clock()
        messages = [each for each in self.waiting() if each.to == way.to]
        messages = [each for each in messages if not self._delivery(each, way).at]
        for old in [each for each in messages if now - each.at > GIVE_UP_S]:
            messages.remove(old)
            self._finish(old, now, f"given up after a day: {self._errors.get(way.to, 'too many')}")
        # Not only less than an hour ago: the clock may have been set back.
        self._sent[way] = [at for at in self._sent[way] if abs(now - at) < HOUR_S]
        failed, pause, _ = self._retry.get(way, (0.0, 0.0, None))
        is_early = 0 <= now - failed < pause
        if not messages or is_early or len(self._sent[way]) >= MAX_PER_HOUR:
            return
        before = {each.id: self._delivery(each, way).doubt for each in messages}
        for each in messages:  # on the disk before anything is sent
            self._note(each, way, Delivery(True, None), self._error_of(each), tries=1)
        title, body = self._worded(messages, before)
        outcome = await self._send(way.url, title, body)
        self._judge(way, messages, before, outcome)

    def _worded(self, messages: list[Waiting], doubt: Mapping[int, bool]) -> tuple[str, str]:
        """Return title and body: one message whole, of several the first lines."""
        firsts = [
            f"{each.text.partition(chr(10))[0]}{f' {AGAIN}' if doubt[each.id] else ''}"
            for each in messages
        ]
        if len(messages) == 1:
            _, _, advice = messages[0].text.partition("\n")
            return f"{self.title}: {firsts[0]}"[:200], "\n".join(filter(None, (firsts[0], advice)))
        lines, more = firsts[:MAX_LINES], len(firsts) - MAX_LINES
        lines.append(f"{f'and {more} more: ' if more > 0 else ''}hcam alarms shows what to do")
        return f"{self.title}: {len(firsts)} messages, first: {firsts[0]}"[:200], "\n".join(lines)

    def _judge(
        self, way: Way, messages: list[Waiting], before: Mapping[int, bool], outcome: Outcome
    ) -> None:
        """Note how an attempt has ended."""
        now = self.clock()
        if outcome.is_unclear or not outcome.error:
            self._sent[way].append(now)
        if outcome.error:
            error = f"{way.name}: {outcome.error}"
            for each in messages:
                doubt = before[each.id] or outcome.is_unclear
                self._note(each, way, Delivery(doubt, None), error)
            first = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
            *_, backoff = self._retry.get(way, (0.0, 0.0, first))
            self._retry[way] = now, backoff.next(), backoff
            if error != self._errors.get(way.to):
                log.error("a message to %s was not sent by %s", way.to, error)
            self._errors[way.to] = error
            return
        self._retry.pop(way, None)
        for each in messages:
            self._note(each, way, Delivery(False, now), self._error_of(each))
            if all(self._delivery(each, other).at for other in self.ways[way.to]):
                self._finish(each, now)

    def _error_of(self, message: Waiting) -> str:
        """Return why other ways have not taken a message yet."""
        ways = self.ways[message.to]
        open_ways = any(way in self._retry and not self._delivery(message, way).at for way in ways)
        return self._errors.get(message.to, "") if open_ways else ""

    def _delivery(self, message: Waiting, way: Way) -> Delivery:
        return self._deliveries.get((message.id, way.name), Delivery(False, None))

    def _note(
        self, message: Waiting, way: Way, delivery: Delivery, error: str, tries: int = 0
    ) -> None:
        self._deliveries[message.id, way.name] = delivery
        if message.id > 0:
            self._keep(
                lambda: self.store.note_delivery(message.id, way.name, delivery, error, tries)
            )

    def _finish(self, message: Waiting, now: float, error: str = "") -> None:
        """Note that a message needs nothing any more; ``error`` says why it was not sent."""
        self._finished.add(message.id)
        if error:
            log.error("a message to %s was not sent: %s", message.to, error)
        if message.id > 0:
            self._keep(lambda: self.store.note_sent(message.id, now, error))

    @staticmethod
    def _keep(write: Callable[[], None]) -> None:
        """Write, unless the disk refuses it: what was sent must not be sent again for that."""
        try:
            write()
        except sqlite3.Error as error:
            log.error("what was sent is not kept: %s", error)

    def forget_strangers(self) -> None:
        """End the messages to those that the instrument file does not name any more."""
        for each in self.waiting():
            if each.to not in self.ways:
                self._finish(each, self.clock(), f"[notify] names nobody called {each.to} any more")

    def undelivered(self) -> str:
        """Return a sentence on a message that waits for too long, or an empty text."""
        old = [each for each in self.waiting() if self.clock() - each.at > UNDELIVERED_S]
        if not old:
            return ""
        first, minutes = old[0], (self.clock() - old[0].at) / 60
        what = "1 message" if len(old) == 1 else f"{len(old)} messages"
        why = self._errors.get(first.to, "there were too many")
        return f"{what}, the first to {first.to} from {minutes:.0f} min ago, not sent: {why}"

    # --- the heartbeat ----------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_S)

    async def beat(self) -> None:
        """Ask for the heartbeat's URL, so that an outside watcher notices if that ends.

        It also ends while messages cannot be sent, because then only the watcher can tell people.
        """
        error = "messages cannot be sent" if self.undelivered() else ""
        error = error or await asyncio.to_thread(self._ask, self.heartbeat)
        if error and error != self.beat_error:
            log.warning("the heartbeat was not heard: %s", error)
        self.beat_error = error
        if not error:
            self.beat_at = self.clock()

    def beat_age(self) -> float | None:
        """Return the time (s) since the last heartbeat was heard; None if there is none to be."""
        return max(self.clock() - self.beat_at, 0.0) if self.heartbeat else None

    def missed(self) -> str:
        """Return a sentence on heartbeats that were not heard for too long, or an empty text."""
        age = self.beat_age()
        if age is None or age < MISSED_S:
            return ""
        return f"no heartbeat was heard for {age / 60:.0f} min: {self.beat_error or 'no answer'}"


def _ask(url: str) -> str:
    """Return why a heartbeat was not heard, without the URL, which may be a secret."""
    from urllib.request import urlopen  # noqa: PLC0415  (most sites have no heartbeat)

    try:
        with urlopen(url, timeout=HEARTBEAT_WITHIN_S):  # noqa: S310  (the file allows only http)
            return ""
    except HTTPError as error:
        return f"HTTP status {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        return getattr(cause, "strerror", None) or type(cause).__name__


async def send_by_child(url: str, title: str, body: str) -> Outcome:
    """Send a message through apprise."""
    return await _child({"url": url, "title": title, "body": body})


async def check_by_child(url: str) -> str:
    """Return why apprise cannot send to a URL, or an empty text; nothing is sent."""
    return (await _child({"url": url})).error


async def _child(asked: Mapping[str, str]) -> Outcome:
    child = await asyncio.create_subprocess_exec(
        *with_parent_death_signal([sys.executable, "-m", f"{__package__}.send"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(MAX_SEND_S):
            said, _ = await child.communicate(json.dumps(asked).encode())
    except TimeoutError:
        return Outcome(f"it took more than {MAX_SEND_S:g} s", is_unclear=True)
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)
            await child.wait()
    if child.returncode == TAKEN:
        return Outcome()
    if child.returncode == MISSING:
        return Outcome(f"{NO_APPRISE}: {install_extra('notify')}")
    reason = said.decode(errors="replace").strip()
    return Outcome(reason or "the child failed", is_unclear=child.returncode != REFUSED)
