"""``GET /events`` and ``GET /metrics`` of the router."""

import ast
import asyncio
import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import psutil
import pytest
from autobahn.wamp.types import PublishOptions
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as text_string_to_families,
)
from prometheus_client.parser import text_string_to_metric_families

from hcam_devices.config.instrument import load
from hcam_devices.core.device import iso_from_s
from hcam_devices.wamp.described import packed
from hcam_devices.wamp.router import configuration, shipped, with_door
from hcam_devices.wamp.uris import rpc, status, telemetry
from hcam_devices.wamp.utils import call

from ..conftest import Scaled
from ..helpers import ENTRIES
from .recorded import LOADS, Number, published, start_flood
from .test_client_outages import has_flood
from .test_door import start
from .tools import PATIENCE, Net, client, living, until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextmanager
def get(net: Net, path: str, method: str = "GET", **headers: str) -> Iterator[HTTPResponse]:
    connection = HTTPConnection(net.address.host, net.port, timeout=PATIENCE)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.sock = socket.socket()
    connection.sock.settimeout(PATIENCE)
    # So that the router notices early that nobody reads.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with closing(connection):
        connection.sock.connect(net.address)
        connection.request(method, path, headers=named)
        with connection.getresponse() as answer:
            yield answer


def events(answer: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the id (empty if it has none) and the data of each event."""
    place = ""
    for line in answer:
        text = line.decode().rstrip("\n")
        if text.startswith("id: "):
            place = text.removeprefix("id: ")
        elif text.startswith("data: "):
            yield place, json.loads(text.removeprefix("data: "))
            place = ""


def test_readings_come_as_events_the_newest_known_first(net: Net) -> None:
    seqs: dict[str, list[int]] = {}
    with get(net, "/events?fields=ccd*.temperature&fields=FocalPlaneSlide") as answer:
        assert answer.status == 200
        assert answer.getheader("content-type") == "text/event-stream; charset=UTF-8"
        assert answer.getheader("cache-control") == "no-store"
        for place, event in events(answer):
            assert [*event] == ["device", "field", "value", "unit", "time", "seq"]
            last = event["field"] != "position"
            assert bool(place) == last, "the last event of a sample has an id"
            assert not place or f"{event['device']}:" in place
            if last:
                seqs.setdefault(event["device"], []).append(event["seq"])
            if len(seqs) == 6 and min(map(len, seqs.values())) > 2:
                break
    assert {*seqs} == {"slide", *(f"ccd{n}" for n in range(1, 6))}
    for numbers in seqs.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize(
    ("status", "path", "method", "headers"),
    [
        (403, "/events", "GET", {"Origin": "http://example.com"}),
        (403, "/metrics", "GET", {"Sec_Fetch_Site": "cross-site"}),
        (421, "/events", "GET", {"Host": "example.com"}),
        (421, "/metrics", "GET", {"Host": "example.com"}),
        (401, "/events", "GET", {"Authorization": "Bearer nonsense"}),
        (401, "/metrics", "GET", {"Authorization": "Bearer nonsense"}),
        (405, "/events", "POST", {}),
        (400, "/events?fields=slyde.position", "GET", {}),
    ],
)
def test_who_may_not_come_in(
    net: Net, status: int, path: str, method: str, headers: dict[str, str]
) -> None:
    with get(net, path, method, **headers) as answer:
        assert answer.status == status
        assert json.loads(answer.read())["error"]


def test_who_is_removed_hears_no_more(net: Net) -> None:
    net.hcam_here("access", "add", "grace", "--role", "observer")
    token = net.key("grace").token
    basic = base64.b64encode(f"grace:{token}".encode()).decode()
    with get(net, "/events?fields=slide", Authorization=f"Basic {basic}") as answer:
        stream = events(answer)
        assert next(stream)[1]["device"] == "slide"
        net.hcam_here("access", "remove", "grace")
        assert all(event["device"] == "slide" for _, event in stream), "and then it ends"


class Listener:
    """A browser's EventSource: it comes back by itself, with the id of the last event."""

    def __init__(self, net: Net, place: str = "") -> None:
        self.net, self.place = net, place
        self.numbers: list[Number] = []
        self.go, self.end = threading.Event(), False
        self.go.set()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        while not self.end:
            path = "/events?fields=load*"
            with (
                suppress(OSError, HTTPException),
                get(self.net, path, Last_Event_ID=self.place) as answer,
            ):
                self._read(answer)

    def _read(self, answer: HTTPResponse) -> None:
        for place, event in events(answer):
            self.place = place or self.place
            if place and event["seq"] is not None:
                places = dict(part.split(":")[:2] for part in self.place.split(","))
                device = event["device"]
                self.numbers.append((device, places[device], event["seq"]))
            self.go.wait()
            if self.end:
                return

    def compare(self, wanted: set[Number], first: int = 0) -> None:
        """Wait for everything that is wanted from its first number on, in order and once."""
        until(lambda: wanted <= {*self.numbers} | self._before(wanted, first))
        for device in LOADS:
            seqs = [seq for name, _, seq in self.numbers if name == device]
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    def _before(self, wanted: set[Number], first: int) -> set[Number]:
        began = {device: seq for device, _, seq in reversed(self.numbers)}
        return {each for each in wanted if each[2] < (first or began.get(each[0], 0))}


def test_no_event_is_missed_or_doubled(own: Net, scaled: Scaled) -> None:
    own.start_router("--instrument", own.instrument_with({"hwserver-flood": LOADS}))
    start_flood(own)
    until(has_flood)
    listener = Listener(own)
    until(lambda: len(listener.numbers) > 50)
    for _ in range(scaled(1, soak=10)):
        for process in living(own.home, "crossbar"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert own.router
        own.router.wait()
        before = len(published(own))
        until(lambda before=before: len(published(own)) > before + 200)  # type: ignore[misc]
        own.start_router("--instrument", own.instrument_with({"hwserver-flood": LOADS}))
        heard = len(listener.numbers)
        until(lambda heard=heard: len(listener.numbers) > heard + 100)  # type: ignore[misc]
    listener.compare(published(own))
    # One that asks for everything since the beginning, and does not read for a while.
    epoch = listener.numbers[0][1]
    lazy = Listener(own, ",".join(f"{device}:{epoch}:0" for device in LOADS))
    lazy.go.clear()
    before = len(published(own))
    until(lambda: len(published(own)) > before + scaled(300, soak=5000))
    lazy.go.set()
    lazy.compare(published(own), first=1)
    for each in (listener, lazy):
        each.end = True
        each.thread.join()


def families(net: Net) -> dict[str, Any]:
    with get(net, "/metrics", Accept=OPENMETRICS) as answer:
        assert (answer.getheader("content-type") or "").startswith("application/openmetrics-text")
        text = answer.read().decode()
    strict: Any = text_string_to_families
    return {family.name: family for family in strict(text)}


def value(family: Any, **labels: str) -> float | None:
    found = [one.value for one in family.samples if labels.items() <= one.labels.items()]
    return found[0] if found else None


def test_prometheus_reads_the_newest_values_in_base_units(net: Net) -> None:
    found = families(net)
    ccd = found["hcam_temperature_celsius"]
    assert (ccd.type, ccd.unit) == ("gauge", "celsius")
    assert value(ccd, device="ccd1") == pytest.approx(-90, abs=5)
    assert value(ccd, device="meerstetter1", channel="2") == pytest.approx(-90, abs=5)
    sample = net.newest("pressure1")["pressure"]["value"]
    pascals = value(found["hcam_pressure_pascals"], device="pressure1")
    assert pascals == pytest.approx(100 * sample, rel=0.5)
    assert value(found["hcam_device_online"], device="slide") == 1
    assert value(found["hcam_device_alarms"], device="slide", severity="ERR") == 0
    with get(net, "/metrics") as answer:
        plain = answer.read().decode()
    assert {family.name for family in text_string_to_metric_families(plain)} == {*found}


async def test_a_server_describes_its_devices_for_a_scrape(tmp_path: Path) -> None:
    described = ENTRIES["pressure1"].build().describe() | {"procedures": {}}
    asked: list[list[str]] = []

    def devices(names: list[str]) -> dict[str, Any]:
        asked.append(names)  # another program presents pressure2
        told = [name for name in names if name != "pressure2"]
        return packed((described | {"device": name}, None) for name in told)

    net, retained = Net(tmp_path), PublishOptions(retain=True, acknowledge=True)
    try:
        start(net, with_door(configuration(load(), net.port), []))
        async with client(net.address, key=None) as session:
            await session.register(devices, rpc("hwserver", "devices"))
            await session.register(lambda: described, rpc("pressure2", "describe"))
            running = {"state": "running", "pid": 1, "since": "2026-11-30T02:14:00.000Z"}
            await session.publish(status("hwserver"), running, options=retained)
            for name in ("pressure1", "pressure2"):
                sample: dict[str, Any] = {
                    "device": name,
                    "timestamp": iso_from_s(time.time()),
                    "epoch": "a",
                    "seq": 1,
                    "state": {"connection": "online"},
                    "alarms": [],
                    "pressure": {"value": 1e-5},
                }
                await session.publish(telemetry(name), sample, options=retained)
            for _ in range(2):
                found = await asyncio.to_thread(families, net)
            for name in ("pressure1", "pressure2"):
                assert value(found["hcam_pressure_pascals"], device=name) == 1e-3
            (once,) = asked
            assert {*once} == {name for name, one in ENTRIES.items() if one.server == "hwserver"}
    finally:
        net.end()


def test_a_leap_second_of_the_timing_card_is_a_time(net: Net) -> None:
    call("hipercam.gps.rpc.simulate", "leap_second")
    try:
        call("hipercam.gps.rpc.connection.connect")
        until(lambda: ":60" in net.newest("gps")["timestamp"])
        assert value(families(net)["hcam_device_online"], device="gps") == 1
        assert "23:59:59.500Z" in net.hcam_here("monitor", "gps.num_sats", "--count", "1")
    finally:
        call("hipercam.gps.rpc.simulate", "clear")
        call("hipercam.gps.rpc.connection.connect")


def test_what_is_not_known_now_is_no_series(net: Net) -> None:
    assert net.server
    os.killpg(net.server.pid, signal.SIGSTOP)
    try:
        until(lambda: value(families(net)["hcam_device_online"], device="slide") == 0)
        found = families(net)
    finally:
        os.killpg(net.server.pid, signal.SIGCONT)
    assert value(found["hcam_device_online"], device="gtc") == 1
    assert "hcam_position_pixels" not in found


def test_every_declared_unit_has_a_name_in_prometheus() -> None:
    module = ast.parse((shipped().parent / "metrics.py").read_text(encoding="utf-8"))
    [units] = (
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "UNITS"
    )
    declared = {
        field["unit"]
        for entry in ENTRIES.values()
        for field in entry.build().describe()["fields"].values()
        if field["type"] == "number"
    }
    assert declared <= {*units}
