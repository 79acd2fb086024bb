"""The instrument in a terminal: ``hcam watch``, ``hcam status`` and ``hcam wire``."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .. import HcamError
from ..config.instrument import Instrument
from ..core import capture
from ..wamp import uris
from ..wamp.session import JOIN_WITHIN, Session, join, keep_joined
from ..wamp.uris import Address
from ..wamp.utils import TIMEOUT, unreachable
from . import times
from .calling import no_such_device
from .keys import Browser, pressed
from .picture import Changes, Picture, draw

log = logging.getLogger(__name__)

REDRAW_PERIOD_S = 0.5
SILENT = "not heard"
MAX_LIVE = 50
"""If there are more devices, hear what changed from servers that publish it, not each sample."""


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
    """Show the devices whose names match ``pattern``, live, until cancelled.

    If standard output is not a terminal, or a dumb one, print them once and then a line for each
    change. If ``once``, print them and return. If ``quits``, the key q ends it, too. ``hints``
    returns a text for the last lines. Raises HcamError if the devices are to be printed and there
    is no router.
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
            await _keep_drawn(picture, address, console, Browser(quits=quits), hints)
        else:
            await _print_changes(picture, console)
    finally:
        following.cancel()


async def follow(picture: Picture, session: Session) -> None:
    """Subscribe a picture to its devices and servers; it then has heard all retained events."""
    last = SubscribeOptions(get_retained=True)
    instrument = picture.instrument
    many = len(picture.samples) > MAX_LIVE and picture.realm == uris.REALM
    live: dict[str, Any] = {}
    begun: set[asyncio.Future[Any]] = set()

    async def listen(name: str) -> None:
        live[name] = None  # it is being subscribed
        live[name] = await session.subscribe(picture.hear, uris.telemetry(name), last)

    def begin(what: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(what)
        begun.add(task)
        task.add_done_callback(end)

    def end(task: asyncio.Future[Any]) -> None:
        begun.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("a subscription was not changed: %s", error)

    def hear_changes(event: Any) -> None:
        for name in picture.hear_changes(event):
            if live.get(name):
                begin(live.pop(name).unsubscribe())

    def hear_status(event: Any) -> None:
        picture.hear_status(event)
        gone = isinstance(event, dict) and event.get("state") == "gone" and event.get("server")
        for name, entry in instrument.entries.items():  # their testaments are telemetry
            if many and gone == entry.server and name in picture.samples and name not in live:
                begin(listen(name))

    statuses = map(uris.status, instrument.servers)
    await asyncio.gather(
        *map(listen, picture.samples),
        *(session.subscribe(hear_status, topic, last) for topic in statuses),
    )
    # The router answers in order: this answer comes after all retained events.
    hear, topic = (hear_changes, uris.ALL_CHANGES) if many else (picture.hear, uris.ALL_TELEMETRY)
    await session.subscribe(hear, topic, SubscribeOptions(match="wildcard"))
    picture.router = True


async def look(picture: Picture, address: Address) -> None:
    """Fill a picture with the retained events. Raises HcamError if there is no router."""
    try:
        async with join(address, picture.realm) as session:
            await follow(picture, session)
    except (OSError, WampError) as error:
        raise HcamError(unreachable(address, error, JOIN_WITHIN)) from None


async def _keep_drawn(
    picture: Picture, address: Address, console: Console, browser: Browser, hints: Callable[[], str]
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
                async with asyncio.timeout(REDRAW_PERIOD_S):
                    await changed.wait()
            changed.clear()


async def _print_changes(picture: Picture, console: Console) -> None:
    before = Changes(picture)
    while True:
        await asyncio.sleep(REDRAW_PERIOD_S)
        now = Changes(picture)
        clock = times.text(round(time.time() * 1000))[11:]
        for line in now.after(before):
            console.print(f"{clock} {line}", soft_wrap=True, markup=False, highlight=False)
        before = now


class Status(NamedTuple):
    """What runs and what is wrong, as data and as text; ``well`` if nothing is wrong."""

    data: dict[str, Any]
    text: str
    well: bool


async def status(instrument: Instrument, address: Address) -> Status:
    """Return a summary of the instrument. Raises HcamError if there is no router."""
    picture = Picture(instrument, "*")
    await look(picture, address)
    running = {s["server"] for s in picture.servers.values() if s["state"] == "running"}
    servers = {name: name in running for name in instrument.servers}
    devices = {
        name: sample["state"]["connection"] if sample else SILENT
        for name, sample in picture.samples.items()
    }
    troubles = picture.troubles()
    alarms = [
        {
            "device": name.device,
            "field": name.field,
            "severity": name.severity,
            "reason": reason,
            "since": one.since,
        }
        for one in troubles
        for name, reason in one.reasons.items()
    ]
    system = picture.of_alarms()
    lines: list[str | Text] = [
        f"{name} is {'running' if runs else 'NOT RUNNING'}" for name, runs in servers.items()
    ]
    online = [name for name, state in devices.items() if state == "online"]
    lines.append(f"{len(online)} of {len(devices)} devices are online")
    silent = [name for name, state in devices.items() if state == SILENT]
    offline = [name for name in devices if name not in {*online, *silent}]
    for names, what in ((offline, "offline"), (silent, "not heard")):
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    console = Console()
    with console.capture() as text:
        for line in (*lines, *picture.alarms(), *filter(None, [system])):
            console.print(line, soft_wrap=not console.is_terminal)
    return Status(
        {"servers": servers, "devices": devices, "alarms": alarms, "alarm_system": system},
        text.get().rstrip("\n"),
        not troubles and len(online) == len(devices),
    )


async def wire(
    device: str,
    address: Address,
    seconds: float,
    file: Path | None,
    say: Callable[[dict[str, Any], str], None],
) -> None:
    """Follow the bytes between a device and its hardware; also append them to a file.

    ``say`` is called with each event and a line for it.

    Raises HcamError if the device or the router does not answer, or the file cannot be written.
    """
    try:
        opened = file.open("a", encoding="utf-8") if file else nullcontext()
    except OSError as error:
        raise HcamError(f"{file} cannot be written: {error.strerror}") from None
    with opened as recording:

        def show(event: dict[str, Any]) -> None:
            content = repr(bytes.fromhex(event["hex"]))[2:-1]
            clock = times.exact(event["time"])[11:23]
            say(event, f"{clock} {event['direction']} {content:<44} {event['meaning']}")
            if recording:
                recording.write(capture.record(event) + "\n")
                recording.flush()

        try:
            async with join(address) as session:
                await session.subscribe(show, uris.wire(device))
                began = session.call(uris.rpc(device, "wire"), seconds)
                if not (await asyncio.wait([began], timeout=TIMEOUT))[0]:
                    raise HcamError(f"{device} did not answer within {TIMEOUT:g} s")
                await began
                await asyncio.wait([session.over], timeout=seconds)
        except ApplicationError as error:
            if error.error == ApplicationError.NO_SUCH_PROCEDURE:
                procedure = uris.rpc(device, "wire")
                raise HcamError(await asyncio.to_thread(no_such_device, procedure)) from None
            raise HcamError(" ".join(str(part) for part in error.args)) from None
        except OSError as error:
            raise HcamError(unreachable(address, error, JOIN_WITHIN)) from None
