"""hserver with the emulated detector controller, through the real router: a whole night."""

import fcntl
import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from hcam_devices.wamp import utils
from hcam_devices.wamp.utils import call

from .tools import PATIENCE, Net, Sample, until

APP = {
    "app": "FullFrame", "numexp": 3, "readout": "Fast", "xbin": 4, "ybin": 4, "clear": 1,
    "led_flsh": 0, "oscan": 0, "multipliers": [1] * 5, "exptime": 0.1, "dwell": 0.1,
}  # fmt: skip
QUAD = {
    "x1start_lowerleft": 301, "x1start_upperleft": 305, "x1start_lowerright": 1501,
    "x1start_upperright": 1497, "y1start": 201, "x1size": 200, "y1size": 100,
}  # fmt: skip
SECOND = {
    "x2start_lowerleft": 401, "x2start_upperleft": 405, "x2start_lowerright": 1601,
    "x2start_upperright": 1597, "y2start": 351, "x2size": 100, "y2size": 50,
}  # fmt: skip
STRIP = {"x1start_left": 101, "x1start_right": 1801, "y1start": 11, "x1size": 40, "y1size": 24}
DITHER = {"numexp": 0, "nodpattern": {"ra": [0.0, 5.0], "dec": [0.0, 0.0]}}
MODES = {
    "FullFrame": ("1", {}),
    "Windows, 1 quad": ("2", {"app": "Windows", **QUAD}),
    "Windows, 2 quads": ("3", {"app": "Windows", **QUAD, **SECOND}),
    "Drift": ("4", {"app": "Drift", "clear": 0, **STRIP}),
}
"""DET.READ.CURID and what differs from a full frame."""
TABLE = """# %ECSV 1.0
# ---
# datatype:
# - {name: RAOFF, unit: arcsec, datatype: float64}
# - {name: DECOFF, unit: arcsec, datatype: float64}
# schema: astropy-2.0
RAOFF DECOFF
0.0 0.0
5.0 0.0
"""


@pytest.fixture
def detector(guest: Net) -> Net:
    """The controller's devices on a network of the module's own; its server is not running."""
    if guest.server is None:
        guest.start_server("hwserver")
        guest.start_server("hserver")
    guest.wait_for_devices("ngc", "pressure1")
    return guest


def ngc(name: str, *args: Any, **named: Any) -> Any:
    return call(f"hipercam.ngc.rpc.{name}", *args, timeout=PATIENCE, **named)


def done(name: str, *args: Any, **named: Any) -> str:
    """Call what replies with a message and whether it was done; it must be."""
    message, ok = ngc(name, *args, **named)
    assert ok, message
    return str(message)


def refused(name: str, *args: Any, **named: Any) -> str:
    """Call what replies with a message and whether it was done; it must not be."""
    message, ok = ngc(name, *args, **named)
    assert not ok, message
    return str(message)


def load(**app: Any) -> None:
    ok, message = ngc("load_setup", {"appdata": APP | app, "user": {"target": "HT Cas"}})
    assert ok, message


def wait_for(**wanted: Any) -> Sample:
    """Wait for telemetry in which all of this is so."""

    def there() -> Any:
        sample = ngc("telemetry")
        return sample if sample and wanted.items() <= sample.items() else None

    return dict(until(there))


def idle(run: int, frames: int) -> Sample:
    return wait_for(**{"system.subStateName": "idle", "run": run, "frames_done": frames})


def test_the_detector_server_takes_the_runs_of_a_night(detector: Net) -> None:
    assert refused("online")  # there is no server yet
    assert ngc("start_ngc_server") is True
    assert ngc("setup_ngc_server") is True
    assert "is LOADED; call online first" in refused("start")
    done("online")
    assert "call pon first" in refused("start")
    done("pon")
    assert call("hipercam.NGC.rpc.summary") == ngc("summary")
    assert ngc("summary")["system.stateName"] == "ONLINE"

    for run, (what, (curid, differs)) in enumerate(MODES.items(), 1):
        load(**differs)
        assert done("status", "DET.READ.CURID") == curid, what
        done("start")
        sample = idle(run, 3)
        assert sample["exposure.expStatusName"] == "success"
        assert sample["frames_expected"] == 3

    load(**DITHER)  # each frame waits for its trigger, and nothing ends the run
    done("start")
    assert "one is active; call stop or abort first" in refused("start")
    for frame in (1, 2):
        done("trigger")
        sample = wait_for(frames_done=frame)
    assert sample["frames_expected"] is None
    assert sample["run"] == 5
    assert "is still being written" in refused("add_hdu", TABLE, 5)
    assert "confirm=true" in refused("reset", confirm=False)
    done("stop")
    assert idle(5, 2)["exposure.expStatusName"] == "success"
    assert "2 rows appended to run0005.fits" in done("add_hdu", TABLE, 5)
    assert "already has this table" in done("add_hdu", TABLE, 5)
    with fits.open(detector.home / "simulated" / "data" / "run0005.fits") as file:
        assert file[0].header["OBJECT"] == "HT Cas"
        assert file[0].shape[0] == 2
        assert list(file[1].data["RAOFF"]) == [0, 5]

    load(numexp=0)
    done("start")
    done("abort")
    assert wait_for(run=6, **{"system.subStateName": "idle"})["exposure.expStatusName"] == "aborted"
    ok, message = ngc("load_setup", {"appdata": {"app": "Idle"}})
    assert ok, message
    wait_for(**{"seq_0.statusName": "running"})

    done("seq_stop")
    done("poff")
    done("offline")
    wait_for(**{"system.stateName": "LOADED"})
    done("exit")
    wait_for(**{"system.stateName": "OFF"})
    assert ngc("stop_ngc_server") is True


def test_every_mistake_of_a_setup_is_in_one_reply_and_nothing_is_sent(detector: Net) -> None:
    ok, message = ngc("load_setup", {"appdata": APP | {"xbin": 3, "dwell": -1, "readout": "Quick"}})
    assert not ok
    assert all(f"appdata.{name} is" in message for name in ("xbin", "dwell", "readout"))


def test_a_command_that_hangs_holds_up_neither_telemetry_nor_another_device(detector: Net) -> None:
    assert ngc("start_ngc_server") is True
    done("online")
    ngc("simulate", "hang", program="ngcbCmd")
    with pytest.raises(utils.OutcomeUnknownError):
        call("hipercam.ngc.rpc.pon", timeout=0.5)
    before = {name: detector.last(name) for name in ("ngc", "pressure1")}
    until(lambda: all(detector.last(name) > before[name] + 2 for name in before))
    assert ngc("telemetry")["system.stateName"] == "ONLINE"
    assert call("hipercam.pressure1.rpc.telemetry")["state"]["connection"] == "online"
    ngc("simulate", "clear")
    ngc("exit")


def test_people_are_asked_before_a_run_is_ended_and_told_what_failed(detector: Net) -> None:
    assert ngc("start_ngc_server") is True
    assert "no run can be started: the controller is LOADED" in detector.hcam_here(
        "call", "ngc.start", code=1
    )
    for step in ("online", "pon"):
        done(step)
    load(numexp=0)
    assert json.loads(detector.hcam_here("call", "ngc.start"))[1] is True
    until(lambda: "frames" in detector.hcam_here("watch", "ngc", "--once"))
    assert "add confirm=true" in detector.hcam_here("call", "ngc.reset", code=1)
    assert json.loads(detector.hcam_here("call", "ngc.reset", "confirm=true"))[1] is True
    ngc("exit")


def test_a_file_that_hangs_holds_up_neither_the_journal_nor_the_end_of_the_server(
    detector: Net,
) -> None:
    ngc("start_ngc_server")
    path = detector.home / "simulated" / "data" / "run0099.fits"
    fits.PrimaryHDU(np.ones((1, 4, 4), "i2")).writeto(path)

    def append() -> None:
        with suppress(utils.WampError):  # its server ends
            ngc("add_hdu", TABLE, 99)

    def waits() -> bool:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        here = f":{path.stat().st_ino}"
        return any(line[1] == "->" and line[6].endswith(here) for line in locks)

    hserver = detector.server
    assert hserver
    appending = threading.Thread(target=append)
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        appending.start()
        until(waits)
        assert ngc("telemetry")["state"]["connection"] == "online"
        assert detector.newest("ngc")["seq"] > 0
        hserver.terminate()
        assert hserver.wait(PATIENCE) == 0
    appending.join(PATIENCE)
    path.unlink()
    detector.start_server("hserver")
