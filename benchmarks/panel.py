"""Measures the panel in Chromium, and takes its pictures for the documentation.

    .venv/bin/python benchmarks/panel.py                    a table: seconds, bytes, delays
    .venv/bin/python benchmarks/panel.py --minutes 60       its memory and drops while it stays open
    .venv/bin/python benchmarks/panel.py --pictures docs/pictures

It runs the emulated instrument in a temporary folder. A value's delay is the time from when a bare
WAMP client has heard it until the page shows it.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, WebSocket, async_playwright

from compare import percentile
from hcam_devices.config.instrument import load
from hcam_devices.wamp import uris, utils
from hcam_devices.wamp.access import own_key
from hcam_devices.wamp.session import join
from hcam_devices.wamp.uris import Address

BIN = Path(sys.prefix) / "bin"
PORT, LOADS, LISTEN_S = 9475, 9, 60
EVENT = 36
"""The number of a WAMP message with an event."""
FIELDS = [f"ccd{n}.temperature" for n in range(1, 6)]
DEVICES = len(load().names)
TARGETS = {
    "first paint, s": 0.3,
    "all devices, s": 1.5,
    "value p50, ms": None,
    "value p95, ms": 50,
    "bytes": 400_000,
    "requests": 20,
}
PICTURES = {"panel-1920": (1920, 1080), "panel-1280": (1280, 800), "panel-768": (768, 1024)}
PHONE = (390, 844)
SEEN = """() => {
    window.shown = {}
    new MutationObserver((changes) => changes.forEach(({target}) => {
        const {testid, value} = target.dataset
        window.shown[testid.slice(6) + " " + value] ??= performance.timeOrigin + performance.now()
    })).observe(document.body, {subtree: true, attributeFilter: ["data-value"]})
}"""
COUNT = """n => document.querySelectorAll("[data-testid^='device:'][data-state=online]").length >= n
    && document.querySelectorAll("[data-testid='value:ccd5.temperature']").length
    && document.querySelector(".history canvas") && performance.now() / 1000"""


@contextmanager
def emulated(port: int) -> Iterator[Address]:
    """Run the emulated instrument, with every device online; yield the address of its router."""
    address = Address("127.0.0.1", port)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HCAM_HOME": home, "WAMP_SERVER": str(address)}
        command = [str(BIN / "hcam"), "up", "--emulate", "--port", str(port)]
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while subprocess.run(
                [BIN / "hcam", "status"], capture_output=True, check=False
            ).returncode:
                time.sleep(1)
            yield address
        finally:
            program.send_signal(signal.SIGINT)
            program.wait()


async def sign_in(page: Page) -> None:
    """Sign in as the engineer of this machine."""
    key = own_key()
    assert key
    await page.get_by_test_id("sign-in").click()
    await page.get_by_test_id("user").fill(key.name)
    await page.get_by_test_id("secret").fill(key.token)
    await page.keyboard.press("Enter")
    await page.get_by_test_id("sign-out").wait_for()
    await page.keyboard.press("Escape")


async def load_times(browser: Browser, address: Address) -> dict[str, float]:
    """Load the page in new windows; return medians of its times, its bytes and requests."""
    found: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(LOADS):
        context = await browser.new_context(bypass_csp=True)  # for wait_for_function
        page = await context.new_page()
        received: list[int] = []

        async def add(response: Any, received: list[int] = received) -> None:
            received.append(len(await response.body()))

        page.on("response", add)
        await page.goto(f"http://{address}/")
        ready = await page.wait_for_function(COUNT, arg=DEVICES, polling=20)
        found["all devices, s"].append(float(await ready.json_value()))
        painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        found["first paint, s"].append(float(await page.evaluate(painted)))
        found["bytes"].append(sum(received))
        found["requests"].append(len(received) + 1)  # and the WebSocket
        await context.close()
    return {name: statistics.median(values) for name, values in found.items() if values}


async def delays(browser: Browser, address: Address) -> dict[str, float]:
    """Return how much later (ms) than a bare client the page shows a value."""
    page = await browser.new_page()
    await page.goto(f"http://{address}/")
    await page.get_by_test_id("value:ccd5.temperature").wait_for()
    await page.evaluate(SEEN)
    heard: dict[str, float] = {}
    async with join(address) as session:
        for field in FIELDS:
            device, _, name = field.partition(".")

            def hear(sample: dict[str, Any], field: str = field, name: str = name) -> None:
                if sample[name]:
                    heard.setdefault(f"{field} {sample[name]['value']}", time.time() * 1000)

            await session.subscribe(hear, uris.telemetry(device))
        await asyncio.sleep(LISTEN_S)
    shown = await page.evaluate("window.shown")
    await page.close()
    later = sorted(shown[key] - heard[key] for key in heard.keys() & shown.keys())
    return {"value p50, ms": percentile(later, 0.5), "value p95, ms": percentile(later, 0.95)}


class Heard:
    """What the router has sent to a page: samples, those that are missing, and sessions."""

    def __init__(self, page: Page) -> None:
        self.samples = self.missing = self.joins = 0
        self._newest: dict[tuple[str, str], int] = {}
        page.on("websocket", self._join)

    def _join(self, socket: WebSocket) -> None:
        self.joins += 1
        self._newest.clear()
        socket.on("framereceived", self._hear)

    def _hear(self, frame: str | bytes) -> None:
        message = json.loads(frame)
        sample = message[4][0] if message[0] == EVENT and len(message) > 4 else None
        if not isinstance(sample, dict) or not {"device", "epoch", "seq"} <= sample.keys():
            return
        self.samples += 1
        key = sample["device"], sample["epoch"]
        self.missing += max(sample["seq"] - self._newest.get(key, sample["seq"] - 1) - 1, 0)
        self._newest[key] = sample["seq"]


async def stay_open(browser: Browser, address: Address, minutes: float) -> None:
    """Print, each minute, the memory of an open page and what it has missed."""
    page = await browser.new_page(viewport={"width": 1920, "height": 1080})
    heard, said = Heard(page), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.goto(f"http://{address}/")
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    for minute in range(round(minutes) + 1):
        metrics = (await session.send("Performance.getMetrics"))["metrics"]
        used = {one["name"]: one["value"] for one in metrics}
        heap, nodes = used["JSHeapUsedSize"] / 2**20, used["Nodes"]
        print(
            f"{minute:3} min  heap {heap:5.1f} MiB  {nodes:5.0f} nodes  {heard.samples:6} samples  "
            f"{heard.missing} missing  {heard.joins - 1} drops  {len(said)} complaints",
            flush=True,
        )
        await asyncio.sleep(60 if minute < round(minutes) else 0)
    print(*said, sep="\n", end="")
    await page.close()


async def raised(alarm: str) -> int:
    """Wait until an alarm is active; return the number of its occurrence."""
    while True:
        for record in utils.call(uris.rpc("alarms", "list")):
            if record["alarm"] == alarm and record["state"] == "active":
                return int(record["occurrence"])
        await asyncio.sleep(1)


async def take_pictures(browser: Browser, address: Address, folder: Path) -> None:
    """Write pictures of an instrument with a run, an alarm that somebody looks after, and more."""
    for procedure in ("start_ngc_server", "online", "pon"):
        utils.call(uris.rpc("ngc", procedure))
    setup = json.loads((Path(__file__).parent / "setup.json").read_text())
    utils.call(uris.rpc("ngc", "load_setup"), setup)
    utils.call(uris.rpc("ngc", "start"))
    utils.call(uris.rpc("meerstetter1", "set_target_temperature2"), -86, _why="test of ccd2")
    utils.call(uris.rpc("slide", "block"), _why="bias frames")
    utils.call(uris.rpc("pressure3", "simulate"), "set", base=0.05, pressure=0.05)
    utils.call(uris.rpc("pressure5", "simulate"), "silence")
    pressure = await raised("pressure3.pressure")
    await raised("pressure5.connection")
    acknowledge = uris.rpc("alarms", "acknowledge")
    utils.call(acknowledge, "pressure3.pressure", pressure, note="Ada closes the valve")
    utils.call(uris.rpc("alarms", "shelve"), "chiller.connection", 30, "on loan")
    await asyncio.sleep(20)  # until lines have something to show
    for name, (width, height) in {**PICTURES, "panel-390": PHONE}.items():
        page = await browser.new_page(viewport={"width": width, "height": height})
        await page.goto(f"http://{address}/")
        if (width, height) == PICTURES["panel-1920"]:
            await sign_in(page)
        if (width, height) == PICTURES["panel-1280"]:
            await page.get_by_title("red, for dark-adapted eyes").click()
        await page.locator(".history canvas").wait_for()
        await page.evaluate("document.activeElement.blur()")
        await asyncio.sleep(3)
        await page.screenshot(path=folder / f"{name}.png")
        await page.close()


async def main(options: argparse.Namespace, address: Address) -> None:
    """Measure, or take pictures."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium")
        if options.pictures:
            await take_pictures(browser, address, options.pictures)
        elif options.minutes:
            await stay_open(browser, address, options.minutes)
        else:
            found = await load_times(browser, address) | await delays(browser, address)
            for name, target in TARGETS.items():
                print(f"{name:16} {found[name]:10.3f}   {'' if target is None else f'<= {target}'}")
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path, help="an existing folder")
    with emulated(PORT) as running:
        asyncio.run(main(parser.parse_args(), running))
