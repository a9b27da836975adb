"""A sweep's work directory: one config, one number of seeds, one grid, one data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dedn_jax.buckets.mirror import workdir_path
from dedn_jax.files import read_json, write_json
from dedn_jax.json_values import OBJECT, TEXT, listed, record, whole
from dedn_jax.saved_config import upgraded
from dedn_jax.sweep.points import Point
from dedn_jax.training.workdir import check_same_data, check_unchanged, holds

SWEEP_FILE = "sweep.json"
METRICS_FILE = "metrics.jsonl"  # of a point

_IDENTITY = record(
    {
        "config": record({"data": record({"format": TEXT, "path": TEXT})}),
        "seeds": whole(1),
        "grid": listed(OBJECT),
        "dataset": OBJECT,
    }
)


def read_identity(path: Path) -> dict[str, Any]:
    """What a sweep was begun with: its config, number of seeds, grid and data set."""
    return read_json(path, _IDENTITY)


class SweepFolder:
    """Paths in a sweep's directory, and the check that it belongs to this sweep.

    Attributes:
      path: the directory.
    """

    def __init__(
        self, path: str | Path, config: ConfigDict, seeds: int, points: list[Point]
    ) -> None:
        self.path = workdir_path(path)
        self._identity = {
            "config": config.to_dict(),
            "seeds": seeds,
            "grid": [point.fields for point in points],
        }
        if names := [point.name for point in points if point.name]:
            self._identity["names"] = names

    @property
    def identity_file(self) -> Path:
        return self.path / SWEEP_FILE

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
        if holds(self.path, self.identity_file, "sweep"):
            saved = read_identity(self.identity_file)
            saved.pop("dataset")
            saved["config"] = upgraded(saved["config"], self.identity_file)
            check_unchanged(self.path, "sweep", saved, self._identity)

    def claim(self, fingerprint: dict[str, object]) -> None:
        """Takes the directory for this sweep on this data set, or checks that they are the same.

        Raises:
          InputError: as `check`, or the directory holds a sweep on another data set.
        """
        self.check()
        if self.identity_file.exists():
            saved = read_identity(self.identity_file)["dataset"]
            check_same_data(self.path, "sweep", saved, fingerprint)
            return
        write_json(self.identity_file, {**self._identity, "dataset": fingerprint})
