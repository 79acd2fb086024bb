"""The keys of a terminal, and how they scroll and filter a long list."""

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])?|.", re.DOTALL)
NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home",
    "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape",
}  # fmt: skip


@contextmanager
def pressed(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_key`` with the name of each key that is pressed, while the context is open.

    It is never called if standard input is not a terminal, or if another program reads it.
    """
    fd = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1
    # The system stops a process that reads in the background.
    if fd < 0 or os.tcgetpgrp(fd) != os.getpgrp():
        yield
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            data = os.read(fd, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal is closed
            loop.remove_reader(fd)
        for key in KEY.findall(data.decode(errors="replace")):
            on_key(NAMES.get(key, key))

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    # The shell may have changed the mode while this program was stopped.
    loop.add_signal_handler(signal.SIGCONT, tty.setcbreak, fd)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCONT)
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Browser:
    """The visible part of a list of names, which keys scroll and filter.

    If ``quits``, the key q sets ``over``.
    """

    def __init__(self, *, quits: bool = True) -> None:
        self.quits = quits
        self.over = False
        """Whether q has been pressed."""
        self.top: int | None = None
        """The index of the first row; None shows a summary until the first scrolling."""
        self.page = 1
        """The number of rows that fit, set when the list is drawn."""
        self.wanted = ""
        """The filter as typed so far."""
        self.typing = False
        """Whether the filter is being typed."""

    def press(self, key: str) -> None:
        """Handle a key, given by its name in NAMES or its character."""
        if self.typing:
            self._type(key)
        elif key == "q" and self.quits:
            self.over = True
        elif key == "/":
            self.wanted, self.typing, self.top = "", True, None
        elif key == "escape":
            self.wanted, self.top = "", None
        elif key == "home":
            self.top = None
        elif step := {"down": 1, "up": -1, "page down": self.page, "page up": -self.page}.get(key):
            before = -1 if self.top is None else self.top
            if step > 1 and self.top is None:
                step = 1  # the first page down shows the first page in full
            self.top = before + step if before + step >= 0 else None

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.wanted, self.typing = "", False
        elif key == "backspace":
            self.wanted = self.wanted[:-1]
        elif len(key) == 1 and key.isprintable():
            self.wanted += key

    def chooses(self, name: str) -> bool:
        """Return whether a name contains the filter or matches it as a glob."""
        return self.wanted in name or fnmatchcase(name, self.wanted)

    def hint(self) -> str:
        """Return a line that explains the keys."""
        if self.typing:
            return f"names with: {self.wanted}_   Enter keeps this, Esc shows all"
        keys = ["q quits"] if self.quits else []
        keys += ["\u2191\u2193 PgUp PgDn scroll", "/ filters"]
        keys += [f"only {self.wanted!r}: Esc shows all"] if self.wanted else []
        return " \u00b7 ".join(keys)
