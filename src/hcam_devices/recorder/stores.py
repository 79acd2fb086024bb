"""What the recorder asks of a store, whatever it is."""

from collections.abc import Sequence
from typing import Protocol

from .coverage import Coverage, Gone
from .points import Point


class AwayError(Exception):
    """The store cannot be written to now, but may be later; what it has kept is not known."""


class Store(Protocol):
    """Where points are kept. Its methods block; one thread of its own calls them, in turn.

    ``stored`` is what it has, read at its opening and brought up to date by ``write`` and
    ``settle``; a point that is in it already is left out by ``write``.
    """

    name: str
    stored: Coverage

    def write(self, points: Sequence[Point]) -> None:
        """Keep points, and that they are kept, together. Raises AwayError."""

    def settle(self, gone: Gone) -> None:
        """Note that numbers will never come. Raises AwayError."""

    def gone(self) -> list[Gone]:
        """Return what is gone, and why."""

    def aside(self) -> int:
        """Return how many points the store refused; they are set aside."""

    def tidy(self) -> None:
        """Do what is to be done now and then: retention, for instance. Raises AwayError."""

    def close(self) -> None:
        """Close it."""
