"""A run's work directory: one config, one data set, everything a run wrote."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ml_collections import ConfigDict

from dedn_jax.buckets.mirror import mirror_at, publish, workdir_path
from dedn_jax.config import (
    Overrides,
    apply_overrides,
    base_config,
    flat_fields,
    override_fields,
    read_config,
    unknown_field,
    with_absolute_paths,
)
from dedn_jax.data.dataset import fingerprint_difference
from dedn_jax.errors import InputError
from dedn_jax.files import check_contained, leads_to, locked_folder, read_json, write_json
from dedn_jax.parallel.agreement import check_agreement, check_shared
from dedn_jax.parallel.limits import LONGEST_TIMEOUT
from dedn_jax.parallel.processes import barrier, is_main, process
from dedn_jax.saved_config import upgraded
from dedn_jax.system_errors import remedy
from dedn_jax.training.carry_on import EPOCHS, asks_for_more, reopen, say_carried_on
from dedn_jax.training.interrupt import Interrupted
from dedn_jax.training.logs import METRICS_FILE
from dedn_jax.version import code_fields

_LOCK = ".lock"
# Fields that may change between a start and its resumption: none of them changes a number.
FREE_FIELDS = frozenset(
    {
        "backbone.weights",
        "data.class_embeddings",
        "data.features",
        "data.on_device",
        "data.path",
        "data.workers",
        "data.word_vectors",
        "data.memory_map",
        "distribution.attribute_shards",
        "distribution.state",
        "distribution.strategy",
        "evaluate.batch_size",
        "model.kernel",
        "teacher.workdir",
        "train.compilation_cache",
        "train.init_from",
        "train.log_every",
        "train.steps_per_call",
        "train.checkpoint_every",
        "train.checkpoints_kept",
    }
)
# Of these, the ones that may differ between the processes of a run: where a machine has its files.
_OWN_FIELDS = frozenset(
    {
        "backbone.weights",
        "data.class_embeddings",
        "data.features",
        "data.path",
        "data.workers",
        "data.word_vectors",
        "data.memory_map",
        "teacher.workdir",
        "train.compilation_cache",
    }
)
# Fields that an evaluation may change: how scores are made of what was trained. They change
# numbers, and a result says which were changed.
PREDICTION_FIELDS = frozenset(
    {"loss.bias", "model.precision", "predict.expert_mix", "predict.region_mix"}
)
# How pictures become feature maps, by the field of a data set's fingerprint that records it. A run
# on features without such a record never used these; to predict from pictures it has to be told.
_PICTURE_FIELDS = {
    "backbone": ("backbone.name", "backbone.dtype", "backbone.class_token"),
    "transform": ("picture.resize", "picture.crop"),
}


def agreed_fields(config: ConfigDict, fingerprint: Mapping[str, object]) -> dict[str, object]:
    """What the processes of a run must have in common: versions, data and fields of the config."""
    fields = {
        f"config.{k}": v for k, v in flat_fields(config.to_dict()).items() if k not in _OWN_FIELDS
    }
    data = {f"the data's {k}": v for k, v in fingerprint.items()}
    return code_fields() | fields | data


class Workdir:
    """Paths in a work directory, and the check that it belongs to one config and data set.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = workdir_path(path)
        self._lock: BinaryIO | None = None

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def dataset_file(self) -> Path:
        return self.path / "dataset.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / METRICS_FILE

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
        """Keeps other runs out of the directory; process 0 holds it for all, until it has ended.

        All processes of a run leave it together, when what one of them wrote is there.

        Raises:
          InputError: another process trains here, the directory cannot be made, or at the end it
            is not there any more.
          ProcessesError: some did not come to its end; it names them.
        """
        try:
            with ExitStack() as stack:
                if is_main():
                    self._hold(stack)
                yield
                self.check_there()
        except (Interrupted, FloatingPointError):  # which come to all of them
            barrier("the work directory is left", LONGEST_TIMEOUT)
            raise
        barrier("the work directory is left", LONGEST_TIMEOUT)

    def _hold(self, stack: ExitStack) -> None:
        if mirror := mirror_at(self.path):
            stack.enter_context(mirror.owned())
        try:
            self._lock = stack.enter_context(locked_folder(self.path, _LOCK))
        except BlockingIOError as error:
            raise InputError(
                f"--workdir: another process trains in {self.path}; wait for it, or choose "
                "another directory"
            ) from error
        except OSError as error:
            raise InputError(
                f"--workdir: {self.path} cannot be written to ({error.strerror}); "
                f"{remedy(error, 'see to its permissions and mount')}, or choose another"
            ) from error

    def check_there(self) -> None:
        """Checks, in the process that holds the directory, that what is written still comes there.

        Writing makes missing folders anew: in an empty folder below a file system that was
        unmounted too. The lock file is not made anew, and keeps its place while it is open.

        Raises:
          InputError: it was moved, removed or unmounted since it was locked.
        """
        try:
            there = self._lock is None or leads_to(self.path / _LOCK, self._lock)
        except OSError:  # the server of the file system has gone
            there = False
        if not there:
            raise InputError(
                f"{self.path}: not there any more: moved, removed or unmounted while it was "
                "trained in; put it back, and give the same command to go on from its last "
                "checkpoint"
            )

    def share(self) -> None:
        """Has all processes see the same files; process 0 holds the directory.

        In a bucket each has a copy of its own, which is brought up to date with that of process 0.

        Raises:
          InputError: they do not, or the bucket cannot be used.
          ProcessesError: some did not come in time; it names them.
        """
        if process()[1] == 1:
            return
        mirror = mirror_at(self.path)
        if is_main():
            publish(self.config_file)
        where = mirror.address if mirror else "a folder, not a bucket"
        check_agreement("the work directory", {"--workdir": where})
        if mirror:
            mirror.pull(checkpoints=True)
        else:
            check_shared(self.path)

    def check_config(self, config: ConfigDict) -> None:
        """Checks, before any data are read, that the directory is empty or holds this run.

        Raises:
          InputError: it holds a run of another config, or other files; fewer epochs are no
            difference, see `training.carry_on`.
        """
        # `claim` writes the config last: without it, a killed `claim` is all there can be.
        if not holds(self.path, self.config_file, "run", (self.dataset_file.name,)):
            return
        saved = upgraded(read_json(self.config_file), self.config_file)
        more = asks_for_more(self.path, "run", saved, [config])
        free = FREE_FIELDS | {EPOCHS} if more else FREE_FIELDS
        check_unchanged(self.path, "run", saved, config.to_dict(), free)

    def claim(self, config: ConfigDict, fingerprint: dict[str, object]) -> None:
        """Takes the directory for this config and data set, or checks that they are the same.

        Free fields, such as where the data are, are kept as they are now; paths are made absolute,
        so that the run can be used from any folder.

        Raises:
          InputError: as `check_config`, or the directory holds a run on another data set, or one
            that does not say on which.
        """
        self.check_config(config)
        new = self.recorded_dataset() is None
        try:
            if new:
                write_json(self.dataset_file, fingerprint)
            else:
                self.check_fingerprint(fingerprint)
            resolved = with_absolute_paths(config)
            if self.config_file.exists():
                saved = upgraded(read_json(self.config_file), self.config_file)
                if asks_for_more(self.path, "run", saved, [config]):
                    before = saved["train"]["epochs"]
                    reopen(self.path, before, config)
                    say_carried_on(self.path, before, config.train.epochs)
            if not self.config_file.exists() or read_json(self.config_file) != resolved:
                write_json(self.config_file, resolved)
        except OSError as error:
            if new:
                self.dataset_file.unlink(missing_ok=True)
            raise InputError(
                f"--workdir: {self.path} cannot be written to ({error.strerror}); "
                f"{remedy(error, 'see to its permissions and mount')}, or choose another"
            ) from error

    def load_config(self, overrides: Overrides = (), *, predicting: bool = False) -> ConfigDict:
        """The resolved config of the run.

        Args:
          overrides: of free fields only; flags or a mapping, see `dedn_jax.load_config`. For a run
            on features that do not say how they were made, backbone and size of the pictures
            are free as well.
          predicting: `PREDICTION_FIELDS` may be set too.

        Raises:
          InputError: no run here, a damaged config, or an override that would change the run.
        """
        if not self.config_file.is_file():
            raise InputError(
                f"--workdir: {self.path} holds no run (no {self.config_file.name}); give "
                "the directory of a `dedn train`"
            )
        check_contained(self.path)
        config = read_config(self.config_file)
        where = str(self.config_file)
        free, known = self._free_fields(config), flat_fields(config.to_dict())
        if predicting:
            free |= PREDICTION_FIELDS
        for field in override_fields(overrides, where):
            if field not in known:
                raise InputError(f"{where}: {unknown_field(field, known)}")
            if field in free:
                continue
            only = "; only `dedn evaluate` takes another" if field in PREDICTION_FIELDS else ""
            raise InputError(
                f"{where}: config.{field} is fixed for this run{only}; fields that can be set: "
                f"{', '.join(sorted(free))}"
            )
        return apply_overrides(config, overrides, where)

    def _free_fields(self, config: ConfigDict) -> frozenset[str]:
        if config.data.source != "features" or not self.dataset_file.exists():
            return FREE_FIELDS
        recorded = read_json(self.dataset_file)
        unused = (names for field, names in _PICTURE_FIELDS.items() if not recorded.get(field))
        return FREE_FIELDS.union(*unused)

    def changed_predictions(self, config: ConfigDict) -> dict[str, dict[str, object]]:
        """The `PREDICTION_FIELDS` in which a config of this run was overridden; JSON-ready.

        Returns:
          By field: its value `now`, and that of the `run`.
        """
        of_run = flat_fields(read_config(self.config_file).to_dict())
        now = flat_fields(config.to_dict())
        return {
            field: {"now": now[field], "run": of_run[field]}
            for field in sorted(PREDICTION_FIELDS)
            if now[field] != of_run[field]
        }

    def recorded_dataset(self) -> dict | None:
        """The fingerprint of the run's data set; None while a new run is being set up.

        Raises:
          InputError: the file is damaged, or not there although the run is.
        """
        if self.dataset_file.exists():
            return read_json(self.dataset_file)
        if self.config_file.exists():
            raise InputError(
                f"{self.dataset_file}: missing, so that nothing says which data the run is about; "
                "restore the file, or train in another directory"
            )
        return None

    def check_fingerprint(self, fingerprint: dict[str, object], *ignored: str) -> None:
        """Raises InputError unless `fingerprint` is that of the run's data set.

        Args:
          fingerprint: of the data set now.
          ignored: fields that are not compared.
        """
        saved, now = (
            {k: v for k, v in one.items() if k not in ignored}
            for one in (read_json(self.dataset_file), fingerprint)
        )
        check_same_data(self.path, "run", saved, now)


def holds(path: Path, marker: Path, kind: str, leftovers: Sequence[str] = ()) -> bool:
    """Whether a work directory holds a run or sweep, or is free for one.

    Args:
      path: the directory, which may be missing.
      marker: the file whose presence means that a run or sweep has begun here.
      kind: what to call it: "run" or "sweep".
      leftovers: names that may be there without `marker`, besides the temporary files of a write
        that was killed.

    Raises:
      InputError: a file, a directory that cannot be written to, or other files in it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir: {path} is a file, expected a directory")
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"--workdir: {path} cannot be written to; choose another")
    if marker.exists():
        return True
    temporary = tuple(f".{name}." for name in (marker.name, *leftovers))
    found = path.iterdir() if path.exists() else ()
    if any(p.name not in (_LOCK, *leftovers) and not p.name.startswith(temporary) for p in found):
        raise InputError(f"--workdir: {path} is not empty and holds no {kind}; choose another")
    return False


def check_unchanged(
    path: Path, kind: str, saved: dict, now: dict, free: Collection[str] = FREE_FIELDS
) -> None:
    """Raises InputError where a run or sweep was begun with other settings than those of `free`."""
    there, here = flat_fields(saved), flat_fields(now)
    # Fields that an older version lacked had the base's value.
    base = flat_fields(base_config().to_dict())
    prefix = "" if kind == "run" else "config."
    there = {prefix + field: value for field, value in base.items()} | there
    changed = [
        f"{k.removeprefix('config.')}={there.get(k)!r} there, {here.get(k)!r} now"
        for k in sorted(there | here)
        if there.get(k) != here.get(k) and k.removeprefix("config.") not in free
    ]
    if changed:
        what = "a run of another config" if kind == "run" else f"another {kind}"
        raise InputError(
            f"--workdir: {path} holds {what} ({'; '.join(changed[:4])}); choose another directory, "
            "remove this one, or give the same command to resume"
        )


def check_same_data(path: Path, kind: str, saved: dict, now: dict[str, object]) -> None:
    """Raises InputError where a run or sweep was begun on another data set."""
    if differing := fingerprint_difference(saved, now):
        raise InputError(
            f"--workdir: {path} holds a {kind} on another data set (differs in "
            f"{', '.join(differing)}); give the data that it was trained on, or choose another "
            "directory"
        )
