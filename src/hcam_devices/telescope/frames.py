"""Counts the frames that the detector has written, by the size of the newest run in its folder.

    run0012.fits    a header, about 184 kB; then frames of NAXIS1 x NAXIS2 x |BITPIX| / 8 bytes

Only the size counts, so a frame may be written in pieces, several frames may be seen at once, and
time stamps may be late. The format is the one that HiPERCAM's pipeline expects (NAXIS is 3, the
last axis counts frames). In a file of another format, a pause in its growth ends a frame, as in the
predecessor.

The folder may be on another machine. Only a local disk reports changes (inotify). A network disk
may answer from a cache of up to a minute, unless the file or folder is opened (nfs(5),
close-to-open cache coherence). So each look opens the folder and the file.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..core import runs
from ..host import threads

if TYPE_CHECKING:  # 5 ms, which only the server of the telescope needs
    from asyncinotify import Inotify

LOCAL = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"}
"""File systems that report every change, because no other machine writes to them."""

LOOK_PERIOD_S = 0.1
"""The time between looks if no change is reported."""
RETRY_PERIOD_S = 1.0
"""The time between looks if changes are reported, or if the folder cannot be read."""
MAX_LOOK_S = 5.0
"""Timeout of one look. A look that hangs is awaited, never started twice."""
PAUSE_S = 0.02
"""The time from a reported change to the next look, because frames are written in pieces."""
LIST_PERIOD_S = 1.0
"""The shortest time between two listings of the folder."""

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True)
class Progress:
    """The number of the newest run (0 if there is none), and the number of its complete frames."""

    run: int
    frames: int


def run_number(name: str) -> int:
    """Return the number in the file name of a run, or 0 for any other name."""
    number = runs.number_of(name) or 0
    return number if name == runs.file_name(number) else 0


def filesystem_of(folder: Path) -> str:
    """Return the type of the file system that a folder is on, such as ``ext4`` or ``nfs4``."""
    import psutil  # noqa: PLC0415  (7 ms, which only the server of the telescope needs)

    partitions = psutil.disk_partitions(all=True)
    mounted = {Path(disk.mountpoint): disk.fstype for disk in partitions}
    path = folder.resolve()
    return next((mounted[place] for place in (path, *path.parents) if place in mounted), "")


@dataclass(frozen=True)
class Layout:
    """The sizes (bytes) of a run's header and of each frame; 0 if unknown."""

    header: int = 0
    frame: int = 0


def read_layout(file: BinaryIO) -> Layout | None:
    """Read the layout of a run from its header; return None while the header is incomplete."""
    try:
        header = runs.read_header(file.read)
    except ValueError:
        return Layout()
    if header is None:
        return None
    keys: dict[bytes, bytes] = {}
    for card in runs.cards(header):
        keys.setdefault(card[:8].rstrip(), card[10:].partition(b"/")[0].strip())
    return Layout(len(header), _frame(keys))


def _frame(keys: dict[bytes, bytes]) -> int:
    try:
        bits, axes, x, y = (int(keys[key]) for key in (b"BITPIX", b"NAXIS", b"NAXIS1", b"NAXIS2"))
    except (KeyError, ValueError):
        return 0
    return abs(bits) // 8 * x * y if axes == 3 and x > 0 and y > 0 else 0


@dataclass
class _Growth:
    """The growth of a run's file: its size (bytes), and the frames that pauses have ended."""

    identity: tuple[int, int]
    settled: int
    size: int = 0
    grew: float = 0.0
    frames: int = 0
    layout: Layout | None = None

    @property
    def growing(self) -> bool:
        return self.layout is not None and not self.layout.frame and self.size > self.settled

    def count(self, size: int, now: float, quiet: float) -> int:
        assert self.layout  # noqa: S101  (type checker)
        if self.layout.frame:
            return max(0, size - self.layout.header) // self.layout.frame
        self.settled = max(self.settled, self.layout.header)
        if size != self.size:
            self.size, self.grew = size, now
        if self.growing and now - self.grew >= quiet:
            self.settled, self.frames = size, self.frames + 1
        return self.frames


class Frames:
    """Counts the frames of the newest run in ``folder``.

    ``quiet`` is for files with frames of unknown size: a frame counts as written when the file has
    not grown for this time (s). Frames that were in such a file at the first look are not counted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quiet: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        filesystem: Callable[[Path], str] = filesystem_of,
    ) -> None:
        self.folder, self.quiet = folder, quiet
        self.trouble = ""
        """Why the folder cannot be read; empty if it can."""
        self._clock, self._sleep, self._filesystem = clock, sleep, filesystem
        self._changed: int | None = None
        self._list_again, self._list_at = False, 0.0
        self._newest = 0
        self._growth: _Growth | None = None
        self._looked_before = False
        self._reports_changes = False  # whether the file system does

    async def look(self) -> Progress | None:
        """Return the progress now, or None, with the reason in ``trouble``, if it is unknown."""
        place = f"the data folder {self.folder}"
        try:
            found = await threads.ask(place, self._look_or_say, within=MAX_LOOK_S)
        except TimeoutError as error:
            self.trouble = f"{error}, so no frame is seen; the next look follows"
            return None
        if isinstance(found, Progress):
            self.trouble = ""
            return found
        why = found.strerror or found
        self.trouble = f"{place} cannot be read ({why}), so no frame is seen; the next look follows"
        return None

    async def news(self, seen: Progress | None) -> Progress:
        """Wait until the progress differs from ``seen``, and return it."""
        with ExitStack() as stack:
            changes, watched = None, False
            while (now := await self.look()) is None or now == seen:
                if self._reports_changes and not watched:
                    # look again afterwards: a file may have appeared before
                    changes, watched = self._watch(stack), True
                else:
                    await self._until_next_look(changes)
            return now

    def _watch(self, stack: ExitStack) -> "Inotify | None":
        from asyncinotify import Inotify, Mask  # noqa: PLC0415  (see above)

        try:
            changes = stack.enter_context(Inotify())
            changes.add_watch(self.folder, Mask.CREATE | Mask.MODIFY | Mask.MOVED_TO)
        except OSError:  # the folder is missing, or this machine has no more watches
            return None
        return changes

    async def _until_next_look(self, changes: "Inotify | None") -> None:
        if self.trouble:
            await self._sleep(RETRY_PERIOD_S)
        elif changes is None:
            await self._sleep(LOOK_PERIOD_S)
        else:
            growing = self._growth is not None and self._growth.growing
            try:
                async with asyncio.timeout(self.quiet if growing else RETRY_PERIOD_S):
                    await changes.get()
            except TimeoutError:
                return
            await self._sleep(PAUSE_S)

    # --- in a thread ------------------------------------------------------------------------

    def _look_or_say(self) -> Progress | OSError:
        try:
            if not self._looked_before:
                self._reports_changes = self._filesystem(self.folder) in LOCAL
            return self._look()
        except OSError as error:
            self._changed, self._list_at = None, 0.0
            return error

    def _look(self) -> Progress:
        run = self._newest_run()
        if not run:
            self._looked_before = True
            return Progress(0, 0)
        with (self.folder / runs.file_name(run)).open("rb") as file:
            status = os.fstat(file.fileno())
            identity = (run, status.st_ino)
            if self._growth is None or self._growth.identity != identity:
                known = 0 if self._looked_before else status.st_size
                self._growth = _Growth(identity, known, known)
            self._looked_before = True
            if self._growth.layout is None:
                self._growth.layout = read_layout(file)
        if self._growth.layout is None:
            return Progress(run, 0)
        return Progress(run, self._growth.count(status.st_size, self._clock(), self.quiet))

    def _newest_run(self) -> int:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            changed = os.fstat(folder).st_mtime_ns
        finally:
            os.close(folder)
        now = self._clock()
        if (changed != self._changed or self._list_again) and now >= self._list_at:
            # List once more later, because a newer file may have the same time of change.
            self._list_again = changed != self._changed
            self._changed, self._list_at = changed, now + LIST_PERIOD_S
            self._newest = max(map(run_number, os.listdir(self.folder)), default=0)
        return self._newest
