"""The alarms as text: ``hcam alarms``, and the lines about them in ``status`` and ``watch``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any

from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions

from .. import HcamError
from ..core.device import iso_from_s
from ..errors import InvalidArgumentError, NoSuchProcedureError, NotAllowedError
from ..names import did_you_mean
from ..wamp import uris, utils
from ..wamp.session import Session, keep_joined
from ..wamp.stream import is_testament
from ..wamp.uris import Address
from .commands import typed
from .troubles import count, short

DEVICE = "alarms"
SILENT_AFTER_S = 15.0
"""The alarm system publishes every 5 s; after this time it is said to be silent."""
TEST_WITHIN_S = 60.0
LOG_WITHIN_S = 10.0
"""Wait for the log at most this long, before what was held meanwhile is told."""
AROUND_S, PARTS = 60.0, 6
WORDS = {"active": "", "acknowledged": "acknowledged", "returned": "over, nobody saw it"}
EVENTS = {"handover": "handed over", "handover_confirmed": "confirmed the handover"}

Record = Mapping[str, Any]


def ask(procedure: str, *args: Any, **kwargs: Any) -> Any:
    """Call a procedure of the alarms. Raises HcamError if hwalarm does not run."""
    try:
        return utils.call(uris.rpc(DEVICE, procedure), *args, **kwargs)
    except NoSuchProcedureError:
        how = "hcam up starts it, or systemctl start hcam-hwalarm"
        raise HcamError(f"hwalarm is not running: {how}") from None


def is_hidden(record: Record) -> bool:
    """Return whether a flag hides an alarm."""
    return bool(record["shelved"] or record["suppressed"] or record["out_of_service"])


def is_shown(record: Record) -> bool:
    """Return whether people have to see an alarm."""
    return record["state"] in WORDS and not is_hidden(record)


def rows(records: Iterable[Record]) -> list[list[Record]]:
    """Return the alarms that are shown, those together that came together and are alike."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if is_shown(record):
            field = record["alarm"].partition(".")[2]
            key = record["first"], field, record["severity"], record["state"]
            found.setdefault(key, []).append(record)
    return list(found.values())


def line(row: list[Record]) -> str:
    """Return one line on alarms that came together."""
    first = row[0]
    names = ", ".join(record["alarm"] for record in row)
    text = f"{first['severity']:4} {names} since {short(first['since'])}: {first['reason']}"
    more = [WORDS[first["state"]]]
    if done := first["acknowledged"]:
        note = f", {done['note']!r}" if done["note"] else ""
        more = [f"acknowledged by {done['by']} at {short(done['at'])}{note}"]
    if first["state"] == "returned":
        more = [f"over at {short(first['cleared'])}, nobody saw it"]
    if (often := max(record["count"] for record in row)) > 2:
        more.append(f"{often} times")
    if first["escalated"]:
        more.append(f"told to {first['escalated']}")
    told = "; ".join(filter(None, more))
    return f"{text} ({told})" if told else text


def table(records: list[Record]) -> Iterator[str]:
    """Yield lines on all alarms: what is shown, what to do, and what is hidden."""
    shown = rows(records)
    for row in shown:
        yield line(row)
        if row[0]["state"] != "returned" and row[0]["advice"]:
            yield f"     -> {row[0]['advice']}"
    if not shown:
        yield "no alarms"
    yield from hidden(records)


def hidden(records: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each alarm that a person hides, and the number of those with a cause."""
    suppressed = 0
    for record in records:
        if out := record["out_of_service"]:
            since = short(out["at"])
            yield f"out of service: {record['alarm']} by {out['by']} since {since}: {out['reason']}"
        elif shelf := record["shelved"]:
            until = short(shelf["until"])
            yield f"shelved: {record['alarm']} by {shelf['by']} until {until}: {shelf['reason']}"
        elif record["suppressed"] and record["state"] in WORDS:
            suppressed += 1
    if suppressed:
        yield f"hidden: {count(suppressed, 'alarm')} that others explain, or that will pass"


def acknowledge(pattern: str, note: str) -> Iterator[Record]:
    """Acknowledge an alarm, or those that match a glob and are shown now; yield each.

    One that is over, or has come again meanwhile, does not keep the others from it: HcamError is
    raised at the end.
    """
    known = [one for one in ask("list") if one["state"] in ("active", "returned")]
    matched = [one for one in known if one["alarm"] == pattern] or [
        one for one in known if is_shown(one) and fnmatchcase(one["alarm"], pattern)
    ]
    if not matched:
        names = [one["alarm"] for one in known]
        there = ", ".join(names) or "none"
        raise HcamError(
            f"there is no {pattern} to acknowledge; there are {there}{did_you_mean(pattern, names)}"
        )
    refused = []
    for record in matched:
        try:
            yield ask("acknowledge", record["alarm"], record["occurrence"], note)
        except (InvalidArgumentError, NotAllowedError) as error:
            refused.append(error.text)
    if refused:
        raise HcamError("\n".join(refused))


def worth_reading(events: Iterable[Record]) -> Iterator[Record]:
    """Yield the events that people want to read: not that a record was updated."""
    return (event for event in events if event["event"] != "updated")


def event_line(event: Record) -> str:
    """Return one line on an event."""
    what = EVENTS.get(event["event"], event["event"].replace("_", " "))
    if event["event"] == "unwatched":
        gap = f"{short(event['start'])}-{short(event['end'])}"
        return f"{short(event['at'])} nobody watched the instrument {gap}"
    by = "" if event["by"] == "hwalarm" else f" by {event['by']}"
    to = f" to {event['to']}" if event.get("to") else ""
    reason = f": {event['reason']}" if event.get("reason") else ""
    note = (event.get("acknowledged") or {}).get("note", "") if what == "acknowledged" else ""
    note = note or event.get("note", "")
    named = f" {event['severity']:4} {event['alarm']}" if event.get("alarm") else ""
    return f"{short(event['at'])}{named} {what}{to}{by}{reason}{f' ({note})' if note else ''}"


def message_line(message: Record) -> str:
    """Return one line on a message to people, and whether it was sent."""
    first = message["text"].partition("\n")[0]
    what = f"sent at {short(message['sent'])}" if message["sent"] else "waits"
    if message["given_up"]:
        what = "not sent"
    if message["error"]:
        what = f"{what}: {message['error']}"
    twice = "; it may have arrived" if message["may_be_twice"] else ""
    return f"{short(message['at'])} to {message['to']}: {first} ({what}{twice})"


def unsent(messages: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each person who could not be told until now."""
    found: dict[str, list[Record]] = {}
    for message in messages:
        if not message["sent"] and not message["given_up"] and message["error"]:
            found.setdefault(message["to"], []).append(message)
    for to, those in found.items():
        since, why = short(those[0]["at"]), those[-1]["error"]
        yield f"not told: {count(len(those), 'message')} to {to} since {since}: {why}"


def test(to: str) -> Record:
    """Send a test message, wait until it was sent or has failed, and return it.

    Raises HcamError if it still waits after TEST_WITHIN_S.
    """
    known = {message["id"] for message in ask("messages", "1h")}
    ask("test", to)
    end = time.monotonic() + TEST_WITHIN_S
    while time.monotonic() < end:
        for message in ask("messages", "1h"):
            ended = message["sent"] or (message["error"] and not message["may_be_twice"])
            if message["id"] not in known and message["to"] == to and ended:
                return dict(message)
        time.sleep(1.0)
    raise HcamError(
        f"the message to {to} was not sent within {TEST_WITHIN_S:g} s; there may have been ten in "
        "the last hour, or the service does not answer: see hcam alarms messages"
    )


def with_history(events: Iterable[Record]) -> Iterator[Record]:
    """Yield events; those that something began or ended with have what was recorded around them.

    ``values`` are the means of six parts of the time from a minute before to a minute after, or
    None if the alarm is about no field; ``commands`` those to the device in that time. Raises
    HcamError if the recorder does not answer.
    """
    for event in events:
        known = event["event"] in ("raised", "worse", "cleared", "acknowledged")
        yield {**event, **(_around(event) if known else {})}


def _around(event: Record) -> dict[str, Any]:
    moment = datetime.fromisoformat(event["at"]).timestamp()
    span: dict[str, Any] = {
        "start": iso_from_s(moment - AROUND_S),
        "end": iso_from_s(moment + AROUND_S),
    }
    found = _recorded("history", event["alarm"], points=PARTS, **span)
    commands = _recorded("commands", event["alarm"].partition(".")[0], **span)
    return {
        "values": found.get("mean"),
        "value_unit": found.get("unit"),
        "commands": commands.get("commands", []),
    }


def _recorded(procedure: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what the recorder has, or nothing of what has no history: a connection, a server."""
    try:
        return dict(utils.call(uris.rpc("recorder", procedure), *args, **kwargs))
    except InvalidArgumentError:
        return {}


def around_lines(event: Record) -> Iterator[str]:
    """Yield lines on what was recorded around an event, if it was asked for."""
    if values := event.get("values"):
        shown = ", ".join("-" if value is None else f"{value:.4g}" for value in values)
        yield f"         {2 * AROUND_S:g} s around it: {shown} {event['value_unit']}".rstrip()
    for command in event.get("commands", ()):
        done = f": {command['error']}" if command["error"] else ""
        yield f"         {short(command['time'])} {command['who']} {typed(command)}{done}"


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on the figures of a night."""
    errors, warnings = count(found["errors"], "error"), count(found["warnings"], "warning")
    yield f"night {found['night']}: {errors}, {warnings}, {found['acknowledged']} acknowledged"
    yield (
        f"{found['per_10_min']:g} alarms in 10 min, at most {found['most_in_10_min']}; "
        f"{100 * found['flooded']:g} % of the time flooded"
    )
    for each in found["most_often"]:
        yield f"{each['count']:4} {each['alarm']}"
    for gap in found["unwatched"]:
        yield f"nobody watched {short(gap['start'])}-{short(gap['end'])}"
    yield from (f"WARN {mistake}" for mistake in found["mistakes"])


def handover_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on a handover."""
    note = f": {told['note']}" if told["note"] else ""
    yield f"handover by {told['by']} at {short(told['at'])}{note}"
    for record in told["alarms"]:
        flags = [name for name in ("acknowledged", "shelved", "out_of_service") if record[name]]
        what = ", ".join(flag.replace("_", " ") for flag in flags) or record["state"]
        yield f"{record['severity'] or '-':4} {record['alarm']} ({what}): {record['reason']}"
    if not told["alarms"]:
        yield "nothing is wrong"


def in_one_line(sample: Mapping[str, Any], heard: float, now: float) -> str:
    """Return a line on the alarms from their telemetry, which was ``heard`` some seconds ago.

    ``now`` is the Unix time. It is empty if nothing is wrong.
    """
    if not sample or is_testament(sample):
        return "the alarm system is not running: nobody is told of an alarm (hwalarm)"
    with suppress(KeyError, TypeError, ValueError):  # any program may publish there
        heard = max(heard, now - datetime.fromisoformat(sample["timestamp"]).timestamp())
    if heard > SILENT_AFTER_S:
        return f"the alarm system has said nothing for {heard:.0f} s"
    names = "errors", "warnings", "acknowledged", "returned", "shelved", "out_of_service"
    counts = {name: sample.get(name) or 0 for name in names}
    if not any(counts.values()):
        return ""
    text = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    return f"alarms: {text} (hcam alarms)"


def watch(address: Address, say: Callable[[Any, str | Iterable[str]], None]) -> None:
    """Follow the alarms, with each change and silence of the alarm system, until Ctrl-C.

    ``say`` is called with data and its text.
    """
    earlier = ask("log")
    records = ask("list")
    say(records, table(records))
    events = Events(earlier[-1]["seq"] if earlier else 0, lambda each: say(each, event_line(each)))
    asyncio.run(_watch(address, events, say))


class Events:
    """Passes on each event once, in order, also those that were missed while nothing was heard.

    ``newest`` is the number of the last event that was passed on.
    """

    def __init__(self, newest: int, tell: Callable[[Record], None]) -> None:
        self.newest, self._tell = newest, tell
        self._held: list[Record] | None = None
        self._catching = asyncio.Lock()

    def hear(self, event: Record) -> bool:
        """Pass an event on, or hold it until ``catch_up``. Return whether events were missed."""
        if self._held is not None:
            self._held.append(event)
            return False
        if event["seq"] != self.newest + 1:
            self._held = [event]
            return True
        self._say(event)
        return False

    async def catch_up(self, log: Callable[[], Awaitable[list[Record]]]) -> None:
        """Pass on the events of the log of alarms that were missed, then those that were held."""
        async with self._catching:
            held = self._held = [] if self._held is None else self._held
            try:
                logged = await log()
            except (OSError, WampError):  # hwalarm is away: its next event shows that one is missed
                logged = []
            if held and held[0]["seq"] <= self.newest:  # hwalarm has lost its file: it counts anew
                self.newest = 0
            self._held = None
            for event in sorted((*logged, *held), key=itemgetter("seq")):
                if event["seq"] > self.newest:
                    self._say(event)

    def _say(self, event: Record) -> None:
        self.newest = event["seq"]
        for each in worth_reading([event]):
            self._tell(each)


async def _watch(
    address: Address, events: Events, say: Callable[[Any, str | Iterable[str]], None]
) -> None:
    heard, told = time.monotonic(), False
    catching: set[asyncio.Task[None]] = set()

    def hear(*_: Any, **__: Any) -> None:
        nonlocal heard, told
        heard, told = time.monotonic(), False

    async def joined(session: Session) -> None:
        async def log() -> list[Record]:
            async with asyncio.timeout(LOG_WITHIN_S):
                return list(await session.call(uris.rpc(DEVICE, "log")))

        def show(event: Any) -> None:
            is_event = isinstance(event, dict) and type(event.get("seq")) is int
            if is_event and events.hear(event):
                task = asyncio.create_task(events.catch_up(log))
                catching.add(task)
                task.add_done_callback(catching.discard)

        await session.subscribe(show, uris.changed(DEVICE))
        await session.subscribe(hear, uris.telemetry(DEVICE), SubscribeOptions(get_retained=True))
        await events.catch_up(log)

    following = asyncio.create_task(keep_joined(address, joined))
    try:
        while True:
            await asyncio.sleep(1)
            silence = time.monotonic() - heard
            if silence > SILENT_AFTER_S and not told:
                told = True
                text = f"the alarm system has said nothing for {silence:.0f} s"
                say({"silent": round(silence)}, text)
    finally:
        following.cancel()
