"""Run the code blocks of the documentation, word for word."""

import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import click
import pytest

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import load
from hcam_devices.core import sim
from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.journal import Journal
from hcam_devices.journal.points import Point, night_bounds
from hcam_devices.wamp.agent import Agent

from .devices.description import Description, stands_alone
from .helpers import ENTRIES, living, online, records, sample_where
from .packaging import new_user

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+) (file|output)=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "adding-a-device.md").read_text()
TELESCOPE = (ROOT / "docs" / "adding-a-telescope.md").read_text()
DATA = (ROOT / "docs" / "data.md").read_text()
GOING_OVER = (ROOT / "docs" / "going-over-from-1.7.md").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()
WRONG = (ROOT / "docs" / "when-something-is-wrong.md").read_text()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write the files of the page about devices."""
    return write(tmp_path, PAGE)


def write(tmp_path: Path, page: str) -> Path:
    """Write the files of a page."""
    files: dict[str, list[str]] = defaultdict(list)
    for _, what, name, text in BLOCK.findall(page):
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
    typed = [block for block in new_user.blocks(PAGE) if not block.file]  # by docs/try
    assert len(BLOCK.findall(PAGE)) + len(typed) == PAGE.count("\n```") // 2


@pytest.mark.parametrize("name", new_user.TASKS)
def test_a_new_user_finds_what_to_type(name: str) -> None:
    text = new_user.section(*new_user.TASKS[name][1:])
    assert any(block.commands() for block in new_user.blocks(text))


def test_it_can_be_tried_raw(written: Path) -> None:
    assert run(written, str(written / "raw.py")) == (written / "raw.py.output").read_text()


@pytest.mark.merge
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
    with closing(Journal(written / "journal")) as journal:
        described = Agent(entry.build(), entry.names, journal).describe()
    Description.model_validate_json(json.dumps(described))
    for part in (*described["fields"].values(), *described["procedures"].values()):
        assert stands_alone(part["doc"])
    assert described["fields"]["fan"]["type"] == "text"


@pytest.mark.merge
def test_it_is_in_style_and_typed(written: Path) -> None:
    settings, dome = str(ROOT / "pyproject.toml"), str(written / "devices" / "domethermometer.py")
    run(written, "-m", "ruff", "check", "--config", settings, dome)
    run(written, "-m", "ruff", "format", "--check", "--config", settings, dome)
    cache = str(ROOT / ".mypy_cache")
    run(written, "-m", "mypy", "--config-file", settings, "--cache-dir", cache, dome)


@pytest.mark.merge
def test_the_telescope_of_the_page_is_built_typed_and_tested(tmp_path: Path) -> None:
    folder = write(tmp_path, TELESCOPE)
    assert len(BLOCK.findall(TELESCOPE)) == TELESCOPE.count("\n```") // 2
    settings, scope = str(ROOT / "pyproject.toml"), str(folder / "devices" / "linescope.py")
    tests = str(folder / "test_linescope.py")
    run(folder, "-m", "pytest", "-p", "no:cacheprovider", "-c", settings, tests)
    run(folder, "-m", "ruff", "check", "--config", settings, scope)
    run(folder, "-m", "ruff", "format", "--check", "--config", settings, scope)
    cache = str(ROOT / ".mypy_cache")
    run(folder, "-m", "mypy", "--config-file", settings, "--cache-dir", cache, scope)
    (entry,) = load(folder / "ours.toml").entries.values()
    assert entry.build().describe()["fields"]["moving"]["type"] == "bool"


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


@pytest.mark.parametrize(
    "page", [GOING_OVER, WRONG, INSTALL], ids=["going over", "wrong", "install"]
)
def test_a_page_names_only_commands_procedures_and_setpoints_that_exist(page: str) -> None:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines = [line.replace("./hcam ", "hcam ").replace("~/hcam/bin/hcam", "hcam") for line in lines]
    lines = [line for line in lines if re.search(r"(^| )hcam ", line)]
    lines += re.findall(r"`(hcam [^`]+)`", re.sub(r"\s+", " ", page))
    for line in lines:
        words = shlex.split(line)
        context = parsed(words[words.index("hcam") + 1 :])
        named = context.params.get("procedure") or context.params.get("topic")
        if named and "." in named:
            device, _, rest = named.partition(".")
            built = ENTRIES[device].build()
            assert rest in built.procedures() or rest in built.fields, line
    assert len(lines) > 6


def test_the_errors_that_are_explained_are_those_of_the_programs() -> None:
    programs = "".join(path.read_text() for path in (ROOT / "src" / "hcam_devices").rglob("*.py"))
    programs = re.sub(r'"\s+f?"', "", programs)  # a text on several lines
    explained = re.findall(r"^\| `([^`]+)` \|", WRONG, re.MULTILINE)
    assert [text for text in explained if text not in programs] == []
    assert len(explained) > 8


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
    assert [*instrument.stores] == ["local", "site"]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two closed nights of ccd1, a sample a minute, and the first hour of another."""
    home = tmp_path_factory.mktemp("home")
    with closing(EmbeddedStore("local", home / "history")) as store:
        for night in ("2026-11-21", "2026-11-22", "2026-11-23"):
            noon, _ = night_bounds(night)
            last = 60 if night == "2026-11-23" else 1440
            store.write(records([
                Point(
                    *("ccd1", night, n, noon + n * 60_000),
                    {"temperature": -90 + n // 60 / 4, "state.health": "OK"},
                    {"temperature": "deg_C"},
                )
                for n in range(last)
            ]))  # fmt: skip
            if last == 1440:
                assert store.close_nights(night) == []
    return home


@pytest.mark.merge
@pytest.mark.parametrize(
    "name", [name for _, what, name, _ in BLOCK.findall(DATA) if what == "file"]
)
def test_recorded_data_are_read_as_its_page_says(history: Path, tmp_path: Path, name: str) -> None:
    blocks = {f"{what}{name}": text for _, what, name, text in BLOCK.findall(DATA)}
    if name == "with_clickhouse.py":
        pytest.importorskip("chdb")  # too large to be required
    (tmp_path / name).write_text(blocks[f"file{name}"])
    done = subprocess.run(
        ["sh" if name.endswith(".sh") else sys.executable, name],
        cwd=tmp_path,
        env={
            "HCAM_HOME": str(history),
            "HOME": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "WAMP_SERVER": "127.0.0.1:1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = blocks[f"output{name}"].splitlines()
    assert list(map(str.rstrip, done.stdout.splitlines())) == list(map(str.rstrip, told))
