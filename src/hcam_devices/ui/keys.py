"""Keys pressed in a terminal, each at once and by name, and what they do to a long list."""

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
    """Call ``on_key`` with each key that is pressed; never if the terminal is not ours to read."""
    fd = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else -1
    if fd < 0 or os.tcgetpgrp(fd) != os.getpgrp():  # to ask in the background would stop us
        yield
        return
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            data = os.read(fd, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal has gone
            loop.remove_reader(fd)
        for key in KEY.findall(data.decode(errors="replace")):
            on_key(NAMES.get(key, key))

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    loop.add_reader(fd, read)
    loop.add_signal_handler(signal.SIGCONT, tty.setcbreak, fd)  # a shell has set it otherwise
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCONT)
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Browser:
    """Where a person has scrolled to in a list, and which names are to be shown."""

    def __init__(self, *, quits: bool = True) -> None:
        self.quits = quits
        """Whether q ends it."""
        self.over = False
        self.top: int | None = None
        """The first row shown; None before anybody has scrolled: then what fits is chosen."""
        self.page = 1
        """How many rows are shown, as far as is known."""
        self.wanted = ""
        self.typing = False

    def press(self, key: str) -> None:
        """Do what a key stands for."""
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
        """Return whether a name is to be shown: it contains what was typed, or matches it."""
        return self.wanted in name or fnmatchcase(name, self.wanted)

    def hint(self) -> str:
        """Return which keys there are now."""
        if self.typing:
            return f"names with: {self.wanted}_   Enter keeps this, Esc shows all"
        keys = ["q quits"] if self.quits else []
        keys += ["\u2191\u2193 PgUp PgDn scroll", "/ filters"]
        keys += [f"only {self.wanted!r}: Esc shows all"] if self.wanted else []
        return " \u00b7 ".join(keys)
