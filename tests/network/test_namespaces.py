"""An instrument on five machines that are network namespaces, as the page of the manual says.

``docs/from-one-machine-to-a-site.md`` is followed word for word: its file is written, and its
commands are run on the machines that it names. Only ``scp`` is a stand-in.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from ..conftest import Scaled
from .namespaces import Host, made_hosts
from .tools import BIN, Net, living, until

pytestmark = pytest.mark.merge

PAGE = (Path(__file__).parents[2] / "docs" / "from-one-machine-to-a-site.md").read_text()
BLOCK = re.compile(r"^```\w+ (\w+=\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESSES = {
    "control": "192.0.2.1",
    "rack": "192.0.2.2",
    "detector": "192.0.2.3",
    "recorder": "192.0.2.4",
    "laptop": "192.0.2.5",
}
RUNS = {
    "control": "bin/hcam router",
    "rack": "bin/hwserver",
    "detector": "bin/hserver",
    "recorder": "bin/hwlogger",
    "laptop": "",
}
STARTED = "router at wss://192.0.2.1:8443/ws"
BACK = re.compile(r"^(\S+Z) INFO the router at 192\.0\.2\.1:8443 is back", re.MULTILINE)
LOG = ".local/state/hcam_devices/log"
ADA = "export HCAM_KEY=~/ada.key\n"
SNIFFER = Path(__file__).with_name("sniffer.py")
CUT_S = 12.0


def blocks(what: str) -> list[str]:
    return [text for marked, text in BLOCK.findall(PAGE) if marked == what]


class Machine(Host):
    """A machine on which a user follows the page, in the home folder."""

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.home.parent / 'bin'}:{BIN}:{os.environ['PATH']}"
        return {"HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8", "TMPDIR": str(self.home)}

    def do(self, script: str, code: int | None = 0) -> str:
        """Run a script to its end, and return what it says; ``hcam up`` goes on running."""
        before, up, options = script.partition("hcam up")
        said = self.run("bash", "-ec", before, code=code)
        if up:
            self.start(*up.split(), *options.split(), log="up.out")
        return said

    def log(self) -> str:
        """Return the log of what runs here."""
        name = RUNS[self.home.name].replace("hcam ", "").removeprefix("bin/")
        with suppress(FileNotFoundError):
            return (self.home / LOG / f"{name}.log").read_text()
        return ""

    def returns(self) -> list[datetime]:
        """Return when the server was back on the network after each outage."""
        return [datetime.fromisoformat(one) for one in BACK.findall(self.log())]

    def runs(self) -> list[str]:
        """Return which of the programs run here."""
        return [one for one in RUNS.values() if one and living(self.home, one)]

    def listens(self) -> set[str]:
        """Return where programs listen to other machines."""
        said = self.run("ss", "--no-header", "--listening", "--tcp", "--numeric")
        found = {line.split()[3] for line in said.splitlines()}
        return {one for one in found if not one.startswith("127.")}


@dataclass
class Site:
    """The machines of the page, and one more program that listens at the switch."""

    control: Machine
    rack: Machine
    detector: Machine
    recorder: Machine
    laptop: Machine

    def __iter__(self) -> Iterator[Machine]:
        return iter(vars(self).values())

    def sniff(self) -> None:
        inside = ("ip", "netns", "exec", self.control.switch)
        Net.start(self.control, *inside, sys.executable, SNIFFER, log="sniffer.out")
        until((self.control.home / "sniffer.out").read_text)

    def sniffed(self) -> int:
        """Return how many packets at the switch had one of our names in plain text until now."""
        *_, last = (self.control.home / "sniffer.out").read_text().split()
        return int(last)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if missing := [name for name in ("ss", "curl") if not shutil.which(name)]:
        pytest.skip(f"there is no {missing[0]} command")
    scp = tmp_path / "bin" / "scp"
    scp.parent.mkdir()
    scp.write_text(f'#!/bin/sh -e\ncp "$1" "{tmp_path}/${{2%:}}/"\n')
    scp.chmod(0o700)
    with made_hosts(tmp_path, ADDRESSES, Machine) as machines:
        yield Site(*machines)


def test_the_page_has_no_block_that_is_not_run() -> None:
    known = sum(map(len, map(blocks, ("file=ours.toml", *(f"on={name}" for name in ADDRESSES)))))
    assert known == len(re.findall("^ *```", PAGE, re.MULTILINE)) // 2


def test_the_page_leads_to_a_site_that_survives_a_night(site: Site, scaled: Scaled) -> None:
    site.sniff()
    (site.control.home / "ours.toml").write_text("\n".join(blocks("file=ours.toml")))
    start, hand_out, look, hand_out_more = blocks("on=control")
    assert site.control.do(start).endswith("no mistakes\n")
    until(lambda: STARTED in site.control.log())
    site.control.do(hand_out)
    site.control.do(hand_out_more)
    [on_rack] = blocks("on=rack")
    site.rack.do(on_rack)
    site.detector.do(on_rack.replace("hwserver", "hserver"))
    site.recorder.do(on_rack.replace("hwserver", "hwlogger"))
    until(lambda: ready(site))
    for machine in site:
        assert machine.runs() == list(filter(None, [RUNS[machine.home.name]]))

    by_hand, over_http = blocks("on=laptop")
    assert "slide.stage.home: stage is" in site.laptop.do(by_hand)
    assert '"device":"slide"' in site.laptop.do(over_http)
    said = site.control.do(look, None)
    assert "0 errors" in said, said
    assert {machine.home.name: machine.listens() for machine in site} == {
        name: {"192.0.2.1:8443"} if name == "control" else set() for name in ADDRESSES
    }

    for _ in range(scaled(1, soak=5)):
        cut_the_cable(site)
        kill_the_router(site)
        site.laptop.do(f"{ADA}hcam call slide.stage.home --wait")
    until(lambda: "complete" in site.laptop.do(f"{ADA}hcam audit --instrument ours.toml", None))

    assert site.sniffed() == 0
    site.laptop.do("curl --silent -d hipercam.slide.rpc.home http://192.0.2.1:8443/call")
    until(site.sniffed)


def ready(site: Site) -> bool:
    said = site.laptop.do(f"{ADA}hcam status --instrument ours.toml", None)
    return "5 of 5 devices" in said


def cut_the_cable(site: Site) -> None:
    """Cut it for some seconds, until the server has noticed; it comes back by itself."""
    rack = site.rack
    before, outages = len(rack.returns()), rack.log().count("no router at")
    rack.cable("down")
    began = time.monotonic()
    until(lambda: rack.log().count("no router at") > outages)
    until(lambda: time.monotonic() - began > CUT_S)
    cut = time.monotonic() - began
    rack.cable("up")
    plugged = datetime.now().astimezone()
    until(lambda: len(rack.returns()) > before)
    late = (rack.returns()[-1] - plugged).total_seconds()
    print(f"the cable was cut for {cut:.1f} s; back {late:.1f} s later")


def kill_the_router(site: Site) -> None:
    """Kill it; it is started again, and every server comes back by itself."""
    servers = site.rack, site.detector, site.recorder
    before = [len(server.returns()) for server in servers]
    starts = site.control.log().count(STARTED)
    for process in living(site.control.home, "crossbar"):
        process.kill()
    until(lambda: site.control.log().count(STARTED) > starts)
    there = datetime.now().astimezone()
    for server, number in zip(servers, before, strict=True):
        until(lambda: len(server.returns()) > number)  # noqa: B023
        late = (server.returns()[-1] - there).total_seconds()
        print(f"{RUNS[server.home.name]} is back {late:.1f} s after the router")
