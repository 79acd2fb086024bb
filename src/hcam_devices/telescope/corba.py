"""A link to the telescope: an object that a CORBA name service knows, called through omniORBpy.

    resolve HIPERTelescopeServer at corbaname::HOST:12008, then call, for instance, getHumidity

omniORBpy is the optional extra ``gtc``, imported when a link is opened. Its calls block, so each is
made in a thread, one at a time, and ends by the ORB's own deadline.

Nobody outside the GTC knows the types of the interface. They come from, in this order, the site's
IDL file (setting ``idl``), the site's compiled stubs on PYTHONPATH (``HIPERTELESCOPESERVER``), or,
without either, from the size of the answers: then only what is in ``READABLE`` can be called,
because an argument of the wrong type may be carried out with a wrong number.
"""

import asyncio
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..link import LINK_LOST, Local, Port, ProtocolError, RefusedError, Seconds

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
"""What changes nothing, and what it may return, longest first. Inferred: see data/telescope.idl."""
SMALLEST = {"double": 1e-300, "float": 1e-30}
"""Nothing that is measured is nearer to zero; an integer taken for such a number is."""
NEEDS_EXTRA = (
    "the telescope speaks CORBA, for which this installation lacks omniORB ({}): "
    "pip install 'hcam_devices[gtc]'"
)
HOW_TO_TYPE = "name the site's IDL file in the instrument file (idl)"

_loading = threading.Lock()
_loaded: dict[str, Any] = {}


@dataclass(kw_only=True)
class Corba(Local):
    """The object ``server`` of the name service at ``host`` and ``port``.

    ``timeout``: seconds for each call; ``idl``: path of the site's IDL file.
    """

    host: str = "127.0.0.1"
    port: Port = 12008
    timeout: Seconds = 2.0
    server: str = "HIPERTelescopeServer"
    idl: str = ""
    _telescope: Call | None = field(default=None, init=False, repr=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def open(self) -> None:
        """Look the telescope up and make sure that it answers.

        Raises OSError or TimeoutError if it or its name service cannot be reached or omniORB is not
        installed, ProtocolError if the name is another kind of object's.
        """
        self._telescope = await self._in_thread(self._find)
        await super().open()

    def close(self, reason: BaseException | None = None) -> None:
        """Forget the telescope; ``open`` looks it up again, because it may have been restarted."""
        super().close(reason)
        self._telescope = None

    async def ask(self, codec: Any, ref: str, value: tuple[object, ...] | None = None) -> Any:
        """Return what the operation ``ref`` returns for the arguments ``value``.

        Raises RefusedError for an exception of the telescope, ValueError if the operation is not
        known, or OSError or TimeoutError: the link is then closed.
        """
        if self._telescope is None:
            lost = self._lost and self._lost.done() and self._lost.exception()
            raise lost or ConnectionError(f"not connected to {self}")
        call = self._telescope
        self._show(">", ref.encode(), value or "")
        try:
            answer = await self._in_thread(lambda: call(ref, value or ()))
            self._show("<", b"", answer)
            return answer
        except LINK_LOST as error:
            self.close(error)
            raise

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        async with self._turn:
            thread = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(thread)
            except asyncio.CancelledError:
                # A call cannot be taken back: the next has to wait for its end, which is near.
                await asyncio.wait([thread])
                thread.exception()
                raise

    def __str__(self) -> str:
        return f"{self.server} of {self.host}:{self.port}"

    # --- in the thread ----------------------------------------------------------------------

    def _find(self) -> Call:
        omniorb, orb = start_orb()
        naming = importlib.import_module("CosNaming")
        interface = load_interface(self.idl)
        service = f"the name service at {self.host}:{self.port}"
        telescope = f"the telescope ({self})"

        def bounded(reference: Any) -> Any:
            omniorb.setClientCallTimeout(reference, round(1000 * self.timeout))
            return reference

        try:
            root = orb.string_to_object(f"corbaloc::{self.host}:{self.port}/NameService")
            context = bounded(root)._unchecked_narrow(naming.NamingContext)
            found = bounded(context).resolve([naming.NameComponent(self.server, "")])
        except naming.NamingContext.NotFound:
            raise ConnectionError(
                f"{service} knows no {self.server}: has the telescope's server been started?"
            ) from None
        except omniorb.CORBA.Exception as error:
            raise self._explain(error, service, "resolve") from None
        try:
            wanted = interface._NP_RepositoryId if interface else REPOSITORY_ID
            # _is_a is answered from the reference itself if that says so: it need not be alive.
            if found is None or bounded(found)._non_existent():
                raise ConnectionError(f"{telescope} is not there any more")
            if not found._is_a(wanted):
                raise ProtocolError(f"{self} is not a {wanted}; {HOW_TO_TYPE}")
            if interface:
                found = bounded(found._unchecked_narrow(interface))
        except omniorb.CORBA.Exception as error:
            raise self._explain(error, telescope, "to say what it is") from None
        call = typed(found) if interface else by_size(found, omniorb, orb)

        def explained(operation: str, arguments: tuple[object, ...]) -> Any:
            try:
                return call(operation, arguments)
            except omniorb.CORBA.Exception as error:
                raise self._explain(error, telescope, operation, maybe=bool(arguments)) from None

        return explained

    def _explain(
        self, error: Exception, what: str, operation: str, *, maybe: bool = False
    ) -> Exception:
        """Return our exception for one of CORBA's; ``maybe`` it was a command."""
        name = type(error).__name__
        done = str(getattr(error, "completed", "")) != "COMPLETED_NO"
        perhaps = f"; {operation} may have been carried out" if maybe and done else ""
        if name == "TRANSIENT":
            return ConnectionRefusedError(f"{what} cannot be reached{perhaps}")
        if name == "COMM_FAILURE":
            return ConnectionResetError(f"{what} broke the connection{perhaps}")
        if name == "OBJECT_NOT_EXIST":
            return ConnectionError(f"{what} is not there any more; it is looked up again")
        if name == "TIMEOUT":
            return TimeoutError(f"{what} did not answer within {self.timeout:g} s{perhaps}")
        return RefusedError(f"{what} refused {operation}: {error}")


def start_orb() -> tuple[Any, Any]:
    """Return the module omniORB and the one ORB of this process; ConnectionError without it."""
    try:
        omniorb = importlib.import_module("omniORB")
        importlib.import_module("omniORB.CORBA")
    except ImportError as error:
        raise ConnectionError(NEEDS_EXTRA.format(error)) from None
    # Its own log (trace level) would repeat on stderr what the exceptions say.
    arguments = ["hcam", "-ORBtraceLevel", "0"]
    with _loading:
        return omniorb, omniorb.CORBA.ORB_init(arguments, omniorb.CORBA.ORB_ID)


def load_interface(idl: str) -> Any | None:
    """Return the class of the telescope's interface, or None if nobody says what it is.

    Raises ConnectionError if the IDL file cannot be used. A process can know one interface only.
    """
    with _loading:
        if idl not in _loaded:
            if _loaded and idl and any(_loaded.values()):
                other = next(source for source, known in _loaded.items() if known)
                raise ConnectionError(
                    f"the telescope's interface is already that of {other or 'PYTHONPATH'}; "
                    f"{idl} would have to be used by another server"
                )
            _loaded[idl] = _compile(idl) if idl else _import_stubs()
        return _loaded[idl]


def _import_stubs() -> Any | None:
    try:
        return getattr(importlib.import_module(MODULE), INTERFACE)
    except ModuleNotFoundError as error:
        if error.name != MODULE:
            raise ConnectionError(f"the stubs of the telescope do not load: {error}") from None
        return None
    except (ImportError, AttributeError) as error:
        raise ConnectionError(f"the stubs of the telescope do not load: {error}") from None


def _compile(idl: str) -> Any:
    # The compiler is installed beside this Python, whose folder need not be on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    compiler = shutil.which("omniidl", path=path)
    if compiler is None:
        raise ConnectionError(NEEDS_EXTRA.format("no omniidl"))
    with tempfile.TemporaryDirectory(prefix="hcam-idl-") as folder:
        command = [compiler, "-bpython", "-C", folder, str(Path(idl).expanduser())]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
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


def typed(telescope: Any) -> Call:
    """Return how to call a reference whose interface is known."""

    def call(operation: str, arguments: tuple[object, ...]) -> Any:
        function = getattr(telescope, operation, None)
        if function is None:
            raise ValueError(f"the telescope's interface has no operation {operation}")
        try:
            return function(*arguments)
        except TypeError as error:  # the number of arguments; nothing was sent
            raise ValueError(f"{operation}: {error}") from None

    return call


def by_size(telescope: Any, omniorb: Any, orb: Any) -> Call:
    """Return how to read from a reference whose interface is not known.

    An answer of 8 bytes can only be a double, one of 4 a float or a long; a long taken for a float
    is so near to zero, or so far from any number, that it is seen.
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
            raise ValueError(f"the types of {operation} are not known; {HOW_TO_TYPE}")
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
