"""Reading the benchmarks' flags."""

from __future__ import annotations

from dedn_jax.errors import InputError


def integers(flag: str, text: str, count: int | None = None) -> list[int]:
    """A comma-separated list of integers from 0; `count` of them if given.

    Raises:
      InputError: names the flag and what was found.
    """
    parts = text.split(",")
    if not all(p.strip().isdigit() for p in parts) or (count and len(parts) != count):
        wanted = f"{count} integers" if count else "integers"
        raise InputError(f"{flag}={text!r}, expected {wanted} from 0, separated by commas")
    return [int(p) for p in parts]


def positive(flag: str, value: int) -> int:
    """`value` if it is at least 1.

    Raises:
      InputError: names the flag and what was found.
    """
    if value < 1:
        raise InputError(f"{flag}={value}, expected at least 1")
    return value
