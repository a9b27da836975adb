"""The exceptions for inputs that cannot be used and processes that cannot go on."""

import numbers
import re
from types import UnionType


class InputError(Exception):
    """A file, field or flag the user gave cannot be used.

    The message is one line that names the file, the field, what was found, what was expected and
    what to do. The command line prints it without a stack trace and exits with status 2.

    Examples:
      >>> import dedn_jax
      >>> dedn_jax.load_config("cub_gzsl", {"train.epochs": 0})
      Traceback (most recent call last):
      dedn_jax.errors.InputError: recipe cub_gzsl: config.train.epochs=0, expected at least 1
    """


def check_type(name: str, value: object, kind: type | UnionType, expected: str) -> None:
    """Checks what is given from Python.

    Args:
      name: of the argument, or the value and what it is of.
      value: as given.
      kind: what it has to be an instance of.
      expected: that in words.

    Raises:
      InputError: it is of another type.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} of type {type(value).__name__}, expected {expected}")


def check_count(name: str, value: object) -> None:
    """Checks a count that is given from Python.

    Args:
      name: of the argument.
      value: as given.

    Raises:
      InputError: not a whole number, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name}={value!r}, expected a whole number of at least 1")
    if value < 1:
        raise InputError(f"{name}={value}, expected at least 1")


# How collective operations and JAX's coordinator say that the other side is not there any more.
_LOST = re.compile(
    r"Gloo|CoordinationService|UNAVAILABLE|DEADLINE_EXCEEDED|Connection (reset|closed|refused)"
)


def tells_of_lost_process(error: BaseException) -> bool:
    """Whether an error of several processes comes from one of them that has gone.

    They are of many types: a full disk is a `ValueError`, and a broken connection is another.
    """
    return isinstance(error, RuntimeError | ValueError) and bool(_LOST.search(str(error)))


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of a library's error on one line, of `limit` characters at most."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


# Control characters, and those that end a line or turn the direction of writing.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text on one line for a terminal: what names of files may hold beside letters as escapes."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class ProcessesError(RuntimeError):
    """The processes of a run cannot go on together: one is missing, silent or gone.

    Nothing is wrong with the input; the same command on all of them may well succeed. The command
    line prints the message and exits with status 1.
    """


class OthersError(ProcessesError):
    """It lies with other processes than the one that raises it."""
