"""``call`` and ``publish`` for scripts, over the router's HTTP interface, and ``subscribe``.

    from hcam_devices.wamp.utils import call, publish, subscribe

    publish("hipercam.FocalPlaneSlide.target_position", -50)
    call("hipercam.slide.rpc.stage.move")
    for sample in subscribe("hipercam.slide.telemetry"):
        print(sample["position"])

The router is ``WAMP_SERVER``: a host, or host:port; by default this machine, port 8080. Requests
are signed with the token in the key file at ``HCAM_KEY``, else in that of this machine's ``hcam``.
"""

import hmac
import json
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from ..errors import (
    InvalidArgumentError,
    NoSuchProcedureError,
    NotAllowedError,
    NotAuthorizedError,
    OfflineError,
    OutcomeUnknownError,
    ProtocolError,
    RefusedError,
    RouterError,
    WampError,
    from_uri,
)
from ..host.http import Connection
from .access import AccessError, Key, context_of, own_key, untrusted
from .uris import UNKNOWN_PATH, Address, address

if TYPE_CHECKING:
    from .background import Subscription

__all__ = [
    "InvalidArgumentError",
    "NoSuchProcedureError",
    "NotAllowedError",
    "NotAuthorizedError",
    "OfflineError",
    "OutcomeUnknownError",
    "RefusedError",
    "RouterError",
    "WampError",
    "call",
    "publish",
    "subscribe",
]

TIMEOUT = 10.0
PRESENT_WITHIN = 5.0
"""A live program answers a first, short request within this time."""
CONNECT_WITHIN = 3.0
MAX_IDLE_S = 5.0
"""Call over a new connection after this time. The router closes one that was idle for 10 s, and a
request on a closed one would have an unknown outcome."""
NOT_FOR_THIS_CALLER = 401, 403, 421, 426
"""The router's answers to wrong credentials, web pages, requests to another router, and requests
without TLS if it needs TLS."""

_kept = threading.local()
_keys: dict[tuple[str | None, ...], Key] = {}
"""The keys read so far, by the settings that locate them."""


def unreachable(where: Address, error: Exception, within: float) -> str:
    """Return why the router cannot be reached, and what to do next."""
    if isinstance(error, AccessError):
        return str(error)
    if isinstance(error, TimeoutError):
        tls = "has no TLS, which the key asks for, " if (key := _key()) and key.ca else ""
        return (
            f"the router at {where} does not answer within {within:g} s: it hangs, {tls}or is out "
            f"of reach; see its log, HCAM_HOME/router/{where.port}/router.log"
        )
    if isinstance(error, ConnectionError) and error.errno is None:
        return f"{error}; is what listens there the router of this instrument, and up to date?"
    return (
        f"no router at {where} ({error}): set WAMP_SERVER, or start it: hcam router alone, or "
        "hcam up with the servers, which drive the hardware unless it is hcam up --emulate"
    )


def _connection(where: Address, ca: str, timeout: float) -> Connection:
    """Return the connection of this thread (and process: a fork must not share it), open."""
    key = (where, ca, os.getpid())
    if getattr(_kept, "key", None) != key:
        _kept.key, _kept.connection = key, Connection(where.host, where.port, context_of(ca))
        _kept.used_at = 0.0
    connection: Connection = _kept.connection
    if connection.ended() or monotonic() - _kept.used_at > MAX_IDLE_S:
        connection.close()
    connection.open(min(timeout, CONNECT_WITHIN))
    _kept.used_at = monotonic()
    return connection


def _key() -> Key | None:
    place = os.environ.get("HCAM_KEY"), os.environ.get("HCAM_HOME")
    if place not in _keys and (key := own_key()):  # a missing key may be made later
        _keys[place] = key
    return _keys.get(place)


def _signature(key: Key | None, where: Address, path: str, content: bytes) -> dict[str, str]:
    """Return the header that names the caller (decision 0135); none without a key."""
    if key is None or not key.token:
        return {}
    now, nonce = f"{time():.6f}", os.urandom(16).hex()
    lines = ("hcam1", "POST", path, str(where).lower(), now, nonce, sha256(content).hexdigest())
    secret = sha256(key.token.encode()).digest()
    mac = hmac.digest(secret, "\n".join(lines).encode(), "sha256").hex()
    return {"Authorization": f"Hcam name={key.name},time={now},nonce={nonce},mac={mac}"}


def _post(path: str, body: dict[str, Any], timeout: float) -> Any:
    where, key = address(_key), _key()
    try:
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"cannot be sent: {error}") from None
    headers = {"Content-Type": "application/json"} | _signature(key, where, path, content)
    try:
        connection = _connection(where, key.ca if key else "", timeout)
    except (OSError, ValueError) as error:
        why: Exception = error
        if key and key.ca:
            _keys.clear()  # the key file may have changed
            why = untrusted(where, error, key)
        raise RouterError(unreachable(where, why, min(timeout, CONNECT_WITHIN))) from None
    try:
        status, data, *_ = connection.post(path, headers, content, timeout=timeout)
    except (OSError, ProtocolError) as error:
        raise OutcomeUnknownError(
            f"no answer from {where} within {timeout:g} s ({type(error).__name__}): "
            "look at the telemetry before you repeat a command",
        ) from None
    if status in UNKNOWN_PATH:
        raise RouterError(
            f"{where} has no {path}: it is not the router, or has only just started",
        )
    uri = f"com.hipercam.error.http_{status}"
    if status in NOT_FOR_THIS_CALLER:
        _keys.clear()  # the key file may have changed
    elif status != 200:
        raise WampError(f"{where} answered {status} to {path}: {data[:200]!r}", uri)
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RouterError(
            f"{where} is not the router: it answered {data[:60]!r} to {path}",
        )
    if status != 200 or "error" in answer:
        text = " ".join(str(part) for part in answer.get("args") or ())
        told = answer.get("error", uri)
        if key is None and told == NotAuthorizedError.uri:
            text += "; no key was used: set HCAM_KEY to a key file (hcam access add makes one)"
        raise from_uri(told, text)
    return answer


def call(procedure: str, *args: Any, timeout: float = TIMEOUT, **kwargs: Any) -> Any:
    """Call a procedure and return its result.

    Raises the WampError that fits, with the error's URI and text. After OutcomeUnknownError
    the command may have been carried out; it is never sent twice.
    """
    body = {"procedure": procedure, "args": args, "kwargs": kwargs}
    answer = _post("/call", body, timeout).get("args")
    return answer[0] if answer else None


def publish(topic: str, *args: Any, timeout: float = TIMEOUT, **kwargs: Any) -> None:
    """Publish to a topic. Only telemetry shows if a device accepts the value.

    Raises a WampError if the router cannot be reached or does not allow it.
    """
    _post("/publish", {"topic": topic, "args": args, "kwargs": kwargs}, timeout)


def subscribe(
    topic: str,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    *,
    seconds: float | None = None,
) -> "Subscription[dict[str, Any]]":
    """Return an iterator over the samples of devices: the newest known, then every one.

    ``topic`` is that of telemetry, such as ``hipercam.slide.telemetry``; the name of the device may
    be a glob. No sample is lost, doubled or out of order, also if the router or a server is
    restarted meanwhile, or the caller is slow. It ends after ``seconds``. A ``callback`` is called
    with each sample in a thread of its own.

    Raises RouterError if the router cannot be reached, NotAuthorizedError if it refuses,
    InvalidArgumentError if the topic is that of no device's telemetry.
    """
    # Not above: call and publish do not need it, and it takes 0.1 s.
    from . import background  # noqa: PLC0415

    found = background.samples(address(_key), topic, seconds)
    if callback:
        found.call(callback)
    return found
