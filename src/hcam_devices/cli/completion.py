"""Names that a shell completes: devices, fields, setpoints and procedures.

They are asked from the router, and kept in the user's cache for some minutes. Nothing is printed if
the router does not answer.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import click

from .. import HcamError
from ..host.home import user_folder
from ..wamp import uris, utils
from ..wamp.uris import Address
from .program import router_address

Names: TypeAlias = dict[str, dict[str, list[str]]]
Complete: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]

KEEP_S = 600.0
"""Ask the router again after this time."""
ANSWER_WITHIN_S = 0.8
"""A person at the keyboard waits no longer."""
KINDS = "fields", "setpoints", "procedures"


def _known(where: Address, now: float) -> Names:
    """Return the names of each device, in order, from the cache or the router."""
    file = user_folder("XDG_CACHE_HOME", "~/.cache") / f"names-{where.host}-{where.port}.json"
    known: Names = {}
    with suppress(OSError, ValueError):
        known = _checked(file.read_text(encoding="utf-8"))
        if now - file.stat().st_mtime < KEEP_S:
            return known
    with suppress(HcamError):
        known = _asked()
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(known), encoding="utf-8")
            fresh.replace(file)
    return known


def _checked(text: str) -> Names:
    """Return the names in the text of a cache. Raise ValueError if it is damaged."""
    try:
        known: Names = json.loads(text)
        names = [name for of_device in known.values() for kind in KINDS for name in of_device[kind]]
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"a damaged cache: {error!r}") from None
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a damaged cache")
    return known


def _asked() -> Names:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (mostly the cache knows)

    from ..ui.values import MAX_AT_ONCE, devices  # noqa: PLC0415

    names = list(devices())
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        return dict(zip(names, pool.map(_names_of, names), strict=True))


def _names_of(device: str) -> dict[str, list[str]]:
    try:
        described: dict[str, Any] = utils.call(
            uris.rpc(device, "describe"), timeout=ANSWER_WITHIN_S
        )
    except utils.WampError:
        return {kind: [] for kind in KINDS}
    fields, procedures = described["fields"], described["procedures"]
    return {
        "fields": list(fields),
        "setpoints": [name for name in fields if fields[name]["settable"]],
        "procedures": [name for name in procedures if procedures[name]["audience"] != "program"],
    }


def offered(known: Names, kind: str, begun: str) -> Iterable[str]:
    """Yield the names to offer for the beginning of one.

    A shell puts a space behind a single match, so a device alone is offered only beside others.
    """
    fitting = [
        name for name in known if f"{name}.".startswith(begun) or begun.startswith(f"{name}.")
    ]
    fitting = [name for name in fitting if known[name][kind]]
    if len(fitting) > 1:
        yield from (f"{name}." for name in fitting)
    else:
        full = (f"{device}.{name}" for device in fitting for name in known[device][kind])
        yield from (name for name in full if name.startswith(begun))


def _completing(offer: Callable[[Names, str], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
        with suppress(HcamError):
            where = router_address(ctx.params.get("url"), ctx.params.get("file"))
            return list(offer(_known(where, time.time()), begun))
        return []

    return complete


def nights(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the nights that have a name of their own."""
    return [name for name in ("tonight", "yesterday") if name.startswith(begun)]


devices = _completing(lambda known, begun: [name for name in known if name.startswith(begun)])
fields = _completing(lambda known, begun: offered(known, "fields", begun))
setpoints = _completing(lambda known, begun: offered(known, "setpoints", begun))
procedures = _completing(lambda known, begun: offered(known, "procedures", begun))
