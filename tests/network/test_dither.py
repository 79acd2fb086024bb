"""A dithered run, with an emulated detector and an emulated telescope in servers of their guest."""

import json
from typing import Any

import pytest
from astropy.io import fits

from hcam_devices.config.instrument import carried
from hcam_devices.wamp.utils import call

from .tools import BIN, PATIENCE, Net, Sample, until

TELESCOPE = 'kind = "gtc.Telescope"\n'
FRAMES = 20
RA, DEC = [0.0, 5.0, 5.0, 0.0], [0.0, 0.0, 5.0, 5.0]
SETUP = {
    "appdata": {
        "app": "FullFrame", "numexp": FRAMES, "readout": "Fast", "xbin": 4, "ybin": 4, "clear": 1,
        "led_flsh": 0, "oscan": 0, "multipliers": [1] * 5, "exptime": 0.1, "dwell": 0.1,
        "nodpattern": {"ra": RA, "dec": DEC},
    },
    "user": {"target": "HT Cas", "flags": "data"},
}  # fmt: skip


@pytest.fixture
def observatory(guest: Net) -> Net:
    """The detector online, powered and with a setup loaded; a quick telescope in position."""
    guest.start_server("hserver")
    text = carried("hipercam").read_text()
    assert text.count(TELESCOPE) == 1
    (guest.home / "ours.toml").write_text(
        text.replace(TELESCOPE, f"{TELESCOPE}settle_within = 2.0\n")
    )
    guest.start(
        *(BIN / "gtcserver", "--emulate", "--instrument", guest.home / "ours.toml"),
        log="gtcserver.out",
    )
    guest.wait_for_devices("ngc", "gtc")
    call("hipercam.gtc.rpc.simulate", "set", motion=0.3, settling=0.1)
    assert call("hipercam.ngc.rpc.start_ngc_server")
    assert call("hipercam.ngc.rpc.setup_ngc_server")
    for step in ("online", "pon"):
        assert call(f"hipercam.ngc.rpc.{step}")[1]
    assert call("hipercam.ngc.rpc.load_setup", SETUP, timeout=PATIENCE)[0]
    return guest


def lines(net: Net, name: str) -> list[dict[str, Any]]:
    log = net.home / "simulated" / name
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def telescope() -> Sample:
    return dict(call("hipercam.gtc.rpc.telemetry"))


def state() -> str:
    return str(telescope()["state"].get("gtc"))


def frames(net: Net, count: int) -> None:
    until(lambda: len(lines(net, "exposures.jsonl")) >= count)


def test_every_frame_is_exposed_at_its_place_whatever_becomes_of_the_telescope(
    observatory: Net,
) -> None:
    net = observatory
    call("hipercam.gtc.rpc.load_nod_pattern", RA, DEC)
    assert call("hipercam.ngc.rpc.start")[1]
    call("hipercam.gtc.rpc.gtc.start_nodding")

    frames(net, 4)  # its server is restarted
    call("hipercam.gtc.rpc.simulate", "disconnect", times=1)
    resume_until(net, 6)  # it does not answer for a while
    call("hipercam.gtc.rpc.simulate", "hang", seconds=3.0)
    resume_until(net, 12)  # and does not settle until somebody has looked
    call("hipercam.gtc.rpc.simulate", "unsettled")
    until(lambda: state() == "nodding.paused" or "in position" in reasons())
    call("hipercam.gtc.rpc.simulate", "clear")
    resume_until(net, FRAMES)
    until(lambda: state() == "inpos")

    exposures = lines(net, "exposures.jsonl")
    motions = [one for one in lines(net, "motions.jsonl") if one["kind"] == "offset"]
    assert [one["frame"] for one in exposures] == list(range(1, FRAMES + 1))
    for n, exposure in enumerate(exposures):
        assert all(
            exposure["end"] <= one["begin"] or one["end"] <= exposure["begin"] for one in motions
        ), f"frame {n + 1} was exposed in a motion"
        before = [one for one in motions if one["end"] <= exposure["begin"]]
        place = sum(one["dra"] for one in before), sum(one["ddec"] for one in before)
        assert place == (RA[n % 4], DEC[n % 4]), f"frame {n + 1}"
    table = call("hipercam.gtc.rpc.nod_table")
    message, done = call("hipercam.ngc.rpc.add_hdu", table, exposures[0]["run"])
    assert done, message
    file = net.home / "simulated" / "data" / f"run{exposures[0]['run']:04d}.fits"
    with fits.open(file) as run:
        assert run[0].shape[0] == FRAMES
        assert list(run[1].data["RAOFF"]) == [RA[n % 4] for n in range(FRAMES)]
        assert list(run[1].data["DECOFF"]) == [DEC[n % 4] for n in range(FRAMES)]


def reasons() -> str:
    return "; ".join(alarm["reason"] for alarm in telescope()["alarms"])


def resume_until(net: Net, count: int) -> None:
    """Do what an observer does where the dither pauses: look, acknowledge, resume."""

    def there() -> bool:
        if state() == "nodding.paused":
            told = reasons()
            if "acknowledge" in told:
                call("hipercam.gtc.rpc.acknowledge")
            call("hipercam.gtc.rpc.resume")
        return len(lines(net, "exposures.jsonl")) >= count

    until(there)
