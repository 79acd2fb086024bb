"""A store in InfluxDB (version 1, 2 or 3) or VictoriaMetrics: line protocol over HTTP.

A sample is one line: the device is the measurement, its values are the fields. Numbers and booleans
are floats, so that a field always has one type; texts are texts. If a database rejects a line
because an earlier logger has stored a field as integers or booleans, the field is converted, as
long as that loses no information. Two more fields are ``seq``, a float, and ``epoch``, a text;
there are no tags. The time is that of the sample plus ``seq % 1_000_000`` nanoseconds. So samples
of one millisecond do not overwrite each other, and writing a sample again changes nothing.

In names, all characters but ASCII letters, digits and ``_.-~`` are percent-encoded
(``urllib.parse.unquote`` decodes them), and so is the first character of ``time`` and of names that
begin with ``_``, which InfluxDB reserves. An empty name is ``%``. A newline in a text becomes
``␊``, because VictoriaMetrics would begin another line, even in quotes.

A sample is stored once the database has acknowledged it. VictoriaMetrics keeps milliseconds, about
13 digits, and 0 for a text. It must run with ``-dedup.minScrapeInterval=1ms``, or samples that are
written again are doubled. It drops samples older than its ``-retentionPeriod`` without an error. If
it is killed, it loses the samples that it acknowledged in the last seconds.
"""

import gzip
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode

import orjson

from ...config.stores import InfluxDB, SecretError, is_near
from ...journal.points import Field
from ...journal.ranges import SampleRange, SampleRanges, numbers_of
from ...journal.records import Record, Shape
from . import AwayError
from .files import trying
from .http import Connection
from .ledger import Ledger

log = logging.getLogger(__name__)

MAX_LINES = 5000
MAX_BYTES = 4_000_000
"""The limits of one request."""
MAX_REST_S = 60.0
"""The longest pause at the request of a database."""
FIRST_REFUSALS = 10
"""After this many refusals and no success, blame the server, not the lines."""
DROPPED = re.compile(r"partial write: .*dropped=(\d+)")
ABSENT = re.compile(r"database not found|bucket .* not found")
"""Answers of InfluxDB 1 and 2, unlike those of a proxy with a wrong address."""
CONFLICT = re.compile(
    r'input field \\?"(?P<field>[^"\\]+)\\?" on measurement \\?"(?P<measurement>[^"\\]+)\\?" '
    r"is type (?P<here>\w+), already exists as type (?P<there>\w+)"
)
"""The answer of InfluxDB 1 if a field exists with another type."""
RETRY_EVERY_S = 60.0
"""Write one rejected line of each device this often; if it is accepted, write all of them."""
MAX_REFUSED = 100
"""After this many refusals, stop writing the rejected lines of a device until the next time."""


LAST = "\U0010ffff", 0
"""Comes after every epoch and number."""


class Line(NamedTuple):
    """A sample in line protocol; ``text`` has no newline."""

    device: str
    epoch: str
    seq: int
    text: bytes


@lru_cache(4096)
def name_of(text: str) -> str:
    """Return the name of a device or field, encoded for the protocol."""
    name = quote(text, safe="", errors="surrogatepass") or "%"
    return f"%{ord(name[0]):X}{name[1:]}" if name == "time" or name[0] == "_" else name


def _text(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "␊")
    return f'"{text}"'


@lru_cache(10_000)
def _form(device: str, shape: Shape) -> tuple[str, Callable[[list[str]], tuple[str, ...]], bool]:
    """Return a template for lines of a device, and a function that orders a sample's values.

    It takes them with the number and the epoch at the end. Numbers come first, then texts. The last
    is whether there are booleans.
    """
    names = [*(name_of(column.name).replace("%", "%%") for column in shape.columns), "seq", "epoch"]
    texts = [n for n, column in enumerate(shape.columns) if column.kind == "text"]
    numbers = [n for n in range(len(names) - 1) if n not in texts]
    order = [*numbers, *texts, len(names) - 1]
    fields = ",".join(f"{names[n]}=%s" for n in order)
    form = f"{name_of(device).replace('%', '%%')} {fields} %d"
    return form, itemgetter(*order), any(column.kind == "bool" for column in shape.columns)


def _value(value: Field) -> str:
    return _text(value) if isinstance(value, str) else orjson.dumps(float(value)).decode()


def line_of(record: Record) -> bytes:
    """Return a sample as a line without its newline."""
    device, epoch, seq, time, shape, body = record
    form, ordered, bools = _form(device, shape)
    values = body[1:-1].split(",")
    # Fast path: without commas and backslashes in texts, JSON is line protocol but for booleans.
    if bools or "\\" in body or len(values) != len(shape.columns):
        values = [*map(_value, orjson.loads(body))]
    values += f"{seq}.0", _text(epoch)
    return (form % (*ordered(values), time * 1_000_000 + seq % 1_000_000)).encode()


def as_there(text: bytes, fields: Mapping[str, str]) -> bytes | None:
    """Return a line with some fields as integers or booleans; None if that loses information."""
    numbers, texts, rest = text.partition(b'="')  # all numbers come before the first text
    for field, kind in fields.items():
        found = re.search(rb"(?<=[ ,])%b=([^,]+)" % re.escape(field.encode()), numbers)
        if found is None:
            continue
        value = float(found[1])
        if kind == "boolean" and value in (0.0, 1.0):
            cast = b"true" if value else b"false"
        elif kind == "integer" and value.is_integer() and abs(value) < 2**63:
            cast = b"%di" % int(value)
        else:
            return None
        numbers = numbers[: found.start(1)] + cast + numbers[found.end(1) :]
    return numbers + texts + rest


class _RefusedError(Exception):
    """The database rejects some of the lines; ``each``: whether it rejects each of them."""

    def __init__(self, reason: str, each: bool = False) -> None:
        super().__init__(reason)
        self.each = each


class LineStore:
    """A ``Store`` with its ledger in ``<folder>/<name>.sqlite``; ``clock`` counts seconds.

    Raises AwayError if the ledger cannot be used.

    ``write`` raises AwayError unless the database acknowledges the lines, which can then be written
    again. A line that is rejected while others are accepted is kept in the ledger, and written
    again periodically until it is accepted.
    """

    warning = ""

    def __init__(
        self,
        name: str,
        settings: InfluxDB,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.settings, self.clock = name, settings, clock
        self._path = folder / f"{name}.sqlite"
        with trying(self._path):
            self.ledger = Ledger(self._path)
            self._refused = self.ledger.refused()
        self._retry_at = -float("inf")
        self._types: dict[str, dict[str, str]] = {}
        self._hopeless: set[tuple[str, str]] = set()
        self._near = is_near(settings.url)
        self._connection = Connection(settings)
        self._taken: Line | None = None
        self._most_bytes = MAX_BYTES
        self._rest_until = -float("inf")
        self._created = False

    def rows(self, records: Sequence[Record]) -> list[Line]:
        """Return samples as lines."""
        return [Line(*record[:3], line_of(record)) for record in records]

    def write(self, lines: Sequence[Line]) -> None:
        """Store lines and note them as stored. Raises AwayError."""
        if (rest := self._rest_until - self.clock()) > 0:
            raise self._away(f"the database asked for a pause, of {rest:.0f} s more")
        new = (line for line in lines if line[:3] not in self.stored)
        with trying(self._path):
            for batch in self._batches(new):
                self._send(batch)
            self._retry()

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that samples are lost, in one transaction. Raises AwayError."""
        lost = list(gone)
        with trying(self._path):
            self.ledger.enter(SampleRanges(lost), gone=lost)
        return True

    def gone(self) -> list[SampleRange]:
        """Return the lost samples, with reasons. Raises AwayError."""
        with trying(self._path):
            return self.ledger.gone()

    def aside(self) -> int:
        """Return the number of rejected samples, which the ledger keeps."""
        return sum(count for count, _ in self._refused.values())

    def refusals(self) -> list[str]:
        """Return a sentence for each device with rejected samples: how many, why, what to do."""
        return [
            f"{count} samples of {device} are rejected, and written again every minute: "
            f"{explain(why)}"
            for device, (count, why) in sorted(self._refused.items())
        ]

    def tidy(self) -> None:
        """Do nothing, because the site configures the retention of the database."""

    def close(self) -> None:
        """Close the connection and the ledger."""
        self._connection.close()
        self.ledger.close()

    @property
    def stored(self) -> SampleRanges:
        """The samples that the ledger notes as stored, including the lost and the rejected ones."""
        return self.ledger.stored

    # --- rejected lines ---------------------------------------------------------------------

    def _retry(self) -> None:
        """Write one rejected line of each device, if it is time; if it is accepted, write all."""
        if not self._refused or self.clock() < self._retry_at:
            return
        self._retry_at = self.clock() + RETRY_EVERY_S
        for device in self.ledger.refused():
            self._types.pop(device, None)
            self._hopeless = {key for key in self._hopeless if key[0] != device}
            most, before = 1, LAST
            while page := self.ledger.refused_lines(device, before, most):
                before = page[-1][1:3]
                batches = self._batches(Line(*row) for row in page)
                refused = sum(self._send(batch, again=True) for batch in batches)
                if refused == len(page) or refused > MAX_REFUSED:
                    break
                most = MAX_LINES
        self._refused = self.ledger.refused()

    def _set_aside(self, refused: list[tuple[Line, str]]) -> None:
        rows = [(*line[:3], line.text.decode(), reason) for line, reason in refused]
        self.ledger.enter(numbers_of(line for line, _ in refused), aside=rows)
        if not self._refused:
            self._retry_at = self.clock() + RETRY_EVERY_S
        for line, reason in refused:
            count, before = self._refused.get(line.device, (0, ""))
            self._refused[line.device] = count + 1, reason
            if reason != before:
                log.warning("%s rejects samples of %s: %s", self.name, line.device, explain(reason))

    # --- lines ------------------------------------------------------------------------------

    def _batches(self, lines: Iterable[Line]) -> Iterator[list[Line]]:
        batch: list[Line] = []
        size = 0
        for line in lines:
            if batch and (len(batch) == MAX_LINES or size + len(line.text) > self._most_bytes):
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line.text) + 1
        if batch:
            yield batch

    def _send(self, batch: list[Line], *, again: bool = False) -> int:
        """Write lines; keep rejected ones in the ledger; return the number of the latter.

        With ``again`` the lines are in the ledger already. Raises AwayError.
        """
        waiting, refused = [batch], []
        proven = False
        while waiting:
            lines = waiting.pop()
            try:
                self._post(lines)
            except _RefusedError as error:
                if parts := _parts(lines, error):
                    waiting += parts
                    continue
                if self._learn(lines, str(error)):
                    waiting.append(lines)
                    continue
                refused += [(line, str(error)) for line in lines]
                proven = proven or error.each
                if not proven and (len(refused) == FIRST_REFUSALS or not waiting):
                    self._prove(error)
                    proven = True
            else:
                self.ledger.enter(numbers_of(lines))
                self._taken = lines[-1]
                proven = True
        if refused and not again:
            self._set_aside(refused)
        return len(refused)

    def _learn(self, lines: list[Line], reason: str) -> bool:
        """Note the type of a field in the database; return whether lines can be converted to it."""
        conflict = CONFLICT.search(reason)
        device = lines[0].device
        if conflict is None or (device, conflict["field"]) in self._hopeless:
            return False
        types = self._types.setdefault(device, {})
        before = types.pop(conflict["field"], None)
        learned = {**types, conflict["field"]: conflict["there"]}
        if before or any(as_there(line.text, learned) is None for line in lines):
            self._hopeless.add((device, conflict["field"]))
            return False
        log.info(
            "%s has %s of %s as %s", self.name, *conflict.group("field", "measurement", "there")
        )
        self._types[device] = learned
        return True

    def _text(self, line: Line) -> bytes:
        types = self._types.get(line.device)
        return (as_there(line.text, types) if types else None) or line.text

    def _prove(self, refusal: _RefusedError) -> None:
        """Raise AwayError if the database also rejects a line that it accepted before."""
        try:
            if self._taken is None:
                raise refusal
            self._post([self._taken])
        except _RefusedError:
            raise self._away(
                f"every line is rejected ({refusal}): check the address and the version"
            ) from None

    def _post(self, lines: list[Line]) -> None:
        """Write lines with one request. Raises _RefusedError or AwayError."""
        body = b"\n".join(map(self._text, lines))
        status, said = self._ask(self.settings.target, body)
        if status == HTTPStatus.NOT_FOUND and ABSENT.search(said):
            self.ledger.forget()  # it was dropped, with all of its samples
        if status == HTTPStatus.NOT_FOUND and self.settings.version == 1 and not self._created:
            self._created = True
            name = str(self.settings.database).replace('"', '\\"')
            self._ask("/query?" + urlencode({"q": f'CREATE DATABASE "{name}"'}), b"")
            status, said = self._ask(self.settings.target, body)
        if status == HTTPStatus.NO_CONTENT:
            return
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self._most_bytes = len(body) // 2
        elif status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
            raise self._away(self._explain(status, one_line(said)))
        dropped = DROPPED.search(said)
        every = dropped is not None and int(dropped[1]) == len(lines)
        raise _RefusedError(f"{status}: {one_line(said)}", every)

    def _explain(self, status: int, said: str) -> str:
        """Return the meaning of a status, and the next step."""
        settings = self.settings
        if status == HTTPStatus.UNAUTHORIZED:
            if settings.secret_from:
                return f"401: the secret in {settings.secret_from} is rejected: correct it"
            return "401: credentials are required: set secret_file (and user, for version 1)"
        if status == HTTPStatus.FORBIDDEN:
            who = settings.user or settings.secret_from or "everybody"
            return f"403: {who} may not write into {settings.place}: allow it ({said})"
        if status == HTTPStatus.NOT_FOUND:
            return f"404: there is no {settings.place}: create it, or correct its name ({said})"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return f"429: the database is overloaded ({said})"
        if status < 400:
            return f"{status}, which is not an answer of a database: check the url ({said})"
        return f"{status}: {said}"

    def _ask(self, target: str, body: bytes) -> tuple[int, str]:
        """Send a POST; return the status and the text of the answer. Raises AwayError."""
        headers = {"User-Agent": "hcam_devices"}
        if body:
            headers["Content-Type"] = "text/plain; charset=utf-8"
        if body and not self._near:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)
        try:
            answer = self._connection.post(target, headers, body)
        except SecretError as error:
            raise self._away(str(error)) from None
        except OSError as error:
            raise self._away(one_line(str(error))) from None
        said = self._connection.without_secret(answer.text)
        if answer.status >= 400 and answer.rest:
            self._rest_until = self.clock() + min(answer.rest, MAX_REST_S)
        return answer.status, said

    def _away(self, reason: str) -> AwayError:
        return AwayError(f"{self.settings.url}: {reason}")


def _parts(lines: list[Line], error: _RefusedError) -> list[list[Line]]:
    """Return the parts in which to write rejected lines again; empty if all are rejected."""
    if len(lines) == 1:
        return []
    conflict = CONFLICT.search(str(error))
    named = [line for line in lines if conflict and name_of(line.device) == conflict["measurement"]]
    if 0 < len(named) < len(lines):
        return [[line for line in lines if line not in named], named]
    if error.each:  # it names the reason of only one line
        devices = dict.fromkeys(line.device for line in lines)
        parts = [[line for line in lines if line.device == device] for device in devices]
        return parts if len(parts) > 1 else []
    half = len(lines) // 2
    return [lines[half:], lines[:half]]


def explain(reason: str) -> str:
    """Return why a line was rejected, and the next step."""
    conflict = CONFLICT.search(reason)
    if conflict is None:
        return reason
    field, measurement, here, there = conflict.group("field", "measurement", "here", "there")
    return (
        f"field {unquote(field)} of {unquote(measurement)} is {_article(here)} here and "
        f"{_article(there)} in the database: use another database or, if its old samples are not "
        f'needed, DROP MEASUREMENT "{measurement}"'
    )


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def one_line(said: str) -> str:
    """Return an answer on one line; of a long one, its beginning and its end, with the reason."""
    if not said.isprintable():
        said = "".join(char if char.isprintable() else " " for char in said)
    text = " ".join(said.split())
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
