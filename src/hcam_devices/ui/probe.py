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
from ..core.fields import shorten
from ..errors import LINK_LOST, RefusedError
from ..telescope.corba import READABLE, Corba, require_corba
from ..telescope.ior import describe
from ..wamp import uris, utils
from ..wamp.uris import Address


def probed(address: Address, file: Path | None, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the telescope's server; nothing is moved or set.

    ``settings`` are settings of the link. Without a host or port among them, use the link of the
    gtcserver at the router ``address``, or else of the instrument file. Raises HcamError if the
    server does not answer, or if CORBA is not installed.
    """
    require_corba()
    if not settings.keys() & {"host", "port"}:
        found_by, known = _link_settings(address, file)
        settings = {**known, **settings}
        yield f"{'found by':<12} {found_by}"
    try:
        yield from asyncio.run(report(Corba(**settings)))
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


async def report(link: Corba) -> list[str]:
    """Return lines about a telescope's server: its reference and its answers.

    Raises as ``Corba.open``; the text of the error includes the contents of the reference.
    """
    known = describe(await link.reference())
    known["addresses"] = ", ".join(known["addresses"])
    lines = [f"{name:<12} {value}" for name, value in known.items()]
    try:
        await link.open()
    except LINK_LOST as error:
        raise ConnectionError("\n".join([*lines, f"{'alive':<12} no: {error}"])) from None
    lines.append(f"{'alive':<12} yes")
    for operation in READABLE:
        try:
            answer = shorten(await link.ask(None, operation))
        except (*LINK_LOST, RefusedError, ValueError) as error:
            answer = f"not read: {error}"
        lines.append(f"  {operation:<34} {answer}")
    link.close()
    return lines
