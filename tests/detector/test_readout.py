"""The model of the readout against the known figures of a full frame."""

import pytest

from hcam_devices.detector.readout import timing

WINDOW = {"DET.READ.CURID": "2", "DET.WIN1.NX": "200", "DET.WIN1.NY": "100", "DET.WIN1.YS": "0"}


def test_a_full_frame_takes_what_is_known_of_it() -> None:
    plain = timing({})
    assert plain.readout == pytest.approx(2.869, abs=5e-4)
    assert plain.cycle - plain.readout == pytest.approx(7.818e-3, abs=1e-6)
    assert plain.exposure == pytest.approx(plain.readout)
    assert plain.frame_size == 5 * 2048 * 1024 * 2
    cleared = timing({"DET.CLRCCD": "T", "DET.TDELAY.GUI": "100.0"})
    assert cleared.cycle - plain.cycle == pytest.approx(0.1858)
    assert cleared.exposure == pytest.approx(0.1)


def test_what_is_smaller_or_faster_takes_less() -> None:
    full = timing({})
    for less in (
        {"DET.SPEED": "1"},
        {"DET.FASTCLK": "1"},
        {"DET.BINX1": "2"},
        {"DET.BINY1": "2"},
        WINDOW,
        {"DET.READ.CURID": "4", "DET.DRWIN.NX": "40", "DET.DRWIN.NY": "24"},
    ):
        assert timing(less).cycle < full.cycle, less
    assert timing({"DET.DUMMY": "0"}).cycle > full.cycle
    assert timing({"DET.INCPRSCX": "T"}).frame_size == full.frame_size * 1074 // 1024
    assert timing({"DET.INCOVSCY": "T"}).frame_size == full.frame_size * 520 // 512
    assert timing(WINDOW).frame_size == 20 * 2 * 200 * 100
    higher = timing(WINDOW | {"DET.WIN1.YS": "300"})
    assert higher.cycle > timing(WINDOW).cycle


@pytest.mark.parametrize(
    ("key", "value"),
    [("DET.SPEED", "2"), ("DET.BINX1", "0"), ("DET.TDELAY.GUI", "nan"), ("DET.TDELAY.GUI", "x")],
)
def test_what_makes_no_sense_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key} cannot be '{value}'"):
        timing({key: value})
