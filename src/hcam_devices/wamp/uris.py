"""The router's address, and all names on the network except errors (``..errors``).

No other code spells a URI.
"""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from .. import HcamError
from ..config.router import DEFAULT_HOST, DEFAULT_PORT
from .access import Key, own_key

REALM = "hipercam"
REPLAY = "replay"
"""The realm of the same router in which recorded nights are published again."""
PREFIX = "hipercam"
MAX_MESSAGE_BYTES = 1_048_576
"""The router drops a client that sends a longer message."""

ALL_TELEMETRY = f"{PREFIX}..telemetry"
"""The wildcard subscription that hears every device."""

ALL_STATUS = f"{PREFIX}..status"
"""The wildcard subscription that hears every server."""

ALL_CHANGES = f"{PREFIX}..changes"
"""The wildcard subscription that hears what changed, from every server of many devices."""

ALL_COMMANDS = f"{PREFIX}..command"
"""The wildcard for notes of commands."""

REGISTRATIONS = "wamp.registration."
"""The prefix of the router's own events about registrations."""

UNKNOWN_PATH = 404, 405
"""The router's answers to a request (405: a POST) at an unknown path; while it starts, at every
path."""


def telemetry(device: str) -> str:
    """Return the topic of a device's samples."""
    return f"{PREFIX}.{device}.telemetry"


def setpoint(device: str, name: str) -> str:
    """Return the topic on which a setpoint may be published, unacknowledged."""
    return f"{PREFIX}.{device}.{name}"


def rpc(device: str, name: str = "") -> str:
    """Return the procedure of a command; without a name, the prefix of all of them."""
    return f"{PREFIX}.{device}.rpc.{name}"


def wire(device: str) -> str:
    """Return the topic of the bytes that pass between a device and its hardware."""
    return f"{PREFIX}.{device}.wire"


def command(device: str) -> str:
    """Return the topic of notes of a device's commands."""
    return f"{PREFIX}.{device}.command"


def changed(device: str) -> str:
    """Return the topic of the changes of alarms."""
    return f"{PREFIX}.{device}.changed"


def status(server: str) -> str:
    """Return the topic of a server's starts and ends."""
    return f"{PREFIX}.{server}.status"


def changes(server: str) -> str:
    """Return the topic of what changed in the samples of a server."""
    return f"{PREFIX}.{server}.changes"


def journal(server: str, name: str) -> str:
    """Return a procedure of the journal of a server, which is asked for any device."""
    return f"{PREFIX}.{server}.journal.{name}"


HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::([0-9]{1,5}))?", re.ASCII)


class Address(NamedTuple):
    """Where the router is."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``host``, ``host:port`` or ``ws://host:port/ws``; an IPv6 host stands in brackets.

        ``wss://`` means the same: whether there is TLS follows from the key. Raises HcamError.
        """
        match = HOST_AND_PORT.fullmatch(
            re.sub("^wss?://", "", text.strip()).removesuffix("/").removesuffix("/ws")
        )
        port = int(match[3] or cls().port) if match else 0
        if not match or not 0 < port < 65536:
            raise HcamError(
                f"{text!r} is not a host or host:port (IPv6: [host] or [host]:port), "
                "or ws://host:port/ws or wss://host:port/ws; there is no other path"
            )
        return cls(match[1] or match[2], port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(find_key: Callable[[], Key | None] = own_key) -> Address:
    """Return the router's address: from WAMP_SERVER, else from the key file at HCAM_KEY.

    Without both, it comes from this machine's key if that is for TLS, else it is the default.
    Raises HcamError if the variable or key file is invalid.
    """
    if given := os.environ.get("WAMP_SERVER"):
        return Address.parse(given)
    key = find_key()
    return (
        Address.parse(key.router) if key and (key.ca or os.environ.get("HCAM_KEY")) else Address()
    )


def expand(short: str) -> str:
    """Expand a name that a person typed, e.g. ``slide.target_position``."""
    return short if short.startswith((f"{PREFIX}.", "wamp.")) else f"{PREFIX}.{short}"


def expand_procedure(short: str) -> str:
    """Return the full name of a procedure that a person typed, e.g. ``slide.stage.move``."""
    full = expand(short)
    if ".rpc." in full or full.startswith("wamp."):
        return full
    _, device, *name = full.split(".")
    return rpc(device, ".".join(name))


def device_of(uri: str) -> str:
    """Return the device in a URI; an empty text if the URI is not ours."""
    prefix, _, rest = uri.partition(".")
    return rest.partition(".")[0] if prefix == PREFIX else ""
