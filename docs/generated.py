"""The parts of the reference that follow from declarations, as Markdown.

A page has ``<!-- generated: devices -->`` where the text of ``devices()`` belongs.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import click
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.pycode import ModuleAnalyzer

from hcam_devices.alarms.rules import GENERAL, UNREAD, Rules
from hcam_devices.alarms.server import entry_of as alarms_entry
from hcam_devices.cli import main as programs
from hcam_devices.cli import servers
from hcam_devices.config import instrument as files
from hcam_devices.config import stores, tables
from hcam_devices.core.device import Device, settings_of
from hcam_devices.errors import WampError
from hcam_devices.history.recorder import entry_of as recorder
from hcam_devices.journal import Journal
from hcam_devices.wamp.agent import Agent

CARRIED = "hipercam", "wht"
"""The instrument files of the package."""


def table(titles: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a table; nothing if it has no rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    head = [f"| {titles} |", "|" + "---|" * (titles.count("|") + 1)]
    return "\n".join([*head, *lines, "", ""]) if lines else ""


def code(text: str) -> str:
    """Return a text as code; in docstrings code has two backticks."""
    return f"`{text}`" if text else ""


def sentence(doc: str | None) -> str:
    """Return a docstring in Markdown and in one line."""
    return " ".join((doc or "").replace("``", "`").split())


def bounds(limits: Iterable[float | None] | None, unit: str = "") -> str:
    """Return limits as people write them."""
    low, high = (
        None if one in (None, math.inf, -math.inf) else one for one in limits or (None, None)
    )
    if low is None and high is None:
        return ""
    if low is None:
        text = f"up to {high:g}"
    else:
        text = f"from {low:g}" if high is None else f"{low:g} to {high:g}"
    return f"{text} {unit}".strip()


@cache
def described() -> dict[str, tuple[type[Device], list[dict[str, Any]]]]:
    """Return, by kind, the class and what each device of it in our files says of itself."""
    found: dict[str, tuple[type[Device], list[dict[str, Any]]]] = {}
    for file in CARRIED:
        instrument = files.load(Path(file))
        for entry in (*instrument.entries.values(), recorder(instrument), alarms_entry()):
            with TemporaryDirectory() as folder, closing(Journal(Path(folder, "j"))) as journal:
                told = Agent(entry.build(), entry.names, journal).describe()
            _, devices = found.setdefault(told["kind"], (entry.cls, []))
            if told["device"] not in [device["device"] for device in devices]:
                devices.append(told)
    return found


def common() -> set[str]:
    """Return the procedures that every device has."""
    return set.intersection(*({*first["procedures"]} for _, (first, *_) in described().values()))


def together(parts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and the description of parts that differ by a number only, once."""
    groups: dict[str, tuple[list[str], Any]] = {}
    for name, part in parts.items():
        alike = re.sub(r"\d", "", f"{name.rpartition('.')[2]}: {part['doc']}")
        names, _ = groups.setdefault(alike, ([], part))
        names.append(name)
    for names, part in groups.values():
        short = names if len(names) < 4 else [names[0], "...", names[-1]]
        yield ", ".join(one if one == "..." else code(one) for one in short), part


def devices() -> str:
    """Return a section for each kind of device: its fields, commands and settings."""
    return "".join(_kind(kind, cls, told) for kind, (cls, told) in sorted(described().items()))


def _kind(kind: str, cls: type[Device], told: list[dict[str, Any]]) -> str:
    first = told[0]
    parts = first["fields"]
    names = ", ".join(
        code(one["device"]) + "".join(f" ({code(alias)})" for alias in one["aliases"])
        for one in told
    )
    fields = together({n: p for n, p in parts.items() if not p["settable"]})
    setpoints = together({n: p for n, p in parts.items() if p["settable"]})
    procedures = {
        name: one
        for name, one in first["procedures"].items()
        if name not in common()
        and not (name.startswith("set_") and one["sets"])
        and not name.endswith((".enable", ".disable", ".targetSet", ".positionSet"))
    }
    settings = [] if first["device"] in files.COMMON.values() else _settings(cls)
    return (
        f"## {kind}\n\n{first['doc']} In our instrument files: {names}.\n\n"
        + table("readback | meaning", ((name, _field(one)) for name, one in fields))
        + table("setpoint | meaning", ((name, _field(one)) for name, one in setpoints))
        + _procedures("command", procedures)
        + table("setting | default, range | meaning", settings)
    )


def _field(part: dict[str, Any]) -> str:
    """Return what a field means, with its unit or type, its limits and words."""
    words = [*(part["words"] or {}).values()]
    more = {
        "in": code(part["unit"]),
        "accepts": bounds(part["limits"]),
        "healthy": bounds(part["healthy"]),
        "one of": ", ".join(words[:12]) + (" ..." if len(words) > 12 else ""),
    }
    said = [f"{what} {text}" for what, text in more.items() if text]
    return f"{part['doc']} {', '.join([part['type'].capitalize(), *said])}."


def _procedures(title: str, procedures: dict[str, Any]) -> str:
    rows = [
        (name, " ".join(filter(None, (one["doc"], _arguments(one), f"*{_callers(one)}*"))))
        for name, one in together(procedures)
    ]
    return table(f"{title} | effect", rows)


def _callers(procedure: dict[str, Any]) -> str:
    if procedure["audience"] == "program":
        return "For programs; everybody may call it." if procedure["read_only"] else "For programs."
    return {"observer": "For everybody.", "operator": "For operators."}.get(
        procedure["audience"], "For engineers."
    )


def _arguments(procedure: dict[str, Any]) -> str:
    found = []
    for name, schema in procedure["parameters"]["properties"].items():
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        limits = bounds((least, schema.get("maximum")), schema.get("unit", ""))
        more = limits or schema.get("unit", "") or " or ".join(map(str, schema.get("enum", ())))
        found.append(code(name) + (f" ({more})" if more else ""))
    return f"Arguments: {', '.join(found)}." if found else ""


def _doc_of(cls: type, name: str) -> str:
    """Return the docstring below a setting. Raises KeyError without one."""
    for base in cls.__mro__:
        docs = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
        if text := docs.get((base.__qualname__, name)):
            return sentence(" ".join(text))
        if base.__module__.startswith("hcam_devices.core.device"):
            break
    raise KeyError(f"{cls.__module__}.{cls.__qualname__}.{name} has no docstring")


def _range(metadata: Iterable[Any]) -> str:
    low: Any = None
    high: Any = None
    for one in metadata:
        if isinstance(one, FieldInfo):
            return _range(one.metadata)
        low = one.ge if isinstance(one, Ge) else one.gt if isinstance(one, Gt) else low
        high = one.le if isinstance(one, Le) else high
    return f", {bounds((low, high))}" if (low, high) != (None, None) else ""


def _settings(cls: type[Device]) -> list[tuple[str, str, str]]:
    owners = {name: (cls, hint, value) for name, (hint, value) in settings_of(cls).items()}
    link = settings_of(cls.link_type) if issubclass(cls.link_type, object) else {}
    owners |= {name: (cls.link_type, hint, value) for name, (hint, value) in link.items()}
    return [
        (
            code(name),
            _default(value) + _range(get_args(hint)[1:]),
            _doc_of(owner, name),
        )
        for name, (owner, hint, value) in owners.items()
        if name != "codec"
    ]


def alarms() -> str:
    """Return all declared alarms, with their limits, delays and advice."""
    found: dict[tuple[str, ...], list[str]] = {}
    for file in CARRIED:
        instrument = files.load(Path(file))
        entries = [*instrument.entries.values(), recorder(instrument), alarms_entry()]
        for rule in Rules(entries, instrument.alarms).declared():
            name = rule.alarm.partition(".")[2]
            if name in GENERAL:
                continue
            advice = rule.advice or "A notice, which is shown and not raised."
            key = (
                re.sub(r"\d+", "", name),
                bounds(rule.healthy, rule.unit),
                f"{rule.delay:g} s",
                advice,
            )
            names = found.setdefault(key, [])
            if rule.alarm not in names:
                names.append(rule.alarm)
    rows = []
    for (_, healthy, delay, advice), names in found.items():
        shown = [names[0], "...", names[-1]] if len(names) > 3 else names
        first = ", ".join(one if one == "..." else code(one) for one in shown)
        text = advice.replace(
            "{device}", names[0].partition(".")[0] if len(names) == 1 else "DEVICE"
        )
        more = [f"Healthy {healthy}"] if healthy else []
        rows.append((first, f"{text} *{'; '.join([*more, f'raised after {delay}'])}.*"))
    general = [(code(f"DEVICE.{name}"), advice.replace("{device}", "DEVICE"))
               for name, advice in GENERAL.items()]  # fmt: skip
    unread = [("any field that is not read", UNREAD.replace("{device}", "DEVICE"))]
    return table("alarm | what to do", [*rows, *general, *unread])


def every_device() -> str:
    """Return the procedures that every device has."""
    _, (first, *_) = described()["zaber.FocalPlaneSlide"]
    return _procedures("procedure", {n: p for n, p in first["procedures"].items() if n in common()})


def errors() -> str:
    """Return the errors, with their names on the network."""
    classes: list[type[WampError]] = [*WampError.__subclasses__(), WampError]
    rows = [(code(one.uri), code(one.__name__), sentence(one.__doc__)) for one in classes]
    return table("name | exception | meaning", rows)


TABLES: dict[str, type[BaseModel]] = {
    "The whole file": tables.File,
    "[router]": tables.Router,
    "[servers.NAME]": tables.Server,
    "[devices.NAME], of any kind": tables.Common,
    "[legacy]": tables.Legacy,
    '[alarms."DEVICE.FIELD"], also globs': tables.Judgment,
    "[notify.NAME]": tables.Notify,
    '[stores.NAME], kind = "embedded"': stores.Embedded,
    '[stores.NAME], kind = "folder"': stores.Folder,
    '[stores.NAME], kind = "influxdb"': stores.InfluxDB,
}


def settings() -> str:
    """Return a section for each table of the instrument file."""
    text = ""
    for title, model in TABLES.items():
        rows = [
            (
                code(name),
                _default(... if field.is_required() else field.default) + _range(field.metadata),
                _doc_of(model, name),
            )
            for name, field in model.model_fields.items()
            if not isinstance(field.default, dict | BaseModel) and name != "devices"
        ]
        text += f"## {title}\n\n{sentence(model.__doc__)}\n\n".replace("\n\n\n\n", "\n\n")
        text += table("setting | default, range | meaning", rows)
    return text


def _default(value: Any) -> str:
    if value is ...:
        return "required"
    if value in (None, "", []):
        return "none"
    return code(str(value).lower() if isinstance(value, bool) else json.dumps(value))


def commands() -> str:
    """Return the help of every command, as it is printed."""
    with click.Context(
        programs.main, info_name="hcam", **programs.main.context_settings
    ) as context:
        text = ""
        for section, members in programs.SECTIONS.items():
            text += f"## {section}\n\n"
            for name in members:
                if command := programs.main.get_command(context, name):
                    text += _help(command, f"hcam {name}", context)
    text += "## The servers\n\n"
    for server in (
        servers.hwserver,
        servers.hserver,
        servers.gtcserver,
        servers.hwlogger,
        servers.hwalarm,
    ):
        text += _help(server, str(server.name), None)
    return text


def _help(command: click.Command, name: str, parent: click.Context | None) -> str:
    with click.Context(
        command, parent, info_name=name.rpartition(" ")[2], terminal_width=90
    ) as context:
        text = f"### {name}\n\n```text\n{command.get_help(context)}\n```\n\n"
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                if found := command.get_command(context, sub):
                    text += _help(found, f"{name} {sub}", context)
    return text


PARTS = {
    part.__name__: part() for part in (devices, every_device, alarms, errors, settings, commands)
}
"""Made at once: autodoc imports modules in its own way, after which type hints cannot be read."""


def fill(text: str) -> str:
    """Return a page with its generated parts. Raises KeyError if there is no such part."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: PARTS[found[1]], text)
