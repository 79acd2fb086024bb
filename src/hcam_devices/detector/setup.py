"""Converts the setup of a run (JSON, from the observer's program) to command lines for NGC.

    run = read({"appdata": {"app": "Idle"}})
    for line in run.commands():
        ...                             # the arguments of one ngcbCmd

The whole setup is checked before any line is returned, so a setup with a mistake changes nothing.
Unknown keys are ignored, and null is the same as a missing value. The lines are those of the
predecessor, which checked nothing. Sizes and starts are in unbinned pixels, counted from 1.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)

from ..core.fields import is_number
from ..names import shorten
from ..telescope import headers

Mode = Literal["FullFrame", "Windows", "Drift", "Idle"]
CARD = 68
"""The number of characters of a text in a FITS header; a single quote counts twice."""
LINE = 10
"""The number of header keywords in one ``setup``."""
BREAK = "DET.FRAM2.BREAK"
KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")
CALIBRATIONS = {
    "bias": ("Bias", "Bias"),
    "dark": ("Dark", "Dark"),
    "flat": ("Skyflat", "SkyFlat"),
}
"""OBJECT and OBSMODE by the flag of the run. With any other flag OBSMODE is Imaging."""
UNKNOWN = -999
CCDS = range(1, 6)
SOURCES: dict[str, tuple[str, str, str | int]] = {
    "OBSERVER": ("user", "Observers", ""),
    "OBJECT": ("user", "target", ""),
    "RUNCOM": ("user", "comment", ""),
    "IMAGETYP": ("user", "flags", ""),
    "OBSMODE": ("user", "", "Imaging"),
    "FILTERS": ("user", "filters", ""),
    "PROGRM": ("user", "ID", ""),
    "PI": ("user", "PI", ""),
    "TELESCOP": ("tcs", "tel", "WHT"),
    "RA": ("tcs", "RA", "00:00:00.00"),
    "DEC": ("tcs", "DEC", "+00:00:00.0"),
    "ELEVAT": ("tcs", "alt", UNKNOWN),
    "AZIMUTH": ("tcs", "az", UNKNOWN),
    "AIRMASS": ("tcs", "secz", UNKNOWN),
    "INSTRPA": ("tcs", "pa", UNKNOWN),
    "TELFOCUS": ("tcs", "foc", UNKNOWN),
    "MOONDIST": ("tcs", "mdist", UNKNOWN),
    "ORIGIN": ("tcs", "", "ING"),
    **{
        f"CCD{ccd}{what.upper()}": ("hardware", f"ccd{ccd}{what}", UNKNOWN)
        for what in ("temp", "vac", "flow")
        for ccd in CCDS
    },
    "FPSLIDE": ("hardware", "fpslide", UNKNOWN),
    "COMPOPOA": ("compo", "pickoff_angle", UNKNOWN),
    "COMPOINJ": ("compo", "injection_side", "UNDEF"),
}
"""The header keywords in order, with the block and key in the setup, and the default, whose type
the value must have. The value of a keyword without a key follows from other keys."""
IDLE = {
    "app": "Idle",
    "numexp": 0,
    "readout": "Slow",
    "xbin": 1,
    "ybin": 1,
    "clear": 1,
    "led_flsh": 0,
    "oscan": 0,
    "multipliers": [1, 1, 1, 1, 1],
    "exptime": 10,
    "dwell": 10,
}
"""The setup of Idle. Without ``dummy_out`` it uses the single-ended clock file, as in 1.7."""


class SetupError(ValueError):
    """All mistakes in a setup: one sentence each, with the value and its limits."""


@dataclass(frozen=True)
class Run:
    """A valid setup, from ``read``."""

    mode: Mode
    numexp: int
    """The number of frames after which the run ends; 0 is endless."""
    dithering: bool
    """Whether each frame waits for ``seq trigger``."""
    _cards: Mapping[str, str]
    _detector: Mapping[str, str]
    _curid: int
    _acqproc: str

    @property
    def header(self) -> frozenset[str]:
        """The keywords that stay set in NGC after this run."""
        kept = {keyword for keyword, value in self._cards.items() if value}
        return frozenset(kept | ({BREAK} & self._detector.keys()))

    def commands(self, sent: Collection[str] = ()) -> list[str]:
        """Return the command lines for ngcbCmd, in order.

        ``sent`` is the ``header`` of the previous setups. Keywords in it that have no value now
        would stay in the header, so they are set to ``""``. A limit on frames would stay, too, so
        it is set to 0. It is UNKNOWN how NGC clears a keyword, and whether 0 means no limit
        (decisions 0050, 0051).
        """
        stale = dict.fromkeys(sorted({*sent} - self._cards.keys() - {BREAK}), "")
        cards = iter({**self._cards, **stale}.items())
        lines = ["seq stop", f"setup DET.READ.CURID {self._curid}"]
        while group := list(islice(cards, LINE)):
            pairs = [(word, value) for word, value in group if value or word in sent]
            if pairs:
                lines.append(_setup(pairs))
        detector = dict(self._detector)
        if BREAK in sent:
            detector.setdefault(BREAK, "0")
        lines += [_setup(detector.items()), self._acqproc]
        return [*lines, "seq start"] if self.mode == "Idle" else lines


def read(setup: object) -> Run:
    """Check a setup, which is a dict or JSON text, and return its run.

    Raises SetupError with all mistakes. The setup of Idle is always the same, whatever it contains.
    """
    if isinstance(setup, str):
        try:
            setup = json.loads(setup)
        except (ValueError, RecursionError) as error:
            raise SetupError(f"The setup is not JSON: {error}.") from None
    if not isinstance(setup, dict) or not isinstance(app := setup.get("appdata"), dict):
        raise SetupError(
            "The setup must be a JSON object with an object 'appdata',"
            f" not {shorten(setup)}; send the setup of the observer's program."
        )
    if app.get("app") == "Idle":
        setup, app = {}, IDLE
    mistakes: list[str] = []
    detector = _checked(_kind(app), app, ("appdata",), mistakes)
    rest = _checked(_Rest, setup, (), mistakes)
    if detector is None or rest is None:
        raise SetupError(" ".join(mistakes))
    slow, drift = detector.readout == "Slow", detector.app == "Drift"
    return Run(
        mode=detector.app,
        numexp=detector.numexp,
        dithering=bool(detector.nodpattern.ra),
        _cards=_cards(rest),
        _detector={word: str(value) for word, value in detector.keywords().items()},
        _curid=detector.curid,
        _acqproc=f"acqproc hiperCamCCD -chip 5 -t 4 -nq {detector.queue} -deml 0"
        f" -gps {rest.gps_attached:d} -aveg {4 if slow else 1} -aps 8 -drf {drift:d}",
    )


def _setup(pairs: Iterable[tuple[str, str]]) -> str:
    quoted = ((word, f'"{value}"' if not value or " " in value else value) for word, value in pairs)
    return " ".join(["setup", *chain.from_iterable(quoted)])


def _number(low: float, high: float, kind: type = float) -> PlainValidator:
    what = "a whole number" if kind is int else "a number"

    def check(value: object) -> Any:
        wrong = kind is int and not isinstance(value, int)
        if wrong or not is_number(value) or not low <= value <= high:
            raise ValueError(f"must be {what} from {low} to {high}")
        return value

    return PlainValidator(check)


def _fault(text: str) -> str:
    if not text.isascii() or not text.isprintable() or '"' in text:
        return "must be printable ASCII without double quotes"
    if len(text) + text.count("'") > CARD:
        return f"must have at most {CARD} characters (a single quote counts twice)"
    return ""


def _text(value: object) -> str:
    fault = _fault(value) if isinstance(value, str) else "must be text"
    if fault:
        raise ValueError(fault)
    return str(value)


def _observing_block(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = shorten(value)
    text = _text(value)
    return text.zfill(4) if text.isdecimal() else text


def _flag(value: object) -> bool:
    if value not in (0, 1):
        raise ValueError("must be 0 or 1")
    return bool(value)


def _groups(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(group, str) for group in value):
        raise ValueError("must be a list of texts")
    return value


def _after(check: Callable[[Any, dict[str, Any], str], str]) -> AfterValidator:
    """Return a validator that compares a value with the fields before it, which may be missing.

    ``check`` gets the value, those fields and the name, and returns a fault or an empty text.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        if fault := check(value, info.data, str(info.field_name)):
            raise ValueError(fault)
        return value

    return AfterValidator(validate)


def _binned(value: int, before: dict[str, Any], name: str) -> str:
    faults = []
    pixels = 1024 if name == "xbin" else 512
    if before.get("app") == "FullFrame":
        if pixels % value:
            faults.append(f"must divide the {pixels} pixels of an output")
        elif name == "xbin" and pixels // value % 4:
            faults.append("must leave a multiple of 4 pixels in a line: 256 at most")
    if value > 2 and (before.get("oscan") or before.get("oscany")):
        faults.append("must be 1 or 2 with overscan")
    return " and ".join(faults)


def _large(size: int, before: dict[str, Any], name: str) -> str:
    binning = before.get(f"{name[0]}bin", 1)
    return f"must be at least one binned pixel: {binning}" if size < binning else ""


def _inside(last: int) -> AfterValidator:
    def check(start: int, before: dict[str, Any], name: str) -> str:
        size = before.get(f"{name[:2]}size", 1)
        end = start + size - 1
        return f"must end a window of {size} by {last}, not at {end}" if end > last else ""

    return _after(check)


def _not_drifting(value: object, before: dict[str, Any], _: str) -> str:
    drift = before.get("app") == "Drift"
    return "must be omitted in drift mode" if drift and value not in (False, _Nod()) else ""


def _paired(dec: list[float], before: dict[str, Any], _: str) -> str:
    count = len(before.get("ra", dec))
    return f"must have as many offsets as ra: {count}" if len(dec) != count else ""


def _apart(start: int, before: dict[str, Any], _: str) -> str:
    try:
        first, size, own = before["y1start"], before["y1size"], before["y2size"]
    except KeyError:
        return ""
    overlap = start < first + size and first < start + own
    return (
        f"must keep the rows {start} to {start + own - 1} of the second quad apart"
        f" from {first} to {first + size - 1} of the first"
        if overlap
        else ""
    )


Number = Annotated[int | float, _number(-1e30, 1e30)]
Text = Annotated[str, PlainValidator(_text)]
Flag = Annotated[bool, PlainValidator(_flag)]
Multiplier = Annotated[int, _number(1, 500, int)]
Width = Annotated[int, _number(1, 1024, int), _after(_large)]
Height = Annotated[int, _number(1, 512, int), _after(_large)]
Left = Annotated[int, _number(1, 1024, int), _inside(1024)]
Right = Annotated[int, _number(1025, 2048, int), _inside(2048)]
Row = Annotated[int, _number(1, 512, int), _inside(512)]
Offsets = list[Number]


class _Block(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, block: object) -> object:
        if not isinstance(block, dict):
            raise ValueError("must be an object")
        return {key: value for key, value in block.items() if value is not None}


class _Nod(_Block):
    ra: Offsets = []
    dec: Annotated[Offsets, _after(_paired), Field(validate_default=True)] = []


class _FullFrame(_Block):
    """The settings of every mode. A check compares a field with the fields above it."""

    curid: ClassVar = 1
    queue: ClassVar = 5

    app: Mode
    numexp: Annotated[int, _number(0, 2**31 - 1, int)]
    readout: Literal["Slow", "Fast"]
    clear: Annotated[Flag, _after(_not_drifting)]
    nodpattern: Annotated[_Nod, _after(_not_drifting)] = Field(default_factory=_Nod)
    led_flsh: Flag
    dummy_out: Flag = False
    fast_clks: Flag = False
    oscan: Flag
    oscany: Flag = False
    xbin: Annotated[int, _number(1, 1024, int), _after(_binned)]
    ybin: Annotated[int, _number(1, 512, int), _after(_binned)]
    multipliers: Annotated[list[Multiplier], Field(min_length=5, max_length=5)]
    exptime: Annotated[int | float, _number(0, 1e9)]
    dwell: Annotated[int | float, _number(0, 1677.7207)]

    def keywords(self) -> dict[str, object]:
        """Return the detector's keywords in order."""
        clocks = "hipercam_fastclk.bclk" if self.fast_clks else "hipercam.bclk"
        keywords = {
            "DET.RESTRICT": "F",
            "DET.SPEED": int(self.readout == "Fast"),
            "DET.BINX1": self.xbin,
            "DET.BINY1": self.ybin,
            "DET.CLRCCD": _logical(self.clear),
            "DET.NCLRS": 5,
            "DET.DUMMY": int(self.dummy_out),
            "DET.FASTCLK": int(self.fast_clks),
            "DET.EXPLED": _logical(self.led_flsh),
            "DET.GPS": _logical(self.app != "Idle"),
            "DET.INCPRSCX": _logical(self.oscan),
            "DET.INCOVSCY": _logical(self.oscany),
            **{f"DET.NSKIPS{ccd}": self.multipliers[ccd - 1] - 1 for ccd in CCDS},
            "DET.SEQ.CLKFILE": clocks if self.dummy_out else "hipercam_se.bclk",
            "DET.SEQ1.DIT": self.exptime,
            "DET.SEQ.TRIGGER": _logical(bool(self.nodpattern.ra)),
            "DET.TDELAY.GUI": 1000 * self.dwell,
            **self.windows(),
        }
        return {**keywords, BREAK: self.numexp} if self.numexp else keywords

    def windows(self) -> dict[str, object]:
        """Return the keywords of the mode's windows in order."""
        return {}


class _OneQuad(_FullFrame):
    curid = 2
    queue = 30

    x1size: Width
    y1size: Height
    x1start_lowerleft: Left
    x1start_lowerright: Right
    x1start_upperright: Right
    x1start_upperleft: Left
    y1start: Row

    def windows(self) -> dict[str, object]:
        return self._quad(1)

    def _quad(self, number: int) -> dict[str, object]:
        corners = ("lowerleft", "lowerright", "upperright", "upperleft")
        width, height, ll, lr, ur, ul, row = (
            getattr(self, key.format(number))
            for key in ("x{}size", "y{}size", *(f"x{{}}start_{at}" for at in corners), "y{}start")
        )
        keywords = {
            "NX": width,
            "NY": height,
            "XSE": ll - 1,
            "XSF": 2049 - lr - width,
            "XSG": 2049 - ur - width,
            "XSH": ul - 1,
            "YS": row - 1,
            "YS.GUI": row,
            "XSLL": ll,
            "XSLR": lr,
            "XSUL": ul,
            "XSUR": ur,
        }
        return {f"DET.WIN{number}.{word}": value for word, value in keywords.items()}


class _TwoQuads(_OneQuad):
    curid = 3
    queue = 10

    x2size: Width
    y2size: Height
    x2start_lowerleft: Left
    x2start_lowerright: Right
    x2start_upperright: Right
    x2start_upperleft: Left
    y2start: Annotated[Row, _after(_apart)]

    def windows(self) -> dict[str, object]:
        return self._quad(1) | self._quad(2)


class _Drift(_FullFrame):
    curid = 4
    queue = 800

    x1size: Width
    y1size: Height
    x1start_left: Left
    x1start_right: Right
    y1start: Row

    def windows(self) -> dict[str, object]:
        left, right = self.x1start_left - 1, 2049 - self.x1start_right - self.x1size
        return {
            "DET.DRWIN.NX": self.x1size,
            "DET.DRWIN.NY": self.y1size,
            "DET.DRWIN.YS": self.y1start - 1,
            "DET.DRWIN.YS.GUI": self.y1start,
            "DET.DRWIN.XSE": left,
            "DET.DRWIN.XSF": right,
            "DET.DRWIN.XSH": left,
            "DET.DRWIN.XSG": right,
            "DET.DRWIN.XSL": self.x1start_left,
            "DET.DRWIN.XSR": self.x1start_right,
        }


def _logical(value: bool) -> str:
    return "T" if value else "F"


def _kind(app: dict[str, Any]) -> type[_FullFrame]:
    if app.get("app") == "Drift":
        return _Drift
    if app.get("app") == "Windows":
        return _OneQuad if app.get("x2size") is None else _TwoQuads
    return _FullFrame


def _block(name: str) -> type[_Block]:
    keys: dict[str, Any] = {
        key: (Text if isinstance(default, str) else Number, default)
        for block, key, default in SOURCES.values()
        if block == name and key
    }
    if name == "user":
        keys["OB"] = (Annotated[str, PlainValidator(_observing_block)], "0001")
    return create_model(name, __base__=_Block, **keys)


BLOCKS = {name: _block(name) for name in ("user", "tcs", "hardware", "compo")}
_Rest: type[Any] = create_model(
    "_Rest",
    __base__=_Block,
    gps_attached=(Flag, True),
    gtc_headers=(Annotated[list[str], PlainValidator(_groups)], []),
    # The stub of create_model does not accept fields from a dictionary.
    **{  # type: ignore[call-overload]
        name: (block, Field(default_factory=block)) for name, block in BLOCKS.items()
    },
)


def _cards(rest: Any) -> dict[str, str]:
    cards = {
        keyword: item.value
        for keyword, item in headers.parse(rest.gtc_headers).items()
        if KEYWORD.fullmatch(keyword) and not _fault(item.value)
    }
    flag = rest.user.flags
    if cards:
        program = "Calib" if flag in CALIBRATIONS else rest.user.ID
        calibration = program.lower().startswith("calib")
        cards["GTCPRGID"] = program
        cards["GTCOBID"] = "CALIB" if calibration else rest.user.OB
    for keyword, (block, key, default) in SOURCES.items():
        cards[keyword] = str(getattr(getattr(rest, block), key) if key else default)
    if flag in CALIBRATIONS:
        cards["OBJECT"], cards["OBSMODE"] = CALIBRATIONS[flag]
    if rest.tcs.tel == "GTC":
        cards["ORIGIN"] = "GRANTECAN"
    return cards


def _checked(
    kind: type[Any], values: dict[str, Any], where: tuple[str, ...], mistakes: list[str]
) -> Any:
    """Return the values as a ``kind``, or add their mistakes to the list and return None."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            name = ".".join(map(str, where + fault["loc"]))
            reason = fault.get("ctx", {}).get("error", fault["msg"])
            mistakes.append(
                f"{name} is missing."
                if fault["type"] == "missing"
                else f"{name} is {shorten(fault['input'])}: {reason}."
            )
    return None
