"""Pages of other sites in a real browser command nothing, in whatever way they try.

The router gives everybody every right here, so only its refusal of web pages is in the way.
Crossbar's own bridge beside it, with every Origin allowed, shows that the pages work.
"""

import asyncio
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from autobahn.wamp.types import CallDetails, RegisterOptions
from playwright.async_api import Browser, WebSocket

from hcam_devices.config.instrument import load
from hcam_devices.wamp.router import PAGES, answers, configuration, with_door
from hcam_devices.wamp.uris import Address
from tests.browser import chromium

from .test_door import start
from .tools import PATIENCE, Net, client, free_port, until

PREFIX = "hipercam.page."
COMMON = """<!doctype html><body>
<script>
const host = location.search.slice(1) || location.host;
const command = way => JSON.stringify({procedure: "hipercam.page." + way});
function send(way, type, method = "POST") {
    const body = new Blob([command(way)]);
    const headers = type ? {"Content-Type": type} : {};
    fetch(`http://${host}/call?${way}`, {method, body, headers});
}
function join(way) {
    const socket = new WebSocket(`ws://${host}/ws?${way}`, ["wamp.2.json"]);
    const say = message => socket.send(JSON.stringify(message));
    socket.onopen = () => say([1, "hipercam", {roles: {caller: {}}}]);
    socket.onmessage = ({data}) => JSON.parse(data)[0] == 2
        ? say([48, 1, {}, "hipercam.page." + way]) : socket.close();
}
function load(way) {
    const element = document.createElement(way);
    element.src = `http://${host}/call?${way}`;
    document.body.append(element);
}
</script>
"""
SITE = """
<iframe name=frame></iframe>
<form method=post enctype=text/plain target=frame><input value='"}'></form>
<script>
send("bytes");
send("json", "application/json");
send("text", "text/plain");
send("put", "application/json", "PUT");
navigator.sendBeacon(`http://${host}/call?beacon`, new Blob([command("beacon")]));
join("websocket");
load("img");
load("script");
const form = document.forms[0];
form.action = `http://${host}/call?form`;
form[0].name = command("form").replace("}", ', "x": "');
form.submit();
const sandbox = document.createElement("iframe");
sandbox.sandbox = "allow-scripts";
sandbox.src = "sandbox.html?" + host;
const rebound = document.createElement("iframe");
rebound.src = `http://evil.test:${host.split(":")[1]}/rebound.html`;
document.body.append(sandbox, rebound);
</script>
"""
SANDBOX = "<script>send('sandboxed'); join('sandboxed_websocket')</script>"
REBOUND = "<script>send('rebound'); join('rebound_websocket')</script>"
OBEYED = {
    *("bytes", "json", "put", "beacon", "websocket"),
    *("sandboxed", "sandboxed_websocket", "rebound", "rebound_websocket"),
}
"""What a router obeys that does not look at where a page is from."""
WAYS = OBEYED | {"text", "form", "img", "script"}


@dataclass(frozen=True)
class Ports:
    """Where one process serves the pages, lets no page in, and obeys all of them."""

    site: int
    closed: int
    open: int


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """A router with our door, and beside it what the pages need."""
    net = Net(tmp_path_factory.mktemp("pages"))
    ports = Ports(free_port(), net.port, free_port())
    config = configuration(load(), net.port)
    transports = config["workers"][0]["transports"]
    site, permissive = copy.deepcopy(transports[0]), copy.deepcopy(transports[0])
    with_door(config, [])
    site["endpoint"]["port"], permissive["endpoint"]["port"] = ports.site, ports.open
    permissive["paths"]["ws"]["options"] |= {"allowed_origins": ["*"], "allow_null_origin": True}
    transports += [site, permissive]
    folder = net.home / PAGES
    folder.mkdir()
    for name, page in (("site", SITE), ("sandbox", SANDBOX), ("rebound", REBOUND)):
        (folder / f"{name}.html").write_text(COMMON + page)
    try:
        start(net, config)
        until(lambda: answers(ports.site) and answers(ports.open))
        yield ports
    finally:
        net.end()


async def visit(browser: Browser, site: int, router: int) -> dict[str, object]:
    """Open the page of a site; return how the router answered each way that the page has tried.

    That is an HTTP status, or what the browser says of a failure or of the end of a WebSocket.
    """
    answered: dict[str, object] = {}
    complete = asyncio.Event()

    def note(url: str, answer: object) -> None:
        if (way := urlsplit(url).query) in WAYS:
            answered.setdefault(way, answer)
        if answered.keys() == WAYS:
            complete.set()

    def listen(socket: WebSocket) -> None:
        socket.on("socketerror", lambda error: note(socket.url, error))
        socket.on("close", lambda _: note(socket.url, "closed"))

    page = await browser.new_page()
    page.on("websocket", listen)
    page.on("response", lambda response: note(response.url, response.status))
    page.on("requestfailed", lambda request: note(request.url, request.failure))
    await page.goto(f"http://site.test:{site}/site.html?127.0.0.1:{router}")
    try:
        await asyncio.wait_for(complete.wait(), PATIENCE)
    except TimeoutError:
        pytest.fail(f"no answer to {WAYS - answered.keys()}")
    await page.close()
    return answered


async def test_no_way_of_a_web_page_gets_through(ports: Ports) -> None:
    obeyed: set[str] = set()

    def obey(details: CallDetails) -> None:
        obeyed.add(str(details.procedure).removeprefix(PREFIX))

    public_site = f"--ip-address-space-overrides=127.0.0.1:{ports.site}=public"
    # Chromium asks its user before a public site may reach this machine; other browsers do not.
    unasked = "--disable-features=LocalNetworkAccessChecks"
    address = Address("127.0.0.1", ports.closed)
    async with (
        client(address) as session,
        chromium(public_site, unasked, names="*.test") as browser,
    ):
        await session.register(obey, PREFIX, RegisterOptions("prefix", details_arg="details"))
        answered = await visit(browser, ports.site, ports.closed)
        assert (obeyed, {200, "closed"} & {*answered.values()}) == (set(), set())
        answered = await visit(browser, ports.site, ports.open)
        assert obeyed == OBEYED
        # These have arrived, too: Crossbar refuses text.
        assert (answered["text"], answered["form"]) == (400, 400)
