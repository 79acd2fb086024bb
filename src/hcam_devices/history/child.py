"""The process that reads and writes closed files, as seen by the recorder and by programs."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from .archive import HistoryError
from .stores import AwayError

IDLE_S = 60.0
"""End the process when it has not been asked for this long."""
ANSWER_WITHIN = 60.0
ERRORS = {error.__name__: error for error in (AwayError, HistoryError, ValueError)}


class Child:
    """A process for the closed files of a folder. It is started when it is needed.

    ``ask`` may be called by any thread; questions wait for one another.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._idle: threading.Timer | None = None

    def ask(self, method: str, *args: Any) -> Any:
        """Return what a method of ``worker.py`` returns, as JSON has it.

        Raises OSError if there is no answer within ANSWER_WITHIN seconds, and the method's errors.
        """
        with self._lock:
            if self._idle:
                self._idle.cancel()
            answer = orjson.loads(self._answer(json.dumps([method, *args]).encode() + b"\n"))
            self._idle = threading.Timer(IDLE_S, self.close)
            self._idle.daemon = True
            self._idle.start()
        if "error" in answer:
            name, *details = answer["error"]
            raise ERRORS.get(name, OSError)(*details)
        return answer["result"]

    def _answer(self, question: bytes) -> bytes:
        process = self._process or self._start()
        assert process.stdin  # noqa: S101  (it is a pipe)
        assert process.stdout  # noqa: S101
        late = threading.Timer(ANSWER_WITHIN, process.kill)
        late.start()
        try:
            process.stdin.write(question)
            process.stdin.flush()
            if (answer := process.stdout.readline()).endswith(b"\n"):
                return answer
            raise EOFError
        except (OSError, EOFError) as error:
            process.kill()
            self._end()
            raise ConnectionError(f"the process for closed files in {self.folder} ended") from error
        finally:
            late.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hcam_devices.history.worker", str(self.folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)  # noqa: S603
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            with suppress(BrokenPipeError), process:  # closes its input, and waits for it
                pass

    def close(self) -> None:
        """End the process, once it has answered."""
        with self._lock:
            if self._idle:
                self._idle.cancel()
            self._end()
