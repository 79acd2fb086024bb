"""Whether a time service keeps the clock of this machine right."""

import ctypes

TIME_ERROR = 5
"""What the kernel answers while no time service has set the clock (adjtimex(2))."""
TIMEX_BYTES = 512
"""More than the size of ``struct timex`` on any machine."""


def clock_is_disciplined() -> bool | None:
    """Return whether a time service (chrony, ntpd, systemd-timesyncd) keeps the clock right.

    The kernel is asked, and nothing is changed. Return None if it does not answer: a sandbox may
    forbid the question.
    """
    question = ctypes.create_string_buffer(TIMEX_BYTES)  # the first field says: change nothing
    answer = ctypes.CDLL(None).adjtimex(question)
    return None if answer < 0 else bool(answer != TIME_ERROR)
