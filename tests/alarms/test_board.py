"""The board: delays, flags, occurrences, causes, floods and shelves, by a turned clock."""

import random
from contextlib import suppress
from typing import Any

import pytest

from hcam_devices.alarms.chart import SHOWN, S
from hcam_devices.alarms.record import counts
from hcam_devices.config.instrument import load
from hcam_devices.errors import NotAllowedError

from ..conftest import Scaled
from .bench import NOON, Bench

BAD, GOOD = 2.0, 0.5
P = "g1.pressure"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def raised(bench: Bench, **values: Any) -> Bench:
    """Raise an alarm of a device, and forget the way there."""
    bench.after(6, **(values or {"pressure": BAD}))
    return bench


# --- delays ---------------------------------------------------------------------------------


def test_an_alarm_is_raised_after_two_polls(bench: Bench) -> None:
    bench.hear(pressure=BAD)
    assert bench.state(P) is S.PENDING
    bench.after(2, pressure=BAD)
    assert bench.state(P) is S.PENDING
    assert not bench.told
    bench.after(2, pressure=BAD)
    assert bench.state(P) is S.ACTIVE
    assert bench.events == ["raised"]
    assert bench[P].since == "2026-11-22T00:00:00.000Z"
    assert (bench[P].value, bench[P].unit, bench[P].limit) == (BAD, "mbar", 1.0)
    assert bench[P].advice == "Close the valve."


def test_a_single_bad_reading_is_no_alarm(bench: Bench) -> None:
    bench.hear(pressure=None)
    bench.after(2, pressure=GOOD)
    bench.after(10)
    assert not bench.told
    assert not bench.board.list()


def test_a_value_that_cannot_be_read_for_the_whole_delay_is_an_alarm(bench: Bench) -> None:
    raised(bench, pressure=None)
    assert bench.state(P) is S.ACTIVE
    assert bench[P].reason == "no answer"
    assert "unknown" in bench[P].advice


def test_no_delay_raises_at_once(bench: Bench) -> None:
    bench.hear(quick=3.0)
    assert bench.state("g1.quick") is S.ACTIVE


def test_it_is_over_when_it_was_good_for_the_off_delay(bench: Bench) -> None:
    raised(bench)
    bench.after(14, pressure=GOOD)
    assert bench.state(P) is S.ACTIVE
    bench.after(2, pressure=BAD)
    bench.after(14, pressure=GOOD)
    assert bench.state(P) is S.ACTIVE
    bench.after(4, pressure=GOOD)
    assert bench.state(P) is S.RETURNED
    assert bench[P].cleared == "2026-11-22T00:00:40.000Z"


def test_a_value_just_inside_its_limit_is_not_over(bench: Bench) -> None:
    raised(bench)
    bench.after(60, pressure=0.99)
    assert bench.state(P) is S.ACTIVE
    bench.after(20, pressure=0.97)
    assert bench.state(P) is S.RETURNED


def test_a_value_that_is_read_again_just_inside_its_limit_is_over(bench: Bench) -> None:
    raised(bench, pressure=None)
    bench.after(20, pressure=0.99)
    assert bench.state(P) is S.RETURNED


def test_nothing_is_known_of_a_device_that_is_offline(bench: Bench) -> None:
    raised(bench)
    bench.after(60, online=False)
    assert bench.state(P) is S.ACTIVE
    assert bench[P].suppressed == "explained by g1.connection"


def test_a_warning_does_not_latch(bench: Bench) -> None:
    for _ in range(3):
        bench.warn()
        bench.now += 2
    assert bench.state("g1.cold") is S.ACTIVE
    bench.after(20, pressure=GOOD)
    assert bench.state("g1.cold") is S.NORMAL
    assert bench.events == ["raised", "cleared"]


def test_a_notice_is_not_raised(bench: Bench) -> None:
    for _ in range(10):
        bench.warn(name="idle", severity="ERR")
        bench.now += 2
    assert not bench.board.list()


def test_a_refused_setpoint_is_a_notice(bench: Bench) -> None:
    for _ in range(10):
        bench.warn(name="target_temperature")
        bench.now += 2
    assert not bench.board.list()


# --- occurrences ----------------------------------------------------------------------------


def test_an_acknowledgment_is_of_an_occurrence(bench: Bench) -> None:
    raised(bench)
    with pytest.raises(NotAllowedError, match="has come again since you looked"):
        bench.board.acknowledge(P, 0, "ada")
    record = bench.board.acknowledge(P, 1, "ada", "valve closed")
    assert record["state"] == "acknowledged"
    assert record["acknowledged"] == {
        "by": "ada",
        "at": "2026-11-22T00:00:06.000Z",
        "note": "valve closed",
    }
    with pytest.raises(NotAllowedError, match="nothing to acknowledge"):
        bench.board.acknowledge(P, 1, "bob")
    assert bench.told[-1].by == "ada"
    bench.after(20, pressure=GOOD)
    assert bench.state(P) is S.NORMAL


def test_an_alarm_that_nobody_saw_is_acknowledged_later(bench: Bench) -> None:
    raised(bench)
    bench.after(20, pressure=GOOD)
    bench.board.acknowledge(P, 1, "ada")
    assert bench.state(P) is S.NORMAL
    assert not bench.board.list()


def test_it_comes_again_as_another_occurrence(bench: Bench) -> None:
    raised(bench)
    bench.after(20, pressure=GOOD)
    bench.hear(pressure=BAD)
    assert (bench[P].state, bench[P].occurrence) == (S.ACTIVE, 2)
    with pytest.raises(NotAllowedError):
        bench.board.acknowledge(P, 1, "ada")


def test_worse_is_a_new_occurrence(bench: Bench) -> None:
    for _ in range(3):
        bench.warn()
        bench.now += 2
    bench.board.acknowledge("g1.cold", 1, "ada")
    bench.warn(severity="ERR")
    record = bench["g1.cold"]
    assert (record.state, record.occurrence, record.worst) == (S.ACTIVE, 2, "ERR")
    assert record.acknowledged is None
    assert bench.events == ["raised", "acknowledged", "worse"]
    bench.warn()
    bench.warn(severity="ERR")
    assert record.occurrence == 2, "it was that bad before"


def test_the_reason_is_that_of_the_beginning(bench: Bench) -> None:
    raised(bench)
    bench.after(4, pressure=5.0)
    assert bench[P].value == BAD
    assert len(bench.told) == 1


def test_a_bad_value_after_an_unknown_one_is_another_fault(bench: Bench) -> None:
    raised(bench, flow=None)
    bench.board.acknowledge("g1.flow", 1, "ada")
    bench.hear(flow=0.1)
    assert (bench.state("g1.flow"), bench["g1.flow"].occurrence) == (S.ACTIVE, 2)
    assert bench["g1.flow"].reason.startswith("0.1 l / min is below")
    bench.hear(flow=None)
    assert (bench["g1.flow"].occurrence, bench["g1.flow"].value) == (2, 0.1)
    assert bench.events == ["raised", "acknowledged", "worse"]


def test_a_notice_in_place_of_an_error_ends_it(bench: Bench) -> None:
    name = "target_temperature"  # of a setpoint only an error is an alarm
    said = {"field": name, "severity": "ERR", "reason": "refused"}
    raised(bench, alarms=[said])
    assert bench.state(f"g1.{name}") is S.ACTIVE
    bench.after(70, alarms=[said | {"severity": "WARN"}])
    assert bench.state(f"g1.{name}") is S.RETURNED


def test_an_interlock_that_was_blind_and_trips_is_seen() -> None:
    bench = Bench(entries=load().entries.values())
    flow = {"field": "flow", "severity": "ERR", "reason": "flow is offline"}
    coolant = flow | {"field": "coolant", "reason": "the interlock is blind: flow is offline"}

    def hear(state: str, *alarms: dict[str, str], **values: Any) -> None:
        sample = bench.sample("ccd1", alarms=[*alarms], **values)
        sample["state"]["coolant"] = state
        bench.board.hear(sample)

    for _ in range(4):
        hear("armed", flow, coolant)
        bench.after(2)
    assert bench["ccd1.coolant"].suppressed == "explained by ccd1.flow"
    for _ in range(4):
        hear("timing", coolant | {"severity": "WARN", "reason": "it counts"}, flow=0.0)
        bench.after(2)
    for state, events in (("tripped", ["raised"]), ("failed", ["raised", "worse"])):
        before = bench["ccd1.coolant"].occurrence
        hear(state, coolant | {"reason": f"it has {state}"}, flow=0.0)
        bench.after(8)
        found = bench["ccd1.coolant"]
        assert (found.state, found.suppressed) == (S.ACTIVE, None)
        told = [one.event for one in bench.told if one.alarm == "ccd1.coolant"]
        assert [event for event in told if event != "updated"] == events
        assert (found.occurrence, found.reason) == (before + 1, f"it has {state}")


def test_an_acknowledged_error_comes_back_after_ten_minutes(bench: Bench) -> None:
    raised(bench)
    bench.board.acknowledge(P, 1, "ada")
    bench.after(598, pressure=BAD)
    assert bench.state(P) is S.ACKNOWLEDGED
    bench.after(2, pressure=BAD)
    assert (bench[P].state, bench[P].occurrence) == (S.ACTIVE, 1)
    assert bench.events[-1] == "reminded"


def test_an_acknowledged_warning_does_not_come_back(bench: Bench) -> None:
    for _ in range(3):
        bench.warn()
        bench.now += 2
    bench.board.acknowledge("g1.cold", 1, "ada")
    bench.after(900)
    assert bench.state("g1.cold") is S.ACKNOWLEDGED


# --- causes ---------------------------------------------------------------------------------


def test_a_dead_server_is_one_alarm(bench: Bench) -> None:
    for device in ("g1", "g2", "g3"):
        bench.gone(device)
    bench.board.hear_status("hwserver", running=False)
    bench.after(6)
    assert bench.events == ["raised"]
    assert bench.told[0].alarm == "hwserver.status"
    hidden = [record for record in bench.board.list() if record["suppressed"]]
    assert {record["cause"] for record in hidden} == {"hwserver.status"}
    bench.board.hear_status("hwserver", running=True)
    for _ in range(10):
        for device in ("g1", "g2", "g3"):
            bench.hear(device, pressure=GOOD)
        bench.after(2)
    shown = [record["alarm"] for record in bench.board.list()]
    assert shown == ["hwserver.status"], "what it explained is over, and was never shown"


def test_a_declared_cause_hides_its_consequence_until_two_polls_after(bench: Bench) -> None:
    bench.after(6, pressure=BAD, flow=0.1)
    assert bench["g1.flow"].cause == P
    assert [change.alarm for change in bench.told if change.event == "raised"] == [P]
    bench.after(20, pressure=GOOD, flow=0.1)
    assert bench.state(P) is S.RETURNED
    assert bench.hides("g1.flow")
    bench.after(4, pressure=GOOD, flow=0.1)
    assert not bench.hides("g1.flow")
    assert [(c.event, c.alarm) for c in bench.told[-1:]] == [("raised", "g1.flow")]


def test_an_alarm_that_was_shown_and_is_then_explained_is_not_lost(bench: Bench) -> None:
    bench.after(6, flow=0.1)
    bench.after(6, pressure=BAD, flow=0.1)
    assert bench["g1.flow"].suppressed
    bench.after(60, pressure=GOOD, flow=2.0)
    assert bench.state("g1.flow") is S.RETURNED
    assert not bench["g1.flow"].is_hidden


def test_a_view_repeats_its_source() -> None:
    instrument = load()
    bench = Bench(entries=instrument.entries.values())
    cause = bench.board.causes.cause
    assert cause("ccd1.pressure", {"pressure1.connection"}.__contains__) == "pressure1.connection"
    assert cause("ccd1.pressure", {"pressure2.connection"}.__contains__) is None
    both = {"ccd1.pressure", "pressure1.pressure"}
    assert cause("ccd1.pressure", both.__contains__) == "pressure1.pressure"
    assert cause("pressure1.pressure", both.__contains__) is None
    dead = {"hwserver.status", "meerstetter1.connection"}
    assert cause("ccd1.temperature", dead.__contains__) == "hwserver.status"
    lens = {"compo_lens.stage"}
    assert cause("compo.stage", lens.__contains__) == "compo_lens.stage"


def test_fields_that_are_unknown_for_one_reason_are_one_alarm(bench: Bench) -> None:
    raised(bench, pressure=None, flow=None, quick=2.0)
    assert bench["g1.flow"].cause == P
    assert [change.alarm for change in bench.told if change.event == "raised"] == ["g1.quick", P]


def test_a_deviation_that_shrinks_is_hidden(bench: Bench) -> None:
    def deviates(by: float, target: float = -80.0) -> None:
        bench.now += 2
        warning = {"field": "temperature", "severity": "WARN", "reason": f"{by} K off"}
        bench.hear(temperature=target + by, target_temperature=target, alarms=[warning])

    for step in range(60):
        deviates(5 * 0.99**step)
    assert bench.state("g1.temperature") is S.ACTIVE
    assert bench["g1.temperature"].suppressed == "it approaches its setpoint"
    assert not bench.events
    for _ in range(40):
        deviates(2.8)
    assert bench.events == ["raised"], "it does not shrink any more"


def test_a_deviation_that_grew_and_then_shrinks_is_hidden(bench: Bench) -> None:
    def deviates(by: float) -> None:
        bench.now += 2
        warning = {"field": "temperature", "severity": "WARN", "reason": f"{by} K off"}
        bench.hear(temperature=-80 + by, target_temperature=-80.0, alarms=[warning])

    for step in range(10):
        deviates(2.1 + step)
    assert not bench.hides("g1.temperature")
    for step in range(10):
        deviates(11.1 * 0.99**step)
    assert bench.hides("g1.temperature")
    assert bench.events == ["raised", "suppressed"]


def test_a_deviation_has_a_minute_to_turn_round_when_its_cause_is_over() -> None:
    bench = Bench(entries=load().entries.values())

    def hear(deviation: float, seconds: float, *alarms: dict[str, str]) -> None:
        warning = {"field": "temperature", "severity": "WARN", "reason": "too warm"}
        values: dict[str, Any] = {"temperature": deviation - 80.0, "setpoint": -80.0}
        for _ in range(int(seconds / 2)):
            bench.hear("ccd1", alarms=[*alarms, warning], **values)
            bench.after(2)

    off = {"field": "flow", "severity": "ERR", "reason": "no flow"}
    for warmer in range(3, 9):
        hear(warmer, 4, off)
    assert bench["ccd1.temperature"].suppressed == "explained by ccd1.flow"
    hear(9, 70)
    assert bench["ccd1.flow"].state is S.RETURNED
    assert bench["ccd1.temperature"].suppressed == "it approaches its setpoint"
    hear(9, 20)
    assert not bench["ccd1.temperature"].is_hidden


def test_a_deviation_that_grows_is_raised(bench: Bench) -> None:
    for step in range(4):
        bench.now += 2
        warning = {"field": "temperature", "severity": "WARN", "reason": "off"}
        bench.hear(temperature=-77.9 + step, target_temperature=-80.0, alarms=[warning])
    assert bench.events == ["raised"]


# --- chatter, floods, the first -------------------------------------------------------------


def test_an_alarm_that_comes_and_goes_is_one_row(bench: Bench) -> None:
    for _ in range(7):
        bench.after(6, pressure=BAD)
        bench.after(20, pressure=GOOD)
    assert bench.state(P) is S.ACTIVE
    assert (bench[P].occurrence, bench[P].count) == (3, 7)
    bench.after(290, pressure=GOOD)
    assert bench.state(P) is S.RETURNED


def test_the_earliest_hardware_is_first(bench: Bench) -> None:
    late = bench.sample("g2", pressure=BAD)
    bench.now += 3
    for _ in range(4):
        bench.hear("g1", pressure=BAD)
        bench.board.hear(late)
        bench.now += 2
    assert {bench[P].first, bench["g2.pressure"].first} == {"g2.pressure"}
    bench.after(60)
    bench.after(6, device="g3", pressure=BAD)
    assert bench["g3.pressure"].first == "g3.pressure"


def flood(bench: Bench) -> None:
    """Raise twelve alarms in half a minute."""
    for device in ("g1", "g2", "g3"):
        for name in ("a", "b", "c", "d"):
            alarms = [{"field": name, "severity": "ERR", "reason": name}]
            for _ in range(4):
                bench.hear(device, alarms=alarms)
                bench.now += 0.5
            bench.now += 2
            bench.hear(device, alarms=alarms)


def test_a_flood_is_one_message(bench: Bench) -> None:
    bench = Bench(changed={"*": {"delay": 0.0, "off_delay": 10_000.0}}, stages={"observer": 60.0})
    flood(bench)
    assert bench.board.escalation.flood_since is not None
    bench.after(120)
    [message] = bench.messages
    assert message.text.startswith("12 alarms in ")
    assert "first: g1.a: a" in message.text
    bench.after(600)
    assert bench.board.escalation.flood_since is None


# --- shelves and service --------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [float("nan"), 0, -1, 60.1, float("inf"), "10", True, None])
def test_a_shelf_has_limits(bench: Bench, minutes: Any) -> None:
    raised(bench)
    with pytest.raises(ValueError, match="minutes must be over 0, at most 60"):
        bench.board.shelve(P, minutes, "known", "ada")
    assert bench[P].shelved is None


def test_a_shelf_needs_a_reason_and_an_alarm(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"there is no alarm .*did you mean g1\.pressure"):
        bench.board.shelve("g1.presure", 5, "known", "ada")
    with pytest.raises(ValueError, match="reason must be a text"):
        bench.board.shelve(P, 5, " ", "ada")


def test_a_shelved_alarm_comes_back_in_time(bench: Bench) -> None:
    raised(bench)
    bench.board.shelve(P, 5, "known", "ada")
    bench.after(298, pressure=BAD)
    assert bench[P].is_hidden
    assert counts(bench.board.records.values())["shelved"] == 1
    bench.after(2, pressure=BAD)
    assert not bench[P].is_hidden
    assert bench.events == ["raised", "shelved", "unshelved", "raised"]


def test_no_shelf_outlives_the_night(bench: Bench) -> None:
    for _ in range(3):
        bench.warn()
        bench.now += 2
    bench.now = NOON + 23 * 3600
    record = bench.board.shelve("g1.cold", 720, "known", "ada")
    assert record["shelved"]["until"] == "2026-11-22T12:00:00.000Z"


def test_worse_than_when_shelved_comes_back(bench: Bench) -> None:
    for _ in range(3):
        bench.warn()
        bench.now += 2
    bench.board.shelve("g1.cold", 720, "known", "ada")
    bench.warn(severity="ERR")
    assert bench["g1.cold"].shelved is None
    assert bench.events[-1] == "worse"


def test_out_of_service_has_no_end(bench: Bench) -> None:
    bench.board.out_of_service(P, "gauge removed", "eve")
    raised(bench)
    bench.after(90_000)
    assert [record["alarm"] for record in bench.board.list()].count(P) == 1
    assert "raised" not in [c.event for c in bench.told if c.alarm == P]
    bench.hear(pressure=BAD)
    bench.board.in_service(P, "eve")
    assert (bench.told[-1].event, bench.told[-1].alarm) == ("raised", P)
    with pytest.raises(NotAllowedError):
        bench.board.in_service(P, "eve")


# --- escalation -----------------------------------------------------------------------------


def test_an_error_is_told_to_one_stage_after_the_other(bench: Bench) -> None:
    raised(bench)
    bench.after(180, pressure=BAD)
    assert [message.to for message in bench.messages] == ["observer"]
    assert bench[P].escalated == "observer"
    bench.after(420, pressure=BAD)
    assert [message.to for message in bench.messages] == ["observer", "support"]
    bench.after(3600, pressure=BAD)
    assert len(bench.messages) == 2
    assert "ERR g1.pressure: 2 mbar is above 1 mbar" in bench.messages[0].text


def test_an_acknowledgment_stops_it_and_a_reminder_starts_it_anew(bench: Bench) -> None:
    raised(bench)
    bench.board.acknowledge(P, 1, "ada")
    bench.after(590, pressure=BAD)
    assert not bench.messages
    bench.after(200, pressure=BAD)
    assert [message.to for message in bench.messages] == ["observer"]


def test_a_warning_is_not_told(bench: Bench) -> None:
    for _ in range(400):
        bench.warn()
        bench.now += 2
    assert not bench.messages


@pytest.mark.parametrize(
    ("timestamp", "since"),
    [
        ("2026-12-31T23:59:60.500Z", "2027-01-01T00:00:00.500Z"),
        ("2026-11-22T00:00:00", "2026-11-22T00:00:00.000Z"),
        ("yesterday", "2026-11-22T00:00:00.000Z"),
    ],
)
def test_a_strange_time_of_one_device_hides_no_alarm(
    bench: Bench, timestamp: str, since: str
) -> None:
    strange = bench.sample(quick=2) | {"timestamp": timestamp}
    bench.board.hear(strange)
    assert bench["g1.quick"].since == since
    bench.hear("g2", quick=2)
    assert bench.events == ["raised", "raised"]


DAY = 86_400.0


def test_an_error_is_told_although_the_clock_was_set_back(bench: Bench) -> None:
    raised(bench)
    bench.set_by = -DAY
    bench.after(182, pressure=BAD)
    assert [message.to for message in bench.messages] == ["observer"]


def test_no_shelf_becomes_longer_because_the_clock_was_set_back(bench: Bench) -> None:
    raised(bench)
    bench.board.shelve(P, 60, "we look at it", "ada")
    bench.after(60, pressure=BAD)
    assert bench.hides(P)
    bench.set_by = -DAY
    bench.after(2, pressure=BAD)
    assert not bench.hides(P)


def test_a_reminder_comes_although_the_clock_was_set_back(bench: Bench) -> None:
    raised(bench)
    bench.board.acknowledge(P, 1, "ada")
    bench.set_by = -DAY
    bench.after(2, pressure=BAD)
    assert bench.state(P) is S.ACTIVE


# --- restarts, silence ----------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.ACTIVE, S.ACKNOWLEDGED, S.RETURNED])
def test_a_restart_changes_nothing(bench: Bench, state: S) -> None:
    raised(bench)
    if state is S.ACKNOWLEDGED:
        bench.board.acknowledge(P, 1, "ada")
    if state is S.RETURNED:
        bench.after(20, pressure=GOOD)
    before, events = bench[P].kept(), len(bench.told)
    bench.restart()
    bench.hear(pressure=GOOD if state is S.RETURNED else BAD)
    assert bench[P].kept() == before
    assert len(bench.told) == events


def test_what_has_become_good_meanwhile_is_over_after_the_off_delay(bench: Bench) -> None:
    raised(bench)
    bench.restart()
    bench.after(20, pressure=GOOD)
    assert bench.state(P) is S.RETURNED


def test_a_device_that_the_file_does_not_name_any_more_has_no_alarm(bench: Bench) -> None:
    raised(bench)
    bench.board.out_of_service(P, "it is being repaired", "ada")
    raised(bench, device="g2", pressure=BAD)
    del bench.entries[0]
    for _ in range(2):
        bench.restart()
        bench.board.forget_strangers()
    assert [record["alarm"] for record in bench.board.list()] == ["g2.pressure"]
    assert [(each.event, each.alarm) for each in bench.told[-1:]] == [("cleared", P)]
    assert not bench.disk[P]["out_of_service"]


def test_a_silent_device_is_an_alarm(bench: Bench) -> None:
    bench.board.listening()
    for device in ("g1", "g2", "g3"):
        bench.hear(device, pressure=GOOD)
    bench.board.hear_status("hwserver", running=True)
    for _ in range(20):
        bench.after(2, device="g2", pressure=GOOD)
        bench.hear("g3", pressure=GOOD)
    assert [record["alarm"] for record in bench.board.list()] == ["g1.connection"]
    assert "no telemetry of g1 for" in bench["g1.connection"].reason


def test_without_a_router_nothing_is_silent(bench: Bench) -> None:
    bench.board.listening()
    bench.board.nobody_heard()
    bench.after(600)
    assert not bench.board.list()


def test_a_server_that_never_came_is_an_alarm(bench: Bench) -> None:
    bench.board.listening()
    bench.after(40)
    shown = [one["alarm"] for one in bench.board.list() if not one["suppressed"]]
    assert shown == ["hwserver.status"]


def test_a_server_that_ended_with_the_router_is_an_alarm(bench: Bench) -> None:
    bench.board.listening()
    bench.board.hear_status("hwserver", running=True)
    bench.board.nobody_heard()
    bench.after(60)
    bench.board.listening()
    bench.after(40)
    shown = [one["alarm"] for one in bench.board.list() if not one["suppressed"]]
    assert shown == ["hwserver.status"]


# --- everything at once ---------------------------------------------------------------------


def test_random_events_keep_the_invariants(scaled: Scaled) -> None:
    """200,000 events in a soak: nothing latched reaches normal unseen, nothing told is unkept."""
    chance = random.Random(7)
    bench = Bench()
    seen: set[tuple[str, int]] = set()
    told = 0
    for _ in range(scaled(1_000, soak=200_000)):
        bench.now += chance.choice((0.1, 1, 2, 2, 2, 5, 30, 300))
        before = {name: (r.state, r.announced) for name, r in bench.board.records.items()}
        with suppress(NotAllowedError, KeyError):
            _happen(bench, chance, seen)
        for name, record in bench.board.records.items():
            state, announced = before.get(name, (S.NORMAL, False))
            if state in (S.ACTIVE, S.RETURNED) and record.state is S.NORMAL and announced:
                latched = bench.board.rules.of(name).latches(record.worst)
                assert not latched or (name, record.occurrence) in seen
            if record.state is S.ACKNOWLEDGED:
                assert record.acknowledged
            if record.state in SHOWN:
                assert bench.disk[name] == record.kept(), "what is shown is on disk"
        for change in bench.told[told:]:
            if change.event == "raised":
                assert not change.record["shelved"]
                assert not change.record["suppressed"]
        told = len(bench.told)
    events = {"raised", "worse", "acknowledged", "reminded", "cleared", "unshelved"}
    assert events <= {*bench.events}


def _happen(bench: Bench, chance: random.Random, seen: set[tuple[str, int]]) -> None:
    """Let one thing happen. Raises NotAllowedError or KeyError if it cannot happen now."""
    alarm = chance.choice((P, "g1.cold", "g2.flow", "g2.quick"))
    match chance.randrange(12):
        case 6 | 7:
            occurrence = bench[alarm].occurrence
            bench.board.acknowledge(alarm, occurrence, "ada")
            seen.add((alarm, occurrence))
        case 8:
            bench.board.shelve(alarm, chance.uniform(1, 60), "known", "ada")
        case 9:
            bench.restart()
        case 10:
            bench.board.hear_status("hwserver", running=chance.random() < 0.7)
        case 11:
            bench.board.tick()
        case _:
            cold = [one for one in ("WARN", "ERR") if chance.random() < 0.3]
            bench.hear(
                alarm.partition(".")[0],
                online=chance.random() > 0.1,
                pressure=chance.choice((GOOD, BAD, None, 0.99)),
                flow=chance.choice((0.1, 2.0)),
                quick=chance.choice((0.5, 3.0)),
                alarms=[{"field": "cold", "severity": one, "reason": "cold"} for one in cold],
            )
