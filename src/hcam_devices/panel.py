"""The instrument in a terminal: ``hcam watch``, ``hcam status`` and ``hcam wire``."""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import HcamError, recording
from .instrument import Instrument
from .wamp import uris
from .wamp.session import JOIN_WITHIN, Session, join, keep_joined
from .wamp.uris import Address
from .wamp.utils import TIMEOUT, unreachable

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
        self.servers: dict[str, dict[str, Any]] = {}
        self.router = False

    def hear(self, sample: Any) -> None:
        """Take in one event of telemetry."""
        if is_telemetry(sample) and fnmatchcase(name := sample["device"], self.pattern):
            self.samples[name] = sample
            self.heard[name] = time.monotonic()

    def hear_status(self, status: Any) -> None:
        """Take in that a server came or went."""
        if isinstance(status, dict) and {"server", "state"} <= status.keys():
            self.servers[str(status["server"])] = status

    def unmatched(self) -> str:
        """Return what to say if the pattern is nobody's."""
        there = ", ".join(self.instrument.names)
        return f"no device matches {self.pattern!r}; there are {there}"

    def running(self) -> str:
        """Return which servers run, those of which the same can be said together."""
        found: dict[str, list[str]] = {}
        for name, server in sorted(self.servers.items()):
            emulated = " (emulated)" if server.get("emulated") else ""
            found.setdefault(f"{server['state']}{emulated}", []).append(name)
        return "  ".join(f"{', '.join(names)} {state}" for state, names in found.items())

    def alarms(self) -> list[Text]:
        """Return everything that is wrong, a line each, worst first; the same of many is one."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, sample in self.samples.items():
            for alarm in sample.get("alarms", ()):
                names = found.setdefault((alarm["severity"], alarm["reason"]), [])
                if name not in names:
                    names.append(name)
        return [
            Text(f"{severity:4} {some(names)}: {reason}", style=COLOURS[severity])
            for (severity, reason), names in sorted(found.items())
        ]


def some(names: list[str]) -> str:
    """Return a few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more


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
        texts += [alarm["reason"] for alarm in sample["alarms"] if alarm["severity"] in COLOURS]
        whole = len(texts) == 3 + len(sample["alarms"])
        return whole and all(isinstance(text, str) for text in texts)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def number(value: Any) -> str:
    """Return a value, short."""
    if isinstance(value, bool) or not isinstance(value, float):
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
        family = re.sub(r"\d+$", "", name)
        families.setdefault(family, ([], PRETTY.get(unit, unit)))[0].append(shown)
    for family, (values, unit) in families.items():
        same = len(values) > 1 and len(set(values)) == 1
        yield family, [f"{values[0]} x{len(values)}"] if same else values, unit


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
        family = re.sub(r"\d+$", "", name)
        fields = [one for one in sample if one.startswith(family)]
        if family == name or sample.get("alarms") or len(fields) != 1:
            found[name] = sample
        else:
            together = found.setdefault(f"{family}s", {"state": sample["state"]})
            together[name] = sample[fields[0]]
    return found


def table(picture: Picture, width: int, most: int | None = None) -> Table:
    """Return the table of devices; with ``most``, in so many lines, those with alarms first."""
    samples = picture.samples if most is None else siblings(picture.samples)
    hidden = len(samples) - most + 1 if most is not None and len(samples) > most else 0
    if hidden:
        alarmed_first = sorted(samples, key=lambda name: not samples[name].get("alarms"))
        kept = set(alarmed_first[: len(samples) - hidden])
        samples = {name: sample for name, sample in samples.items() if name in kept}
    shown = Table(box=None, padding=(0, 1, 0, 0), width=width, show_header=False)
    names = max((len(name) for name in samples), default=6)
    shown.add_column(width=names, no_wrap=True)
    shown.add_column(width=9, no_wrap=True)
    shown.add_column(ratio=1)
    room = width - names - 9 - 3
    for name, sample in samples.items():
        state = state_of(sample, time.monotonic() - picture.heard.get(name, time.monotonic()))
        content = row(sample, room, compact=most is not None)
        colour = COLOURS.get(state, "yellow")
        shown.add_row(Text(name, style="bold"), Text(state, style=colour), content)
    if hidden:
        shown.add_row("...", "", Text(f"{hidden} more: enlarge the window, or hcam watch 'ccd*'"))
    return shown


def draw(picture: Picture, address: Address, size: tuple[int, int], hints: str = "") -> Group:
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
    alarms = picture.alarms()
    most = max(height // 3, 3)
    probe = Console(width=width)
    lines: list[Text] = []
    spare = most - len(alarms)
    for alarm in alarms[:most]:
        whole = alarm.wrap(probe, width)
        if len(whole) - 1 <= spare:
            lines += whole
            spare -= len(whole) - 1
        else:
            lines.append(alarm)
    for line in (*head, *lines):
        line.truncate(width, overflow="ellipsis")
    if len(alarms) > most:
        lines.append(Text(f"... and {len(alarms) - most} more alarms", style="red"))
    footer = Text(hints, style="dim")
    room = height - len(lines) - len(footer.wrap(probe, width))
    room -= len(head) + 1
    if not picture.samples:
        return Group(*head, Text(picture.unmatched(), style="yellow"))
    full = table(picture, width)
    fits = len(probe.render_lines(full)) <= room
    shown = full if fits else table(picture, width, max(room, 2))
    return Group(*head, *lines, shown, *([footer] if hints else []))


async def watch(
    instrument: Instrument,
    address: Address,
    pattern: str = "*",
    realm: str = uris.REALM,
    *,
    once: bool = False,
    hints: Callable[[], str] = str,
) -> None:
    """Show the picture until cancelled; ``once``, or without a terminal, print it and end."""
    picture = Picture(instrument, pattern, realm)
    console = Console()
    if once or not sys.stdout.isatty():
        await look(picture, address)
        if not picture.samples:
            raise HcamError(picture.unmatched())
        console.print(draw(picture, address, (console.width, 10_000)))
        return

    async def joined(session: Session) -> None:
        await follow(picture, session)
        session.over.add_done_callback(lambda _: setattr(picture, "router", False))

    following = asyncio.create_task(keep_joined(address, joined, realm))
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                size = (console.width, console.height)
                live.update(draw(picture, address, size, hints()), refresh=True)
                await asyncio.sleep(REDRAW)
    finally:
        following.cancel()


async def status(instrument: Instrument, address: Address) -> int:
    """Print whether all is well; return 0 if it is, 1 if not."""
    picture = Picture(instrument, "*")
    console = Console()
    await look(picture, address)
    running = {s["server"] for s in picture.servers.values() if s["state"] == "running"}
    for server in instrument.servers:
        console.print(f"{server} is {'running' if server in running else 'NOT RUNNING'}")
    silent = [name for name, sample in picture.samples.items() if not sample]
    offline = [
        name
        for name, sample in picture.samples.items()
        if sample and sample["state"]["connection"] != "online"
    ]
    online = len(picture.samples) - len(silent) - len(offline)
    console.print(f"{online} of {len(picture.samples)} devices online")
    for names, what in ((offline, "offline"), (silent, "not heard of")):
        if names:
            console.print(f"{what}: {', '.join(names)}")
    alarms = picture.alarms()
    for line in alarms:
        console.print(line)
    return 1 if alarms or silent or offline else 0


async def wire(device: str, address: Address, seconds: float, file: Path | None) -> None:
    """Print what passes between a device and its hardware for some seconds, and record it.

    Raises HcamError if the device or the router does not answer.
    """
    with file.open("a") if file else nullcontext() as kept:

        def show(event: dict[str, Any]) -> None:
            said = repr(bytes.fromhex(event["hex"]))[2:-1]
            clock = event["time"][11:-1]
            print(f"{clock} {event['direction']} {said:<44} {event['meaning']}", flush=True)
            if kept:
                kept.write(recording.record(event) + "\n")
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
            raise HcamError(" ".join(str(part) for part in error.args)) from None
        except OSError as error:
            raise HcamError(unreachable(address, error, JOIN_WITHIN)) from None
