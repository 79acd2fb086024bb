"""Builds the commit into the wheel and the source distribution."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).parent / "src"
sys.path.insert(0, str(SOURCE))
from hcam_devices.host.installation import COMMIT, commit  # noqa: E402  (not installed yet)


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # without a configuration
    """Adds the file ``COMMIT``, unless a source distribution has brought it, or git knows none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to those of a distribution, but not to an editable installation."""
        if version == "editable" or COMMIT.exists() or not (found := commit(within_s=60)):
            return
        self.folder = TemporaryDirectory()
        file = Path(self.folder.name, "commit")
        file.write_text(found, encoding="ascii")
        within = SOURCE if self.target_name == "wheel" else SOURCE.parent
        build_data["force_include"][str(file)] = str(COMMIT.relative_to(within))
