"""The alarms of a night in figures, against those usually quoted from ISA-18.2."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .news import FLOOD
from .record import seconds

PERIOD_S = 600.0
GOOD_RATE, MAX_RATE = 1.0, 2.0
"""Alarms in 10 minutes: a person can handle the first number well, and the second at most."""
MAX_FLOOD = 0.01
"""The fraction of the time that may be flooded."""
STALE_S, MAX_STALE = 86_400.0, 5
"""Fewer alarms than this should last longer than a day."""
MAX_LISTED = 10


def report(
    events: Iterable[Mapping[str, Any]],
    present: Iterable[Mapping[str, Any]],
    start: float,
    end: float,
) -> dict[str, Any]:
    """Return the figures of a time (Unix), from its events and the alarms at present.

    ``mistakes`` are sentences on the figures that are not as they should be.
    """
    raised = [event for event in events if event["event"] in ("raised", "worse")]
    periods = max(round((end - start) / PERIOD_S), 1)
    each = Counter(int((seconds(event["at"]) - start) // PERIOD_S) for event in raised)
    flooded = sum(count > FLOOD for count in each.values())
    often = Counter(event["alarm"] for event in raised).most_common(MAX_LISTED)
    acknowledged = [event for event in events if event["event"] == "acknowledged"]
    stale = [
        record["alarm"]
        for record in present
        if record["state"] in ("active", "acknowledged")
        and end - seconds(record["since"]) > STALE_S
    ]
    found: dict[str, Any] = {
        "raised": len(raised),
        "errors": sum(event["severity"] == "ERR" for event in raised),
        "warnings": sum(event["severity"] == "WARN" for event in raised),
        "acknowledged": len(acknowledged),
        "per_10_min": round(len(raised) / periods, 3),
        "most_in_10_min": max(each.values(), default=0),
        "flooded": round(flooded / periods, 4),
        "most_often": [{"alarm": alarm, "count": count} for alarm, count in often],
        "chattering": sorted({event["alarm"] for event in events if event.get("count", 0) >= 3}),
        "stale": stale,
        "unwatched": [
            {"start": event["start"], "end": event["end"]}
            for event in events
            if event["event"] == "unwatched"
        ],
    }
    return found | {"mistakes": list(_mistakes(found))}


def _mistakes(found: Mapping[str, Any]) -> Iterable[str]:
    rate = found["per_10_min"]
    if rate > GOOD_RATE:
        yield f"{rate:g} alarms in 10 min: 1 is good, {MAX_RATE:g} the most that a person handles"
    if found["flooded"] > MAX_FLOOD:
        yield f"{100 * found['flooded']:.1f} % of the time was flooded: 1 % is the most"
    if len(found["stale"]) >= MAX_STALE:
        yield f"{len(found['stale'])} alarms last longer than a day: repair, or out of service"
    if found["chattering"]:
        yield f"{', '.join(found['chattering'])} came and went: more delay or deadband"
