"""Stubs of an instrument: type checkers and editors then know its devices, fields and commands."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from ..client.devices import commands_of, signature
from ..host.home import writable_or_explain
from ..wamp.reading import Description

HEAD = '''"""The devices of this instrument, for type checkers. Written by hcam stubs."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

from hcam_devices.client.devices import UnknownNameError as UnknownNameError
from hcam_devices.errors import InvalidArgumentError as InvalidArgumentError
from hcam_devices.errors import NoSuchProcedureError as NoSuchProcedureError
from hcam_devices.errors import NotAllowedError as NotAllowedError
from hcam_devices.errors import NotAuthorizedError as NotAuthorizedError
from hcam_devices.errors import OfflineError as OfflineError
from hcam_devices.errors import OutcomeUnknownError as OutcomeUnknownError
from hcam_devices.errors import RefusedError as RefusedError
from hcam_devices.errors import RouterError as RouterError
from hcam_devices.errors import WampError as WampError
from hcam_devices.wamp.background import Subscription as Subscription
from hcam_devices.wamp.motion import NotArrivedError as NotArrivedError
from hcam_devices.wamp.reading import Reading as Reading

class Device:
    def __getitem__(self, field: str) -> Reading: ...
    def __iter__(self) -> Iterator[str]: ...
    def call(
        self,
        procedure: str,
        *args: Any,
        timeout: float = ...,
        wait: bool = ...,
        **named: Any,
    ) -> Any: ...
'''
TAIL = """
class Instrument(_Devices):
    def subscribe(
        self,
        *patterns: str,
        seconds: float | None = ...,
        callback: Callable[[Reading], Any] | None = ...,
    ) -> Subscription[Reading]: ...
    def close(self) -> None: ...

class AsyncSubscription(AsyncIterator[Reading]):
    lost: list[Any]
    async def __anext__(self) -> Reading: ...
    def close(self) -> None: ...

class AsyncInstrument(_Devices):
    def subscribe(self, *patterns: str, seconds: float | None = ...) -> AsyncSubscription: ...
    async def close(self) -> None: ...

class connect:
    def __init__(
        self, address: str | None = ..., key: str | os.PathLike[str] | None = ...
    ) -> None: ...
    def open(self) -> Instrument: ...
    def __enter__(self) -> Instrument: ...
    def __exit__(self, *_: object) -> None: ...
    async def __aenter__(self) -> AsyncInstrument: ...
    async def __aexit__(self, *_: object) -> None: ...
"""
TYPES = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"}


def write(folder: Path, descriptions: Mapping[str, Description]) -> Path:
    """Write the stubs of described devices, and return their file. Raise HcamError on failure."""
    package = folder / "hcam_devices"
    file = package / "client" / "__init__.pyi"
    with writable_or_explain(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        error = "class HcamError(Exception): ...\n"
        (package / "__init__.pyi").write_text(error, encoding="utf-8")
        text = "\n".join([HEAD, *_classes(descriptions), TAIL.lstrip()])
        file.write_text(text, encoding="utf-8")
    return file


def _classes(descriptions: Mapping[str, Description]) -> Iterator[str]:
    names = [*filter(_is_name, descriptions)]
    for name in names:
        yield from _device(name, descriptions[name])
    yield "class _Devices:"
    yield from _left_out(descriptions, "[name]")
    yield from (f"    {name}: _{name}" for name in names)
    yield "    def __getitem__(self, name: str) -> Device: ..."
    yield "    def __iter__(self) -> Iterator[str]: ..."
    yield "    def descriptions(self) -> dict[str, Any]: ...\n"


def _device(name: str, description: Description) -> Iterator[str]:
    """Yield the class of a device, after those of its machines."""
    commands, machines = commands_of(description)
    procedures = description["procedures"]
    for machine, calls in machines.items():
        yield f"class _{name}_{machine}:\n    __slots__ = ()"
        yield from _methods(calls, procedures, f"the device's call('{machine}.' + name)")
        yield ""
    yield f"class _{name}(Device):"
    fields = description["fields"]
    yield from _left_out(fields, "[name]")
    for field in filter(_is_name, fields):
        yield f"    @property\n    def {field}(self) -> Reading: ..."
    yield from _left_out(machines, "call(name + '.' + event)")
    for machine in filter(_is_name, machines):
        yield f"    @property\n    def {machine}(self) -> _{name}_{machine}: ..."
    yield from _methods(commands, procedures, "call(name)")
    settable = [repr(field) for field in fields if fields[field]["settable"]]
    choice = f"Literal[{', '.join(settable)}]" if settable else "str"
    yield "    def set("
    yield f"        self, field: {choice}, value: Any, *, timeout: float = ..., **options: Any"
    yield "    ) -> Any: ...\n"


def _is_name(name: str) -> bool:
    """Return whether a name can follow a dot in Python."""
    return name.isidentifier() and not iskeyword(name)


def _left_out(names: Iterable[str], instead: str) -> Iterator[str]:
    """Yield a comment with the names that cannot follow a dot, if there are any."""
    if others := [repr(name) for name in names if not _is_name(name)]:
        yield f"    # {', '.join(others)}: use {instead}"


def _methods(
    calls: Mapping[str, str], procedures: Mapping[str, Any], instead: str
) -> Iterator[str]:
    """Yield the methods of a class, from their names to their procedures."""
    yield from _left_out(calls, instead)
    for name in filter(_is_name, calls):
        yield _method(name, procedures[calls[name]])


def _method(name: str, declared: Mapping[str, Any]) -> str:
    """Return a method, with the types of its arguments as far as JSON Schema has simple ones."""
    schemas = declared["parameters"]["properties"]
    parameters = [
        _typed(parameter, schemas.get(parameter.name, {}))
        for parameter in signature(declared).parameters.values()
    ]
    shown = str(inspect.Signature(parameters)).replace("(self, /, ", "(self, ")
    shown = shown.replace("(self, /)", "(self)").replace("Ellipsis", "...").replace("'", "")
    return f"    def {name}{shown} -> Any: ..."


def _typed(parameter: inspect.Parameter, schema: Mapping[str, Any]) -> inspect.Parameter:
    if parameter.name == "self":
        return parameter
    kind = TYPES.get(schema.get("type", ""), "Any")
    given = parameter.annotation
    return parameter.replace(
        annotation=kind if given is parameter.empty else given,
        default=parameter.empty if parameter.default is parameter.empty else ...,
    )
