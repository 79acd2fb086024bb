"""The permanent connection to a database, with its credentials."""

import re
import ssl
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from ...config.stores import InfluxDB
from ...errors import ProtocolError
from ...host import http

MAX_ANSWER_BYTES = 1_000_000


class Answer(NamedTuple):
    """The status and the text of an answer, and the pause (s) that it asks for."""

    status: int
    text: str
    rest: float


class Connection:
    """A connection to the database of ``settings``.

    It stays open, so that its end shows a restart of the server: check ``broken`` before a request.
    The timeout covers connecting, and each request with its whole answer. Methods raise OSError
    with a sentence, and close the connection then.
    """

    def __init__(self, settings: InfluxDB) -> None:
        self.settings, self.url, self.timeout = settings, urlsplit(settings.url), settings.timeout
        self._http: http.Connection | None = None
        self._hidden: list[str] = []

    def open(self) -> None:
        """Connect unless the connection is open."""
        self._opened()

    def _opened(self) -> http.Connection:
        try:
            if self._http is None or not self._http.is_open:  # its certificates may be new
                secure = self.url.scheme == "https"
                self._http = http.Connection(
                    str(self.url.hostname),
                    self.url.port or (443 if secure else 80),
                    ssl.create_default_context(cafile=self.settings.ca) if secure else None,
                )
            self._http.open(self.timeout)
        except (OSError, UnicodeError) as error:
            raise OSError(f"the database cannot be reached: {error}") from None
        return self._http

    def broken(self) -> bool:
        """Return whether the server has closed the connection without notice."""
        return self._http is not None and self._http.ended()

    def post(self, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return the answer, or the beginning of a very long one. Raises SecretError, too."""
        authorization, secret = self.settings.authorization()
        self._hidden = [authorization.partition(" ")[2], secret] if secret else []
        if authorization:
            headers = {**headers, "Authorization": authorization}
        connection = self._opened()
        try:
            answer = connection.post(
                self.url.path + target,
                headers,
                body,
                timeout=self.timeout,
                max_bytes=MAX_ANSWER_BYTES,
            )
            if answer.status == HTTPStatus.NO_CONTENT and connection.ended():
                raise ProtocolError("the answer may be cut short")
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout:g} s") from None
        except (OSError, ProtocolError) as error:
            self.close()
            reason = self.without_secret(str(error) or repr(error))
            raise OSError(f"no valid answer: {reason}") from None
        self.open()  # if the answer announced the end of the connection, or was very long
        rest = answer.headers.get("retry-after", "")
        return Answer(
            answer.status,
            answer.body.decode(errors="replace"),
            float(rest) if rest.isdecimal() else 0.0,
        )

    def without_secret(self, said: str) -> str:
        """Return a text of the server without the secret, if the text repeats it."""
        for hidden in self._hidden:
            # Each character as it is, or as JSON may write it.
            either = (rf"(?:\\u00{ord(char):02x}|\\?{re.escape(char)})" for char in hidden)
            said = re.sub("".join(either), "***", said, flags=re.IGNORECASE)
        return said

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        if self._http:
            self._http.close()
