"""The units that ``hcam systemd`` writes, as systemd itself judges them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hcam_devices import HcamError
from hcam_devices.config import units
from hcam_devices.config.instrument import Instrument, load
from hcam_devices.config.units import Installation, write

RATED = {"closed": 2.0, "with programs of others": 4.5}
"""The worst ratings that are accepted (systemd-analyze security; 10 is the worst of all)."""

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is missing: apt-get install systemd",
)


def instrument(folder: Path, text: str) -> Instrument:
    (folder / "ours.toml").write_text(text)
    return load(folder / "ours.toml")


ARMS = '[devices.arms]\nkind = "esp301.Arms"\npath = "/dev/arms"\n'
GAUGE = '[devices.gauge]\nkind = "pdr900.VacuumGauge"\nhost = "192.0.2.7"\nport = 10011\n'
GPS = '[devices.gps]\nkind = "gps.TimingCard"\nfolder = "/opt/tsync"\n'
RACK = '[devices.rack]\nkind = "rack.Rack"\nhost = "192.0.2.8"\nport = 12008\n'


def unit(instrument: Instrument, name: str, where: Installation | None = None) -> list[str]:
    texts = units.units(instrument, where or Installation())
    return texts[f"hcam-{name}.service"].splitlines()


@with_systemd
@pytest.mark.parametrize("name", ["hipercam", "wht"])
def test_systemd_accepts_every_unit_and_rates_it(tmp_path: Path, name: str) -> None:
    ours = load(Path(name))
    paths = write(ours, Installation(), tmp_path)
    wanted = {"hcam.target", *(f"hcam-{name}.service" for name in ["router", *ours.servers])}
    assert {path.name for path in paths} == wanted
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    about_ours = [line for line in done.stderr.splitlines() if "hcam" in line]
    assert not about_ours
    assert done.returncode == 0, done.stderr
    for path in paths:
        if path.suffix == ".service":
            loose = "ProtectSystem=full" in path.read_text()
            assert loose == (path.name in {"hcam-hwserver.service", "hcam-hserver.service"})
            limit = RATED["with programs of others" if loose else "closed"]
            rating = rated(path)
            assert rating <= limit, f"{path.name} is rated {rating}"


def rated(path: Path) -> float:
    """Return systemd's rating of a unit: how much of the machine a broken program could reach."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


@with_systemd
def test_systemd_refuses_a_unit_with_a_mistake(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    [path] = (p for p in write(load(), Installation(), tmp_path) if "hwlogger" in p.name)
    path.write_text(path.read_text().replace("ExecStart=", "ExecStart=/nosuch"))
    verify = ["systemd-analyze", "verify", "--man=no", str(path)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode != 0


def test_a_server_may_reach_the_hosts_of_its_devices_only(tmp_path: Path) -> None:
    ours = instrument(tmp_path, GAUGE)
    assert "IPAddressAllow=localhost 192.0.2.7" in unit(ours, "hwserver")
    assert "IPAddressAllow=localhost" in unit(ours, "hwlogger")
    assert "IPAddressAllow=localhost" in unit(ours, "router")
    stored = '[stores.off]\nkind = "influxdb"\nurl = "https://192.0.2.9"\ndatabase = "d"\n'
    both = instrument(tmp_path, GAUGE + stored)
    assert "IPAddressAllow=localhost 192.0.2.9" in unit(both, "hwlogger")
    legacy = '[legacy]\nenabled = true\nlisten = ["192.0.2.1"]\n'
    text = unit(instrument(tmp_path, GAUGE + legacy), "router")
    assert "# No limit, because [legacy] lets programs of other machines in at 192.0.2.1" in text
    assert "IPAddress" not in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GAUGE.replace("192.0.2.7", "gauge.example.org"), "systemd cannot resolve names"),
        (RACK, "any address for the telescope of rack"),
        (GPS, "It is unknown what the programs of gps need."),
    ],
)
def test_a_server_whose_addresses_are_not_known_may_reach_all(
    tmp_path: Path, text: str, why: str
) -> None:
    lines = unit(instrument(tmp_path, text), "hwserver")
    assert not [line for line in lines if line.startswith("IPAddress")]
    assert any(line.startswith("#") and why in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        '[notify.observer]\nurls = ["mailtos://user:word@example.org"]\n',
        '[notify]\nheartbeat = "https://watch.example.org/hipercam"\n',
    ],
)
def test_the_alarms_may_reach_whom_they_notify(tmp_path: Path, text: str) -> None:
    assert "IPAddressDeny=any" in unit(instrument(tmp_path, GAUGE), "hwalarm")
    lines = unit(instrument(tmp_path, GAUGE + text), "hwalarm")
    assert not [line for line in lines if line.startswith("IPAddress")]
    assert any("services in [notify]" in line for line in lines)


def test_only_a_server_with_serial_ports_gets_them(tmp_path: Path) -> None:
    with_ports = unit(instrument(tmp_path, ARMS), "hwserver")
    assert {"DevicePolicy=closed", "DeviceAllow=char-ttyUSB rw"} <= {*with_ports}
    assert "SupplementaryGroups=dialout" in with_ports
    assert "PrivateDevices=yes" not in with_ports
    without = unit(instrument(tmp_path, GAUGE), "hwserver")
    assert "PrivateDevices=yes" in without
    assert not [line for line in without if "Device" in line and "tty" in line]
    assert "SupplementaryGroups=dialout" not in without


def test_programs_of_others_are_confined_less(tmp_path: Path) -> None:
    """Nobody knows which devices, files and networks they use."""
    lines = {*unit(instrument(tmp_path, GPS + ARMS), "hwserver")}
    assert "SupplementaryGroups=dialout" in lines
    forbidding = ("Private", "Device", "SystemCallFilter", "RestrictAddress", "MemoryDeny")
    assert not [line for line in lines if line.startswith(forbidding)]
    assert {"NoNewPrivileges=yes", "CapabilityBoundingSet="} <= lines


def test_a_router_in_a_network_may_be_reached_from_there(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text("[router]\nlisten = '192.0.2.1'\ntls = true\n[devices]\n")
    assert not [line for line in unit(load(file), "router") if line.startswith("IPAddress")]
    assert "IPAddressAllow=localhost 192.0.2.1" in unit(load(file), "hwlogger")


def test_the_router_may_make_code_at_run_time() -> None:
    """With MemoryDenyWriteExecute Crossbar does not start."""
    assert "MemoryDenyWriteExecute=yes" not in unit(load(), "router")
    assert "MemoryDenyWriteExecute=yes" in unit(load(), "hwlogger")


def test_a_home_anywhere_may_be_written(tmp_path: Path) -> None:
    kept = f'{GAUGE}[stores.local]\nfolder = "/data/history"\n'
    ours = instrument(tmp_path, kept)
    default = unit(ours, "hwserver")
    assert "StateDirectory=hcam_devices" in default
    assert "Environment=HCAM_HOME=/var/lib/hcam_devices" in default
    elsewhere = unit(ours, "hwserver", Installation("obs", Path("/srv/hcam")))
    assert "ReadWritePaths=/srv/hcam" in elsewhere
    assert "User=obs" in elsewhere
    assert "ReadWritePaths=/data/history" in unit(ours, "hwlogger")
    assert "ReadWritePaths=/data/history" not in default


@pytest.mark.parametrize(
    ("homes", "protection"),
    [("/nowhere", "yes"), ("/var/lib", "read-only"), (units.__file__, "read-only")],
)
def test_homes_are_hidden_unless_something_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homes: str, protection: str
) -> None:
    ours = instrument(tmp_path, GAUGE)
    monkeypatch.setattr(units, "HOMES", (homes,))
    assert f"ProtectHome={protection}" in unit(ours, "hwserver")
    monkeypatch.setattr(units, "HOMES", (tmp_path,))
    assert "ProtectHome=read-only" in unit(ours, "hwlogger"), "the instrument file is there"


def test_paths_with_blanks_and_percent_signs_stay_whole(tmp_path: Path) -> None:
    folder = tmp_path / 'a "night" at 100% $HOME'
    folder.mkdir()
    ours = instrument(folder, f'title = "100%\\n[Service]"\n{GAUGE}')
    lines = unit(ours, "hwserver")
    assert "Description=100%% [Service]: hwserver" in lines
    [command] = (line for line in lines if line.startswith("ExecStart="))
    words = shlex.split(command.removeprefix("ExecStart="))
    assert words[-1].replace("%%", "%").replace("$$", "$") == str(folder / "ours.toml")


@pytest.mark.parametrize("user", ["", "a b", "hcam\nExecStart=/bin/sh", "../root", "Hcam%n"])
def test_what_is_no_user_is_refused(user: str) -> None:
    with pytest.raises(HcamError, match="is not the name of a user"):
        Installation(user)


def test_a_home_has_to_be_a_whole_path(tmp_path: Path) -> None:
    with pytest.raises(HcamError, match="must be an absolute path"):
        Installation(home=Path("state"))
    with pytest.raises(HcamError, match="that a unit cannot contain"):
        units.units(instrument(tmp_path, GAUGE), Installation(home=Path("/srv/a\nb")))


def test_a_server_that_is_no_program_is_told(tmp_path: Path) -> None:
    with pytest.raises(HcamError, match=r"there is no server '\.\./evil'"):
        instrument(tmp_path, GAUGE + 'server = "../evil"\n')


def test_a_further_server_is_named_to_its_program(tmp_path: Path) -> None:
    far = f'[servers.hwserver-far]\n{GAUGE}server = "hwserver-far"\n'
    ours = instrument(tmp_path, far)
    (command,) = (line for line in unit(ours, "hwserver-far") if line.startswith("ExecStart="))
    assert "/hwserver --name hwserver-far --instrument" in command
    found = units.units(ours, Installation(), ["hwlogger"])
    assert found.keys() == {"hcam.target", "hcam-hwlogger.service"}
    assert "hwserver-far" not in found["hcam.target"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HcamError, match="cannot be written into"):
        write(load(), Installation(), tmp_path / "file")
