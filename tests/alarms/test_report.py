"""The figures of a night, and the sentences on those that are not as they should be."""

from typing import Any

from hcam_devices.alarms.report import report
from hcam_devices.core import iso_from_s

NIGHT, HOUR = 1_795_305_600.0, 3600.0


def raised(minute: float, alarm: str = "g1.flow", severity: str = "ERR", **more: Any) -> Any:
    at = iso_from_s(NIGHT + 60 * minute)
    return {"event": "raised", "alarm": alarm, "severity": severity, "at": at} | more


def of(*events: Any, present: Any = ()) -> dict[str, Any]:
    return report(list(events), present, NIGHT, NIGHT + 10 * HOUR)


def test_a_quiet_night() -> None:
    found = of()
    assert (found["raised"], found["per_10_min"], found["mistakes"]) == (0, 0, [])


def test_alarms_are_counted() -> None:
    found = of(
        raised(1),
        raised(2, "g2.cold", "WARN"),
        raised(300) | {"event": "worse"},
        {"event": "acknowledged", "alarm": "g1.flow", "at": iso_from_s(NIGHT + 200)},
        {"event": "cleared", "alarm": "g1.flow", "at": iso_from_s(NIGHT + 300)},
    )
    assert (found["raised"], found["errors"], found["warnings"]) == (3, 2, 1)
    assert (found["acknowledged"], found["most_in_10_min"]) == (1, 2)
    assert found["per_10_min"] == 0.05
    assert found["most_often"][0] == {"alarm": "g1.flow", "count": 2}
    assert found["mistakes"] == []


def test_what_is_too_much_is_said() -> None:
    stale = [
        {"alarm": f"g{n}.flow", "state": "active", "since": iso_from_s(NIGHT - 24 * HOUR)}
        for n in range(5)
    ]
    storm = [raised(n / 100, f"g{n}.flow") for n in range(100)]
    found = of(*storm, raised(500, count=3), present=stale)
    assert found["flooded"] == round(1 / 60, 4)
    rate, flood, old, chatter = found["mistakes"]
    assert rate == "1.683 alarms in 10 min: 1 is good, 2 the most that a person handles"
    assert flood == "1.7 % of the time was flooded: 1 % is the most"
    assert old == "5 alarms last longer than a day: repair, or out of service"
    assert chatter == "g1.flow came and went: more delay or deadband"


def test_times_without_a_watch_are_listed() -> None:
    gap = {"event": "unwatched", "at": iso_from_s(NIGHT), "start": "a", "end": "b"}
    assert of(gap)["unwatched"] == [{"start": "a", "end": "b"}]
