"""A class for each device, made from its description, so that its names can be completed.

There is no ``__getattr__``: completion in IPython would then show nothing.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from ..errors import InvalidArgumentError, NoSuchProcedureError
from ..names import usage
from ..wamp.reading import Description, Reading, unknown
from ..wamp.utils import TIMEOUT


class UnknownNameError(KeyError):
    """There is no device or field of this name; the text lists those that there are."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotRunningError(NoSuchProcedureError, AttributeError):
    """The server of the device is not running."""


class Network(Protocol):
    """What a device needs of its instrument."""

    def sample(self, device: str) -> Mapping[str, Any]:
        """Return the newest sample; raises as ``Telemetry.sample``."""

    def command(self, call: "Call") -> Any:
        """Call a procedure, and wait for the end of the motion if the call has an axis."""


class Call(NamedTuple):
    """A call of a procedure, with its deadline (s), and the axis to wait for or an empty text."""

    device: str
    procedure: str
    args: tuple[Any, ...]
    named: dict[str, Any]
    timeout: float
    axis: str


class Device:
    """A device: its fields are attributes and items, its commands are methods.

    A field is the newest reading that was heard; nothing is asked. Reading one raises RouterError
    while there is no router, NoSuchProcedureError while the server is not running.
    """

    __slots__ = ("_name", "_network")
    _description: ClassVar[Description] = {"fields": {}, "procedures": {}, "axes": {}, "doc": ""}
    _name: str
    _network: Network

    def __init__(self, name: str, network: Network) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_network", network)

    def __getitem__(self, field: str) -> Reading:
        sample = self._network.sample(self._name)
        return Reading(sample, self._field(field), self._description)

    def __iter__(self) -> Iterator[str]:
        return iter(self._description["fields"])

    def _field(self, name: str) -> str:
        fields = self._description["fields"]
        if name in fields:
            return name
        for known, declared in fields.items():  # position.target, as in history
            if name == ".".join(declared["path"]):
                return str(known)
        raise UnknownNameError(f"{self._name}: {unknown('field', name, fields)}")

    def set(self, field: str, value: Any, *, timeout: float = TIMEOUT, **options: Any) -> Any:
        """Set a field and return the value that the hardware then reports, in the declared unit.

        ``value`` is a number in that unit, an astropy Quantity, a word, or text such as
        ``"-80 deg_C"``. Raises InvalidArgumentError, NotAllowedError, RefusedError, OfflineError or
        OutcomeUnknownError.
        """
        name = self._field(field)
        if not self._description["fields"][name]["settable"]:
            fields = self._description["fields"]
            settable = [each for each in fields if fields[each]["settable"]]
            there = f"it has {', '.join(settable)}" if settable else "it has none"
            raise InvalidArgumentError(f"{self._name}.{name} is not a setpoint; {there}")
        return self.call(f"set_{name}", value, timeout=timeout, **options)

    def call(
        self,
        procedure: str,
        *args: Any,
        timeout: float = TIMEOUT,
        wait: bool = False,
        **named: Any,
    ) -> Any:
        """Call a procedure by the name after ``rpc.`` and return its answer.

        With ``wait``, wait until its motion has ended, however long that takes, and return the
        reading of the position. Ctrl-C ends the wait, not the motion. ``_why`` is a reason, which
        is recorded. Raises a WampError; NotArrivedError if the motion ended elsewhere.
        """
        known = self._description["procedures"].get(procedure, {})
        axis = known.get("moves") or ""
        if wait and not axis:
            raise InvalidArgumentError(
                f"{self._name}.{procedure} begins no motion to wait for; nothing was sent"
            )
        if known and "confirm" in known["parameters"]["properties"]:
            named.setdefault("confirm", False)  # where it is omitted, the command is confirmed
        plain = tuple(map(_plain, args)), {name: _plain(named[name]) for name in named}
        return self._network.command(
            Call(self._name, procedure, *plain, timeout, axis if wait else "")
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"nothing is set by assignment: call {self._name}.set({name!r}, {value!r})"
        )

    def __repr__(self) -> str:
        return f"<{self._name}: {self._description['doc']}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    if TYPE_CHECKING:  # without the stubs of this instrument (hcam stubs), any name may be right

        def __getattr__(self, name: str) -> Any: ...


class Machine:
    """A machine of a device, such as an axis: its commands are methods."""

    __slots__ = ("_device",)
    _device: Device

    def __init__(self, device: Device) -> None:
        object.__setattr__(self, "_device", device)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"nothing is set by assignment: {name} = {value!r}")


class Member:
    """An attribute of devices that is made when it is read.

    It is no property, because IPython without jedi evaluates none and would complete nothing below.
    """

    def __init__(self, make: Callable[[Device], Any], doc: str) -> None:
        self._make, self.__doc__ = make, doc

    def __get__(self, device: Device | None, _: type[Device]) -> Any:
        return self if device is None else self._make(device)


def class_of(description: Description) -> type[Device]:
    """Return the class of a device with this description."""
    members: dict[str, Any] = {"__slots__": (), "__doc__": description["doc"]}
    members["_description"] = description
    commands, machines = commands_of(description)
    for name, declared in description["fields"].items():
        members[name] = Member(itemgetter(name), _about(declared))
    for machine, calls in machines.items():
        made = {name: _method(called, description, _device) for name, called in calls.items()}
        kind = type(machine, (Machine,), {"__slots__": (), "__doc__": None} | made)
        members.setdefault(machine, Member(kind, f"The commands of {machine}."))
    for name, called in commands.items():
        members.setdefault(name, _method(called, description, lambda device: device))
    own = dir(Device)
    members = {name: member for name, member in members.items() if _mine(name) or name not in own}
    return type(description["device"], (Device,), members)


def _mine(name: str) -> bool:
    return name in ("__slots__", "__doc__", "_description")


def absent_class(name: str) -> type[Device]:
    """Return the class of a device whose server has not been running: nothing is known of it."""

    def get(self: Device, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        self._network.sample(self._name)  # it may be more than the server that is missing
        raise NotRunningError(f"nothing is known of {self._name} yet")

    def refuse(self: Device, field: str) -> str:
        raise NotRunningError(f"{self._name}.{field}: nothing is known of {self._name}")

    return type(name, (Device,), {"__slots__": (), "__getattr__": get, "_field": refuse})


def commands_of(description: Description) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the procedures for people by their method: those of the device, and of machines.

    The commands of a device's only axis are also on the device unless it has one of that name.
    """
    commands: dict[str, str] = {}
    machines: dict[str, dict[str, str]] = {}
    for name, procedure in description["procedures"].items():
        machine, _, event = name.rpartition(".")
        if procedure["audience"] == "program" or not event.isidentifier():
            continue
        if machine:
            machines.setdefault(machine, {})[event] = name
        else:
            commands[name] = name
    if len(description["axes"]) == 1:
        [axis] = description["axes"]
        taken = {*commands, *description["fields"], *machines}
        extra = {
            event: name for event, name in machines.get(axis, {}).items() if event not in taken
        }
        commands |= extra
    return commands, machines


def _device(machine: Machine) -> Device:
    return machine._device


def _method(
    called: str, description: Description, device: Callable[[Any], Device]
) -> Callable[..., Any]:
    declared = description["procedures"][called]

    def method(self: Any, *args: Any, **named: Any) -> Any:
        return device(self).call(called, *args, **named)

    method.__name__ = method.__qualname__ = called.rpartition(".")[2]
    takes = usage(declared)
    method.__doc__ = declared["doc"] + (f"\n\nArguments: {takes}" if takes else "")
    method.__signature__ = signature(declared)  # type: ignore[attr-defined]
    return method


def signature(declared: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature of the method of a procedure, for help and completion."""
    parameter = inspect.Parameter
    schemas, required = (declared["parameters"][key] for key in ("properties", "required"))
    found = [parameter("self", parameter.POSITIONAL_ONLY)]
    later: list[inspect.Parameter] = []
    for name, schema in schemas.items():
        default = parameter.empty if name in required else schema.get("default")
        if name == declared["rest"]:
            later.insert(0, parameter(name, parameter.VAR_POSITIONAL))
        elif name in declared["positional"] and not later:
            found.append(parameter(name, parameter.POSITIONAL_OR_KEYWORD, default=default))
        else:
            later.append(parameter(name, parameter.KEYWORD_ONLY, default=default))
    if declared["moves"]:
        later.append(parameter("wait", parameter.KEYWORD_ONLY, default=False, annotation=bool))
    later.append(parameter("timeout", parameter.KEYWORD_ONLY, default=TIMEOUT, annotation=float))
    if declared["parameters"]["additionalProperties"]:
        later.append(parameter("more", parameter.VAR_KEYWORD))
    return inspect.Signature([*found, *later])


def _about(declared: Mapping[str, Any]) -> str:
    """Return the documentation of a field, with its unit and limits."""
    unit = f" In {declared['unit']}." if declared["unit"] else ""
    limits = ""
    if declared["limits"]:
        low, high = ("any" if end is None else f"{end:g}" for end in declared["limits"])
        limits = f" From {low} to {high}."
    words = f" One of {', '.join(declared['words'].values())}." if declared["words"] else ""
    return f"{declared['doc']}{unit}{limits}{words}".strip()


def _plain(value: Any) -> Any:
    """Return a value as the network carries it: a Quantity or a Reading with its unit."""
    if isinstance(value, Reading):
        return {"value": value.raw, "unit": value.unit} if value.unit else value.raw
    if hasattr(value, "unit") and hasattr(value, "value"):  # an astropy Quantity
        return {"value": _plain(value.value), "unit": str(value.unit)}
    return value.item() if hasattr(value, "item") else value  # a number of numpy
