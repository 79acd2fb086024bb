"""Messages to systemd, for a program that runs as a unit of ``Type=notify``."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

SEND_WITHIN_S = 1.0
READY = "READY=1"
ALIVE = "WATCHDOG=1"


def notify(message: str) -> None:
    """Send a message to systemd; do nothing if systemd did not start the program.

    A failure is logged and not raised.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):  # an abstract address
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_WITHIN_S)
            sender.sendto(message.encode(), path)
    except OSError as error:
        log.warning("%s cannot be sent to systemd: %s", message, error)


def watchdog_period() -> float | None:
    """Return the period (s) of the watchdog messages, or None if systemd expects none.

    It is a third of the unit's ``WatchdogSec``, after which systemd restarts a silent program.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # systemd expects them from the parent of this process
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 3e6 if text.isdecimal() and int(text) else None


async def _always() -> bool:
    return True


async def feed_watchdog(is_alive: Callable[[], Awaitable[bool]] = _always) -> None:
    """Send the watchdog messages that systemd expects, until cancelled.

    None is sent while ``is_alive`` returns false or the event loop hangs. Return at once if systemd
    expects none.
    """
    while period := watchdog_period():
        if await is_alive():
            notify(ALIVE)
        await asyncio.sleep(period)
