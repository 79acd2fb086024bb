"""The panel in a browser, for tests: what it shows, what it has fetched, and who is signed in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, WebSocket, expect

from hcam_devices.wamp import access

from .tools import PATIENCE, Net

expect.set_options(timeout=PATIENCE * 1000)

SIZES = ((1920, 1080), (1280, 800), (768, 1024), (390, 844))
"""A wall, a laptop, a tablet and a phone."""


class Panel:
    """One page of the panel, and what it has done so far."""

    def __init__(self, page: Page, net: Net) -> None:
        self.page, self.net = page, net
        self.said: list[str] = []
        """What is in its console, and its errors."""
        self.asked: list[str] = []
        """The URLs that it has asked for, with that of its WebSocket."""
        self.bytes = 0
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.said.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: self.asked.append(request.url))
        self.sent: list[str] = []
        """The messages that it has sent to the router."""
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        self.asked.append(socket.url)
        socket.on("framesent", lambda frame: self.sent.append(str(frame)))

    def _hear(self, message: ConsoleMessage) -> None:
        if not message.text.startswith("WebSocket connection to"):  # the browser's own words
            self.said.append(f"{message.type}: {message.text}")

    def at(self, testid: str) -> Locator:
        return self.page.get_by_test_id(testid)

    async def load(self, role: str = "observer", path: str = "", scheme: str = "http") -> None:
        """Load the page, and wait until it has joined with a role."""
        await self.page.goto(f"{scheme}://{self.net.address}/{path}")
        await expect(self.at("role")).to_contain_text(role)

    async def sign_in(self, name: str, role: str) -> None:
        """Sign in as a person, who is added to those of the router if necessary."""
        if name not in access.people(self.net.access):
            access.add(self.net.access, name, role, str(self.net.address))
        await self.give(name, self.net.key(name).token)
        await expect(self.at("role")).to_contain_text(role)
        await self.page.keyboard.press("Enter")
        await expect(self.page.get_by_role("dialog")).to_be_hidden()

    async def give(self, name: str, token: str) -> None:
        """Enter a name and a token."""
        await self.at("sign-in").click()
        await self.at("user").fill(name)
        await self.at("secret").fill(token)
        await self.page.keyboard.press("Enter")

    async def values(self) -> dict[str, dict[str, str]]:
        """Return what the page says of each value: its text, data-value and data-unit."""
        script = """all => Object.fromEntries(all.map(one => [one.dataset.testid.slice(6),
            {value: one.dataset.value, unit: one.dataset.unit, text: one.innerText}]))"""
        found: dict[str, dict[str, str]] = await self.page.locator(
            "[data-testid^='value:']"
        ).evaluate_all(script)
        return found

    async def do(self, testid: str, **inputs: str) -> str:
        """Open the dialog of a command or setpoint, fill it in, and return the answer."""
        await self.at(testid).click()
        form = self.at("confirm")
        for name, text in inputs.items():
            await form.locator(f"[name={name}]").fill(text)
        await form.locator("[data-go]").click()
        answer = form.get_by_test_id("answer")
        await expect(answer).to_be_visible()
        text = await answer.inner_text()
        await self.page.keyboard.press("Escape")
        await expect(form).to_be_hidden()
        return text


@asynccontextmanager
async def panel(
    browser: Browser, net: Net, size: tuple[int, int] = SIZES[1], **options: Any
) -> AsyncIterator[Panel]:
    """A page in a window of a size, which is not loaded yet. At the end its console is clean.

    It moves nothing slowly, which would draw it sixty times a second.
    """
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height}, reduced_motion="reduce", **options
    )
    try:
        opened = Panel(await context.new_page(), net)
        yield opened
        assert not opened.said, opened.said
    finally:
        await context.close()
