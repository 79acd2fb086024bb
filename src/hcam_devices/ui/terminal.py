"""The instrument in a terminal: ``hcam watch``, ``hcam status`` and ``hcam wire``."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .. import HcamError
from ..config.instrument import Instrument
from ..core import capture
from ..core.device import utc
from ..names import did_you_mean
from ..wamp import uris
from ..wamp.session import JOIN_WITHIN, Session, join, keep_joined
from ..wamp.uris import Address
from ..wamp.utils import TIMEOUT, unreachable
from .calling import what_there_is
from .keys import Browser, pressed
from .troubles import SEVERITIES, Causes, Trouble, family, some

PRETTY = {"deg_C": "°C", "l / min": "l/min", "MB / s": "MB/s", "1 / s": "/s"}
COLOURS = {
    "online": "green",
    "OK": "green",
    "inpos": "green",
    "WARN": "yellow",
    "ERR": "bold red",
    "offline": "bold red",
    "ONLINE": "green",
    "exposing": "bold green",
    "error": "bold red",
}
SILENT_AFTER = 60.0
"""Seconds for which nothing has been heard of a device."""
STATES = 10
"""The column of states (letters) in a terminal that is not WIDE."""
WIDE = 120
REDRAW = 0.5
SETTLE = 1.0


class Picture:
    """What has been heard, and how it looks."""

    def __init__(self, instrument: Instrument, pattern: str, realm: str = uris.REALM) -> None:
        self.instrument, self.pattern, self.realm = instrument, pattern, realm
        self.samples: dict[str, dict[str, Any]] = {
            name: {} for name in instrument.names if fnmatchcase(name, pattern)
        }
        self.heard: dict[str, float] = {}
        self.causes = Causes(instrument)
        self.servers: dict[str, dict[str, Any]] = {}
        self.router = False

    def hear(self, sample: Any) -> None:
        """Take in one event of telemetry."""
        if is_telemetry(sample) and fnmatchcase(name := sample["device"], self.pattern):
            self.samples[name] = sample
            self.heard[name] = time.monotonic()
            self.causes.hear(sample, utc(time.time()))

    def hear_status(self, status: Any) -> None:
        """Take in that a server came or went; that another process went does not matter."""
        if isinstance(status, dict) and {"server", "state"} <= status.keys():
            known = self.servers.get(str(status["server"]), status)
            same = all(known.get(key) == status.get(key) for key in ("host", "pid", "since"))
            if same or status["state"] == "running" or known["state"] != "running":
                self.servers[str(status["server"])] = status

    def unmatched(self) -> str:
        """Return what to say if the pattern is nobody's."""
        there = ", ".join(self.instrument.names)
        meant = did_you_mean(self.pattern, self.instrument.names)
        return f"no device matches {self.pattern!r}; there are {there}{meant}"

    def running(self) -> str:
        """Return which servers run, those of which the same can be said together."""
        found: dict[str, list[str]] = {}
        for name, server in sorted(self.servers.items()):
            emulated = " (emulated)" if server.get("emulated") else ""
            found.setdefault(f"{server['state']}{emulated}", []).append(name)
        return "  ".join(f"{', '.join(names)} {state}" for state, names in found.items())

    def troubles(self) -> list[Trouble]:
        """Return everything that is wrong: one for each cause, worst first."""
        return self.causes.troubles(self.samples)

    def alarms(self) -> list[Text]:
        """Return everything that is wrong, a line for each cause, worst first."""
        return [Text(str(one), style=COLOURS[one.severity]) for one in self.troubles()]

    def state(self, name: str) -> str:
        """Return the one word that matters most of a device."""
        now = time.monotonic()
        return state_of(self.samples[name], now - self.heard.get(name, now))


async def follow(picture: Picture, session: Session) -> None:
    """Let a session fill the picture: what is retained now, and whatever comes."""
    last = SubscribeOptions(get_retained=True)
    servers = picture.instrument.servers
    await asyncio.gather(
        session.subscribe(picture.hear, uris.ALL_TELEMETRY, SubscribeOptions(match="wildcard")),
        *(session.subscribe(picture.hear, uris.telemetry(name), last) for name in picture.samples),
        *(session.subscribe(picture.hear_status, uris.status(name), last) for name in servers),
    )
    picture.router = True


async def look(picture: Picture, address: Address) -> None:
    """Fill the picture with what is known after a moment; HcamError if there is no router."""
    try:
        async with join(address, picture.realm) as session:
            await follow(picture, session)
            await asyncio.sleep(SETTLE)
    except (OSError, WampError) as error:
        raise HcamError(unreachable(address, error, JOIN_WITHIN)) from None


def is_telemetry(sample: Any) -> bool:
    """Tell whether it can be shown: anybody may publish anything."""
    try:
        row(sample, 80, compact=False)
        texts = [sample["device"], sample["state"]["connection"], state_of(sample, 0)]
        for alarm in sample["alarms"]:
            texts += [alarm["field"], alarm["reason"], alarm.get("since") or ""]
            if alarm["severity"] not in SEVERITIES:
                return False
        return all(isinstance(text, str) for text in texts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def number(value: Any) -> str:
    """Return a value, short."""
    if not isinstance(value, float):
        return "?" if value is None else str(value)
    if value and not 1e-2 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.2f}"


def groups(sample: dict[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """Yield a sample's fields as (name, values, unit), channels of one family together."""
    families: dict[str, tuple[list[str], str]] = {}
    hidden = {"device", "seq", "epoch", "timestamp", "state", "alarms", "state_reason"}
    for name, value in sample.items():
        if name in hidden:
            continue
        unit, shown = "", number(value)
        if isinstance(value, dict) and "current" in value:
            current, target = value["current"], value["target"] or {"value": None}
            unit = current["unit"]
            shown = f"{number(current['value'])} (target {number(target['value'])})"
        elif isinstance(value, dict):
            if "value" not in value:  # a table, such as the telescope's header
                continue
            unit, shown = value["unit"], number(value["value"])
        families.setdefault(family(name), ([], PRETTY.get(unit, unit)))[0].append(shown)
    for name, (values, unit) in families.items():
        same = len(values) > 1 and len(set(values)) == 1
        yield name, [f"{values[0]} x{len(values)}"] if same else values, unit


EXPOSING = ("system.stateName", "system.subStateName", "exposure.expStatusName", "run")
"""What only a detector says."""
BAR = 20


def is_detector(sample: dict[str, Any]) -> bool:
    """Tell whether it is the sample of a detector, and known."""
    return all(sample.get(name) is not None for name in EXPOSING)


def exposure(sample: dict[str, Any]) -> Text:
    """Return what an observer wants to know of a detector; a bar for the run that goes on."""
    active = sample["system.subStateName"] == "active"
    done, expected = sample.get("frames_done"), sample.get("frames_expected")
    parts = [f"run {sample['run']}" if active else f"last run {sample['run']}"]
    if not active:
        parts[0] += f" ({sample['exposure.expStatusName']})"
    if done is not None:
        parts.append(f"{done} of {expected} frames" if expected else f"{done} frames")
    if active and expected and done is not None:
        full = round(BAR * min(done / expected, 1))
        parts[-1] += f" {'━' * full}{'╌' * (BAR - full)} {100 * done // expected}%"
    left = sample.get("exposure.countDown")
    if active and left:
        parts.append(f"{left['value']:.0f} s left")
    if sample.get("cldc_0.statusName") == "disabled":
        parts.append("clocks disabled")
    for name, what in (("data_rate", ""), ("disk_free", " left")):
        if value := sample.get(name):
            unit = value["unit"]
            parts.append(f"{number(value['value'])} {PRETTY.get(unit, unit)}{what}")
    return Text(" \u00b7 ".join(parts))


def state_of(sample: dict[str, Any], silent: float) -> str:
    """Return the one word that matters most; nothing was heard for ``silent`` seconds."""
    if not sample:
        return "no news"
    states = dict(sample["state"])
    if silent > SILENT_AFTER:
        return "silent"
    connection = states.pop("connection", "online")
    if connection == "online" and is_detector(sample):
        words = {"active": "exposing", "error": "error"}
        return words.get(sample["system.subStateName"], str(sample["system.stateName"]))
    return connection if connection != "online" else "/".join(states.values()) or connection


def row(sample: dict[str, Any], width: int, *, compact: bool) -> Text:
    """Return the fields of a device, wrapped between fields; compact: what fits in one line."""
    if is_detector(sample):
        shown = exposure(sample)
        if compact:
            shown.truncate(width, overflow="ellipsis")
        return shown
    text, used = Text(), 0
    for name, values, unit in groups(sample):
        content = f"{' '.join(values)} {unit}".rstrip()
        size = len(name) + 1 + len(content)
        if used and used + 3 + size > width - (4 if compact else 0):
            if compact:
                text.append(" ...", style="dim")
                break
            text.append("\n")
            used = 0
        elif used:
            text.append(" \u00b7 ", style="dim")
            used += 3
        text.append(f"{name} ", style="dim").append(content)
        used += size
    return text


def siblings(samples: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the samples with quiet, numbered devices of one value (the gauges) in one row."""
    found: dict[str, dict[str, Any]] = {}
    for name, sample in samples.items():
        kind = family(name)
        fields = [one for one in sample if one.startswith(kind)]
        if kind == name or sample.get("alarms") or len(fields) != 1:
            found[name] = sample
        else:
            together = found.setdefault(f"{kind}s", {"state": sample["state"]})
            together[name] = sample[fields[0]]
    return found


def importance(name: str, picture: Picture, sample: dict[str, Any]) -> int:
    """Return how far a device is from deserving a row, if there is not one for each.

    What a view shows need not be shown twice, and a device that is only online says little; but
    a row of several is worth it.
    """
    if name not in picture.samples:
        return 1
    quiet = not sample.get("alarms") and state_of(sample, 0) == "online"
    return (1 if name in picture.causes.sources else 0) + (2 if quiet else 0)


def summary(picture: Picture, names: list[str], rows: int) -> tuple[dict[str, Any], int]:
    """Return the samples that are worth one of so many rows each, and how many are left out."""
    samples = siblings({name: picture.samples[name] for name in names})
    hidden = len(samples) - rows + 1 if len(samples) > rows else 0
    ranked = sorted(samples, key=lambda name: importance(name, picture, samples[name]))
    kept = {*ranked[: len(samples) - hidden]}
    return {name: sample for name, sample in samples.items() if name in kept}, hidden


class Table:
    """Rows of devices: name, state, and fields."""

    def __init__(self, picture: Picture, width: int, names: Iterable[str]) -> None:
        self.picture, self.width, self.console = picture, width, Console(width=width)
        self.names = max((cell_len(name) for name in names), default=6)
        longest = max((cell_len(picture.state(name)) for name in picture.samples), default=0)
        self.states = min(longest, STATES if width < WIDE else WIDE // 4)

    def row(self, name: str, sample: dict[str, Any], *, compact: bool) -> list[Text]:
        """Return the lines of a device; compact: one, of what fits. A long state takes its room."""
        known = name in self.picture.samples
        state = self.picture.state(name) if known else state_of(sample, 0)
        first = Text(name, style="bold")
        first.truncate(self.names, pad=True)
        shown = Text(state, style=COLOURS.get(state, "yellow"))
        shown.truncate(self.width // 3, overflow="ellipsis")
        shown.pad_right(max(self.states - shown.cell_len, 0))
        room = max(self.width - self.names - shown.cell_len - 2, 10)
        content = row(sample, room, compact=compact)
        lines = [content] if compact else [*content.wrap(self.console, room)] or [Text()]
        pad = " " * (self.names + shown.cell_len + 2)
        lines = [
            Text.assemble(first, " ", shown, " ", lines[0]),
            *(Text(pad) + line for line in lines[1:]),
        ]
        for line in lines:
            line.rstrip()
            line.truncate(self.width, overflow="ellipsis")
        return lines


def rows(picture: Picture, width: int, room: int, browser: Browser) -> list[Text]:
    """Return the rows of the devices, in at most so many lines.

    Before anybody scrolls: all of them in full if they fit, otherwise a line for each that matters.
    """
    names = [name for name in picture.samples if browser.chooses(name)]
    if not names:
        return [Text(f"no device has {browser.wanted!r} in its name", style="yellow")]
    table = Table(picture, width, names)
    top = browser.top if browser.top is None else min(browser.top, len(names) - 1)
    browser.top = top
    lines: list[Text] = []
    count = 0
    for name in names[top or 0 :]:
        lines += table.row(name, picture.samples[name], compact=False)
        if len(lines) > room:
            break
        count += 1
    browser.page = max(count, 1)
    if top is None and count < len(names):
        chosen, hidden = summary(picture, names, room)
        table = Table(picture, width, chosen)
        lines = [table.row(name, one, compact=True)[0] for name, one in chosen.items()]
        if hidden:
            lines.append(
                Text(f"{'...':{table.names}} {hidden} more: scroll, or enlarge the window")
            )
    return lines[:room]


def draw(
    picture: Picture,
    address: Address,
    size: tuple[int, int],
    hints: str = "",
    browser: Browser | None = None,
) -> Group:
    """Return the whole picture, fitted to a terminal's width and height.

    A third of it is for alarms: in full while there is room, the worst first.
    """
    width, height = size
    title = Text("HiPERCAM", style="bold")
    title.append(f"  router {address} " + ("" if picture.router else "does not answer (yet)"))
    if picture.realm == uris.REPLAY:
        newest = max((str(one["timestamp"]) for one in picture.samples.values() if one), default="")
        title.append(f"  REPLAY {newest[:19].replace('T', ' ')}", style="bold red")
    else:
        title.append(time.strftime("  %H:%M:%S UTC", time.gmtime()))
    head = [title, *([Text(picture.running(), style="bold")] if picture.servers else [])]
    probe = Console(width=width)
    alarms = picture.alarms()
    lines = fitted(alarms, width, max(height // 3, 3))
    for line in (*head, *lines):
        line.truncate(width, overflow="ellipsis")
    footer = [*Text(hints, style="dim").wrap(probe, width)] if hints else []
    room = height - len(head) - len(lines) - len(footer)
    if not picture.samples:
        return Group(*head, Text(picture.unmatched(), style="yellow"))
    shown = rows(picture, width, max(room, 2), browser or Browser())
    return Group(*head, *lines, *shown, *footer)


def fitted(texts: list[Text], width: int, most: int) -> list[Text]:
    """Return texts in at most so many lines (one more says how many are left out)."""
    probe = Console(width=width)
    lines: list[Text] = []
    spare = most - len(texts)
    for text in texts[:most]:
        whole = text.wrap(probe, width)
        if len(whole) - 1 <= spare:
            lines += whole
            spare -= len(whole) - 1
        else:
            lines.append(text)
    if len(texts) > most:
        lines.append(Text(f"... and {len(texts) - most} more alarms (hcam status)", style="red"))
    return lines


async def watch(
    instrument: Instrument,
    address: Address,
    pattern: str = "*",
    realm: str = uris.REALM,
    *,
    once: bool = False,
    hints: Callable[[], str] = str,
    quits: bool = True,
) -> None:
    """Show the picture until cancelled, or q is pressed if it ``quits``; ``once``: print it.

    Where nothing can be drawn (no terminal, or a dumb one) print it, and a line for each change.
    """
    picture = Picture(instrument, pattern, realm)
    console = Console()
    drawn = sys.stdout.isatty() and not console.is_dumb_terminal
    if once or not drawn:
        await look(picture, address)
        if not picture.samples:
            raise HcamError(picture.unmatched())
        console.print(draw(picture, address, (console.width, 10_000)))
        if once:
            return

    async def joined(session: Session) -> None:
        await follow(picture, session)
        session.over.add_done_callback(lambda _: setattr(picture, "router", False))

    following = asyncio.create_task(keep_joined(address, joined, realm))
    try:
        if drawn:
            await _draw(picture, address, console, Browser(quits=quits), hints)
        else:
            await _print_changes(picture, console)
    finally:
        following.cancel()


async def _draw(
    picture: Picture,
    address: Address,
    console: Console,
    browser: Browser,
    hints: Callable[[], str],
) -> None:
    changed = asyncio.Event()

    def press(key: str) -> None:
        browser.press(key)
        changed.set()

    with Live(console=console, screen=True, auto_refresh=False) as live, pressed(press):
        while not browser.over:
            size = (console.width, console.height)
            text = "\n".join(filter(None, (hints(), browser.hint())))
            live.update(draw(picture, address, size, text, browser), refresh=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), REDRAW)
            changed.clear()


async def _print_changes(picture: Picture, console: Console) -> None:
    before = Changes(picture)
    while True:
        await asyncio.sleep(REDRAW)
        now = Changes(picture)
        clock = time.strftime("%H:%M:%S", time.gmtime())
        for line in now.after(before):
            console.print(f"{clock} {line}", soft_wrap=True, markup=False, highlight=False)
        before = now


class Changes:
    """What is worth a line when it changes: states, alarms, servers, the router."""

    def __init__(self, picture: Picture) -> None:
        self.troubles = picture.troubles()
        self.alarms = {identity for one in self.troubles for identity in one.reasons}
        self.states = {
            "router": "answers" if picture.router else "does not answer",
            **{name: str(status["state"]) for name, status in picture.servers.items()},
            **{name: picture.state(name) for name in picture.samples},
        }

    def after(self, before: "Changes") -> list[str]:
        """Return what is otherwise than before, a line each."""
        lines = [
            f"{name} {state}"
            for name, state in self.states.items()
            if before.states.get(name) != state
        ]
        lines += [str(one) for one in self.troubles if {*one.reasons} - before.alarms]
        if over := sorted(map(str, before.alarms - self.alarms)):
            lines.append(f"over {some(over)}")
        return lines


async def status(instrument: Instrument, address: Address) -> int:
    """Print whether all is well; return 0 if it is, 1 if not."""
    picture = Picture(instrument, "*")
    console = Console()
    say = partial(console.print, soft_wrap=not console.is_terminal)
    await look(picture, address)
    running = {s["server"] for s in picture.servers.values() if s["state"] == "running"}
    for server in instrument.servers:
        say(f"{server} is {'running' if server in running else 'NOT RUNNING'}")
    silent = [name for name, sample in picture.samples.items() if not sample]
    offline = [
        name
        for name, sample in picture.samples.items()
        if sample and sample["state"]["connection"] != "online"
    ]
    online = len(picture.samples) - len(silent) - len(offline)
    say(f"{online} of {len(picture.samples)} devices online")
    for names, what in ((offline, "offline"), (silent, "not heard of")):
        if names:
            say(f"{what}: {', '.join(names)}")
    alarms = picture.alarms()
    for line in alarms:
        say(line)
    return 1 if alarms or silent or offline else 0


async def wire(device: str, address: Address, seconds: float, file: Path | None) -> None:
    """Print what passes between a device and its hardware for some seconds, and record it.

    Raises HcamError if the device or the router does not answer.
    """
    with file.open("a", encoding="utf-8") if file else nullcontext() as kept:

        def show(event: dict[str, Any]) -> None:
            said = repr(bytes.fromhex(event["hex"]))[2:-1]
            clock = event["time"][11:-1]
            print(f"{clock} {event['direction']} {said:<44} {event['meaning']}", flush=True)
            if kept:
                kept.write(capture.record(event) + "\n")
                kept.flush()

        try:
            async with join(address) as session:
                await session.subscribe(show, uris.wire(device))
                began = session.call(uris.rpc(device, "wire"), seconds)
                if not (await asyncio.wait([began], timeout=TIMEOUT))[0]:
                    raise HcamError(f"{device} does not answer within {TIMEOUT:g} s")
                await began
                await asyncio.wait([session.over], timeout=seconds)
        except ApplicationError as error:
            if error.error == ApplicationError.NO_SUCH_PROCEDURE:
                asked = uris.rpc(device, "wire")
                raise HcamError(await asyncio.to_thread(what_there_is, asked)) from None
            raise HcamError(" ".join(str(part) for part in error.args)) from None
        except OSError as error:
            raise HcamError(unreachable(address, error, JOIN_WITHIN)) from None
