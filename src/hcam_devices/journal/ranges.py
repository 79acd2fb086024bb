"""Sets of numbered samples: ranges of numbers of devices and epochs, and their arithmetic."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

Key: TypeAlias = tuple[str, str]
"""A device and an epoch."""


class SampleRange(NamedTuple):
    """The samples from number ``first`` to ``last``, both included, of a device in one epoch.

    ``reason`` is why they are not there, if they are not.
    """

    device: str
    epoch: str
    first: int
    last: int
    reason: str = ""

    @property
    def samples(self) -> int:
        """The count of samples in the range."""
        return self.last - self.first + 1


class SampleRanges:
    """A set of samples, each a device, an epoch and a number, with ``-``, ``&``, ``|`` and ``len``.

    ``a - b`` takes as long as ``a`` has ranges, however many ``b`` has. Another thread may add to
    ``b`` meanwhile. A set cannot be iterated over, because ``len`` counts its samples: use
    ``ranges``.
    """

    def __init__(self, ranges: Iterable[SampleRange] = ()) -> None:
        self._spans: dict[Key, list[list[int]]] = {}
        for samples in ranges:
            self.add(*samples[:4])

    def add(self, device: str, epoch: str, first: int, last: int) -> None:
        """Include the numbers from ``first`` to ``last``, both included."""
        spans = self._spans.setdefault((device, epoch), [])
        if spans and spans[-1][0] <= first <= spans[-1][1] + 1:  # fast path: numbers go up
            spans[-1][1] = max(spans[-1][1], last)
            return
        low = bisect_left(spans, first - 1, key=itemgetter(1))
        high = bisect_right(spans, last + 1, key=itemgetter(0))
        if low < high:
            first, last = min(first, spans[low][0]), max(last, spans[high - 1][1])
        spans[low:high] = [[first, last]]

    def add_numbers(self, device: str, epoch: str, numbers: Iterable[int]) -> None:
        """Include numbers one by one: fast as long as each is the one before plus one."""
        first, last = 0, -1
        for number in numbers:
            if number != last + 1:
                if first <= last:
                    self.add(device, epoch, first, last)
                first = number
            last = number
        if first <= last:
            self.add(device, epoch, first, last)

    @property
    def keys(self) -> set[Key]:
        """The devices and epochs of which there are samples."""
        return set(self._spans)

    def newest(self, device: str, epoch: str) -> int:
        """Return the highest number of a device in an epoch; 0 if there is none."""
        spans = self._spans.get((device, epoch))
        return spans[-1][1] if spans else 0

    def copy(self) -> "SampleRanges":
        """Return another set with the same samples."""
        found = SampleRanges()
        found._spans = {key: [span.copy() for span in self._spans[key]] for key in self._spans}
        return found

    def explained(self, causes: Iterable[SampleRange]) -> list[SampleRange]:
        """Return these samples with the reason of the first cause that has them, or with none."""
        found, rest = [], self
        for cause in causes:
            if not rest:
                break
            if part := rest & SampleRanges([cause]):
                found += [samples._replace(reason=cause.reason) for samples in part.ranges()]
                rest = rest - part
        return [*found, *rest.ranges()]

    def ranges(self) -> Iterator[SampleRange]:
        """Yield the ranges; those of one device and epoch are in order, and apart."""
        for key in self._spans:
            yield from self.ranges_of(key)

    def ranges_of(self, key: Key) -> Iterator[SampleRange]:
        """Yield the ranges of one device and epoch, in order."""
        for first, last in self._spans.get(key, ()):
            yield SampleRange(*key, first, last)

    def __len__(self) -> int:
        return sum(last - first + 1 for spans in self._spans.values() for first, last in spans)

    def __bool__(self) -> bool:
        return bool(self._spans)

    def __contains__(self, sample: tuple[str, str, int]) -> bool:
        device, epoch, seq = sample
        spans = self._spans.get((device, epoch))
        if not spans or seq > spans[-1][1]:  # fast path: the next number is asked for
            return False
        at = bisect_left(spans, seq, key=itemgetter(1))
        return spans[at][0] <= seq

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleRanges) and self._spans == other._spans

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __ior__(self, other: "SampleRanges") -> "SampleRanges":
        for key, spans in other._spans.items():
            for first, last in spans:
                self.add(*key, first, last)
        return self

    def __or__(self, other: "SampleRanges") -> "SampleRanges":
        found = self.copy()
        found |= other
        return found

    def __sub__(self, other: "SampleRanges") -> "SampleRanges":
        found = SampleRanges()
        for key, spans in self._spans.items():
            if rest := _without(spans, other._spans.get(key, ())):
                found._spans[key] = rest
        return found

    def __and__(self, other: "SampleRanges") -> "SampleRanges":
        return self - (self - other)

    def __repr__(self) -> str:
        return f"SampleRanges({list(self.ranges())})"


def numbers_of(rows: Iterable[tuple[Any, ...]]) -> SampleRanges:
    """Return the samples of rows that begin with device, epoch and number."""
    numbers: dict[Key, list[int]] = defaultdict(list)
    for row in rows:
        numbers[row[0], row[1]].append(row[2])
    found = SampleRanges()
    for key, some in numbers.items():
        found.add_numbers(*key, some)
    return found


def _without(spans: Iterable[list[int]], others: list[list[int]] | tuple[()]) -> list[list[int]]:
    """Return the parts of some spans that are in none of others, which are in order."""
    found = []
    for first, last in spans:
        rest = first
        at = bisect_left(others, first, key=itemgetter(1))
        end = bisect_right(others, last, key=itemgetter(0))
        for low, high in others[at:end]:  # a copy: another thread may shorten the list
            if rest < low:
                found.append([rest, low - 1])
            rest = high + 1
        if rest <= last:
            found.append([rest, last])
    return found
