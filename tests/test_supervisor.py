"""What ``hcam up`` tells of the programs that it keeps running."""

from pathlib import Path

import pytest

from hcam_devices.supervisor import TOLD_FOR, Child, trouble

from .helpers import Clock


def test_a_restart_is_told_with_its_time_and_for_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    clock = Clock(1_800_000_000.0)
    child, other = (Child(name, [], {}, clock) for name in ("hwlogger", "hserver"))
    child.log.parent.mkdir()
    child.log.write_text("once\nout of memory\n")
    assert not trouble([child, other])
    child.note_end(-9)
    clock.now += TOLD_FOR - 1
    told = f"08:00:00 UTC hwlogger ended (-9); restart 1; {child.log} ends: out of memory"
    assert trouble([child, other]) == told
    clock.now += 1
    assert not trouble([child, other])
