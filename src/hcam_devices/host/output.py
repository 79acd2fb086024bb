"""Standard output and standard error, which may be closed, or a pipe that nobody reads.

Printing a text must neither end a program nor make it wait.
"""

import os
import select

PIPE_BUF = 4096
"""A pipe that ``select`` calls writable takes this many bytes without waiting."""


def open_missing_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next file or socket would get the number of the stream, and the printed texts.
    """
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def write(stream: int, text: str) -> bool:
    """Write a text to a standard stream without waiting; return whether all of it was written."""
    data = text.encode(errors="backslashreplace")
    try:
        while data:
            if not select.select([], [stream], [], 0)[1]:
                return False
            data = data[os.write(stream, data[:PIPE_BUF]) :]
    except OSError:
        return False
    return True


def discard(stream: int) -> None:
    """Redirect a standard stream to /dev/null, so that buffered text causes no further errors."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)
