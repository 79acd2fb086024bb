"""What ``hcam history`` asks for."""

from typing import Any

import pytest
from click.testing import CliRunner

from hcam_devices.cli import history


def test_the_declared_name_of_a_target_and_its_name_in_history_are_one_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []

    def show(_: object, fields: Any, __: object, declared: Any, **___: object) -> int:
        shown.extend([fields, declared["slide.position.target"].unit])
        return 0

    monkeypatch.setattr(history, "source", lambda file: (None, ""))
    monkeypatch.setattr("hcam_devices.ui.plot.show", show)
    fields = ["slide.target_position", "slide.position.target", "autoguider.seeing"]
    CliRunner().invoke(history.history, fields, catch_exceptions=False)
    assert shown == [("slide.position.target", "autoguider.seeing"), "pix"]
