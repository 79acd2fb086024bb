"""Run the commands on keys of the README and of docs/keys.md, word for word."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import RegisterOptions

from hcam_devices.config.instrument import load
from hcam_devices.wamp import utils
from hcam_devices.wamp.access import read_key
from hcam_devices.wamp.router import answers
from hcam_devices.wamp.utils import call

from ..wamp.test_legacy_telemetry import SLIDE, parsed
from .test_door import call as call_of
from .test_door import send
from .test_running_a_site import commands_of
from .tools import BIN, ROUTER_PYTHON, Follower, Net, client, free_port, soon, until

pytestmark = pytest.mark.merge

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text().partition("\n## Who may do what\n")[2]
PAGE, OWN_ROUTER = (ROOT / "docs" / "keys.md").read_text().split("\n## Your own Crossbar\n")
SITE = """
[devices.slide]
kind = "zaber.FocalPlaneSlide"
port = 10001
"""
BEGIN_CROSSBAR = "crossbar start --cbdir crossbar"


@pytest.fixture
def site(own: Net, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A router and a slide, as the tests before have left them."""
    file = own.home / "site.toml"
    monkeypatch.setenv("HCAM_INSTRUMENT", str(file))
    if not file.exists():
        file.write_text(SITE)
        own.start_router()
        own.server = own.start(BIN / "hwserver", "--emulate", log="hwserver.out")
    own.wait_for_devices("slide")
    return own


def run(net: Net, command: str, code: int = 0) -> str:
    """Run a command of a page; return what it printed."""
    path = f"PATH={BIN}:{ROUTER_PYTHON.parent}:{os.environ['PATH']}"
    return net.run("env", path, "sh", "-c", command.replace(":8080/", f":{net.port}/"), code=code)


def test_the_commands_of_the_readme_do_what_it_says(site: Net) -> None:
    section = README.partition("\n## ")[0].replace("./hcam ", "hcam ")
    lines = re.findall(r"^    (\S(?:.*\\\n)*.*)$", section, re.MULTILINE)
    add, people, call_, curl, remove = lines
    assert run(site, add) == "ada.key\n"
    assert re.search(r"^ada +operator, 1 key$", run(site, people), re.MULTILINE)
    assert "begun" in run(site, call_)
    assert '{"args":[null]}' in run(site, curl)
    run(site, remove)
    assert "is not signed with the token of" in run(site, call_, code=1)
    assert "the router does not know this name and token" in run(site, curl)


def test_the_commands_of_the_page_do_what_it_says(site: Net) -> None:
    (site.home / "ada.key").unlink(missing_ok=True)
    commands = "\n".join(commands_of(PAGE)).replace("\\\n", "").splitlines()
    said = {line: run(site, line) for line in commands}
    read, command = (text for line, text in said.items() if "curl " in line)
    assert '"device":"slide"' in read
    assert '{"args":[null]}' in command
    for path in ("ada.key", "script.key"):
        assert (site.home / path).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Net]:
    """A Crossbar that is not ours, started as the page says; nobody is on it."""
    net = Net(tmp_path)
    net.port = free_port()
    file = net.home / "site.toml"
    file.write_text(load().path.read_text() + getattr(request, "param", ""))
    monkeypatch.setenv("HCAM_INSTRUMENT", str(file))
    monkeypatch.setenv("WAMP_SERVER", str(net.address))
    monkeypatch.setenv("HCAM_HOME", str(net.home))
    try:
        *prepare, begin = commands_of(OWN_ROUTER)
        for command in prepare:
            run(net, command)
        assert begin == BEGIN_CROSSBAR
        crossbar = ROUTER_PYTHON.with_name("crossbar")
        router = net.start(crossbar, *begin.split()[1:], log="crossbar.out")
        until(lambda: answers(net.port) or router.poll() is not None)
        assert router.poll() is None, (net.home / "crossbar.out").read_text()
        yield net
    finally:
        net.end()


async def test_a_crossbar_of_one_s_own_has_keys_roles_and_the_door(plain: Net) -> None:
    names = "hipercam.slide.rpc.", RegisterOptions("prefix")
    block = "hipercam.slide.rpc.block"
    path = plain.home / "ada.key"
    await asyncio.to_thread(
        plain.hcam, "access", "add", "ada", "--role", "observer", "--out", str(path)
    )
    for key in (None, plain.key("local"), plain.key("hserver")):
        async with client(plain.address, key=key) as session:
            with pytest.raises(ApplicationError, match="not authorized to register"):
                await session.register(lambda: None, *names)
    async with client(plain.address, key=plain.key("hwserver")) as server:
        await server.register(lambda: "blocked", *names)
        assert await asyncio.to_thread(call, block) == "blocked"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HCAM_KEY", str(path))
            with pytest.raises(utils.NotAuthorizedError, match=r"authrole=.observer"):
                await asyncio.to_thread(call, block)
        async with client(plain.address, key=read_key(path)) as ada:
            await asyncio.to_thread(plain.hcam, "access", "remove", "ada")

            async def gone() -> bool:
                return not ada.is_attached()

            await soon(gone)


@pytest.mark.parametrize("plain", ["\n[legacy]\nenabled = true\n"], indirect=True)
async def test_a_crossbar_of_one_s_own_serves_programs_of_version_1_7(plain: Net) -> None:
    made = json.loads((plain.home / "crossbar" / "config.json").read_text())
    [transport] = made["workers"][0]["transports"]
    # hdriver answers no ping while it asks its user something.
    assert transport["paths"]["ws"]["options"]["auto_ping_timeout"] > 1_000_000
    got: list[Any] = []
    stage_move = "hipercam.slide.rpc.stage.move"

    def move(*args: Any, _call: Any) -> None:
        got.append((*args, _call.caller_authid))

    async with client(plain.address, key=plain.key("hwserver")) as server:
        options = RegisterOptions("prefix", details_arg="_call")
        await server.register(move, "hipercam.slide.rpc.", options)
        async with client(plain.address, realm="realm1", key=None) as program:
            heard = await Follower.of(program, "hipercam.slide.telemetry")
            await program.call(stage_move, "1")
            server.publish("hipercam.slide.telemetry", SLIDE)
            assert parsed(await heard.next(bool))["position"]
        answer = await asyncio.to_thread(send, plain, "/call", call_of(stage_move, 2))
    assert answer[0] == 200, answer
    assert got == [(1, "realm1 at 127.0.0.1"), (2, "anonymous at 127.0.0.1")]
