"""An instrument on two hosts: each has a home, a key and a server of its own, and the file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hcam_devices.config.instrument import carried
from hcam_devices.wamp import utils
from hcam_devices.wamp.utils import InvalidArgumentError, call

from .tools import BIN, Net, Sample, until

RACKS = ("meerstetter1", "flow")
SITE = '[devices.{name}]\nserver = "hwserver-rack"'


class Hosts:
    """The host of the router and the views, and the host of the rack and the flow recorder."""

    def __init__(self, folder: Path) -> None:
        self.views, self.rack = (Net(folder / name) for name in ("views", "rack"))
        text = carried("hipercam").read_text()
        for name in RACKS:
            text = text.replace(f"[devices.{name}]", SITE.format(name=name))
        self.file = folder / "site.toml"
        self.file.write_text(f"{text}\n[servers.hwserver-rack]\nhost = '127.0.0.1'\n")
        for host in (self.views, self.rack):
            host.home.mkdir()
            host.port = self.views.port

    def start_router(self) -> None:
        self.views.start_router("--instrument", self.file)
        self.rack.bring_key("hwserver-rack", self.views)

    def start(self, host: Net, *arguments: str) -> Any:
        command = (BIN / "hwserver", "--emulate", "--instrument", self.file)
        return host.start(*command, *arguments, log="hwserver.out")

    def start_rack(self) -> Any:
        return self.start(self.rack, "--name", "hwserver-rack")

    def end(self) -> None:
        for host in (self.views, self.rack):
            host.end()


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    found = Hosts(tmp_path)
    monkeypatch.setenv("WAMP_SERVER", str(found.views.address))
    monkeypatch.setenv("HCAM_HOME", str(found.views.home))
    try:
        yield found
    finally:
        found.end()


def head_where(condition: Callable[[Sample], object]) -> Sample:
    """Wait until the newest sample of ccd1 meets a condition; return it."""

    def newest() -> Sample | None:
        try:
            sample: Sample | None = call("hipercam.ccd1.rpc.telemetry")
        except utils.NoSuchProcedureError:
            return None
        return sample if sample and condition(sample) else None

    found = until(newest)
    assert found
    return found


def test_a_view_shows_and_sets_the_devices_of_another_host(hosts: Hosts) -> None:
    hosts.start_router()
    hosts.start(hosts.views)
    before = head_where(lambda sample: sample["pressure"])
    assert before["temperature"] is None
    assert "no telemetry of meerstetter1 yet" in before["state_reason"]

    rack = hosts.start_rack()
    well = head_where(lambda sample: sample["state"]["health"] == "OK")
    assert well["temperature"]["unit"] == "deg_C"
    for name in RACKS:
        assert (hosts.rack.home / "locks" / f"{name}.lock").exists()
        assert not (hosts.views.home / "locks" / f"{name}.lock").exists()
    assert [*(hosts.rack.home / "journal").glob("hwserver-rack.*.sqlite")]

    assert call("hipercam.ccd1.rpc.set_setpoint", -85.0) == -85.0
    target = call("hipercam.meerstetter1.rpc.telemetry")["target_temperature1"]
    assert target == {"value": -85.0, "unit": "deg_C"}
    with pytest.raises(InvalidArgumentError, match="-200"):
        call("hipercam.ccd1.rpc.set_setpoint", -200.0)

    rack.kill()
    gone = head_where(lambda sample: sample["temperature"] is None)
    assert "meerstetter1 is offline: its server has ended" in gone["state_reason"]
    assert gone["pressure"]
    with pytest.raises(utils.OfflineError, match="is its server running"):
        call("hipercam.ccd1.rpc.set_setpoint", -80.0)

    hosts.start_rack()
    head_where(lambda sample: sample["temperature"])


def test_a_server_is_run_by_the_program_before_its_dash(hosts: Hosts) -> None:
    command = (BIN / "hserver", "--emulate", "--instrument", hosts.file, "--name", "hwserver-rack")
    said = hosts.rack.run(*command, code=1)
    assert "hserver cannot run the server hwserver-rack" in said


def test_a_host_that_nobody_has_is_told(hosts: Hosts) -> None:
    text = hosts.file.read_text()
    hosts.file.write_text(text.replace("'127.0.0.1'", "'nobody.invalid'"))
    said = hosts.rack.hcam_here("config", "check", "--instrument", str(hosts.file), code=1)
    assert "[servers.hwserver-rack] host: 'nobody.invalid' has no known address" in said
