"""The kinds of devices that an instrument file may name.

    kind = "pdr900.VacuumGauge"         # a module of hcam_devices.devices, and its class
    kind = "domethermometer.Dome"       # devices/domethermometer.py beside the instrument file
    kind = "mysite.dome.Thermometer"    # a module that Python can import, and its class
    kind = "Thermometer"                # an entry point of a package, group hcam_devices.devices

They are searched in this order. A kind from outside the package is imported only if no user but
root and the one who runs the program can replace its file.
"""

import importlib
import importlib.util
import os
import pkgutil
import stat
import sys
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from zlib import crc32

from .. import HcamError, devices
from ..core.device import Device, settings_of
from ..core.sim import Simulator
from ..names import did_you_mean

GROUP = "hcam_devices.devices"
FOLDER = "devices"


class KindError(HcamError):
    """The reason why a kind of device cannot be used."""


def kinds() -> list[str]:
    """Return the kinds of devices in the package, as an instrument file names them."""
    return sorted(
        f"{module}.{name}"
        for module in _modules()
        for name, cls in vars(importlib.import_module(f"{devices.__name__}.{module}")).items()
        if isinstance(cls, type) and _is_kind(cls) and cls.__module__.endswith(f".{module}")
    )


@cache
def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(devices.__path__)]


def _is_kind(cls: type) -> bool:
    """Return whether a class is a kind of device, and not a base class, which has no fields."""
    return issubclass(cls, Device) and bool(cls.fields)


def is_ours(cls: type) -> bool:
    """Return whether a class belongs to this package."""
    return cls.__module__.startswith(f"{devices.__name__}.")


def find(kind: str, folder: Path) -> type[Device]:
    """Return the class of a kind; ``folder`` is the folder of the instrument file.

    Raises KindError if there is none, or if it cannot be used.
    """
    module, _, name = kind.rpartition(".")
    file = folder / FOLDER / f"{module}.py"
    if module in _modules():
        if module.isidentifier() and file.exists():
            raise KindError(f"{file} has the name of a module of hcam_devices: rename it")
        found = getattr(importlib.import_module(f"{devices.__name__}.{module}"), name, None)
        if isinstance(found, type) and _is_kind(found) and found.__module__.endswith(f".{module}"):
            return found
        raise _unknown(kind)
    points = [*entry_points(group=GROUP, name=kind)]
    if module.isidentifier() and file.is_file():
        found, place = getattr(_import_file(file), name, None), str(file)
    elif points:
        (module, _, name), place = points[0].value.partition(":"), f"the entry point {kind}"
        found = getattr(_import_installed(module, kind), name, None)
    elif module and all(part.isidentifier() for part in kind.split(".")):
        found, place = getattr(_import_installed(module, kind), name, None), f"module {module}"
    else:
        raise _unknown(kind)
    if not isinstance(found, type):
        raise KindError(f"there is no class {name} in {place}")
    _check(found)
    return found


def _unknown(kind: str) -> KindError:
    there = [*kinds(), *(point.name for point in entry_points(group=GROUP))]
    return KindError(
        f"there is no kind of device {kind!r}; there are {', '.join(there)}, and the classes in "
        f"{FOLDER}/ beside the instrument file{did_you_mean(kind, there)}"
    )


def _import_file(file: Path) -> ModuleType:
    """Import a file as a module of a package, so that it can import the files beside it."""
    _require_safe(file)
    package = f"site_devices_{crc32(bytes(file.parent.resolve())):08x}"
    if package not in sys.modules:
        sys.modules[package] = parent = ModuleType(package)
        parent.__path__ = [str(file.parent.resolve())]
    return _import(f"{package}.{file.stem}", str(file))


def _import_installed(module: str, kind: str) -> ModuleType:
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)  # a top-level name: this imports nothing
    if spec is None:
        raise _unknown(kind)
    places = [spec.origin] if spec.origin else [*(spec.submodule_search_locations or [])]
    for place in places:
        if os.path.exists(place):
            _require_safe(Path(place))
    return _import(module, f"module {module}")


def _import(module: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # the site's file may raise any error
        raise KindError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


def _require_safe(file: Path) -> None:
    """Raise KindError if users other than root and this one can replace a file."""
    file = file.resolve()
    for place in (file, *file.parents):
        now, above = place.stat(), place.parent.stat()
        sticky = stat.S_ISDIR(now.st_mode) and now.st_mode & stat.S_ISVTX
        if now.st_mode & stat.S_IWOTH and not sticky:
            why = f"every user may write to {place}: chmod o-w {place}"
            raise KindError(f"{file} is not imported, because {why}")
        if above.st_mode & stat.S_IWOTH and now.st_uid not in (0, os.geteuid()):
            why = f"{place} belongs to another user, in a folder that every user may write to"
            raise KindError(f"{file} is not imported, because {why}")


def _check(cls: type) -> None:
    """Raise KindError unless a class from outside is declared like the classes of the package."""
    if not issubclass(cls, Device):
        raise KindError(f"{cls.__name__} does not extend Device of hcam_devices.core")
    if not cls.fields:
        raise KindError(f"{cls.__name__} declares no field (Readback or Setpoint)")
    try:
        for field in cls.fields.values():
            field.describe()
        settings_of(cls)
    except (TypeError, NameError) as error:
        raise KindError(f"{cls.__name__}: {error}") from None
    simulator = cls.simulator
    if isinstance(simulator, partial) and simulator.func is Simulator:
        raise KindError(
            f"{cls.__name__}: its module defines no class Simulator: import the one of "
            "hcam_devices.core under another name, and call yours Simulator"
        )
