"""Several transfers at a time, and what is said where one fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from dedn_jax.errors import InputError

_TRANSFERS = 8  # at a time
# Addresses in buckets, by the paths of their local copies.
COPIES: dict[str, str] = {}


def in_parallel(call: Callable[[str], Any], names: Collection[str]) -> list[Any]:
    """What a call returns for each name; the first error, if there are any."""
    if not names:
        return []
    with ThreadPoolExecutor(min(_TRANSFERS, len(names))) as pool:
        return list(pool.map(call, names))


def with_addresses(text: str) -> str:
    """A message with addresses in buckets in place of the paths of their local copies."""
    for path, address in COPIES.items():
        text = text.replace(path, address)
    return text


@contextmanager
def refused(address: str) -> Iterator[None]:
    """Turns OSError into InputError, which names what could not be used."""
    try:
        yield
    except OSError as error:
        where = error.filename or address
        raise InputError(f"{where}: {error.strerror or error}; choose another") from error
