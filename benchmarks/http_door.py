"""Times a call through the router's door and through Crossbar's own bridge, block by block in turn.

Both are in one router, and call one procedure of one session; the requests are the same bytes on
two connections that are kept: ``.venv/bin/python benchmarks/http_door.py``.
"""

import asyncio
import http.client
import json
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import answers, configuration, crossbar, shipped, with_door

BLOCKS, CALLS = 200, 20  # blocks, and calls of each way in one
PROCEDURE = "hipercam.echo"
BODY = json.dumps({"procedure": PROCEDURE, "args": [1, "two"]}).encode()
START_LIMIT = 60


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
    ways = {"bridge": "/bridge", "door": "/call"}
    took: dict[str, list[float]] = {way: [] for way in ways}
    connections = {way: http.client.HTTPConnection("127.0.0.1", port) for way in ways}
    for block in range(BLOCKS + 1):  # the first round warms up
        for way, path in ways.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                connections[way].request("POST", path, BODY, {"Content-Type": "application/json"})
                answer = connections[way].getresponse().read()
                if block:
                    took[way].append(time.perf_counter() - start)
                if json.loads(answer) != {"args": [[1, "two"]]}:
                    raise RuntimeError(f"{way} answered {answer!r}")
    bridge = statistics.median(took["bridge"])
    for way, times in took.items():
        p50 = statistics.median(times)
        print(f"{way:10} p50 {p50 * 1e3:.3f} ms, {p50 / bridge:.2f} of the bridge")


def main() -> None:
    """Run a router with both, and measure."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = configuration(load(), port)
    paths = config["workers"][0]["transports"][0]["paths"]
    bridge = paths["call"]
    with_door(config, [])
    paths["bridge"] = bridge
    with tempfile.TemporaryDirectory() as folder:
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
