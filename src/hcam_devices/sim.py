"""Simulators on real ports, and the faults that can be put between them and the driver.

A simulator speaks its device's protocol from the other side: ``answer(frame) -> bytes``. What it
says depends on ``self.clock``, so tests decide what time it is. ``serve`` puts it on a free
loopback port and applies the faults that people inject:

    delay seconds=0.2       each reply comes later
    late seconds=2          one reply comes after the driver has given up
    split size=1 gap=0.005  replies arrive in pieces
    double                  every reply arrives twice
    drop|flip|insert index= one byte of the reply is damaged
    garbage                 noise instead of replies
    silence                 no reply
    disconnect when=after   or before, or during the reply
    busy                    connections are accepted, nothing is said
    refuse                  connections are refused

and those that only the device can do (``checksum``, ``error``, ``identity``, ``unsolicited`` ...):
its methods ``fault_*``. A fault lasts for ``times`` replies, or until it is cleared.
"""

import asyncio
import inspect
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from .fields import shorten

log = logging.getLogger(__name__)

WIRE_FAULTS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.2},
    "late": {"seconds": 2.0, "times": 1},
    "split": {"size": 1, "gap": 0.005},
    "double": {},
    "garbage": {},
    "drop": {"index": 3},
    "flip": {"index": 3},
    "insert": {"index": 3},
    "silence": {},
    "disconnect": {"when": "after"},
    "busy": {},
    "refuse": {},
}
"""The faults of the wire, with what may be chosen and its default."""

DISCONNECT_WHEN = ("before", "during", "after")


class Simulator:
    """What every simulator can do: faults by name, and values that may be set (``controls``)."""

    controls: ClassVar[tuple[str, ...]] = ()
    greeting = b""
    cut: Callable[[bytearray], bytes | None]

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int = 0) -> None:
        self.clock = clock
        self.random = random.Random(seed)
        self.faults: dict[str, dict[str, Any]] = {}
        self._hang_up: list[Callable[[], None]] = []

    def answer(self, frame: bytes) -> bytes:
        """Return the reply to a frame; nothing if the device would not answer."""
        raise NotImplementedError

    def speak(self) -> tuple[bytes, float | None]:
        """Return what is to be said unasked now, and in how many seconds to ask again."""
        return b"", None

    def offers(self) -> dict[str, dict[str, Any]]:
        """Return every fault, with what may be chosen and its default."""
        own = {
            name.removeprefix("fault_"): {
                key: parameter.default
                for key, parameter in inspect.signature(getattr(self, name)).parameters.items()
                if key != "reply"
            }
            for name in dir(self)
            if name.startswith("fault_")
        }
        return WIRE_FAULTS | own

    def simulate(self, fault: str = "", **chosen: Any) -> dict[str, Any]:
        """Begin a fault, ``set`` a value of the simulated hardware, or ``clear`` all faults.

        Without a fault: return what may be done. Raises ValueError for what is not offered.
        """
        offers = self.offers()
        if not isinstance(fault, str):
            raise ValueError(f"{shorten(fault)} is not the name of a fault")
        if fault == "set":
            self._set(chosen)
        elif fault == "clear":
            self.faults.clear()
        elif fault in offers:
            options = offers[fault] | {"times": math.inf} | offers[fault]
            for key, value in chosen.items():
                if key not in options:
                    raise ValueError(f"{fault} has no {key}; it has {', '.join(options)}")
                default = options[key]
                if isinstance(default, str) and not isinstance(value, str):
                    raise ValueError(f"{key} takes a text, not {shorten(value)}")
                if not isinstance(default, str) and not _is_number(value, like=default):
                    what = "whole number" if isinstance(default, int) else "number"
                    raise ValueError(f"{key} takes a {what}, not {shorten(value)}")
            options |= chosen
            if options.get("when", "after") not in DISCONNECT_WHEN:
                raise ValueError(f"when is one of {', '.join(DISCONNECT_WHEN)}")
            self.faults[fault] = options
            if fault in ("busy", "refuse"):
                self.hang_up()
        elif fault:
            raise ValueError(f"no fault {fault!r}; there are {', '.join(offers)}, set and clear")
        return {
            "faults": {name: _shown(options) for name, options in self.faults.items()},
            "values": {name: getattr(self, name) for name in self.controls},
            "may inject": offers,
        }

    def _set(self, chosen: dict[str, Any]) -> None:
        for key, value in chosen.items():
            if key not in self.controls:
                raise ValueError(f"there is no {key} to set; there is {', '.join(self.controls)}")
            kind = type(getattr(self, key))
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"{key} takes a {kind.__name__}, not {shorten(value)}")
            setattr(self, key, kind(value))

    def hang_up(self) -> None:
        """Drop every connection."""
        for drop in list(self._hang_up):
            drop()

    def fault(self, name: str) -> dict[str, Any] | None:
        """Return the options of a fault that applies now, and count it."""
        options = self.faults.get(name)
        if options:
            options["times"] -= 1
            if options["times"] <= 0:
                del self.faults[name]
        return options

    def own_faults(self, reply: bytes) -> bytes:
        """Apply to a reply the faults that only this device can do."""
        for name in list(self.faults):
            if name not in WIRE_FAULTS and (options := self.fault(name)):
                chosen = {key: value for key, value in options.items() if key != "times"}
                reply = getattr(self, f"fault_{name}")(reply, **chosen)
        return reply


def _is_number(value: object, like: float) -> bool:
    kinds = (int,) if isinstance(like, int) else (int, float)
    return type(value) in kinds and 0 <= value < 2**31  # type: ignore[operator]


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value != math.inf}


def damage(reply: bytes, fault: str, index: int) -> bytes:
    """Drop, flip or insert one byte of a reply."""
    index %= max(len(reply), 1)
    changed = {
        "drop": b"",
        "flip": bytes(b ^ 0x10 for b in reply[index : index + 1]),
        "insert": b"\x15" + reply[index : index + 1],
    }
    return reply[:index] + changed[fault] + reply[index + 1 :]


class _Conversation:
    """One connection to a simulator."""

    def __init__(
        self, sim: Simulator, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.sim, self.reader, self.writer = sim, reader, writer
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        if "refuse" in self.sim.faults:
            return self.writer.transport.abort()
        self.sim._hang_up.append(self.writer.transport.abort)
        unasked = asyncio.create_task(self._speak())
        buffer = bytearray()
        try:
            if "busy" not in self.sim.faults:
                await self._send(self.sim.greeting)
            while data := await self.reader.read(4096):
                buffer += data
                while (frame := self.sim.cut(buffer)) is not None:
                    await self._answer(frame)
        except (ConnectionError, asyncio.CancelledError):
            return
        except Exception:
            log.exception("the simulator %s cannot answer", type(self.sim).__module__)
        finally:
            unasked.cancel()
            self.sim._hang_up.remove(self.writer.transport.abort)
            self.writer.transport.abort()

    async def _speak(self) -> None:
        while True:
            said, pause = self.sim.speak()
            if not self.sim.faults.keys() & {"busy", "silence"}:
                await self._send(said)
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def _answer(self, frame: bytes) -> None:
        sim = self.sim
        if "busy" in sim.faults or sim.fault("silence"):
            return
        hang_up = sim.fault("disconnect")
        when = hang_up["when"] if hang_up else ""
        if when == "before":
            raise ConnectionResetError
        reply = sim.answer(frame)
        if reply:
            reply = sim.own_faults(reply)
            reply = self._damaged(reply)
            for slow in (sim.fault("delay"), sim.fault("late")):
                if slow:
                    await asyncio.sleep(slow["seconds"])
        if when == "during":
            reply = reply[: len(reply) // 2]
        await self._send(reply, sim.fault("split") if reply else None)
        if when:
            raise ConnectionResetError

    def _damaged(self, reply: bytes) -> bytes:
        sim = self.sim
        if sim.fault("garbage"):
            reply = sim.random.randbytes(len(reply))
        for name in ("drop", "flip", "insert"):
            if options := sim.fault(name):
                reply = damage(reply, name, int(options["index"]))
        return reply * 2 if sim.fault("double") else reply

    async def _send(self, data: bytes, split: dict[str, Any] | None = None) -> None:
        size = max(int(split["size"]), 1) if split else len(data)
        async with self._turn:  # no device says two things at once
            for start in range(0, len(data), size or 1):
                self.writer.write(data[start : start + size])
                if split:
                    await self.writer.drain()
                    await asyncio.sleep(split["gap"])


@asynccontextmanager
async def serve(sim: Simulator, port: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Serve a simulator on a loopback port; yields the settings of a ``Tcp`` link to it."""
    running: set[asyncio.Task[None]] = set()

    def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Conversation(sim, reader, writer).run())
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    server = await asyncio.start_server(converse, "127.0.0.1", port)
    try:
        yield {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}
    finally:
        server.close()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def toward(value: float, target: float, seconds: float, time_constant: float) -> float:
    """Return where a first-order approach from ``value`` to ``target`` has come after a while."""
    return target + (value - target) * math.exp(-seconds / time_constant)
