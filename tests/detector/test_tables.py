import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from astropy.utils.data import download_file

from hcam_devices.detector import tables
from hcam_devices.detector.tables import append

from ..helpers import AT_MOST

CHILD = """
import json, os, sys
from pathlib import Path
from astropy.io import ascii
from hcam_devices.detector.tables import append

ascii.read(sys.argv[1].splitlines(), format="ecsv", guess=False)  # imports what it needs
for line in sys.stdin:
    if (child := os.fork()) == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
folder, last, part = json.loads(line)
folder = Path(folder)
count = 0

def deadly(call):
    def counted(*arguments):
        global count
        count += 1
        if count == last:
            if part:
                file, data, place = arguments
                call(file, data[:part], place)
            os._exit(77)
        return call(*arguments)
    return counted

for name in ("ftruncate", "pwrite", "fsync"):
    setattr(os, name, deadly(getattr(os, name)))
append(folder, 12, (folder / "table.ecsv").read_text())
os._exit(count)
"""
"""For each line it forks a process that ends before the system call of this number, or after a part
of it, else with their count; and prints its exit status."""
CALLS = 6
WRITE = 3
"""The call that writes all of the table but eight bytes."""


def ecsv(table: Table, folder: Path) -> str:
    path = folder / "table.ecsv"
    table.write(path, format="ascii.ecsv", overwrite=True)
    return path.read_text()


def nods(rows: int = 20) -> Table:
    table = Table({"RAOFF": np.arange(rows) * 1.5, "DECOFF": np.full(rows, np.nan)})
    table["RAOFF"].unit = table["DECOFF"].unit = "arcsec"
    return table


def telescope(rows: int = 300) -> Table:
    """Return a table such as that of the GTC, whose header has more than one block."""
    table = Table({f"KEY{n}": np.arange(rows) + n / 7 for n in range(20)})
    table["MJD"] = 60000 + np.arange(rows) / 1440
    table["STATUS"] = ["tracking"] * rows
    return table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run0012.fits"
    cube = np.arange(6000, dtype="i2").reshape(2, 3, 1000)
    fits.PrimaryHDU(cube).writeto(path)
    return path


def the_table(path: Path, number: int = 1) -> Table:
    with fits.open(path, memmap=False) as file:
        return Table.read(file[number])


def lengths(path: Path) -> list[int]:
    """Return how many rows the tables of a file have, which must be to the standard."""
    with fits.open(path, memmap=False) as file:
        file.verify("exception")
        return [len(hdu.data) for hdu in file[1:]]


def test_a_nod_table_comes_back_with_its_units_and_nan(run: Path) -> None:
    old = run.read_bytes()
    said = append(run.parent, 12, ecsv(nods(), run.parent))
    assert said == "20 rows appended to run0012.fits"
    assert run.read_bytes().startswith(old)
    assert lengths(run) == [20]
    found = the_table(run)
    assert found.colnames == ["RAOFF", "DECOFF"]
    assert found["RAOFF"].unit == found["DECOFF"].unit == "arcsec"
    assert list(found["RAOFF"]) == [n * 1.5 for n in range(20)]
    assert np.isnan(fits.getdata(run, 1)["DECOFF"]).all()


def test_a_telescope_table_comes_back_with_its_times_to_the_last_bit_and_its_text(
    run: Path,
) -> None:
    append(run.parent, 12, ecsv(telescope(), run.parent))
    found = the_table(run)
    assert list(found["MJD"]) == list(telescope()["MJD"])
    assert set(found["STATUS"]) == {"tracking"}


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "f4", "f8"])
def test_missing_numbers_are_missing_and_no_others(run: Path, kind: str) -> None:
    extreme = 100.0 if kind[0] == "f" else np.iinfo(kind).max
    column = MaskedColumn([1, 2, 63, extreme], mask=[0, 1, 0, 0], dtype=kind)
    append(run.parent, 12, ecsv(Table({"N": column}), run.parent))
    assert the_table(run)["N"].tolist() == [1, None, 63, extreme]


def test_missing_text_is_empty_and_a_missing_truth_is_refused(run: Path) -> None:
    texts = MaskedColumn(["a", "bb"], mask=[0, 1])
    append(run.parent, 12, ecsv(Table({"S": texts, "E": ["", ""]}), run.parent))
    assert fits.getdata(run, 1)["S"].tolist() == ["a", ""]
    assert fits.getdata(run, 1)["E"].tolist() == ["", ""]
    truths = MaskedColumn([True, True], mask=[0, 1])
    with pytest.raises(ValueError, match="column T lacks truth values; send 0 and 1"):
        append(run.parent, 12, ecsv(Table({"T": truths}), run.parent))


TIMES = Time(["2026-11-29T03:00:00.123456789", "2026-11-29T03:00:10"], scale="utc", precision=9)
PLACES = SkyCoord([17.5541, 18], [60.0766, -1], unit="deg", frame="fk5", equinox="J1975")


def test_times_and_places_come_back_as_astropy_itself_writes_them(run: Path) -> None:
    columns = {"when": TIMES, "where": PLACES, "after": TIMES - TIMES[0], "RA": [1.0, 2.0] * u.deg}
    text = ecsv(QTable(columns | {"N": np.array([1, 2], "i1")}), run.parent)
    assert append(run.parent, 12, text) == "2 rows appended to run0012.fits"
    assert "already has this table" in append(run.parent, 12, text)
    assert lengths(run) == [2]
    with fits.open(run, memmap=False) as file:
        found = QTable.read(file[1], astropy_native=True)
        assert (file[1].header["TCTYP1"], file[1].columns[0].format) == ("UTC", "2D")
    assert np.abs((found["when"] - TIMES).to_value("ns")).max() < 1e-3
    assert found["where"].frame.is_equivalent_frame(PLACES.frame)
    assert found["where"].separation(PLACES).max() < 1e-12 * u.deg
    assert found["after"].to_value("s") == pytest.approx([0, 9.876543211])
    assert list(found["RA"]) == [1.0 * u.deg, 2.0 * u.deg]
    assert list(found["N"]) == [1, 2]


def test_a_time_that_is_missing_is_not_a_number(run: Path) -> None:
    times = Time(np.ma.MaskedArray([60000.0, 60001.0], mask=[False, True]), format="mjd")
    append(run.parent, 12, ecsv(Table({"when": times}), run.parent))
    assert np.isnan(fits.getdata(run, 1)["when"]).any(axis=1).tolist() == [False, True]


def test_nothing_is_asked_of_the_internet(run: Path) -> None:
    append(run.parent, 12, ecsv(Table({"when": TIMES}), run.parent))
    with pytest.raises(OSError, match="internet"):
        download_file("http://127.0.0.1:9/leap-seconds.list")


def test_the_same_table_twice_is_there_once_and_another_behind_it(run: Path) -> None:
    for table in (nods(), telescope()):
        append(run.parent, 12, ecsv(table, run.parent))
    once = run.read_bytes()
    for table in (nods(), telescope()):
        said = append(run.parent, 12, ecsv(table, run.parent))
        assert said == "run0012.fits already has this table"
    assert run.read_bytes() == once
    assert lengths(run) == [20, 300]


Die = Callable[..., int]


@pytest.fixture(scope="module")
def die(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Die]:
    """Append in a process that dies; return its exit status."""
    command = [sys.executable, "-c", CHILD, ecsv(nods(), tmp_path_factory.mktemp("die"))]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as mother:
        asked, said = mother.stdin, mother.stdout
        assert asked
        assert said

        def append_and_die(folder: Path, step: int, part: int = 0) -> int:
            print(json.dumps([str(folder), step, part]), file=asked, flush=True)
            return int(said.readline())

        yield append_and_die
        mother.communicate()


def check(run: Path, old: bytes, *, whole: bool = True) -> None:
    """Check that the old HDUs are what they were, by bytes and as astropy reads them."""
    new = run.read_bytes()
    assert new.startswith(old)
    assert len(new) % 2880 == 0
    with fits.open(run, memmap=False) as file:
        assert file[0].data.sum() == np.arange(6000).sum()
        assert len(file[1].data) == 20
    if whole and len(new) > len(old):  # so that astropy can list the HDUs after them
        if any(new[len(old) :]):
            with fits.open(run, memmap=False) as file:
                assert len(file) == 3
        else:
            with pytest.warns(match="extra padding"), fits.open(run, memmap=False) as file:
                assert len(file) == 2


def test_all_system_calls_that_change_the_file_are_counted(run: Path, die: Die) -> None:
    ecsv(telescope(), run.parent)
    assert die(run.parent, 1000) == CALLS


@pytest.mark.parametrize("step", range(1, CALLS + 1))
def test_whenever_the_process_dies_the_file_is_valid_and_the_next_append_succeeds(
    run: Path, die: Die, step: int
) -> None:
    append(run.parent, 12, ecsv(nods(), run.parent))
    old, text = run.read_bytes(), ecsv(telescope(), run.parent)
    assert die(run.parent, step) == 77
    check(run, old)
    there = step == CALLS  # but for the last fsync
    assert append(run.parent, 12, text).endswith("already has this table") == there
    assert run.read_bytes().startswith(old)
    assert lengths(run) == [20, 300]


@pytest.mark.parametrize("part", [56, 100, 2000, 2872, 4000, 30000])
def test_a_table_that_was_written_in_part_is_free_space_for_a_shorter_one(
    run: Path, die: Die, part: int
) -> None:
    append(run.parent, 12, ecsv(nods(), run.parent))
    old, text = run.read_bytes(), ecsv(telescope(), run.parent)
    assert die(run.parent, WRITE, part) == 77
    assert run.read_bytes().startswith(old + bytes(8) + b"=")
    check(run, old, whole=False)
    assert die(run.parent, WRITE) == 77  # again, after the rest was removed
    check(run, old)
    assert die(run.parent, WRITE, part) == 77
    append(run.parent, 12, ecsv(nods(5), run.parent))
    append(run.parent, 12, text)
    assert run.read_bytes().startswith(old)
    assert lengths(run) == [20, 5, 300]


@pytest.mark.parametrize(
    ("call", "number"),
    [("ftruncate", 2), ("pwrite", 1), ("pwrite", 2), ("fsync", 1), ("fsync", 2)],
)
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_leaves_the_file_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, fault: int
) -> None:
    """Each pwrite takes but a half, as one does that fills the disk."""
    old, text = run.read_bytes(), ecsv(telescope(), run.parent)
    count, pwrite = 0, os.pwrite

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise OSError(fault, os.strerror(fault))
            return real(*arguments)

        return one

    def half(file: int, data: bytes, place: int) -> int:
        return pwrite(file, data[: len(data) // 2 + 1], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        patch.setattr(os, call, failing(getattr(os, call)))
        with pytest.raises(OSError, match=r"run0012\.fits is unchanged") as caught:
            append(run.parent, 12, text)
    assert caught.value.errno == fault
    assert ("the disk is full" in str(caught.value)) == (fault == errno.ENOSPC)
    assert run.read_bytes() == old


def test_a_run_that_lacks_bytes_is_refused(run: Path) -> None:
    os.truncate(run, run.stat().st_size - 1)
    old, text = run.read_bytes(), ecsv(nods(), run.parent)
    with pytest.raises(ValueError, match="has 17279 bytes, but 17280 according to its headers"):
        append(run.parent, 12, text)
    assert run.read_bytes() == old


def test_a_run_with_frames_that_no_header_counts_is_refused(run: Path) -> None:
    data, text = run.read_bytes(), ecsv(nods(), run.parent)
    more = data + bytes(2880) + b"frame".ljust(2880)
    none = data.replace(b"NAXIS3  =                    2", b"NAXIS3  =                    0")
    for content, reason in ((more, "5760 bytes after its last HDU"), (none, "NAXIS3 = 0")):
        run.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            append(run.parent, 12, text)
        assert run.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a FITS file"),
        (b"x" * 5760, "not a FITS file"),
        (b"SIMPLE  =                    T".ljust(2880), "without END at byte 0"),
        (b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800), "bad header at byte 0"),
    ],
)
def test_what_is_no_fits_is_refused(run: Path, content: bytes, reason: str) -> None:
    run.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        append(run.parent, 12, ecsv(nods(), run.parent))
    assert run.read_bytes() == content


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "12", None])
def test_what_is_no_number_of_a_run_is_refused(run: Path, number: Any) -> None:
    with pytest.raises(ValueError, match="is not the number of a run"):
        append(run.parent, number, ecsv(nods(), run.parent))


def test_a_run_that_is_not_there_is_refused_and_not_made(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no run0013\.fits"):
        append(run.parent, 13, ecsv(nods(), run.parent))
    assert not (run.parent / "run0013.fits").exists()


def test_a_run_that_is_a_link_out_of_the_folder_is_refused_and_left_alone(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "run0013.fits"
    elsewhere.write_bytes(run.read_bytes())
    for number, target in ((13, elsewhere), (14, Path("..") / elsewhere.parent.name / "no.fits")):
        (run.parent / f"run{number:04d}.fits").symlink_to(target)
        why = (
            rf"run{number:04d}\.fits is a symbolic link that leads out of .* replace the link with"
        )
        with pytest.raises(ValueError, match=why):
            append(run.parent, number, ecsv(nods(), run.parent))
    assert elsewhere.read_bytes() == run.read_bytes()
    assert os.listdir(elsewhere.parent) == [elsewhere.name]


def test_links_to_the_folder_and_within_it_are_followed(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("site") / "data"
    data.symlink_to(run.parent)
    (run.parent / "run0013.fits").symlink_to("run0012.fits")
    assert "20 rows" in append(data, 12, ecsv(nods(), run.parent))
    assert "already has this table" in append(data, 13, ecsv(nods(), run.parent))
    assert lengths(run) == [20]


@pytest.mark.parametrize("kind", ["pipe", "link to itself", "folder"])
def test_what_is_no_file_is_refused(run: Path, kind: str) -> None:
    path = run.parent / "run0013.fits"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    with pytest.raises((ValueError, OSError), match=r"not a regular|a directory|symbolic links"):
        append(run.parent, 13, ecsv(nods(), run.parent))


COLUMN = "# %ECSV 1.0\n# ---\n# datatype: [{name: a, datatype: string}]\na\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a table in ECSV"),
        ("/etc/passwd", "not a table in ECSV"),
        ("RAOFF DECOFF\n1 2", "not a table in ECSV"),
        ("# %ECSV 1.0\n# ---\n# {datatype: [", "not a table in ECSV"),
        (b"# %ECSV 1.0", "not bytes"),
        (COLUMN, "no rows"),
        (COLUMN + "\N{GREEK SMALL LETTER BETA}", "FITS cannot contain"),
    ],
)
def test_what_is_no_table_is_refused(run: Path, text: Any, reason: str) -> None:
    old = run.read_bytes()
    with pytest.raises(ValueError, match=reason):
        append(run.parent, 12, text)
    assert run.read_bytes() == old


def test_a_file_that_changes_meanwhile_is_left_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, text, look = run.read_bytes(), ecsv(nods(), run.parent), tables._is_free

    def slow(file: int, end: int) -> bool:
        free = look(file, end)
        with run.open("ab") as other:
            other.write(bytes(2880))
        return free

    monkeypatch.setattr(tables, "_is_free", slow)
    with pytest.raises(OSError, match="another program is writing"):
        append(run.parent, 12, text)
    assert run.read_bytes() == old + bytes(2880)


def test_an_append_waits_for_another_and_looks_at_the_file_afterwards(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, said = ecsv(nods(), run.parent), []
    waits, flock = threading.Event(), fcntl.flock

    def locking(file: int, how: int) -> None:
        waits.set()
        flock(file, how)

    with run.open("rb+") as other:
        flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", locking)
        thread = threading.Thread(target=lambda: said.append(append(run.parent, 12, text)))
        thread.start()
        assert waits.wait(AT_MOST)
        other.seek(0, os.SEEK_END)
        other.write(fits_table(nods(3)))
    thread.join(AT_MOST)
    assert said == ["20 rows appended to run0012.fits"]
    assert lengths(run) == [3, 20]


def fits_table(table: Table) -> bytes:
    header: str = fits.table_to_hdu(table).header.tostring()
    return header.encode() + bytes(2880)
