"""Times a call through the router's door and through Crossbar's own bridge, block by block in turn.

Both are in one router, and call one procedure of one session, each way on a connection that is
kept: ``.venv/bin/python benchmarks/http_door.py``.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
import secrets
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import answers, configuration, crossbar, shipped, with_door

BLOCKS, CALLS = 200, 20  # blocks, and calls of each way in one
PROCEDURE = "hipercam.echo"
BODY = json.dumps({"procedure": PROCEDURE, "args": [1, "two"]}).encode()
ROUTER = "router"
START_LIMIT = 60
TOKEN = secrets.token_urlsafe()
SECRET = hashlib.sha256(TOKEN.encode())


def signature() -> str:
    """Return the header of a signed request."""
    signed_at, nonce = f"{time.time():.6f}", secrets.token_hex(16)
    hashed = hashlib.sha256(BODY).hexdigest()
    text = "\n".join(("hcam1", "POST", "/call", ROUTER, signed_at, nonce, hashed))
    mac = hmac.digest(SECRET.digest(), text.encode(), "sha256").hex()
    return f"Hcam name=bench,time={signed_at},nonce={nonce},mac={mac}"


WAYS: dict[str, tuple[str, Callable[[], str] | None]] = {
    "bridge": ("/bridge", None),
    "door": ("/call", None),
    "door, token": ("/call", lambda: f"Bearer {TOKEN}"),
    "door, signed": ("/call", signature),
}
"""The path of a way, and what makes its header Authorization."""


class Echo(ApplicationSession):
    """Answers the calls that are timed."""

    async def onJoin(self, details: object) -> None:
        """Register the procedure."""
        await self.register(lambda *args: list(args), PROCEDURE)
        await asyncio.to_thread(measure, self.config.extra["port"])
        self.leave()

    def onDisconnect(self) -> None:
        """End the program."""
        asyncio.get_running_loop().stop()


def measure(port: int) -> None:
    """Print the median of each way, and its ratio to the bridge."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    connections = {way: http.client.HTTPConnection("127.0.0.1", port) for way in WAYS}
    for block in range(BLOCKS + 1):  # the first round warms up
        for way, (path, authorization) in WAYS.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                headers = {"Content-Type": "application/json"}
                if authorization:
                    headers["Authorization"] = authorization()
                connections[way].request("POST", path, BODY, headers)
                answer = connections[way].getresponse().read()
                if block:
                    took[way].append(time.perf_counter() - start)
                if json.loads(answer) != {"args": [[1, "two"]]}:
                    raise RuntimeError(f"{way} answered {answer!r}")
    bridge = statistics.median(took["bridge"])
    for way, times in took.items():
        p50 = statistics.median(times)
        print(f"{way:12} p50 {p50 * 1e3:.3f} ms, {p50 / bridge:.2f} of the bridge")


def main() -> None:
    """Run a router with both, and measure."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = configuration(load(), port)
    paths = config["workers"][0]["transports"][0]["paths"]
    bridge = paths["call"]
    with_door(config, [])
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder) / "people.json"
        role = bridge["role"]
        entry = {"role": role, "keys": [], "token": SECRET.hexdigest()}
        people.write_text(json.dumps({"bench": entry}))
        paths["call"]["extra"] |= {"people": str(people), "router": ROUTER}
        paths["bridge"] = bridge
        (Path(folder) / "config.json").write_text(json.dumps(config))
        guarded = shipped().with_name("guarded_crossbar.py")
        python = crossbar().with_name("python")
        router = subprocess.Popen(
            [python, guarded, "start", "--cbdir", folder, "--loglevel", "warn"]
        )
        try:
            end = time.monotonic() + START_LIMIT
            while not answers(port):
                if router.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the router did not start")
                time.sleep(0.1)
            url = f"ws://127.0.0.1:{port}/ws"
            ApplicationRunner(url, "hipercam", extra={"port": port}).run(Echo)
        finally:
            router.send_signal(signal.SIGTERM)
            router.wait(START_LIMIT)


if __name__ == "__main__":
    main()
