"""The errors that more than one part of the package knows, and their names on the network.

An agent answers an error with ``uri_of(error)`` and its text; ``hcam_devices.wamp.utils``, and a
device that calls another, raise ``from_uri(uri, text)``. Both read the classes below. An error that
only one part raises and understands stands in that part.
"""

from . import HcamError


class ProtocolError(Exception):
    """What arrived is not what this hardware says."""


LINK_LOST = (OSError, TimeoutError, ProtocolError)
"""The exchange was interrupted or made no sense: the link is closed, and opened again."""


class WampError(HcamError):
    """An error with a name on the network, ``uri``; ``text`` is the reason.

    Without a name of its own it is an error of the program.
    """

    uri = "com.hipercam.error.internal"

    def __init__(self, text: str = "", uri: str = "") -> None:
        self.text, self.uri = text, uri or self.uri
        super().__init__(text or self.uri)


class NoSuchProcedureError(WampError):
    """Nobody offers the procedure: the name is wrong, or its server is not running."""

    uri = "com.hipercam.error.no_such_procedure"


class NotAuthorizedError(WampError):
    """The router does not allow this to the caller."""

    uri = "wamp.error.not_authorized"


class InvalidArgumentError(WampError, ValueError):
    """The device would not take the value; nothing was sent to the hardware."""

    uri = "com.hipercam.error.invalid_argument"


class NotAllowedError(WampError):
    """The command makes no sense in the device's present state; nothing was sent."""

    uri = "com.hipercam.error.not_allowed"


class RefusedError(WampError):
    """The hardware understood, and refused."""

    uri = "com.hipercam.error.refused"


class OfflineError(WampError, ConnectionError):
    """The hardware could not be reached, or did not answer."""

    uri = "com.hipercam.error.offline"


class RouterError(WampError, ConnectionError):
    """The router could not be run, or not be reached; nothing was sent."""

    uri = "com.hipercam.error.no_router"


class OutcomeUnknownError(WampError, TimeoutError):
    """No answer came, here or to the device: the command may have been carried out.

    It is not sent again.
    """

    uri = "com.hipercam.error.outcome_unknown"


_CLASSES: dict[str, type[WampError]] = {
    **{error.uri: error for error in WampError.__subclasses__()},
    "wamp.error.no_such_procedure": NoSuchProcedureError,  # the router's own word for it
    "wamp.error.canceled": OutcomeUnknownError,  # the callee left before it answered
}


def uri_of(error: Exception) -> str:
    """Return the name of an error on the network.

    Any ValueError is an invalid argument, any lost link is offline, the rest is internal.
    """
    if isinstance(error, WampError):
        return error.uri
    if isinstance(error, ValueError):
        return InvalidArgumentError.uri
    return OfflineError.uri if isinstance(error, LINK_LOST) else WampError.uri


def from_uri(uri: str, text: str) -> WampError:
    """Return the error that has this name on the network; a WampError if no class has it."""
    if uri.startswith("wamp.close."):  # the caller's own connection ended under the call
        return OutcomeUnknownError(text, uri)
    return _CLASSES.get(uri, WampError)(text, uri)


def refusal(answer: object) -> str | None:
    """Return the reason if an answer is a refusal in the form of the detector controller."""
    match answer:  # deployed programs expect it
        case [str(reason), False] | [False, str(reason)]:
            return reason
    return None
