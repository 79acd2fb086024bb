"""History: the recorder, its stores, the audit, and reading recorded values.

from hcam_devices.history import connect, timeseries

Both are imported when they are used: ``hwalarm`` needs only what the recorder declares.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archive import timeseries
    from .sql import connect

__all__ = ["connect", "timeseries"]


def __getattr__(name: str) -> Any:
    """Return a name in ``__all__``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import archive, sql  # noqa: PLC0415  (see above)

    return sql.connect if name == "connect" else archive.timeseries
