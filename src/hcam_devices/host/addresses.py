"""The addresses of a host, and connecting to the first that can be reached."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import TypeVar

from . import threads

T = TypeVar("T")


async def addresses_of(host: str, within: float) -> list[str]:
    """Return the IP addresses of a host, in the order in which to try them.

    Raises OSError, with the host, if it has none, or (TimeoutError) if the name servers do not
    answer ``within`` that many seconds.
    """
    with suppress(ValueError):
        return [str(ip_address(host))]
    names = f"the name servers, asked for {host},"
    question = socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM
    try:
        found = await threads.ask(names, *question, within=within)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"no address of {host}: {error.strerror}") from None
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


async def first_reached(addresses: list[str], attempt: Callable[[str], Awaitable[T]]) -> T:
    """Return what ``attempt`` returns for the first address that can be reached; raises OSError."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return await attempt(address)
    return await attempt(addresses[-1])
