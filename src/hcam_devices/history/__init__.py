"""What comes home: the recorder, its stores, the audit, and the archive that is read.

from hcam_devices.history import timeseries
"""

from .archive import timeseries

__all__ = ["timeseries"]
