"""One membership of a realm of the router, made again whenever it is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from autobahn.asyncio.wamp import ApplicationSession
from autobahn.asyncio.websocket import WampWebSocketClientFactory
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.exception import Error as WampError
from autobahn.wamp.serializer import CBORSerializer
from autobahn.wamp.types import ComponentConfig

from ..link import addresses_of, first_reached
from . import uris
from .uris import Address

log = logging.getLogger(__name__)

JOIN_WITHIN = 3.0
FIRST_PAUSE, LAST_PAUSE = 0.2, 1.0
PING_EVERY, PING_TIMEOUT = 5.0, 3.0
"""A frozen router is noticed within the sum of these seconds."""


class Session(ApplicationSession):
    """A session that says when it has joined, and when and why it is over."""

    def __init__(self, realm: str) -> None:
        super().__init__(ComponentConfig(realm))
        loop = asyncio.get_running_loop()
        self.joined: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()

    def onJoin(self, details: Any) -> None:
        """Say that it has joined."""
        self.joined.set_result(None)

    def onLeave(self, details: Any) -> None:
        """Say that it is over, and why; also to those who wait for an answer."""
        self._end(f"{details.reason} {details.message or ''}".strip())
        lost = ApplicationError(details.reason, details.message)
        self._errback_outstanding_requests(lost)  # type: ignore[no-untyped-call]
        self.disconnect()

    def onDisconnect(self) -> None:
        """Say that it is over."""
        self._end("the connection was lost")

    def onUserError(self, fail: Any, msg: str) -> None:
        """Leave it to the caller to report an error: the caller has been told."""
        log.debug("%s", msg)

    def _end(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_result(reason)


@asynccontextmanager
async def join(address: Address, realm: str = uris.REALM) -> AsyncIterator[Session]:
    """Join a realm, and leave it at the end.

    Raises OSError or TimeoutError if that does not succeed within ``JOIN_WITHIN`` seconds.
    """
    session = Session(realm)
    loop = asyncio.get_running_loop()
    factory = WampWebSocketClientFactory(
        lambda: session,
        url=f"ws://{address.host}:{address.port}/ws",
        serializers=[CBORSerializer()],
        loop=loop,
    )
    factory.setProtocolOptions(
        openHandshakeTimeout=0,  # ours is below, and says so in one way only
        autoPingInterval=PING_EVERY,
        autoPingTimeout=PING_TIMEOUT,
        autoPingSize=12,
        tcpNoDelay=True,
    )
    transport = None
    addresses = await addresses_of(address.host, JOIN_WITHIN)
    try:
        async with asyncio.timeout(JOIN_WITHIN):
            transport, protocol = await first_reached(
                addresses, lambda one: loop.create_connection(factory, one, address.port)
            )
            ends: list[asyncio.Future[Any]] = [session.joined, session.over, protocol.is_closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if session.over.done() or not session.joined.done():
            why = session.over.result() if session.over.done() else "the connection was lost"
            raise ConnectionError(f"{address} did not let us in: {why}")
        yield session
        if not session.over.done():
            session.leave()
            await asyncio.wait([session.over], timeout=1)
    finally:
        if transport:
            transport.abort()


async def keep_joined(
    address: Address, on_join: Callable[[Session], Awaitable[None]], realm: str = uris.REALM
) -> None:
    """Join, call ``on_join``, and join again whenever the session is over, for ever."""
    pause = FIRST_PAUSE
    while True:
        try:
            async with join(address, realm) as session:
                await on_join(session)
                pause = FIRST_PAUSE
                log.debug("session with %s is over: %s", address, await session.over)
        except (OSError, TimeoutError, WampError) as error:
            log.debug("no session with %s: %s", address, error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
