"""``hcam gtc probe``: where the telescope's server is, and what it is."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import HcamError
from ..config.instrument import load
from ..errors import LINK_LOST
from ..telescope.corba import Corba, require_corba
from ..telescope.probe import report
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
