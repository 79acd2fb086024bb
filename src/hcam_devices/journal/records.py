"""Samples as records: the values of a sample, and its shape, which many samples share.

A record is two lines of text. The first is the sample as JSON without its number and time; in the
place of each value is its kind: 0 for a number, 1 for a boolean, 2 for a text, 3 for a list. The
second has the number, the time (ms since 1970) and the values, a list as the text of its JSON:

    {"device":"slide","epoch":"4f3c","alarms":3,"position":{"value":0,"unit":"pix"}}
    12 1790000000196 ["[]",1100.5]

So a store takes the values over as they are. A sample that this does not fit (its time is not in
whole ms, a number needs more than 53 bits) is one line, its JSON. A page is many records; the first
line of one is left out if it is that of the record before.
"""

import json
import logging
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import orjson

from ..names import shorten
from .points import (
    HEADER,
    MAX_DEPTH,
    MAX_TEXT_LENGTH,
    Point,
    flatten,
    milliseconds,
    put,
    timestamp_of,
)

log = logging.getLogger(__name__)

MAX_SAMPLE_BYTES = 1 << 24
WHOLE = re.compile(r'\{"device": ("(?:[^"\\]|\\.)*"), "seq": (\d{1,18}), "epoch": "(\w+)"[,}]')
"""The beginning of a sample that is its JSON."""
NUMBER, BOOL, TEXT, LIST = range(4)
KINDS = {float: NUMBER, int: NUMBER, bool: BOOL, str: TEXT}
NAMES = ("number", "bool", "text", "text")
EXAMPLES: tuple[Any, ...] = (0.0, False, "", [])
WHOLE_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d\.\d{3}Z")

Key: TypeAlias = tuple[str, str, int]
"""Device, epoch and number."""
Template: TypeAlias = dict[str, Any]

UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The errors if a sample has no template."""

_name = lru_cache(1000)(json.loads)
encode = json.JSONEncoder(allow_nan=False).encode


class Column(NamedTuple):
    """The name of a value in a ``Point``, its kind (number, bool or text) and its unit."""

    name: str
    kind: str
    unit: str | None


@dataclass(frozen=True, eq=False)
class Shape:
    """What samples with the same names, kinds and units have in common."""

    columns: tuple[Column, ...]


shape = lru_cache(10_000)(Shape)


class Record(NamedTuple):
    """A sample as its shape and the JSON list of its values, in the order of the columns."""

    device: str
    epoch: str
    seq: int
    time: int
    shape: Shape
    body: str

    @classmethod
    def of(cls, point: Point) -> "Record":
        """Return a point as a record. What UTF-8 does not have becomes ``?``."""
        columns = (
            Column(name, NAMES[KINDS[type(value)]], point.units.get(name))
            for name, value in point.values.items()
        )
        values = [*point.values.values()]
        try:
            body = orjson.dumps(values)
        except TypeError:
            body = orjson.dumps([_printable(value) for value in values])
        return cls(*point[:4], shape(tuple(columns)), body.decode())

    @property
    def point(self) -> Point:
        """The record as a point."""
        names = (column.name for column in self.shape.columns)
        values = dict(zip(names, orjson.loads(self.body), strict=True))
        units = {one.name: one.unit for one in self.shape.columns if one.unit is not None}
        return Point(*self[:4], values, units)


def _printable(value: Any) -> Any:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


Page: TypeAlias = dict[int, Record | None]
"""Records by their numbers; None if no store can keep the sample."""


class Heading(NamedTuple):
    """The first line of a record."""

    device: str
    epoch: str
    template: Template
    shape: Shape


@lru_cache(10_000)
def heading(line: str) -> Heading:
    """Return what the first line of a record says. Raises ValueError if it is none."""
    kinds: list[int] = []
    values: dict[str, Any] = {}
    units: dict[str, str] = {}

    def example(kind: int) -> Any:
        kinds.append(kind)
        return EXAMPLES[kind]

    try:
        template = orjson.loads(line)
        device, epoch = template.pop("device"), template.pop("epoch")
        put("", _filled(template, example), values, units, 0)
        if len(values) != len(kinds) or not (device + epoch).isprintable():
            raise ValueError("its names are not printable, the same, too many or too deep")
    except UNFIT as error:
        raise ValueError(f"{shorten(line)} is not the beginning of a record: {error!r}") from None
    columns = (
        Column(name, NAMES[kind], units.get(name)) for name, kind in zip(values, kinds, strict=True)
    )
    return Heading(device, epoch, template, shape(tuple(columns)))


def _filled(template: Any, value: Callable[[int], Any]) -> Any:
    """Return a template with a value in the place of each kind."""
    if isinstance(template, dict):
        return {name: _filled(inside, value) for name, inside in template.items()}
    return value(template) if isinstance(template, int) else template


def _template(inside: dict[str, Any], values: list[Any], depth: int = 0) -> Template:
    """Return the template of a part of a sample; add its values to a list. Raises one of UNFIT."""
    if depth > MAX_DEPTH:
        raise ValueError
    found: Template = {}
    pair = depth and len(inside) == 2 and "unit" in inside and "value" in inside
    for name, value in inside.items():
        kind = type(value)
        if value is None or (pair and name == "unit"):
            found[name] = value
            if not isinstance(value, str | None):
                raise TypeError
        elif kind is dict:
            found[name] = _template(value, values, depth + 1)
        elif kind is list:
            found[name] = LIST
            values.append(encode(value) if value else "[]")
        else:
            found[name] = KINDS[kind]
            values.append(value)
    return found


def _lines(sample: dict[str, Any]) -> tuple[str, str]:
    """Return a numbered sample as the two lines of a record. Raises one of UNFIT."""
    seq, timestamp = sample["seq"], sample["timestamp"]
    names = {"device": sample["device"], "epoch": sample["epoch"]}
    rest = {name: value for name, value in sample.items() if name not in HEADER}
    values: list[Any] = []
    head = orjson.dumps(names | _template(rest, values)).decode()
    heading(head)
    body = orjson.dumps(values, option=orjson.OPT_STRICT_INTEGER).decode()
    if (
        not WHOLE_MS.fullmatch(timestamp)
        or not (type(seq) is int and 0 < seq < 2**63)
        or type(rest.get("alarms", [])) is not list
        or len(body) > MAX_TEXT_LENGTH
        or ("null" in body and not all(isfinite(each) for each in values if type(each) is float))
    ):
        raise ValueError
    return head, f"{seq} {milliseconds(timestamp)} {body}"


def record_of(sample: dict[str, Any]) -> Record:
    """Return a numbered sample as a record. Raises ValueError if it is not one."""
    try:
        return _record(*_lines(sample))
    except UNFIT:
        return Record.of(flatten(sample))


def _record(head: str, line: str) -> Record:
    device, epoch, _, shape = heading(head)
    seq, time, body = line.split(" ", 2)
    return Record(device, epoch, int(seq), int(time), shape, body)


def pack(sample: dict[str, Any], most: int = MAX_SAMPLE_BYTES) -> bytes:
    """Return the compressed record of a numbered sample.

    Raises ValueError if JSON does not have it (NaN, thousands of digits) or its JSON is more than
    ``most`` bytes.
    """
    try:
        text = "\n".join(_lines(sample)).encode()
    except UNFIT:
        text = b""
    if not 0 < len(text) <= most // 8:  # JSON has up to six bytes for a character
        text = encode(sample).encode()
        if len(text) > most:
            raise ValueError(f"a sample of {len(text)} bytes is more than {most}")
    # The window is small, because samples are: for zlib's usual 32 KiB the kernel would clear
    # 256 KiB of memory for each sample.
    packer = zlib.compressobj(1, zlib.DEFLATED, 13, 6)
    return packer.compress(text) + packer.flush()


def unpack(body: object) -> tuple[Key | None, str]:
    """Return device, epoch and number of a record, and its text; None if it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        # Anything but bytes, from a damaged file, is a TypeError below.
        text = unpacker.decompress(body, MAX_SAMPLE_BYTES).decode()  # type: ignore[arg-type]
        if not unpacker.eof or unpacker.unused_data:
            return None, ""
        head, _, line = text.partition("\n")
        if line:
            return (*heading(head)[:2], int(line[: line.index(" ")])), text
        if whole := WHOLE.match(text):
            return (_name(whole[1]), whole[3], int(whole[2])), text
    except (TypeError, ValueError, zlib.error):
        pass
    return None, ""


def sample_of(text: str) -> dict[str, Any]:
    """Return the sample of a record's text."""
    head, _, line = text.partition("\n")
    if not line:
        return dict(json.loads(text))
    device, epoch, template, _ = heading(head)
    seq, time, body = line.split(" ", 2)
    values = iter(orjson.loads(body))

    def value(kind: int) -> Any:
        return json.loads(next(values)) if kind == LIST else next(values)

    header = {
        "device": device,
        "seq": int(seq),
        "epoch": epoch,
        "timestamp": timestamp_of(int(time)),
    }
    return header | {name: _filled(inside, value) for name, inside in template.items()}


def page_of(texts: Iterable[str]) -> str:
    """Return records as a page, compressed and in base64.

    As a text, because the router's HTTP interface never answers if it is given bytes.
    """
    lines = []
    before = ""
    for text in texts:
        head, _, line = text.partition("\n")
        lines += [line] if line and head == before else [head, line] if line else [head]
        before = head
    return b64encode(zlib.compress("\n".join(lines).encode(), 1)).decode()


def read_page(page: Any) -> Page:
    """Return the records of a page. Raises ValueError if it is not one."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(b64decode(page), 2 * MAX_SAMPLE_BYTES).decode()
        if not unpacker.eof:
            raise ValueError("it is not complete")
    except (TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"{shorten(page)} is not a page of samples: {error}") from None
    return records_in(text) if text else {}


def records_in(text: str) -> Page:
    """Return the records of a page that is not compressed. Raises ValueError if it is not one."""
    found: Page = {}
    head = ""
    for line in text.split("\n"):
        if line[:1] != "{":
            record = _record(head, line)
            found[record.seq] = record
        elif not (whole := WHOLE.match(line)):
            head = line
        else:
            seq = int(whole[2])
            try:
                found[seq] = record_of(json.loads(line))
            except ValueError as error:
                log.warning("%s cannot be kept: %s", shorten(line), error)
                found[seq] = None
    return found
