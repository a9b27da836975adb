"""What to say when something goes wrong that nobody foresaw."""

from __future__ import annotations

import sys
import traceback

from dedn_jax.data.tables import clean

_LONGEST = 200  # characters of a message


class Failures:
    """Says each on standard error, once: visitors can repeat them at will."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def noted(self, error: Exception) -> str:
        """Tells the owner what and where it was.

        Returns:
          What to tell the visitor.
        """
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
        kind = type(error).__name__
        if (kind, where) not in self._said:
            self._said.add((kind, where))
            # The visitor may have written the message: no line breaks, nothing for the terminal.
            text = clean(str(error))[:_LONGEST]
            print(f"dedn: a visitor's request failed: {kind}: {text} ({where})", file=sys.stderr)
        return "this went wrong; reload the page, and if it does so again, tell who runs it"
