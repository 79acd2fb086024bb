"""The permanent connection to a database, with its credentials."""

import re
import ssl
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

    It is opened when it is needed, and stays open. The timeout covers connecting, and each request
    with its whole answer.
    """

    def __init__(self, settings: InfluxDB) -> None:
        self.settings, self.url, self.timeout = settings, urlsplit(settings.url), settings.timeout
        self._http: http.Connection | None = None
        self._hidden: list[str] = []

    def _opened(self) -> http.Connection:
        try:
            if self._http is None or not self._http.is_open or self._http.ended():
                self.close()
                secure = self.url.scheme == "https"
                self._http = http.Connection(
                    str(self.url.hostname),
                    self.url.port or (443 if secure else 80),
                    # Read again each time, because its certificates may be new.
                    ssl.create_default_context(cafile=self.settings.ca) if secure else None,
                )
            self._http.open(self.timeout)
        except (OSError, UnicodeError) as error:
            raise OSError(f"the database cannot be reached: {error}") from None
        return self._http

    def post(self, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return the answer, or the beginning of a very long one.

        Raises OSError with a sentence, and closes the connection then. Raises SecretError, too.
        """
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
        except TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout:g} s") from None
        except (OSError, ProtocolError) as error:
            self.close()
            reason = self.without_secret(str(error) or repr(error))
            raise OSError(f"no valid answer: {reason}") from None
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
