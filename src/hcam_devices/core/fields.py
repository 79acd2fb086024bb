"""What a device declares in its class body: readbacks, setpoints and commands (rpc).

    pressure = Readback(unit="mbar", ref="PR1", healthy=(0, 8e-3))
    target_temperature = Setpoint(unit="deg_C", ref=3000, channels=3, limits=(-100, 25))

Units are written as astropy writes them. A family of channels is one line: ``channels=3`` declares
``target_temperature1`` ... ``3`` with the refs ``(3000, 1)`` ... ``(3000, 3)``.
"""

import builtins
import inspect
import math
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, validate_call

from ..host.threads import in_own_thread
from ..names import shorten

Value: TypeAlias = float | int | str | bool
Range: TypeAlias = tuple[float, float]
F = TypeVar("F", bound=Callable[..., Any])

NUMBER_AND_UNIT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\s*(\S[^\n]*))?")
MAX_TEXT_LENGTH = 100
"""Characters of a text that may be the value of a setpoint."""


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float, and no bool; it may be NaN or infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Labels(dict[Any, str]):
    """The words for the codes a device uses, as a reading's ``kind``: ``Labels({0: "init"})``."""

    def __call__(self, code: float | str) -> str:
        """Return the word; ValueError if the device used a code that is not in its manual."""
        try:
            return self[code]  # 3.0 finds 3
        except KeyError:
            raise ValueError(f"the device answered {code}, which means nothing known") from None


@dataclass(frozen=True, kw_only=True)
class Readback:
    """A value the hardware reports.

    ``ref`` is the codec's name of the value; ``kind`` converts the codec's answer to the value.
    Fields that share an answer name the same ``question``, which is asked once a poll; ``ref`` is
    then the index or key of the field in the answer.

    A value outside the range ``healthy`` is an alarm. It is raised after ``delay`` seconds; it is
    over once the value is inside the range by the fraction ``deadband`` of the limit. If it should
    ``latch``, it stays until somebody has acknowledged it (by default an error does, a warning does
    not). ``advice`` says what an observer should do; if it is empty there is nothing to do, so the
    alarm is a notice that is shown and not raised. ``because`` names fields of the device whose
    alarms explain an alarm of this one. None means the default of ``alarms/rules.py``.

    ``name`` is the name in telemetry; give it where it is not a name in Python (``exposure.time``).
    ``deployed_name`` is the name under which deployed clients enable and disable the reading
    (default: ``name``). ``scale`` is the scale of plots. People see ``digits`` decimals (on a
    ``log`` scale, of the mantissa).
    """

    name: str = ""
    doc: str = ""
    unit: str = ""
    ref: Any = None
    question: Any = None
    kind: Callable[[Any], Value] = float
    healthy: Range | None = None
    delay: float | None = None
    deadband: float | None = None
    latch: bool | None = None
    advice: str | None = None
    because: tuple[str, ...] = ()
    channels: int = 0
    deployed_name: str = ""
    scale: Literal["linear", "log"] = "linear"
    digits: int = 2

    @property
    def type(self) -> Literal["number", "bool", "text"]:
        """The type that ``kind`` returns. Raises TypeError if its annotations do not say."""
        answer = self._python_type()
        return "bool" if answer is bool else "text" if answer is str else "number"

    def _python_type(self) -> builtins.type:
        kind = self.kind
        if isinstance(kind, Labels):
            return str
        answer = kind if isinstance(kind, builtins.type) else get_type_hints(kind).get("return")
        for known in (bool, int, float, str):
            if answer is known:
                return known
        raise TypeError(f"{self.name}: {kind} does not say that it returns a number, bool or str")

    def expand(self, name: str) -> list["Readback"]:
        """Return one readback per channel, named and numbered from 1."""
        name = self.name or name
        if not self.channels:
            return [replace(self, name=name, deployed_name=self.deployed_name or name)]
        return [
            replace(
                self,
                name=f"{name}{n}",
                deployed_name=f"{self.deployed_name or name}{n}",
                ref=(self.ref, n),
                channels=0,
            )
            for n in range(1, self.channels + 1)
        ]

    def on_wire(self, value: Value | None) -> Any:
        """Return the value as telemetry carries it: ``{"value", "unit"}`` where it has a unit."""
        return {"value": value, "unit": self.unit} if self.unit and value is not None else value

    @property
    def decimals(self) -> int:
        """The number of decimals that people see: 0 for a whole number, else ``digits``."""
        return 0 if self._python_type() is int else self.digits

    def as_text(self, value: Value | None) -> str:
        """Return a value as people read it, without its unit; ``?`` if there is none."""
        if isinstance(value, float):
            return f"{value:.{self.decimals}{'e' if self.scale == 'log' else 'f'}}"
        return "?" if value is None else str(value)

    def unhealthy(self, value: Value) -> str | None:
        """Return why a value is an alarm, or None if it is healthy."""
        if self.healthy is None or isinstance(value, str):
            return None
        low, high = self.healthy
        shown = f"{value:g} {self.unit}".strip()
        if value > high:
            return f"{shown} is above {high:g} {self.unit}".strip()
        if value < low:
            return f"{shown} is below {low:g} {self.unit}".strip()
        return None

    def describe(self) -> dict[str, Any]:
        """Return the declaration as plain data, for clients that build themselves from it."""
        number = self.type == "number"
        return {
            "type": self.type,
            "unit": self.unit,
            "doc": self.doc,
            "healthy": _plain(self.healthy),
            "scale": self.scale if number else None,
            "digits": self.decimals if number else None,
            "words": _words(self.kind),
            "settable": False,
            "limits": None,
            "guarded": [],
        }


@dataclass(frozen=True, kw_only=True)
class Setpoint(Readback):
    """A value that may be set, within ``limits`` or to one of ``words``.

    To replace a value in ``needs_confirm_to_leave``, which protects something, a caller has to pass
    ``confirm=True``. An interlock may set it to one of the words that are ``safe``, and to nothing
    else; no interlock refuses these. ``tolerance`` is the largest difference between the value set
    and the value read back. ``readback`` names the field that follows the setpoint (default: ``X``
    of ``target_X``, if there is one).
    """

    limits: Range = (-math.inf, math.inf)
    words: Labels = field(default_factory=Labels)
    needs_confirm_to_leave: tuple[str, ...] = ()
    safe: tuple[str, ...] = ()
    tolerance: float = 1e-4
    readback: str = ""

    def expand(self, name: str) -> list["Readback"]:
        """Return one setpoint per channel, each with the readback of its channel."""
        named = super().expand(name)
        if not (self.channels and self.readback):
            return named
        return [replace(each, readback=f"{self.readback}{n}") for n, each in enumerate(named, 1)]  # type: ignore[call-arg]

    async def accept(self, value: object) -> float:
        """Return the number to send, in the declared unit.

        Takes a number, ``{"value", "unit"}``, or text such as ``"-80 deg_C"`` or one of the words.
        Raises ValueError, with what would have been accepted, for anything else.
        """
        if self.words:
            return self._accept_word(value)
        number, unit = self._number_and_unit(value)
        if unit != self.unit:
            try:
                # astropy costs 0.7 s and 35 MiB to import, and most servers never need it.
                number = await in_own_thread(convert, number, unit, self.unit)
            except ValueError as error:
                raise ValueError(
                    f"{number:g} {shorten(unit)}: {error}; it takes {self._allowed()}"
                ) from None
        low, high = self.limits
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError(f"{number:g} {self.unit} is not within {self._allowed()}")
        return number

    def _accept_word(self, value: object) -> float:
        number: float
        for number, word in self.words.items():
            if (is_number(value) and value == number) or value == word:
                return number
        raise ValueError(f"{shorten(value)} is not one of {self._allowed()}")

    def _number_and_unit(self, value: Any) -> tuple[float, str]:
        unit: Any = self.unit
        if isinstance(value, dict) and value.keys() == {"value", "unit"}:
            value, unit = value["value"], value["unit"]
        elif (
            isinstance(value, str)
            and len(value) <= MAX_TEXT_LENGTH
            and (match := NUMBER_AND_UNIT.fullmatch(value.strip()))
        ):
            value, unit = float(match[1]), match[2] or self.unit
        if not is_number(value):
            raise ValueError(f"{shorten(value)} is not a number within {self._allowed()}")
        if not isinstance(unit, str):
            raise ValueError(f"{shorten(unit)} is not the name of a unit such as {self.unit!r}")
        try:
            return float(value), unit
        except OverflowError:
            raise ValueError(f"{shorten(value)} is not within {self._allowed()}") from None

    def _allowed(self) -> str:
        if self.words:
            return ", ".join(f"{number} ({word})" for number, word in self.words.items())
        low, high = self.limits
        return f"{low:g} to {high:g} {self.unit}"

    def schema(self) -> dict[str, Any]:
        """Return the accepted values as JSON Schema."""
        if self.words:
            return {"enum": [*self.words, *self.words.values()]}
        low, high = self.limits
        number: dict[str, Any] = {"type": "number"}
        number |= {"minimum": low} if math.isfinite(low) else {}
        number |= {"maximum": high} if math.isfinite(high) else {}
        with_unit = {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"type": "string"}},
            "required": ["value", "unit"],
            "additionalProperties": False,
        }
        return {"anyOf": [number, with_unit, {"type": "string", "maxLength": MAX_TEXT_LENGTH}]}

    def differs(self, asked: float, value: Value | None) -> bool:
        """Return whether a value read back differs from the value asked for."""
        if self.words:
            return value != self.words[int(asked)]
        return not is_number(value) or not abs(value - asked) <= self.tolerance

    def describe(self) -> dict[str, Any]:
        """Return the declaration as plain data; ``words`` are those that may be set."""
        return super().describe() | {
            "settable": True,
            "words": _words(self.words),
            "limits": None if self.words else _plain(self.limits),
            "guarded": list(self.needs_confirm_to_leave),
        }


def _plain(bounds: Range | None) -> list[float | None] | None:
    """Return a range without infinities, which JSON does not have."""
    return bounds and [bound if math.isfinite(bound) else None for bound in bounds]


def _words(kind: object) -> dict[str, str] | None:
    """Return the words for the codes of a device, for JSON; None if there are none."""
    words = kind if isinstance(kind, Labels) else Labels()
    return {str(code): word for code, word in words.items()} or None


def convert(number: float, unit: str, to: str) -> float:
    """Return a number in another unit. Raises ValueError if that is not possible."""
    from astropy import units as u  # noqa: PLC0415  (see accept)

    if len(unit) > 60:
        raise ValueError("that is not the name of a unit")
    try:
        return float(u.Quantity(number, unit).to_value(to, u.temperature()))
    except (ValueError, TypeError, u.UnitConversionError):
        raise ValueError(f"cannot be converted to {to!r}") from None


Audience: TypeAlias = Literal["observer", "operator", "engineer", "program"]
"""Who uses a procedure: people in one of three roles, or only programs (it gets no button)."""


CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Who has called the procedure that runs, as the router knows the caller."""


def rpc(
    *, read_only: bool = False, moves: str = "", audience: Audience | None = None, label: str = ""
) -> Callable[[F], F]:
    """Mark a method as a command that the network may call; its annotations check the arguments.

    The keywords are those of ``Procedure``.
    """
    declared = {"read_only": read_only, "moves": moves, "audience": audience, "label": label}

    def mark(function: F) -> F:
        # Ours are built at the first call, which saves a program's start; a site's at once, so that
        # a wrong annotation is found when its file is imported.
        later = function.__module__.startswith("hcam_devices.")
        config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=later)
        checked = validate_call(config=config)(function)
        checked.rpc = declared  # type: ignore[attr-defined]  # procedures() looks for this attribute
        return checked

    return mark


@dataclass(frozen=True)
class Procedure:
    """A procedure of a device: its function, and its description for callers.

    ``doc`` is a sentence (by default the first line of the function's documentation), ``label`` the
    text of a button (by default made from the name). A ``read_only`` procedure changes nothing and
    may be called by those who may only observe. ``audience`` is by default ``observer`` if it is
    read-only, and else ``operator``. ``moves`` names the axis whose motion it begins, ``sets`` the
    setpoint that its first argument replaces. ``ranges`` has the limits of numbers, by the name
    of the parameter, where they come from settings and not from annotations.
    """

    call: Callable[..., Any]
    doc: str = ""
    read_only: bool = False
    moves: str = ""
    audience: Audience | None = None
    label: str = ""
    sets: Setpoint | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The parameters of the function, which are read when they are first needed."""
        return inspect.signature(self.call)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the description as plain data; ``name`` is the part of the URI after ``rpc.``."""
        doc = inspect.cleandoc(self.doc or self.call.__doc__ or "").split("\n")[0]
        return {
            "label": self.label or label_of(name.rpartition(".")[2]),
            "doc": doc.replace("``", ""),
            "audience": self.audience or ("observer" if self.read_only else "operator"),
            "read_only": self.read_only,
            "moves": self.moves or None,
            "sets": self.sets and self.sets.name,
            **self._parameters(),
        }

    def _parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON Schema, the positional ones, and the one for the rest."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        positional: list[str] = []
        rest, more = None, False
        for name, parameter in self.signature.parameters.items():
            schema = deepcopy(_schema(parameter.annotation))
            match parameter.kind:
                case parameter.VAR_KEYWORD:
                    more = True
                    continue
                case parameter.VAR_POSITIONAL:
                    schema, rest = {"type": "array", "items": schema}, name
                case parameter.POSITIONAL_ONLY | parameter.POSITIONAL_OR_KEYWORD:
                    if self.sets and not positional:
                        schema = self.sets.schema()
                    positional.append(name)
            if name in self.ranges:
                schema["minimum"], schema["maximum"] = self.ranges[name]
            if parameter.default is not parameter.empty:
                schema["default"] = parameter.default
            elif name != rest:
                required.append(name)
            properties[name] = schema
        return {
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": more,
            },
            "positional": positional,
            "rest": rest,
        }


@cache
def _schema(annotation: Any) -> dict[str, Any]:
    return {} if annotation is inspect.Parameter.empty else TypeAdapter(annotation).json_schema()


def label_of(name: str) -> str:
    """Return a name as people read it: ``set_heat1`` is "Set heat 1"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9]+$)|_", " ", name).lower()
    return words[:1].upper() + words[1:]


def sentence(error: ValidationError, what: str, parameters: list[str]) -> str:
    """Return one line with every mistake in the arguments of a call."""
    mistakes = []
    for mistake in error.errors(include_url=False):
        first = mistake["loc"][0]  # the position (after self) or the name of an argument
        place = parameters[first - 1] if isinstance(first, int) else first
        given = (
            "" if mistake["type"].startswith("missing") else f", not {shorten(mistake['input'])}"
        )
        mistakes.append(f"{place}: {mistake['msg'].lower()}{given}")
    return f"{what}: " + "; ".join(mistakes)
