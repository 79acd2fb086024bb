"""``hcam get``, ``set`` and ``monitor``: readings as lines for people, or as JSON.

This module imports little, so that ``hcam get`` starts quickly: it asks over HTTP.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from .. import HcamError
from ..wamp import overview, uris, utils
from ..wamp.access import own_key
from ..wamp.described import questions, unpacked
from ..wamp.reading import Description, Pattern, Reading, unknown
from .calling import argument

Answer: TypeAlias = tuple[Description, Any] | HcamError
"""The description and the newest sample of a device, or why there are none."""
MAX_AT_ONCE = 32
"""Ask at most this many servers or devices at once."""


def as_line(reading: Reading) -> str:
    """Return the name and the value of a reading."""
    return f"{reading.name} {reading}"


def as_object(reading: Reading) -> dict[str, Any]:
    """Return a reading as an object of JSON; with the alarm about it, if there is one."""
    keys = "device", "field", "value", "unit", "time", "seq"
    values = reading.device, reading.field, reading.raw, reading.unit, reading.timestamp
    content = dict(zip(keys, (*values, reading.seq), strict=True))
    if reading.severity:
        content |= {"severity": reading.severity, "reason": reading.reason}
    return content


def devices() -> dict[str, dict[str, Any]]:
    """Return the devices of the instrument, in order. Raise RouterError without a router."""
    return overview.devices(uris.address(), own_key())


def get(patterns: Sequence[str], failed: Callable[[str], None]) -> Iterator[Reading]:
    """Yield the newest readings that the patterns include, in the order of the instrument file.

    ``failed`` is called with a sentence for each pattern without a field, and for each device that
    does not answer. Raises RouterError without a router.
    """
    known = devices()
    chosen = [Pattern(text) for text in patterns]
    wanted = [each for each in known.values() if any(one.has_device(each) for one in chosen)]
    descriptions: dict[str, Description] = {}
    for device, answer in zip(wanted, _ask_all(wanted), strict=True):
        name = device["name"]
        if isinstance(answer, HcamError):
            failed(f"{name}: {answer}")
            continue
        descriptions[name], sample = answer
        including = [pattern for pattern in chosen if pattern.has_device(device)]
        fields = (field for pattern in including for field in pattern.fields(descriptions[name]))
        for field in dict.fromkeys(fields):
            yield Reading(sample, field, descriptions[name])
    for pattern in chosen:
        if why := pattern.unmatched(known, descriptions):
            failed(why)


def _ask_all(wanted: list[dict[str, Any]]) -> Iterator[Answer]:
    """Yield the answer about each device; ask one by one what its server does not tell."""
    if len(wanted) < 2:
        yield from map(_ask, wanted)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (one device needs none)

    told: dict[str, Answer] = {}
    with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
        for answers in pool.map(_ask_server, questions(wanted)):
            told |= answers
        rest = pool.map(_ask, (device for device in wanted if device["name"] not in told))
        for device in wanted:
            yield told.get(device["name"]) or next(rest)


def _ask_server(question: tuple[str, list[str]]) -> Mapping[str, Answer]:
    """Return what a server tells of its devices."""
    server, names = question
    try:
        answer = utils.call(uris.rpc(server, "devices"), names, timeout=utils.PRESENT_WITHIN)
    except utils.OutcomeUnknownError as error:
        return dict.fromkeys(names, error)
    except utils.WampError:
        return {}
    return {name: _heard(*told) for name, told in unpacked(answer).items()}


def _ask(device: dict[str, Any]) -> Answer:
    try:
        description, sample = (
            utils.call(uris.rpc(device["name"], name), timeout=utils.PRESENT_WITHIN)
            for name in ("describe", "telemetry")
        )
    except utils.NoSuchProcedureError:
        return HcamError(f"{device['server']} is not running")
    except utils.WampError as error:
        return error
    return _heard(description, sample)


def _heard(description: Description, sample: Any) -> Answer:
    return (description, sample) if sample else HcamError("it has no sample yet")


def set_(name: str, text: str, why: str = "") -> Reading:
    """Set a setpoint such as ``slide.target_position``, and return its reading afterwards.

    ``text`` is a number, a number with a unit, or a word; ``why`` is recorded. Raises HcamError if
    there is no such setpoint, or the value was refused.
    """
    known, pattern = devices(), Pattern(name)
    exact = (one for one in known.values() if pattern.device in (one["name"], *one["aliases"]))
    device = next(exact, None)
    if device is None:
        raise HcamError(unknown("device", pattern.device, known))
    answer = _ask(device)
    if isinstance(answer, HcamError):
        raise HcamError(f"{name}: {answer}")
    description, _ = answer
    settable = {
        field: declared for field, declared in description["fields"].items() if declared["settable"]
    }
    fields = [field for field in pattern.fields(description) if field in settable]
    if len(fields) != 1:
        raise HcamError(f"{device['name']}: {unknown('setpoint', pattern.field, settable)}")
    [field] = fields
    named: dict[str, Any] = {"_why": why} if why else {}
    utils.call(uris.rpc(device["name"], f"set_{field}"), argument(text), **named)
    sample = utils.call(uris.rpc(device["name"], "telemetry"))
    return Reading(sample, field, description)


def monitor(patterns: Sequence[str], count: int | None) -> Iterator[Reading]:
    """Yield the newest known readings that the patterns include, then every one, for ever.

    End after ``count`` readings. Raises HcamError without a router, or if no field is included.
    """
    from ..client import UnknownNameError, connect  # noqa: PLC0415  (0.1 s)

    with connect() as instrument:
        try:
            subscription = instrument.subscribe(*patterns)
        except UnknownNameError as error:
            raise HcamError(str(error)) from None
        for number, reading in enumerate(subscription, 1):
            yield reading
            if number == count:
                return
