"""The panel in Chromium: what it shows, who may do what, and a command from dialog to wire."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, WebSocketRoute, expect

from hcam_devices.config.instrument import load
from hcam_devices.history.replay import replay
from hcam_devices.ui.picture import Picture
from hcam_devices.ui.terminal import look
from hcam_devices.wamp import utils
from tests.browser import chromium

from .panel import SIZES, Panel, panel
from .test_replay import played
from .tools import Net, soon

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BYTES, MAX_REQUESTS = 400_000, 20
SUBSCRIBED = 33
WHITE = "rgb(255, 255, 255)"
COUNT_TONES = """window.tones = 0
window.OscillatorNode = class extends OscillatorNode {
    start(...when) { super.start(...when); window.tones++ }
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


def in_sample(sample: dict[str, Any], path: list[str]) -> Any:
    found: Any = sample
    for key in path:
        found = None if found is None else found.get(key)
    return found["value"] if isinstance(found, dict) and "value" in found else found


def as_data(value: Any) -> str:
    """Return a value as the page gives it to programs."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


async def test_every_device_and_value_is_shown_as_telemetry_and_the_live_view_have_it(
    net: Net, browser: Browser
) -> None:
    described = {name: utils.call(f"hipercam.{name}.rpc.describe") for name in load().names}
    wanted = {
        f"{name}.{field}": (told["path"], told["unit"], name)
        for name, device in described.items()
        for field, told in device["fields"].items()
    }
    async with panel(browser, net) as page:
        await page.load()
        for name in load().names:
            await expect(page.at(f"device:{name}")).to_have_attribute("data-state", "online")
        left = set(wanted)

        async def all_agree() -> bool:
            before = {name: utils.call(f"hipercam.{name}.rpc.telemetry") for name in described}
            shown = await page.values()
            after = {name: utils.call(f"hipercam.{name}.rpc.telemetry") for name in described}
            assert shown.keys() <= wanted.keys()
            for field in [*left & shown.keys()]:
                path, unit, name = wanted[field]
                assert shown[field]["unit"] == unit
                said = json.loads(shown[field]["value"]) if _is_json(shown[field]["value"]) else ...
                for sample in (before[name], after[name]):
                    value = in_sample(sample, path)
                    if shown[field]["value"] == as_data(value) or said == value:
                        left.discard(field)
            return not left

        await soon(all_agree)
        picture = Picture(load(), "*")

        async def same_words() -> bool:
            await look(picture, net.address)
            words = {name: picture.state(name) for name in picture.samples}
            shown = await page.page.locator("article.card[data-testid^='device:']").evaluate_all(
                """all => Object.fromEntries(all.map(one => [one.dataset.testid.slice(7),
                    one.querySelector('.state').lastChild.textContent]))"""
            )
            return len(shown) > 15 and shown.items() <= words.items()

        await soon(same_words)


def _is_json(text: str) -> bool:
    return text[:1] in "-0123456789tf" and text not in ("",)


@pytest.mark.parametrize(
    "sizes",
    [pytest.param(SIZES, id="one after another")]
    + [
        pytest.param((size,), id="x".join(map(str, size)), marks=pytest.mark.soak) for size in SIZES
    ],
)
async def test_it_fits_and_is_light_and_accessible(
    net: Net, browser: Browser, sizes: tuple[tuple[int, int], ...]
) -> None:
    async with panel(browser, net, sizes[0]) as page:
        received: list[int] = []

        async def add(response: Any) -> None:
            received.append(len(await response.body()))

        page.page.on("response", add)
        await page.load()
        await page.page.wait_for_load_state("networkidle")
        await expect(page.at("value:ccd1.temperature")).to_be_visible()
        assert sum(received) < MAX_BYTES
        assert len(page.asked) <= MAX_REQUESTS, page.asked
        own = str(net.address)
        assert {url.split("/")[2] for url in page.asked if not url.startswith("data:")} == {own}
        for width, height in sizes:
            await page.page.set_viewport_size({"width": width, "height": height})
            wide = await page.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            if (width, height) in (SIZES[0], SIZES[-1]):
                for _ in range(2):
                    found = await Axe().run(page.page)
                    assert found.violations_count == 0, found.generate_report()
                    await page.page.get_by_title("red, for dark-adapted eyes").click()
        await page.page.emulate_media(media="print")
        await expect(page.at("sign-in")).to_be_hidden()
        await expect(page.page.locator("body")).to_have_css("background-color", WHITE)


async def test_each_role_sees_what_it_may_do(net: Net, browser: Browser) -> None:
    async with panel(browser, net) as page:
        await page.load()
        await expect(page.at("value:slide.position")).to_be_visible()
        commands = page.page.locator("[data-testid^='command:'], [data-testid^='set:']")
        slide = page.page.locator("[data-testid^='command:slide.']")
        await expect(slide).to_have_count(0)
        await expect(page.page.locator("[data-testid^='set:']")).to_have_count(0)
        for one in await commands.all():
            testid = await one.get_attribute("data-testid") or ""
            device, _, name = testid.partition(":")[2].partition(".")
            told = utils.call(f"hipercam.{device}.rpc.describe")["procedures"][name]
            assert told["audience"] == "observer"
        await page.give("ada", "not her token")
        await expect(page.at("answer")).to_contain_text("does not know this token of 'ada'")
        await page.page.keyboard.press("Escape")
        await expect(page.at("role")).to_contain_text("observer")
        for name, role, simulates in (("ola", "operator", 0), ("local", "engineer", 1)):
            await page.sign_in(name, role)
            await expect(page.at("command:slide.block")).to_be_enabled()
            await expect(page.at("set:slide.target_position")).to_be_enabled()
            await expect(page.at("command:slide.simulate")).to_have_count(simulates)
            await expect(page.page.locator("[data-testid$='.samples']")).to_have_count(0)
            await page.at("sign-out").click()
            await expect(slide).to_have_count(0)


async def test_who_signs_in_while_it_subscribes_reads_no_complaint(
    net: Net, browser: Browser
) -> None:
    async with panel(browser, net) as page:

        def without_subscribed(here: WebSocketRoute) -> None:
            there = here.connect_to_server()
            there.on_message(
                lambda text: None if json.loads(text)[0] == SUBSCRIBED else here.send(text)
            )

        await page.page.route_web_socket("**", without_subscribed)
        await page.load()
        await page.sign_in("ola", "operator")


async def test_a_command_goes_from_the_dialog_to_the_wire_and_back(
    net: Net, browser: Browser
) -> None:
    async with panel(browser, net) as page:
        await page.load()
        await page.sign_in("ola", "operator")
        value = page.at("value:slide.position")
        await expect(value).to_be_visible()
        before = float(await value.get_attribute("data-value") or "nan")
        target = 900 if before > 1000 else 1100
        await page.at("set:slide.target_position").click()
        form = page.at("confirm")
        go, number = form.locator("[data-go]"), form.locator("[name=target_position]")
        wrongs = {"5000": "outside of", "five": "not a number", "1,100": "without a comma"}
        for wrong, why in wrongs.items():
            await number.fill(wrong)
            await expect(form).to_contain_text(why)
            await expect(go).to_be_disabled()
        await page.page.keyboard.press("Escape")
        assert await page.do("set:slide.target_position", target_position=str(target)) == (
            f"target position is now {target}.00 pix."
        )
        answer = await page.do("command:slide.stage.move", why="to try it")
        assert answer == "The motion has begun."

        async def there() -> bool:
            return abs(float(await value.get_attribute("data-value") or "nan") - target) < 1

        await soon(there)
        await expect(page.at("log")).to_contain_text("to try it")
        [noted] = [
            one
            for one in utils.call("hipercam.recorder.rpc.commands", "slide", last="1h")["commands"]
            if one["why"] == "to try it"
        ] or [None]
        if noted:  # the recorder may not have it yet; the page has heard it
            assert (noted["who"], noted["role"]) == ("ola", "operator")


async def test_a_run_is_loaded_and_started(net: Net, browser: Browser, tmp_path: Any) -> None:
    setup = {
        "appdata": {
            **{"app": "FullFrame", "numexp": 3, "exptime": 0.5, "dwell": 0.1, "readout": "Fast"},
            **{"xbin": 1, "ybin": 1, "multipliers": [1, 1, 1, 1, 1], "clear": 0, "oscan": 0},
            **{"led_flsh": 0, "dummy_out": 1, "fast_clks": 0},
        }
    }
    file = tmp_path / "setup.json"
    file.write_text(json.dumps(setup))
    for name in ("start_ngc_server", "online", "pon"):
        utils.call(f"hipercam.ngc.rpc.{name}")
    async with panel(browser, net) as page:
        await page.load()
        await page.sign_in("ola", "operator")
        await page.at("run:ngc").click()
        form = page.at("confirm")
        await form.locator("[name=setup]").set_input_files(file)
        await expect(form).to_contain_text("FullFrame")
        await expect(form).to_contain_text("name the target")
        await expect(form.locator("[data-go]")).to_be_disabled()
        await form.locator("[name=target]").fill("HT Cas")
        await form.locator("[data-go]").click()
        await expect(page.at("answer")).to_contain_text("The run has started.")
        await page.page.keyboard.press("Enter")
        await expect(page.at("device:ngc")).to_contain_text("exposing")
        await expect(page.at("exposure")).to_have_attribute("aria-valuemax", "3")
        await expect(page.at("exposure")).to_have_attribute("aria-valuenow", "3")
        await expect(page.at("value:ngc.exposure.expStatusName")).to_have_text("success")


async def test_a_simulated_fault_is_an_alarm_until_it_is_cleared(
    net: Net, browser: Browser
) -> None:
    async with panel(browser, net) as page:
        await page.load()
        await page.sign_in("local", "engineer")
        await page.at("more:pressure5").click()
        await page.at("command:pressure5.simulate").click()
        await page.at("confirm").locator("[name=fault]").select_option("silence")
        await page.at("confirm").locator("[data-go]").click()
        await expect(page.at("answer")).to_contain_text("Faults now: silence")
        await page.page.keyboard.press("Enter")
        row = page.at("alarm:pressure5.connection")
        await expect(row).to_have_attribute("data-severity", "ERR")
        await expect(row).to_have_attribute("data-state", "active")
        await expect(row.get_by_role("img")).to_have_accessible_name("error")
        await expect(row).to_contain_text("also ccd5")
        await expect(page.at("verdict")).to_have_attribute("data-state", "err")
        await expect(page.page).to_have_title("(1) HiPERCAM")
        await expect(page.at("device:pressure5")).to_have_attribute("data-state", "offline")
        await expect(page.at("value:pressure5.pressure")).to_have_text("not read")
        await expect(page.at("value:ccd5.pressure")).to_have_attribute("data-value", "")
        utils.call("hipercam.pressure5.rpc.simulate", "clear")
        await expect(row).to_have_attribute("data-state", "returned")
        await page.at("ack:pressure5.connection").click()
        await expect(row).to_have_count(0)
        await expect(page.at("verdict")).to_have_text("All is well")


async def handed_over(alarm: str, first: Panel, second: Panel) -> None:
    """Put an alarm out of service, which the second person hands over and the first confirms."""
    form = second.at("confirm")
    assert "out of service" in await first.do(f"out-of-service:{alarm}", reason="on loan")
    await second.at("hand-over").click()
    await expect(form).to_contain_text(f"{alarm}out of service")
    await form.locator("[name=note]").fill("look at head 4")
    await form.locator("[data-go]").click()
    await expect(second.at("answer")).to_contain_text("It is logged.")
    await second.page.keyboard.press("Escape")
    await expect(first.at("handover")).to_contain_text("ola hands overlook at head 4")
    await first.at("confirm-handover").click()
    for page in (first, second):
        await expect(page.at("handover")).to_have_count(0)


async def test_two_people_at_once_look_after_an_alarm(net: Net, browser: Browser) -> None:
    alarm = "pressure4.pressure"
    async with panel(browser, net) as first, panel(browser, net, SIZES[-1]) as second:
        both = (first, second)
        await first.page.add_init_script(COUNT_TONES)
        for page, name, role in ((first, "local", "engineer"), (second, "ola", "operator")):
            await page.load()
            await page.sign_in(name, role)
            await expect(page.at("verdict")).to_have_text("All is well")
        await first.at("sound").click()
        tones = await first.page.evaluate("window.tones")
        utils.call("hipercam.pressure4.rpc.simulate", "set", base=0.05, pressure=0.05)
        for page in both:
            row = page.at(f"alarm:{alarm}")
            await expect(row).to_have_attribute("data-state", "active")
            await expect(row).to_contain_text("also ccd4.pressure")
            await expect(row).to_contain_text("Check that the head's valve is closed")
            await expect(page.at("alarm:ccd4.pressure")).to_have_count(0)
            await expect(page.at("verdict")).to_have_text("◆1 alarm")
        assert await first.page.evaluate("window.tones") > tones
        await first.at("value:pressure4.pressure").click()
        plot = first.at("history").get_by_role("img", name="plot of pressure, with")
        marks = re.compile(r"plot of pressure, with \d+ commands? and \d+ alarms?")  # of all tests
        await expect(plot).to_have_accessible_name(marks)

        await expect(second.at(f"out-of-service:{alarm}")).to_have_count(0)
        await second.at(f"shelve:{alarm}").click()
        form = second.at("confirm")
        await form.locator("[name=minutes]").fill("90")
        await form.locator("[name=reason]").fill("known")
        await expect(form).to_contain_text("give 1 to 60 minutes")
        await expect(form.locator("[data-go]")).to_be_disabled()
        await form.locator("[name=minutes]").fill("20")
        button = await first.at(f"ack:{alarm}").element_handle()  # the row may go before the click
        await asyncio.gather(
            button.evaluate("button => button.click()"), form.locator("[data-go]").click()
        )
        await expect(second.at("answer")).to_contain_text(f"{alarm} is shelved until")
        await second.page.keyboard.press("Escape")
        for page in both:
            await expect(page.at(f"alarm:{alarm}")).to_have_count(0)
            await expect(page.at("verdict")).to_have_text("All is well")
            await page.at("hidden").locator("summary").click()
            await expect(page.at("hidden")).to_contain_text("by ola: known")
        await first.at(f"unshelve:{alarm}").click()
        for page in both:
            row = page.at(f"alarm:{alarm}")
            await expect(row).to_have_attribute("data-state", "acknowledged")
            await expect(row).to_contain_text("acknowledged by local at")
            await expect(page.at(f"ack:{alarm}")).to_have_count(0)

        await handed_over(alarm, first, second)
        await expect(second.at(f"in-service:{alarm}")).to_have_count(0)
        await first.at(f"in-service:{alarm}").click()
        utils.call("hipercam.pressure4.rpc.simulate", "set", base=1e-5, pressure=1e-5)
        for page in both:
            await expect(page.at(f"alarm:{alarm}")).to_have_count(0)
            await expect(page.at("hidden")).to_have_count(0)


async def test_a_replay_shows_the_past_and_no_commands(net: Net, browser: Browser) -> None:
    past = utils.call("hipercam.pressure2.rpc.telemetry") | {
        "timestamp": "2026-11-22T23:14:05.000Z",
        "pressure": {"value": 0.25, "unit": "mbar"},
        "alarms": [{"field": "pressure", "severity": "ERR", "reason": "0.25 mbar is too high"}],
    }
    async with panel(browser, net) as page:
        await page.load(path="?realm=replay")
        await replay(played([past]), net.address, lambda *_: None)
        await expect(page.at("value:pressure2.pressure")).to_have_attribute("data-value", "0.25")
        await expect(page.at("replay")).to_have_text("REPLAY 2026-11-22")
        await expect(page.at("clock")).to_have_text("23:14:05 UTC")
        await expect(page.at("verdict")).to_contain_text(" alarm")  # of other replays, too
        await expect(page.at("alarm:pressure2.pressure")).to_contain_text("is too high")
        await expect(page.at("ack:pressure2.pressure")).to_have_count(0)
        await page.sign_in("local", "engineer")
        commands = page.page.locator("[data-testid^='command:'], [data-testid^='set:']")
        await expect(commands).to_have_count(0)
        await page.at("value:pressure2.pressure").click()
        await expect(page.at("history").locator("canvas")).to_have_count(1)


async def test_everything_is_done_with_the_keyboard(net: Net, browser: Browser) -> None:
    async with panel(browser, net) as page:
        await page.load()
        await page.sign_in("ola", "operator")
        await expect(page.at("command:slide.block")).to_be_enabled()
        await page.page.keyboard.press("/")
        await page.page.keyboard.type("chill")
        await page.page.keyboard.press("Enter")
        await expect(page.at("device:chiller")).to_be_focused()
        await page.page.keyboard.press("Tab")
        while not await page.page.evaluate("document.activeElement.matches('.value')"):
            await page.page.keyboard.press("Tab")
        await page.page.keyboard.press("Enter")
        await expect(page.at("history")).to_contain_text("ccd input")
        await page.page.keyboard.press("?")
        await expect(page.page.get_by_role("dialog")).to_contain_text("find a device")
        await page.page.keyboard.press("Escape")
        await expect(page.page.get_by_role("dialog")).to_be_hidden()
        await page.at("set:slide.target_position").press("Enter")
        await page.page.keyboard.type("1000")
        await page.page.keyboard.press("Enter")
        await expect(page.at("answer")).to_have_text("target position is now 1000.00 pix.")


async def test_history_is_of_all_siblings_and_sound_is_on_after_a_click(
    net: Net, browser: Browser
) -> None:
    async with panel(browser, net) as page:
        await page.load()
        await page.at("value:ccd3.pressure").click()
        history = page.at("history")
        await expect(history).to_contain_text("pressure mbar")
        await expect(history.locator(".legend svg")).to_have_count(5)
        for length in ("15 min", "12 h"):
            button = history.get_by_role("button", name=length)
            await button.click()
            await expect(button).to_have_attribute("aria-pressed", "true")
            await expect(history.locator("canvas")).to_have_count(1)
        await page.page.keyboard.press("Escape")
        sound = page.at("sound")
        await expect(sound).to_have_text("sound is off")
        await sound.click()
        await expect(sound).to_have_text("sound on")
        await sound.click()
        await expect(sound).to_have_text("sound is off")
