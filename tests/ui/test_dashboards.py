"""The dashboards: their files, and each of their queries against a real InfluxDB."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import timeseries, units
from grafana_foundation_sdk.models.dashboard import Dashboard

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import Entry, Instrument, load
from hcam_devices.config.stores import Embedded, InfluxDB
from hcam_devices.core import sim
from hcam_devices.core.device import Device, Sample, iso_from_s
from hcam_devices.core.fields import Labels, Readback, Setpoint, Value
from hcam_devices.core.link import Lasting
from hcam_devices.core.part import Alarm
from hcam_devices.history.figures import with_stores
from hcam_devices.history.journals import Journals
from hcam_devices.history.recorder import Recorder
from hcam_devices.history.replicator import Replicator
from hcam_devices.history.stores.line_protocol import LineStore
from hcam_devices.host.installation import install_extra
from hcam_devices.journal.points import flatten
from hcam_devices.journal.records import record_of
from hcam_devices.ui import dashboards
from hcam_devices.ui.alert_rules import alert_rules

from ..helpers import FAST, Clock, complete, living, online, sample_where
from ..history.stores.databases import InfluxDB as Database
from ..history.stores.databases import influxdb


class Invented(Device):
    """A device that answers from memory."""

    link_type = Lasting
    remembered: dict[str, Value]

    async def read(self, field: Readback) -> Value:
        return field.kind(self.remembered[field.name])


class Controller(Invented):
    """What a detector controller may declare."""

    mode = Readback(kind=Labels({0: "standby", 1: "idle"}))
    frames = Readback(kind=int, doc="Frames read out.")
    exposing = Readback(kind=bool)
    last_file = Readback(kind=str)
    noise = Readback(unit="electron", healthy=(0, 5))


class Telescope(Invented):
    """What a telescope may declare."""

    humidity = Readback(unit="%", healthy=(0, 80))
    dewpoint = Readback(unit="deg_C", doc="Of the air.")
    focus = Readback(unit="mm", healthy=(-10, 10))
    target_focus = Setpoint(unit="mm", limits=(-10, 10), doc="Where it goes.")


DETECTOR = {"mode": 1, "frames": 12, "exposing": True, "last_file": "run0012", "noise": 3.5}
GTC = {"humidity": 40.0, "dewpoint": 3.0, "focus": 1.5, "target_focus": 1.0}


def instrument_with(stores: Any, *extra: Entry) -> Instrument:
    instrument = load()
    entries = instrument.entries | {one.name: one for one in extra}
    return replace(instrument, entries=entries, stores=stores)


def store(**settings: Any) -> InfluxDB:
    return InfluxDB(
        **({"kind": "influxdb", "url": "http://127.0.0.1:8086", "database": "hipercam"} | settings)
    )


WHT = load(Path("wht"))
EXTENDED = instrument_with(
    {"local": Embedded(), "offsite": store()},
    replace(WHT.entries["chiller"], name="water"),
    Entry("ngc", Controller, "hserver", (), {"remembered": DETECTOR}),
    Entry("gtc", Telescope, "gtcserver", (), {"remembered": GTC}),
    replace(load().entries["gtc"], name="telescope"),
)
DEFAULT = instrument_with({"offsite": store()})


def written(folder: Path, instrument: Instrument = EXTENDED) -> dict[str, Any]:
    """Return the dashboards of an instrument, by title, as Grafana reads them."""
    titles = dashboards.write(folder, instrument, "offsite")
    files = [file.read_text() for file in (folder / "dashboards" / "hcam").glob("*.json")]
    found = {one["title"]: one for one in map(json.loads, files)}
    assert found.keys() == set(titles)
    return {title: found[title] for title in titles}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return written(tmp_path_factory.mktemp("grafana"))


def panels(boards: dict[str, Any], kind: str = "") -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{title}: {panel['title']}", panel)
        for title, board in boards.items()
        for panel in board["panels"]
        if kind in ("", panel["type"])
    ]


# --- a history to look at -------------------------------------------------------------------


async def lived(recorder: Device) -> list[Sample]:
    """Return what every device says before it is connected, and when all is known."""
    clock = Clock()
    devices: dict[str, Device] = {}
    async with AsyncExitStack() as stack:
        for name, entry in EXTENDED.entries.items():
            place: dict[str, Any] = {}
            if entry.cls.simulator:
                quick = {"clock": clock} if name == "compo_arms" else {}
                simulator = entry.cls.simulator(**quick)
                if name == "water":
                    simulator.external = 6.0  # a sensor that not every chiller has
                place = await stack.enter_async_context(sim.serve(simulator))
            devices[name] = entry.build(**(FAST | place))
        devices["recorder"] = recorder
        said = [device.snapshot() for device in devices.values()]
        for device in devices.values():
            device.attach(devices)
        await stack.enter_async_context(living(*devices.values()))
        arms = devices["compo_arms"]
        await sample_where(arms, online)
        for arm in ("pickoff", "injection"):
            await arms.procedures()[f"{arm}.home"].call()
        clock.now += 100
        for name, setpoint in (("slide", "target_position"), ("compo_lens", "target_position")):
            await sample_where(devices[name], online)
            await devices[name].set(setpoint, 1)
        said += [await sample_where(device, known) for device in devices.values()]
    return said


def counted() -> Sample:
    """Return a sample of the alarms, in which one was raised."""
    head = {"device": "alarms", "timestamp": iso_from_s(time.time()), "alarms": []}
    state = {"connection": "online"}
    return head | {"state": state, "errors": 1, "changes": "ERR ccd1.flow raised: 0.1 l / min"}


def known(sample: Sample) -> bool:
    pairs = [value for value in sample.values() if isinstance(value, dict) and "target" in value]
    return complete(sample) and all(pair["target"] for pair in pairs)


class History(NamedTuple):
    """An InfluxDB with what every device said, and when the last did."""

    database: Database
    end: float

    def rows(self, panel: dict[str, Any], text: str, device: str, span: float = 3600) -> list[Any]:
        """Return what a query of a panel answers, asked as Grafana asks it."""
        step = max(seconds(panel), round(span / 1000))
        start, end = (f"{round(1000 * at)}ms" for at in (self.end - span, self.end))
        text = text.replace("$device", device)
        text = text.replace("$timeFilter", f"time >= {start} and time <= {end}")
        text = text.replace("$__interval", f"{step}s")
        assert "$" not in text
        return [row for rows in self.database.query(text, epoch="ms").values() for row in rows]

    def empty(self, panel: dict[str, Any], text: str, device: str = "", span: float = 3600) -> Any:
        """Return the columns that a query selects and finds nothing in."""
        wanted = set(re.findall(r'AS "([^"]+)"', text))
        assert wanted
        rows = self.rows(panel, text, device, span)
        return wanted - {name for row in rows for name, value in row.items() if value is not None}


def seconds(panel: dict[str, Any]) -> int:
    """Return the least time that a pixel of a panel stands for."""
    number, unit = panel["interval"][:-1], panel["interval"][-1]
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Record what every device says, with the store that does so at a site."""
    folder = tmp_path_factory.mktemp("history")
    with influxdb(folder) as database:
        settings = store(url=database.url)
        stores = [LineStore(name, settings, folder) for name in EXTENDED.stores]
        replicators = [Replicator(one, Journals({})) for one in stores]
        parts: dict[str, Any] = {
            "replicators": replicators,
            "folder": folder,
            "stores": EXTENDED.stores,
        }
        parts |= {"journals": Journals({})} | FAST
        recorder = with_stores(Recorder, EXTENDED.stores)("recorder", **parts)
        samples = [*asyncio.run(lived(recorder)), counted()]
        points = [record_of(one | {"epoch": "e", "seq": n}) for n, one in enumerate(samples, 1)]
        stores[0].write(stores[0].rows(points))
        for replicator in replicators:
            replicator.close()
        yield History(database, time.time() + 1)


def devices_of(board: dict[str, Any]) -> list[str]:
    (variable,) = board["templating"]["list"]
    return list(variable["query"].split(","))


@pytest.mark.parametrize("span", [3600, 90 * 86400], ids=["an hour", "a season"])
def test_every_query_of_every_dashboard_finds_data(
    every: dict[str, Any], history: History, span: float
) -> None:
    asked = 0
    for title, board in every.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                query = target["query"]
                for device in devices_of(board) if "$device" in query else [""]:
                    found = history.empty(panel, query, device, span)
                    assert not found, f"{title}: {panel['title']}: {device} {query}"
                    asked += 1
    assert asked > 200


def test_a_misspelt_field_would_be_found_out(every: dict[str, Any], history: History) -> None:
    for title, panel in panels(every):
        for target in panel["targets"]:
            for field, column in re.findall(r'\("([^"]+)"\) AS "([^"]+)"', target["query"]):
                wrong = target["query"].replace(f'("{field}")', f'("{field}x")')
                assert column in history.empty(panel, wrong, "ccd1"), f"{title}: {wrong}"


def test_a_misspelt_device_would_be_found_out(every: dict[str, Any], history: History) -> None:
    for title, panel in panels(every):
        for target in panel["targets"]:
            wrong = target["query"].replace('" WHERE', 'x" WHERE')
            assert history.empty(panel, wrong, "ccd1"), f"{title}: {wrong}"


def test_the_table_of_alarms_has_alarms_only(every: dict[str, Any], history: History) -> None:
    for title, panel in panels(every, "table"):
        (target,) = panel["targets"]
        for device in devices_of(every[title.partition(":")[0]]):
            rows = history.rows(panel, target["query"], device)
            assert rows
            assert all(json.loads(row["alarms"]) for row in rows), title


def test_alarms_are_marks_on_every_dashboard(every: dict[str, Any], history: History) -> None:
    for title, board in every.items():
        (mark,) = board["annotations"]["list"]
        assert mark["target"]["textColumn"] == "text"
        assert mark["datasource"]["uid"] == "hcam-offsite"
        rows = history.rows({"interval": "10s"}, mark["target"]["query"], "")
        assert [row["text"] for row in rows] == ["ERR ccd1.flow raised: 0.1 l / min"], title


# --- alert rules ----------------------------------------------------------------------------


def rules_of(instrument: Instrument = EXTENDED) -> dict[str, dict[str, Any]]:
    """Return the alert rules of an instrument, by title."""
    (group,) = json.loads(json.dumps(alert_rules(instrument, "hcam-offsite")))["groups"]
    return {rule["title"]: rule for rule in group["rules"]}


def test_every_query_of_an_alert_rule_finds_data(history: History) -> None:
    rules = rules_of()
    assert len(rules) > 15
    for title, rule in rules.items():
        query = rule["data"][0]["model"]["query"]
        assert not history.empty({"interval": "10s"}, query), f"{title}: {query}"
        wrong = query.replace('" WHERE', 'x" WHERE')
        assert history.empty({"interval": "10s"}, wrong), f"{title}: {wrong}"


def test_alert_rules_are_as_grafana_expects() -> None:
    rules = rules_of()
    assert len({rule["uid"] for rule in rules.values()}) == len(rules)
    for rule in rules.values():
        assert re.fullmatch(r"[\w-]{1,40}", rule["uid"])
        refs = [data["refId"] for data in rule["data"]]
        assert rule["condition"] == refs[-1]
        assert [data["model"].get("expression") for data in rule["data"]] == [None, *refs[:-1]]
        assert [data["datasourceUid"] for data in rule["data"]] == [
            "hcam-offsite",
            *["__expr__"] * 2,
        ]
        assert rule["annotations"]["summary"]


def evaluator(rule: dict[str, Any]) -> Any:
    (condition,) = rule["data"][-1]["model"]["conditions"]
    return condition["evaluator"]


def test_an_alert_rule_is_what_the_device_declares() -> None:
    rules = rules_of()
    flow = rules["ccd1.flow"]
    assert evaluator(flow) == {"type": "lt", "params": [0.4]}
    assert flow["annotations"]["summary"] == "ccd1.flow is below 0.4 l / min"
    assert flow["annotations"]["description"].startswith("Look at the chiller")
    assert flow["for"] == "60s", "Grafana looks each minute"
    assert evaluator(rules["pressure1.pressure"]) == {"type": "outside_range", "params": [0, 0.008]}
    assert "ccd1.pressure" not in rules, "a view does not repeat its source"
    assert rules["alarms.silent"]["noDataState"] == "Alerting"


def test_the_instrument_file_changes_an_alert_rule(tmp_path: Path) -> None:
    text = load().path.read_text()
    (tmp_path / "ours.toml").write_text(
        f'{text}\n[alarms."*.pressure"]\nhealthy = [-inf, 1e-3]\n'
        'delay = 100\nadvice = "Call Ada."\n'
        '[alarms."rackpc.mem"]\nadvice = ""\n'
    )
    rules = rules_of(load(tmp_path / "ours.toml"))
    pressure = rules["pressure1.pressure"]
    assert evaluator(pressure) == {"type": "gt", "params": [0.001]}
    assert pressure["for"] == "120s"
    assert pressure["annotations"]["description"] == "Call Ada."
    assert "rackpc.mem" not in rules, "a notice is no alarm"
    long = replace(
        EXTENDED.entries["ngc"], name="a_detector_with_a_name_that_is_long", cls=Controller
    )
    (uid,) = {
        rule["uid"]
        for title, rule in rules_of(instrument_with({"offsite": store()}, long)).items()
        if title.startswith(long.name)
    }
    assert re.fullmatch("hcam-[0-9a-f]{16}", uid)


# --- what Grafana will read -----------------------------------------------------------------


def test_there_is_a_dashboard_for_each_part_of_the_instrument(
    every: dict[str, Any], tmp_path: Path
) -> None:
    usual = [board.title for board in dashboards.BOARDS]
    assert list(every) == [board.title for board in (*dashboards.BOARDS, dashboards.THE_REST)]
    assert list(written(tmp_path, DEFAULT)) == [*usual, "Other devices"]
    page = Path(__file__).parents[2] / "docs" / "grafana.md"
    for title in every:
        assert title in page.read_text()


def test_every_readback_is_shown(tmp_path: Path) -> None:
    boards = written(tmp_path, DEFAULT)
    boards.pop("Overview")
    shown = {
        (target["refId"], field)
        for _, panel in panels(boards)
        for target in panel["targets"]
        for field in re.findall(r'\("([^"]+)"\)', target["query"])
    }
    for device in dashboards.devices_of(DEFAULT):
        stored = {target: f"{name}.target" for name, target in device.nested().items()}
        for name in device.fields:
            assert (device.name, stored.get(name, name)) in shown
        for name in device.states():
            assert (device.name, f"state.{name}") in shown
        assert (device.name, "alarms") in shown


def test_a_device_that_is_new_is_shown_as_it_is_declared(every: dict[str, Any]) -> None:
    found = dict(panels({"Detector": every["Detector"]}))
    noise = found["Detector: Noise (ngc)"]["fieldConfig"]["defaults"]
    assert noise["unit"] == "suffix:electron"
    assert [step["value"] for step in noise["thresholds"]["steps"]] == [None, 0, 5]
    assert found["Detector: Frames (ngc)"]["description"] == "- frames: Frames read out."
    states = found["Detector: States"]
    (query,) = [target["query"] for target in states["targets"]]
    for name in ("state.connection", "mode", "exposing", "last_file"):
        assert f'last("{name}") AS "ngc {name.removeprefix("state.")}"' in query
    (words,) = states["fieldConfig"]["defaults"]["mappings"]
    assert {"standby", "idle", "online", "offline", "0", "1"} <= words["options"].keys()

    (focus,) = [p for title, p in panels(every) if title == "Telescope: Position (gtc)"]
    assert "Where it goes. Limits: -10 to 10 mm." in focus["description"]
    assert overrides(focus)["target_focus"]["color"] == overrides(focus)["focus"]["color"]


def overrides(panel: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        one["matcher"]["options"]: {p["id"]: p["value"] for p in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }


def test_limits_are_drawn_where_the_declarations_say(every: dict[str, Any]) -> None:
    found = dict(panels(every, "timeseries"))
    for title, bad, bound in (
        ("Vacuum: Pressure", "above", 8e-3),
        ("CCD heads: Pressure", "above", 8e-3),
        ("Cooling: Flow", "below", 0.4),
    ):
        defaults = found[title]["fieldConfig"]["defaults"]
        colours = [(step["value"], step["color"]) for step in defaults["thresholds"]["steps"]]
        low, high = ("transparent", "red") if bad == "above" else ("red", "transparent")
        assert colours == [(None, low), (bound, high)]
        assert bound in defaults["custom"].values()  # shown even if the values are far from it
        logarithmic = "scaleDistribution" in defaults["custom"]
        assert logarithmic == title.endswith("Pressure")


def test_the_band_and_the_styles_are_of_series_that_there_are(every: dict[str, Any]) -> None:
    for title, panel in panels(every, "timeseries"):
        columns = [
            name for t in panel["targets"] for name in re.findall(r'AS "([^"]+)"', t["query"])
        ]
        assert sorted(overrides(panel)) == sorted(columns), title  # each once, and no others
        for name, properties in overrides(panel).items():
            assert properties["color"]["mode"] == "fixed"
            assert properties.get("custom.fillBelowTo", columns[0]) in columns
            custom = {
                key.removeprefix("custom."): value
                for key, value in properties.items()
                if key != "color"
            }
            known = plain(timeseries.FieldConfig.from_json(custom))
            assert custom.keys() == known.keys(), f"{title}: {name}"


def plain(model: Any) -> Any:
    return json.loads(json.dumps(model, cls=JSONEncoder))


def test_each_is_built_as_grafana_expects(every: dict[str, Any]) -> None:
    register_default_plugins()
    assert len({board["uid"] for board in every.values()}) == len(every)
    for board in every.values():
        assert plain(Dashboard.from_json(board)) == board
        assert board["schemaVersion"] == 42
        assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (place["x"] + x, place["y"] + y)
                for x in range(place["w"])
                for y in range(place["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells
        (variable,) = board["templating"]["list"]
        assert variable["current"]["value"] == devices_of(board)[0]


def test_each_query_goes_to_the_source_that_is_provisioned(tmp_path: Path) -> None:
    boards = written(tmp_path)
    provisioned = json.loads((tmp_path / "datasources" / "hcam.yaml").read_text())
    (source,) = provisioned["datasources"]
    reference = {"type": source["type"], "uid": source["uid"]}
    for _, panel in panels(boards):
        assert panel["datasource"] == reference
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"] == reference
            assert target["rawQuery"] is True
            assert target["alias"] == "$col"  # so that the styles find their series
            assert target["resultFormat"] == (
                "table" if panel["type"] == "table" else "time_series"
            )
    (provider,) = json.loads((tmp_path / "dashboards" / "hcam.yaml").read_text())["providers"]
    path = provider["options"]["path"].replace("$GF_PATHS_PROVISIONING", str(tmp_path))
    assert {json.loads(file.read_text())["title"] for file in Path(path).iterdir()} == set(boards)


def test_no_pixel_is_so_short_that_a_device_leaves_it_empty(every: dict[str, Any]) -> None:
    polled = {device.name: device.poll_every for device in dashboards.devices_of(EXTENDED)}
    for title, panel in panels(every):
        slowest = max(polled.get(target["refId"], 2.0) for target in panel["targets"])
        assert 2 * slowest < seconds(panel) <= max(60, 5 * slowest), title


def test_the_worst_alarm_has_its_colour(every: dict[str, Any]) -> None:
    (panel,) = [p for title, p in panels(every) if title == "Vacuum: Alarms"]
    fine, *severities = panel["fieldConfig"]["defaults"]["mappings"]
    sample = {"device": "slide", "epoch": "e", "seq": 1, "timestamp": "2026-11-22T04:44:44.196Z"}

    def shown(*found: Alarm) -> str:
        point = flatten(sample | {"alarms": [vars(alarm) for alarm in found]})
        text = str(point.values["alarms"])
        for mapping in severities:
            if re.fullmatch(mapping["options"]["pattern"].strip("/"), text):
                return str(mapping["options"]["result"]["text"])
        return str(fine["options"][text]["text"])

    warning, error = Alarm("stage", "WARN", 'a "reason"'), Alarm("stage", "ERR", "another")
    assert shown() == "OK"
    assert shown(warning) == "WARN"
    assert shown(warning, error) == shown(error, warning) == "ERR"


def test_every_unit_in_use_has_a_name_in_grafana() -> None:
    known = {value for value in vars(units).values() if isinstance(value, str)}
    for quantity in dashboards.QUANTITIES.values():
        assert quantity.unit in known or quantity.unit.startswith("suffix:")
    for instrument in (DEFAULT, WHT):
        for device in dashboards.devices_of(instrument):
            for field in device.fields.values():
                assert field.unit in dashboards.QUANTITIES


def test_they_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.ui import test_dashboards as tests; "
        "tests.written(Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "other")],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "1", "PATH": os.environ["PATH"]},
        check=True,
        timeout=120,
    )
    written(tmp_path / "one")
    one, other = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in files(tmp_path / name)}
        for name in ("one", "other")
    )
    assert one == other
    assert len(one) == 3 + len(dashboards.BOARDS) + 1


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_no_more_is_removed_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    written(tmp_path)
    mine = tmp_path / "dashboards" / "hcam" / "mine.json"
    mine.write_text("{}")
    dashboards.write(tmp_path, replace(WHT, stores=DEFAULT.stores))
    names = {file.name for file in mine.parent.iterdir()}
    assert "mine.json" in names
    assert "hcam-vacuum.json" in names
    assert "hcam-telescope.json" not in names


# --- what may go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "database", "secret"),
    [
        ({"user": "hwlogger"}, "hipercam", "$HCAM_INFLUXDB_PASSWORD"),
        ({"database": "a$b", "api": 3}, "a$$b", "Token $HCAM_INFLUXDB_TOKEN"),
        (
            {"database": None, "organization": "gtc", "bucket": "b"},
            "b",
            "Token $HCAM_INFLUXDB_TOKEN",
        ),
    ],
    ids=["version 1", "version 3", "version 2"],
)
def test_secrets_are_for_grafanas_environment(
    tmp_path: Path, monkeypatch: Any, settings: dict[str, Any], database: str, secret: str
) -> None:
    monkeypatch.setenv("OUR_SECRET", "swordfish")
    offsite = store(**settings, secret_variable="OUR_SECRET")
    written(tmp_path, instrument_with({"offsite": offsite}))
    (source,) = json.loads((tmp_path / "datasources" / "hcam.yaml").read_text())["datasources"]
    assert source["jsonData"]["dbName"] == database
    assert list(source["secureJsonData"].values()) == [secret]
    for file in files(tmp_path):
        assert "swordfish" not in file.read_text()


@pytest.mark.parametrize(
    ("stores", "options", "said"),
    [
        ({"local": Embedded()}, [], 'add a table [stores.NAME] with kind = "influxdb"'),
        ({"a": store(), "b": store()}, [], "several stores are of kind influxdb; choose with"),
        ({"a": store()}, ["--store", "b"], "'b' is not a store of kind influxdb; choose with"),
    ],
    ids=["none", "several", "another"],
)
def test_a_store_that_grafana_cannot_look_at_is_said(
    tmp_path: Path, monkeypatch: Any, stores: Any, options: list[str], said: str
) -> None:
    instrument = instrument_with(stores)
    monkeypatch.setattr("hcam_devices.config.instrument.load", lambda *_: instrument)
    result = CliRunner().invoke(main, ["dashboards", str(tmp_path / "new"), *options])
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_it_wrote(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hcam_devices.config.instrument.load", lambda *_: DEFAULT)
    result = CliRunner().invoke(main, ["dashboards", str(tmp_path)])
    assert (result.exit_code, result.output.startswith(f"{tmp_path}: Overview, CCD heads")) == (
        0,
        1,
    )


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hcam_devices.config.instrument.load", lambda *_: DEFAULT)
    (tmp_path / "dashboards").write_text("a file")
    result = CliRunner().invoke(main, ["dashboards", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{tmp_path} cannot be written" in result.output


def test_without_the_library_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delitem(sys.modules, "hcam_devices.ui.dashboards")
    monkeypatch.delattr("hcam_devices.ui.dashboards")
    for name in [name for name in sys.modules if name.startswith("grafana_foundation_sdk")]:
        monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(main, ["dashboards", str(tmp_path / "new")])
    assert (result.exit_code, result.output) == (
        1,
        f"Error: this installation lacks the packages for dashboards: {install_extra('grafana')}\n",
    )
