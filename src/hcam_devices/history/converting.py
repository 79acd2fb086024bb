"""``hcam history convert``: writes nights of the version before into closed files, once."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from .. import HcamError
from ..config.instrument import load
from ..host.home import home
from ..journal.digest import digest
from ..journal.points import Point
from ..journal.ranges import SampleRanges
from ..journal.records import Record
from .archive import embedded_folders
from .inventory import Nights
from .stores import AwayError
from .stores.embedded import EmbeddedStore
from .stores.files import trying
from .stores.old import MAIN, NIGHTS, OldNight, Stream

DONE = "converted.jsonl"
"""Beside the nights: name, size and time of change (ns) of each file that was converted."""
BATCH = 5000


def convert(file: Path | None) -> Iterator[tuple[str, bool]]:
    """Convert what is in the folders of the embedded stores.

    Yield a sentence for each file, and whether all of it was converted. A file that was converted
    before is left alone; so this may be interrupted at any time, and run again. Raises HcamError if
    a store cannot be used, or if the recorder is running.
    """
    for folder in embedded_folders(load(file).stores, home()):
        paths = sorted(folder.glob(NIGHTS))
        main = folder / MAIN
        if not paths and not main.exists():
            yield f"{folder} has no nights of the version before", True
            continue
        try:
            with closing(EmbeddedStore("convert", folder)) as store:
                for path in paths:
                    with trying(path):
                        yield _convert(store, path)
                if main.exists():
                    with trying(main):
                        store.settle(OldNight(main).gone())
                    yield (
                        f"{main} has only minutes of older nights, whose samples were not kept: "
                        "they stay in that file",
                        True,
                    )
        except AwayError as error:
            raise HcamError(f"{error} (hwlogger must not run meanwhile)") from None


def _convert(store: EmbeddedStore, path: Path) -> tuple[str, bool]:
    """Convert a night and compare it; return a sentence, and whether it is complete."""
    done, found = store.folder / DONE, path.stat()
    state = [path.name, found.st_size, found.st_mtime_ns]
    if done.exists() and json.dumps(state) in done.read_text(encoding="utf-8").splitlines():
        return f"{path} was converted before: it may be removed", True
    old, night = OldNight(path), path.stem
    count, wrong = 0, []
    there = SampleRanges()
    streams, files = old.streams(), Nights("convert", store.folder, night)
    for device, some in sorted(streams.items()):
        points = _points(old, some)
        for first in range(0, len(points), BATCH):
            store.write([*map(Record.of, points[first : first + BATCH])])
        wrong += store.close_nights(night)
        differing = _differing(files, device, points)
        count += len(points)
        there |= _numbers(points)
        wrong += (f"{part.device} {part.first}-{part.last} differs" for part in differing.ranges())
    wrong += (
        f"{part.device} {part.first}-{part.last} (epoch {part.epoch}) cannot be read"
        for part in (old.noted - there).ranges()
    )
    wrong += [old.damage] if old.damage else []
    said = f"{path}: {count} samples of {len(streams)} devices were converted and compared"
    if wrong:
        return f"{said}, but {'; '.join(wrong)}: the file is kept, as all of them are", False
    with done.open("a", encoding="utf-8") as file:
        file.write(json.dumps(state) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return f"{said}: the file may be removed", True


def _points(old: OldNight, streams: list[Stream]) -> list[Point]:
    """Return the samples of some streams, each number once."""
    found: dict[tuple[str, int], Point] = {}
    for stream in streams:
        for point in old.points(stream):
            found.setdefault((point.epoch, point.seq), point)
    return [*found.values()]


def _numbers(points: list[Point]) -> SampleRanges:
    found = SampleRanges()
    for point in points:
        found.add(point.device, point.epoch, point.seq, point.seq)
    return found


def _differing(files: Nights, device: str, points: list[Point]) -> SampleRanges:
    """Return the samples whose digests differ from what is in the closed file of a night."""
    there = {row[:2]: row.digest for row in files.rows_of(device)[0]}
    return _numbers([one for one in points if there.get((one.epoch, one.seq)) != digest(one)])
