"""What people type: each command does what it says, and every mistake is told in a sentence."""

import io
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.cli.program import Command
from hcam_devices.wamp.utils import call

from .conftest import DEVICES, OTHERS
from .tools import BIN, PATIENCE, Net, free_port, living, until

COMMANDS = ["up", "router", "watch", "status", "call", "publish", "simulate", "config check"]
COMMANDS += ["audit", "replay", "doctor", "systemd", "get", "set", "monitor", "stubs"]


@pytest.fixture
def alone(tmp_path: Path) -> Net:
    """A home without a router."""
    return Net(tmp_path)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    said = CliRunner().invoke(main, [*command.split(), "--help"]).output
    if command:
        assert re.search(rf"Example: hcam {command}\b", said)
    else:
        assert all(name.split()[0] in said for name in COMMANDS)


def test_the_help_of_a_server_has_an_example(alone: Net) -> None:
    assert "Example: hwserver --emulate" in alone.run(BIN / "hwserver", "--help")


def test_call_prints_the_answer_as_json(net: Net) -> None:
    for name in ("slide.describe", "hipercam.slide.rpc.describe", "FocalPlaneSlide.describe"):
        assert json.loads(net.hcam_here("call", name))["device"] == "slide"
    assert json.loads(net.hcam_here("call", "slide.set_target_position", "-50")) == -50
    assert json.loads(net.hcam_here("call", "slide.stage.positionSet", "position=1100 pix")) == 1100
    assert (
        json.loads(net.hcam_here("call", "meerstetter1.set_target_temperature1", "-90 deg_C"))
        == -90
    )
    assert len(json.loads(net.hcam_here("call", "slide.samples", "0", "limit=2"))) == 2
    assert net.hcam("call", "slide.stage.stop") == "slide.stage.stop: done\n"
    assert net.hcam_here("call", "slide.stage.move").startswith("slide.stage.move: begun (--wait")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("call slyde.block", r"there is no hipercam\.slyde\.rpc\.block; .*\bccd1, .*\bslide\b"),
        ("call slide.dance", r"slide has no 'dance'; it has .*\bblock\b.*stage\.move"),
        ("call slyde", r"there is no .*; the devices are: .*; did you mean slide\?"),
        ("call slide.blok", r"slide has no 'blok'; it has .*; did you mean block\?"),
        ("call slide..block", r"\S"),
        ("call slide.reset --wait", r"slide.reset begins no motion .* are block, .*nothing was"),
        ("call slide.block @nosuch", r"the file 'nosuch' cannot be read \(No such file"),
        ("simulate slide silense", r"no fault 'silense'; .*; did you mean silence\?"),
        ("call slide.set_target_position 1e9", r"1e\+09 pix is not within -125"),
        ("call slide.set_target_position NaN", r"cannot be sent"),
        ("call slide.set_target_position", r"argument: 'value'"),
        ("call slide.stage.move 1 2", r"argument"),
        ("call slide.block --timeout 0", r"timeout"),
        ("call slide.block --timeout nan", r"timeout': nan is not a number"),
        ("simulate slide explode", r"no fault 'explode'; there are delay, "),
        ("simulate slide set colour=1", r"there is no colour to set; there is speed"),
        ("simulate slyde", r"there is no .*slyde.*; did you mean slide\?"),
        ("wire slyde", r"there is no .*slyde.*; did you mean slide\?"),
        ("wire slyde --send 00", r"there is no .*slyde.*; did you mean slide\?"),
        ("publish slyde.target_position 1", r"there is no .*slyde.*; did you mean slide\?"),
        ("publish slide.target 1", r"nothing can be set at .*; did you mean target_position\?"),
        ("publish pressure1.base 1", r"nothing can be set at .*; pressure1 has no setpoint"),
        ("simulate ccd1 silence", r"ccd1 has no 'simulate'"),
        ("publish slide.target_position NaN", r"cannot be sent"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(net: Net, command: str, said: str) -> None:
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == (2 if "--timeout" in command else 1)
    told = done.output
    assert re.search(said, told)
    if "--timeout" not in command:
        assert told.startswith("Error: ")
        assert told.count("\n") == 1


def test_a_device_alone_lists_what_it_has(net: Net) -> None:
    told = net.hcam("call", "FocalPlaneSlide")
    assert max(map(len, told.splitlines())) <= 80
    assert re.search(r"^  block +Move the slide into the beam \(-100 pix\)\.$", told, re.MULTILINE)
    assert re.search(
        r"^  set_target_position VALUE +-125\.\d+ to 1453\.\d+ pix", told, re.MULTILINE
    )
    known = json.loads(net.hcam_here("call", "slide.describe"))["procedures"]
    assert all(name in told for name in known)


def test_waiting_for_a_motion_ends_where_the_telemetry_says_that_it_is(net: Net) -> None:
    try:
        net.hcam_here("simulate", "slide", "set", "speed=450000")
        told = net.hcam_here("call", "slide.block", "--wait")
        assert re.search(r"slide\.block: stage is inpos at -100\.00 pix .* after", told)
        assert net.newest("slide")["position"]["current"]["value"] == pytest.approx(-100)
        net.hcam_here("simulate", "slide", "set", "stalled=true")
        told = net.hcam_here("call", "slide.unblock", "--wait", code=1)
        assert re.search(r"stage did not arrive: it is outpos at -100\.00 pix .*short of", told)
        assert "unblock" not in told.splitlines()[0], "it is not sent again"
    finally:
        net.hcam_here("simulate", "slide", "set", "stalled=false", "speed=45000")
        net.hcam_here("call", "slide.unblock", "--wait")


def test_the_text_of_a_file_is_an_argument(net: Net, tmp_path: Path) -> None:
    (tmp_path / "target.txt").write_text("\ufeff1099 pix", encoding="utf-8")
    (tmp_path / "target.json").write_text('{"value": 1100, "unit": "pix"}', encoding="utf-8")
    for name, number in (("txt", 1099), ("json", 1100)):
        file = f"@{tmp_path}/target.{name}"
        assert json.loads(net.hcam_here("call", "slide.set_target_position", file)) == number
        assert (
            json.loads(net.hcam_here("call", "slide.set_target_position", f"value={file}"))
            == number
        )


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_of_the_readme_works(net: Net) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (command,) = re.findall(r"^    (curl .*\\\n.*)$", readme, re.MULTILINE)
    command = command.replace(":8080/", f":{net.port}/")
    assert '"device":"slide"' in net.run("sh", "-c", command)


def test_publish_sets_and_simulate_shows_and_injects(net: Net) -> None:
    net.hcam("publish", "slide.target_position", "1099")
    until(lambda: net.newest("slide")["position"]["target"]["value"] == 1099)
    net.hcam_here("publish", "hipercam.FocalPlaneSlide.target_position", "1100 pix")
    until(lambda: net.newest("slide")["position"]["target"]["value"] == 1100)
    until(lambda: net.newest("slide")["state"]["stage"] == "inpos")  # as the next test expects
    offered = net.hcam("simulate", "pressure1")
    assert all(word in offered for word in ("may inject", "silence", "base", "delay"))
    try:
        net.hcam_here("simulate", "pressure1", "set", "pressure=0.02", "base=0.02")
        call("hipercam.pressure1.rpc.connection.disconnect")
        until(lambda: (net.newest("pressure1")["pressure"] or {}).get("value", 0) > 8e-3)
        told = net.hcam("status", code=1)
        assert "is above 0.008 mbar" in told
        assert "pressure1" in told
    finally:
        net.hcam_here("simulate", "pressure1", "set", "pressure=1e-5", "base=1e-5")


def test_watch_once_shows_the_devices_of_a_pattern(net: Net) -> None:
    shown = net.hcam("watch", "--once", "s*")
    assert "hwserver running (emulated)" in shown
    assert re.search(r"slide +inpos +position 1\d\d\d\.\d\d", shown)
    assert "pressure1" not in shown


def test_watch_without_a_terminal_prints_a_line_for_each_change(net: Net) -> None:
    log = net.home / "watch.out"
    watching = net.start(BIN / "hcam", "watch", "slide", log=log.name)
    try:
        until(lambda: "position" in log.read_text())
        call("hipercam.slide.rpc.stage.disable")
        until(
            lambda: re.search(r"^[\d:]{8} WARN slide\.stage since .* is dis", log.read_text(), re.M)
        )
        call("hipercam.slide.rpc.stage.enable")
        until(lambda: re.search(r"^[\d:]{8} over: slide\.stage$", log.read_text(), re.M))
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    assert "\x1b" not in log.read_text()


def test_watch_once_says_that_no_device_matches(net: Net) -> None:
    told = net.hcam_here("watch", "--once", "nosuch*", code=1)
    assert re.search(r"no device matches 'nosuch\*'; there are .*\bslide\b.*\brecorder", told)


def test_status_says_that_all_is_well(net: Net) -> None:
    told = net.hcam_here("status")
    assert "hwserver is running" in told
    everything = len(DEVICES) + len(OTHERS) + 2  # and the recorder, and the alarms
    assert f"{everything} of {everything} devices are online" in told
    assert not re.search("^(ERR|WARN)", told, re.MULTILINE)


@pytest.mark.parametrize(
    "command", ["status", "watch --once", "watch", "call slide.block", "publish slide.x 1"]
)
def test_no_router_is_told_in_one_sentence(alone: Net, command: str) -> None:
    nowhere = {"WAMP_SERVER": str(alone.address), "HCAM_HOME": str(alone.home)}
    done = CliRunner().invoke(main, command.split(), env=nowhere)
    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert re.search(rf"no router at 127\.0\.0\.1:{alone.port}", told)
    assert "hcam up" in told


ASKING = ["status", "watch --once", "call slide.block", "publish slide.x 1", "simulate slide"]
ASKING += ["wire slide", "wire slide --send 00", "history", "audit"]


@pytest.mark.parametrize("command", ASKING)
def test_every_command_asks_the_router_of_the_instrument_unless_told_otherwise(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    file = tmp_path / "ours.toml"
    of_file, of_variable, of_option = (f"127.0.0.1:{free_port()}" for _ in range(3))
    file.write_text(f"[router]\nport = {of_file[10:]}\n[devices]\n")

    def asked(*options: str, variables: dict[str, str]) -> str:
        nowhere: dict[str, str | None] = {"HCAM_INSTRUMENT": None, "WAMP_SERVER": None}
        done = CliRunner().invoke(main, [*command.split(), *options], env={**nowhere, **variables})
        return " ".join(done.output.split())

    named = {"HCAM_INSTRUMENT": str(file)}
    assert of_file in asked(variables=named)
    assert of_file in asked("--instrument", str(file), variables={})
    both = named | {"WAMP_SERVER": of_variable}
    assert of_variable in asked(variables=both)
    assert of_option in asked("--url", of_option, variables=both)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[router]\nport = 0\n[devices]", r"ours.toml:2: \[router\.port\] port: .*not 0"),
        ("[router]\nprot = 9000\n[devices]", "prot is not a setting here"),
        ("[router]\nport = '9000'\n[devices]", "port: .*not '9000'"),
        ("router = 5\n[devices]", "router: .*not 5"),
        ("[router", r"ours\.toml:1: "),
    ],
)
def test_a_call_to_the_router_of_a_wrong_file_is_not_made(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(text)
    command = ["call", "slide.block", "--instrument", str(file)]
    done = CliRunner().invoke(main, command, env={"WAMP_SERVER": None})
    assert done.exit_code == 1
    assert re.search(said, done.output)


@pytest.mark.parametrize(
    "command", ["status", "watch --once", "call slide.block", "publish slide.x 1"]
)
def test_nonsense_in_wamp_server_is_told(command: str) -> None:
    done = CliRunner().invoke(main, command.split(), env={"WAMP_SERVER": "http://nowhere"})
    assert done.exit_code == 1
    assert "'http://nowhere' is not a host or host:port" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--csv", "name a field"),
        ("--png x.png", "name a field"),
        ("ccd*.temperature", "'ccd*.temperature' is a pattern: name each field in full"),
        (
            "ccd1.temperature --png x.pdf",
            "the name of a PNG must end with .png, not x.pdf",
        ),
        ("ccd1.temperature --table --csv", "choose one of --table"),
        ("ccd1.temperature --csv --table", "choose one of --table"),
        ("ccd1.temperature --csv --png x.png", "choose one of --table"),
        ("ccd1.temperature --csv --points 5", "choose one of --table"),
    ],
)
def test_what_cannot_be_written_as_asked_is_a_mistake(options: str, said: str) -> None:
    done = CliRunner().invoke(main, ["history", *options.split()], env={"WAMP_SERVER": None})
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_control_c_is_no_error() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert CliRunner().invoke(Command("x", callback=interrupted)).exit_code == 130


def test_what_a_terminal_has_no_letter_for_is_a_question_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="latin-1", write_through=True) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        Command("x", callback=lambda: print("20 °C \u28ff")).main([], standalone_mode=False)
        assert written.getvalue() == "20 °C \\u28ff\n".encode("latin-1")
        monkeypatch.setattr(stdout, "isatty", lambda: True)
        Command("x", callback=lambda: print("20 °C \u28ff")).main([], standalone_mode=False)
        assert written.getvalue().splitlines()[1] == "20 °C ?".encode("latin-1")


def test_the_default_instrument_has_no_mistakes(alone: Net) -> None:
    assert re.search(r"hipercam\.toml: \d+ devices, no mistakes", alone.hcam("config", "check"))


WRONG = """\
[router]
port = 99999

[devices.Pressure1]
kind = "pdr900.VacuumGauge"
port = 1

[devices.slide]
kind = "zaber.Slider"

[devices.flow]
kind = "minitrend.FlowRecorder"
prot = 502

[devices.ccd1]
kind = "views.CCDHead"
gauge = "pressure1"
"""


@pytest.mark.parametrize(
    "command", ["hcam config check", "hcam up -e", "hcam router", "hcam status", "hwserver -e"]
)
def test_every_mistake_in_the_instrument_file_is_told_with_its_line(
    alone: Net, command: str
) -> None:
    (alone.home / "wrong.toml").write_text(WRONG)
    program, *arguments = command.split()
    told = alone.run(BIN / program, *arguments, "--instrument", "wrong.toml", code=1)
    for line, word in ((2, "port"), (4, "Pressure1"), (9, "zaber.Slider"), (13, "prot")):
        assert re.search(rf"wrong\.toml:{line}: .*{re.escape(word)}", told)
    assert all(f"{name} is missing" in told for name in ("rack", "channel", "recorder", "pen"))


def test_a_router_elsewhere_is_warned_of_and_is_no_mistake(alone: Net) -> None:
    for host, warned in (("192.0.2.7", True), ("localhost", False)):
        (alone.home / "ours.toml").write_text(f"[router]\nhost = '{host}'\n[devices]\n")
        told = alone.hcam_here("config", "check", "--instrument", "ours.toml")
        assert "no mistakes" in told
        assert ("Warning: [router] host is '192.0.2.7', but the router of" in told) == warned


def test_no_instrument_file_is_told(alone: Net) -> None:
    told = alone.hcam_here("config", "check", "--instrument", "absent.toml", code=1)
    assert "absent.toml: cannot be read" in told


def test_a_server_presents_the_devices_of_a_glob(alone: Net) -> None:
    for pattern, said in (("nothing*", "no device of hwserver matches"), ("ccd*", "is a view of")):
        told = alone.run(BIN / "hwserver", "-e", "--devices", pattern, code=1)
        assert said in told
        assert told.count("\n") == 1
    try:
        alone.start(BIN / "hwserver", "-e", "--devices", "pressure[12]", log="hwserver.out")
        until(lambda: alone.last("pressure2") > 1)
        assert alone.last("pressure3") == 0
    finally:
        alone.end()


def test_an_instrument_at_a_port_that_is_taken_is_told_at_once(net: Net) -> None:
    said = net.hcam("up", "-e", "--port", str(net.port), code=1)
    assert f"port {net.port} is in use" in said
    assert "hcam watch" in said


def test_a_second_server_in_one_home_names_the_first(net: Net) -> None:
    assert net.server
    told = net.run(BIN / "hwserver", "-e", code=1)
    last = told.splitlines()[-1]
    assert f"is already in use by process {net.server.pid}" in last
    assert "HCAM_HOME" in last


def test_a_server_ends_quietly_and_at_once_when_told(alone: Net) -> None:
    alone.port = free_port()
    try:
        for number in (15, 2):
            alone.start_server()
            assert alone.server
            before = alone.last("slide")
            until(lambda b=before: alone.last("slide") > b)  # type: ignore[misc]
            alone.server.send_signal(number)
            assert alone.server.wait(PATIENCE) == 0
        said = (alone.home / "hwserver.out").read_text()
        assert "Traceback" not in said
        assert "ERROR" not in said
        assert "CancelledError" not in said
        until(lambda: not living(alone.home))
    finally:
        alone.end()
