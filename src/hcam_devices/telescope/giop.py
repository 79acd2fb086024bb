"""The part of CORBA's protocol that the simulator needs: GIOP 1.0 to 1.2 over TCP.

    -> GIOP 1.2 Request 4, key "telescope-0", operation getHumidity
    <- GIOP 1.2 Reply 4, no exception: 4-byte float 31.0

A message has a header of 12 bytes - ``GIOP``, two bytes of version, flags (1: little-endian, 2:
more fragments follow), type, the size of the rest - and a body, in which a number of n bytes is
aligned to a multiple of n counted from the header. Replies use the caller's version and byte order.
Source: CORBA 3.3 part 2, chapter 9. Tested with omniORB as the client.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..core.link import Exactly

Order: TypeAlias = Literal["<", ">"]
ORDERS: tuple[Order, Order] = ("<", ">")

REQUEST, REPLY, CANCEL, LOCATE, LOCATE_REPLY, CLOSE, ERROR = range(7)
NO_EXCEPTION, USER_EXCEPTION, SYSTEM_EXCEPTION = range(3)
UNKNOWN_OBJECT, OBJECT_HERE = range(2)
COMPLETED_NO, COMPLETED_MAYBE = 1, 2
MAX_FLOAT = 3.4e38
MAX_MESSAGE_BYTES = 1 << 20
"""Real messages of clients have fewer than 300 bytes."""
CLOSE_CONNECTION = struct.pack("<4s4BI", b"GIOP", 1, 2, 1, CLOSE, 0)
MESSAGE_ERROR = struct.pack("<4s4BI", b"GIOP", 1, 0, 1, ERROR, 0)


class Reader:
    """Reads the values of a message one by one. Raises struct.error at its end."""

    def __init__(self, data: bytes, order: Order, at: int = 0) -> None:
        self.data, self.order, self.at = data, order, at

    def number(self, code: str) -> Any:
        """Return the next number; ``code`` is a format character of ``struct``."""
        size = struct.calcsize(code)
        self.at += -self.at % size
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += size
        return value

    def octets(self) -> bytes:
        """Return the next sequence of octets."""
        size = self.number("I")
        octets = self.data[self.at : self.at + size]
        if len(octets) < size:
            raise struct.error(f"{size} octets do not follow")
        self.at += size
        return octets

    def text(self) -> str:
        """Return the next string."""
        return self.octets().rstrip(b"\0").decode("latin-1")


class Writer:
    """Writes values into a body. Alignment counts from its start, which is a multiple of 8."""

    def __init__(self, order: Order) -> None:
        self.order, self.data = order, bytearray()

    def number(self, code: str, value: float) -> None:
        """Append a number. A number that is too large for a float becomes infinite."""
        if code == "f" and abs(value) > MAX_FLOAT:
            value = math.copysign(math.inf, value)
        self.data += bytes(-len(self.data) % struct.calcsize(code))
        self.data += struct.pack(self.order + code, value)

    def octets(self, octets: bytes) -> None:
        """Append a sequence of octets."""
        self.number("I", len(octets))
        self.data += octets

    def text(self, text: str) -> None:
        """Append a string."""
        self.octets(text.encode("latin-1", "replace") + b"\0")

    def texts(self, texts: Sequence[str]) -> None:
        """Append a sequence of strings."""
        self.number("I", len(texts))
        for text in texts:
            self.text(text)

    def reference(self, kind: str, host: str, port: int, key: bytes) -> None:
        """Append a reference to an object: its repository id, its address and its key."""
        profile = Writer(self.order)
        profile.data += bytes([self.order == "<", 1, 2])
        profile.text(host)
        profile.number("H", port)
        profile.octets(key)
        profile.number("I", 0)  # no components: strings are Latin-1
        self.text(kind)
        self.number("I", 1)
        self.number("I", 0)  # an IIOP profile
        self.octets(bytes(profile.data))


@dataclass(frozen=True)
class Request:
    """A call of an operation, or the question whether an object is here (LOCATE)."""

    kind: int
    minor: int
    order: Order
    number: int
    key: bytes
    operation: str
    oneway: bool
    arguments: Reader

    def reply(self, status: int, fill: Callable[[Writer], None] | None = None) -> bytes:
        """Return the reply with a body that ``fill`` writes; empty for a oneway call."""
        if self.oneway:
            return b""
        writer = Writer(self.order)
        if self.kind == LOCATE:
            return self._message(LOCATE_REPLY, (self.number, status), b"")
        if fill:
            fill(writer)
        head = (self.number, status, 0) if self.minor == 2 else (0, self.number, status)
        return self._message(REPLY, head, bytes(writer.data))

    def _message(self, kind: int, head: tuple[int, ...], body: bytes) -> bytes:
        rest = struct.pack(f"{self.order}{len(head)}I", *head) + body
        flags = self.order == "<"
        start = struct.pack("4s4B", b"GIOP", 1, self.minor, flags, kind)
        return start + struct.pack(f"{self.order}I", len(rest)) + rest

    def refusal(self, exception: str, completed: int = COMPLETED_NO) -> bytes:
        """Return the reply that raises a standard CORBA exception in the client."""

        def fill(writer: Writer) -> None:
            writer.text(f"IDL:omg.org/CORBA/{exception}:1.0")
            writer.number("I", 0)
            writer.number("I", completed)

        return self.reply(SYSTEM_EXCEPTION, fill)


def _size(buffer: bytearray) -> int:
    size = 12 + int.from_bytes(buffer[8:12], "little" if buffer[6] & 1 else "big")
    return size if buffer[:4] == b"GIOP" and size <= MAX_MESSAGE_BYTES else len(buffer)


cut = Exactly(12, _size)
"""Removes one message from a buffer and returns it; all of the buffer if it is not GIOP."""


def parse(frame: bytes) -> Request | None:
    """Return the request in a message, or None if the message needs no answer.

    Raises ValueError if the message is damaged, or not one of a client.
    """
    if len(frame) < 12 or frame[:5] != b"GIOP\1" or frame[5] > 2 or frame[6] & 2:
        raise ValueError("not a whole message of GIOP 1.0 to 1.2")
    minor, order, kind = frame[5], ORDERS[not frame[6] & 1], frame[7]
    if kind in (CANCEL, CLOSE):
        return None
    if kind not in (REQUEST, LOCATE):
        raise ValueError(f"a client does not send messages of type {kind}")
    try:
        return _request(kind, minor, Reader(frame, order, 12))
    except struct.error as error:
        raise ValueError(f"the message is too short: {error}") from None


def _request(kind: int, minor: int, reader: Reader) -> Request:
    asked = kind == REQUEST
    if asked and minor < 2:
        _skip_contexts(reader)
    number = reader.number("I")
    wanted = reader.number("B") if asked else 3
    if minor == 2:
        if asked:
            reader.at += 3
        if reader.number("H") != 0:
            raise ValueError("the object must be addressed by its key")
    key = reader.octets()
    operation = reader.text() if asked else ""
    if asked and minor == 2:
        _skip_contexts(reader)
        reader.at += -reader.at % 8
    elif asked:
        reader.octets()  # the principal
    return Request(kind, minor, reader.order, number, key, operation, not wanted & 1, reader)


def _skip_contexts(reader: Reader) -> None:
    for _ in range(reader.number("I")):
        reader.number("I")
        reader.octets()
