"""The interface of a store for the recorder."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from ...journal.ranges import SampleRange, SampleRanges
from ...journal.records import Record


class AwayError(Exception):
    """The store is unavailable; it is unknown which of the last samples it has."""


Row = TypeVar("Row", bound=tuple[Any, ...])


class Store(Protocol[Row]):
    """Stores samples as rows that begin with device, epoch and number.

    The methods block and are called by one thread, except ``rows``, which any thread may call.
    """

    name: str

    @property
    def warning(self) -> str:
        """The text of an alarm about an available store; empty if there is none."""

    @property
    def stored(self) -> SampleRanges:
        """The samples that the store has or will never have; ``write`` skips rows of these."""

    def rows(self, records: Sequence[Record]) -> Sequence[Row]:
        """Return samples in the form that ``write`` accepts."""

    def write(self, rows: Sequence[Row]) -> None:
        """Store rows and note them as stored, in one transaction. Raises AwayError."""

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note in one transaction that samples are lost; return whether that was done.

        It is not done while the store cannot know whether it has them. Raises AwayError.
        """

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, with reasons."""

    def aside(self) -> int:
        """Return the number of rejected samples, which are kept aside."""

    def refusals(self) -> list[str]:
        """Return a sentence for each device with rejected samples: how many, and why."""

    def tidy(self) -> None:
        """Do periodic work such as retention. Raises AwayError."""

    def close(self) -> None:
        """Release the files and connections of the store."""
