"""Asks the router for the devices of the instrument, which it knows while no server runs, too."""

import json
from typing import Any

from ..errors import ProtocolError, RouterError
from ..host.http import Connection
from .access import Key, context_of
from .uris import Address
from .utils import CONNECT_WITHIN, PRESENT_WITHIN, unreachable


def devices(where: Address, key: Key | None) -> dict[str, dict[str, Any]]:
    """Return the devices in the router's answer to ``GET /instrument``, by name, in order.

    Each has its ``name``, ``server``, ``kind`` and ``aliases``. Raises RouterError if there is no
    such answer.
    """
    connection = Connection(where.host, where.port, context_of(key.ca if key else ""))
    try:
        connection.open(CONNECT_WITHIN)
        answer = connection.get("/instrument", timeout=PRESENT_WITHIN)
        if answer.ok:
            return {device["name"]: device for device in json.loads(answer.body)["devices"]}
        error: Exception = ConnectionError(f"it answered {answer.status} to /instrument")
    except (OSError, ValueError, ProtocolError) as failure:
        error = failure
    except (KeyError, TypeError):
        error = ConnectionError("its answer to /instrument has no devices")
    finally:
        connection.close()
    raise RouterError(unreachable(where, error, PRESENT_WITHIN))
