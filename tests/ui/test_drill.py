"""A rehearsal without a network: what it waits for, and how it ends after an error."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from click.testing import CliRunner

from hcam_devices import HcamError
from hcam_devices.cli.main import main
from hcam_devices.config.instrument import load
from hcam_devices.core.condition import Condition
from hcam_devices.ui import drill
from hcam_devices.ui.bench import Bench
from hcam_devices.ui.drill.half import Row, together
from hcam_devices.ui.drill.interlocks import Interlocks


def read(bench: Bench, condition: Condition, value: float) -> None:
    """Let the device of a condition read a value."""
    said: dict[str, Any] = {"value": value, "unit": condition.unit}
    for key in reversed(condition.path):
        said = {key: said}
    bench.samples[condition.device] = said
    bench._news.set()


async def test_a_trip_is_driven_when_its_actuator_works_again() -> None:
    async def obey(_: str, *args: Any, **controls: Any) -> dict[str, Any]:
        if args == ("clear",):  # the interlock is not blind any more; the next poll comes later
            asyncio.get_running_loop().call_later(0.01, read, bench, current, 8.0)
        if controls == {"pump": False}:
            raise HcamError("the pump is stopped")
        return {"values": {"pump": True}}

    bench = Bench(load(), AsyncMock(call=obey))
    blind = {"field": "coolant", "severity": "ERR", "reason": "the interlock is blind"}
    bench.samples["ccd3"] = {"state": {"coolant": "armed"}, "alarms": [blind]}
    (lock,) = [one for one in bench.instrument.entries["ccd3"].interlocks if one.name == "coolant"]
    flow, current = lock.when
    read(bench, flow, 1.0)
    read(bench, current, 8.0)
    rows: list[Row] = []
    interlocks = Interlocks(bench, "ccd3.coolant", rows, lambda _: None, grace=60.0)
    await interlocks.look_at_rest()
    read(bench, current, 0.0)  # another interlock has switched it off, and was reset
    with pytest.raises(HcamError, match="the pump is stopped"):
        await interlocks.run()
    assert [(row.name, row.right) for row in rows] == [("ccd3.coolant", True)]


async def test_an_error_ends_the_others_when_they_have_set_everything_back() -> None:
    done: list[str] = []

    async def drives() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            done.append("set back")

    async def fails() -> None:
        raise HcamError("no answer")

    with pytest.raises(HcamError, match="no answer"):
        await together(drives(), fails())
    assert done == ["set back"]


def test_a_drill_that_is_stopped_reports_what_was_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rehearse(*args: Any, **_: Any) -> None:
        rows: list[Row] = args[3]
        rows.append(Row("ccd1.flow"))
        raise HcamError("the drill was stopped: hwserver is away")

    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setattr(drill, "rehearse", rehearse)
    result = CliRunner().invoke(main, ["drill"])
    assert result.exit_code == 1
    assert "1 row, 0 wrong, 0 that cannot be driven; the drill was stopped" in result.stdout
    assert "hwserver is away" in result.stderr
    [report] = (tmp_path / "drills").iterdir()
    assert report.read_text() in result.stdout
