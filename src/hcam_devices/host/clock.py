"""Whether a time service keeps the clock of this machine."""

import ctypes

TIME_ERROR = 5
"""The kernel's answer while no time service has set the clock (adjtimex(2))."""
TIMEX_BYTES = 512
"""More than the size of ``struct timex`` on any machine."""


def clock_is_disciplined() -> bool | None:
    """Return whether a time service (chrony, ntpd, systemd-timesyncd) keeps the clock.

    Return None if the kernel does not answer, because a sandbox may forbid the question.
    """
    question = ctypes.create_string_buffer(TIMEX_BYTES)  # zero modes: change nothing
    answer = ctypes.CDLL(None).adjtimex(question)
    return None if answer < 0 else bool(answer != TIME_ERROR)
