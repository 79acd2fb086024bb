"""``hcam audit`` with a real recorder: it tells what is so, whoever runs, and whoever lies."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.wamp import utils
from hcam_devices.wamp.utils import OutcomeUnknownError, call

from .conftest import DEVICES, OTHERS
from .tools import BIN, Net, living, until


def audited() -> dict[str, Any]:
    """Return what the recorder finds in its one store."""
    (store,) = call("hipercam.recorder.rpc.audit")["stores"]
    return dict(store)


def test_a_night_that_is_being_recorded_is_complete_up_to_now(own: Net) -> None:
    own.start_router()
    own.start_servers()
    own.start(BIN / "hwlogger", log="hwlogger.out")
    own.wait_for_devices(*DEVICES, *OTHERS)
    until(lambda: all(own.last(name) > 2 for name in (*DEVICES, *OTHERS)))
    until(lambda: len(audited()["lines"]) > len(DEVICES) + len(OTHERS))
    said = own.hcam("audit")
    assert all(f"\n{name} " in said for name in (*DEVICES, *OTHERS, "recorder"))
    assert "Everything published is stored once: local has " in said
    found = json.loads(own.hcam_here("audit", "--json"))
    assert found["complete"]
    assert found["stores"][0]["lines"][0]["published"] > 0


def test_rows_taken_from_the_store_are_missed_and_fetched_again(as_left: Net) -> None:
    db = sqlite3.connect(as_left.home / "history" / "tonight.sqlite", timeout=20)
    with db:
        count = db.execute("DELETE FROM sample WHERE seq = 2").rowcount
    db.close()
    assert count >= len(DEVICES)
    said = as_left.hcam_here("audit", code=1)
    assert f"local lacks {count} of " in said
    assert "slide 2 (epoch " in said
    assert "noted as stored, but missing or damaged" in said
    until(lambda: call("hipercam.recorder.rpc.audit", timeout=60)["complete"])


def test_a_closed_file_that_is_damaged_is_named_and_fetched_again(as_left: Net) -> None:
    as_left.hcam_here("history", "close")
    (path,) = (as_left.home / "history" / "nights").glob("*/slide.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = as_left.hcam_here("audit", code=1)
    assert f"{path} is damaged" in said
    assert "slide 1-" in said
    until(lambda: call("hipercam.recorder.rpc.audit", timeout=60)["complete"])
    assert len([*(as_left.home / "history" / "damaged").glob("*/slide.parquet-*")]) == 1


def test_without_a_server_nothing_is_certain(as_left: Net) -> None:
    assert as_left.server
    as_left.server.terminate()
    as_left.server.wait()
    said = as_left.hcam_here("audit", code=1)
    assert (
        f"its journal does not answer: check that its server is running ({len(DEVICES)} devices)"
        in said
    )


def test_without_the_recorder_its_files_alone_are_looked_at(as_left: Net) -> None:
    (recorder,) = living(as_left.home, "hwlogger")
    everything = f"({len(DEVICES) + len(OTHERS) + 2} devices)"  # and the recorder and alarms
    db = sqlite3.connect(as_left.home / "history" / "tonight.sqlite", timeout=20)
    newest = "SELECT max(seq) FROM sample WHERE device = 'ngc' GROUP BY device HAVING count(*) > 2"
    until(lambda: db.execute(newest).fetchone())
    recorder.kill()
    recorder.wait()
    with db:
        wanted = f"device = 'ngc' AND seq = ({newest}) - 1"
        deleted = db.execute(f"DELETE FROM sample WHERE {wanted}").rowcount
    db.close()
    assert deleted == 1
    reasons = {
        "the recorder is not running": lambda: None,
        f"no router answers at {as_left.address}": as_left.end,
    }
    for reason, happens in reasons.items():
        happens()
        said = as_left.hcam_here("audit", code=1)
        assert f"{reason}, so no journal was asked {everything}" in said
        assert "(epoch " in said
        assert "not stored, and no journal answered" in said


@pytest.mark.parametrize("router", [True, False])
def test_an_audit_does_not_wait_for_a_hung_router_or_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, router: bool
) -> None:
    waited: list[float] = []

    def silence(procedure: str, *args: Any, timeout: float = 10.0, **kwargs: Any) -> Any:
        if router and procedure == "wamp.session.count":
            return 1
        waited.append(timeout)
        raise OutcomeUnknownError("no answer")

    monkeypatch.setattr(utils, "call", silence)
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    done = CliRunner().invoke(main, ["audit"], env={"WAMP_SERVER": "127.0.0.1:7"})
    reason = "the recorder does not answer" if router else "no router answers at 127.0.0.1:7"
    assert reason in done.output
    assert "so no journal was asked" in done.output
    assert done.exit_code == 1
    assert sum(waited) <= 10


def test_an_audit_of_no_night_is_an_error(own: Net) -> None:
    assert "'tonite' is not a night such as 2026-11-22, tonight" in own.hcam_here(
        "audit", "tonite", code=1
    )
