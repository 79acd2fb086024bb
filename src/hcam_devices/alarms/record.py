"""What is known of one alarm: what people see, and what is kept over a restart."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .chart import S

INTERNAL = ("announced", "raised", "active_since", "shelved_as")
"""What is kept and not told."""


@dataclass
class Record:
    """One alarm. Times are UTC (ISO 8601) for people, Unix times in the internal fields.

    ``reason``, ``value`` and ``limit`` are frozen when it is raised. ``first`` is the alarm that
    came first of those that came together, ``cause`` the one that explains it, ``suppressed`` why
    it is hidden although nobody has shelved it. ``count`` is how often it came within ten minutes.
    """

    alarm: str
    occurrence: int = 0
    state: S = S.NORMAL
    severity: str = ""
    worst: str = ""
    reason: str = ""
    value: float | str | bool | None = None
    unit: str = ""
    limit: float | None = None
    since: str | None = None
    cleared: str | None = None
    count: int = 0
    first: str | None = None
    cause: str | None = None
    suppressed: str | None = None
    acknowledged: dict[str, Any] | None = None
    shelved: dict[str, Any] | None = None
    out_of_service: dict[str, Any] | None = None
    escalated: str | None = None
    advice: str = ""
    announced: bool = False
    """Whether people were told of this occurrence."""
    raised: list[float] = field(default_factory=list)
    """When it came, within the last ten minutes."""
    active_since: float = 0.0
    """When people were told last that somebody has to act."""
    shelved_as: str = ""
    """The severity that was shelved: a worse one comes back."""

    @property
    def is_hidden(self) -> bool:
        """Whether a flag hides it."""
        return bool(self.shelved or self.out_of_service or self.suppressed)

    @property
    def is_news(self) -> bool:
        """Whether there is anything to tell of it."""
        return self.state is not S.NORMAL or bool(self.shelved or self.out_of_service)

    def public(self) -> dict[str, Any]:
        """Return what is told on the network, as plain data."""
        return {k: v for k, v in self.kept().items() if k not in INTERNAL}

    def kept(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return asdict(self) | {"state": str(self.state)}

    @classmethod
    def of(cls, kept: dict[str, Any]) -> "Record":
        """Return a record that was kept, perhaps by another version: unknown keys are left out."""
        known = {one.name for one in fields(cls)}
        found = {key: value for key, value in kept.items() if key in known}
        state = S(kept["state"])
        return cls(**found | {"state": S.NORMAL if state is S.PENDING else state})
