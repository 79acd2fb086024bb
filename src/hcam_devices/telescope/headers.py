"""The telescope's header: groups of FITS-like items, separated by semicolons.

    RADEG   = 17.5541 / RA (degrees);DATE-OBS= '2024/01/02' / date;

An item is a name, the first ``=``, a value and, after `` /``, a comment. A value in quotes may
contain slashes and doubled quotes; without quotes it ends at the first `` /``. All values are texts
until ``typed``. Items without a name or without ``=``, which the telescope also sends, are ignored.
The format is known from the predecessor, which wrongly split at every ``=`` and ``/``.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

QUOTED = re.compile(r"'((?:[^']|'')*)'(?!')\s*/?(.*)", re.DOTALL)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
NAME = re.compile(r"[A-Za-z][\w-]{0,67}", re.ASCII)
PLAIN = re.compile(r"(?!/)(.*?)(?:\s/(.*))?", re.DOTALL)


class Item(NamedTuple):
    """The value and the comment of a header item; both may be empty. A quoted value is a text."""

    value: str
    comment: str
    quoted: bool = False

    def typed(self) -> float | str:
        """Return the value as a number if it is a finite number, otherwise as a text."""
        if not self.quoted and NUMBER.fullmatch(self.value):
            number = float(self.value)
            return number if math.isfinite(number) else self.value
        return self.value


def parse(groups: Iterable[str]) -> dict[str, Item]:
    """Return the items of all groups by name; of a repeated name, the last item."""
    items = {}
    for text in ";".join(groups).split(";"):
        name, equals, rest = text.partition("=")
        if equals and name.strip():
            items[name.strip()] = _item(rest.strip())
    return items


def typed(items: Mapping[str, Item]) -> dict[str, float | str]:
    """Return a header as numbers and texts by name, without malformed names."""
    return {name: item.typed() for name, item in items.items() if NAME.fullmatch(name)}


def _item(text: str) -> Item:
    if match := QUOTED.fullmatch(text):
        return Item(match[1].replace("''", "'").strip(), match[2].strip(), quoted=True)
    if match := PLAIN.fullmatch(text):
        value = match[1].strip().strip("'")
    else:  # only a comment
        return Item("", text[1:].strip())
    return Item(value.strip(), (match[2] or "").strip())
