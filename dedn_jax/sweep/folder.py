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
from dedn_jax.training.carry_on import EPOCHS, asks_for_more, keep, reopen, say_carried_on
from dedn_jax.training.workdir import FREE_FIELDS, check_same_data, check_unchanged, holds

SWEEP_FILE = "sweep.json"

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
      identity_file: says which sweep it holds.
      result_file: of all points.
      plot: of their means.
    """

    def __init__(
        self, path: str | Path, config: ConfigDict, seeds: int, points: list[Point]
    ) -> None:
        self.path = workdir_path(path)
        self.identity_file = self.path / SWEEP_FILE
        self.result_file = self.path / "result.json"
        self.plot = self.path / "sweep.png"
        self._points = points
        self._identity: dict[str, Any] = {
            "config": config.to_dict(),
            "seeds": seeds,
            "grid": [point.fields for point in points],
        }
        if names := [point.name for point in points if point.name]:
            self._identity["names"] = names

    def point(self, number: int) -> Path:
        """The folder of a point of the grid, from 0."""
        return self.path / "points" / str(number)

    def check(self) -> None:
        """Checks, before any data are read, that the directory is empty or holds this sweep.

        Raises:
          InputError: it holds another sweep, or other files; fewer epochs are no difference, see
            `training.carry_on`.
        """
        if holds(self.path, self.identity_file, "sweep"):
            saved = read_identity(self.identity_file)
            saved.pop("dataset")
            saved["config"] = upgraded(saved["config"], self.identity_file)
            free = FREE_FIELDS | {EPOCHS} if self._asks_for_more(saved) else FREE_FIELDS
            check_unchanged(self.path, "sweep", saved, self._identity, free)

    def claim(self, fingerprint: dict[str, object]) -> None:
        """Takes the directory for this sweep on this data set, or checks that they are the same.

        Raises:
          InputError: as `check`, or the directory holds a sweep on another data set.
        """
        self.check()
        if self.identity_file.exists():
            saved = read_identity(self.identity_file)
            check_same_data(self.path, "sweep", saved["dataset"], fingerprint)
            saved["config"] = upgraded(saved["config"], self.identity_file)
            if not self._asks_for_more(saved):
                return
            self._reopen(saved["config"]["train"]["epochs"])
            fingerprint = saved["dataset"]
        write_json(self.identity_file, {**self._identity, "dataset": fingerprint})

    def _asks_for_more(self, saved: dict[str, Any]) -> bool:
        # A grid that varies the epochs has points that the config's own do not touch.
        if any(EPOCHS in point.fields for point in self._points):
            return False
        configs = [point.config for point in self._points]
        return asks_for_more(self.path, "sweep", saved["config"], configs)

    def _reopen(self, before: int) -> None:
        keep(self.path, before, (self.result_file.name, self.plot.name))
        for number, point in enumerate(self._points):
            reopen(self.point(number), before, point.config, models=True)
        say_carried_on(self.path, before, self._points[0].config.train.epochs)
