"""What was published without a number, because no disk had room for it: notes beside a store.

The journals forget it after some days; history does not. Each note is a line of JSON.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

log = logging.getLogger(__name__)

NAME = "lost.jsonl"


class Lost(BaseModel):
    """So many ``samples`` of a device, from ``since`` until ``until`` (Unix time), and why."""

    model_config = ConfigDict(frozen=True)

    device: str
    epoch: str
    since: float
    until: float
    samples: int
    reason: str

    def __str__(self) -> str:
        begin, end = (time.gmtime(one) for one in (self.since, self.until))
        return (
            f"{self.samples} samples of {self.device} were published without a number and are lost,"
            f" {time.strftime('%Y-%m-%d %H:%M:%S', begin)} to {time.strftime('%H:%M:%S', end)} UTC:"
            f" {self.reason}"
        )


class LostNotes:
    """The notes in a folder; several programs may read while one adds. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def read(self) -> list[Lost]:
        """Return all notes, oldest first; what is damaged is left out, with a warning."""
        found = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        for line in filter(None, lines):
            try:
                note = Lost.model_validate_json(line)
            except ValueError:
                log.warning("a note in %s is damaged: %.100r", self.path, line)
                continue
            found[note.device, note.epoch, note.since] = note  # the newest counts
        return sorted(found.values(), key=lambda note: note.since)

    def add(self, notes: Iterable[Lost]) -> None:
        """Keep notes that are new, or say more than before."""
        known = set(self.read())
        if new := [note for note in notes if note not in known]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.writelines(b"\n%b\n" % note.model_dump_json().encode() for note in new)
