"""The picture of an instrument: its newest samples, and how a terminal shows them."""

import math
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from ..config.instrument import Instrument
from ..core.device import iso_from_s
from ..names import did_you_mean, family
from ..wamp import uris
from ..wamp.presentation import overview
from ..wamp.uris import Address
from . import times
from .alarms import DEVICE, in_one_line
from .keys import Browser
from .samples import Declared, is_telemetry, row, state_of
from .troubles import Causes, Trouble, some

COLOURS = {
    **dict.fromkeys(("online", "OK", "inpos", "ONLINE"), "green"),
    **dict.fromkeys(("ERR", "offline", "error"), "bold red"),
    "WARN": "yellow",
    "exposing": "bold green",
}
"""The colours of states and severities. Any other state is yellow."""
STATE_WIDTH = 10
"""The width of the state column, in letters, if the terminal is narrower than WIDE."""
WIDE = 120


class Picture:
    """The newest sample of each device whose name matches a pattern, and the status of servers."""

    def __init__(self, instrument: Instrument, pattern: str, realm: str = uris.REALM) -> None:
        self.instrument, self.pattern, self.realm = instrument, pattern, realm
        self.samples: dict[str, dict[str, Any]] = {
            name: {} for name in instrument.names if fnmatchcase(name, pattern)
        }
        """The newest sample of each device; empty if none has arrived."""
        told = overview(instrument)["devices"]
        self.groups = {device["name"]: device["group"] for device in told}
        """The name of the row that a device shares with its siblings, or empty."""
        self._silent_after = {device["name"]: device["silent_after"] for device in told}
        self.heard: dict[str, float] = {}
        """The time of each device's last sample, on a clock that never steps."""
        self.causes = Causes(instrument)
        self.servers: dict[str, dict[str, Any]] = {}
        """The newest status of each server."""
        self.router = False
        """Whether the router answers."""

    def declared(self, name: str, sample: dict[str, Any]) -> Declared:
        """Return the fields of a device, or of the siblings that share a row, by name."""
        if name in self.samples:
            return self._fields(name)
        return {
            sibling: field
            for sibling in sample
            for field in self._fields(sibling).values()
            if field.name.startswith(family(sibling))
        }

    def _fields(self, device: str) -> Declared:
        entry = self.instrument.entries.get(device)
        return entry.cls.fields if entry else {}

    def hear(self, sample: Any) -> None:
        """Add a telemetry event. Anything that is not a sample is ignored."""
        if is_telemetry(sample) and fnmatchcase(name := sample["device"], self.pattern):
            self.samples[name] = sample
            self.heard[name] = time.monotonic()
            self.causes.hear(sample, iso_from_s(time.time()))

    def hear_changes(self, event: Any) -> list[str]:
        """Add what changed in samples; return the names of the devices in the event."""
        devices = event.get("devices") if isinstance(event, dict) else None
        if not isinstance(devices, dict) or not all(
            isinstance(one, dict) for one in devices.values()
        ):
            return []
        for name, changed in devices.items():
            self.hear(self.samples.get(name, {}) | changed | {"device": name})
        return [*devices]

    def hear_status(self, status: Any) -> None:
        """Add a status event, unless it is the end of another process of a running server."""
        if isinstance(status, dict) and {"server", "state"} <= status.keys():
            known = self.servers.get(str(status["server"]), status)
            same = all(known.get(key) == status.get(key) for key in ("host", "pid", "since"))
            if same or status["state"] == "running" or known["state"] != "running":
                self.servers[str(status["server"])] = status

    def unmatched(self) -> str:
        """Return a message that no device matches the pattern."""
        names = self.instrument.names
        meant = did_you_mean(self.pattern, names)
        return f"no device matches {self.pattern!r}; there are {', '.join(names)}{meant}"

    def running(self) -> str:
        """Return the states of the servers; servers in the same state are named together."""
        states: dict[str, list[str]] = {}
        for name, server in sorted(self.servers.items()):
            emulated = " (emulated)" if server.get("emulated") else ""
            states.setdefault(f"{server['state']}{emulated}", []).append(name)
        return "  ".join(f"{', '.join(names)} {state}" for state, names in states.items())

    def of_alarms(self) -> str:
        """Return a line on the alarm system; empty if nothing is wrong, or it is not shown."""
        if DEVICE not in self.samples or self.realm == uris.REPLAY or not self.heard:
            return ""
        now = time.monotonic()
        return in_one_line(self.samples[DEVICE], now - self.heard.get(DEVICE, now), time.time())

    def troubles(self) -> list[Trouble]:
        """Return the causes of all alarms, worst first."""
        return self.causes.troubles(self.samples)

    def alarms(self) -> list[Text]:
        """Return a line for each cause of alarms, worst first."""
        return [Text(str(cause), style=COLOURS[cause.severity]) for cause in self.troubles()]

    def state(self, name: str) -> str:
        """Return the state of a device in one word."""
        now = time.monotonic()
        age = now - self.heard.get(name, now)
        return state_of(self.samples[name], silent=age > self._silent_after.get(name, math.inf))


class Changes:
    """The parts of a picture whose changes are printed: router, servers, states and alarms."""

    def __init__(self, picture: Picture) -> None:
        self.troubles = picture.troubles()
        self.alarms = {identity for cause in self.troubles for identity in cause.reasons}
        self.states = {
            "router": "answers" if picture.router else "does not answer",
            **{name: str(status["state"]) for name, status in picture.servers.items()},
            **{name: picture.state(name) for name in picture.samples},
        }

    def after(self, before: "Changes") -> list[str]:
        """Return a line for each change since ``before``."""
        lines = [
            f"{name} {state}"
            for name, state in self.states.items()
            if before.states.get(name) != state
        ]
        lines += [str(cause) for cause in self.troubles if {*cause.reasons} - before.alarms]
        if over := sorted(map(str, before.alarms - self.alarms)):
            lines.append(f"over: {some(over)}")
        return lines


# --- drawing --------------------------------------------------------------------------------


def draw(
    picture: Picture,
    address: Address,
    size: tuple[int, int],
    hints: str = "",
    browser: Browser | None = None,
) -> Group:
    """Return a picture that fits a terminal of ``size`` (width, height).

    Alarms take up to a third of the height, worst first, in full as far as they fit.
    """
    width, height = size
    head = [_title(picture, address)]
    if picture.servers:
        head.append(Text(picture.running(), style="bold"))
    if text := picture.of_alarms():
        head.append(Text(text, style="bold yellow"))
    alarms = fitted(picture.alarms(), width, max(height // 3, 3))
    for line in (*head, *alarms):
        line.truncate(width, overflow="ellipsis")
    if not picture.samples:
        return Group(*head, Text(picture.unmatched(), style="yellow"))
    footer = [*Text(hints, style="dim").wrap(Console(width=width), width)] if hints else []
    room = height - len(head) - len(alarms) - len(footer)
    return Group(*head, *alarms, *rows(picture, width, max(room, 2), browser or Browser()), *footer)


def _title(picture: Picture, address: Address) -> Text:
    title = Text("HiPERCAM", style="bold")
    title.append(f"  router {address} " + ("" if picture.router else "does not answer (yet)"))
    if picture.realm != uris.REPLAY:
        now = round(time.time() * 1000)
        return title.append(f"  {times.text(now)[11:]} {times.zone(now)}")
    read = [str(sample["timestamp"]) for sample in picture.samples.values() if sample]
    newest = max(read, default="")[:19].replace("T", " ")
    return title.append(f"  REPLAY {newest}", style="bold red")


def fitted(texts: list[Text], width: int, most: int) -> list[Text]:
    """Return texts in at most ``most`` lines, and one more line that counts the omitted texts."""
    console = Console(width=width)
    lines: list[Text] = []
    spare = most - len(texts)
    for text in texts[:most]:
        whole = text.wrap(console, width)
        if len(whole) - 1 <= spare:
            lines += whole
            spare -= len(whole) - 1
        else:
            lines.append(text)
    if len(texts) > most:
        lines.append(Text(f"... and {len(texts) - most} more alarms (hcam status)", style="red"))
    return lines


def rows(picture: Picture, width: int, room: int, browser: Browser) -> list[Text]:
    """Return the rows of the devices that a browser shows, in at most ``room`` lines.

    Before the first scrolling, all devices are shown in full if they fit; otherwise the most
    important devices have one line each.
    """
    names = [name for name in picture.samples if browser.chooses(name)]
    if not names:
        return [Text(f"no device has {browser.wanted!r} in its name", style="yellow")]
    table = _Table(picture, width, names)
    if browser.top is not None:
        browser.top = min(browser.top, len(names) - 1)
    lines: list[Text] = []
    count = 0
    for name in names[browser.top or 0 :]:
        lines += table.row(name, picture.samples[name], compact=False)
        if len(lines) > room:
            break
        count += 1
    browser.page = max(count, 1)
    if browser.top is None and count < len(names):
        chosen, hidden = summary(picture, names, room)
        table = _Table(picture, width, chosen)
        lines = [table.row(name, sample, compact=True)[0] for name, sample in chosen.items()]
        if hidden:
            dots = f"{'...':{table.name_width}}"
            lines.append(Text(f"{dots} {hidden} more: scroll, or enlarge the window"))
    return lines[:room]


def summary(picture: Picture, names: list[str], most: int) -> tuple[dict[str, Any], int]:
    """Return the samples for at most ``most`` rows, and the number of omitted samples."""
    samples = siblings(picture, names)
    hidden = len(samples) - most + 1 if len(samples) > most else 0
    ranked = sorted(samples, key=lambda name: unimportance(name, picture, samples[name]))
    kept = {*ranked[: len(samples) - hidden]}
    return {name: sample for name, sample in samples.items() if name in kept}, hidden


def siblings(picture: Picture, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return samples by their rows: devices of a group, such as gauges, share one.

    A device with an alarm, or without its value, keeps its own row.
    """
    joined: dict[str, dict[str, Any]] = {}
    for name in names:
        sample, group = picture.samples[name], picture.groups.get(name)
        if not group or sample.get("alarms") or family(name) not in sample:
            joined[name] = sample
        else:
            shared = joined.setdefault(group, {"state": sample["state"]})
            shared[name] = sample[family(name)]
    return joined


def unimportance(name: str, picture: Picture, sample: dict[str, Any]) -> int:
    """Return a number from 0 to 3: the higher, the earlier a device is omitted.

    The values of a view's source are also in the row of the view. A device without alarms that is
    just online is less important. A row of several devices is worth its place.
    """
    if name not in picture.samples:
        return 1
    quiet = not sample.get("alarms") and state_of(sample) == "online"
    return (1 if name in picture.causes.sources else 0) + (2 if quiet else 0)


class _Table:
    """The columns of rows of devices: name, state, and fields."""

    def __init__(self, picture: Picture, width: int, names: Iterable[str]) -> None:
        self.picture, self.width, self.console = picture, width, Console(width=width)
        self.name_width = max((cell_len(name) for name in names), default=6)
        longest = max((cell_len(picture.state(name)) for name in picture.samples), default=0)
        self.state_width = min(longest, STATE_WIDTH if width < WIDE else WIDE // 4)

    def row(self, name: str, sample: dict[str, Any], *, compact: bool) -> list[Text]:
        """Return the lines of a device; if ``compact``, one line with the fields that fit.

        A state that is longer than its column shifts the fields of its row to the right.
        """
        known = name in self.picture.samples
        state = self.picture.state(name) if known else state_of(sample)
        first = Text(name, style="bold")
        first.truncate(self.name_width, pad=True)
        second = Text(state, style=COLOURS.get(state, "yellow"))
        second.truncate(self.width // 3, overflow="ellipsis")
        second.pad_right(max(self.state_width - second.cell_len, 0))
        left = self.name_width + second.cell_len + 2
        room = max(self.width - left, 10)
        content = row(sample, self.picture.declared(name, sample), room, compact=compact)
        top, *more = [content] if compact else [*content.wrap(self.console, room)] or [Text()]
        indented = [Text(" " * left) + line for line in more]
        lines = [Text.assemble(first, " ", second, " ", top), *indented]
        for line in lines:
            line.rstrip()
            line.truncate(self.width, overflow="ellipsis")
        return lines
