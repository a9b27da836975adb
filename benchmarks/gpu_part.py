"""One part of `benchmarks.gpu`: its output and time limit, and the sizes that parts share."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import whole_training
from benchmarks.compiling import compiling
from dedn_jax.config import load_config
from dedn_jax.data.dataset import GZSLDataset
from dedn_jax.errors import one_line
from dedn_jax.model.groups import published_attributes

# Precision of the products, and dtype of the features.
MODES = {
    "bfloat16": ("bfloat16", "bfloat16"),
    "tensorfloat32": ("tensorfloat32", "float32"),
    "float32": ("float32", "float32"),
}
REGIONS = {"cub": 196, "sun": 196, "awa2": 49}
NAMES = ("cub", "awa2", "sun")  # the most wanted first


class Part:
    """A part's output file and time limit.

    Args:
      name: of the part.
      rows: file to append lines to.
      seconds: after which no measurement is started; those of compiling do not count.
      smoke: use sizes that a CPU does in seconds.
      reference_dir: a checkout of the published code, or None.
    """

    def __init__(
        self, name: str, rows: Path, seconds: float, smoke: bool, reference_dir: Path | None
    ) -> None:
        self.smoke, self.reference_dir = smoke, reference_dir
        self._name, self._rows = name, rows
        self._reported = compiling().seconds
        self._end = time.monotonic() + seconds - self._reported

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end + compiling().seconds - time.monotonic()

    def add(self, what: str, **row: Any) -> None:
        """Adds a row, with the seconds of compiling since the one before."""
        total = compiling().seconds
        row |= {"part": self._name, "what": what, "compile_s": total - self._reported}
        self._reported = total
        with self._rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns an error in the block into a row."""
        try:
            yield
        except Exception as error:  # whatever it is, later measurements still run
            self.add(what, error=f"{type(error).__name__}: {one_line(error)}"[:300])

    def attempt(self, what: str, function: Callable[..., Any], *args: Any) -> None:
        """Calls the function if there is time; an error becomes a row."""
        if self.left <= 0:
            self.add(what, skipped="no time left")
            return
        with self.guarded(what):
            function(*args)


def part_dataset(part: Part, name: str, dtype: str, channels: int = 2048) -> GZSLDataset:
    """Random features at the sizes of a published data set, tiny ones for a smoke test."""
    recipe = f"{name}_gzsl"
    attributes = published_attributes(load_config(recipe).data.groups)
    if part.smoke:
        return whole_training.made_up_dataset(recipe, attributes, 64, 16, 9, dtype)
    return whole_training.made_up_dataset(recipe, attributes, None, channels, REGIONS[name], dtype)
