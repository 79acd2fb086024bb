"""The command lines of the servers."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from hcam_devices.cli import servers
from hcam_devices.config.instrument import Instrument
from hcam_devices.wamp import server


@pytest.mark.parametrize(
    ("command", "arguments", "emulated", "data"),
    [
        (servers.hwserver, [], False, None),
        (servers.hwserver, ["-e"], True, None),
        (servers.hserver, ["-e"], True, None),
        (servers.gtcserver, [], False, None),
        (servers.gtcserver, ["/insroot/U/SYSTEM/DETDATA/"], False, "/insroot/U/SYSTEM/DETDATA/"),
        (servers.gtcserver, ["-e", "/insroot/U/"], True, "/insroot/U/"),
    ],
)
def test_the_command_lines_of_version_1_7_are_understood(
    monkeypatch: pytest.MonkeyPatch,
    command: click.Command,
    arguments: list[str],
    emulated: bool,
    data: str | None,
) -> None:
    served: list[tuple[str, Instrument, bool]] = []

    def serve(name: str, instrument: Instrument, *_: Any, emulate: bool, **__: Any) -> None:
        served.append((name, instrument, emulate))

    monkeypatch.setattr(server, "serve", serve)
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [(name, instrument, emulate)] = served
    assert (name, emulate) == (command.name, emulated)
    entry = instrument.entries.get("gtc")  # only gtcserver reads its settings
    assert (entry.settings.get("data") if entry else None) == data
