"""A recorder that copies closed nights to a folder, which is away when it starts."""

import json

from hcam_devices.wamp.utils import call

from .recorded import start_flood
from .tools import INSTRUMENT, Net, until


def told(net: Net) -> str:
    newest = call("hipercam.recorder.rpc.telemetry")
    return " ".join(one["reason"] for one in newest["alarms"])


def test_closed_nights_are_copied_once_the_folder_is_there(own: Net) -> None:
    target = own.home / "nas"
    site = own.home / "site.toml"
    site.write_text(
        f'{INSTRUMENT.path.read_text()}\n[stores.local]\n[stores.nas]\nkind = "folder"\n'
        f'folder = "{target}"\n'
    )
    own.start_router("--instrument", own.instrument_with({"hwserver-flood": ("load1", "load2")}))
    start_flood(own, devices=("load1", "load2"))
    own.start_recorder("--instrument", site)
    own.wait_for_devices("recorder")
    until(lambda: "store nas has been unreachable since 20" in told(own))
    assert f"{target} does not exist: mount its disk, or create the folder" in told(own)
    until(lambda: len([*(own.home / "history").glob("tonight.sqlite")]) == 1)
    target.mkdir()
    until(lambda: "store nas" not in told(own))

    own.hcam("history", "close")

    def copied() -> bool:
        stores = call("hipercam.recorder.rpc.audit", timeout=60)["stores"]
        (nas,) = (store for store in stores if store["name"] == "nas")
        return "load1" in {line["device"] for line in nas["lines"] if line["stored"]}

    until(copied)
    files = {path.name for path in (own.home / "history" / "nights").glob("*/load*.parquet")}
    assert {path.name for path in target.glob("nights/*/load*.parquet")} <= files
    (known,) = target.glob("nights/*/files.json")
    assert json.loads(known.read_text()).keys() >= {"load1.parquet"}
    newest = call("hipercam.recorder.rpc.telemetry")
    assert newest["backlog_nas"] >= 0
