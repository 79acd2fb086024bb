"""Many devices in one answer, without a network."""

import json
from typing import Any

from hcam_devices.wamp.described import MAX_DEVICES, packed, questions, shared, unpacked

from ..helpers import ENTRIES


def description_of(name: str) -> dict[str, Any]:
    described = ENTRIES[name].build().describe() | {"procedures": {"reset": {"doc": "Reset."}}}
    return described | {key: shared(described[key]) for key in ("fields", "procedures", "axes")}


def test_what_is_unpacked_is_what_was_packed() -> None:
    found = [
        (description_of(name), {"device": name} if name != "slide" else None) for name in ENTRIES
    ]
    answer = json.loads(json.dumps(packed(found)))
    assert unpacked(answer) == {each[0]["device"]: each for each in found}


def test_equal_parts_are_sent_and_kept_once() -> None:
    found = [(description_of(f"pressure{n}"), None) for n in range(1, 6)]
    answer = packed(found)
    fields, _, axes = answer["parts"]
    assert fields == found[0][0]["fields"]
    assert axes == {}
    unpacked_once, unpacked_again = (unpacked(json.loads(json.dumps(answer))) for _ in range(2))
    kept = [one["fields"] for told in (unpacked_once, unpacked_again) for one, _ in told.values()]
    assert all(one is fields for one in kept)


def test_each_server_is_asked_for_its_own_devices_a_few_at_once() -> None:
    names = [f"gauge{n}" for n in range(2 * MAX_DEVICES + 1)]
    devices = [{"name": name, "server": "hwserver"} for name in names]
    devices.insert(1, {"name": "ngc", "server": "hserver"})
    asked = [*questions(devices)]
    assert [server for server, _ in asked] == ["hwserver"] * 3 + ["hserver"]
    assert [name for _, group in asked for name in group] == [*names, "ngc"]
    assert max(len(group) for _, group in asked) == MAX_DEVICES
