"""A link to the telescope: a CORBA object, found through a name service, called with omniORBpy.

    resolve HIPERTelescopeServer at corbaname::HOST:12008, then call, for instance, getHumidity

omniORBpy is the optional extra ``gtc``, imported when a link is opened. Its calls block, so each
runs in a thread, one at a time, with the ORB's own deadline. A long call (``ask_apart``) has a
reference, a connection and a thread of its own.

If a command was not answered but may have been carried out, OutcomeUnknownError is raised. Do not
send it again before a person has checked the telescope.
"""

import asyncio
import atexit
import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..core.fields import is_number
from ..core.link import MAX_SKIPPED, Lasting, Port, Seconds, quoted
from ..errors import LINK_LOST, OutcomeUnknownError, ProtocolError, RefusedError
from ..host import threads
from ..host.addresses import addresses_of
from .interface import (
    HOW_TO_TYPE,
    READABLE,
    REPOSITORY_ID,
    Call,
    by_size,
    load_interface,
    start_orb,
    typed,
)
from .ior import addresses

OVERHEAR_S = 0.5
"""The time to listen to a peer that broke the connection."""
ALIVE = "_non_existent"
"""Every CORBA object answers this operation, which changes nothing."""
SUSPECT = ("BAD_OPERATION", "BAD_PARAM", "MARSHAL")
WRONG_IDL = (
    ". The server seems to have another interface: compare this operation in its IDL file with the "
    "one used here (setting idl: {idl})"
)
"""The advice for the exceptions in SUSPECT."""


@dataclass(kw_only=True)
class Corba(Lasting):
    """The object ``object_name`` of the name service at ``host`` and ``port``.

    ``timeout``: the deadline (s) of each call. ``idl``: the path of the site's IDL file.
    """

    host: str = "127.0.0.1"
    """The machine of CORBA's name service."""
    port: Port = 12008
    """The TCP port of the name service."""
    timeout: Seconds = 2.0
    """The deadline (s) of each call."""
    object_name: str = "HIPERTelescopeServer"
    """The name of the telescope's server in the name service."""
    idl: str = ""
    """The path of the site's IDL file, by which operations are called as it declares them."""
    _telescope: Call | None = field(default=None, init=False, repr=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def open(self) -> None:
        """Look the telescope up in the name service, and check that it answers.

        Raises OSError or TimeoutError if it or its name service cannot be reached, or if omniORB is
        not installed; ProtocolError if the object has another interface.
        """
        await addresses_of(self.host, self.timeout)  # the ORB would resolve it without a deadline
        self._telescope = await self._in_thread(self._find)
        await super().open()

    def close(self, reason: BaseException | None = None) -> None:
        """Close the link. ``open`` looks the telescope up again, because it may be a new one."""
        super().close(reason)
        self._telescope = None

    async def ask(self, codec: Any, ref: str, value: tuple[object, ...] | None = None) -> Any:
        """Call the operation ``ref`` with the arguments ``value``, and return its result.

        Numbers are converted to the declared types. Raises RefusedError for an exception of the
        telescope, ValueError if the operation is unknown or an argument does not fit (nothing was
        sent), and OSError or TimeoutError, which close the link. Among these, OutcomeUnknownError
        means that a command may have been carried out; any other error means that it was not.

        If the server has closed the idle connection, or was restarted, the link connects again
        before it sends a command. A command is sent at most once.
        """
        call = self._require()
        self._show(">", ref.encode(), value or "")
        try:
            answer, found = await self._in_thread(lambda: self._call(call, ref, value or ()))
            if self._telescope is call:
                self._telescope = found
            self._show("<", b"", answer)
            return answer
        except LINK_LOST as error:
            self.close(error)
            raise

    async def ask_all(self, codec: Any, refs: Iterable[str]) -> list[Any]:
        """Call operations that change nothing, one after another in one turn of the thread.

        Each turn wakes this process several times. Return the results; a RefusedError stands in
        place of a result. Raises as ``ask`` if the link is lost.
        """
        call, operations = self._require(), list(refs)

        def work() -> list[Any]:
            answers: list[Any] = []
            for operation in operations:
                try:
                    answers.append(call(operation, ()))
                except (RefusedError, ValueError) as error:
                    answers.append(RefusedError(str(error)))
            return answers

        for operation in operations:
            self._show(">", operation.encode(), "")
        try:
            answers: list[Any] = await self._in_thread(work)
        except LINK_LOST as error:
            self.close(error)
            raise
        for answer in answers:
            self._show("<", b"", answer)
        return answers

    async def number(self, ref: str) -> float:
        """Return the number that an operation without arguments returns; raises as ``ask``."""
        return self.number_in(ref, await self.ask(None, ref))

    def number_in(self, ref: str, answer: Any) -> float:
        """Return an operation's result. Raises RefusedError if it is not a number."""
        if not is_number(answer):
            raise RefusedError(f"the telescope ({self}): {ref} did not return a number")
        return float(answer)

    def _require(self) -> Call:
        if self._telescope:
            return self._telescope
        lost = self._lost.exception() if self._lost and self._lost.done() else None
        if lost and not isinstance(lost, OutcomeUnknownError):
            raise lost
        # an unknown outcome is that of an earlier call
        raise ConnectionError(f"not connected to {self}{f': {lost}' if lost else ''}")

    async def ask_apart(self, ref: str, within: float) -> Any:
        """Call an operation without arguments, beside all other calls; return its result.

        It may take ``within`` seconds, uses its own reference, and does not delay the end of the
        process. Raises as ``ask``, but never closes the link.
        """
        self._show(">", ref.encode(), f"within {within:g} s")
        call = threads.begin(lambda: self._find(within)(ref, ()))
        atexit.register(_leave, call)
        try:
            answer = await asyncio.wrap_future(call)
        finally:
            if call.done():  # a cancelled call is still under way
                atexit.unregister(_leave)  # there is only one long call at a time
        self._show("<", b"", answer)
        return answer

    async def reference(self) -> str:
        """Return the telescope's reference (``IOR:...``) in the name service.

        Raises as ``open`` does.
        """
        return str(await self._in_thread(lambda: start_orb()[1].object_to_string(self._resolve())))

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        async with self._turn:
            thread = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(thread)
            except asyncio.CancelledError:
                # The call goes on in its thread, and the next call must wait for its end.
                await asyncio.wait([thread])
                thread.exception()
                raise

    def __str__(self) -> str:
        return f"{self.object_name} of {self.host}:{self.port}"

    # --- in the thread ----------------------------------------------------------------------

    def _call(self, call: Call, operation: str, arguments: tuple[object, ...]) -> tuple[Any, Call]:
        """Return the answer, and the function for the next calls.

        A command is sent once, after the telescope has answered a harmless question.
        """
        try:
            if reads(operation):
                return call(operation, arguments), call
            call(ALIVE, ())
        except TimeoutError:
            raise
        except OSError:
            call = self._find()
        return call(operation, arguments), call

    def _bounded(self, reference: Any) -> Any:
        start_orb()[0].setClientCallTimeout(reference, round(1000 * self.timeout))
        return reference

    def _resolve(self) -> Any:
        """Return the telescope's reference in the name service, without calling the telescope."""
        omniorb, orb = start_orb()
        naming = importlib.import_module("CosNaming")
        service = f"the name service at {self.host}:{self.port}"
        name = [naming.NameComponent(self.object_name, "")]
        try:
            root = orb.string_to_object(f"corbaloc::{self.host}:{self.port}/NameService")
            context = self._bounded(root)._unchecked_narrow(naming.NamingContext)
            found = undisturbed(lambda: self._bounded(context).resolve(name))
        except naming.NamingContext.NotFound:
            raise ConnectionError(
                f"{service} has no object {self.object_name}: check that the telescope's server is "
                "running, and that this is its name (object_name)"
            ) from None
        except omniorb.CORBA.COMM_FAILURE as error:
            said = overheard(self.host, self.port, min(self.timeout, OVERHEAR_S))
            raise ConnectionResetError(
                f"{self._explain(error, service, 'resolve')}{said}"
            ) from None
        except omniorb.CORBA.Exception as error:
            raise self._explain(error, service, "resolve") from None
        if found is None:
            raise ConnectionError(f"{self} does not exist: the name service has no reference")
        return found

    def _find(self, within: float | None = None) -> Call:
        within = within or self.timeout
        omniorb, orb = start_orb()
        interface = load_interface(self.idl)
        found = self._resolve()
        telescope = f"the telescope ({self}, at {addresses(orb.object_to_string(found))})"
        try:
            wanted = interface._NP_RepositoryId if interface else REPOSITORY_ID
            # the ORB may answer _is_a from the reference alone, without the object
            present(self._bounded(found), telescope)
            if not found._is_a(wanted):
                raise ProtocolError(f"{telescope} is not a {wanted}; {HOW_TO_TYPE}")
            if interface:
                found = found._unchecked_narrow(interface)
            omniorb.setClientCallTimeout(found, round(1000 * within))
        except omniorb.CORBA.Exception as error:
            raise self._explain(error, telescope, ALIVE) from None
        call = typed(found, interface) if interface else by_size(found, omniorb, orb)

        def explained(operation: str, arguments: tuple[object, ...]) -> Any:
            try:
                if operation == ALIVE:
                    return present(found, telescope)
                if reads(operation):
                    return undisturbed(lambda: call(operation, arguments))
                return call(operation, arguments)
            except omniorb.CORBA.Exception as error:
                raise self._explain(error, telescope, operation, within) from None
            except RefusedError as error:
                raise RefusedError(f"{telescope}: {error}") from None

        return explained

    def _explain(
        self, error: Exception, what: str, operation: str, within: float | None = None
    ) -> Exception:
        """Return this package's exception for an exception of CORBA."""
        name = type(error).__name__
        kinds: dict[str, tuple[type[Exception], str]] = {
            "TRANSIENT": (ConnectionRefusedError, "cannot be reached"),
            "COMM_FAILURE": (ConnectionResetError, "broke the connection"),
            "OBJECT_NOT_EXIST": (ConnectionError, "does not exist now; it is looked up again"),
            "TIMEOUT": (TimeoutError, f"did not answer within {within or self.timeout:g} s"),
        }
        kind, said = kinds.get(name, (RefusedError, ""))
        # Exceptions declared in the interface have no completion status: they are answers.
        done = str(getattr(error, "completed", "COMPLETED_NO")) != "COMPLETED_NO"
        check = WRONG_IDL.format(idl=self.idl or "none") if name in SUSPECT else ""
        if done and not reads(operation):
            return OutcomeUnknownError(
                f"{what} {said or f'failed ({error})'}; {operation} may have been carried out"
                f"{check}"
            )
        return kind(f"{what} {said}" if said else f"{what} refused {operation}: {error}{check}")


def reads(operation: str) -> bool:
    """Return whether an operation changes nothing, unlike a command."""
    return operation in READABLE or operation in ("resolve", ALIVE)


def overheard(host: str, port: int, within: float) -> str:
    """Return the bytes of a peer that does not use CORBA, as text for an error; else empty.

    The ORB does not report such bytes, so a second connection listens for ``within`` seconds.
    """
    with suppress(OSError), socket.create_connection((host, port), within) as peer:
        said = peer.recv(MAX_SKIPPED)
        return "" if said.startswith(b"GIOP") else quoted(said)
    return ""


def present(reference: Any, what: str) -> None:
    """Raise ConnectionError if an object does not exist any more."""
    if undisturbed(reference._non_existent):
        raise ConnectionError(f"{what} does not exist any more")


def undisturbed(ask: Callable[[], Any]) -> Any:
    """Return the result of ``ask``, which must change nothing: it may be called twice.

    Servers close idle connections, which the ORB notices only when it uses them. The second call
    uses a new connection.
    """
    corba = start_orb()[0].CORBA
    try:
        return ask()
    except corba.COMM_FAILURE:
        return ask()


def _leave(call: Future[Any]) -> None:
    """End the process at once if a call is under way.

    Otherwise the ORB would end the call, and its thread would return into the ending interpreter
    and abort the process.
    """
    if not call.done():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
