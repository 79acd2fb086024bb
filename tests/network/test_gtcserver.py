"""gtcserver with an emulated observatory, through the real router: no offset is lost or doubled."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import carried
from hcam_devices.wamp import utils
from hcam_devices.wamp.utils import call

from .tools import BIN, Net, Sample, until

SETTINGS = 'kind = "gtc.Telescope"\n'
QUICK = {"motion": 0.3, "settling": 0.1, "focus_speed": 10.0}


class Observatory:
    """The network with gtcserver on it, and the simulated telescope's own log."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.file = net.home / "ours.toml"
        text = carried("hipercam").read_text()
        assert text.count(SETTINGS) == 1
        self.file.write_text(text.replace(SETTINGS, f"{SETTINGS}settle_within = 2.0\n"))

    def start(self) -> None:
        """Start gtcserver, and wait until it has read the telescope."""
        net = self.net
        net.before["gtc"] = net.last("gtc")
        command: list[str | Path] = [BIN / "gtcserver", "--emulate", "--instrument", self.file]
        net.server = net.start(*command, log="gtcserver.out")
        net.wait_for_devices("gtc")

    def sample(self) -> Sample:
        return self.net.newest("gtc")

    def reasons(self) -> str:
        return "; ".join(alarm["reason"] for alarm in self.sample()["alarms"])

    def wait_for(self, state: str) -> Sample:
        """Wait until the telescope is in a state, and has been read since."""
        until(lambda: self.sample()["state"].get("gtc") == state)
        return self.sample()

    @property
    def motions(self) -> list[dict[str, Any]]:
        log = self.net.home / "simulated" / "motions.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def offsets(self) -> list[tuple[float, float]]:
        return [(one["dra"], one["ddec"]) for one in self.motions if one["kind"] == "offset"]


def simulate(fault: str = "", **chosen: Any) -> Any:
    return call("hipercam.gtc.rpc.simulate", fault, **chosen)


@pytest.fixture(scope="module")
def observatory(guest_of_module: Net) -> Observatory:
    return Observatory(guest_of_module)


@pytest.fixture
def telescope(guest: Net, observatory: Observatory) -> Iterator[Observatory]:
    """The telescope, in position, with no faults."""
    if guest.server is None or guest.server.poll() is not None:
        observatory.start()
    simulate("set", **QUICK)
    observatory.wait_for("inpos")
    yield observatory
    if guest.server and guest.server.poll() is None:
        simulate("clear")


def test_the_names_of_the_readme_and_those_deployed_work(telescope: Observatory) -> None:
    simulate("set", autoguider=False)
    call("hipercam.GTC.rpc.do_offset", raoff=0.05, decoff=0.001)
    assert "nobody offers autoguider.add_relative_dither" in telescope.reasons()
    simulate("set", autoguider=True)
    call("hipercam.gtc.rpc.gtc.do_offset", raoff=5, decoff=-2.5)
    call("hipercam.gtc.rpc.gtc.do_guide_step", raoff=0.1, decoff=0)
    assert telescope.offsets[-3:] == [(0.05, 0.001), (5, -2.5), (0.1, 0)]
    sample = telescope.wait_for("inpos")
    assert sample["ra_offset"] == {"value": 5.05, "unit": "arcsec"}
    assert telescope.reasons() == ""
    groups = call("hipercam.GTC.rpc.get_telescope_pars")
    assert groups[0].startswith("TELESCOP= 'GTC")
    assert sample["telpars"]["TELESCOP"] == "GTC"


def test_the_probe_looks_where_the_running_gtcserver_finds_the_telescope(
    telescope: Observatory, guest: Net
) -> None:
    before = telescope.motions
    said = guest.hcam("gtc", "probe", "--timeout", "20")
    at = call("hipercam.gtc.rpc.describe")["link"]
    assert f"found by     gtcserver at {guest.address}\n" in said
    assert f"addresses    {at['host']}:{at['port']}\n" in said
    assert "alive        yes" in said
    assert "getHumidity                        31.0" in said
    assert "not read" not in said
    assert telescope.motions == before
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = guest.hcam_here("gtc", "probe", "--host", "127.0.0.1", "--port", str(port), code=1)
    assert said == f"Error: the name service at 127.0.0.1:{port} cannot be reached\n"


def test_focus_pointing_model_and_archive_are_commanded(telescope: Observatory) -> None:
    before = call("hipercam.gtc.rpc.get_focus")
    call("hipercam.gtc.rpc.change_focus", 0.25)
    until(lambda: abs(call("hipercam.gtc.rpc.get_focus") - before - 0.25) < 1e-6)
    call("hipercam.gtc.rpc.start_pointing_model", nstars=2)
    call("hipercam.gtc.rpc.change_star", nearby=False)
    call("hipercam.gtc.rpc.add_star")
    call("hipercam.gtc.rpc.add_star", carry_on=False)
    simulate("set", transfer=1.0)
    call("hipercam.gtc.rpc.archive")
    until(lambda: telescope.sample()["state"]["archive"] == "finished")


def test_what_is_out_of_limits_is_refused(telescope: Observatory) -> None:
    before = telescope.motions
    for name, arguments in (
        ("do_offset", {"raoff": 301, "decoff": 0}),
        ("gtc.do_offset", {"raoff": "5", "decoff": 0}),
        ("do_guide_step", {"raoff": 0, "decoff": -11}),
        ("change_focus", {"offset": 2}),
        ("start_pointing_model", {"nstars": 1000}),
        ("load_nod_pattern", {"ra": [0, 400], "dec": [0, 0]}),
    ):
        with pytest.raises(utils.InvalidArgumentError, match=r"within|valid number"):
            call(f"hipercam.gtc.rpc.{name}", **arguments)
    with pytest.raises(utils.NotAllowedError, match="there is no dither pattern"):
        call("hipercam.gtc.rpc.gtc.start_nodding")
    assert telescope.motions == before


def test_a_motion_of_unknown_outcome_is_not_repeated_and_the_observer_is_told(
    telescope: Observatory,
) -> None:
    before = telescope.offsets
    simulate("unanswered")
    with pytest.raises(utils.OutcomeUnknownError, match="as if it was carried out"):
        call("hipercam.gtc.rpc.do_offset", raoff=20, decoff=0)
    until(lambda: "now RADEG" in telescope.reasons())
    assert "called acknowledge(moved=True)" in telescope.reasons()
    with pytest.raises(utils.NotAllowedError, match="nothing was sent"):
        call("hipercam.gtc.rpc.do_offset", raoff=20, decoff=0)
    assert call("hipercam.gtc.rpc.acknowledge", moved=True) == "the motion counts as carried out"
    telescope.wait_for("inpos")
    assert telescope.offsets == [*before, (20, 0)]


def test_a_telescope_that_hangs_is_an_alarm_and_gets_no_offset(
    telescope: Observatory,
) -> None:
    before = telescope.offsets
    simulate("hang", seconds=6.0)
    with pytest.raises(utils.OfflineError, match="nothing was sent"):
        call("hipercam.gtc.rpc.do_offset", raoff=1, decoff=0)
    until(lambda: "did not answer within 2 s" in telescope.reasons())
    telescope.wait_for("inpos")
    assert telescope.offsets == before
    call("hipercam.gtc.rpc.do_offset", raoff=1, decoff=0)
    assert telescope.offsets == [*before, (1, 0)]


def test_a_telescope_that_never_settles_is_an_alarm(telescope: Observatory) -> None:
    before = telescope.offsets
    simulate("unsettled")
    call("hipercam.gtc.rpc.do_offset", raoff=2, decoff=0)
    until(lambda: "not in position 2 s after the offset (2.0, 0.0)" in telescope.reasons())
    assert "do not send the offset again" in telescope.reasons()
    telescope.wait_for("outpos")
    simulate("clear")
    telescope.wait_for("inpos")
    assert telescope.offsets == [*before, (2, 0)]


def test_a_telescope_restarted_in_mid_motion_is_found_again(telescope: Observatory) -> None:
    before = telescope.offsets
    simulate("set", motion=1.5)
    call("hipercam.gtc.rpc.do_offset", raoff=3, decoff=0)
    simulate("disconnect", times=1)
    simulate("refuse")
    until(lambda: "broke the connection" in telescope.reasons())
    simulate("clear")
    telescope.wait_for("inpos")
    assert telescope.offsets == [*before, (3, 0)]


def test_a_server_killed_in_mid_motion_sends_nothing_when_it_is_back(
    telescope: Observatory, guest: Net
) -> None:
    before = telescope.offsets
    simulate("set", motion=60.0)
    call("hipercam.gtc.rpc.do_offset", raoff=4, decoff=0)
    assert guest.server
    guest.server.kill()
    guest.server.wait()
    telescope.start()
    sample = until(lambda: (one := telescope.sample())["state"].get("gtc") == "outpos" and one)
    assert sample["in_position"] is False
    assert telescope.offsets == [*before, (4, 0)]
