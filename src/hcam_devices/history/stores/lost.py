"""Notes beside a store about samples that no disk had room for, and which have no number.

The journals forget them after some days; history does not. Each note is a line of JSON.
"""

import json
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...journal.notebook import Lost

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

NAME = "lost.jsonl"


@cache
def _checks() -> "TypeAdapter[Lost]":
    from pydantic import TypeAdapter  # noqa: PLC0415  (70 ms, and hardly any folder has notes)

    return TypeAdapter(Lost)


class LostNotes:
    """The notes in a folder, which other programs may read. The methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def read(self) -> list[Lost]:
        """Return all notes, oldest first; damaged ones are skipped with a warning."""
        found = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        for line in filter(None, lines):
            try:
                note = _checks().validate_json(line)
            except ValueError:
                log.warning("a note in %s is damaged: %.100r", self.path, line)
                continue
            found[note.device, note.epoch, note.since] = note  # the last line counts
        return sorted(found.values(), key=lambda note: note.since)

    def add(self, notes: Iterable[Lost]) -> None:
        """Append the notes that are new or have changed; the last line about a loss counts."""
        known = set(self.read())
        if new := [note for note in notes if note not in known]:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.writelines(f"\n{json.dumps(note._asdict())}\n".encode() for note in new)
