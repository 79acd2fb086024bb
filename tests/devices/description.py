"""What ``describe`` answers, as a schema. ``docs/describe.schema.json`` is made from it:

python -m tests.devices.description > docs/describe.schema.json
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).parents[2] / "docs" / "describe.schema.json"
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Bound: TypeAlias = float | None


class Strict(BaseModel):
    """Nothing is left out, nothing is added, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FieldDescription(Strict):
    """A readback, or a setpoint with what it is now."""

    type: Literal["number", "bool", "text"] = Field(description="Of the value, unless it is null.")
    unit: str = Field(description="As astropy writes it; empty if there is none.")
    doc: Text = Field(description="A sentence.")
    scale: Literal["linear", "log"] | None = Field(description="Of a plot; null if no number.")
    digits: Annotated[int, Field(ge=0, le=15)] | None = Field(
        description="Decimals for people, on a log scale of the mantissa; null if no number."
    )
    healthy: tuple[Bound, Bound] | None = Field(
        description="Outside of it the value is an alarm; null is infinite."
    )
    words: dict[str, Text] | None = Field(
        description="Codes and words: what a setpoint takes, or what a readback can be."
    )
    settable: bool
    limits: tuple[Bound, Bound] | None = Field(
        description="What a setpoint takes, in its unit; null is infinite."
    )
    guarded: list[Text] = Field(description="Replacing one of these needs confirm=true.")
    pair: Text | None = Field(
        description="The setpoint that a readback follows, or the readback of a setpoint."
    )
    path: list[Text] = Field(min_length=1, description="Where the value is in telemetry.")
    source: tuple[Text, Text] | None = Field(
        description="The device and the field that a view shows here; null elsewhere."
    )


class Schema(Strict):
    """JSON Schema of a parameter, as far as procedures need it; ``unit`` is ours."""

    type: Literal["number", "integer", "string", "boolean", "null", "array", "object"] | None = None
    anyOf: list["Schema"] | None = None
    enum: list[int | str] | None = None
    items: "Schema | None" = None
    minimum: float | None = None
    maximum: float | None = None
    exclusiveMinimum: float | None = None
    minLength: int | None = None
    maxLength: int | None = None
    properties: "dict[str, Schema] | None" = None
    required: list[Text] | None = None
    additionalProperties: bool | dict[str, Any] | None = None
    unit: str | None = None
    default: Any = None


class Parameters(Strict):
    """JSON Schema of the named arguments."""

    type: Literal["object"]
    properties: dict[str, Schema]
    required: list[Text]
    additionalProperties: bool


class ProcedureDescription(Strict):
    """What may be called as ``hipercam.<device>.rpc.<name>``."""

    label: Text = Field(description="The text of a button.")
    doc: Text = Field(description="A sentence.")
    audience: Literal["observer", "operator", "engineer", "program"] = Field(
        description="For whom it is; what is for programs is no button."
    )
    read_only: bool = Field(description="It changes nothing, so an observer may call it.")
    moves: Text | None = Field(description="The axis whose motion it begins.")
    sets: Text | None = Field(description="The setpoint that its first argument replaces.")
    parameters: Parameters
    positional: list[Text] = Field(description="Those that may be given by place, in order.")
    rest: Text | None = Field(description="The parameter that takes any more arguments by place.")


class AxisDescription(Strict):
    """A machine that moves; its state is ``state.<axis>`` in telemetry."""

    readback: Text | None
    setpoint: Text | None
    busy: list[Text] = Field(min_length=1, description="States of a motion.")
    arrived: list[Text] = Field(min_length=1, description="States of its good end.")
    chart: dict[str, dict[str, Text]] | None = Field(
        description="By state: the commands <axis>.<command> that it allows, and what follows. "
        "Any other procedure that moves the axis is allowed where move is."
    )


class InterlockDescription(Strict):
    """What its server refuses, or does by itself; its state is ``state.<name>`` in telemetry."""

    kind: Literal["trip", "permissive"]
    armed: bool = Field(description="Without it, the interlock has no effect.")
    when: list[Text] = Field(description="All of these trip it,")
    during: float | None = Field(description="after so many seconds.")
    then: list[Text] = Field(description="What it then sets.")
    verify: Text | None = Field(description="What has to be seen afterwards.")
    unless: list[Text] = Field(description="It refuses commands unless all of these are proven.")
    lowering: bool = Field(description="It refuses a setpoint only if it becomes lower.")
    guards: list[Text] = Field(description="The commands that it may refuse.")
    advice: Text
    reason: str
    to_confirm: str
    state: Text | None = Field(description="At the time of the answer; null if it is not armed.")
    why: str = Field(description="Why it is in that state.")
    chart: dict[str, dict[str, Text]] = Field(
        description="By state: the commands <name>.<command> that it allows, and what follows."
    )


class Description(Strict):
    """What ``hipercam.<device>.rpc.describe()`` answers."""

    device: Text
    aliases: list[Text]
    kind: Text = Field(description="The class, as the instrument file names it.")
    doc: Text
    poll_every: float = Field(gt=0, description="Seconds between samples, unless something moves.")
    link: dict[str, Any] = Field(description="Where the hardware is.")
    sources: list[Text] = Field(description="The devices that it is a view of.")
    peers: dict[str, list[Text]] = Field(description="The procedures of others that it calls.")
    fields: dict[str, FieldDescription]
    axes: dict[str, AxisDescription]
    procedures: dict[str, ProcedureDescription]
    interlocks: dict[str, InterlockDescription] = Field(
        description="Those that it shows, and those that guard a command of it: <device>.<name>."
    )


LEANS = re.compile(r"(Of|At|In|On|From|By|It|Its|Where) ")
"""How a text begins that goes on from the name of its field."""


def stands_alone(doc: str) -> bool:
    """Return whether a text is a sentence, in one line and without marks of a docstring."""
    sentence = re.fullmatch(r"[A-Z][^`\n]+[.]", doc) and not LEANS.match(doc)
    return bool(sentence) and len(doc.split()) >= 3


def as_text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(Description.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(as_text(), end="")
