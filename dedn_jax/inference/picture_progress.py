"""A bar over pictures, lines about them above it, and those that are skipped."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import IO

from dedn_jax.errors import InputError
from dedn_jax.progress import progress


class PictureProgress:
    """A context in which pictures are gone through.

    Args:
      total: how many pictures there are.
      desc: what is being done.
      strict: end at the first picture that cannot be used.

    Attributes:
      skipped: name of each picture that could not be used, and why.
    """

    def __init__(self, total: int, desc: str, *, strict: bool = False) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._total, self._strict = total, strict
        self._live = sys.stderr.isatty()
        self._bar = progress(total, desc, "picture", delay=0 if self._live else 2)

    def __enter__(self) -> PictureProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        if self.skipped and error is None:
            print(
                f"dedn: {len(self.skipped)} of {self._total} pictures were skipped",
                file=sys.stderr,
            )

    def say(self, text: str, file: IO[str] | None = None) -> None:
        """Prints lines, to standard output unless a file is given."""
        # Lines go above a bar that is live; in a log file there is none to move.
        (self._bar.write if self._live else print)(text, file=file or sys.stdout)

    def update(self, pictures: int = 1) -> None:
        """Counts pictures that are done."""
        self._bar.update(pictures)

    def skip(self, name: str, error: InputError) -> None:
        """Names a picture that cannot be used on standard error, or raises if `strict`."""
        if self._strict:
            raise error
        self.skipped.append((name, str(error)))
        self.say(f"dedn: {printable(str(error))}", sys.stderr)
        self.update()


def printable(text: str) -> str:
    """On one line of a terminal: what would not show, or change it, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
