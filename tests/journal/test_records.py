"""Samples as records: nothing of them changes, and stores take the values over as they are."""

import json
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.history.stores.line_protocol import line_of
from hcam_devices.journal.points import flatten
from hcam_devices.journal.records import (
    Record,
    pack,
    page_of,
    read_page,
    record_of,
    sample_of,
    unpack,
)

HEAD = {
    "device": "ccd1",
    "seq": 12,
    "epoch": "4f3c",
    "timestamp": "2026-11-22T04:44:44.196Z",
    "alarms": [],
}
HEAD_OF_CCD: dict[str, Any] = HEAD | {
    "state": {"connection": "online"},
    "temperature": {"current": {"value": -90.0, "unit": "deg_C"}, "target": None},
    "pressure": {"value": None, "unit": "mbar"},
    "flow": 1,
    "ok": True,
}
NAMES = st.sampled_from(["value", "unit", "current", "target", "a", "a.b", "b", "", "seq", "é"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec=None), max_size=5),
    st.sampled_from(['a "quoted\\" one', "a,b", "two\nlines", "\ud800", "x" * 70_000]),
    st.lists(st.integers(0, 9), max_size=2),
)
SAMPLES = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inside: st.dictionaries(NAMES, inside, max_size=3), max_leaves=8),
    max_size=6,
).map(lambda more: HEAD | more | HEAD)


def text_of(sample: dict[str, Any]) -> str:
    key, text = unpack(pack(sample))
    assert key == (sample["device"], sample["epoch"], sample["seq"])
    return text


@given(SAMPLES)
def test_a_sample_comes_back_as_it_was_and_its_record_has_the_same_values(
    sample: dict[str, Any],
) -> None:
    text = text_of(sample)
    assert json.dumps(sample_of(text), sort_keys=True) == json.dumps(sample, sort_keys=True)
    ((seq, record),) = read_page(page_of([text])).items()
    expected = Record.of(flatten(sample))
    assert (seq, record) == (12, record_of(sample))
    assert record
    assert record.point == expected.point
    assert {type(value) for value in record.point.values.values()} <= {int, float, bool, str}
    assert [column[:2] for column in record.shape.columns] == [
        column[:2] for column in expected.shape.columns
    ]
    assert fields_of(line_of(record)) == fields_of(line_of(expected))


def fields_of(line: bytes) -> list[Any]:
    """Return a line with its numbers as numbers."""
    numbers, *texts = line.decode().split('="')
    fields = [field.partition("=") for field in numbers.partition(" ")[2].split(",")]
    return [
        line.split(b" ")[0],
        [(name, value and float(value)) for name, _, value in fields],
        *texts,
    ]


def test_samples_of_a_device_share_a_shape() -> None:
    some = [text_of(HEAD_OF_CCD | {"seq": seq, "flow": seq / 2}) for seq in range(1, 100)]
    assert {text.partition("\n")[0] for text in some} == {
        '{"device":"ccd1","epoch":"4f3c","alarms":3,"state":{"connection":2},"temperature":'
        '{"current":{"value":0,"unit":"deg_C"},"target":null},"pressure":{"value":null,"unit":"mbar"},'
        '"flow":0,"ok":1}'
    }
    records = [record for record in read_page(page_of(some)).values() if record]
    assert len({record.shape for record in records}) == 1
    assert records[4].body == '["[]","online",-90.0,2.5,true]'
    assert records[0].shape is not record_of(HEAD_OF_CCD | {"flow": None}).shape


UNUSUAL: list[dict[str, Any]] = [
    {"timestamp": "2026-11-22T04:44:44Z"},
    {"timestamp": "2016-12-31T23:59:60.500Z"},
    {"flow": 2**53 + 1},
    {"flow": "\ud800"},
    {"flow": "x" * 60_001},
    {"flow": {"value": 1.0, "unit": 3}},
    {"alarms": None},
    {"alarms": "none"},
    {"a": {"b": 1.0}, "a.b": 2.0},
    {f"x{n}": 1.0 for n in range(501)},
]


@pytest.mark.parametrize("more", UNUSUAL, ids=lambda more: shorten(str(more)))
def test_an_unusual_sample_is_its_json_as_in_earlier_versions(more: dict[str, Any]) -> None:
    sample = HEAD_OF_CCD | more
    whole = json.dumps({name: sample[name] for name in ("device", "seq", "epoch")} | sample)
    assert text_of(sample) == whole
    usual = [HEAD_OF_CCD | {"seq": 11}, HEAD_OF_CCD | {"seq": 13}]
    before, after = map(text_of, usual)
    found = [*read_page(page_of([before, whole, after])).values()]
    assert found == [*map(record_of, (usual[0], sample, usual[1]))]
    assert found[1]
    assert found[1].point == Record.of(flatten(sample)).point


def test_a_journal_of_an_earlier_version_gives_the_same_records() -> None:
    whole = json.dumps(HEAD_OF_CCD)
    assert unpack(zlib.compress(whole.encode())) == (("ccd1", "4f3c", 12), whole)
    assert sample_of(whole) == HEAD_OF_CCD
    assert read_page(page_of([whole])) == {12: record_of(HEAD_OF_CCD)}


def test_a_sample_that_no_store_can_keep_has_a_number_nevertheless(
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [text_of(HEAD_OF_CCD | {"timestamp": "noon"}), text_of(HEAD_OF_CCD | {"seq": 13})]
    assert [(seq, bool(record)) for seq, record in read_page(page_of(texts)).items()] == [
        (12, False),
        (13, True),
    ]
    assert "cannot be kept" in caplog.text


def shorten(text: str) -> str:
    return text[:40]


def test_numbers_are_the_same_to_the_last_bit() -> None:
    values = [5e-324, -0.0, 1e22, 0.1, 1.7976931348623157e308]
    record = record_of(HEAD_OF_CCD | {f"x{n}": value for n, value in enumerate(values)})
    assert orjson.loads(record.body)[-5:] == values
    assert all(f"={value!r},".encode() in line_of(record) for value in values[1:])
