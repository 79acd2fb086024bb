"""Grafana dashboards, generated from what the devices of an instrument declare.

A dashboard is a list of globs over ``device.field`` and ``kind.field``; names, units, limits,
healthy ranges and words come from the declarations, so a device that is new in the instrument file
is shown without a change here. Numbers are plotted: the mean of what a pixel stands for, within a
band from its lowest to its highest; a setpoint is dashed. States, texts and what is true or false
are timelines, and so are the alarms.

``write`` makes a folder that Grafana is started with; docs/grafana.md says how.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import cycle, takewhile
from pathlib import Path
from typing import NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.statetimeline import Panel as Timeline
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Plot
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as grafana

from .. import HcamError
from ..config.instrument import Instrument
from ..config.stores import InfluxDB
from ..core.axis import S
from ..core.device import Device
from ..core.fields import Labels, Range, Readback, Setpoint
from ..history.journals import Journals
from ..history.recorder import recorder_of
from ..history.stores.line_protocol import name_of


class Board(NamedTuple):
    """A dashboard: its title, and what it shows.

    Each text of ``groups`` is some globs; what they find belongs together, and one plot has what is
    of one unit among it. A field belongs to the first group that finds it. The alarms are those of
    the devices shown, or of every device.
    """

    title: str  # links to a dashboard hold as long as it stays
    groups: tuple[str, ...]
    every_alarm: bool = False


BOARDS = (
    Board(
        "Overview",
        (
            "views.CCDHead.temperature views.CCDHead.setpoint",
            "views.CCDHead.pressure",
            "views.CCDHead.flow",
            "recorder.backlog_*",
        ),
        every_alarm=True,
    ),
    Board(
        "CCD heads",
        (
            "views.CCDHead.temperature views.CCDHead.setpoint",
            "views.CCDHead.heatsink",
            "views.CCDHead.*",
        ),
    ),
    Board("Vacuum", ("pdr900.*",)),
    Board(
        "Cooling",
        (
            "views.CCDHead.flow",
            "minitrend.*",
            "chiller.* unichiller.*",
            "meerstetter.*.heatsink*",
            "meerstetter.*",
        ),
    ),
    Board("Slide and COMPO", ("zaber.FocalPlaneSlide.*", "views.COMPO.*", "esp301.* zaber.*")),
    Board("Detector", ("ngc.frames_*", "ngc.run", "ngc.*")),
    Board("Telescope", ("gtc.*", "rack.*")),
    Board("Recorder", ("recorder.backlog_*", "recorder.*")),
)
THE_REST = Board("Other devices", ("*",))
"""What none of BOARDS shows."""


class Quantity(NamedTuple):
    """What a unit measures, and Grafana's name for the unit."""

    name: str
    unit: str


QUANTITIES = {
    "": Quantity("Numbers", units.NoUnit),
    "%": Quantity("Percentage", units.Percent),
    "1 / s": Quantity("Rate", units.CountsPerSecond),
    "A": Quantity("Current", units.Ampere),
    "GB": Quantity("Space", units.Gigabytes),
    "MB / s": Quantity("Traffic", units.MegabytesPerSecond),
    "V": Quantity("Voltage", units.Volt),
    "arcsec": Quantity("Angle", units.ArcSeconds),
    "deg": Quantity("Angle", units.Degrees),
    "deg_C": Quantity("Temperature", units.Celsius),
    "l / min": Quantity("Flow", units.LitrePerMinute),
    "mbar": Quantity("Pressure", units.Millibars),
    "mm": Quantity("Position", units.Millimeter),
    "pix": Quantity("Position", "suffix:pix"),
    "s": Quantity("Time", units.Seconds),
}
"""By the unit of a declaration. Any other unit is its own name, behind the number."""

PALETTE = (
    *("blue", "orange", "green", "purple", "red", "yellow"),
    *("light-blue", "light-orange", "light-green", "light-purple", "light-red", "light-yellow"),
)
COLOURS: dict[str, str] = {
    **{"online": "green", "offline": "red", "OK": "green", "WARN": "orange", "ERR": "red"},
    **{S.INPOS: "green", S.MOVING: "blue", S.HOMING: "purple", S.OUTPOS: "yellow"},
    **{S.STOPPED: "light-orange", S.INIT: "orange", S.DISABLED: "red"},
}
"""Of words that mean the same everywhere."""

TAG = "hipercam"
WIDTH = 24
SHORTEST = 10
"""Seconds that a pixel stands for, however short the time that is looked at."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A readback of a device, and its name in the store."""

    device: Device
    field: Readback
    stored: str

    @property
    def family(self) -> str:
        """Return the name without the number of the channel."""
        return re.sub(r"\d+$", "", self.field.name)

    @property
    def is_number(self) -> bool:
        """Tell a number from a text, and from what is true or false."""
        return self.field.type == "number"

    def is_in(self, group: str) -> bool:
        """Tell whether one of a group's globs finds it."""
        owners = self.device.name, self.device.kind()
        names = [f"{owner}.{self.field.name}" for owner in owners]
        return any(fnmatchcase(name, glob) for glob in group.split() for name in names)


@dataclass
class Query(Dataquery, Builder[Dataquery]):
    """InfluxQL as Grafana's data source for InfluxDB has it; a series is called as its column."""

    ref: str
    text: str
    form: str = "time_series"
    source: common.DataSourceRef | None = None

    def build(self) -> Dataquery:
        """Return the query."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return it as a dashboard has it."""
        return {
            "refId": self.ref,
            "datasource": self.source,
            "query": self.text,
            "rawQuery": True,
            "resultFormat": self.form,
            "alias": "$col",
        }


Columns: TypeAlias = dict[Device, list[tuple[str, str, str]]]
"""What to ask of each device: (function, field in the store, name of the series)."""


def select(device: Device, columns: Iterable[tuple[str, str, str]]) -> Query:
    """Return the query for columns of a device."""
    what = ", ".join(f'{how}("{name_of(field)}") AS "{name}"' for how, field, name in columns)
    of = f'"{name_of(device.name)}"'
    grouped = "WHERE $timeFilter GROUP BY time($__interval) fill(null)"
    return Query(device.name, " ".join(("SELECT", what, "FROM", of, grouped)))


# --- panels ---------------------------------------------------------------------------------


def plot(series: Sequence[Shown]) -> Plot:
    """Return a plot of numbers that have a unit and a healthy range in common."""
    unit = series[0].field.unit
    quantity = QUANTITIES.get(unit, Quantity(unit, f"suffix:{unit}"))
    panel = (
        Plot()
        .title(title(series, quantity.name))
        .description(description(series))
        .unit(quantity.unit)
        .interval(interval(one.device for one in series))
        .legend(
            build.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull"])
        )
        .tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )
    logarithmic = any(one.field.scale == "log" for one in series)
    if logarithmic:
        log10 = build.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(log10)
    for healthy in {one.field.healthy for one in series if one.field.healthy}:
        mark(panel, healthy, positive=logarithmic)
    columns: Columns = {}
    for one, label in zip(series, names(series), strict=True):
        colour = PALETTE[series.index(aimed(one, series)) % len(PALETTE)]
        chosen = columns.setdefault(one.device, [])
        if isinstance(one.field, Setpoint):
            chosen.append(("last", one.stored, label))
            dashes = {"fill": "dash", "dash": [10, 10]}
            paint(panel, label, colour, lineStyle=dashes, lineInterpolation="stepAfter")
        else:
            low, high = f"{label} min", f"{label} max"
            chosen += [("mean", one.stored, label)]
            chosen += [("min", one.stored, low), ("max", one.stored, high)]
            paint(panel, label, colour)
            unseen = {"lineWidth": 0, "hideFrom": {"legend": True, "tooltip": True, "viz": False}}
            paint(panel, low, colour, **unseen)
            paint(panel, high, colour, **unseen, fillBelowTo=low, fillOpacity=20)
    for device, chosen in columns.items():
        panel.with_target(select(device, chosen))
    return panel


def aimed(one: Shown, among: Sequence[Shown]) -> Shown:
    """Return the readback that follows a setpoint, if it is shown too; or else itself."""
    of = {setpoint: readback for readback, setpoint in one.device.pairs.items()}
    readback = of.get(one.field.name)
    return next((o for o in among if (o.device, o.field.name) == (one.device, readback)), one)


def paint(panel: Plot, label: str, colour: str, **custom: object) -> None:
    """Say how one series looks."""
    fixed = {"mode": grafana.FieldColorModeId.FIXED, "fixedColor": colour}
    properties = [grafana.DynamicConfigValue("color", fixed)]
    properties += [grafana.DynamicConfigValue(f"custom.{k}", v) for k, v in custom.items()]
    panel.override_by_name(label, properties)


def mark(panel: Plot, healthy: Range, *, positive: bool) -> None:
    """Redden what is not healthy, and keep its bounds in sight (``positive``: those above 0)."""
    low, high = (math.isfinite(bound) and (bound > 0 or not positive) for bound in healthy)
    steps = [grafana.Threshold(None, "red" if low else "transparent")]
    if low:
        steps.append(grafana.Threshold(healthy[0], "transparent"))
        panel.axis_soft_min(healthy[0])
    if high:
        steps.append(grafana.Threshold(healthy[1], "red"))
        panel.axis_soft_max(healthy[1])
    panel.thresholds(ThresholdsConfig().mode(grafana.ThresholdsMode.ABSOLUTE).steps(steps))
    dashed = common.GraphThresholdsStyleMode.DASHED_AND_AREA
    panel.thresholds_style(build.GraphThresholdsStyleConfig().mode(dashed))


def title(series: Sequence[Shown], quantity: str) -> str:
    """Say what a plot is of: the words that all begin with, or else the quantity; and whose."""
    words = zip(*(re.split(r"[_.]", one.family) for one in series), strict=False)
    same = [several[0] for several in takewhile(lambda several: len(set(several)) == 1, words)]
    what = " ".join(same).capitalize() or quantity
    devices = {one.device.name for one in series}
    return f"{what} ({devices.pop()})" if len(devices) == 1 else what


def description(series: Sequence[Shown]) -> str:
    """Return what the declarations say of the fields, a line each."""
    lines = {}
    for one in series:
        lines[one.family] = one.field.doc
        if isinstance(one.field, Setpoint):
            low, high = one.field.limits
            lines[one.family] += f" It may be {low:g} to {high:g} {one.field.unit}."
    return "\n".join(f"- {name}: {text.strip()}" for name, text in lines.items() if text)


def names(series: Sequence[Shown]) -> list[str]:
    """Return what to call each, as short as tells them apart."""
    if len({one.device for one in series}) == 1:
        return [one.field.name for one in series]
    if len({one.field.name for one in series}) == 1:
        return [one.device.name for one in series]
    return [f"{one.device.name} {one.field.name}" for one in series]


def interval(devices: Iterable[Device]) -> str:
    """Return the least time that a pixel stands for: no device leaves it empty while it runs."""
    slowest = max(device.poll_every for device in devices)
    return f"{max(SHORTEST, math.ceil(3 * slowest))}s"


def states(series: Sequence[Shown], devices: Sequence[Device]) -> Timeline:
    """Return a timeline of what devices are and do: states, texts, and what is true or false."""
    columns = {}
    for device in devices:
        rows = [(f"state.{state}", state) for state in device.states()]
        rows += [(one.stored, one.field.name) for one in series if one.device is device]
        columns[device] = [("last", stored, f"{device.name} {name}") for stored, name in rows]
    words = {"0": "no", "1": "yes"}  # as the store has what is true or false
    for one in series:
        if isinstance(one.field.kind, Labels):
            words |= {word: word for word in one.field.kind.values()}
    colours = dict(zip(words, cycle(PALETTE), strict=False)) | COLOURS
    words |= {word: word for word in COLOURS}
    mapped = {
        word: grafana.ValueMappingResult(text, colours[word], index=n)
        for n, (word, text) in enumerate(words.items())
    }
    return timeline("States", columns, [grafana.ValueMap(mapped)])


def alarms(devices: Sequence[Device]) -> Timeline:
    """Return a timeline of the worst alarm of each device."""
    fine = grafana.ValueMappingResult("OK", COLOURS["OK"], index=0)
    mappings: list[grafana.ValueMapping] = [grafana.ValueMap({"[]": fine})]
    for n, severity in enumerate(("ERR", "WARN"), 1):
        seen = grafana.ValueMappingResult(severity, COLOURS[severity], index=n)
        pattern = f'/^.*"severity": "{severity}".*$/'
        mappings.append(grafana.RegexMap(grafana.DashboardRegexMapOptions(pattern, seen)))
    columns = {device: [("last", "alarms", device.name)] for device in devices}
    return timeline("Alarms", columns, mappings)


def timeline(title: str, columns: Columns, mappings: list[grafana.ValueMapping]) -> Timeline:
    """Return a timeline with a row for each column."""
    rows = sum(map(len, columns.values()))
    panel = (
        Timeline()
        .title(title)
        .interval(interval(columns))
        .color_scheme(FieldColor().mode(grafana.FieldColorModeId.PALETTE_CLASSIC))
        .legend(build.VizLegendOptions().show_legend(False))
        .mappings(mappings)
        .per_page(rows)
        .height(3 + math.ceil(0.8 * rows))
    )
    for device, chosen in columns.items():
        panel.with_target(select(device, chosen))
    return panel


def texts() -> Table:
    """Return a table of the alarms of the device that is chosen above the dashboard."""
    query = Query(
        "alarms",
        'SELECT last("alarms") AS "alarms" FROM "$device" WHERE "alarms" != \'[]\' '
        "AND $timeFilter GROUP BY time($__interval) fill(none) ORDER BY time DESC LIMIT 500",
        "table",
    )
    wide = [grafana.DynamicConfigValue("custom.width", 200)]
    panel = Table().title("Alarms of $device").interval("1m").with_target(query)
    return panel.override_by_name("Time", wide).height(10)


# --- dashboards -----------------------------------------------------------------------------


def devices_of(instrument: Instrument) -> list[Device]:
    """Return every device of an instrument, the recorder last; none is connected."""
    kind = recorder_of(instrument.stores)
    recorder = kind("recorder", replicators=[], journals=Journals({}), folder=Path(), stores={})
    return [*(entry.build() for entry in instrument.entries.values()), recorder]


def shown_of(device: Device) -> list[Shown]:
    """Return the readbacks of a device as the store has them."""
    stored = {target: f"{readback}.target" for readback, target in device.nested().items()}
    return [Shown(device, field, stored.get(name, name)) for name, field in device.fields.items()]


def dashboard(
    board: Board, every: Sequence[Shown], source: common.DataSourceRef
) -> grafana.Dashboard | None:
    """Return a dashboard of what a board finds; None if it finds nothing."""
    left, plots, others = list(every), [], []
    for group in board.groups:
        found = [one for one in left if one.is_in(group)]
        left = [one for one in left if one not in found]
        alike: dict[tuple[str, Range | None], list[Shown]] = {}
        for one in found:
            if one.is_number:
                healthy = aimed(one, found).field.healthy
                alike.setdefault((one.field.unit, healthy), []).append(one)
            else:
                others.append(one)
        plots += [plot(series) for series in alike.values()]
    devices = list(dict.fromkeys(one.device for one in every if one not in left))
    if not devices:
        return None
    alarming = list(dict.fromkeys(one.device for one in every)) if board.every_alarm else devices
    rows: list[Sequence[Plot | Timeline | Table]] = [[alarms(alarming)]]
    rows += [plots[n : n + 2] for n in range(0, len(plots), 2)]
    rows += [[states(others, devices)], [texts()]]
    choices = [name_of(device.name) for device in alarming]
    chosen = grafana.VariableModel(
        grafana.VariableType.CUSTOM,
        "device",
        label="Device",
        query=",".join(choices),
        current=grafana.VariableOption(True, choices[0], choices[0]),
        allow_custom_value=False,
    )
    return grafana.Dashboard(
        uid="hcam-" + board.title.lower().replace(" ", "-"),
        title=board.title,
        tags=[TAG],
        timezone="utc",
        graph_tooltip=grafana.DashboardCursorSync.CROSSHAIR,
        time=grafana.DashboardDashboardTime("now-24h", "now"),
        refresh="5m",
        panels=arrange(rows, source),
        templating=grafana.DashboardDashboardTemplating([chosen]),
        links=[
            grafana.DashboardLink(
                "Dashboards",
                grafana.DashboardLinkType.DASHBOARDS,
                tags=[TAG],
                as_dropdown=True,
                keep_time=True,
            )
        ],
    )


def arrange(
    rows: Sequence[Sequence[Plot | Timeline | Table]], source: common.DataSourceRef
) -> list[grafana.Panel | grafana.RowPanel]:
    """Return the panels of rows, each in its place, with a number and the source of its data."""
    placed: list[grafana.Panel | grafana.RowPanel] = []
    y = 0
    for row in rows:
        panels = [builder.build() for builder in row]
        width = WIDTH // len(panels)
        high = max(panel.grid_pos.h if panel.grid_pos else 9 for panel in panels)
        for n, panel in enumerate(panels):
            placed.append(panel)
            panel.id_val, panel.datasource = len(placed), source
            panel.grid_pos = grafana.GridPos(high, width, n * width, y)
            for target in panel.targets or ():
                assert isinstance(target, Query)  # noqa: S101  (there are no others here)
                target.source = source
        y += high
    return placed


# --- the folder -----------------------------------------------------------------------------


def write(folder: Path, instrument: Instrument, store: str | None = None) -> list[str]:
    """Write what Grafana needs into a folder; return the titles of the dashboards.

    ``store`` is the name of a store of kind influxdb; it may be left out if there is only one.
    Raises HcamError if there is no such store, or the folder cannot be written.
    """
    name, settings = store_of(instrument, store)
    source = common.DataSourceRef("influxdb", f"hcam-{name}")
    every = [one for device in devices_of(instrument) for one in shown_of(device)]
    rest = [one for one in every if not any(one.is_in(g) for b in BOARDS for g in b.groups)]
    wanted = [*((board, every) for board in BOARDS), (THE_REST, rest)]
    made = [one for board, among in wanted if (one := dashboard(board, among, source))]
    files: dict[str, object] = {
        "datasources/hcam.yaml": {"apiVersion": 1, "datasources": [datasource(source, settings)]},
        "dashboards/hcam.yaml": {"apiVersion": 1, "providers": [PROVIDER]},
        **{f"dashboards/hcam/{one.uid}.json": one for one in made},
    }
    try:
        for old in (folder / "dashboards" / "hcam").glob("hcam-*.json"):
            old.unlink()
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content, cls=JSONEncoder, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise HcamError(f"{folder} cannot be written: {error}") from None
    return [str(one.title) for one in made]


def store_of(instrument: Instrument, store: str | None) -> tuple[str, InfluxDB]:
    """Return the store to be looked at, and its name. HcamError if there is none, or several."""
    known = {name: one for name, one in instrument.stores.items() if isinstance(one, InfluxDB)}
    if store in known:
        return store, known[store]
    if store is None and len(known) == 1:
        return next(iter(known.items()))
    if not known:
        raise HcamError(
            f"{instrument.path} has no store that Grafana can look at: it needs a table "
            '[stores.NAME] with kind = "influxdb"'
        )
    said = "several stores are" if store is None else f"{store!r} is not a store"
    raise HcamError(f"{said} of kind influxdb; --store takes one of {', '.join(known)}")


PROVIDER = {
    "name": "hcam",
    "folder": "HiPERCAM",
    "type": "file",
    "allowUiUpdates": False,
    "options": {"path": "$GF_PATHS_PROVISIONING/dashboards/hcam"},
}
"""Grafana puts the value of an environment variable for what begins with $."""


def datasource(source: common.DataSourceRef, settings: InfluxDB) -> dict[str, object]:
    """Return the data source; user, password and token are Grafana's environment's."""
    version = settings.version
    database = settings.bucket if version == 2 else settings.database
    options = {"version": "InfluxQL", "httpMode": "POST", "dbName": literal(database or "")}
    made: dict[str, object] = {
        "name": "HiPERCAM",
        "type": "influxdb",
        "uid": source.uid,
        "access": "proxy",
        "url": literal(settings.url),
    }
    if version == 1:
        secrets = {"password": "$HCAM_INFLUXDB_PASSWORD"}
        return made | {
            "user": "$HCAM_INFLUXDB_USER",
            "jsonData": options,
            "secureJsonData": secrets,
        }
    return made | {
        "jsonData": options | {"httpHeaderName1": "Authorization"},
        "secureJsonData": {"httpHeaderValue1": "Token $HCAM_INFLUXDB_TOKEN"},
    }


def literal(text: str) -> str:
    """Return a text in which Grafana is not to look for environment variables."""
    return text.replace("$", "$$")
