"""The commands of version 1.7 ask for what they asked for then."""

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.cli import original
from hcam_devices.ui import terminal
from hcam_devices.wamp import utils

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "scripts"
]


class Router:
    """Notes what is asked of it; answers from ``answers``, of which the last is repeated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[str, list[Any]] = {}
        monkeypatch.setattr(utils, "call", self.call)
        monkeypatch.setattr(utils, "publish", lambda *asked: self.asked.append(asked))

    def call(self, procedure: str, *args: Any, timeout: float = 0, **kwargs: Any) -> Any:
        self.asked.append((procedure, *args))
        answers = self.answers.get(procedure, [None])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    monkeypatch.setenv("WAMP_SERVER", "localhost")
    return Router(monkeypatch)


def run(monkeypatch: pytest.MonkeyPatch, *command: str) -> Any:
    """Run a command as its script does; return the exit status or the message."""
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{command[0]}", *command[1:]])
    module, _, name = SCRIPTS[command[0]].partition(":")
    with pytest.raises(SystemExit) as ended:
        getattr(importlib.import_module(module), name)()
    return ended.value.code or 0


def test_do_wamp_call_sends_numbers_and_truth_values(
    router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "hipercam.ngc.rpc.start_ngc_server"
    router.answers[name] = [["started", True]]
    assert run(monkeypatch, "do_wamp_call", name, "True", "-5", "abc") == 0
    assert router.asked[-1] == (name, True, -5, "abc")
    assert "started" in capsys.readouterr().out


def test_do_wamp_call_fails_where_the_answer_is_a_refusal(
    router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    router.answers["hipercam.ngc.rpc.start"] = [["no disk", False]]
    assert run(monkeypatch, "do_wamp_call", "hipercam.ngc.rpc.start") == 1
    assert capsys.readouterr().err == "Error: no disk\n"


def test_publish_wamp_msg_publishes(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = "hipercam.slide.target_position"
    router.answers["wamp.subscription.match"] = [[1]]
    assert run(monkeypatch, "publish_wamp_msg", topic, "-50") == 0
    assert router.asked[-1] == (topic, -50)


@pytest.mark.parametrize("named", ["hipercam.slide.telemetry", "slide"])
def test_show_telemetry_watches_the_device_of_a_topic(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []

    async def watch(instrument: Any, address: Any, pattern: str, realm: str, *, once: bool) -> None:
        shown.append((pattern, once))

    monkeypatch.setattr(terminal, "watch", watch)
    assert run(monkeypatch, "show_telemetry", named, "--once", "--url", "localhost:8080") == 0
    assert shown == [("slide", True)]


FAILED = {"field": "archive", "severity": "ERR", "reason": "the transfer failed: no disk"}
OTHER = {"field": "telpars", "severity": "ERR", "reason": "another"}


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        ({"state": {"archive": "finished"}, "alarms": [OTHER]}, 0, ""),
        ({"state": {"archive": "failed"}, "alarms": [OTHER, FAILED]}, 1, FAILED["reason"]),
        ({"state": {"archive": "idle"}, "alarms": []}, 1, "the transfer is idle: look into"),
        (None, 1, "the transfer is unknown: look into"),
    ],
)
def test_gtc_archive_ingest_waits_for_the_end_of_the_transfer(
    router: Router,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    last: Any,
    status: int,
    said: str,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(original, "sleep", pauses.append)
    running = {"state": {"archive": "running"}, "alarms": []}
    router.answers["hipercam.gtc.rpc.telemetry"] = [running, running, last]
    assert run(monkeypatch, "gtc_archive_ingest") == status
    assert router.asked[0] == ("hipercam.gtc.rpc.archive",)
    assert (len(router.asked), len(pauses)) == (4, 2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["zaber_ascii", "tcp_serial_bridge"])
def test_what_is_gone_says_what_replaces_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(monkeypatch, name, "/dev/ttyUSB0")
    assert said.startswith(f"Error: {name} does nothing any more; ")
