"""``hcam call``: arguments as people type them, what may be called, and what became of it.

What is here imports little, so that ``hcam call`` answers at once.
"""

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import HcamError
from ..names import did_you_mean, usage
from ..wamp import uris, utils

WIDTH = 80
CALLS = 26
"""Letters for a call before its documentation; a longer one has a line of its own."""
LOOK_EVERY = 0.5
PATIENCE = 30.0
"""Seconds for which the telemetry of a motion may be out of reach."""
TITLES = {
    "Commands": "",
    "Setpoints": "",
    "Questions": ", which change nothing",
    "For engineers": "",
    "For programs": "",
    "Readings": " that NAME.disable stops and NAME.enable begins again",
    "Other names": " of the same, as programs in use call them",
}
"""What is listed of a device, in this order, and how the titles go on."""


# --- arguments ------------------------------------------------------------------------------


def argument(text: str) -> Any:
    """Return an argument: JSON if it is JSON, text otherwise; ``@FILE`` is the text of a file.

    ``@@`` is an @ at the beginning. HcamError if the file cannot be read.
    """
    if text.startswith("@"):
        text = text[1:] if text.startswith("@@") else _content(text[1:])
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _content(name: str) -> str:
    try:
        return Path(os.path.expanduser(name)).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is no UTF-8 text: {error}"
        raise HcamError(
            f"@{name}: the file {name!r} cannot be read ({why}); an argument that begins with @ "
            "is a file, and with @@ it is a text that begins with @"
        ) from None


def arguments(texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Split ``1 "-80 deg_C" raoff=0.05`` into positional and named arguments."""
    positional, named = [], {}
    for text in texts:
        key, equals, value = text.partition("=")
        if equals and key.isidentifier():
            named[key] = argument(value)
        else:
            positional.append(argument(text))
    return positional, named


# --- a call ---------------------------------------------------------------------------------


def call(procedure: str, texts: Sequence[str], timeout: float, *, wait: bool = False) -> str:
    """Call a procedure by its short or full name, and return what is to be printed.

    Without a procedure (``ngc``): what the device has. With ``wait``: when the motion that it
    begins has ended. Raises HcamError if it is refused, or did not arrive.
    """
    full = uris.expand_procedure(procedure)
    prefix, _, name = full.partition(".rpc.")
    described = {} if full.startswith("wamp.") else _describe(prefix)
    if not name and not full.startswith("wamp."):
        if not described:
            raise HcamError(what_there_is(full))
        if not texts:
            return "\n".join(listing(described))
    known = described.get("procedures", {}).get(name, {})
    short = f"{uris.device_of(full)}.{name}" if described else full
    axis = known.get("moves") or ""
    if wait and not axis and (known or not described):  # else it will be refused by its name
        raise HcamError(_no_motion(short, described))
    positional, named = arguments(texts)
    if "confirm" not in named and "confirm" in _parameters(known):
        named["confirm"] = False  # a program that does not say so is not asked
    answer = ask(full, *positional, timeout=timeout, **named)
    match answer:  # as programs in use expect it of the detector controller
        case [str(reason), False] | [False, str(reason)]:
            raise HcamError(reason)
    if wait:
        return f"{short}: {_wait(prefix, short, axis, described)}"
    if answer is None and known and not known["read_only"]:
        return f"{short}: " + ("begun (--wait waits for its end)" if axis else "done")
    return json.dumps(answer, indent=2, ensure_ascii=False)


def ask(procedure: str, *args: Any, **kwargs: Any) -> Any:
    """Call a procedure by its full name; if nobody has it, HcamError says which devices there are.

    Raises as ``utils.call`` otherwise.
    """
    try:
        return utils.call(procedure, *args, **kwargs)
    except utils.NoSuchProcedureError as error:
        if error.uri.startswith("wamp."):  # else the device has said what it has
            raise HcamError(what_there_is(procedure)) from None
        raise


def publish(topic: str, texts: Sequence[str]) -> None:
    """Publish to a topic by its short or full name, as ``1 "-80 deg_C" raoff=0.05`` say.

    Raises HcamError, with the topics that could be meant, if nobody listens.
    """
    positional, named = arguments(texts)
    full = uris.expand(topic)
    if not utils.call("wamp.subscription.match", full):
        raise HcamError(what_can_be_set(full))
    utils.publish(full, *positional, **named)


def simulate(device: str, fault: str, texts: Sequence[str]) -> Iterator[str]:
    """Give a simulated device a fault, and yield its faults and values in lines.

    Without a fault nothing changes, and the faults that there are come first.
    """
    _, named = arguments(texts)
    answer = ask(uris.rpc(device, "simulate"), fault, **named)
    if fault:
        del answer["may inject"]
    for title, content in answer.items():
        yield f"{title}:"
        for name, value in content.items():
            shown = value
            if isinstance(value, dict):
                shown = " ".join(f"{key}={default}" for key, default in value.items())
            yield f"  {name:<12} {shown}"


def exchange(device: str, sent: str, *, confirm: bool) -> str:
    """Send raw bytes (in hexadecimal) to a device's hardware, and return the answer in a line."""
    answer = ask(uris.rpc(device, "exchange"), sent, confirm=confirm)
    return f"{answer}   {bytes.fromhex(answer).decode('ascii', 'backslashreplace')!r}"


def _describe(prefix: str) -> dict[str, Any]:
    """Return what a device says that it is; nothing of a program that does not say."""
    try:
        described = utils.call(f"{prefix}.rpc.describe")
    except utils.NoSuchProcedureError:
        return {}
    return described if isinstance(described, dict) and "procedures" in described else {}


def what_there_is(name: str) -> str:
    """Return which devices there are instead of the one that a full name is of."""
    found = utils.call("wamp.registration.list")
    prefixes = [utils.call("wamp.registration.get", n)["uri"] for n in found["prefix"]]
    devices = sorted({uris.device_of(prefix) for prefix in prefixes} - {""})
    there = ", ".join(devices) or "none: is hwserver running?"
    meant = did_you_mean(uris.device_of(name), devices)
    return f"nobody offers {name.removesuffix('.rpc.')}; the devices are: {there}{meant}"


def what_can_be_set(topic: str) -> str:
    """Return what can be set instead of a topic to which nobody listens."""
    device = uris.device_of(topic)
    described = _describe(uris.rpc(device).removesuffix(".rpc."))
    if not described:
        return what_there_is(topic)
    fields = [name for name, field in described["fields"].items() if field["settable"]]
    there = f"of {device} there is {', '.join(fields)}" if fields else f"{device} has no setpoint"
    return f"nobody listens to {topic}; {there}{did_you_mean(topic.rpartition('.')[2], fields)}"


def _no_motion(short: str, described: dict[str, Any]) -> str:
    device = short.partition(".")[0]
    if not described:
        return f"{short}: nobody describes {device}, so its motions are not known; nothing was sent"
    there = [name for name, one in described["procedures"].items() if one.get("moves")]
    can = f"of {device} it is for {', '.join(there)}" if there else f"{device} has none"
    return f"{short} begins no motion; --wait is for motions, and {can}; nothing was sent"


# --- the end of a motion --------------------------------------------------------------------


def _wait(prefix: str, short: str, axis: str, described: dict[str, Any]) -> str:
    def telemetry() -> Any:
        return utils.call(f"{prefix}.rpc.telemetry")

    live = sys.stderr.isatty()

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}" if live else text, end="" if live else "\n", file=sys.stderr)
        sys.stderr.flush()

    try:
        return follow(telemetry, axis, described["axes"][axis], show)
    except KeyboardInterrupt:
        stop = f"{axis}.stop"
        how = f": hcam call {short.partition('.')[0]}.{stop} ends it"
        show(f"{short}: the motion goes on{how if stop in described['procedures'] else ''}")
        raise
    finally:
        if live:
            print(file=sys.stderr)


def follow(
    telemetry: Callable[[], Any],
    axis: str,
    declared: dict[str, Any],
    show: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Return where an axis is once it has arrived, and how long that took.

    A command answers before the motion is in the telemetry, so only samples after the newest one
    are judged. Raises HcamError if it has not arrived, or nobody can tell.
    """
    began = clock()
    before = _reach(telemetry, axis, sleep, clock)
    shown = ""
    while True:
        sleep(LOOK_EVERY)
        sample = _reach(telemetry, axis, sleep, clock)
        if not _later(sample, before):
            continue
        if sample["state"]["connection"] != "online":
            why = _reasons(sample, "connection") or "offline"
            raise HcamError(f"{sample['device']} is offline ({why}): the motion may go on")
        state, place = sample["state"].get(axis), _place(sample, declared)
        if state in declared["arrived"]:
            return f"{axis} is {state}{place} after {clock() - began:.1f} s"
        if state not in declared["busy"]:
            why = _reasons(sample, axis, declared["readback"], declared["setpoint"])
            raise HcamError(
                f"{axis} did not arrive, it is {state}{place}{why and f': {why}'}; "
                "look before you repeat the command"
            )
        if (text := f"{axis} is {state}{place}") != shown:
            show(text)
            shown = text


def _reach(
    telemetry: Callable[[], Any],
    axis: str,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Return the newest sample; a router or server that is away may come back."""
    began = clock()
    while True:
        try:
            if sample := telemetry():
                return dict(sample)
            error: object = "there is no sample"
        except utils.WampError as failure:
            error = failure
        if clock() - began > PATIENCE:
            raise HcamError(f"whether {axis} has arrived is not known: {error}")
        sleep(LOOK_EVERY)


def _later(sample: dict[str, Any], before: dict[str, Any]) -> bool:
    numbers = sample["seq"], before["seq"]
    if None in numbers or sample["epoch"] != before["epoch"]:  # the journal is broken, or new
        return bool(sample["timestamp"] > before["timestamp"])
    return bool(numbers[0] > numbers[1])


def _place(sample: dict[str, Any], declared: dict[str, Any]) -> str:
    pair = sample.get(declared["readback"])
    if not isinstance(pair, dict) or not pair.get("current"):
        return ""
    current, target = pair["current"], pair["target"]
    goal = f" (target {target['value']:.2f})" if target else ""
    return f" at {current['value']:.2f} {current['unit']}{goal}"


def _reasons(sample: dict[str, Any], *fields: str) -> str:
    return "; ".join(alarm["reason"] for alarm in sample["alarms"] if alarm["field"] in fields)


# --- what may be called ---------------------------------------------------------------------


def listing(described: dict[str, Any]) -> Iterator[str]:
    """Yield what a device has, in lines of at most WIDTH letters."""
    groups: dict[str, list[str]] = {}
    switched: dict[str, None] = {}
    deployed = []
    for name, one in described["procedures"].items():
        machine, _, event = name.rpartition(".")
        if one["audience"] != "program" or not machine:
            title, doc = _kind(one, described["fields"])
            groups.setdefault(title, []).extend(_entry(f"{name} {usage(one)}".rstrip(), doc))
        elif event in ("enable", "disable"):
            switched[machine] = None
        else:
            deployed.append(name)
    for title, names in (("Readings", list(switched)), ("Other names", deployed)):
        if names:
            groups[title] = textwrap.wrap(
                ", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  "
            )
    yield from textwrap.wrap(f"{described['device']}: {described['doc']}", WIDTH)
    for title, about in TITLES.items():
        if title in groups:
            yield from ("", f"{title}{about}:", *groups[title])


def _kind(one: dict[str, Any], fields: dict[str, Any]) -> tuple[str, str]:
    """Return the title under which a procedure belongs, and its documentation."""
    if one["audience"] == "operator" and one["sets"]:
        return "Setpoints", _allowed(fields[one["sets"]])
    titles = {"engineer": "For engineers", "program": "For programs", "observer": "Questions"}
    return titles.get(one["audience"], "Commands"), _first(one["doc"])


def _entry(called: str, doc: str) -> list[str]:
    indent = " " * (CALLS + 4)
    lines = textwrap.wrap(doc, WIDTH, initial_indent=indent, subsequent_indent=indent)
    if len(called) > CALLS or not lines:
        hanging = textwrap.wrap(called, WIDTH, initial_indent="  ", subsequent_indent="      ")
        return [*hanging, *lines]
    return [f"  {called:<{CALLS}}  {lines[0].lstrip()}", *lines[1:]]


def _first(doc: str) -> str:
    sentence, stop, _ = doc.partition(". ")
    return sentence + stop.strip()


def _allowed(field: dict[str, Any]) -> str:
    """Return what a setpoint takes, and what it is."""
    if words := field.get("words"):
        takes = ", ".join(f"{number} ({word})" for number, word in words.items())
    else:
        low, high = ("any" if end is None else f"{end:g}" for end in field["limits"])
        takes = f"{low} to {high} {field['unit']}".rstrip()
    return f"{takes}. {_first(field['doc'])}".strip()


def _parameters(known: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a described procedure by name; none of one that is not described."""
    return dict(known["parameters"]["properties"]) if known else {}
