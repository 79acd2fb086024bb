"""Crossbar with limits on the resources that one client can take from the others.

The Python of the router's environment, which has Crossbar but not this package, runs it:
``python guarded_crossbar.py start --cbdir ...``. The node's worker is a fork of it (``forked``).
"""

import ctypes
import gc
import importlib
import json
import runpy
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absent  # noqa: F401  (before anything of Crossbar is imported)
import crossbar
import forked

gc.disable()  # until main: modules are no garbage, and looking at them takes long
crossbar._import_serializers_quietly()

import click  # noqa: E402
import door  # noqa: E402
import limits  # noqa: E402
import people  # noqa: E402
from autobahn.twisted.websocket import WebSocketServerProtocol  # noqa: E402
from autobahn.wamp.cryptosign import CryptosignKey  # noqa: E402
from crossbar import personality  # noqa: E402
from crossbar.common import checkconfig  # noqa: E402
from crossbar.common.twisted.endpoint import MaxConnectionsFactory  # noqa: E402
from crossbar.node.node import Node  # noqa: E402
from crossbar.router import broker as crossbar_broker  # noqa: E402
from crossbar.router import role as crossbar_role  # noqa: E402
from crossbar.router import router as crossbar_router  # noqa: E402
from crossbar.router import session as crossbar_session  # noqa: E402
from crossbar.router.auth.pending import PendingAuth  # noqa: E402
from crossbar.router.broker import Broker  # noqa: E402
from crossbar.router.router import Router, RouterFactory  # noqa: E402
from crossbar.router.session import RouterSession  # noqa: E402
from crossbar.worker import router as crossbar_worker  # noqa: E402
from crossbar.worker.router import RouterController  # noqa: E402
from nacl.signing import SigningKey  # noqa: E402
from twisted.internet import tcp  # noqa: E402
from twisted.internet.error import ConnectionAborted  # noqa: E402
from twisted.internet.task import LoopingCall  # noqa: E402
from twisted.protocols.basic import LineReceiver  # noqa: E402
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol  # noqa: E402
from twisted.python.failure import Failure  # noqa: E402
from twisted.web.http import HTTPChannel, Request  # noqa: E402
from txaio import make_logger  # type: ignore[attr-defined]  # noqa: E402

log = make_logger()

CONFIGURATION = Path("config.json")
"""The node's configuration, in the folder of the node."""
MAX_RECURSION = 1000
"""Python's default. py_ecc, which Crossbar imports, raises it to 100,000, where one deeply nested
message overflows the stack and ends the process."""
LOOK_PERIOD_S = 0.5
"""Check all connections this often."""
MAX_JOIN_S = 20.0
"""Close a WebSocket that has no session after this time. Servers wait 15 s for the welcome, and a
busy one may take longer to ask for it."""
BATCH_S = 1.0
"""Autobahn's ping timers may end this much too early."""
MAX_RETRANSMITS, MAX_PROBES = 5, 2
"""A machine is dead if it left this many retransmissions, or probes of its full buffer, in a row
unanswered: after about 6 s, or up to 4 minutes if its buffer was full."""
MIN_UNREAD = 2**20
"""Check a client's limit only above this many unread bytes."""
MAX_UNSENT_TOTAL = 64 * 2**20
"""Close the slowest clients if all together leave more bytes unread."""
MAX_BODY = 4 * 2**20
"""Close a client whose request is longer. Crossbar itself answers up to this size, with 413."""
MAX_RETAINED = 4096
MAX_RETAINED_BYTES = 32 * 2**20
"""Limits of topics, and of bytes as Python text, for one client; and for all that left."""
CLIENT_HELLO = b"\x16\x03"
"""The first bytes of a TLS client."""
NO_TLS = "this router has no TLS"
WANTS_TLS = (
    "this router takes TLS only: use https or wss, with the CA that is in your key file "
    "(hcam access add makes one; HCAM_KEY is its path)"
)
REPLAY = "replay"
"""The realm of hcam replay. Its retained events stay after the replay has ended."""


class Retained:
    """The retained topics of one owner and their sizes, oldest first."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.total = 0

    def add(self, topic: str, size: int) -> None:
        """Note that a topic now has a retained event of ``size`` bytes."""
        self.discard(topic)
        self.sizes[topic] = size
        self.total += size

    def discard(self, topic: str) -> None:
        """Note that a topic has no retained event of this owner any more."""
        self.total -= self.sizes.pop(topic, 0)

    @property
    def excess(self) -> bool:
        """Whether the owner is over its limits."""
        return len(self.sizes) > MAX_RETAINED or self.total > MAX_RETAINED_BYTES


class Rules(dict[str, Any]):
    """The rules of a role by URI. Crossbar's have a node for each character, 2 kB a rule."""

    longest = 0

    def __setitem__(self, uri: str, rule: Any) -> None:
        super().__setitem__(uri, rule)
        self.longest = max(self.longest, len(uri))

    def longest_prefix_value(self, uri: str) -> Any:
        """Return the rule of the longest URI with which this one begins. Raise KeyError."""
        # Somebody may send a URI of a megabyte.
        for end in range(min(len(uri), self.longest), -1, -1):
            if rule := self.get(uri[:end]):
                return rule
        raise KeyError(uri)


class GuardedBroker(Broker):  # type: ignore[misc]
    """Deletes a client's retained events, except testaments, when it leaves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = Retained()
        self.retained: dict[Any, Retained] = {}
        self.owners: dict[str, Retained] = {}

    def processPublish(self, session: Any, publish: Any) -> Any:
        """Publish an event, and note its owner if it is retained."""
        if publish.retain:
            # Crossbar keeps every retained event that has selected receivers, without limit.
            publish.retain = not publish.eligible and not publish.exclude
        result = super().processPublish(session, publish)
        if publish.retain and any(
            event.publish is publish for event in self._events(publish.topic)
        ):
            self._note(session, publish)
        return result

    def _note(self, session: Any, publish: Any) -> None:
        # What a session publishes while it leaves are its testaments.
        if self._router.realm == REPLAY or getattr(session, "leaves", False):
            owner = self.kept
        else:
            owner = self.retained.setdefault(session, Retained())
        topic = publish.topic
        if topic in self.owners:
            self.owners[topic].discard(topic)
        self.owners[topic] = owner
        owner.add(topic, len(repr((publish.args, publish.kwargs, publish.payload))))
        while owner.excess:
            self._give_back(next(iter(owner.sizes)))

    def detach(self, session: Any) -> None:
        """Forget a session and its retained events."""
        super().detach(session)
        for topic in [*self.retained.pop(session, Retained()).sizes]:
            self._give_back(topic)

    def _events(self, topic: str) -> list[Any]:
        observation = self._subscription_map.get_observation(topic)
        return list(observation.extra.retained_events) if observation else []

    def _give_back(self, topic: str) -> None:
        self.owners.pop(topic).discard(topic)
        observation = self._subscription_map.get_observation(topic)
        observation.extra.retained_events = []
        if not observation.observers:
            self._subscription_map.delete_observation(observation)


class GuardedRouter(Router):  # type: ignore[misc]
    """A router with the broker of this module."""

    broker = GuardedBroker

    def process(self, session: Any, msg: Any) -> None:
        """Process a message unless it is too long for its sender's role."""
        if not limits.refused(session, msg):
            super().process(session, msg)


class GuardedRouterFactory(RouterFactory):  # type: ignore[misc]
    """Makes the routers of this module. It reads the rules of roles itself (``GuardedNode``)."""

    router = GuardedRouter
    rules: dict[tuple[str, str], Any] = {}  # noqa: RUF012  (each factory replaces it)
    """The rules of roles that are not added yet, by realm and name."""

    def add_role(self, realm: str, config: dict[str, Any]) -> Any:
        """Add a role, with its rules in the node's configuration."""
        if not self.rules:
            made = json.loads(CONFIGURATION.read_bytes(), object_pairs_hook=_object)
            self.rules = {(name, role["name"]): role["permissions"] for name, role in _roles(made)}
        if rules := self.rules.pop((realm, config["name"]), None):
            config = config | {"permissions": rules}
        return super().add_role(realm, config)


class GuardedRouterController(RouterController):  # type: ignore[misc]
    """Checks all connections twice a second, and closes those over a limit."""

    router_factory_class = GuardedRouterFactory

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sys.setrecursionlimit(MAX_RECURSION)
        HTTPChannel.dataReceived = _data_received
        # Twisted's own delays each message by a turn of the loop, to encrypt more at once.
        TLSMemoryBIOFactory.protocol = TLSMemoryBIOProtocol
        TLSMemoryBIOProtocol.dataReceived = _for_tls_only(TLSMemoryBIOProtocol.dataReceived)
        tcp.Server.write = _write
        Request.handleContentChunk = _bounded(Request.handleContentChunk)
        websocket: Any = WebSocketServerProtocol
        websocket._dataReceived = _noting_time(websocket._dataReceived)
        websocket._sendAutoPing = _if_silent(websocket._sendAutoPing)
        websocket.onAutoPingTimeout = _unless_busy(websocket.onAutoPingTimeout)
        # At any log level, Crossbar formats and colours log texts for every message, every client
        # that joins, and every role.
        click.style = lambda text, **_: text
        for module in (crossbar_router, crossbar_session, crossbar_worker):
            module.pformat = repr
        for module in (crossbar_router, crossbar_broker):
            module.hlid = module.hltype = module.hlval = lambda value, **_: value
        crossbar_role.StringTrie = Rules
        RouterSession.onLeave = _leaving(RouterSession.onLeave)
        PendingAuth._accept = limits.accepting(PendingAuth._accept, self)
        MaxConnectionsFactory.buildProtocol = _making_room(MaxConnectionsFactory.buildProtocol)
        self.without_session: dict[Any, float] = {}
        door.guests.controller = self
        LoopingCall(self.look).start(LOOK_PERIOD_S)

    def look(self) -> None:
        """Close connections over a limit. Log every error: raised, it would end the loop."""
        for look in (self._close_excess, people.look, limits.look, door.guests.look):
            try:
                look(self)
            except Exception:  # noqa: BLE001  (it is in the log; the next look may succeed)
                log.failure("connections cannot be looked at")

    def _close_excess(self, _: object) -> None:
        for connection, reason in [*self._too_late(), *self._too_slow()]:
            _close(connection, reason)

    def _too_late(self) -> Iterator[tuple[Any, str]]:
        now = self._reactor.seconds()
        waiting = {
            connection for connection in self._reactor.getReaders() if _lacks_session(connection)
        }
        self.without_session = {
            connection: self.without_session.get(connection, now) for connection in waiting
        }
        for connection, since in self.without_session.items():
            if now - since > MAX_JOIN_S:
                yield connection, f"no session within {MAX_JOIN_S:g} s"

    def _too_slow(self) -> Iterator[tuple[Any, str]]:
        writers = self._reactor.getWriters()
        unsent = {
            connection: _unsent(connection)
            for connection in writers
            if isinstance(connection, tcp.Server)
        }
        total = sum(unsent.values())
        for connection in sorted(unsent, key=unsent.__getitem__, reverse=True):
            if total <= MAX_UNSENT_TOTAL:
                return
            yield connection, f"all clients together have left {total / 2**20:.0f} MiB unread"
            total -= unsent[connection]


def _leaving(on_leave: Any) -> Any:
    """Return an ``onLeave`` that notes on a session that it leaves."""

    def noted(session: Any, details: Any) -> Any:
        session.leaves = True
        return on_leave(session, details)

    return noted


def _close(connection: Any, reason: str) -> None:
    peer = connection.getPeer()
    log.warn("closing {where}: {reason}", where=f"{peer.host}:{peer.port}", reason=reason)
    connection.abortConnection()
    # the C library keeps freed memory otherwise
    connection.reactor.callLater(LOOK_PERIOD_S, ctypes.CDLL(None).malloc_trim, 0)


def _write(connection: Any, data: bytes) -> None:
    """Write to a client; close it if it does not read. A burst may come between looks."""
    tcp.Connection.write(connection, data)
    unread = _unsent(connection)
    if unread > MIN_UNREAD and not connection._aborting:
        role = getattr(_session(connection.protocol), "_authrole", None)
        most = limits.of(role).unread
        if unread > most:
            text = f"it has left {unread} bytes unread (role {role or 'unknown'}: at most {most})"
            _close(connection, text)


def _unsent(connection: Any) -> int:
    return int(len(connection.dataBuffer) + connection._tempDataLen)


def _unwrapped(protocol: Any) -> Any:
    """Return the protocol inside wrappers for TLS or connection counts."""
    while hasattr(protocol, "wrappedProtocol"):
        protocol = protocol.wrappedProtocol
    return protocol


def _session(protocol: Any) -> Any:
    """Return the joined session of a WebSocket connection, or None."""
    session = getattr(_unwrapped(protocol), "_session", None)
    return session if session is not None and session._session_id else None


def _lacks_session(connection: Any) -> bool:
    """Return whether this is a WebSocket connection without a joined session."""
    if not isinstance(connection, tcp.Server):
        return False
    websocket = isinstance(_unwrapped(connection.protocol), WebSocketServerProtocol)
    return websocket and not _session(connection.protocol)


def _making_room(build: Any) -> Any:
    """Return a ``buildProtocol`` that closes the oldest idle connection if there are too many.

    A client with a key can then join while somebody else holds all connections.
    """

    def build_protocol(factory: Any, address: Any) -> Any:
        if len(factory.protocols) >= factory.max_connections:
            idle = (one for one in factory.protocols if _is_idle(one))
            if oldest := next(idle, None):
                _log_sometimes(factory)
                oldest.transport.connectionLost(Failure(ConnectionAborted()))
        return build(factory, address)

    return build_protocol


def _log_sometimes(factory: Any) -> None:
    """Log that there are too many connections, as rarely as Crossbar logs refusals."""
    now = factory._reactor.seconds()
    if factory._last_logged is None or now - factory._last_logged >= factory.LOG_INTERVAL:
        factory._last_logged = now
        text = "max_connections={most} reached: new connections take the place of idle ones"
        log.warn(text, most=factory.max_connections)


def _is_idle(protocol: Any) -> bool:
    """Return whether an open connection has neither a session nor an unanswered request."""
    if protocol.transport._aborting:
        return False
    inner = _unwrapped(protocol)
    channel = getattr(inner, "_channel", inner)
    busy = getattr(channel, "_handlingRequest", None) or getattr(channel, "streams", None)
    return not busy and not _session(protocol)


def _for_tls_only(receive: Any) -> Any:
    """Return a ``dataReceived`` for TLS that refuses plain HTTP with an answer."""

    def data_received(protocol: Any, data: bytes) -> None:
        if not hasattr(protocol, "first") and data[:1].isalpha():
            protocol.transport.write(_answer("426 Upgrade Required", WANTS_TLS, "Upgrade: TLS/1.3"))
            protocol.transport.loseConnection()
            return
        protocol.first = data[:1]
        receive(protocol, data)

    return data_received


def _answer(status: str, text: str, *fields: str) -> bytes:
    body = json.dumps({"error": people.NOT_AUTHORIZED, "args": [text]})
    fields += "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", body]).encode()


def _noting_time(receive: Any) -> Any:
    def data_received(protocol: Any, data: bytes) -> None:
        protocol.heard_at = protocol.factory.reactor.seconds()
        receive(protocol, data)

    return data_received


def _if_silent(ping: Any) -> Any:
    """Return a ``_sendAutoPing`` that pings only clients silent for a whole ping interval."""

    def send_auto_ping(protocol: Any) -> None:
        silent_for = protocol.factory.reactor.seconds() - protocol.heard_at
        remaining = protocol.autoPingInterval - silent_for
        if remaining < BATCH_S:
            ping(protocol)
        else:
            protocol.autoPingPendingCall = protocol.factory._batched_timer.call_later(
                remaining, protocol._sendAutoPing
            )

    return send_auto_ping


def _unless_busy(give_up: Any) -> Any:
    """Return an ``onAutoPingTimeout`` that spares clients that may be busy.

    Programs of version 1.7 do not answer while they ask their user something.
    """

    def on_auto_ping_timeout(protocol: Any) -> None:
        session = protocol._session
        if session and session._realm == limits.LEGACY and _is_acknowledged(protocol.transport):
            protocol.autoPingTimeoutCall = None
            protocol._sendAutoPing()
        else:
            give_up(protocol)

    return on_auto_ping_timeout


def _is_acknowledged(connection: Any) -> bool:
    """Return whether, by the kernel's counts, the other machine acknowledges sent bytes."""
    info = connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4)
    retransmits, probes = info[2], info[3]
    return bool(retransmits < MAX_RETRANSMITS and probes < MAX_PROBES)


def _data_received(channel: Any, data: bytes) -> None:
    """Take bytes of a request; start its timeout at the first byte only.

    Twisted restarts the timeout at each byte, so a slow request could hold its connection.
    """
    if not channel.requests and not channel._buffer:
        channel.resetTimeout()
        if data.startswith(CLIENT_HELLO) and not channel.isSecure():
            channel.transport.write(_answer("400 Bad Request", NO_TLS))
            channel.transport.loseConnection()
            return
    LineReceiver.dataReceived(channel, data)


def _bounded(handle: Any) -> Any:
    def handle_content_chunk(request: Any, data: bytes) -> None:
        if request.content.tell() + len(data) > MAX_BODY:
            request.channel.forceAbortClient()
        else:
            handle(request, data)

    return handle_content_chunk


_flags: dict[Any, dict[str, bool]] = {}
"""The objects of the configuration that have only booleans, by their content."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the configuration; the rules, which are many, share equal parts."""
    made = dict(pairs)
    if all(isinstance(value, bool) for value in made.values()):
        return _flags.setdefault(tuple(pairs), made)
    return made


def _roles(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the roles that have rules, each with the name of its realm."""
    for worker in configuration["workers"]:
        for realm in worker["realms"]:
            yield from ((realm["name"], role) for role in realm["roles"] if "permissions" in role)


class Keys(dict[int, Any]):
    """The keys of a node, like Crossbar's security module: number 1 is for Ed25519."""

    is_open, is_locked = True, False


class GuardedNode(Node):  # type: ignore[misc]
    """A node whose worker is this program. It has no Ethereum key."""

    def load_config(self, *args: Any, **kwargs: Any) -> Any:
        """Load and check the configuration. Forget the rules, which the worker reads itself.

        Crossbar would keep them here and in the worker, and exchange four copies of them.
        """
        found = super().load_config(*args, **kwargs)
        for _, role in _roles(self._config):
            role["permissions"] = []
        return found

    def load_keys(self, *_: object, **__: object) -> bool:
        """Make a key for this run. Nothing outside the router uses it."""
        self._node_secmod = Keys({1: CryptosignKey(SigningKey.generate(), can_sign=True)})
        return True

    def _extend_worker_args(self, args: list[str], options: object) -> None:
        args[args.index("-m") : args.index("--cbdir")] = [__file__]


class Personality(personality.Personality):  # type: ignore[misc]
    """Crossbar's own personality, with the node and the worker of this module."""

    Node = GuardedNode
    native_workers = personality.default_native_workers()
    native_workers["router"] |= {"worker_class": GuardedRouterController}


def main() -> None:
    """Run Crossbar's command line with this personality, or its worker."""
    sys.setrecursionlimit(MAX_RECURSION)
    checkconfig.OrderedDict = _object  # Crossbar's objects have twice the size
    gc.freeze()  # so that the worker, a fork, keeps one copy of the modules with the controller
    gc.enable()
    if "--worker" in sys.argv or forked.becomes_worker():
        runpy.run_module("crossbar.worker.main", run_name="__main__")
    else:
        personality.Personality = Personality
        crossbar.run()


if __name__ == "__main__":
    importlib.import_module("guarded_crossbar").main()  # the name that the worker imports
