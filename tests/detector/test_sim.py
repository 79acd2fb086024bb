"""The simulated detector controller: its states, its command lines, its exposures and its files."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from hcam_devices.core import sim
from hcam_devices.detector.readout import timing
from hcam_devices.detector.sim import ALIAS, MAX_FRAMES, Simulator, words

from ..helpers import Clock, until


class Console:
    """A simulated controller, and a way to type commands to its programs."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.simulator = Simulator(clock=self.clock, wall=self.clock)
        self.simulator.folder = folder
        (folder / "data").mkdir()

    def run(self, program: str, *arguments: str) -> tuple[str, int]:
        """Return what a program prints, and its exit status."""
        said = self.simulator.reply(shlex.join([program, *arguments]).encode())
        text, _, status = said.decode().partition("\x04")
        return text.strip(), int(status)

    def ok(self, *arguments: str) -> str:
        """Give a command that has to succeed."""
        said, status = self.run("ngcbCmd", *arguments)
        assert status == 0, said
        return said

    def refused(self, *arguments: str) -> str:
        """Give a command that has to fail."""
        said, status = self.run("ngcbCmd", *arguments)
        assert (status, said[-3:]) == (1, "NOK")
        return said

    def read(self, name: str) -> str:
        said, status = self.run("dbRead", ALIAS + name)
        assert status == 0
        return said.partition(" = ")[2]

    def start(self, **keywords: object) -> None:
        """Get ready, and start a run."""
        self.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
        self.ok("online")
        self.ok("cldc 0 enable")
        for key, value in keywords.items():
            self.ok("setup", f"DET.{key.replace('_', '.')}", str(value))
        self.ok("start")

    def frames(self, count: float = 1) -> None:
        """Let the time of some frames go by."""
        self.clock.now += count * timing(self.simulator.keywords).cycle

    def log(self) -> list[dict[str, Any]]:
        lines = (self.simulator.folder / "exposures.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def cube(self, number: int) -> Any:
        """Return the frames of a run, as astropy reads them."""
        file = self.simulator.data / f"run{number:04d}.fits"
        with fits.open(file) as hdus:
            hdus.verify("exception")
            data = hdus[0].data
            return [] if data is None else [int(frame[0, 0]) for frame in np.asarray(data)]


@pytest.fixture
def ngc(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path)
    yield console
    console.run("ngcdcsStopServer", "IRCAM1")


def test_a_line_is_the_same_as_one_argument_and_word_by_word(ngc: Console) -> None:
    ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
    for n, arguments in enumerate(
        (('setup OBJECT "HT  Cas" DET.SPEED 1',), ("setup", "OBJECT", '"HT  Cas"', "DET.SPEED 1"))
    ):
        ngc.simulator.keywords = {}
        ngc.ok(*arguments)
        assert ngc.simulator.keywords == {"OBJECT": "HT  Cas", "DET.SPEED": "1"}, n
    assert words('setup OBSERVER "" PI it\'s #1 \\') == [
        "setup", "OBSERVER", "", "PI", "it's", "#1", "\\"
    ]  # fmt: skip
    assert ngc.ok("status", "OBJECT") == "OBJECT HT  Cas"
    assert "No closing quotation" in ngc.refused('setup OBJECT "HT')


def test_the_states_and_what_leads_from_one_to_another(ngc: Console) -> None:
    assert ngc.read("system.stateName") == "OFF"
    assert "does not answer" in ngc.refused("status")
    assert ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080", "-gui")[1] == 0
    assert "running already" in ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")[0]
    assert ngc.run("ngcdcsStartServer", "IRCAM2", "-port", "8080")[1] == 1
    for command, state in (
        ("standby", "STANDBY"),
        ("online", "ONLINE"),
        ("off", "LOADED"),
        ("online", "ONLINE"),
        ("standby", "STANDBY"),
        ("exit", "OFF"),
    ):
        ngc.ok(command)
        assert ngc.read("system.stateName") == state
        if state != "OFF":
            assert ngc.ok("status") == state
        if state in ("LOADED", "STANDBY"):
            for needs in ("cldc 0 enable", "start", "seq start", "seq trigger", "reset"):
                assert f"not possible while {state}" in ngc.refused(needs)
    ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
    assert "not possible" in ngc.refused("acqproc hiperCamCCD -chip 5")
    assert ngc.run("ngcdcsStopServer", "IRCAM1") == ("IRCAM1 stopped", 0)
    assert ngc.read("system.stateName") == "OFF"


def test_what_it_does_not_know_is_refused(ngc: Console) -> None:
    ngc.start()
    ngc.ok("abort")
    for line in ("", "dance", "setup", "setup DET.SPEED", "setup DET.SPED 1", "setup END 1"):
        ngc.refused(line)
    for line in ("setup lower 1", "setup KEYWORDTOOLONG 1", f"setup OBJECT {'x' * 69}"):
        ngc.refused(line)
    ngc.refused("setup OBJECT caf\u00e9")
    ngc.refused("status DET.SPED")
    for program in ("dbRead", "dbWrite"):
        for where in ("", "exposure.newDataFileName", f'"{ALIAS}exposure.newDataFileName"'):
            assert ngc.run(program, where, *["x"] * (program == "dbWrite"))[1] == 1
    assert ngc.run("dbWrite", f"{ALIAS}system.stateName", "OFF")[1] == 1


def test_a_run_takes_the_time_of_the_readout_and_its_file_grows_and_is_always_valid(
    ngc: Console,
) -> None:
    ngc.start(FRAM2_BREAK=3, SPEED=0)
    cycle = timing(ngc.simulator.keywords).cycle
    assert ngc.read("system.subStateName") == "active"
    assert ngc.read("exposure.expStatusName") == "integrating"
    assert ngc.read("exposure.newDataFileName") == "run0000.fits"
    assert float(ngc.read("exposure.time")) == pytest.approx(3 * cycle, abs=1e-3)
    for n in range(3):
        assert ngc.cube(1) == list(range(1, n + 1))
        assert ngc.ok("status", "DET.FRAM2.NO") == f"DET.FRAM2.NO {n}"
        assert float(ngc.read("exposure.countDown")) == pytest.approx((3 - n) * cycle, abs=0.01)
        ngc.frames(1.0001)
        ngc.read("system.subStateName")
    assert ngc.read("system.subStateName") == "idle"
    assert ngc.read("seq_0.statusName") == "idle"
    assert ngc.read("exposure.expStatusName") == "success"
    assert ngc.read("exposure.newDataFileName") == "run0001.fits"
    assert ngc.cube(1) == [1, 2, 3]
    first, second, third = ngc.log()
    assert (first["run"], first["frame"]) == (1, 1)
    assert second["begin"] - first["begin"] == pytest.approx(cycle)
    exposure = timing(ngc.simulator.keywords).exposure
    assert third["end"] - third["begin"] == pytest.approx(exposure)
    header = fits.getheader(ngc.simulator.data / "run0001.fits")
    assert header["HIERARCH ESO DET SPEED"] == 0
    assert header["HIERARCH ESO DET SEQ CLKFILE"] == "hipercam_se.bclk"
    assert header["HIERARCH ESO DET CLRCCD"] is True


def test_how_a_run_ends(ngc: Console) -> None:
    ngc.start()
    ngc.frames(2.5)
    ngc.ok("stop")
    assert (ngc.read("exposure.expStatusName"), ngc.cube(1)) == ("success", [1, 2])
    ngc.ok("start")
    ngc.frames(1.5)
    ngc.ok("abort")
    assert (ngc.read("exposure.expStatusName"), ngc.cube(2)) == ("aborted", [1])
    for command in ("seq stop", "cldc 0 disable", "reset", "off", "exit"):
        ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
        for before in ("online", "cldc 0 enable", "start", command):
            ngc.ok(before)
        assert ngc.read("exposure.expStatusName") == "aborted"
        assert ngc.read("system.subStateName") == "idle"
    for command in ("stop", "abort"):
        ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
        ngc.ok("online")
        assert "no exposure" in ngc.refused(command)


def test_a_run_cannot_be_started_without_clocks_twice_or_over_another(ngc: Console) -> None:
    ngc.run("ngcdcsStartServer", "IRCAM1", "-port", "8080")
    ngc.ok("online")
    assert "clocks are disabled" in ngc.refused("start")
    ngc.ok("cldc 0 enable")
    ngc.ok("start")
    assert "active" in ngc.refused("start")
    ngc.ok("abort")
    (ngc.simulator.data / "run0002.fits").write_text("precious")
    assert "exists" in ngc.refused("start")
    ngc.run("dbWrite", f"{ALIAS}exposure.newDataFileName", "/data/run0011.fits")
    ngc.ok("start")
    ngc.ok("abort")
    assert ngc.read("exposure.newDataFileName") == "run0012.fits"
    assert (ngc.simulator.data / "run0002.fits").read_text() == "precious"


def test_a_new_controller_goes_on_after_the_runs_that_are_there(tmp_path: Path) -> None:
    ngc = Console(tmp_path)
    for name in ("run0002.fits", "run9999.fits", "run10000.fits", "bias.fits"):
        (ngc.simulator.data / name).touch()
    assert ngc.read("exposure.newDataFileName") == "run10000.fits"


def test_a_frame_waits_for_its_trigger(ngc: Console) -> None:
    ngc.start(SEQ_TRIGGER="T")
    ngc.frames(5)
    assert ngc.ok("status DET.FRAM2.NO").endswith(" 0")
    ngc.ok("seq trigger")
    begun = ngc.clock.now
    assert "nothing waits" in ngc.refused("seq trigger")
    ngc.frames(5)
    assert ngc.ok("status DET.FRAM2.NO").endswith(" 1")
    assert ngc.log()[0]["begin"] == pytest.approx(begun)
    ngc.ok("seq trigger")
    ngc.frames(1.01)
    assert ngc.ok("status DET.FRAM2.NO").endswith(" 2")
    ngc.ok("stop")
    assert "nothing waits" in ngc.refused("seq trigger")


def test_it_may_run_faster_and_the_log_tells_true_times(ngc: Console) -> None:
    ngc.simulator.simulate("set", speed=10)
    begun = ngc.clock.now
    ngc.start()
    cycle = timing(ngc.simulator.keywords).cycle
    ngc.clock.now += 0.201 * cycle
    assert ngc.ok("status DET.FRAM2.NO").endswith(" 2")
    assert ngc.log()[1]["begin"] == pytest.approx(begun + 0.1 * cycle)


SMALLEST = {"READ.CURID": 4, "DRWIN.NX": 1, "DRWIN.NY": 1, "TDELAY.GUI": 0, "CLRCCD": "F"}
"""The fastest frames there are."""


def test_frames_that_are_due_faster_than_they_are_written_come_later_and_none_is_left_out(
    ngc: Console,
) -> None:
    ngc.simulator.simulate("set", speed=10_000)
    ngc.start(**SMALLEST)
    written = []
    for _ in range(3):
        ngc.clock.now += 3600
        written.append(int(ngc.ok("status DET.FRAM2.NO").split()[1]))
    assert written == [MAX_FRAMES, 2 * MAX_FRAMES, 3 * MAX_FRAMES]
    ngc.ok("stop")
    assert ngc.cube(1) == list(range(1, len(ngc.cube(1)) + 1))
    begins = [frame["begin"] for frame in ngc.log()]
    assert begins == sorted(begins)


async def test_a_controller_that_is_far_too_fast_holds_up_nothing(tmp_path: Path) -> None:
    simulator = Simulator()
    simulator.folder = tmp_path
    async with sim.serve(simulator):
        await until(simulator.data.exists)
        simulator.simulate("set", speed=10_000)
        simulator.reply(b"ngcdcsStartServer IRCAM1 -port 8080")
        setup = " ".join(f"DET.{key} {value}" for key, value in SMALLEST.items())
        for line in ("online", "cldc 0 enable", f"setup {setup}", "start"):
            assert b"OK" in simulator.reply(f"ngcbCmd {line}".encode())
        await until(lambda: simulator.frames > 3 * MAX_FRAMES)  # the event loop runs meanwhile
        simulator.simulate("set", speed=1)
        assert b"OK" in simulator.reply(b"ngcbCmd stop")


@pytest.mark.parametrize(("fault", "frames"), [("failure", []), ("disk_full", [])])
def test_an_exposure_can_fail_and_only_a_reset_helps(
    ngc: Console, fault: str, frames: list[int]
) -> None:
    ngc.simulator.simulate(fault, times=1)
    ngc.start()
    ngc.frames(1.5)
    assert ngc.read("system.subStateName") == "error"
    assert ngc.read("exposure.expStatusName") == "failure"
    assert ngc.cube(1) == frames
    assert "reset" in ngc.refused("start")
    for command in ("reset", "cldc 0 enable", "start"):
        ngc.ok(command)
    ngc.frames(1.5)
    ngc.ok("stop")
    assert ngc.cube(2) == [1]


async def test_a_served_controller_writes_without_being_asked(tmp_path: Path) -> None:
    ngc = Console(tmp_path)
    async with sim.serve(ngc.simulator) as place:
        assert place["data"] == str(tmp_path / "data")
        ngc.start()
        ngc.frames(2.5)
        await until(lambda: len(ngc.cube(1)) == 2)


@pytest.mark.parametrize("fault", ["nok", "hang"])
async def test_a_fault_may_be_of_one_program(ngc: Console, fault: str) -> None:
    simulator = ngc.simulator
    simulator.simulate(fault, program="ngcbCmd", times=1)
    good = simulator.own_faults(simulator.reply(b"dbRead '<alias>ngcircon_ircam1:exposure.time'"))
    assert b"0.000" in good
    bad = simulator.own_faults(simulator.reply(b"ngcbCmd status"))
    assert bad == b"" if fault == "hang" else bad.endswith(b"NOK\n\x041\n")
    assert simulator.faults == {}


def test_the_database_may_say_err(ngc: Console) -> None:
    ngc.simulator.simulate("err", times=1)
    ngc.simulator.reply(b"ngcbCmd status")
    assert ngc.simulator.own_faults(b"x") == b"x"
    reply = ngc.simulator.reply(b"dbRead x")
    assert ngc.simulator.own_faults(reply).startswith(b"ERR\n")
