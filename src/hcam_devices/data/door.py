"""The router's door: HTTP with names, in place of Crossbar's bridge.

``Door`` answers ``POST /call`` and ``POST /publish`` with the bodies of Crossbar's bridge. The
router's worker imports this module; it has Crossbar but not this package.
"""

import base64
import hashlib
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import limits
import turns
from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError, InvalidUriError
from autobahn.wamp.types import CallResult, ComponentConfig, PublishOptions
from people import NOT_AUTHORIZED, look, people
from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

RUNTIME_ERROR = "wamp.error.runtime_error"
ANONYMOUS = "anonymous"
"""The name of callers without credentials, before the address they came from."""
LOOK_UP = "wamp.registration.lookup"
"""``call`` of version 1.7 asks it, for an exact name, before each call. Devices register prefixes,
so here it finds what would be called."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
OPTIONS = (
    *("forward_for", "retain", "exclude_me", "exclude_authid", "exclude_authrole", "exclude"),
    *("eligible_authid", "eligible_authrole", "eligible"),
)
"""The options of a publication that a request may give."""
LOOK_PERIOD_S = 0.5
"""Check this often whether people were removed."""
WINDOW_S = 30.0
"""A signature is valid for this time before and after the time in it."""


class RefusedError(Exception):
    """A request is answered with this status, error and text; it has had no effect."""

    def __init__(self, status: int, error: str, text: str = "") -> None:
        super().__init__(text or error)
        self.status = status
        self.answer = {"error": error, "args": [text] if text else [], "kwargs": {}}


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a name, and the role that decides what it may do.

    ``listed``: whether the name is in the list of people.
    """

    name: str
    role: str
    listed: bool = True


def at(name: str, address: Any) -> str:
    """Return a name for callers without one, who came from an address; no person has it."""
    return f"{name} at {getattr(address, 'host', None) or 'this machine'}"


class QuietSession(ApplicationSession):
    """A session that does not log the error of a procedure: its caller gets it."""

    def onUserError(self, fail: Any, msg: str) -> None:
        """Log it for those who look for it."""
        log.debug("{msg}", msg=msg)


@dataclass
class Guest:
    """A session in the router for a caller of HTTP, and its requests without an answer yet."""

    session: Any
    waiting: int = 0

    def wait_for(self, answer: Any) -> Any:
        """Count a Deferred as waiting until it has fired; return it."""
        self.waiting += 1
        return answer.addBoth(self._answered)

    def _answered(self, result: Any) -> Any:
        self.waiting -= 1
        return result


class Guests:
    """Sessions in the router: for the callers of HTTP, one for each realm, name and role."""

    def __init__(self) -> None:
        self.controller: Any = None
        self._guests: dict[tuple[str, Caller], Guest] = {}

    def guest(self, realm: str, caller: Caller) -> Guest:
        """Return the caller's guest, whose session is attached to the router of the realm."""
        router = self.controller.router_factory.get(realm)
        guest = self._guests.get((realm, caller))
        if guest is None or not router.is_attached(guest.session):  # it may have been killed
            session = QuietSession(ComponentConfig(realm))
            guest = self._guests[realm, caller] = Guest(session)
            self.controller.router_session_factory.add(
                session, router, authid=caller.name, authrole=caller.role
            )
        return guest

    def session(self, realm: str, name: str, role: str) -> Any:
        """Return the session in a realm of a caller that is not in the list of people."""
        return self.guest(realm, Caller(name, role, listed=False)).session

    def look(self, controller: Any) -> None:
        """End the sessions of people who were removed or have another role now."""
        known = people.known()
        for (realm, caller), guest in [*self._guests.items()]:
            person = known.get(caller.name)
            same = not caller.listed or (person and person.role == caller.role)
            if not same and not guest.waiting:
                del self._guests[realm, caller]
                controller.router_session_factory.remove(guest.session)


guests = Guests()


class Doorkeeper(ApplicationSession):
    """The component of a Crossbar that is not ours: it does for the door what ours does itself."""

    def onJoin(self, details: Any) -> None:
        """From now on, end the sessions of people who were removed."""
        transport: Any = self._transport
        controller = guests.controller = transport._router._factory.worker

        def show_out() -> None:
            look(controller)
            guests.look(controller)

        LoopingCall(show_out).start(LOOK_PERIOD_S)


class Signatures:
    """Checks signatures of requests to the router of a name; each is valid once."""

    def __init__(self, router: str) -> None:
        self.router = router
        self._began = time.monotonic()
        self._used: dict[str, float] = {}

    def signer(self, known: dict[str, Any], request: Any, body: bytes, given: str) -> str:
        """Return the name of the person who signed a request.

        It must be signed for ``router``, or for the name in its Host and the port it came to.
        """
        fields = dict(part.strip().partition("=")[::2] for part in given.split(","))
        if fields.keys() != {"name", "time", "nonce", "mac"}:
            raise RefusedError(401, NOT_AUTHORIZED, "Hcam needs name, time, nonce and mac")
        name, signed_at = fields["name"], fields["time"]
        person = known.get(name)
        path, hashed = request.path.decode("latin-1"), hashlib.sha256(body).hexdigest()
        secret = (person and person.token) or secrets.token_bytes(32)
        for router in (
            self.router,
            *(f"{host}:{request.getHost().port}" for host in _hosts(request)),
        ):
            lines = ("hcam1", "POST", path, router, signed_at, fields["nonce"], hashed)
            mac = hmac.digest(secret, "\n".join(lines).encode(), "sha256").hex()
            if hmac.compare_digest(mac.encode(), fields["mac"].encode()):
                break
        else:
            text = f"the request is not signed with the token of {name!r} for the router {router}"
            raise RefusedError(401, NOT_AUTHORIZED, text)
        self._require_new(mac, signed_at)
        return name

    def _require_new(self, mac: str, signed_at: str) -> None:
        now, clock = time.monotonic(), time.time()
        # Requests from before the start of the router may be repetitions: it does not know them.
        most = min(WINDOW_S, now - self._began)
        if not -WINDOW_S <= clock - _number(signed_at) <= most:
            text = (
                f"the request was signed at {signed_at}, but the router's clock is at {clock:.3f}"
            )
            raise RefusedError(401, NOT_AUTHORIZED, text)
        while self._used and self._used[first := next(iter(self._used))] < now - 2 * WINDOW_S:
            del self._used[first]
        if mac in self._used:
            raise RefusedError(401, NOT_AUTHORIZED, "this request was sent before")
        self._used[mac] = now


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Door(Resource):  # type: ignore[misc]
    """What ``POST /call`` or ``POST /publish`` does; the path says which.

    ``extra`` contains: ``realm``; ``anonymous``, the role of callers without credentials, or None;
    ``people``, the file of the others, or None; ``router``, the name for which requests are signed;
    ``hosts``, names of the router besides those of loopback; ``max_body``, bytes; ``limits``, those
    of roles.
    """

    isLeaf = True

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__()
        self.realm, self.anonymous, self.max_body = (
            extra[key] for key in ("realm", "anonymous", "max_body")
        )
        self.hosts = LOOPBACK | {host.lower() for host in extra["hosts"]}
        self.signatures = Signatures(extra["router"])
        if extra["people"]:
            people.watch(extra["people"])
        limits.take(extra["limits"])

    def render(self, request: Any) -> Any:
        """Answer a request: at once if it is refused, else when the call has returned."""
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"content-type", b"application/json; charset=UTF-8")
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        try:
            answer = self._begin(request)
        except RefusedError as error:
            request.setResponseCode(error.status)
            if error.status == 401:
                request.setHeader(b"www-authenticate", b'Basic realm="hipercam"')
            return as_json(error.answer)

        def finish(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        answer.addErrback(failed, request).addCallback(finish)
        return NOT_DONE_YET

    def _begin(self, request: Any) -> Any:
        """Check a request; return a Deferred of the body of its answer."""
        require_no_browser(request)
        if request.method not in (b"POST", b"PUT"):
            method = request.method.decode("latin-1")
            request.setHeader(b"allow", b"POST, PUT")
            raise RefusedError(405, f"{method} is not allowed, only POST and PUT")
        body = request.content.read()
        if len(body) > self.max_body:
            text = f"the request has {len(body)} bytes, more than the {self.max_body} allowed"
            raise RefusedError(413, text)
        wanted = _parse(request, body)
        self._require_own_host(request)
        caller = self._caller(request, body)
        if text := limits.too_long(len(body), caller.role):
            raise RefusedError(413, NOT_AUTHORIZED, text)
        begin, key = BEGIN[request.prepath[-1]]
        uri, args, kwargs = wanted.get(key), wanted.get("args") or [], wanted.get("kwargs") or {}
        if not isinstance(uri, str) or type(args) is not list or type(kwargs) is not dict:
            text = f"the request needs {key}, a text; it may have args, a list, and kwargs, a dict"
            raise RefusedError(400, text)
        guest = guests.guest(self.realm, caller)
        if text := limits.excess(caller.name, caller.role, guest.waiting):
            raise RefusedError(429, NOT_AUTHORIZED, text)

        def send() -> Any:
            try:
                return begin(guest.session, uri, args, kwargs, wanted.get("options") or {})
            except InvalidUriError as error:
                raise RefusedError(400, ApplicationError.INVALID_URI, str(error)) from None
            except Exception as error:  # noqa: BLE001  (so Autobahn tells of unsuitable arguments)
                raise RefusedError(400, f"the arguments cannot be sent: {error}") from None

        if caller.listed or begin is not _call:
            return guest.wait_for(send())
        answer = turns.answer(uri, send)
        request.notifyFinish().addErrback(lambda _: answer.cancel())
        return guest.wait_for(answer)

    def _caller(self, request: Any, body: bytes) -> Caller:
        """Return who has sent a request, by its header Authorization."""
        headers = request.requestHeaders.getRawHeaders(b"authorization", [])
        if not headers and self.anonymous:
            return Caller(at(ANONYMOUS, request.getClientAddress()), self.anonymous, listed=False)
        if len(headers) != 1:
            raise RefusedError(401, NOT_AUTHORIZED, "a token or a signature is needed")
        known = people.known()
        scheme, _, given = headers[0].decode("latin-1").partition(" ")
        if scheme.lower() == "hcam":
            name = self.signatures.signer(known, request, body, given.strip())
        else:
            _require_private(request)
            name = _owner(known, scheme.lower(), given.strip())
        return Caller(name, known[name].role)

    def _require_own_host(self, request: Any) -> None:
        """Refuse requests to another name: a web page's name may be pointed to this machine."""
        own = request.getHost().host
        for name in _hosts(request):
            if name not in self.hosts and name not in (own, f"[{own}]"):
                text = f"this router is not {name}: use its address, or add the name to [router]"
                raise RefusedError(421, NOT_AUTHORIZED, text)


def _hosts(request: Any) -> list[str]:
    """Return the names to which a request is addressed, in lower case and without their ports."""
    headers = request.requestHeaders.getRawHeaders(b"host", [])
    return [re.sub(r":[0-9]*$", "", header.decode("latin-1").lower()) for header in headers]


def _require_private(request: Any) -> None:
    """Refuse a token that others could read on its way."""
    host = getattr(request.getClientAddress(), "host", None)
    if not request.isSecure() and host and not ip_address(host).is_loopback:
        text = "a token may not cross a network without TLS: use https, and make a new token"
        raise RefusedError(403, NOT_AUTHORIZED, text)


def _owner(known: dict[str, Any], scheme: str, given: str) -> str:
    """Return the name to which the token of a header belongs."""
    claimed, token = None, given
    if scheme == "basic":
        try:
            claimed, _, token = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            token = ""
    if scheme in ("basic", "bearer") and token:
        hashed = hashlib.sha256(token.encode()).digest()
        for name, person in known.items():
            same = person.token is not None and hmac.compare_digest(person.token, hashed)
            if same and claimed in (None, name):
                return name
    raise RefusedError(401, NOT_AUTHORIZED, "the router does not know this name and token")


def require_no_browser(request: Any) -> None:
    """Refuse what web pages send: no page may command the instrument."""
    headers = request.requestHeaders
    site = headers.getRawHeaders(b"sec-fetch-site", [b"none"])
    if headers.hasHeader(b"origin") or not {*site} <= {b"none", b"same-origin"}:
        raise RefusedError(403, NOT_AUTHORIZED, "web pages may not use this router")


def _parse(request: Any, body: bytes) -> dict[str, Any]:
    """Return the JSON object that a request contains."""
    [given] = request.requestHeaders.getRawHeaders(b"content-type", [b""])[:1]
    content_type, *parameters = (part.strip() for part in given.lower().split(b";"))
    if content_type not in (b"", b"application/json"):
        raise RefusedError(400, "the content type must be application/json")
    charsets = [part[8:].strip(b'"') for part in parameters if part.startswith(b"charset=")]
    if not {*charsets} <= {b"utf-8", b"utf8"}:
        raise RefusedError(400, "the charset must be UTF-8")
    try:
        wanted = json.loads(body.decode("utf-8"))
        if b"\\ud" in body.lower():
            # A lone surrogate cannot be sent on: the caller would never get an answer.
            json.dumps(wanted, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not valid JSON in UTF-8") from None
    if not isinstance(wanted, dict):
        raise RefusedError(400, "the request is not a JSON object")
    return wanted


def _call(session: Any, uri: str, args: Any, kwargs: Any, options: Any) -> Any:
    if uri == LOOK_UP and len(args) == 1:
        uri = "wamp.registration.match"
    return session.call(uri, *args, **kwargs).addCallback(_result)


def _result(value: Any) -> bytes:
    if not isinstance(value, CallResult):
        return as_json({"args": [value]})
    parts = {"args": value.results, "kwargs": value.kwresults}
    return as_json({name: part for name, part in parts.items() if part})


def _publish(session: Any, uri: str, args: Any, kwargs: Any, options: Any) -> Any:
    given = PublishOptions(acknowledge=True, **{name: options.get(name) for name in OPTIONS})
    published = session.publish(uri, *args, **kwargs, options=given)
    return published.addCallback(lambda publication: as_json({"id": publication.id}))


BEGIN: dict[bytes, tuple[Callable[..., Any], str]] = {
    b"call": (_call, "procedure"),
    b"publish": (_publish, "topic"),
}
"""What a path does, and the key of the URI in its requests."""


def failed(failure: Failure, request: Any) -> bytes:
    """Return the body for an error: 200 for one of the callee or of the router's rules."""
    error = failure.value
    if isinstance(error, CancelledError):  # the caller has left
        return b""
    if isinstance(error, RefusedError):
        request.setResponseCode(error.status)
        return as_json(error.answer)
    if isinstance(error, ApplicationError):
        try:
            return as_json({"error": error.error, "args": error.args, "kwargs": error.kwargs or {}})
        except ValueError:  # not possible in JSON, such as bytes
            return as_json({"error": error.error, "args": [repr(error.args)], "kwargs": {}})
    log.failure("a request cannot be answered", failure=failure)
    request.setResponseCode(500)
    text = "the answer cannot be sent; the router's log says why"
    return as_json({"error": RUNTIME_ERROR, "args": [text], "kwargs": {}})


def as_json(answer: Any) -> bytes:
    """Return an answer as JSON. Raises ValueError if JSON cannot express it."""
    try:
        text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return text.encode("utf-8", "backslashreplace")  # JSON's escape for a lone surrogate
