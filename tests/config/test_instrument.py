"""Loading the instrument file; all mistakes in it are reported at once, with their lines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hcam_devices.config.instrument import InstrumentError, carried, load
from hcam_devices.config.router import router_of
from hcam_devices.core.device import settings_of
from hcam_devices.devices.pdr900 import VacuumGauge

HEADS = ["ccd1", "ccd2", "ccd3", "ccd4", "ccd5"]


def write(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def test_the_instrument_of_the_package_loads_and_every_device_can_be_built() -> None:
    instrument = load()
    assert {*HEADS, "meerstetter1", "meerstetter2", "pressure5", "flow", "slide", "rackpc"} <= (
        instrument.entries.keys()
    )
    for name, entry in instrument.entries.items():
        assert entry.build().name == name
        assert set(entry.sources) <= instrument.entries.keys()
    assert instrument.entries["slide"].names == ("slide", "FocalPlaneSlide")
    assert instrument.router.host == "127.0.0.1"


def test_loading_imports_no_library_of_a_driver() -> None:
    program = (
        "import sys; from hcam_devices.config.instrument import load; load();"
        "print({'asyncinotify', 'astropy', 'psutil', 'pymodbus'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_devices_are_chosen_by_server_and_by_pattern() -> None:
    instrument = load()
    assert [entry.name for entry in instrument.choose("hwserver", "ccd?")] == HEADS
    assert instrument.choose("hserver", "ccd?") == []
    assert [entry.name for entry in instrument.choose("gtcserver")] == ["gtc"]
    assert "gtc" not in [entry.name for entry in instrument.choose("hwserver")]


ONE_SERVER = """
import sys
from pathlib import Path
from hcam_devices.config.instrument import load
print(*load(Path(sys.argv[1]), "hserver").entries)
print(*sorted(name for name in sys.modules if name.startswith("hcam_devices.devices.")))
"""
TWO_SERVERS = """
[devices.head]
kind = "views.CCDHead"
server = "hserver"
gauge = "gauge"
rack = "rack"
channel = 1
recorder = "flow"
pen = 1
[devices.gauge]
kind = "pdr900.VacuumGauge"
port = 1
[devices.rack]
kind = "meerstetter.PeltierRack"
port = 2
[devices.flow]
kind = "minitrend.FlowRecorder"
port = 3
[devices.chiller]
kind = "chiller.CoolingCircuit"
port = 4
"""


def test_a_server_loads_its_own_devices_and_those_that_its_views_show(tmp_path: Path) -> None:
    path = write(tmp_path, TWO_SERVERS)
    done = subprocess.run(
        [sys.executable, "-c", ONE_SERVER, path], capture_output=True, text=True, check=True
    )
    entries, modules = done.stdout.splitlines()
    assert sorted(entries.split()) == ["flow", "gauge", "head", "rack"]
    assert "hcam_devices.devices.pdr900" in modules
    assert "hcam_devices.devices.chiller" not in modules
    shown = load(path, "hserver").sources_elsewhere("hserver")
    assert sorted(entry.name for entry in shown) == ["flow", "gauge", "rack"]


def test_a_mistake_in_a_device_of_another_server_does_not_stop_a_server(tmp_path: Path) -> None:
    path = write(tmp_path, TWO_SERVERS + "colour = 1\n")
    assert "head" in load(path, "hserver").entries
    for server in ("", "hwserver"):
        with pytest.raises(InstrumentError, match="colour is not a setting here"):
            load(path, server)
    shown = write(tmp_path, TWO_SERVERS.replace("port = 2", "port = 0"))
    with pytest.raises(InstrumentError, match="port: Input should be greater"):
        load(shown, "hserver")  # its view shows the rack
    twice = write(tmp_path, TWO_SERVERS + 'aliases = ["gauge"]\n')
    with pytest.raises(InstrumentError, match="'gauge' is already a name of gauge"):
        load(twice, "hserver")


def test_no_setting_of_a_device_has_the_name_of_one_that_every_table_has() -> None:
    for name in ("hipercam", "wht"):
        for entry in load(carried(name)).entries.values():
            own = settings_of(entry.cls).keys() | settings_of(entry.cls.link_type).keys()
            assert not own & {"kind", "server", "aliases"}, entry.cls
            assert "trace" not in own, entry.cls


def test_the_name_of_the_telescope_in_its_name_service_can_be_set(tmp_path: Path) -> None:
    text = '[devices.gtc]\nkind = "gtc.Telescope"\nserver = "gtcserver"\nobject_name = "Another"\n'
    entry = load(write(tmp_path, text)).entries["gtc"]
    assert entry.server == "gtcserver"
    assert str(entry.build().link) == "Another of 127.0.0.1:12008"
    with pytest.raises(InstrumentError, match=r"not a setting here; there are .*object_name"):
        load(write(tmp_path, text.replace("object_name", "name")))


def test_settings_reach_the_device_and_its_link(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [router]
        host = "192.0.2.1"
        port = 8081
        [servers.hwserver-vacuum]
        host = "192.0.2.2"
        [devices.gauge]
        kind = "pdr900.VacuumGauge"
        server = "hwserver-vacuum"
        aliases = ["Gauge"]
        host = "192.0.2.10"
        port = 10001
        timeout = 3
        poll_every = 0.5
        address = 7
        """,
    )
    instrument = load(path)
    entry = instrument.entries["gauge"]
    gauge = entry.build()
    assert isinstance(gauge, VacuumGauge)
    assert (gauge.address, gauge.poll_every, gauge.link.timeout) == (7, 0.5, 3.0)
    assert str(gauge.link) == "192.0.2.10:10001"
    assert str(entry.build(host="127.0.0.1", port=5).link) == "127.0.0.1:5"
    assert (entry.server, entry.names) == ("hwserver-vacuum", ("gauge", "Gauge"))
    assert (instrument.router.host, instrument.router.port) == ("192.0.2.1", 8081)
    assert instrument.host_of("hwserver-vacuum") == "192.0.2.2"
    assert instrument.host_of("hwlogger") == "192.0.2.1"


@pytest.mark.parametrize(
    ("table", "host", "certified"),
    [
        ("", "127.0.0.1", {"127.0.0.1"}),
        ("host = 'router'", "router", {"router", "127.0.0.1"}),
        ("listen = '192.0.2.1'\ntls = true", "192.0.2.1", {"192.0.2.1"}),
        (
            "listen = '192.0.2.1'\ntls = true\nhost = 'router'\nnames = ['router.example']",
            "router",
            {"192.0.2.1", "router", "router.example"},
        ),
        ("listen = '0.0.0.0'\ntls = true\nhost = 'router'", "router", {"router"}),
    ],
)
def test_where_the_router_is(tmp_path: Path, table: str, host: str, certified: set[str]) -> None:
    path = write(tmp_path, f"[router]\nport = 8443\n{table}\n[devices]")
    router = load(path).router
    assert (router.host, router.certified) == (host, certified)
    assert router_of(path) == (host, 8443)


GAUGE = 'kind = "pdr900.VacuumGauge"'
OFFSITE = "[stores.o]\nkind = 'influxdb'\nurl = 'http://192.0.2.20:8086'\n"
ONE = f"[devices.a]\n{GAUGE}\nport = 1\n"
ADA = "[devices]\n[notify.ada]\nurls = ['json://x']\n"
MISTAKES = [
    ('[devices.a]\nkind = "pdr900.Gauge"', 2, "no kind of device 'pdr900.Gauge'"),
    ('[devices.a]\nkind = "pdr901.VacuumGauge"', 2, "no kind of device"),
    ('[devices.a]\nkind = "VacuumGauge"', 2, "no kind of device"),
    ('[devices.a]\nkind = "pdr900.Device"', 2, "no kind of device"),
    ('[devices.a]\nkind = "pdr900.Simulator"', 2, "no kind of device"),
    ('[devices.a]\nkind = "zaber.LinearStage"', 2, "no kind of device"),
    ('[devices.a]\nkind = "..os.path"', 2, "no kind of device"),
    ("[devices.a]\nkind = 5", 2, "kind: .*not 5"),
    ("[devices.a]\nport = 5", 1, "kind is missing"),
    (f"[devices.a]\n{GAUGE}", 1, "port is missing"),
    (f"[devices.a]\n{GAUGE}\nport = 1\nprot = 2", 4, "prot is not a setting here; there are addr"),
    (f'[devices.a]\n{GAUGE}\nport = "1"', 3, "port: .*not '1'"),
    (f"[devices.a]\n{GAUGE}\nport = true", 3, "port: .*not True"),
    (f"[devices.a]\n{GAUGE}\nport = 1.5", 3, "port: .*not 1.5"),
    (f"[devices.a]\n{GAUGE}\nport = 65536", 3, "port: .*65535, not 65536"),
    (f"[devices.a]\n{GAUGE}\nport = 0", 3, "port: .*not 0"),
    (f"[devices.a]\n{GAUGE}\nport = 1\ntimeout = nan", 4, "timeout: .*not nan"),
    (f"[devices.a]\n{GAUGE}\nport = 1\ntimeout = inf", 4, "timeout: .*not inf"),
    (f"[devices.a]\n{GAUGE}\nport = 1\npoll_every = 0", 4, "poll_every: .*not 0"),
    (f"[devices.a]\n{GAUGE}\nport = 1\npoll_every = -1.0", 4, "poll_every: .*not -1.0"),
    ('[devices.a]\nkind = "gps.TimingCard"\npoll_every = -1.0', 3, "poll_every: .*not -1.0"),
    (f"[devices.a]\n{GAUGE}\nport = 1\naddress = 1000", 4, "address: .*not 1000"),
    (f'[devices.a]\n{GAUGE}\nport = 1\naliases = "A"', 4, "aliases: .*not 'A'"),
    (f'[devices.a]\n{GAUGE}\nport = 1\naliases = ["A.b"]', 4, "'A.b' is not a name"),
    (f'[devices.a]\n{GAUGE}\nport = 1\naliases = ["a"]', 4, "'a' is already a name of a"),
    (f"[devices.Slide]\n{GAUGE}\nport = 1", 1, "'Slide' is not a device name"),
    (f'[devices."a.b"]\n{GAUGE}\nport = 1', 1, "'a.b' is not a device name"),
    ("[devices]\na = 5", 2, "a: .*not 5"),
    ("devices = 5", 1, "devices: .*not 5"),
    ("[devices]\n[stores.local]\nkind = 'embedded'\nkeep_days = 0", 4, "keep_days: .*not 0"),
    ("[router]\nport = 8080", 1, "devices is missing"),
    ("[router]\nport = 0\n[devices]", 2, "port: .*not 0"),
    (
        "[devices]\n[rooter]",
        2,
        "rooter is not a setting here; there are alarms, devices, interlocks, legacy",
    ),
    ("[devices]\n[alarms.pressure]", 2, "'pressure' is no alarm: write a device or a glob, a dot"),
    (f"{ONE}[alarms.'b.pressure']", 4, "'b.pressure' is no alarm"),
    (f"{ONE}[alarms.'a.presure']", 4, "a has no alarm presure; did you mean pressure"),
    (f"{ONE}[alarms.'*.pressure']\ndelay = -1", 5, "delay: .*not -1"),
    (f"{ONE}[alarms.'*.pressure']\nhealthy = [1, 0]", 5, "it has to be .low, high."),
    (f"{ONE}[alarms.'*.pressure']\nhealthy = [1]", 5, "healthy: "),
    (f"{ONE}[alarms.'*.pressure']\ndeadband = 0.6", 5, "deadband: .*not 0.6"),
    (f"{ONE}[alarms.'*.pressure']\nlatch = 1", 5, "latch: .*not 1"),
    (f"{ONE}[alarms.'*.pressure']\nremind = 5", 5, "remind: .*not 5"),
    (f"{ONE}[alarms.'*.pressure']\nadvise = 'x'", 5, "advise is not a setting here"),
    ("[devices]\n[legacy]\nlisten = ['x']", 3, "'x' is not an IPv4 address of this machine"),
    ("[devices]\n[legacy]\nlisten = ['0.0.0.0']", 3, "name each address of this machine"),
    ("[devices]\n[legacy]\nlisten = ['127.0.0.1']", 3, "on this machine itself they always may"),
    ("[router]\nlisten = 'rackpc'\n[devices]", 2, "listen: it has to be an IPv4 address"),
    ("[router]\nlisten = '::1'\n[devices]", 2, "listen: .* no TLS over IPv6.*not '::1'"),
    ("[router]\nlisten = '192.0.2.1'\n[devices]", 1, "tls: it has to be true with listen = 192"),
    ("[router]\nlisten = '0.0.0.0'\n[devices]", 1, "tls: it has to be true with listen = 0.0"),
    ("[router]\nlisten = '192.0.2.1'\ntls = false\n[devices]", 3, "tls: it has to be true"),
    ("[router]\nlisten = '0.0.0.0'\ntls = true\n[devices]", 1, "host: .*where programs find"),
    (
        "[router]\nlisten = '192.0.2.1'\ntls = true\nhost = '127.0.0.1'\n[devices]",
        4,
        "host: the router listens on 192.0.2.1, not there",
    ),
    ("[router]\ntls = true\nhost = '::1'\n[devices]", 3, "host: .*no TLS over IPv6"),
    ("[router]\nnames = ['a b']\n[devices]", 2, "should match pattern"),
    ("[devices.a]\nkind = ", 2, "Invalid value"),
    ("[devices.a]\nx = 1\nx = 2", 3, "Cannot overwrite"),
    ('[devices.a]\nkind = "', 2, "Unterminated|Illegal"),
    ("[devices]\n[stores]", 2, r"\[stores\] is empty, so nothing would be recorded"),
    ("[devices]\n[stores.a]\n[stores.b]", 3, "folder: 'history' is already used by a"),
    ("[devices]\n[stores.a]\n[stores.b]\nfolder = 'x/../history'", 4, "already used by a"),
    ("[devices]\n[stores.a]\nkeep_days = 0", 3, r"\[stores.a\] keep_days: .*not 0"),
    ("[devices]\n[stores.A]", 2, "'A' is not a store name"),
    ("[devices]\n[stores.a]\nkind = 'sqlite'", 3, "no kind of store 'sqlite'; there are embedded,"),
    ("[devices]\n[stores.a]\nkind = 'folder'\nfolder = 'x'", 4, "must be an absolute path"),
    (
        "[devices]\n[stores.a]\nkind = 'folder'\nfolder = '/x'",
        4,
        "copies of a store of kind embedded",
    ),
    ("[devices]\n[stores.a]\nkind = 5", 3, "no kind of store 5; there are embedded, influxdb"),
    (
        "[devices]\n[stores.a]\nbucket = 'b'",
        3,
        "not a setting here; there are folder, keep_days, kind",
    ),
    (f"[devices]\n{OFFSITE}bukket = 'b'", 5, "not a setting here; there are api, bucket,"),
    (f"[devices]\n{OFFSITE}", 2, r"\[stores.o\] give either database, or organization .*"),
    (f"[devices]\n{OFFSITE}database = 'b'\nuser = 'u'\nsecret_file = '/s'", 4, "begin with https"),
    (
        f"[devices]\n{OFFSITE.replace('http:', 'HTTP:')}database = 'b'\nuser = 'u'\n"
        "secret_file = '/s'",
        4,
        "begin with https",
    ),
    (f"[devices]\n{OFFSITE}secret_variable = 48151623", 5, "valid string$"),
    ("stores = 5\n[devices]", 1, "stores: .*dictionary"),
    ("notify = 5\n[devices]", 1, "notify: .*dictionary$"),
    ("[devices]\n[notify]\nobserver = 'mailto://x'", 3, r"has to be a table, \[notify.observer\]"),
    ("[devices]\n[notify]\nheartbeet = 'http://x'", 3, "a table.*did you mean heartbeat"),
    ("[devices]\n[notify.'Ada L']", 2, "'Ada L' is not a name"),
    ("[devices]\n[notify.ada]", 2, "urls is missing"),
    ("[devices]\n[notify.ada]\nurl = ['json://x']\nurls = ['json://x']", 3, "did you mean urls"),
    ("[devices]\n[notify.ada]\nurls = []", 3, "urls: it has to be a list of 1 to 20 URLs"),
    ("[devices]\n[notify.ada]\nurls = 'json://x'", 3, "urls: it has to be a list of 1 to 20"),
    (f"[devices]\n[notify.ada]\nurls = {['json://x'] * 21}", 3, "it has to be a list of 1 to 20"),
    ("[devices]\n[notify.ada]\nurls = ['json://x', 5]", 3, "number 2 of 2 has to be a URL of app"),
    ("[devices]\n[notify.ada]\nurls = ['ada@x.org']", 3, "begins with the service, such as"),
    ("[devices]\n[notify.ada]\nurls = ['json://']", 3, "number 1 of 1 has to be a URL"),
    ("[devices]\n[notify.ada]\nurls = ['json://a b']", 3, "a URL of apprise without blanks"),
    ("[devices]\n[notify.ada]\nurls = ['json://x', 'json://x']", 3, "number 2 of 2 is there twice"),
    (f"{ADA}after = -1", 4, r"\[notify.ada\] after: .*greater than or equal to 0, not -1"),
    (f"{ADA}after = nan", 4, "after: .*not nan"),
    (f"{ADA}after = 86401", 4, "after: .*less than or equal to 86400, not 86401"),
    (f"{ADA}after = '3 min'", 4, "after: .*not '3 min'"),
    (f"{ADA}after = true", 4, "after: .*not True"),
    ("[devices]\n[notify]\nheartbeat = 5", 3, "heartbeat: it has to be a URL of http or https"),
    ("[devices]\n[notify]\nheartbeat = 'ftp://x'", 3, "heartbeat: it has to be a URL of http or"),
    ("[devices]\n[notify]\nheartbeat = 'https://'", 3, "heartbeat: .* with a host"),
    ("[devices]\n[notify]\nheartbeat = 'https://a:b@x/'", 3, "without user and password"),
    ("[devices]\n[notify.heartbeat]\nurls = ['json://x']", 2, "heartbeat: it has to be a URL"),
]


@pytest.mark.parametrize(("text", "line", "why"), MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InstrumentError) as error:
        load(path)
    (mistake,) = str(error.value).splitlines()
    assert re.fullmatch(f"{re.escape(str(path))}:{line}: .*({why}).*", mistake), mistake


@pytest.mark.parametrize(
    "mistake",
    [
        'url = "http://hw:hunter2@127.0.0.1:8086"',
        'url = "http://hw:hunter2/3@127.0.0.1:8086"',
        'url = "http://hw:hunter2"',
        'secret_file = "hunter2"',
        'secret_variable = ["hunter2"]',
        'password = "hunter2"',
        'user = "hw"\nbucket = "hunter2"',
        'password = "hunter2"\nkind = "influx"',
    ],
)
def test_what_may_be_a_secret_is_not_shown(tmp_path: Path, mistake: str) -> None:
    kind = "" if "kind" in mistake else 'kind = "influxdb"\n'
    url = "" if mistake.startswith("url") else 'url = "http://127.0.0.1"\n'
    store = f'[stores.offsite]\n{kind}{url}{mistake}\ndatabase = "h"\n'
    with pytest.raises(InstrumentError, match=r"\[stores.offsite\]") as error:
        load(write(tmp_path, f"[devices]\n{store}"))
    assert "hunter" not in str(error.value)


def test_every_mistake_is_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """[devices.one]          # line 1
kind = "pdr900.Nothing"
[devices.two]
kind = "pdr900.VacuumGauge"
port = "x"
timeout = 0
[devices.three]
kind = "pdr900.VacuumGauge"
port = 1
aliases = ["four"]
[devices.four]
kind = "pdr900.VacuumGauge"
server = "elsewhere"
port = 1
[devices.head]
kind = "views.CCDHead"
gauge = "nowhere"
rack = "four"
channel = 4
recorder = "flow"
pen = 1
[devices.other]
kind = "views.CCDHead"
gauge = "nowhere"
rack = "four"
channel = 3
recorder = "three"
pen = 1
""",
    )
    with pytest.raises(InstrumentError) as error:
        load(path)
    found = [re.sub(r"^.*site\.toml:", "", line)[:60] for line in str(error.value).splitlines()]
    starts = [
        "2: [devices.one] there is no kind",
        "5: [devices.two] port",
        "6: [devices.two] timeout",
        "11: [devices.four] 'four' is already a name of three",
        "13: [devices.four] server: there is no server 'elsewhere'",
        "19: [devices.head] channel",
        "22: [devices.other] there is no device 'nowhere'",
    ]
    assert [one[: len(start)] for one, start in zip(found, starts, strict=True)] == starts


GAUGE = """
[devices.gauge]
kind = "pdr900.VacuumGauge"
server = "{server}"
port = 1
"""


@pytest.mark.parametrize(
    ("server", "tables", "mistake"),
    [
        ("hwserver", "", ""),
        ("hwserver", "[servers.hwserver]", ""),
        ("hwserver", "[servers.hwlogger]\nhost = 'fd00::2'", ""),
        ("hwserver-dome", "[servers.hwserver-dome]\nhost = 'dome.example'", ""),
        ("hwserver-dome", "", r":4: .*add the table \[servers.hwserver-dome\]"),
        (
            "hwserver-dmoe",
            "[servers.hwserver-dome]",
            r"did you mean hwserver-dome.*\n.* \[servers.hwserver-dome\] no device has server = ",
        ),
        ("hwsrever", "", ":4: .*there is no server 'hwsrever'; .*did you mean hwserver"),
        ("hwlogger", "", ":4: .*there is no server 'hwlogger'"),
        ("hwserver", "[servers.hwlogger-2]", ":7: .*there is no server 'hwlogger-2'"),
        ("hwserver", "[servers.hwsrever]", ":7: .*there is no server 'hwsrever'; .*did you mean"),
        ("hwserver", "[servers.gtcserver]", ':7: .*no device has server = "gtcserver"'),
        ("hwserver", "[servers.hwserver]\n[servers.hwserver]", ":8: Cannot declare .* twice"),
        ("hwserver", "[servers.hwserver]\nhost = 'a b'", r":8: \[servers.hwserver\] host: .*'a b'"),
        ("hwserver", "[servers.hwserver]\nhosts = 'a'", ":8: .*did you mean host"),
        ("hwserver", "[servers]\nhwserver = 'a'", ":8: "),
    ],
)
def test_mistakes_in_servers_are_named(
    tmp_path: Path, server: str, tables: str, mistake: str
) -> None:
    file = write(tmp_path, f"{GAUGE.format(server=server)}\n{tables}\n")
    if mistake:
        with pytest.raises(InstrumentError, match=mistake):
            load(file)
    else:
        assert load(file).servers == sorted({server, "hwalarm", "hwlogger"})


def test_the_sources_of_a_view_may_be_in_other_servers(tmp_path: Path) -> None:
    text = load().path.read_text()
    for name in ("meerstetter1", "flow"):
        text = text.replace(f"[devices.{name}]", f'[devices.{name}]\nserver = "hwserver-rack"')
    instrument = load(write(tmp_path, f"{text}\n[servers.hwserver-rack]\n"))
    found = [entry.name for entry in instrument.sources_elsewhere("hwserver")]
    assert sorted(found) == ["flow", "meerstetter1"]
    assert instrument.sources_elsewhere("hwserver-rack") == []
    assert load().sources_elsewhere("hwserver") == []


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "site.toml"
    if kind == "a folder":
        path.mkdir()
    with pytest.raises(InstrumentError, match=r"site.toml: cannot be read"):
        load(path)


@pytest.mark.parametrize(
    ("line", "title"), [("", "ours"), ('title = "HiPERCAM on the NTT"\n', "HiPERCAM on the NTT")]
)
def test_an_instrument_has_a_title(tmp_path: Path, line: str, title: str) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(f'{line}[devices.rackpc]\nkind = "rackpc.RackPC"\n', encoding="utf-8")
    assert load(file).title == title


def test_every_declared_field_has_its_name_in_history() -> None:
    fields = load().recorded_fields()
    name, field = fields["slide.target_position"]
    assert (name, field.name) == ("slide.position.target", "target_position")
    assert fields["pressure1.pressure"][1].scale == "log"
    for same in ("slide.position", "meerstetter1.target_temperature1", "ngc.exposure.time"):
        assert fields[same][0] == same


@pytest.mark.parametrize(
    "mistake",
    [
        "[notify]\nobserver = 'json://hunter2'",
        "[notify.ada]\nurls = 'json://hunter2'",
        "[notify.ada]\nurls = ['hunter2']",
        "[notify.ada]\nurls = ['json://hunter2', 'json://hunter2']",
        "[notify.ada]\nurls = ['json://x']\npassword = 'hunter2'",
        "[notify]\nheartbeat = 'https://hunter2:x@host/'",
    ],
)
def test_mistakes_in_notify_show_no_url(tmp_path: Path, mistake: str) -> None:
    with pytest.raises(InstrumentError, match=r"\[notify") as error:
        load(write(tmp_path, f"[devices]\n{mistake}"))
    assert "hunter2" not in str(error.value)
