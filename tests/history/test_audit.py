"""The audit trusts no store: it names missing and doubled samples, with the cause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.history.audit import MAX_FINDINGS, Audit, Published, Row, audit, text
from hcam_devices.history.stores import AwayError
from hcam_devices.journal import DAY_S
from hcam_devices.journal.notebook import Lost
from hcam_devices.journal.points import night_bounds
from hcam_devices.journal.ranges import SampleRange, SampleRanges

from ..helpers import samples

NIGHT = "2026-11-22"
START, END = night_bounds(NIGHT)
NOW = END / 1000
LATER = NOW + 15 * DAY_S
DAY_MS = 86_400_000
SILENT = "hwserver is not running"


def row(seq: int, epoch: str = "4f3c0a9be1d2", late: int = 0) -> Row:
    return Row(epoch, seq, START + 1000 * seq + late)


class FakeStore:
    """A store whose notes and rows may differ."""

    def __init__(self, name: str = "local", uncounted: str = "") -> None:
        self.name, self.uncounted = name, uncounted
        self.has: dict[str, list[Row]] = {}
        self.elsewhere: list[Row] = []
        self.stored = SampleRanges()
        self.gone: list[SampleRange] = []
        self.troubles: list[str] = []
        self.away = ""

    def keep(self, device: str, *rows: Row) -> None:
        self.has.setdefault(device, []).extend(rows)
        for one in rows:
            self.stored.add(device, one.epoch, one.seq, one.seq)

    def settle(self, gone: SampleRange) -> None:
        self.gone.append(gone)
        self.stored.add(gone.device, gone.epoch, gone.first, gone.last)

    def rows_of(self, device: str) -> tuple[list[Row], SampleRanges]:
        if self.away:
            raise AwayError(self.away)
        rows = self.has.get(device, [])
        belonging = SampleRanges()
        for epoch in {one.epoch for one in rows}:
            noted = [*self.stored.ranges_of((device, epoch))]
            belonging.add(device, epoch, noted[0].first, noted[-1].last)
        return rows, belonging

    def find(self, wanted: SampleRange) -> list[Row]:
        numbers = range(wanted.first, wanted.last + 1)
        return [one for one in self.elsewhere if one.epoch == wanted.epoch and one.seq in numbers]


EPOCH = row(1).epoch


def of(*seqs: int) -> list[Row]:
    return [row(seq) for seq in seqs]


def published(first: int, last: int, device: str = "ccd1") -> Published:
    return Published(samples(device, EPOCH, first, last))


def causes(result: Audit) -> list[str]:
    return [str(one) for store in result.stores for one in store.findings]


def test_a_night_is_complete_if_everything_published_is_there_once() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3))
    shelf.keep("slide", *of(7, 8))
    said = {"ccd1": published(1, 3), "slide": published(7, 8, "slide")}
    result = audit(NIGHT, said, [shelf], NOW)
    assert result.complete
    assert causes(result) == []
    assert result.verdict == (
        "Everything published is stored once: local has 5 samples of 2 devices."
    )


def test_a_row_that_the_store_noted_but_does_not_have_is_missing() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(*range(1, 11)))
    del shelf.has["ccd1"][3:6]
    for said, now in (({"ccd1": published(1, 10)}, NOW), ({}, LATER)):
        result = audit(NIGHT, said, [shelf], now)
        assert not result.complete
        assert causes(result) == [
            "ccd1 4-6 (epoch 4f3c): 12:00:03 to 12:00:07, noted as stored, but missing or damaged"
        ]
        assert result.stores[0].lines[0].verdict == "3 MISSING"
        assert result.verdict.startswith("NOT everything published is stored once")


def test_many_losses_hide_no_sample_that_can_be_fetched_again() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1))
    shelf.keep("slide", *of(1, 2, 3))
    del shelf.has["slide"][1]
    said = {"ccd1": published(1, 1), "slide": published(1, 3, "slide")}
    said["ccd1"].lost = [Lost("ccd1", EPOCH, NOW, NOW, 1, "disk full")] * (MAX_FINDINGS + 5)
    [store] = audit(NIGHT, said, [shelf], NOW).stores
    assert [*store.wrong.ranges()] == [SampleRange("slide", EPOCH, 2, 2)]
    assert (len(store.findings), store.more) == (MAX_FINDINGS + 5, 1)


def test_a_row_that_is_there_twice_at_another_time_is_doubled() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3), row(2, late=1), row(2, late=2), row(3, late=1))
    result = audit(NIGHT, {"ccd1": published(1, 3)}, [shelf], NOW)
    assert not result.complete
    assert result.stores[0].lines[0].doubled == 3
    assert causes(result) == ["ccd1 2-3 (epoch 4f3c): after 12:00:01, stored more than once"]
    assert "local has more than once 3 of 3 samples of 1 device" in result.verdict


def test_what_was_dropped_or_set_aside_is_named_with_its_cause() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 8))
    shelf.settle(SampleRange("ccd1", EPOCH, 3, 4, "dropped by the journal: older than 14 days"))
    shelf.settle(SampleRange("ccd1", EPOCH, 6, 6, "set aside: field type conflict"))
    said = published(5, 8)
    said.gone = [SampleRange("ccd1", EPOCH, 1, 5, "dropped by the journal: more than 2 GB")]
    result = audit(NIGHT, {"ccd1": said}, [shelf], NOW)
    assert [(one.first, one.last, one.cause) for one in result.stores[0].findings] == [
        (3, 4, "dropped by the journal: older than 14 days"),
        (6, 6, "set aside: field type conflict"),
        (5, 5, "dropped by the journal: more than 2 GB"),
    ]
    assert result.stores[0].lines[0].coming == 1  # 7, which its journal has
    assert result.stores[0].lines[0].published == 8


def test_what_the_journal_still_has_is_on_the_way_and_no_gap() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3))
    result = audit(NIGHT, {"ccd1": published(1, 5)}, [shelf], NOW)
    assert not result.complete
    assert causes(result) == []
    assert result.stores[0].lines[0].verdict == "2 pending"
    assert result.verdict.startswith("Nothing is lost, but some samples are not stored yet: ")


def test_without_a_journal_nothing_is_proven_until_the_journals_reach_back_no_more() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(4, 5, 6))
    for said in ({}, {"ccd1": Published(silent=SILENT)}):
        assert audit(NIGHT, said, [shelf], LATER).complete
    unasked = "no journal was asked"
    for said, why in (({}, unasked), ({"ccd1": Published(silent=SILENT)}, SILENT)):
        recent = audit(NIGHT, said, [shelf], NOW)
        assert not recent.complete
        assert recent.unproven == [f"{why} (ccd1)"]


def test_a_device_that_is_no_more_leaves_no_doubt_of_nights_without_it() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2))
    shelf.stored.add("formerly", EPOCH, 1, 9)
    assert audit(NIGHT, {"ccd1": published(1, 2)}, [shelf], NOW).complete


def test_of_a_night_without_samples_nothing_is_known_and_one_to_come_is_refused() -> None:
    assert audit(NIGHT, {}, [FakeStore()], NOW).verdict.startswith(
        "Nothing is known of this night: "
    )
    begins = night_bounds(NIGHT)[0] / 1000
    for now, going in ((begins - 1, "2026-11-21"), (begins - 90_000, "2026-11-20")):
        with pytest.raises(ValueError, match=f"begins at 2026-11-22T12:00 UTC; .* is {going}"):
            audit(NIGHT, {}, [FakeStore()], now)


def test_numbers_between_those_of_the_stores_were_published_whatever_the_journals_know() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(4, 5, 8))
    result = audit(NIGHT, {"ccd1": Published()}, [shelf], LATER)
    (cause,) = causes(result)
    assert cause.startswith("ccd1 6-7 (epoch 4f3c): 12:00:05 to 12:00:08, never")
    assert not result.complete


def test_what_one_store_has_another_is_asked_for() -> None:
    whole, part = FakeStore("local"), FakeStore("offsite")
    whole.keep("ccd1", *of(1, 2, 3))
    part.keep("ccd1", *of(1, 2))
    result = audit(NIGHT, {}, [whole, part], LATER)
    assert [one.complete for one in result.stores] == [True, False]
    assert "local has 3 samples" in result.verdict
    assert "offsite lacks 1 of 3 samples" in result.verdict
    silent = {"ccd1": Published(silent=SILENT)}
    assert audit(NIGHT, silent, [whole, part], LATER).verdict == result.verdict


def test_what_comes_while_the_stores_are_looked_at_one_by_one_does_not_matter() -> None:
    first, second = FakeStore("local"), FakeStore("offsite")
    first.keep("ccd1", *of(1, 2, 3))
    second.keep("ccd1", *of(1, 2, 3, 4))
    assert audit(NIGHT, {"ccd1": published(1, 3)}, [first, second], NOW).complete
    unasked = audit(NIGHT, {"ccd1": Published(silent=SILENT)}, [first, second], NOW)
    assert [store.lines[0].verdict for store in unasked.stores] == ["1 pending", "complete"]


def test_what_cannot_be_counted_is_called_acknowledged() -> None:
    counted, other = FakeStore(), FakeStore("offsite", "VictoriaMetrics keeps no epochs")
    for one in (counted, other):
        one.keep("ccd1", *of(1, 2, 3))
    other.has = {}
    said = {"ccd1": published(1, 3)}
    result = audit(NIGHT, said, [counted, other], NOW)
    assert result.complete
    assert (
        "offsite acknowledged 3 samples of 1 device, which cannot be counted: Vic" in result.verdict
    )
    assert not audit(NIGHT, said, [other], NOW).complete
    other.settle(SampleRange("ccd1", EPOCH, 4, 4, "lost with its disk"))
    counted.keep("ccd1", row(4))
    result = audit(NIGHT, {"ccd1": published(1, 5)}, [counted, other], NOW)
    assert [str(one) for one in result.stores[1].findings] == [
        "ccd1 4 (epoch 4f3c): lost with its disk"
    ]
    assert result.stores[1].lines[0].verdict == "1 MISSING, 1 pending"


def test_a_store_that_cannot_be_read_is_not_complete() -> None:
    shelf, away = FakeStore(), FakeStore("offsite")
    shelf.keep("ccd1", *of(1, 2))
    away.keep("ccd1", *of(1, 2))
    away.away = "connection refused"
    result = audit(NIGHT, {"ccd1": published(1, 2)}, [shelf, away], NOW)
    assert not result.complete
    assert "offsite could not be read: connection refused" in result.verdict
    assert result.stores[1].lines == []


def test_a_night_of_which_nothing_is_known_is_not_complete() -> None:
    result = audit(NIGHT, {"ccd1": Published()}, [FakeStore()], LATER)
    assert not result.complete
    assert "local has no samples" in result.verdict


@pytest.mark.parametrize("wrong", ["yesterday", "2026-13-01", "", "2026-11-22; DROP", "0001-01-01"])
def test_only_a_night_can_be_audited(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a night such as 2026-11-22"):
        audit(wrong, {}, [], NOW)


def test_a_sample_timed_before_noon_and_appended_after_it_is_found() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", Row(EPOCH, 1, START - 100), row(2))
    assert audit(NIGHT, {"ccd1": published(1, 2)}, [shelf], NOW).complete


def test_one_with_quite_another_time_is_found_if_the_store_noted_it() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3, 4, 5))
    shelf.has["ccd1"][2:4] = []
    shelf.elsewhere = [row(3, late=DAY_MS)]
    result = audit(NIGHT, {"ccd1": published(1, 5)}, [shelf], NOW)
    assert [(one.first, one.last) for one in result.stores[0].findings] == [(4, 4)]
    shelf.elsewhere = [row(3, late=DAY_MS), row(4, late=-DAY_MS)]
    assert audit(NIGHT, {"ccd1": published(1, 5)}, [shelf], NOW).complete


def test_trouble_is_told_even_if_nothing_of_the_night_is_missing() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2))
    shelf.troubles = ["2026-11-23.sqlite is damaged: file is not a database"]
    result = audit(NIGHT, {"ccd1": published(1, 2)}, [shelf], NOW)
    assert not result.complete
    assert "local cannot be read completely" in result.verdict
    assert shelf.troubles[0] in list(text(result))


def test_very_many_gaps_are_counted_but_not_all_listed() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(*range(1, 10_001)))
    shelf.has["ccd1"] = shelf.has["ccd1"][::2]
    result = audit(NIGHT, {"ccd1": published(1, 10_000)}, [shelf], NOW)
    assert result.stores[0].lines[0].missing == 5000
    assert len(result.model_dump_json()) < 100_000
    assert "... and 4700 more gaps" in list(text(result))


def test_many_losses_do_not_change_how_many_gaps_are_listed() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(*range(1, 1001)))
    shelf.has["ccd1"] = shelf.has["ccd1"][::2]
    shelf.keep("ccd2", *of(*range(1, 20)))
    del shelf.has["ccd2"][1::2]
    said = published(1, 1000)
    said.lost = [Lost("ccd1", EPOCH, NOW - n, NOW - n, 1, "no space") for n in range(3)]
    both = {"ccd1": said, "ccd2": published(1, 19, "ccd2")}
    result = audit(NIGHT, both, [shelf], NOW).stores[0]
    assert len(result.findings) == 300 + 3
    assert result.more == 200 + 9


def test_it_is_told_in_a_table() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3))
    shelf.keep("meerstetter1", *of(1, 2, 3))
    del shelf.has["meerstetter1"][1]
    said = {name: published(1, 3, name) for name in ("ccd1", "meerstetter1")}
    assert list(text(audit(NIGHT, said, [shelf], NOW))) == [
        "Night 2026-11-22, up to 2026-11-23 12:00:00 UTC",
        "",
        "store local",
        "device       published    stored  missing  doubled",
        "ccd1                 3         3        0        0  complete",
        "meerstetter1         3         2        1        0  1 MISSING",
        "meerstetter1 2 (epoch 4f3c): 12:00:01 to 12:00:03, "
        "noted as stored, but missing or damaged",
        "",
        "NOT everything published is stored once: local lacks 1 of 6 samples of 2 devices.",
    ]


@given(
    st.sets(st.integers(1, 30)),
    st.lists(st.integers(1, 30)),
    st.sets(st.integers(1, 30)),
    st.integers(0, 30),
)
def test_every_number_is_counted_once_as_what_it_is(
    noted: set[int], there: list[int], gone: set[int], last: int
) -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(*noted))
    shelf.has = {"ccd1": [row(seq, late=late) for late, seq in enumerate(there)]}
    for seq in gone:
        shelf.settle(SampleRange("ccd1", EPOCH, seq, seq, "gone"))
    for seq in there:
        shelf.stored.add("ccd1", EPOCH, seq, seq)
    said = published(1, last) if last else Published()
    result = audit(NIGHT, {"ccd1": said}, [shelf], NOW)
    numbers = noted | set(there) | gone if there else set()
    hull = set(range(min(numbers, default=1), max(numbers, default=0) + 1))
    whole = {seq for seq in hull | set(range(1, last + 1)) if seq <= (last or 30)}
    if not whole:
        assert result.stores[0].lines == []
        return
    (line,) = result.stores[0].lines
    counted = [seq for seq in there if seq in whole]
    assert line.published == len(whole) == line.stored + line.missing + line.coming
    assert line.stored == len(set(counted))
    assert line.doubled == len(counted) - len(set(counted))
    assert line.coming == len(set(range(1, last + 1)) - set(there) - noted - gone)


def test_what_says_something_else_than_the_journal_is_altered() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *(row(seq)._replace(digest=b"%08d" % seq) for seq in range(1, 11)))
    shelf.has["ccd1"][4] = row(5)._replace(digest=b"forged!!")
    shelf.elsewhere = [shelf.has["ccd1"].pop(7)._replace(digest=b"forged!!")]
    said = published(1, 11)
    truth = [b"%08d" % seq for seq in range(1, 10)]  # of 10 and 11 it has nothing to compare
    said.digests = [(EPOCH, 1, b"".join(truth) + bytes(16))]
    result = audit(NIGHT, {"ccd1": said}, [shelf], NOW)
    assert not result.complete
    (line,) = result.stores[0].lines
    assert (line.published, line.stored, line.altered, line.coming) == (11, 8, 2, 1)
    assert line.verdict == "2 ALTERED, 1 pending"
    assert [(one.first, one.last) for one in result.stores[0].findings] == [(5, 5), (8, 8)]
    assert result.verdict == (
        "NOT everything published is stored once: "
        "local has altered 2 and does not yet have 1 of 11 samples of 1 device."
    )


def test_an_epoch_that_no_journal_has_proves_nothing_and_lacks_nothing() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3), row(2**62, "invented"))
    said = published(1, 3)
    said.epochs = {EPOCH}
    result = audit(NIGHT, {"ccd1": said}, [shelf], NOW)
    (line,) = result.stores[0].lines
    assert (line.published, line.stored, line.missing, line.unknown) == (3, 3, 0, 1)
    assert line.verdict == "1 OF UNKNOWN ORIGIN"
    assert result.verdict.startswith("It is NOT certain that everything published is stored once")
    assert result.unproven == ["some samples have epochs that no journal has (ccd1)"]


def test_what_was_published_without_a_number_and_kept_nowhere_is_lost() -> None:
    shelf = FakeStore()
    shelf.keep("ccd1", *of(1, 2, 3))
    full = "database or disk is full"
    lost = [
        Lost(
            device=name,
            epoch=EPOCH,
            since=START / 1000 + 60,
            until=START / 1000 + 99,
            samples=20,
            reason=full,
        )
        for name in ("ccd1", "slide")
    ]
    said = {"ccd1": published(1, 3), "slide": Published(lost=lost[1:])}
    said["ccd1"].lost = lost[:1]
    result = audit(NIGHT, said, [shelf], NOW)
    assert not result.complete
    ccd1, slide = result.stores[0].lines
    assert (ccd1.published, ccd1.stored, ccd1.missing, ccd1.lost) == (23, 3, 20, 20)
    assert (slide.published, slide.stored, slide.verdict) == (20, 0, "20 LOST")
    assert causes(result)[0] == (
        "20 samples of ccd1 were published without a number and are lost, "
        "2026-11-22 12:01:00 to 12:01:39 UTC: database or disk is full"
    )
    assert result.verdict == (
        "NOT everything published is stored once: local lacks 40 of 43 samples of 2 devices."
    )
