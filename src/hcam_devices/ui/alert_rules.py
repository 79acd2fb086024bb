"""Alert rules for Grafana, generated from what the devices of an instrument declare.

Each number with a healthy range has a rule with the delay and the advice that hwalarm has for it; a
view does not repeat its source. Two rules are about the alarm system: it is silent, and nobody has
acknowledged an error. Grafana tells whom its own notification policies name.
"""

import math
from collections.abc import Iterator, Mapping
from hashlib import sha256

from ..alarms.rules import Rule, Rules
from ..alarms.server import entry_of as alarms
from ..config.instrument import Instrument
from ..core.fields import Range
from ..history.recorder import entry_of as recorder
from ..history.stores.line_protocol import name_of

EVERY = "1m"
WINDOW_S = 600
"""Judge the last value of this time; without a value, a rule about it is silent."""
MAX_UID = 40
"""Grafana takes no longer names of rules."""


def alert_rules(instrument: Instrument, source: str) -> dict[str, object]:
    """Return the file of alert rules; ``source`` is the uid of the data source."""
    entries = [*instrument.entries.values(), recorder(instrument), alarms()]
    rules = Rules(entries, instrument.alarms)
    made = [*_of_alarm_system(source), *_of_values(rules, source)]
    title = instrument.title
    for rule in made:
        rule["labels"] = {"instrument": title, "alarm": rule["title"]}
    group = {"orgId": 1, "name": "alarms", "folder": "HiPERCAM", "interval": EVERY, "rules": made}
    return {"apiVersion": 1, "groups": [group]}


def _of_alarm_system(source: str) -> Iterator[dict[str, object]]:
    yield _rule(
        "alarms.silent",
        'SELECT count("errors") AS "value" FROM "alarms" WHERE $timeFilter',
        {"type": "lt", "params": [1]},
        source,
        for_s=0,
        no_data="Alerting",
        summary="The alarm system has recorded nothing for 10 min: nobody is told of an alarm.",
        advice="Look at the instrument, its network and its recorder: hcam doctor.",
    )
    yield _rule(
        "alarms.errors",
        _last("alarms", "errors"),
        {"type": "gt", "params": [0]},
        source,
        for_s=600,
        summary="An error is not acknowledged for 10 min.",
        advice="hcam alarms shows it, and what to do.",
    )


def _of_values(rules: Rules, source: str) -> Iterator[dict[str, object]]:
    judged = {rule.alarm: rule for rule in rules.declared() if rule.healthy}
    for rule in judged.values():
        device = rules.devices[rule.alarm.partition(".")[0]]
        name = rule.alarm.partition(".")[2]
        field = device.fields[name]
        shows = ".".join(device.describe()["fields"][name]["source"] or ())
        if rule.is_notice("ERR") or field.type != "number" or shows in judged or not rule.healthy:
            continue
        stored = {target: f"{readback}.target" for readback, target in device.nested().items()}
        yield _rule(
            rule.alarm,
            _last(device.name, stored.get(name, name)),
            _outside(rule.healthy),
            source,
            for_s=rule.delay,
            summary=_summary(rule, rule.healthy),
            advice=rule.advise(unread=False),
        )


def _last(device: str, field: str) -> str:
    what, where = f'last("{name_of(field)}") AS "value"', f'"{name_of(device)}"'
    return " ".join(("SELECT", what, "FROM", where, "WHERE $timeFilter"))


def _outside(healthy: Range) -> dict[str, object]:
    """Return Grafana's condition for a value outside its healthy range, which may be half open."""
    low, high = healthy
    if math.isfinite(low) and math.isfinite(high):
        return {"type": "outside_range", "params": [low, high]}
    return (
        {"type": "lt", "params": [low]} if math.isfinite(low) else {"type": "gt", "params": [high]}
    )


def _summary(rule: Rule, healthy: Range) -> str:
    low, high = (f"{limit:g} {rule.unit}".strip() for limit in healthy)
    if not math.isfinite(healthy[1]):
        return f"{rule.alarm} is below {low}"
    if not math.isfinite(healthy[0]):
        return f"{rule.alarm} is above {high}"
    return f"{rule.alarm} is not between {low} and {high}"


def _rule(
    title: str,
    query: str,
    evaluator: Mapping[str, object],
    source: str,
    *,
    for_s: float,
    summary: str,
    advice: str,
    no_data: str = "OK",
) -> dict[str, object]:
    uid = f"hcam-{title.replace('.', '-')}"
    if len(uid) > MAX_UID:
        uid = f"hcam-{sha256(title.encode()).hexdigest()[:16]}"
    asked = {"query": query, "rawQuery": True, "resultFormat": "time_series", "alias": "$col"}
    settings = {"mode": "dropNN"}
    reduced = {"type": "reduce", "expression": "value", "reducer": "last", "settings": settings}
    judged = {
        "type": "threshold",
        "expression": "last",
        "conditions": [{"evaluator": evaluator}],
    }
    return {
        "uid": uid,
        "title": title,
        "condition": "bad",
        "for": f"{60 * math.ceil(for_s / 60)}s",  # Grafana looks each minute
        "noDataState": no_data,
        "execErrState": "Error",
        "annotations": {"summary": summary, "description": advice},
        "data": [
            _data("value", source, asked, WINDOW_S),
            _data("last", "__expr__", reduced, 0),
            _data("bad", "__expr__", judged, 0),
        ],
    }


def _data(ref: str, source: str, model: Mapping[str, object], window: int) -> dict[str, object]:
    return {
        "refId": ref,
        "datasourceUid": source,
        "relativeTimeRange": {"from": window, "to": 0},
        "model": {"refId": ref, **model},
    }
