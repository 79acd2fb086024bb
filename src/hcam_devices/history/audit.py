"""The audit of a night: whether everything that was published is stored once, or what is not.

Published is what the journals of the devices say that they appended in that night, and each number
between those that a store has. A store is asked what it really has, whatever it noted on writing;
where rows have digests, what they say is compared with what the journals have.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import NamedTuple, Protocol, TypeAlias

from pydantic import BaseModel

from ..core.device import utc
from ..journal import KEEP
from ..journal.digest import NONE, SIZE
from ..journal.points import night_bounds, night_of
from .stores import AwayError
from .stores.coverage import Gone, SampleRanges, without
from .stores.lost import Lost

MAX_FINDINGS = 300
"""Of one store: a reply has to fit into one message."""

LOST = "noted as stored, but not there or damaged"
NEVER = "never stored, and no journal has it any more"
UNASKED = "not stored, and no journal answered"
TWICE = "there more than once"
COMING = "on the way"
ALTERED = "it is not what the journal has, which is right: it is fetched again"
UNKNOWN = "no journal has this epoch: its journal was removed, or somebody else published it"

Span: TypeAlias = tuple[str, int, int]
"""Epoch, first and last number."""


class Row(NamedTuple):
    """A sample that is really in a store; ``time`` in ms since 1970.

    ``digest`` is of what it says (``journal/digest.py``); empty if that is not compared.
    """

    epoch: str
    seq: int
    time: int
    digest: bytes = b""


class StoreReader(Protocol):
    """What a store has of a night, as it can be read from outside. Its methods raise AwayError."""

    name: str
    uncounted: str
    """Why its rows cannot be counted, if so; it is then not asked for any."""
    stored: SampleRanges
    """What it noted that it has, or never will."""
    gone: list[Gone]
    """What of that it never will have, or has set aside, and why."""
    troubles: list[str]
    """What of its files could not be read, so far."""

    def look(self, device: str) -> tuple[list[Row], list[Span]]:
        """Return the sound rows of a device in and around the night, and what has to be there.

        These are the numbers after the last before the night, up to the first after it.
        """

    def search(self, device: str, epoch: str, first: int, last: int) -> list[Row]:
        """Return the rows of some numbers that it has at any time at all."""


@dataclass
class Published:
    """What a device's journal says of a night, or why it cannot be asked."""

    spans: list[Span] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    silent: str = ""
    digests: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Epoch, first number, and what the samples from there on say: SIZE bytes each, or NONE."""
    epochs: set[str] | None = None
    """Every epoch that its journals know of, whatever the night; None if that is not known."""


UNHEARD = Published(silent="nobody was asked for its journal")


class Finding(BaseModel):
    """Numbers that are not stored once, ``when`` they were published (UTC), and the cause.

    What was lost without having had numbers has 0 for them.
    """

    device: str
    epoch: str
    first: int
    last: int
    when: str
    cause: str

    def __str__(self) -> str:
        if not self.first:
            return self.cause
        numbers = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        when = f"{self.when}, " if self.when else ""
        return f"{self.device} {numbers} (epoch {self.epoch[:4]}): {when}{self.cause}"


class Line(BaseModel):
    """How much of a device one store has; ``coming`` is what a journal still has for it.

    ``missing`` includes what is ``lost``: published without a number, and kept nowhere.
    ``altered`` are stored, but say something else than in the journal. ``unknown`` are of epochs
    that no journal has, and do not count as published.
    """

    device: str
    published: int
    stored: int
    missing: int
    doubled: int
    coming: int
    lost: int = 0
    altered: int = 0
    unknown: int = 0
    verdict: str


class Audited(BaseModel):
    """What was found in one store; ``unread`` is why nothing could be, ``more`` is not listed."""

    name: str
    uncounted: str
    unread: str = ""
    troubles: list[str] = []
    lines: list[Line] = []
    findings: list[Finding] = []
    more: int = 0
    verdict: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, doubled or on the way, and all of it could be read."""
        bad = self.unread or self.troubles or self.total("missing", "doubled", "coming", "altered")
        return not bad

    def total(self, *columns: str) -> int:
        """Return the sum of columns."""
        return sum(getattr(line, column) for line in self.lines for column in columns)


class Audit(BaseModel):
    """What was found of a night, up to the time ``at`` (UTC)."""

    night: str
    at: str
    stores: list[Audited]
    unproven: list[str]
    """Why there may have been more than is known of here."""
    complete: bool
    """Whether it is certain that every store has everything once; one at least was counted."""
    verdict: str


class Evidence:
    """What one store has of one device."""

    def __init__(self, device: str, rows: Iterable[Row] = (), spans: Iterable[Span] = ()) -> None:
        self.device, self.spans = device, spans
        self.there = SampleRanges()
        self.again: list[tuple[str, int]] = []
        self._rows: dict[str, list[tuple[int, int, bytes]]] = defaultdict(list)
        for row in rows:
            self._rows[row.epoch].append(row[1:])
        for epoch, found in self._rows.items():
            found.sort()
            seqs = [seq for seq, *_ in found]
            self.there.add_each(device, epoch, seqs)
            self.again += [(epoch, seq) for seq, following in pairwise(seqs) if seq == following]

    def add(self, row: Row) -> None:
        """Take in one more row, for what it says."""
        insort(self._rows[row.epoch], row[1:])

    def altered(self, epoch: str, first: int, packed: bytes) -> Iterator[int]:
        """Yield the numbers of rows that say something else than what was published."""
        rows = self._rows.get(epoch, [])
        start = bisect_left(rows, (first,))
        end = bisect_left(rows, (first + len(packed) // SIZE,), start)
        for seq, _, digest in rows[start:end]:
            place = (seq - first) * SIZE
            if digest and packed[place : place + SIZE] not in (digest, NONE):
                yield seq

    def of_others(self, epochs: Collection[str]) -> SampleRanges:
        """Return the numbers of rows of other epochs than these."""
        found = SampleRanges()
        for epoch, rows in self._rows.items():
            if epoch not in epochs:
                found.add_each(self.device, epoch, (seq for seq, *_ in rows))
        return found

    def finding(self, span: Span, cause: str) -> Finding:
        """Return a finding; when that was is known from what is there on either side."""
        epoch, first, last = span
        rows = self._rows.get(epoch, [])
        before, after = bisect_left(rows, (first,)), bisect_left(rows, (last + 1,))
        sides = (*rows[:before][-1:], *rows[after:][:1])
        when = " to ".join(utc(time / 1000)[11:19] for _, time, _ in sides)
        if len(sides) == 1:
            when = f"{'after' if before else 'before'} {when}"
        return Finding(
            device=self.device,
            epoch=epoch,
            first=first,
            last=last,
            when=when,
            cause=cause,
        )


def audit(
    night: str, published: Mapping[str, Published], readers: Sequence[StoreReader], now: float
) -> Audit:
    """Compare what was published in a night with what each store has.

    ``published`` is what the journals say, by device; of others that a store has, nothing is proven
    while a journal could say more. ``now`` is a Unix time. Raises ValueError if it is no night, or
    has not begun.
    """
    start, end = night_bounds(night)
    if now < start / 1000:
        going = night_of(round(now * 1000))
        raise ValueError(
            f"night {night} begins at {utc(start / 1000)[:16]} UTC; the one going on is {going}"
        )
    stores = [Audited(name=one.name, uncounted=one.uncounted) for one in readers]
    silent: dict[str, list[str]] = defaultdict(list)
    noted = {device for one in readers for device, *_ in one.stored}
    for device in sorted(noted | published.keys()):
        said = published.get(device, UNHEARD)
        if now >= end / 1000 + KEEP:  # a journal that does not answer could say no more
            said = replace(said, silent="", epochs=None)
        seen = [_ask(*pair, device) for pair in zip(readers, stores, strict=True)]
        whole = _published(device, said, chain(*(evidence.spans for evidence in seen)))
        if said.silent and (whole.ranges or device in published):
            silent[said.silent].append(device)
        for reader, store, evidence in zip(readers, stores, seen, strict=True):
            try:
                if (whole.ranges or said.lost or said.epochs is not None) and not store.unread:
                    _judge(whole, said, reader, store, evidence)
            except AwayError as error:
                store.unread = str(error)
    for reader, store in zip(readers, stores, strict=True):
        store.troubles = reader.troubles
        store.verdict = _clause(store)
    unproven = [f"{reason} ({_some(names)})" for reason, names in silent.items()]
    unproven += _strange(stores)
    counted = any(store.lines and not store.uncounted for store in stores)
    sure = counted and not unproven
    complete = sure and all(store.complete for store in stores)
    read = sure and not any(one.unread or one.troubles for one in stores)
    lacking = any(one.total("missing", "doubled", "altered") for one in stores)
    once = "everything published is stored once"
    if complete:
        partly = any(one.uncounted for one in stores)
        head = f"{once.capitalize()}{', where it can be counted' * partly}"
    elif read:
        head = f"NOT {once}" if lacking else "Nothing is lost, but not everything is stored yet"
    elif not any(one.lines or one.unread or one.troubles for one in stores) and not unproven:
        head = "Nothing is known of this night"
    else:
        head = f"It is NOT certain that {once}"
    return Audit(
        night=night_of(start),
        at=utc(min(now, end / 1000)),
        stores=stores,
        unproven=unproven,
        complete=complete,
        verdict=f"{head}: {'; '.join(store.verdict for store in stores)}.",
    )


def _strange(stores: Iterable[Audited]) -> Iterator[str]:
    """Yield what is to be said of samples that no journal can vouch for."""
    found = {line.device for store in stores for line in store.lines if line.unknown}
    if found:
        yield f"there are samples of epochs that no journal has ({_some(sorted(found))})"


def _published(device: str, said: Published, belonging: Iterable[Span]) -> SampleRanges:
    """Return the numbers that were published up to when the journal was asked."""
    found = SampleRanges()
    ends: dict[str, int] = {}
    for epoch, first, last in said.spans:
        found.add(device, epoch, first, last)
        ends[epoch] = max(last, ends.get(epoch, 0))
    for epoch, first, last in belonging:
        if said.epochs is not None and epoch not in said.epochs:
            continue
        if first <= (end := min(last, ends.get(epoch, last))):
            found.add(device, epoch, first, end)
    return found


def _ask(reader: StoreReader, store: Audited, device: str) -> Evidence:
    """Return what a store has, or acknowledged; nothing any more once it could not be read."""
    if reader.uncounted:
        evidence = Evidence(device)
        evidence.there = without(reader.stored, reader.gone)
        return evidence
    try:
        rows, spans = ([], []) if store.unread else reader.look(device)
        return Evidence(device, rows, spans)
    except AwayError as error:
        store.unread = str(error)
        return Evidence(device)


def _judge(
    whole: SampleRanges, said: Published, reader: StoreReader, store: Audited, evidence: Evidence
) -> None:
    """Count and explain what a store does not have, and what it has twice. Raises AwayError."""
    device, there = evidence.device, evidence.there
    again = [number for number in evidence.again if (device, *number) in whole]
    twice = SampleRanges()
    for epoch, seq in again:
        twice.add(device, epoch, seq, seq)
    found: list[tuple[Span, str]] = []
    for _, epoch, *span in whole:
        rest = there.missing(device, epoch, *span)
        for first, last, cause in _causes(device, epoch, said, reader):
            parts, rest = _cut(rest, first, last)
            found += [((epoch, *part), cause) for part in parts]
        for part in rest:
            newer = said.silent and part[0] > reader.stored.newest(device, epoch)
            cause = COMING if newer else UNASKED if said.silent else NEVER
            found.append(((epoch, *part), cause))
    lost = [span for span, cause in found if cause == LOST]
    for epoch in {epoch for epoch, *_ in lost}:
        numbers = [number for name, *ends in lost for number in ends if name == epoch]
        for row in reader.search(device, epoch, min(numbers), max(numbers)):
            there.add(device, epoch, row.seq, row.seq)
            evidence.add(row)
    gaps = [
        ((span[0], *part), cause) for span, cause in found for part in there.missing(device, *span)
    ]
    published = _size(one[1:] for one in whole)
    altered = SampleRanges()
    for epoch, first, packed in said.digests:
        altered.add_each(device, epoch, evidence.altered(epoch, first, packed))
    changed = _size(one[1:] for one in altered)
    strange = SampleRanges() if said.epochs is None else evidence.of_others(said.epochs)
    unknown = _size(one[1:] for one in strange)
    lost_now = sum(one.samples for one in said.lost)
    if not (published or unknown or lost_now):
        return
    coming = _size(span for span, cause in gaps if cause == COMING)
    missing = _size(span for span, _ in gaps) - coming
    words = [
        f"{count} {what}"
        for count, what in (
            (lost_now, "LOST"),
            (missing, "MISSING"),
            (len(again), "DOUBLED"),
            (changed, "ALTERED"),
            (unknown, "OF UNKNOWN ORIGIN"),
            (coming, COMING),
        )
        if count
    ]
    store.lines.append(
        Line(
            device=device,
            published=published + lost_now,
            stored=published - missing - coming - changed,
            missing=missing + lost_now,
            lost=lost_now,
            doubled=len(again),
            coming=coming,
            altered=changed,
            unknown=unknown,
            verdict=", ".join(words) or ("acknowledged" if reader.uncounted else "complete"),
        )
    )
    findings = [(one[1:], ALTERED) for one in altered] + [(one[1:], UNKNOWN) for one in strange]
    findings += [(one[1:], TWICE) for one in twice]
    findings += [(span, cause) for span, cause in gaps if cause != COMING]
    room = MAX_FINDINGS - len(store.findings)
    store.findings += [evidence.finding(span, cause) for span, cause in findings[:room]]
    store.more += len(findings[room:])
    store.findings += [
        Finding(device=device, epoch=one.epoch, first=0, last=0, when="", cause=str(one))
        for one in said.lost
    ]


def _causes(
    device: str, epoch: str, said: Published, reader: StoreReader
) -> Iterator[tuple[int, int, str]]:
    """Yield what may explain that numbers are not there, what is most certain first."""
    for gone in reader.gone:
        if (gone.device, gone.epoch) == (device, epoch):
            yield gone.first, gone.last, gone.cause
    for first, last in reader.stored.ranges.get((device, epoch), ()):
        yield first, last, LOST
    for gone in said.gone:
        if gone.epoch == epoch:
            yield gone.first, gone.last, gone.cause
    for name, first, last in said.spans:
        if name == epoch:
            yield first, last, COMING


def _cut(
    parts: list[tuple[int, int]], first: int, last: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return what of some ranges of numbers is within another, and what is not."""
    inside, outside = [], []
    for low, high in parts:
        if high < first or last < low:
            outside.append((low, high))
            continue
        inside.append((max(low, first), min(high, last)))
        outside += [(low, first - 1)] if low < first else []
        outside += [(last + 1, high)] if last < high else []
    return inside, outside


def _size(spans: Iterable[Span]) -> int:
    return sum(last - first + 1 for _, first, last in spans)


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{len(names)} devices"


def _clause(store: Audited) -> str:
    published, devices = store.total("published"), len(store.lines)
    whole = f"{published} samples of {devices} device{'s' * (devices != 1)}"
    if store.unread:
        return f"{store.name} could not be read: {store.unread}"
    if not store.lines:
        return f"{store.name} knows of nothing"
    if store.uncounted and store.complete:
        return f"{store.name} acknowledged {whole}, not counted: {store.uncounted}"
    totals = {
        "lacks": store.total("missing"),
        "has more than once": store.total("doubled"),
        "has altered": store.total("altered"),
        "waits for": store.total("coming"),
    }
    words = [f"{what} {count}" for what, count in totals.items() if count]
    said = f"{' and '.join(words)} of {whole}" if words else f"has {whole}"
    return f"{store.name} {'cannot be read completely; it ' if store.troubles else ''}{said}"


def text(result: Audit) -> Iterator[str]:
    """Yield what was found as lines for people."""
    yield f"Night {result.night}, up to {result.at[:19].replace('T', ' ')} UTC"
    for store in result.stores:
        yield ""
        yield f"store {store.name}"
        width = max([6, *(len(line.device) for line in store.lines)])
        if store.lines:
            yield f"{'device':{width}} {'published':>9} {'stored':>9} {'missing':>8} {'doubled':>8}"
        for line in store.lines:
            yield (
                f"{line.device:{width}} {line.published:9} {line.stored:9} {line.missing:8} "
                f"{line.doubled:8}  {line.verdict}"
            )
        yield from store.troubles
        yield from (str(finding) for finding in store.findings)
        if store.more:
            yield f"... and {store.more} more gaps"
    yield ""
    yield from result.unproven
    yield result.verdict
