"""Names and quotations for people: suggestions for wrong names, the usage of a procedure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = 12
LIKE = 0.7
"""A name is suggested if its likeness (1: equal) is at least this."""
MAX_COMPARED = 100
"""Characters of a name to compare, because comparing a huge text would stop a server."""
PART = 0.75
"""The likeness of a name that is part of the other one."""


def family(name: str) -> str:
    """Return a name without its number: ``pressure`` for ``pressure1``."""
    return re.sub(r"\d+$", "", name)


def likeness(name: str, other: str) -> float:
    """Return how like (0 to 1) a name is to another one, or to the part after its last dot."""
    from difflib import SequenceMatcher  # noqa: PLC0415  (only mistakes need it)

    wanted = name[:MAX_COMPARED].lower()
    ends = {other.lower(), other.lower().rpartition(".")[2]}
    inside = PART if len(wanted) >= 4 and wanted in other.lower() else 0.0
    return max(inside, *(SequenceMatcher(None, wanted, end).ratio() for end in ends))


def nearest(name: str, names: Iterable[str], most: int = SHOWN) -> str:
    """Return the names most like ``name`` as text, and how many more there are."""
    found = sorted(names, key=lambda other: (-likeness(name, other), other))
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a text such as ``; did you mean block or unblock?``, empty if no name is alike."""
    like = {other: likeness(name, other) for other in names}
    least = max(LIKE, max(like.values(), default=0) - 0.1)
    close = sorted(
        (other for other in like if like[other] >= least), key=lambda other: -like[other]
    )
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def usage(described: Mapping[str, Any]) -> str:
    """Return the parameters of a described procedure as a usage line: ``RA DEC [within=4]``."""
    properties, required = (described["parameters"][key] for key in ("properties", "required"))
    shown = []
    for name, schema in properties.items():
        default = schema.get("default")
        if name == described["rest"]:
            shown.append(f"[{name} ...]")
        elif name == "confirm":
            shown.append("[confirm=true]")
        elif name in required:
            shown.append(name.upper())
        else:
            shown.append(f"[{name}]" if default in (None, "") else f"[{name}={default}]")
    return " ".join(shown)


def shorten(value: object) -> str:
    """Return the repr of a value, cut to 60 characters, to be quoted in an error."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; nested too deeply
        return f"{type(value).__name__} (too long to be shown)"
    return text if len(text) <= 60 else text[:57] + "..."
