"""Calls from one device to another, which may be in another server."""

import asyncio
from typing import Any

from autobahn.wamp.exception import ApplicationError, Error

from ..errors import OfflineError, OutcomeUnknownError, from_uri
from . import uris
from .session import Session


class NobodyOffersError(OfflineError):
    """No session has registered the procedure."""


async def call_device(
    session: Session | None,
    device: str,
    procedure: str,
    *args: Any,
    within: float = 10.0,
    **kwargs: Any,
) -> Any:
    """Call a device's procedure through a session; raise as ``core.device.CallPeer``."""
    what = f"{device}.{procedure}"
    if session is None or not session.is_attached():
        raise OfflineError(f"{what} cannot be called: there is no router")
    try:
        async with asyncio.timeout(within):
            return await session.call(uris.rpc(device, procedure), *args, **kwargs)
    except TimeoutError:
        raise OutcomeUnknownError(
            f"{what} did not answer within {within:g} s; it may have been carried out"
        ) from None
    except ApplicationError as error:
        if error.error == ApplicationError.NO_SUCH_PROCEDURE:
            raise NobodyOffersError(f"nobody offers {what}: is its server running?") from None
        reason = " ".join(map(str, error.args)) or error.error
        raise from_uri(error.error, f"{what}: {reason}") from None
    except Error as error:
        raise OfflineError(f"{what}: {error or type(error).__name__}") from None
