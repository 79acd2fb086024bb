"""Limits of one client, by its role.

The router's worker imports this module; it has Crossbar but not this package.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from autobahn.wamp.message import Call, Error, Publish, Register, Subscribe
from autobahn.wamp.types import Deny
from crossbar.router.session import RouterSession
from people import NOT_AUTHORIZED, show_out
from twisted.internet import reactor

LEGACY = "realm1"
"""The realm of version 1.7. Its programs may be idle: they do not rejoin."""
IDLE = "wamp.close.idle"
QUESTIONS = (Call, Publish, Register, Subscribe)
"""Messages that may be refused."""

OTHERS = SimpleNamespace(message=2**20, unread=8 * 2**20, at_once=8192, idle_s=None)
"""Limits of connections without a session, and of roles without limits in the configuration.
``hcam_devices.wamp.roles.Limit`` defines them."""

_limits: dict[str | None, Any] = {}


def take(limits: Mapping[str, Mapping[str, Any]]) -> None:
    """Take the limits of roles, by their names, from the configuration."""
    _limits.update({role: SimpleNamespace(**limit) for role, limit in limits.items()})


def of(role: str | None) -> Any:
    """Return the limits of a role."""
    return _limits.get(role, OTHERS)


def excess(name: str, role: str, others: int) -> str | None:
    """Return why a name may have no further session or request, or None."""
    most = of(role).at_once
    if others < most:
        return None
    return f"{name} has {others} sessions or requests already, and role {role} may have {most}"


def accepting(accept: Any, controller: Any) -> Any:
    """Return an ``_accept`` that denies a name with too many sessions."""

    def accept_unless(pending: Any) -> Any:
        name, role = pending._authid, pending._authrole
        router = controller.router_factory.get(pending._realm)
        same = router._authid_to_sessions.get(name, ())
        if pending._authmethod == "anonymous":  # each has an authid of its own
            name = "anonymous"
            with_role = router._authrole_to_sessions.get(role, ())
            same = [one for one in with_role if one.authmethod == "anonymous"]
        text = excess(name, role, len(same))
        return Deny(NOT_AUTHORIZED, text) if text else accept(pending)

    return accept_unless


def too_long(size: int, role: str) -> str | None:
    """Return why a role may not send ``size`` bytes in a message, or None."""
    most = of(role).message
    return f"the message has {size} bytes, and role {role} may send {most}" if size > most else None


def refused(session: Any, message: Any) -> bool:
    """Return whether a message, the last one its transport received, is too long.

    A sender that waits gets an error.
    """
    session.heard_at = reactor.seconds()
    size = getattr(session._transport, "message_data_total_length", 0)
    text = too_long(size, session._authrole)
    if not text or not isinstance(message, QUESTIONS):
        return False
    if getattr(message, "acknowledge", True):
        session._transport.send(
            Error(message.MESSAGE_TYPE, message.request, NOT_AUTHORIZED, args=[text])
        )
    return True


def look(controller: Any) -> None:
    """End sessions that sent nothing, and waited for nothing, for too long."""
    now = reactor.seconds()
    for router in [realm.router for realm in controller.realms.values()]:
        if router.realm == LEGACY:
            continue
        subscriptions = router._broker._session_to_subscriptions
        calls = router._dealer._caller_to_invocations
        for role, sessions in router._authrole_to_sessions.items():
            most = of(role).idle_s
            for session in [*sessions] if most else ():
                if not isinstance(session, RouterSession):  # a session for HTTP callers
                    continue
                new = not hasattr(session, "heard_at")
                if new or subscriptions[session] or calls.get(session):
                    session.heard_at = now
                elif now - session.heard_at > most:
                    text = f"it was idle for more than the {most:g} s that role {role} may be"
                    show_out(session, IDLE, text)
