"""Devices that say more than any hardware: ``python flood.py RATE SERVER DEVICE...``."""

import asyncio
import sys
from typing import Any

from hcam_devices.config.instrument import Entry
from hcam_devices.core.device import Device
from hcam_devices.core.fields import Readback, Value
from hcam_devices.core.link import Lasting
from hcam_devices.host.home import home
from hcam_devices.wamp import uris
from hcam_devices.wamp.server import Server, until_told


class Ticker(Device):
    """Something that counts, in every unit."""

    link_type = Lasting
    poll_every = 0.05

    count = Readback(channels=8, doc="How often it was asked.")
    word = Readback(kind=str)

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._asked = 0

    async def read(self, field: Readback) -> Value:
        self._asked += 1
        return field.kind(self._asked)


def main() -> None:
    """Names of one device are joined by ``=``, its own before its aliases."""
    rate, server, *devices = sys.argv[1:]
    settings = {"poll_every": len(devices) / float(rate)}
    entries = []
    for names in devices:
        name, *aliases = names.split("=")
        entries.append(Entry(name, Ticker, server, tuple(aliases), settings))
    asyncio.run(until_told(Server(server, entries, uris.address(), home(), emulate=False)))


if __name__ == "__main__":
    main()
