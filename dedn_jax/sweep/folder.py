"""A sweep's work directory: one config, one number of seeds, one grid, one data set."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.config import flat_fields
from dedn_jax.data.dataset import fingerprint_difference
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json
from dedn_jax.sweep.points import Point
from dedn_jax.training.workdir import FREE_FIELDS


class SweepFolder:
    """Paths in a sweep's directory, and the check that it belongs to this sweep.

    Attributes:
      path: the directory.
    """

    def __init__(
        self, path: str | Path, config: ConfigDict, seeds: int, points: list[Point]
    ) -> None:
        self.path = Path(path)
        self._identity = {
            "config": config.to_dict(),
            "seeds": seeds,
            "grid": [point.fields for point in points],
        }

    @property
    def identity_file(self) -> Path:
        return self.path / "sweep.json"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def plot(self) -> Path:
        return self.path / "sweep.png"

    def point(self, number: int) -> Path:
        """The folder of a point of the grid, from 0."""
        return self.path / "points" / str(number)

    def check(self) -> None:
        """Checks, before any data are read, that the directory is empty or holds this sweep.

        Raises:
          InputError: it holds another sweep, or other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir: {self.path} is a file, expected a directory")
        if self.path.exists() and not os.access(self.path, os.W_OK | os.X_OK):
            raise InputError(f"--workdir: {self.path} cannot be written to; choose another")
        if not self.identity_file.exists():
            if self.path.exists() and any(not _ours(p) for p in self.path.iterdir()):
                raise InputError(
                    f"--workdir: {self.path} is not empty and holds no sweep; choose another"
                )
            return
        saved, now = flat_fields(read_json(self.identity_file)), flat_fields(self._identity)
        changed = [
            f"{k.removeprefix('config.')}={saved.get(k)!r} there, {now.get(k)!r} now"
            for k in sorted(now)
            if saved.get(k) != now[k] and k.removeprefix("config.") not in FREE_FIELDS
        ]
        if changed:
            raise InputError(
                f"--workdir: {self.path} holds another sweep ({'; '.join(changed[:4])}); choose "
                "another directory, remove this one, or give the same command to resume"
            )

    def claim(self, fingerprint: dict[str, object]) -> None:
        """Takes the directory for this sweep on this data set, or checks that they are the same.

        Raises:
          InputError: as `check`, or the directory holds a sweep on another data set.
        """
        self.check()
        if self.identity_file.exists():
            saved = read_json(self.identity_file).get("dataset", {})
            if differing := fingerprint_difference(saved, fingerprint):
                raise InputError(
                    f"--workdir: {self.path} holds a sweep on another data set (differs in "
                    f"{', '.join(differing)}); choose another directory"
                )
            return
        write_json(self.identity_file, {**self._identity, "dataset": fingerprint})


def _ours(path: Path) -> bool:
    """The lock, or what a write that was killed has left."""
    return path.name == ".lock" or path.name.startswith(".sweep.json.")
