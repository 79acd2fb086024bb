"""Receives telemetry, decides by its publisher how to record it, and passes it to the replicators.

A sample of a device is accepted if the session that published it has registered the device's name,
and if a journal has its epoch. Telemetry without numbers, under a name that nobody owns (such as
the autoguider's), gets numbers in the recorder's own journal.
"""

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from autobahn.wamp.types import SubscribeOptions

from ..core.device import iso_from_s
from ..core.part import Alarm
from ..journal import DAY_S
from ..journal.commands import commands_of, is_commands
from ..journal.points import MAX_FIELDS, milliseconds
from ..journal.records import Record, record_of
from ..wamp import uris
from ..wamp.owner import Owners
from ..wamp.session import Session
from ..wamp.stream import is_testament
from .journals import NO_ANSWER, Journals
from .replicator import Replicator

log = logging.getLogger(__name__)

RECENT_S = 60.0
"""Alarm on wrong clocks and on telemetry that could not be kept for this long."""
UNEXPLAINED_S = 150.0
"""Alarm on a device whose samples no journal has for longer than two journal checks."""
MAX_APART_S = 120.0
"""Alarm if a live sample is further from this machine's clock; the telescope takes up to 30 s."""
MAX_FOREIGN_NAMES = 100
"""Record telemetry under at most this many names without an owner, such as the autoguider's."""
MAX_UNDECIDED = 1000
"""Keep at most this many samples while the router is asked who owns their names."""
MAX_CULPRITS = 100
"""Count the unrecorded samples of at most this many sessions and names separately."""
MAX_BITS = 1023
"""The largest integers that a double can represent have this many bits."""


@dataclass
class Refusal:
    """Samples that were not recorded: their publisher, times (Unix) and number."""

    who: str
    since: float
    until: float = 0.0
    count: int = 0


class Listener:
    """Receives telemetry from the router. ``heard``: the number of samples so far."""

    def __init__(
        self,
        replicators: list[Replicator],
        journals: Journals,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.replicators, self.journals, self.clock = replicators, journals, clock
        self.owners = Owners()
        self.heard = 0
        self.deciding: set[asyncio.Task[None]] = set()
        self._foreign: dict[str, dict[str, Any]] = {}
        self._names: set[str] = set()
        self._unkept, self._unkept_at = "", -math.inf
        self._cut: set[str] = set()
        self._apart: dict[str, tuple[float, float]] = {}
        self._refused: dict[tuple[str, int | None], Refusal] = {}
        self._unrecorded: set[str] = set()
        self._nameless = 0
        self._unasked = ""
        self._unexplained: dict[str, float] = {}

    async def follow(self, session: Session) -> None:
        """Subscribe to every device through a session, and fetch what was missed before."""
        await self.owners.follow(session)
        await session.subscribe(
            self.hear,
            uris.ALL_TELEMETRY,
            SubscribeOptions(match="wildcard", details_arg="_event"),
        )
        await session.subscribe(
            self.hear_command,
            uris.ALL_COMMANDS,
            SubscribeOptions(match="wildcard", details_arg="_event"),
        )
        self.journals.session = session
        await session.subscribe(self._ask_all, uris.ALL_STATUS, SubscribeOptions(match="wildcard"))
        self._ask_all()

    def _ask_all(self, *_: Any, **__: Any) -> None:
        """Ask every journal now, because the network or a server is available again."""
        for replicator in self.replicators:
            replicator.poll_now()

    def hear(self, *args: Any, _event: Any, **named: Any) -> None:
        """Handle a telemetry event from any publisher."""
        self.heard += 1
        name, publisher = uris.device_of(_event.topic), _event.publisher
        sample, rest = dict(named), list(args)
        if args and isinstance(args[0], dict):
            sample = rest.pop(0) | sample
        if rest:
            sample.setdefault("value", rest)
        if is_testament(sample):
            return  # a testament has no values
        owner = self.owners.known.get(name)
        if publisher is not None and publisher == owner:
            self._hear_device(name, publisher, sample)
        elif (name, publisher) in self.owners.strangers and name in self.owners.known:
            self._hear_stranger(name, publisher, owner, sample)
        elif len(self.deciding) < MAX_UNDECIDED:
            self._decide(self._ask_owner(name, publisher, sample))
        else:
            self._refuse(name, publisher)

    def hear_command(self, *_: Any, _event: Any, **__: Any) -> None:
        """Fetch the commands of a device from the journal; the event itself is not trusted."""
        name, publisher = uris.device_of(_event.topic), _event.publisher
        if name not in self.owners.known and len(self.deciding) < MAX_UNDECIDED:
            self._decide(self._ask_commanded(name, publisher))
        elif publisher is not None and publisher == self.owners.known.get(name):
            self._fetch_commands(name)

    async def _ask_commanded(self, name: str, publisher: int | None) -> None:
        """Fetch commands if, according to the router, their publisher owns the name."""
        try:
            owner = await self.owners.owner(name)
        except NO_ANSWER as error:
            log.debug("commands of %s wait for the next check: %r", name, error)
            return
        if publisher is not None and publisher == owner:
            self._fetch_commands(name)

    def _fetch_commands(self, name: str) -> None:
        for replicator in self.replicators:
            replicator.due.add(commands_of(name))

    def _decide(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that waits for the router, while more telemetry arrives."""
        asking = asyncio.create_task(work)
        self.deciding.add(asking)
        asking.add_done_callback(self.deciding.discard)

    async def _ask_owner(self, name: str, publisher: int | None, sample: dict[Any, Any]) -> None:
        """Handle a sample once the router has named the owner of the name in its topic."""
        try:
            owner = await self.owners.owner(name)
        except NO_ANSWER as error:
            self._unasked = f"{type(error).__name__}: {error}"
            self._fetch(name)
            return
        self._unasked = ""
        if publisher is not None and publisher == owner:
            self._hear_device(name, publisher, sample)
        else:
            if len(self.owners.strangers) < MAX_UNDECIDED:
                self.owners.strangers.add((name, publisher))
            self._hear_stranger(name, publisher, owner, sample)

    def _hear_stranger(
        self, name: str, publisher: int | None, owner: int | None, sample: dict[Any, Any]
    ) -> None:
        """Record a sample under a name that nobody owns; reject it under any other name."""
        if owner is not None or self.journals.knows(name):
            self._refuse(name, publisher)
        elif name in self._names or len(self._names) < MAX_FOREIGN_NAMES:
            self._names.add(name)
            self.hear_foreign(name, sample)
        else:
            self._nameless += 1
            if len(self._unrecorded) < MAX_UNDECIDED:
                self._unrecorded.add(name)

    def _refuse(self, name: str, publisher: int | None) -> None:
        """Count a sample that another session than that of its device published."""
        key, now = (name, publisher), self.clock()
        if key not in self._refused:
            self._fetch(name)
            if len(self._refused) >= MAX_CULPRITS:
                key = "other names", None
            else:
                self._decide(self._identify(key))
        refusal = self._refused.setdefault(key, Refusal(f"session {publisher}", now))
        refusal.count, refusal.until = refusal.count + 1, now

    async def _identify(self, key: tuple[str, int | None]) -> None:
        self._refused[key].who = await self.owners.describe(key[1])
        log.warning("telemetry of %s by %s is not recorded", key[0], self._refused[key].who)

    def _fetch(self, name: str) -> None:
        """Fetch the samples of a device from the journal of its server."""
        if self.journals.knows(name):
            for replicator in self.replicators:
                replicator.due.add(name)

    def _hear_device(self, device: str, publisher: int, sample: dict[Any, Any]) -> None:
        """Handle a sample from the owner of a device's name."""
        try:
            record = record_of(sample)
            if record.device != device:
                raise ValueError(f"{record.device} speaks as {device}")
        except (ValueError, TypeError):
            self.hear_foreign(device, sample)
            return
        if (device, record.epoch) in self.journals.epochs:
            self._unexplained.pop(device, None)
            self._pass_on(record)
        else:
            self._fetch(device)
            if device not in self._unexplained and len(self._unexplained) < MAX_UNDECIDED:
                self._unexplained[device] = self.clock()
                self._decide(self._find_server(device, publisher))

    async def _find_server(self, device: str, publisher: int) -> None:
        """Ask the router which server presents a device, to ask its journal."""
        try:
            server = await self.owners.server(publisher)
        except NO_ANSWER as error:
            log.debug("the router does not tell which server presents %s: %r", device, error)
            self._unexplained.pop(device, None)  # ask again after the next sample
            return
        if server:
            self.journals.present(device, server)
            self._fetch(device)

    def remember_names(self, recorded: Iterable[str]) -> None:
        """Count the names in the recorder's own journal among those that are recorded."""
        self._names.update(
            name for name in recorded if not (is_commands(name) or self.journals.knows(name))
        )

    def hear_foreign(self, device: str, sample: dict[Any, Any]) -> None:
        """Record a sample of another program, or of a device whose journal is full, with a number.

        Values under the names of our own header are kept as ``said.epoch`` and so on.
        """
        said = {str(k): _plain(v) for k, v in sample.items()}
        if said.get("device") == device:
            del said["device"]
        for key in ("device", "seq", "epoch"):
            if (own := said.pop(key, None)) is not None:
                said[f"said.{key}"] = own
        try:
            milliseconds(said["timestamp"])
        except (KeyError, TypeError, ValueError):
            if (own := said.pop("timestamp", None)) is not None:
                said["said.timestamp"] = own
            said["timestamp"] = iso_from_s(self.clock())
        else:
            if said == self._foreign.get(device):
                return  # the same sample, published again after an outage of the router
        try:
            numbered = self.journals.own.append({"device": device} | said)
        except (sqlite3.Error, ValueError) as error:
            before, self._unkept_at = self._unkept_at, self.clock()
            self._unkept = f"{device}: {error}"
            if self._unkept_at - before >= RECENT_S:
                log.error("telemetry without numbers is not recorded: %s", self._unkept)
        else:
            self._unkept = ""
            self._foreign[device] = said
            self._pass_on(record_of(numbered))

    def _pass_on(self, record: Record) -> None:
        apart = record.time / 1000 - self.clock()
        if abs(apart) > MAX_APART_S:
            self._apart[record.device] = self.clock(), apart
        if len(record.shape.columns) >= MAX_FIELDS:
            self._cut.add(record.device)
        for replicator in self.replicators:
            replicator.hear(record)

    def notices(self) -> list[Alarm]:
        """Return alarms about telemetry that is not recorded, or not recorded properly."""
        now = self.clock()
        found = []
        if self._unkept and now - self._unkept_at < RECENT_S:
            found.append(
                Alarm(
                    "journal", "ERR", f"telemetry without numbers is not recorded: {self._unkept}"
                )
            )
        said = []
        if self._cut:
            whose = ", ".join(sorted(self._cut))
            said.append(
                f"only {MAX_FIELDS} fields of each sample of {whose} are recorded: publish fewer"
            )
        if self._unasked:
            said.append(
                f"the router does not tell who publishes ({self._unasked}): meanwhile only samples "
                "in journals are recorded"
            )
        said += self._not_recorded(now)
        if unexplained := self.unexplained():
            said.append(
                f"the samples of {some(sorted(unexplained))} are not recorded, because no journal "
                "has them: check that the journal of their server is on the network"
            )
        recent = {name: one[1] for name, one in self._apart.items() if now - one[0] < RECENT_S}
        if recent:
            furthest = max(recent.values(), key=abs)
            said.append(
                f"the times of {some(sorted(recent))} are up to {abs(furthest):.0f} s "
                f"{'ahead of' if furthest > 0 else 'behind'} this machine's clock, which is at "
                f"{iso_from_s(now)[:19]} UTC: correct the clock that is wrong"
            )
        return found + [Alarm("heard", "WARN", reason) for reason in said]

    def unexplained(self) -> list[str]:
        """Return the devices whose samples have epochs that no journal has."""
        now = self.clock()
        return [name for name, at in self._unexplained.items() if now - at > UNEXPLAINED_S]

    def _not_recorded(self, now: float) -> list[str]:
        """Return sentences about samples that are not recorded because of their publisher."""
        found = []
        recent = {
            key: refused for key, refused in self._refused.items() if now - refused.until < DAY_S
        }
        if recent:
            count = sum(refused.count for refused in recent.values())
            since = min(refused.since for refused in recent.values())
            names = list(dict.fromkeys(name for name, _ in recent))
            who = list(dict.fromkeys(refused.who for refused in recent.values()))
            found.append(
                f"{count} samples under the names of {some(names)} since {iso_from_s(since)[:19]} "
                f"are not recorded, because {some(who, 3)} published them and not the devices' "
                "servers: stop that program, or give it another name"
            )
        if self._nameless:
            found.append(
                f"{self._nameless} samples of {some(sorted(self._unrecorded))} are not recorded: "
                f"no server owns these names, and {MAX_FOREIGN_NAMES} such names are already "
                "recorded; stop the program that invents names"
            )
        return found


def some(names: list[str], most: int = 5) -> str:
    """Return names as text: up to ``most``, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value in a form that JSON can represent."""
    if isinstance(value, dict) and depth < 8:
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list) and depth < 8:
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return None
    return value if isinstance(value, bool | int | str | None) else repr(value)[:1000]
