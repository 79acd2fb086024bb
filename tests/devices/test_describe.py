"""What every device says of itself to somebody who has never heard of it."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from hcam_devices.alarms.server import entry_of as alarms
from hcam_devices.config.instrument import Entry, load
from hcam_devices.core.axis import CHART, COMMANDS, Axis, S
from hcam_devices.core.device import Device
from hcam_devices.history.recorder import entry_of as recorder
from hcam_devices.journal import Journal
from hcam_devices.wamp.agent import Agent

from ..helpers import ENTRIES
from .description import FILE, Description, as_text, stands_alone

KINDS = {entry.cls.__name__: entry.cls for entry in ENTRIES.values()}
FILES = ("hipercam", "wht")
"""The instrument files of the package."""


def entries() -> Iterator[tuple[str, Entry]]:
    """Yield each device of each carried instrument, by its file and name."""
    for file in FILES:
        instrument = load(Path(file))
        for entry in (*instrument.entries.values(), recorder(instrument), alarms()):
            yield f"{file}:{entry.name}", entry


ALL = dict(entries())


@cache
def described(name: str) -> dict[str, Any]:
    """Return what a device says, with its agent and its simulator."""
    entry = ALL[name]
    device = entry.build()
    more = {"simulate": device.simulator().simulate} if device.simulator else {}
    with TemporaryDirectory() as folder, closing(Journal(Path(folder) / "j")) as journal:
        return Agent(device, entry.names, journal, more).describe()


@pytest.mark.parametrize("name", ALL)
def test_it_has_the_documented_form(name: str) -> None:
    text = json.dumps(described(name))
    Description.model_validate_json(text)
    assert not re.search(r"typing\.|FieldInfo|<class|inspect\.|lambda|\binf\b|NaN", text)


def test_the_documented_form_is_the_one_that_is_tested() -> None:
    assert FILE.read_text(encoding="utf-8") == as_text()


@pytest.mark.parametrize("name", ALL)
def test_what_it_names_is_there(name: str) -> None:
    one = described(name)
    fields, axes, procedures = one["fields"], one["axes"], one["procedures"]
    for axis in axes.values():
        assert {axis["readback"], axis["setpoint"]} - {None} <= fields.keys()
    for what, procedure in procedures.items():
        assert procedure["moves"] in {None, *axes}, what
        if procedure["sets"]:
            assert fields[procedure["sets"]]["settable"], what
        properties = procedure["parameters"]["properties"].keys()
        assert {*procedure["positional"], procedure["rest"]} - {None} <= properties
        assert {*procedure["parameters"]["required"]} <= properties
    for what, field in fields.items():
        assert field["settable"] is (f"set_{what}" in procedures)


@pytest.mark.parametrize("name", ALL)
def test_every_doc_is_a_sentence_that_stands_alone(name: str) -> None:
    one = described(name)
    for what, part in (*one["fields"].items(), *one["procedures"].items()):
        assert stands_alone(part["doc"]), f"{what}: {part['doc']}"
    docs: dict[str, set[str]] = {}
    for what, field in one["fields"].items():
        docs.setdefault(field["doc"], set()).add(what.rstrip("0123456789"))
    assert all(len(fields) == 1 for fields in docs.values()), docs


@pytest.mark.parametrize(
    "doc",
    ["", "Of the CCD.", "idle or running.", "Satellites tracked.", "Where `it` goes.", "A b\nc."],
)
def test_what_leans_on_a_name_is_no_sentence(doc: str) -> None:
    assert not stands_alone(doc)


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
