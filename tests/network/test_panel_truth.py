"""What the panel says when a server or the router is gone or frozen, and of a command meanwhile."""

import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from hcam_devices.wamp import utils
from tests.browser import chromium

from .panel import Panel, panel
from .tools import Net

pytestmark = pytest.mark.asyncio(loop_scope="module")

FROZEN_MS = 10_000
"""A frozen router is noticed within this time."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


@pytest.fixture
def running(own: Net) -> Net:
    """A router with its hardware server, which may be killed."""
    if own.router is None or own.router.poll() is not None:
        own.start_router()
    if own.server is None or own.server.poll() is not None:
        own.start_server()
    own.wait_for_devices("slide")
    return own


async def ready(page: Panel) -> None:
    """Load the page and sign in, on a clock that the test can turn."""
    await page.page.clock.install()
    await page.load()
    await page.sign_in("local", "engineer")
    await expect(page.at("command:slide.stage.stop")).to_be_enabled()


async def test_a_killed_server_is_named_and_its_values_are_old(
    running: Net, browser: Browser
) -> None:
    async with panel(browser, running) as page:
        await ready(page)
        others = "gtcserver, hserver, hwalarm, hwlogger not running"
        await expect(page.at("verdict")).to_contain_text(others)
        assert running.server
        running.server.kill()
        await expect(page.at("verdict")).to_contain_text("and 2 more not running")
        await expect(page.at("device:slide")).to_have_attribute("data-state", "offline")
        await expect(page.at("command:slide.stage.stop")).to_be_disabled()
        await expect(page.at("value:slide.position")).to_have_attribute("data-value", "")
        running.server.wait()
        running.start_server()
        await expect(page.at("device:slide")).to_have_attribute("data-state", "online")
        await expect(page.at("command:slide.stage.stop")).to_be_enabled()


async def test_a_frozen_router_is_noticed(running: Net, browser: Browser) -> None:
    async with panel(browser, running) as page:
        await ready(page)
        assert running.router
        parent = psutil.Process(running.router.pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            await page.page.clock.run_for(FROZEN_MS)
            await expect(page.at("verdict")).to_have_attribute("data-state", "cut")
            await expect(page.at("verdict")).to_contain_text("No router: what you see is")
            await expect(page.page.locator("body")).to_have_class("cut")
            await expect(page.page.locator("[data-testid^='command:']:enabled")).to_have_count(0)
        finally:
            for process in reversed(family):
                process.resume()
        await expect(page.at("role")).to_contain_text("engineer")
        await expect(page.at("command:slide.stage.stop")).to_be_enabled()


async def test_a_command_without_an_answer_is_never_repeated(
    running: Net, browser: Browser
) -> None:
    async with panel(browser, running) as page:
        await ready(page)
        assert running.server
        assert running.router
        running.server.send_signal(signal.SIGSTOP)
        await page.at("command:slide.stage.stop").click()
        await page.at("confirm").locator("[name=why]").fill("once")
        await page.at("confirm").locator("[data-go]").click()
        await expect(page.at("confirm")).to_contain_text("waiting")
        running.router.kill()
        running.router.wait()
        await expect(page.at("answer")).to_contain_text("may have been carried out")
        await page.page.keyboard.press("Escape")
        await expect(page.at("verdict")).to_have_attribute("data-state", "cut")
        running.server.send_signal(signal.SIGCONT)
        running.start_router()
        await expect(page.at("command:slide.stage.stop")).to_be_enabled()

        running.wait_for_devices("slide")  # which may come back later than the page
        utils.call("hipercam.slide.rpc.stage.stop", _why="afterwards")
        await expect(page.at("log")).to_contain_text("afterwards")
        assert (await page.at("log").inner_text()).count("once") <= 1
