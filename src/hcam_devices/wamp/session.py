"""One session in a realm of the router, joined again whenever it is lost.

A name on the network belongs to one server: a session claims it, and never takes it from another
live server.
"""

import asyncio
import inspect
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from http import HTTPStatus
from pathlib import Path
from typing import Any

from autobahn.asyncio.wamp import ApplicationSession
from autobahn.asyncio.websocket import WampWebSocketClientFactory
from autobahn.exception import Disconnected, PayloadExceededError
from autobahn.wamp.exception import ApplicationError, SerializationError, TransportLost
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.message import Error, Invocation, Publish, Unregistered, Yield
from autobahn.wamp.request import InvocationRequest
from autobahn.wamp.serializer import CBORObjectSerializer, CBORSerializer
from autobahn.wamp.types import CallDetails, ComponentConfig, EventDetails, RegisterOptions

from ..errors import NotAuthorizedError
from ..host.addresses import addresses_of, first_reached
from ..host.backoff import Backoff
from ..host.deadline import patience
from . import uris
from .access import LOCAL, AccessError, Key, context_of, own_key, read_key, untrusted
from .owner import TAKEN_ERRORS, NameTakenError, Owner
from .transport import Transport
from .uris import Address

log = logging.getLogger(__name__)

JOIN_WITHIN = 3.0
"""Timeout of connecting and of joining (s)."""
PATIENT = 15.0
"""Timeout of joining (s) when it is retried for ever: a busy machine may be slow."""
FIRST_PAUSE, LAST_PAUSE = 0.2, 1.0
"""The pause between attempts (s) doubles from the first value to the last."""
PING_EVERY, PING_TIMEOUT = 5.0, 3.0
"""A frozen router is noticed within the sum of both (s)."""
CBOR = CBORObjectSerializer()
EVENT = b"\x18\x24"
"""The type of an event (36) in CBOR. It follows the first byte of a message."""
REFUSALS = (
    "wamp.error.not_authorized",
    "wamp.error.authentication_failed",
    "wamp.error.no_auth_method",
    "wamp.error.no_such_principal",
    "wamp.error.no_such_role",
)
"""The errors with which a working router refuses a request."""
WANTS_TLS = f"[{HTTPStatus.UPGRADE_REQUIRED}]"
"""Part of the reason why no WebSocket opens, if the router takes TLS only."""
REFUSED_PAUSE_S = 30.0
"""Retry a refused request after this time: somebody may have allowed it."""
CLAIM_AGAIN = 1.0
"""Seconds between attempts to register a name that another session has."""


class Serializer(CBORSerializer):
    """CBOR, with a fast path for events: a list as the router sends it, which is not checked."""

    def unserialize(self, payload: bytes, isBinary: bool | None = None) -> list[Any]:
        """Return the one message of a payload. Raises an error if it is malformed."""
        if payload[1:3] == EVENT:
            message = list(CBOR.unserialize(payload)[0])
            if not isinstance(message[-1], bytes):  # else autobahn has to decode its arguments
                return [message]
        return super().unserialize(payload, isBinary)


class Session(ApplicationSession):
    """A session; ``joined`` is done when it has joined, ``over`` has the reason for its end."""

    def __init__(self, realm: str, owner: Owner | None = None, key: Key | None = None) -> None:
        super().__init__(ComponentConfig(realm))
        loop = asyncio.get_running_loop()
        self.joined: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        self.owner, self.key = owner, key
        self.name = self.role = ""
        self.refusal = ""
        """Why the router refuses it."""
        self._claims: dict[int, tuple[Any, ...]] = {}
        self._taking_back: set[asyncio.Task[None]] = set()
        self._hearing: set[asyncio.Future[Any]] = set()

    def onConnect(self) -> None:
        """Join the realm, with the owner and the key of this session."""
        if not self._transport:  # None if the connection was given up meanwhile
            return
        extra = self.owner.as_extra() if self.owner else {}
        if self.key:
            extra["pubkey"] = self.key.public
            # A router without keys (Crossbar with the shipped file) admits everybody.
            methods = ["cryptosign", "anonymous"]
            self.join(self.config.realm, methods, self.key.name, authextra=extra)
        else:
            self.join(self.config.realm, authextra=extra or None)

    def onChallenge(self, challenge: Any) -> str:
        """Return the signed challenge, which proves its identity."""
        assert self.key  # noqa: S101  (only who has a key is challenged)
        message = bytes.fromhex(challenge.extra["challenge"])
        return self.key.sign(message).hex() + message.hex()

    async def claim(
        self,
        endpoint: Callable[..., Any],
        uri: str,
        match: str = "exact",
        details_arg: str | None = None,
        displaced: Callable[[str], None] = lambda _: None,
    ) -> Any:
        """Register a procedure; return it. Raise NameTakenError if another session has it.

        It displaces an earlier session of the same owner, whose death the router has not
        noticed yet. ``displaced`` is called with the reason when another program has taken the
        name by force, and with an empty text once the name is back.
        """
        force = None
        while True:
            options = RegisterOptions(match, details_arg=details_arg, force_reregister=force)
            try:
                registration = await self.register(endpoint, uri, options)
            except ApplicationError as error:
                if error.error not in TAKEN_ERRORS:
                    raise
            else:
                self._claims[registration.id] = endpoint, uri, match, details_arg, displaced
                return registration
            holder = await self._holder(uri, match)
            if holder and (self.owner is None or holder.owner != self.owner):
                raise holder
            force = True if holder else None

    async def unclaim(self, registration: Any) -> None:
        """Unregister a procedure that was claimed."""
        self._claims.pop(registration.id, None)
        await registration.unregister()

    async def _holder(self, uri: str, match: str) -> NameTakenError | None:
        """Return an error that names a procedure's holder; None if it is free by now."""
        try:
            registration = await self.call("wamp.registration.lookup", uri, {"match": match})
            if registration is None:
                return None
            callees = await self.call("wamp.registration.list_callees", registration)
            details = await self.call("wamp.session.get", callees[0])
            return NameTakenError(uri, details or {"session": callees[0]})
        except ApplicationError as error:
            if error.error in (error.NO_SUCH_REGISTRATION, error.NO_SUCH_SESSION):
                return None
            raise

    def onMessage(self, msg: Any) -> None:
        """Hear events, answer calls, and take back names that the router gave another session."""
        if isinstance(msg, list):
            self._hear(*msg[1:])
            return
        if isinstance(msg, Invocation) and self._session_id and not msg.enc_algo:
            self._invoke(msg)
            return
        if not isinstance(msg, Unregistered) or msg.request:
            super().onMessage(msg)
            return
        self._registrations.pop(msg.registration, None)
        if claim := self._claims.pop(msg.registration, None):
            task = asyncio.create_task(self._take_back(*claim))
            self._taking_back.add(task)
            task.add_done_callback(self._taking_back.discard)

    def _hear(
        self,
        subscription: int,
        publication: int,
        details: dict[str, Any],
        args: list[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Pass on an event as autobahn does, in a third of the time."""
        for subscribed in self._subscriptions[subscription]:
            handler, named = subscribed.handler, dict(kwargs or {})
            if handler.details_arg:
                named[handler.details_arg] = EventDetails(
                    subscribed,
                    publication,
                    publisher=details.get("publisher"),
                    publisher_authid=details.get("publisher_authid"),
                    publisher_authrole=details.get("publisher_authrole"),
                    topic=details.get("topic") or subscribed.topic,
                    retained=details.get("retained"),
                )
            try:
                result = handler.fn(*(args or ()), **named)
            except Exception as error:  # noqa: BLE001  (anybody may publish nonsense)
                log.debug("an event was not taken: %r", error)
                continue
            if inspect.isawaitable(result):
                task = asyncio.ensure_future(result)
                self._hearing.add(task)
                task.add_done_callback(self._heard)

    def _heard(self, task: asyncio.Future[Any]) -> None:
        self._hearing.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("an event was not taken: %r", error)

    def _invoke(self, msg: Any) -> None:
        """Answer a call at once; autobahn would need two turns of the loop."""
        registration = self._registrations.get(msg.registration)
        if registration is None or msg.request in self._invocations or msg.receive_progress:
            super().onMessage(msg)
            return
        endpoint, kwargs = registration.endpoint, msg.kwargs or {}
        if endpoint.details_arg:
            kwargs[endpoint.details_arg] = CallDetails(
                registration,
                caller=msg.caller,
                caller_authid=msg.caller_authid,
                caller_authrole=msg.caller_authrole,
                procedure=msg.procedure or registration.procedure,
            )
        try:
            result = endpoint.fn(*msg.args or (), **kwargs)
        except Exception as error:  # noqa: BLE001  (the caller gets any error)
            self._fail(msg.request, error)
            return
        if not inspect.isawaitable(result):
            self._answer(msg.request, result)
            return
        task = asyncio.ensure_future(result)
        self._invocations[msg.request] = InvocationRequest(msg.request, task)

        def done(_: object) -> None:
            del self._invocations[msg.request]
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error:
                self._fail(msg.request, error)
            else:
                self._answer(msg.request, task.result())

        task.add_done_callback(done)

    def _answer(self, request: int, result: Any) -> None:
        self._reply(request, Yield(request, args=[result]))

    def _fail(self, request: int, error: BaseException) -> None:
        kind = Invocation.MESSAGE_TYPE
        self._reply(request, self._message_from_exception(kind, request, error))  # type: ignore[no-untyped-call]

    def _reply(self, request: int, answer: Any) -> None:
        """Send the answer to a call, or an error if it cannot be sent as it is."""
        transport: Any = self._transport
        if not transport:  # the router has answered for a lost session
            return
        with suppress(TransportLost):
            try:
                transport.send(answer)
            except (SerializationError, PayloadExceededError) as error:
                reason, kind = f"the answer cannot be sent: {error}", Invocation.MESSAGE_TYPE
                invalid = Error(kind, request, ApplicationError.INVALID_PAYLOAD, [reason])
                transport.send(invalid)

    async def _take_back(self, endpoint: Callable[..., Any], uri: str, *options: Any) -> None:
        """Register a name again as soon as it is free; leave it to another server of ours."""
        told, displaced = "", options[-1]
        try:
            while True:
                try:
                    await self.claim(endpoint, uri, *options)
                except NameTakenError as error:
                    if error.owner:
                        self.end(str(error))
                        return
                    if str(error) != told:
                        told = str(error)
                        displaced(told)
                    await asyncio.sleep(CLAIM_AGAIN)
                else:
                    displaced("")
                    return
        except WampError as error:
            log.debug("%s is claimed by the next session: %s", uri, error)

    def publish_retained(self, topic: str, value: Any) -> None:
        """Publish a value that the router keeps for late subscribers. Raise TransportLost.

        It does the same as ``publish``, in half the time.
        """
        transport: Any = self._transport
        if not transport or not transport.isOpen():
            raise TransportLost
        request = self._request_id_gen.next()
        message = [Publish.MESSAGE_TYPE, request, {"retain": True}, topic, [value]]
        try:
            transport.sendMessage(CBOR.serialize(message), isBinary=True)
        except Disconnected:  # it is being closed
            raise TransportLost from None

    def together(self) -> AbstractContextManager[None]:
        """Return a context that sends all its messages in one piece, at its end."""
        transport: Any = self._transport
        return transport.together() if transport else nullcontext()

    def onJoin(self, details: Any) -> None:
        """Store the name and role given by the router, and resolve ``joined``."""
        self.name, self.role = details.authid, details.authrole
        self.joined.set_result(None)

    def onLeave(self, details: Any) -> None:
        """End the session with the reason of the router, and fail every call in progress."""
        if details.reason in REFUSALS and not self.joined.done():
            self.refusal = details.message or details.reason
        self.end(f"{details.reason} {details.message or ''}".strip())
        lost = ApplicationError(details.reason, details.message)
        self._errback_outstanding_requests(lost)  # type: ignore[no-untyped-call]
        self.disconnect()

    def onDisconnect(self) -> None:
        """End the session: the connection was lost."""
        self.end("the connection was lost")

    def onUserError(self, fail: Any, msg: str) -> None:
        """Do not log the error of a procedure: its caller gets it."""
        log.debug("%s", msg)

    def end(self, reason: str) -> None:
        """Let the session be over; who has joined it then leaves it."""
        for task in self._taking_back:
            task.cancel()
        if not self.over.done():
            self.over.set_result(reason)


@asynccontextmanager
async def join(
    address: Address,
    realm: str = uris.REALM,
    owner: Owner | None = None,
    within: float = JOIN_WITHIN,
    key_file: Path | None = None,
) -> AsyncIterator[Session]:
    """Join a realm, and leave it at the end.

    The key is that in ``key_file``, else of the owner's server, else ``hcam``'s own. Raises OSError
    or TimeoutError if there is no connection in ``JOIN_WITHIN`` seconds, or no answer in ``within``
    seconds; NotAuthorizedError if the router refuses this, or a request within the context;
    AccessError if the key file is unusable, or trusts another router.
    """
    key = read_key(key_file) if key_file else own_key(owner.server if owner else LOCAL)
    session = Session(realm, owner, key)
    loop = asyncio.get_running_loop()
    secure = session.key and session.key.ca
    factory = WampWebSocketClientFactory(
        lambda: session,
        url=f"{'wss' if secure else 'ws'}://{address.host}:{address.port}/ws",
        serializers=[Serializer()],  # type: ignore[no-untyped-call]  # autobahn has no types
        loop=loop,
    )
    factory.protocol = Transport
    factory.setProtocolOptions(
        openHandshakeTimeout=0,  # the timeout below covers it
        autoPingInterval=PING_EVERY,
        autoPingTimeout=PING_TIMEOUT,
        autoPingSize=12,
    )
    transport = None
    addresses = await addresses_of(address.host, JOIN_WITHIN)
    try:
        async with patience(JOIN_WITHIN):
            connected = await first_reached(addresses, lambda host: _connected(host, address.port))
        async with patience(within):
            transport, protocol = await _opened(factory, connected, address, session.key)
            ends: list[asyncio.Future[Any]] = [session.joined, session.over, protocol.is_closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if WANTS_TLS in (protocol.wasNotCleanReason or ""):
            session.refusal = "it takes TLS only, which needs a key file with its CA"
        if session.refusal:
            raise NotAuthorizedError(refused(address, session, session.refusal))
        if session.over.done() or not session.joined.done():
            why = session.over.result() if session.over.done() else "the connection was lost"
            raise ConnectionError(f"the router at {address} refused the session: {why}")
        with explained(address, session):
            yield session
        if not session.over.done():
            session.leave()
            await asyncio.wait([session.over], timeout=1)
    finally:
        if transport:
            transport.abort()


async def _connected(host: str, port: int) -> socket.socket:
    """Return a socket connected to an IP address. Raise OSError on failure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only if the protocol is named; otherwise an answer after
    # samples would wait 40 ms for the router's acknowledgement
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (host, port))
    except BaseException:
        made.close()
        raise
    return made


async def _opened(
    factory: Any, connected: socket.socket, address: Address, key: Key | None
) -> tuple[asyncio.Transport, Any]:
    """Return transport and protocol on a socket; with TLS if the key has a CA.

    Raises OSError, or AccessError if what answers is not the router of the key.
    """
    loop = asyncio.get_running_loop()
    if not key or not key.ca:
        return await loop.create_connection(factory, sock=connected)
    secure = context_of(key.ca)
    try:
        return await loop.create_connection(
            factory, sock=connected, ssl=secure, server_hostname=address.host
        )
    except ssl.SSLError as error:
        raise untrusted(address, error, key) from None


@contextmanager
def explained(address: Address, session: Session) -> Iterator[None]:
    """Raise NotAuthorizedError in place of an error with which the router refuses a request."""
    try:
        yield
    except ApplicationError as error:
        if error.error in REFUSALS:
            raise NotAuthorizedError(refused(address, session, error.error_message())) from None
        raise


def refused(address: Address, session: Session, reason: str) -> str:
    """Return a sentence on a request that the router refused a session, and what to do."""
    program = session.owner.server if session.owner else LOCAL
    if session.key:
        return (
            f"the router at {address} refuses {session.key.name!r} (the name of the key of "
            f"{program}; role {session.key.role}): {reason}; on its machine, hcam access list "
            "prints who may join"
        )
    return (
        f"the router at {address} refuses {program}, which has no key: {reason}; there is no "
        f"HCAM_HOME/access/keys/{program}.key, and HCAM_KEY is not set; on the router's machine, "
        "hcam access add makes a key"
    )


class Outages:
    """Logs each outage of a router once for all sessions of this process."""

    def __init__(self) -> None:
        self.since: dict[tuple[Address, str], float] = {}

    def begin(self, address: Address, realm: str, error: Exception) -> None:
        """Log that a session was lost, or could not be made."""
        first = (address, realm) not in self.since
        self.since.setdefault((address, realm), time.monotonic())
        wamp = isinstance(error, WampError)
        what = "the router at %s ended a session" if wamp else "no router at %s"
        reason = error.error_message() if isinstance(error, ApplicationError) else str(error)
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, f"{what}, trying again (%s)", address, reason or type(error).__name__)

    def end(self, address: Address, realm: str) -> None:
        """Log that a session is back, and the length of the outage."""
        if since := self.since.pop((address, realm), None):
            seconds = time.monotonic() - since
            log.info("the router at %s is back after %.1f s", address, seconds)


OUTAGES = Outages()


async def keep_joined(
    address: Address,
    on_join: Callable[[Session], Awaitable[None]],
    realm: str = uris.REALM,
    *,
    owner: Owner | None = None,
    key_file: Path | None = None,
) -> None:
    """Join, call ``on_join``, and join again whenever the session is over, for ever.

    A refusal by the router is logged once, and retried after a long pause.
    """
    backoff = Backoff(FIRST_PAUSE, LAST_PAUSE)
    told = False
    while True:
        try:
            async with join(address, realm, owner, PATIENT, key_file) as session:
                await on_join(session)
                OUTAGES.end(address, realm)
                backoff.reset()
                told = False
                log.debug("session with %s is over: %s", address, await session.over)
        except NameTakenError as error:
            log.debug("%s", error)
        except (NotAuthorizedError, AccessError) as error:
            level = logging.DEBUG if told else logging.ERROR
            log.log(level, "%s; trying again every %g s", error, REFUSED_PAUSE_S)
            told = True
            await asyncio.sleep(REFUSED_PAUSE_S)
            continue
        except (OSError, TimeoutError, WampError) as error:
            OUTAGES.begin(address, realm, error)
        await asyncio.sleep(backoff.next())
