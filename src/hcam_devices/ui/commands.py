"""The table of recorded commands, and their marks in a plot."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..journal.points import milliseconds
from . import times

COLUMNS = ("device", "who", "command", "outcome", "why")


def printable(text: str) -> str:
    r"""Return a text with its control characters escaped, such as ``\x1b``."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def table(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of commands; its head comes first, also if there are none."""
    events = list(events)
    zone = times.zone(events[0]["time"]) if events else "UTC"
    rows = [(f"time ({zone})", *COLUMNS), *map(row, events)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield "  ".join(padded).rstrip()


def row(event: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one command, without control characters."""
    who = event["who"] or "?"
    if event["role"] and event["role"] != who:
        who += f" ({event['role']})"
    done = "done" if event["error"] is None else f"error: {event['error']}"
    cells = times.text(event["time"]), event["device"], who, typed(event), done, event["why"] or ""
    return tuple(printable(cell) for cell in cells)


def typed(event: dict[str, Any]) -> str:
    """Return a command as a Python call, such as ``set_target_position(-50)``."""
    given = [json.dumps(value, ensure_ascii=False) for value in event["args"]]
    given += [
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in event["kwargs"].items()
    ]
    return f"{event['what']}({', '.join(given)})"


def moments(events: Iterable[dict[str, Any]]) -> list[int]:
    """Return the arrival times (ms) of commands."""
    return [milliseconds(event["time"]) for event in events]
