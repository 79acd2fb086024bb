"""Stores: where the recorder keeps samples, and what it asks of each."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ...journal.points import Point
from ...journal.ranges import SampleRange, SampleRanges


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
    stored: SampleRanges
    warning: str
    """What people should know of it besides that it is away; empty if nothing."""

    def rows(self, points: Sequence[Point]) -> Sequence[Row]:
        """Return points as ``write`` takes them."""

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows, and that they are kept, together. Raises AwayError."""

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that numbers will never come, all together; return whether it did.

        It does not while it cannot know whether it has them. Raises AwayError.
        """

    def gone(self) -> list[SampleRange]:
        """Return what is gone, and why."""

    def aside(self) -> int:
        """Return how many points the store refused; they are set aside."""

    def refusals(self) -> list[str]:
        """Return sentences about what is set aside: of which device, how many, and why."""

    def tidy(self) -> None:
        """Do what is to be done now and then: retention, for instance. Raises AwayError."""

    def close(self) -> None:
        """Close it."""
