"""The alarms of an instrument: samples and people move each along the chart.

The board does no I/O. ``keep`` writes what has changed, and only then ``announce`` tells it, so
that nobody has heard of what a crash could undo. Delays are counted by a clock that never steps;
what outlives the process (shelves, reminders, escalation) has Unix times.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..core.device import iso_from_s
from ..core.fields import is_number
from ..errors import NotAllowedError
from ..names import did_you_mean
from .causes import Causes
from .chart import SHOWN, E, S, after, is_new
from .judgment import Judged, Said, said_in, value_in
from .news import Change, Escalation, Message
from .record import Record, first_time, seconds
from .rules import CONNECTION, STATUS, Rule, Rules

CHATTER_OFF_S = 300.0
"""An alarm that comes and goes is one row until it was good for so long."""
TOGETHER_S = 10.0
"""Alarms whose hardware times differ by less come together: the earliest is the first of them."""
POLLS_AFTER = 2
"""An alarm stays suppressed for so many polls after its cause is over."""
SILENT_POLLS, SILENT_S = 3, 20.0
"""A device is silent if nothing came for so many of its polls and so many seconds more."""
MAX_SHELF_MIN = {"ERR": 60.0, "WARN": 720.0}
NIGHT_ENDS_HOUR = 12
"""Nights end at noon, UTC, and no shelf outlives them."""
SET_BACK_S = 60.0
"""A time that is further ahead than it can be by so much shows that the clock was set back."""
MAX_NOTE = 500
SYSTEM = "hwalarm"
"""Who does what nobody has asked for."""


Keep = Callable[[Iterable[Record], list[Change], list[Message]], None]


class Board:
    """All alarms, by name. ``stages``: after how many seconds an error is told to whom."""

    def __init__(
        self,
        rules: Rules,
        keep: Keep,
        kept: Iterable[Record] = (),
        *,
        clock: Callable[[], float],
        steady: Callable[[], float],
        stages: Mapping[str, float] | None = None,
    ) -> None:
        self.rules, self._keep, self.clock, self.steady = rules, keep, clock, steady
        self.causes = Causes(rules.devices, rules.servers)
        self.records = {record.alarm: record for record in kept}
        self.judged: dict[str, Judged] = {}
        self.heard: dict[str, float] = {}
        self._statuses: set[str] = set()
        began = (at for record in self.records.values() for at in record.raised)
        self.escalation = Escalation(stages or {}, clock, began)
        self._dirty: dict[str, Record] = {}
        self._changes: list[Change] = []
        self._messages: list[Message] = []
        self._unjudged = {
            alarm for alarm, record in self.records.items() if record.state is not S.NORMAL
        }
        self._expected_since = steady()

    def forget_strangers(self) -> None:
        """End the alarms of what the instrument file does not name any more: nobody judges them."""
        named = self.rules.devices.keys() | self.rules.servers.keys()
        for alarm, record in list(self.records.items()):
            if alarm.partition(".")[0] in named:
                continue
            if record.is_news:
                record.state, record.cleared = S.NORMAL, iso_from_s(self.clock())
                record.shelved = record.out_of_service = record.suppressed = record.cause = None
                self._tell("cleared", record)
            self._unjudged.discard(alarm)
            del self.records[alarm]
        self.commit()

    # --- what is heard ----------------------------------------------------------------------

    def hear(self, sample: Mapping[str, Any]) -> None:
        """Judge a sample of a device, or its testament."""
        device = sample["device"]
        self.heard[device] = self.steady()
        said = {
            name: what
            for name, what in said_in(sample).items()
            if not self.rules.of(f"{device}.{name}").is_notice(what.severity)
        }
        mine = f"{device}."
        known = [alarm for alarm in self.judged if alarm.startswith(mine)]
        known += [alarm for alarm in self._unjudged if alarm.startswith(mine)]
        if not said and not known:
            return
        for name, what in said.items():
            self._bad(f"{device}.{name}", what, sample)
        if sample["state"]["connection"] == "online":  # of one that is offline nothing is known
            for alarm in dict.fromkeys(known):
                if alarm.partition(".")[2] not in said:
                    self._good(alarm, sample)
        self._settle()

    def hear_status(self, server: str, *, running: bool) -> None:
        """Judge whether a server runs."""
        alarm = f"{server}.{STATUS}"
        self._statuses.add(server)
        if running:
            if alarm in self.judged or alarm in self._unjudged:
                self._good(alarm, {})
        else:
            self._bad(alarm, Said("ERR", f"{server} is not running"), {})
        self._settle()

    def nobody_heard(self) -> None:
        """Note that the router is away: silence says nothing of the devices now.

        A server that ends meanwhile cannot say so: each has to say again that it runs.
        """
        self._expected_since = math.inf
        self._statuses.clear()

    def listening(self) -> None:
        """Note that telemetry can be heard from now on."""
        self._expected_since = self.steady()

    def tick(self) -> None:
        """Do what is due: delays, reminders, shelves, escalation, and silent devices."""
        self._miss()
        self._settle()

    def report(self, alarm: str, severity: str, reason: str) -> None:
        """Judge an alarm of the alarm system itself; an empty reason means that it is good."""
        if reason:
            self._bad(alarm, Said(severity, reason), {})
        elif alarm in self.judged or alarm in self._unjudged:
            self._good(alarm, {})
        self._settle()

    def _miss(self) -> None:
        now = self.steady()
        for device, found in self.rules.devices.items():
            allowed = SILENT_POLLS * found.poll_every + SILENT_S
            last = max(self.heard.get(device, -math.inf), self._expected_since)
            if now - last > allowed:
                reason = f"no telemetry of {device} for {now - last:.0f} s"
                self._bad(f"{device}.{CONNECTION}", Said("ERR", reason), {})
        if now - self._expected_since > SILENT_S:
            for server in self.rules.servers.keys() - self._statuses:
                reason = f"{server} is not running"
                self._bad(f"{server}.{STATUS}", Said("ERR", reason), {})

    # --- the judgment -----------------------------------------------------------------------

    def _bad(self, alarm: str, said: Said, sample: Mapping[str, Any]) -> None:
        rule = self.rules.of(alarm)
        record = self._record(alarm)
        judged, now = self._judge(alarm), self.steady()
        flipped = judged.bad(now)
        if rule.setpoint and is_number(said.value):
            judged.follow(said.value, value_in(sample, rule.setpoint, "target"), now)
        begins = record.state in (S.NORMAL, S.RETURNED)
        another = rule.is_another(record.value, said.value)
        worse = record.state in SHOWN and (said.severity < record.worst or another)
        if record.shelved and said.severity < record.shelved_as:
            self._unshelve(record, SYSTEM, announce=not worse)
        if begins or worse or record.state is S.PENDING:
            self._describe(record, rule, said)
        if begins:
            if record.state is S.NORMAL:
                record.begin()
            known = first_time(said.since, sample.get("timestamp"))
            record.since = known or iso_from_s(self.clock())
            self._step(record, E.BAD, rule)
        elif worse:
            self._step(record, E.WORSE, rule)
        elif flipped and record.state in (S.ACTIVE, S.ACKNOWLEDGED):
            record.count_one(self.clock())
            self._note(record)
        if record.severity != said.severity and record.state in SHOWN:
            record.severity = said.severity
            self._note(record)
        if record.state is S.PENDING and now - judged.bad_since >= rule.delay:
            self._step(record, E.DELAY_OVER, rule)

    def _good(self, alarm: str, sample: Mapping[str, Any]) -> None:
        rule, record, judged = self.rules.of(alarm), self.records.get(alarm), self._judge(alarm)
        value = value_in(sample, alarm.partition(".")[2], "current")
        lasts = record and record.state in (S.PENDING, S.ACTIVE, S.ACKNOWLEDGED)
        was_read = record and is_number(record.value)  # or there was no limit to come back from
        if lasts and was_read and is_number(value) and not rule.is_well_inside(value):
            judged.is_bad, judged.good_since = True, None
            self._unjudged.discard(alarm)
            return
        if judged.is_bad or alarm in self._unjudged:
            judged.is_bad, judged.good_since = False, self.steady()
        self._unjudged.discard(alarm)
        if record is None or record.state is S.NORMAL:
            self._forget(alarm)
        elif record.state is S.PENDING:
            self._step(record, E.GOOD, rule)
            self._forget(alarm)

    def _forget(self, alarm: str) -> None:
        self.judged.pop(alarm, None)
        record = self.records.get(alarm)
        if record and record.suppressed:
            record.suppressed = record.cause = None
            self._note(record)
        if record and not record.is_news and not record.raised and record.occurrence == 0:
            del self.records[alarm]

    def _judge(self, alarm: str) -> Judged:
        return self.judged.setdefault(alarm, Judged())

    def _record(self, alarm: str) -> Record:
        self._unjudged.discard(alarm)
        return self.records.setdefault(alarm, Record(alarm))

    def _describe(self, record: Record, rule: Rule, said: Said) -> None:
        record.severity, record.reason, record.value = said.severity, said.reason, said.value
        record.worst = min(record.worst or said.severity, said.severity)
        record.unit = rule.unit if is_number(said.value) else ""
        record.limit = rule.limit_of(said.value) if is_number(said.value) else None
        record.advice = rule.advise(unread=said.value is None)

    # --- steps along the chart --------------------------------------------------------------

    def _step(self, record: Record, event: E, rule: Rule) -> None:
        before = record.state
        latch = record.announced and rule.latches(record.worst)
        following = after(before, event, latch=latch)
        if following is None:
            return
        record.state = following
        if following is S.PENDING or (before is S.PENDING and following is S.NORMAL):
            return  # nobody was told, so nothing is kept
        if is_new(before, event, following):
            record.occurrence += 1
            record.acknowledged = record.cleared = record.escalated = None
            record.announced = False
            if before is not S.ACTIVE:
                record.count_one(self.clock())
            self._order(record)
        self._note(record)
        if following is S.ACTIVE:
            was_hidden = record.is_hidden
            self._suppress(record)
            if not was_hidden:  # or it has just been announced, if it is seen now
                told = {E.WORSE: "worse", E.REMIND: "reminded"}.get(event, "raised")
                self._announce(record, told)
        elif event is E.GOOD:
            record.cleared = iso_from_s(self.clock())
            if record.announced:
                self._tell("cleared", record)
            if following is S.NORMAL:
                self._forget(record.alarm)

    def _announce(self, record: Record, event: str) -> None:
        """Announce an active alarm, unless a flag hides it."""
        if record.is_hidden:
            return
        now = self.clock()
        if not record.announced:
            self.escalation.note_new()
        record.announced, record.active_since, record.escalated = True, now, None
        self._tell(event, record)
        self._escalate(record)

    def _order(self, record: Record) -> None:
        """Find out which alarm came first of those that come together."""
        at = seconds(record.since)
        group = [
            other
            for other in self.records.values()
            if other.state in SHOWN
            and (
                abs(seconds(other.since) - at) < TOGETHER_S
                or (record.cause and record.cause in (other.cause, other.alarm))
            )
        ]
        first = min(group, key=lambda other: (seconds(other.since), other.occurrence == 0))
        for other in group:
            if other is record or (other.first is not None and other.first != first.alarm):
                other.first = first.alarm
                self._note(other)

    # --- flags ------------------------------------------------------------------------------

    def _lasts(self, alarm: str) -> bool:
        record = self.records.get(alarm)
        return record is not None and record.state in (S.PENDING, S.ACTIVE, S.ACKNOWLEDGED)

    def _suppress(self, record: Record) -> None:
        """Hide an alarm that a cause explains, and show it two polls after the cause is over."""
        judged, now = self._judge(record.alarm), self.steady()
        cause = self.causes.cause(record.alarm, self._lasts) or self._same_reason(record)
        if record.cause and not cause and self.rules.of(record.alarm).setpoint:
            judged.let_turn(now)
        shrinks = record.severity == "WARN" and judged.approaches(now)
        why = cause and f"explained by {cause}"
        if not why and shrinks and record.state is not S.RETURNED:
            why = "it approaches its setpoint"
        if why:
            judged.release_at = None
        elif record.suppressed:
            polls = POLLS_AFTER * self.rules.of(record.alarm).poll_s if record.cause else 0.0
            judged.release_at = judged.release_at or now + polls
            is_ending = record.state is not S.RETURNED and not judged.is_bad
            if now < judged.release_at or is_ending:
                return
        if (why or None) == record.suppressed:
            return
        was_hidden = record.is_hidden
        record.suppressed, record.cause = why or None, cause
        if record.state in SHOWN:
            self._note(record)
            self._unhide(record, was_hidden=was_hidden)

    def _same_reason(self, record: Record) -> str | None:
        """Return the first alarm of the device about a value that is unknown for the same reason.

        A controller that answers nothing is one alarm, not one for each of its fields.
        """
        if record.value is not None:
            return None
        device = record.alarm.partition(".")[0]
        for alarm, other in self.records.items():
            if other is record:
                return None
            if (
                alarm.startswith(f"{device}.")
                and other.value is None
                and other.reason
                and other.reason in record.reason
                and self._lasts(alarm)
            ):
                return alarm
        return None

    def _unhide(self, record: Record, *, was_hidden: bool) -> None:
        """Announce that an alarm has come into view, or has left it."""
        if was_hidden and not record.is_hidden and record.state is S.ACTIVE:
            self._announce(record, "raised")
        elif was_hidden != record.is_hidden and record.announced:
            self._tell("suppressed" if record.is_hidden else "updated", record)

    # --- what is due ------------------------------------------------------------------------

    def _settle(self) -> None:
        """Do everything that is due, keep it, and announce it."""
        for alarm in list(self.records):
            record = self.records.get(alarm)
            if record and record.is_news:
                self._due(record)
        self.escalation.judge_flood()
        self.commit()

    def _due(self, record: Record) -> None:
        rule, judged = self.rules.of(record.alarm), self.judged.get(record.alarm)
        steady, now = self.steady(), self.clock()
        if record.active_since > now:  # the clock was set back: nobody waits until then
            record.active_since = now
            self._note(record)
        if record.shelved:
            left = seconds(record.shelved["until"]) - now
            if not 0 < left < 60 * MAX_SHELF_MIN[record.shelved_as or "ERR"] + SET_BACK_S:
                self._unshelve(record, SYSTEM)
        if record.state is S.PENDING and judged and steady - judged.bad_since >= rule.delay:
            self._step(record, E.DELAY_OVER, rule)
        if record.state in (S.ACTIVE, S.ACKNOWLEDGED) and judged and judged.good_since is not None:
            wait = CHATTER_OFF_S if record.chatters else rule.off_delay
            if steady - judged.good_since >= wait:
                self._step(record, E.GOOD, rule)
                return
        if record.state in SHOWN:
            self._suppress(record)
        done = record.acknowledged if record.state is S.ACKNOWLEDGED else None
        lasted = now - seconds(done["at"]) if done and record.worst == "ERR" else 0.0
        if not -SET_BACK_S < lasted < rule.remind:
            self._step(record, E.REMIND, rule)
        if record.state is S.ACTIVE and record.announced and not record.is_hidden:
            self._escalate(record)

    def _escalate(self, record: Record) -> None:
        """Notify the people of the next stage of an error when it is due."""
        for stage in self.escalation.due(record):
            record.escalated = stage
            self._tell("escalated", record, to=stage)
            self._messages += self.escalation.messages(record, stage, self.records)

    # --- what people do ---------------------------------------------------------------------

    def acknowledge(self, alarm: str, occurrence: int, by: str, note: str = "") -> dict[str, Any]:
        """Acknowledge one occurrence of an alarm. Raise NotAllowedError if it is not the last."""
        record = self._named(alarm)
        note = _text(note, "note")
        if record.occurrence != occurrence:
            raise NotAllowedError(
                f"{alarm} has come again since you looked: this is occurrence "
                f"{record.occurrence}, not {occurrence}; look at it, and acknowledge that"
            )
        if after(record.state, E.ACKNOWLEDGE, latch=True) is None:
            raise NotAllowedError(f"{alarm} is {record.state}: there is nothing to acknowledge")
        now = self.clock()
        record.acknowledged = {"by": by, "at": iso_from_s(now), "note": note}
        record.escalated = None
        self._step(record, E.ACKNOWLEDGE, self.rules.of(alarm))
        self._tell("acknowledged", record, by)
        if record.state is S.NORMAL:
            self._forget(alarm)
        self.commit()
        return record.public()

    def shelve(self, alarm: str, minutes: float, reason: str, by: str) -> dict[str, Any]:
        """Hide an alarm for some minutes, at most an hour (ERR) or 12 (WARN), or until noon UTC."""
        record = self._named(alarm)
        is_warning = record.state in SHOWN and record.severity == "WARN"
        most = MAX_SHELF_MIN["WARN" if is_warning else "ERR"]
        if not is_number(minutes) or not 0 < minutes <= most:
            raise ValueError(
                f"minutes must be over 0, at most {most:g} for {alarm}, not {minutes!r:.60}"
            )
        reason = _text(reason, "reason", needed=True)
        now = self.clock()
        until = min(now + 60 * minutes, _end_of_night(now))
        record.shelved = {"until": iso_from_s(until), "by": by, "reason": reason}
        record.shelved_as = record.severity if record.state in SHOWN else "ERR"
        self._tell("shelved", record, by)
        self.commit()
        return record.public()

    def unshelve(self, alarm: str, by: str) -> dict[str, Any]:
        """Show a shelved alarm again. Raise NotAllowedError if it is not shelved."""
        record = self._named(alarm)
        if not record.shelved:
            raise NotAllowedError(f"{alarm} is not shelved")
        self._unshelve(record, by)
        self.commit()
        return record.public()

    def _unshelve(self, record: Record, by: str, *, announce: bool = True) -> None:
        record.shelved = None
        self._tell("unshelved", record, by)
        if announce:
            self._unhide(record, was_hidden=True)

    def out_of_service(self, alarm: str, reason: str, by: str) -> dict[str, Any]:
        """Hide an alarm until it is in service again; every handover names it."""
        record = self._named(alarm)
        reason = _text(reason, "reason", needed=True)
        record.out_of_service = {"by": by, "at": iso_from_s(self.clock()), "reason": reason}
        self._tell("out_of_service", record, by)
        self.commit()
        return record.public()

    def in_service(self, alarm: str, by: str) -> dict[str, Any]:
        """End ``out_of_service``. Raise NotAllowedError if it is in service."""
        record = self._named(alarm)
        if not record.out_of_service:
            raise NotAllowedError(f"{alarm} is in service")
        record.out_of_service = None
        self._tell("in_service", record, by)
        self._unhide(record, was_hidden=True)
        self.commit()
        return record.public()

    def tell(
        self, event: str, by: str, more: dict[str, Any], messages: Iterable[Message] = ()
    ) -> None:
        """Log and announce something that is about no alarm: a handover, a test, a gap."""
        change = Change(event, "", by, self.clock(), {}, more)
        self._changes.append(change)
        self._messages += messages
        self.commit()

    def _named(self, alarm: str) -> Record:
        """Return the record of an alarm. Raise ValueError if the instrument has none."""
        if alarm not in self.records:
            device, _, name = str(alarm).partition(".")
            found = self.rules.devices.get(device)
            names = [CONNECTION, *(found.fields if found else ()), *(found.advice if found else ())]
            is_server = device in self.rules.servers and name == STATUS
            if not is_server and (found is None or name not in names):
                known = [*self.records, *(f"{device}.{one}" for one in names if found)]
                raise ValueError(
                    f"there is no alarm {alarm!r:.60}{did_you_mean(str(alarm), known)}"
                )
        return self.records.setdefault(alarm, Record(alarm))

    # --- keeping and telling ----------------------------------------------------------------

    def _note(self, record: Record) -> None:
        self._dirty[record.alarm] = record

    def _tell(self, event: str, record: Record, by: str = SYSTEM, **more: Any) -> None:
        self._note(record)
        self._changes.append(Change(event, record.alarm, by, self.clock(), record.public(), more))

    def commit(self) -> None:
        """Keep what has changed, and announce it."""
        if self._dirty or self._changes or self._messages:
            told = {change.alarm for change in self._changes}
            for alarm, record in self._dirty.items():
                if alarm not in told:
                    self._changes.append(
                        Change("updated", alarm, SYSTEM, self.clock(), record.public())
                    )
            dirty, changes, messages = self._dirty, self._changes, self._messages
            self._dirty, self._changes, self._messages = {}, [], []
            self._keep(dirty.values(), changes, messages)

    def list(self) -> list[dict[str, Any]]:
        """Return every alarm that is not normal, or that a person has hidden; worst first."""
        found = [record for record in self.records.values() if record.is_news]
        return [record.public() for record in sorted(found, key=Record.rank)]


def _text(text: object, what: str, *, needed: bool = False) -> str:
    if not isinstance(text, str) or len(text) > MAX_NOTE or (needed and not text.strip()):
        raise ValueError(f"{what} must be a text of at most {MAX_NOTE} characters")
    return text.strip()


def _end_of_night(now: float) -> float:
    """Return the next noon, UTC."""
    today = datetime.fromtimestamp(now, UTC)
    noon = today.replace(hour=NIGHT_ENDS_HOUR, minute=0, second=0, microsecond=0)
    return (noon if today < noon else noon + timedelta(days=1)).timestamp()
