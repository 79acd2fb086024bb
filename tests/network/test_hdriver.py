"""The GUI of version 1.7, ``hdriver``, unchanged, shows and commands our emulated instrument.

Port 8080 of its own machine is built into it, so there is a network for them alone. The tests are
those of one night: each goes on where the one before has left the instrument.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.time import Time

from hcam_devices.config.instrument import Instrument, load

from ..conftest import Scaled
from . import gui as guis
from .gui import ORIGINAL, WHO, Gui, Screen, need_screen
from .namespaces import made_hosts
from .tools import BIN, PATIENCE, living, until

pytestmark = pytest.mark.merge

CONFIG = """
focal_plane_slide_on = 1
ccd_temp_monitoring_on = 1
flow_monitoring_on = 1
ccd_vac_monitoring_on = 1
chiller_temp_monitoring_on = 1
tcs_on = 1
telins_name = {telescope}
file_logging_on = 0
"""
START_HICAM = "stop_ngc_server", "start_ngc_server", "offline", "setup_ngc_server", "standby"
"""What the start script of version 1.7 calls before it starts ``hdriver``."""
CALL = """
import sys, time
from hcam_devices.wamp import utils
for name in sys.argv[1:]:
    while not utils._check_procedure("hipercam." + name):
        time.sleep(0.1)
    print(utils.call("hipercam." + name))
"""
CCDS = range(5)
RACK = "hipercam.meerstetter1.rpc"
RACKS = [("meerstetter1", 1), ("meerstetter1", 2), ("meerstetter1", 3)]
RACKS += [("meerstetter2", 1), ("meerstetter2", 2)]
"""The rack and the channel of each CCD."""
Show = Callable[[dict[str, Any]], str]


class Site(guis.Site):
    """Our instrument, and ``hdriver`` on the same machine."""

    gui: Gui

    def begin(self) -> None:
        """Do what the start script does, when ``hdriver`` has connected."""
        until(lambda: self.gui.read("globals.session"))
        self.call(*(f"ngc.rpc.{name}" for name in START_HICAM))
        self.gui.ask("call", "globals.compo_hw.geometry", "+1150+0")  # beside the main window

    def call(self, *procedures: str) -> None:
        """Call procedures with the helper of version 1.7 for scripts."""
        log = f"call-{len(self.host.started)}"
        command = ("env", "WAMP_SERVER=127.0.0.1", ORIGINAL / "python", "-c", CALL, *procedures)
        process = self.host.start(*command, log=log)
        assert process.wait(PATIENCE) == 0, (self.host.home / log).read_text()

    def simulate(self, *faults: tuple[str, str, dict[str, Any]]) -> None:
        """Give simulated devices faults, in words of ``hcam simulate``."""
        script = (
            "import json, sys\n"
            "from hcam_devices.wamp.utils import call\n"
            "for device, fault, options in json.loads(sys.argv[1]):\n"
            "    call(f'hipercam.{device}.rpc.simulate', fault, **options)\n"
        )
        self.host.run(BIN / "python", "-c", script, json.dumps(faults))

    def wait_for_commands(self, before: int, count: int) -> list[str]:
        """Return the commands after ``before`` others, when there are ``count``."""
        until(lambda: len(self.commands()) >= before + count)
        return self.commands()[before:]

    def refused(self) -> list[str]:
        """Return why commands of programs in realm1 were refused."""
        found = guis.commands(self.host.home, WHO)
        return [f"{one['what']}: {one['error']}" for one in found if one["error"]]


@contextmanager
def made_site(folder: Path, telescope: str, instrument: Instrument) -> Iterator[Site]:
    need_screen()
    with made_hosts(folder, {"desk": "10.77.0.1"}) as [host]:
        site = Site(host, instrument)
        config = {".hdriver/config": CONFIG.format(telescope=telescope)}
        with Gui(Screen(host), "hdriver", files=config) as site.gui:
            site.begin()
            yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made_site(tmp_path_factory.mktemp("hdriver"), "GTC", load()) as site:
        yield site


def number(name: str, form: str, factor: float = 1.0) -> Show:
    """Return a function that shows a value of a sample."""

    def show(sample: dict[str, Any]) -> str:
        value = sample[name]["value"] if isinstance(sample[name], dict) else sample[name]
        return format(factor * value, form)

    return show


def position(axis: dict[str, Any]) -> tuple[float, float]:
    """Return the position and the target of an axis; before it is homed, both are the position."""
    return axis["current"]["value"], (axis["target"] or axis["current"])["value"]


def status(state: str) -> str:
    """Return the state of an axis as hdriver writes it: nothing until it is homed."""
    return state if state in ("inpos", "outpos", "moving", "stopped") else ""


def slide_text(sample: dict[str, Any]) -> str:
    here, target = position(sample["position"])
    return (
        f"{sample['timestamp'][:-1].replace('T', ' ')}:\n"
        f"pos: curr={here:.0f}, targ={target:.0f}\n{status(sample['state']['stage'])}"
    )


def compo_text(sample: dict[str, Any]) -> str:
    text = f"{sample['timestamp'][:-1].replace('T', ' ')}:\n"
    names = {"injection": "injection_angle", "pickoff": "pickoff_angle", "stage": "lens_position"}
    for machine, name in names.items():
        here, target = position(sample[name])
        state = status(sample["state"][machine])
        text += f"{machine}: curr={here:.2f}, targ={target:.2f}\n{state}\n\n"
    return text


def telpar(name: str, form: str) -> Show:
    return lambda sample: format(float(sample["telpars"][name]), form)


def sexagesimal(name: str, unit: str, **more: bool) -> Show:
    def show(sample: dict[str, Any]) -> str:
        angle = Angle(float(sample["telpars"][name]), "deg")
        return str(angle.to_string(unit=unit, sep=":", precision=0, **more))

    return show


def text(name: str) -> Show:
    return lambda sample: str(sample[name])


PANELS: dict[str, dict[str, Show]] = {
    **{
        rack: {
            path: show
            for ccd, (its, n) in enumerate(RACKS)
            if its == rack
            for path, show in (
                (f"globals.ccd_hw.ms_status.{ccd}.label", text(f"status{n}")),
                (f"globals.ccd_hw.ccd_temps.{ccd}.label", number(f"temperature{n}", ".1f")),
                (f"globals.ccd_hw.heatsink_temps.{ccd}.label", number(f"heatsink{n}", ".1f")),
                (
                    f"globals.ccd_hw.peltier_powers.{ccd}.label",
                    number(f"current{n}", ".0f", 100 / 10.7),
                ),
                (
                    f"globals.tecs.setpoint_displays.{ccd + 1}",
                    number(f"target_temperature{n}", ".1f"),
                ),
            )
        }
        for rack in ("meerstetter1", "meerstetter2")
    },
    **{
        f"pressure{ccd + 1}": {
            f"globals.ccd_hw.vacuums.{ccd}.label": number("pressure", ".2E", 1000)
        }
        for ccd in CCDS
    },
    "flow": {
        **{
            f"globals.ccd_hw.ccd_flow_rates.{ccd}.label": number(f"pen{ccd + 1}", ".2f")
            for ccd in CCDS
        },
        "globals.ccd_hw.ngc_flow_rate.label": number("pen6", ".2f"),
    },
    "slide": {
        "globals.fpslide.label": slide_text,
        "globals.info.fpslide": lambda sample: str(round(position(sample["position"])[0])),
    },
    "compo": {
        "globals.compo_hw.label": compo_text,
        "globals.compo_hw.injection_status": lambda one: one["state"]["injection"].upper(),
        "globals.compo_hw.pickoff_status": lambda one: one["state"]["pickoff"].upper(),
        "globals.compo_hw.lens_status": lambda one: one["state"]["stage"].upper(),
    },
    "gtc": {
        "globals.info.ra": sexagesimal("RADEG", "hour"),
        "globals.info.dec": sexagesimal("DECDEG", "deg", alwayssign=True),
        "globals.info.pa": telpar("INSTRPA", "6.2f"),
        "globals.info.focus": telpar("M2UZ", "+5.2f"),
        "globals.ccd_hw.chiller_temp.label": number("rack_temp", ".1f"),
    },
    "ngc": {
        "globals.info.run": lambda sample: format(sample["run"], "03d"),
        "globals.info.frame": lambda sample: format(sample["exposure.frame"] or 0, "04d"),
    },
    # The health of the head that spoke last; a warning is an error there.
    "ccd?": {
        "globals.info.ccd_temps": lambda one: "OK" if one["state"]["health"] == "OK" else "ERR"
    },
}
"""What each panel shows of a sample of a device; a question mark stands for any character."""
AT_WHT = {"chiller": {"globals.ccd_hw.chiller_temp.label": number("temperature", ".1f")}}
NOTHING = {"", "nan", "UNDEF", "INIT"}
"""What a panel shows before the first sample."""
WATCHED = [
    *(
        f"globals.ccd_hw.{kind}.{ccd}"
        for kind in ("ms_status", "ccd_temps", "peltier_powers", "ccd_flow_rates")
        for ccd in CCDS
    ),
    "globals.ccd_hw.chiller_temp",
    "globals.ccd_hw.ngc_flow_rate",
]
"""The panels that raise an alarm."""
SKY = [
    *(f"info.{name}" for name in ("alt", "az", "airmass", "ha", "rotlimit", "mdist")),
    *(f"astro.{name}" for name in ("mjd", "utc", "lst", "sunalt", "riset", "moonra", "moonphase")),
]


def shown(panel: dict[str, Show], sample: dict[str, Any]) -> list[str] | None:
    """Return what a panel shows of a sample; None if a value was not known yet."""
    try:
        return [show(sample).rstrip("\n") for show in panel.values()]
    except TypeError:
        return None


def wait_until_shown(site: Site, device: str, since: str = "") -> list[str]:
    """Wait until the panel of a device shows anything, or a sample read after a time.

    What it shows then must be one of our samples. Return it.
    """
    panel, seen = (PANELS | AT_WHT)[device], [""]

    def samples() -> list[list[str] | None]:
        newer = (one for one in site.samples(device) if one["timestamp"] > since)
        return [shown(panel, sample) for sample in newer]

    def has_changed() -> bool:
        seen[:] = [one.rstrip("\n") for one in site.gui.ask("read", *panel)]
        return seen in samples() if since else not NOTHING.intersection(seen)

    until(has_changed)
    try:
        until(lambda: seen in samples())
    except AssertionError:
        pytest.fail(f"{device} shows {seen}, and never was {site.newest(device)}")
    return seen


def wait_until_all_show(site: Site) -> None:
    """Wait until each panel shows a sample read after now."""
    now = datetime.now(UTC).isoformat()
    for device in PANELS:
        wait_until_shown(site, device, now)


def test_every_panel_shows_our_telemetry(site: Site, scaled: Scaled) -> None:
    site.gui.press("globals.setup.powerOn")
    flow: list[str] = []
    for _ in range(scaled(3, soak=10)):
        until(lambda: site.gui.ask("read", *PANELS["flow"]) != flow)  # noqa: B023
        for device in PANELS:
            seen = wait_until_shown(site, device)
            flow = seen if device == "flow" else flow
    for path in SKY:
        until(lambda path=path: site.gui.read(f"globals.{path}") not in ("", "UNDEF"))  # type: ignore[misc]
    assert not unhealthy(site)


SETUP, SLIDE, COMPO, TECS, OBSERVE = (
    f"globals.{name}" for name in ("setup", "fpslide", "compo_hw", "tecs", "observe")
)
ARMS_AND_LENS = "compo_arms", "compo_lens", "compo"
BUTTONS: list[tuple[str, tuple[str, ...] | None, list[str]]] = [
    (f"{SLIDE}.home", None, ["slide.stage.home()"]),
    (
        f"{COMPO}.home",
        None,
        ["compo_arms.injection.home()", "compo_arms.pickoff.home()", "compo_lens.stage.home()"],
    ),
    (f"{SETUP}.seqStop", None, ["ngc.seq_stop()"]),
    (f"{SETUP}.seqStart", None, ["ngc.seq_start()"]),
    (f"{SETUP}.cldcOff", None, ["ngc.poff()"]),
    (f"{SETUP}.cldcOn", None, ["ngc.pon()"]),
    (f"{SETUP}.powerOff", None, ["ngc.poff()", "ngc.offline()"]),
    (f"{SETUP}.ngcStandby", None, ["ngc.standby()"]),
    (f"{SETUP}.ngcOnline", None, ["ngc.online()"]),
    (f"{SETUP}.ngcReset", None, ["ngc.reset()"]),
    (f"{SETUP}.ngcOff", None, ["ngc.offline()"]),
    (f"{SETUP}.powerOn", None, ["ngc.online()", "ngc.pon()", "ngc.seq_start()"]),
    *(
        (f"{TECS}.reset_buttons.{ccd + 1}", None, [f"{rack}.reset({n})"])
        for ccd, (rack, n) in enumerate(RACKS)
    ),
    (
        f"{SLIDE}.block",
        ("inpos", "slide"),
        ["slide.target_position(-100)", "slide.stage.move()"],
    ),
    (f"{SLIDE}.stop", None, ["slide.stage.stop()"]),
    (f"{SLIDE}.unblock", None, ["slide.target_position(1100)", "slide.stage.move()"]),
    (
        f"{COMPO}.go",
        ("inpos", *ARMS_AND_LENS),
        [
            "compo.target_pickoff_angle(10.34)",
            "compo.target_injection_angle(12.8817)",
            "compo.target_lens_position(0.846806)",
            "compo_arms.pickoff.move()",
            "compo_arms.injection.move()",
            "compo_lens.stage.move()",
        ],
    ),
    (
        f"{COMPO}.stop",
        None,
        ["compo_arms.injection.stop()", "compo_arms.pickoff.stop()", "compo_lens.stage.stop()"],
    ),
    (
        f"{COMPO}.conn",
        None,
        ["compo_lens.connection.disconnect()", "compo_arms.connection.disconnect()"],
    ),
    (f"{SLIDE}.goto", None, ["slide.target_position(900)", "slide.stage.move()"]),
    (f"{SLIDE}.reset", None, ["slide.reset()"]),
    (f"{SLIDE}.disable", ("init", "slide"), ["slide.disable()"]),
    (f"{SLIDE}.enable", None, ["slide.enable()"]),
    (f"{SLIDE}.connect", None, ["slide.connection.disconnect()"]),
]
"""Buttons in an order in which they may be pressed; what they send. Before some, devices must be
in a state, and the panel of the last device must show it."""


def test_each_button_sends_its_command(site: Site) -> None:
    gui = site.gui
    site.simulate(
        ("slide", "set", {"speed": 1e6}),
        ("compo_lens", "set", {"speed": 1e6}),
        ("compo_arms", "set", {"speed": 1000.0}),
    )
    gui.ask("choose", "Settings", "Expert", "Level 2")
    gui.ask("type_in", f"{SLIDE}.gval", "900")
    gui.ask("type_in", f"{COMPO}.setup_frame.pickoff_angle", "10")
    for path, needs, commands in BUTTONS:
        if needs:
            site.wait_until(*needs)
            wait_until_shown(site, needs[-1], site.samples(needs[-1])[-2]["timestamp"])
        before = len(site.commands())
        gui.press(path)
        assert site.wait_for_commands(before, len(commands)) == commands, path
    assert not site.refused()


def test_a_temperature_that_is_entered_is_set(site: Site) -> None:
    gui, before = site.gui, len(site.commands())
    gui.ask("press_in", "hdriver", "CCD TECs")
    for ccd in CCDS:
        entry = f"{TECS}.temp_entry_widgets.{ccd + 1}"
        until(lambda entry=entry: gui.ask("call", f"{entry}.winfo_viewable"))  # type: ignore[misc]
        gui.ask("type_in", entry, str(-81 - ccd), "<Return>")
    displays = [f"{TECS}.setpoint_displays.{ccd + 1}" for ccd in CCDS]
    until(lambda: gui.ask("read", *displays) == ["-81.0", "-82.0", "-83.0", "-84.0", "-85.0"])
    assert site.wait_for_commands(before, 5) == [
        f"ccd{ccd + 1}.setpoint({-81 - ccd})" for ccd in CCDS
    ]


def unhealthy(site: Site) -> set[str]:
    """Return the panels that do not look healthy, of those that raise an alarm."""
    well = site.gui.ask("read", *(f"{path}.ok" for path in WATCHED))
    return {path for path, ok in zip(WATCHED, well, strict=True) if not ok}


def colours(site: Site, *paths: str) -> set[str]:
    return {site.gui.ask("option", path, "background") for path in paths}


UNPLUGGED = [f"pressure{ccd + 1}" for ccd in CCDS]
UNPLUGGED += ["meerstetter1", "meerstetter2", "flow", "slide", "compo_arms", "compo_lens", "gtc"]
STATUSES = [f"{COMPO}.{part}_status" for part in ("injection", "pickoff", "lens")]


@pytest.mark.soak
def test_what_is_out_of_limits_or_unknown_raises_its_alarm(site: Site) -> None:
    gui = site.gui
    until(lambda: not unhealthy(site))
    normal, warning = (gui.read(f"globals.COL.{name}") for name in ("main", "warn"))

    site.simulate(("flow", "set", {"flow": 0.3}), ("gtc", "set", {"top": 31.0}))
    wrong = {path for path in WATCHED if "flow" in path or "chiller" in path}
    until(lambda: unhealthy(site) >= wrong)
    assert unhealthy(site) == wrong

    site.simulate(*((device, "refuse", {}) for device in UNPLUGGED))
    until(lambda: unhealthy(site) == set(WATCHED))
    more = [
        *("globals.info.fpslide", "globals.info.ccd_temps"),
        *(f"globals.ccd_hw.vacuums.{ccd}.label" for ccd in CCDS),
        *(f"globals.ccd_hw.heatsink_temps.{ccd}.label" for ccd in CCDS),
    ]
    until(lambda: colours(site, *more) == {warning})
    assert colours(site, *(f"{path}.label" for path in WATCHED)) == {warning}
    until(lambda: set(gui.ask("read", *STATUSES)) == {"DISCONN"})
    numbers = [f"{TECS}.setpoint_displays.{ccd + 1}" for ccd in CCDS]
    numbers += ["globals.info.ra", "globals.info.dec"]
    until(lambda: set(gui.ask("read", *numbers)) == {"nan"})

    gui.ask("call", "globals.ccd_hw.raise_if_nok")  # as every 10 s
    assert gui.windows("CCD Head Status")
    until(lambda: len(gui.windows("Alarm")) == len(WATCHED))
    faults = {texts[0] for texts in gui.windows("Alarm")}
    assert len(faults) == len(WATCHED)
    assert "Critical peltier power fault on CCD 5" in faults
    [noise] = gui.ask("spoken")
    assert noise[-1].endswith("phat_alarm.mp3")

    before = len(site.commands())
    gui.press(f"{COMPO}.conn")
    gui.press(f"{SLIDE}.connect")
    connect = [f"{device}.connection.connect()" for device in ("compo_arms", "compo_lens", "slide")]
    until(lambda: sorted(site.commands()[before:]) == connect)

    site.simulate(
        ("flow", "set", {"flow": 1.05}),
        ("gtc", "set", {"top": 21.0}),
        *((device, "clear", {}) for device in UNPLUGGED),
    )
    site.call(*(f"{device}.rpc.connection.connect" for device in UNPLUGGED))
    until(lambda: not unhealthy(site))
    until(lambda: colours(site, "globals.info.fpslide") == {normal})
    for left in reversed(range(len(gui.windows("Alarm")))):
        gui.ask("press_in", "Alarm", "OK")
        until(lambda left=left: len(gui.windows("Alarm")) <= left)  # type: ignore[misc]


USER = {"target": "HZ 44", "ID": "GTC1-26B", "OB": "0001", "PI": "Dhillon", "Observers": "TRM"}
KEYWORDS = {"OBJECT": "HZ 44", "PROGRM": "GTC1-26B", "PI": "Dhillon", "OBSERVER": "TRM"}
FRAMES = 3
APP = {"numexp": FRAMES, "readout": "Fast", "dwell": 0.1, "clear": 0}
WINDOW = {"x1start_lowerleft": 101, "x1start_upperleft": 121, "x1size": 100, "y1size": 60}
WINDOW |= {"x1start_lowerright": 1501, "x1start_upperright": 1521, "y1start": 101}
FULL = APP | {"app": "FullFrame"}
WINDOWS = APP | WINDOW | {name.replace("1", "2", 1): value for name, value in WINDOW.items()}
WINDOWS |= {"app": "Windows", "y2start": 301}
DRIFT = APP | {"x1start_left": 101, "x1start_right": 1501, "y1start": 21, "y1size": 20}
DRIFT |= {"app": "Drift", "x1size": 40}
PATTERN = {"ra": [0.0, 5.0, -5.0], "dec": [0.0, -5.0, 5.0]}
DITHERED = FULL | {"clear": 1, "nodpattern": PATTERN}
MODES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (FULL, {"READ CURID": 1}),
    (WINDOWS, {"READ CURID": 3, "WIN1 XSUR": 1521, "WIN1 YS GUI": 101, "WIN2 YS GUI": 301}),
    (DRIFT, {"READ CURID": 4, "DRWIN XSR": 1501, "DRWIN NX": 40, "DRWIN YS GUI": 21}),
    (DITHERED, {"READ CURID": 1, "CLRCCD": True}),
]
"""What hdriver loads from a file, and some of the detector's keywords for it."""
PARKED = [
    "compo.target_injection_angle",
    "compo.target_lens_position",
    "compo.target_pickoff_angle",
]


def load_setup(site: Site, setup: dict[str, Any], **more: Any) -> None:
    """Load a setup from a file, and choose the type of the run."""
    gui = site.gui
    gui.ask("press_in", "hdriver", "Observe")
    file = site.host.home / "app.json"
    file.write_text(json.dumps({"appdata": setup, "user": USER} | more))
    gui.press(f"{OBSERVE}.load")
    gui.choose_file(file)
    until(lambda: gui.ask("call", "globals.ipars.app.value") == setup["app"])
    until(lambda: not gui.windows("Open"))
    gui.ask("select", f"{OBSERVE}.rtype", "data")
    until(lambda: gui.read(f"{OBSERVE}.start.run_type_set"))


def start(site: Site) -> None:
    """Start a run, and wait until hdriver is done with that."""
    site.gui.press(f"{OBSERVE}.start")
    wait_for_start(site)


def wait_for_start(site: Site) -> None:
    """Say yes to every question until hdriver has started a run."""

    def started() -> bool:
        for title, _ in site.gui.ask("windows"):
            if title.endswith(" alert"):  # COMPO may be elsewhere, or the rotator near its limit
                site.gui.ask("press_in", title, "OK")
        return not site.gui.read(f"{OBSERVE}.start.run_type_set")

    until(started)


def add_row(site: Site) -> None:
    """Let hdriver note the telescope for the table of the run, as it does every 60 s."""
    rows = rows_of(site)
    site.gui.ask("call", "globals.info.update_tcs_table")
    until(lambda: rows_of(site) > rows)


def rows_of(site: Site) -> int:
    return int(site.gui.ask("call", "globals.info.tcs_table.__len__"))


def wait_for_end(site: Site, before: int) -> list[str]:
    """Wait until hdriver has done all at the end of a run; return the names of the commands."""
    until(lambda: "gtc.gtc.stop_nodding()" in site.commands()[before:])
    return [command.partition("(")[0] for command in site.commands()[before:]]


def newest_file(site: Site) -> Path:
    """Return the path of the file of the newest run."""
    run = site.newest("ngc")["run"]
    return site.host.home / "simulated" / "data" / f"run{run:04d}.fits"


def check_header(header: fits.Header, keywords: dict[str, Any], frames: int) -> None:
    """Check keywords of hdriver's user, of its setup, and the number of frames."""
    assert {name: header[name] for name in KEYWORDS} == KEYWORDS
    assert {name: header[f"HIERARCH ESO DET {name}"] for name in keywords} == keywords
    assert header["NAXIS3"] == frames


def check_file(site: Site, setup: dict[str, Any], keywords: dict[str, Any], frames: int) -> None:
    """Compare the file of the newest run with its setup, and with what hdriver has added."""
    run = site.newest("ngc")["run"]
    with fits.open(newest_file(site)) as file:
        primary, telescope, *more = file
        header = primary.header
        check_header(header, keywords, frames)
        begun = [one["timestamp"] for one in site.samples("ngc") if one["run"] == run]
        for row in telescope.data:
            assert Time(begun[0]).mjd - 1e-3 < row["MJD"] < Time(begun[-1]).mjd
            assert row["TELFOCUS"] == header["TELFOCUS"] == -1.25
            assert row["ELEVAT"] == pytest.approx(header["ELEVAT"], abs=2)
        pattern = setup.get("nodpattern")
        if not pattern:
            assert not more
            return
        [offsets] = more
        assert [*offsets.data["RAOFF"]] == pattern["ra"]
        assert [*offsets.data["DECOFF"]] == pattern["dec"]
        assert {column.unit for column in offsets.columns} == {"arcsec"}


@pytest.mark.parametrize(
    ("setup", "keywords"),
    [
        pytest.param(*mode, id=name, marks=[pytest.mark.soak] * (name != "dithered"))
        for name, mode in zip(("full", "windows", "drift", "dithered"), MODES, strict=True)
    ],
)
def test_a_run_ends_with_its_tables(
    site: Site, setup: dict[str, Any], keywords: dict[str, Any]
) -> None:
    before = len(site.commands())
    load_setup(site, setup)
    start(site)
    add_row(site)
    names = wait_for_end(site, before)
    assert sorted(names[:3]) == PARKED
    dithered = "nodpattern" in setup
    assert names[3:] == [
        "ngc.load_setup",
        *(["gtc.load_nod_pattern"] * dithered),
        "ngc.start",
        *(["gtc.gtc.start_nodding"] * dithered),
        *(["ngc.add_hdu"] * (1 + dithered)),
        "ngc.load_setup",  # to idle
        "gtc.gtc.stop_nodding",
    ]
    check_file(site, setup, keywords, FRAMES)
    wait_until_shown(site, "ngc", site.newest("ngc")["timestamp"])


def session_of(site: Site) -> int:
    return int(site.gui.read("globals.session._session_id") or 0)


@pytest.mark.soak
def test_a_question_left_open_for_a_minute_costs_nothing(site: Site) -> None:
    session, before = session_of(site), len(site.commands())
    load_setup(site, WINDOWS, compo={"injection_side": "L", "pickoff_angle": 20.0})
    until(lambda: "OUTPOS" in site.gui.ask("read", *STATUSES))
    site.gui.press(f"{OBSERVE}.start")
    site.gui.window("COMPO alert")
    asked = time.monotonic()
    until(lambda: time.monotonic() > asked + 65)  # several pings of the router are not answered
    assert "ngc.start()" not in site.commands()[before:]
    wait_for_start(site)
    assert session_of(site) == session
    wait_for_end(site, before)


@pytest.mark.soak
def test_a_restart_of_the_router_costs_no_run(site: Site) -> None:
    before = len(site.commands())
    load_setup(site, WINDOWS | {"numexp": 100000})
    start(site)
    add_row(site)
    session = session_of(site)
    [router] = (one for one in living(site.host.home, "crossbar") if "worker" in one.name())
    router.kill()
    until(lambda: session_of(site) not in (0, session))
    wait_until_all_show(site)
    assert site.newest("ngc")["system.subStateName"] == "active"
    site.gui.press(f"{OBSERVE}.stop")
    names = wait_for_end(site, before)
    assert names[-4:] == ["ngc.abort", "ngc.add_hdu", "ngc.load_setup", "gtc.gtc.stop_nodding"]
    frames = fits.getval(newest_file(site), "NAXIS3")
    until(lambda: site.newest("ngc")["exposure.frame"] == frames)  # its answer may come later
    check_file(site, *MODES[1], frames)

    before = len(site.commands())
    load_setup(site, FULL)
    start(site)
    add_row(site)
    wait_for_end(site, before)
    check_file(site, *MODES[0], frames=FRAMES)


TARGETS = (500, 800, 1100)
ROUNDS = 4


def killed(site: Site, *words: str) -> None:
    """Kill a program of ours; ``hcam up`` starts it again."""
    [process] = (
        one for one in living(site.host.home, words[0]) if words[-1] in " ".join(one.cmdline())
    )
    process.kill()


@pytest.mark.soak
def test_a_night_of_old_and_new_programs_is_stored_once(site: Site) -> None:
    gui, host = site.gui, site.host
    where = ("env", "WAMP_SERVER=127.0.0.1", "PYTHONUNBUFFERED=1")
    shown = ("slide", "ngc", "meerstetter1")
    for device in shown:
        topic = f"hipercam.{device}.telemetry"
        host.start(*where, ORIGINAL / "show_telemetry", topic, log=f"{device}.shown")
    host.start(BIN / "hcam", "watch", log="watch.out")
    begun = len(site.commands())
    gui.press(f"{SLIDE}.home")
    assert site.wait_for_commands(begun, 1) == ["slide.stage.home()"]
    site.wait_until("inpos", "slide")
    begun, refused = len(site.commands()), site.refused()
    for turn in range(ROUNDS * len(MODES)):
        setup, keywords = MODES[turn % len(MODES)]
        before = len(site.commands())
        load_setup(site, setup)
        start(site)
        add_row(site)
        gui.ask("type_in", f"{SLIDE}.gval", str(TARGETS[turn % len(TARGETS)]))
        gui.press(f"{SLIDE}.goto")
        old = host.start(*where, ORIGINAL / "do_wamp_call", f"{RACK}.reset", "3", log="call.out")
        new = host.start(BIN / "hcam", "call", "meerstetter2.reset", "3", log="call.out")
        assert (old.wait(PATIENCE), new.wait(PATIENCE)) == (0, 0)
        if turn == len(MODES):
            killed(site, "crossbar", "worker")
        if turn == 2 * len(MODES):
            killed(site, "hwlogger")
        wait_for_end(site, before)
        check_file(site, setup, keywords, FRAMES)
    wait_until_all_show(site)
    assert site.refused() == refused
    commands = site.commands()[begun:]
    assert commands.count("ngc.start()") == ROUNDS * len(MODES)
    assert commands.count("meerstetter1.reset(3)") == ROUNDS * len(MODES)
    for device in shown:
        log = host.home / f"{device}.shown"
        size = log.stat().st_size
        until(lambda log=log, size=size: log.stat().st_size > size)  # type: ignore[misc]
    site.simulate(("chiller", "refuse", {}))  # hcam watch prints only changes
    until(lambda: "chiller offline" in (host.home / "watch.out").read_text())
    until(lambda: "Everything published is stored once" in host.hcam("audit", code=None))
    stored = host.hcam("history", "--commands", "slide")
    assert stored.count(WHO) == sum(command.startswith("slide.") for command in site.commands())


def test_quit_turns_the_controller_off(site: Site) -> None:
    gui, before = site.gui, len(site.commands())
    gui.ask("choose", "Quit")
    gui.answer("Quit", "OK")
    gui.answer("Power Off", "Yes")
    until(lambda: gui.process.poll() is not None)
    assert site.commands()[before:] == ["ngc.offline()"]
    assert "Thank you for using hdriver" in gui.log.read_text()


@pytest.mark.soak
def test_a_run_at_the_wht(tmp_path: Path) -> None:
    with made_site(tmp_path, "WHT", load(Path("wht"))) as site:
        site.gui.press(f"{SETUP}.powerOn")
        for device in (PANELS | AT_WHT).keys() - {"compo", "gtc"}:
            wait_until_shown(site, device)
        before = len(site.commands())
        setup, keywords = MODES[1]
        load_setup(site, setup)
        start(site)
        names = ["ngc.load_setup", "ngc.start", "ngc.add_hdu", "ngc.load_setup"]
        commands = site.wait_for_commands(before, len(names))
        assert [command.partition("(")[0] for command in commands] == names
        assert site.refused() == ["add_hdu: the table has no rows; nothing is appended"]
        with fits.open(newest_file(site)) as file:
            [primary] = file
            check_header(primary.header, keywords, FRAMES)
            assert primary.header["TELESCOP"] == "WHT"
        site.simulate(("chiller", "refuse", {}))
        until(lambda: unhealthy(site) == {"globals.ccd_hw.chiller_temp"})
