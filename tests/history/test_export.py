"""Recorded values in the files that astronomers use, read again by astropy."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result

from hcam_devices.cli.main import main

from .written import NOON, Written

FIELDS = ("ccd1.temperature", "ccd1.state.health", "slide.moving")
NIGHT = ("--night", "2026-11-22")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """The files of this home, without a router."""
    monkeypatch.setenv("HCAM_HOME", str(tmp_path))
    monkeypatch.setenv("WAMP_SERVER", "127.0.0.1:1")
    written = Written(tmp_path / "history")
    words: Any = ["OK", "zu heiß"]
    written.write("ccd1", 1000, temperature=[1.0, 2.0], state__health=words)
    written.write("ccd1", 1000, NOON + 1000, temperature=[3.0])  # the same ms again
    written.write("slide", 500, NOON + 500, moving=[True, False])
    yield written
    written.store.close()


def run(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["history", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_fits_has_times_units_and_nulls(written: Written, tmp_path: Path) -> None:
    file = tmp_path / "night.fits"
    assert run("export", *FIELDS, file, *NIGHT).stdout == f"written: {file}\n"
    found = Table.read(file, astropy_native=True)
    assert found.colnames == ["time", *FIELDS]
    assert [time.isot[11:] for time in found["time"]] == [
        "12:00:00.000",
        "12:00:00.500",
        "12:00:01.000",
    ]
    temperature = found["ccd1.temperature"]
    assert temperature.unit == u.deg_C
    assert temperature.filled(np.nan).value.tolist()[::2] == [1.0, 3.0]
    assert temperature.mask.tolist() == [False, True, False]
    assert found["ccd1.state.health"].filled("null").tolist() == ["OK", "null", "zu hei?"]
    assert found["slide.moving"].tolist() == [None, 1, 0]
    with fits.open(file) as lists:
        assert lists[1].header["TIMESYS"] == "UTC"


def test_ecsv_has_everything_as_it_is(written: Written, tmp_path: Path) -> None:
    file = tmp_path / "night.ecsv"
    run("export", *FIELDS, file, *NIGHT)
    found = Table.read(file)
    assert (np.diff(found["time"].unix) > 0).all()
    assert found["ccd1.temperature"].unit == u.deg_C
    assert found["ccd1.state.health"].tolist() == ["OK", None, "zu heiß"]
    assert found["slide.moving"].tolist() == [None, True, False]


def test_csv_is_what_is_printed_with_every_sample(written: Written, tmp_path: Path) -> None:
    file = tmp_path / "night.csv"
    run("export", *FIELDS, file, *NIGHT)
    assert file.read_text() == run(*FIELDS, *NIGHT, "--csv").stdout
    assert len(list(csv.reader(io.StringIO(file.read_text())))) == 1 + 5


def test_a_mistake_leaves_an_existing_file_alone(written: Written, tmp_path: Path) -> None:
    for name in ("night.csv", "night.fits"):
        file = tmp_path / name
        file.write_text("precious")
        wrong = run("export", "ccd1.temprature", file, *NIGHT, code=1)
        assert "ccd1 has no 'temprature'; it has temperature" in wrong.stderr
        assert file.read_text() == "precious"
        assert not [*tmp_path.glob("*.part")]
    said = run("export", *FIELDS, code=2).stderr
    assert "the last argument is the file, which ends with .fits, .ecsv, .csv" in said
    nowhere = tmp_path / "nowhere" / "x.fits"
    assert "cannot be written" in run("export", *FIELDS, nowhere, *NIGHT, code=1).stderr


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ((), "time                      temperature\n2026-11-22T12:00:00.000Z  1.0        \n"),
        (("--csv",), "time,temperature\n2026-11-22T12:00:00.000Z,1.0\n"),
        (("--json",), '[{"time": "2026-11-22T12:00:00.000Z", "temperature": 1.0}]\n'),
    ],
)
def test_an_answer_is_a_table_csv_or_json(
    written: Written, how: tuple[str, ...], said: str
) -> None:
    assert run("--sql", "SELECT time, temperature FROM ccd1 WHERE seq = 1", *how).stdout == said


def test_values_that_json_does_not_have_are_null_or_text(written: Written) -> None:
    text = "SELECT 'nan'::DOUBLE a, [1.5, NULL] b, DATE '2026-11-22' c, '\x1b[31m' d, false e"
    assert run("--sql", text, "--json").stdout == (
        '[{"a": null, "b": [1.5, null], "c": "2026-11-22", "d": "\\u001b[31m", "e": false}]\n'
    )
    assert r"\x1b[31m" in run("--sql", text).stdout


def test_a_long_answer_is_cut_in_a_table_only(written: Written) -> None:
    text = "SELECT * FROM range(1003)"
    cut = run("--sql", text)
    assert len(cut.stdout.splitlines()) == 1001
    assert "and 3 more rows: use --csv or --json" in cut.stderr
    assert len(run("--sql", text, "--csv").stdout.splitlines()) == 1004


def test_options_that_do_not_go_together_are_refused(written: Written) -> None:
    for wrong in (("--last", "1h"), ("--plot",), ("--csv", "--json"), ("ccd1.temperature",)):
        assert "--sql goes with" in run("--sql", "SELECT 1", *wrong, code=2).stderr
    assert "choose one of" in run("ccd1.temperature", "--json", "--csv", code=2).stderr
