"""Simulators on real ports, and faults of the connection between them and the driver.

A simulator speaks its device's protocol from the other side: ``answer(frame) -> bytes``. What it
says depends on ``self.clock``, so tests decide what time it is. ``serve`` puts it on a free
loopback port and applies the faults that people inject:

    delay seconds=0.2       each reply comes later
    late seconds=2          one reply comes when the driver has given up, or on clear
    split size=1 gap=0.005  replies arrive in pieces
    double                  every reply arrives twice
    drop|flip|insert index= one byte of the reply is damaged
    garbage                 noise instead of replies
    silence                 no reply
    disconnect when=after   or before, or during the reply
    busy                    connections are accepted, nothing is said
    taken text=             a terminal server refuses each connection in words, and closes it
    refuse                  connections are refused (a serial device is unplugged)

and those that only the device can do: its methods ``fault_NAME``, whose keywords are the options of
the fault. A method with a parameter ``reply`` returns the reply with the fault. Any other is called
when the fault is injected, and the simulator looks for the fault (``self.fault(NAME)``) where it
matters. A fault lasts for ``times`` replies, or until it is cleared.

Hardware that is reached by running ``programs`` is simulated by programs of those names: each hands
its arguments to the simulator on that port, and prints what comes back.
"""

import asyncio
import inspect
import logging
import math
import os
import random
import shlex
import time
import tty
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, TypeAlias

from ..names import did_you_mean, shorten
from .fields import Range

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
    "taken": {"text": "Port already in use"},
    "refuse": {},
}
"""The faults of a connection, with their options and defaults."""

Beyond: TypeAlias = dict[str, dict[Literal["above", "below", "alarm"], dict[str, Any]]]

Command: TypeAlias = tuple[Any, ...]
"""A procedure of the device, such as ``stage.home``, and its arguments."""


@dataclass(frozen=True)
class Rehearsal:
    """How ``hcam drill`` brings about and ends ``alarms``, by their names without a channel.

    It sets ``controls``, injects ``fault`` with ``options``, and gives the commands ``begin``,
    which may fail. To end it clears the fault, sets the controls back, and gives the commands
    ``end``, each when nothing moves any more.
    """

    alarms: tuple[str, ...] = ()
    controls: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    begin: tuple[Command, ...] = ()
    end: tuple[Command, ...] = ()
    takes: float = 0.0
    """The time (s) from the last command until the first sample with the alarms."""
    only_while: Mapping[str, Any] = field(default_factory=dict)
    """Values in telemetry without which it would disturb somebody's work, and is left out."""
    setting: str = ""
    """A setting of the device without which the alarms cannot come."""


USUAL_RANGE = (-1e6, 1e6)
DISCONNECT_WHEN = ("before", "during", "after")
TYPES = {
    str: ((str,), "text"),
    int: ((int,), "whole number"),
    float: ((int, float), "number"),
}
"""The valid types of an option and their name, by the type of its default."""


class Impatient:
    """A ``cut`` that discards an incomplete frame after a ``pause`` (s) between two bytes."""

    def __init__(
        self, cut: Callable[[bytearray], bytes | None], pause: float, clock: Callable[[], float]
    ) -> None:
        self._cut, self.pause, self.clock = cut, pause, clock
        self._buffer, self._unfinished, self._since = bytearray(), 0, 0.0

    def __call__(self, buffer: bytearray) -> bytes | None:
        """Cut one frame."""
        if buffer is self._buffer and self.clock() - self._since > self.pause:
            del buffer[: self._unfinished]
        frame = self._cut(buffer)
        self._buffer, self._unfinished, self._since = buffer, len(buffer), self.clock()
        return frame


PROGRAM = """#!/bin/bash
# Hands its name and arguments to the simulator, prints what comes until EOT, and ends with the
# status that comes then.
LC_ALL=C
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
printf '%s\\n' "${{0##*/}} ${{*@Q}}" >&3
IFS= read -r -d $'\\004' -u 3 said
printf '%s' "$said"
read -r -u 3 status
exit "${{status:-1}}"
"""


def printed(text: str, status: int = 0) -> bytes:
    """Return the output of a simulated program, EOT, and the exit status, for PROGRAM."""
    return text.replace("\x04", "").encode() + b"\x04%d\n" % status


class Simulator:
    """Base class of simulators, with faults by name and values that can be set (``controls``)."""

    controls: ClassVar[tuple[str, ...]] = ()
    """The attributes that people may set: numbers, texts and truth values."""
    ranges: ClassVar[dict[str, Range]] = {}
    """The ranges of numbers among the controls that are narrower than ``USUAL_RANGE``."""
    beyond: ClassVar[Beyond] = {}
    """The controls that bring a field, by its name without a channel, ``above`` or ``below`` all
    its limits, or bring about an ``alarm`` that is about no limit: ``hcam drill`` sets them, and
    later sets them back."""
    rehearsals: ClassVar[tuple[Rehearsal, ...]] = ()
    """How to bring about alarms for which ``beyond`` is not enough."""
    unplugged = "refuse"
    """The fault with which the device is offline, for ``hcam drill``."""
    programs: ClassVar[tuple[str, ...]] = ()
    """The names of the programs that the device runs, if that is how it asks its hardware."""
    serial: ClassVar[bool] = False
    """Whether it is served on a pseudo-terminal in place of a port."""
    link_settings: ClassVar[dict[str, Any]] = {}
    """The device's settings beside host and port."""
    port = 0
    """The port that serves the simulator."""
    folder: Path
    """The folder for files of simulated hardware; simulators that share a disk share it."""
    greeting = b""
    """Bytes to send when a connection is made."""
    cut: Callable[[bytearray], bytes | None]
    """Removes and returns the first whole request of the buffer, or None until there is one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seed: int = 0) -> None:
        self.clock = clock
        self._advanced_to = clock()
        self.random = random.Random(seed)
        self.faults: dict[str, dict[str, Any]] = {}
        self._recorded: dict[bytes, list[bytes]] | None = None
        self._hang_up: list[Callable[[bytes], None]] = []
        self._cleared = asyncio.Event()

    def answer(self, frame: bytes) -> bytes:
        """Return the reply to a frame, or empty bytes if the hardware would not answer."""
        raise NotImplementedError

    def advance(self, dt: float) -> None:
        """Advance positions, temperatures and other simulated quantities by ``dt`` seconds."""

    def catch_up(self) -> None:
        """Advance to the present time, before each answer and each fault."""
        now = self.clock()
        dt, self._advanced_to = now - self._advanced_to, now
        self.advance(dt)

    def latency(self, frame: bytes) -> float:
        """Return the delay (s) of the answer to a frame; other connections do not wait."""
        return 0.0

    def constant(self, frame: bytes) -> bytes:
        """Return the part of a request that is the same at each repetition.

        Of a command line it is the words, however they are quoted.
        """
        if self.programs:
            return shlex.join(shlex.split(frame.decode("utf-8", "replace"))).encode()
        return frame

    def renumber(self, reply: bytes, frame: bytes) -> bytes:
        """Return a recorded reply with the number of this frame, if requests are numbered."""
        return reply

    def play(self, passed: Iterable[tuple[str, bytes]]) -> None:
        """Answer each request as in a recording (direction and bytes), in order.

        The last answer to a request is repeated; a request without a recorded answer gets none.
        """
        self._recorded = {}
        asked = b""
        for direction, data in passed:
            if direction == ">":
                buffer = bytearray(data)
                while (frame := self.cut(buffer)) is not None:
                    asked = self.constant(frame)
                    self._recorded.setdefault(asked, []).append(b"")
            elif asked:
                self._recorded[asked][-1] += data

    def reply(self, frame: bytes) -> bytes:
        """Return the answer to a frame, from the recording if one is played."""
        if self._recorded is None:
            self.catch_up()
            return self.answer(frame)
        replies = self._recorded.get(self.constant(frame), [b""])
        said = replies.pop(0) if len(replies) > 1 else replies[0]
        return self.renumber(said, frame)

    def unsolicited(self) -> tuple[bytes, float | None]:
        """Return unsolicited bytes to send now, and the seconds until the next call.

        They are infinite if only a request can be the reason for the next call, None if nothing is.
        """
        return b"", None

    def stands_in(self, procedure: str) -> bool:
        """Return whether to answer calls to another device that no server presents, with None.

        ``procedure`` is the one that its device calls: ``autoguider.add_relative_dither``.
        """
        return False

    async def background(self) -> None:
        """Run while the simulator is served, beside the connections."""

    def offers(self) -> dict[str, dict[str, Any]]:
        """Return every fault with its options and their defaults."""
        own = {name[6:]: self._parameters(name) for name in dir(self) if name.startswith("fault_")}
        return WIRE_FAULTS | own

    def _parameters(self, name: str) -> dict[str, Any]:
        known = inspect.signature(getattr(self, name)).parameters.items()
        return {key: parameter.default for key, parameter in known if key != "reply"}

    def simulate(self, fault: str = "", **chosen: Any) -> dict[str, Any]:
        """Inject a fault, ``set`` values of the simulated hardware, or ``clear`` all faults.

        Without a fault: return what may be done. Raises ValueError for what is not offered.
        """
        self.catch_up()
        offers = self.offers()
        if not isinstance(fault, str):
            raise ValueError(f"{shorten(fault)} is not the name of a fault")
        if fault == "set":
            self._set(chosen)
        elif fault == "clear":
            self.faults.clear()
            self._cleared.set()
            self._cleared = asyncio.Event()
        elif fault in offers:
            self.faults[fault] = options = _chosen(fault, offers[fault], chosen)
            if fault not in WIRE_FAULTS and not self._changes_replies(fault):
                getattr(self, f"fault_{fault}")(**_without_times(options))
            if fault in ("busy", "taken", "refuse"):
                self.hang_up()
        elif fault:
            meant = did_you_mean(fault, (*offers, "set", "clear"))
            raise ValueError(
                f"no fault {fault!r}; there are {', '.join(offers)}, set and clear{meant}"
            )
        return {
            "faults": {name: _shown(options) for name, options in self.faults.items()},
            "values": {name: getattr(self, name) for name in self.controls},
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "may inject": offers,
        }

    def _set(self, chosen: dict[str, Any]) -> None:
        for key, value in chosen.items():
            if key not in self.controls:
                meant = did_you_mean(key, self.controls)
                there = ", ".join(self.controls)
                raise ValueError(f"there is no {key} to set; there is {there}{meant}")
            kind = type(getattr(self, key))
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"{key} takes a {kind.__name__}, not {shorten(value)}")
            if kind in (int, float):
                low, high = self.ranges.get(key, USUAL_RANGE)
                if not low <= value <= high:  # nor is NaN
                    raise ValueError(f"{key} is {low:g} to {high:g}, not {shorten(value)}")
        for key, value in chosen.items():  # all of them, or none
            setattr(self, key, type(getattr(self, key))(value))

    def hang_up(self, last_words: bytes = b"") -> None:
        """Drop every connection after sending ``last_words``."""
        for drop in list(self._hang_up):
            drop(last_words)

    def fault(self, name: str) -> dict[str, Any] | None:
        """Return the options of an active fault, or None, and count one use of it."""
        options = self.faults.get(name)
        if options:
            options["times"] -= 1
            if options["times"] <= 0:
                del self.faults[name]
        return options

    async def hold(self, seconds: float) -> None:
        """Wait some seconds, or until all faults are cleared."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._cleared.wait()

    def own_faults(self, reply: bytes) -> bytes:
        """Apply the faults of this kind of device to a reply."""
        for name in list(self.faults):
            if name in WIRE_FAULTS or not self._changes_replies(name):
                continue
            if options := self.fault(name):
                reply = getattr(self, f"fault_{name}")(reply, **_without_times(options))
        return reply

    def _changes_replies(self, fault: str) -> bool:
        return "reply" in inspect.signature(getattr(self, f"fault_{fault}")).parameters


def _without_times(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "times"}


def _chosen(fault: str, offered: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a fault. Raises ValueError if a chosen option is not valid."""
    options = offered | {"times": math.inf} | offered
    for key, value in chosen.items():
        if key not in options:
            meant = did_you_mean(key, options)
            raise ValueError(f"{fault} has no {key}; it has {', '.join(options)}{meant}")
        kinds, what = TYPES[type(options[key])]
        if type(value) not in kinds or (what != "text" and not 0 <= value < 2**31):
            raise ValueError(f"{key} takes a {what}, not {shorten(value)}")
    if chosen.get("when", "after") not in DISCONNECT_WHEN:
        raise ValueError(f"when is one of {', '.join(DISCONNECT_WHEN)}")
    return options | chosen


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
        self,
        sim: Simulator,
        reader: asyncio.StreamReader,
        writer: "asyncio.StreamWriter | _Terminal",
    ) -> None:
        self.sim, self.reader, self.writer = sim, reader, writer
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()

    async def run(self) -> None:
        if "refuse" in self.sim.faults:
            return self.writer.transport.abort()
        if taken := self.sim.fault("taken"):
            return self._drop(f"{taken['text']}\r\n".encode(errors="replace"))
        self.sim._hang_up.append(self._drop)
        unasked = asyncio.create_task(self._speak())
        buffer = bytearray()
        try:
            if "busy" not in self.sim.faults:
                await self._send(self.sim.greeting)
            while data := await self.reader.read(4096):
                buffer += data
                while (frame := self.sim.cut(buffer)) is not None:
                    await self._answer(frame)
                self._asked.set()
        except ConnectionError:
            return
        except Exception:
            log.exception("the simulator %s cannot answer", type(self.sim).__module__)
        finally:
            unasked.cancel()
            self.sim._hang_up.remove(self._drop)
            self.writer.transport.abort()

    def _drop(self, last_words: bytes) -> None:
        with suppress(ConnectionError):
            self.writer.write(last_words)
        self.writer.transport.abort()

    async def _speak(self) -> None:
        while True:
            self.sim.catch_up()
            self._asked.clear()
            said, pause = self.sim.unsolicited()
            if not self.sim.faults.keys() & {"busy", "silence"}:
                await self._send(said)
            if pause is None:
                return
            if math.isinf(pause):
                await self._asked.wait()
            else:
                await asyncio.sleep(pause)

    async def _answer(self, frame: bytes) -> None:
        sim = self.sim
        if "busy" in sim.faults or sim.fault("silence"):
            return
        hang_up = sim.fault("disconnect")
        when = hang_up["when"] if hang_up else ""
        if when == "before":
            raise ConnectionResetError
        if pause := sim.latency(frame):
            await asyncio.sleep(pause)
        reply = sim.reply(frame)
        if reply:
            reply = sim.own_faults(reply)
            reply = self._damaged(reply)
            for slow in (sim.fault("delay"), sim.fault("late")):
                if slow:
                    await sim.hold(slow["seconds"])
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
        async with self._turn:  # a device never mixes two messages
            for start in range(0, len(data), size or 1):
                self.writer.write(data[start : start + size])
                if split:
                    await self.writer.drain()
                    await asyncio.sleep(split["gap"])


@asynccontextmanager
async def serve(sim: Simulator, port: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Serve a simulator as its class says; yields the settings of a link to it.

    On a loopback port (``port``, or a free one), or on a pseudo-terminal if it is ``serial``.
    """
    if sim.serial:
        async with _serve_serial(sim) as place:
            yield place | sim.link_settings
        return
    running: set[asyncio.Task[None]] = set()

    def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_Conversation(sim, reader, writer).run())
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    server = await asyncio.start_server(converse, "127.0.0.1", port)
    sim.port = port = server.sockets[0].getsockname()[1]
    try:
        if sim.programs:
            with TemporaryDirectory(prefix="hcam-") as folder:
                write_programs(sim.programs, Path(folder), port)
                if not hasattr(sim, "folder"):
                    sim.folder = Path(folder)
                running.add(asyncio.create_task(_live(sim)))
                yield {"folder": folder} | sim.link_settings
        else:
            running.add(asyncio.create_task(_live(sim)))
            yield {"host": "127.0.0.1", "port": port} | sim.link_settings
    finally:
        server.close()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def _live(sim: Simulator) -> None:
    try:
        await sim.background()
    except Exception:
        log.exception("the simulator %s does nothing any more", type(sim).__module__)


def write_programs(names: tuple[str, ...], folder: Path, port: int) -> None:
    """Write the programs that stand for a simulator on a loopback port."""
    for name in names:
        (folder / name).write_text(PROGRAM.format(port=port), encoding="utf-8")
        (folder / name).chmod(0o700)


LOOK_PERIOD_S = 0.02
"""Check this often whether to plug in an unplugged serial device again."""


class _Terminal:
    """A pseudo-terminal under the name ``path``: the reader and writer of a simulator.

    It is raw. As on a serial line, bytes that nobody reads are lost beyond 4 KiB.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.reader, self.transport = path, asyncio.StreamReader(), self
        # Our own hold on the far end keeps the line alive while no driver has it open.
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        path.symlink_to(os.ttyname(self._far))
        asyncio.get_running_loop().add_reader(self._near, self._arrived)

    def _arrived(self) -> None:
        self.reader.feed_data(os.read(self._near, 4096))

    def write(self, data: bytes) -> None:
        """Write bytes to the device. Raises ConnectionResetError if the cable is unplugged."""
        if self._near < 0:
            raise ConnectionResetError
        with suppress(BlockingIOError):
            os.write(self._near, data)

    async def drain(self) -> None:
        """Do nothing, because ``write`` does not buffer."""

    def abort(self) -> None:
        """Unplug the cable: the reader gets EOF, and the path is removed."""
        if self._near >= 0:
            asyncio.get_running_loop().remove_reader(self._near)
            self.path.unlink(missing_ok=True)
            os.close(self._near)
            os.close(self._far)
            self._near = -1
            self.reader.feed_eof()


@asynccontextmanager
async def _serve_serial(sim: Simulator) -> AsyncIterator[dict[str, Any]]:
    """Serve a simulator on a pseudo-terminal; yields the settings of a ``Serial`` link to it.

    Its name stays while it is unplugged (``refuse``) and plugged in again (``disconnect``).
    """
    with TemporaryDirectory(prefix="hcam-") as folder:
        there, path = asyncio.Event(), Path(folder) / "port"
        plugging = asyncio.create_task(_keep_plugged(sim, path, there))
        try:
            await there.wait()
            yield {"path": str(path)}
        finally:
            plugging.cancel()
            await asyncio.wait([plugging])


async def _keep_plugged(sim: Simulator, path: Path, there: asyncio.Event) -> None:
    while True:
        if "refuse" not in sim.faults:
            terminal = _Terminal(path)
            there.set()
            await _Conversation(sim, terminal.reader, terminal).run()
        there.set()
        await asyncio.sleep(LOOK_PERIOD_S)


def toward(value: float, target: float, seconds: float, time_constant: float) -> float:
    """Return ``value`` after ``seconds`` of a first-order approach to ``target``."""
    return target + (value - target) * math.exp(-seconds / time_constant)
