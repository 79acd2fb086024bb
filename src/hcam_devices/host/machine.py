"""Whether a host of the instrument file is this machine."""

import ipaddress
import platform
import socket


def why_elsewhere(host: str) -> str:
    """Return why a host name or address is not this machine; empty if it is this machine.

    This machine is its own name (with or without the domain), a loopback address, an address of a
    network interface, or a name with such an address. A machine behind NAT does not know the
    address by which others reach it.
    """
    if is_own_name(host):
        return ""
    try:
        addresses = addresses_of(host)
    except OSError as error:
        return f"{host} has no known address ({error.strerror or error})"
    if any(ipaddress.ip_address(address).is_loopback for address in addresses):
        return ""
    import psutil  # noqa: PLC0415  (7 ms, which most names do not need)

    interfaces = psutil.net_if_addrs().values()
    own = {part.address.partition("%")[0] for interface in interfaces for part in interface}
    return "" if own & addresses else f"{host} is not an address of this machine"


def addresses_of(host: str) -> set[str]:
    """Return the IP addresses of a host name. Raises OSError if it has none."""
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return {str(info[4][0]).partition("%")[0] for info in infos}


def is_own_name(host: str) -> bool:
    """Return whether a host is the name of this machine, with or without its domain."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        given, own = host.lower().rstrip("."), platform.node().lower()
        if "." in given and "." in own:
            return given == own
        return given.partition(".")[0] == own.partition(".")[0] != ""
    return False
