"""The address of the router, read from an instrument file without the imports of ``load``."""

import tomllib
from pathlib import Path

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
EVERY_NETWORK = "0.0.0.0"  # noqa: S104  (the router listens there only with TLS)
SETTINGS = {"host": str, "port": int, "listen": str, "tls": bool, "names": list}
"""The settings in ``[router]``, and their types."""


def router_of(path: Path) -> tuple[str, int]:
    """Return the host and port of the router, from ``[router]`` of an instrument file.

    ``path`` may be the name of a file in the package. Raises InstrumentError if ``[router]`` or the
    file as a whole is wrong; devices are not checked otherwise.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("router", {})
        host = table.get("host") or table.get("listen", DEFAULT_HOST)
        port = table.get("port", DEFAULT_PORT)
        types = all(type(value) is SETTINGS.get(name) for name, value in table.items())
        if types and host != EVERY_NETWORK and 0 < port < 65536:
            return host, port
    except (OSError, ValueError, AttributeError):
        pass
    from .instrument import load  # noqa: PLC0415  (takes 0.3 s, which hcam call avoids)

    router = load(path).router
    return router.host, router.port
