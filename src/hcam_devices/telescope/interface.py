"""The telescope's interface, and omniORB, through which it is called.

The types of the interface are known only at the GTC. They are taken from the site's IDL file
(setting ``idl``), else from the site's compiled stubs on PYTHONPATH (``HIPERTELESCOPESERVER``),
else from the sizes of the answers. In the last case only the operations in ``READABLE`` can be
called, because an argument of a wrong type may be carried out with a wrong number.
"""

import importlib
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .. import HcamError
from ..core.fields import is_number
from ..errors import RefusedError
from ..host.installation import install_extra, program
from ..names import shorten

Call: TypeAlias = Callable[[str, tuple[object, ...]], Any]

MODULE, INTERFACE = "HIPERTELESCOPESERVER", "HIPERTelescopeServer_ifce"
REPOSITORY_ID = f"IDL:{MODULE}/{INTERFACE}:1.0"
READABLE = {
    "getTelescopeParams": ("texts",),
    "getHumidity": ("double", "float"),
    "getCabinetTemperature1": ("double", "float"),
    "getCabinetTemperature2": ("double", "float"),
    "getCabinetTemperature3": ("double", "float"),
    "getM1Temperature": ("double", "float"),
    "areMACSFollowErrorBelowThreshold": ("boolean",),
    "isM1NoiseBelowThreshold": ("boolean",),
}
"""Operations that change nothing, with their possible result types, longest first.

Inferred: see data/telescope.idl."""
SMALLEST = {"double": 1e-300, "float": 1e-30}
"""Measured values are farther from zero; integers that are read as such a number are nearer."""
NEEDS_EXTRA = (
    "the telescope needs CORBA, but this installation lacks omniORB ({}): " + install_extra("gtc")
)
HOW_TO_TYPE = "name the site's IDL file in the instrument file (idl)"
ALIAS, BOOLEAN = 21, 8
WHOLE = {
    2: (-(2**15), 2**15 - 1),
    3: (-(2**31), 2**31 - 1),
    4: (0, 2**16 - 1),
    5: (0, 2**32 - 1),
    10: (0, 255),
    23: (-(2**63), 2**63 - 1),
    24: (0, 2**64 - 1),
}
REAL = {6: 3.4028234e38, 7: sys.float_info.max}
"""The ranges of integers, and of float and double, by CORBA's TCKind."""

_loading = threading.Lock()
"""Held by the thread that makes the ORB, or loads an interface."""
_loaded: dict[str, Any] = {}
"""The interface of each IDL file; that of the stubs, or None without them, by an empty text."""


def start_orb() -> tuple[Any, Any]:
    """Return the module omniORB and the ORB. Raises ConnectionError if it is not installed."""
    try:
        omniorb = importlib.import_module("omniORB")
        importlib.import_module("omniORB.CORBA")
    except ImportError as error:
        raise ConnectionError(NEEDS_EXTRA.format(error)) from None
    # At a higher trace level the ORB prints its exceptions, too.
    arguments = ["hcam", "-ORBtraceLevel", "0"]
    with _loading:
        return omniorb, omniorb.CORBA.ORB_init(arguments, omniorb.CORBA.ORB_ID)


def require_corba() -> None:
    """Raise HcamError, with the install command, if this installation lacks CORBA."""
    try:
        start_orb()
    except ConnectionError as error:
        raise HcamError(str(error)) from None


def load_interface(idl: str) -> Any | None:
    """Return the class of the telescope's interface, or None if there is neither IDL nor stubs.

    Raises ConnectionError if the IDL file cannot be used, or if this process has already loaded
    another one.
    """
    with _loading:
        if idl not in _loaded:
            if _loaded and idl and any(_loaded.values()):
                other = next(source for source, known in _loaded.items() if known)
                raise ConnectionError(
                    f"the telescope's interface is already loaded from {other or 'PYTHONPATH'}; "
                    f"use {idl} in another server"
                )
            _loaded[idl] = _compile(idl) if idl else _import_stubs()
        return _loaded[idl]


def _import_stubs() -> Any | None:
    try:
        return getattr(importlib.import_module(MODULE), INTERFACE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise ConnectionError(f"the telescope's stubs cannot be imported: {error}") from None
        return None
    except (ImportError, AttributeError) as error:
        raise ConnectionError(f"the telescope's stubs cannot be imported: {error}") from None


def _compile(idl: str) -> Any:
    try:
        compiler = str(program("omniidl", "jeteve-omniorb"))
    except HcamError:
        raise ConnectionError(NEEDS_EXTRA.format("no omniidl")) from None
    with tempfile.TemporaryDirectory(prefix="hcam-idl-") as folder:
        command = [compiler, "-bpython", "-C", folder, os.path.expanduser(idl)]
        try:
            subprocess.run(  # noqa: S603
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=30,
                check=True,
            )
        except subprocess.SubprocessError as error:
            said = (getattr(error, "stderr", "") or str(error)).strip()
            raise ConnectionError(f"{idl} could not be compiled: {said}") from None
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            interface = _import_stubs()
        finally:
            sys.path.remove(folder)
    if interface is None:
        raise ConnectionError(f"{idl} does not declare the module {MODULE}")
    return interface


def typed(telescope: Any, interface: Any) -> Call:
    """Return a function that calls operations of a known interface."""

    def call(operation: str, arguments: tuple[object, ...]) -> Any:
        described = getattr(interface, f"_d_{operation}", None)
        if described is None:
            raise ValueError(f"the telescope's interface has no operation {operation}")
        return getattr(telescope, operation)(*fitted(operation, arguments, described[0]))

    return call


def fitted(operation: str, arguments: Sequence[object], kinds: Sequence[Any]) -> list[object]:
    """Return arguments in the declared types of an operation. Raises ValueError.

    Numbers are converted if nothing is lost: 25.0 to a long, 25 to a double.
    """
    if len(arguments) != len(kinds):
        raise ValueError(f"{operation} takes {len(kinds)} arguments, not {len(arguments)}")
    return [_fitted(operation, *pair) for pair in zip(arguments, kinds, strict=True)]


def _fitted(operation: str, value: object, kind: Any) -> object:
    while isinstance(kind, tuple) and kind[0] == ALIAS:
        kind = kind[3]
    if kind == BOOLEAN and not isinstance(value, bool):
        raise ValueError(f"{operation} takes true or false, not {shorten(value)}")
    if not isinstance(kind, int) or kind not in WHOLE.keys() | REAL.keys():
        return value
    if not is_number(value):
        raise ValueError(f"{operation} takes a number, not {shorten(value)}")
    low, high = WHOLE.get(kind) or (-REAL[kind], REAL[kind])
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{operation} takes a number from {low:g} to {high:g}, not {value}")
    if kind in REAL:
        return float(value)
    if value != int(value):
        raise ValueError(f"{operation} takes a whole number, not {value:g}")
    return int(value)


def by_size(telescope: Any, omniorb: Any, orb: Any) -> Call:
    """Return a function that calls the operations in READABLE of an unknown interface.

    An answer of 8 bytes must be a double, one of 4 bytes a float or a long. A long that is read as
    a float is noticed, because it is too near to zero or not a number.
    """
    corba = omniorb.CORBA
    codes = {
        "texts": orb.create_sequence_tc(0, orb.create_string_tc(0)),
        "double": corba.TC_double,
        "float": corba.TC_float,
        "boolean": corba.TC_boolean,
    }
    fitting: dict[str, str] = {}

    def attempt(operation: str, kind: str) -> Any:
        value = telescope._dynamic_op(operation, [], [codes[kind]])()
        if kind in SMALLEST and 0 < abs(value) < SMALLEST[kind]:
            raise RefusedError(f"{operation} did not return a {kind}; {HOW_TO_TYPE}")
        return value

    def call(operation: str, arguments: tuple[object, ...]) -> Any:
        if operation not in READABLE or arguments:
            raise ValueError(f"the types of {operation} are unknown; {HOW_TO_TYPE}")
        if operation in fitting:
            return attempt(operation, fitting[operation])
        for kind in READABLE[operation]:
            try:
                value = attempt(operation, kind)
            except corba.MARSHAL:
                continue
            fitting[operation] = kind
            return value
        raise RefusedError(
            f"{operation} returned neither {' nor '.join(READABLE[operation])}; {HOW_TO_TYPE}"
        )

    return call
