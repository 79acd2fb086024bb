"""Copies of closed nights in another folder, which is away, full, or read-only for a while."""

import asyncio
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hcam_devices.config.stores import Embedded, Folder, StoreSettings
from hcam_devices.history import copier as copier_module
from hcam_devices.history.audit import Audit, Published, audit
from hcam_devices.history.copier import Copier
from hcam_devices.history.inventory import readers
from hcam_devices.history.stores import AwayError
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal.points import Point, night_bounds
from tests.helpers import AT_MOST, Clock, records, samples

NIGHT, NEXT = "2026-11-22", "2026-11-23"
START, END = night_bounds(NIGHT)
NOW = END / 1000
DAY_MS = 86_400_000
EPOCH = "4f3c0a9be1d2"
DEVICES = "ccd1", "b/c"


def points(first: int, last: int, device: str = "ccd1", offset: int = 0) -> list[Point]:
    return [
        Point(device, EPOCH, n, START + 1000 * n + offset, {"x": n / 7}, {"x": "K"})
        for n in range(first, last + 1)
    ]


class Site:
    """An embedded store, and a folder of copies, which is made only on request."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder, self.target = home, home / "history", home / "mnt" / "copies"
        self.clock = Clock()
        self.target.parent.mkdir()
        self.copier = self.begin()

    def begin(self) -> Copier:
        note = self.home / "stores" / "nas.folder"
        return Copier("nas", self.target, self.folder, note, self.clock)

    def keep(self, some: Iterable[Point], close: str = NIGHT) -> None:
        with closing(EmbeddedStore("local", self.folder, clock=lambda: NOW)) as store:
            store.write(records(some))
            assert not close or store.close_nights(close) == []

    def copied(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.target / "nights")): path.read_bytes()
            for path in self.target.glob("nights/*/*")
            if path.name != "files.json"
        }

    def closed(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder / "nights")): path.read_bytes()
            for path in self.folder.glob("nights/*/*")
        }

    def audited(self, night: str = NIGHT, first: int = 1, last: int = 50) -> Audit:
        said = {"ccd1": Published(samples("ccd1", EPOCH, first, last))}
        nas = Folder(kind="folder", folder=self.target)
        stores: dict[str, StoreSettings] = {"local": Embedded(), "nas": nas}
        return audit(night, said, readers(stores, self.home, night), NOW)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def full(site: Site) -> Iterator[Callable[[], None]]:
    """The folder of copies is on a small disk that is full; return what makes room."""
    if os.geteuid():
        pytest.skip("only root mounts a disk")
    site.target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(site.target)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine mounts no disk")
    filler = site.target / "filler"
    filler.write_bytes(bytes(40_000))
    try:
        yield filler.unlink
    finally:
        subprocess.run(["umount", str(site.target)], check=True)


def test_closed_files_are_copied_and_nothing_else(site: Site) -> None:
    site.keep([*points(1, 50), *points(1, 9, "b/c")])
    site.keep(points(51, 60, offset=DAY_MS), close="")
    site.target.mkdir()
    assert not site.copier.copy()
    assert site.copied() == site.closed()
    assert site.copied().keys() == {f"{NIGHT}/ccd1.parquet", f"{NIGHT}/b%2Fc.parquet"}
    assert site.copier.backlog == 0
    assert site.copier.notices() == []
    assert all(store.complete for store in site.audited().stores)
    (local, nas) = site.audited(NEXT, 51, 60).stores
    assert [line.verdict for line in local.lines] == ["complete"]
    assert [line.verdict for line in nas.lines] == ["10 pending"]


def test_a_file_that_was_replaced_is_replaced_there_too(site: Site) -> None:
    site.target.mkdir()
    parts = []
    for first in (1, 21):
        with closing(EmbeddedStore("local", site.folder, clock=lambda: START / 1000 + 7400)) as one:
            one.write(records(points(first, first + 19, offset=3_600_000 * (first // 21))))
            assert one.close_nights() == []
        site.copier.copy()
        parts.append(site.copied().keys())
    assert parts[0] <= parts[1]
    site.keep(points(41, 50))
    site.copier.copy()
    assert site.copied() == site.closed()
    assert site.copied().keys() == {f"{NIGHT}/ccd1.parquet"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_is_not_mounted_is_away_and_gets_the_rest_later(
    site: Site, begun: bool
) -> None:
    site.keep(points(1, 50))
    if begun:
        site.target.mkdir()
        site.copier.copy()
        mounted = site.target.rename(site.target.with_name("elsewhere"))
        site.target.mkdir()  # where the disk was mounted
    site.keep(points(51, 60, offset=DAY_MS), close=NEXT)
    site.copier = site.begin()  # also after a start
    said = "not the folder that was used before" if begun else "does not exist"
    with pytest.raises(AwayError, match=said):
        site.copier.copy()
    assert not site.copied()
    assert site.copier.backlog == 60
    if begun:
        assert "mount its disk" in site.audited().stores[1].unread
        site.target.rmdir()
        mounted.rename(site.target)
    else:
        site.target.mkdir()
    site.copier.copy()
    assert site.copied() == site.closed()
    assert len(site.copied()) == 2
    assert site.copier.backlog == 0


def test_a_full_disk_is_away_until_there_is_room(site: Site, full: Callable[[], None]) -> None:
    site.keep(points(1, 5000))
    with pytest.raises(AwayError, match="No space left"):
        site.copier.copy()
    assert not [name for name in site.copied() if name.endswith(".parquet")]
    assert site.copier.backlog == 5000
    full()
    subprocess.run(["mount", "-o", "remount,size=4m", str(site.target)], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(site.target)], check=True)
    with pytest.raises(AwayError, match="Read-only file system"):
        site.copier.copy()
    subprocess.run(["mount", "-o", "remount,rw", str(site.target)], check=True)
    site.copier.copy()
    assert site.copied() == site.closed()


def test_a_copy_that_is_damaged_is_named_and_made_again(site: Site) -> None:
    site.keep(points(1, 50))
    site.target.mkdir()
    site.copier.copy()
    path = site.target / "nights" / NIGHT / "ccd1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    nas = site.audited().stores[1]
    assert nas.troubles == [f"{path} is damaged"]
    assert nas.total("missing") == 50
    assert site.audited().stores[0].complete
    site.clock.now += copier_module.VERIFY_PERIOD_S + 1
    site.copier.copy()
    assert site.copied() == site.closed()


@pytest.mark.parametrize("damage", ["[]", '{"ccd1.parquet": 1}', '{"ccd1.parquet": {"devise": 1}}'])
def test_a_damaged_list_of_copies_is_made_again(site: Site, damage: str) -> None:
    site.keep(points(1, 50))
    site.target.mkdir()
    site.copier.copy()
    listed = site.target / "nights" / NIGHT / "files.json"
    before = listed.read_text()
    listed.write_text(damage)
    again = site.begin()
    assert not again.copy()
    assert again.backlog == 0
    assert listed.read_text() == before


def test_a_damaged_marker_is_that_of_another_folder(site: Site) -> None:
    site.keep(points(1, 50))
    site.target.mkdir()
    site.copier.copy()
    (site.target / copier_module.MARKER).write_bytes(b"\xff")
    with pytest.raises(AwayError, match="is not the folder that was used before"):
        site.begin().copy()


def test_a_damaged_file_is_not_copied_but_copied_back(site: Site) -> None:
    site.keep(points(1, 50))
    site.target.mkdir()
    site.copier.copy()
    sound = site.copied()
    path = site.folder / "nights" / NIGHT / "ccd1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    site.copier = site.begin()
    site.copier.copy()
    assert site.copied() == sound
    with closing(EmbeddedStore("local", site.folder, clock=lambda: NOW)) as store:
        store.copies = lambda: [site.home / "nowhere", site.target]
        store.check(NIGHT)
        assert store.stored == samples("ccd1", EPOCH, 1, 50)
        assert "was copied back from" in store.warning
    assert site.closed() == sound
    assert len([*(site.folder / "damaged").glob("*/ccd1.parquet-*")]) == 1
    assert site.audited().complete


def test_what_only_the_copy_has_is_kept(site: Site) -> None:
    site.keep([*points(1, 50), *points(1, 9, "b/c")])
    site.target.mkdir()
    site.copier.copy()
    before = site.copied()
    path = site.folder / "nights" / NIGHT / "ccd1.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with closing(EmbeddedStore("local", site.folder, clock=lambda: NOW)) as store:
        store.check(NIGHT)
        store.write(records(points(31, 50)))  # what the journals still had
        assert store.close_nights(NIGHT) == []
    site.copier.copy()
    assert site.copied() == before
    (said,) = site.copier.notices()
    assert f"has 30 samples of {NIGHT}/ccd1 that history lacks; its copy is kept" in said.reason


@pytest.mark.parametrize("at", range(1, 25))
def test_it_may_end_at_any_call_of_the_system(
    site: Site, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted before the number ``at`` of those that change something."""
    site.target.mkdir()
    site.keep(points(1, 20))
    site.copier.copy()
    site.keep([*points(21, 50), *points(1, 9, "b/c")])
    calls = 0

    def counted(action: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return action(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "rename"),
            (Path, "unlink"),
            (os, "fsync"),
            (Path, "write_text"),
        ):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            site.copier.copy()
        except KeyboardInterrupt:
            pass
        else:
            assert calls < at
    for path in site.target.glob("nights/*/*.parquet"):
        assert path.read_bytes()[-4:] == b"PAR1"  # each is whole
    site.copier = site.begin()
    site.copier.copy()
    assert site.copied() == site.closed()
    assert json.loads((site.target / "nights" / NIGHT / "files.json").read_text()).keys() == {
        "ccd1.parquet",
        "b%2Fc.parquet",
    }


async def test_what_was_closed_just_now_is_copied_without_waiting_for_the_next_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier_module, "PERIOD_S", math.inf)
    looked = asyncio.Event()
    look = site.copier.copy

    def copy() -> bool:
        more = look()
        loop.call_soon_threadsafe(looked.set)
        return more

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(site.copier, "copy", copy)
    site.target.mkdir()
    site.keep([])
    async with asyncio.timeout(AT_MOST), asyncio.TaskGroup() as tasks:
        copying = tasks.create_task(site.copier.run())
        await looked.wait()
        assert site.copied() == {}
        looked.clear()
        site.keep(points(1, 50))
        site.copier.poll_now()
        await looked.wait()
        copying.cancel()
    assert site.copied() == site.closed()
    assert site.copied().keys() == {f"{NIGHT}/ccd1.parquet"}
