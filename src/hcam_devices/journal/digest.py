"""Digests of samples: eight bytes, the same wherever a sample is kept.

The digest of a sample is the first eight bytes of the MD5 of the text

    seq US time (US name US value)*

in UTF-8, US being the character 31, the time in milliseconds, names sorted by code point, numbers
as ``%.17g``, ``true`` and ``false``, and texts as they are; characters that UTF-8 does not have
become ``?``. Digests of many samples add up modulo 2^64, as little-endian numbers. (MD5 because
databases have it. A digest finds mistakes and damage: a program that can write a journal can write
anything.)
"""

from hashlib import md5

from .points import Point

SIZE = 8
NONE = bytes(SIZE)
"""Stands for a sample that is not there."""


def digest(point: Point) -> bytes:
    """Return the digest of a sample."""
    parts = [str(point.seq), str(point.time)]
    for name, value in sorted(point.values.items()):
        if isinstance(value, str):
            parts += name, value
        elif isinstance(value, bool):
            parts += name, "true" if value else "false"
        else:
            parts += name, f"{value:.17g}"
    text = "\x1f".join(parts).encode(errors="replace")
    return md5(text, usedforsecurity=False).digest()[:SIZE]
