"""Standard output and standard error, which may be closed, or a pipe that nobody reads.

Printing a text must neither end a program nor make it wait.
"""

import os
import select

LEVELS = ("debug", "info", "warning", "error")
"""The levels of a log, from the most verbose."""
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
"""The priority of each level in systemd's journal (syslog(3))."""
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


def goes_to_journal() -> bool:
    """Return whether standard error goes to systemd's journal."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def with_priority(text: str, level: str) -> str:
    """Return a text whose lines begin with the priority of a level, as systemd's journal reads it.

    If standard error does not go to the journal, return the text unchanged.
    """
    if not goes_to_journal():
        return text
    return "".join(f"<{PRIORITIES[level]}>{line}" for line in text.splitlines(keepends=True))


def discard(stream: int) -> None:
    """Redirect a standard stream to /dev/null, so that buffered text causes no further errors."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)
