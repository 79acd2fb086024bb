"""What a release needs: one version, its changes, licences of what is not ours, hooks that work."""

import json
import re
import subprocess
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from hcam_devices.wamp.router import panel

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHANGES = (ROOT / "CHANGELOG.md").read_text()
RELEASE = (ROOT / "docs" / "release.md").read_text()
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}


def test_the_version_is_in_one_place() -> None:
    assert PROJECT["version"] == version("hcam_devices")
    files = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-lF", PROJECT["version"], "--", "src/*.py", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (files.returncode, files.stdout) == (1, "")


def test_the_changelog_begins_with_this_version_in_its_sections() -> None:
    newest = re.match(r"# Changes\n\n## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)\n", CHANGES)
    assert newest
    assert newest[1] == PROJECT["version"]
    for release in re.split(r"^## ", CHANGES, flags=re.M)[1:]:
        sections = re.findall(r"^### (\w+)", release, re.M)
        assert sections == [
            name for name in ("Upgrading", "Added", "Changed", "Fixed") if name in sections
        ]
        assert sections[0] == "Upgrading"


def test_the_licences_of_what_is_not_ours_are_packed_and_listed() -> None:
    vendor = panel() / "vendor"
    listed = json.loads((vendor / "list.json").read_text())
    packed = {path.name for glob in PROJECT["license-files"] for path in ROOT.glob(glob)}
    assert packed == {"LICENSE"} | {one["text"] for one in listed}
    licences = {one["licence"] for one in listed} | {"MIT"}
    assert {*PROJECT["license"].split(" AND ")} == licences
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in listed:
        rows[one["package"], one["version"], one["licence"]].append(f"`{one['file']}`")
    for row, files in rows.items():
        assert " | ".join([f"| {', '.join(files)}", *row]) in RELEASE


def test_the_hooks_are_programs_of_the_environment_and_name_no_host() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert "://" not in text
    for hook in HOOKS.values():
        if hook["language"] == "system":
            assert (ROOT / hook["entry"].split()[0]).exists()
    checked = subprocess.run(
        [ROOT / ".venv" / "bin" / "pre-commit", "validate-config"], cwd=ROOT, check=False
    )
    assert checked.returncode == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('password = "correct horse battery"\n', True),  # pragma: allowlist secret
        ("url = 'https://ada:lovelace1815@example.org'\n", True),  # pragma: allowlist secret
        ("-----BEGIN PRIVATE KEY-----\n", True),  # pragma: allowlist secret
        ("# Secret. Whoever can read this file can do what its role may.\n", True),
        ('password = "hunter2"  # of a test\n', False),
    ],
)
def test_a_secret_is_not_committed(tmp_path: Path, text: str, found: bool) -> None:
    file = tmp_path / "settings.py"
    file.write_text(text)
    entry = HOOKS["secrets"]["entry"].split()
    done = subprocess.run([*entry, file], cwd=ROOT, capture_output=True, check=False)
    by_name = re.search(HOOKS["key-files"]["entry"], text)
    assert bool(done.returncode or by_name) == found, done.stdout


def test_what_needs_no_thought_is_fixed(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("a line  \nthe last")
    for name in ("ends-of-lines", "ends-of-files"):
        subprocess.run(
            [*HOOKS[name]["entry"].split(), file], cwd=ROOT, capture_output=True, check=False
        )
    assert file.read_text() == "a line\nthe last\n"
