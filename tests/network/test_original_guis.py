"""The small GUIs of version 1.7, unchanged, beside our servers on the same machine."""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..conftest import Scaled
from . import gui as guis
from .gui import Gui, Screen, need_screen
from .namespaces import made_hosts
from .test_original import QUANTITY, same, seconds
from .tools import BIN, INSTRUMENT, Sample, until

pytestmark = pytest.mark.merge

DEVICES = [*INSTRUMENT.entries]
ORDER = re.compile(
    r"^\S+ > .* (?<!= )((?:0|1|20|23|40)(?: = -?\d+)?|[12](?:MO|OR1|ST|PA\S+))$", re.MULTILINE
)
"""An order to a Zaber stage or an ESP301 as ``hcam wire`` shows it, unlike the questions."""


class Site(guis.Site):
    """Our instrument, and a screen for GUIs, on one machine."""

    screen: Screen

    def texts(self, device: str, text: Callable[[Sample], str]) -> list[str]:
        """Return what a GUI may show of the samples while the motors were in position."""
        ready = {"online", "inpos"}
        return [text(one) for one in self.samples(device) if {*one["state"].values()} == ready]

    def at(self, device: str, time: str) -> Sample | None:
        """Return the sample of a device with the time that a GUI shows."""
        return next(
            (
                sample
                for sample in reversed(self.samples(device))
                if abs(seconds(sample["timestamp"]) - seconds(time)) < 0.006
            ),
            None,
        )

    def watch_wire(self, device: str) -> Callable[[], list[str]]:
        """Return a function that returns the orders to a device's hardware from now on."""
        log = self.host.home / f"{device}-{len(self.host.started)}.wire"
        self.host.start(BIN / "hcam", "wire", device, log=log.name)
        until(log.read_text)
        return lambda: ORDER.findall(log.read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_screen()
    with made_hosts(tmp_path_factory.mktemp("guis"), {"desk": "10.77.0.1"}) as [host]:
        site = Site(host)
        site.screen = Screen(host)
        host.wait_until_online()
        yield site


def told(site: Site, device: str, text: str) -> Any:
    """Return the sample that telemetry_gui shows, and what it shows of it.

    None before it shows any, or if the bridge has none yet, so that nothing is known.
    """
    time, _, shown = text.partition("\n")
    sample = site.at(device, time) if shown.strip() else None
    values = QUANTITY.sub(r"('\1', '\2')", shown)
    return (sample, ast.literal_eval(values)) if sample else None


def test_telemetry_gui_lists_every_topic_and_shows_our_values(site: Site, scaled: Scaled) -> None:
    with Gui(site.screen, "telemetry_gui", variables=["WAMP_SERVER=127.0.0.1"]) as gui:
        topics = [f"hipercam.{device}.telemetry" for device in DEVICES]
        until(lambda: gui.read("globals.session"))
        until(lambda: set(topics) <= {*gui.read("topic.options")})
        for device in DEVICES[:: scaled(8, soak=1)]:
            gui.ask("select", "topic", f"hipercam.{device}.telemetry")
            # It has left the topic before by then.
            until(lambda: gui.read("topic.val") == f"hipercam.{device}.telemetry")  # noqa: B023
            gui.ask("call", "label.delete", "1.0", "end")
            sample, values = until(lambda: told(site, device, gui.read("label")))  # noqa: B023
            values.pop("state", None)
            if device == "ngc":
                name = "exposure.newDataFileName"
                sample[name] = sample[name].rpartition("/")[2]
            assert values
            for name, value in values.items():
                assert same(sample[name], value), (device, name, sample[name], value)


Step = tuple[str, list[str], list[str]]
"""A button, the commands that it gives, and the orders that the hardware then gets."""


def press_each(site: Site, gui: Gui, steps: list[Step], devices: list[str]) -> None:
    """Press buttons, each when the devices are in position, and see what each one does."""
    lines = [site.watch_wire(device) for device in devices if device != "compo"]
    given = site.commands()
    ordered: list[str] = []

    def orders() -> list[str]:
        return [order for line in lines for order in line()]

    for button, commands, its_orders in steps:
        site.wait_until("inpos", *devices)
        gui.press(button)
        given.extend(commands)
        until(lambda: len(site.commands()) >= len(given))
        assert site.commands() == given
        ordered.extend(its_orders)
        until(lambda: len(orders()) >= len(ordered))
        assert sorted(orders()) == sorted(ordered)


def dated(sample: Sample) -> str:
    return f"{sample['timestamp'][:-1].replace('T', ' ')}:\n"


SLIDE: list[Step] = [
    ("sf.home", ["slide.stage.home()"], ["1"]),
    ("sf.block", ["slide.target_position(-100)", "slide.stage.move()"], ["20 = 661329"]),
    ("sf.unblock", ["slide.target_position(1100)", "slide.stage.move()"], ["20 = 150361"]),
    ("sf.goto", ["slide.target_position(0)", "slide.stage.move()"], ["20 = 618748"]),
    ("sf.stop", ["slide.stage.stop()"], ["23"]),
    ("sf.disable", ["slide.disable()"], ["40 = 136"]),
    ("sf.enable", ["slide.enable()"], ["40 = 128"]),
    ("sf.restore", [], []),
    ("sf.connect", ["slide.connection.disconnect()"], []),
    ("sf.reset", ["slide.reset()"], ["0"]),
]


def slide_text(sample: Sample) -> str:
    here, target = (sample["position"][one]["value"] for one in ("current", "target"))
    state = sample["state"]["stage"]
    return dated(sample) + f"pos: curr={here:.0f}, targ={target:.0f}\n{state}"


def test_slide_shows_our_telemetry_and_its_buttons_command(site: Site, scaled: Scaled) -> None:
    with Gui(site.screen, "slide") as gui:
        until(lambda: gui.read("globals.session"))
        site.host.hcam("simulate", "slide", "set", "speed=1e6")
        until(lambda: gui.read("sf.label").strip() in site.texts("slide", slide_text))
        gui.ask("call", "sf.gval.set", 0)
        press_each(site, gui, SLIDE[: scaled(3, soak=len(SLIDE))], ["slide"])


COMPO: list[Step] = [
    (
        "compo.pickoff_move",
        ["compo.target_pickoff_angle(-60.5)", "compo_arms.pickoff.move()"],
        ["1PA-60.5000"],
    ),
    ("compo.pickoff_stop", ["compo_arms.pickoff.stop()"], ["1ST"]),
    ("compo.pickoff_home", ["compo_arms.pickoff.home()"], ["1MO", "1OR1"]),
    (
        "compo.injection_move",
        ["compo.target_injection_angle(13.5)", "compo_arms.injection.move()"],
        ["2PA13.5000"],
    ),
    ("compo.injection_stop", ["compo_arms.injection.stop()"], ["2ST"]),
    ("compo.injection_home", ["compo_arms.injection.home()"], ["2MO", "2OR1"]),
    (
        "compo.lens_move",
        ["compo.target_lens_position(4)", "compo_lens.stage.move()"],
        ["20 = 167979"],
    ),
    ("compo.lens_stop", ["compo_lens.stage.stop()"], ["23"]),
    ("compo.lens_home", ["compo_lens.stage.home()"], ["1"]),
    (
        "compo.conn",
        ["compo_lens.connection.disconnect()", "compo_arms.connection.disconnect()"],
        [],
    ),
]
MACHINES = {"injection": "injection_angle", "pickoff": "pickoff_angle", "stage": "lens_position"}


def compo_text(sample: Sample) -> str:
    parts = [
        f"{machine}: curr={sample[name]['current']['value']:.2f}, "
        f"targ={sample[name]['target']['value']:.2f}\n{sample['state'][machine]}"
        for machine, name in MACHINES.items()
    ]
    return dated(sample) + "\n\n".join(parts)


def test_compo_gui_shows_our_telemetry_and_its_buttons_command(site: Site, scaled: Scaled) -> None:
    with Gui(site.screen, "compo_gui") as gui:
        until(lambda: gui.read("globals.session"))
        site.host.hcam("simulate", "compo_lens", "set", "speed=1e6")
        site.host.hcam("simulate", "compo_arms", "set", "speed=1000")
        until(lambda: gui.read("compo.label").strip() in site.texts("compo", compo_text))
        for entry, value in (
            ("pickoff_angle", -60.5),
            ("injection_angle", 13.5),
            ("lens_position", 4),
        ):
            gui.ask("call", f"compo.{entry}.set", value)
        steps = COMPO[: scaled(1, soak=len(COMPO))]
        press_each(site, gui, steps, ["compo", "compo_arms", "compo_lens"])
        for part in ("injection", "pickoff", "lens"):
            until(lambda part=part: gui.read(f"compo.{part}_status") == "INPOS")  # type: ignore[misc]
