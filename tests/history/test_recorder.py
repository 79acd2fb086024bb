"""The recorder closes parts and nights when they are over, by its clock."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from hcam_devices.config.stores import Embedded
from hcam_devices.history import recorder as module
from hcam_devices.history.journals import Journals
from hcam_devices.history.recorder import Recorder
from hcam_devices.history.replicator import Replicator
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal import Journal
from hcam_devices.journal.points import Point, night_bounds

from ..helpers import Clock, records

NIGHT = "2026-11-22"
START, END = night_bounds(NIGHT)
PART_MS, GRACE_MS = 7_200_000, 180_000


def test_parts_are_closed_once_and_the_night_at_noon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(START / 1000)
    with closing(EmbeddedStore("local", tmp_path, clock=clock)) as store:
        replicator = Replicator(store, Journals({}), clock)
        recorder = Recorder(
            "recorder",
            replicators=[replicator],
            journals=replicator.journals,
            folder=tmp_path,
            stores={"local": Embedded()},
            clock=clock,
        )

        def files_at(time: int, *new: int) -> list[str]:
            """Write samples of some times; return the closed files after the next look."""
            store.write(
                records([Point("slide", "4f3c", at - START + 1, at, {"x": 1.0}, {}) for at in new])
            )
            replicator.written += len(new)
            clock.now = time / 1000
            asyncio.run(recorder.close_due("local"))
            return sorted(path.name for path in tmp_path.glob(f"nights/{NIGHT}/*"))

        first, second = START + PART_MS, START + 2 * PART_MS
        assert files_at(first + GRACE_MS - 1, START, first) == []
        assert files_at(first + GRACE_MS) == ["slide.1.parquet"]
        assert files_at(second + GRACE_MS - 1, START + 1) == ["slide.1.parquet"]
        monkeypatch.setattr(module, "MAX_OPEN", 2)
        assert files_at(second + GRACE_MS - 1) == ["slide.1.parquet"]
        two = ["slide.1.parquet", "slide.2.parquet"]
        assert files_at(second + GRACE_MS - 1, START + 2, START + 3) == two
        three = [*two, "slide.3.parquet"]
        assert files_at(second + GRACE_MS) == three
        assert files_at(END + GRACE_MS - 1) == three
        assert files_at(END + GRACE_MS) == ["slide.parquet"]
        replicator.close()


def test_an_audit_knows_which_night_tonight_is(tmp_path: Path) -> None:
    clock = Clock(START / 1000 + 3600)
    journal = Journal(tmp_path / "journal" / "hwlogger", clock=clock)
    with closing(EmbeddedStore("local", tmp_path, clock=clock)) as store, closing(journal):
        journals = Journals({})
        journals.own = journal
        recorder = Recorder(
            "recorder",
            replicators=[Replicator(store, journals, clock)],
            journals=journals,
            folder=tmp_path,
            stores={"local": Embedded()},
            clock=clock,
        )
        for night in ("", "tonight", NIGHT):
            assert asyncio.run(recorder.audit(night))["night"] == NIGHT
