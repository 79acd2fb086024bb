"""Who has a name on the network: which server, on which host, in which process, since when."""

import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autobahn.wamp.exception import ApplicationError

from .. import HcamError

EXTRA = "hcam"
"""The key in a session's authextra under which the router keeps its owner."""
MAX_TEXT = 100
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
    """Tells apart two containers whose host names and process numbers are the same."""

    def as_extra(self) -> dict[str, Any]:
        """Return what a session says of itself when it joins."""
        return {EXTRA: asdict(self)}

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> "Owner | None":
        """Return the owner of a session by its details; None if it is no server of ours."""
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

    ``owner`` is its server, None if it is no server of ours; ``holder`` is what to call it.
    """

    def __init__(self, uri: str, session: Mapping[str, Any]) -> None:
        self.owner = Owner.of(session)
        peer = (session.get("transport") or {}).get("peer")
        number = session.get("session")
        self.holder = str(self.owner or f"another program (session {number} from {peer})")
        super().__init__(f"the name {uri} belongs to {self.holder}")
