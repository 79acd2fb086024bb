"""Notes of lost samples in a file of fixed size, which can be written on a full disk."""

import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

SIZE = 131_072
"""Bytes: enough for notes of about 800 devices."""


class Lost(NamedTuple):
    """Samples that were published without a number and are lost: they could not be kept.

    The first came at ``since``, the last at ``until`` (Unix time).
    """

    device: str
    epoch: str
    since: float
    until: float
    samples: int
    reason: str

    def __str__(self) -> str:
        begin, end = time.gmtime(self.since), time.gmtime(self.until)
        return (
            f"{self.samples} samples of {self.device} were published without a number and are lost,"
            f" {time.strftime('%Y-%m-%d %H:%M:%S', begin)} to {time.strftime('%H:%M:%S', end)} UTC:"
            f" {self.reason}"
        )


class Notebook:
    """Notes that replace one another in place, so that no disk space is needed.

    File systems that never write in place (btrfs, ZFS) may refuse that as well: the notes are then
    logged. They survive when the process is killed, but perhaps not when the power fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.exists() or path.stat().st_size != SIZE:
                new = path.with_name(f"{path.name}.new")
                new.write_bytes(b" " * SIZE)
                new.replace(path)
        except OSError as error:
            log.error(
                "%s, for notes of samples lost on a full disk, cannot be created: %s", path, error
            )

    def read(self) -> list[Lost]:
        """Return the notes; none if they cannot be read."""
        try:
            text = self.path.read_text(encoding="utf-8").strip()
            return [Lost(*note) for note in json.loads(text)] if text else []
        except (OSError, TypeError, ValueError) as error:
            log.error(
                "%s cannot be read, so it is not known which samples were lost: %s",
                self.path,
                error,
            )
            return []

    def write(self, notes: Iterable[Lost]) -> None:
        """Replace the notes with as many as there is room for."""
        texts = [json.dumps(note) for note in notes]
        while len(text := f"[{','.join(texts)}]".encode()) > SIZE:
            log.error("%s is full: no room for %s", self.path, texts.pop())
        try:
            with self.path.open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), text.ljust(SIZE), 0)
        except OSError as error:
            log.error("%s cannot be written: %s; lost samples: %s", self.path, error, text.decode())
