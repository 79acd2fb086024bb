"""Stores: where the recorder keeps samples, and what it asks of each."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from .. import HcamError
from .coverage import Coverage, Gone
from .influxdb import InfluxDB
from .points import Point

STRICT = ConfigDict(extra="forbid", strict=True)


class Embedded(BaseModel):
    """Files on this machine: each sample for ``raw_days`` days, then minutes, for ever."""

    model_config = STRICT

    kind: Literal["embedded"] = "embedded"
    raw_days: int = Field(default=30, ge=1)
    folder: str = ""


StoreSettings: TypeAlias = Embedded | InfluxDB


def place(settings: StoreSettings, home: Path) -> Path:
    """Return the folder in which a store keeps its files: within the home if it is relative.

    ``~`` is the user's own home; HcamError if there is none.
    """
    if isinstance(settings, InfluxDB):
        return home / "stores"
    folder = os.path.expanduser(settings.folder or "history")
    if folder.startswith("~"):
        raise HcamError(f"folder {folder!r}: there is no such home directory; write it in full")
    return home / folder


class AwayError(Exception):
    """The store cannot be written to now, but may be later; what it has kept is not known."""


Row = TypeVar("Row", bound=tuple[Any, ...])


class Store(Protocol[Row]):
    """Where points are kept, each as a row that begins with its device, epoch and number.

    Its methods block, and one thread of its own calls them, in turn; ``rows`` may be called in any.
    ``stored`` is what it has, read at its opening and brought up to date by ``write`` and
    ``settle``; a row that is in it already is left out by ``write``.
    """

    name: str
    stored: Coverage
    warning: str
    """What people should know of it besides that it is away; empty if nothing."""

    def rows(self, points: Sequence[Point]) -> Sequence[Row]:
        """Return points as ``write`` takes them."""

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows, and that they are kept, together. Raises AwayError."""

    def settle(self, gone: Iterable[Gone]) -> bool:
        """Note that numbers will never come, all together; return whether it did.

        It does not while it cannot know whether it has them. Raises AwayError.
        """

    def gone(self) -> list[Gone]:
        """Return what is gone, and why."""

    def aside(self) -> int:
        """Return how many points the store refused; they are set aside."""

    def refusals(self) -> list[str]:
        """Return sentences about what is set aside: of which device, how many, and why."""

    def tidy(self) -> None:
        """Do what is to be done now and then: retention, for instance. Raises AwayError."""

    def close(self) -> None:
        """Close it."""
