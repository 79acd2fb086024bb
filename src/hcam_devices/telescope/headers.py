"""The telescope's header: groups of FITS-like items, separated by semicolons.

    RADEG   = 17.5541 / RA (degrees);DATE-OBS= '2024/01/02' / date;

An item is a name, the first ``=``, a value, and after `` /`` a comment. A value in quotes may hold
slashes, and a quote if it is doubled; without quotes it ends at the first `` /``. Everything stays
text. What has no name or no ``=`` is not an item: the telescope sends such garbage. Source: the
strings that the predecessor's parser took, without its defects (it split at every ``=`` and ``/``).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

QUOTED = re.compile(r"'((?:[^']|'')*)'(?!')\s*/?(.*)", re.DOTALL)
PLAIN = re.compile(r"(?!/)(.*?)(?:\s/(.*))?", re.DOTALL)


class Item(NamedTuple):
    """The value of a header item, and its comment; either may be empty."""

    value: str
    comment: str


def parse(groups: Iterable[str]) -> dict[str, Item]:
    """Return the items of all groups by name; of a name that comes twice, the last."""
    items = {}
    for text in ";".join(groups).split(";"):
        name, equals, rest = text.partition("=")
        if equals and name.strip():
            items[name.strip()] = _item(rest.strip())
    return items


def _item(text: str) -> Item:
    if match := QUOTED.fullmatch(text):
        value = match[1].replace("''", "'")
    elif match := PLAIN.fullmatch(text):
        value = match[1].strip().strip("'")
    else:  # nothing but a comment
        return Item("", text[1:].strip())
    return Item(value.strip(), (match[2] or "").strip())
