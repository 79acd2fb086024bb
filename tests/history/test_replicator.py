"""The replicator stores each sample once, through losses, repetitions and outages."""

import asyncio
import inspect
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.config.stores import Embedded
from hcam_devices.history import replicator as module
from hcam_devices.history.figures import with_stores
from hcam_devices.history.journals import Inventory, Journals
from hcam_devices.history.listener import Listener
from hcam_devices.history.recorder import Recorder
from hcam_devices.history.replicator import Replicator
from hcam_devices.history.stores import AwayError
from hcam_devices.history.stores.lost import LostNotes
from hcam_devices.journal import Journal
from hcam_devices.journal.notebook import Lost
from hcam_devices.journal.ranges import SampleRange, SampleRanges
from hcam_devices.journal.records import Page, Record, page_of, read_page, record_of
from hcam_devices.wamp.journal_service import JournalService
from hcam_devices.wamp.owner import Owners

Sample = dict[str, Any]


def sample(device: str, seq: int, epoch: str = "a") -> Sample:
    timestamp = f"2026-11-22T{seq // 3600:02d}:{seq // 60 % 60:02d}:{seq % 60:02d}.000Z"
    return {"device": device, "seq": seq, "epoch": epoch, "timestamp": timestamp, "x": float(seq)}


class MemoryStore:
    """A store that counts every row, and is away when told."""

    name = "memory"
    warning = ""

    def __init__(self) -> None:
        self.stored = SampleRanges()
        self.kept: list[tuple[str, str, int]] = []
        self.lost: list[SampleRange] = []
        self.notes = True
        self.failures: list[bool] = []
        self.fault: Exception = AwayError("out for lunch")

    def rows(self, records: Sequence[Record]) -> Sequence[Record]:
        return records

    def write(self, records: Sequence[Record]) -> None:
        if self.failures and self.failures.pop(0):
            raise self.fault
        for one in records:
            if (one.device, one.epoch, one.seq) not in self.stored:
                self.kept.append((one.device, one.epoch, one.seq))
                self.stored.add(one.device, one.epoch, one.seq, one.seq)

    def settle(self, gone: Iterable[SampleRange]) -> bool:
        for one in gone:
            self.lost.append(one)
            self.stored.add(one.device, one.epoch, one.first, one.last)
        return self.notes

    def gone(self) -> list[SampleRange]:
        return self.lost

    def aside(self) -> int:
        return 0

    def refusals(self) -> list[str]:
        return []

    def tidy(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryJournals(Journals):
    """The journal of one server, without a network; ``reachable`` says whether there is one."""

    @property
    def servers(self) -> set[str]:
        return {"hwserver"}

    def __init__(self, samples: dict[str, list[Sample]]) -> None:
        super().__init__(dict.fromkeys(samples, "hwserver"))
        self.kept = samples
        self.dropped: dict[str, list[SampleRange]] = {}
        self.reachable = True
        self.present_epoch = "now"
        self.asked = 0

    async def inventory(
        self, server: str, devices: list[str] | None = None, *period: float
    ) -> Inventory:
        self.asked += 1
        if not self.reachable:
            raise ConnectionError("no router")
        names = self.kept if devices is None else [one for one in devices if one in self.kept]
        held = SampleRanges()
        for one in (one for name in names for one in self.kept[name]):
            held.add(one["device"], one["epoch"], one["seq"], one["seq"])
        return Inventory(
            server=server,
            epoch=self.present_epoch,
            held=[
                SampleRange(*key, next(held.ranges_of(key)).first, held.newest(*key))
                for key in sorted(held.keys)
            ],
            gone=[one for name in names for one in self.dropped.get(name, [])],
            keep=1e6,
            used=1,
            most=100,
            oldest=None,
        )

    async def page(self, server: str, device: str, after: int, epoch: str) -> Page:
        await asyncio.sleep(0)
        if not self.reachable:
            raise ConnectionError("no router")
        later = [s for s in self.kept[device] if s["epoch"] == epoch and s["seq"] > after]
        return read_page(page_of(map(json.dumps, later[:7])))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_PERIOD_S", 0.001)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "LAST_PAUSE_S", 0.002)
    monkeypatch.setattr(module, "CHECK_PERIOD_S", 0.005)


async def reached(condition: Callable[[], bool]) -> None:
    """Look again at every turn of the loop."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0)


async def until_complete(replicator: Replicator, journals: MemoryJournals) -> None:
    """Let the replicator work until the store has everything that the journals have."""
    running = asyncio.create_task(replicator.run())
    try:
        async with asyncio.timeout(20):
            while any(
                (device, one["epoch"], one["seq"]) not in replicator.store.stored
                for device, samples in journals.kept.items()
                for one in samples
            ):
                await asyncio.sleep(0.001)
                assert not running.done(), running.result()
    finally:
        running.cancel()
        await asyncio.wait([running])
        replicator.close()


def published(journals: MemoryJournals) -> list[tuple[str, str, int]]:
    return sorted((d, s["epoch"], s["seq"]) for d, some in journals.kept.items() for s in some)


WHAT_HAPPENS = st.lists(
    st.sampled_from(["heard", "missed", "twice", "reboot", "away", "router", "write"]), max_size=60
)


@given(WHAT_HAPPENS)
def test_every_sample_is_stored_once_whatever_happens(events: list[str]) -> None:
    async def night() -> None:
        journals = MemoryJournals({"ccd1": [], "slide": []})
        store = MemoryStore()
        replicator = Replicator(store, journals)
        seq, epoch = 0, "a"
        running = asyncio.create_task(replicator.run())
        for number, event in enumerate(events):
            device = ("ccd1", "slide")[number % 2]
            if event == "reboot":
                seq, epoch = 0, epoch + "a"
            elif event == "away":
                store.failures += [True, False, True]
            elif event == "router":
                journals.reachable = not journals.reachable
            elif event == "write":
                await asyncio.sleep(0.003)
            else:
                seq += 1
                for name in ("ccd1", "slide"):
                    journals.kept[name].append(sample(name, seq, epoch))
                for _ in range({"heard": 1, "missed": 0, "twice": 2}[event]):
                    replicator.hear(record_of(sample(device, seq, epoch)))
        running.cancel()
        await asyncio.wait([running])
        journals.reachable = True
        await until_complete(Replicator(store, journals), journals)
        assert sorted(store.kept) == published(journals)
        assert store.lost == []

    asyncio.run(night())


async def test_live_samples_are_written_while_a_backlog_is_fetched() -> None:
    journals = MemoryJournals({"ccd1": [sample("ccd1", n) for n in range(1, 500)]})
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await reached(lambda: bool(store.kept))
    journals.kept["ccd1"].append(sample("ccd1", 500))
    replicator.hear(record_of(sample("ccd1", 500)))
    await reached(lambda: ("ccd1", "a", 500) in store.stored)
    assert ("ccd1", "a", 480) not in store.stored
    running.cancel()
    await asyncio.wait([running])
    replicator.close()


async def test_numbers_that_the_journal_dropped_are_settled_with_its_reason() -> None:
    journals = MemoryJournals({"ccd1": [sample("ccd1", n) for n in (6, 7, 9)]})
    journals.dropped["ccd1"] = [
        SampleRange("ccd1", "a", 1, 4, "older than 14 days"),
    ]
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await reached(lambda: replicator.gone == 6)
    running.cancel()
    await asyncio.wait([running])
    replicator.close()
    assert [(one.first, one.last) for one in store.lost] == [(1, 4), (5, 5), (8, 8)]
    assert store.lost[0].reason == "older than 14 days"
    assert "does not have it" in store.lost[1].reason
    assert "samples 8 to 8 of ccd1" in replicator.notices()[0].reason


async def test_a_forged_number_far_ahead_neither_stops_nor_replaces_what_is_true() -> None:
    journals = MemoryJournals({"ccd1": [sample("ccd1", 1)]})
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.hear(record_of(sample("ccd1", 1)))
    replicator.hear(record_of(sample("ccd1", 2) | {"seq": 10**15}))
    journals.kept["ccd1"].append(sample("ccd1", 2))
    replicator.hear(record_of(sample("ccd1", 2)))
    await until_complete(replicator, journals)
    assert sorted(store.kept) == [("ccd1", "a", 1), ("ccd1", "a", 2)]


async def test_while_a_store_is_away_nothing_waits_in_memory_and_people_are_told() -> None:
    journals = MemoryJournals({"ccd1": []})
    store = MemoryStore()
    now = [1e9]
    replicator = Replicator(store, journals, clock=lambda: now[0])
    replicator._is_away("503: the database is starting")
    for seq in range(1, 100):
        journals.kept["ccd1"].append(sample("ccd1", seq))
        replicator.hear(record_of(sample("ccd1", seq)))
    assert replicator._live == []
    (alarm,) = replicator.notices()
    assert alarm.severity == "WARN"
    assert "503: the database is starting" in alarm.reason
    assert "14.0 days" in alarm.reason
    assert replicator.backlog == 99
    now[0] += 60
    assert replicator.lag == 60
    replicator._accepts = True
    await until_complete(replicator, journals)
    assert len(store.kept) == 99
    assert replicator.backlog == 0
    assert replicator.notices() == []


async def test_a_store_that_does_not_answer_is_told() -> None:
    end = threading.Event()

    class StuckStore(MemoryStore):
        def write(self, records: Sequence[Record]) -> None:
            end.wait()
            super().write(records)

    now = [1e9]
    replicator = Replicator(StuckStore(), MemoryJournals({"ccd1": []}), clock=lambda: now[0])
    point = record_of(sample("ccd1", 1))._replace(time=round(1e12))
    replicator.hear(point)
    running = asyncio.create_task(replicator.run())
    await reached(lambda: replicator._writing == [point])
    now[0] += 130
    assert replicator.lag == 130
    (alarm,) = replicator.notices()
    assert alarm.severity == "ERR"
    assert "store memory has not answered since 2001-09-09T01:46:40" in alarm.reason
    end.set()
    await reached(lambda: replicator.written == 1)
    assert replicator.notices() == []
    running.cancel()
    await asyncio.wait([running])
    replicator.close()


async def test_what_is_heard_is_written_while_a_journal_lets_wait() -> None:
    class SlowJournals(MemoryJournals):
        async def inventory(self, *_: Any) -> Inventory:
            await asyncio.Event().wait()
            raise AssertionError

    store = MemoryStore()
    replicator = Replicator(store, SlowJournals({"ccd1": []}))
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await reached(lambda: not replicator.due)
    replicator.hear(record_of(sample("ccd1", 1)))
    await reached(lambda: len(store.kept) == 1)
    running.cancel()
    await asyncio.wait([running])
    replicator.close()


async def test_a_page_that_cannot_be_read_does_not_stop_the_rest() -> None:
    bad = sample("ccd1", 2) | {"timestamp": "soon"}
    journals = MemoryJournals({"ccd1": [sample("ccd1", 1), bad, sample("ccd1", 3)]})
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    await until_complete(replicator, journals)
    assert [seq for *_, seq in store.kept] == [1, 3]
    assert [(one.first, one.last) for one in store.lost] == [(2, 2)]


async def test_a_journal_that_turns_out_to_be_damaged_is_asked_again_before_samples_are_lost() -> (
    None
):
    whole = [sample("ccd1", n) for n in range(1, 30)]

    class Damaged(MemoryJournals):
        async def page(self, server: str, device: str, after: int, epoch: str) -> Page:
            if after == 7 and self.present_epoch == "now":
                self.present_epoch, self.kept["ccd1"] = "new", whole[:10] + whole[12:]
                self.dropped["ccd1"] = [SampleRange("ccd1", "a", 11, 12, "lost by damage")]
                return {}
            return await super().page(server, device, after, epoch)

    journals = Damaged({"ccd1": whole})
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await reached(lambda: ("ccd1", "a", 29) in store.stored)
    running.cancel()
    await asyncio.wait([running])
    replicator.close()
    assert [one["seq"] for one in journals.kept["ccd1"]] == [seq for *_, seq in store.kept]
    assert store.lost == [SampleRange("ccd1", "a", 11, 12, "lost by damage")]


def journals_in(folder: Path) -> list[Path]:
    return [*folder.glob("hwserver.*.sqlite")]


async def test_what_can_be_read_of_a_damaged_journal_comes_home_and_the_rest_is_lost(
    tmp_path: Path,
) -> None:
    journals = ServedJournals(tmp_path, {"hwserver": ["slide"]})
    journals.fill("hwserver", "slide", 4000)
    journals.kept["hwserver"].close()
    (file,) = journals_in(tmp_path)
    data = bytearray(file.read_bytes())
    for at in (len(data) // 3, len(data) // 2):
        data[at : at + 4096] = bytes(4096)
    file.write_bytes(data)
    journals.serve("hwserver")
    store = MemoryStore()
    replicator = Replicator(store, journals)
    running = asyncio.create_task(replicator.run())
    await reached(lambda: len(store.kept) + sum(one.samples for one in store.lost) == 4000)
    running.cancel()
    await asyncio.wait([running])
    replicator.close()
    assert 3000 < len(store.kept) < 4000
    assert {one.reason for one in store.lost} == {f"{file.name} is damaged"}
    assert len(store.stored) == 4000


async def test_numbers_lost_while_they_are_fetched_are_settled_with_the_journals_reason() -> None:
    class Damaged(MemoryJournals):
        async def page(self, server: str, device: str, after: int, epoch: str) -> Page:
            self.kept[device] = [one for one in self.kept[device] if one["seq"] != 5]
            self.dropped[device] = [SampleRange("ccd1", "a", 5, 5, "the record was damaged")]
            return await super().page(server, device, after, epoch)

    journals = Damaged({"ccd1": [sample("ccd1", n) for n in range(1, 10)]})
    store = MemoryStore()
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    await until_complete(replicator, journals)
    assert store.lost == [SampleRange("ccd1", "a", 5, 5, "the record was damaged")]


@pytest.mark.parametrize("fault", [PermissionError("/data"), ValueError("year -1"), TimeoutError()])
async def test_a_store_that_fails_in_whatever_way_is_away_and_people_are_told(
    fault: Exception,
) -> None:
    journals = MemoryJournals({"ccd1": [sample("ccd1", n) for n in range(1, 10)]})
    store = MemoryStore()
    store.fault, store.failures = fault, [True] * 1000
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await reached(lambda: bool(replicator.away))
    running.cancel()
    await asyncio.wait([running])
    (alarm,) = replicator.notices()
    assert f"{type(fault).__name__}: {fault}" in alarm.reason
    store.failures.clear()
    await until_complete(replicator, journals)
    assert len(store.kept) == 9


async def test_that_a_store_is_away_is_noticed_although_no_page_comes_either() -> None:
    journals = MemoryJournals({"ccd1": []})
    journals.reachable = False
    store = MemoryStore()
    store.failures = [True]
    replicator = Replicator(store, journals)
    replicator.hear(record_of(sample("ccd1", 1)))
    inventory = await MemoryJournals({}).inventory("hwserver")
    with pytest.raises(AwayError):
        await replicator._fetch(SampleRange("ccd1", "a", 2, 9), inventory)
    replicator.close()


async def test_a_backlog_that_cannot_be_written_is_no_reason_not_to_end() -> None:
    asked = asyncio.Event()

    class Slow(MemoryJournals):
        async def page(self, server: str, device: str, after: int, epoch: str) -> Page:
            if after:
                asked.set()
                await asyncio.Event().wait()
            return await super().page(server, device, after, epoch)

    journals = Slow({"ccd1": [sample("ccd1", n) for n in range(1, 30)]})
    store = MemoryStore()
    written = threading.Event()
    write_now = store.write

    def write(records: Sequence[Record]) -> None:
        written.wait(20)
        write_now(records)

    store.write = write  # type: ignore[method-assign]
    store.failures = [True] * 1000
    replicator = Replicator(store, journals)
    replicator.due = {"ccd1"}
    running = asyncio.create_task(replicator.run())
    await asked.wait()
    await asyncio.sleep(0)  # so that the first page is being written
    running.cancel()
    await asyncio.sleep(0)
    written.set()
    done, _ = await asyncio.wait([running], timeout=20)
    assert done
    assert running.cancelled()
    replicator.close()


async def test_what_a_store_does_not_note_as_gone_is_not_told_to_be() -> None:
    journals = MemoryJournals({"ccd1": [sample("ccd1", 2)]})
    store = MemoryStore()
    store.notes = False
    replicator = Replicator(store, journals)
    await replicator._complete(await journals.inventory("hwserver"))
    assert [(one.first, one.last) for one in store.lost] == [(1, 1)]
    assert (replicator.gone, replicator.notices()) == (0, [])
    replicator.close()


# --- the journals, and what is heard of others ----------------------------------------------


@pytest.fixture(autouse=True)
def _no_journal_is_left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what was opened here: Python 3.13 warns of a database that nobody closes."""
    opened: list[Journal] = []
    begin = Journal.__init__

    def noted(self: Journal, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(Journal, "__init__", noted)
    yield
    for journal in opened:
        journal.close()


class ServedJournals(Journals):
    """Servers, each with a journal in the same folder, and the recorder's, without a router."""

    def __init__(self, folder: Path, servers: dict[str, list[str]]) -> None:
        super().__init__({name: server for server, names in servers.items() for name in names})
        self.own = Journal(folder / "hwlogger")
        self.folder = folder
        self.kept: dict[str, Journal] = {}
        self.answers: dict[str, Callable[..., Any]] = {}
        for server in servers:
            self.serve(server)

    def serve(self, server: str) -> None:
        self.kept[server] = Journal(self.folder / server)
        service = JournalService(self.kept[server])
        for call in (service.inventory, service.page, service.digests):
            self.answers[f"hipercam.{server}.journal.{call.__name__}"] = call

    def fill(self, server: str, device: str, count: int) -> None:
        for number in range(1, count + 1):
            self.kept[server].append(sample(device, number, self.kept[server].epoch))

    async def _call(self, procedure: str, *arguments: Any) -> Any:
        if procedure not in self.answers:
            raise ApplicationError(ApplicationError.NO_SUCH_PROCEDURE)
        answer = self.answers[procedure](*arguments)
        return await answer if inspect.isawaitable(answer) else answer


async def test_what_is_gone_of_a_journal_is_known_although_it_has_nothing_more(
    tmp_path: Path,
) -> None:
    now = [1e9]

    def clock() -> float:
        return now[0]

    journals = ServedJournals(tmp_path, {"hwserver": ["slide"]})
    journals.kept["hwserver"].close()
    path = tmp_path / "hwserver"
    journal = Journal(path, keep=100, clock=clock, steady=clock)
    journals.answers["hipercam.hwserver.journal.inventory"] = JournalService(journal).inventory
    journal.append({"device": "slide", "x": 1.0})
    now[0] += 200
    journal.tidy()
    found = await journals.inventory("hwserver")
    assert not found.held
    assert [one[2:] for one in found.gone] == [
        (1, 1, "the journal keeps samples for 0.00115741 days, and at most 2 GB")
    ]


async def test_each_server_is_asked_for_all_devices_that_its_journal_has(tmp_path: Path) -> None:
    """Also those that are renamed, removed or moved."""
    journals = ServedJournals(tmp_path, {"hwserver": ["rackcomputer"], "hserver": ["moved"]})
    journals.fill("hwserver", "rackcomputer", 2000)
    for device in ("rackpc", "removed", "moved"):
        journals.fill("hwserver", device, 1500)
    journals.fill("hserver", "moved", 1200)
    store = MemoryStore()
    replicator = Replicator(store, journals)
    running = asyncio.create_task(replicator.run())
    try:
        everything = 2000 + 3 * 1500 + 1200
        await reached(lambda: len(store.kept) == everything and not replicator.backlog)
        assert replicator.gone == 0
        assert journals.knows("removed")
    finally:
        running.cancel()
        await asyncio.wait([running])
        replicator.close()


async def test_an_inventory_too_large_for_a_message_comes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hcam_devices.journal.journal.MAX_REPLY_BYTES", 300)
    names = [f"gauge{number}" for number in range(20)]
    journals = ServedJournals(tmp_path, {"hwserver": names})
    for name in names:
        journals.fill("hwserver", name, 3)
    asked = 0
    whole = journals.answers["hipercam.hwserver.journal.inventory"]

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await whole(*arguments)

    journals.answers["hipercam.hwserver.journal.inventory"] = counted
    found = await journals.inventory("hwserver")
    assert [(one.device, one.first, one.last) for one in found.held] == [
        (name, 1, 3) for name in sorted(names)
    ]
    assert asked > 3
    some = await journals.inventory("hwserver", ["gauge7", "nobody", "gauge3"])
    assert [one.device for one in some.held] == ["gauge3", "gauge7"]


@pytest.mark.parametrize(
    ("nonsense", "said"),
    [
        ({"next": "slide"}, "does not end"),
        ({"held": [["slide", "a", 3, 2]]}, "has invalid ranges"),
        ({"held": [["slide", "a", 1, "many"]]}, "valid integer"),
    ],
)
async def test_an_inventory_that_is_nonsense_is_no_answer(
    tmp_path: Path, nonsense: dict[str, Any], said: str
) -> None:
    journals = ServedJournals(tmp_path, {"hwserver": ["slide"]})
    answer = journals.kept["hwserver"].inventory() | nonsense
    journals.answers["hipercam.hwserver.journal.inventory"] = lambda *_: answer
    with pytest.raises(ValueError, match=said):
        await journals.inventory("hwserver")
    answers = await journals.inventories()
    assert isinstance(answers["hwserver"], ValueError)
    assert isinstance(answers["hwlogger"], Inventory)


async def test_a_journal_that_began_anew_while_it_was_asked_is_asked_again(
    tmp_path: Path,
) -> None:
    journals = ServedJournals(tmp_path, {"hwserver": ["rackpc"]})
    journals.fill("hwserver", "rackpc", 3)
    replicator = Replicator(MemoryStore(), journals)
    before = await journals.inventory("hwserver")
    journals.kept["hwserver"].close()
    for file in journals_in(tmp_path):
        file.rename(tmp_path / "away")
    journals.serve("hwserver")
    with pytest.raises(ConnectionError, match="asked again later"):
        await replicator._fetch(before.held[0], before)
    assert replicator.gone == 0
    replicator.close()


async def test_of_a_server_that_is_not_declared_only_devices_that_it_presents_are_believed(
    tmp_path: Path,
) -> None:
    journals = ServedJournals(tmp_path, {"hwserver": ["slide"], "other": []})
    for name in ("slide", "guest", "removed"):
        journals.fill("other", name, 3)
    assert journals.servers == {"hwlogger", "hwserver"}
    journals.present("guest", "other")
    found = await journals.inventory("other")
    assert [one.device for one in found.held] == ["guest"]
    epoch = journals.kept["other"].epoch
    assert ("guest", epoch) in journals.epochs
    assert ("slide", epoch) not in journals.epochs


async def test_a_night_is_not_certain_without_the_server_that_had_a_device(
    tmp_path: Path,
) -> None:
    journals = ServedJournals(tmp_path, {"hwserver": ["slide"]})
    journals.fill("hwserver", "rackpc", 3)
    now = time.time()
    period = now - 1000, now + 1000
    published = await journals.published(*period)
    assert published["slide"].silent == published["rackpc"].silent == ""
    assert len(published["rackpc"].held) == 3
    assert [len(packed) for *_, packed in published["rackpc"].digests] == [24]
    assert published["slide"].epochs == {journals.kept["hwserver"].epoch}
    journals.answers.clear()
    published = await journals.published(*period)
    silent = "its journal does not answer: check that its server is running"
    assert published["slide"].silent == published["rackpc"].silent == silent


def recorder_in(folder: Path) -> tuple[Recorder, Replicator]:
    journals = ServedJournals(folder, {"hwserver": ["slide"]})
    replicator = Replicator(MemoryStore(), journals)
    settings = {"memory": Embedded(), "other": Embedded(folder="elsewhere")}
    recorder = with_stores(Recorder, ["memory"])(
        "recorder", replicators=[replicator], journals=journals, folder=folder, stores=settings
    )
    recorder.listener.owners.known["guider"] = None
    recorder.listener.owners.strangers.add(("guider", 7))
    return recorder, replicator


def listener_in(folder: Path) -> tuple[Listener, Replicator]:
    recorder, replicator = recorder_in(folder)
    return recorder.listener, replicator


def event(name: str = "guider", publisher: int | None = 7) -> SimpleNamespace:
    return SimpleNamespace(topic=f"hipercam.{name}.telemetry", publisher=publisher)


def test_what_another_program_says_is_numbered_once_however_often_it_is_said(
    tmp_path: Path,
) -> None:
    listener, replicator = listener_in(tmp_path)
    said = {"timestamp": "2026-11-22T04:44:44.196Z", "seq": None, "x": 1, "huge": 10**5000}
    epitaph = {"timestamp": None, "seq": None}
    undated = {"timestamp": None, "x": 2}
    for one in (said, said, epitaph, said | {"x": 3}, undated, undated):
        listener.hear(one, _event=event())
    assert [(one.seq, one.point.values["x"]) for one in replicator._live] == [
        (1, 1),
        (2, 3),
        (3, 2),
        (4, 2),
    ]
    assert [one["huge"] for one in listener.journals.own.samples("guider", 0, 2)] == [None, None]


@pytest.mark.parametrize(
    ("args", "named", "kept"),
    [
        ([], {"fwhm": 1.25, "x": 3}, {"fwhm": 1.25, "x": 3.0}),
        ([{"x": 1}, 2], {"y": 3}, {"x": 1.0, "y": 3.0, "value": "[2]"}),
        ([7, "a"], {}, {"value": '[7, "a"]'}),
        (
            [{"ra": 1.0, "epoch": 2000.0, "seq": 17, "device": "mount"}],
            {},
            {"ra": 1.0, "said.epoch": 2000.0, "said.seq": 17.0, "said.device": "mount"},
        ),
        ([{"timestamp": 20261128, "x": 1}], {}, {"x": 1.0, "said.timestamp": 20261128.0}),
        ([{"timestamp": "noon", "x": 1}], {}, {"x": 1.0, "said.timestamp": "noon"}),
        ([{"device": "guider", "seq": None, "epoch": None, "x": 1}], {}, {"x": 1.0}),
    ],
)
def test_nothing_of_what_another_program_says_is_left_out(
    tmp_path: Path, args: list[Any], named: dict[str, Any], kept: dict[str, Any]
) -> None:
    listener, replicator = listener_in(tmp_path)
    listener.hear(*args, _event=event(), **named)
    (record,) = replicator._live
    assert record.point.values == kept
    assert listener.notices() == []


def test_who_says_more_than_is_kept_is_told(tmp_path: Path) -> None:
    listener, replicator = listener_in(tmp_path)
    many = {f"x{n}": n for n in range(501)}
    listener.hear(many, _event=event())
    assert len(replicator._live[0].point.values) == 500
    (alarm,) = listener.notices()
    assert "only 500 fields of each sample of guider are recorded" in alarm.reason


def test_why_telemetry_is_not_recorded_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener, _ = listener_in(tmp_path)
    now = 1e9
    listener.clock = lambda: now

    def fail(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(listener.journals.own, "append", fail)
    for _ in range(100):
        listener.hear({"x": now}, _event=event())
        now += 2
    assert caplog.text.count("telemetry without numbers is not recorded: guider") == 1
    now += 60
    listener.hear({"x": now}, _event=event())
    assert caplog.text.count("telemetry without numbers is not recorded: guider") == 2


async def test_the_disk_that_is_told_is_the_fullest_of_those_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: 90e9, tmp_path / "elsewhere": 3e9}

    def disk_usage(path: Path) -> SimpleNamespace:
        if not path.exists():
            raise FileNotFoundError(path)
        return SimpleNamespace(free=free.get(path, 99e9))

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    recorder, _ = recorder_in(tmp_path)
    assert await recorder.read(recorder.fields["disk"]) == 90.0
    (tmp_path / "elsewhere").mkdir()
    assert await recorder.read(recorder.fields["disk"]) == 3.0


async def test_a_disk_that_hangs_is_a_figure_without_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: over.wait())
    monkeypatch.setattr("hcam_devices.history.recorder.DISK_WITHIN", 0.01)
    recorder, _ = recorder_in(tmp_path)
    with pytest.raises(ValueError, match="no answer from the disk of /"):
        await recorder.read(recorder.fields["disk"])
    over.set()


class ScriptedOwners(Owners):
    """Owners as a test says, each time the router is asked."""

    def __init__(self, **owners: int) -> None:
        super().__init__()
        self.owners = owners
        self.servers: dict[int, str] = {}
        self.asked: list[str] = []

    async def _ask(self, name: str) -> int | None:
        self.asked.append(name)
        await asyncio.sleep(0)
        return self.owners.get(name)

    async def server(self, session: int) -> str:
        return self.servers.get(session, "")

    async def describe(self, session: int | None) -> str:
        return f"session {session} at tcp4:127.0.0.1:{session}"


async def heard(listener: Listener, name: str, publisher: int | None, sample: Sample) -> None:
    """Let a listener hear a sample, and decide."""
    listener.hear(sample, _event=event(name, publisher))
    while listener.deciding:
        await asyncio.wait(listener.deciding)


async def test_only_the_owner_of_a_name_is_recorded_under_it(tmp_path: Path) -> None:
    listener, replicator = listener_in(tmp_path)
    owners = listener.owners = ScriptedOwners(slide=1)
    listener.journals.epochs.add(("slide", "a"))
    await heard(listener, "slide", 1, sample("slide", 1))
    for seq, epoch in ((2, "a"), (3, "a"), (2**62, "f")):
        await heard(listener, "slide", 666, sample("slide", seq, epoch) | {"x": 666.0})
    await heard(listener, "slide", None, sample("slide", 2) | {"x": 666.0})
    await heard(listener, "slide", 1, sample("slide", 2))
    assert [(one.seq, one.point.values["x"]) for one in replicator._live] == [(1, 1.0), (2, 2.0)]
    assert len(owners.asked) <= 3
    (alarm,) = (one for one in listener.notices() if "names" in one.reason)
    assert "4 samples under the names of slide since " in alarm.reason
    assert "because session 666 at tcp4:127.0.0.1:666, " in alarm.reason
    assert "stop that program, or give it another name" in alarm.reason


async def test_a_new_owner_is_believed_and_the_old_one_no_more(tmp_path: Path) -> None:
    listener, replicator = listener_in(tmp_path)
    owners = listener.owners = ScriptedOwners(slide=1)
    listener.journals.epochs.add(("slide", "a"))
    await heard(listener, "slide", 1, sample("slide", 1))
    owners.owners["slide"] = 2
    owners._changed(2, {"uri": "hipercam.slide.rpc.", "id": 9})
    await heard(listener, "slide", 2, sample("slide", 2))
    await heard(listener, "slide", 1, sample("slide", 3) | {"x": 666.0})
    assert [one.seq for one in replicator._live] == [1, 2]


async def test_no_epoch_is_believed_that_no_journal_has(tmp_path: Path) -> None:
    listener, replicator = listener_in(tmp_path)
    listener.owners = ScriptedOwners(slide=1)
    await heard(listener, "slide", 1, sample("slide", 5, "invented"))
    assert replicator._live == []
    assert replicator.due == {"slide"}


async def test_a_device_that_is_declared_is_not_recorded_while_nobody_owns_its_name(
    tmp_path: Path,
) -> None:
    listener, replicator = listener_in(tmp_path)
    listener.owners = ScriptedOwners()
    await heard(listener, "slide", 666, sample("slide", 5))
    assert replicator._live == []
    assert "1 samples under the names of slide" in listener.notices()[0].reason


async def test_invented_names_are_bounded_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hcam_devices.history.listener.MAX_FOREIGN_NAMES", 3)
    listener, replicator = listener_in(tmp_path)
    listener.owners = ScriptedOwners()
    listener.remember_names({"autoguider", "slide"})
    for name in (*(f"ghost{n}" for n in range(5)), "autoguider", "ghost4"):
        await heard(listener, name, 666, sample(name, 10**9))
    assert [one.device for one in replicator._live] == ["ghost0", "ghost1", "autoguider"]
    assert replicator._live[0].seq == 1
    assert replicator._live[0].point.values["said.seq"] == 1e9
    (alarm,) = listener.notices()
    assert alarm.reason.startswith("4 samples of ghost2, ghost3, ghost4 are not recorded")


async def test_if_the_router_does_not_say_who_publishes_the_journals_are_asked(
    tmp_path: Path,
) -> None:
    listener, replicator = listener_in(tmp_path)
    await heard(listener, "slide", 1, sample("slide", 1))
    assert replicator._live == []
    assert replicator.due == {"slide"}
    assert "there is no router" in listener.notices()[0].reason


def lose(journal: Journal, device: str, count: int) -> None:
    """Have a journal note that some samples could not be kept."""
    for _ in range(count):
        journal._lose(device, "disk full")
    journal.tidy()


async def test_what_a_journal_lost_is_an_alarm_and_noted_beside_the_stores(tmp_path: Path) -> None:
    recorder, _ = recorder_in(tmp_path)
    journals = recorder.journals
    assert isinstance(journals, ServedJournals)
    there = journals.kept["hwserver"]
    lose(there, "slide", 3)
    lose(journals.own, "slide", 3)  # the recorder received them, but its disk is full, too
    lose(journals.own, "guider", 1)
    answers = await journals.inventories()
    held, own = answers["hwserver"], answers["hwlogger"]
    assert isinstance(held, Inventory)
    assert isinstance(own, Inventory)
    assert [one.samples for one in held.lost] == [3]
    assert [one.device for one in own.lost] == ["guider"]
    (alarm,) = recorder.notices()
    assert "1 samples of guider were published without a number and are lost" in alarm.reason
    assert "; and of 1 other device: see hcam audit" in alarm.reason
    remembering = asyncio.create_task(recorder.remember_lost())
    notes = [LostNotes(tmp_path / folder) for folder in ("history", "elsewhere")]
    await reached(lambda: all(len(one.read()) == 2 for one in notes))
    remembering.cancel()
    await asyncio.wait([remembering])
    notes[0].add(held.lost)
    assert notes[0].path.read_bytes().count(b"slide") == 1


async def test_what_the_recorder_has_kept_itself_is_not_lost(tmp_path: Path) -> None:
    recorder, _ = recorder_in(tmp_path)
    journals = recorder.journals
    assert isinstance(journals, ServedJournals)
    there = journals.kept["hwserver"]
    lose(there, "slide", 2)
    (lost,) = (await journals.inventory("hwserver")).lost
    unnumbered = sample("slide", 1) | {"seq": None, "epoch": there.epoch}
    for left in ([1], []):
        recorder.listener.hear_foreign("slide", unnumbered | {"x": len(left)})
        assert [note.samples for note in await journals.not_kept_here([lost])] == left
    soon = lost._replace(since=lost.since + 0.3, until=lost.until + 0.3)
    notes = await journals.not_kept_here([soon, lost._replace(samples=1)])
    assert sum(note.samples for note in notes) == 1  # a kept sample counts for one loss only


def test_a_damaged_note_costs_itself_alone(tmp_path: Path) -> None:
    notes = LostNotes(tmp_path)
    assert notes.read() == []
    some = [
        Lost(device="a", epoch="e", since=n, until=n + 1, samples=1, reason="full")
        for n in (1.0, 2.0)
    ]
    notes.add(some[:1])
    with notes.path.open("ab") as file:
        file.write(b'{"device": "a", "ep')
    notes.add(some[1:])
    assert notes.read() == some


async def test_what_the_recorder_kept_of_a_device_does_not_do_without_its_server(
    tmp_path: Path,
) -> None:
    """Samples that a server could not number are in the recorder's journal, and only those."""
    journals = ServedJournals(tmp_path, {"hwserver": ["slide"]})
    journals.own.append({"device": "slide", "timestamp": "2026-11-22T04:44:44.196Z"})
    period = time.time() - 1000, time.time() + 1000
    said = (await journals.published(*period))["slide"]
    assert (said.silent, len(said.held)) == ("", 1)
    assert said.epochs == {journals.own.epoch, journals.kept["hwserver"].epoch}
    journals.answers.clear()
    said = (await journals.published(*period))["slide"]
    assert said.silent
    assert len(said.held) == 1


async def test_the_server_that_presents_a_device_is_asked_whatever_is_declared(
    tmp_path: Path,
) -> None:
    listener, replicator = listener_in(tmp_path)
    journals = listener.journals
    assert isinstance(journals, ServedJournals)
    journals.serve("other")
    journals.fill("other", "guest", 3)
    epoch = journals.kept["other"].epoch
    owners = listener.owners = ScriptedOwners(guest=5, ghost=6)
    owners.servers = {5: "other"}
    await heard(listener, "guest", 5, sample("guest", 3, epoch))
    await heard(listener, "ghost", 6, sample("ghost", 1, "f"))
    assert replicator.due == {"guest"}
    await replicator._ask({"guest"})
    assert sorted(seq for _, _, seq in replicator.store.kept) == [1, 2, 3]  # type: ignore[attr-defined]
    await heard(listener, "guest", 5, sample("guest", 4, epoch))
    assert [one.seq for one in replicator._live] == [4]
    assert not listener.unexplained()
    listener.clock = lambda: time.time() + 1000
    (alarm,) = (one for one in listener.notices() if "no journal" in one.reason)
    assert alarm.reason.startswith("the samples of ghost are not recorded, because no journal")
    replicator.close()
