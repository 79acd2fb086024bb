"""A sample as text: the state of the device in a word, and its fields in a row."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from rich.text import Text

from ..core.fields import Readback
from ..names import family
from ..wamp.presentation import AT_REST, EXPOSURE, UNITS
from ..wamp.reading import value_and_unit
from .troubles import SEVERITIES

Declared: TypeAlias = Mapping[str, Readback]
"""Fields by their names in a sample."""

NO_FIELDS = {"device", "seq", "epoch", "timestamp", "state", "alarms", "state_reason"}
"""The entries of a sample that are not shown as fields."""
DETECTOR_FIELDS = [EXPOSURE[name] for name in ("state", "activity", "outcome", "run")]
"""Fields that only a detector has."""
BAR_LENGTH = 20


def state_of(sample: dict[str, Any], *, silent: bool = False) -> str:
    """Return the state of a device in one word, from its newest sample, if that is not too old."""
    if not sample:
        return "no news"
    states = dict(sample["state"])
    if silent:
        return "silent"
    connection = states.pop("connection", "online")
    if connection == "online" and is_detector(sample):
        words = {"active": "exposing", "error": "error"}
        return words.get(sample[EXPOSURE["activity"]], str(sample[EXPOSURE["state"]]))
    others = dict.fromkeys(state for state in states.values() if state != AT_REST)
    return connection if connection != "online" else "/".join(others) or connection


def row(sample: dict[str, Any], declared: Declared, width: int, *, compact: bool) -> Text:
    """Return the fields of a sample, with line breaks between fields so that they fit.

    Numbers have their ``declared`` digits. If ``compact``, return one line with the fields that
    fit.
    """
    if is_detector(sample):
        text = exposure(sample, declared)
        if compact:
            text.truncate(width, overflow="ellipsis")
        return text
    text, used = Text(), 0
    for name, values, unit in fields(sample, declared):
        content = f"{' '.join(values)} {unit}".rstrip()
        size = len(name) + 1 + len(content)
        if used and used + 3 + size > width - (4 if compact else 0):
            if compact:
                text.append(" ...", style="dim")
                break
            text.append("\n")
            used = 0
        elif used:
            text.append(" \u00b7 ", style="dim")
            used += 3
        text.append(f"{name} ", style="dim").append(content)
        used += size
    return text


def fields(sample: dict[str, Any], declared: Declared) -> Iterator[tuple[str, list[str], str]]:
    """Yield the fields of a sample as (name, values, unit); the channels of a family are joined."""
    families: dict[str, tuple[list[str], str]] = {}
    for name, value in sample.items():
        if name in NO_FIELDS:
            continue
        written = writer(declared, name)
        if isinstance(value, dict) and "current" in value:
            pair = [value_and_unit(value[key]) for key in ("current", "target")]
            (current, unit), (target, unit_of_target) = pair
            unit = unit or unit_of_target
            text = f"{written(current)} (target {written(target)})"
        elif isinstance(value, dict) and "value" not in value:
            continue  # a table, such as the telescope's header
        else:
            single, unit = value_and_unit(value)
            text = written(single)
        families.setdefault(family(name), ([], UNITS.get(unit, unit)))[0].append(text)
    for name, (values, unit) in families.items():
        same = len(values) > 1 and len(set(values)) == 1
        yield name, [f"{values[0]} x{len(values)}"] if same else values, unit


def writer(declared: Declared, name: str) -> Callable[[Any], str]:
    """Return the function that writes the values of a field, as declared or short."""
    return declared[name].as_text if name in declared else number


def number(value: Any) -> str:
    """Return a value without a declaration as a short text; ``?`` for null."""
    if isinstance(value, bool) or not isinstance(value, float):
        return "?" if value is None else str(value)
    if value and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.2f}"


def is_detector(sample: dict[str, Any]) -> bool:
    """Return whether a sample is from a detector and contains the detector's state."""
    return all(sample.get(name) is not None for name in DETECTOR_FIELDS)


def exposure(sample: dict[str, Any], declared: Declared) -> Text:
    """Return the state of a detector's run, with a progress bar while it is active."""
    active = sample[EXPOSURE["activity"]] == "active"
    done, expected = (sample.get(EXPOSURE[name]) for name in ("done", "expected"))
    run = sample[EXPOSURE["run"]]
    parts = [f"run {run}" if active else f"last run {run}"]
    if not active:
        parts[0] += f" ({sample[EXPOSURE['outcome']]})"
    if done is not None:
        parts.append(f"{done} of {expected} frames" if expected else f"{done} frames")
    if active and expected and done is not None:
        full = round(BAR_LENGTH * min(done / expected, 1))
        parts[-1] += f" {'━' * full}{'╌' * (BAR_LENGTH - full)} {100 * done // expected}%"
    left = sample.get(EXPOSURE["left"])
    if active and left:
        parts.append(f"{left['value']:.0f} s left")
    if sample.get(EXPOSURE["clocks"]) == "disabled":
        parts.append("clocks disabled")
    for name, what in ((EXPOSURE["rate"], ""), (EXPOSURE["disk"], " left")):
        if value := sample.get(name):
            unit = value["unit"]
            text = writer(declared, name)(value["value"])
            parts.append(f"{text} {UNITS.get(unit, unit)}{what}")
    return Text(" \u00b7 ".join(parts))


def is_telemetry(sample: Any) -> bool:
    """Return whether a sample can be shown, because any program may publish to its topic."""
    try:
        row(sample, {}, 80, compact=False)
        texts = [sample["device"], sample["state"]["connection"], state_of(sample)]
        for alarm in sample["alarms"]:
            texts += [alarm["field"], alarm["reason"], alarm.get("since") or ""]
            if alarm["severity"] not in SEVERITIES:
                return False
        return all(isinstance(text, str) for text in texts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
