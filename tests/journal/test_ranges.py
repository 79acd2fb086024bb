"""Sets of numbered samples do what Python's sets do."""

import sys
import threading
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.journal.ranges import SampleRange, SampleRanges

NAMES = st.sampled_from(["ccd1", "slide"])
EPOCHS = st.sampled_from(["a", "b"])
RANGES = st.lists(
    st.builds(
        lambda device, epoch, first, more: SampleRange(device, epoch, first, first + more),
        NAMES,
        EPOCHS,
        st.integers(1, 40),
        st.integers(0, 10),
    )
)
Number = tuple[str, str, int]


def numbers(some: Iterable[SampleRange] | SampleRanges) -> set[Number]:
    ranges = some.ranges() if isinstance(some, SampleRanges) else some
    return {
        (one.device, one.epoch, number)
        for one in ranges
        for number in range(one.first, one.last + 1)
    }


@given(RANGES, RANGES)
def test_ranges_are_sets_of_numbers(ours: list[SampleRange], others: list[SampleRange]) -> None:
    one, other = SampleRanges(ours), SampleRanges(others)
    left, right = numbers(ours), numbers(others)
    for found, expected in (
        (one, left),
        (one - other, left - right),
        (one & other, left & right),
        (one | other, left | right),
        (one.copy(), left),
    ):
        assert numbers(found) == expected
        assert len(found) == len(expected) == sum(part.samples for part in found.ranges())
        assert bool(found) == bool(expected)
        assert found.keys == {number[:2] for number in expected}
        assert (found == one) == (expected == left)
        for lower, higher in pairwise(found.ranges()):
            apart = lower[:2] != higher[:2] or lower.last + 1 < higher.first
            assert apart
    assert all(number in one for number in left)
    assert not any(number in one for number in right - left)
    for device, epoch in one.keys | other.keys:
        seqs = [seq for *key, seq in left if key == [device, epoch]]
        assert one.newest(device, epoch) == max(seqs, default=0)
    assert numbers(one) == left
    one |= other
    assert numbers(one) == left | right


@given(st.lists(st.integers(1, 30)))
def test_numbers_may_come_in_any_order(some: list[int]) -> None:
    ranges = SampleRanges()
    ranges.add_numbers("ccd1", "a", some)
    assert numbers(ranges) == {("ccd1", "a", number) for number in some}


@given(RANGES, RANGES)
def test_each_sample_has_the_reason_of_the_first_cause(
    ours: list[SampleRange], others: list[SampleRange]
) -> None:
    causes = [one._replace(reason=f"{number}") for number, one in enumerate(others, 1)]
    found = SampleRanges(ours).explained(causes)
    assert sum(one.samples for one in found) == len(numbers(ours))
    for one in found:
        for number in numbers([one]):
            reasons = [cause.reason for cause in causes if number in numbers([cause])]
            assert one.reason == (reasons[0] if reasons else "")


def test_another_thread_may_add_to_what_is_subtracted() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            odd = (SampleRange("ccd1", "a", seq, seq) for seq in range(1, 400, 2))
            stored, known = SampleRanges(odd), SampleRanges([SampleRange("ccd1", "a", 1, 399)])
            filling = threading.Thread(target=_add_even, args=(stored,))
            filling.start()
            while filling.is_alive():
                assert len(known - stored) < 400
            filling.join()
            assert not known - stored
    finally:
        sys.setswitchinterval(interval)


def _add_even(stored: SampleRanges) -> None:
    for seq in range(398, 0, -2):
        stored.add("ccd1", "a", seq, seq)
