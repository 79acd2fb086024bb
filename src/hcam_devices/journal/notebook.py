"""Small files that are overwritten in place, which a full disk does not prevent."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

SIZE = 131_072
"""Bytes reserved for a notebook: enough for some 800 losses."""


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

    def overlaps(self, start: float, end: float) -> bool:
        """Return whether some may have come from ``start`` until before ``end`` (Unix times)."""
        return start <= self.until and self.since < end

    def __str__(self) -> str:
        begin, end = time.gmtime(self.since), time.gmtime(self.until)
        return (
            f"{self.samples} samples of {self.device} were published without a number and are lost,"
            f" {time.strftime('%Y-%m-%d %H:%M:%S', begin)} to {time.strftime('%H:%M:%S', end)} UTC:"
            f" {self.reason}"
        )


class Notebook:
    """A file with JSON and its checksum, in room that was reserved on the disk.

    What is written survives when the process is killed, but perhaps not when the power fails. File
    systems that never write in place (btrfs, ZFS) may refuse to write on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._room = self._length = 0

    def read(self) -> Any:
        """Return what was written; None if there is nothing, or it is damaged."""
        try:
            checksum, _, text = self.path.read_bytes().rstrip(b" ").partition(b" ")
            return orjson.loads(text) if int(checksum, 16) == crc32(text) else None
        except (OSError, ValueError):
            return None

    def write(self, content: Any) -> None:
        """Replace what was written. Raises OSError."""
        text = orjson.dumps(content)
        text = b"%08x %b" % (crc32(text), text)
        if self._fd is None or len(text) > self._room:
            self.close()
            self._fd = self._open(len(text))
            self._room = self._length = os.fstat(self._fd).st_size
        os.pwrite(self._fd, text.ljust(self._length), 0)
        self._length = len(text)

    def _open(self, least: int) -> int:
        before = self.path.read_bytes() if self.path.exists() else b""
        if len(before) < least:
            new = self.path.with_name(f"{self.path.name}.new")
            new.write_bytes(before.ljust(max(SIZE, 2 * least)))
            new.replace(self.path)
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Bring what was written to the disk; the next ``write`` opens the file again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
