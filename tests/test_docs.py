"""Run the code blocks of the documentation, word for word."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import click
import pytest

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import load
from hcam_devices.core import sim
from hcam_devices.journal import Journal
from hcam_devices.wamp.agent import Agent

from .devices.description import Description, stands_alone
from .helpers import ENTRIES, living, online, sample_where

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+) (file|output)=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "adding-a-device.md").read_text()
GOING_OVER = (ROOT / "docs" / "going-over-from-1.7.md").read_text()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write the files of the page."""
    files: dict[str, list[str]] = defaultdict(list)
    for _, what, name, text in BLOCK.findall(PAGE):
        files[name if what == "file" else f"{name}.output"].append(text)
    (tmp_path / "devices").mkdir()
    for name, parts in files.items():
        (tmp_path / name).write_text("\n\n\n".join(part.strip("\n") for part in parts) + "\n")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """Run Python with the page's device in its place; return what it prints."""
    done = subprocess.run(
        [sys.executable, *command],
        env={"PYTHONPATH": str(folder / "devices"), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_of_code_is_run_by_this_file() -> None:
    assert len(BLOCK.findall(PAGE)) == PAGE.count("\n```") // 2


def test_it_can_be_tried_raw(written: Path) -> None:
    assert run(written, str(written / "raw.py")) == (written / "raw.py.output").read_text()


def test_its_own_tests_pass(written: Path) -> None:
    settings, tests = str(ROOT / "pyproject.toml"), str(written / "test_domethermometer.py")
    run(written, "-m", "pytest", "-p", "no:cacheprovider", "-c", settings, tests)


async def test_its_table_builds_it_and_it_runs_emulated(written: Path) -> None:
    (entry,) = load(written / "ours.toml").entries.values()
    assert entry.names == ("dome", "DomeThermometer")
    async with sim.serve(entry.cls.simulator()) as place:
        device = entry.build(**place)
        async with living(device):
            sample = await sample_where(device, online)
    assert sample["fan"] == "off"
    assert sample["temperature2"] == {"value": 12.75, "unit": "deg_C"}


def test_it_describes_itself_in_the_documented_form(written: Path) -> None:
    (entry,) = load(written / "ours.toml").entries.values()
    with closing(Journal(written / "journal.sqlite")) as journal:
        described = Agent(entry.build(), entry.names, journal).describe()
    Description.model_validate_json(json.dumps(described))
    for part in (*described["fields"].values(), *described["procedures"].values()):
        assert stands_alone(part["doc"])
    assert described["fields"]["fan"]["type"] == "text"


def test_it_is_in_style_and_typed(written: Path) -> None:
    settings, dome = str(ROOT / "pyproject.toml"), str(written / "devices" / "domethermometer.py")
    run(written, "-m", "ruff", "check", "--config", settings, dome)
    run(written, "-m", "ruff", "format", "--check", "--config", settings, dome)
    cache = str(ROOT / ".mypy_cache")
    run(written, "-m", "mypy", "--config-file", settings, "--cache-dir", cache, dome)


def parsed(arguments: list[str]) -> click.Context:
    """Parse the arguments of ``hcam`` without running it; return the context of its command."""
    context = main.make_context("hcam", arguments)
    while isinstance(group := context.command, click.Group):
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context


def test_going_over_names_only_commands_procedures_and_setpoints_that_exist() -> None:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", GOING_OVER, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(hcam [^`]+)`", GOING_OVER)
    for line in lines:
        context = parsed(shlex.split(line)[1:])
        named = context.params.get("procedure") or context.params.get("topic")
        if named and "." in named:
            device, _, rest = named.partition(".")
            built = ENTRIES[device].build()
            assert rest in built.procedures() or rest in built.fields, line
    assert len(lines) > 10


def test_going_over_has_the_fields_of_telemetry() -> None:
    _, _, table = GOING_OVER.partition("\n## The database\n")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", table, re.MULTILINE)
    for before, now in rows:
        for device, field in re.findall(
            r"`(\w+)\.(\w+)`", now if "same" not in now else before + now
        ):
            assert field in ENTRIES[device].build().fields, f"{device}.{field}"
    assert len(rows) == 9


def test_the_settings_of_going_over_are_settings_of_an_instrument(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    blocks = re.findall(r"^```toml\n(.*?)^```$", GOING_OVER, re.MULTILINE | re.DOTALL)
    path.write_text(load().path.read_text() + "".join(blocks))
    instrument = load(path)
    assert instrument.legacy.enabled
    assert [*tomllib.loads(blocks[1])["stores"]] == ["site"]
    assert "site" in instrument.stores
