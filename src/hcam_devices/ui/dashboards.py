"""Grafana dashboards, generated from the declarations of an instrument's devices.

A dashboard is a list of globs over ``device.field`` and ``kind.field``. Names, units, limits,
healthy ranges and words come from the declarations, so a new device in the instrument file needs no
change here. Numbers are plotted as their mean in each pixel, within a band from the minimum to the
maximum; setpoints are dashed. States, texts, truth values and alarms are timelines.

``write`` makes the folder that Grafana reads; docs/grafana.md says how.
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
from ..history.recorder import recorder_for
from ..history.stores.line_protocol import name_of
from .alert_rules import alert_rules


class Board(NamedTuple):
    """A dashboard: its title, and groups of fields.

    Each group is one or more globs. Fields of a group with the same unit share a plot. A field
    belongs to the first group that it matches. The dashboard shows the alarms of its own devices
    or, with ``every_alarm``, of all devices.
    """

    title: str  # a new title breaks links to the dashboard
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
"""The dashboard of the fields that BOARDS does not show."""


class Quantity(NamedTuple):
    """The name of a quantity, and Grafana's name for its unit."""

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
"""The quantities by the declared unit. Any other unit is written after the number."""

PALETTE = (
    *("blue", "orange", "green", "purple", "red", "yellow"),
    *("light-blue", "light-orange", "light-green", "light-purple", "light-red", "light-yellow"),
)
COLOURS: dict[str, str] = {
    **{"online": "green", "offline": "red", "OK": "green", "WARN": "orange", "ERR": "red"},
    **{S.INPOS: "green", S.MOVING: "blue", S.HOMING: "purple", S.OUTPOS: "yellow"},
    **{S.STOPPED: "light-orange", S.INIT: "orange", S.DISABLED: "red"},
}
"""The colours of words that have one meaning everywhere."""

TAG = "hipercam"
WIDTH = 24
"""The width of a dashboard in Grafana's units."""
MIN_INTERVAL_S = 10
"""The shortest time that one pixel covers."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A field of a device, and its name in the store."""

    device: Device
    field: Readback
    stored: str

    @property
    def family(self) -> str:
        """The name of the field without its channel number."""
        return re.sub(r"\d+$", "", self.field.name)

    @property
    def is_number(self) -> bool:
        """Whether the field is a number, not a text or a truth value."""
        return self.field.type == "number"

    def is_in(self, group: str) -> bool:
        """Return whether the field matches a glob of a group."""
        owners = self.device.name, self.device.kind()
        names = [f"{owner}.{self.field.name}" for owner in owners]
        return any(fnmatchcase(name, glob) for glob in group.split() for name in names)


@dataclass
class Query(Dataquery, Builder[Dataquery]):
    """A query in InfluxQL for Grafana's data source; each series has the name of its column."""

    ref: str
    text: str
    form: str = "time_series"
    source: common.DataSourceRef | None = None

    def build(self) -> Dataquery:
        """Return the query itself, which needs no building."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return the JSON of the query in a dashboard."""
        return {
            "refId": self.ref,
            "datasource": self.source,
            "query": self.text,
            "rawQuery": True,
            "resultFormat": self.form,
            "alias": "$col",
        }


@dataclass
class Marks(Dataquery):
    """A query whose column ``text`` is the text of marks, in the words of Grafana's data source."""

    query: Query

    def to_json(self) -> dict[str, object]:
        """Return the JSON of the query in a dashboard."""
        return self.query.to_json() | {"textColumn": "text", "fromAnnotations": True}


Columns: TypeAlias = dict[Device, list[tuple[str, str, str]]]
"""The columns of each device: (function, field in the store, name of the series)."""


def select(device: Device, columns: Iterable[tuple[str, str, str]]) -> Query:
    """Return the query for columns of a device."""
    what = ", ".join(f'{how}("{name_of(field)}") AS "{name}"' for how, field, name in columns)
    table = f'"{name_of(device.name)}"'
    grouped = "WHERE $timeFilter GROUP BY time($__interval) fill(null)"
    return Query(device.name, " ".join(("SELECT", what, "FROM", table, grouped)))


# --- panels ---------------------------------------------------------------------------------


def plot(series: Sequence[Shown]) -> Plot:
    """Return a plot of numbers with the same unit and the same healthy range."""
    unit = series[0].field.unit
    quantity = QUANTITIES.get(unit, Quantity(unit, f"suffix:{unit}"))
    panel = (
        Plot()
        .title(title(series, quantity.name))
        .description(description(series))
        .unit(quantity.unit)
        .interval(interval(shown.device for shown in series))
        .legend(
            build.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull"])
        )
        .tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )
    logarithmic = any(shown.field.scale == "log" for shown in series)
    if logarithmic:
        log10 = build.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(log10)
    for healthy in {shown.field.healthy for shown in series if shown.field.healthy}:
        mark(panel, healthy, positive=logarithmic)
    columns: Columns = {}
    for shown, label in zip(series, names(series), strict=True):
        colour = PALETTE[series.index(aimed(shown, series)) % len(PALETTE)]
        chosen = columns.setdefault(shown.device, [])
        if isinstance(shown.field, Setpoint):
            chosen.append(("last", shown.stored, label))
            dashes = {"fill": "dash", "dash": [10, 10]}
            paint(panel, label, colour, lineStyle=dashes, lineInterpolation="stepAfter")
        else:
            low, high = f"{label} min", f"{label} max"
            chosen += [("mean", shown.stored, label)]
            chosen += [("min", shown.stored, low), ("max", shown.stored, high)]
            paint(panel, label, colour)
            unseen = {"lineWidth": 0, "hideFrom": {"legend": True, "tooltip": True, "viz": False}}
            paint(panel, low, colour, **unseen)
            paint(panel, high, colour, **unseen, fillBelowTo=low, fillOpacity=20)
    for device, chosen in columns.items():
        panel.with_target(select(device, chosen))
    return panel


def aimed(shown: Shown, among: Sequence[Shown]) -> Shown:
    """Return the readback that follows a setpoint if it is shown too, else the field itself."""
    readbacks = {setpoint: readback for readback, setpoint in shown.device.pairs.items()}
    readback = readbacks.get(shown.field.name)
    same = (other for other in among if other.device is shown.device)
    return next((other for other in same if other.field.name == readback), shown)


def paint(panel: Plot, label: str, colour: str, **custom: object) -> None:
    """Set the colour and other properties of the series ``label``."""
    fixed = {"mode": grafana.FieldColorModeId.FIXED, "fixedColor": colour}
    properties = [grafana.DynamicConfigValue("color", fixed)]
    properties += [grafana.DynamicConfigValue(f"custom.{k}", v) for k, v in custom.items()]
    panel.override_by_name(label, properties)


def mark(panel: Plot, healthy: Range, *, positive: bool) -> None:
    """Mark unhealthy values red, and keep the bounds visible.

    If ``positive``, the axis is logarithmic, and bounds that are not above 0 are ignored.
    """
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
    """Return the title of a plot: the first words that all fields share, else the quantity.

    If the fields belong to one device, its name follows.
    """
    words = zip(*(re.split(r"[_.]", shown.family) for shown in series), strict=False)
    same = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, words)]
    what = " ".join(same).capitalize() or quantity
    devices = {shown.device.name for shown in series}
    return f"{what} ({devices.pop()})" if len(devices) == 1 else what


def description(series: Sequence[Shown]) -> str:
    """Return the documentation of the fields, one line each, with the limits of setpoints."""
    lines = {}
    for shown in series:
        lines[shown.family] = shown.field.doc
        if isinstance(shown.field, Setpoint):
            low, high = shown.field.limits
            lines[shown.family] += f" Limits: {low:g} to {high:g} {shown.field.unit}."
    return "\n".join(f"- {name}: {text.strip()}" for name, text in lines.items() if text)


def names(series: Sequence[Shown]) -> list[str]:
    """Return the shortest names of series that still differ."""
    if len({shown.device for shown in series}) == 1:
        return [shown.field.name for shown in series]
    if len({shown.field.name for shown in series}) == 1:
        return [shown.device.name for shown in series]
    return [f"{shown.device.name} {shown.field.name}" for shown in series]


def interval(devices: Iterable[Device]) -> str:
    """Return the time of a pixel in which each running device publishes samples."""
    slowest = max(device.poll_every for device in devices)
    return f"{max(MIN_INTERVAL_S, math.ceil(3 * slowest))}s"


def states(series: Sequence[Shown], devices: Sequence[Device]) -> Timeline:
    """Return a timeline of the states, the texts and the truth values of devices."""
    columns = {}
    for device in devices:
        rows = [(f"state.{state}", state) for state in device.states()]
        rows += [(shown.stored, shown.field.name) for shown in series if shown.device is device]
        columns[device] = [("last", stored, f"{device.name} {name}") for stored, name in rows]
    words = {"0": "no", "1": "yes"}  # the store contains truth values as numbers
    for shown in series:
        if isinstance(shown.field.kind, Labels):
            words |= {word: word for word in shown.field.kind.values()}
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
    """Return a timeline with one row for each column."""
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
    """Return a table of the alarms of the device that is selected at the top of the dashboard."""
    query = Query(
        "alarms",
        'SELECT last("alarms") AS "alarms" FROM "$device" WHERE "alarms" != \'[]\' '
        "AND $timeFilter GROUP BY time($__interval) fill(none) ORDER BY time DESC LIMIT 500",
        "table",
    )
    wide = [grafana.DynamicConfigValue("custom.width", 200)]
    panel = Table().title("Alarms of $device").interval("1m").with_target(query)
    return panel.override_by_name("Time", wide).height(10)


def marks(source: common.DataSourceRef) -> grafana.AnnotationQuery:
    """Return the marks of alarms on every plot: raised, worse, acknowledged, over."""
    query = Query(
        "marks",
        'SELECT "changes" AS "text" FROM "alarms" WHERE "changes" != \'\' AND $timeFilter '
        "ORDER BY time DESC LIMIT 500",
        "table",
        source,
    )
    return grafana.AnnotationQuery(
        name="Alarms",
        datasource=source,
        enable=True,
        icon_color=COLOURS["ERR"],
        target=Marks(query),
    )


# --- dashboards -----------------------------------------------------------------------------


def devices_of(instrument: Instrument) -> list[Device]:
    """Return every device of an instrument, not running; the recorder is the last."""
    kind = recorder_for(instrument.stores)
    recorder = kind("recorder", replicators=[], journals=Journals({}), folder=Path(), stores={})
    return [*(entry.build() for entry in instrument.entries.values()), recorder]


def shown_of(device: Device) -> list[Shown]:
    """Return the fields of a device with their names in the store."""
    stored = {target: f"{readback}.target" for readback, target in device.nested().items()}
    return [Shown(device, field, stored.get(name, name)) for name, field in device.fields.items()]


def dashboard(
    board: Board, every: Sequence[Shown], source: common.DataSourceRef
) -> grafana.Dashboard | None:
    """Return the dashboard of a board, or None if no field matches it."""
    left, plots, others = list(every), [], []
    for group in board.groups:
        found = [shown for shown in left if shown.is_in(group)]
        left = [shown for shown in left if shown not in found]
        alike: dict[tuple[str, Range | None], list[Shown]] = {}
        for shown in found:
            if shown.is_number:
                healthy = aimed(shown, found).field.healthy
                alike.setdefault((shown.field.unit, healthy), []).append(shown)
            else:
                others.append(shown)
        plots += [plot(series) for series in alike.values()]
    devices = list(dict.fromkeys(shown.device for shown in every if shown not in left))
    if not devices:
        return None
    alarming = (
        list(dict.fromkeys(shown.device for shown in every)) if board.every_alarm else devices
    )
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
        annotations=grafana.AnnotationContainer([marks(source)]),
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
    """Return the panels of rows, each with its position, its number and its data source."""
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
                assert isinstance(target, Query)  # noqa: S101  (for the type checker)
                target.source = source
        y += high
    return placed


# --- the folder -----------------------------------------------------------------------------


def write(folder: Path, instrument: Instrument, store: str | None = None) -> list[str]:
    """Write all files that Grafana needs into a folder; return the titles of the dashboards.

    ``store`` is the name of a store of kind influxdb; it may be omitted if there is only one.
    Raises HcamError if there is no such store, or if the folder cannot be written.
    """
    name, settings = store_of(instrument, store)
    source = common.DataSourceRef("influxdb", f"hcam-{name}")
    every = [shown for device in devices_of(instrument) for shown in shown_of(device)]
    rest = [shown for shown in every if not any(shown.is_in(g) for b in BOARDS for g in b.groups)]
    wanted = [*((board, every) for board in BOARDS), (THE_REST, rest)]
    made = [d for board, among in wanted if (d := dashboard(board, among, source))]
    files: dict[str, object] = {
        "datasources/hcam.yaml": {"apiVersion": 1, "datasources": [datasource(source, settings)]},
        "dashboards/hcam.yaml": {"apiVersion": 1, "providers": [PROVIDER]},
        "alerting/hcam.yaml": alert_rules(instrument, str(source.uid)),
        **{f"dashboards/hcam/{d.uid}.json": d for d in made},
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
    return [str(d.title) for d in made]


def store_of(instrument: Instrument, store: str | None) -> tuple[str, InfluxDB]:
    """Return the name and the settings of the InfluxDB to show.

    Raises HcamError if ``store`` is not an InfluxDB, or is None while there is not exactly one.
    """
    stores = instrument.stores.items()
    known = {name: settings for name, settings in stores if isinstance(settings, InfluxDB)}
    if store in known:
        return store, known[store]
    if store is None and len(known) == 1:
        return next(iter(known.items()))
    if not known:
        raise HcamError(
            f"{instrument.path} has no store that Grafana can read: add a table [stores.NAME] with "
            'kind = "influxdb"'
        )
    problem = "several stores are" if store is None else f"{store!r} is not a store"
    raise HcamError(f"{problem} of kind influxdb; choose with --store from {', '.join(known)}")


PROVIDER = {
    "name": "hcam",
    "folder": "HiPERCAM",
    "type": "file",
    "allowUiUpdates": False,
    "options": {"path": "$GF_PATHS_PROVISIONING/dashboards/hcam"},
}
"""Grafana replaces ``$NAME`` with the environment variable NAME."""


def datasource(source: common.DataSourceRef, settings: InfluxDB) -> dict[str, object]:
    """Return the data source. Grafana reads user, password and token from its environment."""
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
    """Return a text with each $ escaped, so that Grafana inserts no variable."""
    return text.replace("$", "$$")
