"""Parses object references (IOR): type, ORB, GIOP version, addresses, code sets.

Sources: CORBA 3.3 part 2, 9.7 (IOR) and 7.10.2.4 (code sets), and OMG's list of ORB types.
"""

import struct
from typing import Any

from . import giop

ORBS = {0x41545400: "omniORB", 0x54414F00: "TAO", 0x4A414300: "JacORB", 0x53554E00: "Sun's Java"}
CODE_SETS = {
    0x00010001: "ISO 8859-1",
    0x00010020: "ASCII",
    0x05010001: "UTF-8",
    0x00010109: "UTF-16",
    0x00010100: "UCS-2",
}
IIOP, MADE_BY, SPEAKS, ALSO_AT = 0, 0, 1, 3
"""The tag of a profile, and the tags of its components."""


def describe(reference: str) -> dict[str, Any]:
    """Return the contents of an object reference (``IOR:`` and hexadecimal digits).

    The keys are type, orb, giop, addresses and code sets. Raises ValueError if the text is not a
    reference.
    """
    try:
        ior = _encapsulated(bytes.fromhex(reference.removeprefix("IOR:")))
        found: dict[str, Any] = {
            "type": ior.text(),
            "orb": "unknown",
            "giop": "unknown",
            "addresses": [],
            "code sets": "unknown",
        }
        for _ in range(ior.number("I")):
            tag, data = ior.number("I"), ior.octets()
            if tag == IIOP:
                _profile(_encapsulated(data), found)
    except (struct.error, IndexError) as error:
        raise ValueError(f"not an object reference: {error}") from None
    return found


def addresses(reference: str) -> str:
    """Return the addresses in a reference as text."""
    try:
        return " or ".join(describe(reference)["addresses"]) or "no address"
    except ValueError:
        return "an address that cannot be read"


def _encapsulated(data: bytes) -> giop.Reader:
    return giop.Reader(data, giop.ORDERS[not data[0] & 1], 1)


def _profile(reader: giop.Reader, found: dict[str, Any]) -> None:
    major, minor = reader.number("B"), reader.number("B")
    found["giop"] = f"{major}.{minor}"
    found["addresses"].append(f"{reader.text()}:{reader.number('H')}")
    reader.octets()  # the key of the object
    for _ in range(reader.number("I") if minor else 0):
        tag, inner = reader.number("I"), _encapsulated(reader.octets())
        if tag == MADE_BY:
            make = inner.number("I")
            found["orb"] = ORBS.get(make, f"unknown (0x{make:08x})")
        elif tag == SPEAKS:
            found["code sets"] = f"{_code_sets(inner)}; wide: {_code_sets(inner)}"
        elif tag == ALSO_AT:
            found["addresses"].append(f"{inner.text()}:{inner.number('H')}")


def _code_sets(reader: giop.Reader) -> str:
    numbers = [reader.number("I")]
    numbers += [reader.number("I") for _ in range(reader.number("I"))]
    return ", ".join(CODE_SETS.get(n, f"0x{n:08x}") for n in dict.fromkeys(numbers) if n)
