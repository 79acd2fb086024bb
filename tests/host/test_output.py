"""Output that cannot be written ends no program and delays none."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.host import output

HCAM = str(Path(sys.prefix) / "bin" / "hcam")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue


def test_what_is_read_is_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert output.write(writer, "20 °C\n")
    assert os.read(reader, 100).decode() == "20 °C\n"


def test_nobody_waits_for_a_reader_that_does_not_read(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    assert not output.write(writer, "x" * 10_000_000)
    assert not output.write(writer, "more")


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    assert not output.write(writer, "text")


def test_a_full_disk_is_no_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert not output.write(full, "text")
    finally:
        os.close(full)


SHELL = (
    *("status --url 127.0.0.1:1", "config check", "--help", "history"),
    pytest.param("call --help", marks=pytest.mark.soak),
)


@pytest.mark.parametrize("command", SHELL)
def test_a_command_whose_output_goes_to_a_full_disk_ends_in_a_sentence(
    command: str, tmp_path: Path
) -> None:
    """What it prints to standard error is seen."""
    home = os.environ | {"HCAM_HOME": str(tmp_path)}
    done = subprocess.run(
        f"exec {HCAM} {command} >/dev/full",
        shell=True,
        env=home,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", pytest.param(">&- 2>&-", marks=pytest.mark.soak), "<&- >&- 2>&-"]
)
def test_closed_streams_change_nothing(closed: str) -> None:
    done = subprocess.run(f"exec {HCAM} config check {closed}", shell=True, check=False)
    assert done.returncode == 0


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    program = (
        "from hcam_devices.host import output; output.open_missing_streams(); "
        "import os; raise SystemExit(os.open('/dev/zero', os.O_RDONLY) < 3)"
    )
    shell = f'exec {sys.executable} -c "{program}" <&- >&- 2>&-'
    assert subprocess.run(shell, shell=True, check=False).returncode == 0


def test_a_reader_that_has_enough_is_no_error() -> None:
    shell = f"{HCAM} history --help | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["-v"], ["--log-level", "debug"]])
def test_every_command_has_options_for_its_log(arguments: list[str]) -> None:
    for command in (["config", "check"], ["status"], ["up"], ["call"]):
        said = CliRunner().invoke(main, [*command, "--help"]).output
        assert "--verbose" in said
        assert "--log-level" in said
    assert CliRunner().invoke(main, [*arguments, "config", "check"]).exit_code == 0
    assert CliRunner().invoke(main, ["config", "check", *arguments]).exit_code == 0
