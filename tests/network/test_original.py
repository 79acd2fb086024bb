"""Programs of version 1.7, unchanged, beside our servers on a machine of their own.

Port 8080 is built into them, so there is a network for them alone.
"""

import ast
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from hcam_devices.config.instrument import load

from ..conftest import Scaled
from .gui import ORIGINAL, commands, need_original, samples, site_file, written
from .namespaces import Host, made_hosts
from .tools import BIN, PATIENCE, living, until

pytestmark = pytest.mark.merge

DESK, HEAD = "10.77.0.1", "10.77.0.2"
SHOWN = [
    *("slide", "ngc", "ccd1", "gps", "meerstetter1", "pressure1", "flow", "compo_lens"),
    *("compo_arms", "compo", "gtc", "rack", "chiller"),
]
"""A device of each kind, but that which speaks once a minute; most different ones first."""
QUANTITY = re.compile(r"<Quantity (\S+) ([^>]+)>")
ESTABLISHED = "01"


class Site:
    """Our instrument on one machine, and programs of version 1.7 on another."""

    def __init__(self, ours: Host, theirs: Host) -> None:
        self.ours, self.theirs = ours, theirs
        file = site_file(ours.home)
        file.write_text(f'{file.read_text()}listen = ["{DESK}"]\n')
        ours.up(file)

    def begin(self, *command: str, log: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program of version 1.7."""
        env = self.theirs.environment | {"WAMP_SERVER": DESK, "PYTHONUNBUFFERED": "1"}
        inside = ("env", *(f"{name}={env[name]}" for name in ("WAMP_SERVER", "PYTHONUNBUFFERED")))
        return self.theirs.start(*inside, *self._program(*command), log=log, **more)

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

    def given(self, device: str, who: str, since: str) -> list[str]:
        """Return a caller's commands to a device that arrived after a time and were done.

        They are recorded after their answers, so earlier ones may be recorded after that time.
        """
        found = commands(self.ours.home, who, device)
        return [written(one) for one in found if one["timestamp"] > since and not one["error"]]

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
    need_original()
    addresses = {"desk": DESK, "head": HEAD}
    with made_hosts(tmp_path_factory.mktemp("original"), addresses) as hosts:
        site = Site(*hosts)
        site.ours.wait_until_online()
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


def test_show_telemetry_shows_what_ours_says(site: Site, scaled: Scaled) -> None:
    programs = {
        device: site.begin("show_telemetry", f"hipercam.{device}.telemetry", log=f"{device}.shown")
        for device in SHOWN[: scaled(4, soak=len(SHOWN))]
    }
    for device, program in programs.items():
        log = site.theirs.home / f"{device}.shown"
        shown = until(lambda log=log: messages(log))  # type: ignore[misc]
        program.kill()
        for time, state, values in shown[:3]:
            [sample] = [
                one
                for one in samples(site.ours.home, device)
                if abs(seconds(one["timestamp"]) - seconds(time)) < 0.006
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
        position = samples(site.ours.home, "slide")[-1]["position"]["current"]
        return bool(position["value"] == pytest.approx(900, abs=1))

    until(is_there)
    said = [rf"realm1 at {re.escape(HEAD)}\b.* {one}" for one in ("target_position", "stage.move")]
    found = ".*\n.*".join(said)
    until(lambda: re.search(found, site.ours.hcam("history", "--commands", "slide")))


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


@pytest.fixture(params=["original", pytest.param("one", marks=pytest.mark.soak)])
def programs(request: pytest.FixtureRequest) -> Path:
    """Return the programs with version 1.7, and with our package in its place."""
    if request.param == "original":
        return ORIGINAL
    environment: Path = request.getfixturevalue("environment")
    return environment / "bin"


TYPED = {
    "gtc_tweak_focus": "0.05\n",
    "gtc_tweak_pointing": "10, 5\n",
    "gtc_pointing_test": "500 500\n510 490\nc\np\na\nf\n",
}
"""What is typed into each script of the telescope."""
PIXEL, HEADING = 0.081, 209.7
"""Arcseconds, and the position angle (degrees) of the camera where the rotator is at 0."""


def offset(x: float, y: float, angle: float) -> tuple[float, float]:
    """Return the offset in arcseconds that moves stars by some pixels, at a position angle."""
    turn = math.radians(angle - HEADING)
    ra, dec = -x * PIXEL, -y * PIXEL
    return (
        ra * math.cos(turn) + dec * math.sin(turn),
        dec * math.cos(turn) - ra * math.sin(turn),
    )


def test_the_scripts_of_the_telescope_command_it(site: Site, programs: Path) -> None:
    who = "gtc", f"anonymous at {HEAD}", datetime.now(UTC).isoformat()
    said = ""
    for script, typed in TYPED.items():
        log = f"{script}-{len(site.theirs.started)}"
        command = (str(programs / "python"), str(programs / script))
        process = site.begin(*command, log=log, stdin=subprocess.PIPE)
        process.communicate(typed.encode(), PATIENCE)  # two end with an error: no more is typed
        said += (site.theirs.home / log).read_text()
    angle = float(samples(site.ours.home, "gtc")[-1]["telpars"]["INSTRPA"])

    def moved(command: str, x: float, y: float) -> bool:
        found = re.fullmatch(r"gtc\.gtc\.do_offset\(raoff=(\S+), decoff=(\S+)\)", command)
        there = found and (float(found[1]), float(found[2]))
        return there == pytest.approx(offset(x, y, angle), abs=0.01)

    until(lambda: len(site.given(*who)) >= 8)
    focus, pointing, start, star, *others = site.given(*who)
    assert focus == "gtc.change_focus(0.05)", said
    assert "done." in said
    assert moved(pointing, 10, 5), (pointing, offset(10, 5, angle))
    assert start == "gtc.start_pointing_model(25)"
    assert moved(star, -10, 10), (star, offset(-10, 10, angle))
    assert others == [
        "gtc.change_star()",
        "gtc.change_star(nearby=False)",
        "gtc.add_star(carry_on=True)",
        "gtc.add_star(carry_on=False)",
    ]


SERVERS = "hserver", "gtcserver"


def test_stop_hicam_ends_the_detectors_program_and_our_servers(site: Site, programs: Path) -> None:
    # It ends every process of the machine with such a name, so it gets a machine's processes.
    machine = site.ours.start(
        *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sleep", "infinity"),
        log="machine",
    )
    [first] = until(lambda: psutil.Process(machine.pid).children())

    def inside(*command: Any, log: str) -> subprocess.Popen[bytes]:
        there = ("nsenter", f"--target={first.pid}", "--pid", "--mount")
        home = ("env", f"HCAM_HOME={site.ours.home / 'second'}", "WAMP_SERVER=127.0.0.1")
        return site.ours.start(*there, *home, *command, log=log)

    logs = [site.ours.home / f"{name}-{machine.pid}" for name in SERVERS]
    servers = [
        inside(BIN / name, "--emulate", log=log.name)
        for name, log in zip(SERVERS, logs, strict=True)
    ]
    until(lambda: all("presents" in log.read_text() for log in logs))
    count = "import psutil; assert len(psutil.pids()) < 9"
    assert inside(programs / "python", "-c", count, log="count").wait(PATIENCE) == 0
    who = "ngc", "anonymous at 127.0.0.1", datetime.now(UTC).isoformat()
    stop = inside(programs / "python", programs / "stop_hicam", log="stop")
    assert stop.wait(PATIENCE) == 0, (site.ours.home / "stop").read_text()
    assert [server.wait(PATIENCE) for server in servers] == [0, 0]
    machine.kill()
    until(lambda: site.given(*who) == ["ngc.stop_ngc_server()"])
    site.ours.hcam("call", "ngc.start_ngc_server")


def test_a_program_finds_the_router_again_that_was_killed(site: Site) -> None:
    log = site.theirs.home / "again.shown"
    program = site.begin("show_telemetry", "hipercam.slide.telemetry", log=log.name)
    until(lambda: messages(log))
    site.router().kill()
    killed = str(datetime.now(UTC))
    until(lambda: messages(log)[-1][0] > killed)
    site.ours.wait_until_online()
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
    thawed = str(datetime.now(UTC))
    frozen.send_signal(signal.SIGCONT)
    until(lambda: messages(log)[-1][0] > thawed)

    subprocess.run(
        ["ip", "-n", site.theirs.inside[-1], "link", "set", "eth0", "down"], check=True, timeout=60
    )
    until(lambda: not site.connections())
