"""The digest of a sample is the same before and after storing it."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcam_devices.history.inventory import Nights
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal import Journal
from hcam_devices.journal.digest import NONE, digest
from hcam_devices.journal.points import Field, Point, flatten
from hcam_devices.wamp import journal_service as module
from hcam_devices.wamp.journal_service import JournalService

from ..helpers import records, samples

WHEN = "2026-11-22T20:00:00.000Z"
NIGHT = "2026-11-22"
VALUES = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text(st.characters(codec=None), max_size=20)
    | st.none()
    | st.integers(-(2**60), 2**60)
)


def test_it_is_what_is_written_down() -> None:
    values: dict[str, Field] = {"x": 0.1, "on": True, "a": "é", "big": 1e22, "zero": -0.0}
    point = Point("ccd1", "e", 7, 1_795_377_600_000, values, {"x": "mbar"})
    text = "7|1795377600000|a|é|big|1e+22|on|true|x|0.10000000000000001|zero|-0"
    assert digest(point) == md5(text.replace("|", "\x1f").encode()).digest()[:8]


@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=6), min_size=1, max_size=8))
@settings(max_examples=10)
def test_what_the_store_gives_back_has_the_digest_of_what_was_published(
    tmp_path_factory: pytest.TempPathFactory, samples: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("digest")
    head = {"device": "ccd1", "epoch": "e", "timestamp": WHEN}
    published = [fields | head | {"seq": n} for n, fields in enumerate(samples, 1)]
    with closing(EmbeddedStore("local", folder)) as store:
        store.write(records([flatten(one) for one in published]))
        rows, _ = Nights("local", folder, NIGHT).rows_of("ccd1")
        journal = [json.loads(json.dumps(one)) for one in published]
        assert {row.seq: row.digest for row in rows} == {
            one["seq"]: digest(flatten(one)) for one in journal
        }


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal")) as journal:
        yield journal


def fill(journal: Journal, count: int) -> list[bytes]:
    samples = [
        journal.append({"device": "ccd1", "timestamp": WHEN, "x": float(n)}) for n in range(count)
    ]
    return [digest(flatten(one)) for one in samples]


def asked(shelf: JournalService, first: int, last: int) -> list[bytes]:
    packed = b64decode(asyncio.run(shelf.digests("ccd1", first, last, shelf.journal.epoch)))
    return [packed[n : n + 8] for n in range(0, len(packed), 8)]


@pytest.mark.parametrize(("first", "last"), [(1, 25), (3, 9), (10, 10), (20, 29), (5, 24)])
def test_a_journal_gives_the_digests_of_any_numbers(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, first: int, last: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    shelf = JournalService(journal)
    everything = [*fill(journal, 25), *[NONE] * 10]
    for _ in range(2):
        assert asked(shelf, first, last) == everything[first - 1 : last]


def test_a_whole_block_is_read_once_and_one_that_grows_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    read: list[int] = []

    def records(device: str, first: int, last: int, epoch: str) -> list[tuple[int, str]]:
        read.append(first)
        return Journal.records(journal, device, first, last, epoch)

    monkeypatch.setattr(journal, "records", records)
    shelf = JournalService(journal)
    before = fill(journal, 12)
    assert asked(shelf, 1, 12) == before
    after = fill(journal, 3)
    assert asked(shelf, 1, 15) == [*before, *after]
    assert read == [0, 10, 10]


def test_what_is_repaired_is_there_once_as_it_was_published(tmp_path: Path) -> None:
    forged: tuple[dict[str, Field], ...] = {"x": 666.0}, {"text": "forged"}
    true = [
        Point("ccd1", "e", seq, 1_795_377_600_000 + 1000 * seq, {"x": float(seq)}, {})
        for seq in range(1, 7)
    ]
    with closing(EmbeddedStore("local", tmp_path)) as store:
        store.write(
            records(
                [
                    *true[:2],
                    true[2]._replace(values=forged[0]),
                    true[3]._replace(values=forged[1], time=true[3].time + 5),
                    true[4]._replace(time=true[4].time + 3 * 86_400_000),
                ]
            )
        )
        assert store.close_nights(NIGHT) == []
        store.repair(samples("ccd1", "e", 3, 5))
        store.write(records(true))
        assert list(NightFiles(tmp_path).samples(NIGHT)) == true
        assert list(NightFiles(tmp_path).samples("2026-11-25")) == []
        assert not samples("ccd1", "e", 1, 6) - store.stored
    with closing(EmbeddedStore("local", tmp_path)) as store:
        assert samples("ccd1", "e", 1, 7) - store.stored == samples("ccd1", "e", 7, 7)
        store.tidy()
