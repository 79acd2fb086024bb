"""What each role should be allowed, from what devices say of themselves and not from the rules."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hcam_devices.alarms.server import entry_of as alarms
from hcam_devices.config.instrument import Entry, Instrument, load
from hcam_devices.core.fields import Setpoint
from hcam_devices.history.recorder import entry_of as recorder
from hcam_devices.wamp.roles import ACTIONS, Action

INSTRUMENTS = {name: load(Path(name)) for name in ("hipercam", "wht")}
"""The instrument files of the package."""
PEOPLE = ("observer", "operator", "engineer")
OF_AGENTS = {
    **dict.fromkeys(("describe", "telemetry", "samples", "journal"), "observer"),
    **dict.fromkeys(("wire", "exchange", "simulate"), "engineer"),
}
OF_JOURNALS = ("inventory", "samples", "page", "digests")
LOOK_UPS = {
    f"wamp.{what}.{how}"
    for what in ("registration", "subscription")
    for how in ("lookup", "match", "list", "get")
} | {"wamp.session.count"}
OF_SERVERS = {
    "wamp.session.add_testament",
    "wamp.registration.lookup",
    "wamp.registration.list_callees",
    "wamp.session.get",
}
OF_VIEWS = {
    "views.CCDHead": [("rack", "target_temperature")],
    "views.COMPO": [
        ("arms", "target_pickoff_angle"),
        ("arms", "target_injection_angle"),
        ("lens", "target_position"),
    ],
}
"""Which setpoints of which source a view sets; those of a CCD head are numbered."""
CLOSED = {
    "wamp.session.list",
    "wamp.session.kill",
    "wamp.session.kill_by_authid",
    "wamp.session.kill_by_authrole",
    "wamp.session.kill_all",
    "wamp.session.flush_testaments",
    "wamp.registration.remove_callee",
    "wamp.registration.count_callees",
    "wamp.subscription.list_subscribers",
    "wamp.subscription.remove_subscriber",
    "wamp.subscription.get_events",
    "crossbar.get_status",
    "com.example.anything",
}
"""What nobody may call."""


class Right(NamedTuple):
    """Whether a role should be allowed to do something with a URI."""

    role: str
    action: Action
    uri: str
    should: bool


class Declared:
    """The names of an instrument on the network."""

    def __init__(self, instrument: Instrument) -> None:
        self.entries: list[Entry] = [*instrument.entries.values(), recorder(instrument), alarms()]
        self.servers = instrument.servers
        self.procedures: dict[str, str] = {}
        """The least role of people that may call it."""
        self.setpoints: set[str] = set()
        self.owner: dict[str, str] = {}
        """The server that registers a name, or publishes to a topic."""
        self.heard: dict[str, str] = {}
        """The server that subscribes to a topic."""
        self.peers: set[tuple[str, str]] = set()
        self.shown: dict[str, set[str]] = defaultdict(set)
        """The topics of other servers' devices that the views of a server show."""
        self.strangers: set[str] = set()
        known = {name for entry in self.entries for name in entry.names}
        for entry in self.entries:
            self._add(entry, known)
        self.owner["hipercam.alarms.changed"] = "hwalarm"
        for server in self.servers:
            status = f"hipercam.{server}.status"
            self.owner[status] = self.heard[status] = server
            self.owner[f"hipercam.{server}.changes"] = server
            for name in ("about", "devices"):
                uri = f"hipercam.{server}.rpc.{name}"
                self.owner[uri], self.procedures[uri] = server, "observer"
            for name in ("", *OF_JOURNALS):
                self.owner[f"hipercam.{server}.journal.{name}"] = server

    def _add(self, entry: Entry, known: set[str]) -> None:
        device = entry.build()
        for alias in entry.names:
            least = dict(OF_AGENTS)
            for name, one in device.procedures().items():
                told = one.describe(name)
                program = "observer" if told["read_only"] else "operator"
                least[name] = program if told["audience"] == "program" else told["audience"]
            self.owner[f"hipercam.{alias}.rpc."] = entry.server
            for name, role in least.items():
                self.procedures[f"hipercam.{alias}.rpc.{name}"] = role
                self.owner[f"hipercam.{alias}.rpc.{name}"] = entry.server
            for name, field in device.fields.items():
                if isinstance(field, Setpoint):
                    self.setpoints.add(f"hipercam.{alias}.{name}")
                    self.heard[f"hipercam.{alias}.{name}"] = entry.server
        for topic in ("telemetry", "wire"):
            self.owner[f"hipercam.{entry.name}.{topic}"] = entry.server
        self.heard[f"hipercam.{entry.name}.telemetry"] = entry.server
        servers = {one.name: one.server for one in self.entries}
        for source in device.sources():
            if servers[source] != entry.server:
                self.shown[entry.server].add(f"hipercam.{source}.telemetry")
                self.peers.add((entry.server, f"hipercam.{source}.rpc.telemetry"))
        for role, name in OF_VIEWS.get(device.kind(), ()):
            source, number = getattr(device, role), getattr(device, "channel", "")
            if servers[source] != entry.server:
                self.peers.add((entry.server, f"hipercam.{source}.rpc.set_{name}{number}"))
        for peer, names in device.peers.items():
            if peer not in known:
                self.strangers.add(peer)
                self.owner[f"hipercam.{peer}.rpc."] = self.owner[f"hipercam.{peer}.telemetry"] = (
                    peer
                )
            self.peers |= {(entry.server, f"hipercam.{peer}.rpc.{name}") for name in names}

    @property
    def roles(self) -> dict[str, str]:
        """The server that each role is for; empty for people."""
        servers = {f"device-{name}": name for name in {*self.servers, *self.strangers}}
        servers["recorder"] = servers.pop("device-hwlogger")
        return dict.fromkeys(PEOPLE, "") | servers

    @property
    def uris(self) -> list[str]:
        """Every name, and some that are none."""
        names = {*self.procedures, *self.setpoints, *self.owner, *self.heard}
        names |= LOOK_UPS | OF_SERVERS | CLOSED
        names |= {f"hipercam.{alias}.telemetry" for e in self.entries for alias in e.names}
        names |= {"hipercam.", "hipercam..rpc.", "hipercam..telemetry", "hipercam.nobody.rpc.move"}
        names |= {"hipercam.nobody.telemetry", "hipercam.slider.rpc.", "wamp.registration."}
        return sorted(names)

    def allowed(self, role: str, uri: str, action: Action) -> bool:
        """Return whether a role should be allowed to do something with a URI."""
        server = self.roles[role]
        ours = uri.startswith("hipercam.")
        person = "operator" if server in self.strangers else role
        level = PEOPLE.index(person) if person in PEOPLE else -1
        own = self.owner.get(uri) == server if server else False
        if action == "register":
            return own and (".rpc." in uri or ".journal." in uri)
        if action == "publish":
            topic = ".rpc." not in uri and ".journal." not in uri
            return (own and topic) or (level >= 1 and uri in self.setpoints)
        if action == "subscribe":
            hears_all = server in ("hwlogger", "hwalarm")
            if level >= 0 or hears_all:
                return ours or (hears_all and uri.startswith("wamp.registration."))
            asks_whose = server in self.shown and uri.startswith("wamp.registration.")
            return self.heard.get(uri) == server or asks_whose or uri in self.shown.get(server, ())
        return self._may_call(server, uri, level)

    def _may_call(self, server: str, uri: str, level: int) -> bool:
        if level == 2 and uri.startswith("hipercam."):
            return True
        if level >= 0 and uri in self.procedures:
            return level >= PEOPLE.index(self.procedures[uri])
        if level >= 0 and uri in LOOK_UPS:
            return True
        if server in self.strangers:
            return uri == "wamp.session.add_testament"
        if server and (uri in OF_SERVERS or (server, uri) in self.peers):
            return True
        own_names = {f"hipercam.{entry.name}.rpc.samples" for entry in self.entries}
        return server == "hwlogger" and (".journal." in uri or uri in own_names)


def allowed(instrument: Instrument, role: str, uri: str, action: Action) -> bool:
    """Return whether a role should be allowed to do something with a URI."""
    return Declared(instrument).allowed(role, uri, action)


def rights(instrument: Instrument) -> Iterator[Right]:
    """Yield whether each role should be allowed to do each thing with each name."""
    declared = Declared(instrument)
    for role in declared.roles:
        for uri in declared.uris:
            for action in ACTIONS:
                yield Right(role, action, uri, declared.allowed(role, uri, action))
