"""The process that reads and writes closed files: ``python -m hcam_devices.history.worker FOLDER``.

Each line of its input is a JSON list, a method and its arguments; it answers with a line, an object
with ``result`` or ``error`` (the name of the error, and its arguments). It ends with its input.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from .archive import Archive
from .stores import closing, content
from .stores.nights import NightFiles
from .stores.tonight import Job

MAX_MEMORY = 2**30


def answer(folder: Path, method: str, *args: Any) -> Any:
    """Return what a method returns."""
    match method:
        case "build":
            return closing.build(folder, Job(*args[0]))
        case "content":
            return content.content(folder, *args)
        case "examine":
            return closing.examine(*args)
        case "history" | "raw" | "commands" | "fields":
            return getattr(_archive(folder), method)(*args)
    raise LookupError(f"there is no method {method}")


@cache
def _archive(folder: Path) -> Archive:
    """Return the archive of a folder, which remembers what is in the footers of its files."""
    return Archive(NightFiles(folder))


def reply(folder: Path, question: bytes) -> bytes:
    """Return the line that answers a question."""
    try:
        found = orjson.dumps({"result": answer(folder, *json.loads(question))})
    except Exception as error:  # noqa: BLE001  (the caller is told)
        why = [type(error).__name__, *(error.args or [str(error)])]
        found = json.dumps({"error": why}, default=str).encode()
    return found + b"\n"


def main() -> None:
    """Answer questions until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    folder = Path(sys.argv[1])
    with suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            os.write(1, reply(folder, line))


if __name__ == "__main__":
    main()
