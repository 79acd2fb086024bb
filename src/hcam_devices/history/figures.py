"""The figures of the recorder, and the advice about its alarms, which ``hwalarm`` needs as well."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from ..config.instrument import LOGGER, Entry, Instrument
from ..config.stores import Folder, StoreSettings
from ..core.device import Device
from ..core.fields import Readback
from ..core.link import Lasting

AWAY = "Observe on: samples wait in the journals. Check that the store runs: hcam doctor."
GONE = "Observe on, and tell support in the morning what hcam audit says."


class Figures(Device):
    """What the recorder declares."""

    link_type = Lasting
    poll_every = 5.0

    advice: ClassVar[dict[str, str]] = {
        "heard": "Read the reason: end the program that it names, or tell support in the morning.",
        "disk": "Make room on the disk of the history, which the reason names: move files that "
        "are not of hcam_devices. Samples wait in the journals for days. Then hcam audit.",
        "journal": "Make room on the disk of the recorder: hcam doctor says how much there is.",
    }

    heard = Readback(unit="1 / s", doc="Telemetry events per second that the recorder receives.")
    disk = Readback(
        unit="GB",
        healthy=(2, math.inf),
        doc="Free space on the fullest disk of the history.",
    )


F = TypeVar("F", bound=Figures)


def with_stores(cls: type[F], stores: Iterable[str], folders: Iterable[str] = ()) -> type[F]:
    """Return a class with the figures of some stores and folders of copies."""
    declared: dict[str, Any] = {
        f"backlog_{name}": Readback(doc=f"Samples in closed files that {name} does not have yet.")
        for name in folders
    }
    for store in stores:
        declared |= {
            f"rate_{store}": Readback(
                unit="1 / s", advice=AWAY, doc=f"Samples per second stored in {store}."
            ),
            f"lag_{store}": Readback(
                unit="s", advice=AWAY, doc=f"Delay until a sample is in {store}."
            ),
            f"backlog_{store}": Readback(doc=f"Samples that {store} does not have yet."),
            f"aside_{store}": Readback(advice=GONE, doc=f"Samples that {store} has rejected."),
            f"gone_{store}": Readback(advice=GONE, doc=f"Samples that {store} will never have."),
        }
    own = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), own | declared)


def names_of(stores: Mapping[str, StoreSettings]) -> tuple[list[str], list[str]]:
    """Return the names of the stores, and of the folders of copies."""
    folders = [name for name, settings in stores.items() if isinstance(settings, Folder)]
    return [name for name in stores if name not in folders], folders


def entry_of(instrument: Instrument) -> Entry:
    """Return the recorder as a device that is only described, without the parts that record."""
    return Entry("recorder", with_stores(Figures, *names_of(instrument.stores)), LOGGER, (), {})
