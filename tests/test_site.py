"""The documents as a site, which ``docs/build`` makes."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from hcam_devices.cli.main import SECTIONS
from hcam_devices.config.kinds import kinds
from hcam_devices.errors import WampError

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs" / "decisions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link to a page or heading that is missing is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [ROOT / "docs" / "build", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.merge
def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded: list[str] = []
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded += re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
    for sheet in site.rglob("*.css"):
        loaded += re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", sheet.read_text())
    assert [place for place in loaded if re.match(r"[a-z]+:(?!image/)|//", place, re.I)] == []
    assert len(loaded) > 100


def test_each_decision_has_one_subject() -> None:
    listed = Counter(
        number
        for page in DECISIONS.glob("[a-z]*.md")
        for number in re.findall(r"^- \[(\d{4})\]\(\1-[\w.-]+\.md\): ", page.read_text(), re.M)
    )
    assert listed == Counter(file.name[:4] for file in DECISIONS.glob("[0-9]*.md"))


@pytest.mark.merge
def test_the_reference_has_every_kind_of_device_and_every_command(site: Path) -> None:
    devices = (site / "reference" / "devices.html").read_text()
    assert [kind for kind in kinds() if f"<h2>{kind}<" not in devices] == []
    assert "target_position</span>" in devices
    commands = (site / "reference" / "commands.html").read_text()
    names = {name for section in SECTIONS.values() for name in section}
    assert [name for name in names if f"<h3>hcam {name}<" not in commands] == []
    errors = (site / "reference" / "network.html").read_text()
    assert [error for error in WampError.__subclasses__() if error.uri not in errors] == []
