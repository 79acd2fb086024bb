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

VictoriaMetrics keeps milliseconds, about 13 digits, and 0 for a text. It must run with
``-dedup.minScrapeInterval=1ms``, or samples that are written again are doubled. It drops samples
older than its ``-retentionPeriod`` without an error, and acknowledges samples that it has only in
memory. Therefore the ledger notes a sample as stored only after another sample was acknowledged on
the same connection at least ``SURE_AFTER_S`` later. If the database is unavailable or closes the
connection before that, the sample counts as missing and is written again. After a start, all
samples that are not in the ledger are written again, too.
"""

import gzip
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode

import orjson

from ...config.stores import InfluxDB, SecretError, is_near
from ...journal.points import Point
from ...journal.ranges import SampleRange, SampleRanges
from . import AwayError
from .http import Connection
from .ledger import Ledger
from .nights import trying

log = logging.getLogger(__name__)

SURE_AFTER_S = 60.0
"""A killed VictoriaMetrics lost samples that it had acknowledged 10 s before."""
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
GATEWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


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


@lru_cache(1024)
def _form(device: str, numbers: tuple[str, ...], texts: tuple[str, ...]) -> str:
    """Return a template for lines of a device: numbers, then texts, then the time."""
    names = [name_of(name).replace("%", "%%") for name in (device, *numbers, *texts)]
    return f"{names[0]} {','.join(f'{name}=%s' for name in names[1:])} %d"


def line_of(point: Point) -> bytes:
    """Return a sample as a line without its newline."""
    texts: dict[str, str] = {}
    numbers: dict[str, float] = {}
    for name, value in point.values.items():
        if type(value) is str:
            texts[name] = _text(value)
        else:
            numbers[name] = float(value)
    numbers["seq"], texts["epoch"] = float(point.seq), _text(point.epoch)
    form = _form(point.device, tuple(numbers), tuple(texts))
    digits = orjson.dumps([*numbers.values()])[1:-1].decode().split(",")
    nanoseconds = point.time * 1_000_000 + point.seq % 1_000_000
    return (form % (*digits, *texts.values(), nanoseconds)).encode(errors="replace")


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
        self._retry_at = dict.fromkeys(self._refused, -float("inf"))
        self._types: dict[str, dict[str, str]] = {}
        self._hopeless: set[tuple[str, str]] = set()
        self._doubt()
        self._near = is_near(settings.url)
        self._connection = Connection(settings)
        self._taken: Line | None = None
        self._most_bytes = MAX_BYTES
        self._rest_until = -float("inf")
        self._created = False

    def rows(self, points: Sequence[Point]) -> list[Line]:
        """Return points as lines."""
        return [Line(point.device, point.epoch, point.seq, line_of(point)) for point in points]

    def write(self, lines: Sequence[Line]) -> None:
        """Store lines and note them as stored. Raises AwayError."""
        if (rest := self._rest_until - self.clock()) > 0:
            raise self._away(f"the database asked for a pause, of {rest:.0f} s more")
        if self._connection.broken():  # the database may have been restarted
            self._connection.close()
            self._doubt()
        new = (line for line in lines if line[:3] not in self.stored)
        with trying(self._path):
            for batch in self._batches(new):
                self._send(batch)
            self._retry()

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that samples are lost, in one transaction. Raises AwayError."""
        lost = list(gone)
        with trying(self._path):
            self.ledger.settle(lost)
        self.stored |= SampleRanges(lost)
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

    # --- what is stored ---------------------------------------------------------------------

    def _doubt(self) -> None:
        """Treat only the samples in the ledger as stored."""
        self.stored = self.ledger.stored.copy()
        self._unsure: list[tuple[float, SampleRanges]] = []
        self._taken_at_last = SampleRanges()

    def _acknowledged(self, lines: list[Line]) -> None:
        numbers = SampleRanges()
        for (device, epoch), some in groupby(lines, lambda line: line[:2]):
            numbers.add_numbers(device, epoch, (line.seq for line in some))
        self.stored |= numbers
        self._taken = lines[-1]
        now = self.clock()
        self._unsure.append((now, numbers))
        old = [some for when, some in self._unsure if now - when >= SURE_AFTER_S]
        sure = SampleRanges(chain.from_iterable(part.ranges() for part in old))
        if sure:  # the database has not restarted since
            self.ledger.enter(sure)
            del self._unsure[: len(old)]
            if accepted := sure & self._taken_at_last:
                self.ledger.readmit(accepted.ranges())
                self._refused = self.ledger.refused()

    def _retry(self) -> None:
        """Write one rejected line of each device that is due; if it is accepted, write all."""
        for device in list(self._refused):
            if self._retry_at.get(device, 0.0) > self.clock():
                continue
            self._retry_at[device] = self.clock() + RETRY_EVERY_S
            newest = Line(*self.ledger.newest_refused(device))
            if newest[:3] in self._taken_at_last:  # accepted, but not surely stored yet
                continue
            self._types.pop(device, None)
            self._hopeless = {key for key in self._hopeless if key[0] != device}
            if self._send([newest], again=True):
                continue
            log.info("%s accepts samples of %s again that it had rejected", self.name, device)
            after = "", 0
            while page := self.ledger.refused_lines(device, *after, MAX_LINES):
                after = page[-1][1:3]
                lines = [Line(*row) for row in page]
                if sum(self._send(some, again=True) for some in self._batches(lines)) > MAX_REFUSED:
                    break

    def _set_aside(self, refused: list[tuple[Line, str]]) -> None:
        numbers = SampleRanges(SampleRange(*line[:3], line.seq) for line, _ in refused)
        self.ledger.enter(
            numbers, aside=[(*line[:3], line.text.decode(), reason) for line, reason in refused]
        )
        self.stored |= numbers
        for line, reason in refused:
            count, before = self._refused.get(line.device, (0, ""))
            self._refused[line.device] = count + 1, reason
            if not before:
                self._retry_at[line.device] = self.clock() + RETRY_EVERY_S
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
                for line in lines if again else ():
                    self._taken_at_last.add(*line[:3], line.seq)
                self._acknowledged(lines)
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
            self._doubt()
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
            self._doubt()
            raise self._away(one_line(str(error))) from None
        said = self._connection.without_secret(answer.text)
        if answer.status >= 400 and answer.rest:
            self._rest_until = self.clock() + min(answer.rest, MAX_REST_S)
        if answer.status in GATEWAY:
            self._doubt()
            raise self._away(f"{answer.status}: {one_line(said)}")
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
    text = "".join(char if char.isprintable() else " " for char in said)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
