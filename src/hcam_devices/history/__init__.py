"""History: the recorder, its stores, the audit, and reading recorded values.

from hcam_devices.history import timeseries
"""

from .archive import timeseries

__all__ = ["timeseries"]
