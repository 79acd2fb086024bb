"""A store that is an InfluxDB, of version 1, 2 or 3, or a VictoriaMetrics: line protocol over HTTP.

A sample is one line: the device is the measurement, its values are the fields. Numbers and booleans
are floats, so that no field ever has two types; texts are texts. If a database refuses a line
because it has a field as integers or booleans, from an earlier logger, the field is converted, as
long as that loses nothing. Two more fields are ``seq``, a float like the others, and ``epoch``, a
text; there are no tags. The time, in nanoseconds, is that of the sample with ``seq % 1_000_000``
added: samples of one millisecond do not overwrite each other, and a sample that is written again
changes nothing.

Names: all but ASCII letters, digits and ``_.-~`` is percent-encoded (``urllib.parse.unquote`` gives
the name back), and so is the first character of ``time`` and of names that begin with ``_``, which
InfluxDB reserves; an empty name is ``%``. A newline in a text becomes ``␊``: for VictoriaMetrics it
would begin another line, even in quotes.

VictoriaMetrics keeps milliseconds, about 13 digits, and 0 for a text. It has to run with
``-dedup.minScrapeInterval=1ms``, or samples that are written again are doubled. It drops samples
older than its ``-retentionPeriod`` without an error, and acknowledges samples that it has only in
memory. Therefore the ledger notes a sample as stored only after another one was acknowledged on the
same connection at least ``SURE_AFTER`` later. If the database is unavailable or closes the
connection before that, the sample counts as missing and is written again; so is, after a start, any
sample that the ledger does not have.
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

SURE_AFTER = 60.0
"""Seconds. A killed VictoriaMetrics lost samples that it had acknowledged 10 s before."""
MAX_LINES = 5000
MAX_BYTES = 4_000_000
"""The limits of one request."""
MAX_REST_S = 60.0
"""Pause for at most this long when a database asks for it."""
FIRST_REFUSALS = 10
"""After this many refusals and no success, blame the server, not the lines."""
DROPPED = re.compile(r"partial write: .*dropped=(\d+)")
ABSENT = re.compile(r"database not found|bucket .* not found")
"""The answers of InfluxDB 1 and 2. That of a proxy with a wrong address is different."""
CONFLICT = re.compile(
    r'input field \\?"(?P<field>[^"\\]+)\\?" on measurement \\?"(?P<measurement>[^"\\]+)\\?" '
    r"is type (?P<here>\w+), already exists as type (?P<there>\w+)"
)
"""The answer of InfluxDB 1 if it has a field with another type."""
RETRY_EVERY_S = 60.0
"""Offer one rejected line of each device this often; if it is accepted, offer all of them."""
MAX_REFUSED = 100
"""After this many refusals, leave the other rejected lines of a device for the next time."""
GATEWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class Line(NamedTuple):
    """One sample as InfluxDB takes it; ``text`` has no newline."""

    device: str
    epoch: str
    seq: int
    text: bytes


@lru_cache(4096)
def name_of(text: str) -> str:
    """Return the name of a device or field without characters that the protocol uses."""
    name = quote(text, safe="", errors="surrogatepass") or "%"
    return f"%{ord(name[0]):X}{name[1:]}" if name == "time" or name[0] == "_" else name


def _text(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "␊")
    return f'"{text}"'


@lru_cache(1024)
def _form(device: str, numbers: tuple[str, ...], texts: tuple[str, ...]) -> str:
    """Return a template of the line of a device: numbers, then texts, then the time."""
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
    """The database rejects some of the lines; ``each`` is whether it says that it rejects all."""

    def __init__(self, reason: str, each: bool = False) -> None:
        super().__init__(reason)
        self.each = each


class LineStore:
    """A ``Store`` with its ledger in ``<folder>/<name>.sqlite``; ``clock`` counts seconds.

    Raises AwayError if the ledger cannot be used.

    ``write`` has stored its lines if the answer is 204. Otherwise it raises AwayError; writing them
    again does no harm. A line that is rejected while others are accepted is kept in the ledger, and
    offered again now and then, until its cause is gone.
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
            raise self._away(f"it asked for a rest, of {rest:.0f} s more")
        if self._connection.broken():  # the database may have been restarted
            self._connection.close()
            self._doubt()
        new = (line for line in lines if line[:3] not in self.stored)
        with trying(self._path):
            for batch in self._batches(new):
                self._send(batch)
            self._retry()

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        """Note that samples will never come, in one transaction. Raises AwayError."""
        lost = list(gone)
        with trying(self._path):
            self.ledger.settle(lost)
        self.stored |= SampleRanges(lost)
        return True

    def gone(self) -> list[SampleRange]:
        """Return the samples that will never come, with reasons. Raises AwayError."""
        with trying(self._path):
            return self.ledger.gone()

    def aside(self) -> int:
        """Return how many samples were rejected; the ledger keeps them."""
        return sum(count for count, _ in self._refused.values())

    def refusals(self) -> list[str]:
        """Return a sentence for each device: how many samples were rejected, why, what to do."""
        return [
            f"{count} samples of {device} are refused, and offered again now and then: "
            f"{explain(why)}"
            for device, (count, why) in sorted(self._refused.items())
        ]

    def tidy(self) -> None:
        """Do nothing: the site configures the retention of the database."""

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
        old = [some for when, some in self._unsure if now - when >= SURE_AFTER]
        sure = SampleRanges(chain.from_iterable(part.ranges() for part in old))
        if sure:  # the database has not restarted since
            self.ledger.enter(sure)
            del self._unsure[: len(old)]
            if accepted := sure & self._taken_at_last:
                self.ledger.readmit(accepted.ranges())
                self._refused = self.ledger.refused()

    def _retry(self) -> None:
        """Offer a rejected line of each device that is due; if it is accepted, offer all."""
        for device in list(self._refused):
            if self._retry_at.get(device, 0.0) > self.clock():
                continue
            self._retry_at[device] = self.clock() + RETRY_EVERY_S
            newest = Line(*self.ledger.newest_refused(device))
            if newest[:3] in self._taken_at_last:  # accepted, but not for sure yet
                continue
            self._types.pop(device, None)
            self._hopeless = {one for one in self._hopeless if one[0] != device}
            if self._send([newest], again=True):
                continue
            log.info("%s accepts samples of %s that it rejected before", self.name, device)
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
                log.warning("%s refuses samples of %s: %s", self.name, line.device, explain(reason))

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
        """Write lines; keep those that are rejected one by one; return how many these are.

        With ``again`` they are in the ledger already. Raises AwayError.
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
        """Learn the type of a field in the database; return whether lines can be converted."""
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
        """Raise AwayError if the database rejects even a line that it accepted before."""
        try:
            if self._taken is None:
                raise refusal
            self._post([self._taken])
        except _RefusedError:
            raise self._away(
                f"it refuses every line ({refusal}): are its address and version right?"
            ) from None

    def _post(self, lines: list[Line]) -> None:
        """Write lines with one request. Raises _RefusedError or AwayError."""
        body = b"\n".join(map(self._text, lines))
        status, said = self._ask(self.settings.target, body)
        if status == HTTPStatus.NOT_FOUND and ABSENT.search(said):
            self.ledger.forget()  # somebody has dropped it, with all of its samples
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
        """Return the meaning of a status, and what to do."""
        settings = self.settings
        if status == HTTPStatus.UNAUTHORIZED:
            if settings.secret_from:
                return f"401: it does not accept what is in {settings.secret_from}: correct it"
            return "401: it wants to know who writes: set secret_file (and user, for version 1)"
        if status == HTTPStatus.FORBIDDEN:
            who = settings.user or settings.secret_from or "everybody"
            return f"403: {who} may not write into {settings.place}: allow it ({said})"
        if status == HTTPStatus.NOT_FOUND:
            return f"404: there is no {settings.place}: create it, or correct its name ({said})"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return f"429: it has too much to do ({said})"
        if status < 400:
            return f"{status}, which is not how a database answers: is the url right? ({said})"
        return f"{status}: {said}"

    def _ask(self, target: str, body: bytes) -> tuple[int, str]:
        """POST; return the status and the text of the answer. Raises AwayError."""
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
    """Return the parts in which to offer rejected lines again; none to give up on all."""
    if len(lines) == 1:
        return []
    conflict = CONFLICT.search(str(error))
    named = [line for line in lines if conflict and name_of(line.device) == conflict["measurement"]]
    if 0 < len(named) < len(lines):
        return [[line for line in lines if line not in named], named]
    if error.each:  # the reason that it names is that of one line only
        devices = dict.fromkeys(line.device for line in lines)
        parts = [[line for line in lines if line.device == device] for device in devices]
        return parts if len(parts) > 1 else []
    half = len(lines) // 2
    return [lines[half:], lines[:half]]


def explain(reason: str) -> str:
    """Return why a line was rejected, and what to do about it."""
    conflict = CONFLICT.search(reason)
    if conflict is None:
        return reason
    field, measurement, here, there = conflict.group("field", "measurement", "here", "there")
    return (
        f"field {unquote(field)} of {unquote(measurement)} is {_article(here)} here and "
        f"{_article(there)} there: give this store a database of its own, or, if what is there of "
        f'it may go, DROP MEASUREMENT "{measurement}"'
    )


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def one_line(said: str) -> str:
    """Return an answer on one line: its beginning and its end, where the reason is, if long."""
    text = "".join(one if one.isprintable() else " " for one in said)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
