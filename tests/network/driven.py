"""Runs a GUI of version 1.7, and lets a test use its widgets: ``driven.py SOCKET PROGRAM``.

Runs in the environment of that GUI, so it imports only the standard library. Each line that comes
through the socket is a JSON list, the name of an action and its arguments; each is answered by a
line, a JSON list of the result and the error. Tk's own loop reads the socket, so actions also work
while a dialog stops everything else.

A path names an object, from the root window on: ``globals.ccd_hw.vacuums.0.label``.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
import tkinter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

SPOKEN: list[list[str]] = []
"""The commands by which the GUI would have made a noise on another machine."""


class Noise(subprocess.Popen[Any]):
    """A process; one that would make a noise through ssh does nothing but be listed."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        words = args.split() if isinstance(args, str) else list(args)
        if words[0] == "/usr/bin/ssh":
            SPOKEN.append(words)
            args, options["shell"] = ["true"], False
        super().__init__(args, *more, **options)


class Driver:
    """Answers what comes through a socket, in the loop of a Tk."""

    def __init__(self, root: tkinter.Tk, listening: socket.socket) -> None:
        self.root = root
        self.rest = b""
        root.tk.createfilehandler(listening, tkinter.READABLE, self._accept)

    def _accept(self, listening: Any, _mask: int) -> None:
        connection, _ = listening.accept()
        self.root.tk.createfilehandler(connection, tkinter.READABLE, self._read)

    def _read(self, connection: Any, _mask: int) -> None:
        data = connection.recv(65536)
        if not data:
            self.root.tk.deletefilehandler(connection)
            connection.close()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            connection.sendall(self._answer(line) + b"\n")

    def _answer(self, line: bytes) -> bytes:
        name, *args = json.loads(line)
        result = error = None
        try:
            result = getattr(self, name)(*args)
        except Exception as found:  # noqa: BLE001  (the test says what it is)
            error = repr(found)
        return json.dumps([result, error], default=repr).encode()

    # --- actions ------------------------------------------------------------------------------

    def read(self, *paths: str) -> list[Any]:
        """Return what widgets show, and the values of other objects."""
        return [shown(self._object(path)) for path in paths]

    def option(self, path: str, name: str) -> str:
        """Return an option of a widget, as text."""
        return str(self._object(path).cget(name))

    def call(self, path: str, *args: Any) -> Any:
        """Call a method that opens no dialog."""
        return self._object(path)(*args)

    def press(self, path: str) -> None:
        """Press a button, and do not wait for what it does. Raise ValueError if it is disabled."""
        self._press(str(self._object(path)))

    def press_in(self, title: str, text: str) -> None:
        """Press the button with this text in the shown window of this title."""
        for window in self._toplevels():
            if self._tcl("wm", "title", window) == title:
                for widget in self._within(window):
                    if self._kind(widget).lower().endswith("button") and self._text(widget) == text:
                        self._press(widget)
                        return
        raise ValueError(f"no window {title!r} shows a button {text!r}")

    def choose(self, *labels: str) -> None:
        """Choose an entry of the menu bar, by the labels of its menus and its own."""
        menu = self.root.nametowidget(self.root.cget("menu"))
        for label in labels[:-1]:
            menu = self.root.nametowidget(menu.entrycget(label, "menu"))
        self.root.after(0, menu.invoke, labels[-1])

    def select(self, path: str, label: str) -> None:
        """Choose an entry of an option menu."""
        menu = self.root.nametowidget(self._object(path).cget("menu"))
        self.root.after(0, menu.invoke, label)

    def type_in(self, path: str, text: str, *keys: str) -> None:
        """Replace the text of an entry, and press keys there, such as ``<Return>``."""
        entry = self._object(path)
        if variable := str(entry.cget("textvariable")):
            self.root.setvar(variable, text)  # at once: it would refuse half a number
        else:
            entry.delete(0, "end")
            entry.insert(0, text)
        entry.focus_force()
        for key in keys:
            entry.event_generate(key)

    def enter_file(self, name: str) -> bool:
        """Enter a file's name in a dialog for files, and accept it; return whether one is shown."""
        if not any(self._kind(one) == "TkFDialog" for one in self._toplevels()):
            return False
        entry, accept = (
            self._tcl("set", f"::tk::dialog::file::__tk_filedialog({part})")
            for part in ("ent", "okBtn")
        )
        if not all(self._tcl("winfo", "viewable", one) for one in (entry, accept)):
            return False
        self._tcl(entry, "delete", "0", "end")
        self._tcl(entry, "insert", "0", name)
        self._press(accept)
        return True

    def windows(self) -> list[tuple[str, list[str]]]:
        """Return the title of each window that is shown, and the texts in it."""
        return [
            (
                str(self._tcl("wm", "title", window)),
                [text for one in self._within(window) if (text := self._text(one))],
            )
            for window in self._toplevels()
        ]

    def spoken(self) -> list[list[str]]:
        """Return the commands by which the GUI would have made a noise."""
        return SPOKEN

    # --- Tk, where dialogs have no objects in Python ------------------------------------------

    def _object(self, path: str) -> Any:
        found: Any = self.root
        for name in filter(None, path.split(".")):
            key = int(name) if name.isdigit() else name
            found = getattr(found, name) if hasattr(found, name) else found[key]
        return found

    def _tcl(self, *words: str) -> Any:
        return self.root.tk.call(*words)

    def _within(self, window: str) -> Iterator[str]:
        for child in self.root.tk.splitlist(self._tcl("winfo", "children", window)):
            yield child
            if self._kind(child) not in ("Toplevel", "Dialog", "TkFDialog"):
                yield from self._within(child)

    def _toplevels(self) -> list[str]:
        def windows(parent: str) -> Iterator[str]:
            for child in self.root.tk.splitlist(self._tcl("winfo", "children", parent)):
                if self._tcl("winfo", "toplevel", child) == child:
                    yield child
                yield from windows(child)

        shown = [one for one in (".", *windows(".")) if self._tcl("winfo", "viewable", one)]
        return [one for one in shown if self._kind(one) != "Menu"]

    def _kind(self, widget: str) -> str:
        return str(self._tcl("winfo", "class", widget))

    def _text(self, widget: str) -> str:
        if self._kind(widget) == "Text":
            return str(self._tcl(widget, "get", "1.0", "end-1c"))
        if self._kind(widget) in ("Entry", "TEntry"):
            return str(self._tcl(widget, "get"))
        with suppress(tkinter.TclError):
            return str(self._tcl(widget, "cget", "-text"))
        return ""

    def _press(self, widget: str) -> None:
        if (state := str(self._tcl(widget, "cget", "-state"))) == "disabled":
            raise ValueError(f"{widget} ({self._text(widget)}) is {state}")
        self.root.after(0, self._tcl, widget, "invoke")


def shown(thing: Any) -> Any:
    """Return what a widget shows; the value of a variable; other things as they are."""
    if isinstance(thing, tkinter.Text):
        return thing.get("1.0", "end-1c")
    if isinstance(thing, tkinter.Entry | tkinter.Variable):
        return thing.get()
    if isinstance(thing, tkinter.Misc):
        return str(thing.cget("text"))
    return thing


def main(path: str, program: str, *args: str) -> None:
    """Run a program whose first Tk is to be driven."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{path}.new")
    listening.listen()
    os.rename(f"{path}.new", path)  # whoever finds the path can connect
    listening.setblocking(False)
    begin: Callable[..., None] = tkinter.Tk.__init__

    def begin_driven(self: tkinter.Tk, *more: Any, **options: Any) -> None:
        begin(self, *more, **options)
        Driver(self, listening)

    tkinter.Tk.__init__ = begin_driven  # type: ignore[method-assign]
    subprocess.Popen = Noise  # type: ignore[misc]
    sys.argv = [program, *args]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
