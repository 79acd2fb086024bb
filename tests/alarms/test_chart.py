"""The table of states: every edge, and the drawing of it in the documentation."""

from pathlib import Path

import pytest

from hcam_devices.alarms.chart import CHART, E, S, after, is_new

DOCS = Path(__file__).parents[2] / "docs"
EDGES = [
    (state, event, following)
    for state, arrows in CHART.items()
    for event, following in arrows.items()
]
PEOPLE = (E.ACKNOWLEDGE,)


def diagram() -> str:
    """Return the table as a Mermaid state diagram; what nobody does is in brackets."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.NORMAL}"]
    for state, arrows in CHART.items():
        together: dict[S, list[str]] = {}
        for event, following in arrows.items():
            name = str(event) if event in PEOPLE else f"({event})"
            together.setdefault(following, []).append(name)
            if following is S.RETURNED:
                together.setdefault(S.NORMAL, []).append(f"({event}, if it does not latch)")
        lines += [f"    {state} --> {to}: {', '.join(names)}" for to, names in together.items()]
    return "\n".join(lines)


def test_the_drawing_in_the_docs_is_in_step_with_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in (DOCS / "alarms.md").read_text()


def test_there_are_the_specified_edges() -> None:
    assert len(EDGES) == 12


@pytest.mark.parametrize(("state", "event", "following"), EDGES)
def test_each_edge_leads_where_the_table_says(state: S, event: E, following: S) -> None:
    assert after(state, event, latch=True) is following
    unlatched = S.NORMAL if following is S.RETURNED else following
    assert after(state, event, latch=False) is unlatched


def test_what_has_no_edge_does_not_apply() -> None:
    missing = [(s, e) for s in S for e in E if e not in CHART[s]]
    assert len(missing) == len(S) * len(E) - len(EDGES)
    assert all(after(state, event, latch=True) is None for state, event in missing)


def test_only_a_reminder_activates_without_a_new_occurrence() -> None:
    new = {(s, e) for s, e, to in EDGES if is_new(s, e, to)}
    assert new == {
        (S.PENDING, E.DELAY_OVER),
        (S.ACTIVE, E.WORSE),
        (S.ACKNOWLEDGED, E.WORSE),
        (S.RETURNED, E.BAD),
    }
