"""The programs of docs/tools.md, word for word."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcam_devices.wamp import utils

from .tools import BIN, PATIENCE, Net, free_port, until

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
PROGRAMS = dict(re.findall(r"^```python file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the programs."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_block_of_code_is_run_by_this_file() -> None:
    assert PROGRAMS.keys() == {"focus.py", "table.py", "ioc.py"}
    assert PAGE.count("\n```") == 2 * len(PROGRAMS)


def test_the_scan_of_bluesky(net: Net, files: Path) -> None:
    pytest.importorskip("bluesky")
    said = net.run(sys.executable, files / "focus.py", timeout=PATIENCE)
    positions = [round(float(text)) for text in re.findall(r"'slide_position': ([\d.]+)", said)]
    assert positions == [900, 950, 1000]


def test_the_table_of_pandas(net: Net, files: Path) -> None:
    said = net.run(sys.executable, files / "table.py", timeout=PATIENCE)
    assert re.search(r"^mean( +-\d+\.\d+){5}$", said, re.MULTILINE)


@pytest.fixture
def epics(net: Net, files: Path) -> Iterator[dict[str, str]]:
    """The environment of EPICS clients that find the running IOC."""
    pytest.importorskip("caproto")
    port = str(free_port())
    place = {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO"}
    place |= {"EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO"}
    place |= {"EPICS_CA_SERVER_PORT": port, "EPICS_CAS_SERVER_PORT": port}
    environment = net.environment | place
    program = subprocess.Popen([sys.executable, files / "ioc.py"], env=environment)
    try:
        yield environment
    finally:
        program.terminate()
        program.wait()


def test_the_ioc_of_epics(net: Net, epics: dict[str, str]) -> None:
    def asked(program: str, *words: str) -> str:
        done = subprocess.run(
            [BIN / program, "--no-repeater", "--timeout", "10", *words],
            env=epics,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    every = "-d", "CTRL_DOUBLE", "--format", "{response.data} {response.metadata}"
    found = r"\[-\d\d\.\d+\] .*NO_ALARM.*units=b'deg_C'"
    until(lambda: re.match(found, asked("caproto-get", *every, "HCAM:ccd1:temperature")))
    target = "HCAM:slide:target_position"
    assert "950" in asked("caproto-put", "--notify", target, "950")
    assert utils.call("hipercam.slide.rpc.telemetry")["position"]["target"]["value"] == 950
    refused = asked("caproto-put", "--notify", target, "1e9")
    assert "1e+09 pix is not within" in refused
    assert utils.call("hipercam.slide.rpc.telemetry")["position"]["target"]["value"] == 950
