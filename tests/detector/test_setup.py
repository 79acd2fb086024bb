import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.detector.setup import SetupError, read

HARDWARE = {
    key: value
    for ccd in range(1, 6)
    for key, value in {
        f"ccd{ccd}temp": -90.0,
        f"ccd{ccd}vac": 0.00123,
        f"ccd{ccd}flow": 1.05,
    }.items()
}
COMMON: dict[str, Any] = {
    "gps_attached": 1,
    "user": {
        "target": "HT Cas",
        "ID": "GTC1-25A",
        "PI": "A. N. Other",
        "OB": "0007",
        "Observers": "SL, VSD",
        "comment": "test run",
        "flags": "data",
        "filters": "us,gs,rs,is,zs",
    },
    "hardware": HARDWARE | {"fpslide": 1100.0},
    "tcs": {
        "RA": "01:10:13",
        "DEC": "+60:04:35",
        "tel": "GTC",
        "alt": 55.1,
        "az": 12.3,
        "secz": 1.22,
        "pa": 22.1,
        "foc": -2.13,
        "mdist": 88.2,
    },
    "compo": {"injection_side": "P", "pickoff_angle": 66.4},
    "gtc_headers": [
        "RADEG   =           17.5541 / RA (degrees);DECDEG  =           60.0766 / DEC (degrees);",
        "LST     =         2.3 / Sidereal Time;M2UZ    =   -2.13 / Focus offset;",
        "T_TUBE  = 9.5 / [C] Tube temp;GTCPROG = 'abc' / some/thing",
    ],
}
FULL = {
    "numexp": 0,
    "led_flsh": 0,
    "dummy_out": 1,
    "fast_clks": 0,
    "readout": "Slow",
    "dwell": 0.1,
    "exptime": 2.5,
    "oscan": 0,
    "oscany": 0,
    "xbin": 1,
    "ybin": 1,
    "multipliers": [1, 1, 1, 1, 1],
    "clear": 1,
    "app": "FullFrame",
}
NOD = {"nodpattern": {"ra": [0.0, 5.0, 5.0, 0.0], "dec": [0.0, 0.0, 5.0, 5.0]}}
WINDOWS = {
    "numexp": 100,
    "readout": "Fast",
    "xbin": 2,
    "ybin": 2,
    "multipliers": [1, 2, 1, 1, 3],
    "clear": 0,
    "app": "Windows",
}
ONE_QUAD = {
    **FULL,
    **WINDOWS,
    "x1start_lowerleft": 301,
    "x1start_upperleft": 305,
    "x1start_lowerright": 1501,
    "x1start_upperright": 1497,
    "y1start": 201,
    "x1size": 200,
    "y1size": 100,
}
TWO_QUADS = {
    **ONE_QUAD,
    "x2start_lowerleft": 401,
    "x2start_upperleft": 405,
    "x2start_lowerright": 1601,
    "x2start_upperright": 1597,
    "y2start": 351,
    "x2size": 100,
    "y2size": 50,
}
DRIFT = {
    **FULL,
    "fast_clks": 1,
    "readout": "Fast",
    "dwell": 0.001,
    "exptime": 0.02,
    "clear": 0,
    "app": "Drift",
    "x1start_left": 101,
    "x1start_right": 1801,
    "y1start": 11,
    "x1size": 40,
    "y1size": 24,
}
MINIMAL = {
    "appdata": {**FULL, "dummy_out": 0, "clear": 0, "multipliers": [1, 2, 1, 1, 3]},
    "user": {"flags": "bias", "ID": "X"},
}
IDLE = {"appdata": {"app": "Idle"}}

HEADER = """\
setup RADEG 17.5541 DECDEG 60.0766 LST 2.3 M2UZ -2.13 T_TUBE 9.5 GTCPROG abc GTCPRGID GTC1-25A \
GTCOBID 0007 OBSERVER "SL, VSD" OBJECT "HT Cas"
setup RUNCOM "test run" IMAGETYP data OBSMODE Imaging FILTERS us,gs,rs,is,zs PROGRM GTC1-25A \
PI "A. N. Other" TELESCOP GTC RA 01:10:13 DEC +60:04:35 ELEVAT 55.1
setup AZIMUTH 12.3 AIRMASS 1.22 INSTRPA 22.1 TELFOCUS -2.13 MOONDIST 88.2 ORIGIN GRANTECAN \
CCD1TEMP -90.0 CCD2TEMP -90.0 CCD3TEMP -90.0 CCD4TEMP -90.0
setup CCD5TEMP -90.0 CCD1VAC 0.00123 CCD2VAC 0.00123 CCD3VAC 0.00123 CCD4VAC 0.00123 \
CCD5VAC 0.00123 CCD1FLOW 1.05 CCD2FLOW 1.05 CCD3FLOW 1.05 CCD4FLOW 1.05
setup CCD5FLOW 1.05 FPSLIDE 1100.0 COMPOPOA 66.4 COMPOINJ P
"""
BARE_HEADER = """\
setup DEC +00:00:00.0 ELEVAT -999 AZIMUTH -999 AIRMASS -999 INSTRPA -999 TELFOCUS -999 \
MOONDIST -999 ORIGIN ING CCD1TEMP -999 CCD2TEMP -999
setup CCD3TEMP -999 CCD4TEMP -999 CCD5TEMP -999 CCD1VAC -999 CCD2VAC -999 CCD3VAC -999 \
CCD4VAC -999 CCD5VAC -999 CCD1FLOW -999 CCD2FLOW -999
setup CCD3FLOW -999 CCD4FLOW -999 CCD5FLOW -999 FPSLIDE -999 COMPOPOA -999 COMPOINJ UNDEF
"""
WIN1 = """DET.WIN1.NX 200 DET.WIN1.NY 100 DET.WIN1.XSE 300 DET.WIN1.XSF 348 DET.WIN1.XSG 352 \
DET.WIN1.XSH 304 DET.WIN1.YS 200 DET.WIN1.YS.GUI 201 DET.WIN1.XSLL 301 DET.WIN1.XSLR 1501 \
DET.WIN1.XSUL 305 DET.WIN1.XSUR 1497"""
WIN2 = """DET.WIN2.NX 100 DET.WIN2.NY 50 DET.WIN2.XSE 400 DET.WIN2.XSF 348 DET.WIN2.XSG 352 \
DET.WIN2.XSH 404 DET.WIN2.YS 350 DET.WIN2.YS.GUI 351 DET.WIN2.XSLL 401 DET.WIN2.XSLR 1601 \
DET.WIN2.XSUL 405 DET.WIN2.XSUR 1597"""
BINNED = """setup DET.RESTRICT F DET.SPEED 1 DET.BINX1 2 DET.BINY1 2 DET.CLRCCD F DET.NCLRS 5 \
DET.DUMMY 1 DET.FASTCLK 0 DET.EXPLED F DET.GPS T DET.INCPRSCX F DET.INCOVSCY F DET.NSKIPS1 0 \
DET.NSKIPS2 1 DET.NSKIPS3 0 DET.NSKIPS4 0 DET.NSKIPS5 2 DET.SEQ.CLKFILE hipercam.bclk \
DET.SEQ1.DIT 2.5 DET.SEQ.TRIGGER F DET.TDELAY.GUI 100.0"""

GOLDEN = {
    "full frame, dithering": (
        COMMON | {"appdata": FULL | NOD},
        f"""seq stop
setup DET.READ.CURID 1
{HEADER}setup DET.RESTRICT F DET.SPEED 0 DET.BINX1 1 DET.BINY1 1 DET.CLRCCD T DET.NCLRS 5 \
DET.DUMMY 1 DET.FASTCLK 0 DET.EXPLED F DET.GPS T DET.INCPRSCX F DET.INCOVSCY F DET.NSKIPS1 0 \
DET.NSKIPS2 0 DET.NSKIPS3 0 DET.NSKIPS4 0 DET.NSKIPS5 0 DET.SEQ.CLKFILE hipercam.bclk \
DET.SEQ1.DIT 2.5 DET.SEQ.TRIGGER T DET.TDELAY.GUI 100.0
acqproc hiperCamCCD -chip 5 -t 4 -nq 5 -deml 0 -gps 1 -aveg 4 -aps 8 -drf 0""",
    ),
    "one quad": (
        COMMON | {"appdata": ONE_QUAD},
        f"""seq stop
setup DET.READ.CURID 2
{HEADER}{BINNED} {WIN1} DET.FRAM2.BREAK 100
acqproc hiperCamCCD -chip 5 -t 4 -nq 30 -deml 0 -gps 1 -aveg 1 -aps 8 -drf 0""",
    ),
    "two quads": (
        COMMON | {"appdata": TWO_QUADS},
        f"""seq stop
setup DET.READ.CURID 3
{HEADER}{BINNED} {WIN1} {WIN2} DET.FRAM2.BREAK 100
acqproc hiperCamCCD -chip 5 -t 4 -nq 10 -deml 0 -gps 1 -aveg 1 -aps 8 -drf 0""",
    ),
    "drift": (
        COMMON | {"appdata": DRIFT},
        f"""seq stop
setup DET.READ.CURID 4
{HEADER}setup DET.RESTRICT F DET.SPEED 1 DET.BINX1 1 DET.BINY1 1 DET.CLRCCD F DET.NCLRS 5 \
DET.DUMMY 1 DET.FASTCLK 1 DET.EXPLED F DET.GPS T DET.INCPRSCX F DET.INCOVSCY F DET.NSKIPS1 0 \
DET.NSKIPS2 0 DET.NSKIPS3 0 DET.NSKIPS4 0 DET.NSKIPS5 0 \
DET.SEQ.CLKFILE hipercam_fastclk.bclk DET.SEQ1.DIT 0.02 DET.SEQ.TRIGGER F DET.TDELAY.GUI 1.0 \
DET.DRWIN.NX 40 DET.DRWIN.NY 24 DET.DRWIN.YS 10 DET.DRWIN.YS.GUI 11 DET.DRWIN.XSE 100 \
DET.DRWIN.XSF 208 DET.DRWIN.XSH 100 DET.DRWIN.XSG 208 DET.DRWIN.XSL 101 DET.DRWIN.XSR 1801
acqproc hiperCamCCD -chip 5 -t 4 -nq 800 -deml 0 -gps 1 -aveg 1 -aps 8 -drf 1""",
    ),
    "idle": (
        IDLE,
        f"""seq stop
setup DET.READ.CURID 1
setup OBSMODE Imaging TELESCOP WHT RA 00:00:00.00
{BARE_HEADER}setup DET.RESTRICT F DET.SPEED 0 DET.BINX1 1 DET.BINY1 1 DET.CLRCCD T DET.NCLRS 5 \
DET.DUMMY 0 DET.FASTCLK 0 DET.EXPLED F DET.GPS F DET.INCPRSCX F DET.INCOVSCY F DET.NSKIPS1 0 \
DET.NSKIPS2 0 DET.NSKIPS3 0 DET.NSKIPS4 0 DET.NSKIPS5 0 DET.SEQ.CLKFILE hipercam_se.bclk \
DET.SEQ1.DIT 10 DET.SEQ.TRIGGER F DET.TDELAY.GUI 10000
acqproc hiperCamCCD -chip 5 -t 4 -nq 5 -deml 0 -gps 1 -aveg 4 -aps 8 -drf 0
seq start""",
    ),
    "as little as there can be": (
        MINIMAL,
        f"""seq stop
setup DET.READ.CURID 1
setup OBJECT Bias IMAGETYP bias OBSMODE Bias PROGRM X TELESCOP WHT RA 00:00:00.00
{BARE_HEADER}setup DET.RESTRICT F DET.SPEED 0 DET.BINX1 1 DET.BINY1 1 DET.CLRCCD F DET.NCLRS 5 \
DET.DUMMY 0 DET.FASTCLK 0 DET.EXPLED F DET.GPS T DET.INCPRSCX F DET.INCOVSCY F DET.NSKIPS1 0 \
DET.NSKIPS2 1 DET.NSKIPS3 0 DET.NSKIPS4 0 DET.NSKIPS5 2 DET.SEQ.CLKFILE hipercam_se.bclk \
DET.SEQ1.DIT 2.5 DET.SEQ.TRIGGER F DET.TDELAY.GUI 100.0
acqproc hiperCamCCD -chip 5 -t 4 -nq 5 -deml 0 -gps 1 -aveg 4 -aps 8 -drf 0""",
    ),
}


def words(line: str) -> list[str]:
    """Split at blanks, with only double quotes honoured."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace, lexer.whitespace_split = " ", True
    lexer.quotes, lexer.escape, lexer.commenters = '"', "", ""
    return list(lexer)


def pairs(lines: list[str]) -> dict[str, str]:
    """Return the keywords that ``setup`` lines set."""
    found: dict[str, str] = {}
    for command, *rest in map(words, lines):
        if command == "setup":
            found.update(zip(rest[::2], rest[1::2], strict=True))
    return found


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("form", [lambda setup: setup, json.dumps], ids=["dict", "JSON"])
def test_each_mode_gives_the_lines_it_always_gave(name: str, form: Any) -> None:
    setup, expected = GOLDEN[name]
    assert read(form(setup)).commands() == expected.splitlines()


def test_a_run_tells_its_mode_its_length_and_whether_it_dithers() -> None:
    told = [
        (run.mode, run.numexp, run.dithering)
        for run in (read(setup) for setup, _ in GOLDEN.values())
    ]
    assert told == [
        ("FullFrame", 0, True),
        ("Windows", 100, False),
        ("Windows", 100, False),
        ("Drift", 0, False),
        ("Idle", 0, False),
        ("FullFrame", 0, False),
    ]


def user(**keys: object) -> dict[str, Any]:
    return COMMON | {"appdata": FULL, "user": COMMON["user"] | keys}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"OB": 12}, ("GTC1-25A", "0012", "HT Cas", "Imaging")),
        ({"OB": "OB-3"}, ("GTC1-25A", "OB-3", "HT Cas", "Imaging")),
        ({"OB": None}, ("GTC1-25A", "0001", "HT Cas", "Imaging")),
        ({"ID": "CALIB22"}, ("CALIB22", "CALIB", "HT Cas", "Imaging")),
        ({"flags": "dark"}, ("Calib", "CALIB", "Dark", "Dark")),
        ({"flags": "flat"}, ("Calib", "CALIB", "Skyflat", "SkyFlat")),
        ({"flags": "technical"}, ("GTC1-25A", "0007", "HT Cas", "Imaging")),
    ],
)
def test_the_kind_of_run_names_its_program_and_object(
    keys: dict[str, object], expected: tuple[str, ...]
) -> None:
    cards = pairs(read(user(**keys)).commands())
    assert tuple(cards[key] for key in ("GTCPRGID", "GTCOBID", "OBJECT", "OBSMODE")) == expected


def test_garbage_of_the_telescope_is_left_out() -> None:
    groups = [
        'GOOD = 1;DET.SPEED = 1;lower = 2;NINELONGX = 3;TWO WORDS = 4;QUOTE = a"b;= 5;JUNK',
        f"LONG = {'x' * 69};UTF = °C;CONTROL = 'a\nb';DATE-OBS= '2024/01/02';EMPTY = / no value",
    ]
    plain = read(COMMON | {"appdata": FULL, "gtc_headers": []})
    run = read(COMMON | {"appdata": FULL, "gtc_headers": groups})
    assert run.header - plain.header == {"GOOD", "DATE-OBS", "GTCPRGID", "GTCOBID"}


def test_of_a_keyword_given_twice_the_first_place_and_the_last_value_count() -> None:
    line = read(COMMON | {"appdata": FULL, "gtc_headers": ["ELEVAT = 1;X = 2"]}).commands()[2]
    assert line.startswith("setup ELEVAT 55.1 X 2 GTCPRGID ")


def test_null_is_as_good_as_missing_where_a_key_may_miss() -> None:
    nothing = dict.fromkeys(["gps_attached", "gtc_headers", "tcs", "compo"])
    setup = MINIMAL | nothing | {"hardware": {"ccd1temp": None, "unheard": "of"}}
    assert read(setup).commands() == read(MINIMAL).commands()


def test_gps_is_not_used_when_none_is_attached() -> None:
    assert "-gps 0" in read(MINIMAL | {"gps_attached": 0}).commands()[-1]


def test_what_an_earlier_setup_sent_and_this_one_does_not_is_cleared() -> None:
    first = read(COMMON | {"appdata": FULL})
    second = read(MINIMAL)
    assert {"RADEG", "RUNCOM"} <= first.header - second.header
    cards = pairs(second.commands(first.header))
    assert {key for key, value in cards.items() if value == ""} == first.header - second.header
    assert first.commands(first.header) == first.commands()
    assert 'setup OBSERVER "" OBJECT Bias RUNCOM "" ' in second.commands(first.header)[2]


def test_an_endless_run_does_not_end_where_the_one_before_did() -> None:
    finite, endless = read({"appdata": ONE_QUAD}), read({"appdata": FULL})
    assert pairs(endless.commands(finite.header))["DET.FRAM2.BREAK"] == "0"
    assert pairs(finite.commands(finite.header))["DET.FRAM2.BREAK"] == "100"
    assert "DET.FRAM2.BREAK" not in pairs(endless.commands(endless.header))


MISTAKES = [
    (FULL, {"xbin": 3}, "appdata.xbin is 3: must divide the 1024 pixels of an output"),
    (FULL, {"xbin": 512}, "appdata.xbin is 512: must leave a multiple of 4 pixels"),
    (FULL, {"ybin": 5}, "appdata.ybin is 5: must divide the 512 pixels"),
    (FULL, {"xbin": 4, "oscan": 1}, "appdata.xbin is 4: must be 1 or 2 with overscan"),
    (FULL, {"ybin": 4, "oscany": 1}, "appdata.ybin is 4: must be 1 or 2 with overscan"),
    (FULL, {"xbin": 0}, "appdata.xbin is 0: must be a whole number from 1 to 1024"),
    (FULL, {"xbin": True}, "appdata.xbin is True: must be a whole number"),
    (FULL, {"xbin": "2"}, "appdata.xbin is '2': must be a whole number"),
    (FULL, {"xbin": None}, "appdata.xbin is missing"),
    (FULL, {"multipliers": [1] * 4}, "appdata.multipliers is [1, 1, 1, 1]: "),
    (FULL, {"multipliers": [1] * 6}, "appdata.multipliers is [1, 1, 1, 1, 1, 1]: "),
    (FULL, {"multipliers": [1, 1, 501, 1, 1]}, "appdata.multipliers.2 is 501: must be a whole"),
    (FULL, {"multipliers": [0, 1, 1, 1, 1]}, "appdata.multipliers.0 is 0: must be a whole"),
    (FULL, {"dwell": 1677.7208}, "appdata.dwell is 1677.7208: must be a number from 0 to 1677.72"),
    (FULL, {"dwell": -0.1}, "appdata.dwell is -0.1"),
    (FULL, {"exptime": float("nan")}, "appdata.exptime is nan: must be a number"),
    (FULL, {"exptime": float("inf")}, "appdata.exptime is inf: must be a number"),
    (FULL, {"numexp": -1}, "appdata.numexp is -1"),
    (FULL, {"clear": "maybe"}, "appdata.clear is 'maybe': must be 0 or 1"),
    (FULL, {"readout": "Medium"}, "appdata.readout is 'Medium': "),
    (FULL, {"app": "Fulframe"}, "appdata.app is 'Fulframe': "),
    (FULL, {"app": ["Idle"]}, "appdata.app is ['Idle']: "),
    (FULL, {"nodpattern": {"ra": [1, 2], "dec": [1]}}, "must have as many offsets as ra: 2"),
    (FULL, {"nodpattern": {"ra": [1, 2]}}, "must have as many offsets as ra: 2"),
    (FULL, {"nodpattern": {"ra": ["x"], "dec": [1]}}, "appdata.nodpattern.ra.0 is 'x'"),
    (FULL, {"nodpattern": 5}, "appdata.nodpattern is 5: must be an object"),
    (DRIFT, {"clear": 1}, "appdata.clear is 1: must be omitted in drift mode"),
    (DRIFT, NOD, "must be omitted in drift mode"),
    (DRIFT, {"x1start_left": 986}, "must end a window of 40 by 1024, not at 1025"),
    (DRIFT, {"x1start_right": 1024}, "must be a whole number from 1025 to 2048"),
    (DRIFT, {"x1start_right": 2010}, "must end a window of 40 by 2048, not at 2049"),
    (DRIFT, {"y1start": 490}, "must end a window of 24 by 512, not at 513"),
    (ONE_QUAD, {"x1start_lowerleft": 0}, "appdata.x1start_lowerleft is 0"),
    (ONE_QUAD, {"x1start_upperleft": 826}, "must end a window of 200 by 1024, not at 1025"),
    (ONE_QUAD, {"x1start_upperright": 1850}, "must end a window of 200 by 2048, not at 2049"),
    (ONE_QUAD, {"x1start_lowerright": 900}, "must be a whole number from 1025 to 2048"),
    (ONE_QUAD, {"y1start": 414}, "must end a window of 100 by 512, not at 513"),
    (ONE_QUAD, {"x1size": 1}, "appdata.x1size is 1: must be at least one binned pixel: 2"),
    (ONE_QUAD, {"x1size": None}, "appdata.x1size is missing"),
    (TWO_QUADS, {"y2start": 300}, "rows 300 to 349 of the second quad apart from 201 to 300"),
    (TWO_QUADS, {"y2start": 152}, "rows 152 to 201 of the second quad apart from 201 to 300"),
    (TWO_QUADS, {"y2size": None}, "appdata.y2size is missing"),
]


@pytest.mark.parametrize(("good", "change", "sentence"), MISTAKES)
def test_a_mistake_is_named_with_its_value_and_the_limit(
    good: dict[str, object], change: dict[str, object], sentence: str
) -> None:
    read({"appdata": good})
    with pytest.raises(SetupError) as caught:
        read({"appdata": good | change})
    assert sentence in str(caught.value)
    assert str(caught.value).count(" is ") == 1, "one mistake, one sentence"


@pytest.mark.parametrize(
    ("app", "change"),
    [
        (FULL, {"xbin": 256, "ybin": 512}),
        (FULL, {"xbin": 2, "ybin": 2, "oscan": 1, "oscany": 1}),
        (FULL, {"dwell": 1677.7207, "multipliers": [500] * 5}),
        (FULL, {"clear": False, "nodpattern": {}}),
        (DRIFT, {"nodpattern": {"ra": [], "dec": []}}),
        (ONE_QUAD, {"x1start_lowerleft": 825, "x1start_lowerright": 1849, "y1start": 413}),
        (ONE_QUAD, {"x1start_lowerleft": 1, "x1start_lowerright": 1025, "y1start": 1}),
        (TWO_QUADS, {"y2start": 301}),
        (TWO_QUADS, {"y2start": 151}),
    ],
)
def test_the_limits_themselves_are_allowed(
    app: dict[str, object], change: dict[str, object]
) -> None:
    assert read({"appdata": app | change}).commands()


@pytest.mark.parametrize(
    ("block", "key", "value", "sentence"),
    [
        ("user", "target", 'a"b', "printable ASCII without double quotes"),
        ("user", "target", "a\nb", "printable ASCII"),
        ("user", "comment", "5 °C", "printable ASCII"),
        ("user", "comment", "\ud800", "printable ASCII"),
        ("user", "PI", "x" * 69, "at most 68 characters"),
        ("user", "PI", "'" * 35, "at most 68 characters"),
        ("user", "PI", 5, "must be text"),
        ("user", "OB", 1.5, "must be text"),
        ("tcs", "alt", "high", "must be a number"),
        ("tcs", "alt", float("nan"), "must be a number"),
        pytest.param("tcs", "alt", 10**5000, "must be a number", id="huge"),
        ("hardware", "ccd3vac", True, "must be a number"),
        ("compo", "injection_side", [], "must be text"),
    ],
)
def test_what_cannot_stand_in_a_header_is_a_mistake(
    block: str, key: str, value: object, sentence: str
) -> None:
    with pytest.raises(SetupError, match=rf"^{block}\.{key} is .*: .*{sentence}"):
        read({"appdata": FULL, block: {key: value}})


def test_all_mistakes_are_named_at_once() -> None:
    setup = {
        "gps_attached": "yes",
        "appdata": TWO_QUADS | {"xbin": -1, "y2start": 300, "dwell": None, "x1size": 2000},
        "user": {"target": "é"},
        "tcs": 3,
        "gtc_headers": "text",
    }
    with pytest.raises(SetupError) as caught:
        read(setup)
    named = ("xbin", "y2start", "dwell", "x1size", "gps_attached", "target", "tcs", "gtc_headers")
    assert [name for name in named if name not in str(caught.value)] == []
    assert str(caught.value).count(" is ") == len(named)


@pytest.mark.parametrize(
    "setup", [None, [], 5, "", "{", "[1]", "{}", {"appdata": 3}, "[" * 100_000, b"{}"]
)
def test_what_is_no_setup_is_refused(setup: object) -> None:
    with pytest.raises(SetupError, match="The setup"):
        read(setup)


names = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=40)


@given(names, names, st.lists(st.tuples(names, names)), st.sets(st.sampled_from(["RUNCOM", "Y"])))
def test_a_value_never_becomes_more_than_one_word(
    target: str, comment: str, items: list[tuple[str, str]], sent: set[str]
) -> None:
    setup = user(target=target, comment=comment) | {
        "gtc_headers": [f"{name} = {value}" for name, value in items] + ["X = 1"]
    }
    try:
        run = read(setup)
    except SetupError:
        assert '"' in target + comment or max(len(target), len(comment)) > 34
        return
    lines = run.commands(sent)
    cards = pairs(lines)
    assert cards.get("OBJECT", "") == target
    assert cards.get("RUNCOM", "") == comment
    assert {word[0] for word in map(words, lines)} == {"seq", "setup", "acqproc"}
    plain = pairs(read(user()).commands())
    assert {key for key in cards if "." in key} == {key for key in plain if "." in key}
    assert cards["DET.SPEED"] == "0"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([FULL, ONE_QUAD, TWO_QUADS, DRIFT]), st.data())
def test_no_setup_is_too_strange(app: dict[str, object], data: st.DataObject) -> None:
    broken = app | {data.draw(st.sampled_from([*app, "nodpattern"])): data.draw(anything)}
    rest = {data.draw(st.sampled_from(list(COMMON))): data.draw(anything)}
    try:
        lines = read(COMMON | rest | {"appdata": broken}).commands()
    except SetupError:
        return
    assert all(line.isascii() and line.isprintable() for line in lines)
