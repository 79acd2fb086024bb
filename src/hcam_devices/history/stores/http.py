"""POST over a kept connection, with one deadline for each answer, and nothing sent twice."""

import http.client
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...config.stores import InfluxDB

MAX_ANSWER_BYTES = 1_000_000


class Answer(NamedTuple):
    """The status of an answer, its text, and how long it asks for a rest (s)."""

    status: int
    text: str
    rest: float


class Connection:
    """A connection to the database of ``settings``.

    There is always one, so that its end tells of the server's: ``broken`` is to be asked before a
    request. The timeout is for connecting, and for each request with the whole of its answer.
    Methods raise OSError with a sentence; the connection is closed then.
    """

    def __init__(self, settings: InfluxDB) -> None:
        self.settings, self.url, self.timeout = settings, urlsplit(settings.url), settings.timeout
        self._http: Any = None
        self._hidden: list[str] = []

    def open(self) -> None:
        """Connect, if it is not connected."""
        if self._http:
            return
        host, port = str(self.url.hostname), self.url.port
        try:
            if self.url.scheme == "https":
                context = ssl.create_default_context(cafile=self.settings.ca)
                connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                    host, port or 443, timeout=self.timeout, context=context
                )
            else:
                connection = http.client.HTTPConnection(host, port or 80, timeout=self.timeout)
            connection.connect()
        except (OSError, UnicodeError) as error:
            raise OSError(f"it cannot be reached: {error}") from None
        self._http = connection

    def broken(self) -> bool:
        """Tell whether the server has ended the connection, without having said that it would."""
        return self._http is not None and _ended(self._http.sock)

    def post(self, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return the answer; of a very long one, the beginning. Raises SecretError, too."""
        authorization, secret = self.settings.authorization()
        self._hidden = [authorization.partition(" ")[2], secret] if secret else []
        if authorization:
            headers = {**headers, "Authorization": authorization}
        self.open()
        began = time.monotonic()
        cut = threading.Timer(self.timeout, _cut, [self._http.sock])
        cut.daemon = True
        cut.start()
        try:
            with suppress(BrokenPipeError):  # there may be an answer, such as 413
                self._http.request("POST", self.url.path + target, body, headers)
            answer = self._http.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)
            if answer.length and len(text) < MAX_ANSWER_BYTES:
                raise http.client.HTTPException("it is cut short")
            if answer.status == http.HTTPStatus.NO_CONTENT and self._http.sock and self.broken():
                raise http.client.HTTPException("it may be cut short")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if time.monotonic() - began >= self.timeout:
                raise TimeoutError(f"no answer within {self.timeout:g} s") from None
            said = self.without_secret(str(error) or repr(error))
            raise OSError(f"no proper answer: {said}") from None
        finally:
            cut.cancel()
        if self._http.sock is None or not answer.isclosed():  # announced, or it was very long
            self.close()
            self.open()
        rest = answer.headers.get("Retry-After", "")
        return Answer(
            answer.status, text.decode(errors="replace"), float(rest) if rest.isdecimal() else 0.0
        )

    def without_secret(self, said: str) -> str:
        """Return what a server said, to be shown, without the secret if it repeats that."""
        for hidden in self._hidden:
            # Each character as it is, or as JSON may have it.
            either = (rf"(?:\\u00{ord(one):02x}|\\?{re.escape(one)})" for one in hidden)
            said = re.sub("".join(either), "***", said, flags=re.IGNORECASE)
        return said

    def close(self) -> None:
        """Close it."""
        if self._http:
            self._http.close()
        self._http = None


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, which would wait


def _ended(connection: socket.socket) -> bool:
    """Tell whether a connection on which nothing is due has ended."""
    within = connection.gettimeout()
    try:
        connection.settimeout(0)
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        connection.settimeout(within)
        return False
    except OSError:
        return True
    return True
