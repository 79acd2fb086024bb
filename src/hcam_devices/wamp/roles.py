"""Who may do what on the router: roles of Crossbar, made from the declarations of the devices.

People are observers, operators or engineers; each server has a role of its own, so that none can
take the names of another. What no rule allows is refused.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..config.instrument import ALARMS, COMMON, LOGGER, Entry
from ..core.fields import Setpoint
from . import uris
from .access import LOCAL
from .agent import OWN_PROCEDURES

Action: TypeAlias = Literal["call", "register", "publish", "subscribe"]
ACTIONS: tuple[Action, ...] = ("call", "register", "publish", "subscribe")

OBSERVER, OPERATOR, ENGINEER, RECORDER = "observer", "operator", "engineer", "recorder"


@dataclass(frozen=True)
class Limit:
    """The limits of a client of a role.

    ``message``: bytes of one message or request. ``unread``: bytes sent to it that it has not read,
    without the kernel's buffers. ``at_once``: sessions of one name, and its HTTP requests that
    wait for an answer. ``idle_s``: seconds without a message and without a subscription; None if
    there is no limit.
    """

    message: int
    unread: int
    at_once: int
    idle_s: float | None = None


KIB, MIB = 2**10, 2**20
LIMITS = {
    OBSERVER: Limit(64 * KIB, 4 * MIB, 128, idle_s=600),
    OPERATOR: Limit(256 * KIB, 8 * MIB, 128),
    ENGINEER: Limit(MIB, 8 * MIB, 256),
    RECORDER: Limit(MIB, 16 * MIB, 256),
}
DEVICE_LIMIT = Limit(MIB, 16 * MIB, 256)
"""For the role of a server, which has one session for all of its devices."""

SERVER_PROCEDURES = "about", "devices"
"""What each server offers under its own name."""
ADD_TESTAMENT = "wamp.session.add_testament"
DISCLOSED = {"caller": True, "publisher": True}
LOOK_UP = (
    *(
        f"wamp.{what}.{how}"
        for what in ("registration", "subscription")
        for how in ("lookup", "match", "list", "get")
    ),
    "wamp.session.count",
)
"""Router procedures that ``hcam call`` and ``hcam publish`` use."""
WHOSE_NAME = ("wamp.registration.lookup", "wamp.registration.list_callees", "wamp.session.get")
"""Router procedures for servers and the recorder, to find the owner of a name."""


@dataclass(frozen=True)
class Rule:
    """The actions allowed at a URI; if it is empty or ends in a dot, at all that begin so."""

    uri: str
    allow: frozenset[Action]

    @property
    def is_prefix(self) -> bool:
        """Whether it holds for every URI that begins with it."""
        return not self.uri or self.uri.endswith(".")

    def covers(self, uri: str) -> bool:
        """Return whether it holds for a URI."""
        return uri.startswith(self.uri) if self.is_prefix else uri == self.uri


def merged(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that Crossbar needs, where the longest matching rule decides alone.

    Each allows all that the given rules covering its URI allow. An exact rule allows nothing at
    a longer URI. A rule that allows what the next shorter one does is left out, to save the
    router's memory.
    """
    allowed: dict[str, frozenset[Action]] = {}
    for rule in rules:
        allowed[rule.uri] = allowed.get(rule.uri, frozenset()) | rule.allow
    needed: dict[str, Rule] = {}
    for uri in sorted(allowed):
        shorter = [needed[uri[:end]] for end in range(len(uri)) if uri[:end] in needed]
        allow = allowed[uri].union(*(rule.allow for rule in shorter if rule.is_prefix))
        if not shorter or not shorter[-1].is_prefix or shorter[-1].allow != allow:
            needed[uri] = Rule(uri, allow)
    return [*needed.values()]


def role_of(server: str) -> str:
    """Return the role of a server."""
    return RECORDER if server == LOGGER else f"device-{server}"


def limit(role: str) -> Limit:
    """Return the limits of a client of a role."""
    return LIMITS.get(role, DEVICE_LIMIT)


def servers(entries: Iterable[Entry]) -> list[str]:
    """Return the servers that have their own role, including other projects' servers."""
    declared = _Declarations(entries)
    return sorted([*declared.servers, *declared.strangers()])


def programs(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the roles of the programs on the router's machine, by the names of their keys."""
    servers = {entry.server for entry in entries} | COMMON.keys()
    return {LOCAL: ENGINEER} | {server: role_of(server) for server in sorted(servers)}


def roles(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return Crossbar's roles in the realm of an instrument with these devices."""
    return [_role(name, rules) for name, rules in _Declarations(entries).rules().items()]


def replay_roles(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return Crossbar's roles in the realm in which recorded nights are published again."""
    watch = _rules("subscribe", [f"{uris.PREFIX}."])
    replay = [
        *watch,
        *_rules("publish", [f"{uris.PREFIX}."]),
        *_rules("call", ["wamp.session.count"]),
    ]
    rules = {OBSERVER: watch, OPERATOR: replay, ENGINEER: replay}
    return [_role(name, rules.get(name, [])) for name in _Declarations(entries).rules()]


def strangers(entries: Iterable[Entry]) -> list[str]:
    """Return the programs that devices call but that are no devices, such as the autoguider."""
    return sorted(_Declarations(entries).strangers())


def realm1_roles(
    entries: Iterable[Entry], programs: Iterable[str], bridge: str
) -> list[dict[str, Any]]:
    """Return Crossbar's roles in the realm of version 1.7: those of programs, and the bridge's."""
    declared = _Declarations(entries)
    strangers = declared.strangers()
    setpoints = [one for entry in declared.entries for one in declared.setpoints(entry)]
    program = [
        *_rules("subscribe", [f"{uris.PREFIX}."]),
        *_rules("call", [f"{uris.PREFIX}.", *LOOK_UP]),
        *_rules("publish", [*setpoints, *map(uris.telemetry, strangers)]),
        *_rules("register", map(uris.rpc, strangers)),
    ]
    everything = [rule for action in ACTIONS for rule in _rules(action, [f"{uris.PREFIX}."])]
    return [*(_role(name, program) for name in programs), _role(bridge, everything)]


def least_role(*, read_only: bool = False, audience: str | None = None) -> str:
    """Return the lowest role of people that may call a procedure declared so."""
    if audience is None or audience == "program":
        return OBSERVER if read_only else OPERATOR
    return audience


class _Declarations:
    """The network names of devices, with their procedures and setpoints."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self.devices = {entry.name: entry.build() for entry in self.entries}
        self.servers = sorted({entry.server for entry in self.entries} | COMMON.keys())

    def rules(self) -> dict[str, list[Rule]]:
        """Return the rules of each role."""
        observer = [
            *_rules("subscribe", [f"{uris.PREFIX}."]),
            *_rules("call", [*LOOK_UP, *self.procedures(OBSERVER)]),
        ]
        operator = [
            *observer,
            *_rules("call", self.procedures(OPERATOR)),
            *_rules("publish", [one for entry in self.entries for one in self.setpoints(entry)]),
        ]
        engineer = [*operator, *_rules("call", [f"{uris.PREFIX}."])]
        return {
            OBSERVER: observer,
            OPERATOR: operator,
            ENGINEER: engineer,
            **{role_of(server): self.server(server) for server in self.servers},
            **{role_of(name): [*operator, *self.stranger(name)] for name in self.strangers()},
        }

    def procedures(self, role: str) -> Iterator[str]:
        """Yield procedures for which people need this role."""
        if role == OBSERVER:
            yield from (
                uris.rpc(server, name) for server in self.servers for name in SERVER_PROCEDURES
            )
        for entry in self.entries:
            needed = {name: least_role(**rights) for name, rights in OWN_PROCEDURES.items()}
            for name, one in self.devices[entry.name].procedures().items():
                needed[name] = least_role(read_only=one.read_only, audience=one.audience)
            for alias in entry.names:
                yield from (uris.rpc(alias, name) for name in needed if needed[name] == role)

    def setpoints(self, entry: Entry) -> Iterator[str]:
        """Yield the topics on which the setpoints of a device are published."""
        for name, field in self.devices[entry.name].fields.items():
            if isinstance(field, Setpoint):
                yield from (uris.setpoint(alias, name) for alias in entry.names)

    def server(self, server: str) -> list[Rule]:
        """Return a server's rules: present its devices, call their peers, show sources."""
        entries = [entry for entry in self.entries if entry.server == server]
        names = [name for entry in entries for name in entry.names]
        topics = [uris.status(server), *(uris.telemetry(entry.name) for entry in entries)]
        setpoints = [one for entry in entries for one in self.setpoints(entry)]
        peers = [
            uris.rpc(peer, procedure)
            for entry in entries
            for peer, called in self.devices[entry.name].peers.items()
            for procedure in called
        ]
        rules = [
            *_rules("register", [uris.journal(server, "")]),
            *_rules("register", (uris.rpc(server, name) for name in SERVER_PROCEDURES)),
            *_rules("register", [uris.rpc(server, "simulate")]),  # for engineers only
            *_rules("register", map(uris.rpc, names)),
            *_rules("publish", [*topics, uris.changes(server)]),
            *_rules("publish", (uris.wire(entry.name) for entry in entries)),
            *_rules("publish", (uris.command(entry.name) for entry in entries)),
            *_rules("subscribe", [*topics, *setpoints]),
            *_rules("call", [ADD_TESTAMENT, *WHOSE_NAME, *peers]),
        ]
        own = {entry.name for entry in entries}
        if shown := {source for entry in entries for source in entry.sources} - own:
            passed = {one for entry in entries for one in self.devices[entry.name].passes_on()}
            heard = [uris.telemetry(source) for source in sorted(shown)]
            sets = [uris.rpc(source, f"set_{name}") for source, name in passed if source in shown]
            rules += _rules("subscribe", [*heard, uris.REGISTRATIONS])
            rules += _rules("call", [*(uris.rpc(one, "telemetry") for one in shown), *sets])
        if server == ALARMS:
            rules += _rules("publish", map(uris.changed, names))
            rules += _rules("subscribe", [f"{uris.PREFIX}.", uris.REGISTRATIONS])
        if server == LOGGER:
            samples = [uris.rpc(entry.name, "samples") for entry in self.entries]
            journals = [uris.journal(one, "") for one in self.servers]
            rules += _rules("subscribe", [f"{uris.PREFIX}.", uris.REGISTRATIONS])
            rules += _rules("call", [*journals, *samples])
        return rules

    def strangers(self) -> set[str]:
        """Return the peers of devices that are no devices, such as the autoguider."""
        peers = {peer for device in self.devices.values() for peer in device.peers}
        return peers - {name for entry in self.entries for name in entry.names}

    def stranger(self, name: str) -> list[Rule]:
        """Return the rules of a program that is no server of ours."""
        return [
            *_rules("register", [uris.rpc(name)]),
            *_rules("publish", [uris.telemetry(name)]),
            *_rules("call", [ADD_TESTAMENT]),
        ]


def _rules(action: Action, found: Iterable[str]) -> list[Rule]:
    return [Rule(uri, frozenset({action})) for uri in found]


def _role(name: str, rules: Iterable[Rule]) -> dict[str, Any]:
    nothing = Rule("", frozenset())
    return {"name": name, "permissions": [_permission(one) for one in merged([nothing, *rules])]}


def _permission(rule: Rule) -> dict[str, Any]:
    return {
        "uri": rule.uri,
        "match": "prefix" if rule.is_prefix else "exact",
        "allow": {action: action in rule.allow for action in ACTIONS},
        "disclose": DISCLOSED,
        "cache": not rule.is_prefix,  # invented names must not fill the memory
    }
