"""``hcam get``, ``set`` and ``monitor``, and what a shell completes."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hcam_devices.cli.main import main
from hcam_devices.wamp import utils

from ..cli.test_conventions import EVERY
from .tools import BIN, Net, until


def hcam(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_get_prints_readings_in_the_order_of_the_instrument_file(net: Net) -> None:
    done = hcam("get", "ccd*.temperature", "FocalPlaneSlide.position")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    names = [*(f"ccd{n}.temperature" for n in range(1, 6)), "slide.position"]
    assert [line.split()[0] for line in lines] == names
    assert re.fullmatch(r"ccd1\.temperature -\d\d\.\d\d deg_C", lines[0])
    assert [each.split()[0] for each in hcam("get", "slide").stdout.splitlines()] == [
        "slide.position",
        "slide.target_position",
    ]


def test_get_prints_json(net: Net) -> None:
    done = hcam("get", "ccd1.temperature", "--json")
    [found] = objects(done)
    sample = net.newest("ccd1")
    assert (found["device"], found["field"], found["unit"]) == ("ccd1", "temperature", "deg_C")
    assert isinstance(found["value"], float)
    assert 0 < found["seq"] <= sample["seq"]
    assert found["time"] <= sample["timestamp"]


def test_get_prints_what_there_is_and_says_what_there_is_not(net: Net) -> None:
    done = hcam("get", "slide.position", "slyde.position", "slide.positn", "ngc.frames_done")
    assert done.exit_code == 1
    assert done.stdout.startswith("slide.position ")
    assert done.stdout.count("\n") == 1
    assert "no device 'slyde'" in done.stderr
    assert "no field 'positn'" in done.stderr
    assert "ngc.frames_done not read" in done.stderr
    done = hcam("get", "ngc.frames_done", "--json")
    assert [one["value"] for one in objects(done)] == [None]
    assert hcam("get").exit_code == 2


def test_a_frozen_server_hides_no_device_of_another(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "PRESENT_WITHIN", 1.0)
    assert net.server
    os.killpg(net.server.pid, signal.SIGSTOP)
    try:
        done = hcam("get", "ccd*.temperature", "ngc.run")
    finally:
        os.killpg(net.server.pid, signal.SIGCONT)
    assert done.exit_code == 1
    assert done.stdout.startswith("ngc.run ")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        f"ccd{n}" for n in range(1, 6)
    ]


def test_set_prints_what_was_read_back(net: Net) -> None:
    done = hcam("set", "slide.target_position", "-50", "--why", "a test")
    assert (done.exit_code, done.stdout) == (0, "slide.target_position -50.00 pix\n")
    done = hcam("set", "slide.position.target", "900 pix", "--json")
    assert objects(done)[0]["value"] == 900
    until(lambda: "a test" in json.dumps(utils.call("hipercam.recorder.rpc.commands", "slide")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("slide.target_position", "1e9"), r"1e\+09 pix is not within"),
        (("slide.position", "5"), r"no setpoint 'position'; .*did you mean target_position\?"),
        (("slide", "5", "6"), r"Usage"),
        (("slyde.target_position", "5"), r"no device 'slyde'"),
        (("ccd*.setpoint", "5"), r"no device 'ccd\*'"),
        (("meerstetter?.target_temperature1", "5"), r"no device 'meerstetter\?'"),
        (("slid[e].target_position", "5"), r"no device 'slid\[e\]'"),
        (("slide.target_position", "nonsense"), r"'nonsense' is not a number"),
    ],
)
def test_set_says_why_not(net: Net, arguments: tuple[str, ...], said: str) -> None:
    done = hcam("set", *arguments)
    assert done.exit_code == (2 if "Usage" in said else 1)
    assert re.search(said, done.stderr)
    assert done.stdout == ""


def test_monitor_prints_the_newest_then_every_reading(net: Net) -> None:
    found = objects(hcam("monitor", "ccd*.temperature", "--count", "15", "--json"))
    assert len(found) == 15
    for name in (f"ccd{n}" for n in range(1, 6)):
        seqs = [one["seq"] for one in found if one["device"] == name]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    done = hcam("monitor", "slide.position", "--count", "1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+Z slide\.position \S+ pix\n", done.stdout)
    done = hcam("monitor", "slyde")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: there is no device 'slyde'")


def test_ctrl_c_ends_monitor(net: Net) -> None:
    program = subprocess.Popen(
        [BIN / "hcam", "monitor", "slide"],
        env=net.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout
    assert program.stdout.readline()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate()
    assert (program.returncode, errors) == (130, b"")


def test_stubs_are_written(net: Net, tmp_path: Any) -> None:
    done = hcam("stubs", str(tmp_path / "typings"))
    assert done.exit_code == 0
    assert (
        "class _slide(Device):"
        in (tmp_path / "typings" / "hcam_devices" / "client" / "__init__.pyi").read_text()
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offers"),
    [
        ("hcam get slide.", {"slide.position", "slide.target_position"}),
        ("hcam set slide.", {"slide.target_position"}),
        ("hcam call slide.stage.m", {"slide.stage.move"}),
        ("hcam wire rack", {"rack", "rackpc"}),
        ("hcam mon", {"monitor"}),
    ],
)
def test_a_shell_completes_names(
    net: Net, tmp_path: Any, shell: str, typed: str, offers: set[str]
) -> None:
    words = typed.split()
    more = {"XDG_CACHE_HOME": str(tmp_path), "_HCAM_COMPLETE": f"{shell}_complete"}
    place = words[-1] if shell == "fish" else str(len(words) - 1)
    done = subprocess.run(
        [BIN / "hcam"],
        env=net.environment | more | {"COMP_WORDS": typed, "COMP_CWORD": place},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {re.sub(r"^plain,|^plain\t", "", line) for line in done.stdout.splitlines()}
    assert offers <= {line.partition("\t")[0] for line in found}, done.stdout
    assert done.stderr == ""


JSON = [
    ("status", {"servers", "devices", "alarms"}),
    ("get slide.position", {"device", "field", "value", "unit", "time", "seq"}),
    ("set slide.target_position 900", {"device", "field", "value", "unit", "time", "seq"}),
    ("monitor slide --count 1", {"device", "field", "value", "unit", "time", "seq"}),
    ("call slide", {"fields", "procedures", "axes"}),
    ("call slide.telemetry", {"seq", "alarms", "position"}),
    ("call slide.block --wait", {"seq", "alarms", "position"}),
    ("simulate slide", {"may inject"}),
    ("wire slide --seconds 1", {"time", "direction", "hex", "meaning"}),
    ("panel", {"url", "key"}),
    ("stubs {folder}", {"file", "not_running"}),
    ("history", {"slide"}),
    ("history slide.position --last 1h", {"device", "field", "value", "unit", "time", "seq"}),
    ("history --commands", {"time", "who", "what", "why"}),
    ("history --sql {sql}", {"answer"}),
    ("history export slide.position {folder}/slide.csv --last 1h", {"file"}),
    ("history close", {"troubles"}),
    ("history convert", {"file", "complete"}),
    ("audit", {"night", "stores", "complete", "verdict"}),
    ("doctor", {"exit", "findings"}),
    ("config check", {"file", "devices", "not_armed"}),
    ("systemd --out {folder}", {"files"}),
    ("dashboards {folder} --instrument {influx}", {"folder", "dashboards"}),
    ("access add ada --role observer --out {folder}/ada.key", {"name", "role", "file"}),
    ("access list", {"ada"}),
    ("alarms shelve slide.connection 5 known", {"alarm", "shelved"}),
    ("alarms", {"alarm", "state", "shelved"}),
    ("alarms unshelve slide.connection", {"alarm", "shelved"}),
    ("alarms log --around", {"seq", "event"}),
    ("alarms log", {"seq", "event", "by", "at"}),
    ("alarms report", {"night", "errors", "mistakes"}),
    ("alarms handover", {"by", "at", "note", "alarms"}),
    ("alarms messages", set()),
]
ELSEWHERE = {
    "drill": "test_interlocks",
    "gtc probe": "test_probe",
    "alarms ack": "test_alarms",
    "alarms watch": "test_alarms",
    "alarms test": "test_notify (the procedure; a way to tell somebody is needed)",
}
"""Where --json of the other commands is tested."""


def test_json_of_every_command_is_tested() -> None:
    tested = {name for name in EVERY if any(f"{line} ".startswith(f"{name} ") for line, _ in JSON)}
    assert tested | {*ELSEWHERE} == {name for name in EVERY if not EVERY[name].silent}


@pytest.mark.parametrize(("line", "keys"), JSON)
def test_json_is_for_programs(net: Net, tmp_path: Path, line: str, keys: set[str]) -> None:
    influx = tmp_path / "influx.toml"
    influx.write_text(
        '[stores.night]\nkind = "influxdb"\nurl = "http://127.0.0.1:1"\ndatabase = "hipercam"\n'
        '[devices.slide]\nkind = "zaber.FocalPlaneSlide"\nport = 1\n'
    )
    words = [
        word.format(folder=tmp_path, influx=influx, sql="SELECT 42 AS answer")
        for word in line.split()
    ]
    done = hcam(*words, "--json")
    while words[0] == "wire" and not done.stdout:  # a busy machine may send nothing in a second
        done = hcam(*words, "--json")
    # Their status depends on the tests before.
    uncertain = words[0] in ("audit", "doctor", "status", "alarms")
    assert done.exit_code == 0 or uncertain, done.stderr
    text = done.stdout.strip()
    lines = text.splitlines()
    found = json.loads(lines[0] if lines[0].endswith("}") else text)
    if isinstance(found, list):
        found = found[-1] if found else {}
    assert keys <= found.keys(), done.stderr
