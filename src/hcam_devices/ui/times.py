"""Times as text for people: in UTC or, if they want, in the zone of this machine.

JSON, CSV and files always have UTC.
"""

from datetime import UTC, datetime, timedelta, tzinfo

from ..wamp.reading import moment_of

_zone: tzinfo | None = UTC


def use(*, local: bool) -> None:
    """Write times in the zone of this machine from now on, or in UTC."""
    global _zone  # noqa: PLW0603  (as the level of a log, it is one for the program)
    _zone = None if local else UTC


def moment(time: str | int) -> datetime:
    """Return a time (UTC as ISO 8601, or ms since 1970) in the zone that is in use."""
    if isinstance(time, str):
        return moment_of(time).astimezone(_zone)
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time)).astimezone(_zone)


def text(time: str | int) -> str:
    """Return a time such as ``2026-11-22 04:44:44``."""
    return f"{moment(time):%Y-%m-%d %H:%M:%S}"


def exact(time: str) -> str:
    """Return a time to the ms, with its zone: ``2026-11-22T04:44:44.196Z``."""
    return moment(time).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def offset_ms(time: int) -> int:
    """Return the offset (ms) of the zone from UTC at a time (ms since 1970)."""
    return round((moment(time).utcoffset() or timedelta()).total_seconds() * 1000)


def zone(time: str | int) -> str:
    """Return the name of the zone at a time, such as UTC or CET."""
    return moment(time).tzname() or ""
