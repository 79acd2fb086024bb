"""``hwalarm``: hears every device, judges, and presents the alarms as one device, ``alarms``."""

import asyncio
import ctypes
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, ClassVar

from autobahn.wamp.exception import TransportLost
from autobahn.wamp.types import SubscribeOptions

from ..config.instrument import ALARMS, Entry, Instrument
from ..core.device import Device, Sample, iso_from_s
from ..core.fields import CALLER, Procedure, Readback, Value, rpc
from ..core.link import Lasting
from ..core.part import Alarm
from ..host.home import exclusive, home
from ..journal import DAY_S, Journal
from ..journal.points import night_bounds, night_named
from ..wamp import uris
from ..wamp.server import Server, Task, until_told
from ..wamp.session import Session, keep_joined
from ..wamp.sources import RemoteSources
from ..wamp.uris import Address
from .board import SYSTEM, Board
from .news import Change, Message
from .notify import Notifier
from .record import Record, counts, oldest_unacknowledged
from .report import report
from .rules import Rules
from .store import Store

log = logging.getLogger(__name__)

TICK_S = 0.25
MARKED = ("raised", "worse", "acknowledged", "cleared")
"""The events that are a text in telemetry, for the marks on plots of the history."""
MAX_REPLY_BYTES = 500_000
"""A reply has at most this much JSON, which always fits into a message of the router."""
MAX_NEWS = 20
"""A sample names at most so many of them."""
WATCHED_PERIOD_S = 15.0
"""Note this often, on the disk, that the instrument is watched."""
UNWATCHED_S = 30.0
"""It is an alarm if no telemetry was heard for so long."""
STAGES = {"observer": 180.0, "support": 600.0}
"""Who is told of an error after how many seconds without an acknowledgment."""
UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY_S}


class Alarms(Device):
    """The alarms of the instrument: how many there are, and what people do about them."""

    link_type = Lasting
    poll_every = 5.0
    advice: ClassVar[dict[str, str]] = {
        "heard": "Nobody watches the instrument: look at its displays. Start the router and the "
        "servers again: hcam doctor says what does not run.",
        "store": "Make room on the disk of hwalarm: acknowledgments are lost if it ends.",
        "undelivered": "Call the people who should have been told: hcam alarms lists what for. "
        "Then let support correct [notify] in the instrument file.",
        "heartbeat": "Nobody elsewhere notices now if this machine ends: let support look at the "
        "network, and at heartbeat in [notify] of the instrument file.",
    }

    errors = Readback(kind=int, doc="Errors that nobody has acknowledged.")
    warnings = Readback(kind=int, doc="Warnings that nobody has acknowledged.")
    acknowledged = Readback(kind=int, doc="Alarms that somebody has acknowledged and that last.")
    returned = Readback(kind=int, doc="Errors that are over and that nobody has acknowledged.")
    shelved = Readback(kind=int, doc="Alarms that are hidden for some time.")
    suppressed = Readback(kind=int, doc="Alarms that are hidden because another one explains them.")
    hidden = Readback(
        name="out_of_service", kind=int, doc="Alarms that are hidden until an engineer ends it."
    )
    oldest = Readback(unit="s", doc="Age of the oldest alarm that nobody has acknowledged.")
    flood = Readback(kind=bool, doc="Whether there are so many new alarms that WARN is not told.")
    heard = Readback(unit="1 / s", doc="Telemetry events per second that are judged.")
    undelivered = Readback(kind=int, doc="Messages that wait to be sent.")
    changes = Readback(
        kind=str, doc="What alarms were raised, got worse, were acknowledged, or are over now."
    )
    heartbeat = Readback(unit="s", doc="Age of the last heartbeat that the outside watcher heard.")

    def __init__(self, name: str, *, watch: "Watch | None" = None, **settings: Any) -> None:
        self._watch = watch
        super().__init__(name, **settings)

    @property
    def watch(self) -> "Watch":
        """What keeps the alarms."""
        assert self._watch  # noqa: S101  (without it the device is only described)
        return self._watch

    @property
    def board(self) -> Board:
        """The alarms."""
        return self.watch.board

    async def read(self, field: Readback) -> Value | None:
        """Return one figure."""
        match field.name:
            case "oldest":
                return oldest_unacknowledged(self.board.records.values(), self.clock())
            case "flood":
                return self.board.escalation.flood_since is not None
            case "heard":
                return self.watch.rate()
            case "undelivered":
                return len(self.watch.notifier.waiting())
            case "changes":
                return self.watch.changes()
            case "heartbeat":
                return self.watch.notifier.beat_age()
        return counts(self.board.records.values())[field.name]

    def notices(self) -> Iterable[Alarm]:
        """Return alarms of the alarm system itself."""
        return self._watch.notices() if self._watch else ()

    # --- procedures -------------------------------------------------------------------------

    def procedures(self) -> dict[str, Procedure]:
        """Return the procedures; ``list`` would hide a word of Python in the class."""
        return super().procedures() | {"list": Procedure(self._list, read_only=True)}

    def _list(self) -> list[dict[str, Any]]:
        """Return every alarm that is not normal, or that is hidden by a person; worst first."""
        return self.board.list()

    @rpc(read_only=True)
    def log(
        self,
        alarm: str | None = None,
        last: str | None = None,
        start: str | None = None,
        end: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return what happened to an alarm, or to all, oldest first, in 24 hours or another time.

        ``last`` is a duration such as 12h, ``start`` and ``end`` are times (UTC, ISO 8601). If it
        is more than 500 kB, only the newest events are returned: ask with an earlier ``end``.
        """
        until = _moment(end, self.clock())
        since = _moment(start, until - _duration(last or "24h"))
        return _newest(self.watch.store.events(since, until, alarm))

    @rpc(read_only=True)
    def report(self, night: str = "tonight") -> dict[str, Any]:
        """Return the figures of a night (2026-11-22), and what is wrong with them."""
        now = self.clock()
        named = night_named(night, round(now * 1000))
        start, end = (time / 1000 for time in night_bounds(named))
        end = min(end, max(now, start + 1))
        events = self.watch.store.events(start, end)
        return {"night": named} | report(events, self.board.list(), start, end)

    @rpc()
    def acknowledge(self, alarm: str, occurrence: int, note: str = "") -> dict[str, Any]:
        """Acknowledge one occurrence of an alarm: you have seen it and look after it."""
        return self.board.acknowledge(alarm, occurrence, CALLER.get(), note)

    @rpc()
    def shelve(self, alarm: str, minutes: float, reason: str) -> dict[str, Any]:
        """Hide an alarm for some minutes (an error at most 60, a warning 720), until noon UTC."""
        return self.board.shelve(alarm, minutes, reason, CALLER.get())

    @rpc()
    def unshelve(self, alarm: str) -> dict[str, Any]:
        """Show a shelved alarm again."""
        return self.board.unshelve(alarm, CALLER.get())

    @rpc()
    def handover(self, note: str = "", *, confirmed: bool = False) -> dict[str, Any]:
        """Log what the next observer has to know, and return it; the next one confirms it."""
        listed = [
            {key: record[key] for key in ("alarm", "state", "severity", "reason", "since")}
            | {key: record[key] for key in ("acknowledged", "shelved", "out_of_service")}
            for record in self.board.list()
            if record["state"] != "pending" and not record["suppressed"]
        ]
        if len(note) > 2000:
            raise ValueError("note must be a text of at most 2000 characters")
        event = "handover_confirmed" if confirmed else "handover"
        told: dict[str, Any] = {"note": note, "alarms": listed}
        self.board.tell(event, CALLER.get(), told)
        return {"by": CALLER.get(), "at": iso_from_s(self.clock())} | told

    @rpc()
    def test(self, to: str) -> str:
        """Send a test message to a recipient of [notify] in the instrument file."""
        if to not in self.watch.notifier.ways:
            known = ", ".join(self.watch.notifier.ways) or "none"
            raise ValueError(f"nobody is called {to!r:.60} in [notify]; there are {known}")
        text = f"This is a test by {CALLER.get() or 'somebody'}: alarms arrive here."
        self.board.tell("tested", CALLER.get(), {"to": to}, [Message(to, "", 0, "test", text)])
        return f"a message to {to} waits to be sent"

    @rpc(read_only=True)
    def messages(self, last: str = "24h") -> list[dict[str, Any]]:
        """Return the messages to people, oldest first, in a time such as 12h; all that wait."""
        return _newest(self.watch.store.messages(self.clock() - _duration(last)))

    @rpc(audience="engineer", label="Out of service")
    def out_of_service(self, alarm: str, reason: str) -> dict[str, Any]:
        """Hide an alarm until it is in service again; every handover names it."""
        return self.board.out_of_service(alarm, reason, CALLER.get())

    @rpc(audience="engineer")
    def in_service(self, alarm: str) -> dict[str, Any]:
        """Show an alarm again that was out of service."""
        return self.board.in_service(alarm, CALLER.get())


class Watch:
    """What ``hwalarm`` does: it hears, judges, keeps, and tells."""

    def __init__(
        self,
        entries: Iterable[Entry],
        instrument: Instrument,
        store: Store,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.clock, self.steady = store, clock, steady
        entries = list(entries)
        self.notifier = Notifier(
            store, instrument.notify, instrument.title, clock=clock, heartbeat=instrument.heartbeat
        )
        self.notifier.forget_strangers()
        stages = {
            name: STAGES.get(name, 0.0) if one.after is None else one.after
            for name, one in instrument.notify.items()
        }
        rules = Rules(entries, instrument.alarms)
        self.board = Board(rules, self._keep, store.kept, clock=clock, steady=steady, stages=stages)
        self.board.nobody_heard()
        self.sources = RemoteSources(
            (entry for entry in entries if entry.server != ALARMS), retained=True
        )
        for source in self.sources.devices.values():
            source.listeners.append(self._hear)
        self._servers = {entry.server for entry in entries}
        self._statuses: dict[str, dict[str, Any]] = {}
        self._session: Session | None = None
        self._heard, self._counted = 0, (steady(), 0)
        self._heard_at = steady()
        self._watched: float | None = store.note("watched")
        self._unkept = ""
        self._news: list[str] = []
        self._backlog: tuple[dict[str, Record], list[Change]] = {}, []
        self.board.forget_strangers()

    # --- hearing ----------------------------------------------------------------------------

    async def follow(self, session: Session) -> None:
        """Hear every device and server through a session."""
        session.over.add_done_callback(lambda _: self.board.nobody_heard())
        self._session = session
        await self.sources.follow(session)
        for server in sorted(self._servers):
            options = SubscribeOptions(get_retained=True)
            await session.subscribe(self._hear_status, uris.status(server), options)
        self.board.listening()

    def _hear(self, sample: Sample) -> None:
        self._heard += 1
        now = self.clock()
        if self._watched is not None and now - self._watched > UNWATCHED_S:
            self._note_gap(self._watched, now)
        if self._watched is None or abs(now - self._watched) > WATCHED_PERIOD_S:
            self._watched = now
            if self._safely(lambda: self.store.note("watched", now)) and any(self._backlog):
                self._keep((), [], [])  # the disk is there again
        self._heard_at = self.steady()
        self.board.hear(sample)

    def _note_gap(self, start: float, end: float) -> None:
        gap = {"start": iso_from_s(start), "end": iso_from_s(end)}
        log.warning("the instrument was unwatched %s-%s", gap["start"][11:16], gap["end"][11:16])
        self.board.tell("unwatched", SYSTEM, gap)

    def _hear_status(self, status: Any = None, *_: Any, **__: Any) -> None:
        """Judge a status event, unless it is the end of another process of a running server."""
        if not isinstance(status, dict) or status.get("server") not in self._servers:
            return
        server, state = status["server"], status.get("state")
        known = self._statuses.get(server, status)
        same = all(known.get(key) == status.get(key) for key in ("host", "pid", "since"))
        if same or state == "running" or known.get("state") != "running":
            self._statuses[server] = status
            self.board.hear_status(server, running=state == "running")

    def rate(self) -> float:
        """Return the telemetry events per second since the last call."""
        now, (before, counted) = self.steady(), self._counted
        self._counted = now, self._heard
        return (self._heard - counted) / max(now - before, 1e-3)

    async def tick(self) -> None:
        """Do what is due, for ever."""
        while True:
            self.board.tick()
            await asyncio.sleep(TICK_S)

    def notices(self) -> Iterable[Alarm]:
        """Yield alarms of the alarm system itself."""
        silence = self.steady() - self._heard_at
        if silence > UNWATCHED_S:
            yield Alarm("heard", "ERR", f"no telemetry was heard for {silence:.0f} s")
        for reason in filter(None, (self._unkept, self.store.damaged)):
            yield Alarm("store", "ERR", reason)
        if reason := self.notifier.undelivered():
            yield Alarm("undelivered", "ERR", reason)
        if reason := self.notifier.missed():
            yield Alarm("heartbeat", "WARN", reason)

    # --- keeping and telling ----------------------------------------------------------------

    def _keep(
        self, records: Iterable[Record], changes: list[Change], messages: list[Message]
    ) -> None:
        """Keep changes, and then publish them; without a disk both come later, but for messages."""
        unkept, earlier = self._backlog
        unkept |= {record.alarm: record for record in records}
        earlier = [*earlier, *changes]
        self._backlog = {}, []

        def keep() -> None:
            for event in self.store.keep(unkept.values(), earlier, messages):
                self._publish(event)

        if not self._safely(keep):
            self._backlog = unkept, earlier[-1000:]
            self.notifier.hold(messages)

    def _safely(self, work: Callable[[], Any]) -> bool:
        try:
            work()
        except sqlite3.Error as error:
            reason = f"alarms are not kept: {self.store.path}: {error}"
            if reason != self._unkept:
                log.error("%s", reason)
            self._unkept = reason
            return False
        self._unkept = ""
        return True

    def changes(self) -> str | None:
        """Return the changes since the last call, a line each; None if there are none."""
        found, self._news = self._news, []
        return "\n".join(found) or None

    def _publish(self, event: dict[str, Any]) -> None:
        if event["event"] in MARKED:
            reason = f"{event['severity']} {event['alarm']} {event['event']}: {event['reason']}"
            self._news = [*self._news, reason][-MAX_NEWS:]
        level = logging.DEBUG if event["event"] == "updated" else logging.INFO
        log.log(level, "%s %s by %s", event["event"], event.get("alarm", ""), event["by"])
        if self._session and self._session.is_attached():
            try:
                self._session.publish(uris.changed("alarms"), event)
            except TransportLost:
                log.debug("event %s is only on the disk", event["seq"])


def entry_of(watch: Watch | None = None) -> Entry:
    """Return the alarms as a device of an instrument; without ``watch`` it is idle."""
    return Entry("alarms", Alarms, ALARMS, (), {"watch": watch} if watch else {})


def serve(instrument: Instrument, recorder: Entry, address: Address) -> None:
    """Run the alarms in this process until SIGINT or SIGTERM."""
    folder = home()
    with ExitStack() as stack:
        stack.enter_context(exclusive(folder / "locks", "alarms.sqlite"))
        store = Store(folder / "alarms.sqlite")
        stack.callback(store.close)
        watch = Watch([*instrument.entries.values(), recorder, entry_of()], instrument, store)

        def beside(server: Server, journal: Journal) -> dict[str, Task]:
            server.devices["alarms"].listeners.append(watch.board.hear)
            tasks: dict[str, Task] = {
                "telemetry": lambda: keep_joined(address, watch.follow, owner=server.owner),
                "alarms": watch.tick,
            }
            return tasks | watch.notifier.tasks()

        server = Server(ALARMS, [entry_of(watch)], address, folder, emulate=False, beside=beside)
        log.info("%s watches %d devices", ALARMS, len(instrument.entries) + 1)
        # 1 MB that was needed only to read the instrument file
        ctypes.CDLL(None).malloc_trim(0)
        asyncio.run(until_told(server))


def _newest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return as many of the last entries as fit into a reply."""
    room = MAX_REPLY_BYTES
    for before in range(len(found), 0, -1):
        room -= len(json.dumps(found[before - 1])) + 2
        if room < 0:
            return found[before:]
    return found


def _moment(text: str | None, default: float) -> float:
    """Return a time (UTC, ISO 8601) as Unix time. Raises ValueError if it is none."""
    if text is None:
        return default
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _duration(text: str) -> float:
    """Return a duration such as ``12h`` in seconds. Raises ValueError if it is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    if not match or match[2] not in UNITS_S:
        raise ValueError(f"{text!r:.60} is not a duration such as 90s, 15m, 12h or 7d")
    return float(match[1]) * UNITS_S[match[2]]
