"""The owners of names on the network: a server, its host and process, and its start.

Each session of a server carries its owner. The owner of a device's name is the session that has
registered ``hipercam.<device>.rpc.``; the router discloses the publisher of each event, so a
device's events can be told from those of others under its name.
"""

import asyncio
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.protocol import ApplicationSession
from autobahn.wamp.types import SubscribeOptions

from .. import HcamError
from . import uris

EXTRA = "hcam"
"""The key in a session's authextra under which the router keeps its owner."""
MAX_TEXT = 100
"""Characters of a server's description of itself that are shown."""
ANSWER_WITHIN = 5.0
"""Seconds in which the router has to answer."""
MAX_NAMES = 10_000
"""Keep at most this many names: a client that invents names must not fill the memory."""
TAKEN_ERRORS = (
    ApplicationError.PROCEDURE_ALREADY_EXISTS,
    ApplicationError.PROCEDURE_EXISTS_INVOCATION_POLICY_CONFLICT,
)


@dataclass(frozen=True)
class Owner:
    """One server in one process. All of its sessions carry the same owner."""

    server: str
    since: str
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """Distinguishes two containers with the same host name and process number."""

    def as_extra(self) -> dict[str, Any]:
        """Return the ``authextra`` with which a session joins."""
        return {EXTRA: asdict(self)}

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> "Owner | None":
        """Return the owner in a session's details; None if it is no server of ours."""
        said = (session.get("authextra") or {}).get(EXTRA)
        try:
            owner = cls(**said or {})
        except TypeError:
            return None
        texts = (owner.server, owner.since, owner.host, owner.key)
        plain = all(isinstance(text, str) and text.isprintable() for text in texts)
        return owner if plain and type(owner.pid) is int else None

    def __str__(self) -> str:
        where = f"{self.server} on {self.host}"[:MAX_TEXT]
        return f"{where}, process {self.pid}, running since {self.since[:MAX_TEXT]}"


class NameTakenError(HcamError):
    """Another session has the name.

    ``owner`` is its server, None if it is no server of ours; ``holder`` names it for people.
    """

    def __init__(self, uri: str, session: Mapping[str, Any]) -> None:
        self.owner = Owner.of(session)
        peer = (session.get("transport") or {}).get("peer")
        number = session.get("session")
        self.holder = str(self.owner or f"another program (session {number} from {peer})")
        super().__init__(f"the name {uri} belongs to {self.holder}")


class Owners:
    """A cache of the owners of names; the router is asked again after a registration changes."""

    def __init__(self) -> None:
        self.known: dict[str, int | None] = {}
        """The session that owns each name; None if no session does."""
        self.strangers: set[tuple[str, int | None]] = set()
        """Pairs of a name and a session that publishes under it without owning it."""
        self._session: ApplicationSession | None = None
        self._names: dict[int, str] = {}
        self._asking: dict[str, asyncio.Task[int | None]] = {}
        self._servers: dict[int, str] = {}

    async def follow(self, session: ApplicationSession) -> None:
        """Use this session's router from now on. Raise autobahn's errors."""
        self._session = session
        self._forget_all()
        options = SubscribeOptions(match="prefix")
        await session.subscribe(self._changed, uris.REGISTRATIONS, options)

    def _changed(self, _: Any, registration: Any) -> None:
        """Forget a name's owner after its registration was made, taken or ended."""
        if isinstance(registration, dict):
            self.forget(uris.device_of(str(registration.get("uri"))))
        elif registration in self._names:
            self.forget(self._names.pop(registration))

    def forget(self, name: str) -> None:
        """Ask again for the owner of a name when something is next published under it."""
        self.known.pop(name, None)
        self._asking.pop(name, None)
        self.strangers = {stranger for stranger in self.strangers if stranger[0] != name}

    def _forget_all(self) -> None:
        for each in (self.known, self._asking, self.strangers, self._names, self._servers):
            each.clear()

    async def owner(self, name: str) -> int | None:
        """Return the session that owns a name, or None if no session does.

        Raises OSError, TimeoutError or one of autobahn's errors if the router does not answer.
        """
        while True:
            asking = self._asking.get(name)
            if asking is None:
                asking = self._asking[name] = asyncio.create_task(self._ask(name))
            try:
                owner = await asyncio.shield(asking)
            except Exception:
                if self._asking.get(name) is asking:
                    del self._asking[name]
                raise
            if self._asking.get(name) is asking:
                del self._asking[name]
                if len(self.known) >= MAX_NAMES:
                    self._forget_all()
                self.known[name] = owner
            if name in self.known:  # else its registration has changed meanwhile
                return self.known[name]

    async def _ask(self, name: str) -> int | None:
        session = self._session
        if session is None or not session.is_attached():
            raise ConnectionError("there is no router")
        async with asyncio.timeout(ANSWER_WITHIN):
            registration = await session.call(
                "wamp.registration.lookup", uris.rpc(name), {"match": "prefix"}
            )
            if registration is None:
                return None
            self._names[registration] = name  # before it can change
            try:
                sessions = await session.call("wamp.registration.list_callees", registration)
            except ApplicationError as error:
                if error.error == ApplicationError.NO_SUCH_REGISTRATION:
                    return None
                raise
            return next(iter(sessions), None)

    async def server(self, session: int) -> str:
        """Return the server that a session claims to be; empty if it is none of ours.

        Raises as ``owner`` does.
        """
        if session not in self._servers:
            if self._session is None or not self._session.is_attached():
                raise ConnectionError("there is no router")
            async with asyncio.timeout(ANSWER_WITHIN):
                details = await self._session.call("wamp.session.get", session)
            owner = Owner.of(details)
            if len(self._servers) >= MAX_NAMES:
                self._servers.clear()
            self._servers[session] = owner.server if owner else ""
        return self._servers[session]

    async def describe(self, session: int | None) -> str:
        """Return a description of a session for people, as far as the router has one."""
        if session is None:
            return "a session that the router does not disclose"
        if self._session is None or not self._session.is_attached():
            return f"session {session}"
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                told = await self._session.call("wamp.session.get", session)
            transport = told.get("transport") or told["authextra"].get("transport") or {}
            where = str(transport.get("peer") or "a place unknown")
            who = f"{told.get('authid')!s:.50} (role {told.get('authrole')!s:.50})"
        except (ApplicationError, AttributeError, KeyError, TypeError, OSError):
            return f"session {session}, which has ended"
        return f"session {session} of {who} at {where:.100}"
