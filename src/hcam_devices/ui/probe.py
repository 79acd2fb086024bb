"""``hcam gtc probe``: finds and examines the telescope's server; nothing is moved or set.

Type, ORB and addresses are in the reference from the name service. The object itself is asked
whether it is alive, and for every readable value.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import HcamError
from ..config.instrument import load
from ..errors import LINK_LOST, RefusedError
from ..names import shorten
from ..telescope.corba import Corba
from ..telescope.interface import READABLE, require_corba
from ..telescope.ior import describe
from ..wamp import uris, utils
from ..wamp.uris import Address


def probed(address: Address, file: Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is found out about the telescope's server; nothing is moved or set.

    ``settings`` are settings of the link. Without a host or port among them, use the link of the
    gtcserver at the router ``address``, or else of the instrument file. Raises HcamError if the
    server does not answer, or if CORBA is not installed.
    """
    require_corba()
    found: dict[str, Any] = {}
    if not settings.keys() & {"host", "port"}:
        found["found by"], known = _link_settings(address, file)
        settings = {**known, **settings}
    try:
        return found | asyncio.run(report(Corba(**settings)))
    except (*LINK_LOST, ValueError) as error:
        raise HcamError(str(error)) from None


def _link_settings(address: Address, file: Path | None) -> tuple[str, dict[str, Any]]:
    """Return where the settings of the link are from, and the settings."""
    try:
        described = utils.call(uris.rpc("gtc", "describe"))
        return f"gtcserver at {address}", described["link"]
    except (utils.NoSuchProcedureError, utils.RouterError):
        instrument = load(file)
        if "gtc" not in instrument.entries:
            raise HcamError(
                f"no gtcserver is running at {address}, and {instrument.path} has no device gtc: "
                "give the host of the telescope's name service with --host"
            ) from None
        described = instrument.entries["gtc"].build().describe()
        return f"{instrument.path} (no gtcserver is running at {address})", described["link"]


def as_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a telescope's server."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from (f"  {operation:<34} {answer}" for operation, answer in value.items())
        else:
            yield f"{name:<12} {', '.join(value) if isinstance(value, list) else value}"


async def report(link: Corba) -> dict[str, Any]:
    """Return what a telescope's server is: the contents of its reference, and its answers.

    Raises as ``Corba.open``; the text of the error includes the contents of the reference.
    """
    found = dict(describe(await link.reference()))
    try:
        await link.open()
    except LINK_LOST as error:
        lines = as_lines(found | {"alive": f"no: {error}"})
        raise ConnectionError("\n".join(lines)) from None
    answers: dict[str, str] = {}
    for operation in READABLE:
        try:
            answers[operation] = shorten(await link.ask(None, operation))
        except (*LINK_LOST, RefusedError, ValueError) as error:
            answers[operation] = f"not read: {error}"
    link.close()
    return found | {"alive": "yes", "values": answers}
