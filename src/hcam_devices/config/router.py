"""The address of the router, read from an instrument file without the imports of ``load``."""

import tomllib
from pathlib import Path

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080


def router_of(path: Path) -> tuple[str, int]:
    """Return the host and port of the router, from ``[router]`` of an instrument file.

    ``path`` may be the name of a file in the package. Raises InstrumentError if ``[router]`` or the
    file as a whole is wrong; devices are not checked otherwise.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("router", {})
        host, port = table.get("host", DEFAULT_HOST), table.get("port", DEFAULT_PORT)
        types = type(host), type(port)
        if table.keys() <= {"host", "port"} and types == (str, int) and 0 < port < 65536:
            return host, port
    except (OSError, ValueError, AttributeError):
        pass
    from .instrument import load  # noqa: PLC0415  (takes 0.3 s, which hcam call avoids)

    router = load(path).router
    return router.host, router.port
