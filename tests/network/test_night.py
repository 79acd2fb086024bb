"""Type the night of docs/night.md, with the emulated instrument."""

import os
import re
from pathlib import Path

import pytest

from .conftest import DEVICES, OTHERS
from .test_running_a_site import commands_of
from .tools import BIN, Net, until

pytestmark = pytest.mark.merge

PAGE = (Path(__file__).parents[2] / "docs" / "night.md").read_text()
INDENT = re.compile(r"^ +(?=```|hcam )", re.MULTILINE)
MAY_FAIL = "hcam status", "hcam alarms", "hcam audit"
"""They end with status 1 if something is wrong, such as the alarm of the page."""


def test_the_night_of_the_page(own: Net) -> None:
    net = own
    net.start_servers()
    net.start_recorder()
    net.start_alarms()
    net.start_router()
    net.wait_for_devices(*DEVICES, *OTHERS, "recorder", "alarms")
    for name, text in re.findall(r"^```json file=(\S+)\n(.*?)^```$", PAGE, re.M | re.S):
        (net.home / name).write_text(text)
    net.hcam("simulate", "slide", "set", "speed=450000")
    said = {}
    for command in commands_of(INDENT.sub("", PAGE)):
        if command in ("hcam call ngc.stop", "hcam call gtc.do_offset raoff=1.5 decoff=0"):
            until(lambda: net.newest("ngc")["frames_done"])
        code = None if command.startswith(MAY_FAIL) else 0
        path = f"PATH={BIN}:{os.environ['PATH']}"
        said[command] = net.run("env", path, "sh", "-c", command, code=code)
        if "pressure=0.02" in command:
            until(lambda: "ERR  pressure3.pressure" in net.hcam("alarms", code=None))
    assert "inpos at -100.00 pix" in said["hcam call slide.block --wait"]
    logbook = said["hcam history --commands --night tonight"]
    assert re.search(r"ngc +gtcserver \(.*trigger\(\)", logbook), "the dither has exposed"
    assert "-> Check that the head's valve is closed" in said["hcam alarms"]
