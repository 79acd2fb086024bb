"""What notes of commands show: arguments and texts, short and without secrets."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..names import shorten

MAX_TEXT = 200
"""Cut texts, such as arguments and reasons, after this many characters."""
MAX_ITEMS = 10
"""Show at most this many arguments, and items of a list or object."""
MAX_DEPTH = 2
"""Show nested lists and objects of arguments to this depth."""
MAX_JSON = 2000
"""Show arguments in full if they are at most this many characters of JSON."""
MAX_SCANNED = 4000
"""Look for secrets in this many characters of a text; nothing after them is shown."""

HIDDEN = "***"
SECRET_NAME = re.compile(
    r"pass(word|wd|phrase|code)|pwd|secret|token|credential|cookie|auth(?!or)|(^|[_-]|api)key$",
    re.IGNORECASE,
)
SECRETS = (
    re.compile(r"-----BEGIN.*", re.DOTALL),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?<=\bbearer )\s*\S+|(?<=\bbasic )\s*\S+|(?<=\bhcam )\s*\S+=\S+", re.IGNORECASE),
    re.compile(
        r"((?:pass(?:word|wd|phrase|code)|pwd|secret|token|api_?key)[\"']?\s*[:=]\s*[\"']?)"
        r"[^\s,;\"'}]+",
        re.IGNORECASE,
    ),
    re.compile(r"\b[0-9A-Fa-f]{32,}\b"),
)
LONG_WORD = re.compile(r"[A-Za-z0-9+_-]{40,}={0,2}")


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return a text, or its first ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_secrets(text: str, known: Sequence[str] = ()) -> str:
    """Return the beginning of a text, and hide everything that looks like a secret.

    ``known`` are secrets that it may contain.
    """
    text = text[:MAX_SCANNED]
    for secret in known:
        for part in (secret, secret[:50]):  # errors quote the beginning of a long secret
            text = text.replace(part, HIDDEN) if len(part) > 2 else text
    for pattern in SECRETS:
        text = pattern.sub(lambda found: (found.groups("") or ("",))[0] + HIDDEN, text)
    return LONG_WORD.sub(_hidden, text)


def _hidden(word: re.Match[str]) -> str:
    """Hide a long word with letters and digits, as keys and tokens are."""
    text = word[0]
    mixed = any(map(str.isdigit, text)) and any(map(str.isalpha, text))
    return HIDDEN if mixed else text


def shown(value: Any, secrets: list[str], depth: int = 0) -> Any:
    """Return an argument as short plain data for a note; add hidden texts to ``secrets``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return cut(without_secrets(value))
    if isinstance(value, (list, tuple)):
        if depth > MAX_DEPTH:
            return f"[{len(value)} items]"
        some = [shown(one, secrets, depth + 1) for one in value[:MAX_ITEMS]]
        return some + [f"and {len(value) - MAX_ITEMS} more"] * (len(value) > MAX_ITEMS)
    if isinstance(value, Mapping):
        if depth > MAX_DEPTH:
            return f"{{{len(value)} items}}"
        found: dict[str, Any] = {}
        for key, one in list(value.items())[:MAX_ITEMS]:
            name = cut(without_secrets(str(key)))
            if SECRET_NAME.search(str(key)[:MAX_SCANNED]):
                secrets.append(one[:MAX_SCANNED] if isinstance(one, str) else shorten(one))
                found[name] = HIDDEN
            else:
                found[name] = shown(one, secrets, depth + 1)
        return found | ({"...": f"{len(value) - MAX_ITEMS} more"} if len(value) > MAX_ITEMS else {})
    return f"({type(value).__name__})"


def as_text(value: Any) -> str:
    """Return the beginning of an argument as JSON."""
    return cut(json.dumps(value), MAX_JSON // 2)
