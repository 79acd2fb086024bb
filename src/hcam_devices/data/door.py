"""The router's door: HTTP with names, in place of Crossbar's bridge.

Imported by ``guarded_crossbar`` in the router's worker, which has Crossbar but not this package.
``Door`` answers ``POST /call`` and ``POST /publish`` with the bodies of Crossbar's bridge.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autobahn.twisted.wamp import ApplicationSession
from autobahn.wamp.exception import ApplicationError, InvalidUriError
from autobahn.wamp.types import CallResult, ComponentConfig, PublishOptions
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

NOT_AUTHORIZED = "wamp.error.not_authorized"
RUNTIME_ERROR = "wamp.error.runtime_error"
ANONYMOUS = "anonymous"
"""The name of callers without credentials."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
OPTIONS = (
    *("forward_for", "retain", "exclude_me", "exclude_authid", "exclude_authrole", "exclude"),
    *("eligible_authid", "eligible_authrole", "eligible"),
)
"""The options of a publication that a request may give."""


class RefusedError(Exception):
    """A request is answered with this status, error and text; it has had no effect."""

    def __init__(self, status: int, error: str, text: str = "") -> None:
        super().__init__(text or error)
        self.status = status
        self.answer = {"error": error, "args": [text] if text else [], "kwargs": {}}


@dataclass(frozen=True)
class Caller:
    """Who sent a request: a name, and the role that decides what it may do."""

    name: str
    role: str


class Guests:
    """Sessions in the router for the callers of HTTP: one for each realm, name and role."""

    def __init__(self) -> None:
        self.controller: Any = None
        self._sessions: dict[tuple[str, Caller], Any] = {}

    def session(self, realm: str, caller: Caller) -> Any:
        """Return the caller's session, which is attached to the router of the realm."""
        router = self.controller.router_factory.get(realm)
        session = self._sessions.get((realm, caller))
        if session is None or not router.is_attached(session):  # it may have been killed
            session = self._sessions[realm, caller] = ApplicationSession(ComponentConfig(realm))
            self.controller.router_session_factory.add(
                session, router, authid=caller.name, authrole=caller.role
            )
        return session


guests = Guests()


class Door(Resource):  # type: ignore[misc]
    """What ``POST /call`` or ``POST /publish`` does; the path says which.

    ``extra`` contains: ``realm``; ``anonymous``, the role of callers; ``hosts``, names of the
    router besides those of loopback; ``max_body``, bytes.
    """

    isLeaf = True

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__()
        self.realm, self.anonymous, self.max_body = (
            extra[key] for key in ("realm", "anonymous", "max_body")
        )
        self.hosts = LOOPBACK | {host.lower() for host in extra["hosts"]}

    def render(self, request: Any) -> Any:
        """Answer a request: at once if it is refused, else when the call has returned."""
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"content-type", b"application/json; charset=UTF-8")
        try:
            answer = self._begin(request)
        except RefusedError as error:
            request.setResponseCode(error.status)
            return _dump(error.answer)
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def finish(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        answer.addErrback(_failed, request).addCallback(finish)
        return NOT_DONE_YET

    def _begin(self, request: Any) -> Any:
        """Check a request; return a Deferred of the body of its answer."""
        _require_no_browser(request)
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
        caller = self._caller(request)
        begin, key = BEGIN[request.prepath[-1]]
        uri, args, kwargs = wanted.get(key), wanted.get("args") or [], wanted.get("kwargs") or {}
        if not isinstance(uri, str) or type(args) is not list or type(kwargs) is not dict:
            text = f"the request needs {key}, a text; it may have args, a list, and kwargs, a dict"
            raise RefusedError(400, text)
        session = guests.session(self.realm, caller)
        try:
            return begin(session, uri, args, kwargs, wanted.get("options") or {})
        except InvalidUriError as error:
            raise RefusedError(400, ApplicationError.INVALID_URI, str(error)) from None
        except Exception as error:  # noqa: BLE001  (so Autobahn tells of unsuitable arguments)
            raise RefusedError(400, f"this cannot be sent: {error}") from None

    def _caller(self, request: Any) -> Caller:
        return Caller(ANONYMOUS, self.anonymous)

    def _require_own_host(self, request: Any) -> None:
        """Refuse requests to another name: a web page's name may be pointed to this machine."""
        own = request.getHost().host
        for header in request.requestHeaders.getRawHeaders(b"host", []):
            host = header.decode("latin-1").lower()
            name, colon, port = host.rpartition(":")
            name = name if colon and port.isdigit() else host
            if name not in self.hosts and name not in (own, f"[{own}]"):
                text = f"this router is not {name}: use its address, or name it in [router]"
                raise RefusedError(421, NOT_AUTHORIZED, text)


def _require_no_browser(request: Any) -> None:
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
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not valid JSON in UTF-8") from None
    if not isinstance(wanted, dict):
        raise RefusedError(400, "the request is not a JSON object")
    return wanted


def _call(session: Any, uri: str, args: Any, kwargs: Any, options: Any) -> Any:
    return session.call(uri, *args, **kwargs).addCallback(_result)


def _result(value: Any) -> bytes:
    if not isinstance(value, CallResult):
        return _dump({"args": [value]})
    parts = {"args": value.results, "kwargs": value.kwresults}
    return _dump({name: part for name, part in parts.items() if part})


def _publish(session: Any, uri: str, args: Any, kwargs: Any, options: Any) -> Any:
    given = PublishOptions(acknowledge=True, **{name: options.get(name) for name in OPTIONS})
    published = session.publish(uri, *args, **kwargs, options=given)
    return published.addCallback(lambda publication: _dump({"id": publication.id}))


BEGIN: dict[bytes, tuple[Callable[..., Any], str]] = {
    b"call": (_call, "procedure"),
    b"publish": (_publish, "topic"),
}
"""What a path does, and the key of the URI in its requests."""


def _failed(failure: Failure, request: Any) -> bytes:
    """Return the body for an error: 200 for one of the callee or of the router's rules."""
    error = failure.value
    if isinstance(error, ApplicationError):
        try:
            return _dump({"error": error.error, "args": error.args, "kwargs": error.kwargs or {}})
        except ValueError:  # it has what JSON has not, such as bytes
            return _dump({"error": error.error, "args": [repr(error.args)], "kwargs": {}})
    log.failure("a request cannot be answered", failure=failure)
    request.setResponseCode(500)
    text = "the answer cannot be sent; the router's log says why"
    return _dump({"error": RUNTIME_ERROR, "args": [text], "kwargs": {}})


def _dump(answer: Any) -> bytes:
    """Return an answer as JSON. Raises ValueError for what JSON has not."""
    try:
        return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
