"""What the GUI of version 1.7 makes of our telemetry: its own code, in its environment, windowless.

Each message is given to every callback that ``hdriver`` has for its topic, after a healthy one.
"""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ..network.gui import ORIGINAL, need_original
from .test_legacy_telemetry import legacy

pytestmark = pytest.mark.merge

GUI = r"""
import base64, json, pickle, sys
from types import SimpleNamespace
from astropy import coordinates
from astropy.utils import iers
from hcam_widgets import hardware, widgets
from hcam_widgets.compo import widgets as compo
from hcam_widgets.globals import Container
from hcam_widgets.hardware import ccds, slide

iers.conf.auto_download, iers.conf.iers_degraded_accuracy = False, "ignore"
coordinates.get_moon = lambda *_: coordinates.SkyCoord(0, 0, unit="deg")  # newer astropy has none
switches = ("focal_plane_slide", "ccd_temp_monitoring", "flow_monitoring", "ccd_vac_monitoring")
switches += ("chiller_temp_monitoring", "tcs", "hcam_server")
cpars = {f"{name}_on": 1 for name in switches} | {"eso_server_online": 1, "mdist_warn": 10.0}
site = coordinates.EarthLocation.from_geodetic(-17.89, 28.76, 2300.0)
log = SimpleNamespace(warn=lambda text: None, info=lambda text: None)
colours = Container(telescope_names=["GTC"]).COL
astro = SimpleNamespace(obs=site)
root = SimpleNamespace(globals=SimpleNamespace(cpars=cpars, clog=log, COL=colours, astro=astro))
for module in (hardware, widgets, compo, ccds, slide):
    module.get_root = lambda widget: root


class Label:
    def __init__(self):
        self.shown = {}

    def configure(self, **options):
        self.shown.update({name: options[name] for name in ("text", "bg") if name in options})

    config = configure

    def enable(self):
        self.shown["enabled"] = True

    def disable(self):
        self.shown["enabled"] = False


def alarm(cls, kind="", fmt="{:.1f}", low=0.0, high=0.0, **more):
    widget = cls.__new__(cls)
    widget.__dict__.update(kind=kind, name=kind, fmt=fmt, lower_limit=low, upper_limit=high)
    widget.__dict__.update(parent=None, ok=None, label=Label(), **more)
    return f"{kind or cls.__name__}{more.get('address', more.get('pen_number', ''))}", widget


def rack(kind, low, high, fmt="{:.1f}"):
    return [alarm(hardware.MeerstetterWidget, kind, fmt, low, high, address=n) for n in (1, 2, 3)]


alarms = {
    "meerstetter.PeltierRack": [
        *rack("status", "run", "run", "{:s}"),
        *rack("temperature", -105, -75),
        *rack("heatsink temperature", 0, 40),
        *rack("peltier power", -5, 90, "{:.0f}"),
    ],
    "minitrend.FlowRecorder": [
        alarm(hardware.FlowRateWidget, "pen", "{:.2f}", 0.5, 10, pen_number=n) for n in range(1, 7)
    ],
    "pdr900.VacuumGauge": [alarm(hardware.VacuumWidget, "pressure", "{:.2E}", -1e6, 5e-3)],
    "unichiller.WaterChiller": [alarm(hardware.ChillerWidget, "temperature", low=5, high=15)],
    "gtc.Telescope": [alarm(hardware.RackSensorWidget, "rack_temp", low=15, high=25)],
}


def blank(cls, *labels):
    frame = cls.__new__(cls)
    for label in labels:
        setattr(frame, label, Label())
    return frame


SKY = "ra dec pa focus ha alt az airmass rotlimit mdist".split()
POWER = "cldcOn cldcOff seqStart powerOn powerOff".split()


def frames(kind):
    # The callbacks of hdriver's frames for a kind of device, and their labels.
    info = blank(widgets.InfoFrame, *SKY, "ccd_temps", "fpslide", "run", "frame")
    if kind == "meerstetter.PeltierRack":
        setpoints = blank(ccds.CCDTempFrame)
        setpoints.setpoint_displays = {n: Label() for n in range(1, 6)}
        labels = {f"setpoint{n}": one for n, one in setpoints.setpoint_displays.items()}
        return [lambda data: setpoints.on_telemetry(1, data)], labels
    if kind == "zaber.FocalPlaneSlide":
        stage = blank(slide.SlideFrame, "connect")
        stage.showing_mimic, text = False, Label()
        stage.print_message = lambda message: text.configure(text=message)
        labels = {"fpslide": info.fpslide, "stage": text, "connect": stage.connect}
        return [info.update_slidepos, stage.on_telemetry], labels
    if kind == "views.COMPO":
        names = "lens_status", "pickoff_status", "injection_status", "conn"
        arms, text = blank(compo.COMPOControlWidget, *names), Label()
        arms.print_message = lambda message: text.configure(text=message)
        arms.update_mimic = lambda telemetry: None
        return [arms.on_telemetry], {name: getattr(arms, name) for name in names} | {"stages": text}
    if kind == "ngc.Controller":
        power = blank(widgets.InstSetup, *POWER)
        labels = {name: getattr(power, name) for name in POWER}
        labels |= {"run": info.run, "frame": info.frame}
        return [info.update_runstatus, power.on_telemetry], labels
    if kind == "views.CCDHead":
        return [info.update_ccd], {"ccd_temps": info.ccd_temps}
    if kind == "gtc.Telescope":
        return [info.update_tcs], {name: getattr(info, name) for name in SKY}
    return [], {}


answers = []
for kind, *messages in json.load(sys.stdin):
    callbacks, labels = frames(kind)
    looks = []
    for data in map(base64.b64decode, messages):
        raised = ""
        told = pickle.loads(data)
        told["timestamp"].precision = 2
        for _, widget in alarms.get(kind, ()):
            widget.on_telemetry(data)
        for callback in callbacks:
            try:
                callback(data)
            except Exception as error:
                raised = repr(error)
        bad = [name for name, widget in alarms.get(kind, ()) if not widget.ok]
        wrong = colours["warn"], colours["critical"]
        bad += [name for name, label in labels.items() if label.shown.get("bg") in wrong]
        texts = {name: widget.label.shown["text"] for name, widget in alarms.get(kind, ())}
        for name, label in labels.items():
            texts[name] = label.shown.get("text", label.shown.get("enabled"))
        looks.append([bad, texts, raised, told["timestamp"].isot])
    answers.append(looks)
print(json.dumps(answers))
"""


def value(number: float, unit: str) -> dict[str, Any]:
    return {"value": number, "unit": unit}


def pair(number: float, unit: str) -> dict[str, Any]:
    return {"current": value(number, unit), "target": value(number, unit)}


ONLINE = {"connection": "online"}
HEALTHY: dict[str, dict[str, Any]] = {
    "meerstetter.PeltierRack": {
        **{f"temperature{n}": value(-90.0, "deg_C") for n in (1, 2, 3)},
        **{f"target_temperature{n}": value(-90.0, "deg_C") for n in (1, 2, 3)},
        **{f"heatsink{n}": value(12.0, "deg_C") for n in (1, 2, 3)},
        **{f"current{n}": value(3.0, "A") for n in (1, 2, 3)},
        **{f"status{n}": "run" for n in (1, 2, 3)},
    },
    "minitrend.FlowRecorder": {f"pen{n}": value(1.0, "l / min") for n in range(1, 7)},
    "pdr900.VacuumGauge": {"pressure": value(1e-6, "mbar")},
    "unichiller.WaterChiller": {"temperature": value(10.0, "deg_C")},
    "gtc.Telescope": {
        "rack_temp": value(20.0, "deg_C"),
        "telpars": dict.fromkeys(("RADEG", "DECDEG", "INSTRPA", "ROTATOR", "M2UZ"), "20.0"),
    },
    "zaber.FocalPlaneSlide": {"position": pair(1100.0, "pix")},
    "views.COMPO": {
        "pickoff_angle": pair(1.0, "deg"),
        "injection_angle": pair(2.0, "deg"),
        "lens_position": pair(3.0, "mm"),
    },
    "views.CCDHead": {"temperature": value(-90.0, "deg_C"), "state_reason": "None"},
    "ngc.Controller": {
        "system.stateName": "ONLINE",
        "system.subStateName": "idle",
        "cldc_0.statusName": "enabled",
        "seq_0.statusName": "idle",
        "exposure.time": value(0.0, "s"),
        "exposure.expStatusName": "success",
        "exposure.newDataFileName": "/data/4711/run0041.fits",
        "exposure.frame": 7,
    },
}
STATES = {
    "zaber.FocalPlaneSlide": ONLINE | {"stage": "inpos"},
    "views.COMPO": ONLINE
    | {"arms": "online", "lens": "online"}
    | dict.fromkeys(("pickoff", "injection", "stage"), "inpos"),
    "views.CCDHead": ONLINE | {"health": "OK"},
    "gtc.Telescope": ONLINE | {"gtc": "inpos"},
}


def healthy(kind: str) -> dict[str, Any]:
    state = {"timestamp": "2026-11-29T03:14:39.148Z", "state": STATES.get(kind, ONLINE)}
    return state | HEALTHY[kind]


def stories() -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield a kind, what goes wrong, and the sample; None if there are no more."""
    for kind, values in HEALTHY.items():
        yield kind, "offline", {"timestamp": None, "state": {"connection": "offline"}}
        lost = healthy(kind) | {"state": STATES.get(kind, ONLINE) | {"connection": "offline"}}
        yield kind, "connection lost", lost | dict.fromkeys(values)
        yield kind, "silent", None
        for field in values:
            yield kind, field, healthy(kind) | {field: None}


STORIES = [(kind, wrong) for kind, wrong, _ in stories()]


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Any]]:
    """Return what the GUI shows before and after each story."""
    need_original()
    given = []
    for kind, _, wrong in stories():
        telemetry = legacy.Telemetry(legacy.KINDS[kind], 100.0)
        telemetry.hear(healthy(kind), 100.0)
        messages = [telemetry.message(100.0, "")]
        if wrong:
            telemetry.hear(wrong, 102.0)
        messages.append(telemetry.message(102.0 if wrong else 1000.0, ""))
        given.append([kind, *messages])
    never = legacy.Telemetry(legacy.KINDS["zaber.FocalPlaneSlide"], 100.0)
    given.append(["zaber.FocalPlaneSlide", never.message(1000.0, "2026-11-29 03:14:39")])
    telpars = {**HEALTHY["gtc.Telescope"]["telpars"], "ROTATOR": None}
    telescope = legacy.Telemetry(legacy.KINDS["gtc.Telescope"], 100.0)
    telescope.hear(healthy("gtc.Telescope") | {"telpars": telpars}, 100.0)
    given.append(["gtc.Telescope", telescope.message(100.0, "")])
    text = json.dumps(given, default=lambda message: base64.b64encode(message).decode())
    done = subprocess.run(
        [ORIGINAL / "python", "-W", "ignore", "-c", GUI],
        input=text,
        env={"HOME": str(tmp_path_factory.mktemp("gui")), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    more = ("zaber.FocalPlaneSlide", "never heard of"), ("gtc.Telescope", "no rotator")
    return dict(zip([*STORIES, *more], json.loads(done.stdout.splitlines()[-1]), strict=True))


MOTORS = {
    "zaber.FocalPlaneSlide": {"fpslide"},
    "views.COMPO": {"lens_status", "pickoff_status", "injection_status"},
}
CHECKED = {"heatsink": "heatsink temperature", "current": "peltier power"}
"""The names of what the GUI checks, where they differ from those of telemetry."""
SKY = {"ra", "dec", "pa", "focus", "ha", "alt", "az", "airmass", "mdist"}


def marked(kind: str, wrong: str) -> set[str]:
    """Return what the GUI has to mark, with its alarm or a colour."""
    gone = wrong not in HEALTHY[kind]
    if kind in MOTORS:
        return MOTORS[kind]
    if kind == "views.CCDHead":  # it publishes itself that it is not well without a value
        return {"ccd_temps"} if gone else set()
    fields = HEALTHY[kind] if gone else {wrong}
    return {
        re.sub(r"[a-z]+", lambda match: CHECKED.get(match[0], match[0]), field, count=1)
        for field in fields
        if kind != "ngc.Controller" and not field.startswith(("target", "telpars"))
    }


def changed(kind: str, wrong: str) -> dict[str, Any]:
    """Return texts and buttons that the GUI changes, without a colour."""
    gone = wrong not in HEALTHY[kind]
    if kind == "meerstetter.PeltierRack":
        names = [f"setpoint{n}" for n in (1, 2, 3) if gone or wrong == f"target_temperature{n}"]
        return dict.fromkeys(names, "nan")
    if kind == "gtc.Telescope":
        return dict.fromkeys(SKY if gone or wrong == "telpars" else (), "nan")
    if kind != "ngc.Controller":
        return {}
    off = {"cldcOn": True, "cldcOff": False} if gone or wrong.startswith("cldc") else {}
    power = off or wrong == "system.stateName"
    run = gone or wrong in ("exposure.newDataFileName", "exposure.expStatusName")
    return (
        off
        | ({"powerOn": True, "powerOff": False} if power else {})
        | ({"run": "000"} if run else {})
        | ({"frame": "0000"} if gone or wrong == "exposure.frame" else {})
    )


@pytest.mark.parametrize(("kind", "wrong"), STORIES)
def test_the_gui_marks_what_is_not_known_and_nothing_else(
    kind: str, wrong: str, looks: dict[tuple[str, str], list[Any]]
) -> None:
    (bad, before, error, iso), (worse, after, later, _) = looks[kind, wrong]
    assert (bad, error, iso) == ([], "", "2026-11-29T03:14:39.15")
    assert later == ""
    assert {*worse} == marked(kind, wrong)
    other = {name: text for name, text in after.items() if text != before[name]}
    texts = {name: str(text).strip(" +").lower() for name, text in other.items()}
    for name, text in changed(kind, wrong).items():
        assert texts.pop(name) == str(text).lower()
    if kind not in MOTORS:
        assert texts.keys() == {*worse}
        assert {*texts.values()} <= {"nan", "inf", "unknown", "err"}


def test_a_slide_that_was_never_heard_of_is_marked(looks: dict[tuple[str, str], list[Any]]) -> None:
    [(bad, *_)] = looks["zaber.FocalPlaneSlide", "never heard of"]
    assert bad == ["fpslide"]


def test_a_rotator_without_an_angle_is_at_its_limit(
    looks: dict[tuple[str, str], list[Any]],
) -> None:
    [(bad, texts, error, _)] = looks["gtc.Telescope", "no rotator"]
    assert (bad, texts["rotlimit"], error) == (["rotlimit"], "0:00", "")
