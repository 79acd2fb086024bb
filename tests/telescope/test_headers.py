import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcam_devices.telescope.headers import Item, parse, typed


@pytest.mark.parametrize(
    ("text", "name", "value", "comment"),
    [
        ("RADEG   = 17.55 / RA", "RADEG", "17.55", "RA"),
        ("X = 1", "X", "1", ""),
        ("EMPTY   =  / nothing", "EMPTY", "", "nothing"),
        ("EMPTY=/ nothing", "EMPTY", "", "nothing"),
        ("NOTHING=", "NOTHING", "", ""),
        ("DATE-OBS= '2024/01/02' / date", "DATE-OBS", "2024/01/02", "date"),
        ("NAME = 'O/B' / a / b", "NAME", "O/B", "a / b"),
        ("URL = http://x/y / c", "URL", "http://x/y", "c"),
        ("EQ = a=b / c=d", "EQ", "a=b", "c=d"),
        ("OBSERVER= 'O''Neil  ' / quote doubled", "OBSERVER", "O'Neil", "quote doubled"),
        ("OPEN = 'no end / c", "OPEN", "no end", "c"),
        ("NONE = '' / c", "NONE", "", "c"),
        ("T_TUBE  =\t-5.25\t/ in the tube", "T_TUBE", "-5.25", "in the tube"),
    ],
)
def test_an_item_is_a_name_a_value_and_a_comment(
    text: str, name: str, value: str, comment: str
) -> None:
    assert parse([text]) == {name: Item(value, comment, quoted=text.count("'") > 1)}


@pytest.mark.parametrize("garbage", ["JUNK", "", "  ", " = 5 / nameless", "/ comment only", ";;;"])
def test_what_is_no_item_is_ignored(garbage: str) -> None:
    assert parse([garbage, "X = 1"]) == {"X": Item("1", "")}


def test_the_items_of_all_groups_are_returned_and_the_last_of_a_name_counts() -> None:
    groups = ["RADEG   = 17.5541 / RA (degrees);DECDEG = 60.0766 / DEC (degrees);", "RADEG = 2"]
    assert parse(groups) == {"RADEG": Item("2", ""), "DECDEG": Item("60.0766", "DEC (degrees)")}
    assert parse([]) == {}


names = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1)
anything = st.text(st.characters(exclude_characters=";", exclude_categories=["Cs"])).map(str.strip)


@given(names, anything, anything)
def test_a_quoted_value_survives_whatever_is_in_it(name: str, value: str, comment: str) -> None:
    quoted = value.replace("'", "''")
    assert parse([f"{name:8}= '{quoted}' / {comment}"]) == {name: Item(value, comment, quoted=True)}


@given(names, st.floats(allow_nan=False), anything)
def test_a_number_survives(name: str, number: float, comment: str) -> None:
    (item,) = parse([f"{name:8}= {number} / {comment};"]).values()
    assert (float(item.value), item.comment) == (number, comment)


@given(st.lists(st.text()))
def test_no_text_is_too_strange(groups: list[str]) -> None:
    for name, item in parse(groups).items():
        assert name == name.strip() != ""
        assert item.value == item.value.strip()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17.5541", 17.5541),
        ("-12", -12.0),
        ("1.5E-3", 0.0015),
        ("'2026'", "2026"),
        ("01:10:12.99", "01:10:12.99"),
        ("T", "T"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("", ""),
    ],
)
def test_a_number_is_one_and_everything_else_is_text(text: str, value: float | str) -> None:
    found = typed(parse([f"KEY = {text} / comment"]))["KEY"]
    assert (found, type(found)) == (value, type(value))


def test_what_cannot_be_a_name_is_not_in_a_typed_header() -> None:
    assert typed(parse(["\xff\xfe / = ;X = 1;a b = 2;DATE-OBS= 3"])) == {"X": 1.0, "DATE-OBS": 3.0}
