"""``GET /events``: the samples of devices as server-sent events.

The router's worker imports this module; it has Crossbar but not this package. The session of the
caller hears the samples and asks for those that were missed, so its role decides what it gets.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs

import limits
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.types import SubscribeOptions
from door import NOT_AUTHORIZED, Caller, Door, RefusedError, as_json, guests, require_no_browser
from people import people
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.task import LoopingCall
from twisted.web.server import NOT_DONE_YET
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

ALL_TELEMETRY = "hipercam..telemetry"
PAGE = 50
"""Ask a journal for at most this many samples at once, and one device after another."""
ANSWER_WITHIN_S = 5.0
"""The deadline of a device's answer."""
LOOK_PERIOD_S = 0.5
"""Check this often whether the caller may still listen."""
COMMENT_PERIOD_S = 15.0
"""Send a comment this often, so that proxies and listeners know that the stream lives."""
NO_ANSWER = (WampError, DeferredTimeoutError, CancelledError)

Sample = dict[str, Any]


class Events(Door):  # type: ignore[misc]  # it is Any for mypy
    """What ``GET /events?fields=PATTERN`` does.

    ``extra`` contains ``devices``, those of ``GET /instrument``, and what ``Door`` needs.
    """

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.devices = {device["name"]: device for device in extra["devices"]}

    def render(self, request: Any) -> Any:
        """Begin a stream; it ends when the caller leaves or is removed."""
        try:
            if request.method != b"GET":
                request.setHeader(b"allow", b"GET")
                raise RefusedError(405, "only GET is allowed")
            caller, guest = self.admit(request)
            patterns = parse_qs(request.uri.partition(b"?")[2].decode("latin-1")).get("fields")
            wanted = [text.partition(".")[::2] for text in patterns or ["*"]]
            stream = Stream(request, guest.session, self._chosen(wanted))
        except RefusedError as error:
            request.setHeader(b"content-type", b"application/json; charset=UTF-8")
            request.setResponseCode(error.status)
            return as_json(error.answer)
        request.setHeader(b"content-type", b"text/event-stream; charset=UTF-8")
        request.setHeader(b"cache-control", b"no-store")
        guest.wait_for(stream.over)
        stream.begin(lambda: _may_stay(caller))
        return NOT_DONE_YET

    def admit(self, request: Any) -> tuple[Caller, Any]:
        """Return who sent a request, and the guest that asks for it. Raise RefusedError."""
        require_no_browser(request)
        self._require_own_host(request)
        caller = self._caller(request, b"")
        guest = guests.guest(self.realm, caller)
        if text := limits.excess(caller.name, caller.role, guest.waiting):
            raise RefusedError(429, NOT_AUTHORIZED, text)
        return caller, guest

    def _chosen(self, wanted: list[tuple[str, str]]) -> dict[str, list[str]]:
        """Return the globs for the fields of each device that is wanted."""
        chosen: dict[str, list[str]] = {}
        for glob, fields in wanted:
            for name, device in self.devices.items():
                if glob in device["aliases"] or fnmatchcase(name, glob):
                    chosen.setdefault(name, []).append(fields or "*")
        if not chosen:
            there = ", ".join(self.devices)
            raise RefusedError(400, f"fields matches no device; there are {there}")
        return chosen


def _may_stay(caller: Caller) -> bool:
    person = people.known().get(caller.name)
    return not caller.listed or bool(person and person.role == caller.role)


class Stream:
    """The samples of some devices for one listener, each once and in order.

    It is as ``hcam_devices.wamp.stream.Stream``, which cannot run here: live, or behind after a
    gap, in another epoch, and while the listener does not read. ``over`` is called back at its end.
    """

    def __init__(self, request: Any, session: Any, chosen: dict[str, list[str]]) -> None:
        self._request, self._session, self._chosen = request, session, chosen
        self.over: Any = Deferred()
        self._fields: dict[str, dict[str, Any]] = {}
        self._places = dict(_places(request.getHeader(b"last-event-id") or b""))
        self._past: dict[tuple[str, str], int] = {}
        self._newest: dict[str, Sample] = {}
        """The newest sample of each device that the listener is behind."""
        self._due: dict[str, None] = {}
        self._working = self._paused = self._ended = False
        self._comments = 0.0

    def begin(self, may_stay: Callable[[], bool]) -> None:
        """Listen, and ask each device for its newest sample."""

        def look() -> None:
            if not may_stay():
                self.stopProducing()
            self._comments += LOOK_PERIOD_S
            if self._comments >= COMMENT_PERIOD_S and not self._ended:
                self._comments = 0.0
                self._request.write(b":\n\n")

        self._request.notifyFinish().addBoth(lambda _: self._end())
        self._request.registerProducer(self, True)
        self._request.write(b"retry: 1000\n\n")
        self._looking = LoopingCall(look)
        self._looking.start(LOOK_PERIOD_S, now=False)
        Deferred.fromCoroutine(self._listen()).addErrback(self._fail)

    async def _listen(self) -> None:
        options = SubscribeOptions(match="wildcard", details_arg="_event")
        self._subscription = await self._session.subscribe(self.hear, ALL_TELEMETRY, options)
        if self._ended:
            self._subscription.unsubscribe()
            return
        for device in self._chosen:
            try:
                sample = await self._ask(device, "telemetry")
            except NO_ANSWER:
                continue  # its server is not running
            self._hear(device, sample)

    def _fail(self, failure: Any) -> None:
        log.failure("a stream of events ends", failure=failure)
        self.stopProducing()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._looking.stop()
            if subscription := getattr(self, "_subscription", None):
                subscription.unsubscribe()
            self.over.callback(None)

    # --- twisted's IPushProducer ------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Remember newest samples only: the listener does not read."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on where the listener has stopped."""
        self._paused = False
        self._due |= dict.fromkeys(self._newest)
        self._work()

    def stopProducing(self) -> None:
        """End the stream."""
        if not self._ended:
            self._request.unregisterProducer()
            self._request.finish()

    # --- samples ----------------------------------------------------------------------------

    def hear(self, sample: Any = None, *_: Any, _event: Any, **__: Any) -> None:
        """Handle an event from the topic of a device."""
        self._hear(_event.topic.split(".")[1], sample)

    def _hear(self, device: str, sample: Any) -> None:
        if self._ended or device not in self._chosen or not is_sample(sample, device):
            return
        epoch, seq = sample["epoch"], sample["seq"]
        if seq is not None:
            place = self._places.setdefault(device, (epoch, seq - 1))
            if place[0] == epoch and seq <= place[1]:
                return
        live = not self._paused and device not in self._newest and device in self._fields
        if live and (seq is None or self._places[device] == (epoch, seq - 1)):
            self._write(device, sample)
        else:
            self._newest[device] = sample
            self._due[device] = None
            self._work()

    def _work(self) -> None:
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._catch_up()).addErrback(self._fail)

    async def _catch_up(self) -> None:
        """Ask one device after another. After an error, its next sample tries again."""
        try:
            while self._due and not (self._paused or self._ended):
                device = next(iter(self._due))
                try:
                    await self._step(device)
                except NO_ANSWER:
                    self._due.pop(device, None)
                else:
                    if device not in self._newest:
                        self._due.pop(device, None)
        finally:
            self._working = False

    async def _step(self, device: str) -> None:
        newest = self._newest[device]
        if device not in self._fields:
            fields = (await self._ask(device, "describe"))["fields"]
            globs = self._chosen[device]
            self._fields[device] = {
                name: declared
                for name, declared in fields.items()
                if any(fnmatchcase(name, glob) for glob in globs)
            }
        page: list[Any] = []
        epoch, seq = self._places.get(device, ("", 0))
        if epoch:
            page = await self._ask(device, "samples", seq, PAGE, epoch)
        if page:
            for sample in page:
                self._write(device, sample)
        elif self._newest[device] is not newest:
            return  # the journal may have answered before this one was published: ask again
        elif newest["seq"] is None or newest["epoch"] == epoch:
            self._write(device, newest)
            del self._newest[device]
        else:
            held = await self._ask(device, "journal")
            following = _following([each["epoch"] for each in held["epochs"]], epoch, newest)
            if following:
                self._past[device, epoch] = seq
                self._places[device] = following, self._past.get((device, following), 0)
            elif self._newest[device] is newest:
                del self._newest[device]

    def _ask(self, device: str, procedure: str, *args: Any) -> Awaitable[Any]:
        answer = self._session.call(f"hipercam.{device}.rpc.{procedure}", *args)
        timed: Awaitable[Any] = answer.addTimeout(ANSWER_WITHIN_S, reactor)
        return timed

    def _write(self, device: str, sample: Sample) -> None:
        """Send a sample: an event for each field; the last one has the place of each device."""
        if sample["seq"] is not None:
            if (
                sample["seq"] <= self._places[device][1]
                and self._places[device][0] == sample["epoch"]
            ):
                return
            self._places[device] = sample["epoch"], sample["seq"]
        if self._ended:
            return
        lines = [
            f"data: {json.dumps(event)}\n\n" for event in _events(self._fields[device], sample)
        ]
        if lines:
            places = ",".join(
                f"{name}:{epoch}:{seq}" for name, (epoch, seq) in self._places.items()
            )
            lines[-1] = f"id: {places}\n{lines[-1]}"
            self._request.write("".join(lines).encode())


def _events(fields: dict[str, Any], sample: Sample) -> Iterator[dict[str, Any]]:
    """Yield the readings in a sample, as ``hcam monitor --json`` prints them."""
    for name, declared in fields.items():
        value: Any = sample
        for step in declared["path"]:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, dict) and "value" in value:
            value = value["value"]
        keys = "device", "field", "value", "unit", "time", "seq"
        known = sample["device"], name, value, declared["unit"], sample["timestamp"], sample["seq"]
        yield dict(zip(keys, known, strict=True))


def _places(given: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield the place of each device in a Last-Event-ID; nothing of one that is malformed."""
    for part in given.decode("latin-1").split(","):
        device, _, place = part.partition(":")
        epoch, _, seq = place.rpartition(":")
        if device and epoch and seq.isdecimal() and len(seq) < 19:
            yield device, (epoch, int(seq))


def _following(epochs: list[str], epoch: str, newest: Sample) -> str | None:
    """Return the epoch after that of a place; None if the newest sample is of an earlier one."""
    if epoch not in epochs:
        return str(newest["epoch"])
    later = epochs[epochs.index(epoch) + 1 :]
    if later:
        return later[0]
    return None if newest["epoch"] in epochs else str(newest["epoch"])


def is_sample(sample: Any, device: str) -> bool:
    """Return whether a device may have published this (``wamp/telemetry.py`` asks the same)."""
    return (
        isinstance(sample, dict)
        and sample.get("device") == device
        and isinstance(sample.get("epoch"), str)
        and type(sample.get("seq", "")) in (int, type(None))
        and type(sample.get("timestamp", 0)) in (str, type(None))
        and isinstance(sample.get("state"), dict)
        and isinstance(sample.get("alarms"), list)
    )
