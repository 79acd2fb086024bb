"""What every device says of itself to somebody who has never heard of it."""

import ast
import inspect
import json
import sys
from typing import Any

import pytest

from hcam_devices.core.axis import CHART, COMMANDS, Axis, S
from hcam_devices.core.device import Device

from ..helpers import ENTRIES

KINDS = {entry.cls.__name__: entry.cls for entry in ENTRIES.values()}


def calls_of_peers(cls: type[Device]) -> set[tuple[str, str]]:
    """Return the device and the procedure of each ``call_peer`` in the module of a class."""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    return {
        (ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1]))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "call_peer"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_declares_which_procedures_of_others_it_calls(kind: str) -> None:
    cls = KINDS[kind]
    declared = {(peer, name) for peer, names in cls.peers.items() for name in names}
    assert declared == calls_of_peers(cls)
    assert bool(declared) is (kind == "Telescope")


@pytest.mark.parametrize("name", ENTRIES)
def test_the_chart_of_an_axis_says_which_commands_each_state_allows(name: str) -> None:
    device = ENTRIES[name].build()
    described, procedures = device.describe(), device.procedures()
    assert json.dumps(described)
    for axis in (part for part in device.parts if isinstance(part, Axis)):
        chart = described["axes"][axis.name]["chart"]
        for state in S:
            axis.state = state
            assert chart[state].keys() == {event for event in COMMANDS if event in CHART[state]}
            for command, following in chart[state].items():
                assert f"{axis.name}.{command}" in procedures
                assert axis.after(command) == following


@pytest.mark.parametrize("name", ENTRIES)
def test_every_audience_may_call_what_is_for_it(name: str) -> None:
    procedures: dict[str, Any] = {
        what: one.describe(what) for what, one in ENTRIES[name].build().procedures().items()
    }
    for what, one in procedures.items():
        match one["audience"]:
            case "observer":
                assert one["read_only"], what
            case "operator" | "engineer":
                assert not one["read_only"], what
        event = what.rpartition(".")[2]
        if event in ("targetSet", "positionSet"):
            assert one["audience"] == "program"
            same = procedures[f"set_{one['sets']}"]
            assert (same["audience"], same["sets"]) == ("operator", one["sets"])
