"""Who may join: the list of people, Crossbar's authenticators, and the end of sessions.

Programs have keys. People in a web browser give their token: Crossbar calls it a ticket.

The router's worker imports this module; it has Crossbar but not this package.
"""

import hmac
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from autobahn.wamp.exception import ApplicationError
from twisted.internet.defer import fail
from twisted.python.failure import Failure
from txaio import make_logger  # type: ignore[attr-defined]

log = make_logger()

NOT_AUTHORIZED = "wamp.error.not_authorized"
ACCESS_CHANGED = "wamp.close.access_changed"


@dataclass(frozen=True)
class Person:
    """A role, the public keys and the hash of the token that belong to a name."""

    role: str
    keys: tuple[str, ...]
    token: bytes | None

    @classmethod
    def read(cls, entry: Any) -> "Person":
        """Return the person of an entry of the file. Raises an error if it has mistakes."""
        role, keys, token = entry["role"], entry["keys"], entry["token"]
        if not isinstance(role, str):
            raise TypeError(f"the role {role!r} is not a text")
        return cls(
            role,
            tuple(_hash(key).hex() for key in keys),
            None if token is None else _hash(token),
        )


def _hash(text: str) -> bytes:
    """Return the 32 bytes that a text of the file means."""
    found = bytes.fromhex(text)
    if len(found) != 32:
        raise ValueError(f"{text!r} is not 64 hexadecimal digits")
    return found


class People:
    """The people of one file, read again when it has changed.

    A file that is missing or has mistakes changes nothing: the people last read stay.
    """

    def __init__(self) -> None:
        self.file: str | None = None
        self._known: dict[str, Person] = {}
        self._seen: tuple[int, ...] | None = None

    def watch(self, file: str) -> None:
        """Read people from this file from now on. Raises ValueError if there is another one."""
        if self.file not in (None, file):
            raise ValueError(f"people are read from {self.file} already, not from {file}")
        self.file = file

    def known(self) -> dict[str, Person]:
        """Return the people by their names."""
        if self.file is None:
            return {}
        seen: tuple[int, ...] = ()
        try:
            stat = os.stat(self.file)
            seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError as error:
            log.debug("{error}", error=error)
        if seen != self._seen:
            self._seen = seen
            self._read(self.file)
        return self._known

    def _read(self, file: str) -> None:
        try:
            with open(file, encoding="utf-8") as opened:
                entries = json.load(opened).items()
            self._known = {name: Person.read(entry) for name, entry in entries}
        except Exception as error:  # noqa: BLE001  (any mistake in the file)
            text = "{file} cannot be read, so the people known before stay: {error!r}"
            log.error(text, file=file, error=error)


people = People()


class Refusal(Failure):  # type: ignore[misc]
    """The failure of a join. Crossbar logs it in one line, without a traceback."""

    def __str__(self) -> str:
        return str(self.getErrorMessage())


def create(config: dict[str, Any], controller: Any) -> Callable[..., Any]:
    """Return Crossbar's authenticator of keys; ``config`` contains ``people``, a file."""
    people.watch(config["people"])

    def cryptosign(realm: str, authid: str, details: dict[str, Any]) -> Any:
        given = details["authextra"] or {}
        key = given.get("pubkey")
        person = people.known().get(authid)
        if person is None or key not in person.keys:
            text = f"the router does not know this key of {authid!r}: see hcam access list"
            return fail(Refusal(ApplicationError(NOT_AUTHORIZED, text)))
        # Also what a server says of itself, so that others can ask to whom a name belongs.
        return {
            "pubkey": key,
            "realm": realm,
            "authid": authid,
            "role": person.role,
            "extra": {**given, "pubkey": key},
        }

    return cryptosign


def create_for_tokens(config: dict[str, Any], controller: Any) -> Callable[..., Any]:
    """Return Crossbar's authenticator of tokens; ``config`` contains ``people``, a file."""
    people.watch(config["people"])

    def ticket(realm: str, authid: str, details: dict[str, Any]) -> Any:
        person = people.known().get(authid)
        hashed = sha256(str(details["ticket"]).encode()).digest()
        if not _is_private(details["transport"]):
            text = "a token may not cross a network without TLS: use https, and make a new token"
        elif (
            person is None or person.token is None or not hmac.compare_digest(person.token, hashed)
        ):
            text = f"the router does not know this token of {authid!r}: see hcam access list"
        else:
            return {
                "realm": realm,
                "authid": authid,
                "role": person.role,
                "extra": {"token": _fingerprint(person)},
            }
        return fail(Refusal(ApplicationError(NOT_AUTHORIZED, text)))

    return ticket


def _is_private(transport: dict[str, Any]) -> bool:
    """Return whether others could not read what a connection carries (``peer``: tcp4:ADDRESS:N)."""
    address = str(transport["peer"]).partition(":")[2].rpartition(":")[0].strip("[]")
    return bool(transport["is_secure"]) or ip_address(address).is_loopback


def _fingerprint(person: Person) -> str:
    """Return a text that changes with the person's token, and does not disclose it."""
    return sha256(b"fingerprint" + (person.token or b"")).hexdigest()[:16]


def look(controller: Any) -> None:
    """End the sessions of people who were removed, or whose key, token or role was changed."""
    known = people.known()
    for realm in controller.realms.values():
        for sessions in [*realm.router._authid_to_sessions.values()]:
            for session in [*sessions]:
                if session.authmethod not in ("cryptosign", "ticket"):
                    continue
                try:
                    _show_out_unless(known.get(session.authid), session)
                except Exception:  # noqa: BLE001  (the others have to be looked at)
                    log.failure("a session cannot be ended")


def _show_out_unless(person: Person | None, session: Any) -> None:
    if person is None:
        reason = f"{session.authid!r} was removed"
    elif person.role != session.authrole:
        reason = f"{session.authid!r} has the role {person.role} now"
    elif session.authmethod == "ticket":
        if session.authextra["token"] == _fingerprint(person):
            return
        reason = f"{session.authid!r} has another token now"
    elif session.authextra["pubkey"] not in person.keys:
        reason = f"this key of {session.authid!r} was removed"
    else:
        return
    show_out(session, ACCESS_CHANGED, reason)


def show_out(session: Any, error: str, reason: str) -> None:
    """End a session; if it is still there at the next call, drop its connection."""
    if session._goodbye_sent:
        session._transport.dropConnection(abort=True)
    else:
        log.warn("ending session {id}: {reason}", id=session._session_id, reason=reason)
        session.leave(error, reason)
