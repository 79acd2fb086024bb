"""The drawing in docs/axis.md shows the chart in core/axis.py."""

from pathlib import Path

from hcam_devices.core.axis import CHART, COMMANDS, S

DOCS = Path(__file__).parents[2] / "docs"


def diagram() -> str:
    """Return the chart as a Mermaid state diagram: commands as they are, reports in brackets."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.DISABLED}"]
    for state, arrows in CHART.items():
        together: dict[S, list[str]] = {}
        for event, following in arrows.items():
            together.setdefault(following, []).append(
                str(event) if event in COMMANDS else f"({event})"
            )
        lines += [f"    {state} --> {to}: {', '.join(events)}" for to, events in together.items()]
    return "\n".join(lines)


def test_the_drawing_in_the_docs_is_in_step_with_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (DOCS / "axis.md").read_text()


def test_every_arrow_is_drawn() -> None:
    drawn = diagram()
    for state, arrows in CHART.items():
        for event, following in arrows.items():
            line = next(x for x in drawn.splitlines() if f"{state} --> {following}:" in x)
            assert event in line.partition(": ")[2].replace("(", "").replace(")", "").split(", ")
