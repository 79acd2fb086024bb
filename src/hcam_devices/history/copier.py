"""Copies the closed files of the embedded store to another folder, such as a network disk.

There, each night has ``files.json`` beside its files: by name, the device, the checksum, the ranges
and the number of samples of each. A copy is written aside and compared before it gets its name.
"""

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeAlias

from pydantic import BaseModel, TypeAdapter

from ..core.device import iso_from_s
from ..core.part import Alarm
from ..host.backoff import Backoff
from ..host.threads import ask
from .stores import AwayError
from .stores.files import connect, copied_file, differs, sync, trying
from .stores.tonight import NAME, NIGHTS, entries, ranges_of, stem

log = logging.getLogger(__name__)

PERIOD_S = 60.0
"""Look for new files this often."""
VERIFY_PERIOD_S = 3600.0
"""Compare the copies of a night with their checksums this often, in turns."""
ROUND_S = 30.0
"""Copy files for about this long before looking for newer ones."""
ANSWER_WITHIN = 120.0
"""Timeout (s) of a round, with its last file."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
MARKER = "hcam-copies"
"""The file by which a folder is known. It is missing while a disk is not mounted."""
FILES = "files.json"

Files: TypeAlias = dict[str, dict[str, Any]]
"""What is known of the files of a night, by name."""


class _Facts(BaseModel):
    device: str
    checksum: str
    ranges: list[tuple[str, int, int]]
    samples: int


_FILES = TypeAdapter(dict[str, _Facts])


def catalogue(source: Path) -> dict[str, Files]:
    """Return the closed files of an embedded store by night. Raises AwayError."""
    found: dict[str, Files] = defaultdict(dict)
    path = source / NAME
    with trying(path), closing(connect(path)) as db:
        for entry in entries(db):
            found[entry.night][entry.name] = {
                "device": entry.device,
                "checksum": entry.checksum,
                "ranges": [[*part[1:4]] for part in entry.samples.ranges()],
                "samples": entry.total,
            }
    return found


class Copier:
    """Keeps copies of the closed files of the folder ``source`` in ``folder``.

    ``note`` is a file that remembers which folder that is. ``backlog`` counts the samples in closed
    files that are not copied yet. ``away`` says why the folder has been unavailable since
    ``away_since`` (Unix time); it is empty if the folder is available.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        source: Path,
        note: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.folder, self.source, self.note = name, folder, source, note
        self.clock = clock
        self.backlog = 0
        self.away, self.away_since = "", 0.0
        self.more: dict[str, int] = {}
        """How many samples a copy has that the store lacks, by night and device."""
        self._done: dict[str, Files] = {}
        self._turn, self._verified = "", clock()
        self._wake = asyncio.Event()

    def poll_now(self) -> None:
        """Look for new files at once, if the folder is available."""
        self._wake.set()

    async def run(self) -> None:
        """Copy until cancelled."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while True:
            self._wake.clear()
            try:
                resource = f"the folder {self.folder}"
                if await ask(resource, self.copy, within=ANSWER_WITHIN):
                    self._wake.set()
                if self.away:
                    log.warning("store %s is available again", self.name)
                self.away = ""
                backoff.reset()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), PERIOD_S)
            except (AwayError, OSError) as error:
                if not self.away:
                    self.away_since = self.clock()
                    log.warning("store %s is unavailable: %s", self.name, error)
                self.away = str(error)
                await asyncio.sleep(backoff.next())

    def copy(self) -> bool:
        """Copy what is new for ROUND_S seconds; return whether there is more. Raises AwayError."""
        until = time.monotonic() + ROUND_S
        nights = catalogue(self.source)
        try:
            with trying(self.folder):
                self._require()
                if abs(self.clock() - self._verified) > VERIFY_PERIOD_S and self._done:
                    self._verified = self.clock()
                    done = sorted(self._done)
                    self._turn = next((n for n in done if n > self._turn), done[0])
                    self.verify(self._turn)
                for night, files in nights.items():
                    if time.monotonic() > until:
                        return True
                    if self._done.get(night) != files:
                        self._copy(night, files)
        finally:
            self.backlog = sum(
                facts["samples"]
                for night, files in nights.items()
                for name, facts in files.items()
                if self._done.get(night, {}).get(name) != facts
            )
        return False

    def verify(self, night: str) -> None:
        """Forget the copies of a night that are damaged, so that they are made again."""
        place = self.folder / NIGHTS / night
        sound = {
            name: facts
            for name, facts in _read(place).items()
            if not differs(place / name, facts["checksum"])
        }
        if sound != self._done.pop(night, {}) and place.exists():
            _write(place, sound)

    def _require(self) -> None:
        """Raise AwayError if another folder has the name, such as that below a mounted disk."""
        if not self.folder.is_dir():
            raise AwayError(f"{self.folder} does not exist: mount its disk, or create the folder")
        marker = self.folder / MARKER
        known, there = (
            path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            for path in (self.note, marker)
        )
        if known and there != known:
            raise AwayError(
                f"{self.folder} is not the folder that was used before: mount its disk; or, to "
                f"copy everything to this one, remove {self.note}"
            )
        if not there:
            there = token_hex(8)
            marker.write_text(there, encoding="utf-8")
        if not known:
            self.note.parent.mkdir(parents=True, exist_ok=True)
            self.note.write_text(there, encoding="utf-8")

    def _copy(self, night: str, files: Files) -> None:
        """Copy the files of a night, and remove those that they replace. Raises OSError."""
        place = self.folder / NIGHTS / night
        place.mkdir(parents=True, exist_ok=True)
        before = _read(place)
        there: Files = {}
        for device in sorted({facts["device"] for facts in (*before.values(), *files.values())}):
            old, new = (
                {name: facts for name, facts in some.items() if facts["device"] == device}
                for some in (before, files)
            )
            has, had = (
                ranges_of(device, chain(*(facts["ranges"] for facts in some.values())))
                for some in (new, old)
            )
            more = len(had - has)
            self.more.pop(key := f"{night}/{stem(device)}", None)
            if more:  # the store was damaged, or is being repaired
                self.more[key] = more
                there |= old
                continue
            copied = {
                name: facts
                for name, facts in new.items()
                if old.get(name) == facts or self._copy_file(night, name, facts["checksum"])
            }
            there |= copied
            if len(copied) == len(new):
                for path in place.glob(f"{stem(device)}.*"):
                    if path.name not in new:
                        path.unlink()
        _write(place, there)
        self._done[night] = there

    def _copy_file(self, night: str, name: str, checksum: str) -> bool:
        """Copy a file unless it is there; return False if it is not what the catalogue says."""
        source, target = (folder / NIGHTS / night / name for folder in (self.source, self.folder))
        if not differs(target, checksum):
            return True
        new = target.with_name(f"{name}.new")
        if not copied_file(source, new, checksum):  # it was replaced meanwhile, or is damaged
            return False
        new.rename(target)
        sync(target.parent)
        return True

    def notices(self) -> list[Alarm]:
        """Return alarms about the folder."""
        said = []
        if self.away:
            since = iso_from_s(self.away_since)[:16]
            said.append(f"has been unreachable since {since}; closed nights wait: {self.away}")
        for key, count in sorted(self.more.items()):
            said.append(f"has {count} samples of {key} that history lacks; its copy is kept")
        field = f"backlog_{self.name}"
        return [Alarm(field, "WARN", f"store {self.name} {text}") for text in said]


def _read(place: Path) -> Files:
    """Return what is known of the copies in the folder of a night; nothing if it is damaged."""
    try:
        found: Files = json.loads((place / FILES).read_bytes())
        _FILES.validate_python(found)
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write(place: Path, files: Files) -> None:
    new = place / f"{FILES}.new"
    new.write_text(json.dumps(files, indent=1), encoding="utf-8")
    sync(new)
    new.rename(place / FILES)
    sync(place)
