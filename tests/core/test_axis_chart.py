"""The drawing in docs/axis.md shows the chart in core/axis.py."""

from pathlib import Path

from hcam_devices.core.axis import CHART, diagram

DOCS = Path(__file__).parents[2] / "docs"


def test_the_drawing_in_the_docs_is_in_step_with_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (DOCS / "axis.md").read_text()


def test_every_arrow_is_drawn() -> None:
    drawn = diagram()
    for state, arrows in CHART.items():
        for event, following in arrows.items():
            line = next(x for x in drawn.splitlines() if f"{state} --> {following}:" in x)
            assert event in line.partition(": ")[2].replace("(", "").replace(")", "").split(", ")
