"""Telemetry of five CCD heads of ours.

``heads.py fill COUNT JOURNAL`` writes a journal that a server has left behind. ``heads.py serve``
presents the heads, and what it has in its journal; ``heads.py serve COUNT`` also publishes as many
samples, as fast as the router takes them, each in the journal first.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hcam_devices.config.instrument import Entry
from hcam_devices.core.device import Device, iso_from_s
from hcam_devices.core.link import Lasting
from hcam_devices.host.home import home
from hcam_devices.journal import Journal
from hcam_devices.wamp import uris
from hcam_devices.wamp.server import Server, Task, until_told
from hcam_devices.wamp.session import Session, keep_joined
from telemetry import WORDS, head

HEADS = [f"ccd{number}" for number in range(1, 6)]
BATCH = 1000  # samples in one transaction
EVERY = 50  # samples: then the router is asked whether it has them


def samples(count: int) -> Iterator[dict[str, Any]]:
    """Yield samples of the heads in turn, 2 ms apart, up to now."""
    begin = time.time() - 0.002 * count
    for n, name in zip(range(count), itertools.cycle(HEADS), strict=False):
        numbers = {key: {"value": value, "unit": unit} for key, (value, unit) in head(n).items()}
        said = {"device": name, "timestamp": iso_from_s(begin + 0.002 * n), "alarms": []}
        yield said | {"state": {"connection": "online", "health": "OK"}} | numbers | WORDS


class Head(Device):
    """Something that only says that it is there, so that the recorder knows of it."""

    link_type = Lasting
    poll_every = 0.5


def serve(count: int) -> None:
    """Present the heads."""

    def beside(server: Server, _journal: Journal) -> dict[str, Task]:
        async def pour(session: Session) -> None:
            for n, sample in enumerate(samples(count)):
                for listener in server.devices[sample["device"]].listeners:
                    listener(sample)
                if n % EVERY == 0:
                    await session.call("wamp.session.count")

        return {"pour": lambda: keep_joined(uris.address(), pour)}

    entries = [Entry(name, Head, "hwserver", (), {}) for name in HEADS]
    server = Server("hwserver", entries, uris.address(), home(), emulate=False, beside=beside)
    asyncio.run(until_told(server))


def main() -> None:
    """Do what the command line says."""
    what, *more = sys.argv[1:]
    if what == "fill":
        journal = Journal(Path(more[1]))
        filling = samples(int(more[0]))
        while batch := [*itertools.islice(filling, BATCH)]:
            for kept in journal.append_all(batch):
                if isinstance(kept, Exception):
                    raise kept
        journal.close()
    else:
        serve(int(more[0]) if more else 0)


if __name__ == "__main__":
    main()
