"""The router answers once it serves every path that programs use; its files; its fork."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hcam_devices import HcamError
from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import answers, crossbar, run, shipped
from hcam_devices.wamp.uris import Address


@contextmanager
def serving(*paths: str) -> Iterator[int]:
    """Serve only these paths on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200 if self.path in paths else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [((), False), (("/publish",), False), (("/ws",), False), (("/publish", "/ws"), True)],
)
def test_it_answers_once_it_serves_every_path(paths: tuple[str, ...], expected: bool) -> None:
    with serving(*paths) as port:
        assert answers(port) is expected


async def test_a_home_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    with serving() as port:
        pass  # its port is free now
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / str(port)).touch()
    with pytest.raises(HcamError, match=rf"router/{port} cannot be written .*: make room"):
        await run(load(), [], Address("127.0.0.1", port), tmp_path)


def test_a_fork_that_never_becomes_the_worker_ends_with_its_controller() -> None:
    program = "import forked; print('worker' if forked.becomes_worker() else 'controller')"
    # This waits for the end of standard output, which both have.
    done = subprocess.run(
        [crossbar().with_name("python"), "-c", program],
        cwd=shipped().parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=180,
        check=True,
    )
    assert done.stdout == "controller\n"
