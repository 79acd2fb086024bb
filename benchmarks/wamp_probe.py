"""One bare WAMP session (autobahn asyncio, CBOR over WebSocket) that echoes, watches or asks.

`compare.py` runs it with the Python of the system it measures; every finding is one line of JSON.
Times are of the monotonic clock, which the processes of one machine share.
"""

import argparse
import asyncio
import json
import random
import struct
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from autobahn.asyncio.component import Component
from autobahn.asyncio.wamp import Session
from autobahn.wamp.types import PublishOptions, SubscribeOptions

ECHO = "hipercam.bench.rpc.echo"
SET, SHOWN = "hipercam.bench.target_position", "hipercam.bench.telemetry"
ALL_TELEMETRY = "hipercam..telemetry"
SLIDE = "hipercam.slide"
TARGETS = (1440.0, 1437.0)  # pixels, near home: a short move between two samples
BLOCKS, CALLS, SETPOINTS = 100, 20, 200  # blocks, and calls of each procedure in one
PATIENCE = 60.0  # seconds without an answer
PING = 0x89  # the first byte of such a frame

Telemetry = Any
"""Plain data of ours; of the original bytes, a pickle, which is searched and never read."""


def report(**found: Any) -> None:
    """Print one finding."""
    print(json.dumps(found), flush=True)


def keyed(file: Path) -> type[Session]:
    """Return the class of sessions that join with the key in a file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  (ours only)
        Ed25519PrivateKey,
    )

    while not file.exists():  # the router makes it
        time.sleep(0.05)
    found = tomllib.loads(file.read_text())
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found["key"]))

    class Keyed(Session):
        def onConnect(self) -> None:
            public = {"pubkey": key.public_key().public_bytes_raw().hex()}
            self.join(self.config.realm, ["cryptosign"], found["name"], authextra=public)

        def onChallenge(self, challenge: Any) -> str:
            message = bytes.fromhex(challenge.extra["challenge"])
            return key.sign(message).hex() + message.hex()

    return Keyed


async def join(url: str, realm: str, key: Path | None) -> Any:
    """Return a session that has joined, however long the router takes to start."""
    joined: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    transport = {"type": "websocket", "url": url, "serializers": ["cbor"]}
    patience = {"max_retries": -1, "initial_retry_delay": 0.2, "max_retry_delay": 0.5}
    transports = [transport | patience]
    component: Any = Component(transports=transports, realm=realm)
    if key:
        component.session_factory = keyed(key)
    component.on_join(lambda session, _details: joined.set_result(session))
    component.start()
    return await joined


def is_true(telemetry: Telemetry) -> bool:
    """Whether this telemetry of ours says what is: connected, and nothing is unknown.

    The position of an axis that was not homed is unknown, and to say so is true.
    """
    state = telemetry["state"]
    fields = (v for k, v in telemetry.items() if k not in ("state", "alarms"))
    known = "init" in state.values() or None not in fields
    return known and state["connection"] == "online" and state.get("health") != "ERR"


async def echo(session: Any) -> None:
    """Answer calls and show setpoints with nothing behind: the floor of every figure."""
    await session.register(lambda value: value, ECHO)
    await session.subscribe(lambda value: session.publish(SHOWN, value), SET)
    report(ready=time.monotonic())
    await asyncio.Event().wait()


async def watch(session: Any, devices: list[str], ok: Callable[[Telemetry], bool]) -> None:
    """Report when each device first publishes true values."""
    waiting = set(devices)
    done = asyncio.Event()

    def heard(device: str, payload: Any) -> None:
        if device in waiting and ok(payload):
            waiting.remove(device)
            report(device=device, time=time.monotonic())
            if not waiting:
                done.set()

    for device in devices:
        topic = f"hipercam.{device}.telemetry"
        await session.subscribe(lambda payload, device=device: heard(device, payload), topic)
    report(ready=time.monotonic())
    await done.wait()


async def hear(session: Any, devices: list[str]) -> None:
    """Report each time that a device publishes."""
    for device in devices:
        topic = f"hipercam.{device}.telemetry"
        await session.subscribe(lambda _, device=device: report(device=device), topic)
    await asyncio.Event().wait()


async def ask(session: Any, calls: dict[str, list[Any]]) -> None:
    """Time sequential calls, one block of each procedure in turn; the first round warms up."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(BLOCKS + 1):
        for name, call in calls.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                await session.call(*call)
                if block:
                    took[name].append(time.perf_counter() - start)
    report(**took)


async def floor_setpoint(session: Any, quantity: str = "setpoint", topic: str = SHOWN) -> None:
    """Time from publishing a number to hearing it back from a bare subscriber."""
    heard: asyncio.Queue[float] = asyncio.Queue()

    def hear(value: Any) -> None:
        if not isinstance(value, dict):  # the telemetry of a device
            heard.put_nowait(value)

    match = "wildcard" if topic == ALL_TELEMETRY else "exact"
    await session.subscribe(hear, topic, SubscribeOptions(match=match))
    took = []
    for n in range(SETPOINTS):
        await asyncio.sleep(random.uniform(0, 0.1))
        start = time.perf_counter()
        session.publish(SET, n)
        await asyncio.wait_for(heard.get(), PATIENCE)
        took.append(time.perf_counter() - start)
    report(**{quantity: took})


async def crowd(sessions: list[Any]) -> None:
    """Subscribe sessions to the telemetry of all devices, and drop what comes, pings excepted."""
    for session in sessions:
        options = SubscribeOptions(match="wildcard")
        await session.subscribe(lambda _: None, ALL_TELEMETRY, options)
        protocol = session._transport
        read = protocol.data_received
        protocol.data_received = lambda data, read=read: data[0] == PING and read(data)
    report(ready=time.monotonic())
    await asyncio.Event().wait()


def shows_target(telemetry: Telemetry, wanted: float) -> bool:
    """Whether the slide's target is this; in the original's bytes, whether the number is there."""
    if isinstance(telemetry, bytes):
        return any(struct.pack(order, wanted) in telemetry for order in ("<d", ">d"))
    return abs(float(telemetry["position"]["target"]["value"]) - wanted) < 0.01


def shows_arrival(telemetry: Telemetry) -> bool:
    """Whether the slide is in position; in the original's bytes, whether the word is there."""
    if isinstance(telemetry, bytes):
        return b"inpos" in telemetry
    return bool(telemetry["state"]["stage"] == "inpos")


async def setpoint(session: Any) -> None:
    """Time from publishing a target of the slide to the telemetry that shows it.

    Between two samples the slide moves there, because the original ignores a second target. Each
    is followed by one of the floor, because the machine may be slower in some minutes.
    """
    heard: asyncio.Queue[Telemetry] = asyncio.Queue()
    echoed: asyncio.Queue[float] = asyncio.Queue()
    await session.subscribe(heard.put_nowait, f"{SLIDE}.telemetry")
    await session.subscribe(echoed.put_nowait, SHOWN)

    async def until(shows: Callable[[Telemetry], bool]) -> None:
        while not shows(await asyncio.wait_for(heard.get(), PATIENCE)):
            pass

    async def finish(command: str) -> None:
        await session.call(f"{SLIDE}.rpc.stage.{command}")
        while not heard.empty():  # earlier publications
            heard.get_nowait()
        await until(shows_arrival)

    await finish("home")
    took, floor = [], []
    for n in range(SETPOINTS):
        wanted = TARGETS[n % len(TARGETS)]
        await asyncio.sleep(random.uniform(0, 1))
        start = time.perf_counter()
        session.publish(f"{SLIDE}.target_position", wanted)
        await until(partial(shows_target, wanted=wanted))
        took.append(time.perf_counter() - start)
        await finish("move")
        await asyncio.sleep(random.uniform(0, 1))
        start = time.perf_counter()
        session.publish(SET, n)
        await asyncio.wait_for(echoed.get(), PATIENCE)
        floor.append(time.perf_counter() - start)
    report(setpoint=took, echo=floor)


async def flood(session: Any, count: int) -> None:
    """Publish telemetry of CCD heads as the original does, as fast as the router takes it."""
    import pickle  # noqa: PLC0415  (to write what the original reads; nothing is read)

    from astropy import units as u  # noqa: PLC0415
    from astropy.time import Time  # noqa: PLC0415

    from telemetry import WORDS, head  # noqa: PLC0415

    begin = Time.now() - 1 * u.day
    words = WORDS | {"state": "OK"}
    payloads = [
        pickle.dumps(
            {"timestamp": begin + 2 * n * u.ms}
            | {name: value * u.Unit(unit) for name, (value, unit) in head(n).items()}
            | words
        )
        for n in range(count)
    ]
    report(ready=time.monotonic())
    for n, payload in enumerate(payloads):
        options = PublishOptions(acknowledge=n % 50 == 49)  # so that no messages accumulate here
        published = session.publish(f"hipercam.ccd{n % 5 + 1}.telemetry", payload, options=options)
        if options.acknowledge:
            await published
    report(done=time.monotonic())


async def main() -> None:
    """Do what the command line says in one session."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what",
        choices=["echo", "watch", "ask", "floor", "setpoint", "flood", "hear", "view", "crowd"],
    )
    parser.add_argument("url")
    parser.add_argument("realm")
    parser.add_argument("--original", action="store_true", help="its telemetry cannot be read")
    parser.add_argument("--devices", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--key", type=Path, help="the key file to join with")
    parser.add_argument("--calls", type=json.loads, help="{name: [procedure, *arguments], ...}")
    args = parser.parse_args()
    session = await join(args.url, args.realm, args.key)
    match args.what:
        case "echo":
            await echo(session)
        case "watch":
            # The original publishes it before it is true, so every sample counts.
            await watch(session, args.devices, (lambda _: True) if args.original else is_true)
        case "ask":
            await ask(session, {"echo": [ECHO, 0]} | args.calls)
        case "floor":
            await floor_setpoint(session)
        case "setpoint":
            await setpoint(session)
        case "view":
            await floor_setpoint(session, "view", ALL_TELEMETRY)
        case "crowd":
            more = [await join(args.url, args.realm, args.key) for _ in range(args.count - 1)]
            await crowd([session, *more])
        case "hear":
            await hear(session, args.devices)
        case "flood":
            await flood(session, args.count)
    session.leave()


if __name__ == "__main__":
    asyncio.run(main())
