"""The owner of a name, as sent to the router and shown to people."""

from typing import Any

import pytest

from hcam_devices.config.instrument import load
from hcam_devices.ui.picture import Picture
from hcam_devices.wamp.owner import NameTakenError, Owner

HERE = {"server": "hwserver", "host": "a", "pid": 1, "since": "2026-11-22T04:44:44.196Z"}


def picture(*events: dict[str, Any]) -> str:
    """Return which servers run, once these events have been heard."""
    seen = Picture(load(), "*")
    for event in events:
        seen.hear_status(event)
    return seen.running()


@pytest.mark.parametrize("other", [{"host": "b"}, {"pid": 2}, {"since": "2026-11-23T00:00:00Z"}])
def test_the_end_of_one_process_says_nothing_of_another(other: dict[str, Any]) -> None:
    running, gone = HERE | {"state": "running"}, HERE | {"state": "gone"}
    assert picture(running, gone | other) == "hwserver running"
    assert picture(running, gone) == "hwserver gone"
    assert picture(gone, running | other) == "hwserver running"
    assert picture(gone, gone | other) == "hwserver gone"


def test_the_owner_of_a_session_is_read_back_from_what_it_said() -> None:
    owner = Owner("hwserver", "2026-11-22T04:44:44.196Z", "vm", 7)
    assert Owner.of({"authextra": owner.as_extra() | {"x_cb_pid": 1}}) == owner
    error = NameTakenError("hipercam.slide.rpc.", {"authextra": owner.as_extra()})
    since = "running since 2026-11-22T04:44:44.196Z"
    belongs = f"belongs to hwserver on vm, process 7, {since}"
    assert str(error) == f"the name hipercam.slide.rpc. {belongs}"


@pytest.mark.parametrize(
    "said",
    [
        None,
        3,
        [],
        {},
        {"server": "x"},
        {"server": "x", "since": "\x1b[2J"},
        {"server": 1, "since": 2},
    ],
)
def test_a_program_that_is_no_server_of_ours_is_named_by_its_session(said: Any) -> None:
    details = {"session": 5, "authextra": {"hcam": said}, "transport": {"peer": "tcp4:1.2.3.4:5"}}
    error = NameTakenError("hipercam.slide.rpc.", details)
    assert error.owner is None
    assert "belongs to another program (session 5 from tcp4:1.2.3.4:5)" in str(error)
