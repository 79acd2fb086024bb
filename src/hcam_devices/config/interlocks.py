"""The interlocks of an instrument file: tables, whose names, units and limits are checked.

    [interlocks.coolant]
    for_each = "ccd*"                                     # the devices that have it
    when = [{field = "flow", below = "0.4 l/min"}]        # all of these, and for how long
    during = "60 s"
    then = [{set = "stage_enable", to = "Static OFF"}]    # where a view shows a source: the source
    verify = {field = "peltier_current", below = "0.2 A", within = "10 s"}
    advice = "Look at the pump."

    [interlocks.cooling]
    for_each = "ccd*"
    refuse = ["set_setpoint"]                             # commands; of others: "slide.stage.move"
    only = "lowering"                                     # not if a setpoint becomes higher
    unless = [{field = "flow", above = "0.4 l/min"}]      # all of these
    advice = "Let the coolant flow first."

An interlock with ``armed = false`` has no effect. It has to give its ``reason``, and what is
``to_confirm`` before it is armed.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from ..core.condition import Act, Condition, Declared
from ..core.device import Device
from ..core.fields import NUMBER_AND_UNIT, Readback, Setpoint, convert
from ..core.interlock import SAMPLES_IN_A_ROW
from ..names import did_you_mean, shorten
from .tables import Table

STALE_POLLS, STALE_AT_LEAST_S = 3, 2.0
"""A value is unknown when it is older than three polls of its device and two seconds."""
MAX_DURING_S = 86_400.0
"""The longest time that a condition may have to be met, or verified."""

Text = Annotated[str, Field(min_length=1, max_length=200)]


class ConditionTable(Table):
    """A limit of a field, in text with its unit."""

    field: Text
    below: Text | None = None
    above: Text | None = None


class VerifyTable(ConditionTable):
    """What has to be seen after the act."""

    within: Text


class ActTable(Table):
    """A setpoint and its safe word."""

    set: Text
    to: Text


class InterlockTable(Table):
    """One table ``[interlocks.NAME]``; see the module."""

    for_each: Text
    armed: bool = True
    when: list[ConditionTable] = Field(default=[])
    during: Text = ""
    then: list[ActTable] = Field(default=[])
    verify: VerifyTable | None = None
    refuse: list[Text] = Field(default=[])
    only: Literal["lowering"] | None = None
    unless: list[ConditionTable] = Field(default=[])
    advice: Text
    reason: str = ""
    to_confirm: str = ""

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """Yield each contradiction: the key in the table, and a sentence."""
        if bool(self.when) == bool(self.refuse):
            text = "an interlock has either when (it trips) or refuse (it refuses commands)"
            yield "for_each", text
        elif self.when:
            if not self.during:
                yield "when", 'during is missing: for how long, such as "60 s"'
            if self.then and not self.verify:
                yield "then", "verify is missing: what has to be seen after it"
            if self.verify and not self.then:
                yield "verify", "there is nothing to verify without then"
            if self.unless or self.only:
                yield "when", "unless and only belong to an interlock with refuse"
        else:
            if not self.unless:
                yield "refuse", "unless is missing: the conditions under which it is allowed"
            if self.then or self.verify or self.during:
                yield "refuse", "during, then and verify belong to an interlock with when"
        if not self.armed and not (self.reason and self.to_confirm):
            yield (
                "armed",
                "an interlock that is not armed needs its reason, and what is to_confirm by people "
                "before it is armed",
            )


class Resolver:
    """Resolves the names in the interlocks of an instrument.

    ``devices`` are those of the file, as built; ``servers`` are their servers.
    """

    def __init__(self, devices: Mapping[str, Device], servers: Mapping[str, str]) -> None:
        self.devices, self.servers = devices, servers

    def declared(self, name: str, table: InterlockTable, owner: Device) -> Declared:
        """Return an interlock of one device. Raises ValueError with a sentence for a mistake."""
        if name in {*owner.fields, *owner.states()}:
            raise ValueError(f"{owner.name} has something else named {name}: choose another name")
        when = tuple(self._condition(owner, one) for one in table.when)
        verify = self._condition(owner, table.verify) if table.verify else None
        refuse = dict.fromkeys(one for text in table.refuse for one in self._commands(owner, text))
        found = Declared(
            name=name,
            armed=table.armed,
            when=when,
            during=self._seconds("during", table.during, when) if when else 0.0,
            then=tuple(self._act(owner, one) for one in table.then),
            verify=verify,
            within=self._seconds("within", table.verify.within, (verify,))
            if table.verify and verify
            else 0.0,
            refuse=tuple(refuse),
            unless=tuple(self._condition(owner, one) for one in table.unless),
            lowering=table.only == "lowering",
            may_be_bypassed=not any(self._protects(*one) for one in refuse),
            advice=table.advice,
            reason=table.reason,
            to_confirm=table.to_confirm,
        )
        if table.armed:
            self._check_servers(owner, found)
        return found

    def _check_servers(self, owner: Device, found: Declared) -> None:
        """Raise ValueError unless all devices are of one server.

        An interlock must not need the router, and all its values are real, or all are emulated.
        """
        here = self.servers[owner.name]
        for device in found.devices:
            if self.servers[device] != here:
                raise ValueError(
                    f"{owner.name} is of server {here}, {device} of {self.servers[device]}: an "
                    "interlock runs in one server, so that it does not depend on the router; give "
                    "both the same server"
                )

    def _field(self, owner: Device, text: str) -> tuple[Device, Readback]:
        """Return the device that reads ``flow`` or ``flow.pen1``, and the field there."""
        first, dot, rest = text.partition(".")
        device, name = owner, text
        if dot and text not in owner.fields:
            if first not in self.devices:
                meant = did_you_mean(first, self.devices)
                raise ValueError(f"{text}: there is no device {shorten(first)}{meant}")
            device, name = self.devices[first], rest
        known = device.fields | device.acts_on
        if name not in known:
            raise ValueError(
                f"{device.name} has no field {shorten(name)}; it has {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        source, there = device.origin(known[name])
        while source != device.name:
            device = self.devices[source]
            source, there = device.origin(device.fields[there])
        return device, device.fields[there]

    def _condition(self, owner: Device, table: ConditionTable) -> Condition:
        device, field = self._field(owner, table.field)
        if field.type != "number":
            raise ValueError(f"{table.field} is no number, so it is never above or below a limit")
        if (table.below is None) == (table.above is None):
            raise ValueError(f"{table.field} needs one limit: either above or below")
        limit = _number(table.field, table.below or table.above or "", field.unit)
        return Condition(
            table.field,
            device.name,
            device.path(field.name),
            field.unit,
            stale_after=STALE_POLLS * device.poll_every + STALE_AT_LEAST_S,
            **{"above" if table.below is None else "below": limit},
        )

    def _seconds(self, key: str, text: str, about: tuple[Condition, ...]) -> float:
        seconds = _number(key, text, "s")
        polls = [self.devices[one.device].poll_every for one in about]
        least = SAMPLES_IN_A_ROW * max(polls)
        if not least <= seconds <= MAX_DURING_S:
            raise ValueError(
                f"{key} is {least:g} s ({SAMPLES_IN_A_ROW} samples) to {MAX_DURING_S:g} s, "
                f"not {shorten(text)}"
            )
        return seconds

    def _act(self, owner: Device, table: ActTable) -> Act:
        device, field = self._field(owner, table.set)
        if not isinstance(field, Setpoint) or table.to not in field.safe:
            there = [
                f"{name} to {' or '.join(one.safe)}"
                for name in owner.fields | owner.acts_on
                if isinstance(one := self._field(owner, name)[1], Setpoint) and one.safe
            ]
            raise ValueError(
                f"an interlock may not set {table.set} to {shorten(table.to)}: it may only set "
                f"what its device declares as safe ({', '.join(there) or 'nothing here'})"
            )
        return Act(device.name, field.name, table.to)

    def _protects(self, device: str, command: str) -> bool:
        """Return whether a command sets something like HW Enable: that is never bypassed."""
        field = self.devices[device].fields.get(command.removeprefix("set_"))
        return isinstance(field, Setpoint) and bool(field.needs_confirm_to_leave)

    def _commands(self, owner: Device, text: str) -> Iterator[tuple[str, str]]:
        """Yield the devices and commands that a pattern names."""
        first, dot, rest = text.partition(".")
        chosen: Collection[Device] = [owner]
        pattern = text
        if dot and (named := [one for one in self.devices if fnmatchcase(one, first)]):
            chosen, pattern = [self.devices[one] for one in named], rest
        found = 0
        for device in chosen:
            procedures = {
                name: one for name, one in device.procedures().items() if not one.read_only
            }
            matched = [one for name, one in procedures.items() if fnmatchcase(name, pattern)]
            found += len(matched)
            for procedure in matched:
                if procedure.sets:
                    source, field = self._field(device, procedure.sets.name)
                    yield source.name, f"set_{field.name}"
                    continue
                for name, one in procedures.items():
                    if one.call == procedure.call:  # another name of the same command
                        yield device.name, name
        if not found:
            names = [name for device in chosen for name in device.procedures()]
            raise ValueError(
                f"no command of {', '.join(one.name for one in chosen)} is {shorten(pattern)}"
                f"{did_you_mean(pattern, names)}"
            )


def _number(what: str, text: str, unit: str) -> float:
    """Return the number of a text such as ``0.4 l/min`` in a unit."""
    match = NUMBER_AND_UNIT.fullmatch(text.strip())
    given = match and (match[2] or "")
    if match is None or given is None:
        raise ValueError(f"{what}: {shorten(text)} is not a number with a unit such as {unit!r}")
    number = float(match[1])
    if given.replace(" ", "") != unit.replace(" ", ""):
        try:
            number = convert(number, given, unit)
        except ValueError as error:
            raise ValueError(f"{what}: {shorten(text)} {error}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what}: {shorten(text)} is not a finite number")
    return number
