"""Programs of version 1.7, unchanged, beside our servers on a machine of their own.

Port 8080 is built into them, so there is a network for them alone.
"""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from hcam_devices.config.instrument import load

from .namespaces import Host, made_hosts
from .tools import BIN, living, until

ORIGINAL = Path(__file__).parents[2] / ".venv" / "original" / "bin"
DESK, HEAD = "10.77.0.1", "10.77.0.2"
SITE = f"""
[legacy]
enabled = true
listen = ["{DESK}"]
"""
SHOWN = [
    *("meerstetter1", "pressure1", "flow", "slide", "compo_lens", "compo_arms", "compo", "ccd1"),
    *("ngc", "gtc", "rack", "gps", "chiller"),
]
"""A device of each kind, but that which speaks once a minute."""
QUANTITY = re.compile(r"<Quantity (\S+) ([^>]+)>")
ESTABLISHED = "01"


class Site:
    """Our instrument on one machine, and programs of version 1.7 on another."""

    def __init__(self, ours: Host, theirs: Host) -> None:
        self.ours, self.theirs = ours, theirs
        self.file = self.ours.home / "site.toml"
        self.file.write_text(load().path.read_text() + SITE)

    def hcam(self, *arguments: str) -> str:
        """Run ``hcam`` on the machine of the router; return what it prints, or nothing."""
        command = (*self.ours.inside, str(BIN / "hcam"), *arguments)
        done = subprocess.run(
            command,
            env=self.ours.environment,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.stdout

    def call(self, procedure: str, *args: object) -> Any:
        said = self.hcam("call", procedure, *map(json.dumps, args))
        return json.loads(said) if said.strip() else None

    def begin(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a program of version 1.7."""
        env = self.theirs.environment | {"WAMP_SERVER": DESK, "PYTHONUNBUFFERED": "1"}
        inside = ("env", *(f"{name}={env[name]}" for name in ("WAMP_SERVER", "PYTHONUNBUFFERED")))
        return self.theirs.start(*inside, *self._program(*command), log=log)

    @staticmethod
    def _program(name: str, *args: str) -> tuple[str, ...]:
        path = ORIGINAL / name
        return (str(path) if path.exists() else name, *args)

    def run(self, *command: str) -> str:
        """Run a program of version 1.7 to its end; return what it prints."""
        log = f"run-{len(self.theirs.started)}"
        process = self.begin(*command, log=log)
        until(lambda: process.poll() is not None)
        return (self.theirs.home / log).read_text()

    def router(self) -> psutil.Process:
        """Return the process of the router that has the connections."""
        [router] = (one for one in living(self.ours.home, "crossbar") if "worker" in one.name())
        return router

    def connections(self) -> int:
        """Return how many programs of the other machine the router has on the line."""
        router = self.router()
        lines = Path(f"/proc/{router.pid}/net/tcp").read_text().splitlines()[1:]
        remote = "".join(f"{int(part):02X}" for part in reversed(HEAD.split(".")))
        ends = [line.split()[2:4] for line in lines]
        return sum(end.startswith(f"{remote}:") and state == ESTABLISHED for end, state in ends)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not ORIGINAL.exists():
        missing = "version 1.7 is not there: run tests/original"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    addresses = {"desk": DESK, "head": HEAD}
    with made_hosts(tmp_path_factory.mktemp("original"), addresses) as hosts:
        site = Site(*hosts)
        site.ours.up(site.file)
        for device in SHOWN:
            until(lambda name=device: (site.call(f"{name}.telemetry") or {}).get("seq"))  # type: ignore[misc]
        yield site


def messages(log: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return what ``show_telemetry`` has printed in full: times, states and values."""
    plain = "\n".join(line[25:] for line in log.read_text().splitlines())  # without the log's times
    literals = QUANTITY.sub(r"('\1', '\2')", plain)
    blocks = re.findall(r"^'\d{4}-\d\d-\d\d .*?(?=\n\n)", literals, re.MULTILINE | re.DOTALL)
    parsed = [ast.parse(block).body for block in blocks]
    return [
        tuple(ast.literal_eval(one.value) for one in body if isinstance(one, ast.Expr))
        for body in parsed
    ]


def seconds(time: str) -> float:
    return datetime.fromisoformat(time.replace("Z", "")).timestamp()


def same(ours: Any, theirs: Any) -> bool:
    """Return whether a value that they show is that of our telemetry."""
    if isinstance(theirs, tuple):
        return theirs[1] == ours["unit"] and same(ours["value"], float(theirs[0]))
    if isinstance(theirs, dict):
        return all(same(ours[name], one) for name, one in theirs.items())
    if isinstance(ours, dict):
        return same(ours["value"], float(theirs))
    if isinstance(ours, float):
        return bool(float(theirs) == pytest.approx(ours, rel=1e-7, abs=1e-7))
    return bool(theirs == ours or (ours is None and theirs == 0))


def test_show_telemetry_shows_what_ours_says(site: Site) -> None:
    programs = {
        device: site.begin("show_telemetry", f"hipercam.{device}.telemetry", log=f"{device}.shown")
        for device in SHOWN
    }
    for device, program in programs.items():
        log = site.theirs.home / f"{device}.shown"
        shown = until(lambda log=log: messages(log))  # type: ignore[misc]
        program.kill()
        for time, state, values in shown[:3]:
            samples = site.call(f"{device}.samples")
            [sample] = [
                one for one in samples if abs(seconds(one["timestamp"]) - seconds(time)) < 0.006
            ]
            if device == "ngc":
                sample["exposure.newDataFileName"] = Path(sample["exposure.newDataFileName"]).name
            assert values
            for name, value in values.items():
                assert same(sample[name], value), (device, name, sample[name], value)
            assert "offline" not in str(state), device


def test_do_wamp_call_and_publish_wamp_msg_command_and_are_named(site: Site) -> None:
    def called(name: str, *args: str) -> str:
        return site.run("do_wamp_call", f"hipercam.{name}", *args).strip()

    assert called("meerstetter1.rpc.reset", "2") == "Result:  None"
    assert called("meerstetter1.rpc.reset", "four").startswith("com.hipercam.error.invalid_argum")
    assert called("slide.rpc.nothing").startswith("wamp.error.not_authorized")
    assert called("nobody.rpc.move").startswith("wamp.error.no_such_procedure")
    assert called("ngc.rpc.start_ngc_server", "True").startswith("Result:  ")
    assert "run0000.fits" in called("ngc.rpc.summary")
    assert (
        site.run("publish_wamp_msg", "hipercam.slide.target_position", "900") == "Result:  None\n"
    )
    assert called("slide.rpc.stage.move") == "Result:  None"

    def is_there() -> bool:
        position = site.call("slide.telemetry")["position"]["current"]
        return bool(position["value"] == pytest.approx(900, abs=1))

    until(is_there)
    noted = site.hcam("history", "--commands", "slide")
    assert re.search(rf"realm1 at {re.escape(HEAD)}\b.*stage\.move", noted), noted
    assert re.search(rf"realm1 at {re.escape(HEAD)}\b.*target_position", noted), noted


CALLS = """
import json, sys
from hcam_devices.wamp import utils
names = json.load(sys.stdin)
print(len([name for name in names if utils._check_procedure(name)]))
print(utils.call("hipercam.gtc.rpc.get_focus"))
print(utils.call("hipercam.gtc.rpc.gtc.do_offset", raoff=0.05, decoff=0.001))
utils.publish("hipercam.slide.target_position", 1000)
try:
    utils.call("hipercam.nobody.rpc.move")
except ValueError as error:
    print(error)
try:
    utils.call("hipercam.slide.rpc.nothing")
except utils.WAMPRuntimeError as error:
    print(error)
"""


def test_call_and_publish_find_every_procedure_over_http(site: Site) -> None:
    names = [
        f"hipercam.{entry.name}.rpc.{name}"
        for entry in load().entries.values()
        for name in entry.build().procedures()
    ]
    script = site.theirs.home / "calls.py"
    script.write_text(CALLS)
    (site.theirs.home / "names.json").write_text(json.dumps(names))
    said = site.run("sh", "-c", f"{ORIGINAL / 'python'} calls.py < names.json").splitlines()
    assert said[:3] == [str(len(names)), "-1.25", "None"], said
    assert "not registered" in said[-2]
    assert 'not authorized to call procedure "hipercam.slide.rpc.nothing"' in said[-1]


def test_a_program_finds_the_router_again_that_was_killed(site: Site) -> None:
    log = site.theirs.home / "again.shown"
    program = site.begin("show_telemetry", "hipercam.slide.telemetry", log=log.name)
    until(lambda: messages(log))
    site.router().kill()
    shown = len(messages(log))
    until(lambda: len(messages(log)) > shown + 2)
    for device in SHOWN:
        until(lambda name=device: (site.call(f"{name}.telemetry") or {}).get("seq"))  # type: ignore[misc]
    program.kill()
    until(lambda: not site.connections())


JOIN = """
import asyncio
from hcam_devices.wamp.session import join
from hcam_devices.wamp.uris import Address

async def main():
    async with join(Address()) as session:
        print("joined", flush=True)
        await session.over

asyncio.run(main())
"""


def test_a_frozen_program_keeps_its_session_and_a_dead_machine_does_not(site: Site) -> None:
    before = site.connections()
    log = site.theirs.home / "frozen.shown"
    frozen = site.begin("show_telemetry", "hipercam.slide.telemetry", log=log.name)
    until(lambda: messages(log))
    assert site.connections() == before + 1
    router_log = site.ours.home / "router" / "8080" / "router.log"
    frozen.send_signal(signal.SIGSTOP)
    for closed in (1, 2):
        # A new program is closed after one unanswered ping. The old one has missed two at the end.
        control = site.ours.start(sys.executable, "-c", JOIN, log=f"control{closed}")
        until((site.ours.home / f"control{closed}").read_text)
        control.send_signal(signal.SIGSTOP)
        until(lambda closed=closed: router_log.read_text().count("ping timeout") == closed)  # type: ignore[misc]
        control.kill()
    assert site.connections() == before + 1
    shown = len(messages(log))
    frozen.send_signal(signal.SIGCONT)
    until(lambda: len(messages(log)) > shown + 8)

    subprocess.run(
        ["ip", "-n", site.theirs.inside[-1], "link", "set", "eth0", "down"], check=True, timeout=60
    )
    until(lambda: not site.connections())
