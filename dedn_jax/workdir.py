"""A run's work directory: one config, one data set, everything a run wrote."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.data.dataset import fingerprint_difference
from dedn_jax.errors import InputError
from dedn_jax.files import read_json, write_json

# Fields that may change between a start and its resumption: none of them changes a number.
_FREE_FIELDS = frozenset(
    {
        "data.path",
        "data.memory_map",
        "train.log_every",
        "train.checkpoint_every",
        "train.checkpoints_kept",
    }
)


class Workdir:
    """Paths in a work directory, and the check that it belongs to one config and data set.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def dataset_file(self) -> Path:
        return self.path / "dataset.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def phase(self, name: str) -> Path:
        """The folder of one training phase, `validation` or `final`."""
        return self.path / name

    def claim(self, config: ConfigDict, fingerprint: dict[str, object]) -> None:
        """Takes an empty directory for this config and data set, or checks that they are the same.

        Raises:
          InputError: the directory holds a run of another config or data set, or other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir: {self.path} is a file, expected a directory")
        if not self.config_file.exists():
            if self.path.is_dir() and not all(map(self._unfinished_claim, self.path.iterdir())):
                raise InputError(
                    f"--workdir: {self.path} is not empty and holds no run; choose another"
                )
            write_json(self.dataset_file, fingerprint)
            write_json(self.config_file, config.to_dict())
            return
        saved, now = _flat(read_json(self.config_file)), _flat(config.to_dict())
        changed = [
            f"{k}={saved.get(k)!r} there, {now.get(k)!r} now"
            for k in sorted(saved | now)
            if saved.get(k) != now.get(k) and k not in _FREE_FIELDS
        ]
        if changed:
            raise InputError(
                f"--workdir: {self.path} holds a run of another config ({'; '.join(changed[:4])}); "
                "choose another directory, or give the same config to resume"
            )
        if differing := fingerprint_difference(read_json(self.dataset_file), fingerprint):
            raise InputError(
                f"--workdir: {self.path} holds a run on another data set (differs in "
                f"{', '.join(differing)}); choose another directory"
            )

    def _unfinished_claim(self, file: Path) -> bool:
        """Whether `file` was left by a run that was killed in `claim`."""
        ours = (self.dataset_file.name, self.config_file.name)
        return file == self.dataset_file or file.name.startswith(tuple(f".{n}." for n in ours))

    def load_config(self) -> ConfigDict:
        """The resolved config of the run.

        Raises:
          InputError: no run here.
        """
        if not self.config_file.is_file():
            raise InputError(f"--workdir: {self.path} holds no run (no {self.config_file.name})")
        return ConfigDict(read_json(self.config_file))

    def check_fingerprint(self, fingerprint: dict[str, object]) -> None:
        """Raises InputError unless `fingerprint` is that of the run's data set."""
        if differing := fingerprint_difference(read_json(self.dataset_file), fingerprint):
            raise InputError(
                f"--workdir: {self.path} was trained on another data set (differs in "
                f"{', '.join(differing)})"
            )


def _flat(config: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
