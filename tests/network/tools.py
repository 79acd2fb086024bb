"""Programs that do not outlive a test, a WAMP client that is not ours, and patience."""

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, chdir, closing, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
from autobahn.asyncio.wamp import ApplicationSession
from autobahn.asyncio.websocket import WampWebSocketClientFactory
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer
from autobahn.wamp.types import ComponentConfig, SubscribeOptions
from click.testing import CliRunner

from hcam_devices.cli.main import main
from hcam_devices.config.instrument import COMMON, load
from hcam_devices.journal.records import sample_of, unpack
from hcam_devices.wamp import access, utils
from hcam_devices.wamp.access import Key, own_key, read_key
from hcam_devices.wamp.roles import role_of
from hcam_devices.wamp.router import answers, with_parent_death_signal
from hcam_devices.wamp.uris import Address

INSTRUMENT = load()
BIN = Path(sys.prefix) / "bin"
ROUTER_PYTHON = Path(sys.prefix) / "router" / "bin" / "python"
PATIENCE = 180.0
"""Seconds after which a test that waits has failed, on a machine ten times too busy as well."""

Sample = dict[str, Any]
T = TypeVar("T")


def spent() -> float:
    """Return the processor time of this thread, and of programs that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + ended.ru_utime + ended.ru_stime


def pauses() -> Iterator[float]:
    """Yield how long to wait before each next look at something.

    Looking takes at most a tenth of a processor. What has taken long is looked at less often, since
    each look is work for other programs, too.
    """
    start, began = time.monotonic(), spent()
    while True:
        waited = time.monotonic() - start
        assert waited < PATIENCE, f"waited {PATIENCE:g} s in vain"
        yield max(0.02, min(9 * (spent() - began), 2.0), min(waited / 10, 0.5))
        began = spent()


def until(condition: Callable[[], T]) -> T:
    """Wait until a condition is true."""
    wait = pauses()
    while not (result := condition()):
        time.sleep(next(wait))
    return result


def free_port() -> int:
    """Return a port nobody listens on, and that nobody else is given while this process lives."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        # A server that also sets this may listen there; the kernel gives the port to no one else.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = held.getsockname()[1]
        held.detach()
    return port


def living(home: Path, name: str = "") -> list[psutil.Process]:
    """Return the processes that work in a folder, whoever their parent is now, by their command."""
    found = []
    for process in psutil.process_iter():
        try:
            here = Path(process.cwd()).is_relative_to(home)
            if here and name in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


async def soon(condition: Callable[[], Awaitable[T]]) -> T:
    """Wait until a condition is true, without holding up the loop."""
    wait = pauses()
    while not (result := await condition()):  # noqa: ASYNC110  (it happens elsewhere)
        await asyncio.sleep(next(wait))
    return result


class Net:
    """A router and a server of one home; every program of it is started in that folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.started: list[subprocess.Popen[bytes]] = []
        self.router: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.before: dict[str, int] = {}
        self.known: Any = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "WAMP_SERVER": str(self.address),
            "HCAM_HOME": str(self.home),
            "TMPDIR": str(self.home),  # for the remains of a killed server
        }

    def start(self, *command: str | Path, log: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program that ends when this process does."""
        with (self.home / log).open("ab") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            options: dict[str, Any] = {"start_new_session": True} | streams | more
            process: subprocess.Popen[bytes] = subprocess.Popen(
                with_parent_death_signal([str(word) for word in command]),
                cwd=self.home,
                env=self.environment,
                **options,
            )
        self.started.append(process)
        return process

    def run(self, *command: str | Path, code: int | None = 0, timeout: float = PATIENCE) -> str:
        """Run a program to its end; return what it said."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.home,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, said
        assert "Traceback" not in said
        return said

    def hcam(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command in a process of its own; return what it printed."""
        return self.run(BIN / "hcam", *arguments, code=code)

    def hcam_here(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command in the process of the test, without the imports of a program of its own.

        Not while a loop runs in this thread.
        """
        with chdir(self.home):
            done = CliRunner().invoke(main, arguments, env=self.environment, catch_exceptions=False)
        assert code is None or done.exit_code == code, done.output
        return done.stdout + done.stderr

    def start_router(self, *arguments: str | Path) -> None:
        router = self.router = self.start(
            *(BIN / "hcam", "router", "--port", str(self.port), *arguments), log="router.out"
        )
        until(lambda: answers(self.port) or router.poll() is not None)
        assert router.poll() is None, (self.home / "router.out").read_text()

    def instrument_with(self, servers: Mapping[str, Iterable[str]]) -> Path:
        """Write the default instrument with further devices, by server; return its path.

        For the router they need no kind of their own. Names of one device are joined by ``=``.
        """
        file = self.home / "router.toml"
        tables = [f"[servers.{server}]\n" for server in servers]
        tables += [
            f'[devices.{name}]\nkind = "rackpc.RackPC"\nserver = "{server}"\n{aliases = }\n'
            for server, names in servers.items()
            for name, *aliases in (each.split("=") for each in names)
        ]
        file.write_text("\n".join([INSTRUMENT.path.read_text(), *tables]))
        return file

    @property
    def access(self) -> Path:
        return Path(self.environment["HCAM_HOME"]) / "access"

    def key(self, name: str) -> Key:
        """Return the key of a program of this home."""
        return read_key(self.key_file(name))

    def key_file(self, name: str) -> Path:
        """Return the path of the key of a program of this home."""
        return self.access / "keys" / f"{name}.key"

    def autoguider(self) -> Key:
        """Return the key of the autoguider, which is none of our servers, and let it in."""
        name = "autoguider"
        if name not in access.people(self.access):
            access.add(self.access, name, role_of(name), str(self.address))
        return self.key(name)

    def bring_key(self, name: str, router: "Net") -> None:
        """Copy the key of a program from the home of the router."""
        self.key_file(name).parent.mkdir(parents=True, mode=0o700)
        shutil.copy(router.key_file(name), self.key_file(name))

    def share_access(self, other: "Net") -> None:
        """Use the router of another home, with the keys that are there."""
        self.port = other.port
        self.access.symlink_to(other.access)

    def start_server(self, name: str = "hwserver") -> subprocess.Popen[bytes]:
        """Start one of the servers, emulated; ``server`` is the last one started."""
        self.before |= {one.name: self.last(one.name) for one in INSTRUMENT.choose(name)}
        self.server = self.start(BIN / name, "--emulate", log=f"{name}.out")
        return self.server

    def start_servers(self) -> None:
        """Start every server but the recorder; ``server`` is hwserver."""
        for name in sorted(
            {entry.server for entry in INSTRUMENT.entries.values()}, key="hwserver".__eq__
        ):
            self.start_server(name)

    def start_recorder(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return self.start(BIN / "hwlogger", *arguments, log="hwlogger.out")

    def start_alarms(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return self.start(BIN / "hwalarm", *arguments, log="hwalarm.out")

    def wait_for_devices(self, *names: str) -> None:
        """Wait until the devices can be called, and have read their hardware."""
        for name in names:
            try:
                until(lambda name=name: self._online(name))  # type: ignore[misc]
            except AssertionError as error:
                raise AssertionError(f"{name} is not online: {error}; {self._said(name)}") from None

    def _said(self, name: str) -> str:
        try:
            return str(self.newest(name))
        except utils.WampError as error:
            return str(error)

    def _online(self, name: str) -> bool:
        try:
            newest = self.newest(name)
        except (utils.NoSuchProcedureError, utils.RouterError, utils.OutcomeUnknownError):
            return False
        fresh = int(newest["seq"]) > self.before.get(name, 0)
        return fresh and bool(newest["state"]["connection"] == "online")

    def newest(self, name: str) -> Sample:
        """Return the newest sample of a device's journal, through the network."""
        after = max(self.last(name) - 1, 0)
        found = utils.call(f"hipercam.{name}.rpc.samples", after)
        return dict(found[-1]) if found else {"seq": 0}

    def last(self, name: str) -> int:
        """Return the newest number in the journal on disk: no network."""
        entry = INSTRUMENT.entries.get(name)
        found = 0
        common = {device: server for server, device in COMMON.items()}
        for file in self._journals(entry.server if entry else common.get(name, "*")):
            db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=PATIENCE)
            with closing(db), suppress(sqlite3.OperationalError):  # the server is creating it
                query = "SELECT max(seq) FROM sample WHERE device = ?"
                found = max(found, db.execute(query, (name,)).fetchone()[0] or 0)
        return found

    def _journals(self, server: str = "*") -> list[Path]:
        """Return the files of journals; those of each server in order."""
        return sorted((self.home / "journal").glob(f"{server}.*.sqlite"))

    def registrations(self) -> Any:
        """Return the numbers of all registrations: others, when a server has come back."""
        return utils.call("wamp.registration.list")

    def online_on_disk(self) -> bool:
        """Return whether every device is online in its newest sample in a journal."""
        newest: dict[str, bytes] = {}
        for file in self._journals():
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=PATIENCE)) as db:
                query = "SELECT device, body, max(seq) FROM sample GROUP BY device"
                newest |= {device: body for device, body, _ in db.execute(query)}
        records = [sample_of(unpack(body)[1]) for body in newest.values()]
        return all(one["state"]["connection"] == "online" for one in records if "state" in one)

    def end(self) -> None:
        """End everything, whatever state it is in."""
        while left := living(self.home):
            for process in left:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=5)
            for started in self.started:
                started.poll()
        for started in self.started:
            started.wait()


class Client(ApplicationSession):
    """A WAMP session of somebody else's making."""

    def __init__(self, realm: str, key: Key | None = None) -> None:
        super().__init__(ComponentConfig(realm))
        self.key = key
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cut: Callable[[], None]
        self.pause: Callable[[], None]

    def onConnect(self) -> None:
        if self.key is None:
            super().onConnect()
        else:
            extra = {"pubkey": self.key.public}
            methods = ["cryptosign", "anonymous"]  # the latter for an open router
            self.join(self.config.realm, methods, self.key.name, authextra=extra)

    def onChallenge(self, challenge: Any) -> str:
        assert self.key
        message = bytes.fromhex(challenge.extra["challenge"])
        return self.key.sign(message).hex() + message.hex()

    def onJoin(self, details: Any) -> None:
        self.role = details.authrole
        self.joined.set_result(None)

    def onLeave(self, details: Any) -> None:
        if not self.joined.done():
            self.joined.set_exception(ApplicationError(details.reason, details.message))
        super().onLeave(details)

    def onUserError(self, fail: Any, msg: str) -> None:
        raise AssertionError(msg)


@asynccontextmanager
async def client(
    address: Address,
    serializer: str = "cbor",
    realm: str = "hipercam",
    session: Client | None = None,
    key: Key | Literal["own"] | None = "own",
) -> AsyncIterator[Client]:
    """Join a realm over WebSocket; by default with the key of ``hcam`` in the network's home."""
    if key == "own":
        key = own_key() if "HCAM_HOME" in os.environ else None
    session = session or Client(realm, key)
    serializers = {"cbor": CBORSerializer, "json": JsonSerializer}
    factory = WampWebSocketClientFactory(
        lambda: session,
        url=f"ws://{address.host}:{address.port}/ws",
        serializers=[serializers[serializer]()],
        loop=asyncio.get_running_loop(),
    )
    transport, protocol = await asyncio.get_running_loop().create_connection(
        factory, address.host, address.port
    )
    session.cut, session.pause = transport.abort, transport.pause_reading
    try:
        await asyncio.wait_for(session.joined, PATIENCE)
        yield session
    finally:
        transport.abort()
        await protocol.is_closed


class Follower:
    """What one topic has said, the retained event first."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._news = asyncio.Event()

    @classmethod
    async def of(cls, session: Client, topic: str) -> "Follower":
        follower = cls()
        await session.subscribe(follower._hear, topic, SubscribeOptions(get_retained=True))
        return follower

    def _hear(self, event: Any) -> None:
        self.heard.append(event)
        self._news.set()

    async def until(self, condition: Callable[[Any], Any], begin: int = 0) -> Any:
        """Return the first event, after ``begin`` others, that satisfies a condition."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.heard[begin:]:
                    if condition(event):
                        return event
                begin = len(self.heard)
                self._news.clear()
                await self._news.wait()

    async def next(self, condition: Callable[[Any], Any]) -> Any:
        """Return the first event from now on that satisfies a condition."""
        return await self.until(condition, len(self.heard))


class Proxy:
    """A TCP proxy in front of the router; it can cut or freeze what goes through it."""

    def __init__(self, to: Address) -> None:
        self.to = to
        self.cuts: list[int] = []
        self.pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.address = to

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for pair in self.pairs:
            for writer in pair:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, router = await asyncio.open_connection(self.to.host, self.to.port)
        self.pairs.append((writer, router))
        most = self.cuts.pop(0) if self.cuts else sys.maxsize
        for source, sink, limit in ((reader, router, sys.maxsize), (there, writer, most)):
            task = asyncio.create_task(self._pump(source, sink, limit, (writer, router)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        most: int,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(4096):
                sink.write(data[:most])
                most -= len(data)
                if most <= 0:
                    for writer in pair:
                        writer.transport.abort()
                    return
        except ConnectionError:
            return

    def lose_clients(self) -> list[asyncio.StreamWriter]:
        """Cut the clients off without the router noticing; returns its side of each."""
        kept = []
        for here, router in self.pairs:
            if not here.transport.is_closing():
                here.transport.abort()
                kept.append(router)
        return kept


def plain(value: Any) -> bool:
    """Tell whether a value is plain data in every serializer."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(plain(one) for one in value)
    return value is None or type(value) in (str, int, float, bool)


def as_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True)
