"""Whether the records in a home are of hardware or of simulators.

No sample says whether it is emulated, so both would be one history. A mark in the home says that
all its records are of simulators.
"""

import logging
from pathlib import Path

from ..config.instrument import COMMON

log = logging.getLogger(__name__)

MARK = "emulated"


def has_real_records(folder: Path) -> bool:
    """Return whether a home folder has records of devices that are not all of simulators."""
    journals = (file.name.partition(".")[0] for file in folder.glob("journal/*.*"))
    return any(name not in COMMON for name in journals) and not (folder / MARK).exists()


def note(folder: Path, *, emulate: bool) -> None:
    """Note what a server is going to record in a home folder, and warn if that makes a mixture.

    Raises OSError if the folder cannot be written.
    """
    mark = folder / MARK
    if emulate and has_real_records(folder):
        log.warning(
            "emulated samples are now mixed into the records of real hardware in %s: unless you "
            "want that, end this server and give it another folder (HCAM_HOME)",
            folder,
        )
    elif emulate:
        mark.touch()
    elif mark.exists():
        mark.unlink(missing_ok=True)
        log.warning(
            "samples of real hardware are now mixed into the records of simulators in %s: unless "
            "you want that, end this server and give it another folder (HCAM_HOME)",
            folder,
        )
