"""The stubs of the instrument: mypy finds what is misspelt, and nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

from hcam_devices import client
from hcam_devices.ui.stubs import write

from ..client.test_devices import description_of
from ..helpers import ENTRIES

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio

from hcam_devices.client import {names}
from hcam_devices.wamp.utils import call

with connect() as instrument:
    instrument.slide.block(wait=True)
    instrument.slide.stage.move(timeout=3)
    instrument.gtc.do_offset(1.0, decoff=2)
    instrument.slide.set("target_position", 4)
    found: Reading = instrument.slide.position
    for each in instrument.subscribe("slide", seconds=3):
        print(each.raw, call("hipercam.slide.rpc.telemetry"))
    instrument["ngc"]["exposure.time"].value


async def main() -> None:
    async with connect() as other:
        await other.slide.move(wait=True)
        async for each in other.subscribe("slide"):
            print(each.raw)

instrument.slide.blok()
instrument.slid
instrument.slide.position.unt
instrument.slide.set("position", 4)
instrument.slide.stage.mov()
instrument.gtc.do_offset("x", 1)
"""


def test_names_that_are_keywords_are_left_out_with_what_to_write_instead(tmp_path: Path) -> None:
    slide = description_of("slide")
    moved = {"stage.home": "lambda.import", "block": "global", "stage.move": "stage.try"}
    procedures = {moved.get(name, name): each for name, each in slide["procedures"].items()}
    fields = {{"position": "class"}.get(name, name): each for name, each in slide["fields"].items()}
    renamed = slide | {"procedures": procedures, "fields": fields}
    text = write(tmp_path, {"slide": renamed, "class": slide, "a.b": slide}).read_text()
    ast.parse(text)
    comments = {line.strip() for line in text.splitlines() if line.strip().startswith("#")}
    assert comments == {
        "# 'class', 'a.b': use [name]",
        "# 'class': use [name]",
        "# 'lambda': use call(name + '.' + event)",
        "# 'import': use the device's call('lambda.' + name)",
        "# 'try': use the device's call('stage.' + name)",
        "# 'global', 'try': use call(name)",
    }


def test_a_type_checker_finds_mistakes_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, {name: description_of(name) for name in ENTRIES})
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(names=", ".join(client.__all__)))
    # The settings of the project, or nothing in its cache could be used.
    cache = str(ROOT / ".mypy_cache")
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", cache)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(script)],
        env={"MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    last = len(script.read_text().splitlines())
    lines = [line.split(":")[1] for line in done.stdout.splitlines() if "error:" in line]
    assert lines == [str(number) for number in range(last - 5, last + 1)], done.stdout
