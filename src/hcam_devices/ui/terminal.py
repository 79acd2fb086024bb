"""The instrument in a terminal: ``hcam watch``, ``hcam status`` and ``hcam wire``."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions
from rich.console import Console
from rich.live import Live

from .. import HcamError
from ..config.instrument import Instrument
from ..core import capture
from ..wamp import uris
from ..wamp.session import JOIN_WITHIN, Session, join, keep_joined
from ..wamp.uris import Address
from ..wamp.utils import TIMEOUT, unreachable
from .calling import no_such_device
from .keys import Browser, pressed
from .picture import Changes, Picture, draw

MAX_LOOK_S = 1.0
"""Wait this long for devices and servers from which the router has retained nothing."""
REDRAW_PERIOD_S = 0.5


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
    """Subscribe a picture to its devices and servers, with their retained events."""
    last = SubscribeOptions(get_retained=True)
    servers = picture.instrument.servers
    await asyncio.gather(
        session.subscribe(picture.hear, uris.ALL_TELEMETRY, SubscribeOptions(match="wildcard")),
        *(session.subscribe(picture.hear, uris.telemetry(name), last) for name in picture.samples),
        *(session.subscribe(picture.hear_status, uris.status(name), last) for name in servers),
    )
    picture.router = True


async def look(picture: Picture, address: Address) -> None:
    """Fill a picture with the retained events. Raises HcamError if there is no router."""
    try:
        async with join(address, picture.realm) as session:
            await follow(picture, session)
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_LOOK_S):
                    await picture.complete.wait()
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
        clock = time.strftime("%H:%M:%S", time.gmtime())
        for line in now.after(before):
            console.print(f"{clock} {line}", soft_wrap=True, markup=False, highlight=False)
        before = now


async def status(instrument: Instrument, address: Address) -> int:
    """Print a summary; return 1 if a device is silent, offline or has an alarm, otherwise 0."""
    picture = Picture(instrument, "*")
    console = Console()
    write = partial(console.print, soft_wrap=not console.is_terminal)
    await look(picture, address)
    running = {s["server"] for s in picture.servers.values() if s["state"] == "running"}
    for server in instrument.servers:
        write(f"{server} is {'running' if server in running else 'NOT RUNNING'}")
    silent = [name for name, sample in picture.samples.items() if not sample]
    offline = [
        name
        for name, sample in picture.samples.items()
        if sample and sample["state"]["connection"] != "online"
    ]
    online = len(picture.samples) - len(silent) - len(offline)
    write(f"{online} of {len(picture.samples)} devices are online")
    for names, what in ((offline, "offline"), (silent, "not heard")):
        if names:
            write(f"{what}: {', '.join(names)}")
    alarms = picture.alarms()
    for line in alarms:
        write(line)
    return 1 if alarms or silent or offline else 0


async def wire(device: str, address: Address, seconds: float, file: Path | None) -> None:
    """Print the bytes between a device and its hardware for a while; also append them to a file.

    Raises HcamError if the device or the router does not answer.
    """
    with file.open("a", encoding="utf-8") if file else nullcontext() as recording:

        def show(event: dict[str, Any]) -> None:
            content = repr(bytes.fromhex(event["hex"]))[2:-1]
            clock = event["time"][11:-1]
            print(f"{clock} {event['direction']} {content:<44} {event['meaning']}", flush=True)
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
