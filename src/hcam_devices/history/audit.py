"""The audit of a night: whether every published sample is stored exactly once, or why not.

A sample counts as published if a server's journal appended it in that night, or if its number is
between numbers that a store has. The audit reads the rows that each store really has, and does not
rely on the store's notes; rows with digests are compared with the journals.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from ..core.device import iso_from_s
from ..journal import KEEP
from ..journal.digest import NONE, SIZE
from ..journal.notebook import Lost
from ..journal.points import night_bounds, night_of
from ..journal.ranges import SampleRange, SampleRanges, numbers_of
from .stores import AwayError

MAX_FINDINGS = 300
"""List at most this many findings of a store, because a reply must fit into one message."""

LOST = "noted as stored, but missing or damaged"
NEVER = "never stored, and no journal has it any more"
UNASKED = "not stored, and no journal answered"
TWICE = "stored more than once"
COMING = "pending"
ALTERED = "differs from the journal, which is right: it is fetched again"
UNKNOWN = "no journal has this epoch: its journal was removed, or another program published it"


class Row(NamedTuple):
    """A sample that a store really has; ``time`` is in ms since 1970.

    ``digest`` is the digest of the sample (``journal/digest.py``), or empty if none is compared.
    """

    epoch: str
    seq: int
    time: int
    digest: bytes = b""


class StoreReader(Protocol):
    """Reads the samples of a night that a store really has. The methods raise AwayError."""

    name: str
    uncounted: str
    """Why the rows cannot be counted (``rows_of`` is not called then); empty if they can."""
    stored: SampleRanges
    """The samples that the store noted as stored, including those that it will never have."""
    gone: list[SampleRange]
    """Those of ``stored`` that are lost or were rejected, with reasons."""
    troubles: list[str]
    """A sentence for each part of the store's files that could not be read so far."""

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        """Return the undamaged rows of a device in and around the night, and the samples to expect.

        The latter have the numbers between the last one before the night and the first after it.
        """

    def find(self, wanted: SampleRange) -> list[Row]:
        """Return the rows of some samples, at any time."""


@dataclass
class Published:
    """The samples of a device in a night, according to the journals, or why they are unknown."""

    held: SampleRanges = field(default_factory=SampleRanges)
    gone: list[SampleRange] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    silent: str = ""
    digests: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Epoch, first number, and the digests from that number on: SIZE bytes each, or NONE."""
    epochs: set[str] | None = None
    """Every epoch of the device in any journal, of any night; None if unknown."""


UNASKED_DEVICE = Published(silent="no journal was asked")


class Finding(BaseModel):
    """Samples that are not stored exactly once: ``when`` they were published (UTC), and the cause.

    ``first`` and ``last`` are 0 for samples that were lost before they had numbers.
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

    ``coming``: not stored yet, but in a journal. ``missing`` includes ``lost``: published without
    a number and stored nowhere. ``altered``: different from the journal. ``unknown``: of epochs
    that no journal has; these do not count as published.
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

    ``unread``: why nothing could be read. ``more``: the number of findings that are not listed.
    ``wrong``: the samples to be fetched again; all of them, and only in this process.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    uncounted: str
    unread: str = ""
    troubles: list[str] = []
    lines: list[Line] = []
    findings: list[Finding] = []
    more: int = 0
    verdict: str = ""
    wrong: SampleRanges = Field(default_factory=SampleRanges, exclude=True)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, doubled, altered or pending, and everything could be read."""
        bad = self.unread or self.troubles or self.total("missing", "doubled", "coming", "altered")
        return not bad

    def total(self, *columns: str) -> int:
        """Return the sum of some columns over all devices."""
        return sum(getattr(line, column) for line in self.lines for column in columns)


class Audit(BaseModel):
    """The result for a night, up to the time ``at`` (UTC)."""

    night: str
    at: str
    stores: list[Audited]
    unproven: list[str]
    """Why more samples may have been published than are known here."""
    complete: bool
    """Whether every store certainly has every sample once, and at least one was counted."""
    verdict: str


class Evidence:
    """The samples of one device that one store has."""

    def __init__(
        self, device: str, rows: Iterable[Row] = (), belonging: SampleRanges | None = None
    ) -> None:
        self.device, self.belonging = device, belonging or SampleRanges()
        self.there = SampleRanges()
        self.again: list[tuple[str, str, int]] = []
        """Device, epoch and number of each row that repeats another row."""
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
        """Add one row."""
        self.there.add(self.device, row.epoch, row.seq, row.seq)
        insort(self._rows[row.epoch], row[1:])

    def altered(self, digests: Iterable[tuple[str, int, bytes]]) -> SampleRanges:
        """Return the samples whose digests differ from the published ones."""
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
        """Return the samples of any other epoch."""
        found = SampleRanges()
        for epoch, rows in self._rows.items():
            if epoch not in epochs:
                found.add_numbers(self.device, epoch, (seq for seq, *_ in rows))
        return found

    def finding(self, samples: SampleRange) -> Finding:
        """Return samples and their reason as a finding, whose time is that of their neighbours."""
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

    ``published`` contains the samples of the journals by device. For any other device in a store,
    the result is uncertain as long as a journal could have more samples. ``now`` is a Unix time.
    Raises ValueError if the night does not exist or has not begun.
    """
    start, end = night_bounds(night)
    if now < start / 1000:
        tonight = night_of(round(now * 1000))
        begin = iso_from_s(start / 1000)[:16]
        raise ValueError(f"night {night} begins at {begin} UTC; tonight is {tonight}")
    stores = [Audited(name=reader.name, uncounted=reader.uncounted) for reader in readers]
    silent: dict[str, list[str]] = defaultdict(list)
    noted = {device for reader in readers for device, _ in reader.stored.keys}
    for device in sorted(noted | published.keys()):
        said = published.get(device, UNASKED_DEVICE)
        if now >= end / 1000 + KEEP:  # a journal that does not answer cannot have more
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
        unproven.append(f"some samples have epochs that no journal has ({_some(sorted(strange))})")
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

    ``certain`` is false if more samples may have been published than are known.
    """
    counted = any(store.lines and not store.uncounted for store in stores)
    once = "everything published is stored once"
    if certain and counted and all(store.complete for store in stores):
        partly = any(store.uncounted for store in stores)
        return True, f"{once.capitalize()}{', where it can be counted' * partly}"
    if certain and counted and not any(store.unread or store.troubles for store in stores):
        if any(store.total("missing", "doubled", "altered") for store in stores):
            return False, f"NOT {once}"
        return False, "Nothing is lost, but some samples are not stored yet"
    if certain and not any(store.lines or store.unread or store.troubles for store in stores):
        return False, "Nothing is known of this night"
    return False, f"It is NOT certain that {once}"


def _published(device: str, said: Published, belonging: Iterable[SampleRanges]) -> SampleRanges:
    """Return the samples of a device that were published before its journal was asked."""
    found = said.held.copy()
    for samples in belonging:
        for _, epoch, first, last, _ in samples.ranges():
            if said.epochs is None or epoch in said.epochs:
                end = min(last, said.held.newest(device, epoch) or last)
                if first <= end:
                    found.add(device, epoch, first, end)
    return found


def _look(reader: StoreReader, store: Audited, device: str) -> Evidence:
    """Return what a store has, or has acknowledged; empty once it could not be read."""
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
    """Count and explain the samples that a store does not have exactly once. Raises AwayError."""
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
    named = ((altered, ALTERED), (unknown, UNKNOWN), (numbers_of(again), TWICE))
    found = [part._replace(reason=cause) for samples, cause in named for part in samples.ranges()]
    found += [gap for gap in gaps if gap.reason != COMING]
    store.wrong |= altered
    store.wrong |= SampleRanges(gap for gap in gaps if gap.reason == LOST)
    room = max(MAX_FINDINGS - len(store.findings), 0)
    store.findings += map(evidence.finding, found[:room])
    store.more += len(found[room:])
    store.findings += [
        Finding(device=note.device, epoch=note.epoch, first=0, last=0, when="", cause=str(note))
        for note in said.lost
    ]


def _gaps(
    whole: SampleRanges, said: Published, reader: StoreReader, evidence: Evidence
) -> list[SampleRange]:
    """Return the published samples that a store does not have, with causes. Raises AwayError."""
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
        return f"{store.name} has no samples"
    if store.uncounted and store.complete:
        return f"{store.name} acknowledged {whole}, which cannot be counted: {store.uncounted}"
    totals = {
        "lacks": store.total("missing"),
        "has more than once": store.total("doubled"),
        "has altered": store.total("altered"),
        "does not yet have": store.total("coming"),
    }
    words = [f"{what} {count}" for what, count in totals.items() if count]
    result = f"{' and '.join(words)} of {whole}" if words else f"has {whole}"
    return f"{store.name} {'cannot be read completely; it ' if store.troubles else ''}{result}"


def text(result: Audit) -> Iterator[str]:
    """Yield the lines of a report."""
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
