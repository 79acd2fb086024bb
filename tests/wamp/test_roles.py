"""What the roles allow: of any rules, and of the instrument files of the package."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.alarms.server import entry_of as alarms
from hcam_devices.config.instrument import load
from hcam_devices.history.recorder import entry_of as recorder
from hcam_devices.wamp import roles
from hcam_devices.wamp.roles import ACTIONS, Action, Rule, merged

from .rights import INSTRUMENTS, Right, allowed, rights

SEGMENTS = st.sampled_from(["a", "b", "ab", "c"])
EXACT = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
PREFIX = st.lists(SEGMENTS, max_size=3).map(lambda parts: "".join(f"{part}." for part in parts))
RULES = st.lists(
    st.builds(Rule, EXACT | PREFIX, st.frozensets(st.sampled_from(ACTIONS))), max_size=8
)


def decision(rules: Iterable[Rule], uri: str, action: Action) -> bool:
    """Return what Crossbar decides: the longest rule alone does."""
    return decided({rule.uri: rule for rule in rules}, uri, action)


def decided(rules: Mapping[str, Rule], uri: str, action: Action) -> bool:
    """Do what ``decision`` does, with the rules by URI."""
    for length in range(len(uri), -1, -1):
        if rule := rules.get(uri[:length]):
            return rule.covers(uri) and action in rule.allow
    return False


@given(RULES, EXACT, st.sampled_from(ACTIONS))
def test_merged_rules_decide_as_if_any_rule_that_matches_may_allow(
    rules: list[Rule], uri: str, action: Action
) -> None:
    wanted = any(rule.covers(uri) and action in rule.allow for rule in rules)
    if any(uri.startswith(rule.uri) and not rule.is_prefix and rule.uri != uri for rule in rules):
        assert decision(merged(rules), uri, action) <= wanted  # beside an exact rule: nothing
    else:
        assert decision(merged(rules), uri, action) == wanted


@given(RULES)
def test_no_merged_rule_can_be_left_out(rules: list[Rule]) -> None:
    found = merged(rules)
    assert merged(found) == found
    for rule in found:
        others = {one.uri: one for one in found if one is not rule}
        shorter = [uri for uri in others if rule.uri.startswith(uri)]
        assert {one for one in ACTIONS if decided(others, rule.uri, one)} != rule.allow or not (
            shorter and others[max(shorter, key=len)].is_prefix
        )


@given(RULES)
def test_what_a_rule_allows_is_allowed_beside_any_other(rules: list[Rule]) -> None:
    for rule in rules:
        assert all(decision(merged(rules), rule.uri, action) for action in rule.allow)


def test_each_role_begins_with_a_rule_that_allows_nothing() -> None:
    for instrument in INSTRUMENTS.values():
        for make in (roles.roles, roles.replay_roles):
            for role in make([*instrument.entries.values(), recorder(instrument), alarms()]):
                assert role["permissions"][0] == {
                    "uri": "",
                    "match": "prefix",
                    "allow": dict.fromkeys(ACTIONS, False),
                    "disclose": {"caller": True, "publisher": True},
                    "cache": False,
                }


def generated(name: str | Path) -> dict[str, list[Rule]]:
    """Return the rules of each role, as they are in Crossbar's configuration."""
    instrument = load(Path(name))
    return {
        role["name"]: [
            Rule(one["uri"], frozenset(action for action in ACTIONS if one["allow"][action]))
            for one in role["permissions"]
        ]
        for role in roles.roles([*instrument.entries.values(), recorder(instrument), alarms()])
    }


@cache
def wanted_of(name: str) -> tuple[Right, ...]:
    """Return what each role should be allowed in an instrument of the package."""
    return tuple(rights(INSTRUMENTS[name]))


def wrong(rules: Mapping[str, list[Rule]], wanted: Iterable[Right]) -> Iterator[str]:
    """Yield where roles decide otherwise than they should."""
    known = {role: {rule.uri: rule for rule in found} for role, found in rules.items()}
    for role, action, uri, should in wanted:
        if decided(known[role], uri, action) != should:
            yield f"{role}: {action} {uri} {'refused' if should else 'allowed'}"


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_role_may_do_what_it_should_and_nothing_else(name: str) -> None:
    rules = generated(name)
    wanted = wanted_of(name)
    assert list(wrong(rules, wanted)) == []
    assert {right.role for right in wanted} == rules.keys()


def test_a_server_may_hear_and_set_what_its_views_show_of_other_servers(tmp_path: Path) -> None:
    text = load().path.read_text()
    for name in ("meerstetter1", "compo_lens", "pressure1"):
        text = text.replace(f"[devices.{name}]", f'[devices.{name}]\nserver = "hwserver-far"')
    (tmp_path / "site.toml").write_text(f"{text}\n[servers.hwserver-far]\n")
    instrument = load(tmp_path / "site.toml")
    assert {"device-hwserver-far", "device-hwserver"} <= generated(instrument.path).keys()
    assert list(wrong(generated(instrument.path), rights(instrument))) == []
    set_rack = "hipercam.meerstetter1.rpc.set_target_temperature1"
    assert allowed(instrument, "device-hwserver", set_rack, "call")
    assert not allowed(instrument, "device-hwserver", f"{set_rack[:-1]}4", "call")
    assert not allowed(instrument, "device-hwserver-far", "hipercam.flow.telemetry", "subscribe")


def test_the_names_of_the_published_system_are_for_operators_and_not_for_observers() -> None:
    rules = generated("hipercam")
    commands: dict[str, Action] = {
        "hipercam.FocalPlaneSlide.target_position": "publish",
        "hipercam.slide.rpc.stage.move": "call",
        "hipercam.GTC.rpc.do_offset": "call",
        "hipercam.gtc.rpc.gtc.do_offset": "call",
    }
    for uri, action in commands.items():
        assert decision(rules["operator"], uri, action)
        assert not decision(rules["observer"], uri, action)
    assert decision(rules["observer"], "hipercam.NGC.rpc.summary", "call")


def _engineer_for_operators(patch: pytest.MonkeyPatch) -> None:
    real = roles.least_role

    def wide(**declared: Any) -> str:
        return real(**declared).replace("engineer", "operator")

    patch.setattr(roles, "least_role", wide)


def _commands_for_observers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "least_role", lambda **_: "observer")


def _rules_that_are_not_merged(patch: pytest.MonkeyPatch) -> None:
    def last(rules: Iterable[Rule]) -> list[Rule]:
        return list({rule.uri: rule for rule in rules}.values())

    patch.setattr(roles, "merged", last)


def _one_role_for_all_servers(patch: pytest.MonkeyPatch) -> None:
    real = roles._Declarations.server

    def wide(self: roles._Declarations, server: str) -> list[Rule]:
        return [rule for one in self.servers for rule in real(self, one)]

    patch.setattr(roles._Declarations, "server", wide)


def _no_aliases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hcam_devices.config.instrument.Entry.names", property(lambda self: (self.name,)))


def _nothing_to_watch(patch: pytest.MonkeyPatch) -> None:
    real = roles._rules

    def blind(action: Action, found: Iterable[str]) -> list[Rule]:
        return [] if action == "subscribe" else real(action, found)

    patch.setattr(roles, "_rules", blind)


def _testaments_of_people(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles, "LOOK_UP", (*roles.LOOK_UP, roles.ADD_TESTAMENT))


def _setpoints_of_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roles._Declarations, "setpoints", lambda *_: ())


def _names_of_a_device_as_one_prefix(patch: pytest.MonkeyPatch) -> None:
    real = roles._rules

    def wide(action: Action, found: Iterable[str]) -> list[Rule]:
        return real(action, (uri.removesuffix("rpc.") for uri in found))

    patch.setattr(roles, "_rules", wide)


def _peers_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hcam_devices.devices.gtc.Telescope.peers", {})


@pytest.mark.parametrize(
    "mutate",
    [
        _engineer_for_operators,
        _commands_for_observers,
        _rules_that_are_not_merged,
        _one_role_for_all_servers,
        _no_aliases,
        _nothing_to_watch,
        _testaments_of_people,
        _setpoints_of_nobody,
        _names_of_a_device_as_one_prefix,
    ],
)
def test_a_fault_of_the_generator_is_found(mutate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = wanted_of("hipercam")
    mutate(monkeypatch)
    assert any(wrong(generated("hipercam"), wanted))


def test_a_peer_that_is_not_declared_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger: tuple[str, Action] = ("hipercam.ngc.rpc.trigger", "call")
    assert allowed(INSTRUMENTS["hipercam"], "device-gtcserver", *trigger)
    assert decision(generated("hipercam")["device-gtcserver"], *trigger)
    _peers_are_forgotten(monkeypatch)
    assert not decision(generated("hipercam")["device-gtcserver"], *trigger)
