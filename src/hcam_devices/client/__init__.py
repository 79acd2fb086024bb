"""The instrument in Python: read, set, command and subscribe.

    from hcam_devices.client import connect

    with connect() as instrument:
        instrument.ccd1.temperature.value          # the newest that was heard: nothing is asked
        instrument.slide.set("target_position", 1100)
        instrument.slide.move(wait=True)
        for reading in instrument.subscribe("ccd*.temperature"):
            print(reading.device, reading.value)

``async with connect()`` gives the same in asyncio: what asks the network is then awaited, and
``subscribe`` is an asynchronous iterator.

This module imports little, so that scripts start quickly: ``connect`` imports asyncio and autobahn.
"""

import os
from typing import TYPE_CHECKING, Any

from ..errors import (
    InvalidArgumentError,
    NoSuchProcedureError,
    NotAllowedError,
    NotAuthorizedError,
    OfflineError,
    OutcomeUnknownError,
    RefusedError,
    RouterError,
    WampError,
)
from ..wamp.motion import NotArrivedError
from ..wamp.reading import Reading

if TYPE_CHECKING:
    from ..wamp.background import Subscription
    from .devices import Device, UnknownNameError
    from .instrument import AsyncInstrument, AsyncSubscription, Instrument

__all__ = [
    "AsyncInstrument",
    "AsyncSubscription",
    "Device",
    "Instrument",
    "InvalidArgumentError",
    "NoSuchProcedureError",
    "NotAllowedError",
    "NotArrivedError",
    "NotAuthorizedError",
    "OfflineError",
    "OutcomeUnknownError",
    "Reading",
    "RefusedError",
    "RouterError",
    "Subscription",
    "UnknownNameError",
    "WampError",
    "connect",
]


def __getattr__(name: str) -> Any:
    """Return a name in ``__all__`` that is not imported yet."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import instrument  # noqa: PLC0415  (see above)

    return getattr(instrument, name)


class connect:
    """Connect to the instrument: ``with connect() as instrument``, or ``async with``.

    ``address``: host or host:port of the router, by default WAMP_SERVER, else from the key, else
    this machine, port 8080. ``key``: a key file, by default HCAM_KEY, else that of this machine's
    ``hcam``. Entering raises RouterError if the router cannot be reached, NotAuthorizedError if it
    refuses, HcamError if the address or the key cannot be used.
    """

    _instrument: "Instrument"
    _async_instrument: "AsyncInstrument"

    def __init__(
        self, address: str | None = None, key: str | os.PathLike[str] | None = None
    ) -> None:
        self._address, self._key = address, key

    def open(self) -> "Instrument":
        """Return the instrument, for a notebook; its ``close`` ends the connection."""
        from ..wamp.background import Background  # noqa: PLC0415  (see above)
        from .instrument import Core, Instrument, Network  # noqa: PLC0415

        core, background = Core(self._address, self._key), Background()
        core.network = Network(core, background.run, background.require_own_process)
        try:
            background.run(core.open())
        except BaseException:
            background.close()
            raise
        return Instrument(core, background)

    def __enter__(self) -> "Instrument":
        self._instrument = self.open()
        return self._instrument

    def __exit__(self, *_: object) -> None:
        self._instrument.close()

    async def __aenter__(self) -> "AsyncInstrument":
        from .instrument import AsyncInstrument, Core, Network  # noqa: PLC0415  (see above)

        core = Core(self._address, self._key)
        core.network = Network(core, lambda work: work)
        await core.open()
        self._async_instrument = AsyncInstrument(core)
        return self._async_instrument

    async def __aexit__(self, *_: object) -> None:
        await self._async_instrument.close()
