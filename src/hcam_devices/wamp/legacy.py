"""``realm1``: the part of the router's configuration for programs of version 1.7.

The bridge between that realm and the instrument's runs in the router (``data/legacy.py``).
"""

import socket
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..config.instrument import Entry, Instrument
from ..core.device import Device
from ..core.fields import Procedure, Setpoint
from ..errors import RouterError
from . import roles, uris

REALM = "realm1"
PORT = 8080
"""The port of the router that is built into programs of version 1.7."""
LOCAL, GUEST, BRIDGE = "anonymous", "program", "bridge"
"""The roles in realm1. LOCAL: clients where the router itself listens without TLS, on loopback, who
may also observe in the instrument's realm. GUEST: clients at all other addresses and ports. BRIDGE:
the bridge. No person has one of them."""
LIMIT = roles.Limit(roles.MIB, 8 * roles.MIB, 128)
"""``hdriver`` sends the tables of a whole run, and reads nothing while it asks its user."""
DOORS = "call", "publish"
NOT_FOR_GUESTS = "events", "metrics"
"""Paths that only the router's own addresses have: programs of version 1.7 do not know them."""


def with_realm1(
    configuration: dict[str, Any], instrument: Instrument, entries: Iterable[Entry], port: int
) -> dict[str, Any]:
    """Return a configuration with a door, extended by the realm of version 1.7.

    Without a key, its programs have an operator's rights. They connect on loopback, and at the
    addresses of ``[legacy] listen``: on ``port`` if the router listens there without TLS, otherwise
    on the port that is built into them. Raises RouterError if the router needs that port.
    """
    devices = {entry.name: entry for entry in entries}
    [worker] = configuration["workers"]
    [transport] = worker["transports"]
    paths = transport["paths"]
    for realm in worker["realms"]:
        [observer] = (one for one in realm["roles"] if one["name"] == roles.OBSERVER)
        realm["roles"].append(observer | {"name": LOCAL})
    worker["realms"].append(
        {"name": REALM, "roles": roles.realm1_roles(devices.values(), [LOCAL, GUEST], BRIDGE)}
    )
    bridge = {
        "realm": uris.REALM,
        "role": roles.OPERATOR,
        "observer": roles.OBSERVER,
        "devices": {name: _presented(entry) for name, entry in devices.items()},
        "strangers": {name: roles.role_of(name) for name in roles.strangers(devices.values())},
    }
    component = {"type": "class", "classname": "legacy.Bridge", "realm": REALM, "role": BRIDGE}
    worker.setdefault("components", []).append(component | {"extra": bridge})
    limits = paths["call"]["extra"]["limits"] | dict.fromkeys((LOCAL, GUEST), asdict(LIMIT))
    more = {"anonymous": roles.OPERATOR, "limits": limits}
    doors = {name: paths[name] | {"extra": paths[name]["extra"] | more} for name in DOORS}
    known = {name: path for name, path in paths.items() if name not in NOT_FOR_GUESTS}
    guest = known | doors | {"ws": paths["ws"] | {"auth": _anonymous(GUEST)}}
    addresses = instrument.legacy.listen
    if "tls" in transport["endpoint"]:
        if port == PORT:
            raise RouterError(
                f"[legacy] needs port {PORT} without TLS, which is built into programs of version "
                "1.7: set port in [router] to another one, such as 8443"
            )
        addresses, port = ["127.0.0.1", *addresses], PORT
    else:
        paths |= doors
        paths["ws"]["auth"] |= _anonymous(LOCAL)
    for address in addresses:
        endpoint = {"type": "tcp", "interface": address, "port": port}
        worker["transports"].append(transport | {"endpoint": endpoint, "paths": guest})
    return configuration


def require_addresses(configuration: dict[str, Any]) -> None:
    """Raise RouterError if the router cannot listen where ``with_realm1`` has added an address.

    Crossbar would start, and soon end with the reason in its log only.
    """
    [worker] = configuration["workers"]
    for endpoint in (one["endpoint"] for one in worker["transports"][1:]):
        host, port = endpoint["interface"], endpoint["port"]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise RouterError(
                    f"[legacy] needs port {port} at {host}, where the router cannot listen: "
                    f"{error.strerror}; listen names addresses of the router's machine"
                ) from None


def _anonymous(role: str) -> dict[str, Any]:
    return {"anonymous": {"type": "static", "role": role}}


def _presented(entry: Entry) -> dict[str, Any]:
    """Return the bridge's description of a device."""
    device: Device = entry.build()
    return {
        "kind": entry.cls.kind(),
        "names": list(entry.names),
        "setpoints": [name for name, one in device.fields.items() if isinstance(one, Setpoint)],
        "texts": [name for name, one in device.procedures().items() if _takes_text(name, one)],
    }


def _takes_text(name: str, procedure: Procedure) -> bool:
    """Return whether an argument of a procedure may be a text; for a setpoint, it is a number."""
    if procedure.sets:
        return False
    told = procedure.describe(name)["parameters"]["properties"].values()
    return any(_may_be_text(one) for one in told)


def _may_be_text(schema: dict[str, Any]) -> bool:
    options = [schema, *schema.get("anyOf", ()), schema.get("items", {"type": ""})]
    return not schema or any(one.get("type") == "string" for one in options)
