"""The WebSocket of a session: autobahn's, with a fast path for whole binary messages.

autobahn waits two turns of the loop for each message, and prepares texts that nobody logs. It still
handles text, fragments, pings, large received messages and the handshake.
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autobahn.asyncio.websocket import WampWebSocketClientProtocol
from autobahn.exception import Disconnected, PayloadExceededError
from autobahn.wamp.exception import ProtocolError, SerializationError, TransportLost

from .uris import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

BINARY = 0x82
"""The first byte of a frame that is a whole binary message (RFC 6455, 5.2)."""
MASKED = 0x80
MAX_SHORT = 125
"""A longer payload has its length in two further bytes."""


def frame(payload: bytes) -> bytes:
    """Return a masked frame with a whole binary message."""
    size = len(payload)
    if size <= MAX_SHORT:
        head = bytes((BINARY, MASKED | size))
    elif size <= 0xFFFF:
        head = bytes((BINARY, MASKED | 126)) + size.to_bytes(2)
    else:
        head = bytes((BINARY, MASKED | 127)) + size.to_bytes(8)
    mask = random.getrandbits(32).to_bytes(4)
    masks = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload) ^ int.from_bytes(masks)
    return head + mask + masked.to_bytes(size)


def cut(data: bytes) -> tuple[bytes, bytes] | None:
    """Split off a whole short message at the start of the data; None if there is none."""
    if len(data) < 4 or data[0] != BINARY or data[1] > 126:
        return None
    start, size = 2, data[1]
    if size > MAX_SHORT:
        start, size = 4, int.from_bytes(data[2:4])
    end = start + size
    if len(data) < end or size <= MAX_SHORT < data[1]:
        return None
    return data[start:end], data[end:]


class Transport(WampWebSocketClientProtocol):
    """The WebSocket of one session."""

    transport: Any
    autoPingTimeoutCall: Any
    _held: list[bytes] | None = None
    _session: Any

    def _is_plain(self) -> bool:
        """Return whether the connection is open, and no message or frame has begun."""
        return bool(
            self.state == self.STATE_OPEN
            and self._perMessageCompress is None
            and not (self.data or self.current_frame or self.inside_message or self.send_queue)
        )

    def data_received(self, data: bytes) -> None:
        """Handle bytes at once. A bug drops the connection, as autobahn does."""
        try:
            while data and self._is_plain() and (found := cut(data)):
                message, data = found
                if self.autoPingTimeoutCall:  # any traffic answers a ping
                    self._cancelAutoPingTimeoutCall()  # type: ignore[no-untyped-call]
                self.onMessage(message, isBinary=True)
            if data and self.transport:
                self._dataReceived(data)
        except Exception:
            log.exception("the connection to the router is closed after an error")
            self._closeConnection(abort=True)  # type: ignore[no-untyped-call]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass messages to the session; end the connection if one is malformed."""
        try:
            for message in self._serializer.unserialize(payload, isBinary):
                self._session.onMessage(message)
        except Exception as error:
            log.exception("a message from the router cannot be processed")
            broken = isinstance(error, ProtocolError)
            self._bailout(
                self.CLOSE_STATUS_CODE_PROTOCOL_ERROR
                if broken
                else self.CLOSE_STATUS_CODE_INTERNAL_ERROR,
                f"WAMP {'Protocol' if broken else 'Internal'} Error ({error})",
            )

    def send(self, msg: Any) -> None:
        """Send a message. Raise TransportLost or SerializationError."""
        if not self._session:
            raise TransportLost
        try:
            payload, binary = self._serializer.serialize(msg)
        except Exception as error:
            raise SerializationError(f"WAMP message serialization error: {error}") from error
        try:
            self.sendMessage(payload, binary)
        except Disconnected:  # it is being closed
            raise TransportLost from None

    def sendMessage(self, payload: bytes, isBinary: bool = False, **options: Any) -> None:  # type: ignore[override]
        """Send a message.

        Raises Disconnected if the connection is being closed, PayloadExceededError if the message
        would make the router drop the connection, with all devices of the server.
        """
        if len(payload) > MAX_MESSAGE_BYTES:
            raise PayloadExceededError(
                f"a message of {len(payload)} bytes is more than {MAX_MESSAGE_BYTES}"
            )
        if isBinary and not options and self._is_plain():
            if self._held is None:
                self.transport.write(frame(payload))
            else:
                self._held.append(frame(payload))
        else:
            self._release()
            super().sendMessage(payload, isBinary, **options)  # type: ignore[no-untyped-call]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all messages of the block in one piece, at its end."""
        self._held = []
        try:
            yield
        finally:
            self._release()
            self._held = None

    def _release(self) -> None:
        if self._held and self.transport:
            self.transport.write(b"".join(self._held))
            self._held.clear()
