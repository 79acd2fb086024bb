"""The names of version 1.7 that hcam_widgets and hcam_drivers import."""

import math

import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from hcam_devices.devices.gtc import Simulator
from hcam_devices.devices.meerstetter import TEC_CURRENT_LIMIT
from hcam_devices.gtc.headers import (
    add_gtc_header_table_row,
    create_gtc_header_table,
    create_header_from_telpars,
)
from hcam_devices.models.slide import BLOCK_POS, UNBLOCK_POS

TELPARS = [
    "INSTRPA = -12.5 / [deg] PA;OBSERVER= 'O''Neil' / who;LONG-NAME_OF_AN_ITEM = 1 / c",
    "LST     = 06:30:00 / [h];ROTATOR = 45.25 / [deg];T_TUBE = warm;M2UZ = '-1.25' / [mm]",
    "\xff\xfe / = ;JUNK;NOTE = 20 \xb0C / \x07 [\xb0C];",
]


def test_positions_and_limits_have_the_values_of_version_1_7() -> None:
    assert (BLOCK_POS, UNBLOCK_POS, TEC_CURRENT_LIMIT) == (-100.0, 1100.0, 10.7)


def test_the_header_has_texts_that_fits_allows() -> None:
    header = create_header_from_telpars(TELPARS)
    assert isinstance(header, fits.Header)
    assert float(header["INSTRPA"]) == -12.5
    assert {name: header[name] for name in ("INSTRPA", "OBSERVER", "M2UZ", "NOTE")} == {
        "INSTRPA": "-12.5",
        "OBSERVER": "O'Neil",
        "M2UZ": "-1.25",
        "NOTE": "20 ?C",
    }
    assert header.comments["NOTE"] == "? [?C]"
    assert header["LONG-NAME_OF_AN_ITEM"] == "1"
    assert "JUNK" not in header


def test_a_row_of_the_table_has_the_time_and_the_numbers_of_the_header() -> None:
    table = create_gtc_header_table()
    assert isinstance(table, Table)
    assert " ".join(table.colnames) == (
        "MJD LST ROTATOR PARANG DOME_AZ AZIMUTH ELEVAT AIRMASS TELFOCUS T_TUBE T_PRIM M2UX M2UY "
        "M2UZ M2RX HUMIN HUMOUT TAMBIENT PRESSURE HUMIDITY WINDSPEE WINDDIRE DEWPOINT"
    )
    assert {column.dtype.name for column in table.itercols()} == {"float64"}
    before = Time.now().mjd
    add_gtc_header_table_row(table, TELPARS)
    (row,) = table
    assert before <= row["MJD"] <= Time.now().mjd
    assert (row["LST"], row["ROTATOR"], row["M2UZ"]) == (6.5, 45.25, -1.25)
    assert math.isnan(row["T_TUBE"])
    assert math.isnan(row["DEWPOINT"])


@pytest.mark.parametrize(("lst", "hours"), [("6.5", 6.5), ("soon", math.nan), ("", math.nan)])
def test_the_sidereal_time_is_in_hours_or_not_a_number(lst: str, hours: float) -> None:
    table = create_gtc_header_table()
    add_gtc_header_table_row(table, [f"LST = {lst} / [h]"])
    assert table["LST"][0] == pytest.approx(hours, nan_ok=True)


def test_the_whole_header_of_the_simulated_telescope_is_in_the_table() -> None:
    table = create_gtc_header_table()
    add_gtc_header_table_row(table, Simulator().groups())
    assert [name for name in table.colnames if math.isnan(table[name][0])] == []
