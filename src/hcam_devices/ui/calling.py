"""``hcam call``, ``publish`` and ``simulate``: arguments, listings, and waiting for motions.

This module imports little, so that ``hcam call`` starts quickly.
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
from ..errors import refusal
from ..names import did_you_mean, usage
from ..wamp import uris, utils
from ..wamp.motion import is_later, progress

WIDTH = 80
"""Letters in a line of the listing."""
NAME_WIDTH = 26
"""The column width of a procedure with its parameters; a longer one has its own line."""
LOOK_PERIOD_S = 0.5
MAX_SILENCE_S = 30.0
"""Stop waiting for a motion after its telemetry was unavailable for this long."""
TITLES = {
    "Commands": "",
    "Setpoints": "",
    "Questions": " (they change nothing)",
    "For engineers": "",
    "For programs": "",
    "Readings": " (NAME.disable stops one, NAME.enable restarts it)",
    "Other names": " of these procedures, which deployed programs call",
}
"""The titles in the listing of a device, in order, and the rest of each title line."""


# --- arguments ------------------------------------------------------------------------------


def argument(text: str) -> Any:
    """Return the value of an argument: the parsed text if it is JSON, otherwise the text itself.

    ``@FILE`` stands for the content of a file, and a leading ``@@`` for an @. Raises HcamError if
    the file cannot be read.
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
        why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text: {error}"
        raise HcamError(
            f"@{name}: the file {name!r} cannot be read ({why}); @FILE stands for the content of a "
            "file, and @@ for an @"
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


def call(
    procedure: str, texts: Sequence[str], timeout: float, *, wait: bool = False, why: str = ""
) -> tuple[Any, str]:
    """Call a procedure by its short or full name; return its answer, and the text to print.

    For the name of a device alone (``ngc``), these are its description and its listing. With
    ``wait``, return when the motion that the procedure begins has ended; the answer is the sample
    in which the axis has arrived. ``why`` is recorded with the command. Raises HcamError if the
    call is refused, or the motion did not arrive.
    """
    full = uris.expand_procedure(procedure)
    prefix, _, name = full.partition(".rpc.")
    described = {} if full.startswith("wamp.") else _describe(prefix)
    if not name and not full.startswith("wamp."):
        if not described:
            raise HcamError(no_such_device(full))
        if texts:
            raise HcamError(
                f"{procedure} is a device: name its procedure, such as {procedure}.{texts[0]}; "
                f"hcam call {procedure} lists them"
            )
        return described, "\n".join(listing(described))
    known = described.get("procedures", {}).get(name, {})
    short = f"{uris.device_of(full)}.{name}" if described else full
    axis = known.get("moves") or ""
    if wait and not axis and (known or not described):  # unknown names are refused below
        raise HcamError(_no_motion(short, described))
    positional, named = arguments(texts)
    if known and "confirm" in known["parameters"]["properties"]:
        named.setdefault("confirm", False)  # where it is omitted, the command counts as confirmed
    named |= {"_why": why} if why else {}
    answer = ask(full, *positional, timeout=timeout, **named)
    if reason := refusal(answer):
        raise HcamError(reason)
    if wait:
        sample, text = _wait(prefix, short, axis, described)
        return sample, f"{short}: {text}"
    if answer is None and known and not known["read_only"]:
        return None, f"{short}: " + ("begun (--wait waits for the end)" if axis else "done")
    return answer, json.dumps(answer, indent=2, ensure_ascii=False)


def ask(procedure: str, *args: Any, **kwargs: Any) -> Any:
    """Call a procedure by its full name, and return its result.

    Raises HcamError, with the names of the devices, if no device has the procedure; any other error
    is raised as by ``utils.call``.
    """
    try:
        return utils.call(procedure, *args, **kwargs)
    except utils.NoSuchProcedureError as error:
        if error.uri.startswith("wamp."):  # otherwise the device has listed its procedures
            raise HcamError(no_such_device(procedure)) from None
        raise


def publish(topic: str, texts: Sequence[str], why: str = "") -> None:
    """Publish arguments such as ``1 "-80 deg_C" raoff=0.05`` to a topic by its short or full name.

    ``why`` is recorded with the setpoint. Raises HcamError, with possible topics, if nobody
    subscribes to the topic.
    """
    positional, named = arguments(texts)
    named |= {"_why": why} if why else {}
    full = uris.expand(topic)
    if not utils.call("wamp.subscription.match", full):
        raise HcamError(no_such_topic(full))
    utils.publish(full, *positional, **named)


def simulate(device: str, fault: str, texts: Sequence[str]) -> tuple[Any, Iterator[str]]:
    """Give a simulated device a fault; return its faults and values, and lines with them.

    Without a fault nothing changes, and the possible faults come first.
    """
    _, named = arguments(texts)
    answer = ask(uris.rpc(device, "simulate"), fault, **named)
    if fault:
        del answer["may inject"]
    return answer, _titled(answer)


def _titled(answer: dict[str, dict[str, Any]]) -> Iterator[str]:
    for title, content in answer.items():
        yield f"{title}:"
        for name, value in content.items():
            shown = value
            if isinstance(value, dict):
                shown = " ".join(f"{key}={default}" for key, default in value.items())
            yield f"  {name:<12} {shown}"


def exchange(device: str, sent: str, *, confirm: bool) -> tuple[str, str]:
    """Send raw bytes to a device's hardware; return the reply, and a line with it.

    Both are hexadecimal.
    """
    answer = ask(uris.rpc(device, "exchange"), sent, confirm=confirm)
    return answer, f"{answer}   {bytes.fromhex(answer).decode('ascii', 'backslashreplace')!r}"


def _describe(prefix: str) -> dict[str, Any]:
    """Return the self-description of a device; empty if there is none, or the router refuses it."""
    try:
        described = utils.call(f"{prefix}.rpc.describe")
    except (utils.NoSuchProcedureError, utils.NotAuthorizedError):
        return {}
    return described if isinstance(described, dict) and "procedures" in described else {}


def no_such_device(name: str) -> str:
    """Return a message that no device has a procedure, with the names of the devices."""
    registered = utils.call("wamp.registration.list")["prefix"]
    prefixes = [utils.call("wamp.registration.get", number)["uri"] for number in registered]
    devices = sorted({uris.device_of(prefix) for prefix in prefixes} - {""})
    there = ", ".join(devices) or "none, so perhaps no server is running"
    meant = did_you_mean(uris.device_of(name), devices)
    return f"there is no {name.removesuffix('.rpc.')}; the devices are: {there}{meant}"


def no_such_topic(topic: str) -> str:
    """Return a message that nobody subscribes to a topic, with the setpoints of its device."""
    device = uris.device_of(topic)
    described = _describe(uris.rpc(device).removesuffix(".rpc."))
    if not described:
        return no_such_device(topic)
    fields = [name for name, field in described["fields"].items() if field["settable"]]
    there = f"{device} has {', '.join(fields)}" if fields else f"{device} has no setpoint"
    return f"nothing can be set at {topic}; {there}{did_you_mean(topic.rpartition('.')[2], fields)}"


def _no_motion(short: str, described: dict[str, Any]) -> str:
    device = short.partition(".")[0]
    if not described:
        return f"{short}: {device} has no description, so its motions are unknown; nothing was sent"
    motions = [name for name, known in described["procedures"].items() if known.get("moves")]
    there = f"the motions of {device} are {', '.join(motions)}" if motions else f"{device} has none"
    return f"{short} begins no motion to wait for, and {there}; nothing was sent"


# --- the end of a motion --------------------------------------------------------------------


def _wait(
    prefix: str, short: str, axis: str, described: dict[str, Any]
) -> tuple[dict[str, Any], str]:
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
        how = f": hcam call {short.partition('.')[0]}.{stop} stops it"
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
) -> tuple[dict[str, Any], str]:
    """Wait until an axis has arrived; return that sample, and its position and duration as text.

    ``telemetry`` returns the newest sample, ``declared`` is the axis in the description of the
    device, and ``show`` is called with each new position. A command answers before its motion is in
    the telemetry, so the first sample does not count. Raises HcamError if the axis did not arrive,
    or if that is unknown.
    """
    began = clock()
    before = _reach(telemetry, axis, sleep, clock)
    shown = ""
    while True:
        sleep(LOOK_PERIOD_S)
        sample = _reach(telemetry, axis, sleep, clock)
        if not is_later(sample, before):
            continue
        arrived, text = progress(sample, axis, declared)
        if arrived:
            return sample, f"{text} after {clock() - began:.1f} s"
        if text != shown:
            show(text)
            shown = text


def _reach(
    telemetry: Callable[[], Any],
    axis: str,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Return the newest sample; wait up to MAX_SILENCE_S while router or server is unavailable."""
    began = clock()
    while True:
        try:
            if sample := telemetry():
                return dict(sample)
            error: object = "there is no sample"
        except utils.WampError as failure:
            error = failure
        if clock() - began > MAX_SILENCE_S:
            raise HcamError(f"it is unknown whether {axis} has arrived: {error}")
        sleep(LOOK_PERIOD_S)


# --- the listing of a device ---------------------------------------------------------------------


def listing(described: dict[str, Any]) -> Iterator[str]:
    """Yield the procedures of a device, grouped by purpose, in lines of at most WIDTH letters."""
    groups: dict[str, list[str]] = {}
    switched: dict[str, None] = {}
    deployed = []
    for name, procedure in described["procedures"].items():
        machine, _, event = name.rpartition(".")
        if procedure["audience"] != "program" or not machine:
            title, doc = _kind(procedure, described["fields"])
            entry = _entry(f"{name} {usage(procedure)}".rstrip(), doc)
            groups.setdefault(title, []).extend(entry)
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
    for title, rest in TITLES.items():
        if title in groups:
            yield from ("", f"{title}{rest}:", *groups[title])


def _kind(procedure: dict[str, Any], fields: dict[str, Any]) -> tuple[str, str]:
    """Return the title that a procedure is listed under, and its documentation."""
    if procedure["audience"] == "operator" and procedure["sets"]:
        return "Setpoints", _allowed(fields[procedure["sets"]])
    titles = {"engineer": "For engineers", "program": "For programs", "observer": "Questions"}
    return titles.get(procedure["audience"], "Commands"), _first(procedure["doc"])


def _entry(called: str, doc: str) -> list[str]:
    indent = " " * (NAME_WIDTH + 4)
    lines = textwrap.wrap(doc, WIDTH, initial_indent=indent, subsequent_indent=indent)
    if len(called) > NAME_WIDTH or not lines:
        hanging = textwrap.wrap(called, WIDTH, initial_indent="  ", subsequent_indent="      ")
        return [*hanging, *lines]
    return [f"  {called:<{NAME_WIDTH}}  {lines[0].lstrip()}", *lines[1:]]


def _first(doc: str) -> str:
    sentence, stop, _ = doc.partition(". ")
    return sentence + stop.strip()


def _allowed(field: dict[str, Any]) -> str:
    """Return the valid values of a setpoint and the first sentence of its documentation."""
    if words := field.get("words"):
        takes = ", ".join(f"{number} ({word})" for number, word in words.items())
    else:
        low, high = ("any" if end is None else f"{end:g}" for end in field["limits"])
        takes = f"{low} to {high} {field['unit']}".rstrip()
    return f"{takes}. {_first(field['doc'])}".strip()
