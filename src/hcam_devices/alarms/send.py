"""Send one message to one URL through apprise: ``python -m hcam_devices.alarms.send``.

apprise takes 44 MiB and two seconds to import, so it runs as a child for each message. The child
reads ``{"url", "title", "body"}`` from standard input, because arguments are public and the URL is
a secret. It prints why the service did not take the message, in words of its own, because those of
apprise may contain the URL. Without a title it only checks that apprise understands the URL.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

TAKEN, REFUSED, MISSING, UNCLEAR = 0, 1, 3, 4
"""The exit statuses: the message was taken, or not; there is no apprise; it may have arrived."""


class Cause(NamedTuple):
    """Why a service did not take a message: a pattern in what apprise logs, and our words."""

    pattern: str
    words: str
    status: int = REFUSED


CAUSES = (
    Cause(r"error=(\d{3})\b", "HTTP status {}"),
    Cause(r"\((\d{3}), b?['\"]", "SMTP status {}"),
    Cause(r"refused", "the connection is refused"),
    Cause(r"Name or service not known|name resolution|getaddrinfo", "its host has no address"),
    Cause(r"No route to host|unreachable", "its host cannot be reached"),
    Cause(r"timed out|Timeout", "no answer in time", UNCLEAR),
)


def main() -> int:
    """Send the message on standard input; return the exit status."""
    asked = json.load(sys.stdin)
    try:
        import apprise  # noqa: PLC0415  (see above)
    except ImportError:
        return MISSING
    said = _Listener()
    target = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    if not target.add(asked["url"]):
        print("apprise does not understand the URL")
        return REFUSED
    if "title" not in asked:
        return TAKEN
    logger.addHandler(said)
    logger.setLevel(logging.DEBUG)
    text = apprise.NotifyFormat.TEXT  # or mail would lose the ends of lines
    if target.notify(title=asked["title"], body=asked["body"], body_format=text):
        return TAKEN
    words, status = said.cause()
    print(words)
    return status


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def cause(self) -> tuple[str, int]:
        return cause_of(self.lines)


def cause_of(lines: Iterable[str]) -> tuple[str, int]:
    """Return why a message was not taken, and the exit status, from what apprise has logged."""
    lines = list(lines)
    for cause in CAUSES:
        for line in lines:
            if found := re.search(cause.pattern, line):
                return cause.words.format(*found.groups()), cause.status
    return "the service did not take it", UNCLEAR


if __name__ == "__main__":
    raise SystemExit(main())
