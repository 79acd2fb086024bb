"""Standard output and standard error, which may be closed, full, or a pipe that nobody reads.

What a program prints for people must not end it, and must not make it wait.
"""

import os
import select

AT_ONCE = 4096
"""A pipe that can be written takes this many bytes without waiting (PIPE_BUF)."""


def open_missing_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    The next file or socket to be opened would get its number, and what is printed.
    """
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def write(stream: int, text: str) -> bool:
    """Write to a standard stream if that is possible at once; return whether all was written."""
    data = text.encode(errors="backslashreplace")
    try:
        while data:
            if not select.select([], [stream], [], 0)[1]:
                return False
            data = data[os.write(stream, data[:AT_ONCE]) :]
    except OSError:
        return False
    return True


def discard(stream: int) -> None:
    """Let what is still to be written to a standard stream vanish: it cannot be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)
