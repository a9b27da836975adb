"""A run's work directory: one config, one data set, everything a run wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from dedn_jax.config import (
    Overrides,
    apply_overrides,
    base_config,
    flat_fields,
    override_fields,
)
from dedn_jax.data.dataset import fingerprint_difference
from dedn_jax.errors import InputError, one_line
from dedn_jax.files import locked_folder, read_json, write_json

_LOCK = ".lock"
# Fields that may change between a start and its resumption: none of them changes a number.
FREE_FIELDS = frozenset(
    {
        "backbone.weights",
        "data.features",
        "data.on_device",
        "data.path",
        "data.workers",
        "data.word_vectors",
        "data.memory_map",
        "distribution.attribute_shards",
        "distribution.strategy",
        "evaluate.batch_size",
        "model.kernel",
        "train.compilation_cache",
        "train.log_every",
        "train.steps_per_call",
        "train.checkpoint_every",
        "train.checkpoints_kept",
    }
)
# Values of `data.on_device` as they were called before 0.2.
_RENAMED = {"always": "replicated", "cut": "sharded"}


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out of the directory; the lock goes with its process.

        Raises:
          InputError: another process trains here, or the directory cannot be made.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(self.path, _LOCK))
            except BlockingIOError as error:
                raise InputError(
                    f"--workdir: another process trains in {self.path}; wait for it, or choose "
                    "another directory"
                ) from error
            except OSError as error:
                raise InputError(
                    f"--workdir: {self.path} cannot be written to ({error.strerror}); choose "
                    "another"
                ) from error
            yield

    def check_config(self, config: ConfigDict) -> None:
        """Checks, before any data are read, that the directory is empty or holds this run.

        Raises:
          InputError: it holds a run of another config, or other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir: {self.path} is a file, expected a directory")
        if self.path.exists() and not os.access(self.path, os.W_OK | os.X_OK):
            raise InputError(f"--workdir: {self.path} cannot be written to; choose another")
        if not self.config_file.exists():
            # `claim` writes the config last: without it, a killed `claim` is all there can be.
            if any(p.name not in (_LOCK, self.dataset_file.name) for p in self._visible()):
                raise InputError(
                    f"--workdir: {self.path} is not empty and holds no run; choose another"
                )
            return
        saved, now = flat_fields(read_json(self.config_file)), flat_fields(config.to_dict())
        changed = [
            f"{k}={saved.get(k)!r} there, {now.get(k)!r} now"
            for k in sorted(saved | now)
            if saved.get(k) != now.get(k) and k not in FREE_FIELDS
        ]
        if changed:
            raise InputError(
                f"--workdir: {self.path} holds a run of another config ({'; '.join(changed[:4])}); "
                "choose another directory, remove this one, or give the same config to resume"
            )

    def claim(self, config: ConfigDict, fingerprint: dict[str, object]) -> None:
        """Takes the directory for this config and data set, or checks that they are the same.

        Free fields, such as where the data are, are kept as they are now.

        Raises:
          InputError: as `check_config`, or the directory holds a run on another data set.
        """
        self.check_config(config)
        new = not self.dataset_file.exists()
        try:
            if new:
                write_json(self.dataset_file, fingerprint)
            else:
                self.check_fingerprint(fingerprint)
            resolved = config.to_dict()
            if not self.config_file.exists() or read_json(self.config_file) != resolved:
                write_json(self.config_file, resolved)
        except OSError as error:
            if new:
                self.dataset_file.unlink(missing_ok=True)
            raise InputError(
                f"--workdir: {self.path} cannot be written to ({error.strerror}); make room, or "
                "choose another"
            ) from error

    def _visible(self) -> list[Path]:
        """What is in the directory but for temporary files of a write that was killed."""
        names = (self.dataset_file.name, self.config_file.name)
        temporary = tuple(f".{name}." for name in names)
        if not self.path.exists():
            return []
        return [p for p in self.path.iterdir() if not p.name.startswith(temporary)]

    def load_config(self, overrides: Overrides = ()) -> ConfigDict:
        """The resolved config of the run.

        Args:
          overrides: of free fields only; flags or a mapping, see `dedn_jax.load_config`.

        Raises:
          InputError: no run here, a damaged config, or an override that would change the run.
        """
        if not self.config_file.is_file():
            raise InputError(
                f"--workdir: {self.path} holds no run (no {self.config_file.name}); give "
                "the directory of a `dedn train`"
            )
        # What an older version did not have yet was then as the base has it now.
        config = base_config()
        saved = read_json(self.config_file)
        data = saved.get("data", {}) if isinstance(saved, dict) else {}
        if data.get("on_device") in _RENAMED:
            data["on_device"] = _RENAMED[data["on_device"]]
        try:
            config.update(saved)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = one_line(error)
            raise InputError(
                f"{self.config_file}: is no config of this version: {reason}"
            ) from error
        where = str(self.config_file)
        for field in override_fields(overrides, where):
            if field not in FREE_FIELDS:
                raise InputError(
                    f"{where}: config.{field} is fixed for this run; only fields that change no "
                    f"number can be set: {', '.join(sorted(FREE_FIELDS))}"
                )
        return apply_overrides(config, overrides, where)

    def check_fingerprint(self, fingerprint: dict[str, object]) -> None:
        """Raises InputError unless `fingerprint` is that of the run's data set."""
        if differing := fingerprint_difference(read_json(self.dataset_file), fingerprint):
            raise InputError(
                f"--workdir: {self.path} holds a run on another data set (differs in "
                f"{', '.join(differing)}); choose another directory"
            )
