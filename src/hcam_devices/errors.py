"""The errors that several parts of the package raise or catch, and their names on the network.

An agent answers an error with ``uri_of(error)`` and its text. ``hcam_devices.wamp.utils``, and a
device that calls another one, raise ``from_uri(uri, text)``. An error of one part only is defined
in that part.
"""

from . import HcamError


class ProtocolError(Exception):
    """The reply does not follow the protocol of this hardware."""


LINK_LOST = (OSError, TimeoutError, ProtocolError)
"""The errors after which a link is closed and opened again."""


class WampError(HcamError):
    """An error with a name on the network, ``uri``; ``text`` is the reason.

    The default name is that of a bug in the program.
    """

    uri = "com.hipercam.error.internal"

    def __init__(self, text: str = "", uri: str = "") -> None:
        self.text, self.uri = text, uri or self.uri
        super().__init__(text or self.uri)


class NoSuchProcedureError(WampError):
    """The procedure does not exist, or its server is not running."""

    uri = "com.hipercam.error.no_such_procedure"


class NotAuthorizedError(WampError):
    """The router does not allow the caller to do this."""

    uri = "wamp.error.not_authorized"


class InvalidArgumentError(WampError, ValueError):
    """The device rejects the value; nothing was sent to the hardware."""

    uri = "com.hipercam.error.invalid_argument"


class NotAllowedError(WampError):
    """The command is not possible in the present state of the device; nothing was sent."""

    uri = "com.hipercam.error.not_allowed"


class RefusedError(WampError):
    """The hardware understood the command and refused it."""

    uri = "com.hipercam.error.refused"


class OfflineError(WampError, ConnectionError):
    """The hardware could not be reached, or did not answer."""

    uri = "com.hipercam.error.offline"


class RouterError(WampError, ConnectionError):
    """The router could not be started or reached; nothing was sent."""

    uri = "com.hipercam.error.no_router"


class OutcomeUnknownError(WampError, TimeoutError):
    """No answer came: the command may have been carried out. It is not sent again."""

    uri = "com.hipercam.error.outcome_unknown"


_CLASSES: dict[str, type[WampError]] = {
    **{error.uri: error for error in WampError.__subclasses__()},
    "wamp.error.no_such_procedure": NoSuchProcedureError,  # the router's own name for it
    "wamp.error.canceled": OutcomeUnknownError,  # the callee left before it answered
}


def uri_of(error: Exception) -> str:
    """Return the name of an error on the network.

    Any ValueError is an invalid argument, any lost link is offline, any other error is internal.
    """
    if isinstance(error, WampError):
        return error.uri
    if isinstance(error, ValueError):
        return InvalidArgumentError.uri
    return OfflineError.uri if isinstance(error, LINK_LOST) else WampError.uri


def from_uri(uri: str, text: str) -> WampError:
    """Return the error with a name on the network; a WampError if no class has that name."""
    if uri.startswith("wamp.close."):  # the caller's own connection ended during the call
        return OutcomeUnknownError(text, uri)
    return _CLASSES.get(uri, WampError)(text, uri)


def refusal(answer: object) -> str | None:
    """Return the reason if an answer is a refusal as the detector server writes it."""
    match answer:  # deployed programs expect this form
        case [str(reason), False] | [False, str(reason)]:
            return reason
    return None
