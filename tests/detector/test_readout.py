import pytest

from hcam_devices.detector.readout import Timing, drift_layout, timing
from hcam_devices.detector.setup import read

from .test_setup import DRIFT, FULL, GOLDEN, pairs


def approx(value: float) -> object:
    return pytest.approx(value, rel=5e-4)


def test_a_full_frame_takes_as_long_as_is_known() -> None:
    full = timing({})
    assert full.readout == approx(2.869)
    assert full.readout / 512 == approx(5.603e-3)
    assert full.cycle - full.readout == approx(7.818e-3)
    assert full.exposure == full.readout, "without clear, light falls while the frame is read"
    assert full.frame_size == 5 * 4 * 1024 * 512 * 2


def test_clearing_takes_time_from_no_exposure() -> None:
    cleared = timing({"DET.CLRCCD": "T", "DET.TDELAY.GUI": "100.0"})
    assert cleared.cycle - timing({}).cycle - 0.1 == approx(85.8e-3)
    assert cleared.exposure == 0.1


def test_a_dwell_without_clear_adds_to_the_readout() -> None:
    assert timing({"DET.TDELAY.GUI": "500"}).exposure == approx(0.5 + 2.869)


@pytest.mark.parametrize(
    ("keywords", "readout"),
    [
        ({"DET.SPEED": "1"}, 512 * (20 + 1074 * 0.24 + 1024 * 1.9 + 0.9)),
        ({"DET.DUMMY": "0"}, 512 * (20 + 1074 * 0.24 + 1024 * 8.72 + 0.9)),
        ({"DET.FASTCLK": "1"}, 512 * (13 + 1074 * 0.12 + 1024 * 5.2 + 0.9)),
        ({"DET.BINX1": "2", "DET.BINY1": "4"}, 128 * (80 + 1074 * 0.24 + 512 * 5.2 + 0.9)),
        ({"DET.INCPRSCX": "T"}, 512 * (20 + 1074 * 0.24 + 1074 * 5.2 + 0.9)),
        ({"DET.INCOVSCY": "T"}, 520 * (20 + 1074 * 0.24 + 1024 * 5.2 + 0.9)),
        (
            {
                "DET.READ.CURID": "3",
                "DET.WIN2.YS": "10",
                "DET.WIN2.NX": "8",
                "DET.WIN2.NY": "20",
                "DET.WIN1.YS": "100",
                "DET.WIN1.NX": "6",
                "DET.WIN1.NY": "5",
            },
            10 * 20 + 18
            + 20 * (20 + 1074 * 0.24 + 8 * 5.2 + 0.9)
            + 70 * 20 + 18
            + 5 * (20 + 1074 * 0.24 + 6 * 5.2 + 0.9),
        ),
    ],
)  # fmt: skip
def test_each_keyword_changes_its_own_term(keywords: dict[str, str], readout: float) -> None:
    assert timing(keywords).readout == pytest.approx(readout * 1e-6)


def test_fast_clocks_move_and_clear_a_frame_faster() -> None:
    slow = timing({"DET.CLRCCD": "T"})
    fast = timing({"DET.CLRCCD": "T", "DET.FASTCLK": "1"})
    transfer, clear = 520 * 13 + 3.6, 5 * 520 * (13 + 3.6)
    assert fast.cycle - fast.readout == pytest.approx((transfer + clear) * 1e-6)
    assert fast.cycle < slow.cycle


def test_windows_make_a_frame_smaller() -> None:
    one, two = (pairs(read(GOLDEN[name][0]).commands()) for name in ("one quad", "two quads"))
    assert timing(one).frame_size == 5 * 4 * 100 * 50 * 2
    assert timing(two).frame_size == 5 * 4 * (100 * 50 + 50 * 25) * 2


@pytest.mark.parametrize(
    ("ny", "layout"), [(24, (11, 16)), (520, (1, 0)), (512, (1, 8)), (1, (260, 1))]
)
def test_the_storage_holds_as_many_drift_windows_as_fit(ny: int, layout: tuple[int, int]) -> None:
    assert drift_layout(ny) == layout


def test_drift_mode_moves_a_window_only() -> None:
    drift = timing(pairs(read({"appdata": DRIFT}).commands()))
    readout = 16 * 13 + 24 * (13 + 1074 * 0.12 + 40 * 1.9 + 0.9)
    assert drift.readout == pytest.approx(readout * 1e-6)
    assert drift.cycle == pytest.approx(1e-3 + (34 * 13 + 3.6 + readout) * 1e-6)
    assert drift.exposure == pytest.approx(1e-3 + readout * 1e-6)
    assert drift.frame_size == 5 * 4 * 40 * 24 * 2


def test_the_keywords_of_every_mode_have_a_timing() -> None:
    for setup, _ in GOLDEN.values():
        found = timing(pairs(read(setup).commands()))
        assert isinstance(found, Timing)
        assert 0 < found.readout < found.cycle
    assert timing(pairs(read({"appdata": FULL}).commands())).exposure == 0.1


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("DET.READ.CURID", "5"),
        ("DET.SPEED", "2"),
        ("DET.BINX1", "0"),
        ("DET.BINX1", "²"),
        ("DET.BINY1", "9" * 5000),
        ("DET.DUMMY", "-1"),
        ("DET.CLRCCD", "yes"),
        ("DET.TDELAY.GUI", "soon"),
        ("DET.TDELAY.GUI", "nan"),
        ("DET.TDELAY.GUI", "-1"),
        ("DET.TDELAY.GUI", "inf"),
    ],
)
def test_a_keyword_that_makes_no_sense_is_named(keyword: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{keyword} is '{value[:56]}.*; give "):
        timing({keyword: value})
