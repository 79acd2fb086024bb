"""``hcam gtc probe``: where the telescope's server is, and what it is; nothing is moved or set.

Type, ORB and addresses are in the reference that the name service returns; the object itself is
asked whether it is alive, and for every value that can be read.
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

    ``settings`` are those of a link to it. Unless they name a host or port, gtcserver at
    ``address`` (WAMP_SERVER) is asked for its own, or else the instrument file. Raises HcamError if
    the server is not alive, or CORBA is not installed.
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
    """Return who knows where the telescope's server is, and the settings of a link to it."""
    try:
        described = utils.call(uris.rpc("gtc", "describe"))
        return f"gtcserver at {address}", described["link"]
    except (utils.NoSuchProcedureError, utils.RouterError):
        instrument = load(file)
        if "gtc" not in instrument.entries:
            raise HcamError(
                f"no gtcserver runs at {address}, and {instrument.path} has no device gtc: say "
                "where the telescope's name service is, with --host"
            ) from None
        described = instrument.entries["gtc"].build().describe()
        return f"{instrument.path} (no gtcserver runs at {address})", described["link"]


async def report(link: Corba) -> list[str]:
    """Return lines about a telescope's server: its reference, and its answers.

    Raises what ``Corba.open`` raises; if there is a reference, its contents are in the text.
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
