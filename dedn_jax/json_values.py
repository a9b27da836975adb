"""JSON that somebody else may have written: parsed within limits, and checked by its shape.

A shape is a `Kind`; `record` and `listed` build shapes from shapes:

  >>> person = record({"name": TEXT, "children": listed(TEXT)}, {"age": whole(0)})
  >>> person.check({"name": "Ada", "children": [3]})
  Traceback (most recent call last):
  ValueError: children[0] is 3, expected text
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_BYTES = 2**24  # of a file; the manifest of a store of 10 TB has as many
MAX_DEPTH = 24  # a config has 5 levels
_MAX_WHOLE = 2**63
_SHOWN = 64  # characters of a value in a message


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Whole numbers beyond 64 bits and nesting beyond 24 levels are refused: nothing here writes
    them, and later code would fail at them in ways of its own. NaN and Infinity are values.

    Raises:
      ValueError: not JSON in UTF-8, or beyond the limits.
    """
    try:
        value = json.loads(text, parse_int=_whole)
        if "\\u" in (text if isinstance(text, str) else text.decode()):
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be written
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level = [value]
    for _ in range(MAX_DEPTH):
        if not (level := [part for value in level for part in _parts(value)]):
            return value
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= _MAX_WHOLE:
        raise ValueError(f"a whole number of {len(digits)} digits, expected 64 bits")
    return int(digits)


def _parts(value: Any) -> Iterator[Any]:
    """The objects and lists directly in a value."""
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        yield from (part for part in inside if isinstance(part, dict | list))


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value has to be.

    Attributes:
      expected: in words, for messages.
      fits: whether a value is one, its parts aside.
      parts: the values in it by name, with the kind of each; a missing value is `MISSING`.
    """

    expected: str
    fits: Callable[[Any], bool]
    parts: Callable[[Any], Iterator[tuple[str, Any, Kind]]] = lambda _: iter(())

    def check(self, value: Any, name: str = "") -> None:
        """Raises ValueError, which names the field, unless `value` is of this kind throughout."""
        if not self.fits(value):
            found = "missing" if value is MISSING else repr(value)[:_SHOWN]
            raise ValueError(f"{name or 'the value'} is {found}, expected {self.expected}")
        for part, inside, kind in self.parts(value):
            separator = "." if name and not part.startswith("[") else ""
            kind.check(inside, f"{name}{separator}{part}")


MISSING = object()
ANY = Kind("a value", lambda value: value is not MISSING)
TEXT = Kind("text", lambda value: isinstance(value, str))
BOOLEAN = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def whole(least: int | None = None) -> Kind:
    """A whole number, of `least` or more."""
    return Kind(
        "a whole number" if least is None else f"a whole number from {least}",
        lambda value: type(value) is int and (least is None or value >= least),
    )


def number(least: float = -math.inf, most: float = math.inf) -> Kind:
    """A finite number in a range, both ends included but for rounding."""
    return Kind(
        f"a number from {least:g} to {most:g}" if most < math.inf else "a finite number",
        lambda value: (
            type(value) in (int, float) and math.isfinite(value) and least <= value <= most + 1e-6
        ),
    )


def one_of(*values: str) -> Kind:
    """One of these texts."""
    return Kind(f"one of {', '.join(values)}", lambda value: value in values)


def optional(kind: Kind) -> Kind:
    """A value of a kind, or null."""
    return Kind(
        f"{kind.expected} or null",
        lambda value: value is None or kind.fits(value),
        lambda value: iter(()) if value is None else kind.parts(value),
    )


def listed(kind: Kind, length: int | None = None, least: int = 0) -> Kind:
    """A list of values of one kind; of `length` where it is known, of `least` or more."""
    size = f" of {length}" if length is not None else f" of {least} or more" if least else ""
    return Kind(
        f"a list{size}",
        lambda value: (
            isinstance(value, list) and len(value) >= least and length in (None, len(value))
        ),
        lambda value: ((f"[{i}]", part, kind) for i, part in enumerate(value)),
    )


def record(required: Mapping[str, Kind], others: Mapping[str, Kind] | None = None) -> Kind:
    """An object with these fields, and perhaps `others`; more fields are not looked at."""

    def parts(value: dict[str, Any]) -> Iterator[tuple[str, Any, Kind]]:
        for name, kind in required.items():
            yield name, value.get(name, MISSING), kind
        for name, kind in (others or {}).items():
            if name in value:
                yield name, value[name], kind

    return dataclasses.replace(OBJECT, parts=parts)
