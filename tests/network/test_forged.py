"""Others speak under the names of devices, or write into the history: it is noticed and mended."""

import json
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions

from hcam_devices.history.stores.embedded import EmbeddedStore
from hcam_devices.history.stores.nights import NightFiles
from hcam_devices.journal import Journal
from hcam_devices.journal.points import flatten
from hcam_devices.wamp.utils import call

from ..helpers import records
from .recorded import LOADS, joined, published, start_flood, stored
from .tools import Client, Net, client, soon, until

FORGED = 666_666.0


def values(net: Net) -> list[float]:
    """Return every recorded value of the counters of the devices, and of forged samples."""
    history = NightFiles(net.home / "history")
    return [
        float(value)
        for night in history.nights()
        for point in history.samples(night)
        for name, value in point.values.items()
        if name.startswith("count")
    ]


def alarms() -> str:
    newest = call("hipercam.recorder.rpc.telemetry")
    return " ".join(one["reason"] for one in newest["alarms"])


async def forge(session: Client, real: dict[str, Any], **more: Any) -> None:
    forged = json.loads(json.dumps(real)) | {"count1": {"value": FORGED, "unit": ""}} | more
    topic = f"hipercam.{forged['device']}.telemetry"
    await session.publish(topic, forged, options=PublishOptions(acknowledge=True))


async def test_what_others_publish_under_a_device_s_name_is_refused_and_told(own: Net) -> None:
    """The router refuses it, but to a program with the server's own key: then the recorder does."""
    ghosts = [f"ghost{number}" for number in range(110)]
    servers = {"hwserver-flood": LOADS, "hwserver-ghosts": ghosts}
    own.start_router("--instrument", own.instrument_with(servers))
    start_flood(own, rate=20)
    own.start_recorder()
    until(lambda: len(stored(own)) > 20)
    real = call("hipercam.load1.rpc.telemetry")
    for name in ("local", "hwserver", None):
        async with client(own.address, key=own.key(name) if name else None) as session:
            with pytest.raises(ApplicationError, match="not authorized to publish"):
                await forge(session, real)
    async with AsyncExitStack() as stack:
        sessions = {
            server: await stack.enter_async_context(client(own.address, key=own.key(server)))
            for server in (*servers, "gtcserver", "hserver")
        }
        for further in range(1, 100):
            await forge(sessions["hwserver-flood"], real, seq=real["seq"] + further)
        await forge(sessions["hwserver-flood"], real, seq=2**62, epoch="f" * 12)
        await forge(sessions["gtcserver"], real, device="gtc")  # declared, but not running
        await forge(sessions["hserver"], real, device="ngc")
        for name in ghosts:
            await forge(sessions["hwserver-ghosts"], real, device=name, seq=10**9)

        async def told() -> bool:
            said = alarms()
            return "102 samples under the name" in said and "10 samples of ghost" in said

        await soon(told)
    wanted = published(own)
    until(lambda: wanted <= stored(own).keys())
    recorded = {point[0] for point in stored(own)}
    assert not recorded & {"gtc", "ngc"}
    assert len([name for name in recorded if name.startswith("ghost")]) == 100
    assert values(own).count(FORGED) == 100  # those of the ghosts, under their own names
    assert "load1" not in {name for name, epoch, _ in stored(own) if epoch == "f" * 12}
    lines = {line["device"]: line["verdict"] for line in audited()["lines"]}
    assert lines["load1"] == "complete"


def audited() -> dict[str, Any]:
    (store,) = call("hipercam.recorder.rpc.audit", timeout=60)["stores"]
    return dict(store)


def test_a_row_that_somebody_has_altered_is_named_and_fetched_again(as_left: Net) -> None:
    alter(as_left.home / "history", "load2", 5)
    said = as_left.hcam_here("audit", code=1)
    assert "1 ALTERED" in said
    assert "load2 5 (epoch " in said
    assert "differs from the journal, which is right: it is fetched again" in said
    until(lambda: "ALTERED" not in as_left.hcam_here("audit", code=1))  # gtc and ngc do not answer
    lines = {line["device"]: line["verdict"] for line in audited()["lines"]}
    assert lines["load2"] == "complete"


def test_what_an_earlier_recorder_believed_is_of_unknown_origin(as_left: Net) -> None:
    """Before owners were asked, an invented epoch was recorded like any other."""
    before = joined(as_left)
    recorder = as_left.started[-1]
    recorder.terminate()
    recorder.wait()
    invented = as_left.home / "invented.sqlite"
    journal = Journal(invented)
    sample = call("hipercam.load3.rpc.telemetry")
    numbered = journal.append({k: v for k, v in sample.items() if k not in ("seq", "epoch")})
    journal.close()
    write(as_left.home / "history", numbered)
    as_left.start_recorder()
    until(lambda: joined(as_left) > before)
    as_left.wait_for_devices("recorder")
    until(lambda: "load3" in {line["device"] for line in audited()["lines"]})
    lines = {line["device"]: line["verdict"] for line in audited()["lines"]}
    assert lines["load3"] == "1 OF UNKNOWN ORIGIN"


def alter(folder: Path, device: str, seq: int) -> None:
    """Change the value of a counter in a row of tonight."""
    db = sqlite3.connect(folder / "tonight.sqlite", timeout=20)
    joined = "sample JOIN shape ON shape.id = sample.shape"
    query = f"SELECT body, columns FROM {joined} WHERE sample.device = ? AND seq = ?"
    with db:
        body, columns = map(json.loads, db.execute(query, (device, seq)).fetchone())
        body[columns.index("count1")] = FORGED
        row = json.dumps(body), device, seq
        db.execute("UPDATE sample SET body = ? WHERE device = ? AND seq = ?", row)
    db.close()


def write(folder: Path, sample: dict[str, Any]) -> None:
    """Record a sample as a store does."""
    store = EmbeddedStore("local", folder)
    store.write(records([flatten(sample)]))
    store.close()
