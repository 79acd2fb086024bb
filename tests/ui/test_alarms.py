"""Which alarms ``hcam alarms ack`` acknowledges."""

from typing import Any

import pytest

from hcam_devices import HcamError
from hcam_devices.ui import alarms

HIDDEN = "ccd2.flow"


def record(alarm: str) -> dict[str, Any]:
    hidden = {"shelved": None, "suppressed": "its cause" if alarm == HIDDEN else None}
    return {"alarm": alarm, "state": "active", "occurrence": 7, "out_of_service": None, **hidden}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (HIDDEN, [HIDDEN]),
        ("ccd*", ["ccd1.flow"]),
        ("ccd[12].flow", ["ccd1.flow"]),
        ("ccd3.flow", []),
    ],
)
def test_a_glob_acknowledges_what_is_shown_and_a_name_also_what_is_hidden(
    monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    known = [record("ccd1.flow"), record(HIDDEN), record("slide.stage")]
    asked: list[str] = []

    def ask(procedure: str, *args: Any) -> Any:
        if procedure == "list":
            return known
        asked.append(args[0])
        return record(args[0])

    monkeypatch.setattr(alarms, "ask", ask)
    if expected:
        list(alarms.acknowledge(pattern, ""))
    else:
        with pytest.raises(HcamError, match=f"there is no {pattern} to acknowledge"):
            list(alarms.acknowledge(pattern, ""))
    assert asked == expected
