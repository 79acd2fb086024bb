"""The audit of a night: whether every published sample is stored exactly once, or why not.

A sample counts as published if a server's journal has it as appended in that night, or if its
number lies between numbers that a store has. Each store is asked for the rows that it really has,
whatever it noted on writing; rows with digests are compared with those of the journals.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

from pydantic import BaseModel

from ..core.device import iso_from_s
from ..journal import KEEP
from ..journal.digest import NONE, SIZE
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_of
from ..journal.ranges import SampleRange, SampleRanges
from .stores import AwayError

MAX_FINDINGS = 300
"""List at most this many findings of one store: a reply has to fit into one message."""

LOST = "noted as stored, but not there or damaged"
NEVER = "never stored, and no journal has it any more"
UNASKED = "not stored, and no journal answered"
TWICE = "there more than once"
COMING = "on the way"
ALTERED = "it is not what the journal has, which is right: it is fetched again"
UNKNOWN = "no journal has this epoch: its journal was removed, or somebody else published it"


class Row(NamedTuple):
    """A sample that is really in a store; ``time`` is in ms since 1970.

    ``digest`` is that of the sample (``journal/digest.py``), or empty if it is not compared.
    """

    epoch: str
    seq: int
    time: int
    digest: bytes = b""


class StoreReader(Protocol):
    """Reads the samples of a night that a store really has. Its methods raise AwayError."""

    name: str
    uncounted: str
    """Why the rows cannot be counted: ``rows_of`` is then not called. Empty if they can be."""
    stored: SampleRanges
    """The samples that the store noted as stored, with those that it will never have."""
    gone: list[SampleRange]
    """The samples among them that are gone or were rejected, with reasons."""
    troubles: list[str]
    """What could not be read of the store's files so far."""

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        """Return the sound rows of a device in and around the night, and what has to be there.

        The latter are the numbers between the last one before the night and the first one after it.
        """

    def find(self, wanted: SampleRange) -> list[Row]:
        """Return the rows of some samples, whatever their times."""


@dataclass
class Published:
    """The samples of a device that the journals have of a night, or why they cannot be asked."""

    held: SampleRanges = field(default_factory=SampleRanges)
    gone: list[SampleRange] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    silent: str = ""
    digests: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Epoch, first number, and the digests from there on: SIZE bytes for each number, or NONE."""
    epochs: set[str] | None = None
    """Every epoch of the device in any journal, whatever the night; None if that is not known."""


UNASKED_DEVICE = Published(silent="nobody was asked for its journal")


class Finding(BaseModel):
    """Samples that are not stored once, ``when`` they were published (UTC), and the cause.

    Samples that were lost before they had numbers have 0 for them.
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
    """The counts of the samples of one device in one store.

    ``coming`` are not stored yet, but in a journal. ``missing`` includes ``lost``: published
    without a number and kept nowhere. ``altered`` differ from the journal. ``unknown`` are of
    epochs that no journal has; they do not count as published.
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
    """The result for one store.

    ``unread`` is why nothing could be read; ``more`` is the number of findings that are not listed.
    """

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
        """Whether nothing is missing, doubled or on the way, and everything could be read."""
        bad = self.unread or self.troubles or self.total("missing", "doubled", "coming", "altered")
        return not bad

    def total(self, *columns: str) -> int:
        """Return the sum of columns."""
        return sum(getattr(line, column) for line in self.lines for column in columns)


class Audit(BaseModel):
    """The result for a night, up to the time ``at`` (UTC)."""

    night: str
    at: str
    stores: list[Audited]
    unproven: list[str]
    """Why more may have been published than is known here."""
    complete: bool
    """Whether every store certainly has everything once; one store at least was counted."""
    verdict: str


class Evidence:
    """The samples of one device that one store has."""

    def __init__(
        self, device: str, rows: Iterable[Row] = (), belonging: SampleRanges | None = None
    ) -> None:
        self.device, self.belonging = device, belonging or SampleRanges()
        self.there = SampleRanges()
        self.again: list[tuple[str, str, int]] = []
        """Device, epoch and number of every row that repeats another one."""
        self._rows: dict[str, list[tuple[int, int, bytes]]] = defaultdict(list)
        for row in rows:
            self._rows[row.epoch].append(row[1:])
        for epoch, found in self._rows.items():
            found.sort()
            seqs = [seq for seq, *_ in found]
            self.there.add_numbers(device, epoch, seqs)
            self.again += [
                (device, epoch, seq) for seq, next_seq in pairwise(seqs) if seq == next_seq
            ]

    def add(self, row: Row) -> None:
        """Include one more row."""
        self.there.add(self.device, row.epoch, row.seq, row.seq)
        insort(self._rows[row.epoch], row[1:])

    def altered(self, digests: Iterable[tuple[str, int, bytes]]) -> SampleRanges:
        """Return the samples whose digests differ from those that were published."""
        found = SampleRanges()
        for epoch, first, packed in digests:
            rows = self._rows.get(epoch, [])
            start = bisect_left(rows, (first,))
            end = bisect_left(rows, (first + len(packed) // SIZE,), start)
            for seq, _, digest in rows[start:end]:
                place = (seq - first) * SIZE
                if digest and packed[place : place + SIZE] not in (digest, NONE):
                    found.add(self.device, epoch, seq, seq)
        return found

    def of_other_epochs(self, epochs: Collection[str]) -> SampleRanges:
        """Return the samples that are of none of these epochs."""
        found = SampleRanges()
        for epoch, rows in self._rows.items():
            if epoch not in epochs:
                found.add_numbers(self.device, epoch, (seq for seq, *_ in rows))
        return found

    def finding(self, samples: SampleRange) -> Finding:
        """Return samples with their reason as a finding; its time is that of their neighbours."""
        device, epoch, first, last, cause = samples
        rows = self._rows.get(epoch, [])
        before, after = bisect_left(rows, (first,)), bisect_left(rows, (last + 1,))
        sides = (*rows[:before][-1:], *rows[after:][:1])
        when = " to ".join(iso_from_s(time / 1000)[11:19] for _, time, _ in sides)
        if len(sides) == 1:
            when = f"{'after' if before else 'before'} {when}"
        return Finding(device=device, epoch=epoch, first=first, last=last, when=when, cause=cause)


def audit(
    night: str, published: Mapping[str, Published], readers: Sequence[StoreReader], now: float
) -> Audit:
    """Compare what was published in a night with what each store has.

    ``published`` is what the journals have, by device. For any other device that a store has,
    nothing is proven as long as a journal could have more. ``now`` is a Unix time. Raises
    ValueError if there is no such night, or it has not begun.
    """
    start, end = night_bounds(night)
    if now < start / 1000:
        tonight = night_of(round(now * 1000))
        begin = iso_from_s(start / 1000)[:16]
        raise ValueError(f"night {night} begins at {begin} UTC; the one going on is {tonight}")
    stores = [Audited(name=reader.name, uncounted=reader.uncounted) for reader in readers]
    silent: dict[str, list[str]] = defaultdict(list)
    noted = {device for reader in readers for device, _ in reader.stored.keys}
    for device in sorted(noted | published.keys()):
        said = published.get(device, UNASKED_DEVICE)
        if now >= end / 1000 + KEEP:  # a journal that does not answer could not have more
            said = replace(said, silent="", epochs=None)
        seen = [_look(*pair, device) for pair in zip(readers, stores, strict=True)]
        whole = _published(device, said, (evidence.belonging for evidence in seen))
        if said.silent and (whole or device in published):
            silent[said.silent].append(device)
        for reader, store, evidence in zip(readers, stores, seen, strict=True):
            try:
                if (whole or said.lost or said.epochs is not None) and not store.unread:
                    _judge(whole, said, reader, store, evidence)
            except AwayError as error:
                store.unread = str(error)
    for reader, store in zip(readers, stores, strict=True):
        store.troubles = reader.troubles
        store.verdict = _clause(store)
    unproven = [f"{reason} ({_some(names)})" for reason, names in silent.items()]
    if strange := {line.device for store in stores for line in store.lines if line.unknown}:
        unproven.append(
            f"there are samples of epochs that no journal has ({_some(sorted(strange))})"
        )
    complete, head = _headline(stores, certain=not unproven)
    return Audit(
        night=night_of(start),
        at=iso_from_s(min(now, end / 1000)),
        stores=stores,
        unproven=unproven,
        complete=complete,
        verdict=f"{head}: {'; '.join(store.verdict for store in stores)}.",
    )


def _headline(stores: Sequence[Audited], *, certain: bool) -> tuple[bool, str]:
    """Return whether everything is certainly stored once, and the result in a few words.

    It is not ``certain`` if more may have been published than is known.
    """
    counted = any(store.lines and not store.uncounted for store in stores)
    once = "everything published is stored once"
    if certain and counted and all(store.complete for store in stores):
        partly = any(store.uncounted for store in stores)
        return True, f"{once.capitalize()}{', where it can be counted' * partly}"
    if certain and counted and not any(store.unread or store.troubles for store in stores):
        if any(store.total("missing", "doubled", "altered") for store in stores):
            return False, f"NOT {once}"
        return False, "Nothing is lost, but not everything is stored yet"
    if certain and not any(store.lines or store.unread or store.troubles for store in stores):
        return False, "Nothing is known of this night"
    return False, f"It is NOT certain that {once}"


def _published(device: str, said: Published, belonging: Iterable[SampleRanges]) -> SampleRanges:
    """Return the samples of a device that were published up to when its journal was asked."""
    found = said.held.copy()
    for samples in belonging:
        for _, epoch, first, last, _ in samples.ranges():
            if said.epochs is None or epoch in said.epochs:
                end = min(last, said.held.newest(device, epoch) or last)
                if first <= end:
                    found.add(device, epoch, first, end)
    return found


def _look(reader: StoreReader, store: Audited, device: str) -> Evidence:
    """Return what a store has, or acknowledged; nothing any more once it could not be read."""
    evidence = Evidence(device)
    if reader.uncounted:
        evidence.there = reader.stored - SampleRanges(reader.gone)
    elif not store.unread:
        try:
            evidence = Evidence(device, *reader.rows_of(device))
        except AwayError as error:
            store.unread = str(error)
    return evidence


def _judge(
    whole: SampleRanges, said: Published, reader: StoreReader, store: Audited, evidence: Evidence
) -> None:
    """Count and explain what a store does not have once. Raises AwayError."""
    gaps = _gaps(whole, said, reader, evidence)
    coming = sum(gap.samples for gap in gaps if gap.reason == COMING)
    missing = sum(gap.samples for gap in gaps) - coming
    again = [sample for sample in evidence.again if sample in whole]
    altered = evidence.altered(said.digests)
    unknown = SampleRanges() if said.epochs is None else evidence.of_other_epochs(said.epochs)
    lost = sum(note.samples for note in said.lost)
    if not (whole or unknown or lost):
        return
    counts = {
        "LOST": lost,
        "MISSING": missing,
        "DOUBLED": len(again),
        "ALTERED": len(altered),
        "OF UNKNOWN ORIGIN": len(unknown),
        COMING: coming,
    }
    words = [f"{count} {what}" for what, count in counts.items() if count]
    store.lines.append(
        Line(
            device=evidence.device,
            published=len(whole) + lost,
            stored=len(whole) - missing - coming - len(altered),
            missing=missing + lost,
            lost=lost,
            doubled=len(again),
            coming=coming,
            altered=len(altered),
            unknown=len(unknown),
            verdict=", ".join(words) or ("acknowledged" if reader.uncounted else "complete"),
        )
    )
    twice = SampleRanges(SampleRange(*sample, sample[2]) for sample in again)
    named = ((altered, ALTERED), (unknown, UNKNOWN), (twice, TWICE))
    found = [part._replace(reason=cause) for samples, cause in named for part in samples.ranges()]
    found += [gap for gap in gaps if gap.reason != COMING]
    room = MAX_FINDINGS - len(store.findings)
    store.findings += map(evidence.finding, found[:room])
    store.more += len(found[room:])
    store.findings += [
        Finding(device=note.device, epoch=note.epoch, first=0, last=0, when="", cause=str(note))
        for note in said.lost
    ]


def _gaps(
    whole: SampleRanges, said: Published, reader: StoreReader, evidence: Evidence
) -> list[SampleRange]:
    """Return what a store does not have of the published samples, with causes. Raises AwayError."""
    device = evidence.device
    causes = [  # the most certain first
        *(samples for samples in reader.gone if samples.device == device),
        *(samples._replace(reason=LOST) for samples in (reader.stored & whole).ranges()),
        *said.gone,
        *(samples._replace(reason=COMING) for samples in said.held.ranges()),
    ]
    found = (whole - evidence.there).explained(causes)
    lost = SampleRanges(samples for samples in found if samples.reason == LOST)
    for key in lost.keys:
        some = [*lost.ranges_of(key)]
        for row in reader.find(SampleRange(*key, some[0].first, some[-1].last)):
            evidence.add(row)
    gaps = []
    for samples in found:
        for part in (SampleRanges([samples]) - evidence.there).ranges():
            newer = said.silent and part.first > reader.stored.newest(device, part.epoch)
            cause = COMING if newer else UNASKED if said.silent else NEVER
            gaps.append(part._replace(reason=samples.reason or cause))
    return gaps


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
