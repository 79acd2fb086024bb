"""The panel with stand-ins for servers: what is silent, many devices, and a page of a network."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from autobahn.wamp.types import CallDetails, PublishOptions, RegisterOptions
from playwright.async_api import Browser, expect

from hcam_devices.config.instrument import load
from hcam_devices.core.device import iso_from_s
from hcam_devices.wamp.described import packed
from hcam_devices.wamp.router import DESCRIBED, PAGES, configuration, write_pages
from hcam_devices.wamp.uris import changes, rpc, status, telemetry
from tests.browser import chromium

from .panel import Panel, panel
from .test_door import start
from .tools import Client, Net, client, soon

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNSUBSCRIBE, CALL = 34, 48
MANY = [f"many{n}" for n in range(1, 201)]


def sample(device: str, pressure: float = 1e-5) -> dict[str, Any]:
    return {
        "device": device,
        "timestamp": "2026-11-30T02:14:00.000Z",
        "state": {"connection": "online"},
        "alarms": [],
        "pressure": {"value": pressure, "unit": "mbar"},
    }


def publish(session: Client, topic: str, event: dict[str, Any]) -> None:
    session.publish(topic, event, options=PublishOptions(retain=True))


async def heard(page: Panel, session: Client) -> None:
    """Wait until the page has heard of the router, before its clock is turned on."""
    text = f"n{time.monotonic_ns()}"
    note = {"device": "pressure2", "time": "2026-11-30T02:14:00.000Z", "what": text, "args": []}
    session.publish("hipercam.pressure2.command", note)
    await expect(page.at("log")).to_contain_text(text)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(names="router.example") as found:
        yield found


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A router without roles, of an instrument with many devices."""
    net = Net(tmp_path_factory.mktemp("alarms"))
    file = net.instrument_with({"hwserver-many": MANY})
    write_pages(net.home / PAGES, load(file))
    try:
        start(net, configuration(load(file), net.port))
        yield net
    finally:
        net.end()


async def test_an_alarm_system_that_says_nothing_is_an_alarm(router: Net, browser: Browser) -> None:
    async with client(router.address, key=None) as session, panel(browser, router) as page:
        for name in ("list", "log"):
            await session.register(lambda **_: [], rpc("alarms", name))
        high = {"field": "pressure", "severity": "ERR", "reason": "0.25 mbar is too high"}
        publish(session, telemetry("pressure3"), sample("pressure3", 0.25) | {"alarms": [high]})
        publish(session, telemetry("alarms"), sample("alarms"))
        await page.page.clock.install()
        await page.load("local")
        await expect(page.at("device:alarms")).to_have_attribute("data-state", "online")
        await expect(page.at("alarm:pressure3.pressure")).to_have_count(0)
        for _ in range(6):
            await heard(page, session)
            await page.page.clock.run_for(3000)
        silent = page.at("alarm:alarms.silent")
        await expect(silent).to_have_attribute("data-severity", "ERR")
        await expect(page.at("ack:alarms.silent")).to_have_count(0)
        await expect(page.at("alarm:pressure3.pressure")).to_contain_text("is too high")
        publish(session, telemetry("alarms"), sample("alarms"))
        await expect(silent).to_have_count(0)


async def test_the_newest_of_very_many_commands_are_shown(router: Net, browser: Browser) -> None:
    now = 1000 * int(time.time())

    def commands(last: str = "", start: int = now - 1000) -> dict[str, Any]:
        """Return one command, and the start of the next page, as the recorder does."""
        at = iso_from_s(start / 1000)
        note = {"device": "pressure2", "time": at, "what": f"n{now - start}", "args": []}
        return {"commands": [note], "next": start + 500 if start < now else None}

    async with client(router.address, key=None) as session, panel(browser, router) as page:
        await session.register(commands, rpc("recorder", "commands"))
        await page.load("local")
        for shown in ("n1000", "n500", "n0"):
            await expect(page.at("log")).to_contain_text(shown)


async def test_a_replay_on_a_crossbar_of_ones_own_says_what_it_needs(
    router: Net, browser: Browser
) -> None:
    pages = router.home / PAGES
    (pages / DESCRIBED).rename(pages / "away")  # as another Crossbar serves the panel
    try:
        async with panel(browser, router) as page:
            await page.page.goto(f"http://{router.address}/?realm=replay")
            shown = page.page.get_by_role("alert")
            await expect(shown).to_contain_text(
                "only a router that hcam up or hcam router has started"
            )
            await expect(shown).not_to_contain_text("There is no router")
            page.said = [said for said in page.said if "404" not in said]  # the browser's own words
    finally:
        (pages / "away").rename(pages / DESCRIBED)


async def test_no_token_is_sent_over_a_network_without_tls(router: Net, browser: Browser) -> None:
    async with panel(browser, router) as page:
        await page.page.goto(f"http://router.example:{router.port}/")
        await expect(page.page.get_by_role("alert")).to_contain_text(
            f"this page is from http://router.example:{router.port}"
        )
        await page.give("ada", "her token")
        await expect(page.at("answer")).to_contain_text(
            "A token may not cross a network without TLS, where others can read it"
        )
        assert not [frame for frame in page.sent if "her token" in frame]


async def test_a_device_that_says_nothing_is_silent(router: Net, browser: Browser) -> None:
    async with client(router.address, key=None) as session, panel(browser, router) as page:
        running = {"server": "hwserver", "state": "running", "pid": 1}
        publish(session, status("hwserver"), running)
        publish(session, telemetry("pressure1"), sample("pressure1"))
        await page.page.clock.install()
        await page.load("local")
        shown = page.at("device:pressure1")
        await expect(shown).to_have_attribute("data-state", "online")
        for _ in range(9):
            await heard(page, session)
            await page.page.clock.run_for(3000)
        await expect(shown).to_have_attribute("data-state", "silent")
        await expect(shown).to_contain_text("silent")
        await expect(page.at("verdict")).to_contain_text("silent")
        publish(session, telemetry("pressure1"), sample("pressure1"))
        await expect(shown).to_have_attribute("data-state", "online")


async def test_many_devices_of_a_new_kind_are_shown(router: Net, browser: Browser) -> None:
    described = load().entries["pressure1"].build().describe()
    described |= {"aliases": [], "procedures": {}}

    def describe(details: CallDetails) -> dict[str, Any]:
        return described | {"device": str(details.procedure).split(".")[1]}

    def devices(names: list[str]) -> dict[str, Any]:
        told = names[1:]  # another program presents the first one
        return packed((described | {"device": name}, None) for name in told)

    async with client(router.address, key=None) as session, panel(browser, router) as page:
        await session.register(devices, rpc("hwserver-many", "devices"))
        for name in MANY:
            options = RegisterOptions(details_arg="details")
            await session.register(describe, rpc(name, "describe"), options)
            publish(session, telemetry(name), sample(name))
        await page.load("local")
        for name in MANY:
            await expect(page.at(f"value:{name}.pressure")).to_have_attribute(
                "data-value", "0.00001"
            )
        asked = {rpc(name, "describe") for name in MANY}
        asked &= {str(json.loads(frame)[3]) for frame in page.sent if json.loads(frame)[0] == CALL}
        assert asked == {rpc(name, "describe") for name in MANY[::50]}
        await page.page.keyboard.press("/")
        await page.page.keyboard.type(MANY[-1])
        await page.page.keyboard.press("Enter")
        await expect(page.at(f"device:{MANY[-1]}")).to_be_focused()
        first = page.at(f"value:{MANY[0]}.pressure")
        publish(session, telemetry(MANY[0]), sample(MANY[0], 0.5))
        await expect(first).to_have_attribute("data-value", "0.5")
        # What changed replaces the telemetry of each device, until its server is gone.
        entries = {"pressure": {"value": 0.25, "unit": "mbar"}}
        event = {"server": "hwserver-many", "devices": {MANY[0]: entries}}
        session.publish(changes("hwserver-many"), event)
        await expect(first).to_have_attribute("data-value", "0.25")

        async def unsubscribed() -> bool:
            return any(json.loads(frame)[0] == UNSUBSCRIBE for frame in page.sent)

        await soon(unsubscribed)
        publish(session, telemetry(MANY[0]), sample(MANY[0], 0.75))
        await heard(page, session)
        await expect(first).to_have_attribute("data-value", "0.25")
        publish(session, status("hwserver-many"), {"server": "hwserver-many", "state": "gone"})
        await expect(first).to_have_attribute("data-value", "0.75")
