"""Real databases on loopback: InfluxDB and VictoriaMetrics, their data in a folder of the test.

    with influxdb(tmp_path) as database:
        ...
        database.kill()
        database.start()
        rows = database.query("SELECT * FROM slide")["slide"]

``tests/databases`` fetches the programs. They end with the thread that started them, at the latest.
"""

import json
import os
import signal
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.network.tools import free_port, until

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / ".venv" / "databases"


def program(name: str) -> Path:
    """Return a database's program; without it the test is skipped, or fails in CI."""
    path = PROGRAMS / name
    if not path.exists():
        missing = f"{name} is not there: run tests/databases"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


class Server:
    """A database server that can be stopped, killed, frozen and started again on the same port."""

    health: str
    """The path that answers when it is up."""

    def __init__(
        self, folder: Path, command: Sequence[object], port: int, ca: Path | None = None
    ) -> None:
        self.folder, self.command, self.port, self.ca = folder, command, port, ca
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            # Not TERM: a frozen process does not receive it.
            command = [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
                *map(str, self.command),
            ]
            process = self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: self.up() or process.poll() is not None)
        assert process.poll() is None, (self.folder / "log").read_text()

    def up(self) -> bool:
        """Return whether the database answers."""
        try:
            self.ask(self.health, timeout=1)
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop it in good order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it (SIGKILL); a frozen one too."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait(60)

    def freeze(self) -> None:
        """Stop it from running (SIGSTOP): its connections stay, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # each of its threads has stopped

    def thaw(self) -> None:
        """Let it run on."""
        os.kill(self.pid, signal.SIGCONT)

    def ask(
        self, path: str, body: bytes | None = None, timeout: float = 30, **arguments: Any
    ) -> bytes:
        """Return the answer to a GET, or to a POST if there is a body; OSError if there is none."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(arguments)}"
        context = ssl.create_default_context(cafile=self.ca) if self.ca else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(urllib.request.Request(url, body), timeout=timeout) as answer:
            return bytes(answer.read())


class InfluxDB(Server):
    """InfluxDB 1.6. Its database ``hipercam`` is there from the first start."""

    health = "/ping"
    database = "hipercam"

    def query(self, text: str, **arguments: Any) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that InfluxQL selects, for each measurement; times are in ns."""
        arguments = {"db": self.database, "epoch": "ns", "q": text} | arguments
        (result,) = json.loads(self.ask("/query", b"", **arguments))["results"]
        assert "error" not in result, result
        return {
            series.get("name", ""): [
                dict(zip(series["columns"], row, strict=True)) for row in series["values"]
            ]
            for series in result.get("series", ())
        }


class VictoriaMetrics(Server):
    """VictoriaMetrics 1.79, its resolution a millisecond."""

    health = "/health"

    def names(self) -> set[str]:
        """Return the name of every series."""
        self.ask("/internal/force_flush")
        return set(json.loads(self.ask("/api/v1/label/__name__/values", start=0))["data"])

    def query(self, selector: str = '{__name__!=""}') -> dict[str, list[tuple[int, float]]]:
        """Return times (ms) and values of every series that a selector matches, by its name.

        ValueError if there is an infinity: that is not written as JSON.
        """
        self.ask("/internal/force_flush")
        found: dict[str, list[tuple[int, float]]] = {}
        matching: dict[str, Any] = {"match[]": selector}
        for line in self.ask("/api/v1/export", **matching).splitlines():
            series = json.loads(line)
            pairs = zip(series["timestamps"], series["values"], strict=True)
            found.setdefault(series["metric"]["__name__"], []).extend(pairs)
        return found


@contextmanager
def influxdb(folder: Path, http: str = "", ca: Path | None = None) -> Iterator[InfluxDB]:
    """Run InfluxDB, its data in a folder of its own.

    ``http``: lines for its ``[http]`` section; ``ca``: who vouches for it, if they turn TLS on.
    """
    folder = folder / "influxdb"
    folder.mkdir()
    port = free_port()
    (folder / "influxdb.conf").write_text(
        f"""
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
query-log-enabled = false
[monitor]
store-enabled = false
[ifql]
enabled = false
[continuous_queries]
enabled = false
[logging]
level = "error"
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
{http}
"""
    )
    command = [program("influxd"), "-config", folder / "influxdb.conf"]
    with _running(InfluxDB(folder, command, port, ca)) as server:
        if "auth-enabled" not in http:
            server.query(f'CREATE DATABASE "{server.database}"')
        yield server


@contextmanager
def victoria_metrics(folder: Path, *options: str) -> Iterator[VictoriaMetrics]:
    """Run VictoriaMetrics, its data in a folder of its own, set as it has to be for our lines."""
    folder = folder / "victoria-metrics"
    folder.mkdir()
    port = free_port()
    command = [
        program("victoria-metrics"),
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={folder}/data",
        "-retentionPeriod=100y",
        "-dedup.minScrapeInterval=1ms",
        "-memory.allowedBytes=256MB",
        *options,
    ]
    with _running(VictoriaMetrics(folder, command, port)) as server:
        yield server


@contextmanager
def _running(server: Any) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        if server.process and server.process.poll() is None:
            server.kill()
