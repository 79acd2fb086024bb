"""What the recorder asks of each store."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ...journal.points import Point
from ...journal.ranges import SampleRange, SampleRanges


class AwayError(Exception):
    """The store is unavailable now; which of the last samples it has kept is not known."""


Row = TypeVar("Row", bound=tuple[Any, ...])


class Store(Protocol[Row]):
    """Keeps samples, each as a row that begins with its device, epoch and number.

    The methods block and are called by one thread, except ``rows``, which any thread may call.
    ``stored`` are the samples that the store has; ``write`` and ``settle`` keep it up to date, and
    ``write`` leaves out rows that are in it already.
    """

    name: str
    stored: SampleRanges
    warning: str
    """A problem of a store that is available, for an alarm; empty if there is none."""

    def rows(self, points: Sequence[Point]) -> Sequence[Row]:
        """Return points as ``write`` takes them."""

    def write(self, rows: Sequence[Row]) -> None:
        """Store rows and note them as stored, in one transaction. Raises AwayError."""

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note in one transaction that samples will never come; return whether it did.

        It does not as long as it cannot know whether it has them. Raises AwayError.
        """

    def gone(self) -> list[SampleRange]:
        """Return the samples that will never come, with reasons."""

    def aside(self) -> int:
        """Return the count of samples that the store rejected and keeps aside."""

    def refusals(self) -> list[str]:
        """Return a sentence for each device of which samples were rejected: how many, and why."""

    def tidy(self) -> None:
        """Do regular work such as retention. Raises AwayError."""

    def close(self) -> None:
        """Release the files and connections of the store."""
