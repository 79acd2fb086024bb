"""``GET /metrics``: the newest values of all devices, for Prometheus.

The router's worker imports this module; it has Crossbar but not this package.
"""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from autobahn.wamp.exception import Error as WampError
from door import RefusedError, as_json, failed, guests
from events import ANSWER_WITHIN_S, NO_ANSWER, Events, is_sample
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.web.server import NOT_DONE_YET
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

STALE_POLLS, MIN_STALE_S = 3, 10.0
"""Leave out the values of a sample that is older than this many polling periods, and this time."""
MAX_AT_ONCE = 50
"""Ask at most this many questions at once."""
MAX_DESCRIBED = 50
"""A server describes at most this many devices at once."""
UNITS = {
    "": ("", 1.0),
    "%": ("ratio", 0.01),
    "A": ("amperes", 1.0),
    "GB": ("bytes", 1e9),
    "MB / s": ("bytes_per_second", 1e6),
    "arcsec": ("arcseconds", 1.0),
    "deg": ("degrees", 1.0),
    "deg_C": ("celsius", 1.0),
    "l / min": ("liters_per_minute", 1.0),
    "mbar": ("pascals", 100.0),
    "mm": ("meters", 1e-3),
    "pix": ("pixels", 1.0),
    "s": ("seconds", 1.0),
}
"""Our units as Prometheus names them, and the factor: it wants base units."""
SEVERITIES = "WARN", "ERR"


class Metrics(Events):  # type: ignore[misc]
    """What ``GET /metrics`` does: it reads the samples that the router keeps for late subscribers.

    Only descriptions are asked for, once for each start of a server.
    """

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._described: dict[str, tuple[Any, Any]] = {}
        """The description of each device, and the start of its server."""
        self._asking: dict[str, Any] = {}
        self._at_once = DeferredSemaphore(MAX_AT_ONCE)

    def render(self, request: Any) -> Any:
        """Answer a scrape."""
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"content-type", b"application/json; charset=UTF-8")
        try:
            _, guest = self.admit(request)
        except RefusedError as error:
            request.setResponseCode(error.status)
            return as_json(error.answer)

        def written(_: Any) -> bytes:
            encode, kind = choose_encoder(request.getHeader("accept") or "")
            text: bytes = encode(Values(self._known()))
            request.setHeader(b"content-type", kind.encode())
            return text

        def finish(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        asked = self._describe(guest.session, [*self._undescribed()])
        # Those that have not answered by then are in a later scrape.
        described = gatherResults(asked).addTimeout(ANSWER_WITHIN_S, reactor)
        answer = described.addErrback(lambda _: None).addCallback(written)
        guest.wait_for(answer.addErrback(failed, request).addCallback(finish))
        return NOT_DONE_YET

    def _newest(self, topic: str) -> Any:
        """Return the event of a topic that the router keeps; None if there is none."""
        broker = guests.controller.router_factory.get(self.realm)._broker
        observation = broker._subscription_map.get_observation(topic)
        events = observation.extra.retained_events if observation else []
        return events[-1].publish.args[0] if events and events[-1].publish.args else None

    def _started(self, device: str) -> Any:
        """Return the process and start of a device's server; None if it has ended."""
        status = self._newest(f"hipercam.{self.devices[device]['server']}.status") or {}
        return (status["pid"], status["since"]) if status.get("state") == "running" else None

    def _undescribed(self) -> Iterator[str]:
        """Yield the devices whose server was started since they were described."""
        for name in self.devices:
            started = self._started(name)
            if started and self._described.get(name, (None, None))[1] != started:
                yield name

    def _describe(self, session: Any, names: list[str]) -> list[Any]:
        """Ask the servers what devices are, unless they are being asked; return Deferreds."""
        servers: dict[str, list[str]] = {}
        for name in names:
            if name not in self._asking:
                servers.setdefault(self.devices[name]["server"], []).append(name)
        for server, missing in servers.items():
            for first in range(0, len(missing), MAX_DESCRIBED):
                group = missing[first : first + MAX_DESCRIBED]
                asking = Deferred.fromCoroutine(self._ask(session, server, group))
                self._asking |= dict.fromkeys(group, asking)
                asking.addErrback(lambda failure: log.failure("no descriptions", failure=failure))
                asking.addBoth(partial(self._end, group))
        waits = []
        for asking in {self._asking[name] for name in names if name in self._asking}:
            over: Any = Deferred()  # so that a scrape that gives up ends no question
            asking.addCallback(over.callback)
            waits.append(over)
        return waits

    def _end(self, names: list[str], _: Any) -> None:
        for name in names:
            del self._asking[name]

    async def _ask(self, session: Any, server: str, names: list[str]) -> None:
        """Ask a server what its devices are; ask one by one those of which it does not tell."""
        started = self._started(names[0])
        rest = dict.fromkeys(names)
        try:
            answer = await self._call(session, f"hipercam.{server}.rpc.devices", names)
            for short, _ in answer["devices"]:
                fields = answer["parts"][short["fields"]]
                self._described[short["device"]] = short | {"fields": fields}, started
                del rest[short["device"]]
        except DeferredTimeoutError:
            return
        except WampError:
            pass  # it is older
        for name in rest:
            with suppress(*NO_ANSWER):
                described = await self._call(session, f"hipercam.{name}.rpc.describe")
                self._described[name] = described, started

    def _call(self, session: Any, procedure: str, *args: Any) -> Any:
        """Call a procedure in its turn; return a Deferred."""

        def call() -> Any:
            return session.call(procedure, *args).addTimeout(ANSWER_WITHIN_S, reactor)

        return self._at_once.run(call)

    def _known(self) -> dict[str, tuple[Any, Any]]:
        """Return the description and the newest sample of each device, None if it is not known."""
        newest = {name: self._newest(f"hipercam.{name}.telemetry") for name in self.devices}
        return {
            name: (
                self._described.get(name, (None, None))[0],
                sample if is_sample(sample, name) else None,
            )
            for name, sample in newest.items()
        }


class Values(Collector):
    """The description and the newest sample of each device, as metrics."""

    def __init__(self, known: dict[str, tuple[Any, Any]]) -> None:
        self.known = known

    def collect(self) -> Iterator[Any]:
        """Yield the families: those of fields, and those about the devices."""
        online = GaugeMetricFamily(
            "hcam_device_online", "Whether the hardware of a device answers.", labels=["device"]
        )
        alarms = GaugeMetricFamily(
            "hcam_device_alarms", "The alarms of a device.", labels=["device", "severity"]
        )
        families: dict[str, Any] = {}
        for device, (description, sample) in self.known.items():
            fresh = bool(description and sample and _is_fresh(sample, description))
            online.add_metric([device], float(fresh and sample["state"]["connection"] == "online"))
            for severity in SEVERITIES if sample else ():
                count = sum(alarm["severity"] == severity for alarm in sample["alarms"])
                alarms.add_metric([device, severity], count)
            if not fresh:
                continue
            for field, declared in description["fields"].items():
                value = _value(sample, declared)
                if value is not None:
                    _add(families, device, field, declared, value)
        yield from (*families.values(), online, alarms)


def _add(families: dict[str, Any], device: str, field: str, declared: Any, value: float) -> None:
    """Add a value to its family. A unit that is not in UNITS is left as it is spelt."""
    name, channel = _channel(field)
    unit, factor = UNITS.get(declared["unit"], (_plain(declared["unit"]), 1.0))
    full = "_".join(filter(None, ("hcam", name, unit)))
    if full not in families:
        families[full] = GaugeMetricFamily(
            full, declared["doc"] or field, labels=["device", "channel"], unit=unit
        )
    families[full].add_metric([device, channel], value * factor)


def _channel(field: str) -> tuple[str, str]:
    """Return the name of a family, and the channel: that of ``temperature2`` is ``2``."""
    match = re.fullmatch(r"(.*?)([0-9]*)", field)
    assert match  # noqa: S101  (it matches any text in one line)
    return _plain(match[1]), match[2]


def _plain(name: str) -> str:
    """Return a name in lower case, with underscores: ``exposure.countDown``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _value(sample: Any, declared: Any) -> float | None:
    """Return the number or bool of a field; None if it is a text, or not known."""
    value: Any = sample
    for step in declared["path"]:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def _is_fresh(sample: Any, description: Any) -> bool:
    """Return whether a sample is of now; the testament of a server has no time."""
    if sample["timestamp"] is None:
        return False
    # The second of the timing card's time is 60 in a leap second, which datetime does not know.
    taken = datetime.fromisoformat(sample["timestamp"].replace(":60", ":59"))
    age = (datetime.now(UTC) - taken).total_seconds()
    return age <= max(STALE_POLLS * float(description["poll_every"]), MIN_STALE_S)
