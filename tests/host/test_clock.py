"""Whether the clock of a machine is kept right, as the kernel says."""

import ctypes

import pytest

from hcam_devices.host.clock import TIMEX_BYTES, clock_is_disciplined


@pytest.mark.parametrize(("answer", "known"), [(0, True), (1, True), (5, False), (-1, None)])
def test_what_the_kernel_answers(
    monkeypatch: pytest.MonkeyPatch, answer: int, known: bool | None
) -> None:
    asked = []

    class Library:
        def adjtimex(self, question: ctypes.Array[ctypes.c_char]) -> int:
            asked.append(question.raw)
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert clock_is_disciplined() is known
    assert asked == [bytes(TIMEX_BYTES)], "a question of zeros changes nothing"


def test_the_kernel_of_this_machine_is_asked() -> None:
    assert clock_is_disciplined() in (True, False, None)
