"""JSON of other people: limits of the parser, and shapes."""

from __future__ import annotations

from typing import Any

import pytest

from dedn_jax.json_values import (
    BOOLEAN,
    MAX_DEPTH,
    TEXT,
    Kind,
    listed,
    number,
    one_of,
    optional,
    parse_json,
    record,
    whole,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("[" * 30 + "]" * 30, f"more than {MAX_DEPTH} levels"),
        ('{"a":' * 100_000, f"more than {MAX_DEPTH} levels"),
        ("1" * 100_000, "a whole number of 100000 digits, expected 64 bits"),
        (str(2**63), "expected 64 bits"),
        ("{", "Expecting property name"),
        (b'"\xff"', "invalid start byte"),
        ("", "Expecting value"),
    ],
)
def test_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_values() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    values = [1, -(2**63) + 1, 2.5, True, None, "x"]
    assert parse_json(f'{{"a": [1, -{2**63 - 1}, 2.5, true, null, "x"]}}') == {"a": values}
    assert parse_json("0." + "1" * 100_000) == pytest.approx(1 / 9)


PERSON = record(
    {"name": TEXT, "born": whole(1800), "of": listed(optional(TEXT))},
    {"share": number(0, 1), "kind": one_of("a", "b"), "old": BOOLEAN, "two": listed(TEXT, 2)},
)
ADA = {"name": "Ada", "born": 1815, "of": [None, "x"], "share": 1, "kind": "b", "more": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name is None, expected text"),
        ({"born": True}, "born is True, expected a whole number from 1800"),
        ({"born": 1815.0}, "born is 1815.0"),
        ({"born": 3}, "born is 3"),
        ({"of": [None, 3]}, r"of\[1\] is 3, expected text or null"),
        ({"of": {}}, "of is {}, expected a list"),
        ({"share": float("nan")}, "share is nan, expected a number from 0 to 1"),
        ({"share": "1"}, "share is '1'"),
        ({"kind": ["a"]}, r"kind is \['a'\], expected one of a, b"),
        ({"old": 0}, "old is 0, expected true or false"),
        ({"two": ["x"]}, "two is .*, expected a list of 2"),
    ],
)
def test_a_field_of_another_kind(change: dict[str, Any], message: str) -> None:
    PERSON.check(ADA)
    with pytest.raises(ValueError, match=message):
        PERSON.check(ADA | change)


def test_names_lead_to_the_place() -> None:
    people: Kind = record({"people": listed(PERSON)})
    with pytest.raises(ValueError, match=r"^people\[1\].born is missing, expected a whole number"):
        people.check({"people": [ADA, {"name": "Bob", "of": []}]})
